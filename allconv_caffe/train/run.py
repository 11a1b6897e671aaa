"""Trains an experiment from nothing: data, prototxt, training, test, record; continues what was begun.

``run`` does whatever is missing. Each run has a directory of its own, ``runs/<experiment>/<run id>/``; the same
settings find it again and go on from its newest snapshot, other settings get another one.

Source: section 3 of the paper for what is trained; caffe.cpp for how an engine is called and stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from allconv_caffe import proto
from allconv_caffe.paper import experiments, render
from allconv_caffe.paper.assumptions import assumptions
from allconv_caffe.paper.experiments import Experiment
from allconv_caffe.paper.options import RenderOptions, options_from
from allconv_caffe.report import plots
from allconv_caffe.report.collect import same_dataset
from allconv_caffe.report.log import LogParser, TestRow, TrainRow, complete_lines, parse_log
from allconv_caffe.train import data as driver_data, engine as driver_engine, record as driver_files
from allconv_caffe.train.data import PreparedData
from allconv_caffe.train.engine import DriverError, Engine
from allconv_caffe.train.watch import DeadRule, DeadWatch, Progress, duration

__all__ = ["DriverError", "RunResult", "RunSettings", "run"]

DEFAULT_SEED = 1
_POLL_SECONDS = 0.2
_STOP_SECONDS = 120.0  # for the snapshot of a training that is stopped as dead
_ATTEMPT_FILES = (
    "solver.prototxt",
    "train_val.prototxt",
    "deploy.prototxt",
    "log",
    "test.log",
    "train.csv",
    "test.csv",
    "curves.png",
    "events",
    "snapshots",
    "result.json",
)
_SET_BY_THE_DRIVER = {
    "random_seed": "SEED",
    "solver_mode": "GPU",
    "device_id": "GPU",
    "train_lmdb": "the data set's own",
    "test_lmdb": "the data set's own",
    "n_train": "the data set's own",
    "n_test": "the data set's own",
    "net_path": "none: it lies in the run directory",
    "snapshot_prefix": "none: snapshots lie in the run directory",
}
"""Options of ``allconv render`` that are no options of a run, and what stands in their place."""
_TEST_SCORE = re.compile(r"(?:^|\] )(accuracy|loss) = (\S+?)(?: \(|$)")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How an experiment is run. None: as published, or as assumed where the paper is silent.

    engine: ``auto``, ``caffe`` or ``torch``. gpu: ``0``, ``0,1`` or ``none``; None takes device 0 where a GPU works.
    lr: base_lr. epochs: in all, the schedule in proportion. batch_size: images of one update; several GPUs divide it.
    precision: ``float32``, ``tf32`` or ``bf16``. rng: ``torch``, or ``caffe``: seed-exact, BVLC Caffe's own random
    numbers. threads: of the CPU. retries: trainings begun again, with the next seed, after one that is dead. data: an
    archive, a folder of images or a prepared set. root: what the relative paths of prototxt begin from. options:
    further fields of ``RenderOptions``. caffe_flags: appended to the engine's command line. patience_epochs: of
    ``DeadRule``. stop_dead: end a dead training; else only say it. command: what the user typed, for messages.
    """

    engine: str = "auto"
    gpu: str | None = None
    lr: float | None = None
    epochs: float | None = None
    seed: int = DEFAULT_SEED
    batch_size: int | None = None
    precision: str = "float32"
    rng: str = "torch"
    threads: int | None = None
    retries: int = 0
    data: Path | None = None
    runs_dir: Path = Path("runs")
    root: Path = Path(".")
    options: Mapping[str, Any] = field(default_factory=dict)
    caffe_flags: tuple[str, ...] = ()
    patience_epochs: float = 3.0
    stop_dead: bool = True
    download: bool = True
    command: str = ""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    status: ``done``, ``interrupted`` (it can go on) or ``dead``. directory: of the run. result: what stands in
    ``result.json``; of an interrupted run, the part that is known.
    """

    status: str
    directory: Path
    result: dict[str, Any]


def run(
    experiment: str | Experiment, settings: RunSettings | None = None, say: Callable[[str], None] = print
) -> RunResult:
    """Do whatever is missing of an experiment, from the data to the result.

    Args:
        experiment: its name in ``experiments.EXPERIMENTS``, or an ``Experiment`` of one's own.
        say: takes each line for people.
    Raises:
        DriverError, TableError: a setting, the data or the engine does not serve; one line.
    """
    settings = _settled(settings or RunSettings())
    if isinstance(experiment, str):
        experiment = experiments.experiment(experiment)
    _check(settings)
    root = settings.root.resolve()
    _check_runs_dir(root / settings.runs_dir)
    driver_engine.check_executor(settings.caffe_flags, settings.rng)
    engine = driver_engine.choose(
        settings.engine, driver_engine.parse_gpus(settings.gpu), settings.precision, settings.threads, settings.rng
    )
    say(engine.describe())
    try:
        data = driver_data.ensure(experiment, settings.data, root, say, download=settings.download)
    except KeyboardInterrupt:
        say("stopped while the data were prepared; nothing half-done is left, the same command begins again")
        return RunResult("interrupted", root, {})
    say(f"data: {data.display_name}, {data.n_train} training and {data.n_test} test images, {data.folder}")
    if data.preprocessing == "raw" and "scale" not in settings.options:
        say(
            "data: raw bytes minus the mean image, up to 255: the published rates are for whitened images with a standard "
            "deviation near 0.5; --set scale=0.0078125 brings raw ones there"
        )
    prepared = _Run(experiment, settings, engine, data, root, say)
    prepared.folder.mkdir(parents=True, exist_ok=True)
    with driver_files.locked(prepared.folder) as lock:
        return prepared.go(lock)


def _settled(settings: RunSettings) -> RunSettings:
    """Rate, epochs and batch size that are given as options are settings: the record and the name of a run say them.

    Raises:
        DriverError, TableError: one of them given twice, an option that the driver sets itself, a value that does not
        serve.
    """
    options: dict[str, Any] = dict(settings.options)
    changes: dict[str, Any] = {}
    for name in ("lr", "epochs", "batch_size"):
        if name not in options:
            continue
        if (given := getattr(settings, name)) is not None:
            raise DriverError(
                f"{name.upper()}={given}: found option {name}={options[name]} beside it, expected one of the two"
            )
        changes[name] = options.pop(name)
    for name, instead in _SET_BY_THE_DRIVER.items():
        if name in options:
            raise DriverError(f"option {name}: found {options[name]}, expected {instead}")
    options_from({**options, **changes}, "settings")
    return replace(settings, options=options, **changes)


def _check_runs_dir(folder: Path) -> None:
    """Raises DriverError where no run directory can be made: before data are prepared, not after."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        found = "a folder without permission to write" if place.is_dir() else "a file"
        raise DriverError(f"{place}: found {found}, expected a folder for the runs (choose one with --runs-dir)")


