"""Tables in Markdown."""

from __future__ import annotations

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


def _line(cells: Sequence[str]) -> str:
    shown = (cell.replace("|", "\\|") for cell in cells)
    return "|" + "|".join(f" {cell} " if cell else " " for cell in shown) + "|"
