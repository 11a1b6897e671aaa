"""``allconv curves``: the points of any log of ``caffe train`` as CSV, and their curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from allconv_caffe import files
from allconv_caffe.errors import FoundError
from allconv_caffe.report.log import Column, LogParser, parse_log, to_csv
from allconv_caffe.report.plots import MOST_NAMES, Points, draw_outputs

FIGURE = "curves.png"
_FIRST: list[Column] = [
    ("iteration", lambda row: row.iteration),
    ("seconds", lambda row: row.seconds),
    ("lr", lambda row: row.lr),
]


class CurvesError(FoundError):
    """A log without points, or two logs of one name."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a log holds; as text, a line for people."""

    name: str
    training_points: int
    tests: int
    iteration: int  # the last
    loss: float | None  # the last displayed
    outputs: dict[str, float]  # of the last test
    sessions: int
    files: list[str]

    def __str__(self) -> str:
        parts = [
            f"{self.name}: {self.training_points} training points, {self.tests} tests, up to iteration {self.iteration}"
        ]
        if self.loss is not None:
            parts.append(f"last loss {self.loss:g}")
        parts += [f"{output} {value:g}" for output, value in self.outputs.items()][:MOST_NAMES]
        if len(self.outputs) > MOST_NAMES:
            parts.append(f"and {len(self.outputs) - MOST_NAMES} more outputs")
        if self.sessions > 1:
            parts.append(f"{self.sessions} sessions")
        return "; ".join(parts)


def curves(logs: Sequence[Path], output: Path) -> list[Drawn]:
    """Writes NAME.train.csv and NAME.test.csv for each log, and curves.png of all of them, into `output`.

    Args:
        logs: of Caffe, or of caffe-torch; a log's name is its file's, without ``.log``; of one called ``log``, the folder's.
    Returns: what each log holds.
    Raises: CurvesError; OSError.
    """
    found = {name: _read(path) for name, path in _named(logs).items()}
    for path, log in zip(logs, found.values(), strict=True):
        if not log.train and not log.test:
            raise CurvesError(path, "no displayed iteration and no test", "a log of `caffe train`")
    output.mkdir(parents=True, exist_ok=True)
    for name, log in found.items():
        files.write(output / f"{name}.train.csv", to_csv(log.train, [*_FIRST, ("loss", lambda row: row.loss)]))
        files.write(output / f"{name}.test.csv", to_csv(log.test, [*_FIRST, ("net", lambda row: row.net)]))
    files.write(output / FIGURE, [draw_outputs(_losses(found), _others(found))])
    return [_drawn(name, log, output) for name, log in found.items()]


def _read(path: Path) -> LogParser:
    try:
        return parse_log(path)
    except OSError as error:
        raise CurvesError(path, error.strerror or str(error), "a log of `caffe train`") from None


def _named(logs: Sequence[Path]) -> dict[str, Path]:
    names: dict[str, Path] = {}
    for path in logs:
        name = path.resolve().parent.name if path.name == "log" else path.name.removesuffix(".log")
        if name in names:
            raise CurvesError(path, f"a second log called {name}", f"another name than that of {names[name]}")
        names[name] = path
    return names


def _is_loss(name: str) -> bool:
    return "loss" in name.lower()


def _tests(log: LogParser) -> dict[str, list[tuple[float, float]]]:
    """The points of each output of each test net; nets after the first have their number behind the name."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in log.test:
        for name, value in row.outputs.items():
            series.setdefault(f"{name} (net {row.net})" if row.net else name, []).append((row.iteration, value))
    return series


def _label(found: Mapping[str, LogParser], name: str, words: str) -> str:
    return words if len(found) == 1 else f"{name}: {words}"


def _losses(found: Mapping[str, LogParser]) -> dict[str, Points]:
    series: dict[str, Points] = {}
    for name, log in found.items():
        series[_label(found, name, "training loss")] = [(row.iteration, row.loss) for row in log.train]
        for output, points in _tests(log).items():
            if _is_loss(output):
                series[_label(found, name, f"test {output}")] = points
    return series


def _others(found: Mapping[str, LogParser]) -> dict[str, Points]:
    return {
        _label(found, name, output): points
        for name, log in found.items()
        for output, points in _tests(log).items()
        if not _is_loss(output)
    }


def _drawn(name: str, log: LogParser, output: Path) -> Drawn:
    return Drawn(
        name=name,
        training_points=len(log.train),
        tests=len(log.test),
        iteration=max(rows[-1].iteration for rows in (log.train, log.test) if rows),
        loss=log.train[-1].loss if log.train else None,
        outputs=dict(log.test[-1].outputs) if log.test else {},
        sessions=log.sessions,
        files=[f"{output}/{name}.train.csv", f"{output}/{name}.test.csv"],
    )
