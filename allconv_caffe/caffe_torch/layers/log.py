"""Log."""

from __future__ import annotations

import math
from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer
from allconv_caffe.caffe_torch.layers.exp import log_of_base


@register("Log")
class LogLayer(NeuronLayer):
    """top = log_base(shift + scale * bottom); base -1 (default) is e, scale 1, shift 0.

    bottom[0], top[0]: any one shape. In place the gradient is wrong, as in Caffe: the derivative, taken at the
    overwritten values, times itself (it is written over the top's gradient before the product).
    Source: log_layer.cpp.
    """

    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.log_param
        log_base = log_of_base(param.base)
        check(log_base != 0, f"Inf result: 1/log(base) = 1/log({param.base:g}) = {math.inf:g}")
        self.base_scale = 1.0 / log_base
        self.scale: float = param.scale
        self.shift: float = param.shift

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        steps = ("scal", self.scale), ("add", self.shift), ("log", 0.0), ("scal", self.base_scale)
        self.apply(steps, bottom, top)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        scal = self.ctx.math.scal
        slope = scal(self.scale * self.base_scale, 1 / (scal(self.scale, bottom[0].data) + self.shift))
        dy = slope if top[0] is bottom[0] else top[0].diff
        bottom[0].diff = dy * slope
