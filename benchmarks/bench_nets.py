"""Every net of a table, in training and in forward passes: this engine, BVLC Caffe and hand-written PyTorch on the same cores.

    make bench-nets            (or: python benchmarks/bench_nets.py --only lenet,nin --short)

For each net and batch the contenders live in processes of their own and take turns, as in bench_engine.py; all read their data from
memory. Ours is what `auto` chooses in a long run; for forward passes, the drop-in's `net.forward()`. The hand-written nets
are plain modules over channels_last, see nets/handwritten.py. With `--precision bf16` ours and theirs train in bfloat16 (theirs by
autocast), and ours in float32 is one contender more. Printed are medians: milliseconds of our iteration, the others' time
over ours (under 1: ours is slower, marked "<"), seconds to the end of the first iteration, the process's peak memory, and the share of
this machine's own sgemm that the net's multiply-adds reach (in training three times those of the forward pass).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from bench_engine import Contender, caffes_environment
from nets.table import NETS, BenchNet

from allconv_caffe.bvlc.find import BvlcCaffe, BvlcError, find_caffe
from allconv_caffe.caffe_torch import glog, summary
from allconv_caffe.proto import to_text

ROOT = Path(__file__).resolve().parents[1]
NAMES = {"engine": "ours", "float32": "float32", "caffe": "Caffe", "eager": "eager", "compile": "torch.compile"}
COMPILES = ("engine", "float32", "compile")  # whose first iteration differs when the compiler's cache is warm
SOLVER = """net: "{net}" base_lr: 1e-5 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.001 max_iter: 1000000
display: 0 snapshot: 0 snapshot_prefix: "{folder}/bench" test_initialization: false solver_mode: CPU
"""


class NetContender(Contender):
    """A worker process with one net; its turns are seconds of an iteration."""

    def __init__(self, kind: str, python: str, config: Path, environment: dict[str, str]) -> None:
        super().__init__(kind, python, config, environment)
        self.first_seconds = 0.0
        self.peak_mib = 0.0
        self.turn = 1

    def wait(self) -> None:
        ready, seconds = self._line().split()
        if ready != "ready":
            raise SystemExit(f"bench_nets: {NAMES[self.kind]} answered '{ready}', expected 'ready'")
        self.first_seconds = float(seconds)

    def run(self, iterations: int, batch: int = 1) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()
        seconds, _, peak = (float(part) for part in self._line().split())
        self.rates.append(seconds / iterations)
        self.peak_mib = peak

    def settle(self, seconds: float) -> None:
        """As many iterations to a turn as fill `seconds`."""
        self.run(1)
        self.turn = max(1, int(seconds / self.rates.pop()))


@dataclass(kw_only=True)
class Row:
    """One net at one batch."""

    net: str
    work: str  # train or forward
    batch: int
    seconds: dict[str, list[float]] = field(default_factory=dict)  # of an iteration, a turn each
    cold_seconds: dict[str, float] = field(default_factory=dict)  # to the end of the first iteration
    warm_seconds: dict[str, float] = field(default_factory=dict)  # the same when the compiler's cache is there
    peak_mib: dict[str, float] = field(default_factory=dict)
    gflop: float = 0.0  # of an iteration, 2 to a multiply-add

    def median(self, kind: str) -> float:
        return statistics.median(self.seconds[kind])

    def over_ours(self, kind: str) -> float | None:
        """Their time over ours, turn by turn."""
        if kind not in self.seconds or "engine" not in self.seconds:
            return None
        return statistics.median(a / b for a, b in zip(self.seconds[kind], self.seconds["engine"], strict=True))


def ceiling() -> dict[str, float]:
    """What this machine can do at best: GFLOP/s of a big sgemm, GB/s of a stream copy (read and written)."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    out = torch.empty_like(a)
    long = torch.randn(2**25)
    copy = torch.empty_like(long)

    def best(run: Any) -> float:
        run()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    return {
        "sgemm_gflops": 2 * 2048**3 / best(lambda: torch.mm(a, b, out=out)) / 1e9,
        "copy_gb_per_second": 2 * 4 * 2**25 / best(lambda: copy.copy_(long)) / 1e9,
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default=",".join(NETS), help="nets, with commas between")
    parser.add_argument("--work", default="train,forward", help="train, forward or both")
    parser.add_argument("--batches", default="1,10,own", help="numbers, and own for the net's own")
    parser.add_argument("--contenders", default=",".join(NAMES), help="some of " + ", ".join(NAMES))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn, at least one iteration")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads of each")
    parser.add_argument(
        "--precision", choices=["float32", "bf16"], default="float32", help="in which ours and PyTorch train"
    )
    parser.add_argument(
        "--short", action="store_true", help="the net's own batch, three turns of a second, cold starts"
    )
    parser.add_argument("--json", type=Path, help="also write every number to this file")
    options = parser.parse_args()
    if options.short:
        options.batches, options.rounds, options.seconds = "own", 3, 1.0
    for name, known in (("only", NETS), ("work", ("train", "forward")), ("contenders", NAMES)):
        chosen = getattr(options, name).split(",")
        if unknown := [word for word in chosen if word not in known]:
            parser.error(f"--{name}: found {', '.join(unknown)}, expected some of {', '.join(known)}")
        setattr(options, name, chosen)
    options.batches = options.batches.split(",")
    if wrong := [b for b in options.batches if b != "own" and not (b.isdecimal() and int(b) > 0)]:
        parser.error(f"--batches: found {', '.join(wrong)}, expected numbers above 0, or own")
    return options


