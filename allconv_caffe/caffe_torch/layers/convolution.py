"""Convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import conv_algo
from allconv_caffe.caffe_torch.compute.caffe_sums import Shape
from allconv_caffe.caffe_torch.compute.window import c_int, read_window
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import add_filled, float32


@register("Convolution")
class ConvolutionLayer(Layer):
    """top = bottom * W + b, out = (h + 2p - (d (k - 1) + 1)) / s + 1, towards 0, along each spatial axis.

    bottom[i]: (N, C, spatial...), one or several, all with the same weights; top[i]: (N, num_output, spatial...).
    blobs[0]: W (num_output, C / group, kernel...); blobs[1]: b (num_output), unless `bias_term: false`.
    Computes in the context's compute_dtype. Source: base_conv_layer.cpp, conv_layer.cpp. Paper: equation 2.
    """

    min_bottom = 1
    min_top = 1
    equal_num_bottom_top = True
    _geometry: Shape | None = None

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.convolution_param
        self.axis = bottom[0].canonical_axis(param.axis)
        axes = bottom[0].num_axes - self.axis - 1
        check(axes >= 1, f"Check failed: num_spatial_axes_ >= 1 ({axes} vs. 1)")
        self.window = read_window(param, axes)
        for d in self.window.dilation:
            check(d > 0, f"dilation must be at least 1, found {d}")  # Caffe reads one pixel for the whole kernel
        self.num_output = c_int(param.num_output)
        self.channels = bottom[0].shape[self.axis]
        check(self.num_output > 0, f"Check failed: num_output_ > 0 ({self.num_output} vs. 0)")
        group = self.window.group
        check(group != 0, f"Check failed: group_ > 0 ({group} vs. 0)")  # Caffe divides by it
        rest = self.channels % abs(group)
        check(rest == 0, f"Check failed: channels_ % group_ == 0 ({rest} vs. 0)")
        check(self.num_output % group == 0, "Number of output should be multiples of group.")
        self.bias_term: bool = param.bias_term
        shape = self.weight_shape()
        if self.blobs:
            check(len(self.blobs) == 1 + self.bias_term, "Incorrect number of weight blobs.")
            check(
                self.blobs[0].shape == tuple(shape),
                f"Incorrect weight shape: expected shape {shape}; instead, shape was {list(self.blobs[0].shape)}",
            )
            return
        add_filled(self, shape, param.weight_filler)
        if self.bias_term:
            add_filled(self, (self.num_output,), param.bias_filler)

    def weight_shape(self) -> list[int]:
        return [self.num_output, self.channels // self.window.group, *self.window.kernel]

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        return self.window.output_size(size)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        check(len(shape) == self.axis + 1 + self.window.num_axes, "bottom num_axes may not change.")
        check(shape[self.axis] == self.channels, "Input size incompatible with convolution kernel.")
        for i, blob in enumerate(bottom[1:], 1):
            check(
                blob.shape == shape,
                f"shape mismatch - bottom[0]: {bottom[0].shape_string} vs. bottom[{i}]: {blob.shape_string}",
            )
        out = self.output_size(shape[self.axis + 1 :])
        for blob in top:
            blob.reshape(*shape[: self.axis], self.num_output, *out)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        w, b = self.weights()
        sums = self.ctx.caffe_sums
        for fro, to in zip(bottom, top, strict=True):
            check(to.has_data, "Check failed: data_")  # the window is larger than the image
            x = self.under_windows(self.images(fro.data))
            if sums is not None:
                to.data = sums.convolution(self.geometry(x), x, w, b).reshape(to.shape)
                continue
            y = conv_algo.forward(self.algorithm(x, w), x, w, b, self.window)
            to.data = y.reshape(to.shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        w, _ = self.weights()
        want_w = self.param_propagate_down[0]
        want_b = self.bias_term and self.param_propagate_down[1]
        sums = self.ctx.caffe_sums
        for i, (to, fro) in enumerate(zip(top, bottom, strict=True)):
            if not (want_w or want_b or propagate_down[i]):
                continue
            x, dy = self.under_windows(self.images(fro.data)), self.images(to.diff)
            image: tuple[Any, ...] = (..., *[slice(size) for size in fro.shape[self.axis + 1 :]])
            if sums is not None:
                if want_b:
                    sums.bias_gradient(dy, self.blobs[1].diff)
                if want_w:
                    sums.convolution_weight(self.geometry(x), x, dy, self.blobs[0].diff)
                if propagate_down[i]:
                    fro.diff = sums.convolution_data(self.geometry(x), dy, w)[image].reshape(fro.shape)
                continue
            need = (bool(propagate_down[i]), want_w, want_b)
            dx, dw, db = conv_algo.backward(self.algorithm(x, w), dy, x, w, self.window, need)
            if dw is not None and want_w:
                self.blobs[0].accumulate_diff(float32(dw))
            if db is not None and want_b:
                self.blobs[1].accumulate_diff(float32(db))
            if dx is not None and propagate_down[i]:
                fro.diff = dx[image].reshape(fro.shape)

    def weights(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        dtype = self.ctx.compute_dtype
        return self.blobs[0].data.to(dtype), self.blobs[1].data.to(dtype) if self.bias_term else None

    def images(self, x: torch.Tensor) -> torch.Tensor:
        """(N..., C, spatial...) with the leading axes as one, in compute_dtype."""
        x = x.to(self.ctx.compute_dtype)
        return x if self.axis == 1 else x.reshape(-1, *x.shape[self.axis :])

    def under_windows(self, x: torch.Tensor) -> torch.Tensor:
        """`x` with zeros behind it as far as windows reach that are larger than the padded image."""
        behind = self.window.behind(x.shape[2:])
        return torch.constant_pad_nd(x, [p for more in reversed(behind) for p in (0, more)]) if any(behind) else x

    def geometry(self, image: torch.Tensor) -> Shape:
        """Where im2col finds what in images such as `image` (N, C, spatial...)."""
        size = tuple(image.shape[2:])
        if self._geometry is None or self._geometry.size != size:
            self._geometry = Shape(self.window, size)
        return self._geometry

    def algorithm(self, x: torch.Tensor, w: torch.Tensor) -> str:
        return conv_algo.choose(x, w, self.window, compiled=Blob.tracing, mode=self.ctx.conv_mode)
