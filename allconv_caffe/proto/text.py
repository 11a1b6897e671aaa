"""Prototxt in and out: Google's text format as Caffe reads and prints it.

Reading uses `google.protobuf.text_format` and puts Caffe's sentences and a place into its errors. Printing is our own:
Caffe prints ``lr_mult: 1`` and ``base_lr: 1e-05`` where the Python library prints ``1.0``.
"""

from __future__ import annotations

import difflib
import functools
import re
import struct
from typing import Any, Dict, Iterator, List, Match, Optional, Set, Tuple

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor

from . import build, forks, scalars
from .errors import ProtoError

_TOKEN = re.compile(r"[A-Za-z_][\w.]*|[-+]?[0-9.][\w.+-]*|\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?|\S")
_STRING_OR_COMMENT = re.compile(r"(\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')|#[^\n]*")
_NO_FIELD = re.compile(r'Message type "(?P<message>[\w.]+)" has no field named "(?P<field>[^"]*)"\.?')
_NO_VALUE = re.compile(r'Enum type "(?P<enum>[\w.]+)" has no value (?:named|with number) (?P<value>\S+?)\.?$')
_TWICE = re.compile(r'Message type "(?P<message>[\w.]+)" should not have multiple "(?P<field>\w+)" fields\.?')
_ESCAPED = "abfnrtvxXuU01234567\\'\"?"  # what may follow a backslash
_MOST_CHOICES = 12
_SMALLEST_NORMAL = 2.0**-126  # of float32


def parse_text(text: str, cls: Any, where: str = "<string>") -> Any:
    """The message of class `cls` that prototxt `text` describes.

    Args:
        text: text format: comments, ``[1, 2]`` lists, ``;`` or ``,`` between fields, ``"a" "b"`` joined strings.
        where: what to call the source in errors.
    Raises: ProtoError with line and column for anything that Caffe's own parser refuses: syntax, unknown fields or
        enum values, numbers out of range, a single field given twice, a required field left out.
    Differs: the column is that of the wrong word itself; Caffe names the column after it. The fields in `forks.ADDED`, which
        Caffe refuses, are read (see `fork_fields`); a text with one is held against both schemas joined.
    """
    try:
        message = _parsed(text, cls, where)
    except _ForksField:
        joined = _parsed(text, build.joined(cls), where)
        message = cls()
        message.MergeFromString(joined.SerializePartialToString())
    missing = message.FindInitializationErrors()
    if missing:
        raise ProtoError(where, f"Message missing required fields: {', '.join(missing)}", choices=missing)
    return message


class _ForksField(Exception):
    """A text has a field that `forks` knows."""


_ADDED = {(f"{build.PACKAGE}.{message.name}", field.name) for message in forks.ADDED for field in message.fields}


def _parsed(text: str, cls: Any, where: str) -> Any:
    message = cls()
    given = text
    try:
        text = _as_cpp(given, cls, where)
        text_format.Parse(text, message)
    except ProtoError as error:
        raise _first(error, given, cls, where) from None
    except text_format.ParseError as error:
        no_field = _NO_FIELD.search(str(error))
        if no_field and (no_field.group("message"), no_field.group("field")) in _ADDED:
            raise _ForksField from None
        raise _first(_explain(error, text, cls, where), given, cls, where) from None
    except (ValueError, TypeError) as error:  # e.g. a lone surrogate in a string
        raise ProtoError(where, f"Error parsing text-format {cls.DESCRIPTOR.full_name}: {error}") from None
    return message


def _first(error: ProtoError, text: str, cls: Any, where: str) -> ProtoError:
    """What C++'s parser says of a value there, or before; `error` where it is no matter of values."""
    found = scalars.objection(text, cls.DESCRIPTOR)
    if found is None:
        return error
    line, column = _place(text, found.offset)
    if error.line is not None and line > error.line:
        return error
    sentence = found.sentence + _hint(found.found, list(found.choices))
    return ProtoError(where, sentence, line, column, found.found, found.choices)


