"""Which images excite a channel most: one scan over the data, top k per channel.

    topk = mine(net, source, ["conv3", "conv6"], k=10, path="topk.npz")

A scan can stop and go on (`path`), be shared between machines (`shard`), and its parts be put together (`merge`): the
result is the same as of one scan. Results carry the hash of weights, net and data, and keys of images, not pixels.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import get_type_hints

import numpy as np
from tqdm import tqdm

from allconv_caffe import files, npz
from allconv_caffe.visualize.display import write
from allconv_caffe.visualize.nets.base import PathLike, VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.rules import is_relu
from allconv_caffe.visualize.sources import ImageSource
from allconv_caffe.visualize.unit import Unit, check_blob

FORMAT = 1
EDGES = np.concatenate([[0.0], 2.0 ** np.linspace(-10, 10, 61)])
"""Bounds of the histogram of each image's largest activation: bin 0 is at or below 0, the last above 1024."""


@dataclass(kw_only=True)
class Channels:
    """The best of one blob, best first; C channels, k places. A free place has value -inf and position -1.

    Attributes:
        values: (C, k) float32.
        positions: (C, k) int64, of the image in the data.
        keys: (C, k) str, the image's.
        y: (C, k) int32, the row.
        x: (C, k) int32, the column.
        histogram: (C, 62) int64: images by their largest activation, see EDGES.
    """

    values: np.ndarray
    positions: np.ndarray
    keys: np.ndarray
    y: np.ndarray
    x: np.ndarray
    histogram: np.ndarray

    @staticmethod
    def empty(channels: int, k: int) -> Channels:
        return Channels(
            values=np.full((channels, k), -np.inf, np.float32),
            positions=np.full((channels, k), -1, np.int64),
            keys=np.full((channels, k), "", "U1"),
            y=np.zeros((channels, k), np.int32),
            x=np.zeros((channels, k), np.int32),
            histogram=np.zeros((channels, len(EDGES) + 1), np.int64),
        )

    def copy(self) -> Channels:
        """The same, with arrays of its own."""
        return Channels(**{part: np.array(getattr(self, part)) for part in PARTS})

    @property
    def maximum(self) -> np.ndarray:
        return self.values[:, 0]

    @property
    def dead(self) -> np.ndarray:
        """(C,) bool: channels that no image of the scan made active."""
        return self.values[:, 0] <= 0

    @property
    def active_share(self) -> np.ndarray:
        """(C,) float: the share of images in which the channel was active anywhere."""
        return 1 - self.histogram[:, 0] / np.maximum(self.histogram.sum(axis=1), 1)


PARTS = ("values", "positions", "keys", "y", "x", "histogram")
"""The arrays of `Channels`, as a file names them."""
KINDS = {
    "head": ("U", 0),
    "*.values": ("float32", 2),
    "*.positions": ("int64", 2),
    "*.keys": ("U", 2),
    "*.y": ("int32", 2),
    "*.x": ("int32", 2),
    "*.histogram": ("int64", 2),
}
"""What lies in a file: type and number of axes."""


