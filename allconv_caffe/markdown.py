"""Tables in Markdown."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """The lines of a table.

    Args:
        head: the columns' names; they may be empty.
        rows: cells; a bar in one is escaped.
        right: numbers of the columns that are set flush right, from 0.
    """
    marks = ["---:" if column in right else "---" for column in range(len(head))]
    return [_line(head), _line(marks), *map(_line, rows)]


def escaped(text: str) -> str:
    """A name as Markdown that shows it, in one line, whatever is in it: no link, no picture, no markup, no HTML."""
    return re.sub(r"[\\`*\[\]<>&$]", lambda match: "\\" + match[0], " ".join(text.split("\n")))


def code(text: str) -> str:
    """What was typed, between backticks; those that are in it become '."""
    return "`" + " ".join(text.replace("`", "'").split("\n")) + "`"


def _line(cells: Sequence[str]) -> str:
    shown = (cell.replace("|", "\\|") for cell in cells)
    return "|" + "|".join(f" {cell} " if cell else " " for cell in shown) + "|"
