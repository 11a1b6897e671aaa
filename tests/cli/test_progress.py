"""Progress bars are for terminals: pipes and logs get none; what takes long and cannot count shows its clock."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep import whitening
from data_prep.errors import PrepWarning

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for room in ("allconv_caffe", "data_prep") for path in sorted((ROOT / room).rglob("*.py"))]
PREP = [sys.executable, "-m", "allconv_caffe.cli", "prep", "images", "photos", "--resize", "8x8", "--output", "out"]
PREP += ["--preprocessing", "gcn-zca", "--test-fraction", "0.2"]


def test_every_bar_keeps_out_of_pipes() -> None:
    """Each bar is told `disable=None`, which is tqdm's word for terminals alone, or gets its stream from `on_terminal`."""
    loud = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tqdm"):
                continue
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            off = words.get("disable", "")
            quiet = off.startswith("None") or off == "off"
            if not quiet and words.get(None) not in ("words_of", "on_terminal(stream)"):
                loud.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not loud


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty pictures of two classes."""
    rng = np.random.default_rng(2)
    for number in range(20):
        folder = tmp_path / "photos" / ("left", "right")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 256, (10, 12, 3), np.uint8))
    return tmp_path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_prep_in_a_pipe_prints_no_bar(photos: Path) -> None:
    """Standard error holds the warning that 16 images are few for ZCA, in one line, and nothing else."""
    done = subprocess.run(PREP, cwd=photos, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "out: photos, 16 training and 4 test images\n"
    assert done.stderr == (
        "Warning: ZCA of 16 training images of 192 values each: they span at most 15 of 192 directions, along the others "
        "only zca_bias 0.1 decides and noise is blown up; take more images, or preprocessing gcn\n"
    )


def test_prep_on_a_terminal_shows_its_bars(photos: Path) -> None:
    """Each step has its bar there, the eigenvalues, which cannot count, a clock."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    done = subprocess.Popen(PREP, cwd=photos, env=environment(), stderr=theirs, stdout=subprocess.DEVNULL)
    os.close(theirs)
    seen = ""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while part := os.read(ours, 4096):
            seen += part.decode()
    os.close(ours)
    assert done.wait() == 0
    assert "covariance:" in seen and "eigenvalues of a 192x192 covariance: 00:00" in seen


def test_the_clock_ticks_while_a_call_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn again while the call has not come back."""
    drawn: list[str] = []

    class Bar:
        def __init__(self, **words: object) -> None:
            assert words["disable"] is None

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            drawn.append("closed")

        def refresh(self) -> None:
            drawn.append("drawn")
            again.set()

    again = threading.Event()
    monkeypatch.setattr(whitening, "tqdm", Bar)
    with whitening._ticking("eigenvalues", progress=True):
        assert again.wait(30)
    assert drawn[0] == "drawn" and drawn[-1] == "closed"


def test_enough_images_for_zca_raise_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    """As many images as values: nothing is said; one less: it is."""
    images = np.random.default_rng(0).integers(0, 256, (48, 3, 4, 4), np.uint8)
    whitening.fit(images)
    assert not recwarn.list
    with pytest.warns(PrepWarning, match="ZCA of 47 training images of 48 values each"):
        whitening.fit(images[1:])
