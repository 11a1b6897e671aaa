"""The messages of `allconv_caffe.proto` under the name that protoc's output has in pycaffe.

Every message class, top-level enum and enum value; the file's `DESCRIPTOR`, and each message's as ``_NETPARAMETER`` and
so on. They live in a descriptor pool of their own, so a real `caffe_pb2` may be loaded beside them.
"""

from __future__ import annotations

from typing import Any

from allconv_caffe import proto

for _name in dir(proto):
    _value = getattr(proto, _name)
    if isinstance(_value, int) or hasattr(_value, "DESCRIPTOR"):
        globals()[_name] = _value
        if isinstance(_value, type):
            globals()[f"_{_name.upper()}"] = _value.DESCRIPTOR  # type: ignore[attr-defined]

DESCRIPTOR = proto.NetParameter.DESCRIPTOR.file


def __getattr__(name: str) -> Any:
    """Only reached for names that exist nowhere; it also tells type checkers that the classes above do."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r} (messages: see allconv_caffe.proto.schema)")
