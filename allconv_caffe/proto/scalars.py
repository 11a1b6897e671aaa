"""What C++'s parser says first of prototxt whose values it does not take: a walk over fields and scalars, asked after a refusal.

Source: tokenizer.cc, text_format.cc.
"""

from __future__ import annotations

import re
from typing import Any, Iterator, List, NamedTuple, Optional, Set, Tuple

from google.protobuf.descriptor import FieldDescriptor as Field


class Objection(NamedTuple):
    """A sentence, where the word begins that it is about, that word, and what would have been taken, where that can be listed."""

    sentence: str
    offset: int
    found: str
    choices: Tuple[str, ...] = ()


class _Token(NamedTuple):
    kind: str  # integer, float, word, string, symbol, end
    text: str
    start: int
    wrong: str  # what the tokenizer says


class _Objects(Exception):
    """Raised where the walk ends; None: with nothing to say."""

    def __init__(self, objection: Optional[Objection]) -> None:
        self.objection = objection


_BLANK = re.compile(r"(?:[ \t\r\n\v\f]+|#[^\n]*)*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STRING = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'", re.DOTALL)
_NUMBER = re.compile(
    r"(?P<hex>0[xX](?P<digits>[0-9a-fA-F]*))|(?P<octal>0(?=[0-9])[0-7]*(?P<decimal>[89][0-9]*)?)"
    r"|(?P<other>(?:[0-9]+(?P<point>\.[0-9]*)?|\.[0-9]+)(?:(?P<e>[eE])[+-]?(?P<exponent>[0-9]*))?(?P<f>[fF])?)"
)
_INTEGERS = {
    Field.CPPTYPE_INT32: 2**31 - 1,
    Field.CPPTYPE_INT64: 2**63 - 1,
    Field.CPPTYPE_UINT32: 2**32 - 1,
    Field.CPPTYPE_UINT64: 2**64 - 1,
}
_SIGNED = (Field.CPPTYPE_INT32, Field.CPPTYPE_INT64)


def objection(text: str, descriptor: Any) -> Optional[Objection]:
    """The first sentence; None where the walk finds none, or comes to what is no matter of values: unknown fields, braces."""
    try:
        _Walk(text).message(descriptor, 0)
    except _Objects as end:
        return end.objection
    return None


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while True:
        at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
        if at >= len(text):
            yield _Token("end", "", at, "")
            return
        token = _token(text, at)
        yield token
        at += len(token.text)


def _token(text: str, at: int) -> _Token:
    for kind, pattern in (("word", _WORD), ("string", _STRING)):
        match = pattern.match(text, at)
        if match:
            return _Token(kind, match.group(), at, "")
    match = _NUMBER.match(text, at)
    if match is None:
        char = text[at]
        wrong = "" if char.isascii() else f"Interpreting non ascii codepoint {char.encode('utf-8', 'replace')[0]}."
        if char.isascii() and ord(char) < 0x20:
            wrong = "Invalid control characters encountered in text."
        return _Token("symbol", char, at, wrong)
    word, behind = match.group(), text[match.end() : match.end() + 1]
    is_float = match["other"] is not None and bool(match["point"] or match["e"] or match["f"] or word[0] == ".")
    wrong = ""
    if match["hex"] and not match["digits"]:
        wrong = '"0x" must be followed by hex digits.'
    elif match["decimal"]:
        wrong = "Numbers starting with leading zero must be in octal."
    elif match["e"] and not match["exponent"]:
        wrong = '"e" must be followed by exponent.'
    elif behind and (behind == "_" or (behind.isascii() and behind.isalpha())):
        wrong = "Need space between number and identifier."
    elif behind == ".":
        wrong = (
            "Already saw decimal point or exponent; can't have another one."
            if is_float
            else "Hex and octal numbers must be integers."
        )
    return _Token("float" if is_float else "integer", word, at, wrong)


