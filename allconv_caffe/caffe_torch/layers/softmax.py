"""Softmax."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer, float32


@register("Softmax")
class SoftmaxLayer(NeuronLayer):
    """top = exp(bottom) / sum of exp(bottom) over `axis` (default 1).

    bottom[0], top[0]: any one shape, may be one blob (in-place). A row holding nan or +inf gives nan throughout.
    Source: softmax_layer.cpp.
    """

    calls_kernels = any_layout = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.axis = bottom[0].canonical_axis(self.param.softmax_param.axis)
        super().reshape(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].data = self.ctx.math.softmax(float32(bottom[0].data), self.axis, top[0].room(bottom[0]))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        y, dy = float32(top[0].data), float32(top[0].diff)
        bottom[0].diff = (dy - (dy * y).sum(self.axis, keepdim=True)) * y
