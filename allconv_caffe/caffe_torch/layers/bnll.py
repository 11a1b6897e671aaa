"""BNLL."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer

THRESHOLD = 50.0  # kBNLL_THRESHOLD


@register("BNLL")
class BNLLLayer(NeuronLayer):
    """top = log(1 + exp(bottom)), the binomial normal log likelihood (softplus).

    bottom[0], top[0]: any one shape. In place, the gradient is taken at the overwritten values, as in Caffe.
    Source: bnll_layer.cpp.
    """

    calls_kernels = any_layout = True

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].data = self.ctx.math.each("bnll", bottom[0].data, room=top[0].room())

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].diff = top[0].diff * torch.sigmoid(bottom[0].data.clamp(max=THRESHOLD))
