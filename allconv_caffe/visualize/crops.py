"""Cut a unit's box out of the image and of its reconstruction: same canvas, same place, never shifted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allconv_caffe.visualize.receptive_field import Box


def crop(array: np.ndarray, box: Box, fill: float | Sequence[float] = 0.0) -> np.ndarray:
    """The box of `array` on a canvas of the box's own size.

    Args:
        array: (..., H, W): an image or a map.
        box: may reach beyond the image.
        fill: what stands there: 0 for a reconstruction, grey for a picture; a number, or one per channel.

    Returns: (..., box height, box width), of `array`'s type.
    """
    h, w = array.shape[-2:]
    canvas = np.empty((*array.shape[:-2], box.height, box.width), array.dtype)
    canvas[...] = np.asarray(fill, array.dtype)[..., None, None]
    top, left, bottom, right = max(box.top, 0), max(box.left, 0), min(box.bottom, h), min(box.right, w)
    if bottom > top and right > left:
        canvas[..., top - box.top : bottom - box.top, left - box.left : right - box.left] = array[
            ..., top:bottom, left:right
        ]
    return canvas


def crop_picture(picture: np.ndarray, box: Box) -> np.ndarray:
    """`crop` for pictures as they are drawn: (H, W, 3) in, (box height, box width, 3) out, grey beyond the image."""
    return crop(np.moveaxis(picture, -1, 0), box, 128).transpose(1, 2, 0)


def inside(box: Box, height: int, width: int) -> np.ndarray:
    """(box height, box width) bool: which pixels of the canvas lie in the image."""
    return crop(np.ones((height, width), bool), box, False)
