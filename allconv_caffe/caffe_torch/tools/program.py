"""What Caffe's programs have in common: flags, the log, one F line for a mistake."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.tools import gflags
from allconv_caffe.caffe_torch.tools.gflags import Flag

VERSION = "1.0.0"  # of Caffe


class Flags:
    """The flags' values as attributes."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no flag {name}")


def start(
    program: str, log_name: str, message: str, flags: Sequence[Flag], main: str, arguments: Sequence[str]
) -> tuple[Flags, list[str]] | int:
    """ParseCommandLineFlags and InitGoogleLogging.

    Args:
        program: its name in the usage text.
        log_name: what its log files begin with.
        message: the usage text before the flags.
        main: the file whose flags `-helpshort` shows.
    Returns: the flags, with `arguments` among them, and the other arguments; or the exit status of a program that is to end.
    """
    try:
        values, rest, errors = gflags.parse(flags, arguments)
    except gflags.Stop as stop:
        print(stop, file=sys.stderr)
        return 1
    if errors:
        for sentence in errors:
            print(f"ERROR: {sentence}", file=sys.stderr)
        return 1
    found = Flags({**values, "arguments": list(arguments)})
    if found.helpxml:
        print(gflags.xml(program, message, flags, values), end="")
        return 1
    shown = gflags.chosen(flags, values, main)
    if shown is not None:
        print(gflags.usage(program, message, shown), end="")
        return 1
    if found.version:
        print(f"{program} version {VERSION}")
        return 0
    glog.init(
        log_name,
        found.minloglevel if found.minloglevel >= 0 else None,
        found.log_dir or None,
        found.logtostderr or None,
    )
    return found, rest


def guarded(action: Callable[[], int], source: str, hint: Callable[[], str] = lambda: "") -> int:
    """Calls `action`, returns its status; a mistake becomes one F line from `source`, with what `hint` adds, and 1."""
    try:
        return action()
    except CaffeError as error:
        sys.stderr.write(error.details)
        return fatal(source, f"{error}{hint()}")
    except KeyboardInterrupt:
        return 130
    except (MemoryError, OSError) as error:
        return fatal(source, f"{type(error).__name__}: {error}")
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            return fatal(source, f"out of memory: {str(error).splitlines()[0]} (try a smaller batch_size)")
        return fatal(source, unexpected(error))


def unexpected(error: Exception) -> str:
    """The sentence for an exception that no check foresaw; its trace goes to stderr where ALLCONV_TRACEBACK is set."""
    if os.environ.get("ALLCONV_TRACEBACK"):
        traceback.print_exception(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}:{frame.lineno}"
    return (
        f"Unexpected {type(error).__name__} in {place}: {error} (a mistake of caffe-torch, please report it; "
        "ALLCONV_TRACEBACK=1 shows where it comes from)"
    )


def fatal(source: str, message: str) -> int:
    """Writes `message` as one F line. Returns 1."""
    glog.fatal(source, "; ".join(line.strip() for line in message.splitlines() if line.strip()))
    return 1
