"""A grid of runs as a table: the error at each of its points, and the best point of each network, as in the paper.

Source: section 3.2.1: for each model the learning rate that did best is taken, of [0.25, 0.1, 0.05, 0.01].
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from allconv_caffe import markdown
from allconv_caffe.paper.experiments import EXPERIMENTS


@dataclass
class Cell:
    """The runs of one network at one point of the grid, which differ in their seed."""

    errors: list[float] = field(default_factory=list)  # in percent, of the runs that are done
    dead: int = 0  # runs that died, or ended on what is not a number
    unfinished: int = 0  # runs that were stopped or have failed

    @property
    def mean(self) -> float | None:
        """Mean error in percent; None where no run is done."""
        return statistics.fmean(self.errors) if self.errors else None

    def __str__(self) -> str:
        words = []
        if self.mean is not None:
            spread = f" ± {statistics.stdev(self.errors):.2f}" if len(self.errors) > 1 else ""
            words.append(f"{self.mean:.2f} %{spread}")
        for count, word in ((self.dead, "dead"), (self.unfinished, "not done")):
            if count:
                of = len(self.errors) + self.dead + self.unfinished
                words.append(word if count == of == 1 else f"{count} of {of} {word}")
        return ", ".join(words) or "–"


Row = Mapping[str, Cell]
"""One network: its cells by point, in words."""


def best(row: Row) -> str | None:
    """The point with the smallest mean error: of those where most runs came through; None where none did."""
    alive = {point: cell for point, cell in row.items() if cell.mean is not None}
    if not alive:
        return None
    most = max(len(cell.errors) for cell in alive.values())
    return min((point for point, cell in alive.items() if len(cell.errors) == most), key=lambda p: alive[p].mean or 0.0)


def table(rows: Mapping[str, Row], chosen_on: str = "test images") -> list[str]:
    """The lines of a Markdown table: networks down, points across, then the best point.

    Args:
        chosen_on: which images the errors are of, and the best point is chosen by.
    """
    points = list(dict.fromkeys(point for row in rows.values() for point in row))
    several = len(points) > 1
    head = [
        "network",
        *[point or "error" for point in points],
        *(["best", "error there"] if several else []),
        "published",
    ]
    lines = []
    for name, row in rows.items():
        entry = EXPERIMENTS.get(name)
        cells = [entry.title if entry else name, *[str(row.get(point, Cell())) for point in points]]
        if several:
            found = best(row)
            cells += ["–", "–"] if found is None else [found, str(Cell(errors=row[found].errors))]
        lines.append([*cells, entry.published if entry else "–"])
    noted = f"Errors of the last iteration, on {chosen_on}"
    noted += f"; the best point is chosen on the {chosen_on} too." if several else "."
    return [*markdown.table(head, lines), "", noted]
