"""Caffe's files: prototxt, and the binary .caffemodel, .solverstate and .binaryproto."""

from __future__ import annotations

import os
from typing import IO, Any, Iterable, Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError

from allconv_caffe import files
from allconv_caffe.files import Path

from .errors import ProtoError
from .messages import NetParameter, SolverParameter
from .text import decode, parse_text, to_text

MOST_BYTES = 2**31 - 1  # protobuf's own limit for one message


def read_text(path: Path, cls: Any) -> Any:
    """The message of class `cls` that the prototxt file `path` describes.

    Raises: ProtoError: ``File not found: X``, not a file, unreadable, or anything `parse_text` refuses.
    """
    where = os.fspath(path)
    return parse_text(decode(_read(where), where), cls, where)


def read_binary(path: Path, cls: Any, allow_unknown: bool = False) -> Any:
    """The message of class `cls` in the binary file `path`; peak memory is about twice the file.

    Args:
        allow_unknown: keep fields that Caffe 1.0 does not know (written by a fork) instead of stopping at them.
    Raises: ProtoError: missing, truncated, no such message, or with unknown fields.
    """
    where = os.fspath(path)
    raw = _read(where)
    name = cls.DESCRIPTOR.full_name
    if not raw:
        raise ProtoError(where, f"Found an empty file, expected a binary {name}", found="0 bytes")
    if len(raw) > MOST_BYTES:
        raise ProtoError(where, f"Found {len(raw)} bytes, expected at most {MOST_BYTES} in one binary {name}")
    message = cls()
    try:
        # MergeFromString, not ParseFromString: the old C++ library reports some damage only by the count it returns
        taken = message.MergeFromString(raw)
    except (DecodeError, ValueError, RuntimeError) as error:
        detail = str(error).strip().splitlines()[0] if str(error).strip() else "wrong format"
        raise ProtoError(
            where,
            f"Found {len(raw)} bytes that are no binary {name}, truncated or corrupt ({detail})",
            found=f"{len(raw)} bytes",
        ) from None
    if taken is not None and taken != len(raw):
        raise ProtoError(
            where,
            f"Found {len(raw)} bytes that are no binary {name}: it ends after byte {taken}",
            found=f"{len(raw)} bytes",
        )
    del raw
    if not allow_unknown:
        for path_in_message, number in unknown_fields(message):
            raise ProtoError(
                where,
                f"Found field number {number} in {path_in_message}, unknown to Caffe 1.0: "
                f"no {name} of Caffe's, or a fork's",
                found=str(number),
            )
    missing = message.FindInitializationErrors()
    if missing:
        raise ProtoError(where, f"Message missing required fields: {', '.join(missing)}", choices=missing)
    return message


def read_net(path: Path) -> Any:
    """The NetParameter in prototxt file `path`, as written: V0 and V1 layers are not upgraded here."""
    return _read_named(path, NetParameter)


def read_solver(path: Path) -> Any:
    """The SolverParameter in prototxt file `path`, as written."""
    return _read_named(path, SolverParameter)


def _read_named(path: Path, cls: Any) -> Any:
    """As `read_text`; a text that does not parse is said with Caffe's sentence for this kind of file, too."""
    where = os.fspath(path)
    raw = _read(where)
    try:
        return parse_text(decode(raw, where), cls, where)
    except ProtoError as error:
        reason = f"{error.reason} (Failed to parse {cls.DESCRIPTOR.name} file: {where})"
        raise ProtoError(where, reason, error.line, error.column, error.found, error.choices) from None


def write_binary(path: Path, message: Any) -> None:
    """Write `message` to `path`, whole or not at all: temporary file beside it, fsync, rename.

    Raises: ProtoError: over 2 GiB, required fields left out, or a folder that cannot be written.
    """
    where = os.fspath(path)
    check_size(where, message, message.ByteSize())
    try:
        write_pieces(where, _pieces(message))
    except EncodeError as error:
        raise ProtoError(where, str(error)) from None


