"""SoftmaxWithLoss: softmax and cross-entropy in one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import (
    LABEL_COUNT,
    LOSS_WEIGHT_COUNT,
    LossLayer,
    check_labels,
    creating_inner,
    float32,
)
from allconv_caffe.caffe_torch.layers.normalization import fixed_normalizer, loss_normalization, normalizer
from allconv_caffe.caffe_torch.tracing import is_tracing


@register("SoftmaxWithLoss")
class SoftmaxWithLossLayer(LossLayer):
    """top = sum of -log(max(p[label], FLT_MIN)) / n, p = softmax(bottom[0]) over `axis` (default 1).

    bottom[0]: scores (N, C, ...); bottom[1]: labels, N*... floats truncated toward 0; top[0]: scalar.
    n = max(1, m): VALID (default) m = labels that are not `ignore_label`, FULL m = all, BATCH_SIZE m = N, NONE m = 1.
    The FLT_MIN floor limits the loss of one example to 87.3365; it is not in the gradient.
    Source: softmax_loss_layer.cpp.
    Differs: a label out of range stops the plain executor with a message; Caffe reads other memory. Two tops end in the
    loss_weight sentence either way, as in Caffe.
    """

    num_top = None
    min_top = 1
    max_top = 2
    auto_top_blobs = True
    calls_kernels = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        creating_inner(self)
        check(len(self.param.loss_weight) == 1, LOSS_WEIGHT_COUNT)  # the inner Softmax has one top
        param = self.param.loss_param
        self.ignore_label: int | None = param.ignore_label if param.HasField("ignore_label") else None
        self.normalization = loss_normalization(param)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.axis = bottom[0].canonical_axis(self.param.softmax_param.axis)
        self.outer_num = bottom[0].count_range(0, self.axis)
        self.inner_num = bottom[0].count_range(self.axis + 1)
        check(self.outer_num * self.inner_num == bottom[1].count, LABEL_COUNT.format("softmax"))
        if len(top) >= 2:
            top[1].reshape_like(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, math = float32(bottom[0].data), self.ctx.math
        self.prob = math.softmax(x, self.axis)
        ignores = self.ignore_label is not None
        divisor = fixed_normalizer(self.normalization, self.outer_num, self.inner_num, ignores)
        room = top[0].room(bottom[0])
        loss = math.label_loss(self.prob, bottom[1].data, self.axis, self.ignore_label, divisor, room)
        if loss is not None:
            top[0].data = loss
            return
        label, ignored = self.labels(bottom)
        check_labels(label, x.shape[self.axis], ignored)
        p = self.prob.gather(self.axis, label if ignored is None else label.masked_fill(ignored, 0))
        if ignored is not None:
            p = p.masked_fill(ignored, 1)  # -log(1) adds nothing
        top[0].data = math.log_loss(p) / self.divisor(ignored)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        self.refuse_label_gradient(propagate_down)
        if not propagate_down[0]:
            return
        label, ignored = self.labels(bottom)
        if is_tracing() or self.prob.is_cuda:
            shape = [1] * len(self.prob.shape)
            shape[self.axis] = -1
            each = torch.arange(self.prob.shape[self.axis], device=self.prob.device).view(shape)
            dx = self.prob - (each == label).to(torch.float32)
        else:  # reads the scores once
            at = label if ignored is None else label.masked_fill(ignored, 0)
            dx = self.prob.clone()
            dx.scatter_add_(self.axis, at, torch.full((1,), -1.0).expand(at.shape))
        if ignored is not None:
            dx = dx.masked_fill(ignored, 0)
        bottom[0].diff = self.ctx.math.scal(top[0].diff / self.divisor(ignored), dx)

    def labels(self, bottom: Sequence[Blob]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Labels as integers, shaped to broadcast over the class axis; and which are ignored (None: none can be)."""
        shape = (*bottom[0].shape[: self.axis], 1, *bottom[0].shape[self.axis + 1 :])
        label = bottom[1].data.reshape(shape).to(torch.int64)
        return label, None if self.ignore_label is None else label == self.ignore_label

    def divisor(self, ignored: torch.Tensor | None) -> torch.Tensor | float:
        return normalizer(self.normalization, self.outer_num, self.inner_num, ignored)
