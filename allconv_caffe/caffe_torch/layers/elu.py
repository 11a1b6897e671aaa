"""ELU."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer


@register("ELU")
class ELULayer(NeuronLayer):
    """top = bottom where it is positive, else alpha * (exp(bottom) - 1); at 0 the gradient is alpha.

    bottom[0], top[0]: any one shape, may be one blob (in-place; right for alpha >= 0). `alpha` defaults to 1.
    Source: elu_layer.cpp.
    """

    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.alpha: float = self.param.elu_param.alpha

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].data = self.ctx.math.each("elu", bottom[0].data, self.alpha, room=top[0].room())

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            x, y, dy = bottom[0].data, top[0].data, top[0].diff
            bottom[0].diff = dy * ((x > 0).to(dy.dtype) + (self.alpha + y) * (x <= 0))
