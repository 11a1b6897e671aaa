"""How sums are taken. A layer says its formula once, in the words of Caffe's math_functions.cpp, and calls `ctx.math`.

`TorchMath` is the fastest that PyTorch has, on any device and in any precision. `CaffeMath` (caffe_math.py) takes every sum
in the order of Caffe's BLAS, so that no bit differs from Caffe's. What needs no order, one number at a time, a layer computes
with torch itself.

After the verbs of math_functions.cpp stand the loops of Caffe's layers that add up: convolution, average pooling, softmax.

Source: math_functions.cpp, mkl_alternate.hpp, in their order; base_conv_layer.cpp, pooling_layer.cpp, softmax_loss_layer.cpp.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import conv_algo, conv_choice, pooling
from allconv_caffe.caffe_torch.compute.window import Window
from allconv_caffe.caffe_torch.tracing import is_tracing

FLT_MIN = float(torch.finfo(torch.float32).tiny)
Scalar = float | torch.Tensor


@dataclass(frozen=True)
class Wanted:
    """Which gradients of a convolution are wanted."""

    dx: bool
    dw: Blob | None  # the weight, whose diff its gradient is added to; None: not wanted
    db: Blob | None  # the bias, likewise

    @property
    def need(self) -> conv_algo.Need:
        return self.dx, self.dw is not None, self.db is not None

    def deliver(self, dx: torch.Tensor | None, dw: torch.Tensor | None, db: torch.Tensor | None) -> torch.Tensor | None:
        """Adds the gradients to the blobs' diffs and returns dx, each only if wanted."""
        for blob, gradient in ((self.dw, dw), (self.db, db)):
            if blob is not None and gradient is not None:
                blob.accumulate_diff(gradient.to(torch.float32))
        return dx if self.dx else None


