"""Photographs of any size to LMDBs as Caffe's own tools make them, in constant memory, on all cores, resumable.

Each picture is read, decoded, fitted and encoded by a pool of threads (OpenCV lets them run side by side); one thread writes
the records in their order. Records are those of `convert_imageset`, the mean image is that of `compute_image_mean`, byte for
byte: tests/parity/test_photos.py compares them.

Source: tools/convert_imageset.cpp, tools/compute_image_mean.cpp, util/io.cpp (ReadImageToDatum, CVMatToDatum).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from allconv_caffe.proto import BlobProto, Datum, ProtoError, datum, image_file, write_binary
from data_prep import database
from data_prep.errors import PrepError, writing
from data_prep.imageset import ImageSet, IntArray, Split, UInt8Array, check
from data_prep.listing import Listing, Pictures
from data_prep.manifest import SPLITS, Manifest

CHANNEL_ORDER = "BGR planes (channel, row, column)"
ENCODINGS = ("", "jpg", "png", "file")
_CHUNK = 64  # pictures that one thread takes at a time: 13 MB of 256x256 records
_KEY_BYTES = 511  # LMDB's longest key
_LARGE = 1 << 24  # pixels, 50 MB: of larger pictures one is in the making at a time
_LONGEST_SIDE = 65500  # pixels, what JPEG allows
_one_large = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a picture of any size becomes a record."""

    resize: tuple[int, int] | None = None  # (height, width) in pixels: warped to it, whatever its shape
    shorter_side: int | None = None  # pixels: scaled until its shorter side has them; its shape stays
    crop: tuple[int, int] | None = None  # (height, width) in pixels: the middle, after that
    grey: bool = False  # one channel in place of blue, green, red
    encoded: str = ""  # "": bytes of pixels; "jpg", "png": compressed again; "file": the file's own bytes, as it is

    def check(self) -> None:
        """Raises: PrepError: settings that contradict each other, or sizes below 1."""
        if self.encoded not in ENCODINGS:
            raise PrepError("encoded", repr(self.encoded), " or ".join(map(repr, ENCODINGS)))
        if self.resize and self.shorter_side:
            raise PrepError("shorter_side", f"{self.shorter_side} beside resize", "one of the two")
        for name, sizes in (("resize", self.resize), ("crop", self.crop), ("shorter_side", self.shorter_side)):
            values = sizes if isinstance(sizes, tuple) else () if sizes is None else (sizes,)
            if any(not 1 <= value <= _LONGEST_SIDE for value in values):
                raise PrepError(name, "x".join(map(str, values)), f"1 to {_LONGEST_SIDE} pixels")
        if self.encoded == "file" and (self.resize or self.shorter_side or self.crop or self.grey):
            raise PrepError("encoded", "the files' own bytes beside a new size or one channel", "'jpg' or 'png'")

    def apply(self, image: UInt8Array, place: str) -> UInt8Array:
        """An image as OpenCV has it, (H, W, 3) in B, G, R or (H, W), brought to its size. Raises: PrepError."""
        if self.resize or self.shorter_side:
            image = _scaled(image, self.resize or self._new_size(image), place)
        if self.crop:
            top, left = ((have - want) // 2 for have, want in zip(image.shape[:2], self.crop, strict=True))
            if min(top, left) < 0:
                raise PrepError(
                    place, _size(image), f"at least {self.crop[1]}x{self.crop[0]} to crop; give shorter_side or resize"
                )
            image = image[top : top + self.crop[0], left : left + self.crop[1]]
        return image

    def _new_size(self, image: UInt8Array) -> tuple[int, int]:
        assert self.shorter_side
        scale = self.shorter_side / min(image.shape[:2])
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        return height, width


def _scaled(image: UInt8Array, size: tuple[int, int], place: str) -> UInt8Array:
    height, width = size
    if max(size) > _LONGEST_SIDE or height * width > image_file.MOST_PIXELS:
        raise PrepError(
            place,
            f"{_size(image)} that would have {width}x{height}",
            f"at most {_LONGEST_SIDE} on a side and {image_file.MOST_PIXELS} in all; give resize",
        )
    try:
        return cv2.resize(image, (width, height)).astype(np.uint8, copy=False)
    except cv2.error as error:
        raise PrepError(place, f"{_size(image)} that OpenCV cannot scale ({error.err})", "another size") from error


def _size(image: UInt8Array) -> str:
    return f"an image of {image.shape[1]}x{image.shape[0]} pixels"


def decode(data: bytes, color: bool | None, place: str) -> UInt8Array:
    """A file's image, as Caffe's ReadImageToCVMat has it. Raises: PrepError: OpenCV has no picture for these bytes."""
    try:
        with _one_large if math.prod(image_file.size(data) or ()) > _LARGE else nullcontext():
            return image_file.decode(data, color).astype(np.uint8, copy=False)
    except image_file.ImageError as error:
        raise PrepError(place, error.found, "a picture that OpenCV can decode") from error


def record(data: bytes, label: int, fit: Fit, place: str) -> tuple[bytes, UInt8Array]:
    """A file's Datum, serialised, and the pixels (C, H, W) that whoever decodes it will see.

    Raises: PrepError.
    """
    image = fit.apply(decode(data, not fit.grey, place), place)
    if not fit.encoded:
        pixels = image_file.planes(image)
        channels, height, width = pixels.shape
        whole = Datum(channels=channels, height=height, width=width, data=pixels.tobytes(), label=label, encoded=False)
        return bytes(whole.SerializeToString()), pixels
    if fit.encoded != "file":
        done, compressed = cv2.imencode(f".{fit.encoded}", image)
        if not done:
            raise PrepError(place, f"an image that OpenCV cannot compress as {fit.encoded}", "another encoding")
        data = compressed.tobytes()
    return bytes(Datum(data=data, label=label, encoded=True).SerializeToString()), _seen(data, place)


def _seen(data: bytes, place: str) -> UInt8Array:
    """What Caffe decodes of a record unless it is told otherwise: as many channels as the file has (DecodeDatumNative)."""
    return image_file.planes(decode(data, None, place))


def prepare(
    listing: Listing,
    out: str | Path,
    fit: Fit,
    *,
    dataset: str = "images",
    display_name: str,
    source: dict[str, Any],
    seed: int = 0,
    force: bool = False,
    progress: bool = True,
    workers: int | None = None,
) -> Manifest:
    """Two LMDBs, the training images' mean and a manifest under `out`, complete or absent.

    What an interrupted preparation of the same pictures in the same way left behind is gone on with.

    Args:
        listing: the photographs and their classes.
        out: will hold `train_lmdb/`, `test_lmdb/`, `mean.binaryproto` and `manifest.json`.
        fit: how pictures become records; all records have one size.
        dataset: "images" or "ilsvrc12".
        display_name: what tables must call the set.
        source: goes into the manifest: name and kind of what the photographs came from.
        seed: decides the order of the records: shuffled once, since Caffe never reshuffles a database.
        force: replace a finished data set.
        progress: show bars on standard error.
        workers: threads that decode; as many as there are cores by default.

    Raises:
        PrepError: a picture that cannot be read or has another size, a full disk; what was written before stays for
            the next time.
    """
    from data_prep import pipeline

    fit.check()
    if not 0 <= seed < 1 << 63:
        raise PrepError("seed", str(seed), "a number from 0 to 2^63 - 1")
    out = Path(out)
    token = _token(listing, fit, seed)
    with pipeline.building(out, force, token=token) as partial:
        with ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="decode") as pool:
            work = _Work(pool, workers or os.cpu_count() or 1, fit, seed, progress)
            splits = {
                name: work.write(partial / f"{name}_lmdb", getattr(listing, name), i) for i, name in enumerate(SPLITS)
            }
        if splits["train"].shape != splits["test"].shape:
            raise PrepError(
                f"{listing.where}: test",
                f"images of shape {splits['test'].shape}",
                f"{splits['train'].shape} as in train",
            )
        with writing(partial / "mean.binaryproto"):
            write_binary(str(partial / "mean.binaryproto"), mean_blob(splits["train"].total, len(listing.train)))
        manifest = _manifest(listing, splits, fit, seed, partial, dataset, display_name, source)
        manifest.save(partial)
    return manifest


