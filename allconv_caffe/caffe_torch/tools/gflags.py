"""Command-line flags as google-gflags reads them: ``-name value``, ``--name=value``, ``-switch``, ``-noswitch``.

Flags that change flags, in the order in which they stand: ``-flagfile=f`` (one flag a line), ``-fromenv=a,b`` (from
FLAGS_a, FLAGS_b), ``-tryfromenv=a,b``; ``-undefok=a,b`` lets unknown ones pass.

Source: gflags 2.2 gflags.cc, gflags_reporting.cc.
"""

from __future__ import annotations

import fnmatch
import io
import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

_INTEGER = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+|0[xX][0-9a-fA-F]+")  # as strtol takes it, to the text's end
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
            if _INTEGER.fullmatch(text) and len(text) < 1000:
                number = int(text, 16 if text[:2] in ("0x", "0X") else 10)
                if -(2**31) <= number < 2**31:
                    return number
        else:
            return text
        raise ValueError(f"illegal value '{text}' specified for {self.type} flag '{self.name}'")

    def usage(self) -> str:
        """The flag's paragraph in the usage text, 80 columns."""
        shown = f'"{self.default}"' if self.type == "string" else str(self.default).lower()
        text = f"-{self.name} ({self.description}) type:\0{self.type} default:\0{shown}"
        lines = textwrap.wrap(text, 79, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False)
        return "\n".join(lines).replace("\0", " ")


REPORTING, OWN = "gflags_reporting.cc", "gflags.cc"
BUILT_IN = (
    Flag("flagfile", "", "load flags from file", OWN),
    Flag("fromenv", "", "set flags from the environment [use 'export FLAGS_flag1=value']", OWN),
    Flag("tryfromenv", "", "set flags from the environment if present", OWN),
    Flag(
        "undefok",
        "",
        "comma-separated list of flag names that it is okay to specify on the command line even if the "
        "program does not define a flag with that name",
        OWN,
    ),
    Flag("help", False, "show help on all flags [tip: all flags can have two dashes]", REPORTING),
    Flag("helpfull", False, "show help on all flags -- same as -help", REPORTING),
    Flag("helpmatch", "", "show help on modules whose name contains the specified substr", REPORTING),
    Flag("helpon", "", "show help on the modules named by this flag value", REPORTING),
    Flag("helppackage", False, "show help on all modules in the main package", REPORTING),
    Flag("helpshort", False, "show help on only the main module for this program", REPORTING),
    Flag("helpxml", False, "produce an xml version of help", REPORTING),
    Flag("version", False, "show version and build info and exit", REPORTING),
)
LOGGING = "logging.cc"
GLOG = (
    Flag("log_dir", "", "Folder for log files; default: the environment's GLOG_log_dir, else none.", LOGGING),
    Flag("minloglevel", -1, "Lowest level to log: 0 INFO, 1 WARNING, 2 ERROR, 3 FATAL; -1: GLOG_minloglevel.", LOGGING),
    Flag("logtostderr", False, "Write no log files.", LOGGING),
    Flag("alsologtostderr", True, "Accepted; the log always goes to stderr.", LOGGING),
    *(
        Flag(name, default, "Accepted, without effect here.", LOGGING)
        for name, default in (
            ("alsologtoemail", ""),
            ("colorlogtostderr", False),
            ("drop_log_memory", True),
            ("log_backtrace_at", ""),
            ("log_link", ""),
            ("log_prefix", True),
            ("logbuflevel", 0),
            ("logbufsecs", 30),
            ("logemaillevel", 999),
            ("logfile_mode", 436),
            ("logmailer", "/bin/mail"),
            ("max_log_size", 1800),
            ("stderrthreshold", 2),
            ("stop_logging_if_full_disk", False),
            ("symbolize_stacktrace", True),
            ("tab_completion_columns", 80),
            ("tab_completion_word", ""),
            ("v", 0),
            ("vmodule", ""),
        )
    ),
)
PROGRAMS = ("caffe", "caffe-torch")  # what a line without dashes in a flagfile may name
DEEPEST = 16  # flagfiles that name flagfiles


class Stop(Exception):
    """A mistake at which gflags ends the program at once, with these words."""


