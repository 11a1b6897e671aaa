"""Comma-separated values that are opened in spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV. A text that a spreadsheet would take for a formula, `=HYPERLINK(...)` for a name, gets a ' before it."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ")  # which the writer leaves bare, and readers take for the end of a row
    if not value.startswith(_FORMULA):
        return text
    try:
        float(value)
    except ValueError:
        return "'" + text
    return text
