"""The tables of README.md and docs/results.md: what was measured (``results/``) and the model zoo (``models/``).

``make docs`` writes them. A test writes them again and compares, so the pages show nothing that no record shows.
"""

from __future__ import annotations

import re
from pathlib import Path

from allconv_caffe import files, markdown
from allconv_caffe.paper.experiments import EXPERIMENTS
from allconv_caffe.report.collect import ReportError, find_runs, same_dataset
from allconv_caffe.report.runs import typed
from allconv_caffe.report.tables import clock

README, SHORT, RESULTS, MODELS = Path("README.md"), Path("docs/results.md"), Path("results"), Path("models")
WHOLE_EPOCHS = 100.0
"""From here on a run stands in README.md; a shorter one, which cannot be held against the paper, in docs/results.md."""


def results_block(root: Path, *, short: bool = False) -> str:
    """Measured beside published, one row for each finished run below ``results/`` that is as long as the paper's, or is `short`."""
    all_runs = find_runs([root / RESULTS]) if (root / RESULTS).is_dir() else []
    runs = [run for run in all_runs if run.record.done and (run.record.epochs < WHOLE_EPOCHS) == short]
    if not runs:
        return "No such result is recorded in `results/`.\n"
    rows = []
    for run in runs:
        found, entry = run.record, EXPERIMENTS.get(run.record.experiment)
        error = "not a number" if found.error_percent is None else f"{found.error_percent:.2f} %"
        published, counted = "–", ""
        if entry is not None and same_dataset(found.dataset, entry.dataset.title):
            if entry.published_error_percent is not None:
                published = (
                    f"{entry.published_error_percent:.2f} % ({entry.dataset.title}, {entry.schedule.epochs:g} epochs)"
                )
            counted = f" (paper: {entry.published_parameters})" if entry.published_parameters else ""
        where = run.folder.relative_to(root).as_posix()
        engine = ", ".join(filter(None, (found.engine, found.device, found.precision)))
        variant = f" ({found.variant})" if found.variant else ""
        rows.append(
            [
                markdown.escaped(f"{found.model}{variant}"),
                markdown.escaped(found.dataset),
                f"{found.epochs:g}",
                error,
                published,
                f"{found.parameters:,}{counted}",
                str(found.seed),
                markdown.escaped(f"{engine}, {clock(found.seconds)}"),
                markdown.code(typed(run)),
                f"[{markdown.escaped(where)}]({'../' * short}{where})",
            ]
        )
    head = (
        "network",
        "data",
        "epochs",
        "measured test error",
        "published",
        "parameters",
        "seed",
        "engine, time",
        "command",
        "record",
    )
    return "\n".join([*markdown.table(head, rows), "", "Errors are those of the last iteration.", ""])


def models_block(root: Path) -> str:
    """One row for each card below ``models/``."""
    found = [
        files.read_json(path, "the card of a model", ReportError)
        for path in sorted((root / MODELS).glob("[!.]*/card.json"))
    ]
    if not found:
        return "No model lies in `models/`.\n"
    rows = [
        [
            f"[{facts['name']}](models/{facts['name']}/README.md)",
            markdown.escaped(facts["model"]),
            markdown.escaped(facts["dataset"]),
            f"{float(facts['epochs']):g}",
            f"{facts['test_error_percent']:.2f} %",
            f"{facts['weights']['bytes'] / 1e6:.1f} MB",
            f"`{facts['weights']['sha1']}`",
        ]
        for facts in found
    ]
    head = ("model", "network", "data", "epochs", "test error", "weights", "SHA-1 of the weights")
    return "\n".join([*markdown.table(head, rows), ""])


def filled(root: Path, page: Path = README) -> str:
    """A page with its tables as the records give them: README.md, or docs/results.md.

    Raises:
        ValueError: the page lacks a pair of marks.
    """
    if page == README:
        blocks = {"results": results_block(root), "models": models_block(root)}
    else:
        blocks = {"short results": results_block(root, short=True)}
    text = (root / page).read_text(encoding="utf-8")
    for name, block in blocks.items():
        marks = f"<!-- {name}: written by make docs -->", f"<!-- end of {name} -->"
        pattern = re.compile(re.escape(marks[0]) + ".*?" + re.escape(marks[1]), re.DOTALL)
        if len(pattern.findall(text)) != 1 or text.count(marks[1]) != 1:
            found = "no" if not pattern.search(text) else "more than one end of a"
            raise ValueError(f"{page}: found {found} table of {name}, expected one between {marks[0]} and {marks[1]}")
        text = pattern.sub(lambda _, block=block, marks=marks: f"{marks[0]}\n\n{block}\n{marks[1]}", text)  # type: ignore[misc]
    return text
