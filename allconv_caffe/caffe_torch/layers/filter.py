"""Filter: only the examples that a selector names go on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import Layer, register


@register("Filter")
class FilterLayer(Layer):
    """tops = the examples of bottoms for which the selector is not 0, in order; the others get gradient 0.

    bottom[i]: (N, ...); the last bottom: the selector, (N) or (N, 1, ...); top[i]: (M, ...), M = the examples selected,
    N before the first forward. The shapes follow the data, so the compiled executor leaves such a net to the plain one.
    Source: filter_layer.cpp.
    Differs: backward with no example selected gives gradient 0; Caffe divides by 0 and dies.
    """

    traceable = False
    min_bottom = 2
    min_top = 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(
            len(top) == len(bottom) - 1,
            f"Check failed: top.size() == bottom.size() - 1 ({len(top)} vs. {len(bottom) - 1})",
        )
        self.first_reshape = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        *filtered, selector = bottom
        selector.canonical_axis(0)
        check(
            all(dim == 1 for dim in selector.shape[1:]),
            "Selector blob dimensions must be singletons (1), except the first",
        )
        for blob in filtered:
            check(
                blob.shape[blob.canonical_axis(0)] == selector.shape[0],
                "Each bottom should have the same 0th dimension as the selector blob",
            )
        count = selector.shape[0]
        if not self.first_reshape:
            self.index = (selector.data.reshape(-1) != 0).nonzero().reshape(-1)  # indices_to_forward_
            count = self.index.numel()
        self.first_reshape = False
        for fro, to in zip(filtered, top, strict=True):
            to.reshape(count, *fro.shape[1:])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for fro, to in zip(bottom, top, strict=False):
            to.data = fro.data.index_select(0, self.index)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[len(bottom) - 1]:
            raise CaffeError(f"{self.type}Layer cannot backpropagate to filter index inputs")
        for fro, to, wanted in zip(bottom, top, propagate_down, strict=False):
            if wanted:
                fro.diff = torch.zeros_like(fro.data).index_copy(0, self.index, to.diff)
