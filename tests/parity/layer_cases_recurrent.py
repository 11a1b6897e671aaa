"""Cases of LSTM, LSTMUnit and RNN."""

from __future__ import annotations

import numpy as np
from layer_harness import TEST, Bottom, Case, ErrorCase, uniform

CASES: list[Case] = []
ERRORS: list[ErrorCase] = []


def cont(steps: int, streams: int, seed: int = 0) -> np.ndarray:
    """Sequence indicators: 0 at the first step of each stream and at about one step in four."""
    values = (np.random.RandomState(seed).uniform(size=(steps, streams)) > 0.25).astype(np.float32)
    values[0] = 0
    return values


def add(type_: str, *params: str, **options: object) -> None:
    CASES.extend(Case(type_, param, **options) for param in params)  # type: ignore[arg-type]


def refused(type_: str, param: str, sentence: str, bottoms: list[Bottom], **options: object) -> None:
    ERRORS.append(ErrorCase(type_, param, sentence=sentence, bottoms=bottoms, **options))  # type: ignore[arg-type]


ONES = np.ones((4, 3), np.float32)
MIXED = uniform((4, 3), 0, 1.5, 2)  # neither 0 nor 1
for type_, states in (("LSTM", 2), ("RNN", 1)):
    four = "recurrent_param { num_output: 5 }"
    exposed = "recurrent_param { num_output: 5 expose_hidden: true }"
    hidden: list[Bottom] = [(1, 3, 5)] * states
    small: list[Bottom] = [(1, 2, 5)] * states
    # two batches: the state of the first is where the second begins
    add(type_, four, bottoms=[(4, 3, 6), cont(4, 3)], then=[(4, 3, 6), ONES])
    add(type_, four, bottoms=[(4, 3, 6), ONES], then=[(4, 3, 6), cont(4, 3, 1)])
    add(type_, four, bottoms=[(4, 3, 6), ONES], then=[(4, 2, 6), ONES[:, :2].copy()])  # fewer streams
    add(type_, four, bottoms=[(4, 2, 6), ONES[:, :2].copy()], then=[(4, 3, 6), ONES])  # more: their state begins at 0
    add(type_, four, bottoms=[(4, 3, 6), np.zeros((4, 3), np.float32)])
    add(type_, four, bottoms=[(4, 3, 6), MIXED], then=[(4, 3, 6), MIXED])
    add(type_, four, bottoms=[(4, 3, 2, 3), cont(4, 3)])
    add(type_, four, bottoms=[(4, 3, 6), cont(4, 3)], then=[(4, 3, 6), ONES], phase=TEST)
    add(type_, four, bottoms=[(1, 3, 6), ONES[:1].copy()], then=[(1, 3, 6), ONES[:1].copy()])  # one step
    add(type_, four, bottoms=[(1, 1, 1), np.ones((1, 1), np.float32)], then=[(1, 1, 1), np.ones((1, 1), np.float32)])
    add(type_, four, bottoms=[(12, 2, 3), cont(12, 2)])
    # a static input
    add(type_, four, bottoms=[(4, 3, 6), cont(4, 3), (3, 2)], then=[(4, 3, 6), ONES, (3, 2)])
    add(type_, four, bottoms=[(4, 3, 6), cont(4, 3), (3, 2, 2)], then=[(4, 2, 6), cont(4, 2), (2, 2, 2)])
    # exposed states
    add(type_, exposed, bottoms=[(4, 3, 6), ONES, *hidden], tops=1 + states, then=[(4, 2, 6), cont(4, 2), *small])
    add(type_, exposed, bottoms=[(4, 3, 6), cont(4, 3), *hidden], tops=1 + states)
    add(type_, exposed, bottoms=[(4, 3, 6), MIXED, (3, 2), *hidden], tops=1 + states)
    add(type_, exposed, bottoms=[(1, 3, 6), ONES[:1].copy(), *hidden], tops=1 + states)
    # gradients come whether wanted or not
    stopped = "loss_weight: 1 propagate_down: false propagate_down: false"
    add(type_, f"{stopped} {four}", bottoms=[(4, 3, 6), ONES], force=False, below=True)
    add(type_, f"{stopped} param {{ lr_mult: 0 }} {four}", bottoms=[(4, 3, 6), ONES], force=False, below=True)
    add(type_, f"loss_weight: 0.5 {four}", bottoms=[(4, 3, 6), ONES], force=False)
    fillers = "weight_filler { type: 'constant' value: 0.2 } bias_filler { type: 'constant' value: 0.1 }"
    add(type_, f"recurrent_param {{ num_output: 2 {fillers} }}", bottoms=[(2, 2, 3), ONES[:2, :2].copy()], params=())
    # a stream drawn in Caffe's order
    add(type_, "recurrent_param { num_output: 3 debug_info: false }", bottoms=[(3, 1, 2), np.ones((3, 1), np.float32)])

    refused(type_, "recurrent_param { }", "num_output must be positive", [(4, 3, 6), ONES])
    refused(type_, four, "bottom[0] must have at least 2 axes -- (#timesteps, #streams, ...)", [(4,), ONES])
    refused(type_, four, "bottom[1] must have exactly 2 axes -- (#timesteps, #streams)", [(4, 3, 6), (4, 3, 1)])
    refused(type_, four, "Check failed: N_ == bottom[1]->shape(1) (3 vs. 2)", [(4, 3, 6), (4, 2)])
    refused(type_, four, "Check failed: T_ == bottom[1]->shape(0) (4 vs. 5)", [(4, 3, 6), (5, 3)])
    refused(type_, four, "Check failed: N_ == bottom[2]->shape(0) (3 vs. 2)", [(4, 3, 6), ONES, (2, 2)])
    refused(type_, four, "input number of timesteps changed", [(4, 3, 6), ONES], then=[(5, 3, 6), (5, 3)])
    refused(
        type_,
        four,
        "Input size incompatible with inner product parameters.",
        [(4, 3, 6), ONES],
        then=[(4, 3, 5), (4, 3)],
    )
    refused(type_, four, "axis 2 out of range for 2-D Blob with shape 4 3 (12)", [(4, 3), ONES])
    refused(
        type_,
        exposed,
        "shape mismatch - recur_input_blobs_[0]: 1 3 5 (15) vs. bottom[2]: 1 3 4 (12)",
        [(4, 3, 6), ONES, *([(1, 3, 4)] * states)],
        tops=1 + states,
    )
    refused(type_, exposed, f"{type_} Layer takes at least {2 + states} bottom blob(s) as input.", [(4, 3, 6), ONES])
    refused(
        type_,
        f"loss_weight: 1 {four}",
        "Cannot backpropagate to sequence indicators.",
        [(4, 3, 6), ONES],
        force=False,
        below=True,
    )

