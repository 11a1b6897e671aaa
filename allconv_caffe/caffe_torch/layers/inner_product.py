"""InnerProduct: the fully connected layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import add_filled


@register("InnerProduct")
class InnerProductLayer(Layer):
    """top = bottom W^T + b, the axes from `axis` (default 1) on flattened to K values.

    bottom[0]: (M..., K...); top[0]: (M..., num_output). blobs[0]: W (num_output, K), with `transpose` (K, num_output);
    blobs[1]: b (num_output), unless `bias_term: false`. Computes in the context's compute_dtype.
    Source: inner_product_layer.cpp.
    """

    num_bottom = num_top = 1
    calls_kernels = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.inner_product_param
        self.n = c_int(param.num_output)
        self.bias_term: bool = param.bias_term
        self.transpose: bool = param.transpose
        self.k = bottom[0].count_range(bottom[0].canonical_axis(param.axis))
        if self.blobs:
            check(
                len(self.blobs) == 1 + self.bias_term and self.blobs[0].count == self.n * self.k,
                f"Incorrect weight blobs: expected {1 + self.bias_term} with {self.n * self.k} weights, found "
                f"{len(self.blobs)} with {self.blobs[0].count}",
            )
            return
        add_filled(self, (self.k, self.n) if self.transpose else (self.n, self.k), param.weight_filler)
        if self.bias_term:
            add_filled(self, (self.n,), param.bias_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        axis = bottom[0].canonical_axis(self.param.inner_product_param.axis)
        check(self.k == bottom[0].count_range(axis), "Input size incompatible with inner product parameters.")
        self.m = bottom[0].count_range(0, axis)
        top[0].reshape(*bottom[0].shape[:axis], self.n)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, w = self.matrices(bottom)
        room = top[0].room(bottom[0])
        b = self.blobs[1].data.reshape(self.n) if self.bias_term else None
        y = self.ctx.math.inner_product(x, w.t(), b, None if room is None else room.view(self.m, self.n))
        top[0].data = y.reshape(top[0].shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        x, w = self.matrices(bottom)
        dy = self.ctx.factor(top[0].diff.reshape(self.m, self.n))
        if self.param_propagate_down[0]:
            a, b = (x, dy) if self.transpose else (dy, x)
            self.ctx.math.accumulate_gemm(self.blobs[0], a.t(), b)
        if self.bias_term and self.param_propagate_down[1]:
            self.ctx.math.accumulate_columns(self.blobs[1], dy)
        if propagate_down[0]:
            bottom[0].diff = self.ctx.math.gemm(dy, w).reshape(bottom[0].shape)

    def matrices(self, bottom: Sequence[Blob]) -> tuple[torch.Tensor, torch.Tensor]:
        """bottom as (M, K) and the weight as (N, K)."""
        x = self.ctx.factor(bottom[0].data.reshape(self.m, self.k))
        weight = self.ctx.factor(self.blobs[0].data)
        return x, weight.reshape(self.k, self.n).t() if self.transpose else weight.reshape(self.n, self.k)
