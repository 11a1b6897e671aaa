"""LRN: local response normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from allconv_caffe.engine.blob import Blob
from allconv_caffe.engine.errors import check
from allconv_caffe.engine.layer import register
from allconv_caffe.engine.layers.base import NeuronLayer, float32
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

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.lrn_param
        self.size: int = param.local_size
        check(self.size % 2 == 1, "LRN only supports odd values for local_size")
        self.alpha: float = param.alpha
        self.beta: float = param.beta
        self.across = param.norm_region == LRNParameter.ACROSS_CHANNELS
        self.k: float = param.k if self.across else 1.0

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(bottom[0].num_axes == 4, "Input must have 4 axes, corresponding to (num, channels, height, width)")
        super().reshape(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = float32(bottom[0].data)
        self.scale = self.k + self.alpha * self.window_mean(x * x)
        top[0].data = (x * self.scale**-self.beta).to(bottom[0].data.dtype)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        x, y, dy = float32(bottom[0].data), float32(top[0].data), float32(top[0].diff)
        inverse = self.scale**-self.beta
        ratio = dy * (y if self.across else x * inverse) / self.scale
        dx = dy * inverse - 2 * self.alpha * self.beta * (x * self.window_mean(ratio))  # in this order for huge x
        bottom[0].diff = dx.to(top[0].diff.dtype)

    def window_mean(self, x: torch.Tensor) -> torch.Tensor:
        """Sum over the window, what lies outside counting 0, divided by the window's full size. Its own transpose."""
        n, half = self.size, self.size // 2
        if not self.across:
            return F.avg_pool2d(x, n, 1, half, count_include_pad=True)
        channels = x.shape[1]
        padded = F.pad(x, (0, 0, 0, 0, half, half))
        total = padded[:, :channels]
        for i in range(1, n):
            total = total + padded[:, i : i + channels]
        return total / n
