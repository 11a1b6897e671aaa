"""Caffe's `Datum`, written for thousands of images at once: the wire format as one NumPy array.

    08 <channels> 10 <height> 18 <width> [22 <length> <bytes>] 28 <label> [35 <float32>]*

`float_data` is not packed in caffe.proto (`repeated float float_data = 6;`), so every value has its own tag byte 0x35:
a record of 3,072 floats is 15,368 bytes, and a (N, 15368) array with a five-byte item type is exactly the serialised
form. Source: caffe.proto, message Datum. Proved equal to protobuf's serialisation in tests/data_prep/test_datum.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from data_prep.errors import PrepError
from data_prep.imageset import FloatArray, IntArray, UInt8Array

_FLOAT = np.dtype([("tag", "u1"), ("value", "<f4")])


def varint(value: int) -> bytes:
    """Protobuf's base-128 form of a number >= 0, least significant group first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _head(shape: tuple[int, int, int], payload: int | None) -> bytes:
    channels, height, width = shape
    head = b"\x08" + varint(channels) + b"\x10" + varint(height) + b"\x18" + varint(width)
    return head if payload is None else head + b"\x22" + varint(payload)


def _label_groups(labels: IntArray) -> Iterator[tuple[npt.NDArray[np.intp], list[bytes]]]:
    """Rows by the length of their label's varint: within a group all records have the same layout."""
    if len(labels) and int(labels.min()) < 0:
        raise PrepError("label", str(int(labels.min())), "0 or more")
    encoded = [varint(int(label)) for label in labels]
    lengths = np.array([len(code) for code in encoded])
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        yield rows, [encoded[row] for row in rows]


def encode(images: FloatArray | UInt8Array, labels: IntArray, pad: int = 0) -> list[memoryview]:
    """Serialise one Datum for each image: uint8 images as `data`, float images as `float_data`.

    Args:
        images: (N, C, H, W) float32 or uint8.
        labels: (N,) int64, >= 0.
        pad: Border of zeros on each of the four sides: the Datum is (C, H + 2 pad, W + 2 pad).

    Returns:
        N buffers, in order, equal to `Datum.SerializeToString()`.

    Raises:
        PrepError: a negative label.
    """
    count, channels, height, width = images.shape
    shape = (channels, height + 2 * pad, width + 2 * pad)
    size = channels * shape[1] * shape[2]
    is_bytes = images.dtype == np.uint8
    head = _head(shape, size if is_bytes else None)
    out: list[memoryview] = [memoryview(b"")] * count
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


def decode(value: bytes | memoryview) -> tuple[npt.NDArray[np.generic], int]:
    """One Datum as `encode` writes it: the image (C, H, W), float32 or uint8, and the label.

    Raises:
        PrepError: other fields, another order or another length than `encode` writes (Caffe itself would read garbage).
    """
    position = 0

    def take(tag: int) -> int:
        nonlocal position
        if position >= len(value) or value[position] != tag:
            raise PrepError(
                "Datum",
                f"{bytes(value[position : position + 1]).hex() or 'the end'} at byte {position}",
                f"tag {tag:02x}",
            )
        position += 1
        number = shift = 0
        while True:
            if position >= len(value):
                raise PrepError("Datum", "the end within a number", "a complete record")
            byte = value[position]
            position += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number

    shape = (take(0x08), take(0x10), take(0x18))
    size = int(np.prod(shape, dtype=object))
    is_bytes = bytes(value[position : position + 1]) == b"\x22"
    if is_bytes:
        length = take(0x22)
        pixels: npt.NDArray[np.generic] = np.frombuffer(value[position : position + length], np.uint8)
        position += length
    label = take(0x28)
    if not is_bytes:
        if (len(value) - position) % 5:
            raise PrepError("Datum", f"{len(value) - position} bytes of floats", "a multiple of 5")
        floats = np.frombuffer(value, _FLOAT, offset=position)
        if not (floats["tag"] == 0x35).all():
            raise PrepError("Datum", "another field among the floats", "float_data only")
        pixels = floats["value"].copy()
    elif position != len(value):
        raise PrepError("Datum", f"{len(value) - position} bytes after the label", "none")
    if pixels.size != size:
        raise PrepError("Datum", f"{pixels.size} values", f"{size} for the shape {shape}")
    return pixels.reshape(shape), label
