"""The driver with a recording stand-in for the ``caffe`` binary: a script that writes Caffe's log and snapshots."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import signal
import stat
import sys
import time
from pathlib import Path

import pytest

from allconv_caffe import proto
from allconv_caffe.paper import experiments
from allconv_caffe.paper.errors import TableError
from allconv_caffe.report import plots, record as record_file
from allconv_caffe.report.log import TestRow, TrainRow, parse_log
from allconv_caffe.train import data as driver_data, engine as driver_engine, process, record, run as driver, snapshots
from allconv_caffe.train.settings import DriverError, RunSettings
from allconv_caffe.train.watch import DeadRule, DeadWatch, Progress, duration

ROOT = Path(__file__).resolve().parents[2]

STAND_IN = r'''
"""Trains nothing: 40 iterations of a fraction of a second that look like Caffe's. BEHAVIOUR is a JSON file by seed."""
import json, os, signal, sys, time
home = {home!r}
with open(os.path.join(home, "calls"), "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\n")
args = sys.argv[1:]
behaviour = json.load(open(os.path.join(home, "behaviour")))
sys.path.insert(0, {root!r})
from allconv_caffe import proto
flags = dict(zip(args[1::2], args[2::2]))
stopped = False
def on_int(*_):
    global stopped
    stopped = True
signal.signal(signal.SIGINT, signal.SIG_IGN if behaviour.get("deaf") else on_int)
clock = time.time()
def log(text, level="I", place="solver.cpp:239"):
    now = time.time()
    stamp = time.strftime("%m%d %H:%M:%S", time.gmtime(now)) + ".%06d" % (now % 1 * 1e6)
    sys.stderr.write(f"{{level}}{{stamp}}  4242 {{place}}] {{text}}\n"); sys.stderr.flush()
if args[0] == "test":
    log("Batch 0, accuracy = 0.5"); log("Batch 0, loss = 9")
    log("Loss: 0.7"); log("accuracy = 0.875"); log("loss = 0.7 (* 1 = 0.7 loss)"); sys.exit(0)
solver = proto.read_solver(flags["-solver"])
net = proto.read_net(solver.net)
mine = behaviour.get(str(solver.random_seed), {{}})
dead_from, nan_from, crash_at = mine.get("dead_from"), mine.get("nan_from"), mine.get("crash_at")
def snapshot(it):
    name = f"{{solver.snapshot_prefix}}_iter_{{it}}"
    model = proto.NetParameter(name=net.name)
    layer = model.layer.add(name="conv1", type="Convolution")
    for shape in ([2, 3], [2]):
        blob = layer.blobs.add(); blob.shape.dim.extend(shape); blob.data.extend([0.5] * (6 if len(shape) == 2 else 2))
    state = proto.SolverState(iter=it, learned_net=name + ".caffemodel", current_step=0)
    state.history.extend(layer.blobs)
    log(f"Snapshotting to binary proto file {{name}}.caffemodel"); proto.write_binary(name + ".caffemodel", model)
    log(f"Snapshotting solver state to binary proto file {{name}}.solverstate")
    proto.write_binary(name + ".solverstate", state)
def test(it, loss):
    if solver.test_interval and it % solver.test_interval == 0:
        log(f"Iteration {{it}}, Testing net (#0)")
        accuracy = 1 if loss != loss else 0.1 if abs(loss - 2.302585) < 1e-4 else min(0.9, 0.1 + it / 50)
        log(f"    Test net output #0: accuracy = {{accuracy:g}}")
        log(f"    Test net output #1: loss = {{loss:g}} (* 1 = {{loss:g}} loss)")
def loss_at(it):
    if nan_from is not None and it >= nan_from: return -float("nan")
    if dead_from is not None and it >= dead_from: return 2.302585
    return 2.3 / (1 + it / 5)
log("Solving x")
it = 0
if "-snapshot" in flags:
    log(f"Resuming from {{flags['-snapshot']}}")
    it = proto.read_binary(flags["-snapshot"], proto.SolverState).iter
while it < solver.max_iter:
    test(it, loss_at(it))
    if it % solver.display == 0:
        log(f"Iteration {{it}} (5 iter/s, 1s/1 iters), loss = {{loss_at(it):g}}")
        log(f"    Train net output #0: loss = {{loss_at(it):g}} (* 1 = {{loss_at(it):g}} loss)")
        log(f"Iteration {{it}}, lr = 0.05", place="sgd_solver.cpp:112")
    time.sleep(behaviour.get("sleep", 0.001))
    if crash_at == it and not os.path.exists(os.path.join(home, "crashed")):
        open(os.path.join(home, "crashed"), "w").close()
        log("Check failed: error == cudaSuccess (2 vs. 0)  out of memory", "F", "syncedmem.cpp:71"); os.abort()
    it += 1
    if stopped:
        snapshot(it); log("Optimization stopped early."); log("Optimization Done.", place="caffe.cpp:250"); sys.exit(0)
    if solver.snapshot and it % solver.snapshot == 0 and it < solver.max_iter: snapshot(it)
