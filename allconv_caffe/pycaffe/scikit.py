"""What scripts use of scikit-image by way of ``caffe.io``: `resize`, and `skimage` where it is not installed.

They give what scikit-image 0.18 gives, to 1e-6 of the image's range.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np

from allconv_caffe.files import open_file
from allconv_caffe.proto import image_file
from allconv_caffe.pycaffe import resampling


def resize(
    image: np.ndarray,
    output_shape: Any,
    order: int | None = None,
    mode: str = "reflect",
    cval: float = 0,
    clip: bool = True,
    preserve_range: bool = False,
) -> np.ndarray:
    """skimage.transform.resize: pixels are areas, smoothed by a Gaussian before they are made fewer.

    Args:
        image: (H, W) or (H, W, K); integers become [0, 1] (or [-1, 1]) unless `preserve_range`.
        output_shape: (height, width), or with K behind.
        order: 0 nearest, 1 linear (the default), 3 cubic.
        mode: what lies outside the image: "reflect" (mirrored, the default) or "constant" (0).
    Returns: float64; float32 where the image is.
    Raises: ValueError: another order, mode, `cval` or number of channels.
    """
    order = 1 if order is None else order
    if order not in (0, 1, 3):
        raise ValueError(f"resize: found order {order}, expected 0, 1 or 3")
    if mode not in ("reflect", "constant") or cval != 0:
        raise ValueError(f"resize: found mode {mode!r} and cval {cval}, expected 'reflect', or 'constant' with cval 0")
    height, width, *channels = (int(dim) for dim in output_shape)
    if channels and channels != list(image.shape[2:]):
        raise ValueError(f"resize: found {channels[0]} channels for an image of shape {image.shape}, expected its own")
    planes, reflect = image if image.ndim == 3 else image[:, :, np.newaxis], mode == "reflect"
    floats = bool(np.issubdtype(image.dtype, np.floating))
    if np.issubdtype(image.dtype, np.integer):
        planes = resampling.smoothed_integers(planes, (height, width), reflect)
    values = planes.astype(np.float64) if preserve_range and not floats else img_as_float(planes)
    out = resampling.skimage_resize(values, (height, width), order, reflect, clip, smooth=floats)
    return out.reshape((height, width, *image.shape[2:])).astype(values.dtype)


def img_as_float(image: np.ndarray) -> np.ndarray:
    """Integers as float64: unsigned ones in [0, 1], signed ones in [-1, 1]; floats as they are, bools as 0 and 1."""
    if np.issubdtype(image.dtype, np.floating):
        return image if image.dtype != np.float16 else image.astype(np.float32)
    if image.dtype == np.bool_:
        return image.astype(np.float64)
    info = np.iinfo(image.dtype)
    if info.min == 0:
        return image / float(info.max)
    return (image.astype(np.float64) * 2 + 1) / (float(info.max) - float(info.min))


def imread(fname: str, as_gray: bool = False) -> np.ndarray:
    """skimage.io.imread: (H, W, K) RGB or (H, W), of the file's type; `as_gray`: float64 luminance in [0, 1].

    Raises: OSError; ImageError.
    """
    with open_file(fname) as file:
        image = image_file.decode(file.read())
    if image.ndim == 3:
        image = np.ascontiguousarray(image[:, :, [2, 1, 0, *range(3, image.shape[2])]])
    if as_gray and image.ndim == 3:
        return img_as_float(image)[:, :, :3] @ np.array([0.2125, 0.7154, 0.0721])
    return image


def skimage() -> Any:
    """scikit-image where it is installed, with its `io` and `transform`; else what is above, under its names."""
    try:
        found = importlib.import_module("skimage")
        for part in ("io", "transform"):
            importlib.import_module(f"skimage.{part}")
        return found
    except ImportError:
        return SimpleNamespace(
            img_as_float=img_as_float, io=SimpleNamespace(imread=imread), transform=SimpleNamespace(resize=resize)
        )