def check_size(where: str, message: Any, size: int) -> None:
    """Raises ProtoError where `message` lacks required fields, or its `size` in bytes is more than protobuf can hold."""
    missing = message.FindInitializationErrors()
    if missing:
        raise ProtoError(where, f"Message missing required fields: {', '.join(missing)}", choices=missing)
    if size > MOST_BYTES:
        raise ProtoError(
            where,
            f"Found {size} bytes to write, expected at most {MOST_BYTES} in one binary "
            f"{message.DESCRIPTOR.full_name}; Caffe's HDF5 snapshot format has no such limit",
        )


def write_text(path: Path, message: Any) -> None:
    """Write `message` to `path` as prototxt, whole or not at all."""
    write_pieces(os.fspath(path), [to_text(message).encode("ascii")])


def unknown_fields(message: Any, place: str = "") -> Iterator[Any]:
    """Pairs (where in the message, field number) of every field that the schema does not know, depth first."""
    place = place or str(message.DESCRIPTOR.full_name)
    for unknown in _unknown_set(message):
        yield place, unknown.field_number
    for field, value in message.ListFields():
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            repeated = not hasattr(value, "ListFields")
            for index, item in enumerate(value if repeated else (value,)):
                yield from unknown_fields(item, f"{place}.{field.name}" + (f"[{index}]" if repeated else ""))


def _unknown_set(message: Any) -> Any:
    try:
        from google.protobuf.unknown_fields import UnknownFieldSet
    except ImportError:  # protobuf before 4.22
        return message.UnknownFields()
    return UnknownFieldSet(message)


def _pieces(message: Any) -> Iterator[bytes]:
    """The serialised message, one piece per element of its repeated messages: a net's weights never lie there twice.

    Same bytes as SerializeToString: fields by number, elements in order.
    """
    if len(_unknown_set(message)):
        yield message.SerializeToString()  # unknown fields have a place of their own in the order
        return
    for field, value in message.ListFields():
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE and not hasattr(value, "ListFields"):
            for item in value:
                body = item.SerializeToString()
                yield varint(field.number << 3 | 2) + varint(len(body))
                yield body
        else:
            yield only_field(message, field, value).SerializePartialToString()


def only_field(message: Any, field: Any, value: Any) -> Any:
    """A message like `message` with nothing but one of its fields."""
    single = type(message)()
    if field.is_extension:
        if hasattr(value, "ListFields"):
            single.Extensions[field].CopyFrom(value)
        else:
            single.Extensions[field] = value
    elif hasattr(value, "ListFields"):
        getattr(single, field.name).CopyFrom(value)
    elif isinstance(value, (str, bytes, int, float)):
        setattr(single, field.name, value)
    else:
        getattr(single, field.name).extend(value)
    return single


def varint(value: int) -> bytes:
    """`value` as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def open_binary(where: str) -> IO[bytes]:
    """`where` opened for reading. Raises ProtoError: ``File not found: X``, a folder, a device, no permission."""
    return _open(where, pipes=False)


def _open(where: str, pipes: bool) -> IO[bytes]:
    try:
        return files.open_file(where, pipes)
    except FileNotFoundError:
        raise ProtoError("", f"File not found: {where}", found=where) from None
    except IsADirectoryError:
        raise ProtoError(where, "Found a folder, expected a file", found="folder") from None
    except files.NotAFile as error:
        raise ProtoError(where, str(error.strerror), found=error.found) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ProtoError(where, f"Cannot read: {getattr(error, 'strerror', None) or error}") from None


def _read(where: str) -> bytes:
    with _open(where, pipes=True) as file:
        try:
            return file.read()
        except OSError as error:
            raise ProtoError(where, f"Cannot read: {error.strerror}") from None


def write_pieces(where: str, pieces: Iterable[Any]) -> None:
    """Write bytes-like `pieces` one after the other, whole or not at all. Raises: ProtoError."""
    try:
        files.write(where, pieces)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ProtoError(where, f"Cannot write: {getattr(error, 'strerror', None) or error}") from None
