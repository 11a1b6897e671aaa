"""The window that slides over an image: what convolution, deconvolution, im2col and pooling have in common.

Source: base_conv_layer.cpp, conv_layer.cpp, deconv_layer.cpp, pooling_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
        """floor((h + 2p - extent) / s) + 1: the places of the window in an image of `size`."""
        return tuple((h - e) // s + 1 for h, e, s in zip(self.padded_size(size), self.extent, self.stride, strict=True))

    def input_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """s (h - 1) + extent - 2p: the image that `size` places of the window just cover, a deconvolution's output."""
        return tuple(
            s * (h - 1) + e - 2 * p for h, e, s, p in zip(size, self.extent, self.stride, self.pad, strict=True)
        )

    def without_first_axis(self) -> Window:
        """The same window over the axes that follow the first."""
        return Window(
            kernel=self.kernel[1:],
            stride=self.stride[1:],
            pad=self.pad[1:],
            dilation=self.dilation[1:],
            group=self.group,
        )
