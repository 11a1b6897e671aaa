"""What an export says about a net that it cannot write."""

from __future__ import annotations

import importlib
from typing import Any

from allconv_caffe.errors import FoundError


class ExportError(FoundError, ValueError):
    """One line: where, what was found, what was expected, the choices."""


def needed(module: str) -> Any:
    """A package of the extra `export`.

    Raises: ExportError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ExportError(
            "export", f"no {module} ({error})", "the extra `export`: pip install 'allconv-caffe[export]'"
        ) from None
