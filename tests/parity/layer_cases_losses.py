"""Cases of the losses other than SoftmaxWithLoss."""

from __future__ import annotations

import numpy as np
from layer_harness import Bottom, Case, ErrorCase, labels, normal, uniform

CASES: list[Case] = []
ERRORS: list[ErrorCase] = []


def add(type_: str, *params: str, **options: object) -> None:
    CASES.extend(Case(type_, param, **options) for param in params)  # type: ignore[arg-type]


def refused(type_: str, param: str, sentence: str, bottoms: list[Bottom], **options: object) -> None:
    ERRORS.append(ErrorCase(type_, param, sentence=sentence, bottoms=bottoms, **options))  # type: ignore[arg-type]


FIRST = "The data and label should have the same first dimension."
NO_LABEL_GRADIENT = " Layer cannot backpropagate to label inputs."
TO_LABELS = {"force": False, "below": True}  # something learned under the labels, too

# EuclideanLoss
add("EuclideanLoss", "", "loss_weight: 2.5", "loss_weight: 0", bottoms=[(4, 3), (4, 3)], then=[(2, 5), (2, 5)])
add("EuclideanLoss", "", bottoms=[(2, 3, 4, 5), (2, 3, 4, 5)], then=[(1, 3, 2, 1), (1, 3, 2, 1)])
add("EuclideanLoss", "", bottoms=[(3, 4), (3, 2, 2)])
add("EuclideanLoss", "", bottoms=[(5,), (5, 1, 1)])
add("EuclideanLoss", "", bottoms=[(1, 1), (1, 1)])
add("EuclideanLoss", "", bottoms=[normal((3, 2), 1, 1e3), normal((3, 2), 2, 1e-3)])
add("EuclideanLoss", "", bottoms=[np.zeros((3, 2), np.float32)] * 2)
add("EuclideanLoss", "", bottoms=[np.array([[np.nan, 1]], np.float32), np.array([[1, np.inf]], np.float32)])
add(
    "EuclideanLoss",
    "",
    "propagate_down: true propagate_down: false",
    "propagate_down: false propagate_down: true",
    bottoms=[(3, 2), (3, 2)],
    **TO_LABELS,
)
add("EuclideanLoss", "", bottoms=[(3, 2), (3, 2)], tops=0)
refused("EuclideanLoss", "", FIRST, [(3, 2), (2, 3)])
refused("EuclideanLoss", "", "Inputs must have the same dimension.", [(3, 2), (3, 3)])
refused("EuclideanLoss", "", "Cannot use legacy accessors on Blobs with > 4 axes.", [(1, 1, 1, 1, 2)] * 2)
refused("EuclideanLoss", "", "EuclideanLoss Layer takes 2 bottom blob(s) as input.", [(3, 2)])
refused(
    "EuclideanLoss",
    "loss_weight: 1 loss_weight: 1",
    "loss_weight must be unspecified or specified once per top blob.",
    [(3, 2), (3, 2)],
)

# SigmoidCrossEntropyLoss
TARGETS = uniform((4, 3), 0, 1, 3)
YES_NO = labels((4, 3), 2, 5)
add("SigmoidCrossEntropyLoss", "", "loss_weight: 0.3", bottoms=[(4, 3), TARGETS], then=[(2, 2), uniform((2, 2), 0, 1)])
for mode in ("FULL", "VALID", "BATCH_SIZE", "NONE"):
    add("SigmoidCrossEntropyLoss", f"loss_param {{ normalization: {mode} }}", bottoms=[(4, 3), YES_NO])
    add("SigmoidCrossEntropyLoss", f"loss_param {{ ignore_label: 0 normalization: {mode} }}", bottoms=[(4, 3), YES_NO])
