"""Single layers over nan, inf and 0: in their bottoms, the diffs of their tops, their parameters and their factors."""

from __future__ import annotations

import random
from typing import Any

NUMBERS = ("0", "nan", "inf", "-inf", "1", "-2", "0.5")
# type: (tops, bottoms (kind, axes kept of (N, C, H, W), or "like 0"), parameters with % for a number)
LAYERS: tuple[tuple[str, int, tuple[tuple[str, int], ...], tuple[str, ...]], ...] = (
    (
        "Eltwise",
        1,
        (("special", 4), ("special", 4)),
        ("eltwise_param { coeff: % coeff: % }", "eltwise_param { operation: PROD }"),
    ),
    (
        "Reduction",
        1,
        (("special", 4),),
        tuple(f"reduction_param {{ operation: {word} axis: 1 coeff: % }}" for word in ("SUM", "ASUM", "SUMSQ", "MEAN")),
    ),
    (
        "Scale",
        1,
        (("special", 4),),
        ("", "scale_param { filler { value: % } bias_term: true }", "scale_param { axis: 0 num_axes: -1 }"),
    ),
    ("Scale", 1, (("special", 4), ("special", 2)), ("scale_param { axis: 0 }",)),
    ("Bias", 1, (("special", 4),), ("bias_param { filler { value: % } }",)),
    ("Exp", 1, (("special", 4),), ("exp_param { scale: % }", "exp_param { base: 2 scale: % shift: % }")),
    ("Log", 1, (("special", 4),), ("log_param { scale: % }", "log_param { base: 2 scale: % shift: % }")),
    (
        "Power",
        1,
        (("special", 4),),
        (
            "power_param { scale: % }",
            "power_param { scale: % shift: % power: 2 }",
            "power_param { power: % scale: 2 shift: 1 }",
            "power_param { power: 3 scale: % shift: % }",
        ),
    ),
    ("Swish", 1, (("special", 4),), ("swish_param { beta: % }",)),
    ("ReLU", 1, (("special", 4),), ("", "relu_param { negative_slope: % }")),
    ("PReLU", 1, (("special", 4),), ("", "prelu_param { filler { value: % } }")),
    ("ELU", 1, (("special", 4),), ("", "elu_param { alpha: % }")),
    ("Sigmoid", 1, (("special", 4),), ("",)),
    ("TanH", 1, (("special", 4),), ("",)),
    ("BNLL", 1, (("special", 4),), ("",)),
    ("AbsVal", 1, (("special", 4),), ("",)),
    ("Clip", 1, (("special", 4),), ("clip_param { min: -1 max: 2 }",)),
    ("Threshold", 1, (("special", 4),), ("", "threshold_param { threshold: % }")),
    ("Dropout", 1, (("special", 4),), ("", "dropout_param { dropout_ratio: 0.5 }")),
    ("Softmax", 1, (("special", 4),), ("",)),
    (
        "BatchNorm",
        1,
        (("normal", 4),),
        (
            "",
            "batch_norm_param { moving_average_fraction: % }",
            "batch_norm_param { eps: % }",
            "batch_norm_param { use_global_stats: true }",
        ),
    ),
    (
        "LRN",
        1,
        (("special", 4),),
        (
            "lrn_param { alpha: % }",
            "lrn_param { alpha: % norm_region: WITHIN_CHANNEL local_size: 3 }",
            "lrn_param { beta: % k: 2 }",
        ),
    ),
    ("MVN", 1, (("special", 4),), ("", "mvn_param { eps: % }")),
    (
        "Pooling",
        1,
        (("special", 4),),
        ("pooling_param { kernel_size: 2 }", "pooling_param { pool: AVE kernel_size: 2 stride: 2 }"),
    ),
    ("EuclideanLoss", 1, (("special", 4), ("normal", 4)), ("loss_weight: %",)),
    ("SigmoidCrossEntropyLoss", 1, (("normal", 4), ("unit", 4)), ("loss_weight: %",)),
    ("SoftmaxWithLoss", 1, (("normal", 2), ("label 3", 1)), ("loss_weight: %",)),
    ("SoftmaxWithLoss", 1, (("special", 2), ("label 3", 1)), ("", "loss_weight: %")),
    (
        "HingeLoss",
        1,
        (("special", 2), ("label 3", 1)),
        ("loss_weight: %", "hinge_loss_param { norm: L2 } loss_weight: %"),
    ),
    (
        "ContrastiveLoss",
        1,
        (("normal", 2), ("normal", 2), ("zeroone", 1)),
        (
            "loss_weight: %",
            "contrastive_loss_param { margin: % }",
            "contrastive_loss_param { legacy_version: true } loss_weight: %",
        ),
    ),
    ("MultinomialLogisticLoss", 1, (("unit", 2), ("label 3", 1)), ("loss_weight: %",)),
    ("InnerProduct", 1, (("special", 2),), ('inner_product_param { num_output: 2 weight_filler { type: "xavier" } }',)),
    ("Accuracy", 1, (("special", 2), ("label 3", 1)), ("", "accuracy_param { top_k: 2 }")),
    ("Concat", 1, (("special", 4), ("special", 4)), ("",)),
    ("Tile", 1, (("special", 4),), ("tile_param { tiles: 2 }",)),
)


def special_job(seed: int) -> dict[str, Any]:
    """A job for fuzz_side.py: one layer of LAYERS in its turn, over special numbers."""
    rng = random.Random(f"special {seed}")
    type_, tops, bottoms, params = LAYERS[seed % len(LAYERS)]
    param = rng.choice(params)
    while "%" in param:
        param = param.replace("%", rng.choice(NUMBERS), 1)
    shape = [2, rng.choice([3, 9]) if type_ == "LRN" else 3, rng.randint(1, 4), rng.randint(1, 4)]
    inputs, lines = [], ["force_backward: true"] if type_ not in ("Accuracy", "Threshold") else []
    for i, (kind, axes) in enumerate(bottoms):
        dims = " ".join(f"dim: {d}" for d in shape[:axes])
        lines.append(f'layer {{ name: "in{i}" type: "Input" top: "in{i}" input_param {{ shape {{ {dims} }} }} }}')
        inputs.append([f"in{i}", kind, [shape[:axes]]])
    ends = " ".join([f'bottom: "in{i}"' for i in range(len(bottoms))] + [f'top: "t{i}"' for i in range(tops)])
    lines.append(f'layer {{ name: "l" type: "{type_}" {ends} {param} }}')
    return {
        "kind": "net",
        "id": f"special{seed}",
        "seed": seed,
        "net": "\n".join(lines) + "\n",
        "inputs": inputs,
        "phase": 0,
        "level": 0,
        "stages": [],
        "steps": 2,
        "backward": True,
        "clear": True,
        "update": rng.random() < 0.3,
        "diffs": rng.choice(["normal", "special", "zero"]),
        "weights": rng.choice(["", "", "special"]),
    }
