"""What the tests of this room share: a bench on which the driver runs with a stand-in for caffe."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.driver import Bench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)
