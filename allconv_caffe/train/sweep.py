"""``allconv sweep``: a grid of runs, worked off by a pool, with the best point of each network at the end.

Every run is an ordinary one: done before, it is not trained again; stopped, the same command goes on with it; a dead or
failed one is counted and said, and the grid goes on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from allconv_caffe.report.grid import Cell, best, table
from allconv_caffe.train import engine as engine_, folder as folder_, grid, job as job_, plan as plan_
from allconv_caffe.train.data import NotPrepared
from allconv_caffe.train.engine import Engine
from allconv_caffe.train.folder import RESULT_FILE, STATE_FILE
from allconv_caffe.train.grid import Job, point_words
from allconv_caffe.train.job import Outcome
from allconv_caffe.train.own import subject
from allconv_caffe.train.pools import KINDS, LocalPool, Pool, RayPool, SlurmPool
from allconv_caffe.train.record import read_result
from allconv_caffe.train.settings import Devices, DriverError, RunSettings
from allconv_caffe.train.show import Show
from allconv_caffe.train.watch import duration

POLL_SECONDS = 0.5
FOLDER = "sweep"
"""Below the runs' folder: a folder for each job, with what was asked, said and found."""


@dataclass(kw_only=True)
class Swept:
    """How a grid ended."""

    outcomes: dict[Job, Outcome] = field(default_factory=dict)
    interrupted: bool = False
    # of a dry run: what is known of each
    states: dict[Job, str] = field(default_factory=dict)
    # by network: the best point in words, its errors in percent, their mean
    best: dict[str, dict[str, Any]] = field(default_factory=dict)
    # what came of it, for people
    lines: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        """Runs by how they ended."""
        return Counter(outcome.status for outcome in self.outcomes.values())

    @property
    def status(self) -> str:
        """``interrupted``, ``failed`` if any run has failed, else ``done``: a dead run is an answer."""
        if self.interrupted:
            return "interrupted"
        return "failed" if self.counts["failed"] else "done"

    def facts(self) -> dict[str, Any]:
        """The same for programs: each run with its command, point and outcome, of a dry run its state, and the best."""
        known = {job: {"state": state} for job, state in self.states.items()}
        ended = {job: asdict(outcome) for job, outcome in self.outcomes.items()}
        runs = [
            {
                "experiment": job.experiment,
                "command": job.command,
                "point": dict(job.point),
                "seed": job.settings.seed,
                "validation": job.settings.validation,
                **words,
            }
            for job, words in (known | ended).items()
        ]
        return {"status": self.status, "runs": runs, "best": self.best}


def states(jobs: Sequence[Job], say: Callable[[str], None], prepare: bool = True) -> dict[Job, tuple[str, Path]]:
    """What is known of each run before it starts: done, dead, begun, new, or unknown; and its directory.

    Args:
        prepare: the data sets, here, once for all runs; else a run whose data are not prepared is unknown.
    Raises:
        DriverError, TableError: what no run of the grid could do either.
    """
    seen: set[str] = set()
    engines: dict[tuple[object, ...], Engine] = {}

    def once(line: str) -> None:
        if line not in seen:
            seen.add(line)
            say(line)

    found = {}
    for job in jobs:
        given = job.settings
        asked = given.engine, given.gpu, given.precision, given.rng, given.threads, given.caffe_flags
        if asked not in engines:
            engines[asked] = engine_.choose(given)
            once(engines[asked].describe())
        try:
            planned = plan_.plan(subject(job.experiment, given.root), given, once, engines[asked], prepare)
        except NotPrepared as error:
            once(f"data: {error}")
            found[job] = "unknown", Path()
        else:
            found[job] = _state(planned.folder), planned.folder
    return found


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _state(folder: Path) -> str:
    if not (folder / STATE_FILE).exists():
        return "new"
    status = (folder_.read_state(folder)["attempts"] or [{}])[-1].get("status", "")
    return status if status in ("done", "dead") and (folder / RESULT_FILE).exists() else "begun"


def sweep(
    jobs: Sequence[Job],
    pool: Pool,
    home: Path,
    say: Callable[[str], None],
    show: Show | None = None,
    then: str = "",
) -> Swept:
    """Work the runs off.

    Args:
        home: gets a folder for each job; all workers of the pool must see it.
        say: takes each line for people.
        show: shows what is running.
        then: what follows a run that is done, in its own process, see `job.write`.
    """
    ended = Swept()
    show = show or Show(len(jobs), say)
    waiting: list[Job] = []
    for job, (state, folder) in states(jobs, show.write).items():
        followed = not then or job_.ended_done(home / job.key)
        if (state == "done" and followed) or (state == "dead" and _tried(folder) > job.settings.retries):
            ended.outcomes[job] = _outcome_in(folder, state)
            show.end(job.words, ended.outcomes[job], "already ")
        else:
            waiting.append(job)
    show.write(f"{_runs(len(jobs))}, {len(waiting)} to do; {pool.describe()}")
    try:
        with _interrupts(pool, ended, show.write):
            _work_off(waiting, pool, home, ended, show, then)
    finally:
        pool.close()
        show.close()
    ended.outcomes = {job: ended.outcomes[job] for job in jobs if job in ended.outcomes}  # in the grid's order
    return ended


