"""LRN: local response normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.math_functions import raised
from allconv_caffe.caffe_torch.compute.window import Window, c_int
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import NeuronLayer, float32
from allconv_caffe.proto import LRNParameter


@register("LRN")
class LRNLayer(NeuronLayer):
    """top = bottom * s ^ -beta, s from the squares in a window of `local_size` n around each value.

    bottom[0], top[0]: (N, C, H, W). ACROSS_CHANNELS (default): s = k + alpha / n * sum over n channels. WITHIN_CHANNEL:
    s = 1 + alpha / n^2 * sum over n x n pixels, divided by n^2 at the border too; `k` is ignored there.
    Defaults: n 5 (odd), alpha 1, beta 0.75, k 1.
    Source: lrn_layer.cpp.
    Differs: in place the top is right; Caffe's is s ^ -2beta.
    """

    calls_kernels = any_layout = True
    for_backward = ("scale",)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.lrn_param
        self.size = c_int(param.local_size)
        check(self.size > 0 and self.size % 2 == 1, "LRN only supports odd values for local_size")
        self.alpha: float = param.alpha
        self.beta: float = param.beta
        self.across = param.norm_region == LRNParameter.ACROSS_CHANNELS
        self.k: float = param.k
        size, one, half = (self.size,) * 2, (1, 1), (self.size // 2,) * 2
        self.window = Window(kernel=size, stride=one, pad=half, dilation=one)  # WITHIN_CHANNEL's

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(bottom[0].num_axes == 4, "Input must have 4 axes, corresponding to (num, channels, height, width)")
        if self.across:
            padded = c_int(bottom[0].shape[1] + self.size - 1)
            check(padded >= 0, f"Check failed: shape[i] >= 0 ({padded} vs. 0)")
        super().reshape(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, math = float32(bottom[0].data), self.ctx.math
        if self.across:
            self.scale = math.lrn_scale(x, self.size, self.alpha / self.size, self.k)
        else:
            self.scale = math.lrn_scale_within(x, self.window, self.alpha)
        y = math.each("times_power", x, self.scale, -self.beta, room=top[0].room())
        top[0].data = y.to(bottom[0].data.dtype)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        x, y, dy = float32(bottom[0].data), float32(top[0].data), float32(top[0].diff)
        math, inverse, factor = self.ctx.math, raised(self.scale, -self.beta), 2 * self.alpha * self.beta
        if self.across:
            sums = math.channel_sum(dy * y / self.scale, self.size, 1.0)
            dx = dy * inverse - math.axpby(factor / self.size, x * sums)  # in this order, for huge x
        else:
            ratio = math.scal(float(factor != 0), dy * x * math.scal(factor, inverse / self.scale))
            dx = dy * inverse - x * math.average_pool(ratio, self.window, x.shape[2:])
        bottom[0].diff = dx.to(top[0].diff.dtype)
