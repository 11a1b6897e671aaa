"""Seed-exact beside real Caffe: a small net with crops, mirrors and dropout trained bit for bit, and every filler."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import layer_harness as harness
import numpy as np
import pytest
from support.databases import write_lmdb

from allconv_caffe.caffe_torch.compute import caffe_math
from allconv_caffe.proto import Datum

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".caffe" / "bin" / "python"
GOLDEN = ROOT / "tests" / "golden" / "rng"
ITERATIONS = 20
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no real Caffe: run `make caffe`")

RECORD = """
import hashlib, json, sys
import numpy as np, caffe
out = {}
for seed in sys.argv[2:]:
    caffe.set_random_seed(int(seed))
    net = caffe.Net(sys.argv[1], caffe.TRAIN)
    arrays = {f"{n}[{i}]": b.data.copy() for n, bs in net.params.items() for i, b in enumerate(bs)}
    for step in (1, 2):
        net.forward()
        arrays.update((f"{n}, forward {step}", net.blobs[n].data.copy()) for n in ("noise", "hiss", "drop2", "drop5", "drop0"))
    out[seed] = {k: [hashlib.sha256(np.ascontiguousarray(v, "<f4").tobytes()).hexdigest()[:16]]
                 + [float(x) for x in v.ravel()[:3]] for k, v in arrays.items()}
print(json.dumps(out))
"""

NET = """
name: "small"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { crop_size: 10 mirror: true scale: 0.02 mean_value: 100 }
  data_param { source: "%(train)s" batch_size: 8 backend: LMDB } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { crop_size: 10 mirror: true scale: 0.02 mean_value: 100 }
  data_param { source: "%(test)s" batch_size: 10 backend: LMDB } }
layer { name: "drop0" type: "Dropout" bottom: "data" top: "data" dropout_param { dropout_ratio: 0.2 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 12 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 16 kernel_size: 3 stride: 2 pad: 1 weight_filler { type: "msra" } } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "drop1" type: "Dropout" bottom: "conv2" top: "conv2" }
layer { name: "conv3" type: "Convolution" bottom: "conv2" top: "conv3"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "global_pool" type: "Pooling" bottom: "conv3" top: "global_pool"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "global_pool" bottom: "label" top: "loss" }
"""


def bright_datums(count: int, seed: int) -> Iterator[Any]:
    """Pictures of 3 x 13 x 12 bytes whose brightness tells their label."""
    random = np.random.RandomState(seed)
    for i in range(count):
        label = i % 4
        image = random.randint(0, 100, (3, 13, 12)) + 40 * label
        yield Datum(channels=3, height=13, width=12, data=image.astype(np.uint8).tobytes(), label=label)


def test_the_recorded_stream_is_still_what_caffe_draws() -> None:
    """tests/golden/rng/caffe.json equals what pycaffe draws now: every filler, mask and noise."""
    recorded = json.loads((GOLDEN / "caffe.json").read_text(encoding="utf-8"))
    command = [str(PYTHON), "-c", RECORD, str(GOLDEN / "net.prototxt"), *recorded]
    done = subprocess.run(command, check=True, capture_output=True, timeout=200)
    assert json.loads(done.stdout) == recorded


SOLVERS = [
    'type: "SGD" momentum: 0.9 weight_decay: 0.001 iter_size: 2',
    'type: "SGD" momentum: 0.9 weight_decay: 0.001 regularization_type: "L1" clip_gradients: 0.5',
    'type: "Nesterov" momentum: 0.9 weight_decay: 0.001',
    'type: "AdaGrad" weight_decay: 0.001',
    'type: "RMSProp" rms_decay: 0.98 weight_decay: 0.001',
    'type: "AdaDelta" momentum: 0.95 delta: 1e-6',
    'type: "Adam" momentum: 0.9 momentum2: 0.999 weight_decay: 0.001',
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda text: text.split()[1].strip('"'))
def test_every_solver_updates_as_caffe_bit_for_bit(solver: str, tmp_path: Path) -> None:
    """Five updates of each type, each from Caffe's weights and histories: no bit of any weight or history differs."""
    assert caffe_math.find() is not None, caffe_math.why_not()
    write_lmdb(tmp_path / "train", bright_datums(50, 1))
    write_lmdb(tmp_path / "test", bright_datums(30, 2))
    (tmp_path / "net.prototxt").write_text(NET % {"train": tmp_path / "train", "test": tmp_path / "test"})
    (tmp_path / "solver.prototxt").write_text(
        f'net: "net.prototxt" base_lr: 0.002 lr_policy: "fixed" test_iter: 1 test_interval: 5 {solver}\n'
    )
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "seed_exact.py"),
        "--solver",
        str(tmp_path / "solver.prototxt"),
        "--iterations",
        "5",
        "--test-iters",
        "1",
        "--work",
        str(tmp_path / "work"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / "out" / "numbers.json").read_text(encoding="utf-8"))
    copies = 3 if "Ada" in solver and "Grad" not in solver else 2  # weights, and one history or two
    assert (result["update_values"], result["update_different"]) == (5 * copies * (336 + 1744 + 68), 0)


@pytest.mark.parametrize("core_type", ["", *(name for name in harness.core_types() if name != "Zen")])
def test_a_training_is_caffes_bit_for_bit(core_type: str, tmp_path: Path) -> None:
    """Over 20 iterations, weights, masks, crops, mirrors and every update from Caffe's state, in each order that is known.

    "" leaves the choice of kernels to OpenBLAS, and ours must make the same.
    """
    assert caffe_math.find() is not None, caffe_math.why_not()
    env = {**os.environ, "OPENBLAS_CORETYPE": core_type} if core_type else dict(os.environ)
    write_lmdb(tmp_path / "train", bright_datums(50, 1))
    write_lmdb(tmp_path / "test", bright_datums(30, 2))
    (tmp_path / "net.prototxt").write_text(NET % {"train": tmp_path / "train", "test": tmp_path / "test"})
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.02 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.001 '
        "test_iter: 3 test_interval: 5\n"
    )
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "seed_exact.py"),
        "--solver",
        str(tmp_path / "solver.prototxt"),
        "--iterations",
        str(ITERATIONS),
        "--seed",
        "1701",
        "--test-iters",
        "3",
        "--title",
        "small",
        "--work",
        str(tmp_path / "work"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / "out" / "numbers.json").read_text(encoding="utf-8"))
    # twice (train and test net): 12*27+12, 16*108+16, 4*16+4; masks of 3*100 and 16*25 elements, 8 pictures
    assert (result["initial_values"], result["initial_different"]) == (2 * (336 + 1744 + 68), 0)
    assert (result["mask_elements"], result["mask_different"]) == (ITERATIONS * 8 * 700, 0)
    assert result["data_values"] > 0 and result["data_different"] == 0 and result["mask_contradictions"] == 0
    # weights and history
    assert (result["update_values"], result["update_different"]) == (ITERATIONS * 2 * (336 + 1744 + 68), 0)
    assert result["updates_identical"] == ITERATIONS and result["update_error_worst"] == 0
    assert result["relu_flips"] == 0 and result["iterations_without_flips"] == ITERATIONS
    assert result["ours"]["train_loss_largest"] == 0 and result["ours"]["test_loss_largest"] == 0
    digest = hashlib.sha256((tmp_path / "out" / "table.md").read_bytes()).hexdigest()
    again = subprocess.run(command, capture_output=True, text=True, timeout=250, env=env)
    assert again.returncode == 0 and "iterations" not in again.stderr  # nothing is run a second time
    assert hashlib.sha256((tmp_path / "out" / "table.md").read_bytes()).hexdigest() == digest
