"""Command-line flags as google-gflags reads them: ``-name value``, ``--name=value``, ``-switch``, ``-noswitch``.

Source: gflags 2.2 gflags.cc, gflags_reporting.cc.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TRUE, FALSE = ("1", "t", "true", "y", "yes"), ("0", "f", "false", "n", "no")


@dataclass(frozen=True)
class Flag:
    """One flag; the type of `default` (str, int, bool) is the flag's. `file` groups the flags in the usage text."""

    name: str
    default: str | int | bool
    description: str
    file: str

    @property
    def type(self) -> str:
        return {bool: "bool", int: "int32", str: "string"}[type(self.default)]

    def value(self, text: str) -> str | int | bool:
        """What `text` means. Raises ValueError in gflags' words."""
        if isinstance(self.default, bool):
            if text.lower() in TRUE:
                return True
            if text.lower() in FALSE:
                return False
        elif isinstance(self.default, int):
            try:
                number = int(text, 16 if text.lower().lstrip("-+").startswith("0x") else 10)
                if -(2**31) <= number < 2**31 and "_" not in text:
                    return number
            except ValueError:
                pass
        else:
            return text
        raise ValueError(f"illegal value '{text}' specified for {self.type} flag '{self.name}'")

    def usage(self) -> str:
        """The flag's paragraph in the usage text, 80 columns."""
        shown = f'"{self.default}"' if self.type == "string" else str(self.default).lower()
        text = f"-{self.name} ({self.description}) type:\0{self.type} default:\0{shown}"
        lines = textwrap.wrap(text, 79, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False)
        return "\n".join(lines).replace("\0", " ")


def parse(flags: Sequence[Flag], arguments: Sequence[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Values by name (defaults where unset), the other arguments, and one sentence for each mistake."""
    known = {flag.name: flag for flag in flags}
    values: dict[str, Any] = {flag.name: flag.default for flag in flags}
    rest: list[str] = []
    errors: dict[str, str] = {}  # by flag: gflags says them in the order of their names
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            rest += waiting
            break
        if not argument.startswith("-") or argument == "-":
            rest.append(argument)
            continue
        name, equals, text = argument[2 if argument.startswith("--") else 1 :].partition("=")
        flag = known.get(name) or known.get(name.replace("-", "_"))
        if flag is None and name.startswith("no") and (flag := known.get(name[2:])) is not None:
            if flag.type != "bool":
                errors[name] = f"boolean value ({name}) specified for {flag.type} command line flag"
                continue
            text, equals = "false", "="
        if flag is None:
            errors[name] = f"unknown command line flag '{name}'"
            continue
        if not equals:
            if flag.type == "bool":
                text = "true"
            elif waiting:
                text = waiting.pop(0)
            else:
                errors[flag.name] = (
                    f"flag '{argument}' is missing its argument; flag description: {flag.description}"
                )
                continue
        try:
            values[flag.name] = flag.value(text)
        except ValueError as error:
            errors[flag.name] = str(error)
    return values, rest, [errors[name] for name in sorted(errors)]


def usage(program: str, message: str, flags: Sequence[Flag]) -> str:
    """The usage text: the message, then the flags, by file and name."""
    parts = [f"{program}: {message}\n"]
    for file in dict.fromkeys(flag.file for flag in flags):
        own = sorted((flag for flag in flags if flag.file == file), key=lambda flag: flag.name)
        parts.append(f"\n  Flags from {file}:\n" + "".join(flag.usage() + "\n" for flag in own))
    return "".join(parts)
