"""LMDBs of a few records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lmdb


def write_lmdb(path: Path | str, records: Iterable[Any]) -> str:
    """Writes an LMDB whose keys count from 00000000; a record is bytes, or a message. Returns its path as prototxt has it."""
    with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as txn:
        for i, record in enumerate(records):
            txn.put(b"%08d" % i, record if isinstance(record, bytes) else record.SerializeToString())
    return str(path)
