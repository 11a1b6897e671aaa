"""Random trainings: solver types, policies and settings over small smooth nets, and what is done with them from pycaffe."""

from __future__ import annotations

import random
from typing import Any

from support.prototxt import layer_of as layer

POLICIES = {
    "fixed": (),
    "step": ("gamma", "stepsize"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"),
    "poly": ("power",),
    "sigmoid": ("gamma", "stepsize"),
}


def learning(rng: random.Random, count: int = 2) -> str:
    if rng.random() < 0.5:
        return ""
    words = ("lr_mult: 1 decay_mult: 1", "lr_mult: 2 decay_mult: 0", "lr_mult: 0", "decay_mult: 3", "lr_mult: 0.5", "")
    return " ".join(f"param {{ {rng.choice(words)} }}" for _ in range(rng.randint(1, count)))


def net(rng: random.Random) -> str:
    """Noise, two learned layers with something between, one or two losses; parts in one phase or stage only."""
    n = rng.randint(2, 5)
    # under a BatchNorm neither equal values nor a bias: what is 0 but for rounding would decide what comes of it
    normed = rng.random() < 0.4
    noises = ['type: "gaussian" std: 1', 'type: "uniform" min: -1 max: 1', "value: 0.5"]
    noise = rng.choice(noises[:2] if normed else noises)
    text = f'name: "{rng.choice(["", "small", "a net"])}"\n'
    text += layer(
        "data",
        "DummyData",
        'top: "data" top: "label"',
        f"dummy_data_param {{ shape {{ dim: {n} dim: 3 dim: 5 dim: 4 }} shape {{ dim: {n} }} data_filler {{ {noise} }} "
        f"data_filler {{ value: {rng.randint(0, 2)} }} }}",
    )
    weight = rng.choice(['type: "xavier"', 'type: "msra"', 'type: "gaussian" std: 0.3'])
    text += layer(
        "one",
        "Convolution",
        'bottom: "data" top: "one"',
        learning(rng)
        + f" convolution_param {{ num_output: 4 kernel_size: {rng.randint(1, 3)} weight_filler {{ {weight} }} "
        f"{rng.choice(['bias_term: false', 'bias_term: false' if normed else ''])} }}",
    )
    if normed:
        rest = "" if rng.random() < 0.5 else f"batch_norm_param {{ moving_average_fraction: {rng.choice([0.9, 0.5])} }}"
        text += layer("norm", "BatchNorm", 'bottom: "one" top: "one"', rest)
        text += layer("scale", "Scale", 'bottom: "one" top: "one"', learning(rng) + " scale_param { bias_term: true }")
    text += layer("bend", rng.choice(["TanH", "Sigmoid", "ELU"]), 'bottom: "one" top: "one"')
    if rng.random() < 0.4:
        text += layer("drop", "Dropout", 'bottom: "one" top: "one"', "dropout_param { dropout_ratio: 0.4 }")
    shared = ' param { name: "w" } param { name: "b" }' if rng.random() < 0.2 else learning(rng)
    for name in ("two", "three") if "name:" in shared else ("two",):
        text += layer(
            name,
            "InnerProduct",
            f'bottom: "one" top: "{name}"',
            f'{shared} inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }}',
        )
        text += layer(
            f"loss_{name}",
            "SoftmaxWithLoss",
            f'bottom: "{name}" bottom: "label" top: "loss_{name}"',
            rng.choice(["", "", "loss_weight: 0.5", "loss_param { normalization: FULL }"]),
        )
    if rng.random() < 0.5:
        rule = rng.choice(
            ["include { phase: TEST }", "include { phase: TEST stage: 'deep' }", "exclude { phase: TRAIN }"]
        )
        text += layer("right", "Accuracy", 'bottom: "two" bottom: "label" top: "right"', rule)
    if rng.random() < 0.3:
        text += layer(
            "size",
            "Reduction",
            'bottom: "two" top: "size"',
            rng.choice(["loss_weight: 0.01 ", "include { phase: TRAIN } "]) + "reduction_param { operation: SUMSQ }",
        )
    return text


def solver(rng: random.Random) -> str:
    type_ = rng.choice(["SGD", "SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
    policy = rng.choice(list(POLICIES))
    rate = {"AdaDelta": 1.0, "Adam": 0.01, "RMSProp": 0.01}.get(type_, 0.1)
    words = [f'type: "{type_}" base_lr: {rate} lr_policy: "{policy}" solver_mode: CPU']
    for name in POLICIES[policy]:
        if name == "stepvalue":
            words += [f"stepvalue: {v}" for v in sorted(rng.sample(range(12), rng.randint(0, 3)))]
        else:
            words.append(
                f"{name}: "
                + str(
                    {
                        "gamma": rng.choice([0.5, 0.9, 0.1]),
                        "stepsize": rng.randint(1, 5),
                        "power": rng.choice([0.75, 1, 2]),
                    }[name]
                )
            )
    if (rng.random() < 0.7 and type_ not in ("AdaGrad", "RMSProp")) or rng.random() < 0.03:
        words.append(f"momentum: {rng.choice([0.9, 0.5])}")
    for chance, text in (
        (0.5, f"weight_decay: {rng.choice([0.01, 0.1])}"),
        (0.3, f'regularization_type: "{rng.choice(["L1", "L2"])}"'),
        (0.3, f"iter_size: {rng.randint(1, 3)}"),
        (0.3, f"clip_gradients: {rng.choice([0.05, 0.5, 10])}"),
        (0.4, f"average_loss: {rng.randint(1, 4)}"),
        (0.5, f"display: {rng.randint(1, 4)}"),
        (0.2, "snapshot_diff: true"),
        (0.3, f"snapshot: {rng.randint(1, 5)}"),
        (0.3, "snapshot_after_train: false"),
        (0.3, "snapshot_format: HDF5"),
        (0.15, "debug_info: true"),
        (0.2, "test_compute_loss: true"),
        (0.2, "test_initialization: false"),
        (0.02, "average_loss: 0"),
        (0.02, "gamma: -1"),
        (0.02, 'type: "Sgd"'),
        (0.2 * (type_ == "Adam"), "momentum2: 0.9"),
        (0.3 * (type_ == "RMSProp"), "rms_decay: 0.7"),
        (0.2, "delta: 0.0001"),
        (0.03, "base_lr: nan"),
        (0.02, "base_lr: inf"),
        (0.02, "weight_decay: nan"),
        (0.01, "momentum: nan"),
        (0.02, "clip_gradients: 0"),
        (0.02, "base_lr: 0"),
        (0.1, "train_state { stage: 'deep' level: 1 }"),
    ):
        if rng.random() < chance:
            words.append(text)
    words.append(f"max_iter: {rng.choice([0, 5, 8, 12])} random_seed: {rng.randint(0, 99)}")
    if rng.random() < 0.9:
        words.append('snapshot_prefix: "out"')
    tests = rng.choice([0, 1, 1, 2])
    words.append(
        rng.choice(['net: "net.prototxt"', 'train_net: "net.prototxt"' if not tests else 'net: "net.prototxt"'])
    )
    words += [f"test_iter: {rng.randint(1, 3)}" for _ in range(tests)]
    if tests or rng.random() < 0.1:
        words.append(f"test_interval: {rng.randint(1, 5)}")
    if tests and rng.random() < 0.3:
        words += [rng.choice(["test_state { stage: 'deep' }", "test_state { }"]) for _ in range(tests)]
    return "\n".join(words) + "\n"


def solver_job(seed: int) -> dict[str, Any]:
    """A job for fuzz_side.py: a solver, its net, and a list of what is done with it."""
    rng = random.Random(f"solver {seed}")
    actions: list[list[Any]] = []
    for _ in range(rng.randint(1, 5)):
        actions.append(
            rng.choice(
                [
                    ["step", rng.randint(1, 6)],
                    ["step", 1],
                    ["step", 3],
                    ["lr"],
                    ["snapshot"],
                    ["restore"],
                    ["apply"],
                    ["share"],
                    ["again"],
                    ["test"],
                ]
            )
        )
    if rng.random() < 0.6:
        actions.append(["solve"])
    return {
        "kind": "solver",
        "id": f"solver{seed}",
        "seed": seed,
        "net": net(rng),
        "solver": solver(rng),
        "actions": actions,
    }
