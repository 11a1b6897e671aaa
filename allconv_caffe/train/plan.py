"""What is to be run, with nothing left open: experiment, settings, engine, data, prototxt, and the run's directory."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allconv_caffe import files
from allconv_caffe.paper.assumptions import Assumption
from allconv_caffe.paper.experiments import Experiment
from allconv_caffe.paper.options import options_from
from allconv_caffe.proto import fork_fields
from allconv_caffe.train import data as data_, engine as engine_, own as own_, settings as settings_
from allconv_caffe.train.data import PreparedData
from allconv_caffe.train.engine import Engine
from allconv_caffe.train.folder import SETTINGS_FILE, read_json
from allconv_caffe.train.own import Found, Own, OwnNet
from allconv_caffe.train.prototxt import TRAIN_VAL, Places, Prototxt, Rendered
from allconv_caffe.train.settings import DriverError, RunSettings

_SET_BY_THE_DRIVER = {
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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run, decided."""

    experiment: Experiment
    settings: RunSettings
    engine: Engine
    data: PreparedData
    root: Path
    """Absolute; what relative paths in prototxt begin from."""
    prototxt: Prototxt
    """Of the seed that the settings name."""
    render: Callable[[RunSettings], Prototxt]
    """Makes it of other settings."""
    taken: dict[str, Any]
    """The value of every setting, by name: what was left open is decided."""
    identity: str
    """A digest of everything that decides the outcome: what is rendered, the data, the engine and its precision."""
    folder: Path
    """The run's directory."""

    @property
    def batch_size(self) -> int:
        """Images of one update."""
        return self.prototxt.batch_size

    @property
    def max_iter(self) -> int:
        """The last iteration."""
        return self.prototxt.timetable.max_iter

    @property
    def epoch_iters(self) -> float:
        """Iterations of an epoch; in general no whole number."""
        return self.data.n_train / self.batch_size

    @property
    def prefix(self) -> Path:
        """The solver's snapshot_prefix."""
        return self.folder / "snapshots" / self.experiment.name

    @property
    def last_model(self) -> Path:
        """The weights of the last iteration."""
        return self.prefix.with_name(f"{self.prefix.name}_iter_{self.max_iter}.caffemodel")

    def path(self, path: Path) -> str:
        """As prototxt and command lines name it: from the root where it lies below it."""
        path = Path(os.path.abspath(path))
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def files(self, seed: int) -> dict[str, str]:
        """Solver, train_val and deploy as they are run with a seed."""
        places = Places(
            net_path=self.path(self.folder / TRAIN_VAL),
            snapshot_prefix=self.path(self.prefix),
            train_lmdb=self.path(self.data.train_lmdb),
            test_lmdb=self.path(self.data.test_lmdb),
            mean_file=self.path(self.data.mean_file) if self.data.mean_file else "",
            devices=len(self.engine.gpus),
        )
        prototxt = self.prototxt
        if seed != self.settings.seed:
            prototxt = self.render(replace(self.settings, seed=seed))
        return prototxt.files(places)

    def assumptions(self) -> list[Assumption]:
        """What the paper leaves open, as taken here."""
        return self.prototxt.assumptions()


def plan(
    subject: Experiment | OwnNet,
    settings: RunSettings,
    say: Callable[[str], None],
    engine: Engine | None = None,
    prepare: bool = True,
) -> Plan:
    """Decide everything about a run; data that are missing are prepared, nothing else is written.

    Args:
        subject: an experiment, or a net of somebody's own.
        engine: None: the one that the settings name.
        prepare: data that are missing; else they raise ``NotPrepared``.
    Raises:
        DriverError, TableError: a setting, the data or the engine does not serve; one line.
    """
    settings = _settled(settings)
    settings_.check(settings)
    root = settings.root.resolve()
    _check_runs_dir(root / settings.runs_dir)
    given, engine = engine, engine or engine_.choose(settings)
    if given is None:
        say(engine.describe())
    render: Callable[[RunSettings], Prototxt]
    if isinstance(subject, OwnNet):
        foreign = fork_fields.sentence(subject.net)
        if foreign:
            say(foreign)
        found = own_.find_data(subject, settings, root, say, prepare)
        render = functools.partial(_own, subject, found)
        experiment, data = _own(subject, found, settings).experiment(), found.data
    else:
        experiment, data = subject, _data(subject, settings, root, say, prepare)
        render = functools.partial(_rendered, experiment, data)
    say(f"data: {data.display_name}, {data.n_train} training and {data.n_test} test images, {data.folder}")
    _hint(experiment, settings, data, say)
    prototxt = render(settings)
    devices = len(engine.gpus)
    if devices and prototxt.batch_size % devices:
        raise DriverError(
            f"GPU={','.join(map(str, engine.gpus))}",
            f"found batch size {prototxt.batch_size}, expected a multiple of {devices} GPUs",
        )
    taken = {name: getattr(settings, name) for name in settings_.SETTINGS} | {
        "engine": engine.name,
        "gpu": devices or 1,
        "data": data,
        "epochs": prototxt.timetable.epochs,
        "batch_size": prototxt.batch_size,
        "lr": settings.lr or experiment.schedule.base_lr,
        "options": dict(settings.options),
        "caffe_flags": list(settings.caffe_flags),
    }
    facts = [prototxt.identity_lines(), settings_.facts(taken)]
    identity = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    runs = settings.runs_dir if settings.runs_dir.is_absolute() else root / settings.runs_dir
    return Plan(
        experiment=experiment,
        settings=settings,
        engine=engine,
        data=data,
        root=root,
        prototxt=prototxt,
        render=render,
        taken=taken,
        identity=identity,
        folder=_folder(runs / experiment.name, experiment, taken, identity),
    )


