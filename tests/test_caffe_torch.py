"""The command line `caffe-torch`: outcomes, log lines, mistakes. Runs in this process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.databases import write_lmdb

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.tools import caffe as caffe_torch, gflags
from allconv_caffe.caffe_torch.tools.signals import SignalHandler
from allconv_caffe.proto import Datum, NetParameter, read_binary

NET = """name: "Tiny"
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "db" backend: LMDB batch_size: 4 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt"
test_iter: 2 test_interval: 3
base_lr: 0.01 lr_policy: "fixed" momentum: 0.9
display: 1 max_iter: 3 snapshot_prefix: "x" random_seed: 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a net, a solver and ten records."""
    monkeypatch.chdir(tmp_path)
    for name in ("GLOG_minloglevel", "GLOG_log_dir", "GLOG_logtostderr"):
        monkeypatch.delenv(name, raising=False)
    rs = np.random.RandomState(0)
    write_lmdb(
        "db", [Datum(channels=1, height=2, width=2, label=i % 3, float_data=rs.randn(4).tolist()) for i in range(10)]
    )
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)
    return tmp_path


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err
        self.messages = [line.split("] ", 1)[-1] for line in err.splitlines()]

    def fatal(self) -> str:
        """The message of the one F line, which must be the last line."""
        lines = [line for line in self.err.splitlines() if re.match(r"F\d{4} ", line)]
        assert len(lines) == 1 and self.err.splitlines()[-1] == lines[0], self.err
        assert "Traceback" not in self.err
        return lines[0].split("] ", 1)[1]


Caffe = Callable[..., Outcome]


@pytest.fixture
def caffe(capfd: pytest.CaptureFixture[str]) -> Iterator[Caffe]:
    def call(*arguments: str) -> Outcome:
        capfd.readouterr()
        status = caffe_torch.main(arguments)
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err)

    yield call
    glog.init()


@pytest.mark.parametrize("arguments", [(), ("train", "test"), ("-noversion",)])
def test_usage_is_shown_where_there_is_not_one_action(caffe: Caffe, arguments: tuple[str, ...]) -> None:
    """No action, or two: usage on stdout and status 0, as Caffe."""
    outcome = caffe(*arguments)
    assert outcome.status == 0 and outcome.err == ""
    assert outcome.out.startswith("caffe-torch: command line brew\nusage: caffe <command> <args>\n\ncommands:\n")
    for flag in caffe_torch.FLAGS:
        assert f"    -{flag.name} (" in outcome.out
    assert max(map(len, outcome.out.splitlines())) < 80


def test_help_and_version(caffe: Caffe) -> None:
    """--help is the usage with status 1; -version says Caffe's version."""
    assert caffe("--help").status == 1
    outcome = caffe("-version")
    assert (outcome.status, outcome.out, outcome.err) == (0, "caffe-torch version 1.0.0\n", "")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-nope", "train"], "unknown command line flag 'nope'"),
        (["train", "-iterations", "ten"], "illegal value 'ten' specified for int32 flag 'iterations'"),
        (["train", "-level=1.5"], "illegal value '1.5' specified for int32 flag 'level'"),
        (
            ["train", "-solver"],
            "flag '-solver' is missing its argument; flag description: The solver definition "
            "protocol buffer text file.",
        ),
        (["train", "-nosolver"], "boolean value (nosolver) specified for string command line flag"),
        (["-version=maybe"], "illegal value 'maybe' specified for bool flag 'version'"),
    ],
)
def test_flag_mistakes_are_gflags_sentences(caffe: Caffe, arguments: list[str], error: str) -> None:
    """A flag that gflags would refuse is refused in its words, status 1."""
    outcome = caffe(*arguments)
    assert (outcome.status, outcome.out, outcome.err) == (1, "", f"ERROR: {error}\n")


