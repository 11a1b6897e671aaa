"""A data set that a tool writes, record by record. Source: db.cpp, db_lmdb.cpp, db_leveldb.cpp.

Differs: it gets its name when it is whole; one that is being written, or was left over, lies beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import lmdb

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.files import building
from allconv_caffe.proto.leveldb_file import LevelDbWriter

FIRST_MAP_BYTES = 1 << 20  # LMDB's own choice; doubled when it is full
BATCH = 1000  # records written at once
MOST_BYTES = 1 << 26  # or as many as are so large
Records = list[tuple[bytes, bytes]]


class NewDatabase:
    """Takes records, and writes a thousand at a time."""

    def __init__(self, write: Callable[[Records], None]) -> None:
        self._write = write
        self._waiting: Records = []
        self._bytes = 0
        self.count = 0

    def put(self, key: bytes, value: bytes) -> bool:
        """Adds a record. Returns whether another thousand is written. Raises CaffeError."""
        self._waiting.append((key, value))
        self._bytes += len(key) + len(value)
        self.count += 1
        thousand = self.count % BATCH == 0
        if thousand or self._bytes > MOST_BYTES:
            self.commit()
        return thousand

    def commit(self) -> None:
        """Writes what waits. Raises CaffeError: a key that LMDB does not take, no space."""
        if self._waiting:
            self._write(self._waiting)
            self._waiting, self._bytes = [], 0


def _lmdb_writer(path: str, env: lmdb.Environment) -> Callable[[Records], None]:
    def write(records: Records) -> None:
        while True:
            try:
                with env.begin(write=True) as transaction:
                    for key, value in records:
                        transaction.put(key, value)
                return
            except lmdb.MapFullError:
                env.set_mapsize(env.info()["map_size"] * 2)
            except lmdb.Error as error:
                raise CaffeError(f"Check failed: mdb_status == 0 {error}", path) from None

    return write


@contextmanager
def new_database(path: str, backend: str) -> Iterator[NewDatabase]:
    """A new data set at `path`, there when the block ends and not before.

    Raises: CaffeError: `path` exists (for a LevelDB, and is no empty folder), or cannot be made; an unknown backend.
    """
    check(backend in ("lmdb", "leveldb"), f"Unknown database backend: {backend} (backends: leveldb, lmdb)")
    yield from (_new_lmdb if backend == "lmdb" else _new_leveldb)(path)


def _new_lmdb(path: str) -> Iterator[NewDatabase]:
    def refuse() -> None:
        check(not os.path.lexists(path), f"mkdir {path} failed (it exists)")

    refuse()
    glog.info("db_lmdb.cpp:35", f"Opened lmdb {path}")
    try:
        with building(path, refuse) as folder, lmdb.open(folder, map_size=FIRST_MAP_BYTES, mode=0o664) as env:
            database = NewDatabase(_lmdb_writer(path, env))
            yield database
            database.commit()
    except (OSError, lmdb.Error) as error:
        raise CaffeError(f"mkdir {path} failed ({getattr(error, 'strerror', None) or error})") from None


def _new_leveldb(path: str) -> Iterator[NewDatabase]:
    failed = f"Failed to open leveldb {path}"

    def refuse() -> None:
        empty = os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path)
        check(
            empty or not os.path.lexists(path), f"{failed}: Invalid argument: {path}: exists (error_if_exists is true)"
        )

    try:
        refuse()
        glog.info("db_leveldb.cpp:18", f"Opened leveldb {path}")
        with building(path, refuse) as folder, closing(LevelDbWriter(folder)) as writer:
            database = NewDatabase(writer.write)
            yield database
            database.commit()
    except OSError as error:
        raise CaffeError(f"{failed}: IO error: {error.strerror or error}") from None