def _check(settings: RunSettings) -> None:
    for name, least in (("seed", 0), ("retries", 0), ("threads", 1), ("batch_size", 1)):
        value = getattr(settings, name)
        if value is not None and (not isinstance(value, int) or value < least):
            raise DriverError(f"{name.upper()}={value}: expected a whole number of at least {least}")
    for name in ("epochs", "lr", "patience_epochs"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise DriverError(f"{name.upper()}={value}: expected a number above 0")


class _Run:
    """One run directory and the trainings in it."""

    def __init__(
        self,
        experiment: Experiment,
        settings: RunSettings,
        engine: Engine,
        data: PreparedData,
        root: Path,
        say: Callable[[str], None],
    ) -> None:
        self.experiment, self.settings, self.engine, self.data, self.root = experiment, settings, engine, data, root
        self._say = say
        self.batch_size = settings.batch_size or experiment.schedule.batch_size
        if engine.gpus and self.batch_size % len(engine.gpus):
            raise DriverError(
                f"GPU={','.join(map(str, engine.gpus))}: found batch size {self.batch_size}, expected a multiple of "
                f"{len(engine.gpus)} GPUs"
            )
        self.options = self._options(settings.seed, "NET", "PREFIX", "TRAIN", "TEST", "GPU", "MEAN")
        plan = render.resolve_timetable(experiment, self.options)
        self.epochs, self.max_iter = plan.epochs, plan.max_iter
        self.test_iter = plan.test_iter
        self.epoch_iters = data.n_train / self.batch_size
        self.identity = self._identity()
        self.folder = self._folder()
        self.state: dict[str, Any] = {}

    # -- what is to be run --------------------------------------------------------------------------------------------

    def _options(
        self, seed: int, net: str, prefix: str, train_lmdb: str, test_lmdb: str, mode: str, mean_file: str
    ) -> RenderOptions:
        settings, data = self.settings, self.data
        values: dict[str, Any] = {
            "n_train": data.n_train,
            "n_test": data.n_test,
            "num_output": data.classes,
            **settings.options,
            "random_seed": seed,
            "solver_mode": mode,
            "train_lmdb": train_lmdb,
            "test_lmdb": test_lmdb,
            "net_path": net,
            "snapshot_prefix": prefix,
        }
        if data.mean_file is not None and not values.get("mean_value"):
            values.setdefault("mean_file", mean_file)
        for name in ("lr", "epochs", "batch_size"):
            if getattr(settings, name) is not None:
                values[name] = getattr(settings, name)
        return options_from(values, "settings")

    def _identity(self) -> str:
        """A digest of everything that decides the outcome: what is rendered, the data, the engine and its precision."""
        texts = render.render(self.experiment, self.options)
        lines = [
            line
            for name in ("solver.prototxt", "train_val.prototxt")
            for line in texts[name].splitlines()
            if line[:1] != "#"
        ]
        facts = [
            self.engine.name,
            self.settings.precision,
            len(self.engine.gpus) or 1,
            list(self.settings.caffe_flags),
            self.data.checksums or str(self.data.folder),
        ]
        if (
            self.settings.rng != "torch"
        ):  # the default adds nothing: runs from before there was a choice are found again
            facts.append(f"rng {self.settings.rng}")
        return hashlib.sha256(json.dumps([lines, facts], sort_keys=True).encode()).hexdigest()

    def _folder(self) -> Path:
        """The run's directory: a readable name, with a digest behind it where other settings took that name."""
        settings = self.settings
        words = [f"seed{settings.seed}", f"epochs{self.epochs:g}", self.engine.name]
        if settings.lr is not None and settings.lr != self.experiment.schedule.base_lr:
            words.append(f"lr{settings.lr:g}")
        if self.batch_size != self.experiment.schedule.batch_size:
            words.append(f"batch{self.batch_size}")
        if settings.precision != "float32":
            words.append(settings.precision)
        if settings.rng != "torch":
            words.append(f"rng{settings.rng}")
        if len(self.engine.gpus) > 1:
            words.append(f"{len(self.engine.gpus)}gpus")
        if self.data.display_name != self.experiment.dataset.title:
            words.append(re.sub(r"[^a-z0-9]+", "-", self.data.display_name.lower()).strip("-"))
        if self.data.preprocessing in ("gcn", "raw"):
            words.append(self.data.preprocessing)
        for key, value in sorted(settings.options.items()):
            words.append(re.sub(r"[^A-Za-z0-9.]+", "_", f"{key}{value}"))
        runs = settings.runs_dir if settings.runs_dir.is_absolute() else self.root / settings.runs_dir
        plain = runs / self.experiment.name / "-".join(words)
        settings_file = plain / "settings.json"
        if settings_file.exists() and driver_files.read_json(settings_file).get("identity") != self.identity:
            return plain.with_name(f"{plain.name}-{self.identity[:8]}")
        return plain

    def _path(self, path: Path) -> str:
        """As prototxt and command lines name it: from the root where it lies below it."""
        path = Path(os.path.abspath(path))
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    @property
    def prefix(self) -> Path:
        """The solver's snapshot_prefix."""
        return self.folder / "snapshots" / self.experiment.name

    def _render(self, seed: int) -> None:
        (self.folder / "snapshots").mkdir(exist_ok=True)
        options = self._options(
            seed,
            self._path(self.folder / "train_val.prototxt"),
            self._path(self.prefix),
            self._path(self.data.train_lmdb),
            self._path(self.data.test_lmdb),
            self.engine.solver_mode,
            self._path(self.data.mean_file) if self.data.mean_file else "",
        )
        for name, text in render.render(self.experiment, options).items():
            if name == "train_val.prototxt" and len(self.engine.gpus) > 1:
                text = self._divided(text)
            driver_files.write_atomic(self.folder / name, text)

    def _divided(self, text: str) -> str:
        """The training batch divided among the GPUs: Caffe reads that many images on each."""
        each = self.batch_size // len(self.engine.gpus)
        head, sign, tail = text.partition(f"batch_size: {self.batch_size}\n")
        if not sign or "phase: TEST" in head:
            raise DriverError(
                f"train_val.prototxt: found no training batch_size {self.batch_size}, expected one to divide"
            )
        return f"{head}batch_size: {each}  # on each of {len(self.engine.gpus)} GPUs\n{tail}"

    # -- the attempts -------------------------------------------------------------------------------------------------

    def go(self, lock: int) -> RunResult:
        """Train until done, interrupted, or dead without a retry left."""
        state_file = self.folder / "state.json"
        self.state = driver_files.read_json(state_file) if state_file.exists() else {"attempts": []}
        attempts: list[dict[str, Any]] = self.state.get("attempts", [])
        needed = {"attempt", "seed", "status", "why", "sessions"}
        if "attempts" not in self.state or not all(
            isinstance(entry, dict) and needed <= set(entry) for entry in attempts
        ):
            raise DriverError(
                f"{state_file}: found no record of attempts; remove the file to go on from the newest snapshot"
            )
        if attempts and attempts[-1]["status"] == "done" and (self.folder / "result.json").exists():
            result = driver_files.read_json(self.folder / "result.json")
            self._say(f"already done: {self._path(self.folder)}")
            self._say(_summary(result))
            return RunResult("done", self.folder, result)
        self._write_settings()
        while True:
            if attempts and attempts[-1]["status"] == "dead" and self.settings.stop_dead:
                last = attempts[-1]
                if len(attempts) > self.settings.retries:
                    self._say(f"attempt {last['attempt']} (seed {last['seed']}) is dead: {last['why']}")
                    self._say(
                        f"no retry is left: RETRIES={len(attempts)} begins again with seed {last['seed'] + 1}; "
                        f"a smaller LR or another filler may help more; the log is {self._path(self.folder / 'log')}"
                    )
                    return RunResult("dead", self.folder, self._record("dead"))
                where = self.folder / f"attempt-{last['attempt']}"
                driver_files.move_into(self.folder, _ATTEMPT_FILES, where)
                last["directory"] = where.name
                attempts.append(self._new_attempt(len(attempts) + 1))
                self._say(
                    f"attempt {last['attempt']} is kept in {where.name}/; beginning again, seed {attempts[-1]['seed']}"
                )
            elif not attempts:
                attempts.append(self._new_attempt(1))
            self._save_state()
            status = self._attempt(attempts[-1], lock)
            if status != "dead" or not self.settings.stop_dead:
                break
        result = self._record(status)
        if status == "done":
            self._say(_summary(result))
        else:
            again = self.settings.command or "the same command"
            at = result["iterations"]
            self._say(f"stopped at iteration {at} of {self.max_iter}; to go on, run again: {again}")
        return RunResult(status, self.folder, result)

    def _new_attempt(self, number: int) -> dict[str, Any]:
        return {"attempt": number, "seed": self.settings.seed + number - 1, "status": "new", "why": "", "sessions": []}

    def _save_state(self) -> None:
        driver_files.write_json(self.folder / "state.json", self.state)

    def _write_settings(self) -> None:
        settings, data = self.settings, self.data
        content = {
            "experiment": self.experiment.name,
            "identity": self.identity,
            "settings": {
                "engine": self.engine.name,
                "engine_asked_for": settings.engine,
                "gpus": list(self.engine.gpus),
                "lr": settings.lr or self.experiment.schedule.base_lr,
                "epochs": self.epochs,
                "max_iter": self.max_iter,
                "seed": settings.seed,
                "batch_size": self.batch_size,
                "precision": settings.precision,
                "rng": settings.rng,
                "threads": settings.threads,
                "retries": settings.retries,
                "patience_epochs": settings.patience_epochs,
                "options": dict(settings.options),
                "caffe_flags": list(settings.caffe_flags),
            },
            "engine": {"version": self.engine.version, "origin": self.engine.origin, "reason": self.engine.reason},
            "data": {
                "folder": self._path(data.folder),
                "dataset": data.display_name,
                "classes": data.classes,
                "n_train": data.n_train,
                "n_test": data.n_test,
                "official": data.official,
                "sha256": data.checksums,
                "preprocessing": data.preprocessing,
            },
            "assumptions": [
                {"key": entry.key, "value": entry.value, "reason": entry.reason}
                for entry in assumptions(self.experiment.network(self.options.stride_on), self.options)
            ],
            "versions": driver_files.versions(),
            "git": driver_files.git_state(Path(__file__).resolve().parent),
            "command": settings.command,
        }
        driver_files.write_json(self.folder / "settings.json", content)

    # -- one training -------------------------------------------------------------------------------------------------

    def _attempt(self, attempt: dict[str, Any], lock: int) -> str:
        self._render(attempt["seed"])
        log_path = self.folder / "log"
        snapshot = driver_files.newest_snapshot(self.prefix, self._say)
        words = ["train", "-solver", self._path(self.folder / "solver.prototxt")]
        if snapshot:
            words += ["-snapshot", self._path(snapshot[0])]
            self._say(f"continuing from iteration {snapshot[1]} of {self.max_iter}: {self._path(snapshot[0])}")
        elif log_path.exists():
            self._say("there is no snapshot to go on from: beginning again")
        command = self._command(words)
        self._say(f"run directory: {self._path(self.folder)}")
        self._say(f"$ {shlex.join(command)}")
        log = parse_log(log_path) if log_path.exists() else LogParser()
        session: dict[str, Any] = {
            "command": shlex.join(self._shown(command)),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "git": driver_files.git_state(Path(__file__).resolve().parent),
        }
        attempt["sessions"].append(session)
        attempt["status"], attempt["why"] = "running", ""
        self._save_state()
        begin = time.monotonic()
        follower = _Follower(self, log, snapshot[1] if snapshot else 0)
        try:
            status, why = self._follow(command, log_path, lock, follower)
        finally:
            follower.close()
            session["seconds"] = round(time.monotonic() - begin, 1)
            driver_files.write_points(self.folder, log, self.epoch_iters)
        attempt["status"], attempt["why"] = status, why
        attempt["iterations"] = self._reached(log)
        attempt["seconds"] = _seconds(log)
        self._save_state()
        if status == "failed":
            raise DriverError(f"{self._path(log_path)}: the engine failed: {why}")
        if status == "done":
            self._final_test(log, lock)
        return status

    def _command(self, words: list[str]) -> list[str]:
        gpu = ["-gpu", ",".join(map(str, self.engine.gpus))] if self.engine.gpus else []
        return [*self.engine.command, *words, *gpu, *self.engine.flags, *self.settings.caffe_flags]

    def _shown(self, command: list[str]) -> list[str]:
        """The command as a record that names no folder of this machine."""
        short = "caffe" if self.engine.name == "caffe" else "caffe-torch"
        return [short, *command[len(self.engine.command) :]]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "GLOG_logtostderr": "1", **self.engine.env}

    def _start(self, command: list[str], log_path: Path, lock: int) -> subprocess.Popen[bytes]:
        with open(log_path, "ab") as log:
            if log.tell() and not _ends_line(log_path):  # an engine that was killed in the middle of a line
                log.write(b"\n")
                log.flush()
            try:
                engine = subprocess.Popen(
                    command,
                    cwd=self.root,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(lock,),
                )
            except OSError as error:
                raise DriverError(f"{command[0]}: cannot be started ({error.strerror})") from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{engine.pid}\n".encode())
        return engine

    def _follow(self, command: list[str], log_path: Path, lock: int, follower: _Follower) -> tuple[str, str]:
        offset = log_path.stat().st_size if log_path.exists() else 0
        engine = self._start(command, log_path, lock)
        dead = ""
        deadline = float("inf")
        try:
            with _Interrupts(engine, follower.write) as interrupts:
                while True:
                    ended = engine.poll() is not None
                    offset, text = _read_from(log_path, offset)
                    follower.feed(text)
                    if follower.dead and not dead:
                        dead = follower.dead
                        follower.write(f"DEAD: {dead}")
                        if self.settings.stop_dead and not ended:
                            engine.send_signal(signal.SIGINT)
                            deadline = time.monotonic() + _STOP_SECONDS
                    if ended:
                        break
                    if time.monotonic() > deadline:
                        engine.kill()
                    time.sleep(_POLL_SECONDS)
        finally:
            if engine.poll() is None:  # something failed here: leave no training behind
                engine.kill()
            engine.wait()
        follower.finish()
        log = follower.log
        if dead and self.settings.stop_dead:
            return "dead", dead
        if engine.returncode == 0 and log.done:
            return "done", dead
        if interrupts.count or (engine.returncode == 0 and log.stopped):
            return "interrupted", ""
        return "failed", _failure(log_path, log, engine.returncode)

    def _reached(self, log: LogParser) -> int:
        """The last iteration that is known of: displayed, tested, or in a snapshot."""
        found = [rows[-1].iteration for rows in (log.train, log.test) if rows]
        for name in log.snapshots[-1:]:
            if match := re.search(r"_iter_(\d+)\.", name):
                found.append(int(match[1]))
        return max(found, default=0)

    def _final_test(self, log: LogParser, lock: int) -> None:
        """Test the final weights where the training's own log has no test of the last iteration."""
        if any(row.iteration == self.max_iter and row.outputs for row in log.test):
            return
        model = self.prefix.with_name(f"{self.prefix.name}_iter_{self.max_iter}.caffemodel")
        self._say(f"testing {self._path(model)}")
        log_path = self.folder / "test.log"
        log_path.unlink(missing_ok=True)
        words = ["test", "-model", self._path(self.folder / "train_val.prototxt"), "-weights", self._path(model)]
        engine = self._start(self._command([*words, "-iterations", str(self.test_iter)]), log_path, lock)
        try:
            with _Interrupts(engine, self._say):
                engine.wait()
        finally:
            if engine.poll() is None:
                engine.kill()
                engine.wait()
        if engine.returncode or _scores(log_path).get("accuracy") is None:
            raise DriverError(
                f"{self._path(log_path)}: the test failed: {_failure(log_path, LogParser(), engine.returncode)}"
            )

    # -- the record ---------------------------------------------------------------------------------------------------

    def _record(self, status: str) -> dict[str, Any]:
        log = parse_log(self.folder / "log")
        attempts = self.state["attempts"]
        attempt = attempts[-1]
        tests = [row for row in log.test if row.net == 0 and row.outputs]
        errors = [(row.error_percent, row.iteration) for row in tests if row.error_percent is not None]
        last = tests[-1].error_percent if tests else None
        at = tests[-1].iteration if tests else None
        if status == "done" and at != self.max_iter:
            scores = _scores(self.folder / "test.log")
            finite = scores.get("loss", 0.0) == scores.get("loss", 0.0)
            last, at = (100.0 * (1.0 - scores["accuracy"]) if finite else None), self.max_iter
            if last is not None:
                errors.append((last, at))
        best = min(errors, default=(None, None))
        model = self.prefix.with_name(f"{self.prefix.name}_iter_{self.max_iter}.caffemodel")
        published = self.experiment
        speed = _images_per_second(log, self.batch_size)
        result: dict[str, Any] = {
            "experiment": published.name,
            "model": published.title,
            "source": published.source,
            "status": status,
            "test_error_percent": _rounded(last),
            "test_iteration": at,
            "best_on_test": {
                "error_percent": _rounded(best[0]),
                "iteration": best[1],
                "note": "chosen on test data; not a result",
            },
            "published_error_percent": published.published_error_percent,
            "parameters": driver_files.parameters_in(model) if status == "done" else None,
            "published_parameters": published.published_parameters,
            "dataset": self.data.display_name,
            "preprocessing": self.data.preprocessing,
            "paper_dataset": published.dataset.name,
            "paper_title": published.dataset.title,
            "seed": attempt["seed"],
            "epochs": self.epochs,
            "iterations": attempt.get("iterations", 0),
            "max_iter": self.max_iter,
            "schedule": self._schedule(),
            "lr": self.settings.lr or published.schedule.base_lr,
            "batch_size": self.batch_size,
            "engine": self.engine.name,
            "engine_version": self.engine.version,
            "device": (", ".join(log.gpus.values()) or f"{len(self.engine.gpus)} GPU") if self.engine.gpus else "CPU",
            "precision": self.settings.precision,
            "rng": "caffe" if self.engine.name == "caffe" else self.settings.rng,
            "seconds": _seconds(log),
            "images_per_second": None if speed is None else round(speed, 1),
            "n_train": self.data.n_train,
            "n_test": self.data.n_test,
            "classes": self.data.classes,
            "data_sha256": self.data.checksums,
            "attempts": [{key: value for key, value in entry.items() if key != "sessions"} for entry in attempts],
            "resumed": len(attempt["sessions"]) - 1,
            "options": dict(self.settings.options),
            "assumptions": [
                f"{entry.key}: {entry.value}"
                for entry in assumptions(published.network(self.options.stride_on), self.options)
            ],
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if status == "done":
            result["caffemodel"] = self._path(model)
        driver_files.write_json(self.folder / "result.json", result)
        title = f"{published.title}, {self.data.display_name}, seed {attempt['seed']}, {self.engine.name}"
        comparable = same_dataset(self.data.display_name, published.dataset.title)
        figure = published.published_error_percent if comparable else None
        image = plots.curves(log, self.epoch_iters, title, figure, "png")
        driver_files.write_atomic(self.folder / "curves.png", image)
        return result

    def _schedule(self) -> str:
        """The schedule as a line, by which runs are compared."""
        solver = proto.read_solver(self.folder / "solver.prototxt")
        words = [f"{solver.type or 'SGD'} {solver.lr_policy} base_lr {solver.base_lr:g}, momentum {solver.momentum:g}"]
        words.append(f"weight_decay {solver.weight_decay:g}, batch {self.batch_size}")
        if solver.stepvalue:
            drops = ", ".join(f"{value / self.epoch_iters:.4g}" for value in solver.stepvalue)
            words.append(f"drops after epochs {drops}")
        return "; ".join([*words, f"{self.epochs:g} epochs"])


def _seconds(log: LogParser) -> float | None:
    """Seconds of training and testing by the log's own clock, pauses between sessions left out."""
    found = [rows[-1].seconds for rows in (log.train, log.test) if rows and rows[-1].seconds is not None]
    return round(max(found), 1) if found else None


def _images_per_second(log: LogParser, batch_size: int) -> float | None:
    """Training images over seconds between the displayed losses, tests and snapshots included."""
    images = seconds = 0.0
    for before, after in zip(log.train, log.train[1:], strict=False):
        if before.session == after.session and before.seconds is not None and after.seconds is not None:
            images += (after.iteration - before.iteration) * batch_size
            seconds += after.seconds - before.seconds
    return images / seconds if seconds > 0 else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _summary(result: dict[str, Any]) -> str:
    error = result["test_error_percent"]
    words = [f"{result['model']} on {result['dataset']}: test error "]
    words.append("not a number" if error is None else f"{error:.2f} %")
    if result["published_error_percent"] is not None:
        words.append(f" (the paper on {result['paper_title']}: {result['published_error_percent']:.2f} %)")
    words.append(
        f", {result['parameters']:,} parameters, {result['epochs']:g} epochs, seed {result['seed']}, {result['engine']}"
    )
    if result["seconds"] is not None:
        words.append(f", {duration(result['seconds'])}")
    best = result["best_on_test"]
    if best["error_percent"] is not None:
        words.append(f"; best on test, not a result: {best['error_percent']:.2f} % at iteration {best['iteration']}")
    return "".join(words)


def _scores(log_path: Path) -> dict[str, float]:
    """What ``caffe test`` printed last of accuracy and loss."""
    scores: dict[str, float] = {}
    with contextlib.suppress(OSError):
        for line in log_path.read_text(encoding="utf-8", errors="replace").splitlines():
            if (match := _TEST_SCORE.search(line)) and "Batch" not in line:
                with contextlib.suppress(ValueError):
                    scores[match[1]] = float(match[2])
    return scores


def _failure(log_path: Path, log: LogParser, status: int) -> str:
    if log.fatal:
        return log.fatal[-1]
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = [line for line in log_path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    how = f"exit status {status}" if status >= 0 else f"signal {-status}"
    return f"{how}; last line: {lines[-1].strip()}" if lines else how


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


class _Follower:
    """Feeds a growing log to everyone who wants its rows; a row is passed on when its last line has come."""

    def __init__(self, run: _Run, log: LogParser, first_iter: int) -> None:
        self.run, self.log = run, log
        data = run.data
        rule = DeadRule(data.classes, data.n_test, run.epoch_iters, run.max_iter, run.settings.patience_epochs)
        self._watch = DeadWatch(rule)
        for train in log.train:
            if train.iteration < first_iter:
                self._watch.train(train)
        self._progress = Progress(run.max_iter, first_iter, run.batch_size, run.epoch_iters, run._say)
        self._events = driver_files.Events(run.folder / "events", log)
        self._pending: TrainRow | TestRow | None = None
        self.dead = ""
        self.write = self._progress.write

    def feed(self, text: str) -> None:
        """Take complete lines; an empty text means that nothing came for a while."""
        for line in complete_lines(text):
            row = self.log.feed(line)
            if row is not None:
                self._pass_on()
                self._pending = row
        if not text and (isinstance(self._pending, TrainRow) or (self._pending and self._pending.outputs)):
            self._pass_on()

    def finish(self) -> None:
        """No more lines will come."""
        self._pass_on()

    def close(self) -> None:
        """End the bar and the events."""
        self._progress.close()
        self._events.close()

    def _pass_on(self) -> None:
        row, self._pending = self._pending, None
        if row is None or (isinstance(row, TestRow) and (not row.outputs or row.net)):
            return
        if isinstance(row, TrainRow):
            self._events.train(row)
            self._progress.train(row)
            why = self._watch.train(row)
        else:
            self._events.test(row)
            self._events.flush()
            self._progress.test(row)
            driver_files.write_points(self.run.folder, self.log, self.run.epoch_iters)
            why = self._watch.test(row)
        if why and not self.dead:
            self.dead = why


class _Interrupts:
    """Ctrl-C or SIGTERM once: passed on to the engine, which snapshots and stops; a second time: the engine is killed.

    The engine runs in a session of its own, so that the terminal's Ctrl-C reaches it through here, and once.
    """

    def __init__(self, engine: subprocess.Popen[bytes], write: Callable[[str], None]) -> None:
        self._engine, self._write = engine, write
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, *_: object) -> None:
        self.count += 1
        if self._engine.poll() is not None:
            return
        if self.count == 1:
            self._engine.send_signal(signal.SIGINT)
            self._write("stopping: the engine writes a snapshot first; Ctrl-C again kills it")
        else:
            self._engine.kill()
            self._write("killed")
