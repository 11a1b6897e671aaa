"""Deconvolution: the transpose of Convolution."""

from __future__ import annotations

from collections.abc import Sequence

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.window import Window
from allconv_caffe.caffe_torch.layer import register
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

    def fitted(self, size: Sequence[int]) -> Window:
        return self._window

    calls_kernels = True

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        w, b = self.weights()
        for fro, to in zip(bottom, top, strict=True):
            room = to.room(fro) if self.axis == 1 else None
            y = self.ctx.math.deconvolution(self.images(fro.data), w, b, self.window, room)
            to.data = y.reshape(to.shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        w, _ = self.weights()
        for to, fro, propagate in zip(top, bottom, propagate_down, strict=True):
            wanted = self.wanted(propagate)
            if any(wanted.need):
                dy, x = self.images(to.diff), self.images(fro.data)
                dx = self.ctx.math.deconvolution_backward(dy, x, w, self.window, wanted)
                if dx is not None:
                    fro.diff = dx.reshape(fro.shape)
