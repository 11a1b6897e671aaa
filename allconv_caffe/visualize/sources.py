"""Images for a net, by position and by key: an LMDB of Datum, or a folder of image files."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from allconv_caffe.proto import ProtoError, datum, image_file
from allconv_caffe.proto.lmdb_file import LmdbError, LmdbFile
from allconv_caffe.visualize.labels import Labels
from allconv_caffe.visualize.nets.base import PathLike
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.whitening import InputSpace

SAMPLES = 64  # images whose bytes tell two data sets of one size apart
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".webp")


class ImageSource(ABC):
    """Images in a fixed order, each with a key that finds it again.

    Attributes:
        where: the path. shape: (C, H, W) of what it gives, the net's input. space: how pixels become the input blob.
    """

    where: str
    shape: tuple[int, int, int]
    space: InputSpace

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of how many images there are and of up to `SAMPLES` of them with their keys: the same for the same data, wherever.

        Raises: VizError: an image that cannot be read.
        """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def items(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, str, np.ndarray]]:
        """(position, key, (C, H, W) float32) of images start to stop - 1, in order; `batches` brings them to the net's form."""

    @abstractmethod
    def get(self, keys: Sequence[str]) -> np.ndarray:
        """(len(keys), C, H, W) float32. Raises: VizError: a key that the data do not have."""

    @abstractmethod
    def keys(self) -> list[str]:
        """Of all images, in order."""

    @abstractmethod
    def label(self, key: str) -> int | None:
        """The class of an image, where the data say it."""

    def sample(self, count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
        """Keys and images of `count` places drawn by `seed`, in the order of the data; of all, if there are no more.

        Raises: VizError: a count below 1.
        """
        if count < 1:
            raise VizError("number of images", count, "1 or more")
        keys = self.keys()
        places = np.random.default_rng(seed).choice(len(keys), min(count, len(keys)), replace=False)
        chosen = [keys[place] for place in sorted(places)]
        return chosen, self.get(chosen)

    def batches(
        self, batch_size: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[np.ndarray, list[str], np.ndarray]]:
        """(positions (N,), keys, images (N, C, H, W)), the last batch smaller."""
        positions: list[int] = []
        keys: list[str] = []
        images: list[np.ndarray] = []
        for position, key, image in self.items(start, stop):
            positions.append(position)
            keys.append(key)
            images.append(image)
            if len(keys) == batch_size:
                yield np.array(positions), keys, self._ready(np.stack(images))
                positions, keys, images = [], [], []
        if keys:
            yield np.array(positions), keys, self._ready(np.stack(images))

    def _ready(self, images: np.ndarray) -> np.ndarray:
        """What `items` gives, as the net takes it."""
        return images

    def _fit(self, image: np.ndarray, key: str, ready: bool) -> np.ndarray:
        """The middle of `image`, as large as the net's input, through the input space unless it is `ready`."""
        c, h, w = self.shape
        if image.shape[0] != c or image.shape[1] < h or image.shape[2] < w:
            raise VizError(
                f"{self.where}: {key}", f"an image of {'x'.join(map(str, image.shape))}", f"{c}x{h}x{w} or larger"
            )
        whole = self.space.whitening is not None  # whitens whole images, not their middle
        if whole and not ready:
            image, ready = self.space.blob(image[None])[0], True
        top, left = (image.shape[1] - h) // 2, (image.shape[2] - w) // 2
        image = image[:, top : top + h, left : left + w]
        return np.asarray(image if ready else self.space.blob(image[None])[0], np.float32)


def open_images(
    path: PathLike,
    shape: Sequence[int],
    space: InputSpace | None = None,
    *,
    resize: int | None = None,
    labels: Labels | None = None,
) -> ImageSource:
    """An LMDB environment (a folder with data.mdb), or a folder of images, searched in depth.

    Args:
        shape: the net's input, (C, H, W): `VizNet.input_shape`. Larger images give their middle.
        space: how pixels become the input blob. None: BGR, nothing subtracted. Float data of an LMDB are taken to be
            whitened already where the space whitens.
        resize: image files only: scale them so that the shorter side has this many pixels (Caffe's ImageNet crops come
            from 256). None: the nearest size that the net's input fits into, if the file is smaller or larger than it.
        labels: image files only: the classes that names of files and folders are compared with.

    Raises: VizError: nothing there, an empty or damaged database, no images, a `resize` below the net's input.
    """
    where = os.fspath(path)
    c, h, w = (int(n) for n in shape)
    if os.path.isfile(os.path.join(where, "data.mdb")):
        return LmdbImages(where, (c, h, w), space or InputSpace())
    if os.path.isdir(where):
        return FolderImages(where, (c, h, w), space or InputSpace(), resize, labels)
    if os.path.isfile(where):
        return FolderImages(where, (c, h, w), space or InputSpace(), resize, labels, files=[Path(where)])
    raise VizError(where, "nothing", "an LMDB environment, a folder of images, or an image")


def _samples(count: int) -> list[int]:
    """Positions of the images that stand for all in a fingerprint: the first, the last, some between."""
    return sorted({i * (count - 1) // (SAMPLES - 1) for i in range(SAMPLES)})


class LmdbImages(ImageSource):
    """Records in the byte order of their keys, as Caffe's cursor gives them."""

    def __init__(self, path: str, shape: tuple[int, int, int], space: InputSpace) -> None:
        self.where, self.shape, self.space = path, shape, space
        self._whitened = False  # of the records read last; those of a set are alike
        with self._readable():
            self._file = LmdbFile(path)
        if not len(self._file):
            raise VizError(path, "no records", "at least one image")

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(str(len(self)).encode())
        with self._readable():
            for position in _samples(len(self)):
                key, value = next(self._file.items(position))
                digest.update(b"%d %d " % (len(key), len(value)) + key)
                digest.update(value)
        return digest.hexdigest()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except LmdbError as error:
            raise VizError(self.where, f"a database that cannot be read ({error})", "an LMDB environment") from None

    def __len__(self) -> int:
        return len(self._file)

    def items(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, str, np.ndarray]]:
        stop = len(self) if stop is None else min(stop, len(self))
        with self._readable():
            for position, (key, value) in enumerate(islice(self._file.items(start), max(0, stop - start)), start):
                name = key.decode("latin1")
                yield position, name, self._image(value, name)

    def keys(self) -> list[str]:
        with self._readable():
            return [key.decode("latin1") for key in self._file.keys()]  # noqa: SIM118 (a method of our reader, no mapping)

    def get(self, keys: Sequence[str]) -> np.ndarray:
        images = [self._image(self._value(key), key) for key in keys]
        return self._ready(np.stack(images)) if images else np.zeros((0, *self.shape), np.float32)

    def _ready(self, images: np.ndarray) -> np.ndarray:
        return self.space.of_records(images) if self._whitened else images

    def label(self, key: str) -> int:
        return self._record(self._value(key), key).label

    def _value(self, key: str) -> memoryview:
        with self._readable():
            value = self._file.get(key.encode("latin1", "backslashreplace"))
            first = next(self._file.keys())
        if value is None:
            raise VizError(self.where, f"no record {key!r}", f"a key of these data, such as {first.decode('latin1')!r}")
        return value

    def _record(self, value: Any, key: str) -> datum.Record:
        try:
            return datum.parse(value)
        except ProtoError as error:
            raise VizError(f"{self.where}: {key}", f"no Datum ({error.reason})", "an LMDB of Datum") from None

    def _image(self, value: Any, key: str) -> np.ndarray:
        record = self._record(value, key)
        if record.image is None:
            image = _decode(record.encoded, f"{self.where}: {key}", self.shape[0], self.space.order)
            return self._fit(image, key, False)
        ready = self._whitened = record.image.dtype != np.uint8 and self.space.whitening is not None
        return self._fit(record.image, key, ready)


class FolderImages(ImageSource):
    """Image files in the order of their paths; the path below the folder is the key."""

    def __init__(
        self,
        path: str,
        shape: tuple[int, int, int],
        space: InputSpace,
        resize: int | None,
        labels: Labels | None = None,
        files: Sequence[Path] | None = None,
    ) -> None:
        self.where, self.shape, self.space, self.resize, self.labels = path, shape, space, resize, labels
        if resize is not None and resize < (least := min(shape[1:])):
            raise VizError("resize", resize, f"{least} or more: the net takes {shape[1]}x{shape[2]}")
        if files is None:
            self._root = Path(path)
            files = [p for p in self._root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
        else:
            self._root = Path(path).parent
        self._keys = sorted(p.relative_to(self._root).as_posix() for p in files)
        if not self._keys:
            raise VizError(path, "no image files", f"files ending in {', '.join(SUFFIXES)}, or an LMDB environment")

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256("\n".join(self._keys).encode("utf-8", "surrogateescape"))
        for position in _samples(len(self)):
            path = self._root / self._keys[position]
            try:
                digest.update(path.read_bytes())
            except OSError as error:
                raise VizError(path, f"a file that cannot be read ({error.strerror})", "an image") from None
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self._keys)

    def items(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, str, np.ndarray]]:
        for position, key in enumerate(self._keys[start:stop]):
            yield start + position, key, self._image(key)

    def keys(self) -> list[str]:
        return list(self._keys)

    def label(self, key: str) -> int | None:
        return None if self.labels is None else self.labels.of(key)

    def get(self, keys: Sequence[str]) -> np.ndarray:
        images = [self._image(key) for key in keys]
        return np.stack(images) if images else np.zeros((0, *self.shape), np.float32)

    def _image(self, key: str) -> np.ndarray:
        where = f"{self.where}: {key}" if (self._root / key) != Path(self.where) else self.where
        try:
            data = (self._root / key).read_bytes()
        except OSError as error:
            raise VizError(where, error.strerror or str(error), "a readable image") from None
        image = _decode(data, where, self.shape[0], self.space.order, self._size)
        return self._fit(image, key, False)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """What an image of this size is scaled to: the shorter side to `resize`, or so that the input just fits in."""
        _, h, w = self.shape
        factor = self.resize / min(height, width) if self.resize is not None else max(h / height, w / width)
        return max(round(height * factor), h), max(round(width * factor), w)


def _decode(data: bytes, where: str, channels: int, order: str, size: Any = None) -> np.ndarray:
    """An image file as (C, H, W) float32, planes in `order`; `size` maps its size to the wanted one."""
    try:
        image = image_file.decode(data, color=channels != 1)
    except image_file.ImageError as error:
        raise VizError(where, error.found, "a JPEG or PNG file") from None
    if size is not None:
        height, width = size(*image.shape[:2])
        if (height, width) != image.shape[:2]:
            shrink = height < image.shape[0]
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
    return np.asarray(image_file.planes(image, order), np.float32)
