"""SigmoidCrossEntropyLoss: independent yes-or-no targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import LossLayer, float32, leading
from allconv_caffe.caffe_torch.layers.normalization import fixed_normalizer, loss_normalization, normalizer
from allconv_caffe.proto import LossParameter


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLossLayer(LossLayer):
    """top = -sum of t log(p) + (1 - t) log(1 - p) / n, p = sigmoid(bottom[0]), computed without overflow.

    bottom[0]: scores (N, ...); bottom[1]: targets t in [0, 1], as many; top[0]: scalar.
    n = max(1, m): BATCH_SIZE (default) m = N, VALID m = targets that are not `ignore_label` (after truncation toward 0, so
    ignore_label 0 drops every target below 1), FULL m = all, NONE m = 1. Source: sigmoid_cross_entropy_loss_layer.cpp.
    """

    auto_top_blobs = True
    calls_kernels = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        param = self.param.loss_param
        self.ignore_label: int | None = param.ignore_label if param.HasField("ignore_label") else None
        self.normalization = loss_normalization(param, LossParameter.BATCH_SIZE)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.outer_num, self.inner_num = leading(bottom[0]), bottom[0].count_range(1)
        check(
            bottom[0].count == bottom[1].count,
            "SIGMOID_CROSS_ENTROPY_LOSS layer inputs must have the same count.",
        )

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, target = self.values(bottom)
        self.prob = self.ctx.math.each("sigmoid", x)  # sigmoid_output_
        ignores = self.ignore_label is not None
        divisor = fixed_normalizer(self.normalization, self.outer_num, self.inner_num, ignores)
        whole = self.ctx.math.sigmoid_loss(x, target, self.ignore_label, divisor, top[0].room(*bottom))
        if whole is not None:
            top[0].data = whole
            return
        ignored = self.ignored(target)
        positive = (x >= 0).to(x.dtype)
        loss = torch.log1p(torch.exp(x - 2 * x * positive)) - x * (target - positive)
        if ignored is not None:
            loss = torch.where(ignored, torch.zeros_like(loss), loss)
        top[0].data = loss.sum() / self.divisor(ignored)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        self.refuse_label_gradient(propagate_down)
        if not propagate_down[0]:
            return
        _, target = self.values(bottom)
        ignored = self.ignored(target)
        dx = self.prob - target
        if ignored is not None:
            dx = torch.where(ignored, torch.zeros_like(dx), dx)
        bottom[0].diff = self.ctx.math.scal(top[0].diff / self.divisor(ignored), dx)

    def values(self, bottom: Sequence[Blob]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and targets."""
        return float32(bottom[0].data), float32(bottom[1].data.reshape(bottom[0].shape))

    def ignored(self, target: torch.Tensor) -> torch.Tensor | None:
        """Which targets do not count; None: all do."""
        return None if self.ignore_label is None else target.to(torch.int64) == self.ignore_label

    def divisor(self, ignored: torch.Tensor | None) -> torch.Tensor | float:  # normalizer_
        return normalizer(self.normalization, self.outer_num, self.inner_num, ignored)
