"""Weights read straight from a .caffemodel or .solverstate, and written straight to one.

Parsed whole, a file of 500 MB would lie in memory as bytes, as a message, and as the net's own weights. Here only the
message without its long arrays does: those of its BlobProtos are read from the file into place, and written from there.
"""

from __future__ import annotations

import os
from typing import IO, Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from . import forks
from .errors import ProtoError
from .files import MOST_BYTES, Path, check_size, only_field, open_binary, unknown_fields, varint, write_pieces

_VARINT, _FIXED64, _BYTES, _GROUP, _END, _FIXED32 = range(6)
_TYPE, _OWN = 2, 100  # of a LayerParameter: the number of `type`, and the first of the fields that one type alone has
_DEEPEST = 100  # messages and groups in each other: protobuf's own limit
_ARRAYS = {
    "data": "<f4",
    "diff": "<f4",
    "double_data": "<f8",
    "double_diff": "<f8",
    "half_data": "<f2",
    "half_diff": "<f2",  # no fields, but what NVCaffe may keep in its raw_data and raw_diff
}
_RAW = {12: "data", 13: "diff"}  # NVCaffe's fields of a BlobProto: numbers as bytes, and two before each what they are
_RAW_TYPES = {0: "double_", 1: "", 2: "half_"}
_WITH_BLOBS = {
    "NetParameter",
    "LayerParameter",
    "V1LayerParameter",
    "V0LayerParameter",
    "SolverState",
    "BlobProtoVector",
}
_MOST_FIELDS = 250_000  # a run of unpacked numbers counts once; beyond this, something is not a net
_CHUNK = 1 << 18  # numbers converted at once
_WINDOW = 1 << 12  # bytes looked at between arrays


class Span(NamedTuple):
    """Where numbers lie in a file: `size` bytes of them from `offset` on; each behind its field's one-byte key (which
    is not counted) if `unpacked`."""

    offset: int
    size: int
    unpacked: bool