class Math(ABC):
    """The verbs. No array is written over: what comes out is new, or what came in; `accumulate_` adds to a blob's diff.

    Products with a factor that is 0 or nan are OpenBLAS's, and differ from `*`: `scal`, and `axpby` with beta, fill with 0
    where the factor is 0 or nan, whatever stands there; `axpy`, and `axpby` with alpha, add nothing where the factor is 0, and
    nan where it is nan. (Measured on OpenBLAS 0.3.13, for 1 to 100 values.) A traced net, where a mask would cost time and
    which is lost anyway if it meets these, multiplies by tensors as PyTorch does.
    """

    # math_functions.cpp
    @abstractmethod
    def gemm(self, a: torch.Tensor, b: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        """a (M, K) times b (K, N), of one type, at any strides: (M, N), in `room` if that helps. Source: caffe_cpu_gemm."""

    @abstractmethod
    def inner_product(
        self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, room: torch.Tensor | None = None
    ) -> torch.Tensor:
        """x (M, K) times w (K, N), of one type, plus b (N): (M, N), in `room` if that helps. Source: inner_product_layer.cpp."""

    @abstractmethod
    def accumulate_gemm(self, blob: Blob, a: torch.Tensor, b: torch.Tensor) -> None:
        """blob.diff += a (M, K) times b (K, N), for a blob of M * N values. Source: caffe_cpu_gemm, beta 1."""

    @abstractmethod
    def accumulate_columns(self, blob: Blob, a: torch.Tensor) -> None:
        """blob.diff += the sums of the columns of a (M, N). Source: caffe_cpu_gemv, CblasTrans, by a vector of ones, beta 1."""

    @abstractmethod
    def axpy(self, alpha: float, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """alpha x + y, of one shape. Source: caffe_axpy."""

    def scal(self, alpha: Scalar, x: torch.Tensor) -> torch.Tensor:
        """alpha x; alpha a number, or a tensor that broadcasts to x's shape. Source: caffe_scal, caffe_cpu_scale."""
        if isinstance(alpha, torch.Tensor):
            return x * alpha if is_tracing() else _cleared(x * alpha, ~(alpha.abs() > 0))
        return _product(alpha, x) if abs(alpha) > 0 else torch.zeros_like(x)

    @abstractmethod
    def axpby(self, alpha: Scalar, x: torch.Tensor, beta: float = 0.0, y: torch.Tensor | None = None) -> torch.Tensor:
        """alpha x + beta y, of one shape; without y alpha x. Source: caffe_cpu_axpby.

        Args:
            alpha: a number, or a tensor that broadcasts to x's shape.
        """

    @abstractmethod
    def powx(self, x: torch.Tensor, exponent: float) -> torch.Tensor:
        """x to the power of `exponent`. Source: caffe_powx."""

    @abstractmethod
    def dot(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The sum of x y, of one shape: 0 axes. Source: caffe_cpu_dot."""

    # base_conv_layer.cpp
    @abstractmethod
    def convolution(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        b: torch.Tensor | None,
        window: Window,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x * w + b: (N, C, in...), (K, C / group, kernel...) and (K) to (N, K, out...), in `room` if that helps.

        Source: conv_layer.cpp.
        """

    @abstractmethod
    def convolution_backward(
        self, dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window, wanted: Wanted
    ) -> torch.Tensor | None:
        """dx of `convolution`, if wanted; the gradients of w and b are added to their blobs' diffs, image after image."""

    @abstractmethod
    def deconvolution(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, window: Window) -> torch.Tensor:
        """What a convolution with w (C, K / group, kernel...) sends back from x, + b: (N, C, in...) to (N, K, out...).

        Source: deconv_layer.cpp.
        """

    @abstractmethod
    def deconvolution_backward(
        self, dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window, wanted: Wanted
    ) -> torch.Tensor | None:
        """dx of `deconvolution`, if wanted; the gradients of w and b are added to their blobs' diffs, image after image."""

    # relu_layer.cpp
    def relu(self, x: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        """max(x, 0) + 0 min(x, 0): nan for -inf, and never -0; in `room`, which may be x."""
        y = torch.ops.aten.leaky_relu(x, 0.0) if room is None else torch.ops.aten.leaky_relu.out(x, 0.0, out=room)
        return y.add_(0.0)

    def copy(self, x: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        """x, in `room` if that helps. Source: caffe_copy."""
        return x

    def concat(self, parts: Sequence[torch.Tensor], axis: int, room: torch.Tensor | None = None) -> torch.Tensor:
        """`parts` one after the other along `axis`, in `room`, which is none of them, if there is one. Source: concat_layer.cpp."""
        return torch.cat(list(parts), axis) if room is None else torch.cat(list(parts), axis, out=room)

    # pooling_layer.cpp
    def max_pool(
        self, x: torch.Tensor, window: Window, out: Sequence[int], room: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The maximum under each window and its place, see `pooling.maxima`; the maximum in `room` if that helps."""
        return pooling.maxima(x, window, out)

    @abstractmethod
    def average_pool(
        self, x: torch.Tensor, window: Window, out: Sequence[int], room: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The mean under each window, clipped to image plus padding: (N, C, H, W) to (N, C, *out), in `room` if that helps."""

    @abstractmethod
    def average_pool_backward(self, dy: torch.Tensor, window: Window, size: Sequence[int]) -> torch.Tensor:
        """dx (N, C, *size) of `average_pool`."""

    # softmax_layer.cpp, softmax_loss_layer.cpp
    @abstractmethod
    def softmax(self, x: torch.Tensor, axis: int, room: torch.Tensor | None = None) -> torch.Tensor:
        """exp(x - max) / sum of these over `axis`, of a float32 tensor, in `room`, which is not x, if that helps."""

    @abstractmethod
    def log_loss(self, p: torch.Tensor) -> torch.Tensor:
        """The sum of -log(max(p, FLT_MIN)) of float32 probabilities of any shape: 0 axes."""


class TorchMath(Math):
    """The fastest sums that PyTorch has.

    Args:
        conv_mode: which algorithm convolves, see `conv_algo.choose`.
    """

    def __init__(self, conv_mode: str = "direct") -> None:
        self.conv_mode = conv_mode

    def gemm(self, a: torch.Tensor, b: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        return a @ b

    def inner_product(
        self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, room: torch.Tensor | None = None
    ) -> torch.Tensor:
        y = self.gemm(x, w)
        if b is None:
            return y
        return y + b.to(y.dtype) if is_tracing() else y.add_(b.to(y.dtype))

    def accumulate_gemm(self, blob: Blob, a: torch.Tensor, b: torch.Tensor) -> None:
        blob.accumulate_diff((a @ b).to(torch.float32).reshape(blob.shape))

    def accumulate_columns(self, blob: Blob, a: torch.Tensor) -> None:
        blob.accumulate_diff(a.sum(0, dtype=torch.float32).reshape(blob.shape))

    def axpy(self, alpha: float, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y + _product(alpha, x) if alpha != 0 else y

    def axpby(self, alpha: Scalar, x: torch.Tensor, beta: float = 0.0, y: torch.Tensor | None = None) -> torch.Tensor:
        return scaled(alpha, x) if y is None else scaled(alpha, x) + self.scal(beta, y)

    def powx(self, x: torch.Tensor, exponent: float) -> torch.Tensor:
        return x * x if exponent == 2 else x.sqrt() if exponent == 0.5 else x**exponent

    def dot(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x * y).sum()

    def convolution(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        b: torch.Tensor | None,
        window: Window,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return conv_algo.forward(self._algorithm("forward", x, w, window), x, w, b, window)

    def convolution_backward(
        self, dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window, wanted: Wanted
    ) -> torch.Tensor | None:
        dx = self._algorithm("dx", x, w, window) if wanted.dx else "direct"
        dw = self._algorithm("dw", x, w, window) if wanted.dw is not None else "direct"
        return wanted.deliver(*conv_algo.backward((dx, dw), dy, x, w, window, wanted.need))

    def deconvolution(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, window: Window) -> torch.Tensor:
        return conv_algo.transposed(x, w, b, window)

    def deconvolution_backward(
        self, dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window, wanted: Wanted
    ) -> torch.Tensor | None:
        return wanted.deliver(*conv_algo.transposed_backward(dy, x, w, window, wanted.need))

    def average_pool(
        self, x: torch.Tensor, window: Window, out: Sequence[int], room: torch.Tensor | None = None
    ) -> torch.Tensor:
        return pooling.means(x, window, out)

    def average_pool_backward(self, dy: torch.Tensor, window: Window, size: Sequence[int]) -> torch.Tensor:
        return pooling.means_backward(dy, window, size)

    def softmax(self, x: torch.Tensor, axis: int, room: torch.Tensor | None = None) -> torch.Tensor:
        return torch.softmax(x, axis)

    def log_loss(self, p: torch.Tensor) -> torch.Tensor:
        return (-torch.log(p.clamp(min=FLT_MIN))).sum()

    def _algorithm(self, what: conv_choice.What, x: torch.Tensor, w: torch.Tensor, window: Window) -> str:
        return conv_algo.choose(what, x, w, window, compiled=is_tracing(), mode=self.conv_mode)


def scaled(alpha: Scalar, x: torch.Tensor) -> torch.Tensor:
    """alpha x, and 0 where alpha is 0: what `axpby` makes of its first array."""
    if isinstance(alpha, torch.Tensor):
        return x * alpha if is_tracing() else _cleared(x * alpha, alpha == 0)
    return _product(alpha, x) if alpha != 0 else torch.zeros_like(x)


def _product(alpha: float, x: torch.Tensor) -> torch.Tensor:
    return x if alpha == 1 else x * alpha


def _cleared(product: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
    """`product`, and 0 where `nothing`."""
    if nothing.device.type == "cpu" and not bool(nothing.any()):
        return product
    return product.masked_fill(nothing, 0)
