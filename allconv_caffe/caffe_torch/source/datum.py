"""`proto.datum` and `proto.image_file` with Caffe's errors.

Source: data_transformer.cpp, io.cpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.proto import ProtoError, datum, image_file


def parse_datum(value: Any) -> datum.Record:
    """`datum.parse`. Raises CaffeError."""
    try:
        return datum.parse(value)
    except ProtoError as error:
        raise CaffeError(error.reason) from None


def decode_image(encoded: bytes, force_color: bool = False, force_gray: bool = False) -> np.ndarray:
    """C x H x W uint8 of an image file's bytes; B, G, R as OpenCV has them, whose array it is a view of. Raises CaffeError."""
    check(not (force_color and force_gray), "cannot set both force_color and force_gray")
    try:
        image = image_file.decode(encoded, True if force_color else False if force_gray else None, mend=True)
    except image_file.ImageError as error:
        raise CaffeError("Could not decode datum " + (f"({error.detail})" if error.detail else "")) from None
    check(image.dtype == np.uint8, "Image data type must be unsigned byte")
    return channels_first(image)


def channels_first(image: np.ndarray) -> np.ndarray:
    """(H, W, channels) or (H, W) as OpenCV has them seen as (C, H, W)."""
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
