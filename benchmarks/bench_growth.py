"""How time grows: CPU microseconds for each image, layer and net as their number grows, and images a second by threads.

    make bench-growth              (or: python benchmarks/bench_growth.py --json growth.json)

Each line is a size, and what a unit of it takes (an image of the batch, a layer of the net, a net of the process): to build it, in
a forward pass of the drop-in, and in a training iteration (forward, backward, update) of the plain executor. The limit is the
project's: nothing worse than linear, so no unit may cost more than `LIMIT` times what it cost at a smaller size. Times are of all
threads together, the least of some turns, which other programs on the machine disturb little; of threads, the clock's. A batch
that leaves the processor's cache costs more for each image than one that stays there: that much the limit leaves.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from allconv_caffe import pycaffe
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.solver import Solver
from allconv_caffe.caffe_torch.solver_factory import create_solver
from allconv_caffe.proto import SolverParameter, parse_text

LIMIT = 1.5
BATCHES, DEPTHS, NETS = (1, 2, 8, 32, 128, 512), (10, 100, 1000), (1, 10, 100)
SOLVER = 'net: "{net}" base_lr: 1e-6 lr_policy: "fixed" momentum: 0.9 snapshot_prefix: "{folder}/none" display: 0'
Costs = dict[str, float]
"""CPU microseconds of building, of a forward pass and of an iteration."""


def prototxt(batch: int, pairs: int) -> str:
    """So many convolutions of 16 channels, each with its ReLU, and a loss."""
    shape = f"shape {{ dim: {batch} dim: 16 dim: 16 dim: 16 }}"
    text = f'layer {{ name: "x" type: "Input" top: "b0" input_param {{ {shape} }} }}\n'
    for i in range(pairs):
        conv = 'convolution_param { num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "msra" } }'
        text += f'layer {{ name: "conv{i}" type: "Convolution" bottom: "b{i}" top: "b{i + 1}" {conv} }}\n'
        text += f'layer {{ name: "relu{i}" type: "ReLU" bottom: "b{i + 1}" top: "b{i + 1}" }}\n'
    return text + f'layer {{ name: "loss" type: "EuclideanLoss" bottom: "b{pairs}" bottom: "b0" top: "loss" }}\n'


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.process_time, turns: int = 5) -> float:
    """The least of some turns; turns of less than a tenth of a second are repeated."""
    work()
    start = clock()
    work()
    times = max(1, int(0.1 / max(clock() - start, 1e-6)))
    best = float("inf")
    for _ in range(turns):
        start = clock()
        for _ in range(times):
            work()
        best = min(best, (clock() - start) / times)
    return best


class Subject:
    """Nets for forward passes, and as many solvers that train them, in this process."""

    def __init__(self, folder: Path, *, batch: int = 4, pairs: int = 4, nets: int = 1) -> None:
        path = folder / "net.prototxt"
        path.write_text(prototxt(batch, pairs))
        self._solver = parse_text(SOLVER.format(net=path, folder=folder), SolverParameter)
        self._path, self._count = str(path), nets

    def forward(self) -> Callable[[], None]:
        nets = [pycaffe.Net(self._path, pycaffe.TEST) for _ in range(self._count)]
        for net in nets:
            for _ in range(3):  # the third and all that follow are played
                net.forward()

        def run() -> None:
            for net in nets:
                net.forward()

        return run

    def training(self) -> Callable[[], None]:
        solvers: list[Solver] = [create_solver(self._solver, executor="plain") for _ in range(self._count)]

        def run() -> None:
            for solver in solvers:
                solver.step(1)

        return run

    def costs(self) -> Costs:
        build = seconds(lambda: pycaffe.Net(self._path, pycaffe.TEST), turns=3) * self._count
        found = {"build": build, "forward": seconds(self.forward()), "training": seconds(self.training())}
        return {name: value * 1e6 for name, value in found.items()}


def table(title: str, subjects: dict[int, Callable[[], Subject]]) -> tuple[dict[int, Costs], bool]:
    """Prints what a unit costs at each size; whether one costs more than it did at a smaller size, times the limit."""
    print(f"\n{title:<12}{'build':>12}{'forward':>12}{'training':>12}  CPU us for each")
    found: dict[int, Costs] = {}
    missed = False
    for size, subject in subjects.items():
        units = {name: cost / size for name, cost in subject().costs().items()}
        over = [n for n, cost in units.items() if cost > LIMIT * min((c[n] for c in found.values()), default=cost)]
        if title == "images":
            units["build"], over = units["build"] * size, [name for name in over if name != "build"]  # one net
        found[size] = units
        missed |= bool(over)
        line = f"{size:<12}" + "".join(f"{cost:>12.1f}" for cost in units.values())
        print(line + (f"  worse than linear: {', '.join(over)}" if over else ""), flush=True)
    return found, missed


def by_threads(subject: Subject) -> dict[int, dict[str, float]]:
    """Images a second, by the clock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print(f"\n{'threads':<12}{'forward':>12}{'training':>12}  images/s by the clock, batch 128")
    found = {}
    for threads in range(1, cores + 1):
        torch.set_num_threads(threads)
        works = {"forward": subject.forward(), "training": subject.training()}
        found[threads] = {name: 128 / seconds(work, time.perf_counter) for name, work in works.items()}
        print(f"{threads:<12}" + "".join(f"{rate:>12,.0f}" for rate in found[threads].values()), flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--most", type=int, default=1000, help="leave out sizes above this")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    glog.init("bench_growth", 2)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        subject = functools.partial(Subject, Path(scratch))

        def upto(sizes: tuple[int, ...]) -> list[int]:
            return [size for size in sizes if size <= options.most]

        figures, missed = {}, False
        for title, subjects in (
            ("images", {n: functools.partial(subject, batch=n) for n in upto(BATCHES)}),
            ("layers", {n: functools.partial(subject, batch=1, pairs=n // 2) for n in upto(DEPTHS)}),
            ("nets", {n: functools.partial(subject, batch=1, nets=n) for n in upto(NETS)}),
        ):
            figures[title], over = table(title, subjects)
            missed |= over
        figures["threads"] = by_threads(subject(batch=128))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
