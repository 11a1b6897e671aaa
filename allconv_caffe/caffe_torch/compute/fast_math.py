"""The fastest sums for forward passes on the CPU: images channels_last, convolution by Winograd's identity where that is less work.

Results differ from those in Caffe's order by rounding alone. What has no kernel here is `CaffeMath`'s, in C order, and what backward
does not give as a convolution without stride is PyTorch's.
The arithmetic is in kernels/channels_last.cpp.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from allconv_caffe.caffe_torch.blob import Blob, Memory
from allconv_caffe.caffe_torch.compute import conv_algo, layout, openblas, phases, winograd
from allconv_caffe.caffe_torch.compute.caffe_math import CaffeMath, declare
from allconv_caffe.caffe_torch.compute.layout import ChannelsLast, channels_last, layout_of
from allconv_caffe.caffe_torch.compute.math_functions import Scalar, TorchMath, Wanted
from allconv_caffe.caffe_torch.compute.program import Call, Result, place_of
from allconv_caffe.caffe_torch.compute.window import Window
from allconv_caffe.caffe_torch.tracing import current

DIRECT = 0  # tiles of so many outputs a side; Winograd's otherwise
#: what Winograd's transforms of a channel of a tile of so many places a side cost, in multiply-adds: measured
TRANSFORM = {4: 150, 6: 730}
CLEARING = ("last_conv", "last_winograd", "last_affine")  # kernels that may clear what is negative before they store
FETCH = 10  # and a filter's number, that comes from memory


PYTORCH = TorchMath()


class Pack:
    """Filters in the order in which a kernel meets them; made anew where they have changed.

    Attributes:
        numbers: what the kernel takes, by another type's name: no array of a blob.
    """

    def __init__(self, library: ctypes.CDLL, w: torch.Tensor, group: int, tile: int) -> None:
        self._library, self._w, self._group, self._tile = library, w, group, tile
        self._digest = self._sums()
        self.numbers = self._packed().view(torch.int32)
        self.memory = Memory(0, w.device)
        self.flat = w  # the memory's, where the filters lie
        self.looks, self.version = -1, -1  # of the memory, when the filters were last looked at

    def is_of(self, w: torch.Tensor, group: int, tile: int) -> bool:
        same = self._w.data_ptr() == w.data_ptr() and self._w.shape == w.shape
        return same and (self._group, self._tile) == (group, tile)

    def renew(self) -> None:
        """Looks at the filters, and packs them again if they are others than before."""
        digest = self._sums()
        if digest != self._digest:
            self._digest = digest
            self.numbers.copy_(self._packed().view(torch.int32))

    def find(self, memories: Sequence[Memory]) -> bool:
        """Returns whether the filters lie in one of these memories, where their changes are followed from now on."""
        place = place_of(self._w, memories)
        if place is not None:
            self.memory = place[0]
        return place is not None

    def stay(self) -> None:
        """From now on `flat` says where the filters lay."""
        self.flat = self.memory.tensor()

    def follow(self) -> None:
        """`renew`, unless nobody can have written to the filters since the last time."""
        memory, version = self.memory, self.flat._version
        if (memory.looks, version) != (self.looks, self.version) or memory.is_seen:
            self.renew()
            self.looks, self.version = memory.looks, version

    def _sums(self) -> tuple[int, int]:
        kept = (ctypes.c_int64 * 2)()
        self._library.caffe_last_digest(self._w.numel(), self._w.data_ptr(), kept, torch.get_num_threads())
        return kept[0], kept[1]

    def _packed(self) -> torch.Tensor:
        """For each group, and each of the tile's places, panels of outputs, the last one narrower: products by outputs."""
        w = self._w
        outputs, tile = w.shape[0] // self._group, self._tile
        if tile == DIRECT:
            by_product = w.reshape(self._group, outputs, w.shape[1], -1).permute(0, 3, 2, 1)
            by_product = by_product.reshape(self._group, -1, outputs)
        else:
            g = winograd.filter_transform(tile, w, w.shape[2])
            by_product = torch.einsum("ir,js,gocrs->gijco", g, g, w.reshape(self._group, outputs, *w.shape[1:]))
            by_product = by_product.flatten(0, 2)
        lanes = self._library.caffe_last_lanes()
        panels = []
        for part in by_product.split(2 * lanes, 2):
            wide = lanes if part.shape[2] <= lanes else 2 * lanes
            panels.append(torch.constant_pad_nd(part, (0, wide - part.shape[2])).flatten(1))
        return torch.cat(panels, 1).contiguous()


