"""Databases of `Datum` records, opened for reading, in the byte order of their keys, as Caffe's cursor gives them.

Source: db.hpp, db_lmdb.hpp (MDB_CHECK), db_lmdb.cpp, db_leveldb.cpp.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import itertools
import os
import stat
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Protocol, Union

import numpy as np

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute import data_kernel
from allconv_caffe.caffe_torch.compute.data_kernel import ADDRESS, BYTES, ENCODED, FLOATS, KIND, LABEL, LENGTH, UNREAD
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.source.datum import decode_image, parse_datum
from allconv_caffe.caffe_torch.source.images import CHUNK_BYTES, Images, gathered
from allconv_caffe.proto import DataParameter, lmdb_file

Value = tuple[int, bytes, Any]  # position, key, value


class Places:
    """Where some of an LMDB's values lie: positions in the data set, and (n, 3) places as the kernel has them."""

    def __init__(self, positions: np.ndarray, places: np.ndarray) -> None:
        self.positions, self.places = positions, places

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, part: slice) -> Places:
        return Places(self.positions[part], self.places[part])


Run = Union[Places, "list[Value]"]


class Source(Protocol):
    """Serialised records in key order."""

    path: str

    def __len__(self) -> int: ...

    def items(self, start: int = 0) -> Iterator[tuple[bytes, Any]]:
        """(key, value) pairs from the `start`-th on; a value stays valid."""
        ...

    def runs(self, start: int = 0) -> Iterator[Run]:
        """The same, several at once, or where they lie."""
        ...

    def read(self, places: Places) -> tuple[np.ndarray, object]:
        """The table of the values at `places` (see `data_kernel`), and what must live as long as it is used.

        It is valid until the next reading by the same thread.
        """
        ...

    def version(self) -> tuple[Any, ...]:
        """Differs once the data set on disk is another one."""
        ...


def status(code: int, reason: str, detail: str = "") -> CaffeError:
    """Caffe's sentence for a status of LMDB's."""
    return CaffeError(f"Check failed: mdb_status == 0 ({code} vs. 0) {reason}" + (f" ({detail})" if detail else ""))


class LmdbFile(lmdb_file.LmdbFile):
    """See there. Raises: CaffeError."""

    status = staticmethod(status)


class LmdbSource:
    """An LMDB environment, opened for reading. Raises CaffeError with Caffe's sentence and the path."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            if not os.path.isdir(path):
                code = errno.ENOTDIR if os.path.exists(path) else errno.ENOENT
                raise status(code, os.strerror(code))
            _check_lock(os.path.join(path, "lock.mdb"))
            self._file = LmdbFile(path)
        except CaffeError as error:
            raise error.within(path) from None
        self.opened_version = self.version()
        self._scratch = threading.local()

    def __len__(self) -> int:
        return len(self._file)

    def items(self, start: int = 0) -> Iterator[tuple[bytes, Any]]:
        try:
            yield from self._file.items(start)
        except CaffeError as error:
            raise error.within(self.path) from None

    def runs(self, start: int = 0) -> Iterator[Run]:
        kernel = data_kernel.load()
        if kernel is None:
            yield from _one_by_one(self, start)
            return
        try:
            begin, found, size = start, [], 0  # leaves, together enough for one reading
            for done, number, page, nodes in self._file.leaves(start):
                places = kernel.leaf(page, number, self._file.page_size, len(nodes))
                if places is not None and (places.sum(1) > self._file.end).any():
                    places = None
                if places is not None:
                    found.append(places[max(0, start - done) :])
                    size += int(found[-1][:, 1].sum())
                if found and (places is None or size >= CHUNK_BYTES):
                    yield _together(begin, found)
                    begin, found, size = done + len(nodes), [], 0
                if places is None:
                    yield from _one_by_one(self, max(start, done))  # which says what is wrong with it
                    return
            if found:
                yield _together(begin, found)
        except CaffeError as error:
            raise error.within(self.path) from None

    def read(self, places: Places) -> tuple[np.ndarray, object]:
        kernel = data_kernel.load()
        assert kernel is not None
        needed = int(places.places[:, 1:].sum()) + len(places) * self._file.page_size
        buffer = getattr(self._scratch, "buffer", None)
        if buffer is None or len(buffer) < needed:
            buffer = self._scratch.buffer = np.empty(max(needed, 2 * CHUNK_BYTES), np.uint8)
        rows = np.ascontiguousarray(places.places)
        return kernel.read(self._file.fileno(), self._file.page_size, rows, buffer), buffer

    def version(self) -> tuple[Any, ...]:
        found = os.stat(os.path.join(self.path, "data.mdb"))
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _together(begin: int, found: list[np.ndarray]) -> Places:
    places = np.concatenate(found)
    return Places(np.arange(begin, begin + len(places)), places)


def _check_lock(path: str) -> None:
    """Raises CaffeError where LMDB could not use its lock file. One that is missing is not missed, nor made."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        code = error.errno or errno.EIO
    else:
        code = errno.EISDIR if stat.S_ISDIR(mode) else 0 if stat.S_ISREG(mode) else errno.ESPIPE
    if code:
        raise status(code, os.strerror(code), "lock.mdb")


