"""`caffe-torch` beside the real `caffe` binary: the same arguments, the same outcome, the same log."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import command_line_files as files
import command_line_golden as golden
import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
NET, SOLVER = files.NET, files.SOLVER
ROOT, CAFFE = golden.ROOT, golden.CAFFE
pytestmark = [
    pytest.mark.caffe,
    pytest.mark.skipif(not CAFFE.exists(), reason="no real Caffe: run `make caffe`"),
]

PREFIX = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ [\w.]+:\d+\] ")


class Outcome:
    def __init__(self, result: subprocess.CompletedProcess[str]) -> None:
        self.status, self.out = result.returncode, result.stdout
        self.lines = [line for line in result.stderr.splitlines() if line.strip()]
        self.prefixes = [PREFIX.match(line) is not None for line in self.lines]
        self.messages = [PREFIX.sub("", line) for line in self.lines]

    def fatal(self) -> str:
        found = [PREFIX.sub("", line) for line in self.lines if line.startswith("F") and PREFIX.match(line)]
        assert len(found) == 1, self.lines
        return found[0]


def run(binary: str, folder: Path, arguments: list[str]) -> Outcome:
    command = [str(CAFFE)] if binary == "caffe" else [sys.executable, "-m", "allconv_caffe.caffe_torch"]
    env = {k: v for k, v in os.environ.items() if not k.startswith("GLOG")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return Outcome(
        subprocess.run([*command, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two equal working directories, one for each binary."""
    found = {}
    for binary in ("caffe", "ours"):
        folder = found[binary] = tmp_path_factory.mktemp(binary)
        files.write_good(folder)
        (folder / "no_iteration.prototxt").write_text(SOLVER.replace("iter: 2", "iter: 0") + "iter_size: 0\n")
        (folder / "bad_net.prototxt").write_text(NET.replace('"InnerProduct"', '"Nope"'))
        (folder / "bad_solver.prototxt").write_text(SOLVER.replace('"net.', '"bad_net.'))
        (folder / "bad_policy.prototxt").write_text(SOLVER.replace('"step"', '"steps"'))
        (folder / "bad_type.prototxt").write_text(SOLVER + 'type: "Nope"\n')
        (folder / "bad_shape.prototxt").write_text(NET.replace("num_output: 3", "num_output: 4"))
        (folder / "bad_text.prototxt").write_text(SOLVER.replace("gamma", "gama"))
    return found


@pytest.fixture(scope="module")
def trained(folders: dict[str, Path]) -> dict[str, Outcome]:
    arguments = ["train", "-solver", "solver.prototxt"]
    return {binary: run(binary, folder, arguments) for binary, folder in folders.items()}


NUMBER = re.compile(r"-?\d+\.?\d*(?:e[-+]?\d+)?|-?inf|-?nan")


def assert_same_log(real: Outcome, ours: Outcome) -> None:
    """Same messages in the same order; numbers to 5 digits; times, and lines of threads and executors, aside."""
    of_threads = ("Restarting data prefetching", "Waiting for data", "Executor: ")

    def lines(outcome: Outcome) -> list[str]:
        kept = [m for m in outcome.messages if not m.startswith(of_threads)]
        # a loss layer builds a softmax layer of its own, whose creation Caffe logs once more
        follow = [*kept[1:], ""]
        kept = [
            m
            for m, after in zip(kept, follow, strict=True)
            if not m.startswith("Creating layer ") or after == m.replace("layer", "Layer")
        ]
        kept = [re.sub(r"\(.* iter/s, .*s/2 iters\)", "(speed)", m) for m in kept]
        return [re.sub(r"[\d.e+-]+ ms\.", "T ms.", m) for m in kept]

    assert [NUMBER.sub("#", m) for m in lines(ours)] == [NUMBER.sub("#", m) for m in lines(real)]
    for expected, found in zip(lines(real), lines(ours), strict=True):
        a, b = ([float(x) for x in NUMBER.findall(m)] for m in (expected, found))
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=1e-6, err_msg=expected)


def test_train_writes_caffes_log(trained: dict[str, Outcome]) -> None:
    """A whole training, net construction, tests and snapshots: line by line as Caffe's, all with glog's prefix."""
    assert (trained["ours"].status, trained["ours"].out) == (trained["caffe"].status, trained["caffe"].out) == (0, "")
    assert_same_log(trained["caffe"], trained["ours"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "-solver", "solver.prototxt", "-weights", "x_iter_8.caffemodel", "-stage", "a,b", "-level", "2"],
        ["train", "-solver", "solver.prototxt", "-snapshot", "x_iter_4.solverstate"],
        ["test", "--model=net.prototxt", "--weights=x_iter_8.caffemodel", "-iterations", "3"],
        ["time", "-model", "net.prototxt", "-iterations", "2"],
        ["time", "-model", "net.prototxt", "-iterations", "1", "-phase", "TEST"],
        ["device_query"],
        ["test", "-model", "net.prototxt", "-weights", "x_iter_8.caffemodel", "-iterations", "0"],
        ["time", "-model", "net.prototxt", "-iterations", "-1"],
        ["train", "-solver", "no_iteration.prototxt"],
    ],
    ids=[
        "finetune",
        "resume",
        "test",
        "time",
        "time TEST",
        "device_query",
        "test 0",
        "time -1",
        "iter_size 0, test_iter 0",
    ],
)
def test_other_actions_write_caffes_log(
    arguments: list[str], folders: dict[str, Path], trained: dict[str, Outcome]
) -> None:
    """Finetuning, resuming, test, time and device_query: status, silence on stdout and log as Caffe's."""
    real, ours = (run(binary, folders[binary], arguments) for binary in ("caffe", "ours"))
    assert (ours.status, ours.out) == (real.status, real.out) == (0, "")
    assert_same_log(real, ours)


