"""The report as one HTML page: tables that sort, curves as embedded pictures, verdicts, and links to the runs' folders.

The page needs no other file and no network; its script (``sort.js``) is part of it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from allconv_caffe.report import beside, plots
from allconv_caffe.report.beside import Comparison
from allconv_caffe.report.runs import RUNS_HEAD, Shown, cells, labels, link, links
from allconv_caffe.report.tables import CITED_MARK, HEAD, Table
from allconv_caffe.report.text import sections
from allconv_caffe.report.trends import Verdict

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:84rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;font-size:13px;width:100%}
th,td{border-bottom:1px solid #ddd;padding:.3rem .5rem;text-align:left;vertical-align:top}
th{background:#f4f4f4}tr.cited{color:#666}img{max-width:100%}summary{cursor:pointer}
th button{font:inherit;font-weight:bold;background:none;border:0;padding:0;cursor:pointer;text-align:left}
th[aria-sort=ascending] button::after{content:" ▲"}th[aria-sort=descending] button::after{content:" ▼"}
.holds{color:#176b2c}.fails{color:#a11}.unknown{color:#666}
"""


def to_html(
    found: Sequence[Table],
    entries: Sequence[Shown],
    base: Path,
    verdicts: Sequence[Verdict] | None = None,
    laid: Sequence[Comparison] = (),
    figure: bytes | None = None,
) -> str:
    """The whole page; its links to runs start from the folder ``base`` that it lies in.

    Args:
        laid: runs over other trainings. figure: the picture of them.
    """
    body = ["<h1>Measured beside published</h1>"]
    body.append(f"<p>Test error of the last iteration; mean ± standard deviation over seeds. Runs: {len(entries)}.</p>")
    if laid:
        body += _beside(laid, figure)
    for table in found:
        body.append(f"<h2>{escape(table.title)}</h2>")
        body.append(_table(HEAD, [(CITED_MARK in row, [escape(cell) for cell in row], row) for row in table.rows]))
        body += [f"<p>{escape(note)}</p>" for note in table.notes]
    if groups := _by_conditions(entries):
        body.append("<h2>Test error over epochs</h2>")
        for title, group in groups.items():
            body.append(_picture(_together(title, group), title))
    if verdicts is not None:
        body.append("<h2>Sections 3.1 and 3.2, sentence by sentence</h2>")
        body += [_verdict(verdict) for verdict in verdicts]
    for title, lines in sections(entries):
        body.append(f"<h2>{escape(title)}</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>")
    if entries:
        body.append("<h2>Every run</h2>")
        body.append(_runs(entries, base))
        body += [_run(number, entry, base) for number, entry in enumerate(entries)]
    script = Path(__file__).with_name("sort.js").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Measured beside published</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>\n{script}</script>\n</body></html>\n"
    )