def test_flags_take_one_or_two_dashes_and_equals_or_space() -> None:
    """All of gflags' spellings mean the same; -- ends the flags; the last value counts."""
    flags = (gflags.Flag("name", "", "", "f"), gflags.Flag("n_iter", 5, "", "f"), gflags.Flag("b", False, "", "f"))
    for arguments in (
        ["-name", "x", "a"],
        ["--name=x", "a"],
        ["a", "--name", "x"],
        ["-name=y", "-name=x", "a"],
        ["--name", "x", "--", "a"],
    ):
        assert gflags.parse(flags, arguments) == ({"name": "x", "n_iter": 5, "b": False}, ["a"], []), arguments
    values, rest, errors = gflags.parse(flags, ["-n-iter=0x10", "-b", "-name", "-b", "-", "--", "-b"])
    assert (values, rest, errors) == ({"name": "-b", "n_iter": 16, "b": True}, ["-", "-b"], [])
    assert gflags.parse(flags, ["-b", "-nob"])[0]["b"] is False
    assert gflags.parse(flags, ["-b=YES"])[0]["b"] is True


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nope"], "Unknown action: nope"),
        (["train"], "Need a solver definition to train."),
        (["train", "-solver", "gone"], "File not found: gone"),
        (
            ["train", "-solver", "solver.prototxt", "-snapshot", "a", "-weights", "b"],
            "Give a snapshot to resume training or weights to finetune but not both.",
        ),
        (["train", "-solver", "solver.prototxt", "-snapshot", "gone.solverstate"], "File not found: gone.solverstate"),
        (
            ["train", "-solver", "solver.prototxt", "-sigint_effect", "bad"],
            'Invalid signal effect "bad" was specified (choices: snapshot, stop, none)',
        ),
        (
            ["train", "-solver", "solver.prototxt", "-gpu", "zero"],
            "-gpu zero: expected device IDs separated by ',', or all",
        ),
        (
            ["train", "-solver", "solver.prototxt", "-precision", "half"],
            "-precision half: expected one of float32, tf32, bf16",
        ),
        (
            ["train", "-solver", "solver.prototxt", "-executor", "fast"],
            "-executor fast: expected one of auto, plain, compiled",
        ),
        (
            ["train", "-solver", "solver.prototxt", "-threads=-1"],
            "-threads -1: expected 1 or more, or 0 for PyTorch's choice",
        ),
        (["test", "-model", "net.prototxt"], "Need model weights to score."),
        (["test", "-weights", "x"], "Need a model definition to score."),
        (
            ["test", "-model", "net.prototxt", "-weights", "gone.caffemodel"],
            "Couldn't open gone.caffemodel (No such file or directory)",
        ),
        (["time"], "Need a model definition to time."),
        (["time", "-model", "gone"], "File not found: gone"),
        (["time", "-model", "net.prototxt", "-phase", "train"], 'phase must be "TRAIN" or "TEST"'),
    ],
)
def test_a_mistake_is_one_fatal_line(caffe: Caffe, folder: Path, arguments: list[str], sentence: str) -> None:
    """A user's mistake ends with Caffe's sentence in one F line and status 1: no trace, nothing on stdout."""
    outcome = caffe(*arguments)
    assert outcome.status == 1 and outcome.out == ""
    assert outcome.fatal() == sentence


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"InnerProduct"', '"InnerProdukt"', "layer 'ip': Unknown layer type: InnerProdukt (known types: "),
        (
            'source: "db"',
            'source: "gone"',
            "layer 'data': gone: Check failed: mdb_status == 0 (2 vs. 0) No such file or directory",
        ),
        ('bottom: "data"', 'bottom: "dada"', "Unknown bottom blob 'dada' (layer 'ip', bottom index 0)"),
    ],
)
def test_a_net_mistake_names_file_and_layer(caffe: Caffe, folder: Path, old: str, new: str, sentence: str) -> None:
    """What is wrong inside a net is said with the file and the layer before Caffe's sentence."""
    Path("net.prototxt").write_text(NET.replace(old, new))
    outcome = caffe("train", "-solver", "solver.prototxt")
    place, found, rest = outcome.fatal().partition(sentence)
    assert outcome.status == 1 and found and "net.prototxt: " in place
    assert not rest or sentence.endswith("(known types: ")


def test_training_logs_as_caffe_does_and_can_go_on(caffe: Caffe, folder: Path) -> None:
    """train writes Caffe's lines in Caffe's order to stderr, nothing to stdout, and a snapshot that resumes."""
    outcome = caffe("train", "--solver=solver.prototxt", "-executor", "plain")
    assert outcome.status == 0 and outcome.out == ""
    order = [
        "Use CPU.",
        "Initializing solver from parameters: ",
        "Creating training net from net file: net.prototxt",
        "Opened lmdb db",
        "output data size: 4,1,2,2",
        "Solver scaffolding done.",
        "Starting Optimization",
        "Solving Tiny",
        "Learning Rate Policy: fixed",
        "Iteration 0, Testing net (#0)",
        "Snapshotting to binary proto file x_iter_3.caffemodel",
        "Optimization Done.",
    ]
    positions = [outcome.messages.index(message) for message in order]
    assert positions == sorted(positions)
    assert outcome.messages[-2:] == ["Optimization Done.", "Optimization Done."]
    assert '  level: 0\n  stage: ""\n' in outcome.err  # train_state, as `caffe train` always sets it
    assert [m[:17] for m in outcome.messages if re.match(r"Iteration \d \(", m)] == [
        "Iteration 0 (0 it",
        *(m[:17] for m in outcome.messages if re.match(r"Iteration [12] \(", m)),
    ]

    Path("more.prototxt").write_text(SOLVER.replace("max_iter: 3", "max_iter: 5"))
    outcome = caffe("train", "-solver", "more.prototxt", "-snapshot", "x_iter_3.solverstate", "-executor", "plain")
    assert outcome.status == 0
    assert "Resuming from x_iter_3.solverstate" in outcome.messages
    assert not any(m.startswith("Iteration 2 (") for m in outcome.messages)
    assert Path("x_iter_5.caffemodel").exists()


