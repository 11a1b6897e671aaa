"""Swish."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer


@register("Swish")
class SwishLayer(NeuronLayer):
    """top = bottom * sigmoid(beta * bottom).

    bottom[0], top[0]: any one shape, may be one blob (in-place). `beta` defaults to 1.
    Source: swish_layer.cpp.
    """

    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.beta: float = self.param.swish_param.beta

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, each = bottom[0].data, self.ctx.math.each
        self.gate = each("sigmoid", each("scal", x, self.beta))
        top[0].data = each("multiply", x, self.gate, room=top[0].room())

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            inner = self.beta * top[0].data
            bottom[0].diff = top[0].diff * (inner + self.gate * (1 - inner))
