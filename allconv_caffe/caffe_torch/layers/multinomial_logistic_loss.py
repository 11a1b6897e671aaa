"""MultinomialLogisticLoss: cross-entropy of given probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import LossLayer, check_labels, float32, legacy

LOG_THRESHOLD = 1e-20  # kLOG_THRESHOLD: no probability counts as less


@register("MultinomialLogisticLoss")
class MultinomialLogisticLossLayer(LossLayer):
    """top = sum of -log(max(p[label], 1e-20)) / N.

    bottom[0]: probabilities (N, C...), the axes after the first as one; bottom[1]: (N) labels, floats truncated toward 0;
    top[0]: scalar. Only the label's probability gets a gradient. Source: multinomial_logistic_loss_layer.cpp.
    Differs: a label out of range stops the plain executor with a message; Caffe reads other memory.
    """

    auto_top_blobs = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        for word, size in zip(("channels", "height", "width"), legacy(bottom[1])[1:], strict=True):
            check(size == 1, f"Check failed: bottom[1]->{word}() == 1 ({size} vs. 1)")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        n = bottom[0].legacy_shape(0)
        p = float32(bottom[0].data).reshape(n, -1)
        self.label = bottom[1].data.reshape(n, 1).to(torch.int64)
        check_labels(self.label, p.shape[1], None)
        self.prob = p.gather(1, self.label).clamp(min=LOG_THRESHOLD)
        top[0].data = -torch.log(self.prob).sum() / n

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        self.refuse_label_gradient(propagate_down)
        if not propagate_down[0]:
            return
        n = bottom[0].legacy_shape(0)
        zero = torch.zeros(n, bottom[0].count // n, device=self.prob.device)
        dx = zero.scatter(1, self.label, -top[0].diff / n / self.prob)
        bottom[0].diff = dx.reshape(bottom[0].shape)