def _as_cpp(text: str, cls: Any, where: str) -> str:
    """`text` with its numbers as Python's parser takes them, where C++'s takes more: ``- 1``, bools and enums ``01``, ``0x1``.

    Raises: ProtoError for what Python's parser takes and C++'s does not: ``1_0``, ``0b1``, ``+3``, ``inff``, digits and
        blanks beyond ASCII, escapes that mean nothing.
    Source: tokenizer.cc, text_format.cc.
    """
    kinds = _kinds(cls.DESCRIPTOR.file)
    field, minus, pieces, done = "", -1, [], 0
    for token in _SCAN.finditer(text):
        kind, word, start = token.lastgroup, token.group(), token.start()
        if kind in ("blank", "comment"):
            continue
        wrong = _refusal(text, token, kinds.get(field, set()))
        if wrong:
            line, column = _place(text, start + (wrong[1] if kind == "string" else 0))
            raise ProtoError(where, wrong[0], line, column, wrong[2])
        value = word
        if kind == "word" and not _VALUE_WORDS.fullmatch(word):
            field = word
        elif (
            kind == "number"
            and {"bool", "enum"} & kinds.get(field, set())
            and re.fullmatch(r"0[0-7]+|0[xX]0*[01]", word)
        ):
            value = str(scalars.as_integer(word))
        if minus >= 0 and kind in ("number", "word") and start > minus + 1:
            pieces += [text[done:minus], " ", text[minus + 1 : start], "-", value]
            done = token.end()
        elif value != word:
            pieces += [text[done:start], value]
            done = token.end()
        minus = start if word == "-" else -1
    return "".join([*pieces, text[done:]])


_SCAN = re.compile(
    r"""(?P<blank>[ \t\r\n\v\f]+)|(?P<comment>\#[^\n]*)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"""
    r"""|(?P<number>0[xX][0-9a-fA-F]*|0[0-9]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]*)?[fF]?)"""
    r"""|(?P<string>"(?:[^"\\\n]+|\\.)*"?|'(?:[^'\\\n]+|\\.)*'?)|(?P<other>.)""",
    re.DOTALL,
)
_VALUE_WORDS = re.compile("inf|infinity|nan|true|false|t|f", re.IGNORECASE)
_NO_DOUBLE = re.compile("(inf|infinity|nan)f", re.IGNORECASE)


