"""The net of T copies of a step that Caffe builds inside a recurrent layer: here for its log lines alone.

Source: recurrent_layer.cpp, lstm_layer.cpp, rnn_layer.cpp; the names are those of their log.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.proto import TRAIN, EltwiseParameter, LayerParameter, NetParameter

if TYPE_CHECKING:
    from allconv_caffe.caffe_torch.layers.recurrent import RecurrentLayer


def part(type_: str, name: str, bottom: Sequence[str], top: Sequence[str], axis: int | None = None) -> LayerParameter:
    """A layer of the inner net; `axis` is that of a Slice, a Concat or a Scale."""
    layer = LayerParameter(type=type_, name=name, bottom=bottom, top=top)
    if axis is not None:
        getattr(layer, f"{type_.lower()}_param").axis = axis
    return layer


def product(
    layer: RecurrentLayer, name: str, bottom: str, top: str, params: Sequence[str], num_output: int, axis: int = 2
) -> LayerParameter:
    """An InnerProduct whose weights, and bias if there is a second name, are shared by all steps."""
    made = part("InnerProduct", name, [bottom], [top])
    for param in params:
        made.param.add().name = param
    own, given = made.inner_product_param, layer.param.recurrent_param
    own.num_output, own.bias_term, own.axis = num_output, len(params) > 1, axis
    own.weight_filler.CopyFrom(given.weight_filler)
    if len(params) > 1:
        own.bias_filler.CopyFrom(given.bias_filler)
    return made


def total(name: str, bottom: Sequence[str], top: str) -> LayerParameter:
    made = part("Eltwise", name, bottom, [top])
    made.eltwise_param.operation = EltwiseParameter.SUM
    return made


def conted(t: int) -> LayerParameter:
    """The state before step t (from 1), cut off where a sequence begins."""
    return part("Scale", f"h_conted_{t - 1}", [f"h_{t - 1}", f"cont_{t}"], [f"h_conted_{t - 1}"], 0)


def unrolled_net(layer: RecurrentLayer, bottom: Sequence[Blob]) -> NetParameter:
    """What Caffe builds for `layer` over these bottoms."""
    given, (weight, bias, static_weight) = ["x", "cont"] + ["x_static"] * layer.static, layer.input_params
    steps, out, transformed = range(1, layer.steps + 1), layer.gate_count * layer.d, f"{weight}_x"
    data = part("Input", "", [], given)
    add_shapes(data, (blob.shape for blob in bottom[: len(given)]))
    states = part("Input", "", [], layer.state_names[::-1])
    add_shapes(states, [(1, bottom[0].shape[1], layer.d)] * len(layer.state_names))
    layers = [
        data,
        states,
        part("Slice", "cont_slice", ["cont"], [f"cont_{t}" for t in steps], 0),
        product(layer, "x_transform", "x", transformed, (weight, bias), out),
    ]
    layers[-1].propagate_down.append(True)
    if layer.static:
        static = f"{transformed}_static"
        layers.append(product(layer, static, "x_static", f"{static}_preshape", (static_weight,), out, 1))
        layers[-1].propagate_down.append(True)
        layers.append(part("Reshape", f"{static}_reshape", [f"{static}_preshape"], [static]))
        layers[-1].reshape_param.shape.dim.extend((1, -1, out))
    layers.append(part("Slice", f"{transformed}_slice", [transformed], [f"{transformed}_{t}" for t in steps], 0))
    for t in steps:
        inputs = [f"{transformed}_{t}"] + [f"{transformed}_static"] * layer.static
        layers += [conted(t), *layer.step_layers(t, inputs)]
    layers += layer.last_layers()
    output = layer.output_name
    layers.append(part("Concat", f"{output}_concat", [f"{output}_{t}" for t in steps], [output], 0))
    if layer.name:
        for made in layers:
            made.name = f"{layer.name}_{made.name}"
    layers.append(part("Reduction", f"{output}_pseudoloss", [output], [f"{output}_pseudoloss"]))
    layers[-1].loss_weight.append(1)
    return NetParameter(layer=layers)


def add_shapes(layer: Any, shapes: Iterable[Sequence[int]]) -> None:
    for shape in shapes:
        layer.input_param.shape.add().dim.extend(shape)


class Ones:
    """A generator that draws nothing and takes no memory, for parameters that nobody reads."""

    seed = 0

    def uniform(self, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
        return torch.ones(()).expand(tuple(shape))

    def gaussian(self, shape: Sequence[int], mean: float, std: float) -> torch.Tensor:
        return torch.ones(()).expand(tuple(shape))

    def bernoulli(self, shape: Sequence[int], p: float | np.float32, device: torch.device) -> torch.Tensor:
        return torch.ones((), device=device).expand(tuple(shape))

    def word(self) -> int:
        return 0


def log_unrolled_net(layer: RecurrentLayer, bottom: Sequence[Blob]) -> None:
    """Writes what Caffe writes while it builds the net: builds it, without memory and random numbers, and drops it."""
    from allconv_caffe.caffe_torch.net import Net  # which knows every layer type, this one among them

    context = dataclasses.replace(layer.ctx, device=torch.device("meta"), rng=Ones(), phase=TRAIN)
    with contextlib.suppress(CaffeError):  # the layer says itself what is wrong
        Net(unrolled_net(layer, bottom), context, inner=True)