def mean_blob(total: np.ndarray, count: int) -> Any:
    """`compute_image_mean`'s BlobProto of a sum (C, H, W) over `count` images, float32 as its sum is."""
    mean = total / np.float32(count)
    channels, height, width = mean.shape
    blob = BlobProto(num=1, channels=channels, height=height, width=width)
    blob.data.extend(mean.ravel().tolist())
    return blob


def _token(listing: Listing, fit: Fit, seed: int) -> str:
    """What decides every record, as one text: a left-over with the same may be gone on with."""
    digest = hashlib.sha256()
    for split in SPLITS:
        pictures: Pictures = getattr(listing, split)
        digest.update(pictures.numbers.tobytes() + pictures.labels.tobytes())
        for row in range(len(pictures)):
            digest.update(os.fsencode(pictures.name(row)) + b"\0")
    facts = {"fit": asdict(fit), "seed": seed, "pictures": digest.hexdigest(), "opencv": cv2.__version__}
    return json.dumps(facts, sort_keys=True)


@dataclass(kw_only=True)
class _Split:
    """What was written of one split."""

    content: database.Content
    """Number and digest of its records."""
    shape: tuple[int, int, int]
    """(C, H, W) of each."""
    total: np.ndarray
    """(C, H, W) float32: the sum, added in the order of the records as compute_image_mean adds."""
    mean: float
    """Of all values."""
    std: float
    """Their standard deviation."""