class FastMath(CaffeMath):
    """The verbs for one layer, which keeps its filters packed.

    Args:
        library: the kernels.
        forgets: nobody will run the layer backward: it keeps nothing for that.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        order = openblas.order_here()
        super().__init__(library, openblas.HASWELL if isinstance(order, str) else order)
        self.forgets = False
        self._packs: list[Pack] = []
        self._back: FastMath | None = None
        self._filters = torch.empty(0)

    @contextmanager
    def recording(self) -> Iterator[list[Call]]:
        self._packs = []
        with super().recording() as calls:
            yield calls

    @property
    def packs(self) -> Sequence[Pack]:
        """What the last forward that was recorded took."""
        return self._packs

    # layouts
    def restore(self, flat: torch.Tensor, lies: ChannelsLast) -> None:
        """Brings images that lie channels_last at the beginning of `flat` into C order there."""
        self._reorder(lies.shape, 0, flat)

    def _reorder(self, shape: Sequence[int], last: int, flat: torch.Tensor) -> None:
        n, c, h, w = shape
        self._call("last_reorder", n, c, h * w, last, flat, torch.get_num_threads())

    def _last(self, x: torch.Tensor) -> torch.Tensor:
        """x channels_last."""
        lies = channels_last(x.shape)
        if lies is None or layout_of(x) is not None:
            return x
        flat = self.copy(x.contiguous(), torch.empty(x.shape)).view(-1)
        self._reorder(x.shape, 1, flat)
        return lies.view(flat)

    def _in_order(self, x: torch.Tensor) -> torch.Tensor:
        """x in C order."""
        lies = layout_of(x)
        if lies is None:
            return x.contiguous()
        flat = self._flat(x)
        flat = self.copy(flat, torch.empty(x.numel()))
        self.restore(flat, lies)
        return flat.view(x.shape)

    @staticmethod
    def _flat(x: torch.Tensor) -> torch.Tensor:
        """The values of x one after the other as they lie."""
        return x.as_strided((x.numel(),), (1,))

    @staticmethod
    def _like(shape: Sequence[int], room: torch.Tensor | None) -> torch.Tensor:
        """`room`, if it may lie so, or new memory, for images of this shape channels_last."""
        flat = torch.empty(math.prod(shape)) if room is None or current() is None else room.view(-1)
        lies = channels_last(shape)
        return flat.view(tuple(shape)) if lies is None else lies.view(flat)

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
        """Images channels_last stay so, where `a` is a number, lies along the channels, or lies as they do."""
        if layout_of(x) is None:
            if isinstance(a, torch.Tensor) and layout_of(a) is not None:
                a = self._in_order(a)
            if is_quarters(formula, a, b):
                return self._quarters(x, a, b, room)
            return super().each(formula, x, a, b, axis=axis, room=room)
        y = self._like(x.shape, room)
        flat, to = self._flat(x), self._flat(y)
        if isinstance(a, torch.Tensor) and a.numel() > 1:
            if a.shape == x.shape:
                a = self._last(a)
                if is_quarters(formula, a, b):
                    return self._quarters(x, a, b, y)
                super().each(formula, flat, self._flat(a), b, room=to)
            elif a.dim() == 1 and axis == 1:
                pixels = flat.view(-1, x.shape[1])
                super().each(formula, pixels, a, b, axis=1, room=to.view(pixels.shape))
            else:
                return super().each(formula, self._in_order(x), a, b, axis=axis, room=room)
        else:
            super().each(formula, flat, a.reshape(()) if isinstance(a, torch.Tensor) else a, b, room=to)
        return y

    def _quarters(self, x: torch.Tensor, a: Scalar, b: float, room: torch.Tensor | None) -> torch.Tensor:
        """x a^(-3/4), which lie alike, as does `room`."""
        assert isinstance(a, torch.Tensor)
        y = torch.empty_like(x) if room is None else room
        self._call("last_quarters", x.numel(), self._flat(x), self._flat(a), self._flat(y), torch.get_num_threads())
        return y

    def clone(self, x: torch.Tensor) -> torch.Tensor:
        if self.forgets:
            return torch.empty(0)
        return super().clone(x) if layout_of(x) is None else self.copy(x, torch.empty(x.shape))

    def copy(self, x: torch.Tensor, room: torch.Tensor | None = None) -> torch.Tensor:
        if room is None or layout_of(x) is None:
            return super().copy(x, room)
        y = self._like(x.shape, room)
        super().copy(self._flat(x), self._flat(y))
        return y

    # math_functions.cpp
    def accumulate_gemm(self, blob: Blob, a: torch.Tensor, b: torch.Tensor) -> None:
        PYTORCH.accumulate_gemm(blob, a, b)

    def inner_product(
        self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, room: torch.Tensor | None = None
    ) -> torch.Tensor:
        """By rows of w's transpose, where they lie in one piece: each of them is read once."""
        if not (x.is_contiguous() and w.t().is_contiguous() and x.numel() and w.numel()):
            return super().inner_product(x, w, b, room)
        y = torch.empty(x.shape[0], w.shape[1]) if room is None else room
        self._call("last_product", *y.shape, x.shape[1], x, w, b, y, torch.get_num_threads())
        return y

    def product_with_packed(
        self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None, y: torch.Tensor
    ) -> torch.Tensor:
        """y = x (M, K) times the transpose of w (N, K), which is kept packed, + b (N), all in C order."""
        (m, k), n = x.shape, w.shape[0]
        pack = self._pack(w.view(n, k, 1, 1), 1, DIRECT)
        sizes = 1, k, 1, m, n, 1, m, *(1,) * 4, 0, 0, *(1,) * 3  # a convolution of one row of M pixels
        self._call("last_conv", *sizes, 0, x, pack.numbers, b, 0, y, torch.get_num_threads())
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
        if window.num_axes != 2 or not x.numel():
            return super().convolution(self._in_order(x), w, b, window, room)
        (n, c, *size), o, out = x.shape, w.shape[0], window.output_size(x.shape[2:])
        y = self._like((n, o, *out), room)
        if not y.numel():
            return y
        tile = fastest(n, w, window, out, self.library.caffe_last_lanes())
        pack = self._pack(w.contiguous(), window.group, tile)
        threads = torch.get_num_threads()
        if tile == DIRECT:
            x = x if layout_of(x) is not None else x.contiguous()
            planar = layout_of(x) is None and channels_last(x.shape) is not None
            sizes = n, c, *size, o, *out, *window.kernel, *window.stride, *window.pad, *window.dilation, window.group
            self._call("last_conv", *sizes, int(planar), x, pack.numbers, b, 0, y, threads)
        else:
            sizes = tile, n, c, *size, o, *out, window.kernel[0], window.pad[0], window.group
            self._call("last_winograd", *sizes, self._last(x), pack.numbers, b, 0, y, threads)
        return y

    def convolution_backward(
        self, dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, window: Window, wanted: Wanted
    ) -> torch.Tensor | None:
        """dx as a convolution of dy without stride, where that is less work; the rest is PyTorch's."""
        if not wanted.dx or window.num_axes != 2 or not dy.numel():
            return PYTORCH.convolution_backward(dy, x, w, window, wanted)
        if phases.fit(w, window):
            filters = phases.filters(w, window)
            dx = phases.placed(self._convolved(dy, filters, phases.around(filters)), window, x.shape[2:])
        else:
            within = window.turned() if window.kernel in winograd.TILES else None
            if within is None:
                return PYTORCH.convolution_backward(dy, x, w, window, wanted)
            filters = conv_algo.turned(w, window.group)
            if fastest(len(dy), filters, within, x.shape[2:], self.library.caffe_last_lanes()) == DIRECT:
                return PYTORCH.convolution_backward(dy, x, w, window, wanted)
            dx = self._convolved(dy, filters, within)
        PYTORCH.convolution_backward(dy, x, w, window, replace(wanted, dx=False))
        return dx

    def _convolved(self, dy: torch.Tensor, filters: torch.Tensor, window: Window) -> torch.Tensor:
        """For dx, by filters that are kept packed apart from those of forward."""
        if self._filters.shape != filters.shape:
            self._filters = torch.empty(filters.shape)
        self._filters.copy_(filters)  # always here: so their pack is found again
        if self._back is None:
            self._back = FastMath(self.library)
        return self._back.convolution(dy, self._filters, None, window)

    def _pack(self, w: torch.Tensor, group: int, tile: int) -> Pack:
        for pack in self._packs:
            if pack.is_of(w, group, tile):
                pack.renew()
                return pack
        self._packs.append(Pack(self.library, w, group, tile))
        return self._packs[-1]

    # relu_layer.cpp
    def concat(self, parts: Sequence[torch.Tensor], axis: int, room: torch.Tensor | None = None) -> torch.Tensor:
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        if axis != 1 or all(layout_of(part) is None for part in parts):
            return super().concat([self._in_order(part) for part in parts], axis, room)
        y, start, channels = self._like(shape, room), 0, shape[1]
        flat = self._flat(y)
        for part in parts:
            length = part.shape[1]
            self._copy_rows(y.numel() // channels, length, self._last(part), length, flat[start:], channels)
            start += length
        return y

    def part(
        self, x: torch.Tensor, axis: int, start: int, length: int, room: torch.Tensor | None = None
    ) -> torch.Tensor:
        if axis != 1 or layout_of(x) is None:
            return super().part(self._in_order(x), axis, start, length, room)
        channels = x.shape[1]
        y = self._like((x.shape[0], length, *x.shape[2:]), room)
        self._copy_rows(x.numel() // channels, length, self._flat(x)[start:], channels, self._flat(y), length)
        return y

    # eltwise_layer.cpp
    def greatest(
        self, parts: Sequence[torch.Tensor], room: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if all(layout_of(part) is None for part in parts):
            return super().greatest(parts, room)
        lies = channels_last(parts[0].shape)
        assert lies is not None
        y = self._like(lies.shape, room)
        _, mask = super().greatest([self._flat(self._last(part)) for part in parts], self._flat(y))
        return y, lies.view(mask)

    # batch_norm_layer.cpp, scale_layer.cpp
    def normalized(
        self, x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, room: torch.Tensor | None = None
    ) -> torch.Tensor:
        if layout_of(x) is None:
            return super().normalized(x, mean, std, room)
        y, pixels = self._like(x.shape, room), x.numel() // x.shape[1]
        self._call("last_normalized", pixels, x.shape[1], x, mean, std, y, torch.get_num_threads())
        return y

    def affine(
        self, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, axes: tuple[int, int], room: torch.Tensor | None = None
    ) -> torch.Tensor:
        if layout_of(x) is None or axes != (1, 1) or not a.shape == b.shape == x.shape[1:2]:
            return super().affine(x, a, b, axes, room)
        y, pixels = self._like(x.shape, room), x.numel() // x.shape[1]
        self._call("last_affine", pixels, x.shape[1], x, a, b, 0, y, torch.get_num_threads())
        return y

    # lrn_layer.cpp
    def lrn_scale_within(self, x: torch.Tensor, window: Window, alpha: float) -> torch.Tensor:
        x = self._last(x)
        if layout_of(x) is None:
            return super().lrn_scale_within(x, window, alpha)
        scale = self._like(x.shape, None)
        self._call("last_within", *x.shape, window.kernel[0], alpha, x, scale, torch.get_num_threads())
        return scale

    def lrn_scale(self, x: torch.Tensor, size: int, factor: float, k: float) -> torch.Tensor:
        x = self._last(x)
        scale = self._like(x.shape, None)
        self._call("last_lrn", x.numel() // x.shape[1], x.shape[1], size, factor, k, x, scale, torch.get_num_threads())
        return scale

    # pooling_layer.cpp
    def max_pool(
        self, x: torch.Tensor, window: Window, out: Sequence[int], room: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if layout_of(x) is None:
            return super().max_pool(x, window, out, room)
        shape = (*x.shape[:2], *out)
        y, lies, index = self._like(shape, room), channels_last(shape), None
        if not self.forgets:
            flat = torch.empty(y.numel(), dtype=torch.int32)
            index = flat.view(shape) if lies is None else lies.view(flat)
        sizes = *x.shape, *out, *window.kernel, *window.stride, *window.pad
        self._call("last_max", *sizes, x, y, index, torch.get_num_threads())
        return y, torch.empty(0) if index is None else index

    def average_pool(
        self, x: torch.Tensor, window: Window, out: Sequence[int], room: torch.Tensor | None = None
    ) -> torch.Tensor:
        if layout_of(x) is None:
            return super().average_pool(x, window, out, room)
        y = self._like((*x.shape[:2], *out), room)
        sizes = *x.shape, *out, *window.kernel, *window.stride, *window.pad
        self._call("last_average", *sizes, x, y, torch.get_num_threads())
        return y

    def average_pool_backward(self, dy: torch.Tensor, window: Window, size: Sequence[int]) -> torch.Tensor:
        return PYTORCH.average_pool_backward(dy, window, size)

    # softmax_layer.cpp
    def softmax(self, x: torch.Tensor, axis: int, room: torch.Tensor | None = None) -> torch.Tensor:
        if layout_of(x) is None or axis != 1:
            return super().softmax(self._in_order(x), axis, room)
        y = self._like(x.shape, room)
        pixels = self._flat(x).view(-1, x.shape[1])
        super().softmax(pixels, 1, self._flat(y).view(pixels.shape))
        return y


def relu_word(library: ctypes.CDLL, calls: Sequence[Call], following: Sequence[Call]) -> int | None:
    """Which argument of the last of `calls`, counted from its end, makes it do what `following` does, a ReLU in place; None: none."""
    if not calls or len(following) != 1 or following[0][0] != "each_relu" or calls[-1][0] not in CLEARING:
        return None
    name, arguments = calls[-1]
    kinds = getattr(library, f"caffe_{name}").argtypes
    place = kinds.index(Result)
    y, (_, _, count, x, slopes, slope, _, to, _) = arguments[place], following[0][1]
    if not (isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and isinstance(to, torch.Tensor)):
        return None
    alike = slopes is None and slope == 0 and count == y.numel()
    return place - 1 - len(kinds) if alike and x.data_ptr() == y.data_ptr() == to.data_ptr() else None


def is_quarters(formula: str, a: Scalar, b: float) -> bool:
    """Whether this is LRN's usual x a^(-3/4), which square roots give faster."""
    return formula == "times_power" and b == -0.75 and isinstance(a, torch.Tensor)


def fastest(n: int, w: torch.Tensor, window: Window, out: Sequence[int], lanes: int) -> int:
    """By which tiles n images are convolved with the least work: `DIRECT`, 2 or 4."""
    o, c = w.shape[0] // window.group, w.shape[1]
    whole = o % lanes == c % lanes == 0 and window.pad[0] == window.pad[1]
    if not whole or window.stride != (1, 1) or window.dilation != (1, 1):
        return DIRECT
    work = {DIRECT: float(math.prod(window.kernel) * o * c * (n * math.prod(out) + FETCH))}
    for tile in winograd.TILES.get(window.kernel, ()):
        places, tiles = tile + window.kernel[0] - 1, n * math.prod(-(-size // tile) for size in out)
        work[tile] = places**2 * o * c * (tiles + FETCH) + tiles * TRANSFORM[places] * (o + c)
    return min(work, key=lambda tile: work[tile])


@functools.cache
def _library() -> ctypes.CDLL | str:
    found = layout.library()
    return found if isinstance(found, str) else declared(found)


def declared(found: ctypes.CDLL) -> ctypes.CDLL:
    """The library, its kernels' arguments declared."""
    declare(found)
    i, f, p, r = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p, Result
    for name, types in {
        "conv": [i] * 17 + [p, p, p, i, r, i],
        "winograd": [i] * 11 + [p, p, p, i, r, i],
        "normalized": [i, i, p, p, p, r, i],
        "affine": [i, i, p, p, p, i, r, i],
        "within": [i] * 5 + [f, p, r, i],
        "max": [i] * 12 + [p, r, r, i],
        "average": [i] * 12 + [p, r, i],
        "lrn": [i, i, i, f, f, p, r, i],
        "quarters": [i, p, p, r, i],
        "reorder": [i, i, i, i, p, i],
        "product": [i, i, i, p, p, p, r, i],
        "digest": [i, p, p, i],
        "lanes": [],
    }.items():
        function = getattr(found, f"caffe_last_{name}")
        function.argtypes, function.restype = types, i if name == "lanes" else None
    return found


def find() -> FastMath | None:
    """The verbs for one layer more; None where this machine has no kernels. They are compiled on the first call."""
    found = _library()
    return None if isinstance(found, str) else FastMath(found)


def is_built() -> bool:
    """Whether the kernels have been compiled, so that `find` takes no time."""
    return layout.is_built()


def why_not() -> str | None:
    """What keeps this machine from the kernels, in words; None where nothing does."""
    found = _library()
    return found if isinstance(found, str) else None
