"""Microseconds that a small layer of the drop-in's forward takes, beside BVLC Caffe's: what lies around the arithmetic.

    make bench-layers          (or: python benchmarks/bench_layers.py --only ReLU,Pooling)

For each type a chain of 110 layers and one of 10, at batch 1, run by turns in processes of their own on one thread each; printed
is the difference over 100, of the fastest turn, in CPU time: what else runs on the machine costs it little. The limit is the
project's: 3 microseconds above Caffe, whose layers are all arithmetic. Without a Caffe (make caffe), ours alone. Then what
`net.params`, `net.blobs` and `blob.reshape` take, of which the limit is three times Caffe's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_engine import caffes_environment

from allconv_caffe.bvlc.find import BvlcError, find_caffe

ROOT = Path(__file__).resolve().parents[1]
LIMIT_US, LIMIT_RATIO = 3.0, 3.0
LENGTHS = (10, 110)
WEIGHTS = 'weight_filler { type: "xavier" }'
ABOVE, BESIDE = "{i}", "0"
#: A layer's fields, the shape of what it takes, and its bottoms: each upon the one before, or, where a layer gives another shape
#: than it takes, all upon the input.
LAYERS: dict[str, tuple[str, tuple[int, ...], str]] = {
    "ReLU": ("", (1, 8, 8, 8), ABOVE),
    "Convolution": (f"convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 {WEIGHTS} }}", (1, 8, 8, 8), ABOVE),
    "Pooling": ("pooling_param { pool: MAX kernel_size: 3 stride: 1 pad: 1 }", (1, 8, 8, 8), ABOVE),
    "InnerProduct": (f"inner_product_param {{ num_output: 16 {WEIGHTS} }}", (1, 16), ABOVE),
    "Dropout": ("", (1, 8, 8, 8), ABOVE),
    "Softmax": ("", (1, 8, 8, 8), ABOVE),
    "LRN": ("", (1, 8, 8, 8), ABOVE),
    "BatchNorm": ("", (1, 8, 8, 8), ABOVE),
    "Scale": ("scale_param { bias_term: true }", (1, 8, 8, 8), ABOVE),
    "Bias": ("", (1, 8, 8, 8), ABOVE),
    "Eltwise": ("", (1, 8, 8, 8), ABOVE + ABOVE),
    "PReLU": ("", (1, 8, 8, 8), ABOVE),
    "Sigmoid": ("", (1, 8, 8, 8), ABOVE),
    "Power": ("power_param { scale: 2 shift: 1 }", (1, 8, 8, 8), ABOVE),
    "Deconvolution": (f"convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 {WEIGHTS} }}", (1, 8, 8, 8), ABOVE),
    "Crop": ("crop_param { offset: 0 }", (1, 8, 8, 8), ABOVE + BESIDE),
    "ArgMax": ("argmax_param { axis: 1 }", (1, 8, 8, 8), BESIDE),
    "MVN": ("", (1, 8, 8, 8), ABOVE),
    "Reduction": ("reduction_param { axis: 1 }", (1, 8, 8, 8), BESIDE),
    "Tile": ("tile_param { tiles: 1 }", (1, 8, 8, 8), ABOVE),
    "Embed": (f"embed_param {{ input_dim: 8 num_output: 8 {WEIGHTS} }}", (1, 16), BESIDE),
    "Im2col": ("convolution_param { kernel_size: 1 }", (1, 8, 8, 8), ABOVE),
    "SoftmaxWithLoss": ("", (1, 1), BESIDE + BESIDE),
    "Accuracy": ("", (1, 1), BESIDE + BESIDE),
    "SigmoidCrossEntropyLoss": ("", (1, 16), BESIDE + BESIDE),
    "EuclideanLoss": ("", (1, 16), BESIDE + BESIDE),
}
ACCESS = ("params", "blobs", "reshape")
# runs on Python 3.9, too: real pycaffe's interpreter
WORKER = """
import sys, time
{setting}
caffe.set_mode_cpu()
nets = [caffe.Net(path, caffe.TEST) for path in sys.argv[1:]]
if len(nets) == 1:
    net = nets[0]
    blob = net.blobs["b0"]
    shapes = [blob.data.shape, (2,) + blob.data.shape[1:]]
    def params(): net.params["l0"][0]
    def blobs(): net.blobs["b1"].data
    def reshape():
        for shape in shapes: blob.reshape(*shape)
    works, turn = [params, blobs, reshape], 2000
else:
    works, turn = [net.forward for net in nets], 100