class _Parser:
    def __init__(self, flags: Sequence[Flag]) -> None:
        self.known = {flag.name: flag for flag in flags}
        self.values: dict[str, Any] = {flag.name: flag.default for flag in flags}
        self.errors: dict[str, str] = {}  # by flag: gflags says them in the order of their names
        self.undefined: set[str] = set()
        self.depth = 0

    def set(self, flag: Flag, text: str) -> None:
        try:
            self.values[flag.name] = flag.value(text)
        except ValueError as error:
            self.errors[flag.name] = str(error)
            return
        if flag.name == "flagfile":
            for path in filter(None, text.split(",")):
                self.read(path)
        elif flag.name in ("fromenv", "tryfromenv"):
            for name in filter(None, text.split(",")):
                self.environment(name, required=flag.name == "fromenv")

    def environment(self, name: str, required: bool) -> None:
        flag = self.known.get(name)
        if flag is None:
            self.errors[name] = f"unknown command line flag '{name}' (via --fromenv or --tryfromenv)"
            self.undefined.add(name)
        elif f"FLAGS_{name}" in os.environ:
            self.set(flag, os.environ[f"FLAGS_{name}"])
        elif required:
            self.errors[name] = f"FLAGS_{name} not found in environment"

    def read(self, path: str) -> None:
        """One flag a line; a line of file names says which programs the lines after it are for; # comments."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise Stop(f"{path}: flagfiles in {DEEPEST} flagfiles")
        from allconv_caffe.files import open_file

        try:
            with open_file(path, pipes=True) as file:
                text = io.StringIO(file.read().decode("utf-8", "replace"), newline=None)
                lines = [line.strip() for line in text]
        except (OSError, ValueError) as error:
            raise Stop(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        meant = True
        for line in lines:
            if line.startswith("-"):
                if meant:
                    self.one(line, [])
            elif line and not line.startswith("#"):
                meant = any(fnmatch.fnmatch(program, word) for word in line.split() for program in PROGRAMS)
        self.depth -= 1

    def one(self, argument: str, waiting: list[str]) -> None:
        """One argument with dashes; its value may be the first of those that wait."""
        name, equals, text = argument[2 if argument.startswith("--") else 1 :].partition("=")
        flag = self.known.get(name) or self.known.get(name.replace("-", "_"))
        if flag is None and name.startswith("no") and (flag := self.known.get(name[2:])) is not None:
            if flag.type != "bool":
                self.errors[name] = f"boolean value ({name}) specified for {flag.type} command line flag"
                return
            text, equals = "false", "="
        if flag is None:
            self.errors[name] = f"unknown command line flag '{name}'"
            self.undefined.add(name)
            return
        if not equals:
            if flag.type == "bool":
                text = "true"
            elif waiting:
                text = waiting.pop(0)
            else:
                self.errors[flag.name] = (
                    f"flag '{argument}' is missing its argument; flag description: {flag.description}"
                )
                return
        self.set(flag, text)


def parse(flags: Sequence[Flag], arguments: Sequence[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Values by name (defaults where unset), the other arguments, and one sentence for each mistake.

    Raises: Stop: a flagfile that cannot be read.
    """
    parser, rest, waiting = _Parser(flags), [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument == "--":
            rest += waiting
            break
        if not argument.startswith("-") or argument == "-":
            rest.append(argument)
        else:
            parser.one(argument, waiting)
    allowed = set(str(parser.values.get("undefok", "")).split(","))
    for name in parser.undefined:
        if name in allowed or (name.startswith("no") and name[2:] in allowed):
            del parser.errors[name]
    return parser.values, rest, [parser.errors[name] for name in sorted(parser.errors)]


def chosen(flags: Sequence[Flag], values: dict[str, Any], main: str) -> list[Flag] | None:
    """The flags that the help flags ask for; None where none of them is given. `main`: the main module's file."""
    if values["help"] or values["helpfull"]:
        return list(flags)
    if values["helpshort"] or values["helppackage"]:
        return [flag for flag in flags if flag.file == main]
    if values["helpon"]:
        return [flag for flag in flags if os.path.splitext(os.path.basename(flag.file))[0] == values["helpon"]]
    if values["helpmatch"]:
        return [flag for flag in flags if values["helpmatch"] in flag.file]
    return None


def xml(program: str, message: str, flags: Sequence[Flag], values: dict[str, Any]) -> str:
    """The usage text for programs to read."""

    def element(name: str, value: object) -> str:
        return f"<{name}>{escape(str(value).lower() if isinstance(value, bool) else str(value))}</{name}>"

    lines = ['<?xml version="1.0"?>', "<AllFlags>", element("program", program), element("usage", message)]
    for flag in sorted(flags, key=lambda flag: (flag.file, flag.name)):
        parts = {
            "file": flag.file,
            "name": flag.name,
            "meaning": flag.description,
            "default": flag.default,
            "current": values[flag.name],
            "type": flag.type,
        }
        lines.append("<flag>" + "".join(element(name, value) for name, value in parts.items()) + "</flag>")
    return "\n".join([*lines, "</AllFlags>", ""])


def usage(program: str, message: str, flags: Sequence[Flag]) -> str:
    """The usage text: the message, then the flags, by file and name."""
    parts = [f"{program}: {message}\n"]
    for file in dict.fromkeys(flag.file for flag in flags):
        own = sorted((flag for flag in flags if flag.file == file), key=lambda flag: flag.name)
        parts.append(f"\n  Flags from {file}:\n" + "".join(flag.usage() + "\n" for flag in own))
    return "".join(parts)
