"""Nets whose layers share parameters, and random goings of weights from net to net: copied, shared, saved, loaded."""

from __future__ import annotations

import random
import re
from typing import Any

from support.prototxt import layer_of as layer

DATA = layer("data", "HDF5Data", 'top: "data" top: "label"', 'hdf5_data_param { source: "list.txt" batch_size: 6 }')
LOSS = 'bottom: "{0}" bottom: "label" top: "loss_{0}"'


def dense(name: str, bottom: str, num: int, specs: str = "", more: str = "") -> str:
    return layer(
        name,
        "InnerProduct",
        f'bottom: "{bottom}" top: "{name}"',
        f'{specs} inner_product_param {{ num_output: {num} weight_filler {{ type: "xavier" }} {more} }}',
    )


def sharing_net(rng: random.Random, data: str = DATA) -> str:
    """Layers whose parameters have one name, now and then in ways that do not go together."""

    def spec(name: str, odd: bool) -> str:
        words = [f'name: "{name}"'] if name else []
        words.append(rng.choice(["", "", "lr_mult: 1", "lr_mult: 2"] if odd else ["", "lr_mult: 2"]))
        words.append(rng.choice(["", "", "decay_mult: 1", "decay_mult: 0"] if odd else ["", "decay_mult: 3"]))
        mode = rng.choice(["", "", "share_mode: STRICT", "share_mode: PERMISSIVE"])
        return f"param {{ {' '.join([*words, mode])} }} "

    odd = rng.random() < 0.3
    text = f'name: "shared"\n{data}'
    text += layer("flat", "Flatten", 'bottom: "data" top: "flat"')
    text += dense("first", "flat", 4)
    below = "first"
    if rng.random() < 0.3:
        text += layer(
            "keep",
            "Convolution",
            'bottom: "data" top: "keep"',
            'param { name: "c" } param { name: "b" } '
            'convolution_param { num_output: 4 kernel_size: 2 weight_filler { type: "xavier" } }',
        )
        text += layer(
            "sum", "Reduction", 'bottom: "keep" top: "sum"', "loss_weight: 0.01 reduction_param { operation: SUMSQ }"
        )
    for i in range(rng.randint(2, 4)):
        name = f"s{i}"
        odd_names = [("w", "b"), ("w", "b"), ("w", ""), ("", "b"), ("w", "w2"), ("c", "b"), ("w", "w")]
        names = rng.choice(odd_names if odd else [("w", "b"), ("w", "b"), ("w", "")])
        out = rng.choice([4, 4, 4, 2, 8]) if odd else 4
        more = rng.choice(["", "", "transpose: true", "bias_term: false"])
        specs = spec(names[0], odd) + (spec(names[1], odd) if "false" not in more or rng.random() < 0.05 else "")
        text += dense(name, below, out, specs, more + rng.choice(["", ' bias_filler { type: "constant" value: 0.3 }']))
        text += layer(f"bend{i}", rng.choice(["TanH", "Sigmoid"]), f'bottom: "{name}" top: "{name}"')
        if rng.random() < 0.7:
            below = name
    text += dense("two", below, 3, rng.choice(["", "param { lr_mult: 0 }"]))
    return text + layer("loss", "SoftmaxWithLoss", LOSS.format("two"))


STILL = layer(
    "data",
    "DummyData",
    'top: "data" top: "label"',
    "dummy_data_param { shape { dim: 6 dim: 3 dim: 3 dim: 3 } shape { dim: 6 } data_filler { value: 0.5 } "
    "data_filler { value: 1 } }",
)


def weights_job(seed: int) -> dict[str, Any]:
    """A job for fuzz_side.py: three nets alike but for names or sizes, and what is done with their weights."""
    rng = random.Random(f"weights {seed}")
    first = sharing_net(rng, STILL)
    nets = [first]
    for _ in range(2):
        nets.append(
            rng.choice(
                [
                    first,
                    first,
                    first,
                    first,
                    first.replace('"s1"', '"t1"'),
                    first.replace('"s1"', '"t1"'),
                    re.sub(r'name: "(w|b|c)"', "", first),
                    re.sub(r'name: "(w|b|c)"', "", first),
                    first.replace('name: "b"', ""),
                    first.replace("num_output: 4", "num_output: 5", 1),
                    first.replace('"two"', '"first"', 1),
                    re.sub(r'layer { name: "s1".*\n', "", first)
                    .replace('"s1"', '"first"')
                    .replace('name: "bend1"', 'name: "s1"'),
                ]
            )
        )
    actions: list[list[Any]] = []
    for number in range(rng.randint(3, 7)):
        i, j = rng.sample(range(3), 2)
        actions.append(
            rng.choice(
                [
                    ["share", i, j],
                    ["share", i, j],
                    ["copy", i, j],
                    ["copy", i, j],
                    ["hdf5", i, j],
                    ["set", i, number],
                    ["set", i, number],
                    ["forward", i],
                    ["backward", i],
                    ["cross", i, j],
                ]
            )
        )
    return {"kind": "weights", "id": f"weights{seed}", "seed": seed, "net": first, "nets": nets, "actions": actions}