@dataclass(kw_only=True)
class TopK:
    """What a scan found.

    Attributes:
        blobs: by name, `Channels`.
        k: places that are kept of a channel.
        per_image: at most so many of them from one image.
        weights_sha256: of the net's weights.
        net_sha256: of the net.
        source_sha256: of the data, their `fingerprint`.
        n_images: how many the data have.
        done: half-open ranges of positions that were scanned, rising.
        source: the path, as a hint for the reader.
    """

    blobs: dict[str, Channels]
    k: int
    per_image: int
    weights_sha256: str
    net_sha256: str
    source_sha256: str
    n_images: int
    done: list[tuple[int, int]] = field(default_factory=list)
    source: str = ""

    @property
    def images_seen(self) -> int:
        return sum(stop - start for start, stop in self.done)

    @property
    def complete(self) -> bool:
        """Whether every image was seen."""
        return self.done == [(0, self.n_images)]

    def units(self, blob: str, channel: int, most: int | None = None) -> list[tuple[str, Unit, float]]:
        """(image key, unit, activation) of a channel's best places, best first; only active ones.

        Raises: VizError: a blob that was not mined, a channel out of range.
        """
        found = self.channels(blob)
        if not 0 <= channel < len(found.values):
            raise VizError(f"blob '{blob}'", f"channel {channel}", f"0 to {len(found.values) - 1}")
        return [
            (
                str(found.keys[channel, i]),
                Unit(blob, channel, int(found.y[channel, i]), int(found.x[channel, i])),
                float(found.values[channel, i]),
            )
            for i in range(self.k if most is None else min(most, self.k))
            if found.values[channel, i] > 0
        ]

    def channels(self, blob: str) -> Channels:
        """Raises: VizError: a blob that was not mined."""
        if blob not in self.blobs:
            raise VizError("mined blobs", repr(blob), "a blob that was mined", self.blobs)
        return self.blobs[blob]

    def save(self, path: PathLike) -> None:
        """Writes an .npz, whole or not at all.

        Raises: VizError: a folder that cannot be written.
        """
        head = {
            "format": FORMAT,
            "k": self.k,
            "per_image": self.per_image,
            "weights_sha256": self.weights_sha256,
            "net_sha256": self.net_sha256,
            "source_sha256": self.source_sha256,
            "n_images": self.n_images,
            "done": self.done,
            "source": self.source,
            "blobs": list(self.blobs),
        }
        arrays = {"head": np.array(json.dumps(head))}
        for i, channels in enumerate(self.blobs.values()):
            for name in PARTS:
                arrays[f"{i}.{name}"] = getattr(channels, name)
        packed = io.BytesIO()
        np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
        write(path, packed.getvalue(), make_folder=False)

    @staticmethod
    def load(path: PathLike) -> TopK:
        """Reads what `save` wrote.

        Raises: VizError: missing, damaged, or no such file.
        """
        where, expected = os.fspath(path), "what `mine` wrote"
        arrays = npz.read(path, expected, KINDS, VizError)
        try:
            head = json.loads(str(arrays.pop("head")))
            if head.pop("format") != FORMAT:
                raise ValueError("another format")
            names = head.pop("blobs")
            hints = get_type_hints(TopK)
            if set(head) != set(hints) - {"blobs"}:
                raise ValueError("other entries than a scan has")
            files.check_kinds(where, {"blobs": names, **head}, {**hints, "blobs": list[str]}, VizError)
            parts = [{part: arrays[f"{i}.{part}"] for part in PARTS} for i in range(len(names))]
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise VizError(where, f"an unreadable file ({error})"[:300], expected) from None
        head["done"] = [(int(a), int(b)) for a, b in head["done"]]
        found = TopK(blobs={name: Channels(**part) for name, part in zip(names, parts, strict=True)}, **head)
        found._check(where)
        return found

    def _check(self, where: str) -> None:
        """Raises: VizError: numbers and arrays that do not fit each other."""
        ends = [0, *(end for part in self.done for end in part), self.n_images]
        if min(self.k, self.per_image) < 1 or ends != sorted(ends):
            raise VizError(where, f"k {self.k}, per_image {self.per_image}, images {self.done[:4]}", "those of a scan")
        for name, found in self.blobs.items():
            count = len(found.values)
            shapes = {**dict.fromkeys(PARTS, (count, self.k)), "histogram": (count, len(EDGES) + 1)}
            for part, shape in shapes.items():
                if (array := getattr(found, part)).shape != shape or not count:
                    raise VizError(where, f"{part} of shape {array.shape} for blob '{name}'", str(shape))
            if found.positions.min() < -1 or found.positions.max() >= self.n_images or np.isnan(found.values).any():
                raise VizError(where, f"places of no image for blob '{name}'", f"images 0 to {self.n_images - 1}")

    def check(self, net: VizNet, source: ImageSource | None = None) -> None:
        """This scan was made with this net, these weights, and these data.

        Raises: VizError: it was not.
        """
        _same("weights", self.weights_sha256, net.weights_sha256)
        _same("net", self.net_sha256, net.net_sha256)
        if source is not None:
            _same("data", self.source_sha256, source.fingerprint)


def relu_blobs(net: VizNet) -> list[str]:
    """The blobs that a ReLU writes, in the net's order: those whose values at or below 0 mean a unit that is off.

    Raises: VizError: a net without ReLU.
    """
    found = [top for layer in net.param.layer if is_relu(layer) for top in layer.top if top in net.blob_names]
    if not found:
        raise VizError(net.where, "no ReLU layer", "blobs by name", net.blob_names)
    return list(dict.fromkeys(found))


