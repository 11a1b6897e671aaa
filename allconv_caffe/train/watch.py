"""Watches a training through its log: is it alive, and how far has it come."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from allconv_caffe.report.log import LogParser, TestRow, TrainRow, complete_lines
from allconv_caffe.train.estimate import Estimate

OVERFLOW_LOSS = 87.3365
"""-log(FLT_MIN): what Caffe's SoftmaxWithLoss prints when every image of a batch is wrong with certainty."""


@dataclass(frozen=True, kw_only=True)
class DeadRule:
    """When a training counts as dead.

    At once: a loss that is not finite, or is ``OVERFLOW_LOSS``; a test after the first iteration that gets no image
    right and whose loss is ln(classes) to all its printed digits: every output is the same zero, behind the last ReLU
    no gradient reaches any weight, and weight decay alone moves them. From iteration ``patience_iters`` on, judged at every
    displayed loss: the mean loss of the last quarter of an epoch (three values at least) within ``tolerance`` of
    ln(classes), or above 2 ln(classes); or three tests in a row no better than chance (1/classes plus four standard
    deviations of guessing on n_test images; no verdict where that is 1 or more),
    unless that mean is a tenth below ln(classes): a dozen test images cannot
    deny what the training images show.

    patience_iters is three epochs, and at least 1000 iterations (as many as three epochs of CIFAR by batches of 128,
    nearly) unless half the training is less: a small data set needs more epochs to leave the plateau at ln(classes)
    that every training begins on.

    Source: the dead runs of public reproductions sit at 2.302585 = ln 10, constant; the logged success was at 14 %
    accuracy after one epoch and 27 % after five.
    """

    classes: int
    n_test: int  # images
    epoch_iters: float  # iterations of an epoch
    max_iter: int
    patience_epochs: float = 3.0
    tolerance: float = 1e-3  # around ln(classes)

    @property
    def patience_iters(self) -> int:
        """The first iteration at which a training is judged."""
        patience = self.patience_epochs * self.epoch_iters
        return math.ceil(max(patience, min(1000.0, self.max_iter / 2)))

    @property
    def chance_loss(self) -> float:
        """ln(classes)."""
        return math.log(self.classes)

    @property
    def chance_accuracy(self) -> float:
        """The best accuracy that guessing may well reach."""
        guess = 1.0 / self.classes
        return guess + 4.0 * math.sqrt(guess * (1.0 - guess) / self.n_test)


class DeadWatch:
    """Judges rows in order by a ``DeadRule``."""

    def __init__(self, rule: DeadRule) -> None:
        self.rule = rule
        self._losses: deque[tuple[int, float]] = deque()
        self._accuracies: deque[float] = deque(maxlen=3)

    def train(self, row: TrainRow) -> str | None:
        """Why the training is dead at this row, or None."""
        rule = self.rule
        values = [row.loss, *row.outputs.values()]
        if not all(math.isfinite(value) for value in values):
            return f"loss {row.loss:g} at iteration {row.iteration}: not a number"
        if row.loss >= OVERFLOW_LOSS - 1e-3:
            return f"loss {row.loss:g} at iteration {row.iteration}: the softmax has overflowed"
        if self._losses and row.iteration <= self._losses[-1][0]:  # resumed
            self._losses = deque(entry for entry in self._losses if entry[0] < row.iteration)
        self._losses.append((row.iteration, row.loss))
        while len(self._losses) > 3 and self._losses[0][0] <= row.iteration - rule.epoch_iters / 4:
            self._losses.popleft()
        if row.iteration < rule.patience_iters or len(self._losses) < 3:
            return None
        mean = sum(loss for _, loss in self._losses) / len(self._losses)
        where = f"at iteration {row.iteration} (epoch {row.iteration / rule.epoch_iters:.2f})"
        if abs(mean - rule.chance_loss) < rule.tolerance:
            return f"loss {mean:.6g} {where}: still at ln({rule.classes}) = {rule.chance_loss:.6g}, what guessing gives"
        if mean > 2 * rule.chance_loss:
            return f"loss {mean:.6g} {where}: above 2 ln({rule.classes}) = {2 * rule.chance_loss:.6g}, diverged"
        return None

    def _learns(self) -> bool:
        """Whether the displayed losses lie a tenth below what guessing gives."""
        losses = [loss for _, loss in self._losses]
        return bool(losses) and sum(losses) / len(losses) < 0.9 * self.rule.chance_loss

    def test(self, row: TestRow) -> str | None:
        """Why the training is dead at this complete test, or None.

        An accuracy of 1 beside a loss that is not a number is Caffe's way of counting NaN outputs, and no success.
        """
        rule = self.rule
        for name, value in row.outputs.items():
            if not math.isfinite(value):
                return f"test {name} {value:g} at iteration {row.iteration}: not a number"
        accuracy = row.outputs.get("accuracy")
        loss = row.outputs.get("loss", math.nan)
        if row.iteration > 0 and accuracy == 0.0 and abs(loss - rule.chance_loss) <= 1e-5:
            return f"test loss {loss:.6g} = ln({rule.classes}) and accuracy 0 at iteration {row.iteration}: all outputs are equal"
        if accuracy is None or row.iteration < rule.patience_iters:
            return None
        self._accuracies.append(accuracy)
        if len(self._accuracies) == 3 and max(self._accuracies) <= rule.chance_accuracy < 1 and not self._learns():
            shown = ", ".join(f"{100 * value:.4g} %" for value in self._accuracies)
            return (
                f"test accuracy {shown} in the last three tests, at iteration {row.iteration}: not above "
                f"{100 * rule.chance_accuracy:.4g} %, what guessing among {rule.n_test:,} images may reach"
            )
        return None


