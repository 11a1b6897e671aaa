"""Pooling: the maxima and means under windows, forward and backward.

PyTorch's own operations say them for any device and type; torch.compile turns these into scattered reads and writes. So a
compiled net that runs float32 on the CPU calls the C++ of kernels/pooling.cpp, as torch ops, over channels_last. The numbers
are the same bit for bit: both add up in row order.

Source: pooling_layer.cpp.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from allconv_caffe.caffe_torch.compute import amx
from allconv_caffe.caffe_torch.compute.compiler import BuildError, load
from allconv_caffe.caffe_torch.compute.operators import define
from allconv_caffe.caffe_torch.compute.window import Window
from allconv_caffe.caffe_torch.tracing import is_tracing

FLT_MAX = float(torch.finfo(torch.float32).max)


def lowest(dtype: torch.dtype) -> float:
    """-FLT_MAX, or what is left of it in a type that ends earlier: bfloat16's -3.39e38."""
    return max(-FLT_MAX, float(torch.finfo(dtype).min))


def maxima(x: torch.Tensor, window: Window, out: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every window the maximum and its flat place h * w in the image, the first in row order; nan is ignored.

    Where nothing is greater than -FLT_MAX, that and -1.

    Args:
        x: (N, C, H, W).
        out: places of the window along H and W.
    Returns: (N, C, *out) each.
    """
    if _kernels_for(x):
        return torch.ops.allconv_caffe.pool_max(x, *_geometry(window, out))
    if _as_float32(x):
        values, index = maxima(x.to(torch.float32), window, out)
        return values.clamp(min=lowest(x.dtype)).to(x.dtype), index
    if not is_tracing() and x.device.type == "cpu" and (found := _plain_maxima(x, window, out)):
        return found
    h, w = x.shape[2:]
    left, right, above, below = window.margins((h, w), out)
    clean = torch.where(torch.isnan(x), torch.full_like(x, -float("inf")), x)
    padded = F.pad(clean, (left, right, above, below), value=-float("inf"))
    values, index = F.max_pool2d(padded, window.kernel, window.stride, return_indices=True)
    wide = w + left + right
    row, column = index // wide - above, index % wide - left
    flat = row * w + column
    nothing = values <= lowest(values.dtype)
    return (
        torch.where(nothing, torch.full_like(values, lowest(values.dtype)), values),
        torch.where(nothing, torch.full_like(flat, -1), flat),
    )


def _plain_maxima(x: torch.Tensor, window: Window, out: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """`maxima` in one pass, where PyTorch's windows are Caffe's and every value is greater than -FLT_MAX; else None."""
    axes = list(zip(x.shape[2:], window.kernel, window.stride, window.pad, out, strict=True))
    if any(2 * p > k or h + 2 * p < k for h, k, _, p, _ in axes):
        return None
    up = any((places - 1) * s + k > h + 2 * p for h, k, s, p, places in axes)
    values, index = torch.ops.aten.max_pool2d_with_indices(x, window.kernel, window.stride, window.pad, (1, 1), up)
    alike = tuple(values.shape[2:]) == tuple(out) and bool((values > lowest(values.dtype)).all())  # nan is not greater
    return (values, index) if alike else None


def maxima_backward(dy: torch.Tensor, index: torch.Tensor, window: Window, size: Sequence[int]) -> torch.Tensor:
    """dx (N, C, *size) of `maxima`, whose second result is `index`."""
    if _kernels_for(dy):
        return torch.ops.allconv_caffe.pool_max_backward(dy, index, *_geometry(window, dy.shape[2:]), list(size))
    if _as_float32(dy):
        return maxima_backward(dy.to(torch.float32), index, window, size).to(dy.dtype)
    n, c = dy.shape[:2]
    flat = torch.zeros(n, c, size[0] * size[1], dtype=dy.dtype, device=dy.device)
    given = torch.where(index >= 0, dy, torch.zeros_like(dy)).reshape(n, c, -1)
    return flat.scatter_add(2, index.clamp(min=0).reshape(n, c, -1).long(), given).reshape(n, c, *size)


def means(x: torch.Tensor, window: Window, out: Sequence[int]) -> torch.Tensor:
    """The mean under each window, clipped to image plus padding: (N, C, H, W) to (N, C, *out)."""
    if window.covers(x.shape[2:]):
        return x.mean((2, 3), keepdim=True)
    if _kernels_for(x):
        return torch.ops.allconv_caffe.pool_average(x, *_geometry(window, out))
    margins = window.margins(x.shape[2:], out)
    padded = F.pad(x, margins) if any(margins) else x
    totals = F.avg_pool2d(padded, window.kernel, window.stride, divisor_override=1)
    return totals / _divisors(x, window, x.shape[2:], out)


def means_backward(dy: torch.Tensor, window: Window, size: Sequence[int]) -> torch.Tensor:
    """dx (N, C, *size) of `means`."""
    n, c, *out = dy.shape
    h, w = size
    if window.covers(size):
        return (dy / (h * w)).expand(n, c, h, w)
    if _kernels_for(dy):
        return torch.ops.allconv_caffe.pool_average_backward(dy, *_geometry(window, out), list(size))
    left, right, above, below = window.margins(size, out)
    like = torch.empty(n, c, h + above + below, w + left + right, dtype=dy.dtype, device=dy.device)
    each = dy / _divisors(dy, window, size, out)
    dx = torch.ops.aten.avg_pool2d_backward(each, like, window.kernel, window.stride, [0, 0], False, True, 1)
    return F.pad(dx, (-left, -right, -above, -below))


def _divisors(x: torch.Tensor, window: Window, size: Sequence[int], out: Sequence[int]) -> torch.Tensor:
    """(1, 1, *out), of x's type and device: the values under each window, clipped to image plus padding."""
    make = _make_divisors if is_tracing() else _kept_divisors
    return make(window, tuple(size), tuple(out), x.dtype, x.device)


def _make_divisors(
    window: Window, size: tuple[int, ...], out: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    lengths = []
    for k, p, s, places, h in zip(window.kernel, window.pad, window.stride, out, size, strict=True):
        start = torch.arange(places, device=device) * s - p
        lengths.append(torch.minimum(start + k, torch.full_like(start, h + p)) - start)
    return (lengths[0][:, None] * lengths[1][None, :])[None, None].to(dtype)


_kept_divisors = functools.lru_cache(maxsize=256)(_make_divisors)


# the kernels
@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    try:
        library = load("pooling", [])
    except (BuildError, OSError) as error:
        return None, str(error)
    for name, arrays in (("max", 3), ("max_backward", 3), ("average", 2), ("average_backward", 2)):
        function = getattr(library, f"pool_{name}")
        function.argtypes, function.restype = [*[ctypes.c_void_p] * (1 + arrays), ctypes.c_int], None
    return library, None


def why_not() -> str | None:
    """What keeps this machine from the kernels, in words; None where nothing does. Compiles them on the first call."""
    return _load()[1]


def _kernels_for(x: torch.Tensor, dtype: torch.dtype = torch.float32) -> bool:
    traced = is_tracing() and x.device.type == "cpu" and x.dtype == dtype
    return traced and x.shape[2:].numel() < 2**31 and why_not() is None


def _as_float32(x: torch.Tensor) -> bool:
    """bfloat16 on a processor with AMX, whose convolutions are so fast that PyTorch's pooling would weigh more than they."""
    return _kernels_for(x, torch.bfloat16) and amx.why_not() is None


def _geometry(window: Window, out: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    return list(out), list(window.kernel), list(window.stride), list(window.pad)


def _call(name: str, sizes: Sequence[int], *arrays: torch.Tensor) -> None:
    library, reason = _load()
    if library is None:
        raise BuildError(f"the pooling kernels are not available: {reason}")
    numbers = (ctypes.c_int64 * len(sizes))(*sizes)
    getattr(library, f"pool_{name}")(numbers, *(a.data_ptr() for a in arrays), torch.get_num_threads())


Pair = Sequence[int]  # along H and W
GEOMETRY = "int[] out, int[] kernel, int[] stride, int[] pad"


def _empty(like: torch.Tensor, size: Pair, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    shape = (*like.shape[:2], *size)
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _pool_max_fake(x: torch.Tensor, out: Pair, *_: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    return _empty(x, out), _empty(x, out, torch.int32)


def _pool_max(x: torch.Tensor, out: Pair, kernel: Pair, stride: Pair, pad: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    y, index = _pool_max_fake(x, out)
    _call("max", [*x.shape, *out, *kernel, *stride, *pad], _last(x), y, index)
    return y, index


def _pool_max_backward(
    dy: torch.Tensor, index: torch.Tensor, out: Pair, kernel: Pair, stride: Pair, pad: Pair, size: Pair
) -> torch.Tensor:
    dx = _empty(dy, size)
    _call("max_backward", [*dx.shape, *out, *kernel, *stride, *pad], _last(dy), _last(index.int()), dx)
    return dx


def _pool_average(x: torch.Tensor, out: Pair, kernel: Pair, stride: Pair, pad: Pair) -> torch.Tensor:
    y = _empty(x, out)
    _call("average", [*x.shape, *out, *kernel, *stride, *pad], _last(x), y)
    return y


def _pool_average_backward(
    dy: torch.Tensor, out: Pair, kernel: Pair, stride: Pair, pad: Pair, size: Pair
) -> torch.Tensor:
    dx = _empty(dy, size)
    _call("average_backward", [*dx.shape, *out, *kernel, *stride, *pad], _last(dy), dx)
    return dx


define(f"Tensor x, {GEOMETRY}", "(Tensor, Tensor)", _pool_max, _pool_max_fake)
define(f"Tensor x, {GEOMETRY}", "Tensor", _pool_average, lambda x, out, *_: _empty(x, out))
for _arrays, _run in (("Tensor dy, Tensor index", _pool_max_backward), ("Tensor dy", _pool_average_backward)):
    define(f"{_arrays}, {GEOMETRY}, int[] size", "Tensor", _run, lambda dy, *sizes: _empty(dy, sizes[-1]))
