"""LRN: local response normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer, float32
from allconv_caffe.caffe_torch.tracing import is_tracing
from allconv_caffe.proto import LRNParameter


@register("LRN")
class LRNLayer(NeuronLayer):
    """top = bottom * s ^ -beta, s from the squares in a window of `local_size` n around each value.

    bottom[0], top[0]: (N, C, H, W). ACROSS_CHANNELS (default): s = k + alpha / n * sum over n channels. WITHIN_CHANNEL:
    s = 1 + alpha / n^2 * sum over n x n pixels, divided by n^2 at the border too; `k` is ignored there.
    Defaults: n 5 (odd), alpha 1, beta 0.75, k 1.
    Source: lrn_layer.cpp.
    Differs: in place the top is right; Caffe's is s ^ -2beta.
    """

    for_backward = ("scale",)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.lrn_param
        self.size = c_int(param.local_size)
        check(self.size > 0 and self.size % 2 == 1, "LRN only supports odd values for local_size")
        self.alpha: float = param.alpha
        self.beta: float = param.beta
        self.across = param.norm_region == LRNParameter.ACROSS_CHANNELS
        self.k: float = param.k if self.across else 1.0

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(bottom[0].num_axes == 4, "Input must have 4 axes, corresponding to (num, channels, height, width)")
        super().reshape(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = float32(bottom[0].data)
        if self.across:
            self.scale = self.k + self.channel_sum(x * x, self.alpha / self.size)
        else:
            self.scale = self.k + self.ctx.math.scal(self.alpha, self.pixel_mean(x * x))
        top[0].data = (x * self.scale**-self.beta).to(bottom[0].data.dtype)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        x, y, dy = float32(bottom[0].data), float32(top[0].data), float32(top[0].diff)
        inverse, factor = self.scale**-self.beta, 2 * self.alpha * self.beta
        if self.across:
            sums = self.channel_sum(dy * y / self.scale, 1.0)
            dx = dy * inverse - self.ctx.math.axpby(factor / self.size, x * sums)  # in this order, for huge x
        else:
            scal = self.ctx.math.scal
            ratio = scal(float(factor != 0), dy * x * scal(factor, inverse / self.scale))
            dx = dy * inverse - x * self.pixel_mean(ratio)
        bottom[0].diff = dx.to(top[0].diff.dtype)

    def pixel_mean(self, x: torch.Tensor) -> torch.Tensor:
        """Sum over the window of pixels, what lies outside counting 0, divided by the window's full size."""
        return F.avg_pool2d(x, self.size, 1, self.size // 2, count_include_pad=True)

    def channel_sum(self, x: torch.Tensor, factor: float) -> torch.Tensor:
        """`factor` times the sum over the window of channels, what lies outside counting 0. Its own transpose."""
        n, half, channels = self.size, self.size // 2, x.shape[1]
        padded = F.pad(x, (0, 0, 0, 0, half, half))
        total = padded[:, :channels]
        for i in range(1, n):
            total = total + padded[:, i : i + channels]
        out = self.ctx.math.axpby(factor, total)
        if is_tracing() or out.device.type != "cpu" or (math.isfinite(factor) and bool(out.isfinite().all())):
            return out
        # Caffe's sum runs over the channels, so that one that is not finite spoils those behind it, too
        current = torch.zeros_like(x[:, 0])
        for i in range(n):
            current = self.ctx.math.axpy(factor, padded[:, i], current)
        sums = [current]
        for i in range(1, channels):
            current = self.ctx.math.axpy(factor, padded[:, i + n - 1], current)
            current = self.ctx.math.axpy(-factor, padded[:, i - 1], current)
            sums.append(current)
        return torch.stack(sums, 1)
