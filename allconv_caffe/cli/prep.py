"""``allconv prep``: arguments only, for ``cli/main.py`` to add."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from allconv_caffe.cli.telling import Told, telling
from allconv_caffe.cli.words import example


@click.group(epilog=example("allconv prep cifar10 --source ~/cifar-10-python.tar.gz"))
def prep() -> None:
    """Archives and image folders to whitened LMDBs."""


_telling = telling("the data set's manifest")


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
            click.option(
                "--copies",
                default="",
                metavar="WORDS",
                callback=lambda context, option, text: tuple(text.split(",")) if text else (),
                help="of training images, stored beside them: flipped or flipped,translated",
            ),
            click.option("--seed", type=int, default=0, show_default=True, help="decides the order of the records"),
            click.option("--name", "display_name", default="", help="what tables call the set"),
            click.option("--force", is_flag=True, help="replace a finished data set"),
        ]
    ):
        command = option(command)
    return _telling(command)


def _prepare(
    told: Told, dataset: str, source: Path | None, output: Path, force: bool, display_name: str, **constants: Any
) -> None:
    from data_prep import pipeline

    if source is not None:
        with contextlib.suppress(RuntimeError):  # ~nobody
            source = source.expanduser()  # make hands "~" on as it was typed
    if not force and pipeline.is_prepared(output):
        pipeline.check_same(output, source, dataset=dataset, **constants)
        _already(told, output)
        return
    source = source or _official(dataset, Path("data"), told.progress)
    manifest = pipeline.prepare(
        source, output, dataset=dataset, force=force, progress=told.progress, display_name=display_name, **constants
    )
    _say(told, output, manifest)


def _official(dataset: str, folder: Path, progress: bool) -> Path:
    """The official archive in `folder`, downloaded if neither of its two forms is there."""
    from data_prep import download

    stem = {"cifar10": "cifar-10", "cifar100": "cifar-100"}[dataset]
    for form in ("python", "binary"):
        path = folder / f"{stem}-{form}.tar.gz"
        if path.is_file():
            return path
    folder.mkdir(parents=True, exist_ok=True)
    return Path(download.download(f"{stem}-python.tar.gz", folder, progress=progress))


@prep.command("cifar10", epilog=example("allconv prep cifar10 --source ~/cifar-10-python.tar.gz"))
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="an archive or image folder; left out: data/cifar-10-*.tar.gz, downloaded if missing",
)
@_prep_options
def prep_cifar10(told: Told, source: Path | None, output: Path | None, **others: Any) -> None:
    """CIFAR-10, by default into data/cifar10."""
    output = output or Path("data/cifar10-pad5" if others["pad"] == 5 else "data/cifar10")
    _prepare(told, "cifar10", source, output, **others)


@prep.command("cifar100", epilog=example("allconv prep cifar100 --labels coarse --output data/cifar100-coarse"))
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="an archive; left out: data/cifar-100-*.tar.gz, downloaded if missing",
)
@click.option("--labels", default="fine", show_default=True, help="fine (100) or coarse (20)")
@_prep_options
def prep_cifar100(told: Told, source: Path | None, output: Path | None, **others: Any) -> None:
    """CIFAR-100, by default into data/cifar100."""
    output = output or Path("data/cifar100" if others["labels"] == "fine" else "data/cifar100-coarse")
    _prepare(told, "cifar100", source, output, **others)


def _photo_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        [
            click.option("--resize", metavar="HxW", help="warp each picture to HxW pixels, as convert_imageset does"),
            click.option(
                "--shorter-side", type=int, help="scale each picture until its shorter side has so many pixels"
            ),
            click.option("--crop", metavar="HxW", help="the middle of each picture, after that"),
            click.option("--grey", is_flag=True, help="one channel"),
            click.option(
                "--encoded", is_flag=True, help="compressed records: JPEG, or the files as they are if no size is given"
            ),
            click.option("--workers", type=int, help="threads that decode  [default: one for each core]"),
        ]
    ):
        command = option(command)
    return command


def _fit(resize: str | None, shorter_side: int | None, crop: str | None, grey: bool, encoded: bool) -> Any:
    from data_prep.photos import Fit

    form = ("jpg" if resize or shorter_side or crop or grey else "file") if encoded else ""
    return Fit(
        resize=_pair("--resize", resize),
        shorter_side=shorter_side,
        crop=_pair("--crop", crop),
        grey=grey,
        encoded=form,
    )


def _pair(option: str, text: str | None) -> tuple[int, int] | None:
    """``256x256`` or ``256`` as (height, width)."""
    if text is None:
        return None
    words = text.lower().split("x")
    if not 1 <= len(words) <= 2 or not all(word.isascii() and word.isdigit() for word in words):
        raise click.BadParameter(f"{text!r}: expected HxW in pixels, e.g. 256x256", param_hint=option)
    return int(words[0]), int(words[-1])


@prep.command(
    "images",
    epilog=example(
        "allconv prep images photos.tar.xz --output data/photos",
        "allconv prep images photos/ --preprocessing raw --shorter-side 256 --crop 256x256 --test-fraction 0.1",
    ),
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--test-fraction", type=float, help="of one folder of classes: the part that is put aside for testing")
@_photo_options
@_prep_options
def prep_images(
    told: Told, source: Path, output: Path | None, test_fraction: float | None, workers: int | None, **others: Any
) -> None:
    """A tree or archive of train/CLASS/* and test/CLASS/* images, or, with --test-fraction, of CLASS/*.

    Pictures of one size may be whitened as they are; of any sizes, say how each is brought to one.
    """
    output = output or Path("data") / source.name.split(".")[0]
    fitting = {name: others.pop(name) for name in ("resize", "shorter_side", "crop", "grey", "encoded")}
    if not any(fitting.values()) and test_fraction is None:
        _prepare(told, "images", source, output, **others)
        return
    from data_prep import photos, pipeline
    from data_prep.listing import by_class

    source = source.expanduser()
    force, seed = others["force"], others["seed"]
    fit = _fit(**fitting)
    if not force and pipeline.is_prepared(output):
        raise click.ClickException(f"{output}: a finished data set; --force replaces it, --output names another")
    listing = by_class(source, test_fraction=test_fraction, seed=seed)
    facts: dict[str, Any] = {
        "name": source.resolve().name,
        "kind": "folder" if source.is_dir() else "archive",
        "format": "images",
        "official": False,
        "test_fraction": test_fraction,
    }
    name = others.pop("display_name") or facts["name"]
    if others["preprocessing"] == "raw":
        manifest = photos.prepare(
            listing,
            output,
            fit,
            display_name=pipeline.checked_name(name),
            source=facts,
            seed=seed,
            force=force,
            progress=told.progress,
            workers=workers,
        )
    else:
        images = photos.image_set(listing, fit, name, facts, progress=told.progress)
        manifest = pipeline.prepare(source, output, dataset="images", images=images, progress=told.progress, **others)
    _say(told, output, manifest)


@prep.command("imagenet", epilog=example("allconv prep imagenet ~/ILSVRC2012 --encoded"))
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("data/imagenet"), show_default=True, help="folder"
)
@click.option("--labels", type=click.Path(path_type=Path), help="of the validation tar: the devkit, or a val.txt")
@click.option("--synset-words", type=click.Path(path_type=Path), help="names of the classes: lines of a wnid and words")
@_photo_options
@click.option("--seed", type=int, default=0, show_default=True, help="decides the order of the records")
@click.option("--force", is_flag=True, help="replace a finished data set")
@_telling
def prep_imagenet(told: Told, source: Path, output: Path, **how: Any) -> None:
    """ILSVRC-2012: the folder with its two tars and labels, or with train/WNID/ and val/WNID/. Warped to 256x256.

    An interrupted preparation is gone on with by the same command.
    """
    from data_prep import imagenet, pipeline

    fitting = {name: how.pop(name) for name in ("resize", "shorter_side", "crop", "grey", "encoded")}
    if not fitting["resize"] and not fitting["shorter_side"]:
        fitting["resize"] = "256x256"
    if not how["force"] and pipeline.is_prepared(output):
        _already(told, output)
        return
    manifest = imagenet.prepare(source.expanduser(), output, fit=_fit(**fitting), progress=told.progress, **how)
    _say(told, output, manifest)


def _say(told: Told, output: Path, manifest: Any) -> None:
    """A data set that has just been made."""
    said = f"{manifest.display_name}, {manifest.n_train} training and {manifest.n_test} test images"
    told.end({"folder": output, **manifest.facts()}, f"{output}: {said}")


def _already(told: Told, output: Path) -> None:
    from data_prep.manifest import Manifest

    answer = {"folder": output, **Manifest.load(output).facts()} if told.json else {}
    told.end(answer, f"{output}: already prepared; --force prepares it again")


@prep.command("verify", epilog=example("allconv prep verify data/cifar10 --grid grid.png"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--grid", type=click.Path(path_type=Path), help="PNG of sample images, as seen and as whitened")
@telling("counts, statistics and problems")
def prep_verify(told: Told, folder: Path, grid: Path | None) -> None:
    """Recount, re-hash and show class counts of a prepared data set."""
    from data_prep.verify import verify

    report = verify(folder, grid)
    answer = {
        "folder": folder,
        "problems": report.problems,
        "counts": report.counts,
        "class_counts": report.class_counts,
        "statistics": report.statistics,
    }
    told.end(answer, report.ended if told.quiet else report)
    if not report.ok:
        raise click.ClickException(f"{folder}: {len(report.problems)} problems")


@prep.command("download", epilog=example("allconv prep download cifar-10-python.tar.gz --output data"))
@click.argument("archive")
@click.option("--output", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="folder")
@click.option("--url", help="another address than the official one")
@telling("the file")
def prep_download(told: Told, archive: str, output: Path, url: str | None) -> None:
    """An official archive, resumed where it stopped, checked by MD5."""
    from data_prep.download import download

    output.mkdir(parents=True, exist_ok=True)
    file = download(archive, output, url, progress=told.progress)
    told.end({"file": file}, file)


@prep.command("hold-out", epilog=example("allconv prep hold-out data/cifar10 --count 5000"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", type=int, required=True, help="training images to hold out")
@click.option("--output", type=click.Path(path_type=Path), help="folder; by default FOLDER-COUNT-held-out")
@click.option("--force", is_flag=True, help="replace a finished data set")
@_telling
def prep_hold_out(told: Told, folder: Path, count: int, output: Path | None, force: bool) -> None:
    """Cut a prepared set's training images in two: to train on, and to choose settings by."""
    from data_prep.holdout import hold_out

    output = output or folder.with_name(f"{folder.name}-{count}-held-out")
    manifest = hold_out(folder, output, count, force)
    _say(told, output, manifest)
