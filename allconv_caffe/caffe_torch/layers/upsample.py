"""Upsample, a layer of SegNet's fork."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.tracing import is_tracing
from allconv_caffe.proto import fork_fields


@register("Upsample")
class UpsampleLayer(Layer):
    """top = 0, and each value of bottom[0] where bottom[1] says that it came from: the reverse of a MAX Pooling.

    bottom[0]: (N, C, H, W); bottom[1]: of the same shape, places h * w in top[0], which a Pooling gives as its second top; of
    several values for one place the last in row order stays. top[0]: (N, C, `upsample_h`, `upsample_w`), or H and W times
    `scale` (default 2; or `scale_h` and `scale_w`), less 1 with `pad_out_h`, `pad_out_w`. bottom[1] gets no gradient.
    Source: upsample_layer.cpp of alexgkendall/caffe-segnet; SegNet (Badrinarayanan, Kendall, Cipolla 2015).
    Differs: a size that follows from `scale` follows each bottom; the fork keeps the first one.
    """

    num_top = 1

    def check_blob_counts(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if len(bottom) == 1:
            raise CaffeError(
                "Upsample Layer takes 2 bottom blob(s) as input. (with one, it belongs to a fork of Caffe that converts YOLO)"
            )
        check(len(bottom) == 2, "Upsample Layer takes 2 bottom blob(s) as input.")
        super().check_blob_counts(bottom, top)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = fork_fields.field(self.param, "upsample_param")
        one, h, w = (param.HasField(word) for word in ("scale", "scale_h", "scale_w"))
        self.size: tuple[int, int] | None = None
        if param.HasField("upsample_h") and param.HasField("upsample_w"):
            self.size = c_int(param.upsample_h), c_int(param.upsample_w)
            words = zip(("upsample_h_", "upsample_w_"), self.size, strict=True)
        else:
            check(
                (not one and h and w) or not (h or w),
                "upsample_h & upsample_w are required, else (DEPRECATED) scale OR scale_h & scale_w are required.",
            )
            self.scale = (param.scale_h, param.scale_w) if h else (param.scale, param.scale)
            self.less = int(param.pad_out_h), int(param.pad_out_w)
            for axis, less, scale in zip(("height", "width"), self.less, self.scale, strict=True):
                check(
                    not less or scale == 2,
                    f"Output {axis} padding compensation requires scale_{axis[0]} == 2, otherwise the output size is "
                    "ill-defined.",
                )
            words = zip(("scale_h_", "scale_w_"), self.scale, strict=True)
        for word, value in words:
            check(value > 1, f"Check failed: {word} > 1 ({value} vs. 1)")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, what in zip(bottom, ("Input", "Input mask"), strict=True):
            check(blob.num_axes == 4, f"{what} must have 4 axes, corresponding to (num, channels, height, width)")
        x, mask = bottom
        check(x.shape == mask.shape, f"bottom[0]: {x.shape_string}, bottom[1]: {mask.shape_string}")
        size = self.size or [
            h * scale - less for h, scale, less in zip(x.shape[2:], self.scale, self.less, strict=True)
        ]
        top[0].reshape(*x.shape[:2], *size)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].data.flatten(2)
        self.index = bottom[1].data.flatten(2).to(torch.int64)
        count = top[0].count_range(2)
        if not is_tracing() and bool(((self.index < 0) | (self.index >= count)).any()):
            wrong = int(self.index[(self.index < 0) | (self.index >= count)][0])
            raise CaffeError(
                f"upsample top index {wrong} out of range - check scale settings match input pooling layer's downsample setup"
            )
        turn = torch.arange(1, x.shape[2] + 1, device=x.device).expand(x.shape)
        last = torch.zeros(*x.shape[:2], count, dtype=turn.dtype, device=x.device)
        last = last.scatter_reduce(2, self.index, turn, "amax")  # of the values for a place, the last; 0: none
        given = x.gather(2, (last - 1).clamp(min=0))
        top[0].data = torch.where(last > 0, given, torch.zeros_like(given)).reshape(top[0].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].diff = top[0].diff.flatten(2).gather(2, self.index).reshape(bottom[0].shape)
