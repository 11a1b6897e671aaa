"""`allconv`: parses arguments, calls one function, returns a status.

Verbs and options carry the words of Caffe and of the paper. What a user did wrong is said in one line, and the exit
status is 1; every help text ends with an example.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allconv_caffe.cli import figures as cli_figures, tables as cli_tables, viz as cli_viz, zoo as cli_zoo

if TYPE_CHECKING:
    from allconv_caffe.paper.render import RenderOptions

_OURS = ("allconv_caffe.", "data_prep.")

_OPTION_HELP = {
    "relu_last": "ReLU on the last 1x1 convolution: true or false",
    "negative_slope": "slope of the ReLUs below zero",
    "filler": "weight filler: xavier, gaussian or msra",
    "filler_std": "standard deviation of the gaussian filler",
    "bias_lr_mult": "lr_mult of the biases",
    "bias_decay_mult": "decay_mult of the biases",
    "stride_on": "where Strided-CNN-B has its stride: 1x1 or 5x5",
    "conv7_pad": "padding in pixels of the last 3x3 convolution",
    "dropout": "where dropout stands: paper, all, 1x1 or none",
    "input_dropout": "dropout rate on the image",
    "dropout_ratio": "dropout rate inside the network",
    "num_output": "number of classes",
    "epochs": "epochs in all; the schedule in proportion",
    "drop_epochs": "epochs after which the rate drops, with commas between",
    "lr": "base_lr",
    "clip_gradients": "largest L2 norm of the whole gradient",
    "batch_size": "images of one training iteration",
    "test_batch_size": "images of one test iteration; divides the test set",
    "solver_mode": "GPU or CPU",
    "train_lmdb": "LMDB of the training images",
    "test_lmdb": "LMDB of the test images",
    "n_train": "number of training images",
    "n_test": "number of test images",
    "image_size": "height and width of a Datum in pixels",
    "crop_size": "pixels the network sees of them",
    "momentum": "of SGD",
    "weight_decay": "of SGD",
    "random_seed": "random_seed of the solver",
    "device_id": "device_id of the solver",
    "channels": "channels of a Datum",
    "scale": "factor on the values, after the mean",
    "mean_value": "subtracted from each channel, with commas between",
    "mean_file": "mean image (binaryproto) subtracted, for an LMDB of raw bytes",
    "mirror": "horizontal flips in training: true or false",
    "net_path": "net as written into the solver",
    "snapshot_prefix": "snapshot_prefix as written into the solver",
    "display": "iterations between two displayed losses",
    "test_interval": "iterations between two tests",
    "snapshot": "iterations between two snapshots",
}


class _Main(click.Group):
    """Says in one line what a user did wrong; a defect of ours keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            ctx.exit(130)
        except Exception as error:
            if not isinstance(error, OSError) and not type(error).__module__.startswith(_OURS):
                raise
            raise click.ClickException(_line(error)) from None


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    return " ".join(str(error).split("\n")) or type(error).__name__


