"""Sums in the order in which Caffe's BLAS takes them, so that a number differs from Caffe's in no bit.

A float32 sum depends on its order. Caffe's is that of its BLAS: OpenBLAS 0.3.13 on one thread, as Debian 11 ships it.
What is known of it, found by experiment on that library (tests/parity/test_caffe_sums.py holds it to this):

* sgemm, C (M x N, row-major) += A B. The K products of an element are cut into blocks: q of them while 2q or more are
  left; of more than q, half, rounded up to a multiple of 16 (8 in the Haswell kernels); else the rest. Within a block each
  product is added to the one accumulator by a fused multiply-add, from zero, in ascending order. Then C += accumulator.
* Haswell's kernels (also taken for AMD's Zen) have q = 320 and, for some elements, two accumulators: one for the products
  of even and one for those of odd number, as far as whole eights of products go; the rest goes to the first; the two are
  added at the end. Which elements: N is cut by the same rule into blocks of 320 or less columns, each block into tiles of 8.
  Of every whole twelve rows, the first six have two accumulators in the first tile of a block, and in the last tile
  the first six (an even number of tiles) or the last six (an odd one), unless there is only one tile. Of the rows beyond
  the last twelve, every whole four have two in every tile; but if these are eight, only in the first block of columns.
* SkylakeX's kernels have q = 448 and one accumulator everywhere.
* sgemv by a vector of ones, row by row (a bias's gradient): eight lanes, the row's remainder of four first, then in pairs.
* sdot has four vectors of lanes, of 8 (Haswell) or 16 (SkylakeX), each a fused multiply-add per product; what is left beyond whole
  fours of vectors, after another of 8 lanes in SkylakeX's, is multiplied in float32 and summed in double, as is the total.
* saxpy is one fused multiply-add per element; saxpby scales y first, and rounds, then is as saxpy.

All else on the way (im2col, col2im, pooling, softmax, loss) are loops of C++ in plain order, with the C library's expf, logf and powf.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute import compiler
from allconv_caffe.caffe_torch.compute.window import Window


@dataclass(frozen=True)
class Kernels:
    """One of OpenBLAS's sets of kernels.

    Attributes:
        name: as OPENBLAS_CORETYPE has it.
        q: products in a block of a sum.
        unit: to a multiple of which a half block is rounded up.
        p: columns in a block of columns; 0: they do not matter.
        lanes: of a vector in sdot.
    """

    name: str
    q: int
    unit: int
    p: int
    lanes: int


HASWELL = Kernels("Haswell", q=320, unit=8, p=320, lanes=8)
SKYLAKEX = Kernels("SkylakeX", q=448, unit=16, p=0, lanes=16)
#: what OPENBLAS_CORETYPE may say, in lower case
CORE_TYPES = {"haswell": HASWELL, "zen": HASWELL, "skylakex": SKYLAKEX}


def kernels(core_type: str, machine: str, cpuinfo: str) -> Kernels | str:
    """The kernels that OpenBLAS 0.3.13 takes on a processor; in words, why they are not known.

    Args:
        core_type: what OPENBLAS_CORETYPE says ("": nothing), which OpenBLAS obeys.
        machine: the architecture, such as "x86_64".
        cpuinfo: what /proc/cpuinfo says.
    """
    if machine not in ("x86_64", "AMD64"):
        return f"OpenBLAS's order on {machine} is not known (known: x86_64)"
    flags = set((_field(cpuinfo, "flags") or "").split())
    if not {"avx2", "fma"} <= flags:
        return "OpenBLAS's order on a processor without AVX2 and FMA is not known"
    if core_type:
        found = CORE_TYPES.get(core_type.lower())
        return found or f"OPENBLAS_CORETYPE={core_type}: its order is not known (known: Haswell, SkylakeX, Zen)"
    vendor, family = _field(cpuinfo, "vendor_id"), int(_field(cpuinfo, "cpu family") or 0)
    if vendor in ("AuthenticAMD", "HygonGenuine") and family in (0x17, 0x18, 0x19):
        return HASWELL
    if vendor == "GenuineIntel" and family == 6 and "avx512_bf16" not in flags:
        return SKYLAKEX if "avx512vl" in flags else HASWELL
    return (
        f"which kernels OpenBLAS takes on this processor ({vendor}, family {family}) is not known "
        "(OPENBLAS_CORETYPE=Haswell or SkylakeX tells it, and us)"
    )


def _field(cpuinfo: str, name: str) -> str | None:
    found = re.search(rf"^{name}\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return found.group(1).strip() if found else None


class CaffeSums:
    """The operations, on contiguous float32 tensors on the CPU; each result equals Caffe's bit for bit.

    Args:
        library: the compiled kernels.
        order: whose order to take.
    """

    def __init__(self, library: ctypes.CDLL, order: Kernels) -> None:
        self.library = library
        self.order = order

    def _call(self, name: str, *arguments: torch.Tensor | float | None) -> None:
        function = getattr(self.library, f"sums_{name}")
        function(*(a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments))

    @property
    def _order(self) -> tuple[int, int, int]:
        return self.order.q, self.order.unit, self.order.p

    def matmul(self, a: torch.Tensor, b: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
        """a (M, K) times b (K, N), both float32 at any strides: (M, N), or added to `into`. Source: caffe_cpu_gemm."""
        c = torch.empty(a.shape[0], b.shape[1]) if into is None else into
        if c.numel() == 0 or a.shape[1] == 0:
            return c.zero_() if into is None else c
        self._call(
            "gemm",
            *self._order,
            *c.shape,
            a.shape[1],
            a,
            *a.stride(),
            b,
            *b.stride(),
            _plain(c),
            int(into is not None),
            torch.get_num_threads(),
        )
        return c

    def columns(self, x: torch.Tensor, into: torch.Tensor) -> None:
        """into (N) += the sums of the columns of x (K, N). Source: caffe_cpu_gemv, CblasTrans, a vector of ones."""
        x = x.contiguous()
        self._call("columns", *x.shape, x, _plain(into))

    def bias_gradient(self, dy: torch.Tensor, into: torch.Tensor) -> None:
        """into (M) += the sums of dy (N, M, spatial...), image after image. Source: backward_cpu_bias."""
        dy = dy.contiguous()
        self._call("bias", *dy.shape[:2], dy.shape[2:].numel(), dy, _plain(into), torch.get_num_threads())

    def softmax(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        """exp(x - max) / sum over `axis` of a float32 tensor. Source: softmax_layer.cpp."""
        x, y = x.contiguous(), torch.empty(x.shape)
        inner = x.shape[axis + 1 :].numel()
        self._call("softmax", x.shape[:axis].numel(), x.shape[axis], inner, x, y, torch.get_num_threads())
        return y

    def log_loss(self, p: torch.Tensor) -> torch.Tensor:
        """The sum of -log(max(p, FLT_MIN)) of probabilities of any shape, in order; 0 axes. Source: softmax_loss_layer.cpp."""
        p, loss = p.contiguous(), torch.empty(())
        self._call("log_loss", p.numel(), p, loss)
        return loss

    def average_pool(self, x: torch.Tensor, window: Window, out: Sequence[int]) -> torch.Tensor:
        """AVE pooling of x (N, C, H, W) to (N, C, *out). Source: pooling_layer.cpp."""
        x, y = x.contiguous(), torch.empty(*x.shape[:2], *out)
        self._call("average", *self._pool(x, window, y), x, y, 0, torch.get_num_threads())
        return y

    def average_pool_backward(self, dy: torch.Tensor, window: Window, size: Sequence[int]) -> torch.Tensor:
        """The gradient (N, C, *size) of what `average_pool` made of it. Source: pooling_layer.cpp."""
        dy, dx = dy.contiguous(), torch.zeros(*dy.shape[:2], *size)
        self._call("average", *self._pool(dx, window, dy), dx, dy, 1, torch.get_num_threads())
        return dx

    @staticmethod
    def _pool(x: torch.Tensor, window: Window, y: torch.Tensor) -> tuple[int, ...]:
        """planes, and of the bottom, the top and the window height and width."""
        return x.shape[:2].numel(), *x.shape[2:], *y.shape[2:], *window.kernel, *window.stride, *window.pad

    def dot(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The sum of x y, of one size; 0 axes. Source: caffe_cpu_dot."""
        x, y, result = x.contiguous(), y.contiguous(), torch.empty(())
        self._call("dot", self.order.lanes, x.numel(), x, y, result)
        return result

    def power(self, x: torch.Tensor, exponent: float) -> torch.Tensor:
        """x to the power of `exponent`, by the C library. Source: caffe_powx."""
        x = x.contiguous()
        y = torch.empty(x.shape)
        self._call("power", x.numel(), x, exponent, y, torch.get_num_threads())
        return y

    def axpy(self, alpha: float, x: torch.Tensor, y: torch.Tensor) -> None:
        """y += alpha x, rounded once; nothing where alpha is 0. Source: caffe_axpy."""
        if alpha != 0:
            x = x.contiguous()
            self._call("axpy", x.numel(), alpha, x, _plain(y), torch.get_num_threads())

    def axpby(self, alpha: float, x: torch.Tensor, beta: float, y: torch.Tensor) -> None:
        """y = alpha x + (beta y, rounded); beta 0 or nan clears y, alpha 0 adds nothing. Source: caffe_cpu_axpby."""
        if not abs(beta) > 0:
            y.zero_()
            self.axpy(alpha, x, y)
        elif alpha == 0:
            y.mul_(beta)
        else:
            x = x.contiguous()
            self._call("axpby", x.numel(), alpha, x, beta, _plain(y), torch.get_num_threads())

    def convolution(self, shape: Shape, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
        """x * w + b: (N, C, in...) to (N, M, out...). Source: forward_cpu_gemm, forward_cpu_bias."""
        y = torch.empty(x.shape[0], w.shape[0], *shape.out)
        if y.numel():
            self._call(
                "conv",
                *self._order,
                *self._sizes(shape, x.shape[0], w),
                *self._image(shape, x),
                w.contiguous(),
                None if b is None else b.contiguous(),
                y,
                torch.get_num_threads(),
            )
        return y

    def convolution_weight(self, shape: Shape, x: torch.Tensor, dy: torch.Tensor, into: torch.Tensor) -> None:
        """into (M, C / group, kernel...) += the gradient, image after image. Source: weight_cpu_gemm."""
        if dy.numel():
            self._call(
                "conv_weight",
                *self._order,
                *self._sizes(shape, x.shape[0], into),
                *self._image(shape, x),
                dy.contiguous(),
                _plain(into),
                torch.get_num_threads(),
            )

    def convolution_data(self, shape: Shape, dy: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """What dy (N, M, out...) sends back through w: (N, C, in...). Source: backward_cpu_gemm, col2im.cpp."""
        n, channels = dy.shape[0], w.shape[1] * shape.window.group
        dx = torch.zeros(n, channels, *shape.padded)
        if dy.numel():
            self._call(
                "conv_data",
                *self._order,
                *self._sizes(shape, n, w),
                *self._image(shape, dx, False),
                w.contiguous(),
                dy.contiguous(),
                w.shape[1],
                int(shape.plain),
                torch.get_num_threads(),
            )
        for axis, (p, size) in enumerate(zip(shape.window.pad, shape.size, strict=True), 2):
            dx = dx.narrow(axis, p, size)
        return dx

    @staticmethod
    def _sizes(shape: Shape, images: int, w: torch.Tensor) -> tuple[int, ...]:
        return images, shape.window.group, w.shape[0] // shape.window.group, shape.column.numel(), w.shape[1:].numel()

    @staticmethod
    def _image(
        shape: Shape, x: torch.Tensor, pad: bool = True
    ) -> tuple[torch.Tensor, int, int, torch.Tensor, torch.Tensor]:
        """x, padded; floats from image to image and from group to group; and where im2col's rows and columns lie."""
        if pad:
            x = torch.nn.functional.pad(x, [p for q in reversed(shape.window.pad) for p in (q, q)]).contiguous()
        image = x.shape[1:].numel()
        return x, image, image // shape.window.group, shape.row(x.shape[1] // shape.window.group), shape.column


class Shape:
    """Where in a padded image of `size` im2col finds what, for this window."""

    def __init__(self, window: Window, size: Sequence[int]) -> None:
        self.window, self.size = window, tuple(size)
        ones, zeros = (1,) * window.num_axes, (0,) * window.num_axes
        self.plain = (window.kernel, window.stride, window.pad) == (ones, ones, zeros)
        self.padded, self.out = window.padded_size(size), window.output_size(size)
        self.column = self._places(self.out, window.stride)
        self._row = self._places(window.kernel, window.dilation)

    def _places(self, counts: Sequence[int], steps: Sequence[int]) -> torch.Tensor:
        """The offset in a padded plane of each point of a grid, row-major."""
        places = torch.zeros(1, dtype=torch.int64)
        for n, step, size in zip(counts, steps, self.padded, strict=True):
            places = (places[:, None] * size + torch.arange(n) * step).reshape(-1)
        return places

    def row(self, channels: int) -> torch.Tensor:
        """The offset of each row of im2col: channel by channel, the places of the kernel."""
        return (torch.arange(channels)[:, None] * math.prod(self.padded) + self._row).reshape(-1)


def _plain(x: torch.Tensor) -> torch.Tensor:
    """x, which is written to. Raises ValueError where that would not reach the caller."""
    if not x.is_contiguous() or x.dtype != torch.float32:
        raise ValueError(f"found a result of {x.dtype}, strides {x.stride()}, expected contiguous float32")
    return x


def order_here() -> Kernels | str:
    """The kernels that OpenBLAS 0.3.13 takes in this process; in words, why they are not known."""
    path = Path("/proc/cpuinfo")
    return kernels(
        os.environ.get("OPENBLAS_CORETYPE", ""), platform.machine(), path.read_text() if path.is_file() else ""
    )


@functools.cache
def _load() -> tuple[CaffeSums | None, str]:
    order = order_here()
    if isinstance(order, str):
        return None, order
    try:
        library = compiler.load("caffe_math", ["-ffp-contract=off"])
    except (compiler.BuildError, OSError) as error:
        return None, str(error)
    i, f, p = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    images = [i] * 8 + [p, i, i, p, p]
    for name, types in {
        "gemm": [i] * 6 + [p, i, i, p, i, i, p, i, i],
        "conv": [*images, p, p, p, i],
        "conv_weight": [*images, p, p, i],
        "conv_data": [*images, p, p, i, i, i],
        "columns": [i, i, p, p],
        "bias": [i, i, i, p, p, i],
        "softmax": [i, i, i, p, p, i],
        "log_loss": [i, p, p],
        "average": [i] * 11 + [p, p, i, i],
        "dot": [i, i, p, p, p],
        "power": [i, p, f, p, i],
        "axpy": [i, f, p, p, i],
        "axpby": [i, f, p, f, p, i],
    }.items():
        function = getattr(library, f"sums_{name}")
        function.argtypes, function.restype = types, None
    return CaffeSums(library, order), ""


@functools.cache
def find() -> CaffeSums | None:
    """The operations in Caffe's order; None, after a line in the log, where this machine has them not.

    Compiles them on the first call.
    """
    reason = why_not()
    if reason is not None:
        glog.warning("caffe_sums.py:1", f"Sums are taken in PyTorch's order, not in Caffe's: {reason}")
    return _load()[0]


def why_not() -> str | None:
    """What keeps this machine from Caffe's order, in words; None where nothing does."""
    sums, reason = _load()
    return None if sums else reason