snapshot(it)
log(f"Iteration {{it}}, loss = {{loss_at(it):g}}")
if not mine.get("no_last_test"): test(it, loss_at(it))
log("Optimization Done."); log("Optimization Done.", place="caffe.cpp:250")
'''


SHELL = """#!/bin/sh
case "$1" in
--version) echo "caffe version 1.0.0"; exit 0 ;;
device_query) grep -q '"gpu": true' '{home}/behaviour'; exit $? ;;
esac
exec '{python}' '{script}' "$@"
"""


class Bench:
    """A project root with a prepared data set and a stand-in for caffe."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.binary = home / "gpu-build" / "caffe"
        self.binary.parent.mkdir()
        script = home / "stand_in.py"
        script.write_text(STAND_IN.format(root=str(ROOT), home=str(home)))
        self.binary.write_text(SHELL.format(home=home, python=sys.executable, script=script))
        self.binary.chmod(self.binary.stat().st_mode | stat.S_IXUSR)
        self.lines: list[str] = []
        self.behave()
        monkeypatch.setenv("CAFFE", str(self.binary))
        monkeypatch.setattr(process, "POLL_SECONDS", 0.02)
        self.curves = plots.curves
        monkeypatch.setattr(plots, "curves", lambda *_: b"drawn")
        folder = home / "data" / "cifar10"
        self.data = driver_data.PreparedData(
            folder=folder,
            train_lmdb=folder / "train_lmdb",
            test_lmdb=folder / "test_lmdb",
            display_name="CIFAR-10 (JPEG)",
            classes=10,
            n_train=1280,
            n_test=400,
            shape=(3, 32, 32),
            checksums={"train": "1f", "test": "2e"},
            official=False,
        )
        monkeypatch.setattr(driver_data, "ensure", lambda *_, **__: self.data)

    def behave(self, **behaviour: object) -> None:
        (self.home / "behaviour").write_text(json.dumps({"gpu": False, **behaviour}))

    def calls(self, verb: str = "train") -> list[list[str]]:
        lines = (self.home / "calls").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call[0] == verb]

    def run(self, experiment: str = "cifar10-allcnn-c", **settings: object) -> driver.RunResult:
        options = {"engine": "caffe", "epochs": 4, "root": self.home, **settings}
        self.lines.clear()
        return driver.run(experiment, RunSettings(**options), self.lines.append)  # type: ignore[arg-type]

    @property
    def said(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_a_run_leaves_everything_that_reproduces_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run's directory holds prototxt, settings, log, points, curves, events, snapshots and the result."""
    monkeypatch.setattr(plots, "curves", bench.curves)
    ended = bench.run()
    folder = ended.directory
    assert ended.status == "done"
    assert folder == bench.home / "runs/cifar10-allcnn-c/seed1-epochs4-caffe-cifar-10-jpeg"
    for name in ("solver.prototxt", "train_val.prototxt", "deploy.prototxt", "log", "train.csv", "test.csv"):
        assert (folder / name).stat().st_size > 0, name
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "events").glob("events.out.tfevents.*"))
    result = json.loads((folder / "result.json").read_text())
    assert record_file.read(folder / "result.json") == ended.record
    # 40 iterations of 128 images are 4 epochs of 1280; the last test sees accuracy 0.9
    expected = {
        "test_error_percent": 10.0,
        "test_iteration": 40,
        "parameters": 8,
        "seed": 1,
        "epochs": 4.0,
        "engine": "caffe",
        "dataset": "CIFAR-10 (JPEG)",
        "published_error_percent": 9.08,
        "status": "done",
        "max_iter": 40,
        "batch_size": 128,
        "device": "CPU",
    }
    assert {key: result[key] for key in expected} == expected
    assert result["seconds"] >= 0 and result["images_per_second"] > 0
    assert any(line.startswith("batch_size: 128") for line in result["assumptions"])
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["data"]["sha256"] == {"train": "1f", "test": "2e"}
    assert settings["settings"]["lr"] == 0.05 and settings["versions"]["python"]
    assert len((folder / "train.csv").read_text().splitlines()) == 1 + 5  # iterations 0, 10, 20, 30 and 40
    assert len((folder / "test.csv").read_text().splitlines()) == 1 + 5


def test_paths_in_a_run_begin_at_the_root(bench: Bench) -> None:
    """Prototxt in a run directory names data and snapshots relative to the project's root."""
    folder = bench.run().directory
    for name in ("solver.prototxt", "train_val.prototxt"):
        assert str(bench.home) not in (folder / name).read_text()
    solver = proto.read_solver(folder / "solver.prototxt")
    assert solver.snapshot_prefix == str(folder.relative_to(bench.home) / "snapshots/cifar10-allcnn-c")
    assert solver.solver_mode == proto.SolverParameter.CPU and solver.random_seed == 1


def test_a_done_run_is_not_trained_again(bench: Bench) -> None:
    """The same settings after a finished run give its result and start no engine."""
    first = bench.run()
    again = bench.run()
    assert again.record == first.record and again.directory == first.directory
    assert len(bench.calls()) == 1 and "already done" in bench.said


def test_looking_at_a_done_run_changes_nothing_of_its_record(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run's settings, versions and commit stay those it was trained with, whoever looks later."""
    folder = bench.run().directory
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}
    monkeypatch.setattr(record, "versions", lambda: {"torch": "another"})
    monkeypatch.setattr(record, "git_state", lambda folder: {"commit": "another"})
    bench.run(command="another")
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_rate_epochs_and_batch_given_as_options_are_settings(bench: Bench) -> None:
    """`--set lr=0.01` is `--lr 0.01`: the same run, and a record that says it."""
    ended = bench.run(options={"lr": 0.01, "batch_size": 64})
    assert (ended.record.lr, ended.record.batch_size, ended.record.options) == (0.01, 64, {})
    assert bench.run(lr=0.01, batch_size=64).directory == ended.directory and "already done" in bench.said


def test_what_cannot_be_run_is_said_before_the_data_are_prepared(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong option and a file in the place of the runs are found first, not after a download."""
    monkeypatch.setattr(driver_data, "ensure", lambda *_, **__: pytest.fail("data came first"))
    with pytest.raises(TableError, match="settings: option filler: found 'he', expected one of the choices"):
        bench.run(options={"filler": "he"})
    (bench.home / "runs").write_text("")
    with pytest.raises(DriverError, match="runs: found a file, expected a folder for the runs"):
        bench.run()


@pytest.mark.parametrize("text", ["[]", "{}", '{"attempts": [3]}', '{"attempts": [{"attempt": 1}]}'])
def test_a_damaged_state_is_one_line(bench: Bench, text: str) -> None:
    """state.json of another form stops the run before an engine is started."""
    folder = bench.run().directory
    (folder / "state.json").write_text(text)
    with pytest.raises(DriverError, match=r"state\.json: found (a list|no record)"):
        bench.run()
    (folder / "state.json").unlink()
    assert bench.run().status == "done" and "-snapshot" in bench.calls()[-1]


def test_other_settings_get_another_directory(bench: Bench) -> None:
    """Rate, seed, epochs, batch and data each make another run; the directory's name says which."""
    names = [bench.run(**changed).directory.name for changed in ({}, {"lr": 0.01}, {"seed": 7}, {"batch_size": 64})]
    assert names == [
        "seed1-epochs4-caffe-cifar-10-jpeg",
        "seed1-epochs4-caffe-lr0.01-cifar-10-jpeg",
        "seed7-epochs4-caffe-cifar-10-jpeg",
        "seed1-epochs4-caffe-batch64-cifar-10-jpeg",
    ]
    bench.data = driver_data.PreparedData(**{**vars(bench.data), "checksums": {"train": "other"}})
    other = bench.run().directory.name
    assert other.startswith(names[0] + "-") and other not in names
    assert bench.run().directory.name == other


def test_raw_bytes_are_trained_with_their_mean_file(bench: Bench) -> None:
    """A set of raw bytes gives the data layers its mean file; GCN alone needs none; both are named in every record."""
    mean = bench.data.folder / "mean.binaryproto"
    bench.data = dataclasses.replace(bench.data, preprocessing="raw", mean_file=mean)
    ended = bench.run()
    assert "raw bytes minus the mean image" in bench.said and "--set scale=" in bench.said
    net = proto.read_net(ended.directory / "train_val.prototxt")
    found = [layer.transform_param.mean_file for layer in net.layer if layer.type == "Data"]
    assert found == ["data/cifar10/mean.binaryproto"] * 2
    assert ended.directory.name.endswith("-raw") and ended.record.preprocessing == "raw"
    scaled = bench.run(options={"scale": 0.0078125})
    assert (
        "scale: 0.0078125" in (scaled.directory / "train_val.prototxt").read_text() and "--set scale=" not in bench.said
    )
    channels = bench.run(options={"mean_value": (104.0, 117.0, 123.0)})
    assert "mean_file" not in (channels.directory / "train_val.prototxt").read_text()
    bench.data = dataclasses.replace(bench.data, preprocessing="gcn", mean_file=None)
    plain = bench.run()
    assert "mean" not in (plain.directory / "train_val.prototxt").read_text()
    assert plain.directory.name.endswith("-gcn") and plain.record.preprocessing == "gcn"


def test_named_gpus_reach_the_users_own_build(bench: Bench) -> None:
    """GPU=0,1 is handed to Caffe as -gpu 0,1, which divides the batch of 128 into 64 on each."""
    bench.behave(gpu=True)
    ended = bench.run(gpu="0,1", caffe_flags=("-sighup_effect", "none"))
    call = bench.calls()[0]
    assert call[call.index("-gpu") + 1] == "0,1"
    assert call[-2:] == ["-sighup_effect", "none"]
    net = proto.read_net(ended.directory / "train_val.prototxt")
    assert [layer.data_param.batch_size for layer in net.layer if layer.type == "Data"] == [64, 100]
    solver = proto.read_solver(ended.directory / "solver.prototxt")
    assert (solver.max_iter, solver.solver_mode) == (40, proto.SolverParameter.GPU)
    assert ended.record.device == "2 GPU"


def test_auto_takes_a_caffe_whose_gpu_works(bench: Bench) -> None:
    """ENGINE=auto takes a real Caffe with a working GPU, names device 0, and says why."""
    bench.behave(gpu=True)
    bench.run(engine="auto")
    call = bench.calls()[0]
    assert call[call.index("-gpu") + 1] == "0"
    assert "a real Caffe with a working GPU was found" in bench.lines[0]


def test_auto_takes_caffe_torch_without_a_working_gpu(bench: Bench) -> None:
    """ENGINE=auto passes over a Caffe that has no working GPU, and says so."""
    engine = driver_engine.choose(RunSettings())
    assert engine.name == "torch"
    assert engine.command[1:] == ("-m", "allconv_caffe.caffe_torch")
    assert "has no working GPU" in engine.describe()


NO_GPU_7 = r"GPU=7: PyTorch \S+ finds \d CUDA devices, expected one of them \(choices: none.*; or ENGINE=caffe with a GPU build\)"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"engine": "tf"}, "ENGINE=tf: expected one of auto, caffe, torch"),
        ({"gpu": "all"}, "GPU=all: expected device numbers such as 0 or 0,1, or none for the CPU"),
        ({"gpu": "0,0"}, "GPU=0,0: expected each device once"),
        ({"gpu": "0,1,2"}, "GPU=0,1,2: found batch size 128, expected a multiple of 3 GPUs"),
        ({"engine": "torch", "gpu": "7"}, NO_GPU_7),
        ({"engine": "auto", "gpu": "7"}, NO_GPU_7),
        ({"epochs": 0}, "EPOCHS=0: expected a number above 0"),
        ({"seed": -1}, "SEED=-1: expected a whole number of at least 0"),
        (
            {"precision": "bf16"},
            "ENGINE=caffe: BVLC Caffe has no precision bf16 (choices: float32; or ENGINE=torch)",
        ),
        ({"options": {"random_seed": 3}}, "option random_seed: found 3, expected SEED"),
        ({"options": {"n_test": 100}}, "option n_test: found 100, expected the data set's own"),
        ({"lr": 0.1, "options": {"lr": 0.2}}, "LR=0.1: found option lr=0.2 beside it, expected one of the two"),
        ({"rng": "boost"}, "RNG=boost: expected one of torch, caffe"),
        (
            {"rng": "caffe"},
            "RNG=caffe: found ENGINE=caffe, which draws its own numbers anyway, expected caffe-torch "
            "(choices: ENGINE=torch, or no RNG)",
        ),
        (
            {"rng": "caffe", "engine": "torch", "gpu": "0"},
            "RNG=caffe: found GPU=0, expected none (on a GPU, Caffe draws from cuRAND)",
        ),
        (
            {"rng": "caffe", "engine": "auto", "precision": "bf16"},
            "RNG=caffe: found PRECISION=bf16, expected float32, the only one that Caffe has",
        ),
        (
            {"rng": "caffe", "engine": "torch", "caffe_flags": ("--executor=compiled",)},
            "RNG=caffe: found -executor compiled, expected auto or plain (compiled code draws its own numbers)",
        ),
    ],
)
def test_a_wrong_setting_is_one_clear_line(bench: Bench, settings: dict[str, object], text: str) -> None:
    """A setting that does not serve is named with what was expected."""
    with pytest.raises(DriverError) as caught:
        bench.run(**settings)
    assert re.fullmatch(text, str(caught.value)) if text == NO_GPU_7 else str(caught.value) == text


def test_caffe_torch_takes_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the devices that PyTorch finds, not several; what was not named is device 0."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [driver_engine.choose(RunSettings(engine="torch", gpu=gpu)).gpus for gpu in (None, "none", "1")] == [
        (0,),
        (),
        (1,),
    ]
    with pytest.raises(DriverError, match="^GPU=0,1: found 2 devices, expected one for caffe-torch"):
        driver_engine.choose(RunSettings(engine="torch", gpu="0,1"))


def test_seed_exact_is_a_setting_of_its_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """--rng caffe hands -seed_exact to caffe-torch on the CPU, has a run of its own and stands in its records."""
    own = driver_engine._torch
    monkeypatch.setattr(
        driver_engine, "_torch", lambda *words: dataclasses.replace(own(*words), command=(str(bench.binary),))
    )
    plain = bench.run(engine="torch", gpu="none")
    ended = bench.run(engine="auto", rng="caffe")
    calls = bench.calls()
    assert [call.count("-seed_exact") for call in calls] == [0, 1] and "-gpu" not in calls[1]
    assert "it draws BVLC Caffe's random numbers on a CPU" in bench.lines[0]
    assert ended.directory.name == "seed1-epochs4-torch-rngcaffe-cifar-10-jpeg" != plain.directory.name
    records = [json.loads((run.directory / "settings.json").read_text()) for run in (plain, ended)]
    assert [record["settings"]["rng"] for record in records] == ["torch", "caffe"]
    assert records[0]["identity"] != records[1]["identity"]
    assert (plain.record.rng, ended.record.rng) == ("torch", "caffe")
    assert bench.run(engine="torch", rng="caffe").directory == ended.directory


def test_a_crash_is_told_in_the_engines_words_and_the_next_run_goes_on(bench: Bench) -> None:
    """After an engine's fatal error the same command continues from the last snapshot and appends to the log."""
    bench.behave(**{"1": {"crash_at": 25}})
    with pytest.raises(DriverError, match="the engine failed: Check failed: error == cudaSuccess"):
        bench.run()
    ended = bench.run()
    assert ended.status == "done" and ended.record.resumed == 1
    call = bench.calls()[1]
    assert call[call.index("-snapshot") + 1].endswith("_iter_20.solverstate")
    log = parse_log(ended.directory / "log")
    assert log.sessions == 2
    assert [row.iteration for row in log.train] == [0, 10, 20, 30, 40]
    assert [row.session for row in log.train] == [1, 1, 2, 2, 2]


def test_a_broken_newest_snapshot_is_passed_over(bench: Bench) -> None:
    """Resuming takes the newest state that is whole and whose caffemodel exists, and says which it passed over."""
    bench.behave(**{"1": {"crash_at": 35}})
    with pytest.raises(DriverError):
        bench.run()
    folder = bench.home / "runs/cifar10-allcnn-c/seed1-epochs4-caffe-cifar-10-jpeg/snapshots"
    newest = folder / "cifar10-allcnn-c_iter_30.solverstate"
    newest.write_bytes(newest.read_bytes()[:-3])
    bench.run()
    assert bench.calls()[1][-1].endswith("_iter_20.solverstate")
    assert f"snapshot {newest} is passed over" in bench.said


def test_a_snapshot_needs_its_caffemodel_and_all_its_histories(tmp_path: Path) -> None:
    """A state without its weights, of another iteration, or with histories missing does not count."""
    net = proto.NetParameter()
    for _ in range(2):
        net.layer.add().blobs.add().data.append(1.0)
    said: list[str] = []

    def save(iteration: int, histories: int, claims: int | None = None) -> Path:
        state = proto.SolverState(iter=iteration if claims is None else claims)
        for _ in range(histories):
            state.history.add().data.append(0.0)
        base = tmp_path / f"x_iter_{iteration}"
        proto.write_binary(base.with_suffix(".solverstate"), state)
        proto.write_binary(base.with_suffix(".caffemodel"), net)
        return base

    save(5, 2)
    save(6, 4)  # Adam keeps two for each blob
    save(7, 1)
    save(8, 2, claims=3)
    save(9, 2).with_suffix(".caffemodel").unlink()
    found = snapshots.newest_snapshot(tmp_path / "x", said.append)
    assert found == (tmp_path / "x_iter_6.solverstate", 6)
    assert [line.rsplit(": ", 1)[-1] for line in said] == [
        "x_iter_9.caffemodel is missing",
        "it holds iteration 3",
        "truncated",
    ]


def test_a_missing_last_test_is_made_up_for(bench: Bench) -> None:
    """Where the log has no test of the last iteration, `caffe test` tests the final weights on all images."""
    bench.behave(**{"1": {"no_last_test": True}})
    ended = bench.run()
    (call,) = bench.calls("test")
    assert call[call.index("-iterations") + 1] == "4"  # 4 x 100 = 400 test images
    assert call[call.index("-weights") + 1].endswith("_iter_40.caffemodel")
    assert ended.record.test_error_percent == 12.5 and ended.record.test_iteration == 40


def test_a_dead_training_begins_again_with_the_next_seed(bench: Bench) -> None:
    """With retries left, a dead attempt is kept under attempt-1/ and the next seed is trained; both stay on record."""
    bench.behave(**{"1": {"dead_from": 0}, "2": {"nan_from": 12}, "sleep": 0.005})
    ended = bench.run(retries=2, epochs=16)
    assert ended.status == "done" and ended.record.seed == 3
    assert [(entry["seed"], entry["status"]) for entry in ended.record.attempts] == [
        (1, "dead"),
        (2, "dead"),
        (3, "done"),
    ]
    first, second = (entry["why"] for entry in ended.record.attempts[:2])
    assert "still at ln(10) = 2.30259" in first
    assert "not a number" in second
    for number in (1, 2):
        assert (ended.directory / f"attempt-{number}" / "log").exists()
    assert "2.30258" not in (ended.directory / "log").read_text()
    assert "DEAD: " in bench.said and "beginning again, seed 2" in bench.said


def test_a_dead_training_without_retries_ends_and_says_so(bench: Bench) -> None:
    """Without retries a dead training is ended early, and running it again says how to go on instead of training."""
    bench.behave(**{"1": {"nan_from": 5}, "sleep": 0.005})
    ended = bench.run(epochs=16)
    assert ended.status == "dead"
    assert ended.record.test_error_percent is None or ended.record.test_error_percent > 80
    assert "RETRIES=1 begins again with seed 2" in bench.said
    assert bench.run(epochs=16).status == "dead" and len(bench.calls()) == 1
    assert bench.run(epochs=16, retries=1).record.seed == 2


def test_nan_is_never_reported_as_a_perfect_result(bench: Bench) -> None:
    """Caffe logs accuracy 1 on NaN outputs; a training let run to its end on NaN has no test error."""
    bench.behave(**{"1": {"nan_from": 5}})
    ended = bench.run(stop_dead=False)
    assert ended.status == "done"
    assert parse_log(ended.directory / "log").test[-1].outputs["accuracy"] == 1
    assert ended.record.test_error_percent is None
    assert ended.record.best_on_test["iteration"] == 0


class Running:
    """A driver in a process of its own (forked: it has everything imported), to send signals to."""

    def __init__(self, bench: Bench, **settings: object) -> None:
        self._said = bench.home / "said"
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            with self._said.open("w", buffering=1) as file:
                options = {"engine": "caffe", "root": bench.home, "epochs": 40, **settings}
                result = driver.run("cifar10-allcnn-c", RunSettings(**options), lambda line: print(line, file=file))  # type: ignore[arg-type]
                print("status", result.status, file=file)
            status = 0
        finally:
            os._exit(status)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def alive(self) -> bool:
        return os.waitpid(self.pid, os.WNOHANG)[0] == 0

    def output(self) -> str:
        """What it said, when it has ended."""
        for _ in range(1200):
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return self._said.read_text()
            time.sleep(0.05)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(f"the driver did not end: {self._said.read_text()}")


def _wait_for(bench: Bench, text: str) -> Path:
    for _ in range(600):
        for log in bench.home.glob("runs/*/*/log"):
            if text in log.read_text():
                return log
        time.sleep(0.05)
    raise AssertionError(f"{text!r} never came")


def test_ctrl_c_snapshots_and_the_same_command_goes_on(bench: Bench) -> None:
    """The first SIGINT reaches the engine once; it snapshots, and the same command goes on from there."""
    bench.behave(sleep=0.02)
    running = Running(bench, command="make cifar10-allcnn-c EPOCHS=40")
    log = _wait_for(bench, "Iteration 20, lr")
    running.send_signal(signal.SIGINT)
    output = running.output()
    assert "status interrupted" in output
    assert "to go on, run again: make cifar10-allcnn-c EPOCHS=40" in output
    assert log.read_text().count("Optimization stopped early.") == 1
    stopped_at = max(int(path.stem.rsplit("_", 1)[1]) for path in log.parent.glob("snapshots/*.solverstate"))
    bench.behave()
    ended = bench.run(epochs=40)
    assert f"continuing from iteration {stopped_at} of 400" in bench.said
    assert ended.status == "done" and ended.directory == log.parent


def test_a_second_ctrl_c_kills(bench: Bench) -> None:
    """An engine that does not listen is killed by the second SIGINT, and the run can still go on later."""
    bench.behave(sleep=0.05, deaf=True)
    running = Running(bench)
    log = _wait_for(bench, "Iteration 10, lr")
    running.send_signal(signal.SIGINT)
    time.sleep(0.6)
    assert running.alive()
    running.send_signal(signal.SIGINT)
    output = running.output()
    assert "status interrupted" in output and "killed" in output
    assert "stopped early" not in log.read_text()


def test_two_drivers_do_not_share_a_run(bench: Bench) -> None:
    """A run directory that another driver or its engine works in is refused."""
    bench.behave(sleep=0.05)
    running = Running(bench)
    try:
        _wait_for(bench, "Iteration 0, lr")
        with pytest.raises(DriverError, match="found another training at work in it"):
            bench.run(epochs=40)
    finally:
        running.send_signal(signal.SIGINT)
        running.output()


def test_an_engine_that_outlives_its_driver_keeps_the_run(bench: Bench) -> None:
    """Where the driver was killed but its engine trains on, the run stays refused, and the engine's process is named."""
    bench.behave(sleep=0.05)
    running = Running(bench)
    log = _wait_for(bench, "Iteration 0, lr")
    running.send_signal(signal.SIGKILL)
    running.output()
    with pytest.raises(DriverError) as caught:
        bench.run(epochs=40)
    engine = int((log.parent / ".lock").read_text())
    assert f"found another training at work in it (engine: process {engine})" in str(caught.value)
    os.kill(engine, signal.SIGINT)
    for _ in range(200):
        if "stopped early" in log.read_text():
            break
        time.sleep(0.05)
    bench.behave()
    time.sleep(0.3)
    assert bench.run(epochs=40).status == "done"


def test_without_data_and_network_one_line_names_the_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data and no way to get any: one line that names CIFAR10= and make quickstart."""
    from data_prep import download
    from data_prep.errors import PrepError

    def no_network(name: str, *_: object, **__: object) -> Path:
        raise PrepError(name, "no connection", "a network, or a local copy")

    monkeypatch.setattr(download, "download", no_network)
    settings = RunSettings(engine="torch", gpu="none", root=tmp_path)
    with pytest.raises(DriverError) as caught:
        driver.run("cifar10-allcnn-c", settings, lambda _: None)
    text = str(caught.value)
    assert "CIFAR10=path" in text and "`make quickstart`" in text and "\n" not in text


def test_a_missing_local_archive_is_named(tmp_path: Path) -> None:
    """CIFAR100=path that does not exist is an error that repeats the path."""
    settings = RunSettings(engine="torch", gpu="none", root=tmp_path, data=tmp_path / "none.tar.gz")
    with pytest.raises(DriverError, match=r"^CIFAR100=.*none\.tar\.gz: found nothing there"):
        driver.run("cifar100-allcnn-c", settings, lambda _: None)


def test_a_home_folder_is_found_as_make_hands_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make cifar10-model-a CIFAR10=~/x.tar.gz` means the home folder in every shell."""
    monkeypatch.setenv("HOME", str(tmp_path))
    chosen = experiments.experiment("cifar10-model-a")
    (tmp_path / "x.tar.gz").write_bytes(b"none")
    with pytest.raises(DriverError, match=f"{tmp_path}/x.tar.gz: found no readable archive"):
        driver_data.ensure(chosen, Path("~/x.tar.gz"), tmp_path, lambda line: None)
    for path in ("~/y.tar.gz", "~nobody-of-that-name/y"):
        with pytest.raises(DriverError, match="found nothing there, expected an archive"):
            driver_data.ensure(chosen, Path(path), tmp_path, lambda line: None)


# ---------------------------------------------------------------------------------------------------------------------
# The rule for dead trainings

RULE = DeadRule(classes=10, n_test=10_000, epoch_iters=400, max_iter=100_000)


def _judge(losses: list[tuple[int, float]], rule: DeadRule = RULE) -> str | None:
    watch = DeadWatch(rule)
    for iteration, loss in losses:
        if why := watch.train(TrainRow(iteration, loss)):
            return why
    return None


def test_a_loss_at_ln_classes_is_dead_after_three_epochs() -> None:
    """ln(10) = 2.302585 is judged at iteration 1200 = 3 epochs of 400, not before."""
    flat = [(iteration, 2.302585) for iteration in range(0, 4000, 100)]
    assert RULE.patience_iters == 1200
    assert _judge(flat[:12]) is None
    assert "at iteration 1200 (epoch 3.00): still at ln(10)" in str(_judge(flat))


def test_a_slow_start_is_not_dead() -> None:
    """A training that has left the plateau by a hundredth is alive, and so is one that is noisy around it at first."""
    noise = [(iteration, 2.3026 + 0.001 * (-1) ** (iteration // 100)) for iteration in range(0, 1200, 100)]
    assert _judge(noise + [(iteration, 2.292) for iteration in range(1200, 8000, 100)]) is None


def test_a_training_that_dies_late_is_noticed() -> None:
    """The rule is judged at every later loss too."""
    alive = [(iteration, 0.7) for iteration in range(0, 20_000, 100)]
    dead = [(iteration, math.log(10)) for iteration in range(20_000, 20_500, 100)]
    assert "at iteration 20200" in str(_judge(alive + dead))


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 87.3365])
def test_an_impossible_loss_is_dead_at_once(loss: float) -> None:
    """NaN, infinity and 87.3365 (Caffe's overflowed softmax) need no patience."""
    assert _judge([(0, 2.3), (100, loss)])


def test_a_diverged_loss_is_dead_after_the_patience() -> None:
    """A loss above 2 ln(10) = 4.605 is forgiven in the beginning only."""
    assert "diverged" in str(_judge([(iteration, 9.0) for iteration in range(0, 1300, 100)]))
    assert _judge([(iteration, 9.0) for iteration in range(0, 1200, 100)]) is None


def test_three_tests_at_chance_are_dead() -> None:
    """Guessing gets 10 % +- 0.3 % of 10,000 images right: three tests in a row below 11.2 % are no success."""
    watch = DeadWatch(RULE)
    assert RULE.chance_accuracy == pytest.approx(0.112)

    def test(iteration: int, accuracy: float, loss: float = 2.29) -> str | None:
        return watch.test(TestRow(iteration, outputs={"accuracy": accuracy, "loss": loss}))

    assert [test(400, 0.1), test(800, 0.1), test(1200, 0.1), test(1600, 0.13), test(2000, 0.1), test(2400, 0.0)] == [
        None
    ] * 6
    assert "no better than chance (10 %)" in str(test(2800, 0.1))
    assert "not a number" in str(test(3200, 1.0, float("nan")))


def test_a_net_whose_outputs_are_all_zero_is_dead_at_once() -> None:
    """Accuracy 0 (Caffe counts ties as wrong) beside a loss of ln(10) = 2.30259 needs no patience."""

    def judge(iteration: int, accuracy: float, loss: float) -> str | None:
        return DeadWatch(RULE).test(TestRow(iteration, outputs={"accuracy": accuracy, "loss": loss}))

    assert "all outputs are equal" in str(judge(400, 0.0, 2.30259))
    assert [judge(0, 0.0, 2.30259), judge(400, 0.0, 2.301), judge(400, 0.1, 2.30259)] == [None] * 3


def test_small_data_sets_get_more_epochs() -> None:
    """Three epochs of 12 iterations are too short to judge: the patience is 1000 iterations, or half of all."""
    assert DeadRule(classes=10, n_test=100, epoch_iters=12, max_iter=100_000).patience_iters == 1000
    assert DeadRule(classes=10, n_test=100, epoch_iters=12, max_iter=600).patience_iters == 300


def test_progress_without_a_terminal_is_a_line_for_each_test() -> None:
    """Without a terminal a test prints one plain line with iteration, loss and error."""
    lines: list[str] = []
    with open(os.devnull, "w") as stream:
        progress = Progress(1000, 0, 128, 100.0, lines.append, stream)
        progress.train(TrainRow(0, 2.3))
        progress.train(TrainRow(100, 1.5))
        progress.test(TestRow(100, outputs={"accuracy": 0.4, "loss": 1.6}))
        progress.close()
    assert len(lines) == 1
    assert lines[0].startswith("iteration 100 of 1000 (epoch 1.00): loss 1.5, test error 60.00 %")


def test_progress_on_a_terminal_is_a_bar_with_loss_error_speed_and_time_left() -> None:
    """On a terminal, also one that does not know its width, a bar shows where the training is."""
    main, terminal = os.openpty()
    try:
        with open(terminal, "w", closefd=False) as stream:
            progress = Progress(1000, 0, 128, 100.0, lambda line: None, stream)
            progress.train(TrainRow(0, 2.3))
            progress.train(TrainRow(100, 1.5))
            progress.test(TestRow(100, outputs={"accuracy": 0.4, "loss": 1.6}))
            progress.close()
        os.close(terminal)
        shown = ""
        with contextlib.suppress(OSError):  # EIO: nothing more will come; a read may give a part of what was written
            while part := os.read(main, 65536):
                shown += part.decode()
        shown = shown.splitlines()[-1]
    finally:
        os.close(main)
    last = shown.split("\r")[-1]
    assert re.search(r"10%.*100/1000 \[.*<.*loss 1\.5, test error 60\.00 %, [\d,]+ images/s", last)


def test_durations_read_as_clocks() -> None:
    """3723 seconds are one hour, two minutes and three seconds."""
    assert duration(3723) == "1:02:03"
