"""Im2col: the patches that a convolution multiplies, laid out as channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.window import read_window
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import computes


@register("Im2col")
class Im2colLayer(Layer):
    """top[n, c * K + k, ...] = the value under kernel place k, of K in row order, at each output place; 0 in the padding.

    bottom[0]: (N..., C, spatial...); top[0]: (N..., C * K, out...), out as for Convolution. Backward adds up what each
    value gave to overlapping patches. Source: im2col_layer.cpp, im2col.cpp.
    """

    num_bottom = num_top = 1
    calls_kernels = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.convolution_param
        self.axis = bottom[0].canonical_axis(param.axis)
        axes = bottom[0].num_axes - self.axis - 1
        check(axes >= 1, f"Check failed: num_spatial_axes_ >= 1 ({axes} vs. 1)")
        check(
            bool(param.kernel_size) or param.HasField("kernel_h") or param.HasField("kernel_w"),
            "kernel_size must be specified once, or once per spatial dimension (kernel_size specified 0 times; "
            f"{axes} spatial dims);",
        )
        self.window = read_window(param, axes)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        check(len(shape) == self.axis + 1 + self.window.num_axes, "bottom num_axes may not change.")
        self.out = self.window.output_size(shape[self.axis + 1 :])
        top[0].reshape(*shape[: self.axis], shape[self.axis] * math.prod(self.window.kernel), *self.out)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not computes(top[0]):
            return
        x, room = bottom[0].data, top[0].room(bottom[0])
        if not any(self.window.behind(x.shape[self.axis + 1 :])):
            y = self.ctx.math.im2col(x.reshape(-1, *x.shape[self.axis :]), self.window, room)
            if y is not None:
                top[0].data = y.reshape(top[0].shape)
                return
        margins = [p for both in reversed(self.margins(bottom[0])) for p in both]
        padded = torch.constant_pad_nd(x, margins)
        patches = [padded[place] for place in self.places()]
        top[0].data = torch.stack(patches, self.axis + 1).reshape(top[0].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        shape, first = bottom[0].shape, self.axis + 1
        patches = top[0].diff.reshape(*shape[:first], -1, *self.out)
        padded = [size + sum(both) for size, both in zip(shape[first:], self.margins(bottom[0]), strict=True)]
        total = torch.zeros(*shape[:first], *padded, dtype=patches.dtype, device=patches.device)
        for patch, place in zip(patches.unbind(first), self.places(), strict=True):
            total[place] += patch
        for i, (size, p) in enumerate(zip(shape[first:], self.window.pad, strict=True)):
            total = total.narrow(first + i, p, size)
        bottom[0].diff = total

    def margins(self, blob: Blob) -> list[tuple[int, int]]:
        """The zeros before and behind the image along each axis: the padding, and what a larger window sees behind it."""
        behind = self.window.behind(blob.shape[self.axis + 1 :])
        return [(p, p + more) for p, more in zip(self.window.pad, behind, strict=True)]

    def places(self) -> Iterator[tuple[slice, ...]]:
        """For each kernel place in row order, what lies under it in the padded image."""
        leading = (slice(None),) * (self.axis + 1)
        for place in itertools.product(*(range(k) for k in self.window.kernel)):
            yield leading + tuple(
                slice(k * d, k * d + (out - 1) * s + 1, s)
                for k, d, s, out in zip(place, self.window.dilation, self.window.stride, self.out, strict=True)
            )
