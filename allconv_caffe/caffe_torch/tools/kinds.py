"""What a file is that was given to a flag, for the sentence about one that belongs to another flag."""

from __future__ import annotations

import os
from collections.abc import Iterable

from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.source import hdf5
from allconv_caffe.proto import NetParameter, ProtoError, SolverParameter, SolverState, read_stored, read_text
from allconv_caffe.proto.caffemodel import is_hdf5

HOMES = {
    "net": "a net: it belongs to -model, or to the line `net:` of a solver",
    "solver": "a solver: it belongs to -solver",
    "weights": "the weights of a net: they belong to -weights",
    "state": "the state of a solver: it belongs to -snapshot",
}
LONGEST_TEXT = 1 << 24  # bytes of a prototxt that is looked into


def misplaced(given: Iterable[tuple[str, str, str]]) -> str:
    """`` (-snapshot x.caffemodel holds ...)`` for the first file that is of another kind than its flag takes; else "".

    Args:
        given: (flag, path, kind that it takes).
    """
    for flag, path, expected in given:
        found = kind_of(path)
        if found not in (None, expected):
            return f" (-{flag} {path} holds {HOMES[found]})"
    return ""


def kind_of(path: str) -> str | None:
    """One of HOMES; None for what is none of them, or cannot be read."""
    try:
        if not os.path.isfile(path):
            return None
        if is_hdf5(path):
            return _kind_of_hdf5(path)
        return _kind_of_text(path) or _kind_of_binary(path)
    except (OSError, ValueError, CaffeError):
        return None


def _kind_of_hdf5(path: str) -> str | None:
    with hdf5.reading(path, "Couldn't open") as file:
        return "state" if "history" in file else "weights" if "data" in file else None


def _kind_of_text(path: str) -> str | None:
    if os.path.getsize(path) > LONGEST_TEXT:
        return None
    for kind, cls in (("net", NetParameter), ("solver", SolverParameter)):
        try:
            if read_text(path, cls).ByteSize():
                return kind
        except ProtoError:
            continue
    return None


def _kind_of_binary(path: str) -> str | None:
    for kind, cls, field in (("weights", NetParameter, "layer"), ("state", SolverState, "history")):
        try:
            message, _ = read_stored(path, cls)
        except ProtoError:
            continue
        if getattr(message, field) or (kind == "weights" and message.layers):
            return kind
    return None