def _work_off(waiting: list[Job], pool: Pool, home: Path, ended: Swept, show: Show, then: str) -> None:
    running: dict[Path, Job] = {}
    while running or (waiting and not ended.interrupted):
        free = len(waiting) if pool.slots is None else pool.slots - len(running)
        if not ended.interrupted and waiting and free > 0:
            started, waiting[:] = waiting[:free], waiting[free:]
            for job in started:
                folder = home / job.key
                job_.write(folder, job.experiment, job.settings, then)
                running[folder] = job
            pool.submit(list(running)[-len(started) :])
        for folder in pool.ended():
            job = running.pop(folder)
            outcome = ended.outcomes[job] = job_.read_outcome(folder)
            show.end(job.words, outcome)
        show.progress({job.words: job_.read_progress(folder) for folder, job in running.items()})
        time.sleep(POLL_SECONDS)


@contextmanager
def _interrupts(pool: Pool, ended: Swept, write: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C or SIGTERM stops every run with a snapshot; a second time it ends them."""

    def handle(*_: object) -> None:
        write("stopping: every run writes a snapshot first; Ctrl-C again kills them")
        ended.interrupted = True
        pool.stop()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tried(folder: Path) -> int:
    return len(folder_.read_state(folder)["attempts"])


def _outcome_in(folder: Path, state: str) -> Outcome:
    record = read_result(folder)
    why = str(record.attempts[-1].get("why", "")) if record.attempts and state == "dead" else ""
    return Outcome(
        status=state, why=why, directory=str(folder), error_percent=record.error_percent, seconds=record.seconds
    )


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What was asked for, as words of a command line."""

    experiments: Sequence[str]  # names, groups, patterns
    lists: Mapping[str, Sequence[str]]  # settings with their values, e.g. {"lr": [".25,.1"], "seed": ["1-3"]}
    options: Sequence[str] = ()  # of ``allconv render``: NAME=VALUE,VALUE
    settings: RunSettings = field(default_factory=RunSettings)  # what all runs share
    on: str = "local"  # local, ray or slurm
    jobs: int | None = None  # local, on a CPU: runs at a time
    per_gpu: int = 1  # local, ray: runs that share a GPU
    slurm: Mapping[str, str] = field(default_factory=dict)  # options of submitit
    select_on: str = "test"  # which images the best point is chosen by: test, or val
    then: str = ""  # what follows each run that is done, see `job.write`

    def runs(self) -> list[Job]:
        """The runs, in the order in which they are begun."""
        lists = {name: grid.values(name, texts) for name, texts in self.lists.items() if texts}
        settings = self.settings
        if self.select_on == "val" and "validation" not in lists:
            lists["validation"] = [HELD_OUT]
        shared = Devices.numbers(settings.gpu)  # each run has one of them
        gpu = None if shared is None else str(shared[0]) if shared else "none"
        settings = replace(settings, root=settings.root.resolve(), gpu=gpu)
        lists = {
            name: [_at_home(value) if isinstance(value, Path) else value for value in entries]
            for name, entries in lists.items()
        }
        return grid.product(
            grid.chosen(self.experiments, settings.root), settings, lists, grid.option_values(self.options)
        )


HELD_OUT = 5000
"""Training images that `--select-on val` holds out, unless `--validation` says how many."""


def _at_home(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))


