"""Weights read straight from a .caffemodel or .solverstate: the message without its long arrays, and where those lie.

Parsed whole, a file of 500 MB would lie in memory as bytes, as a message, and as the net's own weights. Here the
arrays of its BlobProtos stay in the file until somebody reads them into place.
"""

from __future__ import annotations

import os
from typing import IO, Any, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from google.protobuf.message import DecodeError

from .errors import ProtoError
from .files import MOST_BYTES, Path, open_binary, unknown_fields

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ARRAYS = {"data": "<f4", "diff": "<f4", "double_data": "<f8", "double_diff": "<f8"}
_WITH_BLOBS = {"NetParameter", "LayerParameter", "V1LayerParameter", "V0LayerParameter", "SolverState",
               "BlobProtoVector"}  # fmt: skip
_MOST_FIELDS = 1_000_000  # beyond this, something is not a net


class StoredBlob(NamedTuple):
    """One BlobProto: what lies in the file at `spans`, in bytes, for each of data, diff, double_data, double_diff."""

    where: str
    spans: dict[str, List[Tuple[int, int]]]

    def count(self, name: str) -> int:
        """How many numbers `name` (data, diff) has; doubles go before floats, as in Caffe."""
        doubles = sum(size for _, size in self.spans["double_" + name]) // 8
        return doubles or sum(size for _, size in self.spans[name]) // 4

    def read(self, name: str, out: Optional[np.ndarray] = None) -> np.ndarray:
        """The numbers of `name` (data, diff) as float32, flat.

        Args:
            out: a C-contiguous float32 array of that many elements to read into, without a copy between.
        Raises: ProtoError: the file went away or became shorter.
        """
        count = self.count(name)
        if out is None:
            out = np.empty(count, np.float32)
        flat = out.reshape(-1)
        stored = "double_" + name if self.spans["double_" + name] else name
        dtype = np.dtype(_ARRAYS[stored])
        at = 0
        try:
            with open(self.where, "rb") as file:
                for offset, size in self.spans[stored]:
                    file.seek(offset)
                    part = flat[at : at + size // dtype.itemsize]
                    if dtype == part.dtype:
                        done = file.readinto(part.view(np.uint8).data)
                    else:
                        raw = np.fromfile(file, dtype, part.size)
                        done = raw.nbytes
                        if done == size:
                            part[...] = raw
                    if done != size:
                        raise ProtoError(self.where, f"Found {done} bytes at byte {offset}, expected {size}: truncated")
                    at += part.size
        except OSError as error:
            raise ProtoError(self.where, f"Cannot read: {error.strerror}") from None
        return out


def read_stored(path: Path, cls: Any) -> Tuple[Any, List[StoredBlob]]:
    """The message of class `cls` (NetParameter, SolverState) in binary file `path`, its arrays left in the file.

    Returns: the message, with every BlobProto in place but without data and diff; and one StoredBlob for each of them,
        in the order of the message (`blobs_of`).
    Raises: ProtoError: missing, empty, truncated, no such message. Fields that Caffe 1.0 does not know are kept.
    """
    where = os.fspath(path)
    name = cls.DESCRIPTOR.full_name
    with open_binary(where) as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise ProtoError(where, f"Found an empty file, expected a binary {name}", found="0 bytes")
        if size > MOST_BYTES:
            raise ProtoError(where, f"Found {size} bytes, expected at most {MOST_BYTES} in one binary {name}")
        try:
            found: List[Tuple[int, StoredBlob]] = []
            raw = _outline(_Reader(file, size), size, cls.DESCRIPTOR, where, found)
            message = cls()
            taken = message.MergeFromString(raw)
            if taken is not None and taken != len(raw):
                raise DecodeError("wrong format")
        except (DecodeError, ValueError, RuntimeError) as error:
            detail = str(error).strip().splitlines()[0] if str(error).strip() else "wrong format"
            raise ProtoError(where, f"Found {size} bytes that are no binary {name}, truncated or corrupt ({detail})",
                             found=f"{size} bytes") from None
        except OSError as error:
            raise ProtoError(where, f"Cannot read: {error.strerror}") from None
    missing = message.FindInitializationErrors()
    if missing:
        raise ProtoError(where, f"Message missing required fields: {', '.join(missing)}", choices=missing)
    blobs = [blob for _, blob in found]
    count = sum(1 for _ in blobs_of(message))
    if count != len(blobs):
        raise ProtoError(where, f"Found {len(blobs)} blobs, expected {count} in this {name}: corrupt")
    if not any(field.name != "name" for field, _ in message.ListFields()):
        unknown = [number for _, number in unknown_fields(message)]
        said = f"only field numbers {', '.join(map(str, unknown[:5]))}, unknown to Caffe 1.0" if unknown else "nothing"
        raise ProtoError(where, f"Found {said} in {size} bytes, expected a binary {name}", found=f"{size} bytes")
    return message, blobs


def blobs_of(message: Any) -> Iterator[Any]:
    """Every BlobProto in `message`, in the order in which `read_stored` lists them."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        kind = field.message_type.name
        for item in (value,) if hasattr(value, "ListFields") else value:
            if kind == "BlobProto":
                yield item
            elif kind in _WITH_BLOBS:
                yield from blobs_of(item)


class _Reader:
    """A file, a position, and protobuf's varints."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size, self.at, self.fields = file, size, 0, 0

    def bytes(self, count: int) -> bytes:
        raw = self.file.read(count)
        if len(raw) != count:
            raise ValueError(f"it ends at byte {self.at + len(raw)}")
        self.at += count
        return raw

    def skip(self, count: int) -> None:
        self.file.seek(count, os.SEEK_CUR)
        self.at += count

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.bytes(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF
            shift += 7
            if shift > 63:
                raise ValueError(f"a number that does not end at byte {self.at}")


def _outline(reader: _Reader, end: int, descriptor: Any, where: str, found: List[Tuple[int, StoredBlob]]) -> bytes:
    """The bytes of one message up to `end` without the arrays of its blobs, which are added to `found`.

    A repeated field may come in several places of the wire; protobuf gathers it, so what was found is sorted by field
    number, stably, as ListFields does.
    """
    out = bytearray()
    spans: dict[str, List[Tuple[int, int]]] = {name: [] for name in _ARRAYS}
    is_blob = descriptor.name == "BlobProto"
    mine: List[Tuple[int, StoredBlob]] = []
    while reader.at < end:
        reader.fields += 1
        if reader.fields > _MOST_FIELDS:
            raise ValueError(f"more than {_MOST_FIELDS} fields")
        key = reader.varint()
        number, wire = key >> 3, key & 7
        field = descriptor.fields_by_number.get(number)
        if wire == _VARINT:
            out += varint(key) + varint(reader.varint())
        elif wire in (_FIXED32, _FIXED64):
            width = 4 if wire == _FIXED32 else 8
            if is_blob and field is not None and field.name in _ARRAYS and width == _width(field.name):
                _extend(spans[field.name], reader.at, width)
                reader.skip(width)
            else:
                out += varint(key) + reader.bytes(width)
        elif wire == _BYTES:
            size = reader.varint()
            if reader.at + size > end:
                raise ValueError(f"byte {reader.at} begins {size} bytes, of {end - reader.at} that are left")
            kind = field.message_type.name if field is not None and field.message_type is not None else ""
            if is_blob and field is not None and field.name in _ARRAYS:
                if size % _width(field.name):
                    raise ValueError(f"{size} bytes at byte {reader.at} are no whole number of {field.name}")
                _extend(spans[field.name], reader.at, size)
                reader.skip(size)
            elif field is not None and (kind == "BlobProto" or kind in _WITH_BLOBS):
                inner: List[Tuple[int, StoredBlob]] = []
                body = _outline(reader, reader.at + size, field.message_type, where, inner)
                mine += [(number, blob) for _, blob in inner]
                out += varint(key) + varint(len(body)) + body
            else:
                out += varint(key) + varint(size) + reader.bytes(size)
        else:
            raise ValueError(f"wire type {wire} at byte {reader.at}")
    if reader.at != end:
        raise ValueError(f"a field that ends at byte {reader.at}, beyond {end}")
    if is_blob:
        found.append((0, StoredBlob(where, spans)))
    else:
        found += sorted(mine, key=lambda pair: pair[0])
    return bytes(out)


def _width(name: str) -> int:
    return int(_ARRAYS[name][-1])


def _extend(spans: List[Tuple[int, int]], offset: int, size: int) -> None:
    if spans and sum(spans[-1]) == offset:
        spans[-1] = (spans[-1][0], spans[-1][1] + size)
    elif size:
        spans.append((offset, size))


def varint(value: int) -> bytes:
    """`value` as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
