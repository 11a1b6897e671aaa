"""The one exception of this package."""

from __future__ import annotations

from typing import Optional, Sequence

from allconv_caffe.errors import PlacedError


class ProtoError(PlacedError):
    """A prototxt or binary file that cannot be read or written; `str()` is one line that begins with the place.

    Attributes, beside those of every PlacedError:
        where: file name, or ``<string>``.
        line, column: both counted from 1; None where the file has no lines.
        place: file name, line and column, as ``net.prototxt:3:5``.
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
        self.line, self.column = line, column
        super().__init__(where, reason, found=found, choices=choices)

    @property
    def place(self) -> str:
        return ":".join(str(part) for part in (self.where, self.line, self.column) if part is not None)
