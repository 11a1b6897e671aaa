"""The tables of `schema` become message classes, in a descriptor pool that nobody else uses.

A real `caffe.proto` may be loaded in the same process (it lives in protobuf's default pool): ours never meets it, though
both have the full names ``caffe.NetParameter`` and so on. Works with protobuf 3.12 (Python 3.9) and with today's.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, Dict, Iterable, NamedTuple, Set, Tuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import enum_type_wrapper

from . import forks, schema

PACKAGE = "caffe"
FILE_NAME = "allconv_caffe/caffe.proto"
FORKS_NAME = "allconv_caffe/forks.proto"
JOINED_NAME = "allconv_caffe/caffe_and_forks.proto"
_SCALARS = {"int32", "int64", "uint32", "float", "double", "bool", "string", "bytes"}
_LABELS = {"": "LABEL_OPTIONAL", "*": "LABEL_REPEATED", "!": "LABEL_REQUIRED"}


def file_descriptor() -> Any:
    """The whole schema as one proto2 `FileDescriptorProto`; what `forks` adds to has room for extensions.

    Raises: ValueError if a table names a type that no table declares.
    """
    proto = descriptor_pb2.FileDescriptorProto(name=FILE_NAME, package=PACKAGE, syntax="proto2")
    for name, values in schema.ENUMS.items():
        _add_enum(proto.enum_type, name, values)
    known = {message.name for message in schema.MESSAGES}
    _add_messages(proto, schema.MESSAGES, known)
    for added in forks.ADDED:
        room = _entry(proto, added.name).extension_range.add()
        room.start, room.end = forks.FIRST, forks.LAST + 1
    return proto


def forks_descriptor() -> Any:
    """The fields of forks as extensions of Caffe's messages: a message holds, copies, prints and stores them as its own."""
    proto = descriptor_pb2.FileDescriptorProto(name=FORKS_NAME, package=PACKAGE, syntax="proto2")
    proto.dependency.append(FILE_NAME)
    known = {message.name for message in [*schema.MESSAGES, *forks.MESSAGES]}
    _add_messages(proto, forks.MESSAGES, known)
    for added in forks.ADDED:
        for field in added.fields:
            _add_field(proto.extension, added, field, known).extendee = f".{PACKAGE}.{added.name}"
    return proto


def joined_descriptor() -> Any:
    """Caffe's schema and the forks' as if they were one, where a prototxt names the forks' fields as it names any."""
    proto = file_descriptor()
    proto.name = JOINED_NAME
    known = {message.name for message in [*schema.MESSAGES, *forks.MESSAGES]}
    _add_messages(proto, forks.MESSAGES, known)
    for added in forks.ADDED:
        entry = _entry(proto, added.name)
        del entry.extension_range[:]
        for field in added.fields:
            _add_field(entry.field, added, field, known)
    return proto


def _entry(proto: Any, message: str) -> Any:
    return next(entry for entry in proto.message_type if entry.name == message)


def _add_messages(proto: Any, messages: Iterable[schema.Message], known: Set[str]) -> None:
    for message in messages:
        entry = proto.message_type.add(name=message.name)
        for name, values in message.enums.items():
            _add_enum(entry.enum_type, name, values)
        for field in message.fields:
            _add_field(entry.field, message, field, known)


def _add_field(fields: Any, message: schema.Message, field: schema.Field, known: Set[str]) -> Any:
    target = fields.add(name=field.name, number=field.number)
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
    return target


def _add_enum(target: Any, name: str, values: Dict[str, int]) -> None:
    entry = target.add(name=name)
    # protobuf takes the first value as the default of a field that states none: keep the smallest first
    for value, number in sorted(values.items(), key=lambda item: item[1]):
        entry.value.add(name=value, number=number)


class Built(NamedTuple):
    """names: every message class, enum and top-level enum value of Caffe's, ready to become a module's globals.
    extensions: the fields of forks, by message and by name."""

    names: Dict[str, Any]
    extensions: Dict[str, Dict[str, Any]]


def build(module: str) -> Built:
    """Caffe's messages, and what forks add to them; the classes say that they are of `module`."""
    pool = descriptor_pool.DescriptorPool()
    for descriptor in (file_descriptor(), forks_descriptor()):
        pool.AddSerializedFile(descriptor.SerializeToString())
    make = _maker(pool)
    names: Dict[str, Any] = {}
    for message in schema.MESSAGES:
        cls = make(pool.FindMessageTypeByName(f"{PACKAGE}.{message.name}"))
        cls.__module__ = module  # so that messages pickle
        names[message.name] = cls
    extensions: Dict[str, Dict[str, Any]] = {}
    for added in forks.ADDED:
        cls = names[added.name]
        found = {field.name: pool.FindExtensionByName(f"{PACKAGE}.{field.name}") for field in added.fields}
        for extension in found.values():
            if extension.message_type is not None:
                make(extension.message_type)
            if not hasattr(message_factory, "GetMessageClass"):
                cls.RegisterExtension(extension)
        extensions[added.name] = found
    for enum, values in schema.ENUMS.items():
        names[enum] = enum_type_wrapper.EnumTypeWrapper(pool.FindEnumTypeByName(f"{PACKAGE}.{enum}"))
        names.update(values)
    return Built(names, extensions)


@functools.lru_cache(maxsize=1)
def _joined() -> Tuple[Any, Callable[[Any], Any]]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(joined_descriptor().SerializeToString())
    return pool, _maker(pool)


def joined(cls: Any) -> Any:
    """The class like `cls`, a message of Caffe's, whose messages have the forks' fields too, in another pool.

    What one of them serialises is what the other parses.
    """
    pool, make = _joined()
    return make(pool.FindMessageTypeByName(cls.DESCRIPTOR.full_name))


def _maker(pool: Any) -> Callable[[Any], Any]:
    """From a message's descriptor to its class."""
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass
    return getattr(message_factory.MessageFactory(pool), "GetPrototype")  # noqa: B009 (not in today's stubs)
