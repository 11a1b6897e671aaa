"""Memory that loading and saving weights take, in sizes of the file: the net's own parameters and all else together.

    python benchmarks/bench_memory.py [--megabytes 500]
    python benchmarks/bench_memory.py --net googlenet --batch 50

A net of inner products, three quarters of it in one layer as in VGG, is built, filled by its fillers and saved; then
read in a process of its own. Peaks are those of the resident set (VmHWM), above what the imports had taken. The limit is
the project's: twice the file. Linux only. With --net, instead: what one forward of a net of `make bench-nets` takes, its
parameters included, where every blob stays to be seen, and where blobs share memory, as in `caffe-torch test`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 2.0
STEPS = {"caffemodel": ("save", "load"), "caffemodel.h5": ("save_hdf5", "load_hdf5")}


def prototxt(megabytes: int) -> str:
    """An input for each of two widths; one large layer, four small ones; fillers that draw."""
    values = megabytes * (1 << 20) // 4
    large, small = values * 3 // 4 // 8192, values // 16 // 2048

    def layer(name: str, bottom: str, outputs: int, filler: str) -> str:
        return (
            f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" inner_product_param {{ '
            f'num_output: {outputs} weight_filler {{ type: "{filler}" }} }} }}\n'
        )

    text = 'input: "wide" input_shape { dim: 1 dim: 8192 }\ninput: "narrow" input_shape { dim: 1 dim: 2048 }\n'
    text += layer("fc6", "wide", large, "xavier")
    return text + "".join(layer(f"fc{i}", "narrow", small, "gaussian") for i in range(7, 11))


def resident(name: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}")


def run(step: str, folder: str) -> None:
    """One step in this process; prints its peak and its seconds as JSON."""
    import allconv_caffe.pycaffe as caffe

    os.chdir(folder)
    before = resident("VmRSS")
    began = time.perf_counter()
    if step == "load":
        caffe.Net("net.prototxt", caffe.TEST, weights="x.caffemodel")
    else:
        net = caffe.Net("net.prototxt", caffe.TEST)
        if step == "load_hdf5":
            net.load_hdf5("x.caffemodel.h5")
        elif step == "save_hdf5":
            net.save_hdf5("x.caffemodel.h5")
        else:
            net.save("x.caffemodel")
    print(json.dumps({"peak": resident("VmHWM") - before, "seconds": time.perf_counter() - began}))


def forward(step: str, name: str, batch: int) -> None:
    """One forward in this process, blobs shared or not; prints its peak as JSON."""
    from nets.table import NETS

    from allconv_caffe.caffe_torch import glog, shared_memory
    from allconv_caffe.caffe_torch.layer import Context
    from allconv_caffe.caffe_torch.net import Net
    from allconv_caffe.proto import TEST

    glog.init("bench_memory", min_level=glog.ERROR)
    before = resident("VmRSS")
    net = Net(NETS[name].param(batch, True), Context(phase=TEST))
    if step == "shared":
        shared_memory.share(net)
    net.forward()
    print(json.dumps({"peak": resident("VmHWM") - before}))


def child(*arguments: str) -> dict[str, float]:
    """What a process of its own measures."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "GLOG_minloglevel": "2"}
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def measure(megabytes: int, folder: Path) -> dict[str, dict[str, float]]:
    """For each step its peak in sizes of the file, and its seconds."""
    (folder / "net.prototxt").write_text(prototxt(megabytes))
    found = {}
    for ending, steps in STEPS.items():
        for step in steps:
            answer = child("--step", step, "--folder", str(folder))
            size = (folder / f"x.{ending}").stat().st_size
            found[step] = {"peak": answer["peak"] / size, "seconds": answer["seconds"], "megabytes": size / 2**20}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--net", help="a net of make bench-nets: measure its forward")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step and options.net:
        forward(options.step, options.net, options.batch)
        return 0
    if options.net:
        for step in ("seen", "shared"):
            row = child("--step", step, "--net", options.net, "--batch", str(options.batch))
            print(f"{options.net}, batch {options.batch}, blobs {step}: peak {row['peak'] / 2**20:.0f} MiB", flush=True)
        return 0
    if options.step:
        run(options.step, options.folder)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.megabytes, Path(folder))
    for step, row in found.items():
        print(f"{step:<10} {row['megabytes']:7.1f} MB  peak {row['peak']:.2f} x file  {row['seconds']:6.1f} s")
    return int(max(row["peak"] for row in found.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
