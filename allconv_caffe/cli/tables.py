"""``allconv derive`` and ``allconv summary``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click


def _pairs(texts: tuple[str, ...]) -> dict[str, object]:
    from allconv_caffe.paper.render import option_from_text

    values: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise click.BadParameter(f"{text!r}: expected name=value, e.g. filler=msra")
        name = name.strip().replace("-", "_")
        values[name] = option_from_text(name, value.strip())
    return values


@click.command(epilog="\b\nExample:\n  allconv derive all_cnn_c --width-multiplier 0.5 --output build/half-all-cnn-c")
@click.argument("source", metavar="TABLE.toml|TABLE.py|NETWORK")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="folder to write")
@click.option("--name", help="name of the variant; by default the table's")
@click.option("--transform", metavar="NAME", help="none, strided, conv_pool or all_conv, in place of the source's own")
@click.option("--widths", metavar="LIST", help="other channels: 64,128 or 96=64,192=128")
@click.option("--width-multiplier", type=float, help="all channels times this")
@click.option("--kernel-sizes", metavar="LIST", help="other kernel sizes: 5 or 5=3")
@click.option("--depth", type=int, help="convolutions before each pool")
@click.option("--dataset", metavar="NAME", help="cifar10, cifar100, ...: whose paths and counts the solver uses")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="an option of `allconv render`, repeatable")
def derive(
    source: str,
    output: Path,
    name: str | None,
    transform: str | None,
    widths: str | None,
    width_multiplier: float | None,
    kernel_sizes: str | None,
    depth: int | None,
    dataset: str | None,
    pairs: tuple[str, ...],
) -> None:
    """A new variant from a table of your own, or from a network of the paper (model_c, all_cnn_c, ...).

    The folder it writes is ready for `caffe train`. The form of a table stands in docs/architectures.md.
    """
    from allconv_caffe.paper import derive as deriving

    sizes = None if kernel_sizes is None else deriving.numbers_from_text(kernel_sizes, "option kernel-sizes")
    if isinstance(sizes, list) and len(sizes) != 1:
        raise click.BadParameter(f"{kernel_sizes!r}: expected one size, or old=new pairs", param_hint="--kernel-sizes")
    derived = deriving.derive(
        source,
        output,
        name=name,
        transform=transform,
        widths=None if widths is None else deriving.numbers_from_text(widths, "option widths"),
        width_multiplier=width_multiplier,
        kernel_sizes=sizes[0] if isinstance(sizes, list) else sizes,
        depth=depth,
        dataset=dataset,
        options=_pairs(pairs),
        command=" ".join(["allconv", *map(shlex.quote, sys.argv[1:])]),
    )
    for path in derived.files:
        click.echo(path)
    click.echo(f"{derived.experiment.name}: {derived.parameters:,} parameters; caffe train -solver {derived.files[0]}")


@click.command(epilog="\b\nExample:\n  allconv summary solvers/cifar10-allcnn-c/deploy.prototxt --format markdown")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--phase", default="TEST", show_default=True, metavar="PHASE", help="TRAIN or TEST")
@click.option("--input-shape", metavar="C,H,W", help="shape of the images, where the file does not say it")
@click.option("--level", default=0, help="NetState level")
@click.option("--stage", "stages", multiple=True, help="NetState stage, repeatable")
@click.option("--format", "form", default="text", show_default=True, metavar="FORMAT", help="text, markdown or json")
def summary(file: Path, phase: str, input_shape: str | None, level: int, stages: tuple[str, ...], form: str) -> None:
    """Shapes, parameters, multiply-adds, receptive fields and multipliers of any net's prototxt, layer by layer."""
    from allconv_caffe.caffe_torch import summary as summing

    shape = None if input_shape is None else summing.shape_from_text(input_shape)
    found = summing.summarize(file, phase, input_shape=shape, level=level, stages=stages)
    click.echo(summing.format_summary(found, form), nl=False)
