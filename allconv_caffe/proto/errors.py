"""The one exception of this package."""

from __future__ import annotations

from typing import Any, Optional, Sequence, Tuple


class ProtoError(Exception):
    """A prototxt or binary file that cannot be read or written; `str()` is one line that begins with the place.

    Attributes:
        where: file name, or ``<string>``.
        line, column: both counted from 1; None where the file has no lines.
        found: what stood there, or None.
        choices: what would have been accepted, if there are few enough to say.
        place: file name, line and column, as ``net.prototxt:3:5``.
        reason: the sentence without the place.
    """

    def __init__(
        self,
        where: str,
        reason: str,
        line: Optional[int] = None,
        column: Optional[int] = None,
        found: Optional[str] = None,
        choices: Sequence[str] = (),
    ) -> None:
        self.where, self.reason, self.line, self.column = where, reason, line, column
        self.found, self.choices = found, tuple(choices)
        self.place = ":".join(str(part) for part in (where, line, column) if part is not None)
        super().__init__(f"{self.place}: {reason}" if self.place else reason)

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.where, self.reason, self.line, self.column, self.found, self.choices)
