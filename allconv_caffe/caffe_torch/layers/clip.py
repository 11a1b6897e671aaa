"""Clip."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer


@register("Clip")
class ClipLayer(NeuronLayer):
    """top = max(min, min(bottom, max)); nan becomes `min`. The gradient passes where min <= bottom <= max.

    bottom[0], top[0]: any one shape. In place the gradient passes everywhere, as in Caffe: it looks at clipped values.
    Source: clip_layer.cpp.
    """

    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.min: float = self.param.clip_param.min
        self.max: float = self.param.clip_param.max

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].data = self.ctx.math.each("clip", bottom[0].data, self.min, self.max, room=top[0].room())

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            x = bottom[0].data
            bottom[0].diff = top[0].diff * ((x >= self.min) & (x <= self.max))