class _Sums:
    """Sums over the records as they pass: the digest, the mean image, the mean and deviation of all values."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.digest = hashlib.sha256()
        self.records = 0
        self.total: np.ndarray | None = None
        self.values = self.squares = 0.0

    def add(self, key: bytes, value: bytes, pixels: UInt8Array) -> None:
        if self.total is None:
            self.total = np.zeros(pixels.shape, np.float32)
        if pixels.shape != self.total.shape:
            found, expected = ("x".join(map(str, shape)) for shape in (pixels.shape, self.total.shape))
            raise PrepError(
                f"{self.where}: {os.fsdecode(key[9:])}",
                f"an image of shape {found}",
                f"{expected} as before it; give resize, or shorter_side and crop (and grey files among coloured ones a new encoding)",
            )
        self.digest.update(key)
        self.digest.update(value)
        self.records += 1
        self.total += pixels
        self.values += float(pixels.sum(dtype=np.int64))
        self.squares += float(cv2.norm(pixels.reshape(1, -1), cv2.NORM_L2SQR))

    def finish(self) -> _Split:
        assert self.total is not None
        count = self.records * self.total.size
        mean = self.values / count
        return _Split(
            content=database.Content(self.records, self.digest.hexdigest()),
            shape=(self.total.shape[0], self.total.shape[1], self.total.shape[2]),
            total=self.total,
            mean=mean,
            std=float(np.sqrt(max(0.0, self.squares / count - mean * mean))),
        )


class _Work:
    """Decodes on many threads, writes on this one."""

    def __init__(self, pool: ThreadPoolExecutor, workers: int, fit: Fit, seed: int, progress: bool) -> None:
        self.pool, self.workers, self.fit, self.seed, self.progress = pool, workers, fit, seed, progress

    def write(self, path: Path, pictures: Pictures, number: int) -> _Split:
        """One LMDB, gone on with where it ends."""
        order = database.shuffled(len(pictures), self.seed, number)
        sums = _Sums(pictures.where)
        with database.Growing(path) as written, self._bar(path.name, len(pictures)) as bar:
            for key, value in written.records():  # what an earlier attempt wrote
                sums.add(key, value, _pixels_of(value, f"{path}: {os.fsdecode(key)}")[0])
                bar.update(1)
            for records in self._records(pictures, order, sums.records):
                for key, value, pixels in records:
                    sums.add(key, value, pixels)
                written.append([(key, value) for key, value, _ in records])
                bar.update(len(records))
        return sums.finish()

    def _bar(self, name: str, total: int) -> Any:
        return tqdm(total=total, desc=name, unit="image", disable=None if self.progress else True, leave=False)

    def _records(
        self, pictures: Pictures, order: IntArray, start: int
    ) -> Iterator[list[tuple[bytes, bytes, UInt8Array]]]:
        """Chunks in order; a few of them are in the making while one is written."""
        starts = iter(range(start, len(order), _CHUNK))
        waiting: deque[Future[list[tuple[bytes, bytes, UInt8Array]]]] = deque()
        try:
            while True:
                while len(waiting) < self.workers + 2 and (first := next(starts, None)) is not None:
                    rows = order[first : first + _CHUNK]
                    waiting.append(self.pool.submit(self._chunk, pictures, rows, first))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _chunk(self, pictures: Pictures, rows: IntArray, first: int) -> list[tuple[bytes, bytes, UInt8Array]]:
        made = []
        for position, row in enumerate(rows.tolist(), first):
            key = b"%08d_%b" % (position, os.fsencode(pictures.name(row)))
            if len(key) > _KEY_BYTES:
                raise PrepError(pictures.place(row), f"a name of {len(key) - 9} bytes", f"at most {_KEY_BYTES - 9}")
            place = pictures.place(row)
            made.append((key, *record(pictures.read(row), int(pictures.labels[row]), self.fit, place)))
        return made


def _pixels_of(value: bytes | memoryview, place: str) -> tuple[UInt8Array, int]:
    """The pixels (C, H, W) of a record of ours, and its label. Raises: PrepError, ProtoError."""
    image, encoded, label = datum.parse(value)
    return (_seen(encoded, place) if image is None else image), label


def _manifest(
    listing: Listing,
    splits: dict[str, _Split],
    fit: Fit,
    seed: int,
    partial: Path,
    dataset: str,
    display_name: str,
    source: dict[str, Any],
) -> Manifest:
    from data_prep import archive, pipeline

    shape = splits["train"].shape
    counts = {name: np.bincount(getattr(listing, name).labels, minlength=len(listing.class_names)) for name in SPLITS}
    return Manifest(
        dataset=dataset,
        display_name=display_name,
        labels="fine",
        preprocessing="raw",
        gcn_scale=0.0,
        gcn_min_divisor=0.0,
        zca_bias=0.0,
        pad=0,
        seed=seed,
        shape=shape,
        image_shape=shape,
        channel_order="grey (row, column)" if fit.grey else CHANNEL_ORDER,
        classes=len(listing.class_names),
        class_names=listing.class_names,
        class_counts={name: found.tolist() for name, found in counts.items()},
        n_train=len(listing.train),
        n_test=len(listing.test),
        source={**source, "fit": asdict(fit)},
        pixels_sha256={},
        lmdb={
            name: {"path": f"{name}_lmdb", "records": made.content.records, "sha256": made.content.sha256}
            for name, made in splits.items()
        },
        files={"mean.binaryproto": archive.file_checksums(partial / "mean.binaryproto").sha256},
        statistics={f"{name}_{word}": getattr(made, word) for name, made in splits.items() for word in ("mean", "std")},
        versions=pipeline.versions(),
    )


def image_set(
    listing: Listing, fit: Fit, display_name: str, source: dict[str, Any], *, progress: bool = True
) -> ImageSet:
    """The photographs in memory, fitted, as planes R, G, B: for whitening, which needs all of them at once.

    Raises:
        PrepError: a picture that cannot be read, or has another size than the first.
    """
    fit.check()
    if fit.encoded or fit.grey:
        raise PrepError(
            "preprocessing", "whitening of encoded or grey records", "coloured pixels, or preprocessing 'raw'"
        )
    splits = []
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode") as pool:
        for name in SPLITS:
            pictures: Pictures = getattr(listing, name)

            def fitted(row: int, pictures: Pictures = pictures) -> UInt8Array:
                place = pictures.place(row)
                image = fit.apply(decode(pictures.read(row), not fit.grey, place), place)
                return image_file.planes(image, "RGB")

            made, off = pool.map(fitted, range(len(pictures))), None if progress else True
            bar = tqdm(made, desc=name, total=len(pictures), unit="image", disable=off, leave=False)
            images = np.empty((0,), np.uint8)
            for row, image in enumerate(bar):
                if row == 0:
                    images = np.empty((len(pictures), *image.shape), np.uint8)
                if image.shape != images.shape[1:]:
                    raise PrepError(
                        pictures.place(row), f"an image of shape {image.shape}", f"{images.shape[1:]}; give resize"
                    )
                images[row] = image
            splits.append(Split(images, pictures.labels))
    found = ImageSet(
        train=splits[0],
        test=splits[1],
        class_names=listing.class_names,
        dataset="images",
        display_name=display_name,
        source={**source, "fit": asdict(fit)},
    )
    return check(found, listing.where)


def verify(folder: Path, manifest: Manifest) -> tuple[list[str], dict[str, list[int]]]:
    """Reads every record again.

    Returns:
        what differs from the manifest, a line each; and the class counts found, by split.
    """
    problems: list[str] = []
    found: dict[str, list[int]] = {}
    for split in SPLITS:
        counts = np.zeros(manifest.classes, np.int64)
        digest = hashlib.sha256()
        records = 0
        for key, value in database.records(folder / str(manifest.lmdb[split]["path"])):
            place = f"{split}_lmdb: record {bytes(key)!r}"
            digest.update(key)
            digest.update(value)
            records += 1
            try:
                pixels, label = _pixels_of(value, place)
            except (PrepError, ProtoError) as error:
                problems.append(f"{place}: {error}")
                continue
            if pixels.shape != manifest.shape:
                problems.append(f"{place}: {pixels.shape}, expected {manifest.shape}")
            if not 0 <= label < manifest.classes:
                problems.append(f"{place}: label {label}, expected 0 to {manifest.classes - 1}")
                continue
            counts[label] += 1
        found[split] = counts.tolist()
        entry = manifest.lmdb[split]
        if records != entry["records"]:
            problems.append(f"{split}_lmdb: {records} records, in the manifest {entry['records']}")
        if digest.hexdigest() != entry["sha256"]:
            problems.append(f"{split}_lmdb: SHA-256 {digest.hexdigest()}, in the manifest {entry['sha256']}")
        if found[split] != manifest.class_counts[split]:
            problems.append(
                f"{split}_lmdb: class counts {found[split]}, in the manifest {manifest.class_counts[split]}"
            )
    return problems, found
