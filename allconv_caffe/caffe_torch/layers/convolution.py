"""Convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.math_functions import Wanted
from allconv_caffe.caffe_torch.compute.window import Window, c_int, read_window
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import add_filled, computes


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
    calls_kernels = any_layout = True
    _shape: tuple[int, ...] | None = None

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.convolution_param
        self.axis = bottom[0].canonical_axis(param.axis)
        axes = bottom[0].num_axes - self.axis - 1
        check(
            axes >= 1, "without spatial axes a convolution is an InnerProduct; use that"
        )  # which Caffe computes as one
        self.channels = bottom[0].shape[self.axis]
        self.window = self._window = self.read_window(axes)
        self.num_output = self.outputs()
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

    def read_window(self, axes: int) -> Window:
        """The window, over this many spatial axes."""
        return read_window(self.param.convolution_param, axes)

    def outputs(self) -> int:
        """num_output_."""
        return c_int(self.param.convolution_param.num_output)

    def weight_shape(self) -> list[int]:
        return [self.num_output, self.channels // self.window.group, *self.window.kernel]

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        return self.window.output_size(size)

    def fitted(self, size: Sequence[int]) -> Window:
        """The window as kernels take it for bottoms of `size`."""
        return self._window.within(size)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = bottom[0].shape
        check(len(shape) == self.axis + 1 + self.window.num_axes, "bottom num_axes may not change.")
        check(shape[self.axis] == self.channels, "Input size incompatible with convolution kernel.")
        for i, blob in enumerate(bottom[1:], 1):
            check(
                blob.shape == shape,
                f"shape mismatch - bottom[0]: {bottom[0].shape_string} vs. bottom[{i}]: {blob.shape_string}",
            )
        if shape is not self._shape:  # the same again, as before most forwards
            size, self._shape = shape[self.axis + 1 :], shape
            self.window = self._window
            self._top_shape = (*shape[: self.axis], self.num_output, *self.output_size(size))
            self.window = self.fitted(size)
            self._behind = self.window.behind(size)
        for blob in top:
            blob.reshape(*self._top_shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        w, b = self.weights()
        for fro, to in zip(bottom, top, strict=True):
            if not computes(to):
                continue
            x = self.under_windows(self.images(fro.data))
            y = self.ctx.math.convolution(x, w, b, self.window, to.room(fro) if self.axis == 1 else None)
            to.data = y.reshape(to.shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        w, _ = self.weights()
        for to, fro, propagate in zip(top, bottom, propagate_down, strict=True):
            wanted = self.wanted(propagate)
            if any(wanted.need):
                dy, x = self.images(to.diff), self.under_windows(self.images(fro.data))
                dx = self.ctx.math.convolution_backward(dy, x, w, self.window, wanted)
                if dx is not None:
                    image: tuple[Any, ...] = (..., *[slice(size) for size in fro.shape[self.axis + 1 :]])
                    fro.diff = dx[image].reshape(fro.shape)

    def weights(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        factor = self.ctx.factor
        return factor(self.blobs[0].data), factor(self.blobs[1].data) if self.bias_term else None

    def wanted(self, propagate_down: bool) -> Wanted:
        """The gradients of one bottom, of W and of b that backward has to give."""
        want_b = self.bias_term and self.param_propagate_down[1]
        return Wanted(
            dx=bool(propagate_down),
            dw=self.blobs[0] if self.param_propagate_down[0] else None,
            db=self.blobs[1] if want_b else None,
        )

    def images(self, x: torch.Tensor) -> torch.Tensor:
        """(N..., C, spatial...) with the leading axes as one, as a factor."""
        x = self.ctx.factor(x)
        return x if self.axis == 1 else x.reshape(-1, *x.shape[self.axis :])

    def under_windows(self, x: torch.Tensor) -> torch.Tensor:
        """`x` with zeros behind it as far as windows reach that are larger than the padded image."""
        behind = self._behind
        return torch.constant_pad_nd(x, [p for more in reversed(behind) for p in (0, more)]) if any(behind) else x