class _Walk:
    """The parser's way, with one token ahead."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._now = next(self._tokens)
        self._check()

    def _check(self) -> None:
        if self._now.wrong:
            self._object(self._now.wrong)

    def _object(self, sentence: str) -> None:
        raise _Objects(Objection(sentence, self._now.start, self._now.text or "end of file"))

    def _expected(self, what: str, text: Optional[str] = None) -> None:
        word = "end of file" if self._now.kind == "end" else self._now.text  # where C++ says nothing
        self._object(f"Expected {what}, got: {word if text is None else text}")

    def _next(self) -> None:
        self._now = next(self._tokens)
        self._check()

    def _try(self, *symbols: str) -> bool:
        found = self._now.kind == "symbol" and self._now.text in symbols
        if found:
            self._next()
        return found

    def message(self, descriptor: Any, depth: int) -> None:
        """Fields, to the brace that ends them."""
        seen: Set[str] = set()
        while not (depth and self._now.text in ("}", ">")):
            token = self._now
            if token.kind == "end" and not depth:
                return
            if token.kind in ("end", "string") or token.text == "[" or depth > 100:
                raise _Objects(None)
            if token.kind != "word":
                self._expected("identifier")
            field = descriptor.fields_by_name.get(token.text)
            repeated = field is not None and _repeats(field)
            if field is None or (not repeated and token.text in seen):
                raise _Objects(None)
            seen.add(token.text)
            self._next()
            self._field(field, repeated, depth)
            self._try(";", ",")

    def _field(self, field: Any, repeated: bool, depth: int) -> None:
        colon = self._try(":")
        if field.cpp_type == Field.CPPTYPE_MESSAGE:
            if not self._try("{", "<"):
                raise _Objects(None)
            self.message(field.message_type, depth + 1)
            self._next()
        elif not colon:
            raise _Objects(None)
        elif repeated and self._try("["):
            while not self._try("]"):
                self._value(field)
                if not self._try(",") and self._now.text != "]":
                    raise _Objects(None)
        else:
            self._value(field)

    def _value(self, field: Any) -> None:
        kind = field.cpp_type
        if kind in _INTEGERS:
            self._integer(_INTEGERS[kind], signed=kind in _SIGNED)
        elif kind in (Field.CPPTYPE_FLOAT, Field.CPPTYPE_DOUBLE):
            self._double()
        elif kind == Field.CPPTYPE_STRING:
            if self._now.kind != "string":
                self._expected("string")
            while self._now.kind == "string":
                self._next()
        elif kind == Field.CPPTYPE_BOOL:
            self._bool(field.name)
        else:
            self._enum(field)

    def _integer(self, most: int, signed: bool) -> int:
        negative = signed and self._try("-")
        token = self._now
        if token.kind != "integer":
            self._expected("integer")
        value = as_integer(token.text)
        if value > most + negative:
            self._object(f"Integer out of range ({token.text})")
        self._next()
        return -value if negative else value

    def _double(self) -> None:
        self._try("-")
        token = self._now
        if token.kind == "integer":
            if token.text[0] == "0" and len(token.text) > 1:
                self._object(f"Expect a decimal number, got: {token.text}")
        elif token.kind == "word":
            if token.text.lower() not in ("inf", "infinity", "nan"):
                self._expected("double", token.text.lower())
        elif token.kind != "float":
            self._expected("double")
        self._next()

    def _bool(self, name: str) -> None:
        token = self._now
        if token.kind == "integer":
            self._integer(1, signed=False)
            return
        if token.kind != "word":
            self._expected("identifier")
        if token.text not in ("true", "True", "t", "false", "False", "f"):
            self._object(f'Invalid value for boolean field "{name}". Value: "{token.text}".')
        self._next()

    def _enum(self, field: Any) -> None:
        token, values = self._now, field.enum_type
        if token.kind == "word":
            found, known = token.text, token.text in values.values_by_name
        elif token.kind == "integer" or token.text == "-":
            self._try("-")
            begin = self._now.start
            number = self._number_of(token)
            found, known = str(number), number in values.values_by_number
            token = token._replace(start=begin)
            if known:
                return
        else:
            self._expected("integer or identifier")
        if not known:
            names: List[str] = [value.name for value in values.values]
            sentence = f'Unknown enumeration value of "{found}" for field "{field.name}".'
            raise _Objects(Objection(sentence, token.start, found, tuple(names)))
        self._next()

    def _number_of(self, first: _Token) -> int:
        negative = first.text == "-"
        if self._now.kind != "integer":
            self._expected("integer")
        value = as_integer(self._now.text)
        if value > 2**31 - 1 + negative:
            self._object(f"Integer out of range ({self._now.text})")
        self._next()
        return -value if negative else value


def _repeats(field: Any) -> bool:
    modern = getattr(field, "is_repeated", None)
    return bool(modern) if modern is not None else field.label == Field.LABEL_REPEATED


def as_integer(word: str) -> int:
    """The value of an integer's text: decimal, octal (0...) or hexadecimal (0x...); of endless ones just more than any field holds."""
    hexadecimal = word[:2] in ("0x", "0X")
    digits = (word[2:] if hexadecimal else word).lstrip("0") or "0"
    return int(digits, 16 if hexadecimal else 8 if word[0] == "0" else 10) if len(digits) <= 80 else 1 << 80
