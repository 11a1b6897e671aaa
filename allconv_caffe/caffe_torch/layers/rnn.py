"""RNN: the plain recurrent net, unrolled over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import float32
from allconv_caffe.caffe_torch.layers.recurrent import Kept, RecurrentLayer
from allconv_caffe.caffe_torch.layers.recurrent_net import part, product, total
from allconv_caffe.proto import LayerParameter


@register("RNN")
class RNNLayer(RecurrentLayer):
    """h_t = tanh(W_hh (cont_t h_{t-1}) + W_xh x_t + b_h (+ W_xh_static x_static)), top[0] = o, o_t = tanh(W_ho h_t + b_o).

    State h. blobs: W_xh (D, K), b_h (D), W_xh_static (D, S) if there is a static input, W_hh (D, D), W_ho (D, D), b_o (D).
    Bottoms, tops and the rest as RecurrentLayer says. Source: rnn_layer.cpp.
    """

    state_names = ("h_0",)
    gate_count = 1
    input_params = ("W_xh", "b_h", "W_xh_static")
    output_name = "o"
    outputs: Kept
    hidden: Kept

    def step_params(self) -> list[tuple[str, tuple[int, ...], Any]]:
        param = self.param.recurrent_param
        square = (self.d, self.d)
        return [
            ("W_hh", square, param.weight_filler),
            ("W_ho", square, param.weight_filler),
            ("b_o", (self.d,), param.bias_filler),
        ]

    def step_layers(self, t: int, inputs: list[str]) -> list[LayerParameter]:
        before, after, neuron = f"W_hh_h_{t - 1}", f"W_ho_h_{t}", f"h_neuron_input_{t}"
        return [
            product(self.param.recurrent_param, before, f"h_conted_{t - 1}", before, ("W_hh",), self.d),
            total(f"h_input_sum_{t}", [before, *inputs], neuron),
            part("TanH", f"h_neuron_{t}", [neuron], [f"h_{t}"]),
            product(self.param.recurrent_param, after, f"h_{t}", after, ("W_ho", "b_o"), self.d),
            part("TanH", f"o_neuron_{t}", [after], [f"o_{t}"]),
        ]

    def unroll(
        self, inputs: torch.Tensor, cont: torch.Tensor, states: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        (h,) = states
        w_hh, w_ho = self.first_step_param, self.first_step_param + 1
        bias = self.blobs[w_ho + 1].data
        if self.runs_sequences:
            each, self.all_h_conted = torch.ops.allconv_caffe.rnn(inputs, cont, h, self.blobs[w_hh].data)
            y = torch.tanh(self.times(each.reshape(-1, self.d), w_ho) + bias).reshape(inputs.shape)
            self.outputs, self.hidden = y, each
            return y, [each[-1]]
        outputs, hidden, self.h_conted = [], [], []
        for t in range(self.steps):
            self.h_conted.append(cont[t] * h)
            h = torch.tanh(self.times(self.h_conted[t], w_hh) + inputs[t])
            hidden.append(h)
            outputs.append(torch.tanh(self.times(h, w_ho) + bias))
        self.outputs, self.hidden = outputs, hidden
        return torch.stack(outputs), [h]

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if self.steps == 1:  # one concatenated step is that step's memory: what an in-place layer above wrote is read
            self.outputs = self.with_last(self.outputs, float32(top[0].data).squeeze(0))
        if self.exposed:  # so is the state's
            self.hidden = self.with_last(self.hidden, float32(top[1].data).squeeze(0))
        super().backward(top, propagate_down, bottom)

    def unroll_backward(self, dy: torch.Tensor, cont: torch.Tensor) -> torch.Tensor:
        w_hh, w_ho = self.first_step_param, self.first_step_param + 1
        if self.runs_sequences:
            assert isinstance(self.hidden, torch.Tensor)
            assert isinstance(self.outputs, torch.Tensor)
            d_out = dy * (1 - self.outputs * self.outputs)
            rows = d_out.reshape(-1, self.d)
            dh = self.times_weights(rows, w_ho).reshape(dy.shape)
            dx = torch.ops.allconv_caffe.rnn_backward(dh, cont, self.hidden, self.blobs[w_hh].data)
            self.accumulate_steps([self.hidden.reshape(-1, self.d)], [rows], w_ho, w_ho + 1)
            self.accumulate_steps([self.all_h_conted.reshape(-1, self.d)], [dx.reshape(-1, self.d)], w_hh)
            return dx
        dh_next = torch.zeros_like(dy[0])
        d_inputs, d_outs = [], []
        for t in reversed(range(self.steps)):
            o, h = self.outputs[t], self.hidden[t]
            d_outs.append(dy[t] * (1 - o * o))
            dh = self.times_weights(d_outs[-1], w_ho) + dh_next
            dx = dh * (1 - h * h)
            dh_next = cont[t] * self.times_weights(dx, w_hh)
            d_inputs.append(dx)
        self.accumulate_steps(list(self.hidden[::-1]), d_outs, w_ho, w_ho + 1)
        self.accumulate_steps(self.h_conted[::-1], d_inputs, w_hh)
        return torch.stack(d_inputs[::-1])
