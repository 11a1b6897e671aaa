"""Databases of `Datum` records, opened for reading, in the byte order of their keys, as Caffe's cursor gives them.

Source: db.hpp, db_lmdb.hpp (MDB_CHECK), db_lmdb.cpp, db_leveldb.cpp.
"""

from __future__ import annotations

import errno
import importlib
import os
import stat
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.source.datum import decode_image, parse_datum
from allconv_caffe.proto import DataParameter, lmdb_file


class Source(Protocol):
    """Serialised records in key order."""

    path: str

    def __len__(self) -> int: ...

    def items(self, start: int = 0) -> Iterator[tuple[bytes, Any]]:
        """(key, value) pairs from the `start`-th on; a value is valid until the next one is asked for."""
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

    def __len__(self) -> int:
        return len(self._file)

    def items(self, start: int = 0) -> Iterator[tuple[bytes, Any]]:
        try:
            yield from self._file.items(start)
        except CaffeError as error:
            raise error.within(self.path) from None

    def version(self) -> tuple[Any, ...]:
        found = os.stat(os.path.join(self.path, "data.mdb"))
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


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

    def version(self) -> tuple[Any, ...]:
        return (os.stat(os.path.join(self.path, "CURRENT")).st_mtime_ns,)


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

    def records(self, start: int = 0, every: int = 1) -> Iterator[tuple[np.ndarray, int]]:
        """(image, label) of the `start`-th and each `every`-th after it; an image may be a view, valid until the next one."""
        for position, (key, value) in enumerate(self.source.items(start), start):
            if (position - start) % every:
                continue
            try:
                record = parse_datum(value)
                image = record.image
                self.decodes = image is None
                if image is None:
                    image = decode_image(record.encoded, self.force_color, self.force_gray)
                elif (self.force_color or self.force_gray) and not self._told:
                    self._told = True
                    glog.error("data_transformer.cpp:151", "force_color and force_gray only for encoded datum")
            except CaffeError as error:
                name = key.decode("ascii", "backslashreplace")
                raise error.within(f"{self.source.path}: record {position} (key '{name}')") from None
            yield image, record.label

    def restart(self) -> Iterator[tuple[np.ndarray, int]]:
        """What comes after the last record: the first again."""
        return self.records()

    def first(self) -> np.ndarray:
        """The first record's image. Raises CaffeError for an empty data set."""
        for image, _ in self.records():
            return image.copy()
        raise CaffeError("Check failed: datum_channels > 0 (0 vs. 0): the data set has no records", self.source.path)