def test_a_snapshot_of_either_resumes_in_the_other(folders: dict[str, Path], trained: dict[str, Outcome]) -> None:
    """Caffe tests and resumes what ours saved, and the other way round, with the same numbers."""
    for arguments in (
        ["test", "-model", "net.prototxt", "-weights", "x_iter_8.caffemodel", "-iterations", "2"],
        ["train", "-solver", "solver.prototxt", "-snapshot", "x_iter_4.solverstate"],
    ):
        assert_same_log(run("caffe", folders["ours"], arguments), run("ours", folders["caffe"], arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["train", "test"],
        ["-version"],
        ["--help"],
        ["-nope", "train"],
        ["train", "-solver"],
        ["-noversion"],
        ["train", "-iterations", "abc"],
        ["train", "-level", "1.5"],
        ["train", "-nosolver"],
        ["train", "-nope", "-nada"],
        ["train", "-version=maybe"],
    ],
    ids=" ".join,
)
def test_flags_have_caffes_outcomes(arguments: list[str], folders: dict[str, Path]) -> None:
    """Usage, version and mistakes in flags: Caffe's status, stream and words; the program's own name apart."""
    real, ours = (run(binary, folders[binary], arguments) for binary in ("caffe", "ours"))
    assert ours.status == real.status
    assert ours.lines == real.lines
    head = (
        real.out.split("\n\n  Flags")[0]
        .replace("caffe: ", "caffe-torch: ")
        .replace("caffe version", "caffe-torch version")
    )
    assert ours.out.split("\n\n  Flags")[0] == head


MISTAKES = {
    "nope": "Unknown action: nope",
    "train": "Need a solver definition to train.",
    "train -solver=": "Need a solver definition to train.",
    "train -solver gone.prototxt": "File not found: gone.prototxt",
    "train -solver solver.prototxt -snapshot a -weights b": "Give a snapshot to resume training or weights to finetune but not both.",
    "train -solver solver.prototxt -snapshot gone.solverstate": "File not found: gone.solverstate",
    "train -solver solver.prototxt -sigint_effect bad": 'Invalid signal effect "bad" was specified',
    "train -solver bad_solver.prototxt": "Unknown layer type: Nope (known types: ",
    "train -solver bad_policy.prototxt": "Unknown learning rate policy: steps",
    "train -solver bad_type.prototxt": "Unknown solver type: Nope (known types: AdaDelta, AdaGrad, Adam, Nesterov, "
    "RMSProp, SGD)",
    "train -solver bad_text.prototxt": "bad_text.prototxt",
    "train -solver solver.prototxt -weights gone.caffemodel": "Couldn't open gone.caffemodel",
    "test -model net.prototxt": "Need model weights to score.",
    "test -weights x": "Need a model definition to score.",
    "test -model net.prototxt -weights gone.caffemodel": "Couldn't open gone.caffemodel",
    "test -model bad_shape.prototxt -weights x_iter_8.caffemodel": "Cannot copy param 0 weights from layer 'ip'; "
    "shape mismatch.  Source param shape is 3 18 (54); target param shape is 4 18 (72). To learn this layer's parameters from scratch",
    "time -model gone.prototxt": "File not found: gone.prototxt",
    "time -model net.prototxt -phase train": 'phase must be "TRAIN" or "TEST"',
    "time -model net.prototxt -gpu 0": "Cannot use GPU",
    "device_query -gpu all": "Cannot use GPU",
}


@pytest.mark.parametrize("arguments", list(MISTAKES))
def test_mistakes_stop_both(arguments: str, folders: dict[str, Path], trained: dict[str, Outcome]) -> None:
    """What Caffe aborts at (134), ours refuses (1): one F line that holds the same sentence, no trace."""
    real, ours = (run(binary, folders[binary], arguments.split()) for binary in ("caffe", "ours"))
    assert real.status in (134, -6) and (ours.status, ours.out) == (1, "")
    assert MISTAKES[arguments] in real.fatal()
    assert MISTAKES[arguments] in ours.fatal()
    assert not any("Traceback" in line for line in ours.lines)


ASKED = 1 if os.environ.get("ALLCONV_EVERY_CASE") else 6  # every sixth suffices to notice another Caffe


@pytest.fixture(scope="module")
def recorded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    golden.prepare(folder, [str(CAFFE)])
    return folder


@pytest.mark.parametrize("part", range(3))
def test_what_is_recorded_of_command_lines_is_true(recorded_folder: Path, part: int) -> None:
    """Real Caffe ends as tests/golden/command_line.json says, which tests/hostile holds ours against.

    With ALLCONV_EVERY_CASE=1, in every one of its cases.
    """
    recorded = json.loads(golden.GOLDEN.read_text())
    names = golden.cases(recorded_folder)
    assert set(names) == set(recorded) and set(golden.DIFFERENT) <= set(names)
    for name in names[part::3][::ASKED]:
        assert golden.run_real(recorded_folder, name) == recorded[name], name
