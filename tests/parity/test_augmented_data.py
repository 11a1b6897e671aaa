"""AugmentedData in a real pycaffe (Python 3.9, numpy 1.19) and in ours: the same samples, the same images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from allconv_caffe.bvlc import find as bvlc
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import TEST, TRAIN, Datum, NetParameter, parse_text

ROOT = Path(__file__).parents[2]
LAYER = """layer {{ name: "data" type: "Python" top: "data" top: "label"
  python_param {{ module: "allconv_caffe.python_layers" layer: "AugmentedData" param_str: '{text}' }} }}
"""
SCRIPT = """
import sys
import numpy as np
import caffe
for name, phase, count, rank in (("train", 0, 1, 0), ("test", 1, 1, 0), ("second", 0, 2, 1)):
    caffe.set_solver_count(count)
    caffe.set_solver_rank(rank)
    caffe.set_multiprocess(count > 1)  # otherwise it refuses a Python layer in company
    net = caffe.Net(sys.argv[1] + "/net.prototxt", phase)
    batches = []
    for _ in range(6):
        net.forward()
        batches.append((net.blobs["data"].data.copy(), net.blobs["label"].data.copy()))
    np.savez(sys.argv[1] + "/" + name + ".npz", data=[b[0] for b in batches], label=[b[1] for b in batches])
"""


def environment() -> dict[str, str]:
    caffe = bvlc.find_caffe(ROOT)
    assert caffe is not None
    return {**os.environ, **caffe.environment(), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def records(tmp_path: Path) -> str:
    """An LMDB of 23 records, 3 x 32 x 32 bytes of noise, labels 0 to 22."""
    rng = np.random.default_rng(8)
    with lmdb.open(str(tmp_path / "lmdb"), map_size=1 << 24) as env, env.begin(write=True) as txn:
        for i in range(23):
            datum = Datum(channels=3, height=32, width=32, label=i, data=rng.bytes(3072))
            txn.put(b"%05d" % i, datum.SerializeToString())
    return str(tmp_path / "lmdb")


@pytest.mark.parametrize("more", [{}, {"colour_form": "linear"}, {"graham": True}])
def test_real_pycaffe_serves_the_same_images(tmp_path: Path, records: str, more: dict[str, Any]) -> None:
    """Six batches of five for a seed: equal labels, fields within a grey level; and solver 1 of 2 has every second sample."""
    text = json.dumps({"source": records, "batch_size": 5, "seed": 17, **more})
    (tmp_path / "net.prototxt").write_text(LAYER.format(text=text))
    caffe = bvlc.find_caffe(ROOT)
    assert caffe is not None and caffe.python is not None
    done = subprocess.run(
        [str(caffe.python), "-c", SCRIPT, str(tmp_path)], env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {name: np.load(tmp_path / f"{name}.npz") for name in ("train", "test", "second")}
    for name, phase in (("train", TRAIN), ("test", TEST)):
        net = Net(parse_text((tmp_path / "net.prototxt").read_text(), NetParameter), Context(phase=phase))
        for fields, labels in zip(found[name]["data"], found[name]["label"], strict=True):
            net.forward()
            assert net.blobs["label"].data.tolist() == labels.tolist()
            off = np.abs(net.blobs["data"].data.numpy() - fields) * 128
            assert (off > 1).mean() < (1e-5 if more else 1e-12)  # graham: grey pixels, decided by a rounding
    train, second = (found[name]["label"].ravel() for name in ("train", "second"))
    assert np.array_equal(second[:15], train[1::2])
    assert found["test"]["label"].ravel().tolist() == [i % 23 for i in range(30)]


SUMS = """layer { name: "none" type: "DummyData" top: "none" dummy_data_param { shape { dim: 5 dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4
  weight_filler { type: "constant" value: 0.001 } } }
layer { name: "quiet" type: "Silence" bottom: "label" }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "none" top: "loss" }
"""


def losses_of(command: list[str], folder: Path) -> list[float]:
    done = subprocess.run(
        [*command, "train", "-solver", str(folder / "solver.prototxt")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [float(line.split("loss = ")[1].split()[0]) for line in done.stderr.splitlines() if ", loss = " in line]


def test_the_caffe_command_trains_on_it(tmp_path: Path, records: str) -> None:
    """`caffe train`, real and ours: the same losses over three iterations."""
    caffe = bvlc.find_caffe(ROOT)
    assert caffe is not None
    text = json.dumps({"source": records, "batch_size": 5, "seed": 17, "size": 40})
    (tmp_path / "net.prototxt").write_text(LAYER.format(text=text) + SUMS)
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt"\nbase_lr: 1e-6 lr_policy: "fixed" max_iter: 3 display: 1 solver_mode: CPU\n'
        f'snapshot_prefix: "{tmp_path}/out"\n'
    )
    real = losses_of([str(caffe.binary)], tmp_path)
    ours = losses_of([sys.executable, "-m", "allconv_caffe.caffe_torch"], tmp_path)
    assert len(real) == 4 and len(set(real)) == 4
    assert ours == pytest.approx(real, rel=1e-4)
