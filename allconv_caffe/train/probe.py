"""A training that is heavy for its machine says how long it will take before its first test: from one image."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from allconv_caffe import proto
from allconv_caffe.caffe_torch.summary import summarize
from allconv_caffe.proto import NetParameter
from allconv_caffe.report.log import parse_log
from allconv_caffe.train import process
from allconv_caffe.train.estimate import PASSES, Pace, Work
from allconv_caffe.train.lease import Lease
from allconv_caffe.train.plan import Plan
from allconv_caffe.train.prototxt import DEPLOY

HEAVY = {"CPU": 2e13, "GPU": 1e15}
"""Multiply-adds up to the first displayed loss that are waited for in silence: minutes on a few cores (5e10 a second), and on
a small GPU (5e12).
"""
_AVERAGE = re.compile(r"\] Average (Forward pass|Forward-Backward): ([\d.e+]+) ms\.")


class Stopped(Exception):
    """Ctrl-C while it ran."""


def pace(plan: Plan, work: Work, lease: Lease, say: Callable[[str], None]) -> Pace | None:
    """Of a training whose first test and first iteration are more than is waited for in silence; None for a lighter one.

    The engine's own ``caffe time`` runs the net once, with a batch on a GPU and with one image on a CPU.

    Raises: Stopped.
    """
    deploy = plan.folder / DEPLOY
    net = with_loss(proto.read_net(deploy)) if deploy.exists() else None
    if net is None:
        return None  # somebody's own: its first test says it
    image = summarize(deploy).multiply_adds
    if image * (work.test_images + PASSES * work.batch_size) < HEAVY["GPU" if plan.engine.gpus else "CPU"]:
        return None
    devices = max(1, len(plan.engine.gpus))
    batch = max(1, plan.batch_size // devices) if plan.engine.gpus else 1
    for layer in net.layer:
        if layer.type == "Input":
            layer.input_param.shape[0].dim[0] = batch
    with tempfile.TemporaryDirectory(dir=plan.folder, prefix=".probe-") as folder:
        times = _timed(plan, net, Path(folder), lease)
    if isinstance(times, str):
        say(f"how long it will take is not known yet: {times}")
        return None
    forward, step = (seconds / batch for seconds in times)
    what = "one image" if batch == 1 else f"one batch of {batch}"
    return Pace(
        iteration_seconds=step * plan.batch_size / devices,
        test_seconds=forward * work.test_images,
        measured=f"{what}: {_big(PASSES * image)} multiply-adds an image and step, {_big(PASSES * image / step)} a second",
    )


def _timed(plan: Plan, net: NetParameter, folder: Path, lease: Lease) -> tuple[float, float] | str:
    """Seconds of a forward pass, and of one there and back; or why they are not known."""
    path, log = folder / "net.prototxt", folder / "log"
    proto.write_text(path, net)
    words = ["time", "-model", plan.path(path), "-iterations", "1"]
    command = process.command_of(plan.engine, words, plan.settings.caffe_flags)
    engine = process.start(plan.engine, command, log, plan.root, lease)
    try:
        with process.Interrupts(engine, lambda _: None) as interrupts:
            status = engine.wait()
    finally:
        process.end(engine)
    if interrupts.count:
        raise Stopped
    found = dict(_AVERAGE.findall(log.read_text(encoding="utf-8", errors="replace")))
    if status or len(found) < 2:
        return process.failure(log, parse_log(log), status)
    return float(found["Forward pass"]) / 1000, float(found["Forward-Backward"]) / 1000


def with_loss(net: NetParameter) -> NetParameter | None:
    """A deploy net with a loss for its softmax: without one Caffe goes no step back. None: a net of another form than ours."""
    if len(net.layer) < 2 or net.layer[0].type != "Input" or net.layer[-1].type != "Softmax":
        return None
    scores = net.layer[-1].bottom[0]
    del net.layer[-1]
    net.layer.add(name="label", type="Input", top=["label"]).input_param.shape.add(dim=[1])
    net.layer.add(name="loss", type="SoftmaxWithLoss", bottom=[scores, "label"], top=["loss"])
    return net


def _big(count: float) -> str:
    """``80.1 billion``."""
    for size, word in ((1e12, "trillion"), (1e9, "billion")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count / 1e6:.3g} million"
