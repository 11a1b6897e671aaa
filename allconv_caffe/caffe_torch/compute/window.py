"""The window that slides over an image: what convolution, deconvolution, im2col and pooling have in common.

Source: base_conv_layer.cpp, conv_layer.cpp, deconv_layer.cpp, pooling_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from allconv_caffe.caffe_torch.errors import check


@dataclass(frozen=True, kw_only=True)
class Window:
    """A window of n spatial axes; of every field but `group` one number for each axis."""

    kernel: tuple[int, ...]  # values under the window
    stride: tuple[int, ...]  # from one of its places in the image to the next
    pad: tuple[int, ...]  # zeros before the image, and as many behind it
    dilation: tuple[int, ...]  # from one value under the window to the next
    group: int = 1  # parts into which the channels fall that are convolved apart

    @property
    def num_axes(self) -> int:
        return len(self.kernel)

    @property
    def extent(self) -> tuple[int, ...]:
        """d (k - 1) + 1: from the first value under the window to the last, both included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def padded_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """h + 2p: of an image of `size` with its padding."""
        return tuple(h + 2 * p for h, p in zip(size, self.pad, strict=True))

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """(h + 2p - extent) / s + 1: the places of the window in an image of `size`; divided as C does, towards 0.

        So a window that is larger than the padded image by less than its stride has one place. It sees zeros behind.
        """
        room = (h - e for h, e in zip(self.padded_size(size), self.extent, strict=True))
        return tuple(r // s + 1 if r >= 0 else 1 - (-r // s) for r, s in zip(room, self.stride, strict=True))

    def behind(self, size: Sequence[int]) -> tuple[int, ...]:
        """How far the first window reaches behind the padded image."""
        return tuple(max(0, e - h) for h, e in zip(self.padded_size(size), self.extent, strict=True))

    def pooled_size(self, size: Sequence[int], up: bool) -> tuple[int, ...]:
        """(h + 2p - k) / s + 1, rounded up or down: a pooling's places.

        If there is padding along any axis, a last window that would begin behind image and padding is dropped.
        """
        out = []
        for h, k, p, s in zip(size, self.kernel, self.pad, self.stride, strict=True):
            room = h + 2 * p - k
            places = (-(-room // s) if up else room // s) + 1
            out.append(places - 1 if any(self.pad) and (places - 1) * s >= h + p else places)
        return tuple(out)

    def input_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """s (h - 1) + extent - 2p: the image that `size` places of the window just cover, a deconvolution's output."""
        return tuple(
            s * (h - 1) + e - 2 * p for h, e, s, p in zip(size, self.extent, self.stride, self.pad, strict=True)
        )

    def turned(self) -> Window | None:
        """The window through which dy gives dx, with filters turned by 180 degrees; None with strides, or for padding below 0."""
        pad = tuple(e - 1 - p for e, p in zip(self.extent, self.pad, strict=True))
        return None if set(self.stride) != {1} or min(pad) < 0 else replace(self, pad=pad)

    def covers(self, size: Sequence[int]) -> bool:
        """Whether one window lies over the whole of an image of `size`, and over nothing else."""
        return self.kernel == tuple(size) and not any(self.pad)

    def margins(self, size: Sequence[int], out: Sequence[int]) -> tuple[int, ...]:
        """What makes an image of `size` exactly as long as `out` windows reach: before and behind it, the last axis first."""
        return tuple(
            margin
            for h, k, s, p, n in reversed(list(zip(size, self.kernel, self.stride, self.pad, out, strict=True)))
            for margin in (p, (n - 1) * s + k - p - h)
        )

    def within(self, size: Sequence[int]) -> Window:
        """The same places in an image of `size`, by no stride beyond image and window: PyTorch's kernels hang or crash there."""
        far = tuple(max(h, e) for h, e in zip(self.padded_size(size), self.extent, strict=True))
        stride = tuple(min(s, most) for s, most in zip(self.stride, far, strict=True))
        return self if stride == self.stride else replace(self, stride=stride)

    def without_first_axis(self) -> Window:
        """The same window over the axes that follow the first."""
        return Window(
            kernel=self.kernel[1:],
            stride=self.stride[1:],
            pad=self.pad[1:],
            dilation=self.dilation[1:],
            group=self.group,
        )


def c_int(number: int) -> int:
    """A field of type uint32 or int64 as Caffe reads it, into an int: the low 32 bits, signed."""
    return (number + 2**31) % 2**32 - 2**31


def _padding(values: Sequence[int]) -> tuple[int, ...]:
    """Caffe looks at less of the image where 2^32 - 1 makes an int of -1: nobody means that."""
    pad = tuple(c_int(p) for p in values)
    for p in pad:
        check(p >= 0, f"pad must be at least 0, found {p}")
    return pad


def per_axis(values: Sequence[int], axes: int, default: int, word: str) -> list[int]:
    """A repeated field spread over the spatial axes: none (but for the kernel), one for all, or one each."""
    check(
        len(values) in (1, axes) or (not values and word != "kernel_size"),
        f"{word} must be specified once, or once per spatial dimension ({word} specified {len(values)} times; "
        f"{axes} spatial dims).",
    )
    return [default] * axes if not values else [values[0]] * axes if len(values) == 1 else list(values)


def spatial(param: Any, word: str, axes: int, default: int) -> list[int]:
    """kernel, pad or stride of a convolution_param: `<word>_h` and `<word>_w`, or the repeated field."""
    field = f"{word}_size" if word == "kernel" else word
    h, w = param.HasField(f"{word}_h"), param.HasField(f"{word}_w")
    if not (h or w):
        return per_axis(list(getattr(param, field)), axes, default, field)
    check(axes == 2, f"{word}_h & {word}_w can only be used for 2D convolution.")
    check(not getattr(param, field), f"Either {field} or {word}_h/w should be specified; not both.")
    return [getattr(param, f"{word}_h"), getattr(param, f"{word}_w")]


def read_window(param: Any, axes: int) -> Window:
    """The window of a convolution_param over `axes` spatial axes. Raises CaffeError where it has no values or no step."""
    kernel = tuple(c_int(k) for k in spatial(param, "kernel", axes, 0))
    for k in kernel:
        check(k > 0, "Filter dimensions must be nonzero.")
    stride = tuple(c_int(s) for s in spatial(param, "stride", axes, 1))
    for s in stride:
        check(s > 0, "Stride dimensions must be nonzero.")
    pad = _padding(spatial(param, "pad", axes, 0))
    dilation = tuple(c_int(d) for d in per_axis(list(param.dilation), axes, 1, "dilation"))
    for d in dilation:
        check(d > 0, f"dilation must be at least 1, found {d}")  # Caffe reads one pixel for the whole kernel
    return Window(kernel=kernel, stride=stride, pad=pad, dilation=dilation, group=c_int(param.group))


def read_pooling(param: Any, size: Sequence[int]) -> Window:
    """The window of a pooling_param over an image of `size`, which is all that global pooling looks at."""

    def pair(word: str, one: str) -> tuple[int, ...]:
        apart = param.HasField(f"{word}_h") and not param.HasField(one)
        words = [f"{word}_h", f"{word}_w"] if apart else [one, one]
        return tuple(c_int(getattr(param, each)) for each in words)

    kernel = tuple(size) if param.global_pooling else pair("kernel", "kernel_size")
    pad = _padding(pair("pad", "pad"))
    return Window(kernel=kernel, stride=pair("stride", "stride"), pad=pad, dilation=(1,) * len(kernel))
