"""``allconv render``, ``allconv derive`` and ``allconv summary``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allconv_caffe.cli.telling import Told, telling
from allconv_caffe.cli.words import (
    Words,
    command_line,
    completing,
    example,
    experiments as names_of_experiments,
    networks,
    pairs_from_text,
)

if TYPE_CHECKING:
    from allconv_caffe.paper.options import RenderOptions


def _render_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each field of RenderOptions, so that a new field needs no line here."""
    from allconv_caffe.paper.options import RenderOptions
    from allconv_caffe.paper.rules import helps

    words = helps(RenderOptions)
    for entry in reversed(dataclasses.fields(RenderOptions)):
        flag = "--" + entry.name.replace("_", "-")
        command = click.option(flag, entry.name, metavar="VALUE", default=None, help=words[entry.name])(command)
    return command


def _chosen(texts: dict[str, str | None]) -> RenderOptions:
    from allconv_caffe.paper.options import RenderOptions, option_from_text

    return RenderOptions(**{name: option_from_text(name, text) for name, text in texts.items() if text is not None})


@click.command(
    epilog=example(
        "allconv render --check",
        "allconv render cifar10-model-c --lr 0.01 --output build/c",
        "allconv render cifar10-allcnn-c --relu guided",
    )
)
@click.argument("experiments", nargs=-1, metavar="[EXPERIMENT]...", shell_complete=completing(names_of_experiments))
@click.option("--check", is_flag=True, help="write nothing; fail where a file differs from what would be rendered")
@click.option("--list", "list_", is_flag=True, help="only name the experiments")
@click.option("--output", type=click.Path(path_type=Path), help="another folder than solvers/EXPERIMENT")
@click.option(
    "--relu",
    metavar="RULE",
    help="a deploy net to look inside with: guided, deconv (Python layers in place "
    "of the ReLUs) or plain, with force_backward; into build/EXPERIMENT-RULE",
)
@_render_options
@telling("the files; with --list the experiments, with --check the differences")
def render(
    told: Told,
    experiments: tuple[str, ...],
    check: bool,
    list_: bool,
    output: Path | None,
    relu: str | None,
    **texts: str | None,
) -> None:
    """Tables and templates to solver, train_val and deploy prototxt: all experiments, or those named."""
    from allconv_caffe.paper import render as rendering
    from allconv_caffe.paper.experiments import EXPERIMENTS

    given = [name for name, text in texts.items() if text is not None]
    if list_:
        width = max(map(len, EXPERIMENTS))
        named = [{"name": entry.name, "title": entry.title, "source": entry.source} for entry in EXPERIMENTS.values()]
        told.end({"experiments": named}, *(f"{entry['name']:<{width}}  {entry['source']}" for entry in named))
        return
    if check:
        if given or output or relu:
            raise click.UsageError("--check compares what is committed; it takes no other option")
        differences = rendering.check(names=experiments or None)
        for line in differences:
            told.say(line, err=True)
        checked = experiments or tuple(EXPERIMENTS)
        answer = {"checked": checked, "differences": differences}
        told.end(answer, *([] if differences else [f"{len(checked)} experiments are as rendered"]))
        if differences:
            raise click.ClickException(f"{len(differences)} differences; `allconv render` writes the files again")
        return
    if not experiments and (given or output or relu):
        raise click.UsageError("options need the name of an experiment (allconv render --list names them)")
    if len(experiments) > 1 and output:
        raise click.UsageError(f"--output takes one experiment, found {len(experiments)}")
    if given or output or relu:
        options = _chosen(texts)
        paths = [path for name in experiments for path in rendering.write(name, output, options, relu=relu)]
        told.end({"files": paths}, *paths)
        return
    paths = rendering.write_all(names=experiments or None)
    many = len({path.parent for path in paths})
    told.end({"files": paths}, f"wrote {len(paths)} files of {many} experiments into solvers/")


@click.command(
    epilog=example(
        "allconv derive strided_cnn_a --data data/cifar10-jpeg --width-multiplier 0.25 --output build/small",
        "allconv derive all_cnn_c --width-multiplier 0.5 --output build/half-all-cnn-c",
    )
)
@click.argument("source", metavar="TABLE.toml|TABLE.py|NETWORK", shell_complete=completing(networks))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="folder to write")
@click.option("--name", help="name of the variant; by default the table's")
@click.option(
    "--transform",
    metavar="NAME",
    help="strided, conv_pool, all_conv, pnorm_pool, fully_connected or none, in place of the source's own; several with commas",
)
@click.option("--widths", metavar="LIST", help="other channels: 64,128 or 96=64,192=128")
@click.option("--width-multiplier", type=float, help="all channels times this")
@click.option("--kernel-sizes", metavar="LIST", help="other kernel sizes: 5 or 5=3")
@click.option("--depth", type=int, help="convolutions before each pool")
@click.option("--dataset", metavar="NAME", help="cifar10, cifar100, ...: whose paths and counts the solver uses")
@click.option(
    "--data", type=click.Path(path_type=Path), help="prepared data set: its classes, size and counts, and where it lies"
)
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="an option of `allconv render`, repeatable")
@telling("the name, parameters and files")
def derive(
    told: Told,
    source: str,
    output: Path,
    name: str | None,
    transform: str | None,
    widths: str | None,
    width_multiplier: float | None,
    kernel_sizes: str | None,
    depth: int | None,
    dataset: str | None,
    data: Path | None,
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
        options={**_of_data(data, dataset), **pairs_from_text(pairs)},
        command=command_line(),
    )
    for path in derived.files:
        told.say(path)
    name = derived.experiment.name
    answer = {"name": name, "parameters": derived.parameters, "solver": derived.files[0], "files": derived.files}
    told.end(answer, f"{name}: {derived.parameters:,} parameters; caffe train -solver {derived.files[0]}")


def _of_data(data: Path | None, dataset: str | None) -> dict[str, Any]:
    if data is None:
        return {}
    from allconv_caffe.paper.datasets import DATASETS
    from allconv_caffe.train.data import render_options

    return render_options(data, DATASETS.get(dataset or "", DATASETS["cifar10"]))


@click.command(epilog=example("allconv summary solvers/cifar10-allcnn-c/deploy.prototxt --format markdown"))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--phase", type=Words(["TRAIN", "TEST"]), default="TEST", show_default=True, help="of the net")
@click.option("--input-shape", metavar="C,H,W", help="shape of the images, where the file does not say it")
@click.option("--level", default=0, help="NetState level")
@click.option("--stage", "stages", multiple=True, help="NetState stage, repeatable")
@click.option("--format", "form", type=Words(["text", "markdown", "json"]), default="text", show_default=True)
@telling("the same")
def summary(
    told: Told, file: Path, phase: str, input_shape: str | None, level: int, stages: tuple[str, ...], form: str
) -> None:
    """Shapes, parameters, multiply-adds, receptive fields and multipliers of any net's prototxt, layer by layer."""
    from allconv_caffe.caffe_torch import summary as summing

    shape = None if input_shape is None else summing.shape_from_text(input_shape)
    found = summing.summarize(file, phase, input_shape=shape, level=level, stages=stages)
    text = summing.format_summary(found, form).rstrip("\n")
    told.end(summing.facts(found), summing.brief(found) if told.quiet else text)
