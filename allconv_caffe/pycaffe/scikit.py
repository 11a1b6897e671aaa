"""What scripts use of scikit-image and SciPy by way of ``caffe.io``: `resize`, `zoom`, and `skimage` where it is not installed.

They give what scikit-image 0.18 and SciPy 1.6 give, to 1e-6 of the image's range.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
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
    anti_aliasing: bool | None = None,
    anti_aliasing_sigma: None = None,
) -> np.ndarray:
    """skimage.transform.resize: pixels are areas, smoothed by a Gaussian before they are made fewer.

    Args:
        image: (H, W) or (H, W, K); integers become [0, 1] (or [-1, 1]) unless `preserve_range`.
        output_shape: (height, width), or with K behind.
        order: 0 nearest, 1 linear (the default), 3 cubic.
        mode: what lies outside the image: "reflect" (mirrored, the default) or "constant" (0).
        anti_aliasing: whether to smooth.
    Returns: float64; float32 where the image is.
    Raises: ValueError: another order, mode, `cval`, width of the Gaussian or number of channels.
    """
    order = 1 if order is None else order
    if order not in (0, 1, 3):
        raise ValueError(f"resize: found order {order}, expected 0, 1 or 3")
    if mode not in ("reflect", "constant") or cval != 0:
        raise ValueError(f"resize: found mode {mode!r} and cval {cval}, expected 'reflect', or 'constant' with cval 0")
    if anti_aliasing_sigma is not None:
        raise ValueError(f"resize: found anti_aliasing_sigma {anti_aliasing_sigma}, expected None")
    height, width, *channels = (int(dim) for dim in output_shape)
    if channels and channels != list(image.shape[2:]):
        raise ValueError(f"resize: found {channels[0]} channels for an image of shape {image.shape}, expected its own")
    planes, reflect = image if image.ndim == 3 else image[:, :, np.newaxis], mode == "reflect"
    floats, smooth = bool(np.issubdtype(image.dtype, np.floating)), anti_aliasing is None or bool(anti_aliasing)
    if smooth and np.issubdtype(image.dtype, np.integer):
        planes = resampling.smoothed_integers(planes, (height, width), reflect)
    values = planes.astype(np.float64) if preserve_range and not floats else img_as_float(planes)
    out = resampling.skimage_resize(values, (height, width), order, reflect, clip, smooth and floats)
    return out.reshape((height, width, *image.shape[2:])).astype(values.dtype)


def zoom(
    input: np.ndarray,
    zoom: float | Sequence[float],
    output: None = None,
    order: int = 3,
    mode: str = "constant",
    cval: float = 0.0,
    prefilter: bool = True,
    *,
    grid_mode: bool = False,
) -> np.ndarray:
    """scipy.ndimage.zoom: splines of `order` through the values; the corners' centres stay where they are.

    Args:
        input: of any number of axes, real.
        zoom: a factor for all axes, or one for each.
        order: 0 nearest, 1 linear, up to 5.
        mode: nothing outside is asked for, so that it only matters to splines of order 2 and more: "constant" or "mirror".
    Returns: of the input's type; what lies between two integers, in the middle, may be rounded the other way than there.
    Raises: ValueError: other settings; RuntimeError: another number of factors than of axes.
    """
    array = np.asarray(input)
    if order not in range(6):
        raise RuntimeError("spline order not supported")
    modes = ("constant", "mirror") if order > 1 else ("constant", "mirror", "nearest", "reflect", "wrap")
    if mode not in modes or output is not None or grid_mode or not prefilter or np.iscomplexobj(array):
        raise ValueError(
            f"zoom: found mode {mode!r}, output {output!r}, prefilter {prefilter}, grid_mode {grid_mode} for {array.dtype} and "
            f"order {order}, expected real values, mode {' or '.join(map(repr, modes))}, and the others left out"
        )
    factors = [float(each) for each in (zoom if isinstance(zoom, Iterable) else [zoom] * array.ndim)]
    if len(factors) != array.ndim or not array.ndim:
        raise RuntimeError("sequence argument must have length equal to input rank")
    values = array.astype(np.float64)
    for axis, factor in enumerate(factors):
        n, m = array.shape[axis], round(array.shape[axis] * factor)
        places = np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 1.0)
        matrix = resampling.spline_matrix(n, places, order)
        values = np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    if np.issubdtype(array.dtype, np.integer):
        info = np.iinfo(array.dtype)
        values = np.clip(np.trunc(values + np.copysign(0.5, values)), info.min, info.max)
    return values.astype(array.dtype)


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
