"""Random nets in real Caffe and in ours: a few hundred of what `python tests/parity/fuzz.py` can make without end."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
fuzz: Any = importlib.import_module("fuzz")


@pytest.mark.parametrize("first", [0, 100])
def test_random_nets_compute_what_caffe_computes(first: int, tmp_path: Path) -> None:
    """Names, initial parameters, every blob and diff over one to three batches; or the sentence with which Caffe refuses."""
    with fuzz.quiet():
        jobs = [fuzz.MAKERS["net"](seed) for seed in range(first, first + 100)]
    outcomes = fuzz.run_real(jobs, tmp_path)
    assert sum(outcome.results is not None for outcome in outcomes) > 60
    wrong = [
        f"{job['id']}:\n{job['net']}" + "\n".join(found)
        for job, outcome in zip(jobs, outcomes, strict=True)
        if (found := fuzz.compare(job, outcome, tmp_path))
    ]
    assert not wrong, "\n".join(wrong)
