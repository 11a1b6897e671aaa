"""Photographs of any size, found but not read: a folder, a tar or a zip, each picture to be fetched by its number.

Names, labels and places of 1.3 million pictures lie in memory, pixels never do. Tars must be uncompressed: any picture of
one is then a read at an offset, in any order, from any thread; tars within a tar (ILSVRC's training set) too.
"""

from __future__ import annotations

import os
import re
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Protocol, cast

import numpy as np

from data_prep.archive import MAX_MEMBER_BYTES, ODD, Damage, Header, Refused, tar_headers, zip_member
from data_prep.errors import PrepError
from data_prep.imageset import IntArray, check_name

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_UNREAD = (".gif", ".heic", ".heif", ".avif", ".jp2", ".svg", ".raw", ".cr2", ".nef")
_SPLIT = re.compile(r"^(?:.*/)?(train|val|test)/([^/]+)/([^/]+)$")
_CLASS = re.compile(r"^(?:.*/)?([^/]+)/([^/]+)$")
TEST_FOLDERS = ("val", "test")


class Store(Protocol):
    """Where pictures lie: bytes by number. Any thread may ask."""

    def read(self, number: int) -> bytes: ...


class Folder:
    """Files below a folder."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def read(self, number: int) -> bytes:
        path = self.root / self.names[number]
        try:
            return path.read_bytes()
        except OSError as error:
            raise PrepError(path, f"a file that cannot be read ({error.strerror})", "an image") from error


class Tar:
    """Members of an uncompressed tar, by offset and size."""

    def __init__(self, path: Path, offsets: Iterable[int], sizes: Iterable[int]) -> None:
        self.path = path
        self.offsets = np.fromiter(offsets, np.int64)
        self.sizes = np.fromiter(sizes, np.int64)
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, number: int) -> bytes:
        size, offset = int(self.sizes[number]), int(self.offsets[number])
        data = os.pread(self._file, size, offset)
        if len(data) != size:
            raise PrepError(self.path, f"its end at byte {offset + len(data)}", "a whole archive; fetch it again")
        return data

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class Zip:
    """Members of a zip; each thread opens it for itself."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path, self.names = path, names
        self._own = threading.local()

    def read(self, number: int) -> bytes:
        if not hasattr(self._own, "file"):
            self._own.file = zipfile.ZipFile(self.path)
        try:
            archive = self._own.file
            return zip_member(archive, archive.getinfo(self.names[number]))
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, zlib.error, EOFError) as error:
            raise PrepError(
                f"{self.path}: {self.names[number]}", f"a damaged member ({error})"[:300], "an image"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The photographs of one split."""

    where: str  # what messages call the source
    store: Store  # where their bytes lie
    numbers: IntArray  # (N,) int64: their numbers in the store
    names: Sequence[str]  # of all pictures of the store
    labels: IntArray  # (N,) int64 from 0

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, row: int) -> bytes:
        """The bytes of a file. Raises: PrepError."""
        return self.store.read(int(self.numbers[row]))

    def name(self, row: int) -> str:
        return self.names[int(self.numbers[row])]

    def place(self, row: int) -> str:
        """What a message calls a picture."""
        return f"{self.where}: {self.name(row)}"

    def take(self, rows: IntArray) -> Pictures:
        """Some of them, in that order."""
        return Pictures(
            where=self.where,
            store=self.store,
            numbers=self.numbers[rows],
            names=self.names,
            labels=self.labels[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Photographs in two splits, and what their labels mean."""

    train: Pictures
    test: Pictures
    class_names: tuple[str, ...]  # by label
    where: Path  # the source


def members(source: Path) -> tuple[Store, list[str]]:
    """Every file of a folder, an uncompressed tar or a zip, in the order of their names' bytes.

    Raises:
        PrepError: nothing there, a compressed tar, or a damaged archive.
    """
    if source.is_dir():
        names = sorted(_walk(source), key=os.fsencode)
        return Folder(source, names), names
    if not source.exists():
        raise PrepError(source, "nothing", "a folder, a tar or a zip")
    if zipfile.is_zipfile(source):
        names = _once(source, sorted(_zip_names(source), key=os.fsencode))
        return Zip(source, names), names
    found = sorted(tar_members(source), key=lambda entry: os.fsencode(entry[0]))
    names = _once(source, [name for name, _, _ in found])
    return Tar(source, (offset for _, offset, _ in found), (size for _, _, size in found)), names


def _once(source: Path, names: list[str]) -> list[str]:
    """`names`, which are in order. Raises: PrepError: two are equal."""
    for one, other in pairwise(names):
        if one == other:
            raise PrepError(f"{source}: {one}", "a second member of this name", "each name once")
    return names


def _zip_names(source: Path) -> Iterator[str]:
    with Damage(source), zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if not info.filename:
                raise PrepError(source, "a member without a name", "names that stay inside the archive")
            if not info.is_dir():
                if info.file_size > MAX_MEMBER_BYTES:
                    raise PrepError(
                        f"{source}: {info.filename}", f"{info.file_size} bytes", f"at most {MAX_MEMBER_BYTES}"
                    )
                yield info.filename


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        prefix = "" if Path(folder) == root else Path(folder).relative_to(root).as_posix() + "/"
        yield from (prefix + name for name in files if not name.startswith("."))


def tar_members(path: Path, within: tuple[int, int] | None = None) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size in bytes of each file of an uncompressed tar.

    Args:
        within: offset and size of a tar that lies in `path` as a member.
    """
    try:
        with open(path, "rb") as file:
            start, size = within or (0, path.stat().st_size)
            with tarfile.open(fileobj=cast(IO[bytes], _Part(file, start, size)), mode="r:", tarinfo=Header) as tar:
                for member in tar_headers(tar):
                    base = member.name.rsplit("/", 1)[-1]
                    if member.isfile() and not base.startswith("."):
                        yield member.name.removeprefix("./"), start + member.offset_data, member.size
    except OSError as error:
        raise PrepError(path, f"a file that cannot be read ({error.strerror})", "a folder, a tar or a zip") from error
    except Refused as error:
        raise PrepError(path, error.found, error.expected) from error
    except (tarfile.TarError, *ODD) as error:
        raise PrepError(
            path, f"no uncompressed tar ({error})", "a folder, a zip or a tar that is not compressed; unpack it first"
        ) from error


class _Part:
    """A stretch of a file, as a file: what tarfile asks of one."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self.file, self.start, self.size, self.position = file, start, size, 0

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + {0: 0, 1: self.position, 2: self.size}[whence]
        return self.position

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size - self.position)
        self.file.seek(self.start + self.position)
        data = self.file.read(left if count < 0 else min(count, left))
        self.position += len(data)
        return data


