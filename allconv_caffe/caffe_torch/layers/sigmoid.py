"""Sigmoid."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer


@register("Sigmoid")
class SigmoidLayer(NeuronLayer):
    """top = 1 / (1 + exp(-bottom)).

    bottom[0], top[0]: any one shape, may be one blob (in-place).
    Source: sigmoid_layer.cpp.
    """

    calls_kernels = any_layout = True

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].data = self.ctx.math.each("sigmoid", bottom[0].data, room=top[0].room())

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            y = top[0].data
            bottom[0].diff = top[0].diff * y * (1 - y)
