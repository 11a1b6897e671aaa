"""AbsVal."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer, refuse_in_place


@register("AbsVal")
class AbsValLayer(NeuronLayer):
    """top = |bottom|; the gradient at 0 is 0.

    bottom[0], top[0]: any one shape, not in place.
    Source: absval_layer.cpp.
    """

    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        refuse_in_place(self, bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].data = self.ctx.math.each("abs", bottom[0].data, room=top[0].room())

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].diff = top[0].diff * bottom[0].data.sign()
