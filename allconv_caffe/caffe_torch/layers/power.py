"""Power."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer


@register("Power")
class PowerLayer(NeuronLayer):
    """top = (shift + scale * bottom) ^ power; defaults 1, 1, 0.

    bottom[0], top[0]: any one shape. In place the gradient is wrong, as in Caffe: the derivative, taken at the
    overwritten values, times itself (it is written over the top's gradient before the product).
    Source: power_layer.cpp.
    """

    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.power_param
        self.power: float = param.power
        self.scale: float = param.scale
        self.shift: float = param.shift
        self.diff_scale = float(np.float32(self.power) * np.float32(self.scale))
        if self.diff_scale == 0:
            value = 1.0 if self.power == 0 else float(np.power(np.float32(self.shift), np.float32(self.power)))
            self.steps = [("fill", value)]
        else:
            self.steps = [("scal", self.scale), ("add", self.shift), ("powx", self.power)]

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.apply(self.steps, bottom, top)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        x = bottom[0].data
        if self.diff_scale == 0:
            bottom[0].diff = torch.zeros_like(x)
            return
        if self.power == 1:
            slope = torch.full_like(x, self.diff_scale)
        elif self.power == 2:
            slope = x * (self.diff_scale * self.scale) + 0.0  # axpby: no -0
            if self.shift != 0:
                slope = slope + self.diff_scale * self.shift
        else:  # y / (shift + scale x), which is nan where that is 0
            y, scal = top[0].data, self.ctx.math.scal
            if self.shift == 0:
                slope = scal(self.power, y / x)
            else:
                slope = scal(self.diff_scale, y / (scal(self.scale, x) + self.shift))
        dy = slope if top[0] is bottom[0] else top[0].diff
        bottom[0].diff = dy * slope
