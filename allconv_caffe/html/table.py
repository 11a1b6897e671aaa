"""Tables that a click sorts: what a cell is sorted by."""

from __future__ import annotations

import re

_CLOCK = re.compile(r"(?:(\d+) h )?(\d+) (min|s)")
_NUMBER = re.compile(r"(?:[<>] )?([-+]?\d{1,3}(?:,\d{3})+|[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)( M\b)?(?: |,|%|$)")


def key(text: str) -> str:
    """What a cell is sorted by: seconds of a time, the first number of what begins with one, else ""."""
    if match := _CLOCK.fullmatch(text):
        value = int(match[1] or 0) * 3600.0 + int(match[2]) * (60.0 if match[3] == "min" else 1.0)
    elif match := _NUMBER.match(text):
        value = float(match[1].replace(",", "")) * (1e6 if match[2] else 1.0)
    else:
        return ""
    return f"{value:.10g}"
