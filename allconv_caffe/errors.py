"""The one body of an error: where, what was found, what was expected, the known choices; `str()` is one line of them.

A room's own error is a small subclass, which `except` can tell from the others: of `PlacedError` where the sentence is
free, of `FoundError` where it is always "found ..., expected ...".
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar

MOST_LETTERS = 4000  # of an error's text
_CONTROLS = [chr(i) for i in (*range(32), *range(127, 160), 0x2028, 0x2029) if chr(i) != "\t"]
_BREAKS = str.maketrans(
    {each: repr(each)[1:-1] for each in _CONTROLS}
)  # a file's name may hold them, for a terminal to obey
Error = TypeVar("Error", bound="PlacedError")


class PlacedError(Exception):
    """A mistake and its place: ``where: reason``.

    Attributes:
        where: file, option, layer, in the user's own words; "" where there is none to name.
        reason: the sentence without the place.
        found: what stood there, or None where the sentence alone says it.
        expected: what should have stood there, or "".
        choices: what would have been accepted, where that can be listed; else empty.
    """

    def __init__(
        self, where: object, reason: str, *, found: Any = None, expected: str = "", choices: Iterable[Any] = ()
    ) -> None:
        self.where, self.reason, self.found, self.expected = str(where), reason, found, expected
        self.choices = tuple(choices)
        super().__init__(str(self))

    @property
    def place(self) -> str:
        """What stands before the sentence."""
        return self.where

    def __str__(self) -> str:
        place = self.place
        return visible(_clipped(f"{place}: {self.reason}" if place else self.reason))

    def within(self: Error, place: str) -> Error:
        """Prepends `place` to where the error happened, and returns the same exception."""
        if place:
            self.where = f"{place}: {self.where}" if self.where else place
        return self

    @classmethod
    def of(cls: type[Error], error: PlacedError) -> Error:
        """`error` as one of this class: same sentence, same fields."""
        return _again(cls, dict(error.__dict__))

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), dict(self.__dict__))  # so that it comes back from a worker process, fields and all


class FoundError(PlacedError):
    """``where: found F, expected E (choices: A, B)``."""

    sentence: ClassVar[str] = "found {found}, expected {expected}"

    def __init__(self, where: object, found: Any, expected: str, choices: Iterable[Any] = ()) -> None:
        choices = tuple(choices)
        said = found.removeprefix("Found ") if isinstance(found, str) else found  # another error's sentence
        reason = " ".join(self.sentence.format(found=said, expected=expected).splitlines())
        if choices:
            reason += f" (choices: {', '.join(map(str, choices))})"
        super().__init__(where, reason, found=found, expected=expected, choices=choices)


def visible(text: str) -> str:
    """Text with what would end a line, or a terminal obey, written out."""
    return text.translate(_BREAKS)


def _clipped(text: str) -> str:
    """What a file held that is no file of ours may be megabytes: its beginning and its end."""
    if len(text) <= MOST_LETTERS:
        return text
    return f"{text[: MOST_LETTERS - 500]} [...] {text[-400:]}"


def did_you_mean(found: str, choices: Iterable[str]) -> str:
    """``; did you mean X?``, to stand behind what was expected, where a choice is close to what was found; else ""."""
    close = get_close_matches(found, list(choices), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _again(cls: type[Error], fields: dict[str, Any]) -> Error:
    """An error of class `cls` with these fields, whatever its constructor takes."""
    error = cls.__new__(cls)
    error.__dict__.update(fields)
    error.args = (str(error),)
    return error
