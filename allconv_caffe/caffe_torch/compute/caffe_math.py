"""Sums in the order in which Caffe takes them, so that a number differs from Caffe's in no bit.

Caffe's BLAS has an order of its own: openblas.py tells it. All else on the way (im2col, col2im, pooling, softmax, loss) are
loops of C++ in plain order, with the C library's expf, logf and powf. The arithmetic is in kernels/caffe_math.cpp.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import compiler
from allconv_caffe.caffe_torch.compute.math_functions import FORMULAS, Math, Scalar, Wanted, scaled
from allconv_caffe.caffe_torch.compute.openblas import Kernels, order_here
from allconv_caffe.caffe_torch.compute.program import Call, Result
from allconv_caffe.caffe_torch.compute.window import Window

REFUSING = "label_loss", "accuracy", "embed"
"""Kernels that return 1, and fill nothing of use, where a label or an index is out of range; else 0."""


class CaffeMath(Math):
    """The verbs for float32 tensors on the CPU; each result equals Caffe's bit for bit.

    Args:
        library: the compiled kernels.
        order: whose order to take.
    """

    def __init__(self, library: ctypes.CDLL, order: Kernels) -> None:
        self.library = library
        self.order = order

        self._functions: dict[str, Callable[..., int | None]] = {}
        self._recorder = threading.local()

    @contextmanager
    def recording(self) -> Iterator[list[Call]]:
        """The calls of kernels that this thread makes meanwhile."""
        calls: list[Call] = []
        self._recorder.calls = calls
        try:
            yield calls
        finally:
            self._recorder.calls = None

    def _call(self, name: str, *arguments: torch.Tensor | float | None) -> int | None:
        """Returns what a kernel of `REFUSING` does."""
        calls = getattr(self._recorder, "calls", None)
        if calls is not None:
            calls.append((name, arguments))
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = getattr(self.library, f"caffe_{name}")
        return function(*[a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments])

    @property
    def _order(self) -> tuple[int, int, int]:
        return self.order.q, self.order.unit, self.order.p

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
        """By the C library, where it is no arithmetic of the processor's."""
        x = x.contiguous()
        y = torch.empty(x.shape) if room is None else room
        sizes, array, one = (1, 1, x.numel()), None, a
        if isinstance(a, torch.Tensor):
            sizes = x.shape[:axis].numel(), a.numel(), x.shape[axis + a.dim() :].numel()
            array, one = a.contiguous(), 0.0
            assert math.prod(sizes) == x.numel(), f"{tuple(a.shape)} does not lie along axis {axis} of {tuple(x.shape)}"
        self._call(f"each_{formula}", *sizes, x, array, one, b, y, torch.get_num_threads())
        return y

    def clone(self, x: torch.Tensor) -> torch.Tensor:
        return self.copy(x.contiguous(), torch.empty(x.shape))

    # math_functions.cpp
    def gemm(self, a: torch.Tensor, b: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        c = torch.empty(a.shape[0], b.shape[1]) if room is None else room
        if a.shape[1] == 0:
            return c.zero_()
        self._gemm(a, b, c, add=False)
        return c

    def inner_product(
        self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, room: torch.Tensor | None = None
    ) -> torch.Tensor:
        y = self.gemm(x, w, room)
        return y if b is None else self.each("add", y, b, axis=1, room=y)

    def accumulate_gemm(self, blob: Blob, a: torch.Tensor, b: torch.Tensor) -> None:
        self._gemm(a, b, blob.diff.view(a.shape[0], b.shape[1]), add=True)

    def _gemm(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, *, add: bool) -> None:
        m, n, k, threads = *c.shape, a.shape[1], torch.get_num_threads()
        if m and n and k:
            self._call("gemm", *self._order, m, n, k, a, *a.stride(), b, *b.stride(), c, int(add), threads)

    def accumulate_columns(self, blob: Blob, a: torch.Tensor) -> None:
        a = a.contiguous()
        self._call("columns", *a.shape, a, blob.diff)

    def axpby(self, alpha: Scalar, x: torch.Tensor, beta: float = 0.0, y: torch.Tensor | None = None) -> torch.Tensor:
        """beta y is rounded, then the sum; where beta is 0, alpha x is added to 0, so that no -0 comes out."""
        if isinstance(alpha, torch.Tensor) and alpha.numel() > 1:
            return scaled(alpha, x) + (0.0 if y is None else self.scal(beta, y))
        alpha = float(alpha)
        if y is None:
            return self.each("scaled", x, alpha)
        if alpha == 0 or not abs(beta) > 0:
            return self.axpy(alpha, x, self.scal(beta, y))
        x, y, z = x.contiguous(), y.contiguous(), torch.empty(y.shape)
        self._call("axpby", x.numel(), alpha, x, beta, y, z, torch.get_num_threads())
        return z

    def powx(self, x: torch.Tensor, exponent: float) -> torch.Tensor:
        return self.each("powx", x, exponent)

    def dot(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.dots(x.reshape(1, -1), y).reshape(())

    def dots(self, x: torch.Tensor, y: torch.Tensor | None = None, room: torch.Tensor | None = None) -> torch.Tensor:
        x, y = x.contiguous(), None if y is None else y.contiguous()
        results = torch.empty(x.shape[0]) if room is None else room
        self._call("dot", self.order.lanes, *x.shape, x, y, results, torch.get_num_threads())
        return results

    def row_sums(self, x: torch.Tensor, factor: float) -> torch.Tensor:
        x, y = x.contiguous(), torch.empty(x.shape[0])
        self._call("rows", *x.shape, factor, x, y, torch.get_num_threads())
        return y

    # base_conv_layer.cpp
    def convolution(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        b: torch.Tensor | None,
        window: Window,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Source: forward_cpu_gemm, forward_cpu_bias."""
        patches = _patches(window, x.shape[2:])
        y = torch.empty(x.shape[0], w.shape[0], *patches.out) if room is None else room
        if y.numel():
            bias = None if b is None else b.contiguous()
            self._convolve("conv", patches, x.contiguous(), w, *patches.padding, w.contiguous(), bias, y)
        return y

    def convolution_backward(
        self, dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window, wanted: Wanted
    ) -> torch.Tensor | None:
        self._bias_gradient(dy, wanted.db)
        self._weight_gradient(x, dy, window, wanted.dw)
        return self._data_gradient(dy, w, window, x.shape[2:]) if wanted.dx else None

    def deconvolution(
        self,
        x: torch.Tensor,
        w: torch.Tensor,
        b: torch.Tensor | None,
        window: Window,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor:
        y = self.copy(self._data_gradient(x, w, window, window.input_size(x.shape[2:]), room), room)
        return y if b is None else self.each("add", y, b, axis=1, room=room)

    def deconvolution_backward(
        self, dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window, wanted: Wanted
    ) -> torch.Tensor | None:
        self._bias_gradient(dy, wanted.db)
        self._weight_gradient(dy, x, window, wanted.dw)
        return self.convolution(dy, w, None, window) if wanted.dx else None

    def _bias_gradient(self, dy: torch.Tensor, db: Blob | None) -> None:
        """db (M) += the sums of dy (N, M, spatial...), image after image. Source: backward_cpu_bias."""
        if db is not None:
            dy = dy.contiguous()
            self._call("conv_bias", *dy.shape[:2], dy.shape[2:].numel(), dy, db.diff, torch.get_num_threads())

    def _weight_gradient(self, x: torch.Tensor, dy: torch.Tensor, window: Window, dw: Blob | None) -> None:
        """dw (M, C / group, kernel...) += the gradient, image after image. Source: weight_cpu_gemm."""
        if dw is not None and dy.numel():
            patches = _patches(window, x.shape[2:])
            self._convolve("conv_weight", patches, patches.pad(x), dw.diff, dy.contiguous(), dw.diff)

    def _data_gradient(
        self,
        dy: torch.Tensor,
        w: torch.Tensor,
        window: Window,
        size: Sequence[int],
        room: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What dy (N, M, out...) sends back through w: (N, C, *size), in `room` where there is no padding.

        Source: backward_cpu_gemm, col2im.cpp.
        """
        patches = _patches(window, tuple(size))
        shape = dy.shape[0], w.shape[1] * window.group, *patches.padded
        dx = torch.empty(shape) if room is None or tuple(room.shape) != shape else room
        if dy.numel():
            last = w.shape[1], int(patches.plain)
            self._convolve("conv_data", patches, dx, w, w.contiguous(), dy.contiguous(), *last)
        return patches.unpad(dx)

    def _convolve(
        self, name: str, patches: Patches, x: torch.Tensor, w: torch.Tensor, *others: torch.Tensor | int | None
    ) -> None:
        """Calls a kernel that takes the order, sizes, the images, padded for it if need be, and where their patches lie; and
        then `others`.
        """
        group, image = patches.window.group, x.shape[1] * math.prod(patches.padded)
        sizes = x.shape[0], group, w.shape[0] // group, patches.columns.numel(), w.shape[1:].numel()
        rows = patches.rows(x.shape[1] // group)
        threads = torch.get_num_threads()
        self._call(name, *self._order, *sizes, x, image, image // group, rows, patches.columns, *others, threads)

    # relu_layer.cpp
    def relu(self, x: torch.Tensor, slope: float = 0.0, room: torch.Tensor | None = None) -> torch.Tensor:
        """In one pass."""
        return self.each("relu", x, slope, room=room)

    def copy(self, x: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        if room is None:
            return x
        if x.is_contiguous():
            if x.data_ptr() != room.data_ptr():
                self._call("copy", x.numel(), x, room)
        else:
            sizes, strides = torch.tensor(x.shape), torch.tensor(x.stride())
            self._call("copy_view", x.dim(), sizes, strides, x, room, torch.get_num_threads())
        return room

    def concat(self, parts: Sequence[torch.Tensor], axis: int, room: torch.Tensor | None = None) -> torch.Tensor:
        if room is None or not all(part.is_contiguous() for part in parts):
            return super().concat(parts, axis, room)
        rows, apart, start = room.shape[:axis].numel(), room.shape[axis:].numel(), 0
        flat = room.view(-1)
        for part in parts:
            length = part.shape[axis:].numel()
            if rows and length:
                self._copy_rows(rows, length, part, length, flat[start:], apart)
            start += length
        return room

    def part(
        self, x: torch.Tensor, axis: int, start: int, length: int, room: torch.Tensor | None = None
    ) -> torch.Tensor:
        if room is None or not x.is_contiguous():
            return super().part(x, axis, start, length, room)
        inner = x.shape[axis + 1 :].numel()
        if room.numel():
            apart = x.shape[axis] * inner
            self._copy_rows(
                x.shape[:axis].numel(), length * inner, x.view(-1)[start * inner :], apart, room, length * inner
            )
        return room

    def _copy_rows(self, rows: int, length: int, x: torch.Tensor, x_apart: int, y: torch.Tensor, y_apart: int) -> None:
        self._call("copy_rows", rows, length, x, x_apart, y, y_apart, torch.get_num_threads())

    # eltwise_layer.cpp
    def greatest(
        self, parts: Sequence[torch.Tensor], room: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        greatest, *others = parts
        y = torch.empty(greatest.shape) if room is None else room
        mask = torch.empty(y.shape, dtype=torch.int64)
        for i, x in enumerate(others, 1):
            self._call("greater", y.numel(), greatest, x, i, y, mask, torch.get_num_threads())
            greatest = y
        return y, mask

    # lrn_layer.cpp
    def lrn_scale(self, x: torch.Tensor, size: int, factor: float, k: float) -> torch.Tensor:
        x, scale = x.contiguous(), torch.empty(x.shape)
        sizes = *x.shape[:2], x.shape[2:].numel()
        self._call("lrn_scale", *sizes, size, factor, k, x, scale, torch.get_num_threads())
        return scale

    # pooling_layer.cpp
    def average_pool(
        self, x: torch.Tensor, window: Window, out: Sequence[int], room: torch.Tensor | None = None
    ) -> torch.Tensor:
        x, y = x.contiguous(), torch.empty(*x.shape[:2], *out) if room is None else room
        self._average(x, y, window, back=False)
        return y

    def average_pool_backward(self, dy: torch.Tensor, window: Window, size: Sequence[int]) -> torch.Tensor:
        dy, dx = dy.contiguous(), torch.zeros(*dy.shape[:2], *size)
        self._average(dx, dy, window, back=True)
        return dx

    def max_pool(
        self, x: torch.Tensor, window: Window, out: Sequence[int], room: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x, shape = x.contiguous(), (*x.shape[:2], *out)
        y, index = torch.empty(shape) if room is None else room, torch.empty(shape, dtype=torch.int64)
        sizes = x.shape[:2].numel(), *x.shape[2:], *out, *window.kernel, *window.stride, *window.pad
        self._call("max", *sizes, x, y, index, torch.get_num_threads())
        return y, index

    def _average(self, x: torch.Tensor, y: torch.Tensor, window: Window, *, back: bool) -> None:
        sizes = x.shape[:2].numel(), *x.shape[2:], *y.shape[2:], *window.kernel, *window.stride, *window.pad
        self._call("average", *sizes, x, y, int(back), torch.get_num_threads())

    # argmax_layer.cpp
    def greatest_along(self, x: torch.Tensor, axis: int, top: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, shape = x.contiguous(), (*x.shape[:axis], top, *x.shape[axis + 1 :])
        places, values = torch.empty(shape), torch.empty(shape)
        self._call("greatest", *_around(x, axis), top, x, places, values, torch.get_num_threads())
        return places, values

    # softmax_layer.cpp, softmax_loss_layer.cpp
    def softmax(self, x: torch.Tensor, axis: int, room: torch.Tensor | None = None) -> torch.Tensor:
        x, y = x.contiguous(), torch.empty(x.shape) if room is None else room
        self._call("softmax", *_around(x, axis), x, y, torch.get_num_threads())
        return y

    def label_loss(
        self,
        p: torch.Tensor,
        label: torch.Tensor,
        axis: int,
        ignored: int | None,
        divisor: float,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """One after the other. Source: softmax_loss_layer.cpp."""
        loss = torch.empty(()) if room is None else room
        labels = label.contiguous(), int(ignored is not None), ignored or 0
        refused = self._call("label_loss", *_around(p, axis), p.contiguous(), *labels, divisor, loss)
        return None if refused else loss

    # sigmoid_cross_entropy_loss_layer.cpp
    def sigmoid_loss(
        self,
        x: torch.Tensor,
        target: torch.Tensor,
        ignored: int | None,
        divisor: float,
        room: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        loss = torch.empty(()) if room is None else room
        targets = target.contiguous(), int(ignored is not None), ignored or 0
        self._call("sigmoid_loss", x.numel(), x.contiguous(), *targets, divisor, loss)
        return loss

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
        shapes = ((), (x.shape[axis],))
        y = [torch.empty(shape) if room is None else room for shape, room in zip(shapes, rooms, strict=False)]
        labels = label.contiguous(), int(ignored is not None), ignored or 0
        each = y[1] if len(y) > 1 else None
        refused = self._call("accuracy", *_around(x, axis), top_k, x.contiguous(), *labels, y[0], each)
        return None if refused else y

    # embed_layer.cpp
    def embed(
        self, places: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, room: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        places, y = places.contiguous(), torch.empty(places.numel(), w.shape[1]) if room is None else room
        refused = self._call("embed", places.numel(), *w.shape, places, w.contiguous(), b, y)
        return None if refused else y

    # im2col_layer.cpp
    def im2col(self, x: torch.Tensor, window: Window, room: torch.Tensor | None = None) -> torch.Tensor:
        x, patches = x.contiguous(), _patches(window, x.shape[2:])
        rows = patches.rows(x.shape[1])
        y = torch.empty(x.shape[0], rows.numel(), *patches.out) if room is None else room
        sizes = *x.shape[:2], patches.columns.numel(), rows.numel()
        places = x, x.shape[1:].numel(), rows, patches.columns, *patches.padding
        self._call("im2col", *sizes, *places, y, torch.get_num_threads())
        return y


def _around(x: torch.Tensor, axis: int) -> tuple[int, int, int]:
    """How many values lie outside of an axis, along it, inside."""
    return x.shape[:axis].numel(), x.shape[axis], x.shape[axis + 1 :].numel()


class Patches:
    """What im2col finds where, for this window over images of `size`: offsets in a padded image, row-major."""

    def __init__(self, window: Window, size: Sequence[int]) -> None:
        self.window, self.size = window, tuple(size)
        ones, zeros = (1,) * window.num_axes, (0,) * window.num_axes
        self.plain = (window.kernel, window.stride, window.pad) == (ones, ones, zeros)  # im2col would change nothing
        self.padded, self.out = window.padded_size(size), window.output_size(size)
        self.columns = self._places(self.out, window.stride)  # of the first value of each patch, in a plane
        self._kernel = self._places(window.kernel, window.dilation)  # of the others, from the first
        self._rows: dict[int, torch.Tensor] = {}
        self._margins = [p for q in reversed(window.pad) for p in (q, q)] if any(window.pad) else None
        self.padding = self._padding()  # as the kernel `conv` takes it

    def _places(self, counts: Sequence[int], steps: Sequence[int]) -> torch.Tensor:
        """Of each point of a grid in a padded plane."""
        places = torch.zeros(1, dtype=torch.int64)
        for n, step, size in zip(counts, steps, self.padded, strict=True):
            places = (places[:, None] * size + torch.arange(n) * step).reshape(-1)
        return places

    def _padding(self) -> tuple[int, int, int, torch.Tensor | None]:
        """Lines of a plane, their length, the values of a padded plane, and where each line begins there."""
        if self._margins is None:
            return 0, 0, 0, None
        *before, last = self.size
        starts, first = self._places((*before, 1), (1,) * len(self.size)), 0
        for size, p in zip(self.padded, self.window.pad, strict=True):
            first = first * size + p
        return math.prod(before), last, math.prod(self.padded), starts + first

    def rows(self, channels: int) -> torch.Tensor:
        """Of a patch's values from its first: channel by channel, the places of the kernel."""
        rows = self._rows.get(channels)
        if rows is None:
            rows = (torch.arange(channels)[:, None] * math.prod(self.padded) + self._kernel).reshape(-1)
            self._rows[channels] = rows
        return rows

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, C, *size) with its padding, contiguous."""
        return (x if self._margins is None else torch.constant_pad_nd(x, self._margins)).contiguous()

    def unpad(self, x: torch.Tensor) -> torch.Tensor:
        """x without its padding: (N, C, *size)."""
        for axis, (p, size) in enumerate(zip(self.window.pad, self.size, strict=True), 2):
            x = x.narrow(axis, p, size)
        return x


@functools.lru_cache(maxsize=256)  # every convolution of a net comes back with the same
def _patches(window: Window, size: tuple[int, ...]) -> Patches:
    return Patches(window, size)


@functools.cache
def _load() -> tuple[CaffeMath | None, str]:
    order = order_here()
    if isinstance(order, str):
        return None, order
    try:
        library = compiler.load("caffe_math", ["-ffp-contract=off"])
    except (compiler.BuildError, OSError) as error:
        return None, str(error)
    declare(library)
    return CaffeMath(library, order), ""


def declare(library: ctypes.CDLL) -> None:
    """What the kernels are called with."""
    i, f, p, r = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p, Result
    images = [i] * 8 + [p, i, i, p, p]  # to where the patches lie
    for name, types in {
        **{f"each_{formula}": [i, i, i, p, p, f, f, r, i] for formula in FORMULAS},
        "gemm": [i] * 6 + [p, i, i, p, i, i, r, i, i],
        "columns": [i, i, p, p],
        "axpby": [i, f, p, f, p, r, i],
        "rows": [i, i, f, p, r, i],
        "dot": [i, i, i, p, p, r, i],
        "copy": [i, p, r],
        "copy_rows": [i, i, p, i, r, i, i],
        "copy_view": [i, p, p, p, r, i],
        "greater": [i, p, p, i, r, r, i],
        "lrn_scale": [i, i, i, i, f, f, p, r, i],
        "conv": [*images, i, i, i, p, p, p, r, i],
        "conv_weight": [*images, p, p, i],
        "conv_data": [*images[:8], r, *images[9:], p, p, i, i, i],
        "conv_bias": [i, i, i, p, p, i],
        "average": [i] * 11 + [p, r, i, i],
        "max": [i] * 11 + [p, r, r, i],
        "greatest": [i, i, i, i, p, r, r, i],
        "softmax": [i, i, i, p, r, i],
        "label_loss": [i, i, i, p, p, i, i, f, r],
        "sigmoid_loss": [i, p, p, i, i, f, r],
        "accuracy": [i, i, i, i, p, p, i, i, r, r],
        "embed": [i, i, i, p, p, p, r],
        "im2col": [i, i, i, i, p, i, p, p, i, i, i, p, r, i],
    }.items():
        function = getattr(library, f"caffe_{name}")
        function.argtypes, function.restype = types, i if name in REFUSING else None
    library.caffe_number.argtypes, library.caffe_number.restype = [ctypes.c_char_p], i
    library.caffe_play.argtypes, library.caffe_play.restype = [p, p], p


@functools.cache
def find() -> CaffeMath | None:
    """Caffe's order; None, after a line in the log, where this machine has it not.

    Compiles the kernels on the first call.
    """
    reason = why_not()
    if reason is not None:
        glog.warning("caffe_math.py:1", f"Sums are taken in PyTorch's order, not in Caffe's: {reason}")
    return _load()[0]


def why_not() -> str | None:
    """What keeps this machine from Caffe's order, in words; None where nothing does."""
    found, reason = _load()
    return None if found else reason
