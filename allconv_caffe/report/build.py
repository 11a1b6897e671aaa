"""``allconv report``: finds the runs, writes report.md, report.csv, report.html, and a page and a picture of each run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from allconv_caffe import files
from allconv_caffe.html.page import REPORT, made_by
from allconv_caffe.report import beside as beside_, page, run_page, runs as runs_, tables, text, trends as trends_
from allconv_caffe.report.collect import find_runs

DEFAULT_FOLDERS: tuple[Path, ...] = (Path("runs"), Path("results"))


def build(
    folders: Sequence[Path] = DEFAULT_FOLDERS,
    output: Path | None = Path("runs/report"),
    trends: bool = False,
    beside: Sequence[str] = (),
    *,
    draw: bool = True,
    up: str = "",
) -> str:
    """Set all runs below ``folders`` beside the published figures.

    Args:
        folders: searched for runs; those that do not exist are passed over.
        output: folder for report.md, report.csv, report.html, pages/ and curves/; None writes nothing.
        trends: check the sentences of section 3.2 as well.
        beside: other trainings to lay the runs over: logs or CSVs, ``PATH`` or ``NAME=PATH``.
        draw: the pictures in curves/, too.
        up: where report.html is listed, as a link; "" where nowhere.
    Returns: the report as Markdown.
    Raises:
        ReportError: a record that is not one, another training that cannot be read, or none to lay over it.
        OSError: ``output`` cannot be written.
    """
    sources = [beside_.read(word) for word in beside]
    runs = find_runs(folder for folder in folders if folder.is_dir())
    found = tables.tables(runs)
    verdicts = trends_.check(runs) if trends else None
    base = output or Path()
    entries = runs_.shown(runs, draw=draw and output is not None)
    laid = beside_.compare(sources, entries) if sources else []
    figure = beside_.figure(laid) if laid and output is not None else None
    markdown = text.to_markdown(found, entries, base, verdicts, beside_.to_markdown(laid, bool(figure)) if laid else ())
    if output is not None:
        for folder in (output, output / runs_.CURVES, output / runs_.PAGES):
            folder.mkdir(parents=True, exist_ok=True)
            files.sweep(folder)
        _sweep(output, entries, bool(figure))
        for entry in entries:
            if entry.picture is not None:
                files.write(output / entry.file, entry.picture)
            files.write(output / entry.page, run_page.to_html(entry, output))
        if figure is not None:
            files.write(output / beside_.FIGURE, figure)
            files.write(output / beside_.POINTS, beside_.to_csv(laid))
        files.write(output / "report.md", markdown)
        files.write(output / "report.csv", tables.to_csv(runs))
        files.write(output / "report.html", page.to_html(found, entries, base, verdicts, laid, up))
    return markdown


def _sweep(output: Path, entries: Sequence[runs_.Shown], beside: bool) -> None:
    """Takes away what an earlier report has left there: pages and curves of runs that are gone, the figure beside another
    training. A page that says nothing of having been made here stays, and so do the curves of its name.
    """
    kept = {output / entry.page for entry in entries}
    for page_ in sorted((output / runs_.PAGES).glob("*.html")):
        if page_ not in kept and page_.is_file() and made_by(page_) == REPORT:
            (output / runs_.CURVES / f"{page_.stem}.png").unlink(missing_ok=True)
            page_.unlink()
    if not beside and (output / "report.html").is_file() and made_by(output / "report.html") == REPORT:
        for name in (beside_.FIGURE, beside_.POINTS):
            (output / name).unlink(missing_ok=True)


def facts(folders: Sequence[Path] = DEFAULT_FOLDERS, trends: bool = False) -> dict[str, Any]:
    """The same for programs: the record of each run with its folder, and, if asked for, what they say of each sentence.

    Raises: ReportError: a record that is not one.
    """
    runs = find_runs(folder for folder in folders if folder.is_dir())
    found: dict[str, Any] = {"runs": [{"folder": run.folder, **run.record.to_json()} for run in runs]}
    if trends:
        found["trends"] = [
            {
                "section": one.trend.section,
                "sentence": one.trend.sentence,
                "verdict": one.verdict,
                "numbers": one.numbers,
                "runs": one.runs,
            }
            for one in trends_.check(runs)
        ]
    return found