class Bench:
    """Runs the rows one after the other."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.notes: list[str] = []
        self.environment = dict(os.environ)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            self.environment[name] = str(options.threads)
        self.environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.caffe = self._find_caffe() if "caffe" in options.contenders else None

    def _find_caffe(self) -> BvlcCaffe | None:
        try:
            caffe = find_caffe(ROOT)
        except BvlcError as error:
            raise SystemExit(f"bench_nets: {error}") from None
        if caffe is None or caffe.python is None:
            self.notes.append("BVLC Caffe: not installed (make caffe)")
            return None
        return caffe

    def row(self, name: str, work: str, batch: int) -> Row:
        net, row = NETS[name], Row(net=name, work=work, batch=batch)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            self._write(folder, net, row)
            contenders: list[NetContender] = []
            for kind in self.options.contenders:
                if kind == "caffe" and self.caffe is None:
                    continue
                if kind == "float32" and (work == "forward" or self.options.precision == "float32"):
                    continue
                contender = self._start(kind, folder)
                row.cold_seconds[kind] = contender.first_seconds
                if kind in COMPILES and not self.options.short:
                    contender.close()
                    contender = self._start(kind, folder)
                    row.warm_seconds[kind] = contender.first_seconds
                contenders.append(contender)
            for contender in contenders:
                contender.settle(self.options.seconds)
            for _ in range(self.options.rounds):
                for contender in contenders:
                    contender.run(contender.turn)
            for contender in contenders:
                contender.close()
                row.seconds[contender.kind] = contender.rates
                row.peak_mib[contender.kind] = contender.peak_mib
        return row

    def _write(self, folder: Path, net: BenchNet, row: Row) -> None:
        forward = row.work == "forward"
        param = net.param(row.batch, forward)
        path = folder / "net.prototxt"
        path.write_text(to_text(param))
        (folder / "solver.prototxt").write_text(SOLVER.format(net=path, folder=folder))
        layers = summary.summarize(str(path), "TEST" if forward else "TRAIN").layers
        rows = net.sources["data"].of(row.batch)[0]  # a summary counts for each: an image, or a step of all streams
        row.gflop = 2e-9 * sum(layer.multiply_adds for layer in layers) * rows * (1 if forward else 3)
        config = {
            "net": str(path),
            "solver": str(folder / "solver.prototxt"),
            "forward": forward,
            "inputs": {
                name: {"shape": source.of(row.batch), "classes": source.classes, "ones": source.ones}
                for name, source in net.inputs(forward).items()
            },
            "parameters": sum(layer.parameters for layer in layers if layer.type != "BatchNorm"),
            "threads": self.options.threads,
            "warmup": 2,
            "device": "cpu",
            "precision": self.options.precision,
        }
        for kind in NAMES:
            own = {**config, "precision": "float32"} if kind == "float32" else config
            (folder / f"{kind}.json").write_text(json.dumps(own))

    def _start(self, kind: str, folder: Path) -> NetContender:
        print(f"  starting {NAMES[kind]} ...", file=sys.stderr, flush=True)
        python, environment = sys.executable, dict(self.environment)
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / f"cache_{kind}")
        if kind == "caffe":
            assert self.caffe is not None
            python = str(self.caffe.python)
            environment = caffes_environment(self.caffe, environment)
        contender = NetContender(kind, python, folder / f"{kind}.json", environment)
        contender.wait()
        return contender


def print_row(row: Row, machine: dict[str, float], header: bool) -> None:
    """A line of the table; before the first, what its columns are."""
    if header:
        print(f"\n{row.work:<16}{'batch':>6}{'ours, ms':>10}   ", end="")
        print("their time over ours".ljust(56), "first iteration, s".ljust(64), "peak MiB".ljust(24), "share", sep="")
    cells = []
    for kind in ("float32", "caffe", "eager", "compile"):
        ratio = row.over_ours(kind)
        cells.append("" if ratio is None else f"{NAMES[kind]} {ratio:.2f}{'<' if ratio < 1 else ' '}")
    firsts = []
    for kind, cold in row.cold_seconds.items():
        warm = f"/{row.warm_seconds[kind]:.1f}" if kind in row.warm_seconds else ""
        firsts.append(f"{NAMES[kind]} {cold:.1f}{warm}")
    ours = row.median("engine") if "engine" in row.seconds else None
    share = "" if ours is None else f"{row.gflop / ours / machine['sgemm_gflops']:.0%}"
    print(
        f"{NETS[row.net].title:<16}{row.batch:>6}{'' if ours is None else f'{ours * 1e3:.2f}':>10}   "
        f"{' '.join(cell.ljust(12) for cell in cells if cell)}".ljust(56)
        + ", ".join(firsts).ljust(64)
        + "/".join(f"{mib:.0f}" for mib in row.peak_mib.values()).ljust(24)
        + share,
        flush=True,
    )


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    glog.init("bench_nets", min_level=glog.ERROR)
    bench = Bench(options)
    machine = ceiling()
    print(f"{options.precision}, {platform.machine()}, {options.threads} threads, torch {torch.__version__}")
    print(f"ceiling: sgemm {machine['sgemm_gflops']:.0f} GFLOP/s, copy {machine['copy_gb_per_second']:.1f} GB/s")
    rows: list[Row] = []
    for work in options.work:
        header = True
        for name in options.only:
            batches = dict.fromkeys(NETS[name].batch if b == "own" else int(b) for b in options.batches)
            for batch in batches:
                print(f"{name}, {work}, batch {batch}", file=sys.stderr, flush=True)
                rows.append(bench.row(name, work, batch))
                print_row(rows[-1], machine, header)
                header = False
                if options.json:  # after each: a long run that is stopped has written what it measured
                    write_json(options, machine, rows)
    for note in bench.notes:
        print(note)


def write_json(options: argparse.Namespace, machine: dict[str, float], rows: list[Row]) -> None:
    record = {
        "threads": options.threads,
        "precision": options.precision,
        "torch": torch.__version__,
        **machine,
        "rows": [vars(row) for row in rows],
    }
    options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
