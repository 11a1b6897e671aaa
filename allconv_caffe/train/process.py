"""An engine's process: started, followed through its log, stopped by Caffe's own snapshot-and-stop.

Source: caffe.cpp and signal_handler.cpp, for how an engine is called and stopped.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allconv_caffe.report.log import LogParser
from allconv_caffe.train.engine import Engine
from allconv_caffe.train.lease import Lease
from allconv_caffe.train.settings import DriverError
from allconv_caffe.train.watch import Follower

POLL_SECONDS = 0.2
_STOP_SECONDS = 120.0  # for the snapshot of a training that is stopped as dead
_TEST_SCORE = re.compile(r"(?:^|\] )(accuracy|loss) = (\S+?)(?: \(|$)")


def command_of(engine: Engine, words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The command line: ``words`` for the engine with its devices and its own flags; ``flags`` the user's."""
    gpu = ["-gpu", ",".join(map(str, engine.gpus))] if engine.gpus else []
    return [*engine.command, *words, *gpu, *engine.flags, *flags]


def shown(engine: Engine, command: Sequence[str]) -> list[str]:
    """The command as a record that names no folder of this machine."""
    short = "caffe" if engine.name == "caffe" else "caffe-torch"
    return [short, *command[len(engine.command) :]]


def start(engine: Engine, command: Sequence[str], log_path: Path, root: Path, lease: Lease) -> subprocess.Popen[bytes]:
    """Start an engine in ``root``, in a session of its own; what it says is appended to ``log_path``.

    Args:
        lease: of the run directory, which the engine holds, too.
    Raises:
        DriverError: it cannot be started.
    """
    with open(log_path, "ab") as log:
        if log.tell() and not _ends_line(log_path):  # an engine that was killed in the middle of a line
            log.write(b"\n")
            log.flush()
        try:
            process = subprocess.Popen(
                command,
                cwd=root,
                env={**os.environ, "GLOG_logtostderr": "1", **engine.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lease.descriptor,),
            )
        except OSError as error:
            raise DriverError(command[0], f"cannot be started ({error.strerror})") from None
    lease.engine(process.pid)
    return process


@dataclass(frozen=True)
class Ended:
    """How an engine ended. status: ``done``, ``interrupted``, ``dead`` or ``failed``. why: of the last two."""

    status: str
    why: str = ""


def follow(process: subprocess.Popen[bytes], log_path: Path, offset: int, follower: Follower, stop_dead: bool) -> Ended:
    """Hand the growing log to ``follower`` until the engine has ended.

    Args:
        offset: bytes of the log that are from before.
        stop_dead: stop an engine whose training the follower finds dead; else only say it.
    """
    dead = ""
    deadline = float("inf")
    try:
        with Interrupts(process, follower.write) as interrupts:
            while True:
                ended = process.poll() is not None
                offset, text = _read_from(log_path, offset)
                follower.feed(text)
                if follower.dead and not dead:
                    dead = follower.dead
                    follower.write(f"DEAD: {dead}")
                    if stop_dead and not ended:
                        process.send_signal(signal.SIGINT)
                        deadline = time.monotonic() + _STOP_SECONDS
                if ended:
                    break
                if time.monotonic() > deadline:
                    process.kill()
                time.sleep(POLL_SECONDS)
    finally:
        end(process)  # if something failed here: leave no training behind
    follower.finish()
    log = follower.log
    if dead and stop_dead:
        return Ended("dead", dead)
    if process.returncode == 0 and log.done:
        return Ended("done", dead)
    if interrupts.count or (process.returncode == 0 and log.stopped):
        return Ended("interrupted")
    return Ended("failed", failure(log_path, log, process.returncode))


def wait(process: subprocess.Popen[bytes], say: Callable[[str], None]) -> int:
    """Wait for an engine whose log nobody follows; returns its exit status."""
    try:
        with Interrupts(process, say):
            return process.wait()
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process if it still runs."""
    if process.poll() is None:
        process.kill()
    process.wait()


def failure(log_path: Path, log: LogParser, status: int) -> str:
    """Why an engine failed: its fatal error, or its last line and exit status."""
    if log.fatal:
        return log.fatal[-1]
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = [line for line in log_path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    how = f"exit status {status}" if status >= 0 else f"signal {-status}"
    return f"{how}; last line: {lines[-1].strip()}" if lines else how


def test_scores(log_path: Path) -> dict[str, float]:
    """What ``caffe test`` printed last of accuracy and loss."""
    scores: dict[str, float] = {}
    with contextlib.suppress(OSError):
        for line in log_path.read_text(encoding="utf-8", errors="replace").splitlines():
            if (match := _TEST_SCORE.search(line)) and "Batch" not in line:
                with contextlib.suppress(ValueError):
                    scores[match[1]] = float(match[2])
    return scores


def _ends_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _read_from(path: Path, offset: int) -> tuple[int, str]:
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return offset + len(whole), whole.decode("utf-8", errors="replace")


def stop_running(seconds: float) -> None:
    """For a scheduler that takes the machine away: the engine of this process, if one runs, snapshots and ends."""
    for interrupts in tuple(_RUNNING):
        interrupts.stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            interrupts.process.wait(seconds)


class Interrupts:
    """Ctrl-C or SIGTERM once: passed on to the engine, which snapshots and stops; a second time: the engine is killed.

    The engine runs in a session of its own, so that the terminal's Ctrl-C reaches it through here, and once.
    """

    def __init__(self, process: subprocess.Popen[bytes], write: Callable[[str], None]) -> None:
        self.process, self._write = process, write
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        _RUNNING.append(self)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        _RUNNING.remove(self)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """The first time the engine is asked to snapshot and stop; the second time it is killed."""
        self.count += 1
        if self.process.poll() is not None:
            return
        if self.count == 1:
            self.process.send_signal(signal.SIGINT)
            self._write("stopping: the engine writes a snapshot first; Ctrl-C again kills it")
        else:
            self.process.kill()
            self._write("killed")


_RUNNING: list[Interrupts] = []
