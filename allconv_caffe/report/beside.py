"""``allconv report --beside LOG``: the runs' test error laid over another training's, epoch by epoch.

LOG is the log of ``caffe train`` of any engine, or a CSV. A log counts iterations: its epochs are iterations times the
images of an update over the training images of the runs. The images of an update are the ``batch_size`` of the training
net that the log prints, times the solver's ``iter_size``, times the GPUs of "Using GPUs".
"""

from __future__ import annotations

import bisect
import csv
import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from allconv_caffe import csv_text, files, markdown
from allconv_caffe.report import plots
from allconv_caffe.report.log import TestRow, complete_lines, message_of, parse_lines
from allconv_caffe.report.record import ReportError
from allconv_caffe.report.runs import Shown

FIGURE, POINTS = "beside.png", "beside.csv"
SAME_EPOCH = 0.005
"""Two tests are of the same epoch where their epochs differ by no more: an iteration of CIFAR by 256."""
_MOST_ROWS = 40  # of a table for people; all are in POINTS
_CSV_COLUMNS = ("iteration", "epoch", "learning_rate", "error_percent", "loss")
_EXPECTED = f"the log of `caffe train`, or a CSV with the columns {', '.join(_CSV_COLUMNS)}"

Curve = list[tuple[float, float]]
"""(epoch, test error in percent), in order of the epochs."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Another training's curve."""

    name: str
    """What figures and tables call it."""
    path: Path
    """The file."""
    points: tuple[tuple[float, float], ...]
    """(epoch, test error in percent); of a log: iterations in place of epochs."""
    batch_size: int = 0
    """Images of an update, of a log; 0: the points have their epochs."""

    def curve(self, n_train: int) -> Curve:
        """By epoch, for a set of so many training images."""
        factor = self.batch_size / n_train if self.batch_size else 1.0
        return [(place * factor, error) for place, error in self.points]


def read(word: str) -> Source:
    """What ``--beside`` names: ``PATH``, or ``NAME=PATH``.

    Raises:
        ReportError: nothing there, neither a log nor a CSV, no test in it, or no batch to count epochs by.
    """
    name, sign, rest = word.partition("=")
    named = bool(sign and name and not Path(word).exists())
    path = Path(rest if named else word).expanduser()
    try:
        with files.open_file(path) as file:
            text = file.read().decode("utf-8", errors="replace")
    except OSError as error:
        raise ReportError(path, f"nothing ({error.strerror})", _EXPECTED) from None
    name = name.strip() if named else path.resolve().parent.name if path.name == "log" else path.stem
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip() and line[0] != "#"]
    if lines and "," in lines[0][1] and message_of(lines[0][1]) == lines[0][1]:
        return Source(name=name, path=path, points=tuple(_csv_points(path, lines)))
    log = parse_lines(complete_lines(text))
    tests = [row for row in log.test if row.net == 0 and row.outputs]
    if not tests:
        raise ReportError(path, "no test", _EXPECTED)
    nets = _printed_nets(text)
    accuracy = _accuracy(path, tests, nets)
    found = {}
    for row in tests:
        renamed = TestRow(
            iteration=row.iteration, outputs={**row.outputs, "accuracy": row.outputs.get(accuracy, math.nan)}
        )
        if renamed.error_percent is not None:
            found[float(row.iteration)] = renamed.error_percent
    if not found:
        raise ReportError(path, f"no test whose {accuracy} is a number", _EXPECTED)
    return Source(name=name, path=path, points=tuple(sorted(found.items())), batch_size=_batch_size(path, text, nets))


# ---------------------------------------------------------------------------------------------------------------------
# A CSV


def _csv_points(path: Path, lines: Sequence[tuple[int, str]]) -> Curve:
    head = [cell.strip() for cell in next(csv.reader([lines[0][1]]))]
    if missing := [column for column in ("epoch", "error_percent") if column not in head]:
        also = " (a CSV names no batch to count epochs by)" if missing == ["epoch"] and "iteration" in head else ""
        raise ReportError(f"{path}:{lines[0][0]}", f"no column {', '.join(missing)}{also}", _EXPECTED)
    found: dict[float, float] = {}
    for number, line in lines[1:]:
        row = dict(zip(head, next(csv.reader([line])), strict=False))
        epoch, error = (
            _number(f"{path}:{number}", column, row.get(column, "")) for column in ("epoch", "error_percent")
        )
        if epoch is not None and error is not None:
            found[epoch] = error
    if not found:
        raise ReportError(path, "no point with an epoch and an error", _EXPECTED)
    return sorted(found.items())


def _number(where: str, column: str, text: str) -> float | None:
    """A cell's number; None where it is empty, or says that it is none."""
    try:
        value = float(text) if text.strip() else math.nan
    except ValueError:
        raise ReportError(where, f"{column} {text.strip()!r}", "a number") from None
    return value if math.isfinite(value) else None


# ---------------------------------------------------------------------------------------------------------------------
# A log


