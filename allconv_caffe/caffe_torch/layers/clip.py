"""Clip."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer


@register("Clip")
class ClipLayer(NeuronLayer):
    """top = max(min, min(bottom, max)); nan becomes `min`. The gradient passes where min <= bottom <= max.

    bottom[0], top[0]: any one shape. In place the gradient passes everywhere, as in Caffe: it looks at clipped values.
    Source: clip_layer.cpp.
    """

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.min: float = self.param.clip_param.min
        self.max: float = self.param.clip_param.max

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].data
        low, high = torch.full_like(x, self.min), torch.full_like(x, self.max)
        below = torch.where(high < x, high, x)
        top[0].data = torch.where(low < below, below, low)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            x = bottom[0].data
            bottom[0].diff = top[0].diff * ((x >= self.min) & (x <= self.max))
