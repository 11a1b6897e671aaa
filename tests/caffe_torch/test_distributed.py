"""Several solvers, one training: how records are dealt out, what processes agree on, how they end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
import pytest

from allconv_caffe.caffe_torch.__main__ import main as caffe_torch
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.executor import distributed
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.source.loaded import forget_loaded
from allconv_caffe.caffe_torch.source.share import Share
from allconv_caffe.proto import TEST, TRAIN, Datum, NetParameter, SolverState, parse_text, read_binary

ROOT = Path(__file__).resolve().parents[2]
RECORDS = 11


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `lmdb` and `rows.h5`: 11 records, 1 x 2 x 2 bytes of their own number, which is the label."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with lmdb.open("lmdb", map_size=1 << 22) as env, env.begin(write=True) as txn:
        for i in range(RECORDS):
            datum = Datum(channels=1, height=2, width=2, label=i, data=bytes([i]) * 4)
            txn.put(b"%05d" % i, datum.SerializeToString())
    numbers = np.arange(RECORDS, dtype=np.float32)
    for name, part in (("a.h5", numbers[:4]), ("b.h5", numbers[4:])):
        with h5py.File(name, "w") as file:
            file["data"], file["label"] = part[:, None, None, None] * np.ones((1, 1, 2, 2), np.float32), part
    Path("list.txt").write_text("a.h5\nb.h5\n")
    forget_loaded()
    return tmp_path


# dealing
DATA = 'layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "lmdb" batch_size: 3 backend: LMDB } }'
HDF5 = (
    'layer { name: "d" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "list.txt" batch_size: 3 } }'
)
AUGMENTED = """layer { name: "d" type: "Python" top: "data" top: "label" python_param { layer: "AugmentedData"
  module: "allconv_caffe.python_layers" param_str: '{"source": "lmdb", "batch_size": 3, "size": 4}' } }"""


def labels(text: str, share: Share, batches: int, phase: int = TRAIN) -> list[int]:
    """The batches' labels, as solver `share.rank` of `share.count` is served them; images must say the same."""
    net = Net(parse_text(text, NetParameter), Context(phase=phase, share=share))
    found: list[int] = []
    for _ in range(batches):
        net.forward()
        batch = net.blobs["label"].data.tolist()
        if "AugmentedData" not in text:
            assert net.blobs["data"].data[:, 0, 0, 0].tolist() == batch
        found += [int(label) for label in batch]
    return found


