"""What a visualisation says about a user's mistake."""

from __future__ import annotations

from typing import Any, Iterable


class VizError(ValueError):
    """One line: where, what was found, what was expected, the choices. The same facts are attributes."""

    def __init__(self, where: str, found: Any, expected: str, choices: Iterable[Any] = ()) -> None:
        self.where, self.found, self.expected = where, found, expected
        self.choices = tuple(choices)
        listed = f" (choices: {', '.join(str(choice) for choice in self.choices)})" if self.choices else ""
        super().__init__(f"{where}: found {found}, expected {expected}{listed}")
