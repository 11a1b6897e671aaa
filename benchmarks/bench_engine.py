"""Training images/s of All-CNN-C: this engine, BVLC Caffe and hand-written PyTorch on the same cores, in one run.

    make bench                 (or: python benchmarks/bench_engine.py --batch 64 --rounds 7)
    python benchmarks/bench_engine.py --busy 1 --only engine,eager     the same beside a process that takes a core

Every contender lives in a process of its own and is warmed up; then they take turns, one at a time, so that whatever
else happens on the machine happens to all of them. Printed are medians over the rounds, the range, and ratios. Engine
and Caffe read the same LMDB through the same solver file; the hand-written nets are given their batches in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch

from allconv_caffe.bvlc.find import BvlcCaffe, BvlcError, find_caffe
from allconv_caffe.caffe_torch.compute import cpuinfo
from allconv_caffe.caffe_torch.compute.openblas import better_core
from allconv_caffe.proto import Datum

ROOT = Path(__file__).resolve().parents[1]
NAMES = {
    "engine": "allconv-caffe (caffe-torch)",
    "caffe": "BVLC Caffe",
    "eager": "hand-written PyTorch, eager",
    "compile": "hand-written PyTorch, torch.compile",
    "graphs": "the same with CUDA graphs",
}
#: What the project promises: at least twice Caffe, not slower than the best hand-written one.
AIMS = {"caffe": 2.0, "eager": 1.0, "compile": 1.0, "graphs": 1.0}


def caffes_environment(caffe: BvlcCaffe, environment: dict[str, str]) -> dict[str, str]:
    """Caffe's own, with `environment`'s numbers of threads; its OpenBLAS takes the kernels that suit this processor."""
    threads = {name: value for name, value in environment.items() if "THREADS" in name}
    core = None if "OPENBLAS_CORETYPE" in os.environ else caffe.blas_core()
    better = better_core(core, cpuinfo.text())
    return {**caffe.environment(), **threads, **({"OPENBLAS_CORETYPE": better} if better else {})}


class Contender:
    """A worker process that stands still between its turns."""

    def __init__(self, kind: str, python: str, config: Path, environment: dict[str, str]) -> None:
        self.kind = kind
        self.rates: list[float] = []
        worker = str(ROOT / "benchmarks" / "engine_worker.py")
        self.process = subprocess.Popen(
            [python, worker, kind, str(config)],
            stdin=subprocess.PIPE,
            text=True,
            stdout=subprocess.PIPE,
            cwd=config.parent,
            env=environment,
        )

    def wait(self) -> None:
        answer = self._line()
        if answer != "ready":
            raise SystemExit(f"bench_engine: {NAMES[self.kind]} answered '{answer}', expected 'ready'")

    def run(self, iterations: int, batch: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()
        self.rates.append(iterations * batch / float(self._line()))

    def close(self) -> None:
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"bench_engine: {NAMES[self.kind]} ended with status {self.process.wait()}")
        return line


def write_lmdb(folder: Path, images: int) -> None:
    """`images` float Datums (3, 32, 32) of unit normal noise, labels 0 to 9, by seed."""
    rng = np.random.default_rng(0)
    with lmdb.open(str(folder), map_size=2**30) as environment, environment.begin(write=True) as transaction:
        for i in range(images):
            datum = Datum(channels=3, height=32, width=32, label=i % 10)
            datum.float_data.extend(rng.standard_normal(3072, dtype=np.float32).tolist())
            transaction.put(b"%08d" % i, datum.SerializeToString())


def render(folder: Path, batch: int, cpu: bool) -> Path:
    """All-CNN-C's solver and net for `folder`'s data; never tests, never snapshots."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "allconv_caffe.cli",
            "render",
            "cifar10-allcnn-c",
            "--output",
            str(folder),
            "--train-lmdb",
            str(folder / "lmdb"),
            "--test-lmdb",
            str(folder / "lmdb"),
            "--batch-size",
            str(batch),
            "--test-batch-size",
            "100",
            "--net-path",
            str(folder / "train_val.prototxt"),
            "--snapshot-prefix",
            str(folder / "bench"),
            "--lr",
            "0.01",
            "--solver-mode",
            "CPU" if cpu else "GPU",
        ],
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    solver = folder / "solver.prototxt"
    dropped = ("test_iter", "test_interval", "display", "snapshot:", "random_seed")
    lines = [line for line in solver.read_text().splitlines() if not line.startswith(dropped)]
    solver.write_text("\n".join([*lines, "display: 0", "snapshot: 0", "test_initialization: false", ""]))
    return solver


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument(
        "--iterations", type=int, default=0, help="iterations of one turn (0: 5 on a CPU, 200 on a GPU)"
    )
    parser.add_argument(
        "--warmup", type=int, default=0, help="iterations before the first turn (0: 3 on a CPU, 30 on a GPU)"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads of each")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "tf32", "bf16"], default="float32")
    parser.add_argument("--busy", type=int, default=0, help="processes that take a core each while contenders work")
    parser.add_argument("--only", default=",".join(NAMES), help="contenders, with commas between")
    parser.add_argument("--json", type=Path, help="also write every rate to this file")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(NAMES):
        parser.error(f"--only: found {', '.join(sorted(unknown))}, expected some of {', '.join(NAMES)}")
    cpu = options.device == "cpu"
    options.iterations = options.iterations or (5 if cpu else 200)
    options.warmup = options.warmup or (3 if cpu else 30)
    return options


def main() -> None:
    options = parse_options()
    cpu = options.device == "cpu"
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = str(options.threads)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_lmdb(folder / "lmdb", 8 * options.batch)
        config: dict[str, Any] = {
            "solver": str(render(folder, options.batch, cpu)),
            "batch": options.batch,
            "threads": options.threads,
            "warmup": options.warmup,
            "device": options.device,
            "precision": options.precision,
            "busy": options.busy,
            "parameters": 1_369_738,
        }
        (folder / "config.json").write_text(json.dumps(config))
        contenders: list[Contender] = []
        notes: list[str] = []
        for kind in options.only:
            if kind == "graphs" and cpu:
                continue
            python, its_environment = sys.executable, environment
            if kind == "caffe":
                try:
                    caffe = find_caffe(ROOT)
                except BvlcError as error:
                    raise SystemExit(f"bench_engine: {error}") from None
                if caffe is None or caffe.python is None:
                    notes.append("BVLC Caffe: not installed (make caffe)")
                    continue
                if not cpu and not caffe.has_working_gpu():
                    notes.append(f"BVLC Caffe {caffe.version}: no working GPU, left out")
                    continue
                if options.precision != "float32":
                    notes.append(f"BVLC Caffe {caffe.version} computes in float32, others in {options.precision}")
                python = str(caffe.python)
                its_environment = caffes_environment(caffe, environment)
            print(f"starting {NAMES[kind]} ...", file=sys.stderr, flush=True)
            contenders.append(Contender(kind, python, folder / "config.json", its_environment))
            if cpu:  # on a GPU they compile beside each other
                contenders[-1].wait()
        if not cpu:
            for contender in contenders:
                contender.wait()
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.busy)]
        try:
            for turn in range(options.rounds):
                for contender in contenders:
                    contender.run(options.iterations, options.batch)
                print(f"round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
        finally:
            for process in busy:
                process.kill()
                process.wait()
        for contender in contenders:
            contender.close()

    print_table(options, contenders, notes)
    if options.json:
        record = {
            **{k: v for k, v in config.items() if k != "solver"},
            "images_per_second": {c.kind: c.rates for c in contenders},
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")


def print_table(options: argparse.Namespace, contenders: list[Contender], notes: list[str]) -> None:
    cpu = options.device == "cpu"
    device = torch.cuda.get_device_name() if not cpu else f"{platform.machine()}, {options.threads} threads"
    print(f"\nAll-CNN-C, training, batch {options.batch}, {options.precision}, {device}, torch {torch.__version__}")
    beside = f", beside {options.busy} busy process{'es' if options.busy > 1 else ''}" if options.busy else ""
    print(f"medians of {options.rounds} interleaved turns of {options.iterations} iterations{beside}\n")
    medians = {c.kind: statistics.median(c.rates) for c in contenders}
    print(f"{'':<38}{'images/s':>9}  {'range':<15}{'ours is':>9}   wanted")
    for c in contenders:
        rates = f"{min(c.rates):.0f} to {max(c.rates):.0f}"
        row = f"{NAMES[c.kind]:<38}{medians[c.kind]:>9.1f}  {rates:<15}"
        if c.kind != "engine" and "engine" in medians:
            ratio = medians["engine"] / medians[c.kind]
            verdict = "holds" if ratio >= AIMS[c.kind] else "FALLS SHORT"
            row += f"{ratio:>8.2f}x   {AIMS[c.kind]:.0f}x: {verdict}"
        print(row)
    for note in notes:
        print(note)


if __name__ == "__main__":
    main()
