"""The records of a run: its settings, its result, and under which circumstances it was made."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from allconv_caffe import files, proto
from allconv_caffe.caffe_torch.compute import cpuinfo
from allconv_caffe.report import plots
from allconv_caffe.report.collect import same_dataset
from allconv_caffe.report.log import LogParser, parse_log
from allconv_caffe.report.record import Record, ReportError, Schedule, read
from allconv_caffe.train import course, process, settings as settings_, snapshots
from allconv_caffe.train.folder import LOG, RESULT_FILE, SETTINGS_FILE, TEST_LOG, read_json
from allconv_caffe.train.plan import Plan
from allconv_caffe.train.prototxt import SOLVER
from allconv_caffe.train.settings import DriverError, RecordError
from allconv_caffe.train.watch import duration

PACKAGES: tuple[str, ...] = ("torch", "numpy", "protobuf", "lmdb", "opencv-python", "jinja2")


# ---------------------------------------------------------------------------------------------------------------------
# Records


def write_settings(plan: Plan) -> None:
    """Write settings.json: what is run, with what, on which machine."""
    engine, data = plan.engine, plan.data
    content = {
        "experiment": plan.experiment.name,
        "title": plan.experiment.title,
        "identity": plan.identity,
        "settings": settings_.kept(plan.taken, "settings")
        | {"engine_asked_for": plan.settings.engine, "gpus": list(engine.gpus), "max_iter": plan.max_iter},
        "engine": {"version": engine.version, "origin": engine.origin, "reason": engine.reason},
        "data": {
            "folder": plan.path(data.folder),
            "dataset": data.display_name,
            "classes": data.classes,
            "n_train": data.n_train,
            "n_test": data.n_test,
            "official": data.official,
            "sha256": data.checksums,
            "preprocessing": data.preprocessing,
            "class_names": list(data.class_names),
        },
        "assumptions": [
            {"key": entry.key, "value": entry.value, "reason": entry.reason} for entry in plan.assumptions()
        ],
        "versions": versions(),
        "git": git_state(Path(__file__).resolve().parent),
        "command": plan.settings.command,
    }
    files.write_json(plan.folder / SETTINGS_FILE, content)


def write_result(plan: Plan, status: str, attempts: Sequence[Mapping[str, Any]]) -> Record:
    """Write curves.png and then result.json, which says that all is there, of what the log and the attempts say.

    Args:
        status: ``done``, ``interrupted`` or ``dead``.
        attempts: as state.json keeps them; the last one counts.
    """
    log = parse_log(plan.folder / LOG)
    result = _result(plan, status, attempts, log)
    experiment, data = plan.experiment, plan.data
    title = f"{experiment.title}, {data.display_name}, seed {result.seed}, {plan.engine.name}"
    comparable = same_dataset(data.display_name, experiment.dataset.title)
    published = experiment.published_error_percent if comparable else None
    files.write(plan.folder / "curves.png", plots.curves(log, plan.epoch_iters, title, published, "png"))
    files.write_json(plan.folder / RESULT_FILE, result.to_json())
    return result


def hparams(plan: Plan, seed: int) -> dict[str, Any]:
    """What a run was started with, as TensorBoard's table of runs takes it: texts, numbers, truth values."""
    found: dict[str, Any] = {"experiment": plan.experiment.name, "network": plan.experiment.title}
    found["data set"] = plan.data.display_name
    for name, value in settings_.kept(plan.taken, "result").items():
        found |= value if isinstance(value, Mapping) else {name: value}
    found |= {"seed": seed, "batch_size": plan.batch_size, "max_iter": plan.max_iter}
    return {name: value for name, value in found.items() if value not in (None, [], ())}


EVALUATION = "evaluation"
"""The folder of a run that holds its confusion matrix."""


def add_evaluation(folder: Path, facts: Mapping[str, Any]) -> None:
    """The errors by class in result.json; the rest of the record stays."""
    result = replace(read_result(folder), class_errors_percent=dict(facts["class_errors_percent"]))
    files.write_json(folder / RESULT_FILE, result.to_json())


def device_of(folder: Path) -> str:
    """Where a run's net was trained, as torch calls it: the first of its GPUs, or cpu."""
    content = read_json(folder / SETTINGS_FILE)
    files.check_kinds(folder / SETTINGS_FILE, content, {"settings": dict}, RecordError)
    settings = content.get("settings", {})
    files.check_kinds(folder / SETTINGS_FILE, settings, {"gpus": list[int]}, RecordError)
    return f"cuda:{settings['gpus'][0]}" if settings.get("gpus") else "cpu"


def read_result(folder: Path) -> Record:
    """What result.json in a run's directory says. Raises: DriverError."""
    try:
        return read(folder / RESULT_FILE)
    except ReportError as error:
        raise DriverError.of(error) from None


