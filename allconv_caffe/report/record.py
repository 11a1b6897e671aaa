"""The record of a run, ``result.json``: what it says, as fields. Records of other times are converted here, when they are read."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from allconv_caffe import files
from allconv_caffe.errors import FoundError
from allconv_caffe.paper.experiments import EXPERIMENTS


class ReportError(FoundError, ValueError):
    """A record cannot be read; the text says where, what was found and what was expected."""


def epochs_words(epochs: float) -> str:
    """So many, for people."""
    return f"{epochs:g} epoch{'' if epochs == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the rate went, but for the rate itself: what must be equal for two networks to be compared."""

    type: str  # of the solver
    lr_policy: str
    momentum: float
    weight_decay: float
    batch_size: int  # images of one update
    epochs: float  # in all
    gamma: float | None = None  # None: not recorded
    drop_epochs: tuple[float, ...] = ()  # after which the rate drops, to four digits

    def __str__(self) -> str:
        """As a line for people."""
        words = [f"{self.type} {self.lr_policy}, momentum {self.momentum:g}, weight_decay {self.weight_decay:g}"]
        words.append(f"batch {self.batch_size}")
        if self.drop_epochs:
            words.append("drops after epochs " + ", ".join(f"{drop:.4g}" for drop in self.drop_epochs))
        return "; ".join([*words, epochs_words(self.epochs)])


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What must be equal for two networks to be compared: the recipe without the rate."""

    dataset: str
    epochs: float
    schedule: Schedule | None
    images: tuple[int | None, int | None]  # for training, for the test
    recipe: str  # options and preprocessing

    def __str__(self) -> str:
        return f"{self.dataset}, {epochs_words(self.epochs)}"

    @property
    def order(self) -> tuple[object, ...]:
        """By which tables are sorted."""
        return self.dataset, self.epochs, str(self.schedule), str(self.images), self.recipe


_LAYOUT = ("display", "test_interval", "snapshot", "test_batch_size", "num_output", "n_train", "n_test")
_NETWORK = ("dropout", "stride_on", "fc_head")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A run, finished or not. What has a default may be absent from the record of an older run."""

    experiment: str  # its name, e.g. ``cifar10-allcnn-c``
    model: str  # the network, as tables call it
    status: str  # done, interrupted or dead; begun where there is no result yet
    test_error_percent: float | None  # of the last iteration; None: not a number
    parameters: int | None  # weights and biases, counted in the caffemodel; None: not done
    dataset: str  # as tables call it
    seed: int  # of the last attempt
    epochs: float  # in all
    engine: str  # caffe or torch
    source: str | None = None  # the row of the paper
    test_iteration: int | None = None  # where the error was measured
    best_on_test: dict | None = None  # error_percent, iteration, note: chosen on test data, no result
    published_error_percent: float | None = None
    published_parameters: str | None = None  # the paper's words
    preprocessing: str | None = (
        None  # gcn-zca, gcn, raw; "" where no manifest says it; None: gcn-zca, the only one then
    )
    paper_dataset: str | None = None  # the experiment's own: its name,
    paper_title: str | None = None  # and as tables call it
    iterations: int | None = None  # reached
    max_iter: int | None = None
    schedule: Schedule | None = None
    lr: float | None = None  # base_lr
    batch_size: int | None = None  # images of one update
    engine_version: str | None = None
    device: str | None = None  # the GPU's name, or CPU
    precision: str | None = None
    rng: str | None = None  # whose random numbers: torch or caffe
    caffe_flags: list[str] = field(default_factory=list)  # the user's own, for the engine
    seconds: float | None = None  # of training and testing, pauses left out
    images_per_second: float | None = None  # of training, tests and snapshots included
    n_train: int | None = None  # images
    n_test: int | None = None  # images
    classes: int | None = None
    class_errors_percent: dict | None = None  # test error by class name, of the last weights
    validation: int | None = None  # of the training images, held out and tested on: the error is theirs
    data_sha256: dict | None = None  # of the LMDBs by split, and of the source
    attempts: list[dict] = field(default_factory=list)  # each with seed, status, why it died
    resumed: int | None = None  # times
    course: dict | None = None  # what was decided at the check-points on the way, and for what they are confirmed
    options: dict | None = None  # of ``allconv render``
    assumptions: list[str] = field(default_factory=list)  # "key: value" of what the paper leaves open
    finished: str | None = None  # UTC
    caffemodel: str | None = None  # the last weights, from the project's root

    @property
    def done(self) -> bool:
        """Whether the training reached its last iteration."""
        return self.status == "done"

    @property
    def error_percent(self) -> float | None:
        """Test error of the last iteration; None if it is not a number or the training is not done."""
        return self.test_error_percent if self.done else None

    @property
    def settings(self) -> tuple[object, ...]:
        """What must be equal, beside `conditions` and `variant`, for runs to be averaged over their seeds."""
        return self.lr, self.engine, self.precision or "float32", self.rng or "torch", *self.caffe_flags

    @property
    def schedule_words(self) -> str:
        """Schedule and rate as a line for people; "" where they are not recorded."""
        rate = "" if self.lr is None else f"base_lr {self.lr:g}; "
        return "" if self.schedule is None else f"{rate}{self.schedule}"

    @property
    def variant(self) -> str:
        """Preprocessing and options that depart from the experiment's own recipe, as words; "" for none."""
        return ", ".join(filter(None, [self._preprocessing(), self._options(_LAYOUT)]))

    @property
    def network(self) -> str:
        """The experiment's name, with ``|option value`` behind it where an option makes it another network."""
        others = tuple(key for key in self.options or {} if key not in _NETWORK)
        words = self._options(others)
        return f"{self.experiment}|{words}" if words else self.experiment

    @property
    def conditions(self) -> Conditions:
        """What must be equal for two networks to be compared: data set, epochs, schedule and recipe without base_lr."""
        return Conditions(
            dataset=self.dataset,
            epochs=self.epochs,
            schedule=self.schedule,
            images=(self.n_train, self.n_test),
            recipe=", ".join(filter(None, [self._options(_LAYOUT + _NETWORK), self._preprocessing()])),
        )

    def _preprocessing(self) -> str:
        """``preprocessing raw`` where it is not the experiment's own; "" where it is."""
        entry = EXPERIMENTS.get(self.experiment)
        own = entry.dataset.recipe.preprocessing if entry and entry.dataset.recipe else "gcn-zca"
        return f"preprocessing {self.preprocessing}" if self.preprocessing and self.preprocessing != own else ""

    def _options(self, without: tuple[str, ...]) -> str:
        options = self.options or {}
        return ", ".join(f"{key} {options[key]}" for key in sorted(options) if key not in without)

    def to_json(self) -> dict[str, Any]:
        """As it is written: whoever reads it with `read` gets an equal one."""
        content = dataclasses.asdict(self)
        if self.schedule is not None:
            content["schedule"]["drop_epochs"] = list(self.schedule.drop_epochs)
        return content


