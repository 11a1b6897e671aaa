"""Dropout."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.rng import MaskStream, stream_of
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer
from allconv_caffe.caffe_torch.tracing import is_tracing
from allconv_caffe.proto import TRAIN


@register("Dropout")
class DropoutLayer(NeuronLayer):
    """TRAIN: top = bottom * mask / (1 - ratio), mask ~ Bernoulli(1 - ratio) per element; TEST: top = bottom.

    bottom[0], top[0]: any one shape, may be one blob (in-place). `dropout_ratio` defaults to 0.5. The mask is drawn anew,
    row-major, at every TRAIN forward, also with ratio 0; backward reuses it.
    Source: dropout_layer.cpp. Paper: section 3.1.
    """

    calls_kernels = any_layout = True
    for_backward = ("mask",)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.threshold: float = self.param.dropout_param.dropout_ratio
        self.scale = 1.0 / (1.0 - self.threshold) if self.threshold != 1.0 else float("inf")
        self.calls_kernels = self.phase != TRAIN
        if self.phase == TRAIN:
            self.masks = stream_of(self.ctx.rng)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].data
        if self.phase != TRAIN:
            top[0].data = x if top[0] is bottom[0] else self.ctx.math.copy(x, top[0].room(bottom[0]))
            return
        self.mask = self._draw(x)
        top[0].data = x * self.mask * self.scale

    def _draw(self, x: torch.Tensor) -> torch.Tensor:
        assert self.masks is not None
        if not is_tracing():
            return self.masks.bernoulli(x.shape, 1.0 - self.threshold, x.device)
        assert isinstance(self.masks, MaskStream)
        last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        mask = self.masks.bernoulli(x.shape, 1.0 - self.threshold, x.device, last)
        return (
            mask if mask.dtype == torch.uint8 else mask != 0
        )  # bytes to keep; the compiler's loops over bools branch at each

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        bottom[0].diff = top[0].diff * self.mask * self.scale if self.phase == TRAIN else top[0].diff
