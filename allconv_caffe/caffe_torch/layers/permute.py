"""Permute, a layer of SSD's fork."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.proto import fork_fields


@register("Permute")
class PermuteLayer(Layer):
    """top = bottom with its axes in another order: axis i of the top is axis order[i] of the bottom.

    bottom[0]: any shape; top[0]: the same count. Axes that `order` leaves out follow in their own order.
    Source: permute_layer.cpp of weiliu89/caffe, branch ssd.
    """

    num_bottom = num_top = 1
    calls_kernels = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        order: list[int] = []
        for axis in fork_fields.field(self.param, "permute_param").order:
            check(axis < bottom[0].num_axes, "order should be less than the input dimension.")
            check(axis not in order, "there are duplicate orders")
            order.append(axis)
        self.order = [*order, *(axis for axis in range(bottom[0].num_axes) if axis not in order)]
        top[0].reshape(*(bottom[0].shape[axis] for axis in self.order))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].data = self.ctx.math.copy(bottom[0].data.permute(self.order), top[0].room(bottom[0]))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            back = sorted(range(len(self.order)), key=self.order.__getitem__)
            bottom[0].diff = top[0].diff.permute(back)
