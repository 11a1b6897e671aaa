"""A grid of runs: experiments times lists of settings. Each is an ordinary run, in a directory of its own."""

from __future__ import annotations

import hashlib
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from allconv_caffe import files
from allconv_caffe.errors import did_you_mean
from allconv_caffe.paper.datasets import CIFAR10
from allconv_caffe.paper.experiments import EXPERIMENTS
from allconv_caffe.paper.options import RenderOptions, option_from_text
from allconv_caffe.paper.rules import Numbers, Whole, rules
from allconv_caffe.train.prototxt import SOLVER
from allconv_caffe.train.settings import SETTINGS, DriverError, RunSettings, from_text

GROUPS: dict[str, tuple[str, ...]] = {
    "table-3": tuple(
        name for name, entry in EXPERIMENTS.items() if entry.source.startswith("Table 3") and entry.dataset == CIFAR10
    )
}
"""Experiments by the name of their table: the twelve networks of Table 3."""

Point = tuple[tuple[str, Any], ...]
"""One value of each setting of the grid, by name; an option of ``allconv render`` as ``set NAME``."""

_MOST_RUNS = 100_000  # a slip of the keyboard would otherwise fill the memory


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One run of a grid."""

    experiment: str  # its name
    settings: RunSettings
    point: Point  # what this run has and others of the grid have not, the seed apart

    @property
    def words(self) -> str:
        """What tells it from the other runs of the grid, for people."""
        return " ".join([self.experiment, *_point_words(self.point), f"seed {self.settings.seed}"])

    @property
    def key(self) -> str:
        """The same as a name for files, which have 255 bytes at most: a digest ends a longer one."""
        name = re.sub(r"[^A-Za-z0-9.]+", "-", self.words)
        short = files.shortened(name)
        return name if short == name else f"{short}-{hashlib.sha256(self.words.encode()).hexdigest()[:8]}"

    @property
    def command(self) -> str:
        """What runs it by hand."""
        words = ["allconv", "run", self.experiment]
        for name, setting in SETTINGS.items():
            value = getattr(self.settings, name)
            if not setting.flag or value == setting.default or (name == "options" and not value):
                continue
            if name == "options":
                words += [word for key, entry in value.items() for word in ("--set", f"{key}={_text(entry)}")]
            elif setting.kind is bool:
                words.append(f"--no-{name}")
            else:
                words += [setting.flag, _text(value)]
        flags = ["--", *self.settings.caffe_flags] if self.settings.caffe_flags else []
        return shlex.join([*words, *flags])


def point_words(point: Point) -> str:
    """``lr 0.05, set filler=msra``; "" for the only point of a grid."""
    return ", ".join(_point_words(point))


def _point_words(point: Point) -> list[str]:
    return [f"{name}={_text(value)}" if name.startswith("set ") else f"{name} {_text(value)}" for name, value in point]


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def chosen(patterns: Sequence[str], root: Path = Path()) -> list[str]:
    """The experiments that any of the patterns names, in the order of the paper's tables; then folders of own nets.

    A pattern is a name, a group (``table-3``), has ``*`` and ``?``, or is a folder below ``root`` that holds a solver; one
    that begins with ``!`` takes experiments away.

    Raises:
        DriverError: a pattern that names none.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        away = pattern.startswith("!")
        word = pattern.removeprefix("!")
        names = GROUPS.get(word) or [name for name in EXPERIMENTS if fnmatchcase(name, word)]
        if not names and (root / word / SOLVER).is_file():
            names = [word]
        if not names:
            choices = (*GROUPS, *EXPERIMENTS)
            close = did_you_mean(word, choices)
            raise DriverError(f"experiment {pattern}", f"names no experiment{close}", found=pattern, choices=choices)
        for name in names:
            if away:
                found.pop(name, None)
            else:
                found[name] = None
    if not found:
        raise DriverError("experiments", f"found none left of {' '.join(patterns)}, expected at least one")
    order = {name: place for place, name in enumerate(EXPERIMENTS)}
    return sorted(found, key=lambda name: order.get(name, len(order)))


def values(name: str, texts: Sequence[str]) -> list[Any]:
    """A setting's values out of ``.25,.1`` or, of whole numbers, ``1-3``; each once.

    Raises:
        DriverError: a text that it cannot be read from.
    """
    found: dict[Any, None] = {}
    for part in itertools.chain.from_iterable(text.split(",") for text in texts):
        ends = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", part)
        if ends and isinstance(SETTINGS[name].rule, Whole):
            first, last = int(ends[1]), int(ends[2])
            if not first <= last < first + _MOST_RUNS:
                raise DriverError(f"{name.upper()}={part}", "expected a range such as 1-3")
            found |= dict.fromkeys(range(first, last + 1))
        else:
            found[from_text(name, part.strip())] = None
    return list(found)


def option_values(texts: Sequence[str]) -> dict[str, list[Any]]:
    """The values of options of ``allconv render`` out of ``NAME=A,B``, by name.

    An option that takes numbers with commas between has one value a text: a second text of the same name has another.

    Raises:
        TableError, DriverError: an unknown option, a text that is no value.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, sign, words = text.partition("=")
        name = name.strip().replace("-", "_")
        if not sign:
            raise DriverError(f"--set {text}", "expected NAME=VALUE or NAME=VALUE,VALUE, e.g. filler=msra,xavier")
        listed = isinstance(rules(RenderOptions).get(name), Numbers)
        for part in [words] if listed else words.split(","):
            value = option_from_text(name, part.strip())
            if value not in found.setdefault(name, []):
                found[name].append(value)
    return found


def product(
    experiments: Sequence[str],
    settings: RunSettings,
    lists: Mapping[str, Sequence[Any]],
    options: Mapping[str, Sequence[Any]],
) -> list[Job]:
    """Every run of the grid: the first seed of all of them first, so that a grid that is cut short says something.

    Args:
        settings: what all runs share.
        lists: the values of settings that the grid goes through, by name; one with a single value is shared.
        options: likewise of options of ``allconv render``.
    """
    seeds = list(lists.get("seed", [settings.seed]))
    axes = [(name, list(entries)) for name, entries in lists.items() if name != "seed"]
    axes += [(f"set {name}", list(entries)) for name, entries in options.items()]
    count = len(seeds) * len(experiments)
    for _, entries in axes:
        count *= len(entries)
    if not 0 < count <= _MOST_RUNS:
        raise DriverError("grid", f"found {count} runs, expected 1 to {_MOST_RUNS}")
    varied = {name for name, entries in axes if len(entries) > 1}
    jobs = []
    for seed, experiment in itertools.product(seeds, experiments):
        for combination in itertools.product(*(entries for _, entries in axes)):
            values_of = dict(zip((name for name, _ in axes), combination, strict=True))
            given = {key.removeprefix("set "): value for key, value in values_of.items() if key.startswith("set ")}
            own = {key: value for key, value in values_of.items() if not key.startswith("set ")}
            made = replace(settings, **own, seed=seed, options={**settings.options, **given})
            made = replace(made, command=Job(experiment=experiment, settings=made, point=()).command)
            point = tuple((key, value) for key, value in values_of.items() if key in varied)
            jobs.append(Job(experiment=experiment, settings=made, point=point))
    return jobs