def test_finetuning_takes_weights_by_name(caffe: Caffe, folder: Path) -> None:
    """-weights fills train and test net; with a rate of 0 they come out as they went in."""
    assert caffe("train", "-solver", "solver.prototxt", "-executor", "plain").status == 0
    frozen = (
        SOLVER.replace("base_lr: 0.01", "base_lr: 0").replace('"x"', '"y"').replace("random_seed: 3", "random_seed: 4")
    )
    Path("solver.prototxt").write_text(frozen)
    outcome = caffe("train", "-solver", "solver.prototxt", "-weights", "x_iter_3.caffemodel", "-executor", "plain")
    assert outcome.status == 0
    assert outcome.messages.count("Finetuning from x_iter_3.caffemodel") == 2
    nets = [read_binary(f"{prefix}_iter_3.caffemodel", NetParameter) for prefix in "xy"]
    weights = [next(layer for layer in net.layer if layer.name == "ip").blobs[0].data for net in nets]
    assert list(weights[0]) == list(weights[1])


def test_testing_prints_every_batch_and_the_means(caffe: Caffe, folder: Path) -> None:
    """test: each output of each batch, the mean loss, each output's mean with its loss weight."""
    assert caffe("train", "-solver", "solver.prototxt", "-executor", "plain").status == 0
    outcome = caffe("test", "-model", "net.prototxt", "-weights", "x_iter_3.caffemodel", "-iterations", "3")
    assert outcome.status == 0 and outcome.out == ""
    start = outcome.messages.index("Running for 3 iterations.")
    lines = outcome.messages[start + 1 :]
    lines = [line for line in lines if line != "Restarting data prefetching from start."]
    names = [re.sub(r" = .*", "", line) for line in lines]
    assert names == [f"Batch {i}, {name}" for i in range(3) for name in ("accuracy", "loss")] + [
        re.sub(r" = .*", "", lines[6]),
        "accuracy",
        "loss",
    ]
    losses = [float(line.split(" = ")[1]) for line in lines[1:6:2]]
    mean = np.mean(losses)
    assert float(lines[6].removeprefix("Loss: ")) == pytest.approx(mean, rel=1e-5)
    found = re.fullmatch(r"loss = (\S+) \(\* 1 = (\S+) loss\)", lines[8])
    assert found and found[1] == found[2] and float(found[1]) == pytest.approx(mean, rel=1e-5)


def test_timing_goes_through_every_layer(caffe: Caffe, folder: Path) -> None:
    """time: one line for each iteration, two for each layer, and the sums between the benchmark marks."""
    outcome = caffe("time", "-model", "net.prototxt", "-iterations", "2", "-phase", "TRAIN")
    assert outcome.status == 0 and outcome.out == ""
    begin, end = (outcome.messages.index(f"*** Benchmark {word} ***") for word in ("begins", "ends"))
    words = [re.sub(r"[\d.e+-]+ ms\.", "T", line) for line in outcome.messages[begin + 1 : end]]
    words = [word for word in words if not word.startswith("Restarting")]
    layers = [name for name in ("data", "ip", "loss") for _ in "12"]
    assert words == [
        "Testing for 2 iterations.",
        "Iteration: 1 forward-backward time: T",
        "Iteration: 2 forward-backward time: T",
        "Average time per layer: ",
        *(f"{name:>10}\t{way}: T" for name, way in zip(layers, ["forward", "backward"] * 3, strict=True)),
        "Average Forward pass: T",
        "Average Backward pass: T",
        "Average Forward-Backward: T",
        "Total Time: T",
    ]


