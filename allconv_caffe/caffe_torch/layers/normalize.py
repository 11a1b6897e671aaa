"""Normalize, a layer of SSD's fork."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.math_functions import along
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer, add_filled, float32, skipping, sum_to
from allconv_caffe.proto import FillerParameter, fork_fields


@register("Normalize")
class NormalizeLayer(NeuronLayer):
    """top = a * bottom / sqrt(sum of bottom^2 + eps), summed over all of an image, or over the channels of each place.

    bottom[0], top[0]: (N, C, ...), may be one blob (in-place). `across_spatial` (default true): over all of an image; eps
    defaults to 1e-10. blobs[0]: a (C), or with `channel_shared` (default true) 0 axes; filled with 1 unless `scale_filler`
    says otherwise.
    Source: normalize_layer.cpp of weiliu89/caffe, branch ssd; ParseNet (Liu, Rabinovich, Berg 2015), section 3.2.
    Differs: where a is not shared, the fork's backward leaves it out of the sum over the channels; this is the gradient of
    the paper.
    """

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(bottom[0].num_axes >= 2, "Number of axes of bottom blob must be >=2.")
        param = fork_fields.field(self.param, "norm_param")
        self.eps: float = param.eps
        self.across_spatial: bool = param.across_spatial
        channels = bottom[0].shape[1]
        if self.blobs:
            skipping("normalize_layer.cpp:35")
        else:
            one = FillerParameter(type="constant", value=1)
            shape = () if param.channel_shared else (channels,)
            add_filled(self, shape, param.scale_filler if param.HasField("scale_filler") else one)
        check(
            self.blobs[0].count == (1 if param.channel_shared else channels),
            "Scale size is inconsistent with prototxt config",
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(bottom[0].num_axes >= 2, "Number of axes of bottom blob must be >=2.")
        super().reshape(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = float32(bottom[0].data)
        self.norm = torch.sqrt(self.total(x * x) + self.eps)
        self.unit = x / self.norm
        top[0].data = (self.unit * self.scale(x)).to(bottom[0].data.dtype)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = float32(top[0].diff)
        if self.param_propagate_down[0]:
            shape = (dy.shape[1],) if self.blobs[0].count > 1 else ()
            self.blobs[0].accumulate_diff(sum_to(dy * self.unit, 1, shape).reshape(self.blobs[0].shape))
        if propagate_down[0]:
            dy = dy * self.scale(dy)
            bottom[0].diff = ((dy - self.unit * self.total(dy * self.unit)) / self.norm).to(top[0].diff.dtype)

    def total(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(list(range(1, x.dim())) if self.across_spatial else [1], keepdim=True)

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        return along(self.blobs[0].data.reshape(-1), 1, x.dim())