for work in works:
    for _ in range(5):
        work()
print("ready", flush=True)
for line in sys.stdin:
    times = []
    for work in works:
        start = time.process_time()
        for _ in range(turn):
            work()
        times.append((time.process_time() - start) / turn * 1e6)
    print(*times, flush=True)
"""
OURS = "import torch\ntorch.set_num_threads(1)\nimport allconv_caffe.pycaffe as caffe"
THEIRS = "import caffe"


def prototxt(type_: str, length: int) -> str:
    """An input and `length` layers."""
    fields, shape, bottoms = LAYERS[type_]
    dims = " ".join(f"dim: {dim}" for dim in shape)
    lines = [f'layer {{ name: "x" type: "Input" top: "b0" input_param {{ shape {{ {dims} }} }} }}']
    bottom = bottoms.replace(ABOVE, 'bottom: "b{i}" ').replace(BESIDE, 'bottom: "b0" ')
    layer = f'layer {{{{ name: "l{{i}}" type: "{type_}" {bottom}top: "b{{j}}" '
    lines += [layer.format(i=i, j=i + 1) + fields + " }" for i in range(length)]
    return "\n".join(lines) + "\n"


class Worker:
    """A process that works on request and says microseconds."""

    def __init__(self, python: str, environment: dict[str, str], setting: str, paths: list[str]) -> None:
        environment = environment | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.best: list[float] = []
        self._process = subprocess.Popen(
            [python, "-c", WORKER.format(setting=setting), *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment | {"GLOG_minloglevel": "3"},
        )
        if self._line() != "ready":
            raise SystemExit(f"bench_layers: {python} ended with status {self._process.wait()}")

    def turn(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        found = [float(word) for word in self._line().split()]
        self.best = [min(pair) for pair in zip(self.best or found, found, strict=True)]

    def close(self) -> None:
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def measure(
    folder: Path, kinds: list[tuple[str, dict[str, str], str]], nets: list[str], turns: int
) -> list[list[float]]:
    """Microseconds of each work, by contender."""
    paths = []
    for i, text in enumerate(nets):
        path = folder / f"net{i}.prototxt"
        path.write_text(text)
        paths.append(str(path))
    workers = [Worker(*kind, paths) for kind in kinds]
    for _ in range(turns):
        for worker in workers:
            worker.turn()
    for worker in workers:
        worker.close()
    return [worker.best for worker in workers]


def contenders() -> list[tuple[str, dict[str, str], str]]:
    """Interpreter, environment and import: ours, and Caffe's where there is one."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    found = [(sys.executable, os.environ | {"PYTHONPATH": path}, OURS)]
    try:
        caffe = find_caffe(ROOT)
    except BvlcError as error:
        raise SystemExit(f"bench_layers: {error}") from None
    if caffe is not None and caffe.python is not None:
        found.append((str(caffe.python), caffes_environment(caffe, {}), THEIRS))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default=",".join(LAYERS), help="layer types, with commas between")
    parser.add_argument("--turns", type=int, default=7, help="of each contender")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    types = options.only.split(",")
    if unknown := set(types) - set(LAYERS):
        parser.error(f"--only: found {', '.join(sorted(unknown))}, expected some of {', '.join(LAYERS)}")
    kinds, rows, missed = contenders(), {}, 0
    print(f"{'':<16}{'ours, us':>10}{'Caffe, us':>11}")
    with tempfile.TemporaryDirectory() as scratch:
        for type_ in types:
            nets = [prototxt(type_, length) for length in LENGTHS]
            found = measure(Path(scratch), kinds, nets, options.turns)
            rows[type_] = [(long - short) / (LENGTHS[1] - LENGTHS[0]) for short, long in found]
            missed += _print(type_, rows[type_], len(rows[type_]) > 1 and rows[type_][0] > rows[type_][1] + LIMIT_US)
        found = measure(Path(scratch), kinds, [prototxt("InnerProduct", LENGTHS[0])], options.turns)
        for name, *times in zip(ACCESS, *found, strict=True):
            rows[name] = times
            missed += _print(name, times, len(times) > 1 and times[0] > LIMIT_RATIO * times[1])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return int(missed > 0)


def _print(name: str, times: list[float], is_over: bool) -> int:
    print(
        f"{name:<16}" + "".join(f"{us:>10.2f} " for us in times) + ("  over the limit" if is_over else ""), flush=True
    )
    return int(is_over)


if __name__ == "__main__":
    sys.exit(main())
