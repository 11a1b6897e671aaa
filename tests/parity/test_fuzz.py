"""Random nets and trainings in real Caffe and in ours: a few of what `python tests/parity/fuzz.py` can make without end."""

from __future__ import annotations

from pathlib import Path

import fuzz
import pytest

from allconv_caffe.caffe_torch import glog

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize(
    ("kind", "first", "count"),
    [
        ("net", 0, 100),
        ("net", 100, 100),
        ("solver", 20, 30),
        ("special", 0, 110),
        ("data", 0, 60),
        ("python", 0, 48),
        ("weights", 150, 40),
    ],
)
def test_random_cases_give_what_caffe_gives(kind: str, first: int, count: int, tmp_path: Path) -> None:
    """A net: names, initial parameters, every blob and diff over one to three batches. A solver: parameters and outputs
    after each of the things done with it, its log line by line, its snapshots. Weights that go from net to net.
    Or the sentence with which Caffe refuses."""
    with glog.quiet():
        jobs = [fuzz.MAKERS[kind](seed) for seed in range(first, first + count)]
    outcomes = fuzz.run_real(jobs, tmp_path)
    assert sum(outcome.results is not None for outcome in outcomes) > 0.4 * count
    wrong = [
        f"{job['id']}:\n{job['net']}{job.get('solver', '')}" + "\n".join(found)
        for job, outcome in zip(jobs, outcomes, strict=True)
        if (found := fuzz.compare(job, outcome, tmp_path))
    ]
    assert not wrong, "\n".join(wrong)
