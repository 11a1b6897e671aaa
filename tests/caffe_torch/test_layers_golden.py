"""Every layer type against what real Caffe computed: recorded, so that no Caffe is needed."""

from __future__ import annotations

import json

import layer_golden as golden
import layer_harness as harness
import layer_table as table
import pytest

from allconv_caffe.caffe_torch.layer import REGISTRY

CASES = {case.id: case for case in harness.collect()}
RECORDED = golden.read()


@pytest.mark.parametrize("case_id", RECORDED)
def test_a_layer_computes_what_caffe_computed(case_id: str) -> None:
    """Tops, bottom diffs, parameters and their diffs agree with the recorded ones, within the case's tolerance."""
    assert case_id in CASES, "the case has changed: record again with `python tests/parity/layer_golden.py`"
    case, expected = CASES[case_id], RECORDED[case_id]
    errors = harness.compare(harness.run_ours(case, expected), expected, case.ignore)
    wrong = {name: error for name, error in errors.items() if not error <= case.tolerance}
    assert not wrong, f"{case.text}\n{wrong}"


@pytest.mark.gpu
def test_the_layers_compute_the_same_on_a_gpu() -> None:
    """All recorded cases on CUDA in float32, to 1e-4: other summation orders, and exponentials of the GPU's own."""
    wrong = {}
    for case_id, expected in RECORDED.items():
        case = CASES[case_id]
        errors = harness.compare(harness.run_ours(case, expected, "cuda"), expected, case.ignore)
        wrong |= {
            f"{case_id} {name}": error for name, error in errors.items() if not error <= max(case.tolerance, 1e-4)
        }
    assert not wrong


def test_the_table_in_the_docs_is_what_its_command_writes() -> None:
    """docs/layers.md is rendered from docs/layers.json, names every registered type and stands on 300 cases or more."""
    numbers = json.loads(table.NUMBERS.read_text(encoding="utf-8"))
    page = table.PAGE.read_text(encoding="utf-8")
    assert page == table.render(numbers)
    assert all(f"| {type_} |" in page for type_ in REGISTRY)
    assert sum(row["cases"] for row in numbers["cpu"]["types"].values()) >= 300


@pytest.mark.parametrize("type_", sorted(REGISTRY.keys() - harness.elsewhere().keys()))
def test_every_registered_type_is_recorded(type_: str) -> None:
    """A type that the parity tests compare case by case has at least one recorded case."""
    assert any(CASES[case_id].type == type_ for case_id in RECORDED if case_id in CASES)
