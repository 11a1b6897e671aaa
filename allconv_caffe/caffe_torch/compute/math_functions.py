"""How sums are taken. A layer says its formula once, in the words of Caffe's math_functions.cpp, and calls `ctx.math`.

`TorchMath` is the fastest that PyTorch has, on any device and in any precision. `CaffeMath` (caffe_math.py) takes every sum
in the order of Caffe's BLAS, so that no bit differs from Caffe's. What needs no order, one number at a time, a layer computes
with torch itself.

After the verbs of math_functions.cpp stand the loops of Caffe's layers that add up: convolution, average pooling, softmax.

Source: math_functions.cpp, mkl_alternate.hpp, in their order; base_conv_layer.cpp, pooling_layer.cpp, softmax_loss_layer.cpp.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import choice, conv_algo, gemm, pooling
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

    # what needs no order
    def each(
        self,
        formula: str,
        x: torch.Tensor,
        a: Scalar = 0.0,
        b: float = 0.0,
        *,
        axis: int = 0,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The formula of that name, see `FORMULAS`, of each number of x: of x's shape, in `room`, which may be x, if that helps.

        Args:
            a: a number for all, or a tensor that lies along x's axes from `axis` on.
            b: a number for all.
        """
        return FORMULAS[formula](x, along(a, axis, x.dim()) if isinstance(a, torch.Tensor) else a, b)

    def clone(self, x: torch.Tensor) -> torch.Tensor:
        """What stands in x now."""
        return x.clone()

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

    def axpy(self, alpha: float, x: torch.Tensor, y: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        """alpha x + y, of one shape, in `room`, which may be y, if that helps. Source: caffe_axpy."""
        return y if alpha == 0 else self.each("axpy", y, x, alpha, room=room)

    def scal(self, alpha: Scalar, x: torch.Tensor) -> torch.Tensor:
        """alpha x; alpha a number, or a tensor that broadcasts to x's shape. Source: caffe_scal, caffe_cpu_scale."""
        return _scal(alpha, x)

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

    @abstractmethod
    def dots(self, x: torch.Tensor, y: torch.Tensor | None = None, room: torch.Tensor | None = None) -> torch.Tensor:
        """The sum of each row of x y, or of x (M, N): (M), in `room` if that helps. Source: reduction_layer.cpp."""

    @abstractmethod
    def row_sums(self, x: torch.Tensor, factor: float) -> torch.Tensor:
        """`factor` times the sum of each row of x (M, N): (M). Source: caffe_cpu_gemv, CblasNoTrans, by a vector of ones, beta 0."""

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
    def deconvolution(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        b: torch.Tensor | None,
        window: Window,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What a convolution with w (C, K / group, kernel...) sends back from x, + b: (N, C, in...) to (N, K, out...), in `room`
        if that helps.

        Source: deconv_layer.cpp.
        """

    @abstractmethod
    def deconvolution_backward(
        self, dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window, wanted: Wanted
    ) -> torch.Tensor | None:
        """dx of `deconvolution`, if wanted; the gradients of w and b are added to their blobs' diffs, image after image."""

    # relu_layer.cpp
    def relu(self, x: torch.Tensor, slope: float = 0.0, room: torch.Tensor | None = None) -> torch.Tensor:
        """max(x, 0) + slope min(x, 0): with slope 0 nan for -inf; in `room`, which may be x, if that helps."""
        if slope != 0:
            return self.each("relu", x, slope, room=room)
        y = torch.ops.aten.leaky_relu(x, 0.0) if room is None else torch.ops.aten.leaky_relu.out(x, 0.0, out=room)
        return y.add_(0.0)

    def copy(self, x: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        """x, which may be a view, in `room` if that helps. Source: caffe_copy."""
        return x

    def concat(self, parts: Sequence[torch.Tensor], axis: int, room: torch.Tensor | None = None) -> torch.Tensor:
        """`parts` one after the other along `axis`, in `room`, which is none of them, if there is one. Source: concat_layer.cpp."""
        return torch.cat(list(parts), axis) if room is None else torch.cat(list(parts), axis, out=room)

    def part(
        self, x: torch.Tensor, axis: int, start: int, length: int, room: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`length` of x from `start` on along `axis`, in `room`, which is not x, if that helps. Source: slice_layer.cpp."""
        return x.narrow(axis, start, length)

    # eltwise_layer.cpp
    def greatest(
        self, parts: Sequence[torch.Tensor], room: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The maximum of `parts`, two or more, in `room`, which may be the first, if that helps; and which part it is of (int64).

        A tie of the first two goes to the second, a later one has to be greater.
        """
        first, second, *others = parts
        greater = first > second
        y, mask = torch.where(greater, first, second), torch.where(greater, 0, 1)
        for i, x in enumerate(others, 2):
            greater = x > y
            y, mask = torch.where(greater, x, y), torch.where(greater, i, mask)
        return y, mask

    # batch_norm_layer.cpp, scale_layer.cpp
    def normalized(
        self, x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, room: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(x - mean) / std of x (N, C, ...), mean and std (C), in `room` if that helps."""
        return self.each("divide", self.each("subtract", x, mean, axis=1, room=room), std, axis=1, room=room)

    def affine(
        self, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, axes: tuple[int, int], room: torch.Tensor | None = None
    ) -> torch.Tensor:
        """a x + b, where a and b lie along x's axes from `axes` on, in `room` if that helps."""
        return self.each("add", self.each("scal", x, a, axis=axes[0], room=room), b, axis=axes[1], room=room)

    # lrn_layer.cpp
    def lrn_scale_within(self, x: torch.Tensor, window: Window, alpha: float) -> torch.Tensor:
        """1 + alpha times the mean of the squares under the window around each number of x (N, C, H, W)."""
        mean = self.average_pool(self.powx(x, 2), window, x.shape[2:])
        return self.each("add", self.each("scal", mean, alpha), 1.0)

    def lrn_scale(self, x: torch.Tensor, size: int, factor: float, k: float) -> torch.Tensor:
        """k + `factor` times the sum of the squares of `size` channels around each number of x (N, C, H, W)."""
        return k + self.channel_sum(x * x, size, factor)

    def channel_sum(self, x: torch.Tensor, size: int, factor: float) -> torch.Tensor:
        """`factor` times the sum of `size` channels around each number of x (N, C, H, W), what lies outside counting 0."""
        channels, half = x.shape[1], size // 2
        padded = F.pad(x, (0, 0, 0, 0, half, half))
        total = padded[:, :channels]
        for i in range(1, size):
            total = total + padded[:, i : i + channels]
        out = self.axpby(factor, total)
        if is_tracing() or out.device.type != "cpu" or (math.isfinite(factor) and bool(out.isfinite().all())):
            return out
        # Caffe's sum runs over the channels, so that one that is not finite spoils those behind it, too
        current = torch.zeros_like(x[:, 0])
        for i in range(size):
            current = self.axpy(factor, padded[:, i], current)
        sums = [current]
        for i in range(1, channels):
            current = self.axpy(factor, padded[:, i + size - 1], current)
            current = self.axpy(-factor, padded[:, i - 1], current)
            sums.append(current)
        return torch.stack(sums, 1)

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

    # argmax_layer.cpp
    def greatest_along(self, x: torch.Tensor, axis: int, top: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Places, as x's type, and values of the `top` greatest along `axis`, greatest first; of equal values the later is greater."""
        # stable, over the reversed values: the later of equals comes first
        values, places = torch.sort(x.flip(axis), dim=axis, descending=True, stable=True)
        values = values.narrow(axis, 0, top)
        return (x.shape[axis] - 1 - places.narrow(axis, 0, top)).to(values.dtype), values

    # softmax_layer.cpp, softmax_loss_layer.cpp
    @abstractmethod
    def softmax(self, x: torch.Tensor, axis: int, room: torch.Tensor | None = None) -> torch.Tensor:
        """exp(x - max) / sum of these over `axis`, of a float32 tensor, in `room`, which is not x, if that helps."""

    def log_loss(self, p: torch.Tensor) -> torch.Tensor:
        """The sum of -log(max(p, FLT_MIN)) of float32 probabilities of any shape: 0 axes."""
        return (-torch.log(p.clamp(min=FLT_MIN))).sum()

    def label_loss(
        self,
        p: torch.Tensor,
        label: torch.Tensor,
        axis: int,
        ignored: int | None,
        divisor: float,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """SoftmaxWithLoss in one: `log_loss` of the labels' probabilities over `divisor`, in `room`.

        Args:
            p: (N..., C, ...) float32, the classes along `axis`.
            label: N * ... floats; those that are `ignored` count for nothing.
            divisor: 0 for how many labels count.
        Returns: 0 axes; None where there is no kernel for it, or a label is out of range.
        """
        return None

    # sigmoid_cross_entropy_loss_layer.cpp
    def sigmoid_loss(
        self,
        x: torch.Tensor,
        target: torch.Tensor,
        ignored: int | None,
        divisor: float,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """SigmoidCrossEntropyLoss in one: of scores and as many targets, float32 of any shape; the rest as for `label_loss`.

        Returns: 0 axes; None where there is no kernel for it.
        """
        return None

    # accuracy_layer.cpp
    def accuracy(
        self,
        x: torch.Tensor,
        label: torch.Tensor,
        axis: int,
        ignored: int | None,
        top_k: int,
        rooms: Sequence[torch.Tensor | None],
    ) -> list[torch.Tensor] | None:
        """Accuracy in one: the share of examples that are right, and with two `rooms` that of each class.

        x, label, ignored: as for `label_loss`, x scores. Returns: 0 axes, and (C); or None, as there.
        """
        return None

    # embed_layer.cpp
    def embed(
        self, places: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, room: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """w[places] + b, (places, n), in `room`; w (k, n), b (n) or None.

        Returns: None where there is no kernel for it, or a place is out of range.
        """
        return None

    # im2col_layer.cpp
    def im2col(self, x: torch.Tensor, window: Window, room: torch.Tensor | None = None) -> torch.Tensor | None:
        """The patches of x (N, C, spatial...): (N, C * K, out...), in `room`. None where there is no kernel for it."""
        return None


class TorchMath(Math):
    """The fastest sums that PyTorch has.

    Args:
        conv_mode: which algorithm convolves, see `conv_algo.choose`, and multiplies, see `gemm.choose`.
    """

    def __init__(self, conv_mode: str = "direct") -> None:
        self.conv_mode = conv_mode

    def gemm(self, a: torch.Tensor, b: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        return gemm.product(gemm.choose(a, b, compiled=is_tracing(), mode=self.conv_mode), a, b)

    def inner_product(
        self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, room: torch.Tensor | None = None
    ) -> torch.Tensor:
        y = self.gemm(x, w)
        if b is None:
            return y
        return y + b.to(y.dtype) if is_tracing() else y.add_(b.to(y.dtype))

    def accumulate_gemm(self, blob: Blob, a: torch.Tensor, b: torch.Tensor) -> None:
        blob.accumulate_diff(self.gemm(a, b).to(torch.float32).reshape(blob.shape))

    def accumulate_columns(self, blob: Blob, a: torch.Tensor) -> None:
        blob.accumulate_diff(a.sum(0, dtype=torch.float32).reshape(blob.shape))

    def axpby(self, alpha: Scalar, x: torch.Tensor, beta: float = 0.0, y: torch.Tensor | None = None) -> torch.Tensor:
        return scaled(alpha, x) if y is None else scaled(alpha, x) + self.scal(beta, y)

    def powx(self, x: torch.Tensor, exponent: float) -> torch.Tensor:
        return _powx(x, exponent)

    def dot(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x * y).sum()

    def dots(self, x: torch.Tensor, y: torch.Tensor | None = None, room: torch.Tensor | None = None) -> torch.Tensor:
        return (x if y is None else x * y).sum(1)

    def row_sums(self, x: torch.Tensor, factor: float) -> torch.Tensor:
        return x.sum(1) * factor

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

    def deconvolution(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        b: torch.Tensor | None,
        window: Window,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor:
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

    def _algorithm(self, what: choice.What, x: torch.Tensor, w: torch.Tensor, window: Window) -> str:
        return conv_algo.choose(what, x, w, window, compiled=is_tracing(), mode=self.conv_mode)


def along(x: torch.Tensor, axis: int, num_axes: int) -> torch.Tensor:
    """`x` with axes of length 1 before and after, so that its first axis is `axis` of a tensor of `num_axes` axes."""
    return x.reshape((1,) * axis + tuple(x.shape) + (1,) * (num_axes - axis - x.dim()))


def _scal(alpha: Scalar, x: torch.Tensor) -> torch.Tensor:
    if isinstance(alpha, torch.Tensor):
        return x * alpha if is_tracing() else _cleared(x * alpha, ~(alpha.abs() > 0))
    return _product(alpha, x) if abs(alpha) > 0 else torch.zeros_like(x)


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


def _powx(x: torch.Tensor, exponent: float) -> torch.Tensor:
    return x * x if exponent == 2 else x.sqrt() if exponent == 0.5 else x**exponent


def raised(x: torch.Tensor, exponent: float) -> torch.Tensor:
    """x to the power of `exponent`; LRN's usual -3/4 by square roots, which are faster, where a graph is made."""
    if exponent == -0.75 and is_tracing():
        root = x.sqrt()
        return 1 / (root * root.sqrt())
    return x**exponent


def _power(x: torch.Tensor, exponent: float) -> torch.Tensor:
    """As C has it: a root of -inf, which PyTorch makes nan, is that of inf."""
    raised = _powx(x, exponent)
    return torch.where(x == -math.inf, math.inf if exponent > 0 else 0.0, raised) if abs(exponent) == 0.5 else raised


def _clip(x: torch.Tensor, least: Any, most: float) -> torch.Tensor:
    """nan becomes `least`."""
    below = torch.where(x > most, most, x)
    return torch.where(below > least, below, least)


#: What `Math.each` knows, by PyTorch; kernels/caffe_math.cpp has the same in the words of Caffe's layers. x: a tensor; a: a
#: tensor that broadcasts to its shape, or (the exponent of powx always) a number; b: a number.
FORMULAS: dict[str, Callable[[torch.Tensor, Any, float], torch.Tensor]] = {
    "fill": lambda x, a, b: torch.zeros_like(x) + a,
    "add": lambda x, a, b: x + a,
    "subtract": lambda x, a, b: x - a,
    "multiply": lambda x, a, b: x * a,
    "divide": lambda x, a, b: x / a,
    "inverse": lambda x, a, b: torch.where(x == 0, torch.zeros_like(x), 1 / x),
    "scal": lambda x, a, b: _scal(a, x),
    "scaled": lambda x, a, b: scaled(a, x),
    "axpy": lambda x, a, b: x + _product(b, a),
    "powx": lambda x, a, b: _power(x, a),
    "times_power": lambda x, a, b: x * raised(a, b),
    "sqrt": lambda x, a, b: torch.sqrt(x),
    "exp": lambda x, a, b: torch.exp(x),
    "log": lambda x, a, b: torch.log(x),
    "abs": lambda x, a, b: x.abs(),
    "relu": lambda x, a, b: x.clamp(min=0) + a * x.clamp(max=0),
    "elu": lambda x, a, b: x.clamp(min=0) + a * (torch.exp(x.clamp(max=0)) - 1),
    "sigmoid": lambda x, a, b: torch.sigmoid(x),
    "tanh": lambda x, a, b: torch.tanh(x),
    "bnll": lambda x, a, b: x.clamp(min=0) + torch.log1p(torch.exp(-x.abs())),
    "threshold": lambda x, a, b: (x > a).to(x.dtype),
    "clip": _clip,
}