add(
    "SigmoidCrossEntropyLoss",
    "loss_param { normalize: true ignore_label: 1 }",
    "loss_param { normalize: false }",
    "loss_param { normalize: true normalization: NONE }",
    "loss_param { ignore_label: -1 }",
    bottoms=[(4, 3), YES_NO],
)
add("SigmoidCrossEntropyLoss", "loss_param { ignore_label: 0 normalization: VALID }", bottoms=[(4, 3), TARGETS])
add(
    "SigmoidCrossEntropyLoss",
    "loss_param { ignore_label: -1 normalization: VALID }",
    bottoms=[(4, 3), -np.ones((4, 3), np.float32)],
)
add("SigmoidCrossEntropyLoss", "", bottoms=[np.array([[200.0, -200, 0, -0.0, 1e-8]], np.float32), labels((1, 5), 2)])
add("SigmoidCrossEntropyLoss", "", bottoms=[np.array([[np.nan, 1.0]], np.float32), labels((1, 2), 2)])
add("SigmoidCrossEntropyLoss", "", bottoms=[(2, 3, 2, 2), labels((2, 12), 2)], then=[(5,), labels(5, 2)])
add("SigmoidCrossEntropyLoss", "propagate_down: true propagate_down: false", bottoms=[(4, 3), TARGETS], **TO_LABELS)
refused(
    "SigmoidCrossEntropyLoss", "", "SIGMOID_CROSS_ENTROPY_LOSS layer inputs must have the same count.", [(4, 3), (4, 2)]
)
refused("SigmoidCrossEntropyLoss", "", FIRST, [(4, 3), (3, 4)])
refused("SigmoidCrossEntropyLoss", "", "SigmoidCrossEntropyLoss" + NO_LABEL_GRADIENT, [(4, 3), (4, 3)], **TO_LABELS)

# HingeLoss
for norm in ("", "hinge_loss_param { norm: L1 }", "hinge_loss_param { norm: L2 }"):
    add("HingeLoss", norm, bottoms=[(6, 4), labels(6, 4)], then=[(2, 3), labels(2, 3, 1)])
    add("HingeLoss", norm + " loss_weight: 3", bottoms=[(2, 3, 2, 2), labels((2, 1, 1, 1), 12)])
    add("HingeLoss", norm, bottoms=[np.array([[1.0, -1, 0], [5, -5, -1]], np.float32), np.array([0, 1], np.float32)])
add("HingeLoss", "", bottoms=[(3, 4), np.array([0.9, 2.5, 3.999], np.float32)])
add("HingeLoss", "", bottoms=[(3, 4), labels((3, 2), 4)])  # more labels than examples: the first three count
add("HingeLoss", "", bottoms=[(1, 1), np.zeros(1, np.float32)])
add(
    "HingeLoss",
    "hinge_loss_param { norm: L2 } propagate_down: true propagate_down: false",
    bottoms=[(3, 4), labels(3, 4)],
    **TO_LABELS,
)
refused("HingeLoss", "", FIRST, [(4, 3), (3,)])
refused("HingeLoss", "", "HingeLoss" + NO_LABEL_GRADIENT, [(4, 3), labels(4, 3)], **TO_LABELS)

# MultinomialLogisticLoss
PROBABILITIES = uniform((4, 5), 0.01, 1, 7)
add(
    "MultinomialLogisticLoss",
    "",
    "loss_weight: 0.5",
    bottoms=[PROBABILITIES, labels(4, 5)],
    then=[uniform((2, 3), 0.1, 1), labels(2, 3)],
)
add("MultinomialLogisticLoss", "", bottoms=[uniform((3, 2, 2, 2), 0.1, 1), labels((3, 1, 1, 1), 8)])
add(
    "MultinomialLogisticLoss",
    "",
    bottoms=[np.array([[0.0, 1], [1e-25, 1], [-1, 1]], np.float32), np.zeros(3, np.float32)],
)
add("MultinomialLogisticLoss", "", bottoms=[PROBABILITIES, np.array([0.9, 1.5, 4.99, 0], np.float32)])
add(
    "MultinomialLogisticLoss",
    "propagate_down: true propagate_down: false",
    bottoms=[PROBABILITIES, labels(4, 5)],
    **TO_LABELS,
)
refused("MultinomialLogisticLoss", "", "Check failed: bottom[1]->channels() == 1 (2 vs. 1)", [(4, 5), (4, 2)])
refused("MultinomialLogisticLoss", "", "Check failed: bottom[1]->width() == 1 (3 vs. 1)", [(4, 5), (4, 1, 1, 3)])
refused(
    "MultinomialLogisticLoss",
    "",
    "MultinomialLogisticLoss" + NO_LABEL_GRADIENT,
    [PROBABILITIES, labels(4, 5)],
    **TO_LABELS,
)

# InfogainLoss: the matrix as third bottom (from a file: test_layer_nets.py)
H = uniform((5, 5), -0.2, 1, 9)
ONLY_SCORES = "propagate_down: true propagate_down: false propagate_down: false"
WITH_H = {"force": False, "below": True}
for text in (
    "",
    "loss_weight: 2",
    "loss_param { ignore_label: 1 }",
    "loss_param { normalization: FULL }",
    "loss_param { normalization: NONE }",
    "loss_param { normalization: BATCH_SIZE ignore_label: 0 }",
):
    add(
        "InfogainLoss",
        f"{ONLY_SCORES} {text}",
        bottoms=[(3, 5, 2, 2), labels((3, 1, 2, 2), 5), H],
        then=[(2, 5, 1, 1), labels((2, 1), 5), H.T.copy()],
        **WITH_H,
    )
