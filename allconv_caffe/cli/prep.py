"""``allconv prep``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from allconv_caffe.cli.words import example


@click.group(epilog=example("allconv prep cifar10 --source ~/cifar-10-python.tar.gz"))
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


@prep.command("cifar10", epilog=example("allconv prep cifar10 --source ~/cifar-10-python.tar.gz"))
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


@prep.command("cifar100", epilog=example("allconv prep cifar100 --labels coarse --output data/cifar100-coarse"))
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


@prep.command("images", epilog=example("allconv prep images photos.tar.xz --output data/photos"))
@click.argument("source", type=click.Path(path_type=Path))
@_prep_options
def prep_images(source: Path, output: Path | None, **others: Any) -> None:
    """A tree or archive of train/CLASS/* and test/CLASS/* images."""
    _prepare("images", source, output or Path("data") / source.name.split(".")[0], **others)


@prep.command("verify", epilog=example("allconv prep verify data/cifar10 --grid grid.png"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--grid", type=click.Path(path_type=Path), help="PNG of sample images, as seen and as whitened")
def prep_verify(folder: Path, grid: Path | None) -> None:
    """Recount, re-hash and show class counts of a prepared data set."""
    from data_prep.verify import verify

    report = verify(folder, grid)
    click.echo(str(report))
    if not report.ok:
        raise click.ClickException(f"{folder}: {len(report.problems)} problems")


@prep.command("download", epilog=example("allconv prep download cifar-10-python.tar.gz --output data"))
@click.argument("archive")
@click.option("--output", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="folder")
@click.option("--url", help="another address than the official one")
@click.option("--quiet", is_flag=True, help="no progress bar")
def prep_download(archive: str, output: Path, url: str | None, quiet: bool) -> None:
    """An official archive, resumed where it stopped, checked by MD5."""
    from data_prep.download import download

    output.mkdir(parents=True, exist_ok=True)
    click.echo(download(archive, output, url, progress=not quiet))