# LSTMUnit
GATE: list[Bottom] = [(1, 3, 5), (1, 3, 20)]
for values in (ONES[:1], np.array([[0.0, 1, 0]], np.float32), np.array([[0.5, -1, 2]], np.float32)):
    add("LSTMUnit", "", bottoms=[*GATE, values.copy()], tops=2, then=[(1, 2, 5), (1, 2, 20), values[:, :2].copy()])
add(
    "LSTMUnit",
    "",
    bottoms=[uniform((1, 1, 2), -3, 3), uniform((1, 1, 8), -90, 90), ONES[:1, :1].copy()],
    tops=2,
)  # saturated: 1 - sigmoid keeps few digits, so the last one must be Caffe's
add(
    "LSTMUnit",
    "loss_weight: 1 loss_weight: 2 propagate_down: true propagate_down: false propagate_down: false",
    "loss_weight: 1 loss_weight: 2 propagate_down: false propagate_down: true propagate_down: false",
    "loss_weight: 1 loss_weight: 2 propagate_down: false propagate_down: false propagate_down: false",
    bottoms=[*GATE, ONES[:1].copy()],
    tops=2,
    force=False,
    below=True,
)
refused(
    "LSTMUnit",
    "",
    "Check failed: 4 * hidden_dim_ == bottom[1]->shape(2) (20 vs. 10)",
    [(1, 3, 5), (1, 3, 10), (1, 3)],
    tops=2,
)
refused("LSTMUnit", "", "Check failed: 1 == bottom[i]->shape(0) (1 vs. 2)", [(2, 3, 5), (1, 3, 20), (1, 3)], tops=2)
refused(
    "LSTMUnit", "", "Check failed: 2 == bottom[i]->num_axes() (2 vs. 3)", [(1, 3, 5), (1, 3, 20), (1, 3, 1)], tops=2
)
refused(
    "LSTMUnit",
    "",
    "Check failed: num_instances == bottom[i]->shape(1) (3 vs. 2)",
    [(1, 3, 5), (1, 2, 20), (1, 3)],
    tops=2,
)
refused(
    "LSTMUnit",
    "loss_weight: 1 loss_weight: 1",
    "Cannot backpropagate to sequence indicators.",
    [*GATE, ONES[:1].copy()],
    tops=2,
    force=False,
    below=True,
)
