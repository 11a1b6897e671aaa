"""The four official CIFAR archives, in and out, in their own formats.

Formats (https://www.cs.toronto.edu/~kriz/cifar.html): *python*, pickled dictionaries with `data` (N, 3072) uint8 and a
list of labels; *binary*, records of 1 label byte (CIFAR-100: coarse, then fine) and 3072 pixel bytes. In both, a row
holds 1024 red values, then green, then blue, each plane row by row: exactly (3, 32, 32) in C order.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allconv_caffe import files
from data_prep import pickles
from data_prep.errors import PrepError, writing
from data_prep.imageset import IntArray, UInt8Array

SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An archive as its author publishes it."""

    name: str
    """Of the file."""
    dataset: str
    """cifar10 or cifar100."""
    display_name: str
    """What tables call it."""
    bytes: int
    """Its size."""
    md5: str
    """Of its bytes, as the CIFAR page has it."""
    url: str
    """Where it lies."""


def _official(name: str, dataset: str, display_name: str, size: int, md5: str) -> Archive:
    return Archive(
        name=name,
        dataset=dataset,
        display_name=display_name,
        bytes=size,
        md5=md5,
        url=f"https://www.cs.toronto.edu/~kriz/{name}",
    )


ARCHIVES: dict[str, Archive] = {
    archive.name: archive
    for archive in (
        _official("cifar-10-python.tar.gz", "cifar10", "CIFAR-10", 170498071, "c58f30108f718f92721af3b95e74349a"),
        _official("cifar-10-binary.tar.gz", "cifar10", "CIFAR-10", 170052171, "c32a1d4ab5d03f1284b67883e8d87530"),
        _official("cifar-100-python.tar.gz", "cifar100", "CIFAR-100", 169001437, "eb9058c3a382ffc7106e4002c42a8d85"),
        _official("cifar-100-binary.tar.gz", "cifar100", "CIFAR-100", 168513733, "03b5dce01913d631647c71ecec9e9cb8"),
    )
}

# MD5 of the files inside the python archives, by which an unpacked folder is recognised as the official one.
OFFICIAL_MEMBERS: dict[str, dict[str, str]] = {
    "CIFAR-10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    "CIFAR-100": {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    },
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """Which members an archive consists of."""

    dataset: str
    """cifar10 or cifar100."""
    binary: bool
    """Rows of bytes; else Python's pickles."""
    folder: str
    """That its members lie in."""
    train: tuple[str, ...]
    """The training files, in order."""
    test: str
    """The test file."""
    meta: tuple[str, ...]
    """The files with the classes' names."""

    @property
    def members(self) -> tuple[str, ...]:
        return (*self.train, self.test, *self.meta)


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
FORMATS = (
    Format(
        dataset="cifar10",
        binary=False,
        folder="cifar-10-batches-py",
        train=_BATCHES,
        test="test_batch",
        meta=("batches.meta",),
    ),
    Format(
        dataset="cifar10",
        binary=True,
        folder="cifar-10-batches-bin",
        train=tuple(f"{b}.bin" for b in _BATCHES),
        test="test_batch.bin",
        meta=("batches.meta.txt",),
    ),
    Format(dataset="cifar100", binary=False, folder="cifar-100-python", train=("train",), test="test", meta=("meta",)),
    Format(
        dataset="cifar100",
        binary=True,
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        meta=("coarse_label_names.txt", "fine_label_names.txt"),
    ),
)
MEMBER_FORMATS: dict[str, Format] = {member: form for form in FORMATS for member in form.members}


# ---- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """images: (N, 3, 32, 32) uint8; labels by kind ("fine", and "coarse" for CIFAR-100): (N,) int64."""

    images: UInt8Array
    labels: dict[str, IntArray]


def _listed(content: dict[Any, Any]) -> str:
    """The first of a dictionary's keys, for an error."""
    names = sorted(str(key)[:40] for key in content)
    return f"{names[:8]}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def parse_batch(data: bytes, form: Format, where: str) -> Batch:
    """Read one batch file of the python or binary version.

    Raises:
        PrepError: not a batch: wrong shape, wrong number of labels, missing entry, cut short.
    """
    kinds = ("fine",) if form.dataset == "cifar10" else ("coarse", "fine")
    if form.binary:
        record = len(kinds) + _PIXELS
        if not data or len(data) % record:
            raise PrepError(
                where,
                f"{len(data)} bytes",
                f"a multiple of {record} bytes, {len(kinds)} of label and {_PIXELS} of image",
            )
        rows = np.frombuffer(data, np.uint8).reshape(-1, record)
        return Batch(
            rows[:, len(kinds) :].reshape(-1, *SHAPE),
            {kind: rows[:, i].astype(np.int64) for i, kind in enumerate(kinds)},
        )
    content = pickles.load(data, where)
    if not isinstance(content, dict):
        raise PrepError(where, f"a {type(content).__name__}", "a dictionary with 'data' and labels")
    pixels = content.get("data")
    if not isinstance(pixels, np.ndarray):
        raise PrepError(where, f"entries {_listed(content)}", f"'data', an array (N, {_PIXELS}) uint8")
    if pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise PrepError(where, f"images of shape {pixels.shape}", f"(N, {_PIXELS})")
    labels = {}
    for kind in kinds:
        entry = "labels" if form.dataset == "cifar10" else f"{kind}_labels"
        values = content.get(entry)
        if isinstance(values, np.ndarray):
            values = values.tolist()
        if not isinstance(values, list) or not all(isinstance(v, int) and abs(v) < 1 << 31 for v in values):
            raise PrepError(where, f"entries {_listed(content)}", f"{entry!r}, a list of integers")
        if len(values) != len(pixels):
            raise PrepError(where, f"{len(pixels)} images and {len(values)} {entry}", "as many labels as images")
        labels[kind] = np.array(values, np.int64)
    return Batch(pixels.reshape(-1, *SHAPE), labels)


def parse_names(data: bytes, form: Format, member: str, where: str) -> dict[str, Any]:
    """Class names by kind ("fine", "coarse"), and "data_set_name" where the archive's writer gave one.

    Raises:
        PrepError: the file does not list names.
    """
    if form.binary:
        kind = "coarse" if member.startswith("coarse") else "fine"
        return {kind: tuple(line.strip() for line in data.decode("utf-8", "replace").splitlines() if line.strip())}
    content = pickles.load(data, where)
    entries = (
        {"fine": "label_names"} if form.dataset == "cifar10" else {k: f"{k}_label_names" for k in ("coarse", "fine")}
    )
    result: dict[str, Any] = {}
    for kind, entry in entries.items():
        listed = content.get(entry) if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(isinstance(name, (bytes, str)) for name in listed):
            raise PrepError(where, f"no list {entry!r}", f"the class names under {entry!r}")
        result[kind] = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in listed)
    given = content.get("data_set_name")
    if isinstance(given, (bytes, str)):
        result["data_set_name"] = given.decode("utf-8", "replace") if isinstance(given, bytes) else given
    return result


