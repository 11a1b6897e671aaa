"""One run of a grid, in a process of its own: ``python -m allconv_caffe.train.job FOLDER [--gpu G] [--threads N]``.

FOLDER holds ``job.json``, what is to be run; it gets ``said``, the driver's lines, ``progress.json`` while it runs, and at
its end ``outcome.json``. The same function serves every scheduler: a pool of processes here, Ray, SLURM.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from allconv_caffe import files, interrupts
from allconv_caffe.errors import PlacedError
from allconv_caffe.report.log import TestRow, TrainRow
from allconv_caffe.train import run as driver
from allconv_caffe.train.plan import Plan
from allconv_caffe.train.settings import RecordError, RunSettings, from_json, to_json

JOB, SAID, PROGRESS, OUTCOME = "job.json", "said", "progress.json", "outcome.json"
_EVERY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come."""

    directory: str = ""  # of the run
    iteration: int = 0
    max_iter: int = 0
    loss: float | None = None
    error_percent: float | None = None  # of the last test


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    status: str  # done, dead, interrupted or failed
    why: str = ""  # of the dead and the failed
    directory: str = ""  # of the run; "" where it had none
    error_percent: float | None = None  # of the last iteration; None: not done, or not a number
    seconds: float | None = None  # of training


_State = TypeVar("_State", Progress, Outcome)


def write(folder: Path, experiment: str, settings: RunSettings, then: str = "") -> None:
    """Make a job's folder; what an earlier process of the same job left there goes.

    Args:
        then: ``MODULE:FUNCTION``, called with the run's directory, a taker of lines and the root once the run is done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PROGRESS, OUTCOME, SAID):
        (folder / name).unlink(missing_ok=True)
    files.write_json(folder / JOB, {"experiment": experiment, "settings": to_json(settings), "then": then})


def read_progress(folder: Path) -> Progress:
    """How far the job's run has come; nothing where it has not begun."""
    return _as(Progress, folder / PROGRESS) if (folder / PROGRESS).exists() else Progress()


def ended_done(folder: Path) -> bool:
    """Whether the job's process ended by itself, its run done and all that was to follow."""
    return (folder / OUTCOME).exists() and _read(folder / OUTCOME).get("status") == "done"


def read_outcome(folder: Path) -> Outcome:
    """How the job ended; failed where its process left no word."""
    if (folder / OUTCOME).exists():
        return _as(Outcome, folder / OUTCOME)
    return Outcome(status="failed", why=f"its process ended without a word; the last lines are in {folder / SAID}")


def _as(kind: type[_State], path: Path) -> _State:
    """A data class of what stands in a file. Raises: RecordError."""
    content, kinds = _read(path), get_type_hints(kind)
    if wrong := sorted(set(content) - set(kinds)):
        raise RecordError(path, f"an entry {wrong[0]!r}"[:80], f"entries of {', '.join(kinds)}")
    files.check_kinds(path, content, kinds, RecordError)
    try:
        return kind(**content)
    except TypeError:
        raise RecordError(path, f"entries {', '.join(content) or 'none'}", f"those of {', '.join(kinds)}") from None


def _read(path: Path) -> dict[str, Any]:
    return files.read_json(path, "the state of a run of a grid", RecordError)


def work(folder: str | Path, gpu: str | None = None, threads: int | None = None) -> Outcome:
    """Do the job; whatever happens becomes an outcome.

    Args:
        gpu, threads: what the scheduler gives it; None: as the job says.
    """
    folder = Path(folder)
    with open(folder / SAID, "a", buffering=1, encoding="utf-8") as said:
        outcome = _outcome(folder, gpu, threads, lambda line: print(line, file=said))
    files.write_json(folder / OUTCOME, asdict(outcome))
    return outcome


def _outcome(folder: Path, gpu: str | None, threads: int | None, say: Callable[[str], None]) -> Outcome:
    try:
        job = _read(folder / JOB)
        settings = from_json(job["settings"])
        settings = replace(settings, gpu=gpu or settings.gpu, threads=threads or settings.threads)
        ended = driver.run(job["experiment"], settings, say, lambda plan: _Beacon(folder, plan))
    except (PlacedError, OSError) as error:
        say(f"Error: {error}")
        return Outcome(status="failed", why=" ".join(str(error).split()))
    except Exception as error:  # a defect of ours ends this run, not the grid
        say(traceback.format_exc())
        return Outcome(status="failed", why=f"{type(error).__name__}: {' '.join(str(error).split())}")
    if ended.status == "done" and job.get("then"):
        _then(job["then"], ended.directory, say, settings.root)
    record = ended.record
    dead = [str(attempt.get("why")) for attempt in record.attempts[-1:]] if record and ended.status == "dead" else []
    return Outcome(
        status=ended.status,
        why="".join(dead),
        directory=str(ended.directory),
        error_percent=record.error_percent if record else None,
        seconds=record.seconds if record else None,
    )


def _then(name: str, directory: Path, say: Callable[[str], None], root: Path) -> None:
    """What follows a run; the run stays done where it fails."""
    module, _, function = name.partition(":")
    try:
        getattr(importlib.import_module(module), function)(directory, say, root)
    except Exception:
        say(traceback.format_exc())


class _Beacon:
    """Writes ``progress.json``, so that whoever started the grid sees how far this run has come."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._path = folder / PROGRESS
        self._now = Progress(directory=str(plan.folder), max_iter=plan.max_iter)
        self._written = 0.0
        self._write()

    def train(self, row: TrainRow) -> None:
        """A new loss, written once a second at most."""
        self._now = replace(self._now, iteration=row.iteration, loss=row.loss)
        if time.monotonic() - self._written >= _EVERY_SECONDS:
            self._write()

    def test(self, row: TestRow) -> None:
        """A new, complete test."""
        self._now = replace(self._now, iteration=row.iteration, error_percent=row.error_percent)
        self._write()

    def _write(self) -> None:
        files.write_json(self._path, asdict(self._now))
        self._written = time.monotonic()


def main(argv: list[str] | None = None) -> int:
    """0 if the run is done, 1 if it is dead or has failed, 130 if it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m allconv_caffe.train.job", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpu")
    parser.add_argument("--threads", type=int)
    given = parser.parse_args(argv)
    interrupts.raise_again()
    return {"done": 0, "interrupted": 130}.get(work(given.folder, given.gpu, given.threads).status, 1)


if __name__ == "__main__":
    sys.exit(main())
