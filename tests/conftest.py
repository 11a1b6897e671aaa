"""Markers at work: what needs Caffe or a GPU is skipped where there is none, or fails where it is required.

With ALLCONV_REQUIRE_CAFFE=1 (`make parity`, .ci/run) a skipped test of tests/parity/ is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: each worker keeps to one core
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

_ROOT = Path(__file__).resolve().parents[1]
_PARITY = Path(__file__).resolve().parent / "parity"


def _caffe_required() -> bool:
    return os.environ.get("ALLCONV_REQUIRE_CAFFE", "0") not in ("", "0")


def _is_parity(path: Path) -> bool:
    return path.is_relative_to(_PARITY)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in tests/parity is marked `caffe`; a marked test is skipped where what it needs is missing."""
    for item in items:
        if _is_parity(item.path) and item.get_closest_marker("caffe") is None:
            item.add_marker("caffe")
    with_caffe = [item for item in items if item.get_closest_marker("caffe")]
    if with_caffe and not _has_caffe():
        for item in with_caffe:
            item.add_marker(pytest.mark.skip(reason="no BVLC Caffe: make caffe"))
    with_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if with_gpu and not _has_gpu():
        for item in with_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_caffe() -> bool:
    from allconv_caffe import bvlc

    return bvlc.find_caffe(_ROOT) is not None


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """A skipped parity test fails where Caffe is required."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _caffe_required() and item.get_closest_marker("caffe"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, but ALLCONV_REQUIRE_CAFFE is set: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """So does a whole module of tests/parity that skips itself."""
    report = yield
    if report.skipped and _caffe_required() and _is_parity(Path(collector.path)):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: skipped, but ALLCONV_REQUIRE_CAFFE is set: {reason}"
    return report
