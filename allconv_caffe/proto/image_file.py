"""The bytes of an image file (JPEG, PNG, ...) as an array: what a Datum with `encoded` holds, and folders of images do.

Not imported by the package itself: only this module needs OpenCV.
Source: io.cpp, DecodeDatumToCVMatNative and CVMatToDatum.
"""

from __future__ import annotations

from typing import Optional

import cv2
import numpy as np

from .errors import ProtoError


class ImageError(ProtoError):
    """Bytes that are no image. detail: why OpenCV refuses them, "" where it does not say."""

    def __init__(self, found: str, detail: str = "") -> None:
        self.detail = detail
        super().__init__("", f"found {found}, expected a JPEG or PNG file", found=found)


def decode(data: bytes, color: Optional[bool] = None, *, mend: bool = False) -> np.ndarray:
    """The image as OpenCV gives it: (H, W, channels) in the order B, G, R, or (H, W) where it is grey.

    Args:
        color: three channels (True), one (False), or what the file has (None; also other types than uint8).
        mend: a JPEG that is cut ends in grey, as with Caffe's OpenCV; today's refuses it.
    Raises: ImageError.
    """
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
