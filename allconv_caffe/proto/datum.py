"""Caffe's `Datum`: a C x H x W array (float32, or uint8 for byte records), or a whole image file, and an integer label.

    08 <channels> 10 <height> 18 <width> [22 <length> <bytes>] 28 <label> [35 <float32>]*

`float_data` is not packed in caffe.proto (`repeated float float_data = 6;`), so every value has its own tag byte 0x35:
a record of 3,072 floats is 15,368 bytes, and a (N, 15368) array with a five-byte item type is exactly the serialised
form. Written so, thousands at once, and read so: an ordinary record straight from the wire format, any other by protobuf.

Source: caffe.proto, message Datum; data_transformer.cpp.
Differs: a truncated or odd-sized Datum is an error; Caffe trains on whatever lies in memory there.
"""

from __future__ import annotations

from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from google.protobuf.message import DecodeError

from .errors import ProtoError
from .files import varint
from .messages import Datum

_FLOAT = np.dtype([("tag", "u1"), ("value", "<f4")])  # one element of unpacked float_data
_NO_FLOATS = np.empty(0, np.float32)
Fields = Tuple[int, int, int, Any, np.ndarray, int, bool]


class Record(NamedTuple):
    """One Datum as it lies in the file: `image` is the C x H x W array, or None where `encoded` holds an image file."""

    image: Optional[np.ndarray]
    encoded: bytes
    label: int


# reading
def parse(value: Any) -> Record:
    """Reads a serialised Datum from a bytes-like object; arrays are views into it where they can be.

    Bytes win over float_data, and count as unsigned. Raises: ProtoError for anything that is no whole Datum.
    """
    found = _scan(value)
    if found is None:
        found = _parse_slowly(value)
    channels, height, width, data, floats, label, encoded = found
    if encoded:
        return Record(None, bytes(data), label)
    size = channels * height * width
    array: np.ndarray = np.frombuffer(data, np.uint8) if len(data) else floats
    if channels <= 0:
        raise ProtoError("", f"Check failed: datum_channels > 0 ({channels} vs. 0)")
    if height < 0:
        raise ProtoError("", f"Check failed: datum_height >= crop_size ({height} vs. 0)")
    if width < 0:
        raise ProtoError("", f"Check failed: datum_width >= crop_size ({width} vs. 0)")
    if array.size != size or not size:
        raise ProtoError("", f"a Datum of {channels} x {height} x {width} holds {array.size} values, expected {size}")
    return Record(array.reshape(channels, height, width), b"", label)


def decode(value: Any) -> Tuple[np.ndarray, int]:
    """The image (C, H, W), float32 or uint8, and the label of a Datum that holds values.

    Raises: ProtoError: no whole Datum, or one that holds an image file.
    """
    image, encoded, label = parse(value)
    if image is None:
        raise ProtoError("", f"a Datum that holds an image file of {len(encoded)} bytes, expected values")
    return np.ascontiguousarray(image), label


