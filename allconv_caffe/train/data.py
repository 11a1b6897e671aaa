"""The prepared data set that an experiment trains on: found, or prepared, or downloaded and prepared."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allconv_caffe import files
from allconv_caffe.paper.datasets import Dataset, Recipe
from allconv_caffe.paper.experiments import Experiment
from allconv_caffe.proto.lmdb_file import LmdbError, LmdbFile
from allconv_caffe.train.settings import DriverError


class NotPrepared(DriverError):
    """The data set could be prepared, but only a look was asked for."""


_ARCHIVE_SUFFIX = re.compile(r"\.(tar(\.(gz|xz|bz2))?|tgz|zip)$")


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Two LMDBs and what their manifest says."""

    folder: Path
    train_lmdb: Path
    test_lmdb: Path
    display_name: str  # what tables call the set
    classes: int
    n_train: int  # images
    n_test: int  # images
    shape: tuple[int, int, int]  # (C, H, W) of a Datum
    pad: int = 0  # pixels of the border in it
    checksums: dict[str, str]  # SHA-256 of the LMDBs by split, of the input under "source"; empty without a manifest
    official: bool  # the source's MD5 is the published one
    class_names: tuple[str, ...] = ()
    preprocessing: str = "gcn-zca"  # gcn-zca, gcn or raw; "" where no manifest says it
    mean_file: Path | None = None  # what Caffe subtracts from raw bytes

    def options(self, dataset: Dataset) -> dict[str, int]:
        """Options of ``allconv render``: counts, classes and, where it is another one than the experiment's, the shape.

        The net sees as much of the records as of the experiment's: the image without its border, or the same part of it.
        """
        channels, size, _ = self.shape
        found = {"n_train": self.n_train, "n_test": self.n_test, "num_output": self.classes}
        if self.shape == dataset.shape:
            return found
        found |= {"channels": channels, "image_size": size}
        if dataset.augmented is None:
            part = size - 2 * self.pad if self.pad else round(size * dataset.input_size / dataset.shape[1])
            found["crop_size"] = max(1, part)
        return found


def ensure(
    experiment: Experiment,
    source: Path | None,
    root: Path,
    say: Callable[[str], None],
    *,
    download: bool = True,
    prepare: bool = True,
    progress: bool = True,
) -> PreparedData:
    """Find the experiment's data set, or prepare it as its recipe says.

    ``source`` is an archive, a folder of images or an already prepared set; None takes what lies prepared under the
    name that the committed solvers use, or downloads the official archive.

    Raises:
        NotPrepared: ``prepare`` is False, and that would have to be done first.
        DriverError: no data, and no way to it; a set of another kind.
    """
    from data_prep import pipeline
    from data_prep.errors import PrepError

    dataset = experiment.dataset
    default = (root / dataset.train_lmdb).parent
    try:
        if source is None:
            if pipeline.is_prepared(default):
                return _load(default, dataset)
            recipe = _recipe(experiment, root)
            if recipe is None:
                return _bare(dataset, root)
            if not prepare:
                raise NotPrepared(default, "not prepared yet")
            source = _downloaded(dataset, recipe, root, say, download, progress)
            out = default
        else:
            recipe = dataset.recipe
            source = _at_home(source)  # make hands "~" on as it was typed
            if not source.exists():
                raise DriverError(
                    f"{recipe.variable if recipe else 'DATA'}={source}",
                    "found nothing there, expected an archive, an image folder or a prepared set",
                )
            if pipeline.is_prepared(source):
                return _load(source, dataset)
            if recipe is None or recipe.dataset not in _KINDS:
                raise DriverError(source, f"found no prepared set, expected one of {dataset.title}")
            out = default.with_name(default.name + _slug_of(source, recipe))
            if pipeline.is_prepared(out):
                return _same_source(_load(out, dataset), out, source)
        if not prepare:
            raise NotPrepared(out, f"not prepared from {source} yet")
        say(f"data: preparing {out} from {source}")
        _KINDS[recipe.dataset](recipe, source, out, progress)
        return _load(out, dataset)
    except PrepError as error:
        raise DriverError.of(error) from None


