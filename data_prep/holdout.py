"""A part of the training images held out: a prepared set cut in two, to choose a rate on without looking at the test images.

The training database was shuffled once, so its last records are a sample. Whitening and mean stay those of all training
images: they know no labels.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from allconv_caffe.proto import ProtoError, datum
from data_prep import database
from data_prep.errors import PrepError, writing
from data_prep.manifest import Manifest
from data_prep.pipeline import building

_CHUNK = 1000  # records


def name_of(display_name: str, count: int) -> str:
    """What tables call a set whose test images are held-out training images; never the name of the set itself."""
    return f"{display_name}, {count:,} held out"


def hold_out(folder: str | Path, out: str | Path, count: int, force: bool = False) -> Manifest:
    """Cut a prepared set's training images into a smaller training set and `count` images to test on.

    Args:
        folder: The prepared set; its own test images are not in the result.
        out: Gets the two databases, the other files and a manifest, complete or not at all.
        force: Replace a finished data set.

    Raises:
        PrepError: no prepared set, a count that leaves nothing to train on, a disk that is full.
    """
    folder, out = Path(folder), Path(out)
    whole = Manifest.load(folder)
    if "held_out" in whole.source:
        raise PrepError(folder, "a set of which images are held out already", "the set that it was cut out of")
    if whole.copies:
        raise PrepError(
            folder, f"copies of its images ({', '.join(whole.copies)})", "a set whose images are all different"
        )
    if not 0 < count < whole.n_train:
        raise PrepError("held out", f"{count} images", f"1 to {whole.n_train - 1} of {whole.n_train}")
    source = folder / str(whole.lmdb["train"]["path"])
    records = database.records(source)
    sizes = {"train": whole.n_train - count, "test": count}
    with building(out, force) as partial:
        parts = {name: _Part(partial / f"{name}_lmdb", whole, size) for name, size in sizes.items()}
        for name, part in parts.items():
            part.write(islice(records, sizes[name]))
        for name in whole.files:
            with writing(partial):
                shutil.copyfile(folder / name, partial / name)
        manifest = replace(
            whole,
            display_name=name_of(whole.display_name, count),
            n_train=sizes["train"],
            n_test=count,
            class_counts={name: part.counts.tolist() for name, part in parts.items()},
            source={**whole.source, "held_out": count, "of": whole.lmdb["train"]["sha256"]},
            lmdb={
                name: {"path": f"{name}_lmdb", "records": part.content.records, "sha256": part.content.sha256}
                for name, part in parts.items()
            },
            statistics=_statistics(whole, parts),
        )
        manifest.save(partial)
    return manifest


def order(manifest: Manifest, split: str) -> list[int]:
    """The source indices of a database's records in their order, as the seed and the cut give them."""
    if "held_out" not in manifest.source:
        return database.shuffled(manifest.lmdb[split]["records"], manifest.seed, int(split == "test")).tolist()
    whole = database.shuffled(manifest.n_train + manifest.n_test, manifest.seed, 0).tolist()
    return whole[: manifest.n_train] if split == "train" else whole[manifest.n_train :]


class _Part:
    """One of the two databases, with what its manifest says of it."""

    def __init__(self, path: Path, whole: Manifest, size: int) -> None:
        self.path, self.size, self.content = path, size, database.Content(0, "")
        self.counts = np.zeros(whole.classes, np.int64)
        self.values, self.total, self.squares = 0, 0.0, 0.0
        self._whole = whole

    def write(self, records: Iterator[tuple[bytes, memoryview]]) -> None:
        """Copy the records; the first half of a key, its place in the database, is counted anew."""
        first = next(records)
        longest = max(len(first[1]), 5 * int(np.prod(self._whole.shape))) + 32
        position = 0
        with database.Writer(self.path, self.size, longest) as writer:
            chunk = [first, *islice(records, _CHUNK - 1)]
            while chunk:
                keys = [b"%08d%b" % (position + i, bytes(key)[8:]) for i, (key, _) in enumerate(chunk)]
                values = [memoryview(bytes(value)) for _, value in chunk]
                for key, value in zip(keys, values, strict=True):
                    self._count(key, value)
                writer.write(keys, values)
                position += len(chunk)
                chunk = list(islice(records, _CHUNK))
            self.content = writer.finish()

    def _count(self, key: bytes, value: memoryview) -> None:
        try:
            image, _, label = datum.parse(value)
            self.counts[label] += 1
        except (ProtoError, IndexError) as error:
            raise PrepError(self.path, f"record {key!r}: {error}", "a record of a prepared set") from None
        if image is None:  # an encoded photograph
            return
        pad = self._whole.pad
        flat = image[:, pad : image.shape[1] - pad, pad : image.shape[2] - pad].astype(np.float32).ravel()
        self.total += float(flat.sum(dtype=np.float64))
        self.squares += float(np.dot(flat, flat))
        self.values += flat.size


def _statistics(whole: Manifest, parts: dict[str, _Part]) -> dict[str, float]:
    """Mean and standard deviation of both parts; of encoded photographs those of all training images."""
    found = dict(whole.statistics)
    for name, part in parts.items():
        if part.values:
            mean = part.total / part.values
            deviation = float(np.sqrt(max(0.0, part.squares / part.values - mean * mean)))
        else:
            mean, deviation = (whole.statistics.get(f"train_{word}", 0.0) for word in ("mean", "std"))
        found |= {f"{name}_mean": mean, f"{name}_std": deviation}
    return found
