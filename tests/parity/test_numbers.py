"""What tests/golden/numbers.json says of the real parser is true."""

from __future__ import annotations

import json
from pathlib import Path

import number_golden as golden


def test_what_is_recorded_of_numbers_is_true(tmp_path: Path) -> None:
    """Every 23rd of the recorded solvers, read by the real `upgrade_solver_proto_text`."""
    recorded = json.loads(golden.GOLDEN.read_text())
    assert list(recorded) == golden.cases()
    for text in golden.cases()[::23]:
        assert golden.real(text, tmp_path) == recorded[text], text
