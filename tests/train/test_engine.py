"""Which engine runs a training, on which devices, and which settings it refuses."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from support.driver import Bench

from allconv_caffe import proto
from allconv_caffe.train import engine as driver_engine
from allconv_caffe.train.settings import DriverError, RunSettings


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
        (
            {"engine": "torch", "caffe_flags": ("-iterations", "5", "--bogus")},
            "-- -iterations 5 --bogus: unknown command line flag 'bogus', expected flags of `caffe-torch train`",
        ),
        (
            {"engine": "torch", "caffe_flags": ("-iterations", "x")},
            "-- -iterations x: illegal value 'x' specified for int32 flag 'iterations', expected flags of `caffe-torch train`",
        ),
        ({"engine": "torch", "caffe_flags": ("word",)}, "-- word: found word, expected flags of `caffe-torch train`"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(bench: Bench, settings: dict[str, object], text: str) -> None:
    """A setting that does not serve is named with what was expected; no folder of a run is begun."""
    with pytest.raises(DriverError) as caught:
        bench.run(**settings)
    assert not list((bench.home / "runs").rglob("settings.json"))
    assert re.fullmatch(text, str(caught.value)) if text == NO_GPU_7 else str(caught.value) == text


def test_caffe_torch_takes_the_gpus_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that PyTorch finds, one or several; where none was named, device 0."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    named = (None, "none", "1", "0,1")
    chosen = [driver_engine.choose(RunSettings(engine="torch", gpu=gpu)).gpus for gpu in named]
    assert chosen == [(0,), (), (1,), (0, 1)]
    with pytest.raises(DriverError, match=r"^GPU=0,2: PyTorch \S+ finds 2 CUDA devices, expected one of them"):
        driver_engine.choose(RunSettings(engine="torch", gpu="0,2"))


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
