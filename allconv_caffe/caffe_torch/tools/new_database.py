"""A data set that a tool writes, record by record. Source: db.cpp, db_lmdb.cpp.

Differs: it gets its name when it is whole; one that is being written, or was left over, lies beside it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import lmdb

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.files import building

FIRST_MAP_BYTES = 1 << 20  # LMDB's own choice; doubled when it is full
BATCH = 1000  # records written at once


class NewDatabase:
    """Takes records, and writes a thousand at a time."""

    def __init__(self, path: str, env: lmdb.Environment) -> None:
        self.path = path
        self._env = env
        self._waiting: list[tuple[bytes, bytes]] = []
        self.count = 0

    def put(self, key: bytes, value: bytes) -> bool:
        """Adds a record. Returns whether a thousand were written just now. Raises CaffeError."""
        self._waiting.append((key, value))
        self.count += 1
        if self.count % BATCH:
            return False
        self.commit()
        return True

    def commit(self) -> None:
        """Writes what waits. Raises CaffeError: a key that LMDB does not take, no space."""
        while self._waiting:
            try:
                with self._env.begin(write=True) as transaction:
                    for key, value in self._waiting:
                        transaction.put(key, value)
                self._waiting.clear()
            except lmdb.MapFullError:
                self._env.set_mapsize(self._env.info()["map_size"] * 2)
            except lmdb.Error as error:
                raise CaffeError(f"Check failed: mdb_status == 0 {error}", self.path) from None


@contextmanager
def new_database(path: str, backend: str) -> Iterator[NewDatabase]:
    """A new data set at `path`, there when the block ends and not before.

    Raises: CaffeError: `path` exists, or cannot be made; a backend that cannot be written.
    """
    check(backend in ("lmdb", "leveldb"), f"Unknown database backend: {backend} (backends: lmdb)")
    check(backend == "lmdb", "backend leveldb cannot be written here, expected lmdb")

    def refuse() -> None:
        check(not os.path.lexists(path), f"mkdir {path} failed (it exists)")

    refuse()
    glog.info("db_lmdb.cpp:35", f"Opened lmdb {path}")
    try:
        with building(path, refuse) as folder, lmdb.open(folder, map_size=FIRST_MAP_BYTES, mode=0o664) as env:
            database = NewDatabase(path, env)
            yield database
            database.commit()
    except (OSError, lmdb.Error) as error:
        raise CaffeError(f"mkdir {path} failed ({getattr(error, 'strerror', None) or error})") from None
