"""ReLU6, a layer of MobileNet's forks."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer


@register("ReLU6")
class ReLU6Layer(NeuronLayer):
    """top = min(max(bottom, 0), 6). The gradient passes where 0 < bottom < 6.

    bottom[0], top[0]: any one shape, may be one blob (in-place).
    Source: relu6_layer.cpp of eric612/MobileNet-YOLO, without a slope; MobileNets (Howard et al. 2017).
    """

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].data = bottom[0].data.clamp(0, 6)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            x = bottom[0].data
            bottom[0].diff = top[0].diff * ((x > 0) & (x < 6))
