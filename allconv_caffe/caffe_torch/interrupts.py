"""Ctrl-C while modules load: the command ends at once, without a word, with status 130.

Python would raise KeyboardInterrupt inside whatever is being imported: PyTorch dies of it, other modules swallow it.
"""

from __future__ import annotations

import os
import signal
import sys

COMMANDS = ("caffe-torch", os.path.join("caffe_torch", "__main__.py"))


def _leave(*_: object) -> None:
    os._exit(130)


def raise_again() -> None:
    """From now on Ctrl-C is a KeyboardInterrupt, after which files that are half written are cleared away."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if sys.argv and sys.argv[0].endswith(COMMANDS) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _leave)
