"""Reads the log of ``caffe train``: every training and test point, rate and time, across resumes.

The grammar is that of Caffe's own ``parse_log.py``, read one line at a time (``LogParser.feed``), so that the same code
serves a finished file and a training that still runs. Each message is matched from its first character, so "MultiStep
Status: Iteration 25, step = 1" is not mistaken for a test, and an added "(R iter/s, Ts/D iters)" changes nothing.

Source: solver.cpp, sgd_solver.cpp, caffe.cpp; tools/extra/parse_log.py.
Differs from parse_log.py: accepts empty lines, ``-nan``, colours, lines without glog's prefix or with another one before
it, and a log whose first lines are missing; the rate of a training row is the one logged for that iteration, not the one
before; a resumed training is one history; a last line without its newline is still being written and is not read.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from allconv_caffe import csv_text
from allconv_caffe.files import open_file

_NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf))"
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_PREFIX = re.compile(  # what ran Caffe may have put a time or a name of its own before glog's
    r"(?:.{1,100}?\s)??(?P<level>[IWEF])(?P<date>(?:\d{4})?\d{4}) (?P<time>\d\d:\d\d:\d\d(?:\.\d+)?)"
    r" +\d+ (?P<place>\S+:\d+)\] ?(?P<text>.*)"
)
_TRAIN = re.compile(rf"Iteration (\d{{1,18}})(?: \([^)]*\))?, loss = {_NUMBER}$")
_RATE = re.compile(rf"Iteration (\d{{1,18}}), lr = {_NUMBER}$")
_TEST = re.compile(r"Iteration (\d{1,18}), Testing net \(#(\d{1,18})\)$")
_OUTPUT = re.compile(rf" *(Train|Test) net output #(\d+): (\S+) = {_NUMBER}(?: \(\* .* loss\))?$")
_TEST_LOSS = re.compile(rf"Test loss: {_NUMBER}$")
_SNAPSHOT = re.compile(r"Snapshotting solver state to (?:binary proto|HDF5) file (.+)$")
_GPU = re.compile(r"GPU (\d{1,18}): (.+)")
_RESUMING = re.compile(r"Resuming from (.+)$")
_EXECUTOR = re.compile(r"Executor: (plain, until a compiled iteration is ready|compiled|plain)")
_DAY_SECONDS = 86400.0
_YEAR_SECONDS = 366 * _DAY_SECONDS  # of 2000, the year that dates without one are read in
_MARCH = 951868800.0  # 2000-03-01
_JUMP_SECONDS = 600.0
_JUMP_FACTOR = 5.0


@dataclass(kw_only=True)
class TrainRow:
    """One displayed training iteration."""

    iteration: int
    """Its number, from 0."""
    loss: float
    """As displayed: smoothed if average_loss says so."""
    seconds: float | None = None
    """Of training up to here, pauses between sessions left out; None where the log has no times."""
    lr: float | None = None
    """The rate of this iteration; None if its line is missing."""
    outputs: dict[str, float] = field(default_factory=dict)
    """The net's outputs for the last batch, by name."""
    session: int = 0
    """Which start of Caffe's it belongs to, from 1; 0 before the first."""
    for_now: bool = False
    """Whether `caffe-torch` ran layer by layer, while a faster iteration was compiled beside it."""


@dataclass(kw_only=True)
class TestRow:
    """One pass over the test set."""

    __test__ = False  # not a test case

    iteration: int
    """The training iteration before which it was made."""
    net: int = 0
    """Index of the test net."""
    seconds: float | None = None
    """As in a TrainRow."""
    lr: float | None = None
    """The last rate that the log showed before it; None if there was none."""
    outputs: dict[str, float] = field(default_factory=dict)
    """The net's outputs by name, averaged by Caffe over test_iter batches."""
    session: int = 0
    """As in a TrainRow."""
    took: float | None = None
    """Seconds from its first line to its last output; None where the log has no times."""
    for_now: bool = False
    """As in a TrainRow."""

    @property
    def error_percent(self) -> float | None:
        """100 * (1 - accuracy); None without an accuracy, or where an output is not a number.

        Caffe's Accuracy layer counts outputs that are NaN as correct, so a loss that is not finite makes the accuracy
        void.
        """
        accuracy = self.outputs.get("accuracy")
        if accuracy is None or not all(math.isfinite(value) for value in self.outputs.values()):
            return None
        return 100.0 * (1.0 - accuracy)


