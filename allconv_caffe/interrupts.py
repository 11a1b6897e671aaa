"""Ctrl-C while modules load: a command ends at once, with one line and status 130.

Python would raise KeyboardInterrupt inside whatever is being imported: PyTorch dies of it, other modules swallow it, and
what is left is a trace. The first import of a command sets this up; Python's own start, a tenth of a second before it, is out of
reach.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

COMMANDS = ("allconv", "caffe-torch")


def _leave(*_: object) -> None:
    os.write(2, b"stopped\n")
    os._exit(130)


def raise_again() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, after which files that are half written are cleared away."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _one_of_ours() -> bool:
    words = getattr(sys, "orig_argv", [])  # sys.argv[0] is "-m" until the module is found
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return (
        module.partition(".")[0] == __name__.partition(".")[0]
        or os.path.basename((getattr(sys, "argv", None) or [""])[0]) in COMMANDS
    )


if _one_of_ours() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    with contextlib.suppress(ValueError):  # no main thread: somebody else's program
        signal.signal(signal.SIGINT, _leave)
