"""``python -m allconv_caffe.pycaffe script.py ...``: an untouched script, whose ``import caffe`` is this package.

``-m module ...`` and ``-c code ...`` run what Python's own options of that name run; before these, ``--seed-exact`` is
`set_seed_exact`.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence

from allconv_caffe import interrupts, pycaffe
from allconv_caffe.files import open_file

USAGE = (
    "usage: python -m allconv_caffe.pycaffe [--seed-exact] "
    "SCRIPT.py [ARGUMENT]... | -m MODULE [ARGUMENT]... | -c CODE [ARGUMENT]..."
)


def main(arguments: Sequence[str]) -> int:
    """Runs the script as Python would; returns 2 where there is none."""
    exact = list(arguments[:1]) == ["--seed-exact"]
    arguments = arguments[exact:]
    kind = arguments[0] if arguments and arguments[0] in ("-m", "-c") else ""
    words = list(arguments[1:] if kind else arguments)
    if not words or (not kind and words[0].startswith("-")):
        print(USAGE, file=sys.stderr)
        return 2
    pycaffe.install()
    pycaffe.set_seed_exact(exact)
    interrupts.raise_again()  # from here on it is the script's
    if kind == "-m":
        sys.argv = words
        sys.path[0] = os.getcwd()
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        return 0
    if kind == "-c":
        sys.argv = ["-c", *words[1:]]
        sys.path[0] = ""
        exec(compile(words[0], "<string>", "exec"), {"__name__": "__main__"})
        return 0
    try:
        open_file(words[0]).close()
    except (OSError, ValueError) as error:
        print(f"{words[0]}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 2
    sys.argv = words
    sys.path[0] = os.path.dirname(os.path.abspath(words[0]))
    runpy.run_path(words[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
