"""How many of Large-All-CNN's 126x126 training images a second can be made: the engine's form of the layer, and the numpy one.

    make bench-augment            (or: python benchmarks/bench_augment.py --threads 1 --batch-size 250)

A net of the data layer alone is asked for batch after batch, as a training would that takes no time itself. The limits are
the project's: 5,000 images/s on 2 cores, 30,000 on a GPU, where there is one. Printed beside the rate: the processor's time
for an image, which other programs on the machine disturb less, and how busy the machine was (load average) at the beginning.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import lmdb
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import allconv_caffe.pycaffe  # noqa: F401  (answers to `import caffe` in a Python layer's module)
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute.memory import keep_freed_memory
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import TRAIN, Datum, NetParameter, parse_text

LIMITS = {"cpu": 5_000, "cuda": 30_000}
LAYER = """layer {{ name: "data" type: "Python" top: "data" top: "label"
  python_param {{ module: "allconv_caffe.python_layers{file}" layer: "AugmentedData" param_str: '{text}' }} }}"""


def write_records(path: Path, count: int) -> None:
    """An LMDB of `count` images of 3 x 32 x 32 random bytes."""
    rng = np.random.default_rng(0)
    with lmdb.open(str(path), map_size=count * 8192 + (1 << 24)) as env, env.begin(write=True) as txn:
        for i in range(count):
            datum = Datum(channels=3, height=32, width=32, label=i % 10, data=rng.bytes(3072))
            txn.put(b"%08d" % i, datum.SerializeToString())


def measure(source: Path, file: str, device: str, batch_size: int, seconds: float) -> tuple[float, float]:
    """(images a second, processor microseconds an image) over at least `seconds`."""
    text = json.dumps({"source": str(source), "batch_size": batch_size, "seed": 1})
    param = parse_text(LAYER.format(file=file, text=text), NetParameter)
    net = Net(param, Context(phase=TRAIN, device=torch.device(device)))

    def run(least: float) -> tuple[int, float, float]:
        images, wall, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < least:
            net.forward()
            images += batch_size
        if device == "cuda":
            torch.cuda.synchronize()
        return images, time.perf_counter() - wall, time.process_time() - cpu

    run(seconds / 5)
    images, wall, cpu = run(seconds)
    return images / wall, cpu / images * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=5000, help="records in the LMDB (default 5000)")
    parser.add_argument("--batch-size", type=int, default=50, help="images in a batch (default 50, the recipe's)")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement (default 5)")
    parser.add_argument("--threads", type=int, default=0, help="PyTorch's threads (default: its own choice)")
    args = parser.parse_args()
    glog.init("bench_augment", 2)
    keep_freed_memory()  # as in a training
    if args.threads:
        torch.set_num_threads(args.threads)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{cores} cores, load average {os.getloadavg()[0]:.1f}, PyTorch {torch.__version__} on {torch.get_num_threads()} threads"
    )
    forms = [("the engine's form", "", "cpu"), ("the numpy form", ".augmented_data", "cpu")]
    if torch.cuda.is_available():
        forms.insert(1, ("the engine's form", "", "cuda"))
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "lmdb"
        write_records(source, args.images)
        for name, file, device in forms:
            rate, cost = measure(source, file, device, args.batch_size, args.seconds)
            limit = "" if file else f"   limit {LIMITS[device]:,}"
            print(f"{name:<18} {device:<5} {rate:>9,.0f} images/s {cost:>7.0f} us of processor an image{limit}")
            failed |= not file and rate < LIMITS[device]
    if not torch.cuda.is_available():
        print("no GPU here: not measured on one")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
