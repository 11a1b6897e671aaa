"""Threshold."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer


@register("Threshold")
class ThresholdLayer(NeuronLayer):
    """top = 1 where bottom > threshold (default 0), else 0; no gradient.

    bottom[0], top[0]: any one shape, may be one blob (in-place).
    Source: threshold_layer.cpp.
    """

    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.threshold: float = self.param.threshold_param.threshold

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].data = self.ctx.math.each("threshold", bottom[0].data, self.threshold, room=top[0].room())

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        raise CaffeError("Not Implemented Yet")
