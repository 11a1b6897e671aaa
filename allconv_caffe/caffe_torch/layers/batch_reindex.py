"""BatchReindex: examples chosen, repeated or reordered by index."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import leading


@register("BatchReindex")
class BatchReindexLayer(Layer):
    """top[m] = bottom[0][bottom[1][m]]; the gradients of an example taken several times add up.

    bottom[0]: (N, ...); bottom[1]: (M) indices in [0, N), floats truncated toward 0; top[0]: (M, ...).
    The range is checked at each forward, so the compiled executor leaves such a net to the plain one.
    Source: batch_reindex_layer.cpp.
    """

    traceable = False
    num_bottom = 2
    num_top = 1

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        axes = bottom[1].num_axes
        check(axes == 1, f"Check failed: 1 == bottom[1]->num_axes() (1 vs. {axes})")
        top[0].reshape(bottom[1].shape[0], *bottom[0].shape[1:])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        index, n = bottom[1].data, leading(bottom[0])
        check(not bool((index < 0).any()), "Index specified for reindex layer was negative.")
        check(not bool((index >= n).any()), "Index specified for reindex layer was greater than batch size.")
        top[0].data = bottom[0].data.index_select(0, index.to(torch.int64))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        check(not propagate_down[1], "Cannot backprop to index.")
        if not propagate_down[0]:
            return
        dx = torch.zeros_like(bottom[0].data)
        bottom[0].diff = dx.index_add(0, bottom[1].data.to(torch.int64), top[0].diff)
