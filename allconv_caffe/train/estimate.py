"""How long a training will take here: from the times in its own log, or, before it has any, from one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from allconv_caffe.report.log import TestRow, TrainRow

PASSES = 3
"""A training step is three times the multiply-adds of a forward pass: backward, each weight meets its input once for the
weight's diff and once for the input's.
"""
_SOON_SECONDS = 60.0  # a measured figure that comes within this time is waited for
_LINE_FROM_SECONDS = 60.0  # of less, no line
_RECENT = 50  # displayed losses, and tests, that count: a machine that is shared changes its pace


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a training has to do."""

    max_iter: int
    batch_size: int  # images of one update
    display: int  # iterations
    test_interval: int  # iterations
    test_images: int  # of one test


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast it goes."""

    iteration_seconds: float  # tests left out
    test_seconds: float
    measured: str  # how, for people

    def left(self, work: Work, iteration: int) -> float:
        """Seconds from an iteration, whose test is made, to the end."""
        tests = work.max_iter // work.test_interval - iteration // work.test_interval
        tests += bool(work.max_iter % work.test_interval)  # the last iteration is tested, too
        return (work.max_iter - iteration) * self.iteration_seconds + tests * self.test_seconds


def measured(trained: Sequence[TrainRow], tested: Sequence[TestRow]) -> Pace | None:
    """The pace of one session, of its rows; None where two displayed losses with times are missing."""
    rows = [row for row in trained if row.seconds is not None][-_RECENT:]
    took = [row.took for row in tested if row.took is not None][-_RECENT:]
    paces = []
    for before, after in pairwise(rows):
        within = sum(row.took or 0.0 for row in tested if before.iteration < row.iteration <= after.iteration)
        seconds, iterations = (
            (after.seconds or 0.0) - (before.seconds or 0.0) - within,
            after.iteration - before.iteration,
        )
        if iterations > 0 and seconds > 0:
            paces.append(seconds / iterations)
    if not paces:
        return None
    return Pace(
        iteration_seconds=median(paces),  # a while in which the machine did something else says nothing of the rest
        test_seconds=median(took) if took else 0.0,
        measured=f"{rows[-1].iteration - rows[0].iteration:,} iterations",
    )


class Estimate:
    """Follows the rows of one session; `train` and `test` return a line for people when there is news.

    The first test gives a forward pass, and so a guess at once where iterations are slow: it is said where the first
    displayed losses, which measure it, are more than a minute away.

    Args:
        before: what is known before the first row, and has been said.
        first_iter: where the session begins.
    """

    def __init__(
        self,
        work: Work,
        before: Pace | None = None,
        first_iter: int = 0,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._work, self._now = work, now
        self._trained: list[TrainRow] = []
        self._tested: list[TestRow] = []
        self._pace = before
        self._said = before is not None
        self._exact = False
        self._iteration = first_iter

    def train(self, row: TrainRow) -> str | None:
        """A displayed loss."""
        self._trained.append(row)
        self._iteration = row.iteration
        if len(self._trained) == 1:
            return self._first(row)
        pace = measured(self._trained, self._tested)
        if pace is None:
            return None
        news, self._pace, self._exact = not self._exact, pace, True
        return self.line() if news else None

    def test(self, row: TestRow) -> str | None:
        """A complete test."""
        self._tested.append(row)
        self._iteration = row.iteration
        if self._trained or row.took is None or self._said:
            return None
        step = PASSES * row.took / self._work.test_images * self._work.batch_size
        self._pace = Pace(
            iteration_seconds=step,
            test_seconds=row.took,
            measured=f"the first test of {self._work.test_images:,} images",
        )
        return self._guess(step)

    def _first(self, row: TrainRow) -> str | None:
        """The first iteration, where the test before it says when it began; it may have had to warm up."""
        before = self._tested[-1] if self._tested else None
        if self._said or before is None or before.iteration != row.iteration:
            return None
        if None in (before.seconds, before.took, row.seconds):
            return None
        began = (before.seconds or 0.0) + (before.took or 0.0)
        step = (row.seconds or 0.0) - began
        if step > 0 and (self._pace is None or step < self._pace.iteration_seconds):
            self._pace = Pace(iteration_seconds=step, test_seconds=before.took or 0.0, measured="the first iteration")
        return self._guess(self._work.display * self._pace.iteration_seconds) if self._pace else None

    def _guess(self, wait: float) -> str | None:
        if wait < _SOON_SECONDS:
            return None
        self._said = True
        return self.line()

    def line(self) -> str | None:
        """How long it will take, and how that is known; None where it is not, or no minute is left."""
        left = self._left()
        if self._pace is None or left < _LINE_FROM_SECONDS:
            return None
        return f"{self._words(left)}, measured on {self._pace.measured}"

    def update(self) -> str:
        """``about 3 h 20 min left, until 14:05``; "" as long as no displayed losses have measured it, and at the end."""
        left = self._left()
        return self._words(left) if self._exact and left > 0 else ""

    def _left(self) -> float:
        return 0.0 if self._pace is None else self._pace.left(self._work, self._iteration)

    def _words(self, left: float) -> str:
        return f"about {span(left)} left, until {clock(self._now(), left)}"


def span(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 20 min``, ``5 days``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{round(minutes / 1440):,} days"


def clock(now: datetime, seconds: float) -> str:
    """When that is: ``14:05``, ``Tue 14:05`` of the next days, or a date."""
    if seconds > 1e10:
        return f"the year {now.year + seconds / 31_556_952:.0f}"
    then = now + timedelta(seconds=seconds)
    if then.date() == now.date():
        return f"{then:%H:%M}"
    if then - now < timedelta(days=6):
        return f"{then:%a %H:%M}"
    return f"{then.day} {then:%b %Y}"
