"""``allconv export``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from allconv_caffe.cli.answers import of_a_model, say_if_unprepared
from allconv_caffe.cli.telling import Told, telling
from allconv_caffe.cli.viz_options import PATH, Inputs
from allconv_caffe.cli.words import example

if TYPE_CHECKING:
    from allconv_caffe.export.pixels import Preparation
    from allconv_caffe.visualize.nets.native import EngineNet


@click.command(
    "export",
    epilog=example(
        "allconv export cifar10-allcnn-c-jpeg --to onnx --output build/all_cnn_c.onnx",
        "allconv export cifar10-allcnn-c-jpeg --to torch --output build/all_cnn_c.py",
    ),
)
@telling("the file, inputs, outputs and the check")
@of_a_model(own=("weights_path", "whitening", "mean", "scale", "order"))
@click.option(
    "--to",
    type=click.Choice(["onnx", "torch", "safetensors"]),
    required=True,
    help="the format; safetensors: the weights alone",
)
@click.option(
    "--output",
    type=PATH,
    required=True,
    metavar="FILE",
    help="written whole or not at all; for torch a .py, its weights beside it",
)
@click.option(
    "--input",
    "input_",
    type=click.Choice(["pixels", "prepared"]),
    default="pixels",
    show_default=True,
    help="uint8 RGB pixels in, probabilities out; or the bare net, from its input blob to its outputs",
)
def export(inputs: Inputs, told: Told, to: str, output: Path, input_: str) -> None:
    """A net for other programs, its preparation inside, checked against this engine before it is written.

    MODEL is a name of models/, a run's folder, or a deploy prototxt with --weights.
    """
    from allconv_caffe.export import onnx_file, torch_file
    from allconv_caffe.visualize.nets.native import EngineNet

    net = inputs.open_net()
    assert isinstance(net, EngineNet)  # of the engine that `Inputs` has where no --engine is asked for
    preparation, pixels = _preparation(inputs, net), input_ == "pixels"
    if to == "torch":
        told.say("asking the module, plain and under torch.compile ...", err=True)
    if to == "safetensors":
        written = torch_file.export_weights(net.net, output, preparation)
    else:
        written = {"onnx": onnx_file, "torch": torch_file}[to].export(net.net, output, preparation, pixels=pixels)
    if pixels:
        say_if_unprepared(inputs, told)
    told.say(f"{written.path}: {written.inputs} -> {written.outputs}")
    told.end(
        dataclasses.asdict(written),
        f"checked: {written.checked}; answers differ from this engine's by {written.difference:.1e} at most",
    )


def _preparation(inputs: Inputs, net: EngineNet) -> Preparation:
    from allconv_caffe.export.pixels import Preparation

    space = inputs.space
    return Preparation(
        order=space.order,
        mean=None if space.mean is None else space.mean_for(net.input_shape),
        scale=space.scale,
        whitening=space.whitening,
        blob=space.blob,
        class_names=inputs.class_names,
    )
