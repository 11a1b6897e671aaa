"""A page for each run: what came out, its curves, the command, settings and record, its evaluation, the way to its files."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allconv_caffe import files
from allconv_caffe.html.chart import Panel, chart
from allconv_caffe.html.page import REPORT, Pages, way
from allconv_caffe.report.collect import Run
from allconv_caffe.report.page import TEMPLATES
from allconv_caffe.report.record import Record, ReportError, epochs_words
from allconv_caffe.report.runs import PAGES, Link, Shown, error_words, link, links, typed
from allconv_caffe.report.tables import clock, on_its_dataset

_PAGES = Pages(TEMPLATES, REPORT, scripts=("sort.js", "chart.js"), styles=("page.css", "chart.css"))

EVALUATION = "evaluation.json"
"""What `allconv evaluate --output` writes; of a run, in its folder or in ``evaluation/`` there."""

_APART = ("best_on_test", "class_errors_percent", "course", "data_sha256")
"""Entries of a record that get a table of their own."""

_SHOWN_ELSEWHERE = {"assumptions", "attempts", "options", "schedule"}


def to_html(entry: Shown, base: Path) -> str:
    """The page of one run, whose links start from the report's folder ``base``; it lies in ``pages/`` there.

    Raises:
        ReportError: settings or an evaluation that cannot be read.
    """
    run, here = entry.run, base / PAGES
    found, content = run.record, run.record.to_json()
    settings = _read(run.folder / "settings.json", "the settings of a run")
    return _PAGES.fill(
        "run.html.j2",
        title=entry.label,
        record=found,
        outcome=_outcome(found),
        published=_published(run),
        facts_line=_line(found),
        chart=chart(f"{entry.label}, {found.dataset}", _panels(run)),
        picture=way(base / entry.file, here) if entry.file else "",
        command=typed(run),
        tensorboard=_tensorboard(run),
        links=[link(run.folder, here, run.folder.as_posix()), *_files(run, here)],
        settings=[(title, _pairs(settings[key])) for key, title in _SETTINGS.items() if settings.get(key)],
        facts=_pairs({key: value for key, value in content.items() if key not in {*_APART, *_SHOWN_ELSEWHERE}}),
        more=[(name, _pairs(content[name])) for name in _APART if content.get(name)],
        attempts_head=("attempt", "seed", "status", "iterations", "seconds", "why"),
        attempts=[
            [words(one.get(key)) for key in ("attempt", "seed", "status", "iterations", "seconds", "why")]
            for one in found.attempts
        ],
        assumptions=found.assumptions,
        evaluation=_evaluation(run, here),
    )


_SETTINGS = {"settings": "Settings", "data": "Data", "engine": "Engine", "versions": "Versions", "git": "Source"}
"""The parts of settings.json that the page shows, with their titles."""


def _panels(run: Run) -> list[Panel]:
    published = run.record.published_error_percent if on_its_dataset(run) else None
    levels = {} if published is None else {"published": published}
    return [
        Panel(title="test error (%)", unit=" %", lines={"test error": run.curve("test")}, levels=levels),
        Panel(title="training loss", log=True, lines={"training loss": run.curve("train")}),
        Panel(title="learning rate", log=True, lines={"learning rate": run.curve("rate")}),
    ]


def _outcome(found: Record) -> str:
    """The error; of a training that is not done, how far it has come."""
    if found.done:
        return error_words(found)
    known = found.iterations is not None and found.max_iter is not None
    return found.status + (f", iteration {found.iterations:,} of {found.max_iter:,}" if known else "")


def _line(found: Record) -> str:
    """The run in a sentence."""
    said = [f"{found.model} on {found.dataset}", epochs_words(found.epochs), f"seed {found.seed}"]
    said += [word for word in (found.engine, found.device, found.precision) if word]
    said += [f"{found.parameters:,} parameters"] if found.parameters else []
    said += [clock(found.seconds)] if found.seconds is not None else []
    return ", ".join(said) + "." + (f" {found.schedule_words}." if found.schedule_words else "")


def _published(run: Run) -> str:
    error = run.record.published_error_percent
    if error is None:
        return ""
    return f"{error:.2f} %" + ("" if on_its_dataset(run) else f", on {run.record.paper_title or 'other data'}")


def _tensorboard(run: Run) -> str:
    events = run.folder / "events"
    return f"tensorboard --logdir {shlex.quote(events.as_posix())}" if events.is_dir() else ""


def _files(run: Run, here: Path) -> list[Link]:
    """Links to the files and folders of a run, from its page."""
    others = ("curves.png", "state.json", "test.log", "snapshots")
    known = links(Shown(run=run, label="", file="", picture=None, page=""), here)
    return known + [link(run.folder / name, here) for name in others if (run.folder / name).exists()]


def _read(path: Path, what: str) -> dict[str, Any]:
    return files.read_json(path, what, ReportError) if path.exists() else {}


def _pairs(value: Any) -> list[tuple[str, str]]:
    entries = value.items() if isinstance(value, Mapping) else [("", value)]
    return [(str(key), words(entry)) for key, entry in entries]


def words(value: Any) -> str:
    """An entry of a record for people."""
    if value is None or value in ("", [], {}, ()):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(words, value))
    return str(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """What the page shows of an evaluation: the error in words, tables of classes and of images, addresses of pictures."""

    error: str
    classes: list[tuple[str, str]]
    wrong: list[tuple[str, ...]]
    pictures: list[tuple[str, str]]


def _evaluation(run: Run, here: Path) -> _Evaluation | None:
    folder = next((place for place in (run.folder, run.folder / "evaluation") if (place / EVALUATION).exists()), None)
    if folder is None:
        return None
    path = folder / EVALUATION
    content = _read(path, "an evaluation")
    kinds = {
        "error_percent": float,
        "images": int,
        "class_errors_percent": dict[str, float | None],
        "most_surely_wrong": list[dict],
    }
    if missing := [key for key in kinds if key not in content]:
        raise ReportError(path, f"no {', '.join(missing)}", "an evaluation, as `allconv evaluate --output` writes it")
    files.check_kinds(path, content, kinds, ReportError)
    pictures = {"confusion.png": "confusion matrix", "wrong.png": "the images most surely wrong"}
    return _Evaluation(
        error=f"{content['error_percent']:.2f} % of {content['images']:,} images wrong",
        classes=[
            (name, "–" if error is None else f"{error:.2f} %")
            for name, error in content["class_errors_percent"].items()
        ],
        wrong=[
            tuple(words(one.get(key)) for key in ("image", "class", "answer", "probability"))
            for one in content["most_surely_wrong"]
        ],
        pictures=[(way(folder / name, here), title) for name, title in pictures.items() if (folder / name).is_file()],
    )
