"""Crop: one blob cut to the size of another."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register


@register("Crop")
class CropLayer(Layer):
    """top = the part of bottom[0] that has bottom[1]'s size in the axes from `axis` (default 2) on, from `offset` on.

    bottom[0]: any shape; bottom[1]: gives the size only; `offset` (default 0): one for all, or one for each of these axes.
    The rest of bottom[0] gets gradient 0, bottom[1] none. Source: crop_layer.cpp.
    """

    num_bottom = 2
    num_top = 1
    calls_kernels = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.crop_param
        start = bottom[0].canonical_axis(param.axis)
        if len(param.offset) > 1:
            check(
                start + len(param.offset) == bottom[0].num_axes,
                "number of offset values specified must be equal to the number of dimensions following axis.",
            )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.crop_param
        start, offset = bottom[0].canonical_axis(param.axis), [c_int(o) for o in param.offset]
        self.offsets, sizes = [0] * start, list(bottom[0].shape[:start])
        for i in range(start, bottom[0].num_axes):
            first = (offset[0] if len(offset) == 1 else offset[i - start]) if offset else 0
            size = bottom[1].shape[bottom[1].canonical_axis(i)]
            check(
                bottom[0].shape[i] - first >= size,
                f"the crop for dimension {i} is out-of-bounds with size {size} and offset {first}",
            )
            check(first >= 0, f"Check failed: indices[i] >= 0 ({first} vs. 0)")
            self.offsets.append(first)
            sizes.append(size)
        top[0].reshape(*sizes)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].data
        for axis, (first, size) in enumerate(zip(self.offsets, top[0].shape, strict=True)):
            x = x.narrow(axis, first, size)
        top[0].data = self.ctx.math.copy(x, top[0].room(bottom[0]))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        margins: list[int] = []  # before and after, the last axis first
        for first, size, whole in zip(self.offsets, top[0].shape, bottom[0].shape, strict=True):
            margins = [first, whole - first - size, *margins]
        bottom[0].diff = torch.constant_pad_nd(top[0].diff, margins)
