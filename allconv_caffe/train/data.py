"""The prepared data set that an experiment trains on: found, or prepared, or downloaded and prepared."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allconv_caffe.paper.datasets import DATASETS, Dataset
from allconv_caffe.paper.experiments import Experiment
from allconv_caffe.train.settings import DriverError

_ARCHIVE_SUFFIX = re.compile(r"\.(tar(\.(gz|xz|bz2))?|tgz|zip)$")


@dataclass(frozen=True)
class PreparedData:
    """Two LMDBs and what their manifest says.

    display_name: what tables call the set. shape: (C, H, W) of a Datum. checksums: SHA-256 of the LMDBs' contents by
    split ("train", "test") and, under "source", of the input; empty for LMDBs that came without a manifest. official:
    the source's MD5 is the published one. preprocessing: ``gcn-zca``, ``gcn`` or ``raw``; "" where no manifest says it.
    mean_file: what Caffe subtracts from raw bytes.
    """

    folder: Path
    train_lmdb: Path
    test_lmdb: Path
    display_name: str
    classes: int
    n_train: int
    n_test: int
    shape: tuple[int, int, int]
    checksums: dict[str, str]
    official: bool
    class_names: tuple[str, ...] = ()
    preprocessing: str = "gcn-zca"
    mean_file: Path | None = None


def variable(dataset: Dataset) -> str:
    """The setting that names a local copy: ``CIFAR10`` or ``CIFAR100``."""
    return "CIFAR100" if dataset.name.startswith("cifar100") else "CIFAR10"


def ensure(
    experiment: Experiment,
    source: Path | None,
    root: Path,
    say: Callable[[str], None],
    *,
    download: bool = True,
    progress: bool = True,
) -> PreparedData:
    """Find the experiment's data set, or prepare it.

    ``source`` is an archive, a folder of images or an already prepared set; None takes what lies prepared under the
    name that the committed solvers use, or downloads the official archive.

    Raises:
        DriverError: no data, and no way to it; a set of another kind.
    """
    from data_prep import pipeline
    from data_prep.errors import PrepError

    dataset = experiment.dataset
    default = (root / dataset.train_lmdb).parent
    name = variable(dataset)
    if dataset.name in ("cifar10-large", "imagenet"):
        return _own_lmdbs(experiment, root)
    try:
        if source is None:
            if pipeline.is_prepared(default):
                return _load(default, dataset)
            source = _downloaded(dataset, root, say, download, progress)
            out = default
        else:
            source = _at_home(source)  # make hands "~" on as it was typed
            if not source.exists():
                raise DriverError(
                    f"{name}={source}", "found nothing there, expected an archive, an image folder or a prepared set"
                )
            if pipeline.is_prepared(source):
                return _load(source, dataset)
            out = default.with_name(default.name + _slug_of(source))
            if pipeline.is_prepared(out):
                return _same_source(_load(out, dataset), out, source)
        say(f"data: preparing {out} from {source}")
        pad = (dataset.shape[1] - 32) // 2
        kind = "cifar100" if name == "CIFAR100" else "cifar10"
        pipeline.prepare(source, out, dataset=kind, pad=pad, progress=progress)
        return _load(out, dataset)
    except PrepError as error:
        raise DriverError.of(error) from None


def _at_home(source: Path) -> Path:
    try:
        return source.expanduser()
    except RuntimeError:  # ~nobody
        return source


def _slug_of(source: Path) -> str:
    """``""`` for an official archive's name, else ``-`` and the source's name in lower case."""
    from data_prep import cifar

    if source.name in cifar.ARCHIVES:
        return ""
    stem = _ARCHIVE_SUFFIX.sub("", source.resolve().name).lower()
    slug = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")
    return f"-{slug}" if slug else ""


def _load(folder: Path, dataset: Dataset) -> PreparedData:
    from data_prep.manifest import Manifest

    manifest: Any = Manifest.load(folder)
    if tuple(manifest.shape) != dataset.shape:
        found, expected = ("x".join(map(str, shape)) for shape in (manifest.shape, dataset.shape))
        raise DriverError(folder, f"found images of {found}, expected {expected} for {dataset.name}")
    if manifest.classes > dataset.classes:
        raise DriverError(folder, f"found {manifest.classes} classes, expected {dataset.classes} for {dataset.name}")
    checksums = {split: str(entry["sha256"]) for split, entry in manifest.lmdb.items()}
    if "sha256" in manifest.source:
        checksums["source"] = str(manifest.source["sha256"])
    return PreparedData(
        folder,
        folder / str(manifest.lmdb["train"]["path"]),
        folder / str(manifest.lmdb["test"]["path"]),
        display_name=manifest.display_name,
        classes=manifest.classes,
        n_train=manifest.n_train,
        n_test=manifest.n_test,
        shape=tuple(manifest.shape),
        checksums=checksums,
        official=bool(manifest.source.get("official", False)),
        class_names=tuple(manifest.class_names),
        preprocessing=manifest.preprocessing,
        mean_file=folder / "mean.binaryproto" if manifest.preprocessing == "raw" else None,
    )


def _same_source(data: PreparedData, out: Path, source: Path) -> PreparedData:
    from data_prep import archive

    if source.is_dir():
        return data
    found = archive.file_checksums(source).sha256
    if data.checksums.get("source") not in (None, found):
        raise DriverError(
            out,
            f"found a set prepared from another {source.name} (SHA-256 {data.checksums['source'][:12]}..., now "
            f"{found[:12]}...); remove the folder, or give the archive another name",
        )
    return data


def _downloaded(dataset: Dataset, root: Path, say: Callable[[str], None], download: bool, progress: bool) -> Path:
    name = variable(dataset)
    kind = "cifar-100" if name == "CIFAR100" else "cifar-10"
    archives = [root / "data" / f"{kind}-{form}.tar.gz" for form in ("python", "binary")]
    for path in archives:
        if path.is_file():
            return path
    where = experiment_name(dataset)
    missing = (
        f"no data: name a local archive or image folder with {name}=path, or try `make quickstart`, which needs none"
    )
    if not download:
        raise DriverError(where, missing)
    from data_prep import download as fetch
    from data_prep.errors import PrepError

    say(f"data: downloading {archives[0].name}")
    archives[0].parent.mkdir(parents=True, exist_ok=True)
    try:
        return Path(fetch.download(archives[0].name, archives[0].parent, progress=progress))
    except PrepError as error:
        raise DriverError(where, f"{missing} ({error})") from None


def experiment_name(dataset: Dataset) -> str:
    """What a message calls a data set."""
    return DATASETS[dataset.name].title if dataset.name in DATASETS else dataset.title


def _own_lmdbs(experiment: Experiment, root: Path) -> PreparedData:
    dataset = experiment.dataset
    paths = [root / dataset.train_lmdb, root / dataset.test_lmdb]
    for path in paths:
        if not (path / "data.mdb").is_file():
            raise DriverError(
                experiment.name,
                f"no data: expected an LMDB of {dataset.shape[1]}x{dataset.shape[2]} images "
                f"at {path}, which this command does not prepare",
            )
    return PreparedData(
        paths[0].parent,
        paths[0],
        paths[1],
        dataset.title,
        dataset.classes,
        dataset.n_train,
        dataset.n_test,
        dataset.shape,
        {},
        False,
        preprocessing="",
    )
