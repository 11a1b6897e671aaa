"""Bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import add_filled, skipping, sum_to


def operand_shape(blob: Blob, axis: int, num_axes: int, word: str) -> tuple[int, ...]:
    """The axes of `blob` that a learned scale or bias covers: `num_axes` from `axis` on, -1 for the rest."""
    start = blob.canonical_axis(axis)
    check(num_axes >= -1, "num_axes must be non-negative, or -1 to extend to the end of bottom[0]")
    check(
        num_axes == -1 or blob.num_axes >= start + num_axes,
        f"{word} blob's shape extends past bottom[0]'s shape when applied starting with bottom[0] axis = {start}",
    )
    return blob.shape[start:] if num_axes == -1 else blob.shape[start : start + num_axes]


def operand_axis(blob: Blob, operand: Blob, axis: int, word: str) -> int:
    """Where `operand` lies in `blob`; 0 for a scalar. Raises CaffeError where the shapes disagree."""
    start = 0 if operand.num_axes == 0 else blob.canonical_axis(axis)
    check(
        blob.num_axes >= start + operand.num_axes,
        f"{word} blob's shape extends past bottom[0]'s shape when applied starting with bottom[0] axis = {start}",
    )
    for i, dim in enumerate(operand.shape):
        check(
            blob.shape[start + i] == dim,
            f"dimension mismatch between bottom[0]->shape({start + i}) and {word}->shape({i})",
        )
    return start


@register("Bias")
class BiasLayer(Layer):
    """top = bottom[0] + bias, broadcast from `axis` (default 1) on.

    bottom[0], top[0]: any one shape, may be one blob (in-place). bias: bottom[1], or blobs[0] of `num_axes` (default 1)
    axes of bottom[0], filled with 0 unless `filler` says otherwise.
    Source: bias_layer.cpp.
    """

    min_bottom = 1
    max_bottom = 2
    num_top = 1
    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param: Any = self.param.bias_param
        if len(bottom) == 1 and self.blobs:
            skipping("bias_layer.cpp:13")
        elif len(bottom) == 1:
            add_filled(self, operand_shape(bottom[0], param.axis, param.num_axes, "bias"), param.filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.axis = operand_axis(bottom[0], self.bias(bottom), self.param.bias_param.axis, "bias")
        top[0].reshape_like(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].data
        bias, room = self.bias(bottom).data.to(x.dtype), top[0].room(*bottom[1:])
        top[0].data = self.ctx.math.each("add", x, bias, axis=self.axis, room=room)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = top[0].diff
        if propagate_down[0] and bottom[0] is not top[0]:
            bottom[0].diff = dy
        if len(bottom) == 1 and self.param_propagate_down[0]:
            self.blobs[0].accumulate_diff(sum_to(dy, self.axis, self.blobs[0].shape))
        elif len(bottom) == 2 and propagate_down[1]:
            bottom[1].diff = sum_to(dy, self.axis, bottom[1].shape)

    def bias(self, bottom: Sequence[Blob]) -> Blob:
        return bottom[1] if len(bottom) > 1 else self.blobs[0]
