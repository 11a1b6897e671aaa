"""BN, a layer of SegNet's fork, and of PSPNet's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.math_functions import along
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer, add_filled, float32, skipping, sum_to
from allconv_caffe.caffe_torch.layers.batch_norm import batch_gradient, channel_mean
from allconv_caffe.proto import TEST, FillerParameter, fork_fields

SEGNET = ("bn_mode", "scale_filler", "shift_filler")
PSPNET = ("slope_filler", "bias_filler", "momentum", "eps", "frozen", "engine")


@register("BN")
class BNLayer(NeuronLayer):
    """top = a * (bottom - mean) / sqrt(var + eps) + b, per channel: SegNet's, or PSPNet's, as the fields of `bn_param` tell.

    bottom[0], top[0]: (N, C, ...), may be one blob (in-place). blobs: (1, C, 1, 1) each, a and b first, filled with 0 unless a
    filler says otherwise.
    SegNet's (`bn_mode`, `scale_filler`, `shift_filler`): with LEARN (default) mean and var, biased, are the batch's in every
    phase, and eps is 1e-9; with INFERENCE top = a * bottom + b, whose a and b have taken in the statistics of training.
    PSPNet's (`slope_filler`, `bias_filler`, `momentum`, `eps`, `frozen`): blobs 2 and 3 are mean and var in TEST, or with
    `frozen`; else these are the batch's, and the blobs follow: m * blob + (1 - m) * the batch's, m = `momentum` (default 0.9);
    eps defaults to 1e-5. The rates of both blobs, with `frozen` of all four, become 0.
    Source: bn_layer.cpp of alexgkendall/caffe-segnet; of hszhao/PSPNet.
    """

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = fork_fields.field(self.param, "bn_param")
        given = [name for name in (*SEGNET, *PSPNET) if param.HasField(name)]
        self.segnet = any(name in SEGNET for name in given)
        check(
            self.segnet != any(name in PSPNET for name in given),
            f"bn_param has {', '.join(given) or 'no field'}, expected SegNet's ({', '.join(SEGNET)}) or PSPNet's "
            f"({', '.join(PSPNET)})",
        )
        self.channels = bottom[0].shape[bottom[0].canonical_axis(1)]
        self.eps: float = 1e-9 if self.segnet else param.eps
        self.affine_only = self.segnet and param.bn_mode == 1
        self.stored = not self.segnet and (param.frozen or self.phase == TEST)
        self.momentum: float = param.momentum
        if self.blobs:
            skipping("bn_layer.cpp:18")
        else:
            fillers = (
                (param.scale_filler, param.shift_filler) if self.segnet else (param.slope_filler, param.bias_filler)
            )
            variance = FillerParameter(type="constant", value=int(param.frozen))
            for filler in fillers if self.segnet else (*fillers, FillerParameter(), variance):
                add_filled(self, (1, self.channels, 1, 1), filler)
        expected = 2 if self.segnet else 4
        check(len(self.blobs) == expected, f"Incorrect number of blobs: expected {expected}, found {len(self.blobs)}")
        if not self.segnet:
            while len(self.param.param) < 4:
                self.param.param.add()
            for spec in list(self.param.param)[0 if param.frozen else 2 : 4]:
                spec.lr_mult = spec.decay_mult = 0

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        found = bottom[0].shape[bottom[0].canonical_axis(1)]
        check(found == self.channels, f"Check failed: bottom[0]->channels() == channels_ ({found} vs. {self.channels})")
        super().reshape(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = float32(bottom[0].data)
        if self.affine_only:
            self.x_norm = x.clone() if top[0] is bottom[0] else x
        else:
            if self.stored:
                mean, var = (blob.data.reshape(-1) for blob in self.blobs[2:])
            else:
                mean = channel_mean(x)
                var = channel_mean((x - along(mean, 1, x.dim())).square())
                for blob, value in zip(self.blobs[2:], (mean, var)[: len(self.blobs) - 2], strict=True):
                    blob.data = self.momentum * blob.data + (1 - self.momentum) * value.reshape(blob.shape)
            self.std = along(torch.sqrt(var + self.eps), 1, x.dim())
            self.x_norm = (x - along(mean, 1, x.dim())) / self.std
        a, b = (self.spread(blob, x) for blob in self.blobs[:2])
        top[0].data = (self.x_norm * a + b).to(bottom[0].data.dtype)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = float32(top[0].diff)
        for i, gradient in enumerate((dy * self.x_norm, dy)):
            if self.param_propagate_down[i]:
                self.blobs[i].accumulate_diff(sum_to(gradient, 1, (self.channels,)).reshape(self.blobs[i].shape))
        if propagate_down[0]:
            dx = dy * self.spread(self.blobs[0], dy)
            if not self.affine_only:
                dx = dx / self.std if self.stored else batch_gradient(dx, self.x_norm, self.std)
            bottom[0].diff = dx.to(top[0].diff.dtype)

    def spread(self, blob: Blob, x: torch.Tensor) -> torch.Tensor:
        return along(blob.data.reshape(-1), 1, x.dim())