class LogParser:
    """Collects rows from lines.

    train, test: rows of the history that counts: where a resumed session repeats iterations, only its rows stay.
    sessions: how many times "Solving" was met. done, stopped: how the last session ended. snapshots: solver states
    written, in order. resumed_from: solver states resumed. fatal: messages of level F. gpus: number -> name of each that
    the engine used.
    """

    def __init__(self) -> None:
        self.train: list[TrainRow] = []
        self.test: list[TestRow] = []
        self.sessions = 0
        self.done = self.stopped = False
        self.snapshots: list[str] = []
        self.resumed_from: list[str] = []
        self.fatal: list[str] = []
        self.gpus: dict[int, str] = {}
        self._row: TrainRow | TestRow | None = None
        self._rate: float | None = None
        self._last_time: float | None = None
        self._elapsed = 0.0
        self._timed = False
        self._leap = False
        self._steps: list[float] = []
        self._fresh_session = self._for_now = False

    def feed(self, line: str) -> TrainRow | TestRow | None:
        """Read one line (with or without its newline); returns the row that the line began, if it began one."""
        text = self._strip_prefix(_COLOUR.sub("", line).rstrip("\r\n"))
        if not text:
            return None
        if match := _TRAIN.match(text):
            return self._begin(
                TrainRow(iteration=int(match[1]), loss=float(match[2]), seconds=self._seconds(), session=self.sessions)
            )
        if match := _TEST.match(text):
            return self._begin(
                TestRow(
                    iteration=int(match[1]),
                    net=int(match[2]),
                    seconds=self._seconds(),
                    lr=self._rate,
                    session=self.sessions,
                )
            )
        if match := _OUTPUT.match(text):
            self._output(match[1], match[3], float(match[4]))
        elif match := _RATE.match(text):
            self._rate = float(match[2])
            row = self.train[-1] if self.train else None
            if row is not None and row.iteration == int(match[1]):
                row.lr = self._rate
        elif match := _TEST_LOSS.match(text):
            if isinstance(self._row, TestRow):
                self._row.outputs["test_loss"] = float(match[1])
        elif match := _SNAPSHOT.match(text):
            self.snapshots.append(match[1])
        elif match := _RESUMING.match(text):
            self.resumed_from.append(match[1])
        elif match := _GPU.match(text):
            self.gpus[int(match[1])] = match[2]
        elif match := _EXECUTOR.match(text):
            self._for_now = "until" in match[1]
        elif text.startswith("Solving "):
            self.sessions += 1
            self._fresh_session, self._for_now = True, False
            self._row, self._rate = None, None
            self.done = self.stopped = False
            self._last_time, self._steps = self._now, []
        elif text.startswith("Optimization stopped early."):
            self.stopped = True
        elif text.startswith("Optimization Done."):
            self.done = not self.stopped
        return None

    def _strip_prefix(self, line: str) -> str:
        self._now: float | None = None
        match = _PREFIX.match(line)
        if not match:
            return line
        self._now = _seconds_of(match["date"], match["time"])
        self._leap |= match["date"].endswith("0229") or len(match["date"]) == 8
        if match["level"] == "F":
            self.fatal.append(match["text"])
        return match["text"]

    def _seconds(self) -> float | None:
        if self._now is None:
            return round(self._elapsed, 6) if self._timed else None
        if self._last_time is not None:
            step = self._between(self._last_time, self._now)
            took = self._row.took or 0.0 if isinstance(self._row, TestRow) else 0.0
            self._elapsed += took + _plausible(step - took, self._steps)
        self._last_time, self._timed = self._now, True
        return round(self._elapsed, 6)

    def _between(self, before: float, now: float) -> float:
        """Seconds from one line to another: glog's short date has no year, so New Year and a 29 February may lie between."""
        step = now - before
        if step < -_YEAR_SECONDS / 2:
            return step + _YEAR_SECONDS
        if before < _MARCH <= now and step >= _DAY_SECONDS and not self._leap:
            return step - _DAY_SECONDS
        return step

    def _begin(self, row: TrainRow | TestRow) -> TrainRow | TestRow:
        seen = max((rows[-1].iteration for rows in (self.train, self.test) if rows), default=row.iteration)
        if self._fresh_session or row.iteration < seen:  # resumed, be its "Solving" line there or not
            self._fresh_session = False
            self.train = [old for old in self.train if old.iteration < row.iteration]
            self.test = [old for old in self.test if old.iteration < row.iteration]
        self._row, row.for_now = row, self._for_now
        if isinstance(row, TestRow):
            self.test.append(row)
        elif self.train and self.train[-1].iteration == row.iteration:
            self.train[-1] = row
        else:
            self.train.append(row)
        return row

    def _output(self, phase: str, name: str, value: float) -> None:
        row = self._row
        if row is None or isinstance(row, TestRow) != (phase == "Test"):
            return  # the line that names its iteration is missing
        key, copy = name, 1
        while key in row.outputs:  # an output of several elements prints its name once for each
            key, copy = f"{name}_{copy}", copy + 1
        row.outputs[key] = value
        if isinstance(row, TestRow) and self._now is not None and self._last_time is not None:
            before = [test.took for test in self.test[:-1] if test.took is not None]
            row.took = round(_plausible(self._between(self._last_time, self._now), before), 6)


