"""``allconv zoo``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

from pathlib import Path

import click

from allconv_caffe.cli.words import example

_FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("models"), show_default=True, help="where the models lie"
)


@click.group(epilog=example("allconv zoo list"))
def zoo() -> None:
    """Trained networks: weights, deploy net, whitening and a card with data, command, error and SHA-1."""


@zoo.command(
    "add", epilog=example("allconv zoo add runs/cifar10-allcnn-c/seed1-epochs350-torch --name cifar10-allcnn-c")
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", help="of the model; by default that of the experiment")
@_FOLDER
def add(run: Path, name: str | None, folder: Path) -> None:
    """Make a model of a finished run's directory."""
    from allconv_caffe import zoo as models

    made = models.add(run, folder, name)
    click.echo(f"{made.folder}: {made.facts['test_error_percent']:.2f} % test error on {made.facts['dataset']}")


@zoo.command("verify", epilog=example("allconv zoo verify cifar10-allcnn-c --data data/cifar10"))
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.option("--data", type=click.Path(path_type=Path), help="prepared data set: measure the error again")
@_FOLDER
def verify(names: tuple[str, ...], data: Path | None, folder: Path) -> None:
    """Count and hash models again, all or those named; with --data, classify the test images."""
    from allconv_caffe import zoo as models

    chosen = names or tuple(entry.folder.name for entry in models.cards(folder))
    if not chosen:
        raise models.ZooError(folder, "no model", "MODEL/card.json (allconv zoo add makes one)")
    bad = 0
    for name in chosen:
        problems = models.verify(name, data, folder)
        bad += len(problems)
        for line in problems:
            click.echo(line, err=True)
        if not problems:
            click.echo(f"{name}: as its card says" + (", error included" if data is not None else ""))
    if bad:
        raise click.ClickException(f"{bad} differences")


@zoo.command("list", epilog=example("allconv zoo list --folder models"))
@_FOLDER
def list_(folder: Path) -> None:
    """Name every model with its data and error."""
    from allconv_caffe import zoo as models

    entries = models.cards(folder)
    if not entries:
        click.echo(f"{folder}: no model; allconv zoo add makes one of a finished run", err=True)
    width = max((len(entry.facts["name"]) for entry in entries), default=0)
    for entry in entries:
        facts = entry.facts
        error, data = f"{facts['test_error_percent']:6.2f} %", f"{facts['dataset']}, {facts['epochs']:g} epochs"
        click.echo(f"{facts['name']:<{width}}  {error}  {data}")


@zoo.command("unpack", epilog=example("allconv zoo unpack cifar10-allcnn-c --output build/whitening.npz"))
@click.argument("model")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="file to write")
@_FOLDER
def unpack(model: str, output: Path, folder: Path) -> None:
    """Write a model's whitening in full, with the inverse matrix."""
    from allconv_caffe import zoo as models

    output.parent.mkdir(parents=True, exist_ok=True)
    click.echo(models.unpack(model, output, folder))