def held_out(
    data: PreparedData, count: int, dataset: Dataset | None, say: Callable[[str], None], prepare: bool = True
) -> PreparedData:
    """The data set with ``count`` of its training images to test on, in place of its test images: found, or cut out.

    Raises:
        NotPrepared: ``prepare`` is False, and that would have to be done first.
        DriverError: a set without a manifest, or of fewer images.
    """
    from data_prep import holdout, pipeline
    from data_prep.errors import PrepError

    out = data.folder.with_name(f"{data.folder.name}-{count}-held-out")
    try:
        if not pipeline.is_prepared(out) or _cut_from(out) != data.checksums.get("train"):
            if not prepare:
                raise NotPrepared(out, "not prepared yet")
            say(f"data: holding {count} of {data.n_train} training images out, into {out}")
            holdout.hold_out(data.folder, out, count, force=True)
        return _load(out, dataset)
    except PrepError as error:
        raise DriverError.of(error) from None


def _cut_from(folder: Path) -> str:
    from data_prep.manifest import Manifest

    return str(Manifest.load(folder).source.get("of"))


def _prepare_cifar(recipe: Recipe, source: Path, out: Path, progress: bool) -> None:
    from data_prep import pipeline

    pipeline.prepare(
        source,
        out,
        dataset=recipe.dataset,
        labels=recipe.labels,
        preprocessing=recipe.preprocessing,
        pad=recipe.pad,
        copies=recipe.copies,
        progress=progress,
    )


def _prepare_imagenet(recipe: Recipe, source: Path, out: Path, progress: bool) -> None:
    from data_prep import imagenet
    from data_prep.photos import Fit

    imagenet.prepare(source, out, fit=Fit(resize=recipe.warp), progress=progress)


_KINDS: dict[str, Callable[[Recipe, Path, Path, bool], None]] = {
    "cifar10": _prepare_cifar,
    "cifar100": _prepare_cifar,
    "ilsvrc12": _prepare_imagenet,
}
"""What prepares a source of each kind that a recipe may name."""


def _recipe(experiment: Experiment, root: Path) -> Recipe | None:
    """The recipe to prepare by; None where LMDBs without a manifest lie at hand.

    Raises:
        DriverError: nothing lies there, and nothing here can make it.
    """
    dataset = experiment.dataset
    paths = [root / dataset.train_lmdb, root / dataset.test_lmdb]
    missing = [path for path in paths if not (path / "data.mdb").is_file()]
    if not missing:
        return None
    if dataset.recipe is not None and dataset.recipe.dataset in _KINDS:
        return dataset.recipe
    raise DriverError(
        experiment.name,
        f"no data: expected an LMDB of {dataset.shape[1]}x{dataset.shape[2]} images at {missing[0]}, which this command "
        "does not prepare",
    )


def _bare(dataset: Dataset, root: Path) -> PreparedData:
    """LMDBs that came without a manifest: what the experiment says of them, and as many images as they hold."""
    paths = root / dataset.train_lmdb, root / dataset.test_lmdb
    counts = [records(path) for path in paths]
    return PreparedData(
        folder=paths[0].parent,
        train_lmdb=paths[0],
        test_lmdb=paths[1],
        display_name=dataset.title,
        classes=dataset.classes,
        n_train=counts[0],
        n_test=counts[1],
        shape=dataset.shape,
        checksums={},
        official=False,
        preprocessing="",
        mean_file=root / dataset.mean_file if dataset.mean_file else None,
    )


def records(path: Path) -> int:
    """How many an LMDB holds. Raises: DriverError."""
    try:
        return len(LmdbFile(str(path)))
    except LmdbError as error:
        raise DriverError.of(error).within(str(path)) from None


def _at_home(source: Path) -> Path:
    try:
        return source.expanduser()
    except RuntimeError:  # ~nobody
        return source


def _all_in(folder: Path, recipe: Recipe) -> bool:
    return all((folder / name).is_file() for name in recipe.archives)


