"""What is installed for an extra alone: a test that needs it is skipped without, or fails where extras are required."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def needed(module: str, extra: str) -> Any:
    """The module; with ALLCONV_REQUIRE_EXTRAS=1 (.ci/run) its absence is a failure."""
    if os.environ.get("ALLCONV_REQUIRE_EXTRAS", "0") not in ("", "0"):
        return importlib.import_module(module)
    return pytest.importorskip(module, reason=f"no {module}: pip install 'allconv-caffe[{extra}]'")
