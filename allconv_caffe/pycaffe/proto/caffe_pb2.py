"""The messages of `allconv_caffe.proto` under the name that protoc's output has in pycaffe.

Every message class, top-level enum and enum value; the file's `DESCRIPTOR`, each message's as ``_NETPARAMETER``, each
enum's as ``_V1LAYERPARAMETER_LAYERTYPE``. They live in a descriptor pool of their own, so a real `caffe_pb2` may be loaded
beside them.
"""

from __future__ import annotations

from typing import Any

from allconv_caffe import proto

for _name in dir(proto):
    _value = getattr(proto, _name)
    if isinstance(_value, int) or hasattr(_value, "DESCRIPTOR"):
        globals()[_name] = _value
        if isinstance(_value, type):
            _own = _value.DESCRIPTOR  # type: ignore[attr-defined]
            globals()[f"_{_name.upper()}"] = _own
            globals().update({f"_{_name}_{_enum.name}".upper(): _enum for _enum in _own.enum_types})

DESCRIPTOR = proto.NetParameter.DESCRIPTOR.file
globals().update({f"_{_name}".upper(): _enum for _name, _enum in DESCRIPTOR.enum_types_by_name.items()})


def __getattr__(name: str) -> Any:
    """Only reached for names that exist nowhere; it also tells type checkers that the classes above do."""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r} (messages: see allconv_caffe.proto.schema)")
