"""Caffe's own parse_log.py, run where it lies, on logs of ours and of real Caffe: the same rows, and nothing lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import command_line_files as files
import command_line_golden as golden
import numpy as np
import pytest

from allconv_caffe.report import log as report_log

HERE = Path(__file__).resolve().parent
TOOLS = Path(os.environ.get("CAFFE_SRC") or golden.ROOT / ".caffe-source") / "tools" / "extra"
pytestmark = [
    pytest.mark.caffe,
    pytest.mark.skipif(not TOOLS.is_dir(), reason="no source of Caffe: make caffe-source, or CAFFE_SRC=<folder>"),
]
COMMANDS = {"caffe": [str(golden.CAFFE)], "ours": [sys.executable, "-m", "allconv_caffe.caffe_torch"]}
Row = dict[str, float]

# accuracy and a second loss in the training net, too: three outputs to display
NET = (
    files.NET.replace('include { phase: TEST } }\nlayer { name: "loss"', '}\nlayer { name: "loss"')
    + """
layer { name: "margin" type: "HingeLoss" bottom: "ip" bottom: "label" top: "margin" loss_weight: 0.5 }
"""
)
SOLVERS: dict[str, Callable[[str], str]] = {
    "one test net": lambda s: s,
    "two test nets": lambda s: s.replace("test_iter: 2", "test_iter: 2 test_iter: 1"),
    "no test": lambda s: s.replace("test_iter: 2\ntest_interval: 4\n", ""),
}


@pytest.fixture(scope="module")
def parse_log() -> Callable[[Path], tuple[list[Row], list[Row]]]:
    """`parse_log` of the source tree; its Python 2 print statements are made calls in memory."""
    source = (TOOLS / "parse_log.py").read_text()
    code = re.sub(r"^( *)print ('.*)$", r"\1print(\2)", source, flags=re.MULTILINE)
    module = ModuleType("parse_log")
    sys.path.insert(0, str(TOOLS))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its patterns' escapes
            exec(compile(code, str(TOOLS / "parse_log.py"), "exec"), module.__dict__)
    finally:
        sys.path.remove(str(TOOLS))
    parse: Callable[[Path], tuple[list[Row], list[Row]]] = module.parse_log
    return parse


@pytest.fixture(scope="module", params=list(SOLVERS))
def logs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A training of 8 iterations, then resumed from the fourth into the same log, by each of the two."""
    found = {}
    for who, command in COMMANDS.items():
        folder = tmp_path_factory.mktemp("log")
        files.write_good(folder)
        (folder / "net.prototxt").write_text(NET)
        (folder / "solver.prototxt").write_text(SOLVERS[request.param](files.SOLVER))
        found[who] = folder / "log"
        with open(found[who], "w") as log:
            for more in ([], ["-snapshot", "x_iter_4.solverstate"]):
                subprocess.run(
                    [*command, "train", "-solver", "solver.prototxt", *more],
                    cwd=folder,
                    stderr=log,
                    env=golden.environment(),
                    check=True,
                )
                if not more:
                    (folder / "first").write_bytes(found[who].read_bytes())
    return found


def numbers(rows: list[Row]) -> list[Row]:
    """Without the times, which no two runs share."""
    return [{name: value for name, value in row.items() if name != "Seconds"} for row in rows]


def test_parse_log_finds_in_ours_what_it_finds_in_caffes(
    parse_log: Callable[[Path], tuple[list[Row], list[Row]]], logs: dict[str, Path]
) -> None:
    """Same rows, columns and rates, values to 5 digits, of a training and of a resumed one; times that go up."""
    for part in ("first", "log"):
        real, ours = (parse_log(logs[who].with_name(part)) for who in ("caffe", "ours"))
        assert len(real[0]) >= 4
        for expected, found in zip(real, ours, strict=True):
            assert [list(row) for row in found] == [list(row) for row in expected]
            for a, b in zip(numbers(expected), numbers(found), strict=True):
                np.testing.assert_allclose(list(b.values()), list(a.values()), rtol=2e-5, atol=1e-6, err_msg=str(a))
            seconds = [row["Seconds"] for row in found]
            assert seconds == sorted(seconds) and all(second >= 0 for second in seconds)


def test_parse_log_and_our_parser_agree(
    parse_log: Callable[[Path], tuple[list[Row], list[Row]]], logs: dict[str, Path]
) -> None:
    """Of one session: iterations, times, every output, and the rate, which parse_log.py takes from the row before."""
    path = logs["ours"].with_name("first")
    own = report_log.parse_log(path)
    train, test = parse_log(path)
    displayed = [row for row in own.train if row.outputs]  # after the last iteration, Caffe displays the loss alone
    assert [row.iteration for row in own.train] == [row.iteration for row in displayed] + [8]
    assert [row["NumIters"] for row in train] == [row.iteration for row in displayed]
    rates = [row.lr for row in displayed]
    for i, (row, mine) in enumerate(zip(train, displayed, strict=True)):
        assert set(mine.outputs) == {"accuracy", "loss", "margin"}
        assert mine.outputs == {name: row[name] for name in mine.outputs}
        assert len(row) == 3 + len(mine.outputs)
        assert row["LearningRate"] == rates[max(0, i - 1)]
        assert row["Seconds"] == pytest.approx(mine.seconds, abs=0.05)  # its last line's time; ours is the first's
    of_nets = {row.net for row in own.test}
    by_iteration = {(row.iteration, row.net): row for row in own.test}
    for row in test:  # in the first row of all, parse_log.py lets a later net overwrite an earlier one
        candidates = [by_iteration[int(row["NumIters"]), net].outputs for net in of_nets]
        assert {name: row[name] for name in candidates[0]} in candidates
    if len(of_nets) == 1:
        assert [row["NumIters"] for row in test] == [row.iteration for row in own.test]


def test_parse_log_and_our_parser_agree_on_a_resumed_log(
    parse_log: Callable[[Path], tuple[list[Row], list[Row]]], logs: dict[str, Path]
) -> None:
    """parse_log.py lists both sessions; ours keeps, of iterations that were done twice, the later."""
    own = report_log.parse_log(logs["ours"])
    train, _ = parse_log(logs["ours"])
    last = {int(row["NumIters"]): row for row in train}
    displayed = [row for row in own.train if row.outputs]
    assert sorted(last) == [row.iteration for row in displayed] and len(train) > len(last)
    for mine in displayed:
        assert mine.outputs == {name: last[mine.iteration][name] for name in mine.outputs}
