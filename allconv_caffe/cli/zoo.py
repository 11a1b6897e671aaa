"""``allconv zoo``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from allconv_caffe.cli.words import completing, example, models as names_of_models

if TYPE_CHECKING:
    from allconv_caffe.zoo import Card

_FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("models"), show_default=True, help="where the models lie"
)
_JSON = click.option("--json", "json_", is_flag=True, help="for programs")
_MODELS = completing(names_of_models)


@click.group(epilog=example("allconv zoo list"))
def zoo() -> None:
    """Trained networks: weights, deploy net, whitening and a card with data, command, error and SHA-1."""


@zoo.command(
    "add", epilog=example("allconv zoo add runs/cifar10-allcnn-c/seed1-epochs350-torch --name cifar10-allcnn-c")
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", help="of the model; by default that of the experiment")
@click.option("--license", "license_", metavar="SPDX", help="for the card: bsd-2-clause, mit, cc-by-4.0, ...")
@_JSON
@_FOLDER
def add(run: Path, name: str | None, license_: str | None, json_: bool, folder: Path) -> None:
    """Make a model of a finished run's directory."""
    from allconv_caffe import zoo as models

    made = models.add(run, folder, name, license_=license_)
    _say(made, json_)


def _say(made: Card, json_: bool) -> None:
    """A model that has just been made."""
    if json_:
        click.echo(json.dumps({"folder": str(made.folder), **made.facts}, indent=2, ensure_ascii=False))
    else:
        click.echo(f"{made.folder}: {made.facts['test_error_percent']:.2f} % test error on {made.facts['dataset']}")


@zoo.command("verify", epilog=example("allconv zoo verify cifar10-allcnn-c --data data/cifar10"))
@click.argument("names", nargs=-1, metavar="[MODEL]...", shell_complete=_MODELS)
@click.option("--data", type=click.Path(path_type=Path), help="prepared data set: measure the error again")
@click.option("--quiet", is_flag=True, help="say only what differs")
@_JSON
@_FOLDER
def verify(names: tuple[str, ...], data: Path | None, quiet: bool, json_: bool, folder: Path) -> None:
    """Count and hash models again, all or those named; with --data, classify the test images."""
    from allconv_caffe import zoo as models

    chosen = names or tuple(entry.folder.name for entry in models.cards(folder))
    if not chosen:
        raise models.ZooError(folder, "no model", "MODEL/card.json (allconv zoo add makes one)")
    found = {name: models.verify(name, data, folder) for name in chosen} if json_ else {}
    if json_:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    bad = sum(map(len, found.values()))
    for name in () if json_ else chosen:
        problems = models.verify(name, data, folder)
        bad += len(problems)
        for line in problems:
            click.echo(line, err=True)
        if not problems and not quiet:
            click.echo(f"{name}: as its card says" + (", error included" if data is not None else ""))
    if bad:
        raise click.ClickException(f"{bad} differences")


@zoo.command("list", epilog=example("allconv zoo list --folder models"))
@_JSON
@_FOLDER
def list_(json_: bool, folder: Path) -> None:
    """Name every model with its data and error."""
    from allconv_caffe import zoo as models

    entries = models.cards(folder)
    if json_:
        click.echo(json.dumps([entry.facts for entry in entries], indent=2, ensure_ascii=False))
        return
    if not entries:
        click.echo(f"{folder}: no model; allconv zoo add makes one of a finished run", err=True)
    width = max((len(entry.facts["name"]) for entry in entries), default=0)
    for entry in entries:
        facts = entry.facts
        error, data = f"{facts['test_error_percent']:6.2f} %", f"{facts['dataset']}, {facts['epochs']:g} epochs"
        click.echo(f"{facts['name']:<{width}}  {error}  {data}")


@zoo.command("unpack", epilog=example("allconv zoo unpack cifar10-allcnn-c --output build/whitening.npz"))
@click.argument("model", shell_complete=_MODELS)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="file to write")
@_FOLDER
def unpack(model: str, output: Path, folder: Path) -> None:
    """Write a model's whitening in full, with the inverse matrix."""
    from allconv_caffe import zoo as models

    output.parent.mkdir(parents=True, exist_ok=True)
    click.echo(models.unpack(model, output, folder))


@zoo.command("get", epilog=example("allconv zoo get hf:somebody/cifar10-allcnn-c"))
@click.argument("model", metavar="NAME|URL|hf:OWNER/NAME[@REVISION]")
@click.option("--sha1", help="of the model's card.json, which has that of every file; needed but for the hub")
@click.option("--from", "base", metavar="URL", envvar="ALLCONV_ZOO", default="", help="a folder of models, for a NAME")
@click.option("--quiet", is_flag=True, help="no progress bars")
@_JSON
@_FOLDER
def get(model: str, sha1: str | None, base: str, quiet: bool, json_: bool, folder: Path) -> None:
    """Take a model from a web server or the Hugging Face hub; what has arrived is not asked for again."""
    from allconv_caffe import hub

    made = hub.get(model, folder, sha1=sha1, base=base, progress=not quiet)
    _say(made, json_)


@zoo.command("push", epilog=example("allconv zoo push cifar10-allcnn-c --to build/site"))
@click.argument("model", shell_complete=_MODELS)
@click.option("--to", required=True, metavar="FOLDER|hf:OWNER/NAME", help="a folder for a web server, or the hub")
@_JSON
@_FOLDER
def push(model: str, to: str, json_: bool, folder: Path) -> None:
    """Give a model to others, checked, with all its files; says what they type.

    The hub asks for the token that `hf auth login` keeps.
    """
    from allconv_caffe import hub

    pushed = hub.push(model, to, folder)
    name = pushed.where if to.startswith(hub.HUB) else f"URL/{Path(pushed.where).name}"
    if json_:
        click.echo(json.dumps({"where": pushed.where, "sha1": pushed.sha1}))
    else:
        click.echo(f"{pushed.where}: allconv zoo get {name} --sha1 {pushed.sha1}")
