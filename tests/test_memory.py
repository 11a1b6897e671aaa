"""Memory that weights take on their way from a file into a net, and back."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_memory.py"
AROUND_MB = 24  # the reader's and writer's own, libraries' pages first touched, the allocator's slack


def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("bench_memory", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
@pytest.mark.parametrize("megabytes", [80, pytest.param(500, marks=pytest.mark.slow)])
def test_weights_lie_in_memory_once(tmp_path: Path, megabytes: int) -> None:
    """Building a net and loading, or saving, its weights peaks at the size of its parameters, not at twice that."""
    found = benchmark().measure(megabytes, tmp_path)
    assert set(found) == {"save", "load", "save_hdf5", "load_hdf5"}
    for step, row in found.items():
        assert row["megabytes"] == pytest.approx(megabytes, rel=0.02), step
        assert row["peak"] + 0.01 >= 1 and row["peak"] * row["megabytes"] < row["megabytes"] + AROUND_MB, (step, row)
