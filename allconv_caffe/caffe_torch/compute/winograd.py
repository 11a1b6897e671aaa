"""Winograd's convolution on the CPU: the C++ of kernels/winograd.cpp as torch ops, and the transforms of its filters.

oneDNN's direct convolution leaves most of a CPU's time to arithmetic that Winograd's identity avoids: through windows of 3x3
2.25 times fewer multiplications on tiles of 2x2 outputs, 4 times fewer on 4x4; through 5x5 2.8 times fewer on 2x2. Images in
bfloat16 are read and written as such; all arithmetic is float32's. Without a C++ compiler there are no kernels; `why_not()` says
so and the caller convolves directly.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016); the interpolation points are ours.
"""

from __future__ import annotations

import ctypes
import functools
import math

import torch

from allconv_caffe.caffe_torch.compute.compiler import BuildError, load
from allconv_caffe.caffe_torch.compute.window import Window

PANEL = 16  # output channels that the innermost loop holds in registers
TILES: dict[tuple[int, ...], tuple[int, ...]] = {
    (3, 3): (4, 2),
    (5, 5): (2,),
}  # outputs a side, by kernel; the usual one first

#: The finite interpolation points 0, +-p (and +-q). 5/8 and 3/2 have short binary fractions, so the transforms'
#: constants are exact, and of the pairs tried they round least: a quarter of the largest error of 1/2 and 1.
POINTS: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (0.625, 1.5)}


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    p4, q4 = POINTS[4]
    flags = ["-ffp-contract=fast", "-fno-math-errno", f"-DP4={p4}f", f"-DQ4={q4}f", "-DBLOCK=24", "-DCHUNK=192"]
    try:
        library = load("winograd", flags)
    except (BuildError, OSError) as error:
        return None, str(error)
    i, p = ctypes.c_int64, ctypes.c_void_p
    library.winograd_forward.argtypes = [i, i, i, p, p, p, p, i, i, i, i, i, i, i]
    library.winograd_weight.argtypes = [i, i, i, p, p, p, i, i, i, i, i, i, i]
    for function in (library.winograd_forward, library.winograd_weight):
        function.restype = None
    return library, None


def why_not() -> str | None:
    """What keeps this machine from the kernels, in words; None where nothing does. Compiles them on the first call."""
    return _load()[1]


def tiles(outputs: int, channels: int, window: Window) -> tuple[int, ...]:
    """The outputs per tile side that there are for it: stride 1, equal padding, and a group's outputs and channels in whole panels."""
    whole = outputs % PANEL == 0 and channels % PANEL == 0
    plain = window.stride == window.dilation == (1, 1) and window.pad[0] == window.pad[1] < window.kernel[0]
    return TILES.get(window.kernel, ()) if whole and plain else ()


def _library() -> ctypes.CDLL:
    library, reason = _load()
    if library is None:
        raise BuildError(f"the convolution kernels are not available: {reason}")
    return library


