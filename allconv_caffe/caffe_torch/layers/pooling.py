"""Pooling: max and average."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import pooling
from allconv_caffe.caffe_torch.compute.window import read_pooling
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import computes, kept
from allconv_caffe.proto import PoolingParameter


@register("Pooling")
class PoolingLayer(Layer):
    """MAX or AVE over kernel windows; out = ceil((h + 2p - k) / s) + 1, or floor with round_mode FLOOR.

    bottom[0]: (N, C, H, W); top[0]: (N, C, OH, OW); top[1], MAX only: the flat h * w index of each maximum, as float.
    With padding a last window that would start outside image and padding is dropped; without, it stays: MAX gives
    -FLT_MAX there, AVE 0 or nan. AVE divides by the window clipped to image plus padding. MAX ignores nan, and the first
    maximum in row order gets the gradient. Source: pooling_layer.cpp. Paper: equation 1.
    """

    num_bottom = 1
    min_top = 1
    calls_kernels = any_layout = True
    for_backward = ("index",)

    @property
    def max_top(self) -> int:  # type: ignore[override]  # MaxTopBlobs depends on the method, as in Caffe
        return 2 if self.param.pooling_param.pool == PoolingParameter.MAX else 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.pooling_param
        self.method: int = param.pool
        self.calls_kernels = len(top) == 1  # places as float are no kernel's
        self.global_pooling: bool = param.global_pooling
        size, h, w = (param.HasField(f) for f in ("kernel_size", "kernel_h", "kernel_w"))
        if self.global_pooling:
            check(not (size or h or w), "With Global_pooling: true Filter size cannot specified")
        else:
            check(size != (h and w), "Filter size is kernel_size OR kernel_h and kernel_w; not both")
            check(size or (h and w), "For non-square filters both kernel_h and kernel_w are required.")
        for what, word in (("pad", "pad"), ("Stride", "stride")):
            one, h, w = (param.HasField(f) for f in (word, f"{word}_h", f"{word}_w"))
            check((not one and h and w) or not (h or w), f"{what} is {word} OR {word}_h and {word}_w are required.")
        check(bottom[0].num_axes == 4, "Input must have 4 axes, corresponding to (num, channels, height, width)")
        self.window = read_pooling(param, bottom[0].shape[2:])
        kernel, stride, pad = self.window.kernel, self.window.stride, self.window.pad
        for k in kernel:
            check(k > 0, "Filter dimensions cannot be zero.")
        for axis, s in zip("hw", stride, strict=True):
            check(s != 0, f"Check failed: stride_{axis}_ > 0 ({s} vs. 0)")  # Caffe divides by it
        if self.global_pooling:
            check(pad == (0, 0) and stride == (1, 1), "With Global_pooling: true; only pad = 0 and stride = 1")
        if pad != (0, 0):
            check(
                self.method in (PoolingParameter.AVE, PoolingParameter.MAX),
                "Padding implemented only for average and max pooling.",
            )
            for axis, p, k in zip("hw", pad, kernel, strict=True):
                check(p < k, f"Check failed: pad_{axis}_ < kernel_{axis}_ ({p} vs. {k})")
        if self.method == PoolingParameter.STOCHASTIC:
            raise CaffeError("Not Implemented Yet (STOCHASTIC pooling; choices: MAX, AVE)")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        check(bottom[0].num_axes == 4, "Input must have 4 axes, corresponding to (num, channels, height, width)")
        n, c, *sizes = bottom[0].shape
        if self.global_pooling:
            self.window = dataclasses.replace(self.window, kernel=tuple(sizes))
        up = self.param.pooling_param.round_mode == PoolingParameter.CEIL
        self.out = self.window.pooled_size(sizes, up)
        reach = [
            max(h, (o - 1) * s + k)
            for h, o, s, k in zip(sizes, self.out, self.window.stride, self.window.kernel, strict=True)
        ]
        check(
            math.prod((n, c, *reach)) < 2**31,
            f"pooling windows reach over {reach[0]} x {reach[1]} values of {n} x {c} images, more than INT_MAX",
        )
        for blob in top:
            blob.reshape(n, c, *self.out)
        for axis, s in zip("hw", self.window.stride, strict=True):
            check(s > 0, f"Check failed: stride_{axis}_ > 0 ({s} vs. 0)")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not computes(top[0]):
            return
        if self.method == PoolingParameter.MAX:
            room = top[0].room(bottom[0])
            top[0].data, self.index = self.ctx.math.max_pool(bottom[0].data, self.window, self.out, room)
            if len(top) > 1:
                top[1].data = self.index.to(torch.float32)
        else:
            top[0].data = self.ctx.math.average_pool(bottom[0].data, self.window, self.out, top[0].room(bottom[0]))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        dy, size = top[0].diff, bottom[0].shape[2:]
        if self.method == PoolingParameter.MAX:
            bottom[0].diff = pooling.maxima_backward(dy, kept(self.index, top[0]), self.window, size)
        else:
            bottom[0].diff = self.ctx.math.average_pool_backward(dy, self.window, size)
