"""EuclideanLoss: half the mean squared distance."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import LossLayer, float32


@register("EuclideanLoss")
class EuclideanLossLayer(LossLayer):
    """top = sum of (bottom[0] - bottom[1])^2 / 2N.

    bottom[0], bottom[1]: (N, ...), equal counts; either may get a gradient; top[0]: scalar.
    Source: euclidean_loss_layer.cpp.
    """

    auto_top_blobs = True
    calls_kernels = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        check(bottom[0].count_range(1) == bottom[1].count_range(1), "Inputs must have the same dimension.")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, target, math = float32(bottom[0].data), float32(bottom[1].data), self.ctx.math
        self.difference = math.each("subtract", x, target.reshape(x.shape))  # diff_
        y, room = math.dot(self.difference, self.difference), top[0].room(*bottom)
        for divisor in (bottom[0].legacy_shape(0), 2):
            y = math.each("divide", y, divisor, room=room)
        top[0].data = y

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for i, sign in ((0, 1), (1, -1)):
            if propagate_down[i]:
                alpha = sign * top[0].diff / bottom[i].legacy_shape(0)
                bottom[i].diff = self.ctx.math.axpby(alpha, self.difference).reshape(bottom[i].shape)

    def allow_force_backward(self, bottom_index: int) -> bool:
        return True
