"""Reconstructions/s of the ImageNet net from conv9: guided backpropagation here and in captum, in one run on the same cores.

    make bench-viz             (or: python benchmarks/bench_viz.py --batch 16 --rounds 7)

solvers/imagenet-allcnn/deploy.prototxt with random weights, and the same net as an nn.Module for captum, cut above conv9 so
that nothing above is computed in either. The contenders take turns in one process, so that whatever else happens on the
machine happens to all of them. First their maps are compared. Printed are medians over the rounds, the range, and ratios;
then images/s of mining conv6 and conv9 over an LMDB of raw 224x224 images, beside those of the forward pass alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from captum.attr import GuidedBackprop
from torch import nn

from allconv_caffe.proto import Datum
from allconv_caffe.visualize.mining import mine
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.sources import open_images
from allconv_caffe.visualize.unit import Unit, argmax_units

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "solvers" / "imagenet-allcnn" / "deploy.prototxt"
BLOB = "conv9"
AIM = 1.5  # times captum, in its faster form


def random_net(device: str) -> VizNet:
    """Weights of He's standard deviation, so that about half of all units are active at every depth."""
    net = open_net(DEPLOY, device=device)
    rng = np.random.default_rng(0)
    net.set_params(
        {
            name: [
                rng.normal(0, np.sqrt(2 / np.prod(weight.shape[1:])), weight.shape).astype(np.float32),
                np.zeros_like(bias),
            ]
            for name, (weight, bias) in net.params().items()
        }
    )
    return net


def twin(net: VizNet, device: str) -> nn.Sequential:
    """The layers up to the ReLU of BLOB as an nn.Module, with the same weights."""
    params = net.params()
    layers: list[nn.Module] = []
    for layer in net.param.layer:
        if layer.type == "Convolution":
            param = layer.convolution_param
            weight, bias = (torch.from_numpy(array) for array in params[layer.name])
            stride, pad = (
                next(iter(values)) if values else default for values, default in ((param.stride, 1), (param.pad, 0))
            )
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], param.kernel_size[0], stride, pad)
            conv.weight.data, conv.bias.data = weight, bias  # type: ignore[union-attr]
            layers += [conv, nn.ReLU()]
        if layer.name == BLOB:
            break
    return nn.Sequential(*layers).to(device).eval()


def turns(
    contenders: dict[str, Callable[[], Any]], images: int, rounds: int, warmup: int = 2
) -> dict[str, list[float]]:
    """images/s of each contender in each round."""
    for _ in range(warmup):
        for run in contenders.values():
            run()
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            rates[name].append(images / (time.perf_counter() - start))
    return rates


def report(title: str, rates: dict[str, list[float]], first: str, aims: bool) -> None:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"\n{title:<44}{'images/s':>9}  {'range':<17}{'ours is':>8}{'   wanted' if aims else ''}")
    for name, values in rates.items():
        row = f"{name:<44}{medians[name]:>9.1f}  {f'{min(values):.1f} to {max(values):.1f}':<17}"
        if name != first:
            ratio = medians[first] / medians[name]
            row += f"{ratio:>7.2f}x" + (f"   {AIM:g}x: {'holds' if ratio >= AIM else 'FALLS SHORT'}" if aims else "")
        print(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mined", type=int, default=64, help="images that are mined in a turn")
    parser.add_argument("--json", type=Path, help="also write every rate to this file")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*backward hooks.*")
    warnings.filterwarnings("ignore", message=".*required_grads.*")
    torch.set_num_threads(options.threads)

    net = random_net(options.device)
    images = np.random.default_rng(1).normal(0, 60, (options.batch, *net.input_shape)).astype(np.float32)
    units = [Unit(unit.blob, unit.channel, unit.y, unit.x) for unit in argmax_units(net, images, BLOB)[0]]
    targets = [(unit.channel, unit.y, unit.x) for unit in units]

    contenders: dict[str, Callable[[], Any]] = {"allconv-caffe": lambda: reconstruct(net, images, units, "guided").maps}
    forward: dict[str, Callable[[], Any]] = {
        "allconv-caffe": lambda: net.forward(images, (BLOB,), until=BLOB)[BLOB],
    }
    for name, form in (("NCHW", torch.contiguous_format), ("channels_last", torch.channels_last)):
        model = twin(net, options.device).to(memory_format=form)  # type: ignore[call-overload]
        guided = GuidedBackprop(model)

        def attribute(guided: Any = guided, form: torch.memory_format = form) -> np.ndarray:
            x = torch.from_numpy(images).to(options.device).contiguous(memory_format=form).requires_grad_()
            return np.asarray(guided.attribute(x, target=targets).detach().cpu().numpy())

        def only_forward(model: nn.Module = model, form: torch.memory_format = form) -> np.ndarray:
            with torch.no_grad():
                x = torch.from_numpy(images).to(options.device).contiguous(memory_format=form)
                return np.asarray(model(x).cpu().numpy())

        contenders[f"captum, {name}"] = attribute
        forward[f"PyTorch, {name}"] = only_forward
    ours = contenders["allconv-caffe"]()
    for name, run in list(contenders.items())[1:]:
        worst = float(np.abs(run() - ours).max() / np.abs(ours).max())
        if not worst < 1e-4:
            raise SystemExit(
                f"bench_viz: {name}: maps differ by {worst:.1e} of the largest value, expected less than 1e-4"
            )

    device = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()}, {options.threads} threads"
    )
    print(f"All-CNN of Table 6, 224x224, from {BLOB}, batch {options.batch}, {device}, torch {torch.__version__}")
    print(f"medians of {options.rounds} interleaved turns; load of the machine before: {os.getloadavg()[0]:.1f}")
    record = {"reconstructions": turns(contenders, options.batch, options.rounds)}
    report("guided reconstructions", record["reconstructions"], "allconv-caffe", True)
    record["forward"] = turns(forward, options.batch, options.rounds)
    report(f"forward pass to {BLOB}", record["forward"], "allconv-caffe", False)

    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.default_rng(2).integers(0, 256, (options.mined, *net.input_shape), np.uint8)
        with lmdb.open(folder, map_size=1 << 30) as environment, environment.begin(write=True) as transaction:
            for i, image in enumerate(pixels):
                datum = Datum(channels=3, height=224, width=224, data=image.tobytes())
                transaction.put(b"%08d" % i, datum.SerializeToString())
        source = open_images(folder, net.input_shape)
        both = ("conv6", BLOB)

        def scan() -> None:
            mine(net, source, both, batch_size=options.batch, progress=False)

        def pass_only() -> None:
            for start in range(0, options.mined, options.batch):
                net.forward(pixels[start : start + options.batch].astype(np.float32), both, until=BLOB)

        record["mining"] = turns(
            {"mining": scan, "forward pass alone": pass_only}, options.mined, max(2, options.rounds // 2), 1
        )
    report("conv6 and conv9 over an LMDB", record["mining"], "mining", False)
    if options.json:
        options.json.write_text(
            json.dumps({"batch": options.batch, "threads": options.threads, **record}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
