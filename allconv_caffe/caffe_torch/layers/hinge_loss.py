"""HingeLoss: one against all, linear or squared."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import LossLayer, check_labels, float32
from allconv_caffe.proto import HingeLossParameter


@register("HingeLoss")
class HingeLossLayer(LossLayer):
    """top = sum of m (L1, default) or m^2 (L2) / N, m = max(0, 1 - s x), s = 1 for the label's value, -1 for the others.

    bottom[0]: scores (N, K...), the axes after the first as one; bottom[1]: N labels, floats truncated toward 0 (more are
    not read); top[0]: scalar. As in Caffe, forward leaves m in the bottom's diff and backward goes on from what stands there.
    Source: hinge_loss_layer.cpp.
    Differs: a label out of range stops the plain executor with a message; Caffe writes to other memory.
    """

    auto_top_blobs = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.squared: bool = self.param.hinge_loss_param.norm == HingeLossParameter.L2

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        n = bottom[0].legacy_shape(0)
        x = float32(bottom[0].data).reshape(n, -1)
        label = bottom[1].data.reshape(-1)[:n].to(torch.int64)
        check_labels(label, x.shape[1], None)
        true = label[:, None] == torch.arange(x.shape[1], device=x.device)
        self.sign = torch.where(true, -torch.ones_like(x), torch.ones_like(x))
        margin = 1 + self.sign * x
        margin = torch.where(margin > 0, margin, torch.zeros_like(margin))  # nan is 0, too
        bottom[0].diff = margin.reshape(bottom[0].shape)
        top[0].data = (margin * margin if self.squared else margin).sum() / n

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        self.refuse_label_gradient(propagate_down)
        if not propagate_down[0]:
            return
        margin = float32(bottom[0].diff).reshape(self.sign.shape)
        dx = self.sign * (2 * margin if self.squared else torch.sign(margin))
        bottom[0].diff = self.ctx.math.scal(top[0].diff / bottom[0].legacy_shape(0), dx).reshape(bottom[0].shape)
