"""What a wrong table, option or experiment raises."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class TableError(ValueError):
    """A table, a layer of a table or an option is wrong.

    The text says where, what was found, what was expected and the choices; the same facts are fields.
    """

    def __init__(self, where: str, found: Any, expected: str, choices: Iterable[Any] = ()) -> None:
        self.where, self.found, self.expected = where, found, expected
        self.choices = tuple(choices)
        known = f" (choices: {', '.join(str(choice) for choice in self.choices)})" if self.choices else ""
        super().__init__(f"{where}: found {found!r}, expected {expected}{known}")

    def within(self, place: str) -> tuple[str, Any, str, tuple[Any, ...]]:
        """The facts with ``place`` before where: what an error of the same sentence, further out, is made of."""
        return f"{place}: {self.where}", self.found, self.expected, self.choices


class RenderError(TableError):
    """An option, a template or a folder does not serve for rendering."""


class DeriveError(TableError):
    """A user's table is wrong: file, entry, what was found, what was expected."""