def test_timing_runs_every_backward_needed_or_not(caffe: Caffe, folder: Path) -> None:
    """Without a loss nothing needs to go backward; time does, and finds that Threshold cannot."""
    tail = 'layer { name: "t" type: "Threshold" bottom: "ip" top: "t" }'
    Path("threshold.prototxt").write_text(NET.replace(NET[NET.index('layer { name: "accuracy"') :], tail))
    outcome = caffe("time", "-model", "threshold.prototxt", "-iterations", "1")
    assert (outcome.status, outcome.fatal()) == (1, "Not Implemented Yet")
    assert "t does not need backward computation." in outcome.messages
    assert outcome.messages[-2] == "Testing for 1 iterations."


def test_times_are_whole_milliseconds_and_microseconds(caffe: Caffe, folder: Path) -> None:
    """On a CPU Caffe counts iterations in whole milliseconds and layers in whole microseconds."""
    outcome = caffe("time", "-model", "net.prototxt", "-iterations", "1")
    times = {
        line.split(": ")[-2]: line.split(": ")[-1].removesuffix(" ms.")
        for line in outcome.messages
        if line.endswith(" ms.")
    }
    for word in ("Average Forward-Backward", "Total Time"):
        assert times[word].isdigit()
    for word in ("Average Forward pass", "        ip\tforward"):
        assert abs(float(times[word]) * 1000 - round(float(times[word]) * 1000)) < 1e-6 * max(
            1, float(times[word]) * 1000
        )


def test_a_recurrent_layer_says_what_it_is_made_of(caffe: Caffe, folder: Path) -> None:
    """The net of its steps is in the log, as Caffe builds one: names, shared weights, no state of its own."""
    shapes = "shape { dim: 2 dim: 1 dim: 3 } shape { dim: 2 dim: 1 }"
    inputs = f'layer {{ name: "in" type: "Input" top: "x" top: "cont" input_param {{ {shapes} }} }}'
    Path("r.prototxt").write_text(
        inputs
        + 'layer { name: "r" type: "LSTM" bottom: "x" bottom: "cont" top: "h" recurrent_param { num_output: 4 } }'
    )
    found = caffe("time", "-model", "r.prototxt", "-iterations", "1").messages
    begin = found.index("Initializing net from parameters: ", found.index("Creating Layer r"))
    end = found.index("Adding parameter 0: W_xc")
    assert found[begin + 1 : begin + 4] == ["layer {", '  name: "r_"', '  type: "Input"']
    assert "Sharing parameters 'W_hc' owned by layer 'r_transform_1', param index 0" in found[begin:end]
    assert "r_unit_2 -> h_2" in found[begin:end]
    assert found[end - 3 : end] == [
        "This network produces output c_T",
        "This network produces output h_pseudoloss",
        "Network initialization done.",
    ]