def _example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def _render_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for each field of RenderOptions, so that a new field needs no line here."""
    from allconv_caffe.paper.render import RenderOptions

    for entry in reversed(dataclasses.fields(RenderOptions)):
        flag = "--" + entry.name.replace("_", "-")
        command = click.option(
            flag, entry.name, metavar="VALUE", default=None, help=_OPTION_HELP.get(entry.name, entry.name)
        )(command)
    return command


def _chosen(texts: dict[str, str | None]) -> RenderOptions:
    from allconv_caffe.paper.render import RenderOptions, option_from_text

    return RenderOptions(**{name: option_from_text(name, text) for name, text in texts.items() if text is not None})


def _pairs(texts: Sequence[str]) -> dict[str, Any]:
    """``name=value`` words as values of RenderOptions."""
    from allconv_caffe.paper.render import option_from_text

    values: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise click.BadParameter(f"{text!r}: expected name=value, e.g. filler=msra")
        name = name.strip().replace("-", "_")
        values[name] = option_from_text(name, value.strip())
    return values


@click.group(
    cls=_Main,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_example("allconv render cifar10-allcnn-c --epochs 35 --output build/short"),
)
@click.version_option(package_name="allconv-caffe")
def main() -> None:
    """Striving for Simplicity: The All Convolutional Net, with Caffe networks."""


@main.command(
    epilog=_example(
        "allconv render --check",
        "allconv render cifar10-model-c --lr 0.01 --output build/c",
        "allconv render cifar10-allcnn-c --relu guided",
    )
)
@click.argument("experiments", nargs=-1, metavar="[EXPERIMENT]...")
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
def render(
    experiments: tuple[str, ...], check: bool, list_: bool, output: Path | None, relu: str | None, **texts: str | None
) -> None:
    """Tables and templates to solver, train_val and deploy prototxt: all experiments, or those named."""
    from allconv_caffe.paper import render as rendering
    from allconv_caffe.paper.experiments import EXPERIMENTS

    given = [name for name, text in texts.items() if text is not None]
    if list_:
        for experiment in EXPERIMENTS.values():
            click.echo(f"{experiment.name:<26}{experiment.source}")
        return
    if check:
        if given or output or relu:
            raise click.UsageError("--check compares what is committed; it takes no other option")
        differences = rendering.check(names=experiments or None)
        for line in differences:
            click.echo(line, err=True)
        if differences:
            raise click.ClickException(f"{len(differences)} differences; `allconv render` writes the files again")
        click.echo(f"{len(experiments) or len(EXPERIMENTS)} experiments are as rendered")
        return
    if not experiments and (given or output or relu):
        raise click.UsageError("options need the name of an experiment (allconv render --list names them)")
    if len(experiments) > 1 and output:
        raise click.UsageError(f"--output takes one experiment, found {len(experiments)}")
    if given or output or relu:
        options = _chosen(texts)
        for name in experiments:
            for path in rendering.write(name, output, options, relu=relu):
                click.echo(path)
        return
    paths = rendering.write_all(names=experiments or None)
    click.echo(f"wrote {len(paths)} files of {len(paths) // len(rendering.FILES)} experiments into solvers/")


@main.group(epilog=_example("allconv prep cifar10 --source ~/cifar-10-python.tar.gz"))
def prep() -> None:
    """Archives and image folders to whitened LMDBs."""


def _prep_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.option("--output", type=click.Path(path_type=Path), help="folder of the finished data set"),
            click.option("--preprocessing", default="gcn-zca", show_default=True, help="gcn-zca, gcn or raw"),
            click.option("--gcn-scale", type=float, default=55.0, show_default=True, help="norm of an image after GCN"),
            click.option(
                "--zca-bias", type=float, default=0.1, show_default=True, help="added to the diagonal of the covariance"
            ),
            click.option(
                "--pad",
                type=int,
                default=0,
                show_default=True,
                help="zeros on each side; 5 gives 42x42 for random crops",
            ),
            click.option("--seed", type=int, default=0, show_default=True, help="decides the order of the records"),
            click.option("--force", is_flag=True, help="replace a finished data set"),
            click.option("--quiet", is_flag=True, help="no progress bars"),
        ]
    ):
        command = option(command)
    return command


def _prepare(dataset: str, source: Path | None, output: Path, force: bool, quiet: bool, **constants: Any) -> None:
    from data_prep import pipeline

    if source is not None:
        with contextlib.suppress(RuntimeError):  # ~nobody
            source = source.expanduser()  # make hands "~" on as it was typed
    if not force and pipeline.is_prepared(output):
        pipeline.check_same(output, source, dataset=dataset, **constants)
        click.echo(f"{output}: already prepared; --force prepares it again")
        return
    source = source or _official(dataset, Path("data"), quiet)
    manifest = pipeline.prepare(source, output, dataset=dataset, force=force, progress=not quiet, **constants)
    click.echo(f"{output}: {manifest.display_name}, {manifest.n_train} training and {manifest.n_test} test images")


def _official(dataset: str, folder: Path, quiet: bool) -> Path:
    """The official archive in `folder`, downloaded if neither of its two forms is there."""
    from data_prep import download

    stem = {"cifar10": "cifar-10", "cifar100": "cifar-100"}[dataset]
    for form in ("python", "binary"):
        path = folder / f"{stem}-{form}.tar.gz"
        if path.is_file():
            return path
    folder.mkdir(parents=True, exist_ok=True)
    return Path(download.download(f"{stem}-python.tar.gz", folder, progress=not quiet))


@prep.command("cifar10", epilog=_example("allconv prep cifar10 --source ~/cifar-10-python.tar.gz"))
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="an archive or image folder; left out: data/cifar-10-*.tar.gz, downloaded if missing",
)
@_prep_options
def prep_cifar10(source: Path | None, output: Path | None, **others: Any) -> None:
    """CIFAR-10, by default into data/cifar10."""
    output = output or Path("data/cifar10-pad5" if others["pad"] == 5 else "data/cifar10")
    _prepare("cifar10", source, output, **others)


@prep.command("cifar100", epilog=_example("allconv prep cifar100 --labels coarse --output data/cifar100-coarse"))
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="an archive; left out: data/cifar-100-*.tar.gz, downloaded if missing",
)
@click.option("--labels", default="fine", show_default=True, help="fine (100) or coarse (20)")
@_prep_options
def prep_cifar100(source: Path | None, output: Path | None, **others: Any) -> None:
    """CIFAR-100, by default into data/cifar100."""
    output = output or Path("data/cifar100" if others["labels"] == "fine" else "data/cifar100-coarse")
    _prepare("cifar100", source, output, **others)


@prep.command("images", epilog=_example("allconv prep images photos.tar.xz --output data/photos"))
@click.argument("source", type=click.Path(path_type=Path))
@_prep_options
def prep_images(source: Path, output: Path | None, **others: Any) -> None:
    """A tree or archive of train/CLASS/* and test/CLASS/* images."""
    _prepare("images", source, output or Path("data") / source.name.split(".")[0], **others)


@prep.command("verify", epilog=_example("allconv prep verify data/cifar10 --grid grid.png"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--grid", type=click.Path(path_type=Path), help="PNG of sample images, as seen and as whitened")
def prep_verify(folder: Path, grid: Path | None) -> None:
    """Recount, re-hash and show class counts of a prepared data set."""
    from data_prep.verify import verify

    report = verify(folder, grid)
    click.echo(str(report))
    if not report.ok:
        raise click.ClickException(f"{folder}: {len(report.problems)} problems")


@prep.command("download", epilog=_example("allconv prep download cifar-10-python.tar.gz --output data"))
@click.argument("archive")
@click.option("--output", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="folder")
@click.option("--url", help="another address than the official one")
@click.option("--quiet", is_flag=True, help="no progress bar")
def prep_download(archive: str, output: Path, url: str | None, quiet: bool) -> None:
    """An official archive, resumed where it stopped, checked by MD5."""
    from data_prep.download import download

    output.mkdir(parents=True, exist_ok=True)
    click.echo(download(archive, output, url, progress=not quiet))


@main.command(epilog=_example("allconv run cifar10-allcnn-c --data ~/cifar-10-python.tar.gz --epochs 35 --seed 2"))
@click.argument("experiment")
@click.option("--engine", default="auto", show_default=True, help="auto, caffe or torch")
@click.option("--gpu", help="device numbers, e.g. 0 or 0,1; none for the CPU")
@click.option("--data", type=click.Path(path_type=Path), help="archive, image folder or prepared data set")
@click.option("--lr", type=float, help="base_lr")
@click.option("--epochs", type=float, help="epochs in all; the schedule in proportion")
@click.option("--seed", type=int, default=1, show_default=True, help="random_seed")
@click.option("--batch-size", type=int, help="images of one update")
@click.option("--precision", default="float32", show_default=True, help="float32, tf32 or bf16 (engine torch)")
@click.option(
    "--rng",
    default="torch",
    show_default=True,
    help="torch, or caffe: seed-exact, BVLC Caffe's own random numbers on the CPU (engine torch)",
)
@click.option("--threads", type=int, help="CPU threads")
@click.option("--retries", type=int, default=0, show_default=True, help="trainings begun again after a dead one")
@click.option("--no-download", is_flag=True, help="fail where the data are not on this machine")
@click.option(
    "--runs-dir",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="where run directories are kept",
)
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="an option of `allconv render`, repeatable")
@click.argument("caffe_flags", nargs=-1, type=click.UNPROCESSED)
def run(
    experiment: str,
    data: Path | None,
    no_download: bool,
    pairs: tuple[str, ...],
    caffe_flags: tuple[str, ...],
    **settings: Any,
) -> None:
    """Do whatever is missing of an experiment: data, prototxt, training, test, record. Continues what was begun.

    What stands after -- goes to the engine's `caffe train` as it is.
    """
    from allconv_caffe.train import run as driver

    result = driver.run(
        experiment,
        driver.RunSettings(
            data=data,
            download=not no_download,
            options=_pairs(pairs),
            caffe_flags=caffe_flags,
            command=" ".join(["allconv", *sys.argv[1:]]),
            **settings,
        ),
        say=click.echo,
    )
    status = {"done": 0, "interrupted": 130}.get(result.status, 1)
    if status:
        click.get_current_context().exit(status)


@main.command(epilog=_example("allconv report --trends"))
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--trends", is_flag=True, help="check the sentences of section 3.2 that compare networks")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("runs/report"),
    show_default=True,
    help="gets report.md, report.csv and report.html",
)
def report(folders: tuple[Path, ...], trends: bool, output: Path) -> None:
    """Measured beside published, for all runs below FOLDERS (default: runs and results)."""
    from allconv_caffe.report import build

    click.echo(build.build(folders or build.DEFAULT_FOLDERS, output, trends))
    click.echo(f"written: {output}/report.md, report.csv, report.html", err=True)


@main.command(epilog=_example("allconv doctor --json"))
@click.option("--json", "json_", is_flag=True, help="the same facts for programs")
def doctor(json_: bool) -> None:
    """Which engines, GPUs, data sets and versions were found, and what to do about what is missing."""
    from allconv_caffe import doctor as examination

    found = examination.examine()
    click.echo(json.dumps(found, indent=2) if json_ else examination.text(found))
    if not found["can_run"]:
        click.get_current_context().exit(1)


@main.command(epilog=_example("allconv quickstart --seed 2"))
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("."),
    show_default=True,
    help="gets data/quickstart and runs/quickstart",
)
@click.option("--seed", type=int, default=1, show_default=True, help="of the pictures, the weights and dropout")
@click.option("--engine", default="torch", show_default=True, help="auto, caffe or torch")
@click.option("--gpu", help="device number; none for the CPU")
@click.option("--epochs", type=float, help="epochs in all")
def quickstart(**settings: Any) -> None:
    """The main job in minutes, without a download: draws a data set, prepares, trains, tests, plots.

    Status 1 where the network has not learned: 20 % error or more, or less than 15 points below a linear classifier.
    """
    from allconv_caffe.train import quickstart as main_job

    result = main_job.run(**settings, say=click.echo)
    if result is None or not result.learned:
        click.get_current_context().exit(1)


for _command in (cli_tables.derive, cli_tables.summary, cli_zoo.zoo, cli_viz.viz):
    main.add_command(_command)
for _command in cli_figures.COMMANDS:
    cli_viz.viz.add_command(_command)