def pool_for(asked: Grid, jobs: Sequence[Job], home: Path) -> Pool:
    """The pool that was asked for.

    Raises:
        DriverError: an unknown one, one that is not installed, a number that does not serve.
    """
    for name, value in (("jobs", asked.jobs), ("per-gpu", asked.per_gpu)):
        if value is not None and value < 1:
            raise DriverError(f"--{name} {value}", "expected a whole number of at least 1")
    threads = jobs[0].settings.threads
    if asked.on == "ray":
        return RayPool(asked.per_gpu, threads)
    if asked.on == "slurm":
        return SlurmPool(home / "slurm", asked.slurm)
    if asked.on != "local":
        raise DriverError(f"--on {asked.on}", f"expected one of {', '.join(KINDS)}", choices=KINDS)
    devices = _devices(asked.settings)
    if devices:
        return LocalPool([str(number) for number in devices for _ in range(asked.per_gpu)], threads)
    cores = len(os.sched_getaffinity(0))
    count = asked.jobs or max(1, cores // 2)
    return LocalPool(["none"] * count, threads or max(1, cores // count))


def _devices(settings: RunSettings) -> tuple[int, ...]:
    """The GPUs that the runs share: those named, else all that PyTorch finds, or the one that a real Caffe works on."""
    named = Devices.numbers(settings.gpu)
    if named is not None:
        return named
    engine = engine_.choose(settings)
    if engine.gpus and engine.name == "torch":
        import torch

        return tuple(range(torch.cuda.device_count()))
    return engine.gpus


def run(asked: Grid, say: Callable[[str], None], dry: bool = False) -> Swept:
    """Work a grid off; what came of it stands in ``lines``.

    Args:
        say: takes each line for people meanwhile.
        dry: only find out which runs there are, and what is known of them.
    Raises:
        DriverError, TableError: what was asked for does not serve; one line.
    """
    if asked.select_on not in ("test", "val"):
        raise DriverError(f"--select-on {asked.select_on}", "expected test or val", choices=("test", "val"))
    jobs = asked.runs()
    if dry:
        known = {job: state for job, (state, _) in states(jobs, say, prepare=False).items()}
        later = "; then each network at its best point, on all training images" if asked.select_on == "val" else ""
        lines = [*(f"{state:<8} {job.command}" for job, state in known.items()), f"{_runs(len(jobs))}{later}"]
        return Swept(states=known, lines=lines)
    home = jobs[0].settings.root / jobs[0].settings.runs_dir / FOLDER
    ended = _worked_off(asked, jobs, home, say)
    ended.best = _best(ended)
    if asked.select_on != "val":
        ended.lines = summary(ended)
        return ended
    held = jobs[0].settings.validation
    ended.lines = summary(ended, f"{held:,} held-out training images")
    again = chosen(jobs, ended)
    if ended.interrupted or not again:
        return ended
    for line in ended.lines:
        say(line)
    say("")
    say("each network at the point chosen on the held-out images, on all training images:")
    final = _worked_off(asked, again, home, say)
    final.lines, final.best = summary(final), ended.best
    final.outcomes |= ended.outcomes
    return final


def _worked_off(asked: Grid, jobs: Sequence[Job], home: Path, say: Callable[[str], None]) -> Swept:
    pool = pool_for(asked, jobs, home)
    return sweep(jobs, pool, home, say, then=asked.then)


# ---------------------------------------------------------------------------------------------------------------------
# What comes of it


def cells(ended: Swept) -> dict[str, dict[str, Cell]]:
    """By experiment and point of the grid: the errors over the seeds, and how many runs ended otherwise."""
    found: dict[str, dict[str, Cell]] = {}
    for job, outcome in ended.outcomes.items():
        cell = found.setdefault(job.experiment, {}).setdefault(point_words(job.point), Cell())
        if outcome.status == "done" and outcome.error_percent is not None:
            cell.errors.append(outcome.error_percent)
        elif outcome.status in ("dead", "done"):
            cell.dead += 1
        else:
            cell.unfinished += 1
    return found


def summary(ended: Swept, chosen_on: str = "test images") -> list[str]:
    """The counts, and the best point of each network as a table."""
    counts = ended.counts
    shown = ", ".join(
        f"{counts[status]} {status}" for status in ("done", "dead", "interrupted", "failed") if counts[status]
    )
    spent = [outcome.seconds for outcome in ended.outcomes.values() if outcome.seconds is not None]
    lines = [f"{_runs(len(ended.outcomes))}: {shown or 'none'}; {duration(sum(spent))} of training", ""]
    return [*lines, *table(cells(ended), chosen_on)]


def _best(ended: Swept) -> dict[str, dict[str, Any]]:
    found = {}
    for name, row in cells(ended).items():
        if (point := best(row)) is not None:
            found[name] = {"point": point, "errors_percent": row[point].errors, "mean_error_percent": row[point].mean}
    return found


def chosen(jobs: Sequence[Job], ended: Swept) -> list[Job]:
    """The runs on all training images at each network's best point, for every seed: what `--select-on val` trains next."""
    points = {name: best(row) for name, row in cells(ended).items()}
    again = []
    for job in jobs:
        if points.get(job.experiment) == point_words(job.point):
            settings = replace(job.settings, validation=None)
            settings = replace(settings, command=Job(experiment=job.experiment, settings=settings, point=()).command)
            again.append(replace(job, settings=settings, point=()))
    return again