class StoredBlob(NamedTuple):
    """One BlobProto: what lies in the file at `spans` for each of data, diff, double_data, double_diff; and as halves."""

    where: str
    spans: Dict[str, List[Span]]

    def count(self, name: str) -> int:
        """How many numbers `name` (data, diff) has; doubles go before floats, as in Caffe."""
        stored = self._stored(name)
        return sum(span.size for span in self.spans[stored]) // _width(stored)

    def _stored(self, name: str) -> str:
        return next((kind + name for kind in ("double_", "", "half_") if self.spans[kind + name]), name)

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
        stored = self._stored(name)
        dtype = np.dtype(_ARRAYS[stored])
        at = 0
        try:
            with open(self.where, "rb") as file:
                for span in self.spans[stored]:
                    part = flat[at : at + span.size // dtype.itemsize]
                    if not _read_span(file, span, dtype, part):
                        raise ProtoError(self.where, f"Found no {span.size} bytes at byte {span.offset}: truncated")
                    at += part.size
        except OSError as error:
            raise ProtoError(self.where, f"Cannot read: {error.strerror}") from None
        return out


def _read_span(file: IO[bytes], span: Span, dtype: Any, out: np.ndarray) -> bool:
    """Whether the numbers of `span` are all there; they are in `out`, float32, then."""
    if not span.unpacked and dtype == out.dtype:
        file.seek(span.offset)
        return file.readinto(out.view(np.uint8).data) == span.size  # type: ignore[attr-defined]
    element = np.dtype([("key", "u1"), ("value", dtype)]) if span.unpacked else dtype
    file.seek(span.offset - 1 if span.unpacked else span.offset)
    for begin in range(0, out.size, _CHUNK):
        part = out[begin : begin + _CHUNK]
        raw = np.fromfile(file, element, part.size)
        if raw.size != part.size:
            return False
        part[...] = raw["value"] if span.unpacked else raw
    return True


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
        except (DecodeError, ValueError, RuntimeError, IndexError) as error:
            detail = str(error).strip().splitlines()[0] if str(error).strip() else "wrong format"
            raise ProtoError(
                where,
                f"Found {size} bytes that are no binary {name}, truncated or corrupt ({detail})",
                found=f"{size} bytes",
            ) from None
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
    """A file, a position, and protobuf's varints; what is skipped is not read."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size, self.at, self.fields = file, size, 0, 0
        self.window, self.base = b"", 0  # bytes of the file from `base` on

    def _ahead(self, count: int) -> int:
        """Where the position is in `window`, which holds at least `count` bytes from there, or all that are left."""
        at = self.at - self.base
        if not 0 <= at <= len(self.window) - count:
            self.file.seek(self.at)
            self.window, self.base, at = self.file.read(max(count, _WINDOW)), self.at, 0
        return at

    def bytes(self, count: int) -> bytes:
        at = self._ahead(count)
        raw = self.window[at : at + count]
        if len(raw) != count:
            raise ValueError(f"it ends at byte {self.at + len(raw)}")
        self.at += count
        return raw

    def skip(self, count: int) -> None:
        self.at += count

    def run(self, key: int, width: int, end: int) -> int:
        """How many numbers of `width` bytes lie here, before `end`, each but the first behind the one-byte `key`."""
        if self.at + width > end:
            raise ValueError(f"a field that ends at byte {self.at + width}, beyond {end}")
        count, step, at, ahead = 1, width + 1, self.at + width, _WINDOW // 2
        if at + step > end or key > 0x7F or self.window[self._ahead(step) + width] != key:
            return count
        while at + step <= end:
            self.file.seek(at)
            keys = np.frombuffer(self.file.read(min((end - at) // step, ahead) * step), np.uint8)[::step]
            others = np.flatnonzero(keys != key)
            same = int(others[0]) if others.size else len(keys)
            count, at, ahead = count + same, at + same * step, min(ahead * 16, _CHUNK)
            if others.size or not same:
                break
        return count

    def key(self) -> int:
        """A field's number and wire type, and that there are not too many of them."""
        self.fields += 1
        if self.fields > _MOST_FIELDS:
            raise ValueError(f"more than {_MOST_FIELDS} fields")
        return self.short()

    def short(self) -> int:
        """A key or a length: at most five bytes."""
        begin = self.at
        value = self.varint()
        if self.at - begin > 5:
            raise ValueError(f"a key or a length of {self.at - begin} bytes at byte {begin}")
        return value

    def size_before(self, end: int) -> int:
        """The length of what follows, which must end before `end`."""
        size = self.short()
        if self.at + size > end:
            raise ValueError(f"byte {self.at} begins {size} bytes, of {end - self.at} that are left")
        return size

    def skip_group(self, number: int, end: int, most: int) -> None:
        """To behind the end of the group `number`, which has begun; `most` of them may lie in each other."""
        waiting = [number]
        while waiting:
            if len(waiting) > most:
                raise ValueError(f"groups in each other, more than {most}, at byte {self.at}")
            if self.at >= end:
                raise ValueError(f"group {waiting[-1]} does not end before byte {end}")
            begin, key = self.at, self.key()
            wire = key & 7
            if wire == _GROUP:
                waiting.append(key >> 3)
            elif wire == _END and waiting[-1] == key >> 3:
                waiting.pop()
            elif wire == _VARINT:
                self.varint()
            elif wire in (_FIXED32, _FIXED64):
                self.skip(4 if wire == _FIXED32 else 8)
            elif wire == _BYTES:
                self.skip(self.short())
            else:
                raise ValueError(f"wire type {wire} at byte {begin}")

    def varint(self) -> int:
        value = shift = 0
        while True:
            at = self.at - self.base
            if not 0 <= at < len(self.window):
                at = self._ahead(1)
                if not self.window:
                    raise ValueError(f"it ends at byte {self.at}")
            byte = self.window[at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF
            shift += 7
            if shift > 63:
                raise ValueError(f"a number that does not end at byte {self.at}")


def _outline(
    reader: _Reader, end: int, descriptor: Any, where: str, found: List[Tuple[int, StoredBlob]], depth: int = 0
) -> bytes:
    """The bytes of one message up to `end` without the arrays of its blobs, which are added to `found`, and without what
    unknown groups hold. Texts that are not UTF-8 are so, with ``\\xff`` for a byte: Python's protobuf lets none be copied.
    Of a layer whose type is a fork's, what is its type's own is left out, since a number means something else in each fork;
    NVCaffe's raw_data and raw_diff are arrays.

    A repeated field may come in several places of the wire; protobuf gathers it, so what was found is sorted by field
    number, stably, as ListFields does.
    """
    out = bytearray()
    spans: Dict[str, List[Span]] = {name: [] for name in _ARRAYS}
    is_blob, is_layer = descriptor.name == "BlobProto", descriptor.name == "LayerParameter"
    mine: List[Tuple[int, StoredBlob]] = []
    begins: List[Tuple[int, int]] = []  # field number, and where it begins in `out`
    raw = _Raw()
    while reader.at < end:
        key = reader.key()
        number, wire = key >> 3, key & 7
        if is_layer:
            begins.append((number, len(out)))
        field = descriptor.fields_by_number.get(number)
        if is_blob and raw.takes(reader, end, number, wire):
            continue
        if wire == _VARINT:
            out += varint(key) + varint(reader.varint())
        elif wire in (_FIXED32, _FIXED64):
            width = 4 if wire == _FIXED32 else 8
            if is_blob and field is not None and field.name in _ARRAYS and width == _width(field.name):
                count = reader.run(key, width, end)
                _extend(spans[field.name], reader.at, count * width, count > 1)
                reader.skip(count * width + count - 1)
            else:
                out += varint(key) + reader.bytes(width)
        elif wire == _BYTES:
            size = reader.size_before(end)
            kind = field.message_type.name if field is not None and field.message_type is not None else ""
            if is_blob and field is not None and field.name in _ARRAYS:
                if size % _width(field.name):
                    raise ValueError(f"{size} bytes at byte {reader.at} are no whole number of {field.name}")
                _extend(spans[field.name], reader.at, size, False)
                reader.skip(size)
            elif field is not None and (kind == "BlobProto" or kind in _WITH_BLOBS):
                inner: List[Tuple[int, StoredBlob]] = []
                body = _outline(reader, reader.at + size, field.message_type, where, inner, depth + 1)
                mine += [(number, blob) for _, blob in inner]
                out += varint(key) + varint(len(body)) + body
            else:
                value = reader.bytes(size)
                if field is not None and field.type == FieldDescriptor.TYPE_STRING:
                    value = value.decode("utf-8", "backslashreplace").encode()
                out += varint(key) + varint(len(value)) + value
        elif wire == _GROUP:
            reader.skip_group(number, end, _DEEPEST - depth)
            out += varint(key) + varint(key + 1)
        else:
            raise ValueError(f"wire type {wire} at byte {reader.at}")
    if reader.at != end:
        raise ValueError(f"a field that ends at byte {reader.at}, beyond {end}")
    if is_blob:
        raw.put(spans)
        found.append((0, StoredBlob(where, spans)))
    else:
        found += sorted(mine, key=lambda pair: pair[0])
    return bytes(_without_own(out, begins) if is_layer else out)


def _without_own(out: bytearray, begins: List[Tuple[int, int]]) -> bytearray:
    """The bytes of a layer; of one whose type is a fork's, without the fields that its type alone has."""
    ends = [begin for _, begin in begins[1:]] + [len(out)]
    parts = [(number, out[begin : ends[i]]) for i, (number, begin) in enumerate(begins)]
    kinds = [part[2:].decode("utf-8", "replace") for number, part in parts if number == _TYPE]  # behind key and length
    if not kinds or kinds[-1] not in forks.TYPES:
        return out
    return bytearray().join(part for number, part in parts if number < _OWN)


class _Raw:
    """NVCaffe's raw_data and raw_diff of one BlobProto."""

    def __init__(self) -> None:
        self.arrays: Dict[int, Tuple[int, int]] = {}  # of _RAW: offset and bytes
        self.types: Dict[int, int] = {}

    def takes(self, reader: _Reader, end: int, number: int, wire: int) -> bool:
        """Whether the field whose key was read is one of theirs; the reader is behind it then."""
        if wire == _VARINT and number + 2 in _RAW:
            self.types[number + 2] = reader.varint()
        elif wire == _BYTES and number in _RAW:
            size = reader.size_before(end)
            self.arrays[number] = reader.at, size
            reader.skip(size)
        else:
            return False
        return True

    def put(self, spans: Dict[str, List[Span]]) -> None:
        """Adds to `spans` what the BlobProto does not say otherwise."""
        for number, (offset, size) in self.arrays.items():
            word, kind = _RAW[number], self.types.get(number)
            if spans[word] or spans["double_" + word]:
                continue
            if kind not in _RAW_TYPES:
                raise ValueError(f"raw_{word} of type {kind} at byte {offset}, expected 0, 1 or 2: double, float, half")
            name = _RAW_TYPES[kind] + word
            if size % _width(name):
                raise ValueError(f"{size} bytes at byte {offset} are no whole number of {name}")
            _extend(spans[name], offset, size, False)


def _width(name: str) -> int:
    return int(_ARRAYS[name][-1])


def _extend(spans: List[Span], offset: int, size: int, unpacked: bool) -> None:
    last = spans[-1] if spans else None
    if last is not None and not last.unpacked and not unpacked and last.offset + last.size == offset:
        spans[-1] = Span(last.offset, last.size + size, False)
    elif size:
        spans.append(Span(offset, size, unpacked))


Numbers = Dict[str, Tuple[int, Callable[[], np.ndarray]]]  # data, diff -> how many, and how to get them
_Piece = Union[bytes, Callable[[], np.ndarray]]  # noqa: UP007 (Python 3.9)


def write_stored(path: Path, message: Any, numbers: Sequence[Numbers]) -> None:
    """Write `message` to `path`, whole or not at all, with arrays that are not in it: no copy of them is made.

    Same bytes as `write_binary` of the message with its arrays.

    Args:
        message: its BlobProtos without data and diff.
        numbers: for each of them, in the order of `blobs_of`, what their data and diff are: float32, C-contiguous.
    Raises: ProtoError: over 2 GiB, required fields left out, or a folder that cannot be written.
    """
    where = os.fspath(path)
    waiting = iter(numbers)
    size, pieces = _layout(message, waiting)
    check_size(where, message, size)
    write_pieces(where, (piece if isinstance(piece, bytes) else _flat(piece()) for piece in pieces))


def _flat(array: np.ndarray) -> Any:
    return np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8).data


def _layout(message: Any, waiting: Iterator[Numbers]) -> Tuple[int, List[_Piece]]:
    """How many bytes the message takes, and what they are."""
    parts: List[Tuple[int, int, List[_Piece]]] = []  # field number, bytes, what they are
    if message.DESCRIPTOR.name == "BlobProto":
        for name, (count, values) in next(waiting).items():
            if count:
                head = _head(message.DESCRIPTOR.fields_by_name[name].number, 4 * count)
                parts.append((message.DESCRIPTOR.fields_by_name[name].number, len(head) + 4 * count, [head, values]))
    for field, value in message.ListFields():
        kind = field.message_type.name if field.message_type is not None else ""
        if kind != "BlobProto" and kind not in _WITH_BLOBS:
            raw = only_field(message, field, value).SerializePartialToString()
            parts.append((field.number, len(raw), [raw]))
            continue
        for item in (value,) if hasattr(value, "ListFields") else value:
            size, pieces = _layout(item, waiting)
            head = _head(field.number, size)
            parts.append((field.number, len(head) + size, [head, *pieces]))
    parts.sort(key=lambda part: part[0])
    return sum(size for _, size, _ in parts), [piece for _, _, pieces in parts for piece in pieces]


def _head(number: int, size: int) -> bytes:
    return varint(number << 3 | _BYTES) + varint(size)