_KINDS: dict[str, Any] = typing.get_type_hints(Record)
_BEST = {"error_percent": float, "iteration": int}


def read(path: Path) -> Record:
    """The record in a file.

    Raises:
        ReportError: no record of a run; entry, what was found and what was expected.
    """
    return from_json(files.read_json(path, "the record of a run", ReportError), path)


def from_json(content: Mapping[str, Any], where: object = "record") -> Record:
    """A record out of JSON, of today or of another time; entries that no field has are left out."""
    content = dict(content)
    _check_needed(Record, content, where)
    schedule = content.pop("schedule", None)
    if isinstance(schedule, str):
        schedule = _schedule_of_words(schedule, where)
    elif schedule is not None:
        files.check_kinds(where, {"schedule": schedule}, {"schedule": dict}, ReportError)
        _check_needed(Schedule, schedule, f"{where}: schedule")
        files.check_kinds(f"{where}: schedule", schedule, typing.get_type_hints(Schedule), ReportError)
        known = {entry.name: schedule[entry.name] for entry in fields(Schedule) if entry.name in schedule}
        schedule = Schedule(**{**known, "drop_epochs": tuple(known.get("drop_epochs", ()))})
    files.check_kinds(where, content, _KINDS, ReportError)
    if not content["epochs"] > 0:
        raise ReportError(where, f"epochs {content['epochs']}", "a number above 0")
    best = content.get("best_on_test") or {}
    if best.get("error_percent") is not None:
        files.check_kinds(f"{where}: best_on_test", {key: best.get(key) for key in _BEST}, _BEST, ReportError)
    known = {name: content[name] for name in _KINDS if name in content}
    return Record(**{**known, "epochs": float(known["epochs"])}, schedule=schedule)


def _check_needed(kind: type, content: Mapping[str, Any], where: object) -> None:
    needed = [entry.name for entry in fields(kind) if entry.default is entry.default_factory is MISSING]
    if missing := [name for name in needed if name not in content]:
        raise ReportError(where, f"no {', '.join(missing)}", "the record of a run")


# ---------------------------------------------------------------------------------------------------------------------
# Records of other times

_WORDS = re.compile(
    r"(?P<type>\w+) (?P<lr_policy>\w+) base_lr \S+, momentum (?P<momentum>\S+); weight_decay (?P<weight_decay>\S+), "
    r"batch (?P<batch_size>\d+)(?:; drops after epochs (?P<drops>[^;]+))?; (?P<epochs>\S+) epochs"
)
"""Until version 0.1 the schedule was a line: SGD multistep base_lr 0.05, momentum 0.9; weight_decay 0.001, batch 128; ..."""


def _schedule_of_words(words: str, where: object) -> Schedule | None:
    if not words:
        return None
    if (match := _WORDS.fullmatch(words)) is None:
        raise ReportError(where, f"schedule {words!r}"[:80], "an object, or the line that it was until version 0.1")
    return Schedule(
        type=match["type"],
        lr_policy=match["lr_policy"],
        momentum=float(match["momentum"]),
        weight_decay=float(match["weight_decay"]),
        batch_size=int(match["batch_size"]),
        epochs=float(match["epochs"]),
        gamma=0.1 if match["lr_policy"] in ("multistep", "step") else None,  # every rendered schedule had it
        drop_epochs=tuple(float(drop) for drop in (match["drops"] or "").split(",") if drop.strip()),
    )
