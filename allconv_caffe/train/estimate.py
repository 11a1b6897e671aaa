"""How long a training will take here: from the times in its own log, or, before it has any, from one image.

What is known at first is no more than a range, and said as one: the first test and the first iteration contain what is done once
(memory, kernels, the first look at the data), which of a small set is nearly all; and while `caffe-torch` compiles a faster
iteration, those that it runs layer by layer tell the most that it can take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median, quantiles

from allconv_caffe.report.log import TestRow, TrainRow

PASSES = 3
"""A training step is three times the multiply-adds of a forward pass: backward, each weight meets its input once for the
weight's diff and once for the input's.
"""
WARM_UP_SECONDS = 5.0
"""The first test, and the first iteration, may have spent so much on what is done once."""
_SOON_SECONDS = 60.0  # a measured figure that comes within this time is waited for
_LINE_FROM_SECONDS = 60.0  # of less, no line
_RECENT = 50  # displayed losses, and tests, that count: a machine that is shared changes its pace
_ENOUGH_ITERATIONS, _ENOUGH_INTERVALS = 10, 3  # one of them is needed
_SPREAD_FROM = 8  # intervals that say something of their spread
_RANGE_FROM = 1.25  # times as much: then both ends are said


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

    iteration_seconds: float  # tests left out; of a range, the most
    test_seconds: float
    measured: str  # how, for people
    least_seconds: float | None = None  # of an iteration, where no more is known than a range
    for_now: bool = False  # whether a faster iteration is being compiled

    def left(self, work: Work, iteration: int, least: bool = False) -> float:
        """Seconds from an iteration, whose test is made, to the end; with `least`, of the range's other end."""
        tests = work.max_iter // work.test_interval - iteration // work.test_interval
        tests += bool(work.max_iter % work.test_interval)  # the last iteration is tested, too
        seconds = self.iteration_seconds if not least or self.least_seconds is None else self.least_seconds
        return (work.max_iter - iteration) * seconds + tests * self.test_seconds


def measured(trained: Sequence[TrainRow], tested: Sequence[TestRow]) -> Pace | None:
    """The pace of one session, of its rows; None where displayed losses with times are too few.

    Where some were displayed after the change to a compiled iteration, only they count.
    """
    timed = [row for row in trained if row.seconds is not None]
    for_now = all(row.for_now for row in timed)
    rows = [row for row in timed if row.for_now is for_now][-_RECENT:]
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
    iterations = rows[-1].iteration - rows[0].iteration
    if iterations < _ENOUGH_ITERATIONS and len(paces) < _ENOUGH_INTERVALS:
        return None
    low = high = middle = median(paces)  # a while in which the machine did something else says nothing of the rest
    if len(paces) >= _SPREAD_FROM:
        low, _, high = quantiles(paces, n=4)
    wide = high > _RANGE_FROM * low
    return Pace(
        iteration_seconds=high if wide else middle,
        least_seconds=low if wide else None,
        test_seconds=median(took) if took else 0.0,
        measured=f"{iterations:,} iterations",
        for_now=for_now,
    )


class Estimate:
    """Follows the rows of one session; `train` and `test` return a line for people when there is news.

    The first test gives a forward pass, and so a guess at once where iterations are slow: it is said where the first
    displayed losses, which measure it, are more than a minute away. A test that may have been nothing but a warm-up gives none.

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
        news = not self._exact or (self._pace is not None and self._pace.for_now and not pace.for_now)
        self._pace, self._exact = pace, True
        return self.line() if news else None

    def test(self, row: TestRow) -> str | None:
        """A complete test."""
        self._tested.append(row)
        self._iteration = row.iteration
        if self._trained or row.took is None or self._said:
            return None
        step = PASSES / self._work.test_images * self._work.batch_size
        self._pace = Pace(
            iteration_seconds=step * row.took,
            least_seconds=step * max(0.0, row.took - WARM_UP_SECONDS),
            test_seconds=row.took,
            measured=f"the first test of {self._work.test_images:,} images",
            for_now=row.for_now,
        )
        return self._guess(self._pace.iteration_seconds)

    def _first(self, row: TrainRow) -> str | None:
        """The first iteration, where the test before it says when it began; it may have had to warm up."""
        before = self._tested[-1] if self._tested else None
        if self._said or before is None or before.iteration != row.iteration:
            return None
        if None in (before.seconds, before.took, row.seconds):
            return None
        began = (before.seconds or 0.0) + (before.took or 0.0)
        step = (row.seconds or 0.0) - began
        known = self._pace
        if step > 0 and (known is None or step < known.iteration_seconds):
            least = max(step - WARM_UP_SECONDS, 0.0 if known is None else known.least_seconds or 0.0)
            self._pace = Pace(
                iteration_seconds=step,
                least_seconds=least,
                test_seconds=before.took or 0.0,
                measured="the first iteration",
                for_now=row.for_now,
            )
        return self._guess(self._work.display * self._pace.iteration_seconds) if self._pace else None

    def _guess(self, wait: float) -> str | None:
        if wait < _SOON_SECONDS or self._pace is None or not self._pace.least_seconds:
            return None
        self._said = True
        return self.line()

    def line(self) -> str | None:
        """How long it will take, and how that is known; None where it is not, or no minute is left."""
        if self._pace is None or self._left() < _LINE_FROM_SECONDS:
            return None
        later = "; a faster iteration is being compiled" if self._pace.for_now else ""
        return f"{self._words()}, measured on {self._pace.measured}{later}"

    def update(self) -> str:
        """``about 3 h 20 min left, until 14:05``; "" as long as no displayed losses have measured it, and at the end."""
        return self._words() if self._exact and self._left() > 0 else ""

    def _left(self, least: bool = False) -> float:
        return 0.0 if self._pace is None else self._pace.left(self._work, self._iteration, least)

    def _words(self) -> str:
        most, least = self._left(), self._left(least=True)
        until = clock(self._now(), most)
        if self._pace is not None and self._pace.for_now:
            return f"at most {span(most)} left, until {until}"
        if most > _RANGE_FROM * least:
            return f"{span(least)} to {span(most)} left, until {until} at the latest"
        return f"about {span(most)} left, until {until}"


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
