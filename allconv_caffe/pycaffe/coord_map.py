"""Where a place in one top lies in another: scale and shift along the spatial axes, composed over the layers between.

A map is (axis, scale, shift): coordinate i of the output is coordinate ``(i - shift) / scale`` of the input in Caffe's
forward sense; `None` as axis means that it holds for any. Used by `crop` to align feature maps.

Source: python/caffe/coord_map.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allconv_caffe.pycaffe.net_spec import Function, Top, layers as L

PASS_THROUGH_LAYERS = [
    "AbsVal",
    "BatchNorm",
    "Bias",
    "BNLL",
    "Dropout",
    "Eltwise",
    "ELU",
    "Log",
    "LRN",
    "Exp",
    "MVN",
    "Power",
    "ReLU",
    "PReLU",
    "Scale",
    "Sigmoid",
    "Split",
    "TanH",
    "Threshold",
]
LEGACY = {"pad_h", "pad_w", "kernel_h", "kernel_w", "stride_h", "stride_w"}

Map = tuple[Any, Any, Any]  # axis (int or None), scale, shift (numbers, or arrays with one for each spatial axis)


class UndefinedMapException(Exception):
    """A layer that does not map coordinates, such as InnerProduct."""


class AxisMismatchException(Exception):
    """Two maps of different axes cannot be composed."""


def conv_params(fn: Function) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """(axis, stride, extent of the dilated kernel, pad) of a Convolution, Deconvolution, Pooling or Im2col layer."""
    params = fn.params.get("convolution_param", fn.params)
    assert not LEGACY & set(fn.params), "cropping does not support legacy _h/_w params"
    kernel, stride, pad, dilation = (
        np.array(params[name] if name == "kernel_size" else params.get(name, default), ndmin=1)
        for name, default in (("kernel_size", None), ("stride", 1), ("pad", 0), ("dilation", 1))
    )
    return params.get("axis", 1), stride, (kernel - 1) * dilation + 1, pad


def crop_params(fn: Function) -> tuple[int, np.ndarray]:
    """(axis, offset) of a Crop layer."""
    params = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), np.array(params.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> Map:
    """The map of one layer. Raises: UndefinedMapException."""
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, extent, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (extent - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, extent, pad = conv_params(fn)
        return axis, stride, (extent - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return None, 1, 0
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset  # counted from the last axis that is no coordinate
    raise UndefinedMapException(f"{fn.type_name} has no coordinate mapping")


def compose(base_map: Map, next_map: Map) -> Map:
    """First `next_map`, then `base_map`. Raises: AxisMismatchException."""
    ax1, a1, b1 = base_map
    ax2, a2, b2 = next_map
    if ax1 is not None and ax2 is not None and ax1 != ax2:
        raise AxisMismatchException(f"axis {ax1} against axis {ax2}")
    return (ax2 if ax1 is None else ax1), a1 * a2, a1 * b2 + b1


def inverse(coord_map: Map) -> Map:
    ax, a, b = coord_map
    return ax, 1 / a, -b / a


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """The map between two tops, over a blob that both are computed from.

    Raises: RuntimeError where they have none that layers with coordinates lead to.
    """
    from_maps, _ = _walk(top_from, {})
    _, meeting = _walk(top_to, from_maps)
    if meeting is None:
        raise RuntimeError("Could not compute map between tops; are they connected by spatial layers?")
    top, to_map = meeting
    return compose(to_map, inverse(from_maps[top]))


def _walk(start: Top, goals: dict[Top, Map]) -> tuple[dict[Top, Map], tuple[Top, Map] | None]:
    """The maps from `start` down to every blob below it; stops at the first that is among `goals`, and returns it, too."""
    maps: dict[Top, Map] = {start: (None, 1, 0)}
    frontier = [start]
    while frontier:
        top = frontier.pop()
        if top in goals:
            return maps, (top, maps[top])
        bottoms = top.fn.inputs[:1] if top.fn.type_name == "Crop" else top.fn.inputs  # Crop's second gives a size only
        try:
            for bottom in bottoms:
                maps[bottom] = compose(maps[top], coord_map(top.fn))
                frontier.append(bottom)
        except UndefinedMapException:
            continue
    return maps, None


def crop(top_from: Top, top_to: Top) -> Any:
    """A Crop layer that cuts `top_from` to the size of `top_to`, at the offset that their coordinate map gives.

    Raises: AssertionError for another scale, or for an offset that is negative or no integer.
    """
    ax, a, b = coord_map_from_to(top_from, top_to)
    a, b = np.asarray(a), np.atleast_1d(b)
    assert (a == 1).all(), f"scale mismatch on crop (a = {a})"
    assert (b <= 0).all(), f"cannot crop negative offset (b = {b})"
    assert (np.round(b) == b).all(), f"cannot crop noninteger offset (b = {b})"
    offset = [int(shift) for shift in -np.round(b)]
    return L.Crop(top_from, top_to, crop_param={"axis": ax + 1, "offset": offset})
