"""Cases of the layer types that classification nets use. How to add others: layer_harness.py."""

from __future__ import annotations

from layer_harness import Case, ErrorCase

CASES: list[Case] = [
    Case("ReLU"),
    Case("ReLU", "relu_param { negative_slope: 0.1 }", then=[(1, 2, 3, 3)]),
]
ERRORS: list[ErrorCase] = [
    ErrorCase("LRN", "lrn_param { local_size: 4 }", sentence="LRN only supports odd values for local_size"),
]
ELSEWHERE: dict[str, str] = {}