def shard_from_text(text: str | None) -> tuple[int, int]:
    """``2/4``, the second of four parts, as `mine` takes it: (1, 4). None: the whole.

    Raises: VizError: another form.
    """
    if text is None:
        return 0, 1
    part, _, count = text.partition("/")
    if not (part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count)):
        raise VizError("shard", repr(text), "I/N with 1 <= I <= N, as 1/4")
    return int(part) - 1, int(count)


def mine(
    net: VizNet,
    source: ImageSource,
    blobs: Sequence[str],
    *,
    k: int = 10,
    per_image: int = 1,
    batch_size: int = 64,
    limit: int | None = None,
    shard: tuple[int, int] = (0, 1),
    path: PathLike | None = None,
    save_seconds: float = 60.0,
    progress: bool = True,
) -> TopK:
    """The k strongest places of every channel of `blobs`, in one scan.

    Args:
        per_image: at most so many places of one image for one channel; the paper's figure 3 needs 1.
        limit: only the first so many images of the data.
        shard: (i, n): the i-th of n equal parts of the data, i from 0.
        path: where the result is kept, also every `save_seconds` during the scan; if the file is there, the scan goes on
            where it stopped.
        progress: show a bar on stderr.

    Returns: TopK. Of equal values the earlier image wins, then the earlier place in row order.

    Raises: VizError: unknown blob, a unit after a softmax, an unusable shard, or a file at `path` of another scan.
    """
    if not blobs:
        raise VizError("blobs", "none", "at least one", net.blob_names)
    shapes = {blob: check_blob(net, blob) for blob in blobs}
    index, count = shard
    if not 0 <= index < count:
        raise VizError("shard", f"{index} of {count}", "i of n with 0 <= i < n")
    for word, value in (("k", k), ("per_image", per_image), ("batch_size", batch_size), ("limit", limit)):
        if value is not None and value < 1:
            raise VizError(word, value, "1 or more")
    if path is not None and not os.access(os.path.dirname(os.path.abspath(os.fspath(path))), os.W_OK):
        raise VizError(os.fspath(path), "a folder that is missing or cannot be written", "one that can")
    total = len(source) if limit is None else min(limit, len(source))
    begin, end = total * index // count, total * (index + 1) // count
    topk = TopK(
        blobs={blob: Channels.empty(shape[0], k) for blob, shape in shapes.items()},
        k=k,
        per_image=per_image,
        weights_sha256=net.weights_sha256,
        net_sha256=net.net_sha256,
        source_sha256=source.fingerprint,
        n_images=total,
        source=source.where,
    )
    if path is not None and os.path.exists(path):
        topk = _gone_on_with(TopK.load(path), topk, net, source, begin, end, os.fspath(path))
    position = topk.done[0][1] if topk.done else begin
    top = max(blobs, key=net.graph.writer)
    saved = time.monotonic()
    with tqdm(
        total=end - begin, initial=position - begin, desc="mining", unit="image", disable=None if progress else True
    ) as bar:
        for positions, keys, images in source.batches(batch_size, position, end):
            data = net.forward(images, blobs, until=top)
            for blob in blobs:
                update(topk.blobs[blob], data[blob], positions, keys, per_image)
            topk.done = [(begin, int(positions[-1]) + 1)]
            bar.update(len(keys))
            if path is not None and time.monotonic() - saved > save_seconds:
                topk.save(path)
                saved = time.monotonic()
    if path is not None:
        topk.save(path)
    return topk


def _gone_on_with(old: TopK, asked: TopK, net: VizNet, source: ImageSource, begin: int, end: int, where: str) -> TopK:
    """What an earlier scan of images `begin` to `end` found, for this one to go on with.

    Raises: VizError: it is another scan than the one that is `asked` for.
    """
    old.check(net, source)
    for word, wanted, found in (
        ("blobs", list(asked.blobs), list(old.blobs)),
        ("k", asked.k, old.k),
        ("per_image", asked.per_image, old.per_image),
        ("images", asked.n_images, old.n_images),
    ):
        if wanted != found:
            raise VizError(where, f"a scan with {word} {found}", f"{word} {wanted}; remove it, or name another")
    if old.done and not (len(old.done) == 1 and old.done[0][0] == begin and old.done[0][1] <= end):
        raise VizError(where, f"a scan of images {old.done}", f"a part of {begin} to {end}")
    return old