@pytest.mark.parametrize("count", [2, 3, 12])
@pytest.mark.parametrize("kind", ["memory", "stream", "hdf5"])
def test_solver_r_of_n_takes_every_nth_record_from_r_on(kind: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The j-th record of solver r is record r + j N, counted on over the end of the data set. Source: DataLayer::Skip."""
    monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", "0" if kind == "stream" else "8")
    for rank in range(count):
        found = labels(HDF5 if kind == "hdf5" else DATA, Share(count, rank), 9)
        assert found == [(rank + j * count) % RECORDS for j in range(27)]


def test_augmented_samples_are_dealt_out_likewise() -> None:
    """Batches of two solvers laid together are those of one whose batch is twice as large, for the seed that both know."""
    one = labels(AUGMENTED.replace('"batch_size": 3', '"batch_size": 6, "seed": 5'), Share(), 5)
    for rank in range(2):
        assert labels(AUGMENTED, Share(2, rank, seed=5), 5) == one[rank::2]
    with pytest.raises(CaffeError, match="found no seed, expected one: 2 solvers share the records"):
        labels(AUGMENTED, Share(2, 0), 1)


@pytest.mark.parametrize("text", [DATA, HDF5, AUGMENTED])
def test_the_root_tests_on_all_records(text: str) -> None:
    """In the TEST phase nothing is dealt out: only the root tests."""
    assert labels(text, Share(2, 0), 2, TEST) == [0, 1, 2, 3, 4, 5]


def test_the_position_is_that_of_all_solvers_together() -> None:
    """Two batches of three by two solvers: record 12 is next, record 1 of the second round; set, it goes on there."""
    net = Net(parse_text(DATA, NetParameter), Context(phase=TRAIN, share=Share(2, 1)))
    layer: Any = net.layers[0]
    net.forward()
    net.forward()
    assert layer.data_position == 1
    layer.data_position = 4
    net.forward()
    assert net.blobs["label"].data.tolist() == [5, 7, 9]


# the environment
def test_a_process_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torchrun's variables; one process of one is alone; nonsense is refused with what was found."""
    assert distributed.place() is None
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert distributed.place() == distributed.Place(3, 4, 1)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(CaffeError) as caught:
        distributed.place()
    assert str(caught.value) == (
        "found RANK='3' WORLD_SIZE='3' LOCAL_RANK='1' in the environment, expected numbers as torchrun sets them, "
        "0 <= RANK < WORLD_SIZE"
    )
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert distributed.place() is None


def test_a_list_of_gpus_is_refused_where_there_are_none(capfd: pytest.CaptureFixture[str]) -> None:
    """-gpu 0,1 without CUDA: one line, before any process is started."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there are GPUs here")
    Path("solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed"')
    assert caffe_torch(["train", "-solver", "solver.prototxt", "-gpu", "0,1"]) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("F")]
    assert len(lines) == 1 and "-gpu 0: Cannot use GPU in CPU-only Caffe" in lines[0]


# trainings
ACTOR = '''
import os, signal
import caffe


class Actor(caffe.Layer):
    """Passes its bottom on; at the iteration and in the solver that its param_str names, does what that says."""

    def setup(self, bottom, top):
        self.passes = 0

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data
        what, rank, when = self.param_str.split()
        self.passes += 1
        if os.environ.get("RANK") == rank and self.passes == int(when):
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "stop":
                os.kill(os.getppid(), signal.SIGINT)
            if what == "fail":
                raise RuntimeError("out of coffee")

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff
'''
NET = """name: "small"
layer {{ name: "data" type: "Data" top: "data" top: "label" transform_param {{ scale: 0.1 }}
  data_param {{ source: "lmdb" batch_size: {batch} backend: LMDB }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {{ num_output: 4 kernel_size: 2
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "act" type: "Python" bottom: "conv" top: "act" include {{ phase: TRAIN }} python_param {{ module: "actor"
  layer: "Actor" param_str: "{act}" }} }}
layer {{ name: "same" type: "Power" bottom: "conv" top: "act" include {{ phase: TEST }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "act" top: "ip" inner_product_param {{ num_output: 11
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""


def write(name: str, batch: int, act: str = "nothing 0 0", **more: Any) -> str:
    """A solver file for NET, snapshots called `name`."""
    Path("actor.py").write_text(ACTOR)
    Path(f"{name}_net.prototxt").write_text(NET.format(batch=batch, act=act))
    lines = {"max_iter": 12, "snapshot": 6, "test_interval": 6, **more}
    Path(f"{name}.prototxt").write_text(
        f'net: "{name}_net.prototxt" snapshot_prefix: "{name}" base_lr: 0.1 momentum: 0.9 weight_decay: 0.01 test_iter: 2 '
        f'lr_policy: "fixed" display: 1 random_seed: 3 clip_gradients: 0.5 iter_size: 2 '
        + " ".join(f"{key}: {value}" for key, value in lines.items())
    )
    return f"{name}.prototxt"


def environment() -> dict[str, str]:
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path.cwd()}", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Launched:
    status: int
    err: str

    @property
    def fatal(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("F")]


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Launched]:
    """`distributed.launch`, as ``-gpu 0,1`` calls it."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)

    def call(count: int, *arguments: str) -> Launched:
        capfd.readouterr()
        status = distributed.launch(["train", *arguments, "-executor", "plain"], count)
        return Launched(status, capfd.readouterr().err)

    return call


def learned(path: str) -> list[np.ndarray]:
    """Weights and history at a snapshot."""
    net, state = read_binary(path + ".caffemodel", NetParameter), read_binary(path + ".solverstate", SolverState)
    blobs = [blob for layer in net.layer for blob in layer.blobs]
    return [np.array(blob.data, np.float32) for blob in [*blobs, *state.history]]


def largest_difference(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def test_two_solvers_of_batch_b_take_the_steps_of_one_of_2b(
    launch: Callable[..., Launched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and history after 6, 12 and, taken up again at 6, 12 iterations: equal to 1e-6; the root alone speaks."""
    monkeypatch.syspath_prepend(str(Path.cwd()))
    assert caffe_torch(["train", "-solver", write("one", 6)]) == 0
    done = launch(2, "-solver", write("two", 3))
    assert done.status == 0, done.err[-3000:]
    for iteration in (6, 12):
        assert largest_difference(learned(f"one_iter_{iteration}"), learned(f"two_iter_{iteration}")) < 1e-6
    assert np.abs(learned("two_iter_12")[0] - learned("two_iter_6")[0]).max() > 1e-3
    for line in ("Iteration 3 (", "Testing net (#0)", "Snapshotting to binary proto file two_iter_6", "Solver 0 of 2"):
        assert done.err.count(line) == (3 if line.startswith("Testing") else 1)
    assert "Solver 1 of 2" not in done.err
    Path("two_iter_12.caffemodel").unlink()
    assert caffe_torch(["train", "-solver", "one.prototxt", "-snapshot", "one_iter_6.solverstate"]) == 0
    done = launch(2, "-solver", "two.prototxt", "-snapshot", "two_iter_6.solverstate")
    assert done.status == 0, done.err[-3000:]
    assert largest_difference(learned("one_iter_12"), learned("two_iter_12")) < 1e-6


@pytest.mark.parametrize(("rank", "count"), [(1, 3), (0, 2)])
def test_a_killed_solver_ends_all_with_one_line(rank: int, count: int, launch: Callable[..., Launched]) -> None:
    """SIGKILL at iteration 9 (two passes each): status 1, one F line that says which; what was saved before is there."""
    done = launch(count, "-solver", write("k", 2, f"kill {rank} 17"))
    (fatal,) = done.fatal
    assert done.status == 1 and "Traceback" not in done.err
    assert f"Solver {rank} of {count} (process " in fatal and fatal.endswith(
        ") was ended by SIGKILL: training ended, it can go on from its last snapshot"
    )
    assert Path("k_iter_6.solverstate").exists() and not Path("k_iter_12.solverstate").exists()


def test_a_mistake_is_said_once(launch: Callable[..., Launched]) -> None:
    """One that all would make, by the root; one solver's own, by that one."""
    Path("s.prototxt").write_text('net: "none.prototxt" base_lr: 0.1 lr_policy: "fixed"')
    for solver, sentence in (("s.prototxt", "none.prototxt"), (write("f", 3, "fail 1 3"), "out of coffee")):
        done = launch(2, "-solver", solver)
        (fatal,) = done.fatal
        assert done.status == 1 and sentence in fatal


def test_a_signal_to_the_launcher_stops_all_after_one_iteration(launch: Callable[..., Launched]) -> None:
    """SIGINT in iteration 5: the root stops, all others with it, and the state is saved."""
    done = launch(2, "-solver", write("i", 3, "stop 1 9", max_iter=5000, test_interval=5000, snapshot=5000))
    assert done.status == 0, done.err[-2000:]
    assert "Optimization stopped early." in done.err
    (last,) = Path().glob("i_iter_*.solverstate")  # wherever it stopped
    assert int(last.stem.split("_")[2]) < 4000


@pytest.mark.slow
def test_torchrun_compiles_the_mean_into_the_iteration() -> None:
    """The compiled executor under torchrun: the weights of one process that runs layer by layer, to 1e-5."""
    for name, batch in (("one", 6), ("two", 3)):
        write(name, batch)
        net, solver = Path(f"{name}_net.prototxt"), Path(f"{name}.prototxt")
        begin, end = NET.index('layer {{ name: "act"'), NET.index('layer {{ name: "ip"')
        net.write_text(
            (NET[:begin] + NET[end:]).replace('"act"', '"conv"').format(batch=batch)
        )  # all of it can be compiled
        solver.write_text(solver.read_text().replace("iter_size: 2", "iter_size: 1"))  # the update is part of the graph
    assert caffe_torch(["train", "-solver", "one.prototxt", "-executor", "plain"]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [*torchrun, "allconv_caffe.caffe_torch", "train", "-solver", "two.prototxt", "-executor", "compiled"]
    done = subprocess.run(command, env={**os.environ, **environment()}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Executor: compiled" in done.stderr
    assert largest_difference(learned("one_iter_12"), learned("two_iter_12")) < 1e-5