class LevelDbSource:
    """A LevelDB folder, read through `plyvel` where that is installed."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            plyvel = importlib.import_module("plyvel")
        except ImportError:
            raise CaffeError(
                "backend LEVELDB cannot be read without the package plyvel; install it, or convert the data set to "
                "LMDB and say backend: LMDB in data_param (LEVELDB is what a data_param without backend means)",
                path,
            ) from None
        try:
            self._db = plyvel.DB(path, create_if_missing=False)
        except (plyvel.Error, OSError) as error:
            raise CaffeError(f"Failed to open leveldb {path}\n{error}".replace("\n", ": "), path) from None
        self._count = sum(1 for _ in self._db.iterator(include_value=False))
        self.opened_version = self.version()

    def __len__(self) -> int:
        return self._count

    def items(self, start: int = 0) -> Iterator[tuple[bytes, Any]]:
        for i, (key, value) in enumerate(self._db.iterator()):
            if i >= start:
                yield key, value

    def runs(self, start: int = 0) -> Iterator[Run]:
        return _one_by_one(self, start)

    def read(self, places: Places) -> tuple[np.ndarray, object]:
        raise AssertionError("a LevelDB has no places")

    def version(self) -> tuple[Any, ...]:
        return (os.stat(os.path.join(self.path, "CURRENT")).st_mtime_ns,)


def _one_by_one(source: Source, start: int) -> Iterator[Run]:
    for position, (key, value) in enumerate(source.items(start), start):
        yield [(position, key, value)]


_sources: weakref.WeakValueDictionary[tuple[Any, ...], Any] = weakref.WeakValueDictionary()
_sources_lock = threading.Lock()


def open_source(path: str, backend: int) -> Source:
    """Opens a data set, or hands out the one already open.

    Raises: CaffeError: missing, not a data set, or of a backend that cannot be read here.
    """
    if "\0" in path:
        raise status(errno.ENOENT, os.strerror(errno.ENOENT), "a NUL in the name").within(repr(path))
    key = (os.path.realpath(path), backend)
    with _sources_lock:
        source = _sources.get(key)
        if source is None or not _unchanged(source):
            _sources.pop(key, None)
            source = None  # closes the outdated one, if nobody reads it
            source = LmdbSource(path) if backend == DataParameter.LMDB else LevelDbSource(path)
            _sources[key] = source
    if backend == DataParameter.LMDB:
        glog.info("db_lmdb.cpp:35", f"Opened lmdb {path}")
    else:
        glog.info("db_leveldb.cpp:18", f"Opened leveldb {path}")
    return source


def _unchanged(source: Any) -> bool:
    try:
        return bool(source.version() == source.opened_version)
    except OSError:
        return False


class Reader:
    """Parsed, decoded records of a source.

    Args:
        force_color, force_gray: for encoded records.
    """

    def __init__(self, source: Source, force_color: bool = False, force_gray: bool = False) -> None:
        self.source = source
        self.force_color, self.force_gray = force_color, force_gray
        self._told = False
        self.decodes = False  # whether the last record was an encoded image

    def __len__(self) -> int:
        return len(self.source)

    def runs(self, start: int = 0, every: int = 1) -> Iterator[Run]:
        """The `start`-th and each `every`-th after it, some at once, for `load`."""
        following = start
        for run in self.source.runs(start):
            begin = int(run.positions[0]) if isinstance(run, Places) else run[0][0]
            if every > 1:
                run = run[following - begin :: every]
                following += every * len(run)
            if len(run):
                yield run

    def restart(self) -> Iterator[Run]:
        """What comes after the last record: the first again."""
        return self.runs()

    def load(self, run: Run) -> Iterator[Images]:
        """The images of a run, decoded, some at once; valid until the next are asked for by the same thread."""
        if not isinstance(run, Places):
            yield from gathered(self._parse(*value) for value in run)
            return
        longest = int(run.places[:, 1].max())
        step = max(1, CHUNK_BYTES // max(1, longest))
        for begin in range(0, len(run), step):
            yield from self._read(run[begin : begin + step])

    def _read(self, places: Places) -> Iterator[Images]:
        table, buffer = self.source.read(places)
        ready = (table[:, KIND] == BYTES) | (table[:, KIND] == FLOATS)
        if ready.any():
            self._tell()
        edges = [0, *(np.flatnonzero(ready[1:] != ready[:-1]) + 1).tolist(), len(places)]
        for begin, end in itertools.pairwise(edges):
            if ready[begin]:
                yield Images(table[begin:end], keep=buffer)
            else:
                yield from gathered(self._decoded(table[begin:end], places.positions[begin:end]))

    def _decoded(self, table: np.ndarray, positions: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Image and label of each record that the kernel leaves to Python."""
        columns = (table[:, column].tolist() for column in (KIND, ADDRESS, LENGTH, LABEL))
        for position, kind, address, length, label in zip(positions.tolist(), *columns, strict=True):
            if kind == UNREAD:
                yield self._parse(position, *next(self.source.items(position)))
                continue
            value = ctypes.string_at(address, length)
            if kind != ENCODED:
                yield self._parse(position, None, value)
                continue
            try:
                image = decode_image(value, self.force_color, self.force_gray)
            except CaffeError as error:
                raise self._within(error, position, self._key(position)) from None
            yield image, label

    def _parse(self, position: int, key: bytes | None, value: Any) -> tuple[np.ndarray, int]:
        """The image and the label of a value; a key that is None is looked up if it is needed."""
        try:
            record = parse_datum(value)
            image = record.image
            self.decodes = image is None
            if image is None:
                image = decode_image(record.encoded, self.force_color, self.force_gray)
            else:
                self._tell()
        except CaffeError as error:
            raise self._within(error, position, self._key(position) if key is None else key) from None
        return image, record.label

    def _key(self, position: int) -> bytes:
        return next(self.source.items(position))[0]

    def _within(self, error: CaffeError, position: int, key: bytes) -> CaffeError:
        name = key.decode("ascii", "backslashreplace")
        return error.within(f"{self.source.path}: record {position} (key '{name}')")

    def _tell(self) -> None:
        if (self.force_color or self.force_gray) and not self._told:
            self._told = True
            glog.error("data_transformer.cpp:151", "force_color and force_gray only for encoded datum")

    def records(self, start: int = 0) -> Iterator[tuple[np.ndarray, int]]:
        """(image, label) of the `start`-th record and those after it, one by one; an image may be a view."""
        for position, (key, value) in enumerate(self.source.items(start), start):
            yield self._parse(position, key, value)

    def first(self) -> np.ndarray:
        """The first record's image. Raises CaffeError for an empty data set."""
        for image, _ in self.records():
            return image.copy()
        raise CaffeError("Check failed: datum_channels > 0 (0 vs. 0): the data set has no records", self.source.path)
