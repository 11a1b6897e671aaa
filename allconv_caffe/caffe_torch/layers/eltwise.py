"""Eltwise: product, sum or maximum of blobs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.pooling import lowest
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.proto import EltwiseParameter


@register("Eltwise")
class EltwiseLayer(Layer):
    """top = sum of coeff[i] * bottom[i] (SUM, default), or their product (PROD), or their maximum (MAX).

    bottom[0], bottom[1], ...: one shape; top[0]: the same. `coeff` (default 1 each) counts in SUM only.
    MAX: a tie of the first two goes to bottom 1, a later bottom must be greater; that bottom gets the gradient.
    In place (top[0] is bottom[0]) Caffe overwrites what it has still to read; what comes of it is kept: SUM and MAX do without
    bottom[0], PROD squares the factor in its gradient.
    PROD: backward multiplies the other bottoms, or with `stable_prod_grad: false` divides top by the bottom.
    Source: eltwise_layer.cpp.
    """

    min_bottom = 2
    num_top = 1
    calls_kernels = any_layout = True
    for_backward = ("mask",)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.eltwise_param
        self.operation: int = param.operation
        check(len(param.coeff) in (0, len(bottom)), "Eltwise Layer takes one coefficient per bottom blob.")
        check(
            not (self.operation == EltwiseParameter.PROD and param.coeff),
            "Eltwise layer only takes coefficients for summation.",
        )
        self.coeffs = list(param.coeff) or [1.0] * len(bottom)
        self.stable_prod_grad: bool = param.stable_prod_grad

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for i, blob in enumerate(bottom[1:], 1):
            check(
                blob.shape == bottom[0].shape,
                f"bottom[0]: {bottom[0].shape_string}, bottom[{i}]: {blob.shape_string}",
            )
        top[0].reshape_like(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        y, *others = (blob.data for blob in bottom)
        math, room = self.ctx.math, top[0].room(*bottom[top[0] is bottom[0] :])
        if top[0] is bottom[0] and self.operation != EltwiseParameter.PROD:  # Caffe clears the top before it reads
            y = math.each("fill", y, lowest(y.dtype) if self.operation == EltwiseParameter.MAX else 0.0, room=room)
        if self.operation == EltwiseParameter.PROD:
            for x in others:
                y = math.each("multiply", y, x, room=room)
        elif self.operation == EltwiseParameter.SUM:
            y = math.each("scaled", y, self.coeffs[0], room=room)
            for x, coeff in zip(others, self.coeffs[1:], strict=True):
                y = math.axpy(coeff, x, y, room)
        else:
            y, self.mask = math.greatest([y, *others], room)
        top[0].data = y

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for i, blob in enumerate(bottom):
            if not propagate_down[i]:
                continue
            dy = top[0].diff  # in place: what the bottom before left there
            if self.operation == EltwiseParameter.SUM:
                blob.diff = self.ctx.math.scal(self.coeffs[i], dy)
            elif self.operation == EltwiseParameter.MAX:
                blob.diff = torch.where(self.mask == i, dy, torch.zeros_like(dy))
            elif self.stable_prod_grad:
                others = [other.data for j, other in enumerate(bottom) if j != i]
                product = others[0]
                for x in others[1:]:
                    product = product * x
                blob.diff = product * (product if blob is top[0] else dy)
            else:
                quotient = top[0].data / blob.data
                blob.diff = quotient * (quotient if blob is top[0] else dy)
