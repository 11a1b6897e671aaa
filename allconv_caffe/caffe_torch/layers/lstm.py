"""LSTM: long short-term memory, unrolled over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import recurrent
from allconv_caffe.caffe_torch.layer import register
from allconv_caffe.caffe_torch.layers.base import float32
from allconv_caffe.caffe_torch.layers.lstm_unit import gates, unit, unit_backward
from allconv_caffe.caffe_torch.layers.recurrent import Kept, RecurrentLayer
from allconv_caffe.caffe_torch.layers.recurrent_net import part, product, total
from allconv_caffe.caffe_torch.tracing import is_tracing
from allconv_caffe.proto import LayerParameter


@register("LSTM")
class LSTMLayer(RecurrentLayer):
    """c_t, h_t = LSTMUnit(c_{t-1}, W_xc x_t + b_c (+ W_xc_static x_static) + W_hc (cont_t h_{t-1}), cont_t); top[0] = h.

    States h, c, in this order. blobs: W_xc (4D, K), b_c (4D), W_xc_static (4D, S) if there is a static input, W_hc (4D, D);
    rows in the order input, forget, output gate, candidate. Bottoms, tops and the rest as RecurrentLayer says.
    Source: lstm_layer.cpp.
    """

    state_names = ("h_0", "c_0")
    gate_count = 4
    input_params = ("W_xc", "b_c", "W_xc_static")
    output_name = "h"
    cells: Kept
    all_gates: torch.Tensor
    all_h_conted: torch.Tensor

    def step_params(self) -> list[tuple[str, tuple[int, ...], Any]]:
        return [("W_hc", (4 * self.d, self.d), self.param.recurrent_param.weight_filler)]

    def step_layers(self, t: int, inputs: list[str]) -> list[LayerParameter]:
        product_top, gate_input = f"W_hc_h_{t - 1}", f"gate_input_{t}"
        return [
            product(
                self.param.recurrent_param, f"transform_{t}", f"h_conted_{t - 1}", product_top, ("W_hc",), 4 * self.d
            ),
            total(gate_input, [product_top, *inputs], gate_input),
            part("LSTMUnit", f"unit_{t}", [f"c_{t - 1}", gate_input, f"cont_{t}"], [f"c_{t}", f"h_{t}"]),
        ]

    def last_layers(self) -> list[LayerParameter]:
        return [part("Split", "", [f"c_{self.steps}"], ["c_T"])]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        if self.steps == 1:  # one concatenated step is that step's memory
            top[0].share_data(top[1] if self.exposed else self.states[0])

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if self.exposed:  # the state's own memory: what an in-place layer above wrote is read
            self.cells = self.with_last(self.cells, float32(top[2].data).squeeze(0))
        super().backward(top, propagate_down, bottom)

    def unroll(
        self, inputs: torch.Tensor, cont: torch.Tensor, states: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        h, c = states
        if self.runs_sequences:
            w = self.blobs[self.first_step_param].data
            steps = (
                torch.ops.allconv_caffe.lstm(inputs, cont, h, c, w)
                if is_tracing()
                else recurrent.lstm(inputs, cont, h, c, w, self.rooms)
            )
            y: torch.Tensor = steps[0]
            self.cells, self.all_gates, self.all_h_conted = steps[1:]
            return y, [y[-1], self.cells[-1]]
        outputs, cells, self.gates, self.h_conted = [], [c], [], []
        for t in range(self.steps):
            self.h_conted.append(cont[t] * h)
            x = self.times(self.h_conted[t], self.first_step_param) + inputs[t]
            self.gates.append(gates(x, cont[t]))
            c, h = unit(self.gates[t], c)
            cells.append(c)
            outputs.append(h)
        self.cells = cells
        return torch.stack(outputs), [h, c]

    def unroll_backward(self, dy: torch.Tensor, cont: torch.Tensor) -> torch.Tensor:
        if self.runs_sequences:
            w = self.blobs[self.first_step_param].data
            dx = torch.ops.allconv_caffe.lstm_backward(dy, cont, self.all_gates, self.cells, w)
            self.accumulate_steps(
                [self.all_h_conted.reshape(-1, self.d)], [dx.reshape(-1, 4 * self.d)], self.first_step_param
            )
            return dx
        dh, dc = torch.zeros_like(dy[0]), torch.zeros_like(dy[0])
        d_inputs = []
        for t in reversed(range(self.steps)):
            dc, dx = unit_backward(self.gates[t], self.cells[t], self.cells[t + 1], dc, dy[t] + dh)
            dh = cont[t] * self.times_weights(dx, self.first_step_param)
            d_inputs.append(dx)
        self.accumulate_steps(self.h_conted[::-1], d_inputs, self.first_step_param)
        return torch.stack(d_inputs[::-1])