def _slug_of(source: Path, recipe: Recipe) -> str:
    """``""`` for an official archive's name, else ``-`` and the source's name in lower case."""
    if source.name in recipe.archives or (recipe.all_archives and _all_in(source, recipe)):
        return ""
    stem = _ARCHIVE_SUFFIX.sub("", source.resolve().name).lower()
    slug = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")
    return f"-{files.shortened(slug)}" if slug else ""


def prepared(source: Path) -> PreparedData:
    """A prepared set, of any kind.

    Raises:
        DriverError: none lies there.
    """
    from data_prep import pipeline
    from data_prep.errors import PrepError

    source = _at_home(source)
    if not source.exists():
        raise DriverError(f"DATA={source}", "found nothing there, expected a prepared set")
    if not pipeline.is_prepared(source):
        raise DriverError(f"DATA={source}", "found no prepared set, expected what `allconv prep` makes of a source")
    try:
        return _load(source, None)
    except PrepError as error:
        raise DriverError.of(error) from None


def render_options(source: Path, dataset: Dataset) -> dict[str, Any]:
    """Options of ``allconv render`` that put a prepared set in the place of ``dataset``: LMDBs, mean image, counts, shape.

    Raises:
        DriverError: none lies there; its images are not square.
    """
    found = prepared(source)
    _check_square(found.folder, found.shape)
    paths = {"train_lmdb": found.train_lmdb, "test_lmdb": found.test_lmdb, "mean_file": found.mean_file}
    return {**{name: str(path) for name, path in paths.items() if path}, **found.options(dataset)}


def prepared_around(train_lmdb: Path, test_lmdb: Path) -> PreparedData | None:
    """The prepared set whose LMDBs these are; None where they are no set's. Raises: DriverError."""
    from data_prep import pipeline

    folder = train_lmdb.parent
    if not pipeline.is_prepared(folder):
        return None
    found = prepared(folder)
    same = found.train_lmdb.resolve() == train_lmdb.resolve() and found.test_lmdb.resolve() == test_lmdb.resolve()
    return found if same else None


def _load(folder: Path, dataset: Dataset | None) -> PreparedData:
    """Args: dataset: what the set must be; None: any."""
    from data_prep.manifest import Manifest

    manifest: Any = Manifest.load(folder)
    if dataset is not None:
        _check_kind(folder, manifest, dataset)
    _check_unchanged(folder, manifest)
    own_mean = dataset is not None and (dataset.mean_value or dataset.augmented is not None)
    checksums = {split: str(entry["sha256"]) for split, entry in manifest.lmdb.items()}
    if "sha256" in manifest.source:
        checksums["source"] = str(manifest.source["sha256"])
    return PreparedData(
        folder=folder,
        train_lmdb=folder / str(manifest.lmdb["train"]["path"]),
        test_lmdb=folder / str(manifest.lmdb["test"]["path"]),
        display_name=manifest.display_name,
        classes=manifest.classes,
        n_train=manifest.n_train,
        n_test=manifest.n_test,
        shape=tuple(manifest.shape),
        pad=manifest.pad,
        checksums=checksums,
        official=bool(manifest.source.get("official", False)),
        class_names=tuple(manifest.class_names),
        preprocessing=manifest.preprocessing,
        mean_file=folder / "mean.binaryproto" if manifest.preprocessing == "raw" and not own_mean else None,
    )


def _check_square(folder: Path, shape: tuple[int, ...]) -> None:
    if shape[1] != shape[2]:
        raise DriverError(folder, f"found images of {'x'.join(map(str, shape))}, expected square ones")


def _check_kind(folder: Path, manifest: Any, dataset: Dataset) -> None:
    """Somebody's own images may have any size and number of classes; a published set is the experiment's or another one.

    Raises:
        DriverError: another one; images that are not square.
    """
    shape, recipe = tuple(manifest.shape), dataset.recipe
    if manifest.dataset == "images":
        _check_square(folder, shape)
        return
    if shape != dataset.shape:
        found, expected = ("x".join(map(str, sizes)) for sizes in (shape, dataset.shape))
        raise DriverError(folder, f"found images of {found}, expected {expected} for {dataset.name}")
    if manifest.classes > dataset.classes:
        raise DriverError(folder, f"found {manifest.classes} classes, expected {dataset.classes} for {dataset.name}")
    for name in ("labels", "copies") if recipe else ():
        found, expected = (
            ",".join(words) if isinstance(words, tuple) else words
            for words in (getattr(manifest, name), getattr(recipe, name))
        )
        if found != expected:
            raise DriverError(
                folder, f"found {name} {found or 'none'}, expected {expected or 'none'} for {dataset.name}"
            )


