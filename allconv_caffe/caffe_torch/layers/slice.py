"""Slice: a blob cut into several."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.concat import legacy_axis


@register("Slice")
class SliceLayer(Layer):
    """tops = bottom cut along `axis` (default 1) before each `slice_point`, or without any into equal parts.

    bottom[0]: any shape (the old `slice_dim` names an axis from the front only); top[i]: that part. With one top it is the
    bottom's memory.
    Source: slice_layer.cpp.
    """

    num_bottom = 1
    min_top = 1
    calls_kernels = any_layout = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.slice_param
        check(
            not (param.HasField("axis") and param.HasField("slice_dim")),
            "Either axis or slice_dim should be specified; not both.",
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.slice_param
        if param.HasField("slice_dim"):
            self.axis = legacy_axis(bottom[0], param.slice_dim, "slice_dim")
        else:
            self.axis = bottom[0].canonical_axis(param.axis)
        shape = list(bottom[0].shape)
        length, points = shape[self.axis], [c_int(point) for point in param.slice_point]
        if points:
            check(
                len(points) == len(top) - 1,
                f"Check failed: slice_point_.size() == top.size() - 1 ({len(points)} vs. {len(top) - 1})",
            )
            check(len(top) <= length, f"slice axis: {self.axis}, bottom[0] shape: {bottom[0].shape_string}")
            for before, point in zip([0, *points], points, strict=False):
                check(point > before, f"Check failed: slice_point_[i] > prev ({point} vs. {before})")
            self.parts = [end - start for start, end in zip([0, *points], [*points, length], strict=True)]
        else:
            check(
                length % len(top) == 0,
                f"Number of top blobs ({len(top)}) should evenly divide input slice axis ({length})",
            )
            self.parts = [length // len(top)] * len(top)
        for blob, part in zip(top, self.parts, strict=True):
            shape[self.axis] = part
            blob.reshape(*shape)
        if len(top) == 1:
            top[0].share_data(bottom[0])
            top[0].share_diff(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if len(top) == 1:
            return
        start = 0
        for blob, length in zip(top, self.parts, strict=True):
            blob.data = self.ctx.math.part(bottom[0].data, self.axis, start, length, blob.room(bottom[0]))
            start += length

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0] and len(top) > 1:
            bottom[0].diff = torch.cat([blob.diff for blob in top], self.axis)
