"""Scale."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.math_functions import along
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import add_filled, creating_inner, kept, skipping, sum_to
from allconv_caffe.caffe_torch.layers.bias import operand_axis, operand_shape
from allconv_caffe.caffe_torch.tracing import is_tracing
from allconv_caffe.proto import FillerParameter


@register("Scale")
class ScaleLayer(Layer):
    """top = bottom[0] * scale (+ bias), broadcast from `axis` (default 1) on.

    bottom[0], top[0]: any one shape, may be one blob (in-place). scale: bottom[1], or the first of `blobs`, `num_axes`
    (default 1) axes of bottom[0], filled with 1 unless `filler` says otherwise; bias (`bias_term: true`): the last of
    `blobs`, of the scale's shape, filled with 0 unless `bias_filler` says otherwise.
    A learned scale that covers all of bottom[0], or all but trailing axes, gets its gradient assigned instead of added,
    as in Caffe (visible only with iter_size > 1 or shared parameters).
    Source: scale_layer.cpp.
    """

    min_bottom = 1
    max_bottom = 2
    num_top = 1
    calls_kernels = any_layout = True
    for_backward = ("before",)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.scale_param
        if len(bottom) == 1 and self.blobs:
            skipping("scale_layer.cpp:16")
        elif len(bottom) == 1:
            one = FillerParameter(type="constant", value=1)
            shape = operand_shape(bottom[0], param.axis, param.num_axes, "scale")
            add_filled(self, shape, param.filler if param.HasField("filler") else one)
        self.bias_term: bool = param.bias_term
        if self.bias_term:
            creating_inner(self)
        if self.bias_term and len(self.blobs) + len(bottom) < 3:
            num_axes = bottom[1].num_axes if len(bottom) > 1 else param.num_axes
            add_filled(self, operand_shape(bottom[0], param.axis, num_axes, "bias"), param.bias_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scale = self.scale(bottom)
        self.axis = operand_axis(bottom[0], scale, self.param.scale_param.axis, "scale")
        top[0].reshape_like(bottom[0])
        if self.bias_term:
            self.bias_axis = operand_axis(top[0], self.blobs[-1], self.param.scale_param.axis, "bias")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, math, room = bottom[0].data, self.ctx.math, top[0].room(*bottom[1:])
        if top[0] is bottom[0]:
            self.before = math.clone(x)  # temp_
        scale = self.scale(bottom).data
        if self.bias_term:
            y = math.affine(x, scale, self.blobs[-1].data, (self.axis, self.bias_axis), room)
        else:
            y = math.each("scal", x, scale, axis=self.axis, room=room)
        top[0].data = y.to(x.dtype)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy, scale = top[0].diff, self.scale(bottom)
        factor = along(scale.data, self.axis, dy.dim())
        if self.bias_term and self.param_propagate_down[-1]:
            self.blobs[-1].accumulate_diff(sum_to(dy, self.bias_axis, self.blobs[-1].shape))
        learned = len(bottom) == 1
        if self.param_propagate_down[0] if learned else propagate_down[1]:
            x = kept(self.before, top[0]) if top[0] is bottom[0] else bottom[0].data
            gradient = sum_to(dy * x, self.axis, scale.shape)
            if learned and not self.overwrites(bottom[0], scale):
                scale.accumulate_diff(gradient)
            else:
                scale.diff = gradient
            if not propagate_down[0] and top[0] is not bottom[0] and not is_tracing() and x.numel() != scale.count:
                bottom[0].diff = dy * x  # Caffe's scratch space
        if propagate_down[0]:
            bottom[0].diff = self.ctx.math.scal(factor, dy).to(dy.dtype)

    def scale(self, bottom: Sequence[Blob]) -> Blob:
        return bottom[1] if len(bottom) > 1 else self.blobs[0]

    def overwrites(self, x: Blob, scale: Blob) -> bool:
        """Where Caffe writes its sums straight into the parameter's diff."""
        outer = x.count_range(0, self.axis)
        return x.count == scale.count or (outer == 1 and scale.count != 1)
