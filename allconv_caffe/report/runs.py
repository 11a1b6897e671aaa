"""Each run by itself: what tells it from the others, the file of its curves, the links to its folder, its "as taken"."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from allconv_caffe import files
from allconv_caffe.files import shortened
from allconv_caffe.html.page import way
from allconv_caffe.markdown import escaped
from allconv_caffe.report import plots
from allconv_caffe.report.collect import Run
from allconv_caffe.report.record import Record, ReportError, epochs_words
from allconv_caffe.report.tables import on_its_dataset

CURVES, PAGES = "curves", "pages"
"""Below the report's folder: a picture and a page for each run, named by the run."""

FILES = (
    *("result.json", "settings.json", "solver.prototxt", "train_val.prototxt", "log", "train.csv", "test.csv"),
    *("evaluation/confusion.png", "evaluation/confusion.csv", "evaluation/wrong.png"),
)
"""The files of a run that a report leads to, where they are there."""

RUNS_HEAD = ("run", "status", "test error", "epochs", "lr", "batch", "seed", "data set", "engine", "folder", "files")
"""Columns of the table of runs."""

_TELLING: tuple[Callable[[Record], str], ...] = (
    lambda found: found.model,
    lambda found: found.variant,
    lambda found: found.dataset,
    lambda found: epochs_words(found.epochs),
    lambda found: "" if found.lr is None else f"lr {found.lr:g}",
    lambda found: "" if found.batch_size is None else f"batch {found.batch_size}",
    lambda found: f"seed {found.seed}",
    lambda found: found.engine,
    lambda found: found.precision or "",
    lambda found: "" if found.rng in (None, "torch") else f"rng {found.rng}",
)
"""What may tell two runs apart, in words; the network and the seed are always said."""
_ALWAYS = (0, 6)


@dataclass(frozen=True, kw_only=True)
class Link:
    """A word that leads somewhere."""

    text: str
    href: str  # relative to the report's folder, as a URL

    @property
    def markdown(self) -> str:
        """``[text](href)``."""
        return f"[{escaped(self.text)}]({self.href})"


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run in a figure, no two alike: the network, the seed, and whatever differs among the runs."""
    told = [[words(run.record) for words in _TELLING] for run in runs]
    differs = [len(set(column)) > 1 for column in zip(*told, strict=True)] if told else []
    found = [", ".join(word for at, word in enumerate(row) if word and (at in _ALWAYS or differs[at])) for row in told]
    counts = Counter(found)
    return [
        label if counts[label] == 1 else f"{label} ({run.folder.as_posix()})"
        for label, run in zip(found, runs, strict=True)
    ]


def curve_files(runs: Sequence[Run]) -> list[str]:
    """The name of each run's picture: experiment and folder of the run, a digest of its path behind those that agree."""
    names = [re.sub(r"[^\w.=-]+", "-", _name(run)) for run in runs]
    counts = Counter(shortened(name).lower() for name in names)
    found = []
    for name, run in zip(names, runs, strict=True):
        short = shortened(name)
        if short != name or counts[short.lower()] > 1:
            short += "-" + hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:8]
        found.append(f"{short}.png")
    return found


def _name(run: Run) -> str:
    folder, experiment = run.folder.resolve().name, run.record.experiment
    return folder if folder.startswith(experiment) else f"{experiment}-{folder}"


def link(path: Path, base: Path, text: str = "") -> Link:
    """A way from the report's folder ``base`` to a file or folder."""
    return Link(text=text or path.name, href=way(path, base))


def typed(run: Run) -> str:
    """The command that a run's settings keep."""
    path, found = run.folder / "settings.json", run.record
    settings = files.read_json(path, "the settings of a run", ReportError) if path.exists() else {}
    typed = str(settings.get("command") or "")
    return typed or f"allconv run {found.experiment} --epochs {found.epochs:g} --seed {found.seed}"


def error_words(found: Record) -> str:
    """``9.21 %``, ``not a number``, or a dash where the training is not done."""
    if found.done:
        return "not a number" if found.error_percent is None else f"{found.error_percent:.2f} %"
    return "–"


def picture(run: Run, label: str) -> bytes | None:
    """The curves of one run beside the published error, as PNG; None where it has no points."""
    losses, errors = run.curve("train"), run.curve("test")
    if not losses and not errors:
        return None
    published = run.record.published_error_percent if on_its_dataset(run) else None
    title = f"{label}, {run.record.dataset}"
    return plots.draw({"training": losses}, {"measured": errors}, title, published)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A run as a report shows it."""

    run: Run
    """The run."""
    label: str
    """Its name in tables and figures."""
    file: str
    """The picture of its curves, as a path from the report's folder; "" without one."""
    picture: bytes | None
    """What stands in that file."""
    page: str
    """Its page, as a path from the report's folder."""

    @property
    def page_href(self) -> str:
        """The page's address, from the report's folder."""
        return quote(self.page)


def shown(runs: Sequence[Run], draw: bool = True) -> list[Shown]:
    """The runs with their names and, if asked for, their curves."""
    found = []
    for run, label, name in zip(runs, labels(runs), curve_files(runs), strict=True):
        drawn = picture(run, label) if draw else None
        page = f"{PAGES}/{name.removesuffix('.png')}.html"
        found.append(Shown(run=run, label=label, file=f"{CURVES}/{name}" if drawn else "", picture=drawn, page=page))
    return found


def cells(run: Run) -> tuple[str, ...]:
    """The cells of a run under ``RUNS_HEAD`` that are plain text: all but the first and the last two."""
    found = run.record
    return (
        found.status,
        error_words(found),
        f"{found.epochs:g}",
        "–" if found.lr is None else f"{found.lr:g}",
        "–" if found.batch_size is None else str(found.batch_size),
        str(found.seed),
        found.dataset,
        ", ".join(filter(None, (found.engine, found.device, found.precision))),
    )


def links(entry: Shown, base: Path) -> list[Link]:
    """Links to a run's curves and files, from the report's folder ``base``."""
    curves = [Link(text="curves", href=quote(entry.file))] if entry.file else []
    return curves + [link(entry.run.folder / name, base) for name in FILES if (entry.run.folder / name).is_file()]


def as_taken(runs: Sequence[Run]) -> tuple[list[str], dict[int, list[str]]]:
    """What the paper leaves open, as taken: what all these runs share, and what each has beside it, by its number.

    Runs that record nothing of it, such as those of a net of somebody's own, are left out of both.
    """
    told = {number: run.record.assumptions for number, run in enumerate(runs) if run.record.assumptions}
    if not told:
        return [], {}
    first = next(iter(told.values()))
    shared = [entry for entry in first if all(entry in entries for entries in told.values())]
    own = {number: [entry for entry in entries if entry not in shared] for number, entries in told.items()}
    return shared, {number: entries for number, entries in own.items() if entries}
