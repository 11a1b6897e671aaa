"""ReLU, and the three rules by which a visualisation runs back through it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer

RULES = ("backprop", "deconvnet", "guided")


@register("ReLU")
class ReLULayer(NeuronLayer):
    """top = max(bottom, 0) + negative_slope * min(bottom, 0).

    bottom[0], top[0]: any one shape, may be one blob (in-place).
    ReLU(-inf) is nan, from 0 * inf, as in Caffe.

    `rule` decides what backward does with the gradient g at f = bottom: "backprop" g * (f > 0) (+ slope * (f <= 0)),
    "deconvnet" max(g, 0), "guided" max(g, 0) * (f > 0). The last two need negative_slope 0.
    Source: relu_layer.cpp. Paper: sections 2 and 4, figure 1c.
    """

    rule: str = "backprop"
    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.negative_slope: float = self.param.relu_param.negative_slope

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].data
        top[0].data = self.ctx.math.relu(x, self.negative_slope, top[0].room())

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        f, g = bottom[0].data, top[0].diff
        if self.rule != "backprop":
            if self.rule not in RULES:
                raise CaffeError(f"unknown ReLU rule '{self.rule}' (known rules: {', '.join(RULES)})")
            check(
                self.negative_slope == 0,
                f"the {self.rule} rule is defined for negative_slope 0 only, found {self.negative_slope:g}",
            )
            g = g.clamp(min=0)
            bottom[0].diff = g if self.rule == "deconvnet" else torch.ops.aten.threshold_backward(g, f, 0)
        elif self.negative_slope == 0:
            bottom[0].diff = g * (f > 0)
        else:
            bottom[0].diff = g * ((f > 0).to(g.dtype) + self.negative_slope * (f <= 0))