def _settled(settings: RunSettings) -> RunSettings:
    """Rate, epochs and batch size that are given as options are settings: the record and the name of a run say them.

    Raises:
        DriverError, TableError: one of them given twice, an option that the driver sets itself, a value that does not
        serve.
    """
    options: dict[str, Any] = dict(settings.options)
    changes: dict[str, Any] = {}
    for option, name in settings_.by_option(options).items():
        given = getattr(settings, name)
        if settings_.SETTINGS[name].default is not None:
            raise DriverError(f"option {option}", f"found {options[option]}, expected {name.upper()}")
        if given is not None:
            raise DriverError(
                f"{name.upper()}={given}", f"found option {option}={options[option]} beside it, expected one of the two"
            )
        changes[name] = options.pop(option)
    for option, instead in _SET_BY_THE_DRIVER.items():
        if option in options:
            raise DriverError(f"option {option}", f"found {options[option]}, expected {instead}")
    settings = replace(settings, options=options, **changes)
    options_from({**options, **{name: getattr(settings, name) for name in changes}}, "settings")
    return settings


def _check_runs_dir(folder: Path) -> None:
    """Raises DriverError where no run directory can be made: before data are prepared, not after."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        found = "a folder without permission to write" if place.is_dir() else "a file"
        raise DriverError(place, f"found {found}, expected a folder for the runs (choose one with --runs-dir)")


def _data(
    experiment: Experiment, settings: RunSettings, root: Path, say: Callable[[str], None], prepare: bool
) -> PreparedData:
    """What an experiment is trained on."""
    data = data_.ensure(experiment, settings.data, root, say, download=settings.download, prepare=prepare)
    if settings.validation is not None:
        data = data_.held_out(data, settings.validation, experiment.dataset, say, prepare)
    return data


def _hint(experiment: Experiment, settings: RunSettings, data: PreparedData, say: Callable[[str], None]) -> None:
    """Say of raw images that the published rates are not meant for them."""
    usual = experiment.dataset.recipe.preprocessing if experiment.dataset.recipe else data.preprocessing
    if data.preprocessing == "raw" != usual and "scale" not in settings.options:
        say(
            "data: raw bytes minus the mean image, up to 255: the published rates are for whitened images with a "
            "standard deviation near 0.5; --set scale=0.0078125 brings raw ones there"
        )


def _own(own: OwnNet, found: Found, settings: RunSettings) -> Own:
    return Own(own, settings, found)


def _rendered(experiment: Experiment, data: PreparedData, settings: RunSettings) -> Rendered:
    options = {
        **data.options(experiment.dataset),
        **settings.options,
        **settings_.rendered(settings),
    }
    return Rendered(experiment, options, data.mean_file is not None)


def _folder(runs: Path, experiment: Experiment, taken: dict[str, Any], identity: str) -> Path:
    """The run's directory: the one that holds this identity, or a readable name, with a digest behind it where other
    settings took that name.
    """
    schedule = experiment.schedule
    dataset = experiment.dataset
    usual = {
        "lr": schedule.base_lr,
        "batch_size": schedule.batch_size,
        "gpu": 1,
        "data": (dataset.title, dataset.recipe.preprocessing if dataset.recipe else "gcn-zca"),
    }
    name = "-".join(settings_.words(taken, usual))
    short = files.shortened(name)
    named = runs / f"{short}-{identity[:8]}"
    plain = runs / name if short == name else named
    for folder in (plain, named):
        if _identity_in(folder) == identity:
            return folder
    for file in sorted(runs.glob(f"*/{SETTINGS_FILE}")):  # named in a time when the experiment had other defaults
        with contextlib.suppress(DriverError):
            if _identity_in(file.parent) == identity:
                return file.parent
    return named if (plain / SETTINGS_FILE).exists() else plain


def _identity_in(folder: Path) -> str | None:
    file = folder / SETTINGS_FILE
    return read_json(file).get("identity") if file.exists() else None
