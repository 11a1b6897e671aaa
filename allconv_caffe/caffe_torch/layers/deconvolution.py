"""Deconvolution: the transpose of Convolution."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import conv_algo
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import float32
from allconv_caffe.caffe_torch.layers.convolution import ConvolutionLayer


@register("Deconvolution")
class DeconvolutionLayer(ConvolutionLayer):
    """top = what a Convolution with these parameters sends back from bottom, + b; out = s (h - 1) + d (k - 1) + 1 - 2p.

    bottom[i]: (N, C, spatial...), one or several, all with the same weights; top[i]: (N, num_output, spatial...).
    blobs[0]: W (C, num_output / group, kernel...); blobs[1]: b (num_output), unless `bias_term: false`.
    Computes in the context's compute_dtype. Source: deconv_layer.cpp.
    """

    def weight_shape(self) -> list[int]:
        return [self.channels, self.num_output // self.window.group, *self.window.kernel]

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        return self.window.input_size(size)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        w, b = self.weights()
        sums = self.ctx.caffe_sums
        for fro, to in zip(bottom, top, strict=True):
            if sums is not None:
                y = sums.convolution_data(self.geometry(self.images(to.data)), self.images(fro.data), w)
                to.data = (y if b is None else y + b.reshape(-1, *[1] * self.window.num_axes)).reshape(to.shape)
                continue
            y = conv_algo.transposed(self.images(fro.data), w, b, self.window)
            to.data = y.reshape(to.shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        w, _ = self.weights()
        want_w = self.param_propagate_down[0]
        want_b = self.bias_term and self.param_propagate_down[1]
        sums = self.ctx.caffe_sums
        for to, fro, want_x in zip(top, bottom, propagate_down, strict=True):
            if not (want_w or want_b or want_x):
                continue
            if sums is not None:
                x, dy = self.images(fro.data), self.images(to.diff)
                if want_b:
                    sums.bias_gradient(dy, self.blobs[1].diff)
                if want_w:
                    sums.convolution_weight(self.geometry(dy), dy, x, self.blobs[0].diff)
                if want_x:
                    fro.diff = sums.convolution(self.geometry(dy), dy, w, None).reshape(fro.shape)
                continue
            need = (bool(want_x), want_w, want_b)
            dx, dw, db = conv_algo.transposed_backward(
                self.images(to.diff), self.images(fro.data), w, self.window, need
            )
            if dw is not None and want_w:
                self.blobs[0].accumulate_diff(float32(dw))
            if db is not None and want_b:
                self.blobs[1].accumulate_diff(float32(db))
            if dx is not None and want_x:
                fro.diff = dx.reshape(fro.shape)
