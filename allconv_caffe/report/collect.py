"""The runs at hand: every ``result.json`` below some folders, with the curves beside it, and their means over seeds."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allconv_caffe import files
from allconv_caffe.errors import FoundError
from allconv_caffe.report.log import parse_log

_NEEDED = ("experiment", "model", "status", "test_error_percent", "parameters", "dataset", "seed", "epochs", "engine")
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("experiment", "model", "status", "dataset", "engine"), str),
    **dict.fromkeys(
        ("source", "preprocessing", "paper_dataset", "paper_title", "schedule", "engine_version"), str | None
    ),
    **dict.fromkeys(("device", "precision", "rng", "published_parameters", "finished", "caffemodel"), str | None),
    "epochs": float,
    **dict.fromkeys(("test_error_percent", "published_error_percent", "lr", "seconds"), float | None),
    **dict.fromkeys(("images_per_second", "test_iteration"), float | None),
    "seed": int,
    **dict.fromkeys(("parameters", "iterations", "max_iter", "batch_size"), int | None),
    **dict.fromkeys(("n_train", "n_test", "classes", "resumed"), int | None),
    **dict.fromkeys(("best_on_test", "options"), dict | None),
    "attempts": list[dict],
    "assumptions": list[str],
}
"""What the entries of a record are. Those beside `_NEEDED` may be absent."""

_LAYOUT = ("display", "test_interval", "snapshot", "test_batch_size", "num_output", "n_train", "n_test")
_NETWORK = ("dropout", "stride_on", "fc_head")


class ReportError(FoundError, ValueError):
    """A record cannot be read; the text says where, what was found and what was expected."""


@dataclass(frozen=True)
class Run:
    """One finished or unfinished training.

    folder: where its record lies. result: what stands in ``result.json``.
    """

    folder: Path
    result: dict[str, Any]

    @property
    def experiment(self) -> str:
        """Name of the experiment, e.g. ``cifar10-allcnn-c``."""
        return str(self.result["experiment"])

    @property
    def error_percent(self) -> float | None:
        """Test error of the last iteration; None if it is not a number or the training is not done."""
        value = self.result["test_error_percent"]
        return float(value) if self.done and value is not None else None

    @property
    def done(self) -> bool:
        """Whether the training reached its last iteration."""
        return bool(self.result["status"] == "done")

    @property
    def variant(self) -> str:
        """Preprocessing and options that depart from the experiment's own recipe, as words; "" for none."""
        return ", ".join(filter(None, [self._preprocessing(), self._options(lambda key: key not in _LAYOUT)]))

    @property
    def network(self) -> str:
        """The experiment's name, with ``|option value`` behind it where an option makes it another network."""
        words = self._options(lambda key: key in _NETWORK)
        return f"{self.experiment}|{words}" if words else self.experiment

    @property
    def conditions(self) -> tuple[str, float, str]:
        """What must be equal for two networks to be compared: data set, epochs, schedule and recipe without base_lr."""
        kind, _, rest = str(self.result.get("schedule", "")).partition(" base_lr ")
        recipe = self._options(lambda key: key not in _LAYOUT + _NETWORK)
        images = f"{self.result.get('n_train')} and {self.result.get('n_test')} images"
        schedule = "; ".join(
            [kind, rest.partition(",")[2].strip(), images, recipe, *filter(None, [self._preprocessing()])]
        )
        return str(self.result["dataset"]), float(self.result["epochs"]), schedule

    def _preprocessing(self) -> str:
        """``preprocessing raw`` where the images were not whitened as in the paper; "" where they were."""
        found = self.result.get("preprocessing") or "gcn-zca"
        return "" if found == "gcn-zca" else f"preprocessing {found}"

    def _options(self, wanted: Callable[[str], bool]) -> str:
        options = self.result.get("options") or {}
        return ", ".join(f"{key} {options[key]}" for key in sorted(options) if wanted(key))

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
        epoch_iters = float(self.result.get("max_iter", 0)) / float(self.result["epochs"]) or 1.0
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
            result = files.read_json(path, "the record of a run", ReportError)
            if missing := [key for key in _NEEDED if key not in result]:
                raise ReportError(path, f"no {', '.join(missing)}", "the record of a run")
            files.check_kinds(path, result, _KINDS, ReportError)
            found.setdefault(path.resolve(), Run(path.parent, result))
    return list(found.values())


@dataclass(frozen=True)
class Measured:
    """Done runs of one experiment under equal conditions, that differ in their seed.

    errors: test error in percent of the last iteration, one per run whose error is a number.
    """

    runs: tuple[Run, ...]

    @property
    def first(self) -> dict[str, Any]:
        """The record of the first run, for what is equal in all."""
        return self.runs[0].result

    @property
    def errors(self) -> list[float]:
        return [run.error_percent for run in self.runs if run.error_percent is not None]

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
        return ", ".join(str(run.result["seed"]) for run in self.runs)

    @property
    def seconds(self) -> float | None:
        """Mean duration of a run in seconds; None where it is not known."""
        known = [float(run.result["seconds"]) for run in self.runs if run.result.get("seconds") is not None]
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
        if run.done:
            key = (
                run.experiment,
                run.variant,
                run.conditions,
                run.result.get("lr"),
                run.result["engine"],
                run.result.get("precision"),
            )
            groups.setdefault(key, []).append(run)
    return [Measured(tuple(sorted(group, key=lambda run: int(run.result["seed"])))) for group in groups.values()]
