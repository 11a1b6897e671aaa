"""LMDB environments as Caffe reads them: a folder with data.mdb, records met in the order of their keys."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import lmdb
import numpy as np

from allconv_caffe.proto.lmdb_file import LmdbError, LmdbFile
from data_prep.errors import PrepError, writing
from data_prep.imageset import IntArray

_PAGE = 4096


@dataclass(frozen=True)
class Content:
    """records; sha256: over every key and value in the order of the keys (keys and values alternating, no
    separators)."""

    records: int
    sha256: str


def keys(order: IntArray, start: int) -> list[bytes]:
    """Fixed-width keys `<position>_<index>`, eight digits each: the place in the database, and the image's number in
    its source (0-based, after sorting), by which any record can be traced back.

    Args:
        order: Source indices of consecutive records.
        start: Position of the first of them.
    """
    return [b"%08d_%08d" % (start + i, index) for i, index in enumerate(order.tolist())]


def shuffled(count: int, seed: int, split: int) -> IntArray:
    """A permutation of `count` source indices (Caffe never reshuffles an LMDB): NumPy's frozen MT19937 stream of
    (seed, split), the same on every version and machine."""
    return (
        np.random.RandomState(np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF, split], np.uint32))
        .permutation(count)
        .astype(np.int64)
    )


class Writer:
    """Append records in key order; one thread writes and hashes while the caller computes the next ones.

    Args:
        path: Folder of the environment; created, must not exist.
        records: How many records will come.
        value_bytes: The longest value's length, from which the map size follows.

    Raises (from any method):
        PrepError: disk full, map full, no permission, or the keys do not ascend.
    """

    def __init__(self, path: Path, records: int, value_bytes: int) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._records = 0
        self._pending: deque[Future[None]] = deque()
        # A long value lies on pages of its own, after 16 bytes of header; its entry in the leaf takes 17 + 8 + 8 + 2.
        pages = -(-(value_bytes + 16) // _PAGE)
        map_size = records * (pages * _PAGE + 96) * 21 // 20 + (64 << 20)
        with writing(path):
            path.mkdir(parents=True)
            self._env = lmdb.open(str(path), map_size=map_size, sync=False, metasync=False, readahead=False, lock=False)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="lmdb")

    def write(self, keys: Sequence[bytes], values: Sequence[memoryview]) -> None:
        """Queue one chunk; at most two chunks wait, so memory stays bounded."""
        while len(self._pending) >= 2:
            self._wait()
        self._pending.append(self._pool.submit(self._put, keys, values))

    def _put(self, keys: Sequence[bytes], values: Sequence[memoryview]) -> None:
        with self._env.begin(write=True) as transaction, transaction.cursor() as cursor:
            for key, value in zip(keys, values, strict=True):
                if not cursor.put(key, value, append=True):
                    raise PrepError(self._path, f"key {key!r} out of order", "ascending keys")
                self._digest.update(key)
                self._digest.update(value)
        self._records += len(keys)

    def _wait(self) -> None:
        with writing(self._path):
            self._pending.popleft().result()

    def finish(self) -> Content:
        """Wait, flush to disk and close."""
        while self._pending:
            self._wait()
        with writing(self._path):
            self._env.sync(True)
        return Content(self._records, self._digest.hexdigest())

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._env.close()


class Growing:
    """Append records whose sizes nobody knows beforehand, durable chunk by chunk, from where an earlier process ended.

    Args:
        path: Folder of the environment; made where it is missing.

    Raises (from any method):
        PrepError: disk full, no permission, keys that do not ascend, or a damaged left-over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._env: lmdb.Environment | None = None
        self._map_size = 1 << 30

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """What lies there already; to be read before anything is appended."""
        if (self._path / "data.mdb").is_file():
            for key, value in records(self._path):
                yield bytes(key), bytes(value)

    def append(self, chunk: Sequence[tuple[bytes, bytes]]) -> None:
        """One transaction, on disk when this returns."""
        with writing(self._path):
            if self._env is None:
                self._path.mkdir(parents=True, exist_ok=True)
                self._env = lmdb.open(str(self._path), map_size=self._map_size, readahead=False, lock=False)
            while True:
                try:
                    self._put(self._env, chunk)
                    return
                except lmdb.MapFullError:
                    self._map_size = 2 * max(self._map_size, int(self._env.info()["map_size"]))
                    self._env.set_mapsize(self._map_size)

    def _put(self, env: lmdb.Environment, chunk: Sequence[tuple[bytes, bytes]]) -> None:
        with env.begin(write=True) as transaction, transaction.cursor() as cursor:
            for key, value in chunk:
                if not cursor.put(key, value, append=True):
                    raise PrepError(self._path, f"key {key!r} out of order", "ascending keys")

    def __enter__(self) -> Growing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._env is not None:
            self._env.close()


def records(path: Path) -> Iterator[tuple[bytes, memoryview]]:
    """Every (key, value) in Caffe's order, read page by page: a damaged file is an error where the library would crash.

    Raises:
        PrepError: no environment there, or a damaged one.
    """
    if not (path / "data.mdb").is_file():
        raise PrepError(path, "no data.mdb", "an LMDB environment")
    try:
        yield from LmdbFile(str(path)).items()
    except LmdbError as error:
        raise PrepError(path, f"a damaged database ({error})", "an intact one; prepare it again") from error
