"""ContrastiveLoss: similar pairs near, dissimilar pairs a margin apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import LossLayer, float32, legacy


@register("ContrastiveLoss")
class ContrastiveLossLayer(LossLayer):
    """top = sum of d^2 over similar pairs and max(margin - d, 0)^2 over the others, / 2N; d = |bottom[0] - bottom[1]|.

    bottom[0], bottom[1]: features (N, C); bottom[2]: (N), 0 after truncation: dissimilar, else similar; top[0]: scalar.
    `margin` defaults to 1. `legacy_version`: max(margin - d^2, 0) for dissimilar pairs. The gradient of a dissimilar pair
    divides by d + 1e-4, so that it is 0 at d = 0. Source: contrastive_loss_layer.cpp.
    Differs: too few values in bottom[2] stop the net; Caffe reads other memory.
    """

    num_bottom = 3
    auto_top_blobs = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        param = self.param.contrastive_loss_param
        self.margin: float = param.margin
        self.legacy_version: bool = param.legacy_version
        channels = [legacy(blob)[1] for blob in bottom]
        check(
            channels[0] == channels[1],
            f"Check failed: bottom[0]->channels() == bottom[1]->channels() ({channels[0]} vs. {channels[1]})",
        )
        for i, blob in enumerate(bottom):
            if i == 2:
                check(channels[2] == 1, f"Check failed: bottom[2]->channels() == 1 ({channels[2]} vs. 1)")
            for word, size in zip(("height", "width"), legacy(blob)[2:], strict=True):
                check(size == 1, f"Check failed: bottom[{i}]->{word}() == 1 ({size} vs. 1)")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        n, found = bottom[0].shape[0], bottom[2].count
        check(found >= n, f"bottom[2] must say of each pair whether it is similar: found {found} values, expected {n}")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        n = bottom[0].shape[0]
        a, b = (float32(blob.data).reshape(n, -1) for blob in bottom[:2])
        self.difference = a - b  # diff_
        self.dist_sq = (self.difference * self.difference).sum(1)
        self.similar = bottom[2].data.reshape(-1)[:n].to(torch.int64) != 0
        if self.legacy_version:
            apart = (self.margin - self.dist_sq).clamp(min=0)
        else:
            gap = (self.margin - self.dist_sq.sqrt()).clamp(min=0)
            apart = gap * gap
        top[0].data = torch.where(self.similar, self.dist_sq, apart).sum() / n / 2

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        one = torch.ones_like(self.dist_sq)
        if self.legacy_version:
            gap, push = self.margin - self.dist_sq, -one
        else:
            dist = self.dist_sq.sqrt()
            gap = self.margin - dist
            push = -gap / (dist + 1e-4)
        counts = (self.similar | (gap > 0))[:, None]
        factor = torch.where(self.similar, one, push)[:, None]
        for i, sign in ((0, 1), (1, -1)):
            if propagate_down[i]:
                alpha = sign * top[0].diff / bottom[i].shape[0]
                dx = self.ctx.math.axpby(alpha * factor, self.difference).masked_fill(~counts, 0)
                bottom[i].diff = dx.reshape(bottom[i].shape)

    def allow_force_backward(self, bottom_index: int) -> bool:
        return bottom_index != 2
