"""A soak: train, snapshot, kill, resume, test, predict, again and again in one process, which must not grow.

    python tests/hostile/soak.py [--minutes 10] [--seed 1]        (make soak)

In each round a child trains and is killed by SIGKILL after a random time, wherever it is; this process goes on from the
newest snapshot, which must be whole and no older than any that was there, tests the weights, and classifies a picture.
After the first third, when all is warm, memory, descriptors, threads and left-over files are watched.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

MOST_KIB = 4096.0
"""Growth of memory from the middle third to the last one that is the allocator's noise; a leak passes it, given rounds enough."""
ROUNDS = 9
"""The fewest that say anything."""
SOLVER = """net: "train_val.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 snapshot_prefix: "snapshots/x" random_seed: 1
max_iter: 1000000 snapshot: 3 test_iter: 2 test_interval: 1000000 test_initialization: false solver_mode: CPU
snapshot_after_train: false
"""
LAYERS = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { decay_mult: 1 }
  convolution_param { num_output: 8 kernel_size: 3 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "drop1" type: "Dropout" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "conv2" top: "pool" pooling_param { pool: AVE global_pooling: true } }
"""
DATA = """layer { name: "data" type: "Data" top: "data" top: "label" include { phase: %s }
  data_param { source: "set/%s_lmdb" batch_size: 4 backend: LMDB } transform_param { scale: 0.0039 } }
"""
LOSS = """layer { name: "loss" type: "SoftmaxWithLoss" bottom: "pool" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "pool" bottom: "label" top: "accuracy" include { phase: TEST } }
"""
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } } }\n'
PROB = 'layer { name: "prob" type: "Softmax" bottom: "pool" top: "prob" }\n'
_STATE = re.compile(r"x_iter_(\d+)\.solverstate$")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the process and its folder hold after a round.

    kib: resident memory. descriptors, threads: open. left: files that nobody will use: temporaries, half folders.
    """

    kib: int
    descriptors: int
    threads: int
    left: int


def look(folder: Path) -> Seen:
    """Now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    young = time.time() - 120  # what a killed child has left is swept when it is a minute old
    left = [
        path
        for path in folder.rglob("*")
        if (path.name.endswith((".tmp", ".partial", ".replaced", ".part")) or path.parent.name == "temporary")
        and path.exists()
        and path.stat().st_mtime < young
    ]
    return Seen(
        kib=pages * resource.getpagesize() // 1024,
        descriptors=len(os.listdir("/proc/self/fd")),
        threads=threading.active_count(),
        left=len(left),
    )


def newest() -> int:
    """The iteration of the newest solver state; 0 for none."""
    return max(
        (int(match[1]) for path in Path("snapshots").iterdir() if (match := _STATE.search(path.name))), default=0
    )


def resumed() -> object:
    """A solver that goes on from the newest snapshot."""
    from allconv_caffe import pycaffe as caffe

    solver = caffe.get_solver("solver.prototxt")
    if iteration := newest():
        solver.restore(f"snapshots/x_iter_{iteration}.solverstate")
        assert solver.iter == iteration
    return solver


def killed(rng: random.Random) -> None:
    """A child trains, writing a snapshot every third iteration, until it is killed."""
    child = os.fork()
    if child == 0:
        try:
            resumed().step(1_000_000)  # type: ignore[attr-defined]
        finally:
            os._exit(1)
    time.sleep(rng.uniform(0.05, 0.6))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the child has ended by itself"


def round_(rng: random.Random) -> None:
    """One of them. Raises: AssertionError: something is lost."""
    from allconv_caffe import pycaffe as caffe

    before = newest()
    killed(rng)
    assert newest() >= before, "a snapshot is gone"
    solver = resumed()
    solver.step(3)  # type: ignore[attr-defined]
    assert newest() == solver.iter, "no snapshot of the last iteration"  # type: ignore[attr-defined]
    weights = f"snapshots/x_iter_{newest()}.caffemodel"
    net = caffe.Net("train_val.prototxt", weights, caffe.TEST)
    loss = float(net.forward()["loss"])
    assert np.isfinite(loss), loss
    classes = caffe.Classifier("deploy.prototxt", weights, raw_scale=1).predict([caffe.io.load_image("picture.png")])
    assert classes.shape == (1, 2) and np.isfinite(classes).all()
    for path in sorted(Path("snapshots").iterdir(), key=lambda path: path.stat().st_mtime_ns)[:-12]:
        if not path.name.endswith(".tmp"):  # those are the product's to clear away
            path.unlink()


def make(folder: Path) -> None:
    """Data, nets, a solver and a picture."""
    import crash_points
    import cv2

    crash_points.old_set(folder)
    (folder / "snapshots").mkdir()
    (folder / "temporary").mkdir()
    (folder / "solver.prototxt").write_text(SOLVER)
    data = DATA % ("TRAIN", "train") + DATA % ("TEST", "test")
    (folder / "train_val.prototxt").write_text(data + LAYERS + LOSS)
    (folder / "deploy.prototxt").write_text(INPUT + LAYERS + PROB)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert cv2.imwrite(str(folder / "picture.png"), pixels)


def slope(values: list[int]) -> float:
    """Of the straight line through the values, a round."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0])


def judged(seen: list[Seen]) -> list[str]:
    """What grew over the last two thirds, in words."""
    warm = seen[len(seen) // 3 :]
    wrong = []
    half = len(warm) // 2
    if (kib := median(one.kib for one in warm[half:]) - median(one.kib for one in warm[:half])) > MOST_KIB:
        wrong.append(
            f"memory: {kib:.0f} KiB more in the last third than in the middle one, {MOST_KIB:g} at most expected"
        )
    for name in ("descriptors", "threads", "left"):
        values = [getattr(one, name) for one in warm]
        if max(values[half:]) > max(values[:half]):
            wrong.append(f"{name}: {max(values[:half])} at most, and later {max(values[half:])}")
    return wrong


def main() -> int:
    """Returns: 1 if anything was lost or grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="of the times at which children are killed")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)  # a fork of a process with more of them may hang
    rng, seen = random.Random(options.seed), list[Seen]()
    quiet = os.open(os.devnull, os.O_WRONLY)
    loud = os.dup(2)
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home).resolve()
        make(folder)
        os.chdir(folder)
        tempfile.tempdir = str(folder / "temporary")
        os.environ["TMPDIR"] = tempfile.tempdir
        os.dup2(quiet, 2)  # Caffe's log
        try:
            while time.monotonic() < end or len(seen) < ROUNDS:
                round_(rng)
                seen.append(look(folder))
        finally:
            os.dup2(loud, 2)
            with suppress(OSError):
                os.chdir("/")
    warm = seen[len(seen) // 3 :]
    first, last = warm[0], warm[-1]
    most = max(one.kib for one in seen) // 1024
    print(f"{len(seen)} rounds, as many children killed; {most} MiB of memory at most")
    print(f"{'':<16} {'after a third':>13} {'at the end':>13}")
    for name in ("kib", "descriptors", "threads", "left"):
        print(f"{name:<16} {getattr(first, name):>13} {getattr(last, name):>13}")
    print(f"memory: {slope([one.kib for one in warm]):+.1f} KiB a round")
    wrong = judged(seen)
    for line in wrong:
        print(line)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