def _scan(value: Any) -> Optional[Fields]:
    """The fields of an ordinary Datum straight from the wire format; None where protobuf must look."""
    numbers = {0x08: 0, 0x10: 0, 0x18: 0, 0x28: 0, 0x38: 0}  # channels, height, width, label, encoded
    data: Any = b""
    floats = _NO_FLOATS
    pos, end = 0, len(value)
    try:
        while pos < end:
            tag = value[pos]
            if tag == 0x35:  # float_data, unpacked: 5 bytes each
                if floats.size:
                    return None
                run = np.frombuffer(value, _FLOAT, (end - pos) // 5, pos)
                other = np.flatnonzero(run["tag"] != 0x35)
                floats = run["value"][: other[0] if other.size else None]
                pos += 5 * floats.size
                if not floats.size:
                    return None
                continue
            pos += 1
            number = value[pos]
            pos += 1
            if number >= 0x80:
                shift, number = 7, number & 0x7F
                while True:
                    part = value[pos]
                    pos += 1
                    number |= (part & 0x7F) << shift
                    shift += 7
                    if part < 0x80:
                        break
                    if shift > 63:
                        return None
            if tag in numbers:
                numbers[tag] = number
            elif tag == 0x22:  # data
                data = value[pos : pos + number]
                pos += number
            elif tag == 0x32:  # float_data, packed
                if floats.size or number % 4:
                    return None
                floats = np.frombuffer(value, "<f4", number // 4, pos)
                pos += number
            else:
                return None
    except (IndexError, ValueError):
        return None
    if pos != end:
        return None
    channels, height, width, label, encoded = numbers.values()
    label &= 0xFFFFFFFF
    if max(channels, height, width) > 0x7FFFFFFF:
        return None
    return channels, height, width, data, floats, label - (label >> 31 << 32), bool(encoded)


def _parse_slowly(value: Any) -> Fields:
    datum = Datum()
    try:
        datum.MergeFromString(bytes(value))
    except (DecodeError, RuntimeError):
        raise ProtoError("", f"{len(value)} bytes that are no whole Datum (truncated or corrupt)") from None
    floats = np.array(datum.float_data, np.float32)
    return datum.channels, datum.height, datum.width, datum.data, floats, datum.label, datum.encoded


# writing
def encode(images: np.ndarray, labels: np.ndarray, pad: int = 0) -> List[memoryview]:
    """Serialise one Datum for each image: uint8 images as `data`, float images as `float_data`.

    Args:
        images: (N, C, H, W) float32 or uint8.
        labels: (N,) int64, >= 0.
        pad: border of zeros on each of the four sides: the Datum is (C, H + 2 pad, W + 2 pad).

    Returns: N buffers, in order, equal to `Datum.SerializeToString()`.
    Raises: ProtoError: a negative label.
    """
    count, channels, height, width = images.shape
    shape = (channels, height + 2 * pad, width + 2 * pad)
    size = channels * shape[1] * shape[2]
    is_bytes = images.dtype == np.uint8
    head = _head(shape, size if is_bytes else None)
    out: List[memoryview] = [memoryview(b"")] * count
    for rows, codes in _label_groups(labels):
        values = ("values", "u1", (size,)) if is_bytes else ("values", _FLOAT, (size,))
        label = ("label", "u1", (1 + len(codes[0]),))  # the tag 0x28 and the varint
        order = [values, label] if is_bytes else [label, values]  # by field number: data 4, label 5, float_data 6
        records = np.zeros(len(rows), np.dtype([("head", "u1", (len(head),)), *order]))
        records["head"] = np.frombuffer(head, np.uint8)
        records["label"] = np.frombuffer(b"".join(b"\x28" + code for code in codes), np.uint8).reshape(len(rows), -1)
        target = records["values"]
        if not is_bytes:
            target["tag"] = 0x35
            target = target["value"]
        planes = target.reshape(len(rows), *shape)
        assert np.shares_memory(planes, records)
        planes[:, :, pad : pad + height, pad : pad + width] = images if len(rows) == count else images[rows]
        raw, step = memoryview(records.view(np.uint8).data), records.dtype.itemsize
        for i, row in enumerate(rows):
            out[row] = raw[i * step : (i + 1) * step]
    return out


def _head(shape: Tuple[int, int, int], payload: Optional[int]) -> bytes:
    channels, height, width = shape
    head = b"\x08" + varint(channels) + b"\x10" + varint(height) + b"\x18" + varint(width)
    return head if payload is None else head + b"\x22" + varint(payload)


def _label_groups(labels: np.ndarray) -> Iterator[Tuple[np.ndarray, List[bytes]]]:
    """Rows by the length of their label's varint: within a group all records have the same layout."""
    if len(labels) and int(labels.min()) < 0:
        raise ProtoError("label", f"found {int(labels.min())}, expected 0 or more", found=str(int(labels.min())))
    encoded = [varint(int(label)) for label in labels]
    lengths = np.array([len(code) for code in encoded])
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        yield rows, [encoded[row] for row in rows]
