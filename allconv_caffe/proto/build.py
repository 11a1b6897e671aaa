"""The tables of `schema` become message classes, in a descriptor pool that nobody else uses.

A real `caffe.proto` may be loaded in the same process (it lives in protobuf's default pool): ours never meets it, though
both have the full names ``caffe.NetParameter`` and so on. Works with protobuf 3.12 (Python 3.9) and with today's.
"""

from __future__ import annotations

from typing import Any, Dict

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

from . import schema

PACKAGE = "caffe"
FILE_NAME = "allconv_caffe/caffe.proto"
_SCALARS = {"int32", "int64", "uint32", "float", "double", "bool", "string", "bytes"}
_LABELS = {"": "LABEL_OPTIONAL", "*": "LABEL_REPEATED", "!": "LABEL_REQUIRED"}


def file_descriptor() -> Any:
    """The whole schema as one proto2 `FileDescriptorProto`.

    Raises: ValueError if a table names a type that no table declares.
    """
    proto = descriptor_pb2.FileDescriptorProto(name=FILE_NAME, package=PACKAGE, syntax="proto2")
    for name, values in schema.ENUMS.items():
        _add_enum(proto.enum_type, name, values)
    known = {message.name for message in schema.MESSAGES}
    for message in schema.MESSAGES:
        entry = proto.message_type.add(name=message.name)
        for name, values in message.enums.items():
            _add_enum(entry.enum_type, name, values)
        for field in message.fields:
            target = entry.field.add(name=field.name, number=field.number)
            target.label = getattr(target, _LABELS[field.label])
            if field.type in _SCALARS:
                target.type = getattr(target, "TYPE_" + field.type.upper())
            elif field.type in message.enums:
                target.type, target.type_name = target.TYPE_ENUM, f".{PACKAGE}.{message.name}.{field.type}"
            elif field.type in schema.ENUMS:
                target.type, target.type_name = target.TYPE_ENUM, f".{PACKAGE}.{field.type}"
            elif field.type in known:
                target.type, target.type_name = target.TYPE_MESSAGE, f".{PACKAGE}.{field.type}"
            else:
                raise ValueError(f"schema: {message.name}.{field.name}: unknown type {field.type}")
            if field.default is not None:
                target.default_value = str(field.default)
            if field.packed:
                target.options.packed = True
    return proto


def _add_enum(target: Any, name: str, values: Dict[str, int]) -> None:
    entry = target.add(name=name)
    # protobuf takes the first value as the default of a field that states none: keep the smallest first
    for value, number in sorted(values.items(), key=lambda item: item[1]):
        entry.value.add(name=value, number=number)


def build(module: str) -> Dict[str, Any]:
    """Every message class, enum and top-level enum value by name, ready to become the globals of `module`."""
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file_descriptor().SerializeToString())
    if hasattr(message_factory, "GetMessageClass"):
        make = message_factory.GetMessageClass
    else:  # protobuf before 4.22
        make = getattr(message_factory.MessageFactory(pool), "GetPrototype")  # noqa: B009 (not in today's stubs)
    names: Dict[str, Any] = {}
    for message in schema.MESSAGES:
        cls = make(pool.FindMessageTypeByName(f"{PACKAGE}.{message.name}"))
        cls.__module__ = module  # so that messages pickle
        names[message.name] = cls
    for enum, values in schema.ENUMS.items():
        names[enum] = enum_type_wrapper.EnumTypeWrapper(pool.FindEnumTypeByName(f"{PACKAGE}.{enum}"))
        names.update(values)
    return names
