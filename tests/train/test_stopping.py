"""Stopping a training, and holding a run directory while one lives."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest
from support.driver import Bench

from allconv_caffe import files
from allconv_caffe.train import lease, run as driver
from allconv_caffe.train.settings import DriverError, RunSettings


class Running:
    """A driver in a process of its own (forked: it has everything imported), to send signals to."""

    def __init__(self, bench: Bench, **settings: object) -> None:
        self._said = bench.home / "said"
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            with self._said.open("w", buffering=1) as file:
                options = {"engine": "caffe", "root": bench.home, "epochs": 40, **settings}
                result = driver.run("cifar10-allcnn-c", RunSettings(**options), lambda line: print(line, file=file))  # type: ignore[arg-type]
                print("status", result.status, file=file)
            status = 0
        finally:
            os._exit(status)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def alive(self) -> bool:
        return os.waitpid(self.pid, os.WNOHANG)[0] == 0

    def output(self) -> str:
        """What it said, when it has ended."""
        for _ in range(1200):
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return self._said.read_text()
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(f"the driver did not end: {self._said.read_text()}")


def _wait_for(bench: Bench, text: str) -> Path:
    for _ in range(600):
        for log in bench.home.glob("runs/*/*/log"):
            if text in log.read_text():
                return log
        time.sleep(0.05)
    raise AssertionError(f"{text!r} never came")


def test_ctrl_c_snapshots_and_the_same_command_goes_on(bench: Bench) -> None:
    """The first SIGINT reaches the engine once; it snapshots, and the same command goes on from there."""
    bench.behave(sleep=0.02)
    running = Running(bench, command="make cifar10-allcnn-c EPOCHS=40")
    log = _wait_for(bench, "Iteration 20, lr")
    running.send_signal(signal.SIGINT)
    output = running.output()
    assert "status interrupted" in output
    assert "to go on, run again: make cifar10-allcnn-c EPOCHS=40" in output
    assert log.read_text().count("Optimization stopped early.") == 1
    stopped_at = max(int(path.stem.rsplit("_", 1)[1]) for path in log.parent.glob("snapshots/*.solverstate"))
    bench.behave()
    ended = bench.run(epochs=40)
    assert f"continuing from iteration {stopped_at} of 400" in bench.said
    assert ended.status == "done" and ended.directory == log.parent


def test_a_second_ctrl_c_kills(bench: Bench) -> None:
    """An engine that does not listen is killed by the second SIGINT, and the run can still go on later."""
    bench.behave(sleep=0.05, deaf=True)
    running = Running(bench)
    log = _wait_for(bench, "Iteration 10, lr")
    running.send_signal(signal.SIGINT)
    time.sleep(0.6)
    assert running.alive()
    running.send_signal(signal.SIGINT)
    output = running.output()
    assert "status interrupted" in output and "killed" in output
    assert "stopped early" not in log.read_text()


@pytest.fixture(params=["flock", "no flock"])
def with_and_without_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    if request.param == "no flock":
        monkeypatch.setattr(files.fcntl, "flock", flock)


@pytest.mark.usefixtures("with_and_without_flock")
def test_two_drivers_do_not_share_a_run(bench: Bench) -> None:
    """A run directory that another driver or its engine works in is refused, whether the file system has locks or not."""
    bench.behave(sleep=0.05)
    running = Running(bench)
    try:
        _wait_for(bench, "Iteration 0, lr")
        with pytest.raises(DriverError, match="found another training at work in it"):
            bench.run(epochs=40)
    finally:
        running.send_signal(signal.SIGINT)
        running.output()


@pytest.mark.usefixtures("with_and_without_flock")
def test_an_engine_that_outlives_its_driver_keeps_the_run(bench: Bench) -> None:
    """Where the driver was killed but its engine trains on, the run stays refused, and the engine's process is named."""
    bench.behave(sleep=0.05)
    running = Running(bench)
    log = _wait_for(bench, "Iteration 0, lr")
    running.send_signal(signal.SIGKILL)
    running.output()
    with pytest.raises(DriverError) as caught:
        bench.run(epochs=40)
    engine = lease.holder(log.parent).engine
    assert f"found another training at work in it (engine: process {engine})" in str(caught.value)
    os.kill(engine, signal.SIGINT)
    for _ in range(200):
        if "stopped early" in log.read_text():
            break
        time.sleep(0.05)
    bench.behave()
    time.sleep(0.3)
    assert bench.run(epochs=40).status == "done"
