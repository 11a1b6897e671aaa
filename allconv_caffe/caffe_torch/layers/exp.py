"""Exp."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer


def log_of_base(base: float) -> float:
    """ln(base) in float32; 1 for -1, which stands for e. Raises CaffeError for a base without a finite logarithm."""
    if base == -1:
        return 1.0
    check(base > 0, "base must be strictly positive.")
    result = float(np.log(np.float32(base)))
    check(math.isfinite(result), f"Inf result: log(base) = log({base:g}) = {result:g}")
    return result


@register("Exp")
class ExpLayer(NeuronLayer):
    """top = base ^ (shift + scale * bottom); base -1 (default) is e, scale 1, shift 0.

    bottom[0], top[0]: any one shape, may be one blob (in-place).
    Source: exp_layer.cpp.
    """

    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.exp_param
        log_base = log_of_base(param.base)
        self.inner_scale = float(np.float32(log_base) * np.float32(param.scale))
        self.outer_scale = 1.0
        if param.shift != 0:
            shift = np.float32(param.shift)
            outer = np.exp(shift) if param.base == -1 else np.power(np.float32(param.base), shift)
            self.outer_scale = float(outer)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.apply([("scal", self.inner_scale), ("exp", 0.0), ("scal", self.outer_scale)], bottom, top)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].diff = self.ctx.math.scal(self.inner_scale, top[0].data * top[0].diff)
