"""pycaffe's multi-GPU script on CPUs: as Caffe's python/train.py calls `caffe`, without the two lines that choose a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lmdb
import numpy as np

from allconv_caffe.proto import Datum, NetParameter, read_binary

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from multiprocessing import Process
from allconv_caffe import pycaffe

pycaffe.install()
import caffe


def solve(proto, snapshot, count, timing, uid, rank):
    caffe.set_mode_cpu()
    caffe.set_solver_count(count)
    caffe.set_solver_rank(rank)
    caffe.set_multiprocess(True)
    solver = caffe.SGDSolver(proto)
    if snapshot:
        solver.restore(snapshot)
    nccl = caffe.NCCL(solver, uid)
    nccl.bcast()
    if timing and rank == 0:
        solver.add_callback(lambda: "", lambda: "")
        solver.add_callback(nccl)
        solver.add_callback(lambda: "", lambda: caffe.log("averaged"))
    else:
        solver.add_callback(nccl)
    if solver.param.layer_wise_reduce:
        solver.net.after_backward(nccl)
    solver.step(solver.param.max_iter)


if __name__ == "__main__":
    proto, count = sys.argv[1], int(sys.argv[2])
    uid = caffe.NCCL.new_uid()
    caffe.init_log()
    procs = [Process(target=solve, args=(proto, "", count, True, uid, rank), daemon=True) for rank in range(count)]
    for p in procs:
        p.start()
    for p in procs:
        p.join()
    sys.exit(max(p.exitcode for p in procs))
"""
NET = """name: "n"
layer {{ name: "data" type: "Data" top: "data" top: "label" transform_param {{ scale: 0.01 }}
  data_param {{ source: "lmdb" batch_size: {batch} backend: LMDB }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {{ num_output: 7
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""


def train(folder: Path, count: int) -> tuple[list[np.ndarray], str]:
    """Weights after 5 iterations of a batch of 6 in all, by `count` processes, and the log."""
    (folder / "net.prototxt").write_text(NET.format(batch=6 // count))
    (folder / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" max_iter: 5 display: 1 random_seed: 4 '
        f'test_iter: 1 test_interval: 5 snapshot: 5 snapshot_prefix: "by{count}"'
    )
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", "solver.prototxt", str(count)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    net = read_binary(folder / f"by{count}_iter_5.caffemodel", NetParameter)
    return [np.array(blob.data, np.float32) for layer in net.layer for blob in layer.blobs], done.stderr


def test_train_py_averages_over_processes(tmp_path: Path) -> None:
    """Two processes of batch 3 end with the weights of one of batch 6, to 1e-6; the root alone tests and saves."""
    rng = np.random.default_rng(0)
    with lmdb.open(str(tmp_path / "lmdb"), map_size=1 << 22) as env, env.begin(write=True) as txn:
        for i in range(13):
            datum = Datum(channels=1, height=2, width=2, label=i % 7, data=rng.bytes(4))
            txn.put(b"%05d" % i, datum.SerializeToString())
    one, _ = train(tmp_path, 1)
    two, log = train(tmp_path, 2)
    assert max(float(np.abs(a - b).max()) for a, b in zip(one, two, strict=True)) < 1e-6
    assert log.count("averaged") == 5
    assert log.count("Iteration 0, Testing net") == 1 and log.count("Snapshotting to binary proto file by2_iter_5") == 1
