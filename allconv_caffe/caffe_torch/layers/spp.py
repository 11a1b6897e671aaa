"""SPP: spatial pyramid pooling, one length for every image size."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import legacy
from allconv_caffe.caffe_torch.layers.pooling import PoolingLayer
from allconv_caffe.proto import LayerParameter


@register("SPP")
class SPPLayer(Layer):
    """top = the image pooled over 1x1, 2x2, 4x4, ... bins, `pyramid_height` times, each flattened, one after the other.

    bottom[0]: (N, C, H, W); top[0]: (N, C * (1 + 4 + 16 + ...)), with pyramid_height 1 (N, C, 1, 1).
    For b bins of a side h: kernel and stride ceil(h / b), pad (kernel * b - h + 1) / 2, as a Pooling layer of method `pool`
    (MAX, AVE); so some sizes give fewer bins, and some a pad that Pooling refuses. Source: spp_layer.cpp.
    """

    num_bottom = num_top = 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.pyramid_height: int = self.param.spp_param.pyramid_height
        for size in legacy(bottom[0])[2:]:
            check(size > 0, "Input dimensions cannot be zero.")
        check(self.pyramid_height > 0, f"Check failed: pyramid_height > 0 ({self.pyramid_height} vs. 0)")
        self._pooled_shape: tuple[int, ...] | None = None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(bottom[0].num_axes == 4, "Input must have 4 axes, corresponding to (num, channels, height, width)")
        if self._pooled_shape != bottom[0].shape:
            self._pooled_shape = bottom[0].shape
            self.levels = [self.level(i, bottom) for i in range(self.pyramid_height)]
        if self.pyramid_height == 1:
            top[0].reshape_like(self.levels[0][1])
        else:
            top[0].reshape(bottom[0].shape[0], sum(pooled.count_range(1) for _, pooled, _ in self.levels))

    def level(self, i: int, bottom: Sequence[Blob]) -> tuple[PoolingLayer, Blob, Blob]:
        """The pooling of one level, its top, and a bottom that takes its gradient."""
        param = LayerParameter(type="Pooling")
        pooling_param = param.pooling_param
        pooling_param.pool = self.param.spp_param.pool
        for word, size in zip("hw", bottom[0].shape[2:], strict=True):
            kernel = -(-size // 2**i)
            setattr(pooling_param, f"pad_{word}", (kernel * 2**i - size + 1) // 2)
            setattr(pooling_param, f"kernel_{word}", kernel)
            setattr(pooling_param, f"stride_{word}", kernel)
        layer, pooled, gradient = PoolingLayer(param, self.ctx), self.new_blob(), self.new_blob()
        layer.set_up(bottom, [pooled])
        gradient.reshape_like(bottom[0])
        return layer, pooled, gradient

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for layer, pooled, _ in self.levels:
            layer.forward(bottom, [pooled])
        if self.pyramid_height == 1:
            top[0].data = self.levels[0][1].data
        else:
            n = bottom[0].shape[0]
            top[0].data = torch.cat([pooled.data.reshape(n, -1) for _, pooled, _ in self.levels], 1)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        parts = top[0].diff.reshape(bottom[0].shape[0], -1).split([b.count_range(1) for _, b, _ in self.levels], 1)
        total: torch.Tensor | None = None
        for part, (layer, pooled, gradient) in zip(parts, self.levels, strict=True):
            pooled.diff = part.reshape(pooled.shape)
            layer.backward([pooled], [True], [gradient])
            total = gradient.diff if total is None else total + gradient.diff
        assert total is not None
        bottom[0].diff = total
