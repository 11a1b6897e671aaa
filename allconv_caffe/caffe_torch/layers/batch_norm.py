"""BatchNorm: normalisation without a learned part (a Scale layer follows)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer, along, float32, skipping
from allconv_caffe.proto import TEST


@register("BatchNorm")
class BatchNormLayer(NeuronLayer):
    """top = (bottom - mean) / sqrt(var + eps), per channel; eps defaults to 1e-5.

    bottom[0], top[0]: (N, C, ...), may be one blob (in-place). blobs: mean sum (C), variance sum (C), factor (1).
    With `use_global_stats` (default: in TEST) mean and var are the sums divided by the factor (0 where it is 0).
    Without, they are the batch's, var biased, and the blobs follow: factor = f * factor + 1, mean sum = f * mean sum +
    mean, variance sum = f * variance sum + var * m / (m - 1), f = `moving_average_fraction` (default 0.999), m = values
    per channel. The layer adds ``param { lr_mult: 0 }`` three times to itself.
    Source: batch_norm_layer.cpp.
    """

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.batch_norm_param
        self.fraction: float = param.moving_average_fraction
        self.eps: float = param.eps
        given = param.HasField("use_global_stats")
        self.use_global_stats: bool = param.use_global_stats if given else self.phase == TEST
        self.channels = bottom[0].shape[bottom[0].canonical_axis(1)]
        if self.blobs:
            skipping("batch_norm_layer.cpp:23")
            check(len(self.blobs) == 3, f"Incorrect number of statistics blobs: expected 3, found {len(self.blobs)}")
        else:
            self.blobs += [self.new_blob(self.channels), self.new_blob(self.channels), self.new_blob(1)]
        for i in range(3):
            if len(self.param.param) == i:
                self.param.param.add().lr_mult = 0
            else:
                check(
                    self.param.param[i].lr_mult == 0,
                    "Cannot configure batch normalization statistics as layer parameters.",
                )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        found = bottom[0].shape[bottom[0].canonical_axis(1)]
        check(found == self.channels, f"Check failed: bottom[0]->shape(1) == channels_ ({found} vs. {self.channels})")
        super().reshape(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, scal = float32(bottom[0].data), self.ctx.math.scal
        mean_sum, var_sum, factor = (blob.data for blob in self.blobs)
        if self.use_global_stats:
            scale = torch.where(factor == 0, torch.zeros_like(factor), 1 / factor)
            mean, var = scal(scale, mean_sum), scal(scale, var_sum)
            centred = x - along(mean, 1, x.dim())
        else:
            mean = self.channel_mean(x)
            centred = x - along(mean, 1, x.dim())
            var = self.channel_mean(centred * centred)
            m = x.numel() // self.channels
            correction = m / (m - 1) if m > 1 else 1.0
            self.blobs[2].data = factor * self.fraction + 1
            self.blobs[0].data = mean + scal(self.fraction, mean_sum)
            self.blobs[1].data = var * correction + scal(self.fraction, var_sum)
        self.std = along(torch.sqrt(var + self.eps), 1, x.dim())  # temp_
        self.x_norm = centred / self.std
        top[0].data = self.x_norm.to(bottom[0].data.dtype)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = float32(top[0].diff)
        if self.use_global_stats:
            dx = dy / self.std
        else:
            through_var = along(self.channel_mean(dy * self.x_norm), 1, dy.dim()) * self.x_norm
            dx = (dy - along(self.channel_mean(dy), 1, dy.dim()) - through_var) / self.std
        bottom[0].diff = dx.to(top[0].diff.dtype)

    @staticmethod
    def channel_mean(x: torch.Tensor) -> torch.Tensor:
        return x.mean([0, *range(2, x.dim())])
