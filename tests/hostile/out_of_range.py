"""Every number of every layer's parameters at the ends of its type, in a net of that layer alone, forward and backward.

Prints as JSON how many were taken, how many refused by an error of the product's own or for lack of memory, and what else came.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from layer_harness import Case, collect

from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import TRAIN, LayerParameter, NetParameter, parse_text

WHOLE = (-1, 0, 65536, 2**31 - 1, -(2**31), 2**32 - 1)
REAL = (float("nan"), float("inf"), -1e30)
ITS_OWN = {
    "Deconvolution": "convolution_param",
    "Im2col": "convolution_param",
    "LSTM": "recurrent_param",
    "RNN": "recurrent_param",
}
MEMORY = 6 << 30


def numbers(message: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], bool, bool]]:
    """The places of a message's numbers, those of its fillers too: names, whether it is a float's, whether a list's."""
    for field in message.DESCRIPTOR.fields:
        many = hasattr(getattr(message, field.name), "append") or hasattr(getattr(message, field.name), "add")
        if field.message_type is not None:
            if not many and field.message_type.name == "FillerParameter":
                yield from numbers(getattr(message, field.name), (*path, field.name))
        elif field.cpp_type in (1, 2, 3, 4, 5, 6):
            yield (*path, field.name), field.cpp_type in (5, 6), many


def changed(layer: Any, path: tuple[str, ...], many: bool, value: float) -> Any:
    """A copy with that number there; None where the field takes no such number."""
    found = LayerParameter()
    found.CopyFrom(layer)
    *above, last = path
    place = found
    for name in above:
        place = getattr(place, name)
    try:
        if many:
            del getattr(place, last)[:]
            getattr(place, last).append(value)
        else:
            setattr(place, last, value)
    except (ValueError, TypeError):
        return None
    return found


def nets(case: Case) -> Iterator[tuple[str, Any]]:
    """A name for each, and the net."""
    layer = parse_text(f'layer {{ type: "{case.type}" {case.param} }}', NetParameter).layer[0]
    shapes = [bottom.shape if isinstance(bottom, np.ndarray) else bottom for bottom in case.bottoms]
    params = {field.name for field, _ in layer.ListFields() if field.name.endswith("_param")} - {"transform_param"}
    params |= {ITS_OWN[case.type]} if case.type in ITS_OWN else set()
    for param in sorted(params):
        for path, real, many in numbers(getattr(LayerParameter(), param), (param,)):
            for value in REAL if real else WHOLE:
                net = NetParameter(force_backward=True)
                for i, shape in enumerate(shapes):
                    net.layer.add(name=f"b{i}", type="Input", top=[f"b{i}"]).input_param.shape.add().dim.extend(shape)
                if (one := changed(layer, path, many, value)) is None:
                    continue
                one.name = "layer"
                one.bottom.extend(f"b{i}" for i in range(len(shapes)))
                one.top.extend(f"t{i}" for i in range(case.tops))
                net.layer.append(one)
                yield f"{case.type} {'.'.join(path)} {value}", net


def run(net: Any) -> str:
    made = Net(net, Context(phase=TRAIN, device=torch.device("cpu"), rng=TorchGenerator(1)))
    for name in made.blobs:
        if name.startswith("b"):
            made.blobs[name].data = torch.zeros(made.blobs[name].shape)
    made.forward()
    made.backward()
    return "taken"


def main() -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    count, wrong, seen = Counter[str](), [], set()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for case in collect():
        if case.type in seen or (not case.param.strip() and case.type not in ITS_OWN):
            continue
        seen.add(case.type)
        for name, net in nets(case):
            try:
                count[run(net)] += 1
            except (CaffeError, MemoryError):
                count["refused"] += 1
            except RuntimeError as error:
                if "can't allocate memory" not in str(error):
                    wrong.append(f"{name}: {traceback.format_exc()[-400:]}")
                count["refused"] += 1
            except Exception:
                wrong.append(f"{name}: {traceback.format_exc()[-400:]}")
    print(json.dumps([count["taken"], count["refused"], wrong, sorted(seen)]))


if __name__ == "__main__":
    sys.exit(main())
