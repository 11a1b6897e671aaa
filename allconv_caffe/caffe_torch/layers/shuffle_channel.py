"""ShuffleChannel, a layer of ShuffleNet's forks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer
from allconv_caffe.proto import fork_fields


@register("ShuffleChannel")
class ShuffleChannelLayer(NeuronLayer):
    """top = bottom with its channels dealt out: of g groups of k, channel j of group i becomes channel j g + i.

    bottom[0], top[0]: (N, C, ...), may be one blob (in-place); C a multiple of `group` (default 1).
    Source: shuffle_channel_layer.cpp of farmingyard/ShuffleNet; ShuffleNet (Zhang et al. 2017), section 3.1.
    """

    calls_kernels = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.group: int = fork_fields.field(self.param, "shuffle_channel_param").group
        check(self.group > 0, "group must be greater than 0")
        channels = bottom[0].shape[bottom[0].canonical_axis(1)]
        check(channels % self.group == 0, f"Wrong group size. ({channels} channels, group {self.group})")
        self.each = channels // self.group
        super().reshape(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = _transposed(bottom[0].data, self.group, self.each)
        top[0].data = self.ctx.math.copy(x, top[0].room(bottom[0])).reshape(top[0].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].diff = _transposed(top[0].diff, self.each, self.group).reshape(bottom[0].shape)


def _transposed(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """`x` with its axis 1 as a matrix of `rows` by `columns`, transposed."""
    return x.reshape(x.shape[0], rows, columns, *x.shape[2:]).transpose(1, 2)
