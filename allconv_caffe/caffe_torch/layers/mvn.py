"""MVN: zero mean, unit variance, over each channel or each example."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import float32, legacy


@register("MVN")
class MVNLayer(Layer):
    """top = (bottom - mean) / (std + eps), std the root of the biased variance; without `normalize_variance`: bottom - mean.

    bottom[0]: up to four axes; top[0]: (N, C, H, W), missing axes 1. Mean and std of each channel of each example, with
    `across_channels` of each example. eps (default 1e-9) stands outside the root, and the gradient leaves it out of the
    derivative. Source: mvn_layer.cpp.
    Caffe's bug: in place with `normalize_variance` backward overwrites the top's diff before it has read it; what is left
    is -2 / D of the part that goes through the std, D = values per mean. Kept.
    """

    num_bottom = num_top = 1
    calls_kernels = True

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        n, c, h, w = legacy(bottom[0])
        top[0].reshape(n, c, h, w)
        self.rows = n if self.param.mvn_param.across_channels else n * c

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.mvn_param
        x, math = float32(bottom[0].data).reshape(self.rows, -1), self.ctx.math
        room = top[0].room()
        room = None if room is None else room.view(x.shape)
        of_each = 1 / max(x.shape[1], 1)
        y = math.each("subtract", x, math.row_sums(x, of_each), axis=0, room=room)
        if param.normalize_variance:
            variance = math.row_sums(math.powx(y, 2), of_each)
            deviation = math.each("add", math.powx(variance, 0.5), param.eps)  # variance_
            y = math.each("divide", y, deviation, axis=0, room=room)
            self.deviation = deviation.unsqueeze(1)
        top[0].data = y.reshape(top[0].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = float32(top[0].diff).reshape(self.rows, -1)
        if not self.param.mvn_param.normalize_variance:
            dx = dy - dy.mean(1, keepdim=True)
        else:
            y = float32(top[0].data).reshape(self.rows, -1)
            through_std = y * (y * dy).sum(1, keepdim=True)
            if top[0] is bottom[0]:
                dx = -2 / dy.shape[1] * through_std / self.deviation
            else:
                dx = (dy - (through_std + dy.sum(1, keepdim=True)) / dy.shape[1]) / self.deviation
        bottom[0].diff = dx.reshape(bottom[0].shape)
