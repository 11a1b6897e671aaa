"""Convolutions of bfloat16 on processors with AMX: the C++ of kernels/amx.cpp as torch ops.

oneDNN's own forward convolutions of large maps reach most of what the tiles can multiply; its gradients, above all of filters
and through strides, a third and less. Sums are taken in float32; the gradients of filters and bias stay so. Without the
instructions, Linux's leave to use them or a C++ compiler there are no kernels; `why_not()` says so and the caller convolves
directly.
"""

from __future__ import annotations

import ctypes
import functools

import torch

from allconv_caffe.caffe_torch.compute import cpuinfo
from allconv_caffe.caffe_torch.compute.compiler import BuildError, load
from allconv_caffe.caffe_torch.compute.operators import define
from allconv_caffe.caffe_torch.compute.window import Window

NEEDED = {"amx_tile", "amx_bf16", "avx512_bf16", "avx512bw", "avx512vl"}  # as /proc/cpuinfo says them


@functools.cache
def _load() -> ctypes.CDLL | str:
    """The kernels; in words, why there are none."""
    missing = NEEDED - set((cpuinfo.field(cpuinfo.text(), "flags") or "").split())
    if missing:
        return f"the processor has no {', '.join(sorted(missing))}"
    try:
        library = load("amx", ["-mamx-tile", "-mamx-bf16"])
    except (BuildError, OSError) as error:
        return str(error)
    if library.amx_permit():
        return "Linux gives no leave to use AMX's tiles"
    i, p = ctypes.c_int64, ctypes.c_void_p
    library.amx_convolve.argtypes = [p] * 4 + [i] * 15
    library.amx_weight.argtypes = [p] * 4 + [i] * 14
    for function in (library.amx_convolve, library.amx_weight):
        function.restype = None
    return library


def why_not() -> str | None:
    """What keeps this machine from the kernels, in words; None where nothing does. Compiles them on the first call."""
    found = _load()
    return found if isinstance(found, str) else None


def fits(x: torch.Tensor, window: Window) -> bool:
    """Images in bfloat16 on the CPU, in one group, whose windows have no holes."""
    flat = x.dim() == 4 and window.dilation == (1, 1) and window.group == 1
    return flat and x.device.type == "cpu" and x.dtype == torch.bfloat16


def _library() -> ctypes.CDLL:
    found = _load()
    if isinstance(found, str):
        raise BuildError(f"the kernels of AMX are not available: {found}")
    return found


def _nhwc(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _amx_convolution(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, stride: list[int], pad: list[int]
) -> torch.Tensor:
    (n, c, *size), (o, _, *kernel) = x.shape, w.shape
    y = torch.empty(n, *_size(size, kernel, stride, pad), o, dtype=x.dtype)
    bias = None if bias is None else bias.to(torch.float32).contiguous()
    image, filters = _nhwc(x), _nhwc(w)
    numbers = (n, *size, c, o, *kernel, *stride, *pad, *y.shape[1:3], 0, torch.get_num_threads())
    address = None if bias is None else bias.data_ptr()
    _library().amx_convolve(image.data_ptr(), filters.data_ptr(), address, y.data_ptr(), *numbers)
    return y.permute(0, 3, 1, 2)


def _amx_convolution_data(
    dy: torch.Tensor, w: torch.Tensor, size: list[int], stride: list[int], pad: list[int]
) -> torch.Tensor:
    (n, o, *out), (_, c, *kernel) = dy.shape, w.shape
    dx = torch.empty(n, *size, c, dtype=dy.dtype)
    diff, filters = _nhwc(dy), _nhwc(w)
    numbers = (n, *size, c, o, *kernel, *stride, *pad, *out, 1, torch.get_num_threads())
    _library().amx_convolve(diff.data_ptr(), filters.data_ptr(), None, dx.data_ptr(), *numbers)
    return dx.permute(0, 3, 1, 2)


def _amx_convolution_weight(
    x: torch.Tensor, dy: torch.Tensor, kernel: list[int], stride: list[int], pad: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    (n, c, *size), (_, o, *out) = x.shape, dy.shape
    dw, db = torch.empty(o, *kernel, c), torch.empty(o)
    image, diff = _nhwc(x), _nhwc(dy)
    numbers = (n, *size, c, o, *kernel, *stride, *pad, *out, torch.get_num_threads())
    _library().amx_weight(image.data_ptr(), diff.data_ptr(), dw.data_ptr(), db.data_ptr(), *numbers)
    return dw.permute(0, 3, 1, 2), db


def _size(size: list[int], kernel: list[int], stride: list[int], pad: list[int]) -> tuple[int, ...]:
    window = Window(kernel=tuple(kernel), stride=tuple(stride), pad=tuple(pad), dilation=(1,) * len(kernel))
    return window.output_size(size)


def _last(x: torch.Tensor, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """An empty array of that shape, channels_last."""
    return x.new_empty(shape[0], *shape[2:], shape[1], dtype=dtype).permute(0, 3, 1, 2)


define(
    "Tensor x, Tensor w, Tensor? bias, SymInt[] stride, SymInt[] pad",
    "Tensor",
    _amx_convolution,
    lambda x, w, bias, stride, pad: _last(x, len(x), len(w), *_size(x.shape[2:], w.shape[2:], stride, pad)),
)
define(
    "Tensor dy, Tensor w, SymInt[] size, SymInt[] stride, SymInt[] pad",
    "Tensor",
    _amx_convolution_data,
    lambda dy, w, size, stride, pad: _last(dy, len(dy), w.shape[1], *size),
)
define(
    "Tensor x, Tensor dy, SymInt[] kernel, SymInt[] stride, SymInt[] pad",
    "(Tensor, Tensor)",
    _amx_convolution_weight,
    lambda x, dy, kernel, stride, pad: (
        _last(x, dy.shape[1], x.shape[1], *kernel, dtype=torch.float32),
        x.new_empty(dy.shape[1], dtype=torch.float32),
    ),
)


def convolution(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, window: Window) -> torch.Tensor:
    """x * w + bias: (N, C, H, W), (K, C, kernel...) and (K) to (N, K, out...), bfloat16, channels_last."""
    return torch.ops.allconv_caffe.amx_convolution(x, w, bias, window.stride, window.pad)


def data_gradient(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window) -> torch.Tensor:
    """What dy (N, K, out...) sends back through w (K, C, kernel...) to x, bfloat16, channels_last."""
    return torch.ops.allconv_caffe.amx_convolution_data(dy, w, x.shape[2:], window.stride, window.pad)


def weight_gradient(dy: torch.Tensor, x: torch.Tensor, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of the filters, (K, C, kernel...), and of the bias, (K), float32."""
    dw, db = torch.ops.allconv_caffe.amx_convolution_weight(x, dy, window.kernel, window.stride, window.pad)
    return dw, db
