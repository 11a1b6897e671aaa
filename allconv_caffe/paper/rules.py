"""What a field of a table or an option must be: one rule beside its type, and one function that asks all of them.

A dataclass says ``stride: Annotated[int, SIZE] = 1``; ``check_fields`` raises for the first field that breaks its rule,
and an option's rule also reads it from the words of a command line. None serves wherever the type allows it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from allconv_caffe.paper.errors import TableError

LARGEST_INT = 2**31 - 1  # int32 in caffe.proto; Caffe's own counts and shapes are int
SMALLEST_FLOAT, LARGEST_FLOAT = 1e-37, 3.4e38  # float in caffe.proto
LARGEST_RATE = 0.9999999  # float32 rounds what lies nearer to 1 to 1, and 1 / (1 - rate) is infinite
_OF_A_SIZE = ", of a size that float32 holds"


class Rule:
    """What a value must be. kind: what a text that it is read from must look like."""

    kind: ClassVar[str]

    def fault(self, value: Any) -> str | None:
        """What was expected in place of ``value``; None where it serves."""
        raise NotImplementedError

    def read(self, text: str) -> Any:
        """The value that a text of the command line stands for; ValueError where it stands for none."""
        return text

    def known(self) -> tuple[str, ...]:
        """Every value, where there are few."""
        return ()

    def check(self, where: str, value: Any) -> None:
        """Raise a ``TableError`` where the value breaks the rule."""
        if (expected := self.fault(value)) is not None:
            raise TableError(where, value, expected, self.known())


@dataclass(frozen=True)
class Number(Rule):
    """A number from ``least`` (or ``above`` it) to ``most`` that float32 turns neither into 0 nor into infinity."""

    words: str
    least: float = -LARGEST_FLOAT
    most: float = LARGEST_FLOAT
    above: bool = False
    kind = "a number"

    def fault(self, value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            return self.words
        if value < self.least or (self.above and value == self.least) or value > self.most != LARGEST_FLOAT:
            return self.words
        if value > LARGEST_FLOAT or 0 < abs(value) < SMALLEST_FLOAT:
            return self.words + _OF_A_SIZE
        return None

    def read(self, text: str) -> float:
        return float(text)


@dataclass(frozen=True)
class Numbers(Rule):
    """A tuple of numbers, each under the same rule."""

    each: Number
    kind = "numbers with commas between"

    def check(self, where: str, value: Any) -> None:
        if not isinstance(value, tuple):
            raise TableError(where, value, self.kind)
        for part in value:
            self.each.check(where, part)

    def read(self, text: str) -> tuple[float, ...]:
        return tuple(float(part) for part in text.split(","))


@dataclass(frozen=True)
class Whole(Rule):
    """A whole number from ``least`` to ``most``, or one of ``words`` in its place."""

    least: int
    most: int = LARGEST_INT
    words: tuple[str, ...] = ()
    kind = "a whole number"

    def fault(self, value: Any) -> str | None:
        if isinstance(value, str) and value in self.words:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < self.least:
            instead = f", or '{self.words[0]}'" if self.words else ""
            return f"a whole number of at least {self.least}{instead}"
        return f"a whole number of at most {self.most}, the largest that Caffe holds" if value > self.most else None

    def read(self, text: str) -> int:
        return int(text)


@dataclass(frozen=True)
class Flag(Rule):
    """True or false."""

    kind = "true or false"

    def fault(self, value: Any) -> str | None:
        return None if isinstance(value, bool) else self.kind

    def read(self, text: str) -> bool:
        return {"true": True, "false": False}[text.lower()]

    def known(self) -> tuple[str, ...]:
        return ("true", "false")


@dataclass(frozen=True)
class OneOf(Rule):
    """One of a few words."""

    choices: tuple[str, ...]
    words: str = "one of the choices"
    kind = "a word"

    def fault(self, value: Any) -> str | None:
        return None if value in self.choices else self.words

    def known(self) -> tuple[str, ...]:
        return self.choices


@dataclass(frozen=True)
class Line(Rule):
    """Text that may stand in a comment of prototxt."""

    kind = "one line of text"

    def fault(self, value: Any) -> str | None:
        return None if isinstance(value, str) and value.isprintable() else self.kind


@dataclass(frozen=True)
class PathText(Rule):
    """A path that may stand between the quotes of prototxt."""

    kind = "a path without quotes, backslashes or line ends"

    def fault(self, value: Any) -> str | None:
        good = isinstance(value, str) and value and not any(sign in value for sign in '"\\\n')
        return None if good else self.kind


@dataclass(frozen=True)
class Shape(Rule):
    """(C, H, W), each a size."""

    kind = "(channels, height, width), each at least 1"

    def fault(self, value: Any) -> str | None:
        good = isinstance(value, tuple) and len(value) == 3 and not any(map(SIZE.fault, value))
        return None if good else self.kind


SIZE = Whole(1)
POSITIVE = Number("a number above 0", least=0, above=True)
NOT_NEGATIVE = Number("a number of at least 0", least=0)
RATE = Number("a rate of at least 0 and below 1", least=0, most=LARGEST_RATE)
MOMENTUM = Number("a number of at least 0 and below 1", least=0, most=LARGEST_RATE)
FLAG, LINE, PATH, SHAPE = Flag(), Line(), PathText(), Shape()


@functools.cache
def _hints(kind: type) -> dict[str, tuple[bool, tuple[Any, ...]]]:
    """By field: whether None serves, and what its annotation says beside the type: a rule, words for a user."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if get_origin(hint) is Annotated:
            type_, *extras = get_args(hint)
            found[name] = (type(None) in get_args(type_), tuple(extras))
    return found


def rules(kind: type) -> Mapping[str, Rule]:
    """The rule of each field of a dataclass that has one, in the order of the fields."""
    return {name: extras[0] for name, (_, extras) in _hints(kind).items()}


def helps(kind: type) -> Mapping[str, str]:
    """What each field's annotation says to a user, beside its rule."""
    return {name: extras[1] for name, (_, extras) in _hints(kind).items() if len(extras) > 1}


def check_fields(instance: object, prefix: str = "") -> None:
    """Raise a ``TableError`` for the first field that breaks its rule; ``prefix`` stands before the field's name."""
    kind: type = type(instance)
    for name, (optional, (rule, *_)) in _hints(kind).items():
        value = getattr(instance, name)
        if value is not None or not optional:
            rule.check(prefix + name, value)
