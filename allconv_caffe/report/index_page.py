"""``allconv open``: one page over runs, reports, galleries, figures, evaluations and models, made of static files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allconv_caffe import files
from allconv_caffe.html.page import GALLERY, REPORT, Pages, made_by, way
from allconv_caffe.report import build as report, runs as runs_
from allconv_caffe.report.collect import find_runs
from allconv_caffe.report.page import TEMPLATES, rows
from allconv_caffe.report.record import ReportError
from allconv_caffe.report.run_page import EVALUATION

DEFAULT_FOLDERS: tuple[Path, ...] = tuple(map(Path, ("runs", "results", "build", "docs", "models")))
DEFAULT_OUTPUT = Path("build/open")
_PAGES = Pages(TEMPLATES, "allconv open", scripts=("sort.js",))
_MODEL_HEAD = ("model", "network", "data", "epochs", "test error")


@dataclass(kw_only=True)
class _Found:
    """What lies below some folders: paths, but for the facts beside figures, evaluations and models."""

    reports: list[Path] = field(default_factory=list)
    galleries: list[Path] = field(default_factory=list)
    figures: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    evaluations: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    models: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)


def build(folders: Sequence[Path] = DEFAULT_FOLDERS, output: Path = DEFAULT_OUTPUT) -> Path:
    """Write the page, and beside it the report of every run with a page for each.

    Args:
        folders: searched; those that do not exist are passed over. output: gets index.html and report/.
    Returns: the path of the page.
    Raises:
        ReportError: the record of a run that is not one.
        OSError: ``output`` cannot be written.
    """
    here = [folder for folder in folders if folder.is_dir()]
    report.build(here, output / "report", draw=False, up="../index.html")
    entries = runs_.shown(find_runs(here), draw=False)
    found = _search(here, output)
    text = _PAGES.fill(
        "index.html.j2",
        title="All there is to see",
        folders=", ".join(folder.as_posix() for folder in here),
        runs_head=runs_.RUNS_HEAD,
        runs=rows(entries, output, "report/"),
        reports=[_named(path, output) for path in found.reports],
        galleries=[_named(path, output) for path in found.galleries],
        figures=[_figure(path, facts, output) for path, facts in found.figures],
        evaluations_head=("evaluation", "model", "data", "error", "images"),
        evaluations=[_evaluation(path, facts, output) for path, facts in found.evaluations],
        models_head=_MODEL_HEAD,
        models=[_model(path, facts, output) for path, facts in found.models],
    )
    files.sweep(output)
    page = output / "index.html"
    files.write(page, text)
    return page


def _search(folders: Iterable[Path], output: Path) -> _Found:
    found, seen = _Found(), {output.resolve()}
    for folder in folders:
        for here, names in _walk(folder, seen):
            if "index.html" in names and made_by(here / "index.html") == GALLERY:
                found.galleries.append(here / "index.html")
                seen.update(inner.resolve() for inner in here.iterdir() if inner.is_dir())
                continue
            if "report.html" in names and made_by(here / "report.html") == REPORT:
                found.reports.append(here / "report.html")
            if EVALUATION in names and (facts := _facts(here / EVALUATION)):
                found.evaluations.append((here, facts))
            if "card.json" in names and (facts := _facts(here / "card.json")):
                found.models.append((here, facts))
            for name in sorted(names):
                stem, ending = os.path.splitext(name)
                if ending == ".png" and f"{stem}.json" in names and (facts := _facts(here / f"{stem}.json")):
                    found.figures.append((here / name, facts))
    return found


def _walk(folder: Path, seen: set[Path]) -> Iterator[tuple[Path, set[str]]]:
    """Folders with the names of their files, each once; hidden ones and attempts that were given up are left out."""
    for place, inner, names in os.walk(folder):
        here = Path(place)
        if here.resolve() in seen:
            inner.clear()
            continue
        seen.add(here.resolve())
        inner[:] = sorted(name for name in inner if not name.startswith((".", "attempt-")))
        yield here, set(names)


def _facts(path: Path) -> dict[str, Any]:
    """What stands beside a picture; {} where it is nothing of ours, which is no mistake here."""
    try:
        return files.read_json(path, "facts", ReportError)
    except ReportError:
        return {}


def _named(path: Path, output: Path) -> dict[str, str]:
    return {"text": path.parent.as_posix(), "href": way(path, output)}


def _figure(path: Path, facts: dict[str, Any], output: Path) -> dict[str, str]:
    title = str(facts.get("title") or path.stem)
    return {
        "href": way(path, output),
        "title": title,
        "path": path.as_posix(),
        "command": str(facts.get("command", "")),
    }


def _evaluation(folder: Path, facts: dict[str, Any], output: Path) -> list[Any]:
    error, images = facts.get("error_percent"), facts.get("images")
    return [
        {"text": folder.as_posix(), "href": way(folder, output)},
        str(facts.get("model", "–")),
        str(facts.get("data", "–")),
        f"{error:.2f} %" if isinstance(error, (int, float)) else "–",
        f"{images:,}" if isinstance(images, int) else "–",
    ]


def _model(folder: Path, facts: dict[str, Any], output: Path) -> list[Any]:
    error, epochs = facts.get("test_error_percent"), facts.get("epochs")
    card = folder / "README.md"
    return [
        {"text": str(facts.get("name", folder.name)), "href": way(card if card.exists() else folder, output)},
        str(facts.get("model", "–")),
        str(facts.get("dataset", "–")),
        f"{epochs:g}" if isinstance(epochs, (int, float)) else "–",
        f"{error:.2f} %" if isinstance(error, (int, float)) else "–",
    ]
