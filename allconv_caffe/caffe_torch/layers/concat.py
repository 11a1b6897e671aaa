"""Concat: blobs laid end to end."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import MAX_AXES, Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register


@register("Concat")
class ConcatLayer(Layer):
    """top = the bottoms one after the other along `axis` (default 1; the old `concat_dim` counts from the front only).

    bottom[i]: shapes that agree on all other axes; top[0]: their sum along `axis`. With one bottom the top is its memory.
    Source: concat_layer.cpp.
    """

    min_bottom = 1
    num_top = 1
    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.concat_param
        check(
            not (param.HasField("axis") and param.HasField("concat_dim")),
            "Either axis or concat_dim should be specified; not both.",
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.concat_param
        legacy = param.concat_dim if param.HasField("concat_dim") else None
        self.axis = (
            bottom[0].canonical_axis(param.axis) if legacy is None else legacy_axis(bottom[0], legacy, "concat_dim")
        )
        shape = list(bottom[0].shape)
        for blob in bottom[1:]:
            check(blob.num_axes == len(shape), "All inputs must have the same #axes.")
            for j, dim in enumerate(blob.shape):
                check(
                    j == self.axis or dim == shape[j],
                    "All inputs must have the same shape, except at concat_axis.",
                )
            shape[self.axis] += blob.shape[self.axis]
        top[0].reshape(*shape)
        if len(bottom) == 1:
            top[0].share_data(bottom[0])
            top[0].share_diff(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if len(bottom) > 1:
            parts = [blob.data for blob in bottom]
            top[0].data = self.ctx.math.concat(parts, self.axis, top[0].room(*bottom))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if len(bottom) == 1:
            return
        dy, start = top[0].diff, 0
        for blob, wanted in zip(bottom, propagate_down, strict=True):
            length = blob.shape[self.axis]
            if wanted:
                blob.diff = dy.narrow(self.axis, start, length)
            start += length


def legacy_axis(blob: Blob, axis: int, word: str) -> int:
    """An axis given in an old unsigned field: no counting from the end."""
    check(
        axis < 2**31,
        f"casting {word} from uint32 to int32 produced negative result; {word} must satisfy 0 <= {word} < {MAX_AXES}",
    )
    check(axis < blob.num_axes, f"{word} out of range.")
    return axis
