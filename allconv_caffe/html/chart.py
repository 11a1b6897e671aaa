"""Curves for ``chart.js``: panels of lines over one x axis, to be read off, chosen among and seen on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Points = Sequence[tuple[float, float]]

MOST_POINTS = 2000
"""Of a line in a page; of more, the extremes of equal stretches are kept."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One y axis.

    Attributes:
        title: what it shows, with its unit in brackets. unit: behind a value that is read off.
        log: whether its axis begins logarithmic. lines: by name; a name has one colour in all panels.
        levels: horizontal lines, by name.
    """

    title: str
    lines: Mapping[str, Points]
    unit: str = ""
    log: bool = False
    levels: Mapping[str, float] = field(default_factory=dict)


def chart(title: str, panels: Sequence[Panel]) -> dict[str, Any]:
    """What the page holds of a figure; panels without a finite point are left out, and with them a figure that has no other."""
    kept: list[dict[str, Any]] = []
    for panel in panels:
        lines = {name: thinned(points) for name, points in panel.lines.items()}
        if any(lines.values()):
            kept.append(
                {
                    "title": panel.title,
                    "unit": panel.unit,
                    "log": panel.log,
                    "lines": {name: [[_short(x), _short(y)] for x, y in points] for name, points in lines.items()},
                    "levels": dict(panel.levels),
                }
            )
    names = list(dict.fromkeys(name for panel in kept for name, points in panel["lines"].items() if points))
    return {"title": title, "x": "epoch", "names": names, "panels": kept}


def thinned(points: Points) -> list[tuple[float, float]]:
    """The finite points, or of too many the first, the last, and each stretch's smallest and largest."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(finite) <= MOST_POINTS:
        return finite
    step = math.ceil(2 * len(finite) / (MOST_POINTS - 2))
    kept = {0, len(finite) - 1}
    for start in range(0, len(finite), step):
        stretch = range(start, min(start + step, len(finite)))
        kept |= {min(stretch, key=lambda at: finite[at][1]), max(stretch, key=lambda at: finite[at][1])}
    return [finite[at] for at in sorted(kept)]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
