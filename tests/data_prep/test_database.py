"""LMDB environments: order, keys, checksums, failures of the disk."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from data_prep import database
from data_prep.errors import PrepError, writing


def write(path: Path, keys: list[bytes], values: list[bytes]) -> database.Content:
    with database.Writer(path, len(keys), max(map(len, values))) as writer:
        for start in range(0, len(keys), 3):
            writer.write(keys[start : start + 3], [memoryview(v) for v in values[start : start + 3]])
        return writer.finish()


def test_records_lie_in_the_order_of_their_keys_and_hash_as_documented(tmp_path: Path) -> None:
    """Reading gives keys and values as written, and the checksum is SHA-256 over both, one after the other."""
    keys = database.keys(np.arange(8)[::-1], 0)
    values = [bytes([i]) * (3 + 3000 * i) for i in range(8)]
    content = write(tmp_path / "db", keys, values)
    assert list(database.records(tmp_path / "db")) == list(zip(keys, values, strict=True))
    joined = b"".join(k + v for k, v in zip(keys, values, strict=True))
    assert content == database.Content(8, hashlib.sha256(joined).hexdigest())


def test_keys_have_fixed_width_and_ascend() -> None:
    """Eight digits of position and eight of the image's number: byte order is the order of positions."""
    keys = database.keys(np.array([5, 123, 0]), 9)
    assert keys == [b"00000009_00000005", b"00000010_00000123", b"00000011_00000000"]
    assert sorted(keys) == keys


def test_shuffling_is_a_permutation_that_seed_and_split_decide() -> None:
    """Every image occurs once; the same seed gives the same order, other seeds and splits another one."""
    one = database.shuffled(1000, 7, 0)
    np.testing.assert_array_equal(np.sort(one), np.arange(1000))
    np.testing.assert_array_equal(one, database.shuffled(1000, 7, 0))
    others = [database.shuffled(1000, *x) for x in ((8, 0), (7, 1), (7 + (1 << 32), 0))]
    assert all((one != other).mean() > 0.9 for other in others)
    assert database.shuffled(10, 0, 0).tolist() == EXPECTED_ORDER


EXPECTED_ORDER = [8, 2, 4, 3, 6, 0, 9, 1, 5, 7]  # recorded: a change would make prepared sets differ between versions


def test_keys_out_of_order_are_refused(tmp_path: Path) -> None:
    """The append mode that makes writing fast accepts ascending keys only; anything else is an error."""
    with pytest.raises(PrepError, match="found key b'a' out of order; expected ascending keys"):
        write(tmp_path / "db", [b"b", b"a"], [b"1", b"2"])


@pytest.mark.parametrize("size", [1, 1900, 2100, 4080, 4081, 15368, 40000])
def test_the_map_is_large_enough_for_any_length_of_record(size: int, tmp_path: Path) -> None:
    """The computed map size holds all records, also where a record just spills over to another page."""
    count = (64 << 20) // size if size > 10000 else 3000  # so that the constant reserve of 64 MiB alone is not enough
    keys = database.keys(np.arange(count), 0)
    value = memoryview(bytes(size))
    with database.Writer(tmp_path / "db", count, size) as writer:
        for start in range(0, count, 1000):
            writer.write(keys[start : start + 1000], [value] * len(keys[start : start + 1000]))
        assert writer.finish().records == count


def test_a_full_map_is_a_clear_error(tmp_path: Path) -> None:
    """Should the map ever be too small, LMDB's error is named as ours."""
    with (
        pytest.raises(PrepError, match="found a full LMDB map; expected a map_size that holds all records"),
        database.Writer(tmp_path / "db", 1, 1) as writer,
    ):
        for i in range(100):
            writer.write([b"%08d" % i], [memoryview(bytes(4 << 20))])
        writer.finish()


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "found a full disk; expected room for the data set"),
        (lmdb.DiskError("x"), "found a full disk; expected room for the data set"),
        (lmdb.Error("mdb_txn_commit: No space left on device"), "found a full disk; expected room for the data set"),
        (
            lmdb.Error("mdb_txn_commit: Input/output error"),
            r"found a full disk, or a failing one \(mdb_txn_commit: Input/",
        ),
        (lmdb.Error("odd"), r"found an LMDB failure \(odd\); expected a file system on which LMDB can write"),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            r"found a failed write \(Permission denied\); expected a f",
        ),
    ],
)
def test_failures_of_the_disk_are_named(error: Exception, found: str) -> None:
    """Whatever part of the system runs out of room, the line says so and where."""
    with pytest.raises(PrepError, match=f"^place: {found}"), writing("place"):
        raise error


def test_a_folder_without_a_database_is_refused(tmp_path: Path) -> None:
    """A missing or broken data.mdb is named."""
    with pytest.raises(PrepError, match="found no data.mdb; expected an LMDB environment"):
        list(database.records(tmp_path))
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(PrepError, match=r"found a damaged database \(MDB_INVALID: File is not an LMDB file\)"):
        list(database.records(tmp_path))


@pytest.mark.parametrize("kept", [0, 1, 4096, 8192, 12288, 40000, 80000])
def test_a_cut_database_is_an_error_and_no_crash(kept: int, tmp_path: Path) -> None:
    """The library maps the file, and reading behind its end would kill the process (SIGBUS)."""
    with database.Writer(tmp_path / "db", 20, 5000) as writer:
        writer.write([b"%08d" % i for i in range(20)], [memoryview(bytes([i]) * 5000) for i in range(20)])
        writer.finish()
    file = tmp_path / "db" / "data.mdb"
    assert file.stat().st_size > 160000 and len(list(database.records(tmp_path / "db"))) == 20
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(PrepError, match="found a damaged database"):
        list(database.records(tmp_path / "db"))


def test_only_two_chunks_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded: a third chunk is accepted only when one of two waiting ones is written."""
    most = 0
    with database.Writer(tmp_path / "db", 10, 10) as writer:
        put = writer._put

        def watched(*arguments: Any) -> None:
            nonlocal most
            most = max(most, len(writer._pending))
            put(*arguments)

        monkeypatch.setattr(writer, "_put", watched)
        for i in range(10):
            writer.write([b"%08d" % i], [memoryview(b"x")])
        writer.finish()
    assert most <= 2
