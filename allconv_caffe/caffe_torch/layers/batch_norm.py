"""BatchNorm: normalisation without a learned part (a Scale layer follows)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.math_functions import along
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer, add_filled, float32, skipping, sum_to
from allconv_caffe.proto import TEST, FillerParameter, fork_fields


@register("BatchNorm")
class BatchNormLayer(NeuronLayer):
    """top = (bottom - mean) / sqrt(var + eps), per channel; eps defaults to 1e-5.

    bottom[0], top[0]: (N, C, ...), may be one blob (in-place). blobs: mean sum (C), variance sum (C), factor (1).
    With `use_global_stats` (default: in TEST) mean and var are the sums divided by the factor (0 where it is 0).
    Without, they are the batch's, var biased, and the blobs follow: factor = f * factor + 1, mean sum = f * mean sum +
    mean, variance sum = f * variance sum + var * m / (m - 1), f = `moving_average_fraction` (default 0.999), m = values
    per channel. The layer adds ``param { lr_mult: 0 }`` three times to itself.

    With `scale_bias` (or a filler of one), of NVCaffe's fork: top = a times that + b; blobs: a (C) and b (C) behind the three,
    filled with 1 and 0 unless `scale_filler`, `bias_filler` say otherwise; eps is at least 1e-5; in TEST `use_global_stats`
    is not asked; a `param` of the three is set to 0. Weights of NVCaffe 0.15 and before have another order and do not fit.
    Source: batch_norm_layer.cpp; the same of NVIDIA/caffe 0.16 and 0.17.
    Differs: in TRAIN, NVCaffe keeps means instead of sums.
    """

    calls_kernels = any_layout = True
    for_backward = ("std", "x_norm")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.batch_norm_param
        self.fraction: float = param.moving_average_fraction
        self.eps: float = param.eps
        given = param.HasField("use_global_stats")
        self.use_global_stats: bool = param.use_global_stats if given else self.phase == TEST
        fillers = [fork_fields.has(param, word) for word in ("scale_filler", "bias_filler")]
        self.scale_bias: bool = any(fillers) or fork_fields.field(param, "scale_bias")
        if self.scale_bias:
            self.eps = max(self.eps, 1e-5)
            self.use_global_stats = self.use_global_stats or self.phase == TEST
        self.calls_kernels = self.use_global_stats
        self.channels = bottom[0].shape[bottom[0].canonical_axis(1)]
        if self.blobs:
            skipping("batch_norm_layer.cpp:23")
            expected = 5 if self.scale_bias else 3
            check(
                len(self.blobs) == expected,
                f"Incorrect number of statistics blobs: expected {expected}, found {len(self.blobs)}",
            )
        else:
            self.blobs += [self.new_blob(self.channels), self.new_blob(self.channels), self.new_blob(1)]
            words = zip(("scale_filler", "bias_filler"), fillers, (1, 0), strict=True) if self.scale_bias else ()
            for word, filled, value in words:
                constant = FillerParameter(type="constant", value=value)
                add_filled(self, (self.channels,), fork_fields.field(param, word) if filled else constant)
        for i in range(3):
            if len(self.param.param) == i:
                self.param.param.add().lr_mult = 0
            elif self.scale_bias:
                self.param.param[i].lr_mult = self.param.param[i].decay_mult = 0
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
        x, each, room = float32(bottom[0].data), self.ctx.math.each, top[0].room()
        mean_sum, var_sum, factor = (blob.data for blob in self.blobs[:3])
        if self.use_global_stats:
            scale = each("inverse", factor).reshape(())
            mean, var = each("scal", mean_sum, scale), each("scal", var_sum, scale)
        else:
            scal = self.ctx.math.scal
            mean = channel_mean(x)
            centred = each("subtract", x, mean, axis=1)
            var = channel_mean(centred * centred)
            m = x.numel() // self.channels
            correction = m / (m - 1) if m > 1 else 1.0
            self.blobs[2].data = factor * self.fraction + 1
            self.blobs[0].data = mean + scal(self.fraction, mean_sum)
            self.blobs[1].data = var * correction + scal(self.fraction, var_sum)
        std = each("sqrt", each("add", var, self.eps))
        self.std = along(std, 1, x.dim())  # temp_
        if self.use_global_stats:
            last = not self.scale_bias  # nobody will ask for x_norm
            y = self.ctx.math.normalized(x, mean, std, room if last else None)
        else:
            y = each("divide", centred, std, axis=1)
        self.x_norm = y  # x_norm_
        if self.scale_bias:
            a, b = (blob.data for blob in self.blobs[3:])
            y = each("add", each("scal", y, a, axis=1, room=room), b, axis=1, room=room)
        top[0].data = y.to(bottom[0].data.dtype)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = float32(top[0].diff)
        if self.scale_bias:
            for blob, gradient, wanted in zip(
                self.blobs[3:], (dy * self.x_norm, dy), self.param_propagate_down[3:], strict=True
            ):
                if wanted:
                    blob.accumulate_diff(sum_to(gradient, 1, blob.shape))
            dy = self.ctx.math.scal(along(self.blobs[3].data, 1, dy.dim()), dy)
        dx = dy / self.std if self.use_global_stats else batch_gradient(dy, self.x_norm, self.std)
        bottom[0].diff = dx.to(top[0].diff.dtype)


def channel_mean(x: torch.Tensor) -> torch.Tensor:
    """(C): the mean over all axes of (N, C, ...) but the second."""
    return x.mean([0, *range(2, x.dim())])


def batch_gradient(dy: torch.Tensor, x_norm: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """What dy, of x_norm = (x - mean) / std, is of x, where mean and std are those of the batch itself.

    Args:
        dy, x_norm: (N, C, ...).
        std: (1, C, 1...).
    """
    through_var = along(channel_mean(dy * x_norm), 1, dy.dim()) * x_norm
    return (dy - along(channel_mean(dy), 1, dy.dim()) - through_var) / std
