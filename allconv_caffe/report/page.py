"""The report as one HTML page that needs nothing else: tables, curves as embedded pictures, verdicts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from allconv_caffe.report import plots
from allconv_caffe.report.collect import Run
from allconv_caffe.report.tables import CITED_MARK, HEAD, Table, on_its_dataset, sections
from allconv_caffe.report.trends import Verdict

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0;font-size:13px;width:100%}
th,td{border-bottom:1px solid #ddd;padding:.3rem .5rem;text-align:left;vertical-align:top}
th{background:#f4f4f4}tr.cited{color:#777}img{max-width:100%}summary{cursor:pointer}
.holds{color:#176b2c}.fails{color:#a11}.unknown{color:#666}
"""


def to_html(found: Sequence[Table], runs: Sequence[Run], verdicts: Sequence[Verdict] | None = None) -> str:
    """The whole page; it names no other file or address."""
    body = ["<h1>Measured beside published</h1>"]
    body.append(f"<p>Test error of the last iteration; mean ± standard deviation over seeds. Runs: {len(runs)}.</p>")
    for table in found:
        body.append(f"<h2>{escape(table.title)}</h2>")
        body.append(_table(table))
        body += [f"<p>{escape(note)}</p>" for note in table.notes]
    drawn = [run for run in runs if run.curve("test")]
    if drawn:
        body.append("<h2>Test error over epochs</h2>")
        for title, group in _by_dataset(drawn).items():
            body.append(_picture(_together(title, group), title))
    if verdicts is not None:
        body.append("<h2>Sections 3.1 and 3.2, sentence by sentence</h2>")
        body += [_verdict(verdict) for verdict in verdicts]
    for title, entries in sections(runs):
        body.append(
            f"<h2>{escape(title)}</h2><ul>" + "".join(f"<li>{escape(entry)}</li>" for entry in entries) + "</ul>"
        )
    if drawn:
        body.append("<h2>Every run</h2>")
        body += [_run(run) for run in drawn]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Measured beside published</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEAD)
    rows = []
    for row in table.rows:
        kind = ' class="cited"' if CITED_MARK in row else ""
        rows.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _by_dataset(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str(run.record.conditions), []).append(run)
    return groups


def _label(run: Run) -> str:
    found = run.record
    words = [found.model, found.variant, f"seed {found.seed}", found.engine]
    return ", ".join(word for word in words if word)


def _together(title: str, runs: Sequence[Run]) -> bytes:
    return plots.draw({}, {_label(run): run.curve("test") for run in runs}, title)


def _run(run: Run) -> str:
    title = f"{_label(run)}, {run.record.dataset}"
    published = run.record.published_error_percent if on_its_dataset(run) else None
    picture = plots.draw({"training": run.curve("train")}, {"measured": run.curve("test")}, title, published)
    percent = run.record.error_percent
    error = "not done" if not run.record.done else "not a number" if percent is None else f"{percent:.2f} %"
    return f"<details><summary>{escape(title)}: {error}</summary>{_picture(picture, title)}</details>"


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