def _same_source(data: PreparedData, out: Path, source: Path) -> PreparedData:
    """What lies prepared under the source's name was made of this very source, by the digest of its bytes.

    Photographs of the ImageNet recipe, whose bytes nobody reads again for a comparison, are told by the folder's name and their
    number.
    """
    from data_prep import archive
    from data_prep.manifest import Manifest

    made_of = data.checksums.get("source")
    if made_of is not None:
        sums = archive.folder_checksums(source) if source.is_dir() else archive.file_checksums(source)
        difference = "" if sums.sha256 == made_of else f"SHA-256 {made_of[:12]}..., now {sums.sha256[:12]}..."
    else:
        before = str(Manifest.load(out).source.get("name")), data.n_train + data.n_test
        now = source.resolve().name, _photographs(source, before[1])
        difference = "" if before == now else f"{before[1]} images of {before[0]}, now {now[1]} of {now[0]}"
    if difference:
        raise DriverError(
            out,
            f"found a set prepared from another {source.name} ({difference}); remove the folder, or give the "
            f"{'folder of images' if source.is_dir() else 'archive'} another name",
        )
    return data


def _photographs(source: Path, otherwise: int) -> int:
    """How many lie there; of tars of gigabytes they are not counted."""
    from data_prep.listing import by_class

    if any(source.glob("*.tar")):
        return otherwise
    found = by_class(source)
    return len(found.train) + len(found.test)


def _check_unchanged(folder: Path, manifest: Any) -> None:
    """The records are those that the manifest speaks of: their digest is in every record of a run.

    Where a database is younger than the manifest, which is written last, it is read and compared, once: then the manifest is
    touched.

    Raises:
        DriverError: others.
    """
    from data_prep import database
    from data_prep.manifest import NAME

    places = [folder / str(entry["path"]) / "data.mdb" for entry in manifest.lmdb.values()]
    try:
        if max(place.stat().st_mtime_ns for place in places) <= (folder / NAME).stat().st_mtime_ns:
            return
    except OSError:
        pass  # reading says what is missing
    for entry in manifest.lmdb.values():
        digest, path = hashlib.sha256(), folder / str(entry["path"])
        for key, value in database.records(path):
            digest.update(key)
            digest.update(value)
        if digest.hexdigest() != entry["sha256"]:
            raise DriverError(
                path,
                f"found records of SHA-256 {digest.hexdigest()[:12]}..., expected {str(entry['sha256'])[:12]}..., which the "
                f"manifest has: they were changed since; prepare the set again, or remove {NAME} where the new ones are meant",
            )
    with contextlib.suppress(OSError):  # somebody else's set, which may only be read
        os.utime(folder / NAME)


def _downloaded(
    dataset: Dataset, recipe: Recipe, root: Path, say: Callable[[str], None], download: bool, progress: bool
) -> Path:
    """An official archive in ``data/``, fetched where its publisher lets anybody."""
    archives = [root / "data" / name for name in recipe.archives]
    if recipe.all_archives:
        if _all_in(root / "data", recipe):
            return root / "data"
        what = f"the folder of {', '.join(recipe.archives)}"
    else:
        for path in archives:
            if path.is_file():
                return path
        what = "a local archive or image folder"
    missing = f"no data: name {what} with {recipe.variable}=path, or try `make quickstart`, which needs none"
    if not (download and recipe.download):
        raise DriverError(dataset.title, missing)
    from data_prep import download as fetch
    from data_prep.errors import PrepError

    say(f"data: downloading {archives[0].name}")
    archives[0].parent.mkdir(parents=True, exist_ok=True)
    try:
        return Path(fetch.download(archives[0].name, archives[0].parent, progress=progress))
    except PrepError as error:
        raise DriverError(dataset.title, f"{missing} ({error})") from None
