"""Flatten: several axes as one."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import refuse_in_place


@register("Flatten")
class FlattenLayer(Layer):
    """top = bottom with the axes `axis` (default 1) to `end_axis` (default -1, included) as one; the same memory.

    bottom[0]: any shape of at least one axis; top[0]: the same count. Backward gives the bottom the top's diff, wanted or not.
    Source: flatten_layer.cpp.
    """

    num_bottom = num_top = 1
    shares_in_forward = True
    calls_kernels = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        refuse_in_place(self, bottom, top)
        param = self.param.flatten_param
        start = bottom[0].canonical_axis(param.axis)
        end = bottom[0].canonical_axis(param.end_axis) + 1
        check(start <= end, f"Check failed: start_axis <= end_axis ({start} vs. {end})")
        shape = bottom[0].shape
        top[0].reshape(*shape[:start], bottom[0].count_range(start, end), *shape[end:])
        top[0].share_data(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Nothing moves: the top is the bottom's memory."""

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Nothing moves: the bottom takes the top's memory, which what shared the bottom's before does not see."""
        bottom[0].share_diff(top[0])
