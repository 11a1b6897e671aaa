"""pycaffe_script.py under real pycaffe and under ours: nets, running, shapes, weights, errors, NetSpec, io, solvers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PYTHON = ROOT / ".caffe" / "bin" / "python"
SCRIPT = HERE / "pycaffe_script.py"
EXACT = HERE / "exact_script.py"
VECTORS = HERE / "pycaffe_vectors_script.py"
AS_CAFFE = (
    "import runpy, sys, allconv_caffe.pycaffe as drop_in; drop_in.install(); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


def answers(command: list[str], folder: Path, environment: dict[str, str], script: Path) -> dict[str, Any]:
    folder.mkdir()
    done = subprocess.run(
        [*command, str(script), "answers.json"],
        cwd=folder,
        env={**environment, "GLOG_minloglevel": "2"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "answers.json").read_text())


def differences(real: Any, ours: Any, place: str) -> list[str]:
    """Where two answers differ: numbers by more than 2e-5 of their array's largest (float32 sums, other orders)."""
    if isinstance(real, dict) and isinstance(ours, dict) and real.keys() == ours.keys():
        if real.keys() == {"shape", "values"} and real["shape"] == ours["shape"]:
            a, b = (np.array(side["values"]) for side in (real, ours))
            largest = max(1e-3, float(np.nanmax(np.abs(a), initial=0)))
            return (
                []
                if np.allclose(a, b, rtol=0, atol=2e-5 * largest, equal_nan=True)
                else [f"{place}: {a[:5]} | {b[:5]}"]
            )
        return [text for key in real for text in differences(real[key], ours[key], f"{place}/{key}")]
    if isinstance(real, list) and isinstance(ours, list) and len(real) == len(ours):
        return [
            text for i, pair in enumerate(zip(real, ours, strict=True)) for text in differences(*pair, f"{place}[{i}]")
        ]
    if isinstance(real, float) and isinstance(ours, float) and abs(real - ours) <= 2e-5 * max(1e-3, abs(real)):
        return []
    return [] if real == ours else [f"{place}: {real!s:.200} | {ours!s:.200}"]


def both(script: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What real pycaffe and what ours answers to a script."""
    quiet = ["-W", "ignore"]
    alone = {"PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1"}
    real = answers([str(PYTHON), *quiet], folder / "real", alone, script)
    ours = answers(
        [sys.executable, *quiet, "-c", AS_CAFFE], folder / "ours", {**os.environ, "PYTHONPATH": str(ROOT)}, script
    )
    assert real.keys() == ours.keys()
    return real, ours


def wrong_of(script: Path, folder: Path, least: int) -> list[str]:
    """Where the two engines' answers to a script differ; it asks at least so many questions."""
    real, ours = both(script, folder)
    assert len(real) >= least
    return [text for name in real for text in differences(real[name], ours[name], name)]


def test_the_script_is_answered_as_by_pycaffe(tmp_path: Path) -> None:
    """More than 160 questions: the same names, shapes, bytes, kinds of exception, and numbers."""
    wrong = wrong_of(SCRIPT, tmp_path, 160)
    assert not wrong, "\n".join(wrong)


def test_vectors_and_mistakes_are_answered_as_by_pycaffe(tmp_path: Path) -> None:
    """What is put into `net.params[name]` runs and is saved; a mistake is an exception of the same kind."""
    wrong = wrong_of(VECTORS, tmp_path, 90)
    assert not wrong, "\n".join(wrong)


def test_powers_and_rates_are_exact(tmp_path: Path) -> None:
    """Power of negative, denormal, infinite numbers, bit for bit, signs of zeros too; and so rates."""
    real, ours = both(EXACT, tmp_path)
    wrong = []
    for name, expected in real.items():
        apart = np.abs(np.array(expected, np.int64) - np.array(ours[name], np.int64))
        if apart.max() > 0:
            wrong.append(f"{name}: {apart.max()} units apart at {np.flatnonzero(apart)[:8]}")
    assert len(real) == 100 and not wrong, "\n".join(wrong)
