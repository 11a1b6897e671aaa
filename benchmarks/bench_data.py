"""Records a second of the Data layer, on one thread: this engine's, BVLC Caffe's own, and OpenCV's decoding alone.

    make bench-data                (or: python benchmarks/bench_data.py --rounds 5 --json data.json)

A net of a Data layer alone is asked for batch after batch. Ours is measured twice: reading its records as it goes, as it
does with a data set that memory cannot hold, and with the whole set kept in memory. Contenders take turns on the same LMDBs,
each in a process of its own; counted is the processor's time, all threads together, which other programs on the machine
disturb little. The best of the rounds is printed. The project's aims: never slower than Caffe, and nine tenths of what OpenCV
decodes, also on more threads, where the clock counts (`--threads`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from allconv_caffe.bvlc.find import BvlcCaffe, BvlcError, find_caffe
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute import cpuinfo
from allconv_caffe.caffe_torch.compute.memory import keep_freed_memory
from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import TRAIN, BlobProto, Datum, NetParameter, parse_text

ROOT = Path(__file__).resolve().parents[1]
#: What is read, and how it is transformed: data set, transform_param.
ROWS = {
    "256x256 bytes: crop 227, mirror, mean": ("bytes256", 'crop_size: 227 mirror: true mean_file: "{mean}"'),
    "256x256 JPEG: crop 227, mirror, mean": ("jpeg256", 'crop_size: 227 mirror: true mean_file: "{mean}"'),
    "CIFAR floats": ("floats32", ""),
    "CIFAR floats: crop 28, mirror, scale": ("floats32", "crop_size: 28 mirror: true scale: 0.0039"),
    "CIFAR bytes": ("bytes32", ""),
    "CIFAR bytes: crop 28, mirror, scale": ("bytes32", "crop_size: 28 mirror: true scale: 0.0039"),
}
NET = """layer {{ name: "data" type: "Data" top: "data" top: "label" transform_param {{ {transform} }}
  data_param {{ source: "{source}" batch_size: {batch} backend: LMDB }} }}
"""
#: Run by Caffe's own Python: (records, processor seconds) on standard output.
CAFFE = """
import os, sys, time
os.environ["GLOG_minloglevel"] = "2"
import caffe
path, batch, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
net = caffe.Net(path, caffe.TRAIN)
for _ in range(12): net.forward()
count, wall, cpu = 0, time.time(), time.process_time()
while time.time() - wall < seconds:
    net.forward()
    count += batch