def _beside(laid: Sequence[Comparison], figure: bytes | None) -> list[str]:
    said = [beside.rule(source) for source in dict.fromkeys(each.source for each in laid)] + [
        str(each) for each in laid
    ]
    body = ["<h2>Beside other trainings</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in said) + "</ul>"]
    if figure is not None:
        body.append(_picture(figure, f"Test error beside {laid[0].source.name}"))
    for each in laid:
        rows = [(False, [escape(cell) for cell in row], row) for row in beside.rows(each)]
        title = escape(f"{each.entry.label} beside {each.source.name}")
        body.append(f"<details><summary>{title}</summary>{_table(beside.HEAD, rows)}</details>")
    return body


def _table(head: Sequence[str], rows: Sequence[tuple[bool, Sequence[str], Sequence[str]]]) -> str:
    """A table with a button in each head; each row: whether it is cited, its cells as HTML, and as plain text."""
    heads = "".join(f'<th scope="col"><button type="button">{escape(cell)}</button></th>' for cell in head)
    lines = []
    for cited, shown, plain in rows:
        made = [f"<td{_key(text)}>{cell}</td>" for cell, text in zip(shown, plain, strict=True)]
        kind = ' class="cited"' if cited else ""
        lines.append(f"<tr{kind}>" + "".join(made) + "</tr>")
    return f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


_CLOCK = re.compile(r"(?:(\d+) h )?(\d+) (min|s)")
_NUMBER = re.compile(r"(?:[<>] )?([-+]?\d{1,3}(?:,\d{3})+|[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)( M\b)?(?: |,|%|$)")


def _key(text: str) -> str:
    """What a cell is sorted by, as an attribute: seconds of a time, the first number of what begins with one, else nothing."""
    if match := _CLOCK.fullmatch(text):
        value = int(match[1] or 0) * 3600.0 + int(match[2]) * (60.0 if match[3] == "min" else 1.0)
    elif match := _NUMBER.match(text):
        value = float(match[1].replace(",", "")) * (1e6 if match[2] else 1.0)
    else:
        return ""
    return f' data-key="{value:.10g}"'


def _by_conditions(entries: Sequence[Shown]) -> dict[str, list[Shown]]:
    """The runs that have tests, by what a figure of them is called."""
    groups: dict[str, list[Shown]] = {}
    for entry in entries:
        if entry.run.curve("test"):
            groups.setdefault(str(entry.run.record.conditions), []).append(entry)
    return groups


def _together(title: str, entries: Sequence[Shown]) -> bytes:
    runs = [entry.run for entry in entries]
    return plots.draw({}, {name: run.curve("test") for name, run in zip(labels(runs), runs, strict=True)}, title)


def _runs(entries: Sequence[Shown], base: Path) -> str:
    rows = []
    for number, entry in enumerate(entries):
        folder = link(entry.run.folder, base, entry.run.folder.as_posix())
        plain = [entry.label, *cells(entry.run), folder.text, ""]
        ways = " ".join(_anchor(each.href, each.text) for each in links(entry, base))
        shown = [
            _anchor(f"#run-{number}", entry.label),
            *map(escape, cells(entry.run)),
            _anchor(folder.href, folder.text),
            ways,
        ]
        rows.append((False, shown, plain))
    return _table(RUNS_HEAD, rows)


def _anchor(href: str, text: str) -> str:
    return f'<a href="{escape(href)}">{escape(text)}</a>'


def _run(number: int, entry: Shown, base: Path) -> str:
    """One run, to unfold: its curves, the links to its files, and what it took where the paper is silent."""
    found = entry.run.record
    error = cells(entry.run)[1] if found.done else found.status
    inner = _picture(entry.picture, entry.label) if entry.picture else "<p>No points yet.</p>"
    inner += "<p>" + " ".join(_anchor(each.href, each.text) for each in links(entry, base)) + "</p>"
    if found.schedule_words:
        inner += f"<p>{escape(found.schedule_words)}</p>"
    if found.assumptions:
        points = "".join(f"<li>{escape(point)}</li>" for point in found.assumptions)
        inner += f"<p>What the paper leaves open, as taken:</p><ul>{points}</ul>"
    summary = escape(f"{entry.label}, {found.dataset}: {error}")
    return f'<details id="run-{number}"><summary>{summary}</summary>{inner}</details>'


def _picture(data: bytes, title: str) -> str:
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def _verdict(verdict: Verdict) -> str:
    kind = {"holds": "holds", "fails": "fails"}.get(verdict.verdict, "unknown")
    lines = [f"read as: {verdict.trend.reading}"] if verdict.trend.reading else []
    lines += [f"compared on {verdict.conditions}"] if verdict.conditions else []
    lines += verdict.numbers
    lines += [f"runs: {', '.join(verdict.runs)}"] if verdict.runs else []
    inner = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        f'<p><b class="{kind}">{escape(verdict.verdict)}</b> ({verdict.trend.section}): '
        f"“{escape(verdict.trend.sentence)}”</p><ul>{inner}</ul>"
    )
