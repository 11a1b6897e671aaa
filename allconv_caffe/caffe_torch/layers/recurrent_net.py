"""What the net is made of that Caffe builds inside a recurrent layer, of T copies of a step.

Source: recurrent_layer.cpp, lstm_layer.cpp, rnn_layer.cpp; the names are those of their log.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from allconv_caffe.proto import EltwiseParameter, LayerParameter, RecurrentParameter


def part(type_: str, name: str, bottom: Sequence[str], top: Sequence[str], axis: int | None = None) -> LayerParameter:
    """A layer of the inner net; `axis` is that of a Slice, a Concat or a Scale."""
    layer = LayerParameter(type=type_, name=name, bottom=bottom, top=top)
    if axis is not None:
        getattr(layer, f"{type_.lower()}_param").axis = axis
    return layer


def product(
    given: RecurrentParameter,
    name: str,
    bottom: str,
    top: str,
    params: Sequence[str],
    num_output: int,
    axis: int = 2,
) -> LayerParameter:
    """An InnerProduct whose weights, and bias if there is a second name, are shared by all steps; fillers as `given`."""
    made = part("InnerProduct", name, [bottom], [top])
    for param in params:
        made.param.add().name = param
    own = made.inner_product_param
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


def add_shapes(layer: Any, shapes: Iterable[Sequence[int]]) -> None:
    for shape in shapes:
        layer.input_param.shape.add().dim.extend(shape)
