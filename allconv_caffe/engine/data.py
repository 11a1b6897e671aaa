"""LMDB data sets: read once into memory where they fit, streamed by a thread where they do not.

Source: data_reader, db_lmdb.cpp, data_layer.cpp.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import lmdb
import numpy as np
import psutil
import torch
from google.protobuf.message import DecodeError

from allconv_caffe.engine.errors import CaffeError, check
from allconv_caffe.proto import Datum


@dataclass
class Batch:
    """One batch before transformation: images (N, C, H, W) uint8 or float32, labels (N,) float32."""

    images: torch.Tensor
    labels: torch.Tensor


def memory_limit() -> int:
    """Bytes that one data set may take in memory: ALLCONV_DATA_MEMORY_MB, else half of what is free."""
    named = os.environ.get("ALLCONV_DATA_MEMORY_MB")
    return int(float(named) * 2**20) if named else psutil.virtual_memory().available // 2


def open_lmdb(source: str) -> lmdb.Environment:
    """Opens an LMDB folder for reading. Raises CaffeError with the path."""
    if not Path(source).exists():
        raise CaffeError("mdb_status == 0 (2 vs. 0) No such file or directory", source)
    try:
        return lmdb.open(source, readonly=True, lock=False, readahead=True, subdir=Path(source).is_dir(), max_readers=64)
    except lmdb.Error as error:
        raise CaffeError(f"mdb_status == 0: {error}", source) from None


def decode(value: bytes, key: bytes, source: str, color: int = -1) -> tuple[np.ndarray, int]:
    """One Datum as an array (C, H, W), uint8 or float32, and its label.

    Args:
        color: for encoded images: 1 forces colour, 0 grey, -1 keeps what the file holds. OpenCV's BGR.

    Raises:
        CaffeError: a record that is no Datum, or whose size is not its shape's.
    """
    where = f"{source}: record {key.decode('ascii', 'replace')!r}"
    try:
        datum = Datum.FromString(value)
    except DecodeError:
        raise CaffeError("not a Datum: cannot parse", where) from None
    if datum.encoded:
        flag = {1: cv2.IMREAD_COLOR, 0: cv2.IMREAD_GRAYSCALE}.get(color, cv2.IMREAD_UNCHANGED)
        image = cv2.imdecode(np.frombuffer(datum.data, np.uint8), flag)
        if image is None:
            raise CaffeError("Could not decode datum ", where)
        return (image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))), datum.label
    shape = (datum.channels, datum.height, datum.width)
    count = shape[0] * shape[1] * shape[2]
    if datum.data:
        array = np.frombuffer(datum.data, np.uint8)
    else:
        array = np.array(datum.float_data, np.float32)
    if array.size != count or count == 0:
        raise CaffeError(f"datum of shape {shape} needs {count} values, found {array.size}", where)
    return array.reshape(shape), datum.label


class Layout:
    """The byte layout that the float records of one set share: where the tag bytes and the label stand.

    A float Datum writes every value behind its own tag byte 0x35. Where all records of a batch have the same length and
    the same prefix, the values are one strided copy instead of a parse.
    """

    TAG = 0x35

    def __init__(self, value: bytes, count: int) -> None:
        self.size = len(value)
        self.count = count
        raw = np.frombuffer(value, np.uint8)
        self.start = value.find(bytes([self.TAG]), 0)
        while self.start >= 0:
            tags = raw[self.start : self.start + 5 * count : 5]
            if len(tags) == count and self.start + 5 * count <= self.size and bool((tags == self.TAG).all()):
                break
            self.start = value.find(bytes([self.TAG]), self.start + 1)
        self.prefix = value[: max(self.start, 0)]
        self.shape: tuple[int, int, int] = (0, 0, 0)

    def read(self, value: bytes) -> tuple[np.ndarray, int] | None:
        """(count,) float32 and the label; None where the record is laid out otherwise."""
        if self.start < 0 or len(value) != self.size:
            return None
        raw = np.frombuffer(value, np.uint8)
        block = raw[self.start : self.start + 5 * self.count].reshape(self.count, 5)
        if not bool((block[:, 0] == self.TAG).all()):
            return None
        rest = Datum.FromString(value[: self.start] + value[self.start + 5 * self.count :])
        if (rest.channels, rest.height, rest.width) != self.shape or rest.float_data or rest.data or rest.encoded:
            return None
        return np.ascontiguousarray(block[:, 1:]).view(np.float32).reshape(-1), rest.label


class RecordReader:
    """Decodes records, by their common layout where there is one."""

    def __init__(self, source: str, color: int) -> None:
        self.source, self.color = source, color
        self.layout: Layout | None = None

    def __call__(self, key: bytes, value: bytes) -> tuple[np.ndarray, int]:
        if self.layout is not None:
            fast = self.layout.read(value)
            if fast is not None:
                return fast[0].reshape(self.layout.shape), fast[1]
        array, label = decode(value, key, self.source, self.color)
        if array.dtype == np.float32 and self.layout is None:
            self.layout = Layout(value, array.size)
            self.layout.shape = (array.shape[0], array.shape[1], array.shape[2])
        return array, label


class Source:
    """Batches of an LMDB in key order, wrapping, the position kept from one batch to the next.

    Args:
        path: LMDB folder.
        batch_size: records a batch.
        prefetch: batches read ahead when streaming.
        color: see `decode`.
        device: where a set that is held in memory lives.

    Attributes:
        position: the next record; set it to resume elsewhere.
        in_memory: whether the whole set is held.
    """

    _held: dict[tuple[str, str, float], Batch] = {}

    def __init__(
        self, path: str, batch_size: int, prefetch: int = 4, color: int = -1, device: torch.device | None = None
    ) -> None:
        self.path, self.batch_size, self.prefetch = path, batch_size, max(1, prefetch)
        self.color, self.device = color, device or torch.device("cpu")
        self.position = 0
        self._reader = RecordReader(path, color)
        self.environment = open_lmdb(path)
        self.records: int = self.environment.stat()["entries"]
        if not self.records:
            raise CaffeError("Check failed: datum_channels > 0 (0 vs. 0): the LMDB has no records", path)
        with self.environment.begin(buffers=False) as transaction, transaction.cursor() as cursor:
            cursor.first()
            first, _ = self._reader(*cursor.item())
        self.shape: tuple[int, int, int] = (first.shape[0], first.shape[1], first.shape[2])
        self.dtype = first.dtype
        self.in_memory = self.records * first.nbytes <= memory_limit()
        self._batch: Batch | None = None
        self._queue: queue.Queue[Batch | BaseException] | None = None

    def next_batch(self) -> Batch:
        """The next `batch_size` records. In memory and without a wrap: a view."""
        if self.in_memory:
            return self._slice()
        if self._queue is None:
            self._queue = queue.Queue(self.prefetch)
            threading.Thread(target=self._stream, args=(self._queue,), daemon=True).start()
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        self.position = (self.position + self.batch_size) % self.records
        return item

    def _slice(self) -> Batch:
        if self._batch is None:
            self._batch = self._load()
        start, n = self.position, self.records
        self.position = (start + self.batch_size) % n
        whole = self._batch
        if start + self.batch_size <= n:
            stop = start + self.batch_size
            return Batch(whole.images[start:stop], whole.labels[start:stop])
        index = (torch.arange(start, start + self.batch_size) % n).to(self.device)
        return Batch(whole.images[index], whole.labels[index])

    def _load(self) -> Batch:
        key = (str(Path(self.path).resolve()), str(self.device), _modified(self.path))
        if key not in Source._held:
            images = np.empty((self.records, *self.shape), self.dtype)
            labels = np.empty(self.records, np.float32)
            for i, (array, label) in enumerate(self._records(0, self.records)):
                images[i], labels[i] = array, label
            Source._held[key] = Batch(torch.from_numpy(images).to(self.device), torch.from_numpy(labels).to(self.device))
        return Source._held[key]

    def _records(self, start: int, count: int) -> Iterator[tuple[np.ndarray, int]]:
        """`count` records from the start-th on, wrapping."""
        with self.environment.begin(buffers=False) as transaction, transaction.cursor() as cursor:
            cursor.first()
            for _ in range(start):
                cursor.next()
            for _ in range(count):
                key, value = cursor.item()
                array, label = self._reader(key, value)
                if array.shape != self.shape:
                    raise CaffeError(
                        f"record {key.decode('ascii', 'replace')!r} has shape {array.shape}, the first has {self.shape}",
                        self.path,
                    )
                yield array, label
                if not cursor.next():
                    cursor.first()

    def _stream(self, out: queue.Queue[Batch | BaseException]) -> None:
        try:
            with self.environment.begin(buffers=False) as transaction, transaction.cursor() as cursor:
                cursor.first()
                for _ in range(self.position):
                    cursor.next()
                while True:
                    images = np.empty((self.batch_size, *self.shape), self.dtype)
                    labels = np.empty(self.batch_size, np.float32)
                    for i in range(self.batch_size):
                        key, value = cursor.item()
                        array, labels[i] = self._reader(key, value)
                        check(array.shape == self.shape, f"{self.path}: a record of shape {array.shape}, not {self.shape}")
                        images[i] = array
                        if not cursor.next():
                            cursor.first()
                    batch = Batch(torch.from_numpy(images), torch.from_numpy(labels))
                    if self.device.type == "cuda":
                        batch = Batch(batch.images.pin_memory(), batch.labels.pin_memory())
                        batch = Batch(
                            batch.images.to(self.device, non_blocking=True),
                            batch.labels.to(self.device, non_blocking=True),
                        )
                    out.put(batch)
        except BaseException as error:  # handed to whoever asks for the next batch
            out.put(error)


def _modified(path: str) -> float:
    file = Path(path) / "data.mdb" if Path(path).is_dir() else Path(path)
    return file.stat().st_mtime