def _printed_nets(text: str) -> list[str]:
    """Every net that the log prints when it begins, as prototxt."""
    found: list[str] = []
    inside = False
    for line in text.splitlines():
        message = message_of(line)
        if message.startswith("Initializing net from parameters:"):
            found.append("")
            inside = True
        elif message != line:  # glog's prefix: the net is printed without
            inside = False
        elif inside:
            found[-1] += line + "\n"
    return found


def _layers(net: str) -> Iterator[str]:
    """The text of each layer of a printed net."""
    return (part for part in re.split(r"(?m)^(?=layers? \{)", net) if part.startswith("layer"))


def _of_phase(net: str, phase: str) -> bool:
    head = re.split(r"(?m)^layers? \{", net)[0]
    return re.search(rf"phase: {phase}\b", head) is not None


def _accuracy(path: Path, tests: Sequence[TestRow], nets: Sequence[str]) -> str:
    """The output that is the top-1 accuracy: the one of that name, or the only one of an Accuracy layer without top_k."""
    outputs = tests[-1].outputs
    if "accuracy" in outputs:
        return "accuracy"
    tops = {
        top
        for net in nets
        if _of_phase(net, "TEST")
        for layer in _layers(net)
        if re.search(r'^\s*type: ("Accuracy"|ACCURACY)$', layer, re.MULTILINE)
        and int((re.search(r"top_k: (\d+)", layer) or [0, 1])[1]) == 1
        for top in re.findall(r'(?m)^\s*top: "([^"]+)"', layer)[:1]
        if top in outputs
    }
    if len(tops) != 1:
        raise ReportError(
            path, f"test outputs {', '.join(outputs)}", "one that is called accuracy, or one Accuracy layer"
        )
    return tops.pop()


def _batch_size(path: Path, text: str, nets: Sequence[str]) -> int:
    """Images of an update.

    Raises:
        ReportError: no training net, no batch_size in it, or several.
    """
    expected = (
        "the whole log, whose training net has one batch_size to count epochs by (or a CSV with the column epoch)"
    )
    training = [net for net in nets if _of_phase(net, "TRAIN")]
    sizes = {int(size) for net in training for size in re.findall(r"batch_size\W{1,4}(\d+)", net)}
    if len(sizes) != 1 or not min(sizes):
        what = f"batch_size {', '.join(map(str, sorted(sizes)))}" if sizes else "no batch_size"
        raise ReportError(path, what if training else "no training net", expected)
    rounds = {int(count) for count in re.findall(r"(?m)^iter_size: (\d+)$", text)} or {1}
    gpus = {len(match.split(",")) for match in re.findall(r"\] Using GPUs ([\d, ]+)$", text, re.MULTILINE)} or {1}
    if len(rounds) != 1 or len(gpus) != 1:
        raise ReportError(path, "sessions with other iter_size or another number of GPUs", expected)
    return sizes.pop() * rounds.pop() * gpus.pop()


# ---------------------------------------------------------------------------------------------------------------------
# Runs over it


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A run over another training's curve."""

    source: Source
    """The other training."""
    entry: Shown
    """The run."""
    points: tuple[tuple[float, float, float], ...]
    """(epoch, error of the other, error of the run), both in percent, behind the untrained net's."""
    between: bool
    """Whether the other's curve is read between its points, at the run's: the two were tested at different epochs."""

    @property
    def differences(self) -> list[tuple[float, float]]:
        """(epoch, run minus other) in percentage points."""
        return [(epoch, run - other) for epoch, other, run in self.points]

    def __str__(self) -> str:
        """Mean and largest difference in one line."""
        words = f"{self.entry.label} beside {self.source.name}: "
        if not self.points:
            return words + "no point in common yet"
        count, first, last = len(self.points), self.points[0][0], self.points[-1][0]
        epoch, other, run = max(self.points, key=lambda point: abs(point[2] - point[1]))
        mean = statistics.fmean(difference for _, difference in self.differences)
        what = "points, its curve read between its own tests" if self.between else "common points"
        return (
            f"{words}{count} {what}, epoch {first:.4g} to {last:.4g}: mean difference {mean:+.2f} points, largest "
            f"{run - other:+.2f} at epoch {epoch:.4g} ({run:.2f} % for {other:.2f} %)"
        )


def compare(sources: Sequence[Source], entries: Sequence[Shown]) -> list[Comparison]:
    """Every run that has a test, over every source.

    Raises:
        ReportError: no run, or runs on training sets of several sizes beside a log that counts iterations.
    """
    tested = [entry for entry in entries if entry.run.curve("test")]
    if not tested:
        raise ReportError(
            f"--beside {sources[0].path}", "no run with a test in the folders", "at least one to lay over it"
        )
    return [_comparison(source, entry, _n_train(source, tested)) for source in sources for entry in tested]