def is_image(name: str, where: Path) -> bool:
    """Whether a file's name says that it is a picture that is read here.

    Raises:
        PrepError: a picture of a kind that is not.
    """
    suffix = Path(name).suffix.lower()
    if suffix in _UNREAD:
        raise PrepError(f"{where}: {name}", f"an image of the kind {suffix}", " or ".join(SUFFIXES))
    return suffix in SUFFIXES


def by_class(source: Path, *, test_fraction: float | None = None, seed: int = 0) -> Listing:
    """Photographs in `train/<class>/` and `val/<class>/` (or `test/<class>/`), or in one folder of classes.

    Args:
        source: a folder, an uncompressed tar or a zip.
        test_fraction: of one folder of classes: which part of each class is put aside for testing, chosen by `seed`.
        seed: decides which pictures those are.

    Returns:
        labels by the classes' names in the order of their bytes, as ILSVRC's are by wnid.

    Raises:
        PrepError: no pictures, fewer than two classes, a class without pictures in one split, or splits and a fraction.
    """
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise PrepError("test_fraction", str(test_fraction), "a number between 0 and 1")
    store, names = members(source)
    placed: dict[str, dict[str, list[int]]] = {}
    alone: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        if not is_image(name, source):
            continue
        if match := _SPLIT.match(name):
            placed.setdefault(match[1], {}).setdefault(match[2], []).append(number)
        elif match := _CLASS.match(name):
            alone.setdefault(match[1], []).append(number)
    if placed and test_fraction is not None:
        raise PrepError(
            "test_fraction",
            f"{test_fraction} for a source with {' and '.join(sorted(placed))}",
            "one folder of classes",
        )
    if placed:
        return _from_splits(source, store, names, placed)
    if not alone:
        raise PrepError(source, "no images", "train/<class>/ and val/<class>/, or one folder of classes")
    if test_fraction is None:
        raise PrepError(
            source, "one folder of classes", "train/ and val/ in it, or a test_fraction that is put aside for testing"
        )
    return _from_one(source, store, names, alone, test_fraction, seed)


def _from_splits(source: Path, store: Store, names: list[str], placed: dict[str, dict[str, list[int]]]) -> Listing:
    tests = [split for split in TEST_FOLDERS if split in placed]
    if "train" not in placed or not tests:
        raise PrepError(source, f"only {' and '.join(sorted(placed))}", "train/<class>/ and val/<class>/")
    if len(tests) > 1:
        raise PrepError(source, "val/ and test/", "one of them, to test on")
    train, test = placed["train"], placed[tests[0]]
    for one, other, split in ((train, test, tests[0]), (test, train, "train")):
        if missing := sorted(set(one) - set(other), key=os.fsencode):
            raise PrepError(
                f"{source}: {split}", f"no image of class {', '.join(missing[:5])}", "an image of each class"
            )
    classes = _classes(source, train)
    sides = (_pictures(source, store, names, split, classes) for split in (train, test))
    return Listing(train=next(sides), test=next(sides), class_names=classes, where=source)


def _from_one(
    source: Path, store: Store, names: list[str], alone: dict[str, list[int]], fraction: float, seed: int
) -> Listing:
    classes = _classes(source, alone)
    rng = np.random.RandomState(np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, len(classes)], np.uint32))
    train: dict[str, list[int]] = {}
    test: dict[str, list[int]] = {}
    for name in classes:
        numbers = alone[name]
        if len(numbers) < 2:
            raise PrepError(f"{source}: {name}", "one image", "at least two, to train on and to test on")
        aside = set(rng.permutation(numbers)[: min(len(numbers) - 1, max(1, round(fraction * len(numbers))))].tolist())
        train[name] = [number for number in numbers if number not in aside]
        test[name] = [number for number in numbers if number in aside]
    sides = (_pictures(source, store, names, split, classes) for split in (train, test))
    return Listing(train=next(sides), test=next(sides), class_names=classes, where=source)


def _classes(source: Path, split: dict[str, list[int]]) -> tuple[str, ...]:
    classes = tuple(sorted(split, key=os.fsencode))
    for name in classes:
        check_name(source, "a class", name)
    if len(classes) < 2:
        raise PrepError(source, f"{len(classes)} class ({', '.join(classes)})", "at least 2")
    return classes


def _pictures(
    source: Path, store: Store, names: list[str], split: dict[str, list[int]], classes: tuple[str, ...]
) -> Pictures:
    numbers = [number for name in classes for number in split[name]]
    labels = np.repeat(np.arange(len(classes)), [len(split[name]) for name in classes])
    return Pictures(
        where=str(source),
        store=store,
        numbers=np.array(numbers, np.int64),
        names=names,
        labels=labels.astype(np.int64),
    )