def _nhwc(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


@torch.library.custom_op("allconv_caffe::winograd", mutates_args=(), device_types="cpu")
def winograd(x: torch.Tensor, u: torch.Tensor, bias: torch.Tensor | None, m: int, pad: int) -> torch.Tensor:
    """A^T [sum over channels of u * (B^T d B)] A + bias, for every tile d of x: a convolution through r x r, stride 1.

    Args:
        x: (N, C, H, W) float32 or bfloat16, C a multiple of 16; without a copy if channels_last.
        u: ((m + r - 1)^2, O / 16, C, 16) float32: the transformed filters.
        bias: (O) float32 or None.
        m: outputs per tile side, see `tiles`.
        pad: zeros around the image.
    Returns: (N, O, H + 2 pad - r + 1, W + 2 pad - r + 1) of x's type, channels_last.
    """
    n, c, h, w = x.shape
    r = _kernel(u, m)
    image, u = _nhwc(x), u.contiguous()
    bias = None if bias is None else bias.contiguous()
    y = torch.empty(n, h + 2 * pad - r + 1, w + 2 * pad - r + 1, u.shape[1] * PANEL, dtype=x.dtype)
    _library().winograd_forward(
        m,
        r,
        x.dtype == torch.bfloat16,
        image.data_ptr(),
        u.data_ptr(),
        None if bias is None else bias.data_ptr(),
        y.data_ptr(),
        n,
        h,
        w,
        c,
        y.shape[3],
        pad,
        torch.get_num_threads(),
    )
    return y.permute(0, 3, 1, 2)


@winograd.register_fake
def _(x: torch.Tensor, u: torch.Tensor, bias: torch.Tensor | None, m: int, pad: int) -> torch.Tensor:
    (n, _, h, w), r = x.shape, _kernel(u, m)
    return x.new_empty(n, h + 2 * pad - r + 1, w + 2 * pad - r + 1, u.shape[1] * PANEL).permute(0, 3, 1, 2)


def _kernel(u: torch.Tensor, m: int) -> int:
    """r of filters that have been transformed for tiles of m outputs."""
    return math.isqrt(len(u)) - m + 1


@torch.library.custom_op("allconv_caffe::winograd_weight", mutates_args=(), device_types="cpu")
def winograd_weight(x: torch.Tensor, dy: torch.Tensor, m: int, pad: int) -> torch.Tensor:
    """sum over tiles of (B^T d B) (A dy A^T): the gradient of the transformed filters.

    Args:
        x: (N, C, H, W) float32 or bfloat16, C a multiple of 16.
        dy: (N, O, H + 2 pad - r + 1, W + 2 pad - r + 1), of the same type, O a multiple of 16.
        m, pad: as for `winograd`.
    Returns: ((m + r - 1)^2, C, O) float32.
    """
    (n, c, h, w), o, r = x.shape, dy.shape[1], x.shape[2] + 2 * pad - dy.shape[2] + 1
    image, diff = _nhwc(x), _nhwc(dy)
    du = torch.empty((m + r - 1) ** 2, c, o)
    sizes = n, h, w, c, o, pad, torch.get_num_threads()
    half = x.dtype == torch.bfloat16
    _library().winograd_weight(m, r, half, image.data_ptr(), diff.data_ptr(), du.data_ptr(), *sizes)
    return du


@winograd_weight.register_fake
def _(x: torch.Tensor, dy: torch.Tensor, m: int, pad: int) -> torch.Tensor:
    r = x.shape[2] + 2 * pad - dy.shape[2] + 1
    return x.new_empty((m + r - 1) ** 2, x.shape[1], dy.shape[1], dtype=torch.float32)


def transformed(w: torch.Tensor, m: int) -> torch.Tensor:
    """G w G^T in the kernels' layout: (O, C, r, r) to ((m + r - 1)^2, O / 16, C, 16)."""
    o, c, r = w.shape[:3]
    g = filter_transform(m, w, r)
    u = torch.einsum("ir,js,ocrs->ijoc", g, g, w)
    return u.reshape(len(g) ** 2, o // PANEL, PANEL, c).transpose(2, 3).contiguous()


def filter_transform(m: int, like: torch.Tensor, kernel: int = 3) -> torch.Tensor:
    """G, (m + kernel - 1, kernel): rows (1, t, t^2, ...) / prod over the other points s of (t - s), for t in 0, +-p, +-q; then
    (..., 0, 0, 1).

    For tiles of four places a side the first row's sign stands in the kernels' data transform.
    """
    places = m + kernel - 1
    points = [0.0] + [s * t for t in POINTS[places - 2] for s in (1.0, -1.0)]
    rows = []
    for t in points:
        scale = 1.0
        for s in points:
            if s != t:
                scale *= t - s
        rows.append([t**power / scale for power in range(kernel)])
    if places == 4:
        rows[0] = [1.0, 0.0, 0.0]
    return torch.tensor([*rows, [0.0] * (kernel - 1) + [1.0]], dtype=like.dtype, device=like.device)