add(
    "InfogainLoss",
    f"{ONLY_SCORES} infogain_loss_param {{ axis: 2 }}",
    bottoms=[(3, 2, 5), labels((3, 2), 5), H],
    **WITH_H,
)
add(
    "InfogainLoss",
    f"{ONLY_SCORES} infogain_loss_param {{ axis: -1 }}",
    bottoms=[(3, 5), labels(3, 5), H[None, None]],
    **WITH_H,
)
add("InfogainLoss", ONLY_SCORES, bottoms=[(3, 5), labels(3, 5), np.eye(5, dtype=np.float32)], **WITH_H)
add(
    "InfogainLoss",
    ONLY_SCORES,
    bottoms=[np.array([[300.0, 0]], np.float32), np.ones(1, np.float32), np.eye(2, dtype=np.float32)],
    **WITH_H,
)
add("InfogainLoss", f"{ONLY_SCORES} loss_weight: 1 loss_weight: 0", bottoms=[(3, 5), labels(3, 5), H], tops=2, **WITH_H)
add(
    "InfogainLoss",
    f"{ONLY_SCORES} loss_weight: 1 loss_weight: 0.5",
    bottoms=[(3, 5), labels(3, 5), H],
    tops=2,
    **WITH_H,
)
add("InfogainLoss", "", bottoms=[(3, 5), labels(3, 5), H], force=False)
refused("InfogainLoss", "", "Infogain matrix source must be specified.", [(3, 5), labels(3, 5)])
refused(
    "InfogainLoss",
    "loss_param { normalize: true }",
    'normalize is deprecated. use "normalization"',
    [(3, 5), labels(3, 5), (5, 5)],
)
refused(
    "InfogainLoss",
    "",
    "Check failed: infogain->count() == num_labels_*num_labels_ (16 vs. 25)",
    [(3, 5), labels(3, 5), (4, 4)],
)
refused(
    "InfogainLoss", "", "if infogain axis == 1 and prediction shape is (N, C, H, W)", [(3, 5, 2), labels(3, 5), (5, 5)]
)
refused(
    "InfogainLoss", "", "InfogainLoss Layer cannot backpropagate to infogain inputs.", [(3, 5), labels(3, 5), (5, 5)]
)
refused(
    "InfogainLoss",
    "",
    "loss_weight must be unspecified or specified once per top blob.",
    [(3, 5), labels(3, 5), (5, 5)],
    tops=2,
)

# ContrastiveLoss
SIMILAR = np.array([0, 1, 0, 1, 0.5, -1], np.float32)
for text in ("", "margin: 3", "legacy_version: true", "legacy_version: true margin: 5", "margin: 0.01"):
    add(
        "ContrastiveLoss",
        f"contrastive_loss_param {{ {text} }}",
        bottoms=[(6, 4), (6, 4), SIMILAR],
        then=[(3, 4), (3, 4), SIMILAR[:3]],
    )
add("ContrastiveLoss", "loss_weight: 0.7", bottoms=[(6, 4, 1, 1), (6, 4), SIMILAR[:, None]])
same = normal((3, 2), 4)
add("ContrastiveLoss", "", bottoms=[same, same, np.array([0, 0, 1], np.float32)])
add("ContrastiveLoss", "", bottoms=[(3, 1), (3, 1), np.array([0, 0, 1, 1, 0], np.float32)])
add(
    "ContrastiveLoss",
    "propagate_down: false propagate_down: true propagate_down: false",
    bottoms=[(6, 4), (6, 4), SIMILAR],
    **TO_LABELS,
)
refused(
    "ContrastiveLoss",
    "",
    "Check failed: bottom[0]->channels() == bottom[1]->channels() (4 vs. 3)",
    [(6, 4), (6, 3), (6,)],
)
refused("ContrastiveLoss", "", "Check failed: bottom[1]->width() == 1 (2 vs. 1)", [(6, 4), (6, 4, 1, 2), (6,)])
refused("ContrastiveLoss", "", "Check failed: bottom[2]->channels() == 1 (2 vs. 1)", [(6, 4), (6, 4), (6, 2)])
refused("ContrastiveLoss", "", "ContrastiveLoss Layer takes 3 bottom blob(s) as input.", [(6, 4), (6, 4)])
