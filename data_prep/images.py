"""Class folders of images, `train/<class>/*.jpg` and `test/<class>/*.jpg`, decoded in threads as they come."""

from __future__ import annotations

import math
import re
from concurrent.futures import Future, ThreadPoolExecutor
from os import cpu_count

import numpy as np

from allconv_caffe import files
from allconv_caffe.proto import image_file
from data_prep.errors import PrepError
from data_prep.imageset import CIFAR10_CLASSES, Split, UInt8Array

SUFFIXES = (".jpg", ".jpeg", ".png")
_OTHER_SUFFIXES = (".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".jpe", ".jfif", ".avif", ".heic")
_FOLDER = re.compile(r"^(?:.*/)?(train|test)/([^/.][^/]*)$")
_PATTERN = re.compile(r"^(?:.*/)?(train|test)/([^/]+)/([^/]+)$")
_BATCH = 512


def is_image(name: str) -> bool:
    """Whether a member's name ends in `(train|test)/<class>/<file>.{jpg,jpeg,png}`."""
    base = name.rsplit("/", 1)[-1]
    return base.lower().endswith(SUFFIXES) and not base.startswith(".") and _PATTERN.match(name) is not None


def check_place(name: str, where: str) -> None:
    """Stop at an image that would be passed over in silence: at another depth than `train/<class>/`, or of a kind that
    is not read.

    Raises:
        PrepError: such an image.
    """
    *folders, base = name.split("/")
    suffix = "." + base.rsplit(".", 1)[-1].lower()
    if base.startswith(".") or "__MACOSX" in folders or not {"train", "test"} & set(folders):
        return
    placed = _PATTERN.match(name) is not None
    if placed and suffix in _OTHER_SUFFIXES:
        raise PrepError(f"{where}: {name}", f"an image of the kind {suffix}", " or ".join(SUFFIXES))
    if not placed and suffix in SUFFIXES:
        raise PrepError(f"{where}: {name}", "an image at this depth", "train/<class>/<image> and test/<class>/<image>")


def decode(data: bytes, where: str) -> UInt8Array:
    """One image file as (3, H, W) uint8, planes R, G, B (grey images: three equal planes).

    Raises:
        PrepError: OpenCV cannot decode the bytes.
    """
    try:
        return image_file.planes(image_file.decode(data, color=True), "RGB")
    except image_file.ImageError as error:
        raise PrepError(where, error.found, "a JPEG or PNG file") from error


class ImageTree:
    """Collects image files in any order; `finish` sorts them by split, class and name.

    Raises (from `add` or `finish`):
        PrepError: a file is no image, shapes differ, a split or class is missing.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._pool = ThreadPoolExecutor(max_workers=min(8, cpu_count() or 1), thread_name_prefix="decode")
        self._waiting: list[tuple[str, bytes]] = []
        self._futures: list[Future[list[tuple[str, UInt8Array]]]] = []
        self._folders: set[tuple[str, str]] = set()
        self._size: tuple[int, int] | None = None  # (height, width) of the first
        self._odd: dict[str, tuple[int, int]] = {}  # of those with another one, which `finish` refuses undecoded
        self._bytes = self._values = 0
        self.suffixes: set[str] = set()

    def __len__(self) -> int:
        return len(self._futures) * _BATCH + len(self._waiting)

    def folder(self, name: str) -> None:
        """Note a folder: where it stands for a class, `finish` expects an image in it."""
        if match := _FOLDER.match(name):
            self._folders.add((match[1], match[2]))

    def add(self, name: str, data: bytes) -> None:
        size = image_file.size(data)
        self._size = self._size or size
        self._bytes += len(data)
        self._values += 3 * math.prod(self._size or ())
        if self._values > files.most_unpacked(self._bytes):
            raise PrepError(
                self._where,
                f"images of {self._values} bytes packed into {self._bytes}",
                "pictures",
            )
        self.suffixes.add(name.rsplit(".", 1)[-1].lower())
        if size is not None and sorted(size) != sorted(self._size or ()):  # EXIF may turn it
            self._odd[name] = size
            return
        self._waiting.append((name, data))
        if len(self._waiting) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        self._futures.append(self._pool.submit(lambda: [(n, decode(d, f"{self._where}: {n}")) for n, d in batch]))

    def close(self) -> None:
        """Stop decoding (also after an error elsewhere)."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def finish(self) -> tuple[Split, Split, tuple[str, ...]]:
        """Returns: train, test, class names in alphabetical order (CIFAR-10's own order is alphabetical)."""
        if self._waiting:
            self._flush()
        images = dict(pair for future in self._futures for pair in future.result())
        self._futures.clear()
        places: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
        sizes = {name: image.shape[1:] for name, image in images.items()} | self._odd
        for name in sorted(sizes):
            split, label, _ = _PATTERN.match(name).groups()  # type: ignore[union-attr]
            places[split].setdefault(label, []).append(name)
        for split, classes in places.items():
            if not classes:
                raise PrepError(
                    self._where, f"no folder {split}/<class> with images", "train/<class>/ and test/<class>/"
                )
        for split, label in sorted(self._folders):
            if label not in places[split]:
                raise PrepError(
                    f"{self._where}: {split}", f"no image of class {label}", "an image in each class folder"
                )
        for split, other in (("train", "test"), ("test", "train")):
            if missing := sorted(set(places[other]) - set(places[split])):
                raise PrepError(
                    f"{self._where}: {split}", f"no image of class {', '.join(missing)}", f"the classes of {other}"
                )
        names = tuple(sorted(places["train"]))
        first = places["train"][names[0]][0]
        height, width = sizes[first]
        order = {split: [name for label in names for name in places[split][label]] for split in ("train", "test")}
        for name in (*order["train"], *order["test"]):
            if sizes[name] != (height, width):
                raise PrepError(
                    f"{self._where}: {name}",
                    f"an image of {sizes[name][1]}x{sizes[name][0]} pixels",
                    f"{width}x{height} as in {first}",
                )
        splits = []
        for split, ordered in order.items():
            stacked = np.empty((len(ordered), 3, height, width), np.uint8)
            for i, name in enumerate(ordered):
                stacked[i] = images.pop(name)
            labels = np.repeat(np.arange(len(names)), [len(places[split][label]) for label in names])
            splits.append(Split(stacked, labels.astype(np.int64)))
        return splits[0], splits[1], names


def display_name(class_names: tuple[str, ...], suffixes: set[str], shape: tuple[int, int, int], fallback: str) -> str:
    """What tables call a tree of images: never plain "CIFAR-10", since nobody can tell what was done to the pixels."""
    kind = "JPEG" if suffixes & {"jpg", "jpeg"} else "PNG"
    if class_names == CIFAR10_CLASSES and shape == (3, 32, 32):
        return f"CIFAR-10 ({kind})"
    return f"{fallback} ({kind})"