print(count, time.process_time() - cpu)
"""


def photographs(count: int, folder: Path | None) -> Iterator[bytes]:
    """JPEG files of 256x256, quality 95: of the photographs in `folder`, or smooth noise where there is none."""
    rng = np.random.default_rng(0)
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")) if folder else []
    if folder and not files:
        raise SystemExit(f"bench_data: {folder}: found no photographs, expected *.jpg")
    for i in range(count):
        if files:
            image = cv2.imread(str(files[i % len(files)]), cv2.IMREAD_COLOR)
            image = cv2.resize(image, (256, 256))
        else:
            coarse = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
            image = cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC).astype(np.float32)
            image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        yield cv2.imencode(".jpg", image)[1].tobytes()


def write_records(folder: Path, photos: Path | None) -> None:
    """The four LMDBs and the mean file."""
    rng = np.random.default_rng(0)

    def write(name: str, datums: Iterator[Any]) -> None:
        with lmdb.open(str(folder / name), map_size=1 << 30) as env, env.begin(write=True) as txn:
            for i, datum in enumerate(datums):
                txn.put(b"%08d" % i, datum.SerializeToString())

    def shape(side: int) -> dict[str, int]:
        return {"channels": 3, "height": side, "width": side}

    write("bytes32", (Datum(**shape(32), label=i % 10, data=rng.bytes(3072)) for i in range(10_000)))
    floats = rng.standard_normal((10_000, 3072), dtype=np.float32)
    write("floats32", (Datum(**shape(32), label=i % 10, float_data=row) for i, row in enumerate(floats)))
    files = list(photographs(250, photos))
    write("jpeg256", (Datum(label=i, encoded=True, data=file) for i, file in enumerate(files)))
    pixels = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR).transpose(2, 0, 1) for file in files]
    write("bytes256", (Datum(**shape(256), label=i, data=image.tobytes()) for i, image in enumerate(pixels)))
    mean = np.mean(pixels, axis=0, dtype=np.float64).astype(np.float32)
    proto = BlobProto(num=1, **shape(256), data=mean.ravel().tolist())
    (folder / "mean.binaryproto").write_bytes(proto.SerializeToString())


def timed(step: Callable[[], int], seconds: float) -> tuple[float, float]:
    """Records a processor second, and a second by the clock, over at least `seconds`."""
    count, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        count += step()
    return count / (time.process_time() - cpu), count / (time.perf_counter() - wall)


def ours(path: Path, batch: int, seconds: float, memory: str, threads: int = 1) -> tuple[float, float]:
    """Rates of our layer; memory: ALLCONV_DATA_MEMORY_MB, "0" reads the records as it goes."""
    os.environ["ALLCONV_DATA_MEMORY_MB"] = memory
    torch.set_num_threads(threads)
    net = Net(parse_text(path.read_text(), NetParameter), Context(phase=TRAIN, rng=TorchGenerator(1)))

    def step() -> int:
        net.forward()
        return batch

    for _ in range(12):
        step()
    rates = timed(step, seconds)
    for layer in net.layers:
        getattr(layer, "close", lambda: None)()
    return rates


def decoded(source: Path, seconds: float, threads: int = 1) -> tuple[float, float]:
    """Rates of cv2.imdecode alone, on files in memory."""
    files = []
    with lmdb.open(str(source), readonly=True, lock=False) as env, env.begin() as txn:
        for _, value in txn.cursor():
            files.append(np.frombuffer(Datum.FromString(value).data, np.uint8))

    def some(part: list[np.ndarray]) -> None:
        for file in part:
            cv2.imdecode(file, cv2.IMREAD_UNCHANGED)

    with ThreadPoolExecutor(threads) as pool:

        def step() -> int:
            list(pool.map(some, [files[i::threads] for i in range(threads)]))
            return len(files)

        step()
        return timed(step, seconds)


def caffes(caffe: BvlcCaffe, path: Path, batch: int, seconds: float) -> float:
    """Records a processor second of BVLC Caffe's layer."""
    command = [str(caffe.python), "-c", CAFFE, str(path), str(batch), str(seconds)]
    environment = {**caffe.environment(), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench_data: BVLC Caffe ended with status {done.returncode}\n{done.stderr}")
    count, cpu = done.stdout.split()
    return int(count) / float(cpu)


def measured(contender: str, row: str, folder: Path, args: argparse.Namespace) -> tuple[float, float]:
    """One turn of a contender of ours, in this process."""
    data, path = ROWS[row][0], folder / f"{list(ROWS).index(row)}.prototxt"
    if contender == "opencv":
        return decoded(folder / data, args.seconds, args.turn_threads)
    memory = "0" if contender == "streamed" else "2000"
    return ours(path, batch_of(row), args.seconds, memory, args.turn_threads)


def batch_of(row: str) -> int:
    return 50 if "256" in row else 100


def turn(contender: str, row: str, folder: Path, args: argparse.Namespace, threads: int = 1) -> tuple[float, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--seconds", str(args.seconds), "--turn", contender, row, str(folder)]
    done = subprocess.run(
        [*command, "--turn-threads", str(threads)], stdout=subprocess.PIPE, text=True, check=False, env=os.environ
    )
    if done.returncode:
        raise SystemExit(f"bench_data: {contender} ended with status {done.returncode}")
    by_cpu, by_clock = json.loads(done.stdout)
    return by_cpu, by_clock


def pycaffe() -> BvlcCaffe | None:
    """The BVLC Caffe that is found, if it has a Python; else None."""
    try:
        found = find_caffe(ROOT)
    except BvlcError:
        return None
    return found if found is not None and found.python is not None else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender (default 3)")
    parser.add_argument("--seconds", type=float, default=2, help="of each turn (default 2)")
    parser.add_argument("--photos", type=Path, help="a folder of photographs for the JPEG records (default: made up)")
    parser.add_argument("--threads", type=int, default=0, help="also decode on so many threads, by the clock")
    parser.add_argument("--rows", default="", help="only the rows whose names hold this text")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--turn", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--turn-threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.turn:
        glog.init("bench_data", 2)
        keep_freed_memory()  # as in a training
        contender, row, folder = args.turn
        print(json.dumps(measured(contender, row, Path(folder), args)))
        return 0
    return compare(args)


def compare(args: argparse.Namespace) -> int:
    """Every contender's turns; the table. Returns 1 where an aim is missed."""
    caffe = pycaffe()
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"PyTorch {torch.__version__}, OpenCV {cv2.__version__}"
    print(f"{cpuinfo.model_name()}, {cores} cores, load average {load:.1f}, {versions}")
    print("records a second of processor time\n")
    print(f"{'':<40}{'read':>10}{'in memory':>12}{'Caffe':>10}{'ratio':>8}{'OpenCV':>10}{'ratio':>8}")
    figures: dict[str, Any] = {}
    missed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder, args.photos)
        for i, (row, (data, transform)) in enumerate(ROWS.items()):
            if args.rows not in row:
                continue
            path = folder / f"{i}.prototxt"
            transform = transform.format(mean=folder / "mean.binaryproto")
            path.write_text(NET.format(source=folder / data, transform=transform, batch=batch_of(row)))
            best: dict[str, float] = {}
            for _ in range(args.rounds):
                for contender in ("streamed", "memory", *(["opencv"] if "JPEG" in row else [])):
                    best[contender] = max(best.get(contender, 0), turn(contender, row, folder, args)[0])
                if caffe:
                    best["caffe"] = max(best.get("caffe", 0), caffes(caffe, path, batch_of(row), args.seconds))
            figures[row] = best
            missed |= report(row, best)
        if args.threads:
            figures["threads"] = on_threads(folder, args)
    if not caffe:
        print("no BVLC Caffe here (make caffe): not measured")
    if args.json:
        about = {"processor": cpuinfo.model_name(), "cores": cores, "load": load, "versions": versions}
        args.json.write_text(json.dumps({**about, "records_per_cpu_second": figures}, indent=1) + "\n")
    return int(missed)


def report(row: str, best: dict[str, float]) -> bool:
    """Prints a row; whether it misses an aim."""
    line, missed = f"{row:<40}{best['streamed']:>10,.0f}{best['memory']:>12,.0f}", False
    for other, aim in (("caffe", 1.0), ("opencv", 0.9)):
        if other in best:
            ratio = best["streamed"] / best[other]
            missed |= ratio < aim
            line += f"{best[other]:>10,.0f}{ratio:>8.2f}"
        else:
            line += f"{'':>18}"
    print(line.rstrip(), flush=True)
    return missed


def on_threads(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """JPEG records a second by the clock, ours and OpenCV's alone, on `args.threads` threads."""
    row = next(row for row in ROWS if "JPEG" in row)
    best = {"threads": args.threads, "streamed": 0.0, "opencv": 0.0}
    for _ in range(args.rounds):
        for contender in ("streamed", "opencv"):
            best[contender] = max(best[contender], turn(contender, row, folder, args, args.threads)[1])
    ratio = best["streamed"] / best["opencv"]
    print(f"\n{row}, {args.threads} threads, by the clock:", end=" ")
    print(f"{best['streamed']:,.0f}, OpenCV alone {best['opencv']:,.0f}, ratio {ratio:.2f}")
    return best


if __name__ == "__main__":
    sys.exit(main())