class Listener(Protocol):
    """Takes rows in order; what it returns, if it is a text, says why the training is dead."""

    def train(self, row: TrainRow) -> str | None:
        """A displayed loss, complete."""

    def test(self, row: TestRow) -> str | None:
        """A test of the first test net, complete."""


class Follower:
    """Feeds a growing log to everyone who wants its rows; a row is passed on when its last line has come.

    dead: why the training is dead, as the first listener to find it said; "" while it is not. write: takes a line for
    people.
    """

    def __init__(self, log: LogParser, listeners: Sequence[Listener], write: Callable[[str], None]) -> None:
        self.log, self.write = log, write
        self.dead = ""
        self._listeners = listeners
        self._pending: TrainRow | TestRow | None = None

    def feed(self, text: str) -> None:
        """Take complete lines; an empty text means that nothing came for a while."""
        for line in complete_lines(text):
            row = self.log.feed(line)
            if row is not None:
                self._pass_on()
                self._pending = row
        if not text and (isinstance(self._pending, TrainRow) or (self._pending and self._pending.outputs)):
            self._pass_on()

    def finish(self) -> None:
        """No more lines will come."""
        self._pass_on()

    def _pass_on(self) -> None:
        row, self._pending = self._pending, None
        if row is None or (isinstance(row, TestRow) and (not row.outputs or row.net)):
            return
        for listener in self._listeners:
            why = listener.train(row) if isinstance(row, TrainRow) else listener.test(row)
            self.dead = self.dead or why or ""


def on_terminal(stream: TextIO) -> dict[str, Any]:
    """What a tqdm bar is told of a terminal, also of one that does not know its width."""
    knows_width = os.get_terminal_size(stream.fileno()).columns > 0
    return {"file": stream, "dynamic_ncols": knows_width, "ncols": None if knows_width else 110}


class Progress:
    """A bar over iterations on a terminal; elsewhere a plain line for each test, and one every ``every_seconds``."""

    def __init__(
        self,
        max_iter: int,
        first_iter: int,
        batch_size: int,
        epoch_iters: float,
        say: Callable[[str], None],
        estimate: Estimate,
        stream: TextIO | None = None,
        every_seconds: float = 60.0,
    ) -> None:
        self.max_iter, self.batch_size, self.epoch_iters = max_iter, batch_size, epoch_iters
        self._say, self._estimate, self._every = say, estimate, every_seconds
        stream = sys.stderr if stream is None else stream
        self._bar: tqdm | None = None
        if stream.isatty():
            self._bar = tqdm(total=max_iter, initial=first_iter, unit="it", **on_terminal(stream))
        self._iteration = first_iter
        self._loss: float | None = None
        self._error: float | None = None
        self._start: tuple[float, int] | None = None
        self._shown = time.monotonic()

    def train(self, row: TrainRow) -> None:
        """A new loss."""
        now = time.monotonic()
        self._iteration, self._loss = row.iteration, row.loss
        news = self._estimate.train(row)
        if self._start is None:
            self._start = (now, row.iteration)
        if self._bar is not None:
            self._bar.n = row.iteration
            self._bar.set_postfix_str(self._words(), refresh=True)
        elif now - self._shown >= self._every:
            self._plain(now)
        if news:
            self.write(news)

    def test(self, row: TestRow) -> None:
        """A new, complete test."""
        self._iteration, self._error = row.iteration, row.error_percent
        news = self._estimate.test(row)
        if self._bar is not None:
            self._bar.n = row.iteration
            self._bar.set_postfix_str(self._words(), refresh=True)
        else:
            self._plain(time.monotonic())
        if news:
            self.write(news)

    def write(self, line: str) -> None:
        """Say something without breaking the bar."""
        if self._bar is not None:
            self._bar.clear()
        self._say(line)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _rate(self) -> float | None:
        if self._start is None or self._iteration <= self._start[1]:
            return None
        seconds = time.monotonic() - self._start[0]
        return (self._iteration - self._start[1]) / seconds if seconds > 0 else None

    def _words(self) -> str:
        words = []
        if self._loss is not None:
            words.append(f"loss {self._loss:.4g}")
        if self._error is not None:
            words.append(f"test error {self._error:.2f} %")
        rate = self._rate()
        if rate is not None:
            words.append(f"{rate * self.batch_size:,.0f} images/s")
        if left := self._estimate.update():
            words.append(left)
        return ", ".join(words)

    def _plain(self, now: float) -> None:
        self._shown = now
        epoch = self._iteration / self.epoch_iters
        self._say(f"iteration {self._iteration} of {self.max_iter} (epoch {epoch:.2f}): {self._words()}")


def duration(seconds: float) -> str:
    """``2:03:04``, hours, minutes and seconds."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
