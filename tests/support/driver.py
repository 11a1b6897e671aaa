"""A project root with a prepared data set and a stand-in for caffe, to run the driver in."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

from allconv_caffe.report import plots
from allconv_caffe.train import data, job, pools, process, run
from allconv_caffe.train.settings import RunSettings

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("caffe_stand_in.py")
SHELL = """#!/bin/sh
case "$1" in
--version) echo "caffe version 1.0.0"; exit 0 ;;
device_query) grep -q '"gpu": true' '{home}/behaviour'; exit $? ;;
esac
PYTHONPATH='{root}' exec '{python}' '{script}' '{home}' "$@"
"""


def stand_in(home: Path) -> Path:
    """The binary of a stand-in for caffe that behaves as ``home/behaviour`` says."""
    binary = home / "gpu-build" / "caffe"
    binary.parent.mkdir()
    binary.write_text(SHELL.format(home=home, root=ROOT, python=sys.executable, script=STAND_IN))
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    return binary


class _Fork:
    """What `subprocess.Popen` is to a pool of this machine."""

    def __init__(self, words: Sequence[str], stdout: IO[bytes], **_: object) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_job, args=(words[words.index(job.__name__) + 1 :], stdout.fileno()))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.is_alive():
            os.kill(self._process.pid or 0, number)


def _job(words: list[str], said: int) -> None:
    os.setsid()
    os.dup2(said, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    plots.curves = lambda *_: b"drawn"  # type: ignore[assignment]
    sys.exit(job.main(words))


def fork_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of a grid are forks of this process, which has everything imported, and draw no curves."""
    monkeypatch.setattr(pools, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": _Fork}))


class Bench:
    """The root ``home``; what the driver said; what the stand-in was called with."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.binary = stand_in(home)
        self.lines: list[str] = []
        self.behave()
        monkeypatch.setenv("CAFFE", str(self.binary))
        monkeypatch.setattr(process, "POLL_SECONDS", 0.02)
        self.curves = plots.curves
        monkeypatch.setattr(plots, "curves", lambda *_: b"drawn")
        folder = home / "data" / "cifar10"
        self.data = data.PreparedData(
            folder=folder,
            train_lmdb=folder / "train_lmdb",
            test_lmdb=folder / "test_lmdb",
            display_name="CIFAR-10 (JPEG)",
            classes=10,
            n_train=1280,
            n_test=400,
            shape=(3, 32, 32),
            checksums={"train": "1f", "test": "2e"},
            official=False,
        )
        monkeypatch.setattr(data, "ensure", lambda *_, **__: self.data)

    def behave(self, **behaviour: object) -> None:
        (self.home / "behaviour").write_text(json.dumps({"gpu": False, **behaviour}))

    def calls(self, verb: str = "train") -> list[list[str]]:
        return [call for call in self.all_calls() if call[0] == verb]

    def all_calls(self) -> list[list[str]]:
        calls = self.home / "calls"
        return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    def run(self, experiment: str = "cifar10-allcnn-c", **settings: object) -> run.RunResult:
        options = {"engine": "caffe", "epochs": 4, "root": self.home, **settings}
        self.lines.clear()
        return run.run(experiment, RunSettings(**options), self.lines.append)  # type: ignore[arg-type]

    @property
    def said(self) -> str:
        return "\n".join(self.lines)
