"""Says at the check-points of ``paper.course`` whether a training is on course."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from allconv_caffe.paper import course
from allconv_caffe.paper.course import CheckPoint
from allconv_caffe.report.collect import same_dataset
from allconv_caffe.report.log import LogParser, TestRow, TrainRow
from allconv_caffe.train.plan import Plan

_DROPS = ("start", "first drop", "second drop", "third drop")
_SLACK = 0.05  # epochs by which a test may come early: they are a whole number of iterations apart


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A training at a check-point."""

    epoch: float  # of the test that decided
    value: float  # a loss, or percent
    on_course: bool
    words: str  # as it is said


@dataclass(frozen=True, kw_only=True)
class Course:
    """The check-points of one run."""

    points: tuple[CheckPoint, ...]
    epoch_iters: float
    drop_epochs: tuple[float, ...]
    note: str  # for which recipe they are confirmed, and which this is; "" where it is that one

    def judge(self, tests: Sequence[TestRow]) -> list[Judged]:
        """Each check-point that the tests have decided, in the order of the points."""
        rows = [(row.iteration / self.epoch_iters, row) for row in tests if row.net == 0]
        found = (self._judge(point, rows) for point in self.points)
        return [entry for entry in found if entry is not None]

    def _judge(self, point: CheckPoint, rows: Sequence[tuple[float, TestRow]]) -> Judged | None:
        start = self.drop_epochs[point.drop - 1] if point.drop else 0.0
        first, last = (start + epoch for epoch in point.epochs)
        least = first + 1e-9 if point.drop else first - _SLACK  # a test at the drop is made before it
        within = [
            (epoch, value)
            for epoch, row in rows
            if least <= epoch <= last + _SLACK and (value := _value(point, row)) is not None
        ]
        over = bool(rows) and rows[-1][0] >= last - _SLACK
        if not within:
            return None
        if point.which == "mean":
            if not over or within[-1][0] < last - (last - first) / 10 or len(within) < 10:
                return None
            epoch, value = within[-1][0], sum(value for _, value in within) / len(within)
            where = f"on average from epoch {first:g} to {last:g}"
        else:
            epoch, value = within[0] if point.which == "first" else min(within, key=lambda pair: pair[1])
            if point.which == "lowest" and value >= point.below and not over:
                return None  # the next test may keep it
            where = f"at epoch {epoch:.1f}"
            if point.drop:
                where += f", {epoch - start:.1f} after the {_DROPS[point.drop]}"
        on = point.above <= value < point.below
        shown = f"{value:.2f} %" if point.output == "error" else f"test loss {value:.4g}"
        unit = " %" if point.output == "error" else ""
        bound = f"between {point.above:g} and {point.below:g}{unit}" if point.above else f"below {point.below:g}{unit}"
        words = f"on course: {shown} {where}, {bound}" if on else f"off course: {shown} {where}, expected {bound}"
        return Judged(epoch=round(epoch, 2), value=round(value, 4), on_course=on, words=words)

    def record(self, tests: Sequence[TestRow]) -> dict[str, Any] | None:
        """For ``result.json``; None where nothing was decided."""
        found = self.judge(tests)
        confirmed = {"confirmed_for": course.CONFIRMED}
        return {**confirmed, "points": [asdict(entry) for entry in found]} if found else None


def _value(point: CheckPoint, row: TestRow) -> float | None:
    if point.output == "error":
        return row.error_percent
    loss = row.outputs.get(point.output)
    return loss if loss is not None and loss == loss else None


def of(plan: Plan) -> Course:
    """The course of a run; without points where nothing is known of its like."""
    data, taken = plan.data, plan.taken
    points = course.check_points(plan.experiment.name, taken["epochs"], taken["lr"], taken["options"])
    dataset = plan.experiment.dataset
    recipe = dataset.recipe.preprocessing if dataset.recipe else None
    usual = same_dataset(data.display_name, dataset.title) and data.preprocessing == recipe
    if not usual or data.n_train != dataset.n_train or plan.settings.validation is not None:
        points = ()
    here = [f"batch {plan.batch_size}"] if plan.batch_size != course.BATCH_SIZE else []
    here += [] if data.official else [data.display_name]
    return Course(
        points=points,
        epoch_iters=plan.epoch_iters,
        drop_epochs=plan.experiment.schedule.drop_epochs,
        note=f"check-points of its course are confirmed for {course.CONFIRMED} alone; here: {', '.join(here)}"
        if here and points
        else "",
    )


class CourseWatch:
    """Says each check-point once, as its test comes."""

    def __init__(self, course: Course, log: LogParser, say: Callable[[str], None]) -> None:
        self._course, self._log, self._say = course, log, say
        self._said = {entry.words for entry in course.judge(log.test)}

    def train(self, row: TrainRow) -> None:
        """Only tests are judged."""

    def test(self, row: TestRow) -> None:
        """A new, complete test."""
        for entry in self._course.judge(self._log.test):
            if entry.words not in self._said:
                self._said.add(entry.words)
                self._say(entry.words)
