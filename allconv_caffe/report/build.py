"""``allconv report``: finds the runs, writes report.md, report.csv, report.html and a picture of each run's curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allconv_caffe import files
from allconv_caffe.report import page, runs as runs_, tables, text, trends as trends_
from allconv_caffe.report.collect import find_runs

DEFAULT_FOLDERS: tuple[Path, ...] = (Path("runs"), Path("results"))


def build(
    folders: Sequence[Path] = DEFAULT_FOLDERS, output: Path | None = Path("runs/report"), trends: bool = False
) -> str:
    """Set all runs below ``folders`` beside the published figures.

    Args:
        folders: searched for runs; those that do not exist are passed over.
        output: folder for report.md, report.csv, report.html and curves/; None writes nothing.
        trends: check the sentences of section 3.2 as well.
    Returns: the report as Markdown.
    Raises:
        ReportError: a record that is not one.
        OSError: ``output`` cannot be written.
    """
    runs = find_runs(folder for folder in folders if folder.is_dir())
    found = tables.tables(runs)
    verdicts = trends_.check(runs) if trends else None
    base = output or Path()
    entries = runs_.shown(runs, draw=output is not None)
    markdown = text.to_markdown(found, entries, base, verdicts)
    if output is not None:
        (output / runs_.CURVES).mkdir(parents=True, exist_ok=True)
        for folder in (output, output / runs_.CURVES):
            files.sweep(folder)
        for entry in entries:
            if entry.picture is not None:
                files.write(output / entry.file, entry.picture)
        files.write(output / "report.md", markdown)
        files.write(output / "report.csv", tables.to_csv(runs))
        files.write(output / "report.html", page.to_html(found, entries, base, verdicts))
    return markdown
