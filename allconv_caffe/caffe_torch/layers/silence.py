"""Silence: readers for blobs that nobody else reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import Layer, register


@register("Silence")
class SilenceLayer(Layer):
    """No tops, so the bottoms are no outputs of the net; their gradients are 0.

    bottom[0], ...: any shapes. Source: silence_layer.cpp.
    """

    min_bottom = 1
    num_top = 0
    calls_kernels = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """No tops to shape."""

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Nothing to compute."""

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for blob, wanted in zip(bottom, propagate_down, strict=True):
            if wanted:
                blob.diff = torch.zeros(blob.shape, device=blob.device)
