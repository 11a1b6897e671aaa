"""The prototxt of a run: rendered once, with a mark in place of each path that only the run's directory decides."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from allconv_caffe.paper import render
from allconv_caffe.paper.assumptions import Assumption, assumptions
from allconv_caffe.paper.experiments import Experiment
from allconv_caffe.paper.options import RenderOptions, options_from
from allconv_caffe.paper.schedules import Timetable
from allconv_caffe.train.settings import DriverError

SOLVER, TRAIN_VAL, DEPLOY = render.FILES
PLAIN_SOLVER = render.PLAIN_SOLVER
SOLVERS = (SOLVER, PLAIN_SOLVER)

_MARKS = {
    "net_path": "NET",
    "snapshot_prefix": "PREFIX",
    "train_lmdb": "TRAIN",
    "test_lmdb": "TEST",
    "mean_file": "MEAN",
}
"""What stands in prototxt for each path, between two "@"; without them in what a run's identity is taken of."""


def _mark(option: str) -> str:
    return f"@{_MARKS[option]}@"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a run's files lie, as prototxt names them, and on what it runs."""

    net_path: str
    snapshot_prefix: str
    train_lmdb: str
    test_lmdb: str
    mean_file: str
    """"" where nothing is subtracted, or a value for each channel."""
    devices: int
    """GPUs; 0 on a CPU."""


class Prototxt(Protocol):
    """The solver and the nets of a run, for one seed, as `Rendered` makes them of an experiment."""

    @property
    def timetable(self) -> Timetable:
        """The schedule in iterations."""

    @property
    def batch_size(self) -> int:
        """Images of one update."""

    @property
    def stages(self) -> tuple[tuple[str, int], ...]:
        """The solvers, each with the iteration that it ends at: it goes on from the last snapshot of the one before."""

    @property
    def last_solver(self) -> str:
        """The file of the solver that trains to the end."""

    def identity_lines(self) -> list[str]:
        """The lines that decide a run's outcome."""

    def files(self, places: Places) -> dict[str, str]:
        """The texts as they are run, by file name. Raises: DriverError."""

    def assumptions(self) -> list[Assumption]:
        """What the paper leaves open, as taken."""


class Rendered:
    """The three files of an experiment, rendered for a seed; the paths are filled in when they are written."""

    def __init__(self, experiment: Experiment, options: Mapping[str, Any], subtracts_mean: bool) -> None:
        """
        Args:
            options: fields of ``RenderOptions``, ``random_seed`` among them, without paths.
            subtracts_mean: whether the data layers get a mean file.
        Raises:
            TableError: an option that does not serve.
        """
        self.experiment = experiment
        values: dict[str, Any] = dict(options)
        paths = [name for name in _MARKS if name != "mean_file" or (subtracts_mean and not options.get("mean_value"))]
        values |= {name: _mark(name) for name in paths if name not in values}
        self.options: RenderOptions = options_from(values, "settings")
        self.timetable: Timetable = render.resolve_timetable(experiment, self.options)
        self.batch_size: int = self.options.batch_size or experiment.schedule.batch_size
        self._texts = render.render(experiment, self.options)

    @property
    def stages(self) -> tuple[tuple[str, int], ...]:
        """The solvers, each with the iteration that it ends at: it goes on from the last snapshot of the one before."""
        plain_iter = self.timetable.plain_iter
        return (*(((SOLVER, plain_iter),) if plain_iter else ()), (self.last_solver, self.timetable.max_iter))

    @property
    def last_solver(self) -> str:
        """The file of the solver that trains to the end."""
        return PLAIN_SOLVER if self.timetable.plain_iter else SOLVER

    def assumptions(self) -> list[Assumption]:
        """What the paper leaves open, as taken here."""
        return assumptions(self.experiment.network(self.options), self.options)

    def identity_lines(self) -> list[str]:
        """The lines of solver and net that decide a run's outcome: whole-line comments and paths left out."""
        return [
            re.sub(r"@([A-Z]+)@", r"\1", line)
            for name, text in self._texts.items()
            if name != DEPLOY
            for line in text.splitlines()
            if line[:1] != "#"
        ]

    def files(self, places: Places) -> dict[str, str]:
        """The texts as they are run.

        Raises:
            DriverError: a path that prototxt cannot hold; a batch that cannot be divided among GPUs.
        """
        found = {}
        for name, text in self._texts.items():
            head, _, body = text.partition("\n")
            if not places.devices:
                head += " --solver-mode CPU"
                if name in SOLVERS:
                    body = body.replace("\nsolver_mode: GPU\n", "\nsolver_mode: CPU\n")
            if name == TRAIN_VAL and places.devices > 1:
                body = self._divided(body, places.devices)
            for option in _MARKS:
                path = getattr(places, option)
                forbidden = '"\\\n' + ("'" if self.experiment.dataset.augmented else "")
                if any(sign in path for sign in forbidden):
                    raise DriverError(path, "expected a path without quotes, backslashes or line ends")
                head = head.replace(_mark(option), shlex.quote(path))
                body = body.replace(_mark(option), path)
            found[name] = f"{head}\n{body}"
        return found

    def _divided(self, text: str, devices: int) -> str:
        """The training batch divided among the GPUs: Caffe reads that many images on each."""
        each, count = self.batch_size // devices, 0
        layers = re.split(r"(?m)^(?=layer \{)", text)
        for index, layer in enumerate(layers):
            if "phase: TRAIN" in layer:
                layers[index], found = re.subn(rf'(batch_size"?: ){self.batch_size}(?=\D)', rf"\g<1>{each}", layer)
                count += found
        if not count:
            raise DriverError(TRAIN_VAL, f"found no training batch_size {self.batch_size}, expected one to divide")
        return f"# batch_size in training is {self.batch_size} / {devices}, on each of {devices} GPUs\n" + "".join(
            layers
        )
