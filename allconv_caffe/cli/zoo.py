"""``allconv zoo``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from allconv_caffe.cli.telling import Told, telling
from allconv_caffe.cli.words import completing, example, models as names_of_models, models_to_get

if TYPE_CHECKING:
    from allconv_caffe.zoo import Card

_FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("models"), show_default=True, help="where the models lie"
)
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
@_FOLDER
@telling("its card")
def add(told: Told, run: Path, name: str | None, license_: str | None, folder: Path) -> None:
    """Make a model of a finished run's directory."""
    from allconv_caffe import zoo as models

    _say(told, models.add(run, folder, name, license_=license_))


def _say(told: Told, made: Card) -> None:
    """A model that has just been made."""
    words = f"{made.facts['test_error_percent']:.2f} % test error on {made.facts['dataset']}"
    told.end({"folder": made.folder, **made.facts}, f"{made.folder}: {words}")


@zoo.command("verify", epilog=example("allconv zoo verify cifar10-allcnn-c --data data/cifar10"))
@click.argument("names", nargs=-1, metavar="[MODEL]...", shell_complete=_MODELS)
@click.option("--data", type=click.Path(path_type=Path), help="prepared data set: measure the error again")
@_FOLDER
@telling("what differs, a list for each model")
def verify(told: Told, names: tuple[str, ...], data: Path | None, folder: Path) -> None:
    """Count and hash models again, all or those named; with --data, classify the test images."""
    from allconv_caffe import zoo as models

    chosen = names or tuple(entry.folder.name for entry in models.cards(folder))
    if not chosen:
        raise models.ZooError(
            folder, "no model", "MODEL/card.json (`allconv zoo get NAME` and `allconv zoo add` make one)"
        )
    found, right = {}, "as its card says" + (", error included" if data is not None else "")
    for name in chosen:
        found[name] = models.verify(name, data, folder)
        for line in found[name]:
            click.echo(line, err=True)
        if not found[name]:
            told.say(f"{name}: {right}")
    told.end(found, *([f"{len(chosen)} verified"] if told.quiet else []))
    if bad := sum(map(len, found.values())):
        raise click.ClickException(f"{bad} differences")


@zoo.command("list", epilog=example("allconv zoo list --from build/site", "allconv zoo list --folder models"))
@click.option("--from", "base", metavar="URL|FOLDER", help="those that `allconv zoo get` can take from there")
@_FOLDER
@telling("their cards, or what the catalogue says of them")
def list_(told: Told, base: str | None, folder: Path) -> None:
    """Name every model with its data and error."""
    from allconv_caffe import hub, zoo as models

    if base is not None:
        cards = [{"name": name, **entry} for name, entry in hub.catalogue(hub.place_of(base)).items()]
        told.end({"models": cards}, *(models.columns(cards) or [f"{base}: no model"]), err=not cards)
        return
    cards = [entry.facts for entry in models.cards(folder)]
    lines = models.columns(cards)
    if not cards:
        names = ", ".join(models_to_get())
        lines = [
            f"{folder}: no model; `allconv zoo get NAME` puts one there ({names}), `allconv zoo add` makes one of a finished run"
        ]
    told.end({"models": cards}, *lines, err=not cards)


@zoo.command("unpack", epilog=example("allconv zoo unpack cifar10-allcnn-c --output build/whitening.npz"))
@click.argument("model", shell_complete=_MODELS)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="file to write")
@_FOLDER
@telling("the file")
def unpack(told: Told, model: str, output: Path, folder: Path) -> None:
    """Write a model's whitening in full, with the inverse matrix."""
    from allconv_caffe import zoo as models

    output.parent.mkdir(parents=True, exist_ok=True)
    file = models.unpack(model, output, folder)
    told.end({"file": file}, file)


@zoo.command(
    "get",
    epilog=example(
        "allconv zoo get hf:somebody/cifar10-allcnn-c",
        "allconv zoo get cifar10-allcnn-c --from build/site",
        "allconv zoo get cifar10-allcnn-c-jpeg",
    ),
)
@click.argument("model", metavar="NAME|URL|hf:OWNER/NAME[@REVISION]", shell_complete=completing(models_to_get))
@click.option(
    "--sha1",
    help="of the model's card.json, which has that of every file; needed for a URL only",
)
@click.option(
    "--from",
    "base",
    metavar="URL|FOLDER",
    envvar="ALLCONV_ZOO",
    show_envvar=True,
    default="",
    help="a folder of models that `allconv zoo push` has made, here or on a web server, for a NAME; without it, NAME is one of "
    "those that come with this package",
)
@_FOLDER
@telling("its card")
def get(told: Told, model: str, sha1: str | None, base: str, folder: Path) -> None:
    """Take a model that comes with this package, from a zoo here or on a web server, or the Hugging Face hub; what has arrived is
    not asked for again.

    Every file is compared with its SHA-1. `allconv zoo list --from URL` names the models of a zoo.
    """
    from allconv_caffe import hub

    _say(told, hub.get(model, folder, sha1=sha1, base=base, progress=told.progress))


@zoo.command(
    "push",
    epilog=example(
        "allconv zoo push cifar10-allcnn-c --to hf:somebody/cifar10-allcnn-c",
        "allconv zoo push cifar10-allcnn-c cifar10-model-c --to build/site",
    ),
)
@click.argument("names", nargs=-1, required=True, metavar="MODEL...", shell_complete=_MODELS)
@click.option(
    "--to",
    required=True,
    metavar="FOLDER|hf:OWNER/NAME",
    help="a folder for a web server, with a catalogue; or the hub, for one model",
)
@_FOLDER
@telling("where each lies, and the SHA-1 of its card")
def push(told: Told, names: tuple[str, ...], to: str, folder: Path) -> None:
    """Give models to others, checked, with all their files; says what they type.

    The hub asks for the token that `hf auth login` keeps.
    """
    from allconv_caffe import hub

    pushed = hub.push(names, to, folder)
    lines = []
    for one in pushed:
        get = one.where if to.startswith(hub.HUB) else f"{Path(one.where).name} --from URL"
        lines.append(f"{one.where}: allconv zoo get {get}; its card has the SHA-1 {one.sha1}")
    told.end({"models": [{"where": one.where, "sha1": one.sha1} for one in pushed]}, *lines)
