"""What a run directory holds, and how it is written: whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import math
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from allconv_caffe import proto
from allconv_caffe.report.log import LogParser, TestRow, TrainRow
from allconv_caffe.train.engine import DriverError

PACKAGES: tuple[str, ...] = ("torch", "numpy", "protobuf", "lmdb", "opencv-python", "jinja2")
_STATE = re.compile(r"_iter_(\d+)\.solverstate$")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write to a temporary file beside ``path``, then rename, so that a reader never sees half a file."""
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON that any reader accepts: numbers that are not finite become null."""
    write_atomic(path, json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def read_json(path: Path) -> Any:
    """The JSON object in a file.

    Raises:
        DriverError: not JSON, or no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DriverError(f"{path}: found no JSON ({error}); remove the file, or the folder it stands in") from None
    if not isinstance(found, dict):
        raise DriverError(f"{path}: found no JSON object; remove the file, or the folder it stands in")
    return found


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold a run directory; yields the descriptor that an engine inherits, so that the lock lasts while either lives.

    Raises:
        DriverError: another training holds it.
    """
    with open(folder / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            who = lock.read().strip()
            process = f" (engine: process {who})" if who else ""
            raise DriverError(
                f"{folder}: found another training at work in it{process}; wait for it, or stop it"
            ) from None
        lock.truncate(0)
        yield lock.fileno()


# ---------------------------------------------------------------------------------------------------------------------
# Points


def _table(rows: Sequence[TrainRow] | Sequence[TestRow], first: Sequence[str], epoch_iters: float) -> str:
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row.outputs))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*first, *(f"output:{name}" for name in names)])
    for row in rows:
        values: dict[str, Any] = {
            "iteration": row.iteration,
            "epoch": f"{row.iteration / epoch_iters:.6g}",
            "seconds": row.seconds,
            "lr": row.lr,
            "session": row.session,
        }
        if isinstance(row, TrainRow):
            values["loss"] = row.loss
        else:
            values["error_percent"] = None if row.error_percent is None else f"{row.error_percent:.6g}"
        writer.writerow([_cell(values[name]) for name in first] + [_cell(row.outputs.get(name)) for name in names])
    return out.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def write_points(folder: Path, log: LogParser, epoch_iters: float) -> None:
    """Write every point of the log: train.csv (iteration, epoch, seconds, lr, loss, ...), test.csv (error_percent)."""
    train_head = ("iteration", "epoch", "seconds", "lr", "loss", "session")
    test_head = ("iteration", "epoch", "seconds", "lr", "error_percent", "session")
    write_atomic(folder / "train.csv", _table(log.train, train_head, epoch_iters))
    write_atomic(folder / "test.csv", _table([row for row in log.test if row.net == 0], test_head, epoch_iters))


class Events:
    """TensorBoard events of one run: its history again, then each point as it comes."""

    def __init__(self, folder: Path, log: LogParser) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = EventFileWriter(str(folder))
        now = time.time()
        last = max((rows[-1].seconds or 0.0 for rows in (log.train, log.test) if rows), default=0.0)
        self._start = now - last
        for train in log.train:
            self.train(train, self._start + (train.seconds or 0.0))
        for test in log.test:
            self.test(test, self._start + (test.seconds or 0.0))

    def train(self, row: TrainRow, wall_time: float | None = None) -> None:
        """Tags ``train/loss`` and, where it is known, ``train/lr``."""
        values = {"train/loss": row.loss}
        if row.lr is not None:
            values["train/lr"] = row.lr
        self._add(values, row.iteration, wall_time)

    def test(self, row: TestRow, wall_time: float | None = None) -> None:
        """Tags ``test/error_percent`` and one for each output."""
        values = {f"test/{name}": value for name, value in row.outputs.items()}
        if row.error_percent is not None:
            values["test/error_percent"] = row.error_percent
        self._add(values, row.iteration, wall_time)

    def _add(self, values: dict[str, float], step: int, wall_time: float | None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._writer.add_event(Event(wall_time=wall_time or time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Let a running TensorBoard see the points."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


# ---------------------------------------------------------------------------------------------------------------------
# Snapshots


def parameters_in(caffemodel: Path) -> int:
    """Weights and biases in a caffemodel, counted from its blobs."""
    net = proto.read_binary(caffemodel, proto.NetParameter, allow_unknown=True)
    return sum(_count(blob) for layer in net.layer for blob in layer.blobs)


def _count(blob: Any) -> int:
    if blob.HasField("shape"):
        return math.prod(blob.shape.dim)
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        return int(blob.num * blob.channels * blob.height * blob.width)
    return len(blob.data) or len(blob.double_data)


def _broken(state: Path, iteration: int) -> str | None:
    model = state.with_suffix(".caffemodel")
    if not model.is_file():
        return f"{model.name} is missing"
    try:
        found = proto.read_binary(state, proto.SolverState, allow_unknown=True)
        net = proto.read_binary(model, proto.NetParameter, allow_unknown=True)
    except proto.ProtoError as error:
        return str(error)
    if found.iter != iteration:
        return f"it holds iteration {found.iter}"
    blobs = sum(len(layer.blobs) for layer in net.layer)
    if not blobs or not found.history or len(found.history) % blobs:
        return f"it holds {len(found.history)} histories for {blobs} blobs of {model.name}: truncated"
    return None


def newest_snapshot(prefix: Path, say: Any) -> tuple[Path, int] | None:
    """The newest solver state that can be resumed, and its iteration; None without one.

    A state is passed over, with a line that says so, where it or its caffemodel is missing, damaged or truncated.
    """
    states: list[tuple[int, Path]] = []
    for path in prefix.parent.glob(f"{prefix.name}_iter_*.solverstate"):
        if match := _STATE.search(path.name):
            states.append((int(match[1]), path))
    for iteration, path in sorted(states, reverse=True):
        why = _broken(path, iteration)
        if why is None:
            return path, iteration
        say(f"snapshot {path} is passed over: {why}")
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Circumstances


def versions() -> dict[str, str]:
    """Python, the machine's kind, and the packages that matter."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    found["cpu"] = _cpu()
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{os.cpu_count()} x {line.partition(':')[2].strip()}"
    return f"{os.cpu_count()} x {platform.processor() or platform.machine()}"


def git_state(folder: Path) -> dict[str, Any]:
    """The commit of the checkout that the program lies in, and whether tracked files differ from it.

    Empty where there is no git or no checkout.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()


def move_into(folder: Path, names: Iterable[str], target: Path) -> None:
    """Move what exists of ``names`` from ``folder`` into ``target``."""
    target.mkdir(exist_ok=True)
    for name in names:
        if (folder / name).exists():
            os.replace(folder / name, target / name)
