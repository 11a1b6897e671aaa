"""Split: one blob, many readers."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import refuse_in_place


@register("Split")
class SplitLayer(Layer):
    """top[i] = bottom, the same memory; bottom.diff = sum of the tops' diffs.

    bottom[0], top[0..]: any one shape.
    Source: split_layer.cpp.
    """

    num_bottom = 1
    min_top = 1
    shares_in_forward = True
    calls_kernels = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        refuse_in_place(self, bottom, top)
        for blob in top:
            blob.reshape_like(bottom[0])
            blob.share_data(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Nothing moves: the tops share the bottom's data."""

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        total = top[0].diff
        for blob in top[1:]:
            total = total + blob.diff
        bottom[0].diff = total
