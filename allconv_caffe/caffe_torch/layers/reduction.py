"""Reduction: sums over the last axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import float32
from allconv_caffe.proto import ReductionParameter


@register("Reduction")
class ReductionLayer(Layer):
    """top = coeff * the SUM (default), ASUM (of absolute values), SUMSQ or MEAN over the axes from `axis` (default 0) on.

    bottom[0]: any shape; top[0]: the axes before `axis`. coeff defaults to 1. Source: reduction_layer.cpp.
    """

    num_bottom = num_top = 1
    calls_kernels = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.operation: int = self.param.reduction_param.operation
        self.calls_kernels = self.operation != ReductionParameter.ASUM  # in an order that we do not know

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.reduction_param
        axis = bottom[0].canonical_axis(param.axis)
        top[0].reshape(*bottom[0].shape[:axis])
        self.coeff: float = param.coeff
        if self.operation == ReductionParameter.MEAN:
            self.coeff /= max(bottom[0].count_range(axis), 1)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, math = self.vectors(bottom[0].data, top[0]), self.ctx.math
        room = top[0].room(bottom[0])
        room = None if room is None else room.view(-1)
        if self.operation == ReductionParameter.ASUM:
            y = x.abs().sum(1)
        else:
            y = math.dots(x, x if self.operation == ReductionParameter.SUMSQ else None, room)
        if self.coeff != 1:
            y = math.each("scal", y, self.coeff, room=room)
        top[0].data = y.reshape(top[0].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        dy = float32(top[0].diff).reshape(-1, 1) * self.coeff
        x = self.vectors(bottom[0].data, top[0])
        if self.operation == ReductionParameter.ASUM:
            dx = self.ctx.math.scal(dy, torch.sign(x))
        elif self.operation == ReductionParameter.SUMSQ:
            dx = self.ctx.math.scal(2 * dy, x)
        else:
            dx = dy.expand(x.shape)
        bottom[0].diff = dx.reshape(bottom[0].shape)

    @staticmethod
    def vectors(x: torch.Tensor, top: Blob) -> torch.Tensor:
        """(values of the top, values summed for each)."""
        return float32(x).reshape(top.count, x.numel() // max(top.count, 1))
