"""ILSVRC-2012 as its publisher gives it: two tars and the labels of the validation images; or folders by wnid.

Labels are the places of the wnids in the order of their bytes, 0 to 999, as Caffe's train.txt and val.txt have them.

Source: section 3.3 of the paper; the data preparation is that of Caffe in December 2014: examples/imagenet/create_imagenet.sh
(256x256 warp, shuffled, mean image of the training set).
"""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import archive
from data_prep.errors import PrepError
from data_prep.imageset import IntArray
from data_prep.listing import Listing, Pictures, Tar, by_class, tar_members
from data_prep.manifest import Manifest
from data_prep.photos import Fit, prepare as prepare_photos

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKITS = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12")
VAL_TXT, SYNSET_WORDS = "val.txt", "synset_words.txt"
WARP = Fit(resize=(256, 256))
N_TRAIN, N_VAL, CLASSES = 1_281_167, 50_000, 1000
_WNID = re.compile(r"^n\d{8}$")


def read(source: str | Path, *, labels: str | Path | None = None, synset_words: str | Path | None = None) -> Listing:
    """The photographs of ILSVRC-2012, or of any part of it.

    Args:
        source: a folder with ``ILSVRC2012_img_train.tar`` and ``ILSVRC2012_img_val.tar``, or with ``train/<wnid>/`` and
            ``val/<wnid>/``.
        labels: of the tar's validation images: the devkit (archive or folder) or a ``val.txt`` of lines ``name label``;
            left out: what lies in `source` under one of these names.
        synset_words: lines ``wnid words``, for the classes' names; left out: likewise. Without any, a class is called by
            its wnid.

    Raises:
        PrepError: something is missing, damaged, or contradicts the rest.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise PrepError(folder, "no folder", f"a folder with {TRAIN_TAR} and {VAL_TAR}, or with train/ and val/")
    tars = [folder / TRAIN_TAR, folder / VAL_TAR]
    if not any(tar.is_file() for tar in tars):
        listing = by_class(folder)
    else:
        for tar in tars:
            if not tar.is_file():
                raise PrepError(folder, f"no {tar.name}", f"{TRAIN_TAR} and {VAL_TAR}")
        listing = _from_tars(folder, tars[0], tars[1], labels)
    words = Path(synset_words) if synset_words is not None else folder / SYNSET_WORDS
    if synset_words is None and not words.is_file():
        return listing
    names = _named(listing.class_names, _words(words), words)
    return Listing(train=listing.train, test=listing.test, class_names=names, where=listing.where)


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    fit: Fit = WARP,
    labels: str | Path | None = None,
    synset_words: str | Path | None = None,
    **how: Any,
) -> Manifest:
    """Reads and prepares ILSVRC-2012 (see `read`, and `photos.prepare` for `how`)."""
    listing = read(source, labels=labels, synset_words=synset_words)
    whole = (len(listing.train), len(listing.test), len(listing.class_names)) == (N_TRAIN, N_VAL, CLASSES)
    name = Path(source).resolve().name
    title = "ILSVRC-2012" if whole else f"{name} ({len(listing.class_names)} classes of photographs)"
    facts = {"name": name, "kind": "folder", "format": "ilsvrc12", "official": whole}
    return prepare_photos(listing, out, fit, dataset="ilsvrc12", display_name=title, source=facts, **how)


def _from_tars(folder: Path, train_tar: Path, val_tar: Path, labels: str | Path | None) -> Listing:
    names: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    wnids: list[str] = []
    for inner, offset, size in tar_members(train_tar):
        wnid = inner.rsplit("/", 1)[-1].removesuffix(".tar")
        if not inner.endswith(".tar") or not _WNID.match(wnid):
            raise PrepError(f"{train_tar}: {inner}", "another member", "a tar for each wnid, as n01440764.tar")
        for name, place, length in tar_members(train_tar, (offset, size)):
            names.append(f"{wnid}/{name.rsplit('/', 1)[-1]}")
            offsets.append(place)
            sizes.append(length)
            wnids.append(wnid)
    classes = tuple(sorted(set(wnids), key=os.fsencode))
    if len(classes) < 2:
        raise PrepError(train_tar, f"{len(classes)} wnids", "a tar for each wnid")
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    train = Pictures(
        where=str(train_tar),
        store=Tar(train_tar, offsets, sizes),
        numbers=np.arange(len(names)),
        names=names,
        labels=np.array([label_of[wnid] for wnid in wnids], np.int64),
    )
    found = sorted(tar_members(val_tar), key=lambda entry: entry[0].rsplit("/", 1)[-1])
    val_names = [name.rsplit("/", 1)[-1] for name, _, _ in found]
    test = Pictures(
        where=str(val_tar),
        store=Tar(val_tar, (offset for _, offset, _ in found), (size for _, _, size in found)),
        numbers=np.arange(len(found)),
        names=val_names,
        labels=_val_labels(folder, labels, val_names, classes),
    )
    return Listing(train=train, test=test, class_names=classes, where=folder)


def _val_labels(folder: Path, given: str | Path | None, names: list[str], classes: tuple[str, ...]) -> IntArray:
    """(N,) int64: from what was given, or lies beside the tars; where both forms lie there, they must agree."""
    candidates = [Path(given)] if given is not None else [folder / name for name in (VAL_TXT, *DEVKITS)]
    there = [path for path in candidates if path.exists()]
    if not there:
        wanted = str(given) if given is not None else f"{VAL_TXT}, {' or '.join(DEVKITS)} in {folder}"
        raise PrepError(folder, "no labels of the validation images", wanted)
    tables = [
        _val_txt(path, names, len(classes)) if path.suffix == ".txt" else _devkit(path, names, classes)
        for path in there
    ]
    for path, table in zip(there[1:], tables[1:], strict=True):
        if not np.array_equal(tables[0], table):
            row = int(np.flatnonzero(tables[0] != table)[0])
            raise PrepError(path, f"label {table[row]} for {names[row]}", f"{tables[0][row]} as {there[0].name} has")
    return tables[0]


def _val_txt(path: Path, names: list[str], classes: int) -> IntArray:
    table: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or not words[1].isascii() or not words[1].isdigit() or int(words[1]) >= classes:
            raise PrepError(f"{path}:{number}", repr(line[:80]), f"a name and a label from 0 to {classes - 1}")
        table[words[0].rsplit("/", 1)[-1]] = int(words[1])
    if missing := [name for name in names if name not in table]:
        raise PrepError(path, f"no line for {missing[0]}", f"a label for each of {len(names)} validation images")
    return np.array([table[name] for name in names], np.int64)


def _devkit(path: Path, names: list[str], classes: tuple[str, ...]) -> IntArray:
    """The ground truth counts ILSVRC's own numbers, which meta.mat translates into wnids."""
    truth = _devkit_file(path, "ILSVRC2012_validation_ground_truth.txt")
    meta = _devkit_file(path, "meta.mat")
    try:
        from scipy.io import loadmat
    except ImportError:
        raise PrepError(path, "a meta.mat, which scipy reads", f"scipy installed, or a {VAL_TXT}") from None
    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        wnid_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        numbers = [int(line) for line in truth.split()]
    except (KeyError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise PrepError(path, f"another meta.mat or ground truth ({error})", "those of ILSVRC-2012's devkit") from error
    if len(numbers) != len(names):
        raise PrepError(path, f"{len(numbers)} lines of ground truth", f"{len(names)}, one for each validation image")
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    if missing := sorted({number for number in numbers if wnid_of.get(number) not in label_of}):
        raise PrepError(path, f"class {missing[0]} ({wnid_of.get(missing[0], 'unknown')})", f"a wnid of {TRAIN_TAR}")
    return np.array([label_of[wnid_of[number]] for number in numbers], np.int64)


def _devkit_file(path: Path, name: str) -> bytes:
    if path.is_dir():
        try:
            return (path / "data" / name).read_bytes()
        except OSError as error:
            raise PrepError(path, f"no devkit ({error})", f"a folder with data/{name}") from error
    for _, data in archive.members(path, lambda inner: inner.endswith(f"data/{name}")):
        return data
    raise PrepError(path, f"no data/{name}", "ILSVRC-2012's devkit")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PrepError(path, f"no text ({error})", "lines of UTF-8") from error


def _words(path: Path) -> dict[str, str]:
    table = {}
    for number, line in enumerate(_lines(path), 1):
        wnid, _, words = line.partition(" ")
        if not line.strip():
            continue
        if not _WNID.match(wnid) or not words.strip():
            raise PrepError(f"{path}:{number}", repr(line[:80]), "a wnid and words, as 'n01440764 tench, Tinca tinca'")
        table[wnid] = words.strip()
    return table


def _named(wnids: tuple[str, ...], words: dict[str, str], path: Path) -> tuple[str, ...]:
    """Each class by its words; two that share theirs ("crane") by wnid, too."""
    if missing := [wnid for wnid in wnids if wnid not in words]:
        raise PrepError(path, f"no line for {missing[0]}", f"words for each of {len(wnids)} classes")
    often = Counter(words[wnid] for wnid in wnids)
    return tuple(words[wnid] if often[words[wnid]] == 1 else f"{words[wnid]} ({wnid})" for wnid in wnids)
