"""Accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import LABEL_COUNT, check_labels, float32, refuse_gradient


@register("Accuracy")
class AccuracyLayer(Layer):
    """top[0] = share of examples whose true class is among the `top_k` best; top[1] = the same per class.

    bottom[0]: scores (N, C, ...); bottom[1]: labels, N*... floats truncated toward 0; top[0]: scalar; top[1]: (C).
    Pessimistic: an example is right iff fewer than top_k other classes score as high as the true one, so a net with equal
    scores gets 0; and any comparison with nan is false, so a diverged net gets 1. No labels that count: 0.
    Source: accuracy_layer.cpp.
    Differs: a label out of range stops the plain executor with a message; Caffe reads other memory.
    """

    num_bottom = 2
    min_top = 1
    max_top = 2
    calls_kernels = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.accuracy_param
        self.top_k: int = param.top_k
        self.ignore_label: int | None = param.ignore_label if param.HasField("ignore_label") else None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(
            self.top_k <= bottom[0].count // max(bottom[1].count, 1),
            "top_k must be less than or equal to the number of classes.",
        )
        self.axis = bottom[0].canonical_axis(self.param.accuracy_param.axis)
        outer_num, inner_num = bottom[0].count_range(0, self.axis), bottom[0].count_range(self.axis + 1)
        check(outer_num * inner_num == bottom[1].count, LABEL_COUNT.format("label"))
        top[0].reshape()
        if len(top) > 1:
            top[1].reshape(bottom[0].shape[self.axis])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = float32(bottom[0].data)
        classes = x.shape[self.axis]
        rooms = [blob.room(*bottom) for blob in top]
        shares = self.ctx.math.accuracy(x, bottom[1].data, self.axis, self.ignore_label, self.top_k, rooms)
        if shares is not None:
            for blob, share in zip(top, shares, strict=True):
                blob.data = share
            return
        shape = (*x.shape[: self.axis], 1, *x.shape[self.axis + 1 :])
        label = bottom[1].data.reshape(shape).to(torch.int64)
        ignored = torch.zeros_like(label, dtype=torch.bool) if self.ignore_label is None else label == self.ignore_label
        check_labels(label, classes, ignored)
        true_score = x.gather(self.axis, torch.where(ignored, torch.zeros_like(label), label))
        better = (x >= true_score).sum(self.axis, keepdim=True) - 1  # the true class counts itself
        valid = (~ignored).to(torch.float32)
        correct = (better < self.top_k).to(torch.float32) * valid
        top[0].data = correct.sum() / valid.sum().clamp(min=1)
        if len(top) > 1:
            each = torch.arange(classes, device=x.device)
            is_class = (label.reshape(-1, 1) == each).to(torch.float32)
            right = (is_class * correct.reshape(-1, 1)).sum(0)
            top[1].data = right / (is_class * valid.reshape(-1, 1)).sum(0).clamp(min=1)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        refuse_gradient(propagate_down)