def _result(plan: Plan, status: str, attempts: Sequence[Mapping[str, Any]], log: LogParser) -> Record:
    experiment, engine, data, attempt = plan.experiment, plan.engine, plan.data, attempts[-1]
    errors = [(row.error_percent, row.iteration) for row in log.test if row.net == 0 and row.outputs]
    last, at = errors[-1] if errors else (None, None)
    if status == "done" and at != plan.max_iter:
        scores = process.test_scores(plan.folder / TEST_LOG)
        finite = scores.get("loss", 0.0) == scores.get("loss", 0.0)
        last, at = (100.0 * (1.0 - scores["accuracy"]) if finite else None), plan.max_iter
        errors.append((last, at))
    best = min(((error, where) for error, where in errors if error is not None), default=(None, None))
    speed = _images_per_second(log, plan.batch_size)
    chosen = settings_.kept(plan.taken, "result") | {"seed": attempt["seed"]}
    if engine.name == "caffe":
        chosen["rng"] = "caffe"
    return Record(
        experiment=experiment.name,
        model=experiment.title,
        source=experiment.source,
        status=status,
        test_error_percent=_rounded(last),
        test_iteration=at,
        best_on_test={
            "error_percent": _rounded(best[0]),
            "iteration": best[1],
            "note": "chosen on test data; not a result",
        },
        published_error_percent=experiment.published_error_percent,
        parameters=snapshots.parameters_in(plan.last_model) if status == "done" else None,
        published_parameters=experiment.published_parameters,
        dataset=data.display_name,
        preprocessing=data.preprocessing,
        paper_dataset=experiment.dataset.name,
        paper_title=experiment.dataset.title,
        iterations=attempt.get("iterations", 0),
        max_iter=plan.max_iter,
        schedule=_schedule(plan),
        engine_version=engine.version,
        device=(", ".join(log.gpus.values()) or f"{len(engine.gpus)} GPU") if engine.gpus else "CPU",
        seconds=seconds_of(log),
        images_per_second=None if speed is None else round(speed, 1),
        n_train=data.n_train,
        n_test=data.n_test,
        classes=data.classes,
        data_sha256=data.checksums,
        attempts=[{key: value for key, value in entry.items() if key != "sessions"} for entry in attempts],
        resumed=len(attempt["sessions"]) - len({session.get("solver") for session in attempt["sessions"]}),
        course=course.of(plan).record(log.test),
        assumptions=[f"{entry.key}: {entry.value}" for entry in plan.assumptions()],
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        caffemodel=plan.path(plan.last_model) if status == "done" else None,
        **chosen,
    )


def _schedule(plan: Plan) -> Schedule:
    """The schedule as the solver says it, with epochs for iterations."""
    solver = proto.read_solver(plan.folder / SOLVER)
    return Schedule(
        type=solver.type or "SGD",
        lr_policy=solver.lr_policy,
        momentum=_decimal(solver.momentum),
        weight_decay=_decimal(solver.weight_decay),
        batch_size=plan.batch_size,
        epochs=plan.taken["epochs"],
        gamma=_decimal(solver.gamma),
        drop_epochs=tuple(float(f"{value / plan.epoch_iters:.4g}") for value in solver.stepvalue),
    )


def _decimal(value: float) -> float:
    """The short number that a float32 was made of: 0.9, not 0.899999976."""
    return float(f"{value:.7g}")


def seconds_of(log: LogParser) -> float | None:
    """Seconds of training and testing by the log's own clock, pauses between sessions left out."""
    found = [rows[-1].seconds for rows in (log.train, log.test) if rows and rows[-1].seconds is not None]
    return round(max(found), 1) if found else None


def _images_per_second(log: LogParser, batch_size: int) -> float | None:
    """Training images over seconds between the displayed losses, tests and snapshots included."""
    images = seconds = 0.0
    for before, after in itertools.pairwise(log.train):
        if before.session == after.session and before.seconds is not None and after.seconds is not None:
            images += (after.iteration - before.iteration) * batch_size
            seconds += after.seconds - before.seconds
    return images / seconds if seconds > 0 else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def summary(result: Record) -> str:
    """A finished run in one line."""
    error = result.test_error_percent
    words = [f"{result.model} on {result.dataset}: test error "]
    words.append("not a number" if error is None else f"{error:.2f} %")
    if result.published_error_percent is not None:
        words.append(f" (the paper on {result.paper_title}: {result.published_error_percent:.2f} %)")
    words.append(f", {result.parameters:,} parameters, {result.epochs:g} epochs, seed {result.seed}, {result.engine}")
    if result.seconds is not None:
        words.append(f", {duration(result.seconds)}")
    best = result.best_on_test or {}
    if best.get("error_percent") is not None:
        words.append(f"; best on test, not a result: {best['error_percent']:.2f} % at iteration {best['iteration']}")
    return "".join(words)


def versions() -> dict[str, str]:
    """Python, the machine's kind, and the packages that matter."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    found["cpu"] = f"{os.cpu_count()} x {cpuinfo.model_name()}"
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


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
