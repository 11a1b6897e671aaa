"""The runs at hand: every ``result.json`` below some folders, with the curves beside it, and their means over seeds."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from allconv_caffe.report import record
from allconv_caffe.report.log import parse_log
from allconv_caffe.report.record import Record, ReportError


@dataclass(frozen=True)
class Run:
    """One finished or unfinished training.

    folder: where its record lies. record: what stands in ``result.json``.
    """

    folder: Path
    record: Record

    def curve(self, kind: str) -> list[tuple[float, float]]:
        """(epoch, value) of every point: ``train`` gives the loss, ``test`` the error in percent."""
        column = {"train": "loss", "test": "error_percent"}[kind]
        path = self.folder / f"{kind}.csv"
        if path.exists():
            try:
                with open(path, newline="", encoding="utf-8") as file:
                    return [
                        (float(row["epoch"]), float(row[column]))
                        for row in csv.DictReader(file)
                        if row.get(column) and row.get("epoch")
                    ]
            except (OSError, ValueError, csv.Error) as error:
                raise ReportError(path, error, "the points of a run") from None
        log_path = self.folder / "log"
        if not log_path.exists():
            return []
        log = parse_log(log_path)
        epoch_iters = (self.record.max_iter or 0) / self.record.epochs or 1.0
        if kind == "train":
            return [(row.iteration / epoch_iters, row.loss) for row in log.train]
        return [(row.iteration / epoch_iters, row.error_percent) for row in log.test if row.error_percent is not None]


def same_dataset(name: str, title: str) -> bool:
    """Whether ``name`` is the data set ``title`` or a marked copy of it, such as "CIFAR-10 (JPEG)"."""
    return name == title or name.startswith(f"{title} (")


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """Every run below the folders, in order of their paths; attempts that were given up are part of their run.

    Raises:
        ReportError: a ``result.json`` that is not one.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        for path in sorted(Path(folder).rglob("result.json")):
            if any(part.startswith("attempt-") for part in path.parts):
                continue
            found.setdefault(path.resolve(), Run(path.parent, record.read(path)))
    return list(found.values())


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
