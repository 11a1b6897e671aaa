"""Any input, recognised by what is in it, as one ImageSet."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep import archive, cifar
from data_prep.errors import PrepError
from data_prep.images import ImageTree, check_place, display_name, is_image
from data_prep.imageset import CIFAR10_CLASSES, ImageSet, Split, check, check_name

DATASETS = ("cifar10", "cifar100", "images")
LABELS = ("fine", "coarse")
_SUFFIXES = (".tar.gz", ".tar.xz", ".tar.bz2", ".tgz", ".tar", ".zip")


def read(source: str | Path, *, dataset: str = "cifar10", labels: str = "fine", progress: bool = True) -> ImageSet:
    """Read an official CIFAR archive (python or binary, packed or unpacked) or class folders of images.

    Args:
        source: A tar, zip or folder.
        dataset: "cifar10" (ten classes: an archive in CIFAR-10's format, or a tree with its ten class names),
            "cifar100", or "images" (a tree with any classes).
        labels: "fine" or, for CIFAR-100 only, "coarse".
        progress: Show a bar.

    Returns:
        The checked set; `display_name` claims to be CIFAR only where an MD5 proves it.

    Raises:
        PrepError: anything that keeps the source from being such a set.
    """
    path = Path(source)
    if dataset not in DATASETS:
        raise PrepError("dataset", repr(dataset), " or ".join(DATASETS))
    if labels not in LABELS:
        raise PrepError("labels", repr(labels), " or ".join(LABELS))
    if labels == "coarse" and dataset != "cifar100":
        raise PrepError("labels", f"'coarse' with {dataset}", "'fine' (only CIFAR-100 has coarse labels)")
    if not path.exists():
        raise PrepError(path, "nothing", "an archive (tar, tar.gz, tar.xz, zip) or a folder")
    checksums = archive.folder_checksums(path) if path.is_dir() else archive.file_checksums(path)
    official = cifar.ARCHIVES.get(path.name) if path.is_file() else None
    if official and checksums.bytes == official.bytes and checksums.md5 != official.md5:
        raise PrepError(path, f"MD5 {checksums.md5}", f"{official.md5}; the file is damaged, download it again")
    info: dict[str, Any] = {
        "name": path.name or str(path.resolve().name),
        "kind": "folder" if path.is_dir() else "archive",
        **asdict(checksums),
    }
    found = _Found(path)
    bar = tqdm(
        total=checksums.bytes, desc="read", unit="B", unit_scale=True, disable=None if progress else True, leave=False
    )
    try:
        with bar:
            for member, data in archive.members(
                path, lambda n: _is_wanted(n, path), folder=found.tree.folder, progress=bar
            ):
                found.add(member, data)
        form = found.form()
        images = _from_tree(found, dataset, info) if form is None else _from_batches(found, form, dataset, labels, info)
    except PrepError as error:
        if official and checksums.bytes < official.bytes and "truncated" in error.found:
            raise PrepError(path, error.found, f"{official.bytes} bytes; download it again") from error
        raise
    finally:
        found.tree.close()
    return check(images, path)


class _Found:
    """What lies in a source, member by member: CIFAR's batches, the names of classes, images."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = ImageTree(str(path))
        self.members: dict[str, str] = {}  # of CIFAR's: where it lies, by its name
        self.batches: dict[str, cifar.Batch] = {}
        self.names: dict[str, Any] = {}
        self.md5: dict[str, str] = {}

    def add(self, member: str, data: bytes) -> None:
        """Read one member. Raises: PrepError."""
        if is_image(member):
            self.tree.add(member, data)
            return
        base = _base(member)
        form, where = cifar.MEMBER_FORMATS[base], f"{self.path}: {member}"
        if base in self.members:
            raise PrepError(where, f"a second {base} beside {self.members[base]}", "one data set")
        self.members[base] = member
        self.md5[base] = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if base in form.meta:
            self.names |= cifar.parse_names(data, form, base, where)
        else:
            self.batches[base] = cifar.parse_batch(data, form, where)

    def form(self) -> cifar.Format | None:
        """The one format that the members have; None where they are images. Raises: PrepError: several, or none."""
        formats = {cifar.MEMBER_FORMATS[base] for base in self.members}
        if len(formats) + bool(len(self.tree)) > 1:
            kinds = sorted({form.folder for form in formats}) + (["class folders of images"] if len(self.tree) else [])
            raise PrepError(self.path, " and ".join(kinds), "one data set; name the folder of the one you mean")
        if not formats and not len(self.tree):
            raise PrepError(
                self.path,
                "neither CIFAR batches nor images",
                "cifar-10-batches-py, cifar-10-batches-bin, cifar-100-python, cifar-100-binary, or train/<class>/*.jpg "
                "and test/<class>/*.jpg",
            )
        return formats.pop() if formats else None


def _is_wanted(name: str, path: Path) -> bool:
    check_place(name, str(path))
    return is_image(name) or _base(name) in cifar.MEMBER_FORMATS


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _stem(path: Path) -> str:
    name = path.name or path.resolve().name
    return next((name[: -len(suffix)] for suffix in _SUFFIXES if name.endswith(suffix)), name)


def _from_tree(found: _Found, dataset: str, info: dict[str, Any]) -> ImageSet:
    path = found.path
    train, test, classes = found.tree.finish()
    if dataset == "cifar100":
        raise PrepError(path, "class folders of images", "an archive in CIFAR-100's format, or dataset 'images'")
    if dataset == "cifar10" and classes != CIFAR10_CLASSES:
        if missing := [name for name in CIFAR10_CLASSES if name not in classes]:
            raise PrepError(path, f"no class {', '.join(missing)}", "the ten classes of CIFAR-10, or dataset 'images'")
        extra = [name for name in classes if name not in CIFAR10_CLASSES]
        raise PrepError(path, f"classes {', '.join(extra)}", "the ten classes of CIFAR-10 only, or dataset 'images'")
    if dataset == "cifar10" and train.images.shape[1:] != cifar.SHAPE:
        raise PrepError(path, f"images of shape {train.images.shape[1:]}", f"{cifar.SHAPE}, or dataset 'images'")
    name = display_name(classes, found.tree.suffixes, train.images.shape[1:], _stem(path))
    return ImageSet(
        train=train,
        test=test,
        class_names=classes,
        dataset=dataset,
        display_name=name,
        source=info | {"format": "images", "official": False},
    )


def _from_batches(found: _Found, form: cifar.Format, dataset: str, labels: str, info: dict[str, Any]) -> ImageSet:
    path, batches = found.path, found.batches
    if form.dataset != dataset:
        raise PrepError(
            path, f"{form.dataset} data ({form.folder})", f"{dataset} data; choose dataset {form.dataset!r}"
        )
    if missing := [member for member in form.members if member not in found.members]:
        raise PrepError(path, f"no member {', '.join(missing)}", f"all of {', '.join(form.members)}")
    train = Split(
        np.concatenate([batches[m].images for m in form.train]),
        np.concatenate([batches[m].labels[labels] for m in form.train]),
    )
    test = Split(np.ascontiguousarray(batches[form.test].images), batches[form.test].labels[labels])
    published = "CIFAR-10" if form.dataset == "cifar10" else "CIFAR-100"
    own = cifar.OFFICIAL_MEMBERS[published]
    whole = any(info["md5"] == known.md5 and info["bytes"] == known.bytes for known in cifar.ARCHIVES.values())
    is_official = whole or all(found.md5.get(member) == md5 for member, md5 in own.items())
    if given := str(found.names.get("data_set_name", "")).strip():
        check_name(path, "a data set", given)
    if is_official:
        name = published
    elif given and not given.upper().replace("-", "").replace(" ", "").startswith("CIFAR"):
        name = given
    else:
        name = f"{published} format: {path.name or path.resolve().name}"
    if labels == "coarse":
        name += " (coarse labels)"
    info |= {"format": form.folder, "official": is_official}
    return ImageSet(
        train=train, test=test, class_names=found.names[labels], dataset=dataset, display_name=name, source=info
    )
