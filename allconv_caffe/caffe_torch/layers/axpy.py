"""Axpy, a layer of SENet's fork."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import sum_to


@register("Axpy")
class AxpyLayer(Layer):
    """top = a * x + y: a one number for each channel of each image.

    bottom[0]: a (N, C) or (N, C, 1, 1); bottom[1], bottom[2], top[0]: x, y (N, C, ...), one shape.
    Source: axpy_layer.cpp of hujie-frank/SENet.
    """

    num_bottom = 3
    num_top = 1

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a, x, y = bottom
        for axis in (0, 1):
            found, expected = (blob.shape[blob.canonical_axis(axis)] for blob in (a, x))
            check(
                found == expected,
                f"Check failed: bottom[0]->shape({axis}) == bottom[1]->shape({axis}) ({found} vs. {expected})",
            )
        check(
            a.count_range(2) == 1,
            f"bottom[0] must have one value for each channel of each image, found {a.shape_string}",
        )
        check(x.shape == y.shape, f"bottom[1]: {x.shape_string}, bottom[2]: {y.shape_string}")
        top[0].reshape_like(x)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a, x, y = (blob.data for blob in bottom)
        top[0].data = self.ctx.math.axpby(_spread(a, x.dim()), x, 1.0, y).to(x.dtype)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy, (a, x, _) = top[0].diff, (blob.data for blob in bottom)
        if propagate_down[0]:
            bottom[0].diff = sum_to(dy * x, 0, x.shape[:2]).reshape(bottom[0].shape)
        if propagate_down[1]:
            bottom[1].diff = self.ctx.math.scal(_spread(a, x.dim()), dy).to(dy.dtype)
        if propagate_down[2]:
            bottom[2].diff = dy


def _spread(a: torch.Tensor, axes: int) -> torch.Tensor:
    return a.reshape(*a.shape[:2], *[1] * (axes - 2))
