"""Who answers to ``import caffe`` in the module of a user's Python layer.

The drop-in does, `allconv_caffe.pycaffe`, which stands on this runtime and therefore cannot be imported by it: it names
itself here when it is imported, and a command that builds nets names it at its start, to be imported when a net has a
Python layer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

_install: list[Callable[[], object]] = []


def answer_with(install: Callable[[], object]) -> None:
    """From now on, `install` puts a module ``caffe`` into `sys.modules` when the first Python layer is loaded."""
    _install[:] = [install]


def provide_caffe() -> None:
    """Sees to ``import caffe``: nothing to do where a module of that name is loaded, or nobody has been named."""
    if "caffe" not in sys.modules and _install:
        _install[0]()