# ---- writing -------------------------------------------------------------------------------------------------------


def _pickled(value: Any) -> bytes:
    """Protocol 2 as Python 2 wrote it for the official archives: strings as byte strings, arrays by numpy.core."""
    if value is None:
        return b"N"
    if isinstance(value, (int, np.integer)):
        number = int(value)
        if 0 <= number < 256:
            return b"K" + bytes([number])
        return b"M" + struct.pack("<H", number) if 0 <= number < 65536 else b"J" + struct.pack("<i", number)
    if isinstance(value, str):
        value = value.encode("utf-8")
    if isinstance(value, bytes):
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value
    if isinstance(value, list):
        return b"](" + b"".join(map(_pickled, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_pickled(k) + _pickled(v) for k, v in value.items()) + b"u"
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        shape = b"(" + b"".join(map(_pickled, value.shape)) + b"t"
        return (
            made + b"(K\x01" + shape + dtype + b"\x89" + b"T" + struct.pack("<i", value.size) + value.tobytes() + b"tb"
        )
    raise TypeError(f"no CIFAR archive holds a {type(value).__name__}")


def _pickle_file(value: Any) -> bytes:
    return b"\x80\x02" + _pickled(value) + b"."


def write_python_archive(
    path: str | Path,
    train_x: UInt8Array,
    train_y: Sequence[int] | IntArray,
    test_x: UInt8Array,
    test_y: Sequence[int] | IntArray,
    label_names: Sequence[str],
    *,
    data_set_name: str | None = None,
    coarse: tuple[Sequence[int] | IntArray, Sequence[int] | IntArray, Sequence[str]] | None = None,
    compresslevel: int = 6,
) -> Path:
    """Write images as a tar.gz in the format of cifar-10-python (or, with `coarse`, of cifar-100-python).

    Args:
        path: The file to write; equal input gives equal bytes.
        train_x, test_x: (N, 3, 32, 32) uint8, RGB planes. CIFAR-10's five training files share train_x as evenly as
        they can. train_y, test_y: (N,) integers; with `coarse` the fine ones.
        label_names: One name for each class; with `coarse` the fine ones.
        data_set_name: What tables shall call the set; an additional entry in batches.meta.
        coarse: Training labels, test labels and names of the coarse classes.

    Raises:
        PrepError: images are not (N, 3, 32, 32) uint8, labels do not fit them, or the file cannot be written.
    """

    def serialise(form: Format, member: str, images: UInt8Array, labels: dict[str, IntArray]) -> bytes:
        names = [f"{member}_{i:05d}.png" for i in range(len(images))]
        content: dict[str, Any] = {
            "batch_label": member,
            "data": images.reshape(len(images), _PIXELS),
            "filenames": names,
        }
        for kind, values in labels.items():
            content["labels" if form.dataset == "cifar10" else f"{kind}_labels"] = values.tolist()
        return _pickle_file(content)

    def names(form: Format, count: int) -> dict[str, bytes]:
        content: dict[str, Any] = {} if data_set_name is None else {"data_set_name": data_set_name}
        if coarse is None:
            content |= {"num_cases_per_batch": count, "label_names": list(label_names), "num_vis": _PIXELS}
        else:
            content |= {"fine_label_names": list(label_names), "coarse_label_names": list(coarse[2])}
        return {form.meta[0]: _pickle_file(content)}

    return _write(path, False, serialise, names, train_x, train_y, test_x, test_y, coarse, compresslevel)


def write_binary_archive(
    path: str | Path,
    train_x: UInt8Array,
    train_y: Sequence[int] | IntArray,
    test_x: UInt8Array,
    test_y: Sequence[int] | IntArray,
    label_names: Sequence[str],
    *,
    coarse: tuple[Sequence[int] | IntArray, Sequence[int] | IntArray, Sequence[str]] | None = None,
    compresslevel: int = 6,
) -> Path:
    """Write images as a tar.gz in the format of cifar-10-binary (or, with `coarse`, of cifar-100-binary).

    Args and Raises: see `write_python_archive`; labels must be below 256.
    """

    def serialise(form: Format, member: str, images: UInt8Array, labels: dict[str, IntArray]) -> bytes:
        columns = [labels[kind][:, None] for kind in ("coarse", "fine") if kind in labels]
        return np.hstack([*columns, images.reshape(len(images), _PIXELS)]).astype(np.uint8).tobytes()

    def names(form: Format, count: int) -> dict[str, bytes]:
        lists = [label_names] if coarse is None else [coarse[2], label_names]
        return {
            member: "".join(f"{n}\n" for n in list_).encode() for member, list_ in zip(form.meta, lists, strict=True)
        }

    return _write(path, True, serialise, names, train_x, train_y, test_x, test_y, coarse, compresslevel)


def _write(
    path: str | Path,
    binary: bool,
    serialise: Callable[[Format, str, UInt8Array, dict[str, IntArray]], bytes],
    names: Callable[[Format, int], dict[str, bytes]],
    train_x: UInt8Array,
    train_y: Sequence[int] | IntArray,
    test_x: UInt8Array,
    test_y: Sequence[int] | IntArray,
    coarse: tuple[Sequence[int] | IntArray, Sequence[int] | IntArray, Sequence[str]] | None,
    compresslevel: int,
) -> Path:
    path = Path(path)
    dataset = "cifar10" if coarse is None else "cifar100"
    form = next(f for f in FORMATS if f.dataset == dataset and f.binary == binary)
    splits: list[tuple[UInt8Array, dict[str, IntArray]]] = []
    for i, (images, fine) in enumerate(((train_x, train_y), (test_x, test_y))):
        labels = {"fine": np.asarray(fine, np.int64)}
        if coarse is not None:
            labels["coarse"] = np.asarray(coarse[i], np.int64)
        if images.dtype != np.uint8 or images.shape[1:] != SHAPE:
            raise PrepError(path, f"images {images.shape} {images.dtype}", "(N, 3, 32, 32) uint8")
        for kind, values in labels.items():
            if values.shape != (len(images),) or values.min(initial=0) < 0 or values.max(initial=0) > 255:
                raise PrepError(path, f"{kind} labels {values.shape}", f"{len(images)} integers in [0, 255]")
        splits.append((images, labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        writing(path),
        files.writing(path) as raw,
        gzip.GzipFile("", "wb", compresslevel, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):

        def add(member: str, data: bytes) -> None:
            info = tarfile.TarInfo(f"{form.folder}/{member}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for member, data in names(form, -(-len(train_x) // len(form.train))).items():
            add(member, data)
        for (images, labels), members in zip(splits, (form.train, (form.test,)), strict=True):
            for member, rows in zip(members, np.array_split(np.arange(len(images)), len(members)), strict=True):
                part = {kind: values[rows] for kind, values in labels.items()}
                add(member, serialise(form, member, images[rows], part))
    return path
