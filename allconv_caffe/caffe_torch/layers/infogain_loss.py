"""InfogainLoss: softmax and cross-entropy weighted by a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import LABEL_COUNT, LossLayer, check_labels, creating_inner, float32
from allconv_caffe.caffe_torch.layers.multinomial_logistic_loss import LOG_THRESHOLD
from allconv_caffe.caffe_torch.layers.normalization import loss_normalization, normalizer
from allconv_caffe.proto import BlobProto, ProtoError, read_binary


@register("InfogainLoss")
class InfogainLossLayer(LossLayer):
    """top[0] = sum over classes l of -H[label, l] log(max(p[l], 1e-20)) / n, p = softmax(bottom[0]) over `axis` (default 1).

    bottom[0]: scores (N, C, ...); bottom[1]: labels, N*... floats truncated toward 0; H: bottom[2] or the BlobProto in the
    file `source`, C*C values; top[0]: scalar; top[1] (then two `loss_weight`s must be given): p.
    n as for SoftmaxWithLoss, VALID by default. The identity as H gives SoftmaxWithLoss but for the floor. The floor is
    not in the gradient. Source: infogain_loss_layer.cpp.
    Differs: a label out of range stops the plain executor with a message; Caffe reads other memory.
    """

    num_bottom = None
    min_bottom = 2
    max_bottom = 3
    num_top = None
    min_top = 1
    max_top = 2
    auto_top_blobs = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        creating_inner(self)
        loss_param, param = self.param.loss_param, self.param.infogain_loss_param
        self.ignore_label: int | None = loss_param.ignore_label if loss_param.HasField("ignore_label") else None
        check(not loss_param.HasField("normalize"), 'normalize is deprecated. use "normalization"')
        self.normalization = loss_normalization(loss_param)
        self.infogain = self.new_blob()
        if len(bottom) < 3:
            check(param.HasField("source"), "Infogain matrix source must be specified.")
            try:
                self.infogain.from_proto(read_binary(Path(param.source), BlobProto))
            except ProtoError as error:
                raise CaffeError(str(error)) from None
            except CaffeError as error:
                raise error.within(param.source) from None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.axis = bottom[0].canonical_axis(self.param.infogain_loss_param.axis)
        self.outer_num = bottom[0].count_range(0, self.axis)
        self.inner_num = bottom[0].count_range(self.axis + 1)
        check(self.outer_num * self.inner_num == bottom[1].count, LABEL_COUNT.format("infogain"))
        classes, found = bottom[0].shape[self.axis], self.matrix(bottom).count
        check(
            found == classes * classes,
            f"Check failed: infogain->count() == num_labels_*num_labels_ ({found} vs. {classes * classes})",
        )
        if len(top) >= 2:
            top[1].reshape_like(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = float32(bottom[0].data)
        self.prob = self.ctx.math.softmax(x, self.axis)
        rows, ignored = self.rows(bottom)
        loss = -(rows * torch.log(self.prob.clamp(min=LOG_THRESHOLD))).sum(self.axis, keepdim=True)
        if ignored is not None:
            loss = torch.where(ignored, torch.zeros_like(loss), loss)
        top[0].data = loss.sum() / self.divisor(ignored)
        if len(top) >= 2:
            top[1].data = self.prob

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        self.refuse_label_gradient(propagate_down)
        if len(propagate_down) > 2 and propagate_down[2]:
            raise CaffeError(f"{self.type} Layer cannot backpropagate to infogain inputs.")
        if not propagate_down[0]:
            return
        rows, ignored = self.rows(bottom)
        dx = self.prob * rows.sum(self.axis, keepdim=True) - rows
        if ignored is not None:
            dx = torch.where(ignored, torch.zeros_like(dx), dx)
        bottom[0].diff = self.ctx.math.scal(top[0].diff / self.divisor(ignored), dx)

    def matrix(self, bottom: Sequence[Blob]) -> Blob:
        return bottom[2] if len(bottom) > 2 else self.infogain

    def rows(self, bottom: Sequence[Blob]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """H[label] along the class axis, of bottom[0]'s shape; and which labels are ignored (None: none can be)."""
        shape, classes = bottom[0].shape, bottom[0].shape[self.axis]
        around = (*shape[: self.axis], *shape[self.axis + 1 :])
        label = bottom[1].data.reshape(around).to(torch.int64)
        ignored = None if self.ignore_label is None else label == self.ignore_label
        check_labels(label, classes, ignored)
        index = label if ignored is None else torch.where(ignored, torch.zeros_like(label), label)
        matrix = float32(self.matrix(bottom).data).reshape(classes, classes)
        rows = matrix.index_select(0, index.reshape(-1)).reshape(*around, classes).movedim(-1, self.axis)
        return rows, None if ignored is None else ignored.unsqueeze(self.axis)

    def divisor(self, ignored: torch.Tensor | None) -> torch.Tensor | float:
        return normalizer(self.normalization, self.outer_num, self.inner_num, ignored)