def update(best: Channels, data: np.ndarray, positions: np.ndarray, keys: Sequence[str], per_image: int = 1) -> None:
    """Puts one batch's blob into `best`, in place.

    Args:
        data: (N, C, H, W) or (N, C) float32. positions: (N,), of the images. keys: theirs.
    """
    n, c = data.shape[:2]
    flat = data.reshape(n, c, -1)
    width = data.shape[3] if data.ndim == 4 else 1
    places = min(per_image, flat.shape[2])
    largest = flat.max(axis=2)
    if places == 1:
        where = flat.argmax(axis=2)[:, :, None]
    else:
        where = np.argsort(-flat, axis=2, kind="stable")[:, :, :places]
    bins = np.searchsorted(EDGES, largest, side="left")
    for channel in range(c):
        best.histogram[channel] += np.bincount(bins[:, channel], minlength=best.histogram.shape[1])
    rows = np.flatnonzero((largest > best.values[:, -1]).any(axis=0))
    if not len(rows):
        return
    values = np.take_along_axis(flat, where, axis=2)[:, rows].transpose(1, 0, 2).reshape(len(rows), -1)
    spots = where[:, rows].transpose(1, 0, 2).reshape(len(rows), -1)
    images = np.broadcast_to(np.repeat(positions, places), values.shape)
    names = np.broadcast_to(np.repeat(np.asarray(keys, dtype=str), places), values.shape)
    _merge(best, rows, values, images, names, spots // width, spots % width)


def _merge(
    best: Channels,
    rows: np.ndarray,
    values: np.ndarray,
    positions: np.ndarray,
    keys: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
) -> None:
    k = best.values.shape[1]
    parts = {
        "values": np.concatenate([best.values[rows], values], axis=1),
        "positions": np.concatenate([best.positions[rows], positions], axis=1),
        "keys": np.concatenate([best.keys[rows], keys], axis=1),
        "y": np.concatenate([best.y[rows], y], axis=1),
        "x": np.concatenate([best.x[rows], x], axis=1),
    }
    order = np.lexsort((parts["x"], parts["y"], parts["positions"], -parts["values"]), axis=1)[:, :k]
    if parts["keys"].dtype.itemsize > best.keys.dtype.itemsize:
        best.keys = best.keys.astype(parts["keys"].dtype)
    for name, array in parts.items():
        getattr(best, name)[rows] = np.take_along_axis(array, order, axis=1)


def merge(first: TopK, *others: TopK) -> TopK:
    """One result of several scans of disjoint parts of the same data: the same as of one scan, whatever the order.

    Raises: VizError: other weights, net, data, blobs or settings; parts that overlap.
    """
    done = list(first.done)
    blobs = {name: channels.copy() for name, channels in first.blobs.items()}
    out = replace(first, blobs=blobs, done=[])
    for other in others:
        _same("weights", out.weights_sha256, other.weights_sha256)
        _same("net", out.net_sha256, other.net_sha256)
        _same("data", out.source_sha256, other.source_sha256)
        for word in ("k", "per_image", "n_images"):
            if getattr(out, word) != getattr(other, word):
                raise VizError("merge", f"{word} {getattr(other, word)}", f"{word} {getattr(out, word)}")
        if list(out.blobs) != list(other.blobs):
            raise VizError("merge", f"blobs {', '.join(other.blobs)}", f"{', '.join(out.blobs)}")
        for blob, best in out.blobs.items():
            if len(best.values) != (count := len(other.blobs[blob].values)):
                raise VizError("merge", f"blob '{blob}' of {count} channels", str(len(best.values)))
        done += other.done
        for blob, best in out.blobs.items():
            found = other.blobs[blob]
            best.histogram += found.histogram
            _merge(best, np.arange(len(best.values)), found.values, found.positions, found.keys, found.y, found.x)
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(done):
        if joined and start < joined[-1][1]:
            raise VizError(
                "merge", f"images {start} to {min(stop, joined[-1][1]) - 1} twice", "parts that do not overlap"
            )
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    out.done = joined
    return out


def _same(word: str, found: str, expected: str) -> None:
    if found != expected:
        raise VizError(
            "mined results", f"{word} {found[:12]}", f"{expected[:12]} (SHA-256): results of other {word}; mine again"
        )