def _plausible(step: float, before: list[float]) -> float:
    """Seconds of training in a step of the log's clock, which is added to ``before``, those of the same kind.

    A clock that is set, summer time's end among the reasons, or a machine that sleeps is no training: a step back, or one that
    is more than ten minutes and five times the longest so far, counts as the median of those so far.
    """
    if step < -1.0 or (len(before) >= 3 and step > _JUMP_SECONDS + _JUMP_FACTOR * max(before)):
        return statistics.median(before) if before else 0.0
    before.append(max(0.0, step))
    return before[-1]


def _seconds_of(date: str, time: str) -> float | None:
    """None: no date, such as a month 13."""
    year, day = (int(date[:4]), date[4:]) if len(date) == 8 else (2000, date)
    clock, _, fraction = time.partition(".")
    try:
        stamp = datetime.strptime(f"{year:04d}{day} {clock}", "%Y%m%d %H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return (stamp - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds() + float(f"0.{fraction or 0}")


Column = tuple[str, Callable[[Any], object]]
"""A column's head, and what stands in it of a row."""


def to_csv(rows: Sequence[TrainRow] | Sequence[TestRow], columns: Sequence[Column]) -> str:
    """Rows as CSV: the columns, then ``output:NAME`` for each output of the net; what a row does not have is empty."""
    names = dict.fromkeys(name for row in rows for name in row.outputs)
    lines: list[Sequence[object]] = [[*(head for head, _ in columns), *(f"output:{name}" for name in names)]]
    for row in rows:
        lines.append([*(of(row) for _, of in columns), *(row.outputs.get(name) for name in names)])
    return csv_text.text(lines)


def message_of(line: str) -> str:
    """A line without glog's prefix; the line itself where it has none."""
    match = _PREFIX.match(line)
    return match["text"] if match else line


def complete_lines(text: str) -> Iterator[str]:
    """The lines of ``text`` that end in a newline; a last piece without one is still being written."""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield line


def parse_lines(lines: Iterable[str]) -> LogParser:
    """Feed every line to a new parser."""
    parser = LogParser()
    for line in lines:
        parser.feed(line)
    return parser


def parse_log(path: Path) -> LogParser:
    """Read a log file of Caffe or of ``caffe-torch``, appended across resumes or not.

    Raises:
        OSError: the file cannot be read, or is a device or a pipe that nobody writes to.
    """
    with open_file(path, pipes=True) as file:
        return parse_lines(complete_lines(file.read().decode("utf-8", errors="replace")))
