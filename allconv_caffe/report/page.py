"""The report as HTML: tables that sort, curves to read values off, verdicts, and the way to a page of each run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from allconv_caffe.html.chart import Panel, chart
from allconv_caffe.html.page import REPORT, Pages
from allconv_caffe.report import beside
from allconv_caffe.report.beside import Comparison
from allconv_caffe.report.runs import RUNS_HEAD, Shown, cells, labels, link, links
from allconv_caffe.report.tables import CITED_MARK, HEAD, Table
from allconv_caffe.report.text import sections
from allconv_caffe.report.trends import Verdict

TEMPLATES = Path(__file__).with_name("templates")
_PAGES = Pages(TEMPLATES, REPORT, scripts=("sort.js", "chart.js"), styles=("page.css", "chart.css"))


def to_html(
    found: Sequence[Table],
    entries: Sequence[Shown],
    base: Path,
    verdicts: Sequence[Verdict] | None = None,
    laid: Sequence[Comparison] = (),
    up: str = "",
) -> str:
    """The whole page; its links to runs start from the folder ``base`` that it lies in.

    Args:
        laid: runs over other trainings. up: where the page is listed, as a link; "" where nowhere.
    """
    return _PAGES.fill(
        "report.html.j2",
        title="Measured beside published",
        up=up,
        count=len(entries),
        beside=_beside(laid) if laid else None,
        head=HEAD,
        tables=[_table(table) for table in found],
        charts=[_together(title, group) for title, group in _by_conditions(entries).items()],
        verdicts=verdicts,
        sections=sections(entries),
        runs_head=RUNS_HEAD,
        runs=rows(entries, base),
    )


def rows(entries: Sequence[Shown], base: Path, pages: str = "") -> list[list[Any]]:
    """The table of runs under ``RUNS_HEAD``, for a page in ``base``. pages: before the address of each run's page."""
    found = []
    for entry in entries:
        folder = link(entry.run.folder, base, entry.run.folder.as_posix())
        own = {"text": entry.label, "href": pages + entry.page_href}
        found.append([own, *cells(entry.run), folder, {"links": links(entry, base)}])
    return found


def _table(table: Table) -> dict[str, Any]:
    faint = [at for at, row in enumerate(table.rows) if CITED_MARK in row]
    return {"title": table.title, "rows": table.rows, "notes": table.notes, "faint": faint}


def _by_conditions(entries: Sequence[Shown]) -> dict[str, list[Shown]]:
    """The runs that have points, by what a figure of them is called."""
    groups: dict[str, list[Shown]] = {}
    for entry in entries:
        if entry.run.curve("test") or entry.run.curve("train"):
            groups.setdefault(str(entry.run.record.conditions), []).append(entry)
    return groups


def _together(title: str, entries: Sequence[Shown]) -> dict[str, Any]:
    runs = [entry.run for entry in entries]
    named = list(zip(labels(runs), runs, strict=True))
    panels = [
        Panel(title="test error (%)", unit=" %", lines={name: run.curve("test") for name, run in named}),
        Panel(title="training loss", log=True, lines={name: run.curve("train") for name, run in named}),
    ]
    return chart(title, panels)


def _beside(laid: Sequence[Comparison]) -> dict[str, Any]:
    said = [beside.rule(source) for source in dict.fromkeys(each.source for each in laid)] + [
        str(each) for each in laid
    ]
    others, runs, differences = beside.curves(laid)
    between = {
        run if len(others) == 1 else f"{run} minus {other}": points for (run, other), points in differences.items()
    }
    what = f"run minus {laid[0].source.name}" if len(others) == 1 else "difference"
    panels = [
        Panel(title="test error (%)", unit=" %", lines={**others, **runs}),
        Panel(title=f"{what} (points)", lines=between),
    ]
    return {
        "said": said,
        "chart": chart(f"Test error beside {laid[0].source.name}", panels),
        "picture": beside.FIGURE,
        "head": beside.HEAD,
        "tables": [
            {"title": f"{each.entry.label} beside {each.source.name}", "rows": beside.rows(each)} for each in laid
        ],
    }