@functools.lru_cache(maxsize=2)
def _kinds(schema: Any) -> Dict[str, Set[str]]:
    """What a field of a name is, in all messages that have one: "bool", "enum", "float", "other"."""
    found: Dict[str, Set[str]] = {}
    waiting = list(schema.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        waiting += message.nested_types
        for field in message.fields:
            names = {field.CPPTYPE_BOOL: "bool", field.CPPTYPE_ENUM: "enum", field.CPPTYPE_FLOAT: "float"}
            found.setdefault(field.name, set()).add(names.get(field.cpp_type, "other"))
    return {name: kinds for name, kinds in found.items() if len(kinds) == 1}


def _refusal(text: str, token: Match[str], kinds: Set[str]) -> Optional[Tuple[str, int, str]]:
    """(what C++ says, how far into the token, the words at fault) for a token that it does not take."""
    kind, word, behind = token.lastgroup, token.group(), text[token.end() : token.end() + 1]
    if kind == "string":
        for escape in re.finditer(r"\\(.)", word):
            if escape.group(1) not in _ESCAPED:
                return "Invalid escape sequence in string literal.", escape.start(), escape.group()
    elif kind == "number":
        if behind and (behind == "_" or (behind.isascii() and behind.isalpha())):
            return "Need space between number and identifier.", 0, word + behind
        if behind == "." and word[0] == "0" and len(word) > 1 and word[1] not in ".eE":
            return "Hex and octal numbers must be integers.", 0, word
        if re.fullmatch("0[0-9]*[89][0-9]*", word):
            return "Numbers starting with leading zero must be in octal.", 0, word
        if kinds == {"enum"} and word.isdigit() and scalars.as_integer(word) >= 2**31:
            return f"Integer out of range ({word})", 0, word
    elif kind == "word":
        if _NO_DOUBLE.fullmatch(word) and kinds == {"float"}:
            return f"Expected double, got: {word}", 0, word
    elif kind == "other":
        if word == "+":
            return "Expected integer, got: +", 0, "+"
        if not word.isascii():
            return f"Interpreting non ascii codepoint {word.encode('utf-8', 'surrogatepass')[0]}.", 0, word
    return None


def decode(raw: bytes, where: str) -> str:
    """UTF-8 `raw` as text; other bytes may stand in comments only, as in Caffe.

    Raises: ProtoError with the place of the first byte that is not UTF-8.
    """
    if raw.startswith(b"\xef\xbb\xbf"):
        raise ProtoError(
            where, "Interpreting non ascii codepoint 239. (a byte order mark: save the file as UTF-8 without one)", 1, 1
        )
    text = raw.decode("utf-8", errors="surrogateescape")
    stray = re.compile("[\udc80-\udcff]")
    if stray.search(text):
        text = _STRING_OR_COMMENT.sub(lambda match: match.group(1) or stray.sub("?", match.group()), text)
        found = stray.search(text)
        if found:
            byte = f"0x{ord(found.group()) - 0xDC00:02X}"
            line, column = _place(text, found.start())
            raise ProtoError(where, f"Found byte {byte}, expected UTF-8 text", line, column, byte)
    return text


def to_text(message: Any) -> str:
    """`message` as Caffe's logs print it: fields by number, two spaces per level, shortest numbers."""
    return "".join(f"{line}\n" for line in _lines(message, ""))


def _lines(message: Any, indent: str) -> Iterator[str]:
    for field, value in message.ListFields():
        for item in value if _is_repeated(field) else (value,):
            if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
                yield f"{indent}{field.name} {{"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{field.name}: {_scalar(field, item)}"


def _is_repeated(field: Any) -> bool:
    modern = getattr(field, "is_repeated", None)
    return bool(modern) if modern is not None else field.label == FieldDescriptor.LABEL_REPEATED


def _scalar(field: Any, value: Any) -> str:
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return float_text(value)
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        short = f"{value:.15g}"
        return short if float(short) == value or value != value else f"{value:.17g}"
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true" if value else "false"
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return field.enum_type.values_by_number[value].name
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        raw = value if isinstance(value, bytes) else value.encode("utf-8")
        return '"' + raw.decode("latin-1").translate(_ESCAPES) + '"'
    return str(value)


_ESCAPES = {byte: f"\\{byte:03o}" for byte in range(256) if not 0x20 <= byte < 0x7F}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", ord('"'): '\\"', ord("'"): "\\'", ord("\\"): "\\\\"}


def float_text(value: float) -> str:
    """A float32 as C++ protobuf prints it: 6 significant digits, 9 where 6 do not give the same float32 back."""
    short = f"{value:.6g}"
    try:
        same = struct.pack("<f", float(short)) == struct.pack("<f", value)
    except OverflowError:  # 6 digits of the largest float32 round to more than a float32 holds
        same = False
    if 0 < abs(value) < _SMALLEST_NORMAL:  # C's strtof reports underflow there, so the 6 digits are never trusted
        same = False
    return short if same or value != value else f"{value:.9g}"


def _place(text: str, offset: int) -> Tuple[int, int]:
    line_start = text.rfind("\n", 0, offset) + 1
    return text.count("\n", 0, offset) + 1, offset - line_start + 1


def _explain(error: Any, text: str, cls: Any, where: str) -> ProtoError:
    line, column = error.GetLine(), error.GetColumn()
    reason = re.sub(r"^\d+:\d+ ?: ", "", str(error))
    rows = text.split("\n")
    found: Optional[str] = None
    if re.match(r"Expected \"[}>]\"", reason):  # the library names the last word before the end
        line, column = len(rows), len(rows[-1]) + 1
    reason = reason.replace("'': ", "", 1)
    if line is not None and line <= len(rows):
        row = rows[line - 1]
        reason = reason.replace(f"'{row}': ", "", 1).replace(f"{row!r}: ", "", 1)
        token = _TOKEN.match(row, column - 1) if column else None
        found = token.group() if token else None
        if found is None and not "".join([row[column - 1 :], *rows[line:]]).strip():
            found = "end of file"
    choices: List[str] = []
    no_field, no_value, twice = (pattern.search(reason) for pattern in (_NO_FIELD, _NO_VALUE, _TWICE))
    if no_field:
        found = no_field.group("field")
        descriptor = cls.DESCRIPTOR.file.pool.FindMessageTypeByName(no_field.group("message"))
        choices = sorted(field.name for field in descriptor.fields)
        reason = no_field.group().rstrip(".") + "." + (forks.of_field(found) or _hint(found, choices))
    elif no_value:
        found = no_value.group("value")
        descriptor = cls.DESCRIPTOR.file.pool.FindEnumTypeByName(no_value.group("enum"))
        choices = [value.name for value in descriptor.values]
        field = _field_before(rows, line, column)
        reason = f'Unknown enumeration value of "{found}" for field "{field}".{_hint(found, choices)}'
    elif twice:
        found = twice.group("field")
        reason = f'Non-repeated field "{found}" is specified multiple times.'
    else:
        if not reason.endswith("."):
            reason += "."
        if found is not None and found not in reason:
            reason = f"{reason[:-1]}, found {found}." if found == "end of file" else f'{reason[:-1]}, found "{found}".'
        reason = _in_caffes_words(reason, found, _field_before(rows, line, column))
    return ProtoError(where, reason, line, column, found, choices)


# what Python's parser says, and how C++'s begins
_WORDS = (
    (re.compile(r"Couldn't parse integer: (?P<got>.*?)\.?$"), "Expected integer, got: {got}"),
    (re.compile(r"Couldn't parse float: (?P<got>.*?)\.?$"), "Expected double, got: {got}"),
    (
        re.compile(r"Expected string but found: '(?P<got>.*)'(?:, found end of file)?\.?$"),
        "Expected string, got: {got}",
    ),
    (re.compile(r"Expected identifier or number, got (?P<got>.*?)\.?$"), "Expected identifier, got: {got}"),
    (re.compile(r"Value out of range: -(?P<got>[0-9]{1,10})\.?$"), "Expected integer, got: -{got}"),
    (re.compile(r"Value out of range: -?(?P<got>.*?)\.?$"), "Integer out of range ({got})"),
    (
        re.compile(r'Expected "true" or "false", found "?(?P<got>.*?)"?\.?$'),
        'Invalid value for boolean field "{field}". Value: "{got}".',
    ),
)


def _in_caffes_words(reason: str, found: Optional[str], field: str) -> str:
    if found is not None and any(ord(c) < 0x20 for c in found):
        return "Invalid control characters encountered in text."
    for pattern, words in _WORDS:
        match = pattern.match(reason)
        if match:
            return words.format(field=field, got=match.group("got") or found or "")
    return reason


def _field_before(rows: List[str], line: Optional[int], column: Optional[int]) -> str:
    """The name of the field whose value stands there."""
    if line is None or column is None:
        return ""
    before = "\n".join([*rows[: line - 1], rows[line - 1][: column - 1]]) if line <= len(rows) else ""
    match = re.search(r"([A-Za-z_]\w*)\s*:?\s*(?:\[[^\]\[]*)?$", before[-1000:])
    return match.group(1) if match else ""


def _hint(found: str, choices: List[str]) -> str:
    if not choices:
        return ""
    if len(choices) <= _MOST_CHOICES:
        return f" (known: {', '.join(choices)})"
    near = difflib.get_close_matches(found, choices, n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
