"""What tests/golden/numbers.json says of the real parser is true."""

from __future__ import annotations

import json
from pathlib import Path

import number_golden as golden


def test_what_is_recorded_of_numbers_is_true(tmp_path: Path) -> None:
    """Every 23rd of the recorded solvers, read by the real `upgrade_solver_proto_text`."""
    recorded, refused = (json.loads(path.read_text()) for path in (golden.GOLDEN, golden.REFUSED))
    assert list(recorded) == golden.cases()
    assert list(refused) == [text for text, answer in recorded.items() if answer is None]
    for text in golden.cases()[::23]:
        assert golden.real(text, tmp_path) == (recorded[text], refused.get(text, "")), text
