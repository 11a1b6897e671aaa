"""What the commands share: examples at the end of a help text, ``name=value`` words, the command as it was typed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

import click


def example(*lines: str) -> str:
    """The end of a help text; click leaves its lines as they are."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def pairs_from_text(texts: Sequence[str]) -> dict[str, Any]:
    """``name=value`` words as values of RenderOptions."""
    from allconv_caffe.paper.options import option_from_text

    values: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise click.BadParameter(f"{text!r}: expected name=value, e.g. filler=msra")
        name = name.strip().replace("-", "_")
        values[name] = option_from_text(name, value.strip())
    return values


def command_line() -> str:
    """What was typed, for records and for the JSON beside a picture."""
    return " ".join(["allconv", *map(shlex.quote, sys.argv[1:])])
