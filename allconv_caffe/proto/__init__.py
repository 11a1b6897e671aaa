"""Caffe's messages and files: ``from allconv_caffe.proto import NetParameter, TRAIN, read_net, write_binary``.

Every message of Caffe 1.0 is a class of this module (`NetParameter`, `SolverParameter`, `BlobProto`, ...), every
top-level enum value a number (`TRAIN`, `TEST`), enums of a message its attributes (`SolverParameter.GPU`).
The classes are built at run time from the tables in `schema`, see `build`.
"""

from __future__ import annotations

from typing import Any

from . import messages
from .errors import ProtoError
from .files import read_binary, read_net, read_solver, read_text, unknown_fields, write_binary, write_text
from .stored import Numbers, StoredBlob, blobs_of, read_stored, write_stored
from .text import float_text, parse_text, to_text

globals().update(messages.NAMES)

__all__ = [
    "Numbers",
    "ProtoError",
    "StoredBlob",
    "blobs_of",
    "float_text",
    "parse_text",
    "read_binary",
    "read_net",
    "read_solver",
    "read_stored",
    "read_text",
    "to_text",
    "unknown_fields",
    "write_binary",
    "write_stored",
    "write_text",
]
__all__ += sorted(messages.NAMES)  # noqa: PLE0605 (the messages of the schema, known when it is built)


def __getattr__(name: str) -> Any:
    """Only reached for names that exist nowhere; it also tells type checkers that the classes above do."""
    return getattr(messages, name)
