"""The page reader of LMDB files against the library that wrote them, and on files that the library dies of."""

from __future__ import annotations

import os
import random
from pathlib import Path

import lmdb
import pytest

from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.source.database import LmdbFile


def write(path: Path, records: dict[bytes, bytes]) -> None:
    with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as txn:
        for key, value in records.items():
            txn.put(key, value)


def by_library(path: Path) -> list[tuple[bytes, bytes]]:
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return list(txn.cursor())


def by_page(path: Path, start: int = 0) -> list[tuple[bytes, bytes]]:
    return [(key, bytes(value)) for key, value in LmdbFile(str(path)).items(start)]


@pytest.mark.parametrize(
    ("count", "sizes", "keys"),
    [
        (0, (0, 1), 1),
        (1, (100_000, 100_001), 1),
        (3, (0, 10), 1),
        (3000, (0, 1), 60),
        (5000, (700, 900), 1),
        (800, (0, 9000), 200),
        (300, (4070, 4100), 400),
    ],
)
def test_records_are_the_librarys(tmp_path: Path, count: int, sizes: tuple[int, int], keys: int) -> None:
    """Empty, single, inline, in overflow pages, several levels; written at random, a third deleted again; any start."""
    rng = random.Random(count)
    records = {
        b"%08d" % i + rng.randbytes(rng.randrange(keys)): rng.randbytes(rng.randrange(*sizes)) for i in range(count)
    }
    order = list(records)
    rng.shuffle(order)
    write(tmp_path / "db", {key: records[key] for key in order})
    for part in range(2):
        expected = by_library(tmp_path / "db")
        assert len(LmdbFile(str(tmp_path / "db"))) == len(expected)
        assert by_page(tmp_path / "db") == expected
        for start in (1, len(expected) // 2, len(expected)):
            assert by_page(tmp_path / "db", start) == expected[start:]
        file = LmdbFile(str(tmp_path / "db"))
        assert list(file.keys()) == [key for key, _ in expected]
        assert file.last_key() == (expected[-1][0] if expected else None)
        for key, value in expected[:: max(1, len(expected) // 50)]:
            assert bytes(file.get(key) or b"") == value and file.get(key + b"x") is None
        assert file.get(b"") is None and file.get(b"~") is None
        if not part:
            with lmdb.open(str(tmp_path / "db"), map_size=1 << 26) as env, env.begin(write=True) as txn:
                for key in order[::3]:
                    txn.delete(key)


def test_a_cut_file_gives_what_is_there_and_then_an_error(tmp_path: Path) -> None:
    """Cut anywhere: as many whole records as lie before the cut, then LMDB's words for a page that is not there."""
    write(tmp_path / "db", {b"%05d" % i: os.urandom(6000) for i in range(50)})
    whole = (tmp_path / "db" / "data.mdb").read_bytes()
    expected = by_library(tmp_path / "db")
    read = []
    for pages in range(3, len(whole) // 4096, 7):
        (tmp_path / "db" / "data.mdb").write_bytes(whole[: pages * 4096 + 100])
        found = []
        with pytest.raises(CaffeError, match=r"Check failed: mdb_status == 0 \(-30797 vs\. 0\) MDB_PAGE_NOTFOUND"):
            for key, value in LmdbFile(str(tmp_path / "db")).items():
                found.append((key, bytes(value)))
        assert found == expected[: len(found)]
        read.append(len(found))
    assert read[0] == 0 and read[-1] > 20


def test_a_tree_that_goes_round_or_says_too_much_ends(tmp_path: Path) -> None:
    """A root that points to itself, a depth, a number of records that no file of this size can have."""
    write(tmp_path / "db", {b"%05d" % i: bytes(900) for i in range(200)})
    path = tmp_path / "db" / "data.mdb"
    whole = path.read_bytes()
    metas = [16 + 24 + 48, 4096 + 16 + 24 + 48]  # of the main tree: flags at 4, depth at 6, entries at 32, root at 40
    root = max(
        int.from_bytes(whole[at + 40 : at + 48], "little") for at in metas if whole[at + 40 : at + 48] != b"\xff" * 8
    )
    branch = bytearray(whole)
    at = root * 4096 + int.from_bytes(whole[root * 4096 + 16 : root * 4096 + 18], "little")
    branch[at : at + 6] = root.to_bytes(6, "little")

    def with_meta(offset: int, value: bytes) -> bytes:
        raw = bytearray(whole)
        for meta in metas:
            raw[meta + offset : meta + offset + len(value)] = value
        return bytes(raw)

    for raw in (
        bytes(branch),
        with_meta(6, b"\x03\x00"),
        with_meta(6, b"\xff\x00"),
        with_meta(32, b"\xff" * 6),
        with_meta(32, b"\xc7\x00"),
        with_meta(32, b"\xc9\x00"),
        with_meta(4, b"\x04\x00"),
    ):
        path.write_bytes(raw)
        with pytest.raises(CaffeError, match=r"\(-30796 vs\. 0\) MDB_CORRUPTED"):
            by_page(tmp_path / "db")
        with pytest.raises(CaffeError, match=r"\(-30796 vs\. 0\) MDB_CORRUPTED"):
            list(LmdbFile(str(tmp_path / "db")).keys())
        with pytest.raises(CaffeError, match=r"\(-30796 vs\. 0\) MDB_CORRUPTED"):
            list(LmdbFile(str(tmp_path / "db")).keys())
