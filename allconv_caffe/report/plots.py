"""Curves of a training: loss, rate and test error over epochs; of trainings one over the other."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from allconv_caffe.report.log import LogParser

Points = Sequence[tuple[float, float]]
MOST_NAMES, MOST_LETTERS = 12, 60
"""How many outputs of one log are named, in a picture and in a line, and how much of a name a picture shows."""


def curves(
    log: LogParser, epoch_iters: float, title: str, published_error_percent: float | None = None, form: str = "png"
) -> bytes:
    """Two panels: training loss (logarithmic) with the rate's drops, and test error with the published figure.

    Args:
        epoch_iters: iterations of one epoch. form: ``png`` or ``svg``.
    Returns: the file's bytes. Values that are not finite are left out.
    """
    loss = [(row.iteration / epoch_iters, row.loss) for row in log.train]
    tests = [row for row in log.test if row.net == 0]
    test_loss = [(row.iteration / epoch_iters, row.outputs["loss"]) for row in tests if "loss" in row.outputs]
    error = [(row.iteration / epoch_iters, row.error_percent) for row in tests if row.error_percent is not None]
    drops = [
        after.iteration / epoch_iters
        for before, after in zip(log.train, log.train[1:], strict=False)
        if before.lr is not None and after.lr is not None and after.lr < before.lr * 0.99
    ]
    return draw(
        {"training": loss, "test": test_loss}, {"measured": error}, title, published_error_percent, drops, form=form
    )


def draw(
    losses: dict[str, Points],
    errors: dict[str, Points],
    title: str,
    published_error_percent: float | None = None,
    drops: Sequence[float] = (),
    form: str = "png",
) -> bytes:
    """Draw named series, x in epochs: losses on the left, errors in percent on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2) if any(losses.values()) else (None, figure.subplots(1, 1))
    panels = [(left, losses, "loss"), (right, errors, "test error (%)")]
    for axes, series, label in panels:
        if axes is None:
            continue
        for name, points in series.items():
            _line(axes, points, label=_plain(name))
        for drop in drops:
            axes.axvline(drop, color="0.8", linewidth=0.8, zorder=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    if left is not None and any(y > 0 for points in losses.values() for _, y in points if math.isfinite(y)):
        left.set_yscale("log")
    if published_error_percent is not None:
        right.axhline(published_error_percent, color="k", linestyle="--", linewidth=1, label="published")
    for axes, _, _ in panels:
        if axes is not None and axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    figure.suptitle(_plain(title), fontsize="medium")
    return _saved(figure, form)


def draw_outputs(losses: Mapping[str, Points], others: Mapping[str, Points]) -> bytes:
    """Named series over iterations, as PNG: losses on the left, what else was measured on the right, if there is any."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [series for series in (losses, others) if series]
    for axes, series in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for i, (name, points) in enumerate(series.items()):
            _line(axes, points, label=name[:MOST_LETTERS] if i < MOST_NAMES else None)
        if len(series) > MOST_NAMES:
            axes.plot([], [], " ", label=f"and {len(series) - MOST_NAMES} more")
        axes.set_xlabel("iteration")
        axes.set_ylabel("loss" if series is losses else "test outputs")
        axes.grid(alpha=0.3)
        if series is losses and any(y > 0 for points in series.values() for _, y in points if math.isfinite(y)):
            axes.set_yscale("log")
        for text in axes.legend(fontsize="small").get_texts() if axes.get_legend_handles_labels()[0] else ():
            text.set_parse_math(False)
    return _saved(figure, "png")


def overlay(
    others: Mapping[str, Points], runs: Mapping[str, Points], differences: Mapping[tuple[str, str], Points]
) -> bytes:
    """Test errors of runs over those of other trainings, and below them run minus other, as PNG.

    The epochs shown are those that the runs have reached. Every run has a colour, every other training a style of line.

    Args:
        differences: by the names of run and other.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    last = max((x for points in runs.values() for x, _ in points), default=0.0)
    styles = dict(zip(others, itertools.cycle(["-", "--", ":", "-."])))
    colours = dict(zip(runs, itertools.cycle([f"C{number}" for number in range(10)])))
    for name, points in others.items():
        points = [(x, y) for x, y in points if not last or x <= last * 1.02]
        _line(
            above, points, label=_plain(name), color="black", linestyle=styles[name], markerfacecolor="none", zorder=1
        )
    for name, points in runs.items():
        _line(above, points, label=_plain(name), color=colours[name], zorder=2)
    for (run, other), points in differences.items():
        _line(below, points, color=colours[run], linestyle=styles[other])
    for axes in (above, below):
        axes.grid(alpha=0.3)
    below.axhline(0.0, color="black", linewidth=0.8)
    above.set_ylabel("test error (%)")
    below.set_ylabel("difference (points)")
    below.set_xlabel("epoch")
    above.legend(fontsize="small")
    return _saved(figure, "png")


def _plain(text: str) -> str:
    """A name that matplotlib shows as it is: a $ begins no formula."""
    return text.replace("$", r"\$")


def _line(axes: Any, points: Points, **look: Any) -> None:
    """The finite points, each with a mark where they are few."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if finite:
        axes.plot(
            *zip(*finite, strict=True), linewidth=1.2, marker="o" if len(finite) < 40 else None, markersize=4, **look
        )


def _saved(figure: Any, form: str) -> bytes:
    from matplotlib import rc_context

    out = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "allconv", "svg.fonttype": "path"}):
        figure.savefig(out, format=form, dpi=110, metadata=metadata)
    return out.getvalue()
