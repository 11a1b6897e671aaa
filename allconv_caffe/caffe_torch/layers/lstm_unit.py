"""LSTMUnit: one step of the memory cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.layer import Layer, register
from allconv_caffe.caffe_torch.layers.base import float32
from allconv_caffe.caffe_torch.tracing import is_tracing


class Gates(NamedTuple):
    """Input, forget and output gate and candidate, (..., D) each."""

    i: torch.Tensor
    f: torch.Tensor
    o: torch.Tensor
    g: torch.Tensor


def gates(x: torch.Tensor, cont: torch.Tensor) -> Gates:
    """The gates of x (..., 4D): sigmoid of the first three, the second times cont (..., 1), tanh of the fourth."""
    i, f, o, g = x.chunk(4, -1)
    forget = torch.where(cont == 0, torch.zeros_like(f), cont * sigmoid(f))
    return Gates(sigmoid(i), forget, sigmoid(o), tanh(g))


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-x)) in double, rounded once, as Caffe's: 1 - i of a saturated gate shows the last digit of i.

    A compiled net, whose sums are rounded otherwise anyhow, takes it in float32, at half the cost.
    """
    if is_tracing():
        return torch.sigmoid(x)
    return float32(torch.sigmoid(x.to(torch.float64)))


def tanh(x: torch.Tensor) -> torch.Tensor:
    """2 sigmoid(2 x) - 1 with that sigmoid rounded, as Caffe's: absolute steps of 1e-7 near 0."""
    if is_tracing():
        return torch.tanh(x)
    return 2 * sigmoid(2 * x) - 1


def unit(gate: Gates, c_prev: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """c and h of one step."""
    c = gate.f * c_prev + gate.i * gate.g
    return c, gate.o * tanh(c)


def unit_backward(
    gate: Gates, c_prev: torch.Tensor, c: torch.Tensor, dc: torch.Tensor, dh: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of c_prev and of x."""
    i, f, o, g = gate
    tanh_c = tanh(c)
    through_c = dc + dh * o * (1 - tanh_c * tanh_c)
    dx = torch.cat(
        [
            through_c * g * i * (1 - i),
            through_c * c_prev * f * (1 - f),
            dh * tanh_c * o * (1 - o),
            through_c * i * (1 - g * g),
        ],
        -1,
    )
    return through_c * f, dx


@register("LSTMUnit")
class LSTMUnitLayer(Layer):
    """c = cont sigmoid(f) c_prev + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c).

    bottom[0]: c_prev (1, N, D); bottom[1]: x (1, N, 4D), in the order i, f, o, g; bottom[2]: cont (1, N), 0 where a sequence
    begins; top[0]: c; top[1]: h, both (1, N, D). cont gets no gradient; the two others both, if either is wanted.
    Source: lstm_unit_layer.cpp.
    Caffe's bug: the gradient of f is right for cont 0 and 1 only; kept.
    """

    num_bottom = 3
    num_top = 2

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        n = bottom[0].shape[bottom[0].canonical_axis(1)]
        for blob, axes in zip(bottom, (3, 3, 2), strict=True):
            check(blob.num_axes == axes, f"Check failed: {axes} == bottom[i]->num_axes() ({axes} vs. {blob.num_axes})")
            check(blob.shape[0] == 1, f"Check failed: 1 == bottom[i]->shape(0) (1 vs. {blob.shape[0]})")
            check(blob.shape[1] == n, f"Check failed: num_instances == bottom[i]->shape(1) ({n} vs. {blob.shape[1]})")
        wanted, found = 4 * bottom[0].shape[2], bottom[1].shape[2]
        check(wanted == found, f"Check failed: 4 * hidden_dim_ == bottom[1]->shape(2) ({wanted} vs. {found})")
        for blob in top:
            blob.reshape_like(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].data, top[1].data = unit(self.gates(bottom), float32(bottom[0].data))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        check(not propagate_down[2], "Cannot backpropagate to sequence indicators.")
        if not (propagate_down[0] or propagate_down[1]):
            return
        c_prev, c, dc, dh = (float32(t) for t in (bottom[0].data, top[0].data, top[0].diff, top[1].diff))
        bottom[0].diff, bottom[1].diff = unit_backward(self.gates(bottom), c_prev, c, dc, dh)

    def allow_force_backward(self, bottom_index: int) -> bool:
        return bottom_index != 2

    @staticmethod
    def gates(bottom: Sequence[Blob]) -> Gates:
        return gates(float32(bottom[1].data), float32(bottom[2].data).unsqueeze(-1))
