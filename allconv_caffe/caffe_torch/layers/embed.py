"""Embed: a learned row for each of a set of indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import add_filled, float32, skipping
from allconv_caffe.caffe_torch.tracing import is_tracing


@register("Embed")
class EmbedLayer(Layer):
    """top[...] = W[bottom[...]] + b: InnerProduct over one-hot vectors.

    bottom[0]: indices in [0, input_dim), any shape, floats truncated toward 0; top[0]: (that shape..., num_output).
    blobs[0]: W (input_dim, num_output); blobs[1]: b (num_output), unless `bias_term: false`. The bottom gets no gradient.
    Source: embed_layer.cpp.
    Differs: an index out of range stops the plain executor with a message; Caffe reads other memory.
    """

    num_bottom = num_top = 1
    calls_kernels = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.embed_param
        self.n = c_int(param.num_output)
        check(self.n > 0, "EmbedLayer num_output must be positive.")
        self.k = c_int(param.input_dim)
        check(self.k > 0, "EmbedLayer input_dim must be positive.")
        self.bias_term: bool = param.bias_term
        if self.blobs:
            skipping("embed_layer.cpp:19")
            check(
                len(self.blobs) == 1 + self.bias_term and self.blobs[0].count == self.k * self.n,
                f"Incorrect weight blobs: expected {1 + self.bias_term} with {self.k * self.n} weights, found "
                f"{len(self.blobs)} with {self.blobs[0].count}",
            )
            return
        add_filled(self, (self.k, self.n), param.weight_filler)
        if self.bias_term:
            add_filled(self, (self.n,), param.bias_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape(*bottom[0].shape, self.n)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        w, b = self.blobs[0].data.reshape(self.k, self.n), self.blobs[1].data if self.bias_term else None
        y = self.ctx.math.embed(bottom[0].data, w, b, top[0].room(bottom[0]))
        if y is not None:
            top[0].data = y.reshape(top[0].shape)
            return
        index = self.indices(bottom)
        if not is_tracing() and index.numel():
            least, most = int(index.min()), int(index.max())
            check(least >= 0, f"Check failed: index >= 0 ({least} vs. 0): indices are 0 to {self.k - 1}")
            check(most < self.k, f"Check failed: index < K_ ({most} vs. {self.k}): indices are 0 to {self.k - 1}")
        y = w.index_select(0, index)
        if b is not None:
            y = y + b.reshape(self.n)
        top[0].data = y.reshape(top[0].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        check(not propagate_down[0], "Can't backpropagate to EmbedLayer input.")
        dy = float32(top[0].diff).reshape(-1, self.n)
        if self.param_propagate_down[0]:
            zero = torch.zeros(self.k, self.n, device=dy.device)
            gradient = zero.index_add(0, self.indices(bottom), dy)
            self.blobs[0].accumulate_diff(gradient.reshape(self.blobs[0].shape))
        if self.bias_term and self.param_propagate_down[1]:
            self.blobs[1].accumulate_diff(dy.sum(0).reshape(self.blobs[1].shape))

    @staticmethod
    def indices(bottom: Sequence[Blob]) -> torch.Tensor:
        return bottom[0].data.reshape(-1).to(torch.int64)
