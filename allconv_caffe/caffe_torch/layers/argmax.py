"""ArgMax: the places of the greatest values."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import Layer, register


@register("ArgMax")
class ArgMaxLayer(Layer):
    """top = the places of the `top_k` (default 1) greatest values, greatest first; of equal values the later is greater.

    bottom[0]: any shape (N, ...). Along `axis`, top[0]: the bottom's shape with top_k there, places as floats, or with
    `out_max_val` the values. Without `axis` over all of an example, top[0]: (N, 1, top_k) with ones to the bottom's number
    of axes, or with `out_max_val` (N, 2, top_k): places, then values. No backward.
    Source: argmax_layer.cpp.
    """

    num_bottom = num_top = 1
    calls_kernels = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.argmax_param
        self.out_max_val: bool = param.out_max_val
        self.top_k: int = param.top_k
        check(self.top_k >= 1, "top k must not be less than 1.")
        self.axis = bottom[0].canonical_axis(param.axis) if param.HasField("axis") else None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        if self.axis is not None:
            bottom[0].canonical_axis(self.axis)
            check(self.top_k <= shape[self.axis], "top_k must be less than or equal to the dimension of the axis.")
            top[0].reshape(*shape[: self.axis], self.top_k, *shape[self.axis + 1 :])
            return
        bottom[0].canonical_axis(0)
        check(
            self.top_k <= bottom[0].count_range(1),
            "top_k must be less than or equal to the dimension of the flattened bottom blob per instance.",
        )
        trailing = [1] * (len(shape) - 3)
        top[0].reshape(shape[0], 2 if self.out_max_val else 1, self.top_k, *trailing)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].data
        if self.axis is None:
            x = x.reshape(x.shape[0], -1)
        axis = 1 if self.axis is None else self.axis
        math, room = self.ctx.math, top[0].room(bottom[0])
        places, values = math.greatest_along(x, axis, self.top_k)
        if self.axis is None and self.out_max_val:
            n, both = x.shape[0], None if room is None else room.view(x.shape[0], -1)
            y = math.concat([places.reshape(n, -1), values.reshape(n, -1)], 1, both)
        else:
            y = math.copy((values if self.out_max_val else places).reshape(top[0].shape), room)
        top[0].data = y.reshape(top[0].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        raise CaffeError("Not Implemented Yet")