def test_a_gpu_that_is_not_there(caffe: Caffe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """solver_mode: GPU alone falls back to the CPU with one warning; an explicit -gpu without a device fails."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    Path("solver.prototxt").write_text(SOLVER + "solver_mode: GPU\n")
    outcome = caffe("train", "-solver", "solver.prototxt", "-executor", "plain")
    assert outcome.status == 0 and "Use CPU." in outcome.messages
    warnings = [line for line in outcome.err.splitlines() if line.startswith("W")]
    assert len(warnings) == 1 and "solver.prototxt says solver_mode: GPU, but PyTorch" in warnings[0]
    for arguments in (
        ["train", "-solver", "solver.prototxt"],
        ["test", "-model", "net.prototxt", "-weights", "x"],
        ["time", "-model", "net.prototxt"],
        ["device_query"],
    ):
        outcome = caffe(*arguments, "-gpu", "0")
        assert outcome.status == 1 and re.fullmatch(
            r"-gpu 0: Cannot use GPU in CPU-only Caffe: check mode. \(PyTorch \S+ finds no CUDA device; "
            r"without -gpu the CPU is used\)",
            outcome.fatal(),
        )
    assert caffe("device_query").status == 0


@pytest.mark.parametrize(
    ("precision", "line"),
    [
        ("tf32", "W -precision tf32 is a mode of CUDA devices: on the CPU it is float32"),
        ("bf16", "I Precision: bf16; weights and history stay float32"),
    ],
)
def test_another_precision_is_said_once(caffe: Caffe, folder: Path, precision: str, line: str) -> None:
    """The log says what was computed in, and that a CPU has no TF32."""
    outcome = caffe("train", "-solver", "solver.prototxt", "-executor", "plain", "-precision", precision)
    assert outcome.status == 0
    said = [f"{words[0]} {words.partition('] ')[2]}" for words in outcome.err.splitlines() if "recision" in words[:90]]
    assert said == [line]


def test_log_flags_reach_the_log(caffe: Caffe, folder: Path) -> None:
    """-minloglevel silences, -log_dir keeps a file."""
    outcome = caffe("device_query", "-minloglevel", "2")
    assert (outcome.status, outcome.err) == (0, "")
    assert caffe("device_query", "-log_dir", str(folder)).status == 0
    assert "Querying GPUs " in (folder / "caffe.INFO").read_text()


def test_sigint_stops_and_snapshots(caffe: Caffe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during training: a snapshot, "Optimization stopped early.", status 0; then the old handler is back."""
    Path("solver.prototxt").write_text(SOLVER.replace("max_iter: 3", "max_iter: 100000").replace("display: 1", ""))
    before, info = signal.getsignal(signal.SIGINT), glog.info

    def interrupting(source: str, message: str) -> None:
        info(source, message)
        if message == "Iteration 3, Testing net (#0)":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(glog, "info", interrupting)
    outcome = caffe("train", "-solver", "solver.prototxt", "-executor", "plain")
    assert outcome.status == 0
    assert outcome.messages[-2:] == ["Optimization stopped early.", "Optimization Done."]
    assert "Test interrupted." in outcome.messages and Path("x_iter_3.solverstate").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_each_signal_counts_once() -> None:
    """SIGHUP is looked at before SIGINT; each is acted on once; the effects are the ones asked for."""
    with SignalHandler("stop", "snapshot") as handler:
        assert handler.action() == "none"
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGHUP)
        assert [handler.action() for _ in range(3)] == ["snapshot", "stop", "none"]
    with SignalHandler("none", "stop") as handler:
        os.kill(os.getpid(), signal.SIGINT)
        assert handler.action() == "none"
        os.kill(os.getpid(), signal.SIGHUP)
        assert handler.action() == "stop"
    with pytest.raises(CaffeError, match='Invalid signal effect "pause" was specified'):
        SignalHandler("pause", "stop")


INTERRUPTED = """
import os, signal, sys
sys.argv = ["{command}", {words}]


class Interrupt:
    def find_spec(self, name, *_):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)


sys.meta_path.insert(0, Interrupt())
signal.signal(signal.SIGINT, signal.default_int_handler)
from allconv_caffe.{place} import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("command", "place", "module"),
    [
        *(("caffe-torch", "caffe_torch.__main__", name) for name in ("numpy", "torch", "torch._C")),
        ("caffe-torch", "caffe_torch.__main__", "allconv_caffe.caffe_torch.upgrade"),
        *(("allconv", "cli.main", name) for name in ("click", "numpy", "torch", "allconv_caffe.cli.viz")),
    ],
)
def test_an_interrupt_while_modules_load_is_an_end_with_one_line(
    command: str, place: str, module: str, tmp_path: Path
) -> None:
    """Status 130, "stopped" and no trace, whichever module was just being imported."""
    solver = tmp_path / "solver.prototxt"
    solver.write_text(SOLVER_OF_NOTHING)
    words = f"'train', '-solver', {str(solver)!r}" if command == "caffe-torch" else f"'summary', {str(solver)!r}"
    code = INTERRUPTED.format(command=command, words=words, place=place, module=module)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    said = [line for line in done.stderr.splitlines() if not line.startswith("I")]
    assert (done.returncode, said) == (130, ["stopped"])
    assert "KeyboardInterrupt" not in done.stderr


@pytest.mark.parametrize(
    ("module", "name"), [("cli", "click"), ("caffe_torch", "numpy"), ("pycaffe", "numpy"), ("train.job", "numpy")]
)
def test_python_m_of_ours_is_interrupted_as_the_commands(module: str, name: str, tmp_path: Path) -> None:
    """Also while Python still looks for the module; scripts that import the package keep their KeyboardInterrupt."""
    blocked = tmp_path / name
    blocked.mkdir()
    (blocked / "__init__.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[1])])}

    def heed() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which is ignored where tests run in the background

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, preexec_fn=heed)

    done = run("-m", f"allconv_caffe.{module}", "x")
    assert (done.returncode, done.stderr) == (130, "stopped\n")
    done = run("-c", f"import allconv_caffe.interrupts, {name}")
    assert done.returncode != 130 and "KeyboardInterrupt" in done.stderr


SOLVER_OF_NOTHING = """
net_param { layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 1 } } } }
base_lr: 0.1 lr_policy: "fixed" max_iter: 1 snapshot_after_train: false
"""