def _n_train(source: Source, entries: Sequence[Shown]) -> int:
    sizes = {entry.run.record.n_train or 0 for entry in entries}
    if not source.batch_size:
        return 0
    if len(sizes) != 1 or not min(sizes):
        found = ", ".join(f"{size:,}" if size else "an unknown number of" for size in sorted(sizes))
        raise ReportError(
            f"--beside {source.path}",
            f"a log, which counts iterations, and runs on {found} training images",
            "runs on as many images each, to count epochs by (name their folders)",
        )
    return sizes.pop()


def _comparison(source: Source, entry: Shown, n_train: int) -> Comparison:
    other = source.curve(n_train)
    run = [(epoch, error) for epoch, error in entry.run.curve("test") if epoch > 0 and math.isfinite(error)]
    inside = [(epoch, error) for epoch, error in run if other[0][0] <= epoch <= other[-1][0] + SAME_EPOCH]
    epochs = [epoch for epoch, _ in other]
    same, read_between = [], []
    for epoch, error in inside:
        at = bisect.bisect_left(epochs, epoch)
        near = min(other[max(0, at - 1) : at + 1], key=lambda point: abs(point[0] - epoch))
        if abs(near[0] - epoch) <= SAME_EPOCH:
            same.append((epoch, near[1], error))
        read_between.append((epoch, _at(other, epoch), error))
    between = 2 * len(same) < len(inside)
    return Comparison(source=source, entry=entry, points=tuple(read_between if between else same), between=between)


def _at(curve: Curve, epoch: float) -> float:
    """The curve's value at an epoch, on the straight line between its neighbours."""
    at = min(max(1, bisect.bisect_left([place for place, _ in curve], epoch)), len(curve) - 1)
    if len(curve) == 1:
        return curve[0][1]
    (before, low), (after, high) = curve[at - 1], curve[at]
    share = min(1.0, (epoch - before) / (after - before))
    return low + share * (high - low)


def curves(
    comparisons: Sequence[Comparison],
) -> tuple[dict[str, Curve], dict[str, Curve], dict[tuple[str, str], Curve]]:
    """The others' curves and the runs', by name, and what lies between each two."""
    runs = {found.entry.label: found.entry.run.curve("test") for found in comparisons}
    n_train = {found.entry.run.record.n_train or 0 for found in comparisons}
    others = {found.source.name: found.source.curve(max(n_train)) for found in comparisons}
    differences = {(found.entry.label, found.source.name): found.differences for found in comparisons}
    return others, runs, differences


def figure(comparisons: Sequence[Comparison]) -> bytes:
    """The curves one over the other, and below them the differences, as PNG; as far as the runs have come."""
    return plots.overlay(*curves(comparisons))


def to_csv(comparisons: Sequence[Comparison]) -> str:
    """Every point compared."""
    rows: list[Sequence[object]] = [_CSV_HEAD]
    for found in comparisons:
        folder = found.entry.run.folder.as_posix()
        for epoch, other, run in found.points:
            numbers = (f"{epoch:.6g}", f"{other:.6g}", f"{run:.6g}", f"{run - other:.6g}")
            rows.append((found.source.name, found.entry.label, folder, *numbers, int(found.between)))
    return csv_text.text(rows)


_CSV_HEAD = (
    *("beside", "run", "folder", "epoch"),
    *("beside_error_percent", "run_error_percent", "difference_points", "between"),
)
HEAD = ("epoch", "beside it", "the run", "difference")


def rows(found: Comparison) -> list[tuple[str, ...]]:
    """The points for people: all of them, or evenly chosen ones, the last among them."""
    step = math.ceil(len(found.points) / _MOST_ROWS)
    chosen = found.points[:: -step or None][::-1] if found.points else ()
    return [(f"{epoch:.4g}", f"{other:.2f} %", f"{run:.2f} %", f"{run - other:+.2f}") for epoch, other, run in chosen]


def rule(source: Source) -> str:
    """Where its epochs come from, in a sentence."""
    if not source.batch_size:
        return f"{source.name} is {source.path}, by its own epochs."
    return (
        f"{source.name} is {source.path}; an epoch is the runs' training images over the {source.batch_size} images of an "
        "update that its log prints."
    )


def to_markdown(comparisons: Sequence[Comparison], drawn: bool = True) -> list[str]:
    """The section of the report: where the curves are from, the sentences, the figure and a table for each pair."""
    lines = ["## Beside other trainings", ""]
    lines += [f"- {markdown.escaped(rule(source))}" for source in dict.fromkeys(found.source for found in comparisons)]
    lines += ["", *(f"- {markdown.escaped(str(found))}" for found in comparisons), ""]
    if drawn:
        lines += [f"![Test error beside {markdown.escaped(comparisons[0].source.name)}]({FIGURE})", ""]
    for found in comparisons:
        if found.points:
            lines += [
                f"### {markdown.escaped(f'{found.entry.label} beside {found.source.name}')}",
                "",
                *markdown.table(HEAD, rows(found)),
                "",
            ]
    if drawn:
        lines += [f"All points: [{POINTS}]({POINTS}).", ""]
    return lines
