"""Tile: a blob repeated along an axis."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register


@register("Tile")
class TileLayer(Layer):
    """top = bottom laid end to end `tiles` times along `axis` (default 1); the copies' gradients add up.

    bottom[0]: any shape; top[0]: that dim times `tiles`. Source: tile_layer.cpp.
    """

    num_bottom = num_top = 1
    calls_kernels = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.tile_param
        self.axis = bottom[0].canonical_axis(param.axis)
        check(param.HasField("tiles"), "Number of tiles must be specified")
        self.tiles: int = param.tiles
        check(self.tiles > 0, "Number of tiles must be positive.")
        shape = bottom[0].shape
        top[0].reshape(*shape[: self.axis], shape[self.axis] * self.tiles, *shape[self.axis + 1 :])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        x = bottom[0].data.unsqueeze(self.axis).expand(*shape[: self.axis], self.tiles, *shape[self.axis :])
        top[0].data = self.ctx.math.copy(x, top[0].room(bottom[0])).reshape(top[0].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        shape = bottom[0].shape
        dy = top[0].diff.reshape(*shape[: self.axis], self.tiles, *shape[self.axis :])
        bottom[0].diff = dy.sum(self.axis)
