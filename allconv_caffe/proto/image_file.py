"""The bytes of an image file (JPEG, PNG, ...) as an array: what a Datum with `encoded` holds, and folders of images do.

Not imported by the package itself: only this module needs OpenCV, and only where there is an image.
Source: io.cpp, DecodeDatumToCVMatNative and CVMatToDatum.
"""

from __future__ import annotations

import re
import struct
from typing import Callable, Optional, Tuple

import numpy as np

from .errors import ProtoError

Head = Callable[[bytes], Optional[Tuple[int, int]]]
MOST_PIXELS = 1 << 26  # that any file may have: 200 MB
MOST_RATIO = 100  # larger ones for each byte: a photograph has 3 to 20


class ImageError(ProtoError):
    """Bytes that are no image. detail: why OpenCV refuses them, "" where it does not say."""

    def __init__(self, found: str, detail: str = "") -> None:
        self.detail = detail
        super().__init__("", f"found {found}, expected a JPEG or PNG file", found=found)


def size(data: bytes) -> Optional[Tuple[int, int]]:
    """(height, width) as the file's head says, before anything is decoded; None for what no head of a known kind begins."""
    try:
        for magic, find in _HEADS:
            if data.startswith(magic):
                return find(data)
        if data[4:12] in (b"ftypavif", b"ftypavis"):
            return _after(data, b"ispe", ">II", 4, by_width=True)
    except (struct.error, ValueError, IndexError, AttributeError):
        pass  # cut, or no image: the decoder says so
    return None


def _after(data: bytes, word: bytes, form: str, skipped: int = 0, by_width: bool = False) -> Tuple[int, int]:
    """Two numbers behind `word`."""
    one, two = struct.unpack_from(form, data, data.index(word) + len(word) + skipped)
    return (two, one) if by_width else (one, two)


def _at(place: int, form: str) -> Head:
    """Width and height at a place."""

    def find(data: bytes) -> Tuple[int, int]:
        width, height = struct.unpack_from(form, data, place)
        return abs(height), abs(width)  # a BMP from top to bottom has a negative height

    return find


def _jpeg(data: bytes) -> Optional[Tuple[int, int]]:
    """Of the first frame header."""
    place = 2
    while True:
        place = data.index(b"\xff", place) + 1
        marker = data[place]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 4)
            return height, width
        if 0x01 < marker < 0xFF and not 0xD0 <= marker <= 0xD8:
            place += 1 + struct.unpack_from(">H", data, place + 1)[0]


def _webp(data: bytes) -> Optional[Tuple[int, int]]:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    return None


def _words(pattern: bytes) -> Head:
    """Width and height in decimal digits, in a head that is text."""

    def find(data: bytes) -> Tuple[int, int]:
        found = re.search(pattern, data[:4096]).groupdict()  # type: ignore[union-attr]
        return int(found["h"]), int(found["w"])

    return find


def _tiff(data: bytes) -> Tuple[int, int]:
    """Of the first directory: tags 256 and 257, of two bytes or four."""
    order = "<" if data.startswith(b"II") else ">"
    place = struct.unpack_from(order + "I", data, 4)[0]
    found = {}
    for i in range(struct.unpack_from(order + "H", data, place)[0]):
        tag, kind, _ = struct.unpack_from(order + "HHI", data, place + 2 + 12 * i)
        found[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, place + 10 + 12 * i)[0]
    return found.get(257, 0), found.get(256, 0)


_COMMENT = rb"(?:\s|#[^\n]*\n)+"
_PNM = rb"P[1-6Ff]" + _COMMENT + rb"(?P<w>\d+)" + _COMMENT + rb"(?P<h>\d+)"
_HEADS: Tuple[Tuple[bytes, Head], ...] = (
    (b"\xff\xd8", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _at(16, ">II")),
    (b"GIF8", _at(6, "<HH")),
    (b"BM", _at(18, "<ii")),
    (b"RIFF", _webp),
    (b"P7", _words(rb"WIDTH\s+(?P<w>\d+)\s+HEIGHT\s+(?P<h>\d+)")),
    (b"P", _words(_PNM)),
    (b"II", _tiff),
    (b"MM", _tiff),
    (b"Y\xa6j\x95", _at(4, ">II")),  # Sun raster
    (b"#?", _words(rb"[-+]Y (?P<h>\d+) [-+]X (?P<w>\d+)")),  # Radiance
    (b"\0\0\0\x0cjP  ", lambda data: _after(data, b"ihdr", ">II")),  # JPEG 2000, in boxes
    (b"\xff\x4f\xff\x51", lambda data: _after(data, b"\xff\x51", ">II", 4, by_width=True)),  # and bare
)


def decode(data: bytes, color: Optional[bool] = None, *, mend: bool = False) -> np.ndarray:
    """The image as OpenCV gives it: (H, W, channels) in the order B, G, R, or (H, W) where it is grey.

    Args:
        color: three channels (True), one (False), or what the file has (None; also other types than uint8).
        mend: a JPEG that is cut ends in grey, as with Caffe's OpenCV; today's refuses it.
    Raises: ImageError; also where a few bytes would make an image of more than MOST_PIXELS.
    """
    height, width = size(data) or (0, 0)
    if height * width > max(MOST_PIXELS, MOST_RATIO * len(data)):
        said = f"an image of {width}x{height} pixels in {len(data)} bytes"
        raise ImageError(said, said)
    import cv2

    flag = {True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE, None: cv2.IMREAD_UNCHANGED}[color]
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
        if image is None and mend and data.startswith(b"\xff\xd8"):
            image = cv2.imdecode(np.frombuffer(data + b"\xff\xd9", np.uint8), flag)
    except cv2.error as error:  # larger than OpenCV allows
        raise ImageError(f"an image OpenCV refuses ({error.err})", error.err) from None
    if image is None:
        raise ImageError(f"{len(data)} bytes that are no image")
    return image


def planes(image: np.ndarray, order: str = "BGR") -> np.ndarray:
    """(H, W, channels) or (H, W) as OpenCV has them as (C, H, W), planes in `order`: "BGR" or "RGB"."""
    if image.ndim == 2:
        return image[None]
    return np.ascontiguousarray((image[:, :, ::-1] if order == "RGB" else image).transpose(2, 0, 1))
