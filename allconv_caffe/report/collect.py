"""The runs at hand: every ``result.json`` below some folders, every training at work, their curves and means over seeds."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from allconv_caffe import files
from allconv_caffe.paper.experiments import EXPERIMENTS
from allconv_caffe.report import record
from allconv_caffe.report.log import LogParser, parse_log
from allconv_caffe.report.record import Record, ReportError


@dataclass(frozen=True)
class Run:
    """One finished or unfinished training.

    folder: where its record lies. record: what stands in ``result.json``; of a training at work, in ``settings.json``.
    """

    folder: Path
    record: Record

    def curve(self, kind: str) -> list[tuple[float, float]]:
        """(epoch, value) of every point: ``train`` gives the loss, ``rate`` its learning rate, ``test`` the error in percent.

        A last test that the training's own log does not hold, because an epoch is no whole number of iterations, is
        taken from the record.
        """
        points = self._points(kind)
        found = self.record
        final = found.error_percent if kind == "test" and found.test_iteration == found.max_iter else None
        if final is not None and points and points[-1][0] < found.epochs * (1 - 1e-6):
            points.append((found.epochs, final))
        return points

    def _points(self, kind: str) -> list[tuple[float, float]]:
        column = {"train": "loss", "rate": "lr", "test": "error_percent"}[kind]
        path = self.folder / ("test.csv" if kind == "test" else "train.csv")
        if path.exists():
            try:
                with files.open_file(path) as file:
                    return [
                        (float(row["epoch"]), float(row[column]))
                        for row in csv.DictReader(io.TextIOWrapper(file, "utf-8", newline=""))
                        if row.get(column) and row.get("epoch")
                    ]
            except (OSError, ValueError, csv.Error) as error:
                raise ReportError(path, getattr(error, "strerror", None) or error, "the points of a run") from None
        log_path = self.folder / "log"
        if not log_path.exists():
            return []
        log = _log(log_path)
        epoch_iters = (self.record.max_iter or 0) / self.record.epochs or 1.0
        if kind == "rate":
            return [(row.iteration / epoch_iters, row.lr) for row in log.train if row.lr is not None]
        if kind == "train":
            return [(row.iteration / epoch_iters, row.loss) for row in log.train]
        return [(row.iteration / epoch_iters, row.error_percent) for row in log.test if row.error_percent is not None]


def _log(path: Path) -> LogParser:
    try:
        return parse_log(path)
    except OSError as error:
        raise ReportError(path, error.strerror or str(error), "the log of a run") from None


BEGUN = "begun"
"""The status of a run without a result: at work, or killed."""

_BEGUN = (
    *("seed", "epochs", "engine", "lr", "batch_size", "precision", "rng", "caffe_flags", "validation", "options"),
    "max_iter",
)
"""What ``settings.json`` keeps of a run that its record keeps too."""


def same_dataset(name: str, title: str) -> bool:
    """Whether ``name`` is the data set ``title`` or a marked copy of it, such as "CIFAR-10 (JPEG)"."""
    return name == title or name.startswith(f"{title} (")


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """Every run below the folders, in order of their paths; attempts that were given up are part of their run.

    A training without a result, because it is still at work or was killed, is a run that has begun.

    Raises:
        ReportError: a ``result.json`` that is not one, or the ``settings.json`` of a run that has begun.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        places = {path.parent for name in ("result.json", "settings.json") for path in Path(folder).rglob(name)}
        for place in sorted(places):
            if any(part.startswith("attempt-") for part in place.parts):
                continue
            if (place / "result.json").exists():
                found.setdefault(place.resolve(), Run(place, record.read(place / "result.json")))
            elif (place / "log").exists():
                found.setdefault(place.resolve(), Run(place, _begun(place)))
    return list(found.values())


def _begun(folder: Path) -> Record:
    """What ``settings.json`` and the log say of a training without a result."""
    path = folder / "settings.json"
    content = files.read_json(path, "the settings of a run", ReportError)
    kinds = {"experiment": str, "settings": dict, "data": dict}
    if missing := [key for key in kinds if key not in content]:
        raise ReportError(path, f"no {', '.join(missing)}", "the settings of a run")
    files.check_kinds(path, content, {**kinds, "title": str | None, "assumptions": list[dict] | None}, ReportError)
    settings, data, name = content["settings"], content["data"], content["experiment"]
    entry, log = EXPERIMENTS.get(name), _log(folder / "log")
    assumed = [f"{each.get('key')}: {each.get('value')}" for each in content.get("assumptions") or ()]
    known = {
        **{key: settings[key] for key in _BEGUN if key in settings},
        **{key: data[key] for key in ("dataset", "n_train", "n_test", "classes", "preprocessing") if key in data},
        "experiment": name,
        "model": content.get("title") or (entry.title if entry else name),
        "status": BEGUN,
        "test_error_percent": None,
        "parameters": None,
        "iterations": max((rows[-1].iteration for rows in (log.train, log.test) if rows), default=0),
        "assumptions": assumed,
    }
    return record.from_json(known, path)


@dataclass(frozen=True)
class Measured:
    """Done runs of one experiment under equal conditions, that differ in their seed.

    errors: test error in percent of the last iteration, one per run whose error is a number.
    """

    runs: tuple[Run, ...]

    @property
    def first(self) -> Record:
        """The record of the first run, for what is equal in all."""
        return self.runs[0].record

    @property
    def errors(self) -> list[float]:
        return [run.record.error_percent for run in self.runs if run.record.error_percent is not None]

    @property
    def mean(self) -> float | None:
        """Mean error in percent; None without one."""
        return statistics.fmean(self.errors) if self.errors else None

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds (N - 1); None for fewer than two."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None

    @property
    def seeds(self) -> str:
        """``1, 2, 3``."""
        return ", ".join(str(run.record.seed) for run in self.runs)

    @property
    def seconds(self) -> float | None:
        """Mean duration of a run in seconds; None where it is not known."""
        known = [run.record.seconds for run in self.runs if run.record.seconds is not None]
        return statistics.fmean(known) if known else None

    def error_words(self) -> str:
        """``9.21 % +- 0.10 (3 runs)``, ``9.21 %``, or ``not a number``."""
        if self.mean is None:
            return "not a number"
        words = f"{self.mean:.2f} %"
        return words if self.std is None else f"{words} ± {self.std:.2f} ({len(self.errors)} runs)"


def measured(runs: Sequence[Run]) -> list[Measured]:
    """Done runs gathered over seeds: same experiment, options, conditions, rate, engine and precision."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        found = run.record
        if found.done:
            key = (found.experiment, found.variant, found.conditions, found.settings)
            groups.setdefault(key, []).append(run)
    return [Measured(tuple(sorted(group, key=lambda run: run.record.seed))) for group in groups.values()]
