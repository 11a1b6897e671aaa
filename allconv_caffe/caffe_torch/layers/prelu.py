"""PReLU."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.math_functions import along
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer, add_filled, kept, skipping, sum_to
from allconv_caffe.proto import FillerParameter


@register("PReLU")
class PReLULayer(NeuronLayer):
    """top = max(bottom, 0) + a * min(bottom, 0), a learned, one per channel or (`channel_shared`) one in all.

    bottom[0], top[0]: (N, C, ...), 2 to 4 axes, may be one blob (in-place). blobs[0]: (C), or 0 axes; filled with 0.25
    unless `filler` says otherwise. At 0 the gradient takes the negative side.
    Source: prelu_layer.cpp.
    """

    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(bottom[0].num_axes >= 2, "Number of axes of bottom blob must be >=2.")
        param = self.param.prelu_param
        channels = bottom[0].legacy_shape(1)
        self.shared: bool = param.channel_shared
        if self.blobs:
            skipping("prelu_layer.cpp:20")
        else:
            default = FillerParameter(type="constant", value=0.25)
            add_filled(self, () if self.shared else (channels,), param.filler if param.HasField("filler") else default)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(bottom[0].num_axes >= 2, "Number of axes of bottom blob must be >=2.")
        check(
            self.blobs[0].count == (1 if self.shared else bottom[0].legacy_shape(1)),
            "Negative slope size is inconsistent with prototxt config",
        )
        super().reshape(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].data
        if top[0] is bottom[0]:
            self.before = self.ctx.math.clone(x)  # bottom_memory_
        slope = self.blobs[0].data.reshape(() if self.shared else (-1,)).to(x.dtype)
        top[0].data = self.ctx.math.each("relu", x, slope, axis=1, room=top[0].room())

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        x = kept(self.before, top[0]) if top[0] is bottom[0] else bottom[0].data
        dy = top[0].diff
        if self.param_propagate_down[0]:
            product = dy * x * (x <= 0)
            shape = () if self.shared else (x.shape[1],)
            self.blobs[0].accumulate_diff(sum_to(product, 1, shape).reshape(self.blobs[0].shape))
        if propagate_down[0]:
            bottom[0].diff = dy * ((x > 0).to(dy.dtype) + self.slope(x) * (x <= 0))

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        return along(self.blobs[0].data.reshape(-1), 1, x.dim()).to(x.dtype)
