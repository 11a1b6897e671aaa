"""Interp, a layer of DeepLab's and PSPNet's forks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import legacy
from allconv_caffe.proto import fork_fields

_POSITIVE = "height should be positive", "width should be positive"


@register("Interp")
class InterpLayer(Layer):
    """top = bottom[0] at another size, bilinear, corner on corner: place i of n lies at i (h - 1) / (n - 1), at 0 where n is 1.

    bottom[0]: (N, C, H, W), cut by `pad_beg` at its beginning and by `pad_end` at its end (0 or negative) to h by w; top[0]:
    (N, C, height, width). `zoom_factor` z gives h + (h - 1) (z - 1), `shrink_factor` s (h - 1) / s + 1, both the one after the
    other; `height` and `width` say it; else it is that of bottom[1], which gets no gradient.
    Source: interp_layer.cpp and interp.cpp of hszhao/PSPNet and of DeepLab v2, which has bottom[1].
    """

    min_bottom = 1
    max_bottom = 2
    num_top = 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = fork_fields.field(self.param, "interp_param")
        for pad in (param.pad_beg, param.pad_end):
            check(pad <= 0, "Only supports non-pos padding (cropping) for now")
        self.before, self.behind = -param.pad_beg, -param.pad_end

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        n, c, *sizes = legacy(bottom[0])
        self.size = [size - self.before - self.behind for size in sizes]
        out = self.output_size(fork_fields.field(self.param, "interp_param"), bottom)
        for size, word in (*zip(self.size, _POSITIVE, strict=True), *zip(out, _POSITIVE, strict=True)):
            check(size > 0, word)
        top[0].reshape(n, c, *out)

    def output_size(self, param: Any, bottom: Sequence[Blob]) -> list[int]:
        """Height and width of the top, from what the prototxt says."""
        zoom, shrink = param.HasField("zoom_factor"), param.HasField("shrink_factor")
        if zoom == shrink and param.HasField("height") and param.HasField("width"):
            return [param.height, param.width]
        if not zoom and not shrink:
            if len(bottom) < 2:
                choices = "zoom_factor, shrink_factor, height and width, a second bottom"
                raise CaffeError(f"interp_param gives no size (choices: {choices})")
            return [bottom[1].legacy_shape(axis) for axis in (2, 3)]
        size = self.size
        if shrink:
            check(param.shrink_factor >= 1, "Shrink factor must be positive")
            size = [(h - 1) // param.shrink_factor + 1 for h in size]
        if zoom:
            check(param.zoom_factor >= 1, "Zoom factor must be positive")
            size = [h + (h - 1) * (param.zoom_factor - 1) for h in size]
        return size

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].data.reshape(legacy(bottom[0]))
        for axis, size in enumerate(self.size, 2):
            x = x.narrow(axis, self.before, size)
        top[0].data = torch.ops.aten.upsample_bilinear2d(x, top[0].shape[2:], True)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        n, c = top[0].shape[:2]
        dx = torch.ops.aten.upsample_bilinear2d_backward(
            top[0].diff, top[0].shape[2:], [n, c, *self.size], align_corners=True
        )
        margins = (self.before, self.behind) * 2
        bottom[0].diff = torch.constant_pad_nd(dx, margins).reshape(bottom[0].shape)
