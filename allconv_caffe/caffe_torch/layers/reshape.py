"""Reshape: other axes over the same values."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import refuse_in_place


@register("Reshape")
class ReshapeLayer(Layer):
    """top = bottom with `num_axes` axes (default -1: all) from `axis` (default 0) on replaced by `shape`; the same memory.

    In `shape` a 0 copies the bottom's dim of the same place, one -1 is inferred. A negative `axis` counts from one past
    the last axis; `num_axes: 0` inserts.
    bottom[0]: any shape; top[0]: the same count.
    Source: reshape_layer.cpp.
    """

    num_bottom = num_top = 1
    calls_kernels = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        refuse_in_place(self, bottom, top)
        check(
            list(self.param.reshape_param.shape.dim).count(-1) <= 1,
            "new shape contains multiple -1 dims; at most a single (1) value of -1 may be specified",
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param, blob = self.param.reshape_param, bottom[0]
        start = param.axis if param.axis >= 0 else blob.num_axes + param.axis + 1
        check(start >= 0, f"axis {param.axis} out of range")
        check(start <= blob.num_axes, f"axis {param.axis} out of range for {blob.num_axes}-D input blob")
        check(param.num_axes >= -1, "num_axes must be >= 0, or -1 for all")
        end = blob.num_axes if param.num_axes == -1 else start + param.num_axes
        check(end <= blob.num_axes, "end_axis = axis + num_axes is out of range")
        new = list(param.shape.dim)
        for i, dim in enumerate(new):
            if dim == 0:
                check(
                    blob.num_axes > start + i,
                    "new shape contains a 0, but there was no corresponding bottom axis to copy",
                )
                new[i] = blob.shape[start + i]
        if -1 in param.shape.dim:
            inferred = list(param.shape.dim).index(-1)
            explicit = blob.count_range(0, start) * blob.count_range(end)
            for i, dim in enumerate(new):
                explicit *= dim if i != inferred else 1
            check(
                explicit != 0 and blob.count % explicit == 0,
                f"bottom count ({blob.count}) must be divisible by the product of the specified dimensions ({explicit})",
            )
            new[inferred] = blob.count // explicit
        top[0].reshape(*blob.shape[:start], *new, *blob.shape[end:])
        check(top[0].count == blob.count, "output count must match input count")
        top[0].share_data(blob)
        top[0].share_diff(blob)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Nothing moves: the top is the bottom's memory."""

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Nothing moves here either."""
