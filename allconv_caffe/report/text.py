"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allconv_caffe import markdown
from allconv_caffe.report.collect import Run
from allconv_caffe.report.runs import RUNS_HEAD, Shown, as_taken, cells, link, links
from allconv_caffe.report.tables import HEAD, Table
from allconv_caffe.report.trends import Verdict


def unfinished(runs: Sequence[Run]) -> list[str]:
    """A line for each run that is not done, and for each attempt that was given up."""
    lines = []
    for run in runs:
        found, folder = run.record, run.folder.as_posix()
        lines += [
            f"{found.experiment}, seed {attempt.get('seed')}: dead, {attempt.get('why')} ({folder})"
            for attempt in found.attempts
            if attempt.get("status") == "dead"
        ]
        if not found.done and found.status != "dead":
            lines.append(
                f"{found.experiment}, seed {found.seed}: {found.status} at iteration {found.iterations} of "
                f"{found.max_iter} ({folder})"
            )
    return lines


def best_on_test(entries: Sequence[Shown]) -> list[str]:
    """The best test of each run: chosen on test data, so no result."""
    lines = []
    for entry in entries:
        found, best = entry.run.record, entry.run.record.best_on_test or {}
        if found.done and best.get("error_percent") is not None:
            lines.append(f"{entry.label}: {best['error_percent']:.2f} % at iteration {best['iteration']}")
    return lines


def taken(entries: Sequence[Shown]) -> list[str]:
    """What the paper leaves open, as taken: a line for each point on which all runs agree, then one for each other run."""
    shared, own = as_taken([entry.run for entry in entries])
    lines = list(shared)
    if own:
        lines += [f"{entries[number].label}: {'; '.join(points)}" for number, points in own.items()]
    return lines


def to_markdown(
    found: Sequence[Table],
    entries: Sequence[Shown],
    base: Path,
    verdicts: Sequence[Verdict] | None = None,
    beside: Sequence[str] = (),
) -> str:
    """The whole report as Markdown; its links start from ``base``. beside: the lines of a section that stands first."""
    lines = ["# Measured beside published", ""]
    lines += [
        f"Test error of the last iteration; mean ± standard deviation over seeds. Runs: {len(entries)}.",
        "",
        *beside,
    ]
    for table in found:
        lines += [f"## {table.title}", "", *markdown.table(HEAD, [[*map(markdown.escaped, row)] for row in table.rows])]
        lines += ["", *table.notes, ""] if table.notes else [""]
    if entries:
        lines += ["## Every run", "", *markdown.table(RUNS_HEAD, [_run_row(entry, base) for entry in entries]), ""]
    if verdicts is not None:
        lines += ["## Sections 3.1 and 3.2, sentence by sentence", ""]
        for verdict in verdicts:
            lines += _verdict_lines(verdict)
    for title, said in sections(entries):
        lines += [f"## {title}", "", *(f"- {markdown.escaped(line)}" for line in said), ""]
    return "\n".join(lines)


def _run_row(entry: Shown, base: Path) -> tuple[str, ...]:
    folder = link(entry.run.folder, base, entry.run.folder.as_posix())
    return (
        *map(markdown.escaped, (entry.label, *cells(entry.run))),
        folder.markdown,
        " ".join(each.markdown for each in links(entry, base)),
    )


def sections(entries: Sequence[Shown]) -> list[tuple[str, list[str]]]:
    """Titles and lines of what stands below the tables; empty ones are left out."""
    found = [
        ("Best on test: chosen on test data, not results", best_on_test(entries)),
        ("Dead and unfinished trainings", unfinished([entry.run for entry in entries])),
        ("What the paper leaves open, as taken in these runs", taken(entries)),
    ]
    return [(title, lines) for title, lines in found if lines]


def _verdict_lines(verdict: Verdict) -> list[str]:
    trend = verdict.trend
    lines = [f'- **{verdict.verdict}** ({trend.section}): "{trend.sentence}"']
    if trend.reading:
        lines.append(f"  - read as: {trend.reading}")
    if verdict.conditions:
        lines.append(f"  - compared on {markdown.escaped(str(verdict.conditions))}")
    lines += [f"  - {markdown.escaped(number)}" for number in verdict.numbers]
    if verdict.runs:
        lines.append(f"  - runs: {markdown.escaped(', '.join(verdict.runs))}")
    return [*lines, ""]
