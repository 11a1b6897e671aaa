"""One `Datum` read: a C x H x W array (float32, or uint8 for byte records and decoded images) and an integer label.

Source: data_transformer.cpp, io.cpp.
Differs: a truncated or odd-sized Datum is an error; Caffe trains on whatever lies in memory there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.proto import Datum

FLOAT_RUN = np.dtype([("tag", "u1"), ("value", "<f4")])  # one element of unpacked float_data


@dataclass(slots=True)
class Record:
    """One Datum as it lies in the file: `image` is the C x H x W array, or None where `encoded` holds a whole file."""

    image: np.ndarray | None
    encoded: bytes
    label: int


def parse_datum(value: Any) -> Record:
    """Reads a serialised Datum from a bytes-like object; arrays are views into it where they can be.

    Bytes win over float_data, and count as unsigned. Raises: CaffeError for anything that is no whole Datum.
    """
    found = _scan(value)
    if found is None:
        found = _parse_slowly(value)
    channels, height, width, data, floats, label, encoded = found
    if encoded:
        return Record(None, bytes(data), label)
    size = channels * height * width
    array: np.ndarray = np.frombuffer(data, np.uint8) if len(data) else floats
    check(channels > 0, f"Check failed: datum_channels > 0 ({channels} vs. 0)")
    check(height >= 0, f"Check failed: datum_height >= crop_size ({height} vs. 0)")
    check(width >= 0, f"Check failed: datum_width >= crop_size ({width} vs. 0)")
    check(
        array.size == size and size > 0,
        f"a Datum of {channels} x {height} x {width} holds {array.size} values, expected {size}",
    )
    return Record(array.reshape(channels, height, width), b"", label)


NO_FLOATS = np.empty(0, np.float32)
Fields = tuple[int, int, int, Any, np.ndarray, int, bool]


def _scan(value: Any) -> Fields | None:
    """The fields of an ordinary Datum straight from the wire format; None where protobuf must look."""
    numbers = {0x08: 0, 0x10: 0, 0x18: 0, 0x28: 0, 0x38: 0}  # channels, height, width, label, encoded
    data: Any = b""
    floats = NO_FLOATS
    pos, end = 0, len(value)
    try:
        while pos < end:
            tag = value[pos]
            if tag == 0x35:  # float_data, unpacked: 5 bytes each
                if floats.size:
                    return None
                run = np.frombuffer(value, FLOAT_RUN, (end - pos) // 5, pos)
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
        raise CaffeError(f"{len(value)} bytes that are no whole Datum (truncated or corrupt)") from None
    floats = np.array(datum.float_data, np.float32)
    return datum.channels, datum.height, datum.width, datum.data, floats, datum.label, datum.encoded


def decode_image(encoded: bytes, force_color: bool = False, force_gray: bool = False) -> np.ndarray:
    """C x H x W uint8 of an image file's bytes; B, G, R as OpenCV has them. Raises CaffeError."""
    import cv2

    check(not (force_color and force_gray), "cannot set both force_color and force_gray")
    flag = cv2.IMREAD_COLOR if force_color else cv2.IMREAD_GRAYSCALE if force_gray else cv2.IMREAD_UNCHANGED
    try:
        image = decode_file(encoded, flag)
    except cv2.error as error:  # larger than OpenCV allows
        raise CaffeError(f"Could not decode datum ({error.err})") from None
    if image is None:
        raise CaffeError("Could not decode datum ")
    check(image.dtype == np.uint8, "Image data type must be unsigned byte")
    return image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))


def decode_file(encoded: bytes, flag: int) -> np.ndarray | None:
    """What OpenCV makes of an image file's bytes. A JPEG that is cut ends in grey, as with Caffe's OpenCV; today's refuses it."""
    import cv2

    image: np.ndarray | None = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag) if encoded else None
    if image is None and encoded.startswith(b"\xff\xd8"):
        image = cv2.imdecode(np.frombuffer(encoded + b"\xff\xd9", np.uint8), flag)
    return image
