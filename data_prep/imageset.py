"""What every reader gives and every later stage takes: images, labels, names."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.errors import PrepError

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MOST_NAME = 1000  # characters
_UNSPEAKABLE = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")  # what ends a line, or is no UTF-8


@dataclass(frozen=True)
class Split:
    """images: (N, 3, H, W) uint8, planes in the order R, G, B; labels: (N,) int64 in [0, classes)."""

    images: UInt8Array
    labels: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    def sha256(self) -> str:
        """Digest of the pixels (C order) and then the labels (int64, little-endian): equal on two machines, whatever
        archive the images came in."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A training and a test split with the names of their classes."""

    train: Split
    """The images to fit and train on."""
    test: Split
    """Those to test on."""
    class_names: tuple[str, ...]
    """By label."""
    dataset: str
    """What it is in form: cifar10, cifar100 or images."""
    display_name: str
    """What tables may call it."""
    source: dict[str, Any] = field(default_factory=dict)
    """What it was read from; goes into the manifest as it is."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.train.images.shape[1:]


def check_name(where: str | Path, of: str, name: str) -> None:
    """Raises:
    PrepError: a name that a manifest, a table or a page cannot hold.
    """
    if not 1 <= len(name) <= MOST_NAME or _UNSPEAKABLE.search(name):
        raise PrepError(where, f"{of} named {name[:40]!r}", f"1 to {MOST_NAME} characters of UTF-8, in one line")


def _some(names: Sequence[str]) -> str:
    """Names for a message: the first few, and how many there are beyond."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def check(images: ImageSet, where: str | Path) -> ImageSet:
    """Return the set if it can be prepared.

    Raises:
        PrepError: a split is empty, shapes differ or are not (N, 3, H, W) uint8, a label is out of range, or a class
            has no image.
    """
    classes = len(images.class_names)
    if classes < 2:
        raise PrepError(where, f"{classes} classes", "at least 2")
    for name in images.class_names:
        check_name(where, "a class", name)
    if twice := sorted(name for name, count in Counter(images.class_names).items() if count > 1):
        raise PrepError(where, f"several classes named {_some(twice)}", "a name of its own for each class")
    for name, split in (("train", images.train), ("test", images.test)):
        place = f"{where}: {name}"
        if split.images.dtype != np.uint8 or split.images.ndim != 4 or split.images.shape[1] != 3:
            raise PrepError(place, f"images {split.images.shape} {split.images.dtype}", "(N, 3, H, W) uint8")
        if len(split) == 0:
            raise PrepError(place, "no images", "at least one for each class")
        if len(split.images) != len(split.labels):
            raise PrepError(
                place, f"{len(split.images)} images and {len(split.labels)} labels", "as many labels as images"
            )
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= classes:
            raise PrepError(place, f"label {low if low < 0 else high}", f"labels in [0, {classes - 1}]")
        counts = np.bincount(split.labels, minlength=classes)
        if missing := [images.class_names[i] for i in np.flatnonzero(counts == 0)]:
            raise PrepError(place, f"no image of class {_some(missing)}", f"images of all {classes} classes")
    if images.train.images.shape[1:] != images.test.images.shape[1:]:
        raise PrepError(
            f"{where}: test",
            f"images of shape {images.test.images.shape[1:]}",
            f"{images.train.images.shape[1:]} as in train",
        )
    return images
