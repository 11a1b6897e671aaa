"""A LevelDB as it is written, taken apart by the letter of its description (what real Caffe reads in it: parity/test_tools.py)."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from allconv_caffe.caffe_torch.tools import new_database
from allconv_caffe.proto.leveldb_file import LevelDbWriter

Records = list[tuple[bytes, bytes]]


def masked_crc(data: bytes) -> int:
    """CRC-32C bit by bit, and the mask that LevelDB puts over it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def log_records(log: bytes, check: bool) -> list[bytes]:
    """The records of a log; each part's checksum looked at, if asked for."""
    records, parts = [], []
    for start in range(0, len(log), 32768):
        block = log[start : start + 32768]
        while len(block) >= 7:
            size, kind = int.from_bytes(block[4:6], "little"), block[6]
            data, rest = block[7 : 7 + size], block[7 + size :]
            assert len(data) == size and kind in ((1, 2) if not parts else (3, 4))
            assert not check or int.from_bytes(block[:4], "little") == masked_crc(block[6:7] + data)
            parts.append(data)
            if kind in (1, 4):
                records.append(b"".join(parts))
                parts = []
            block = rest
        assert not any(block)
    assert not parts
    return records


def varint(data: bytes) -> tuple[int, bytes]:
    value, shift = 0, 0
    for i, byte in enumerate(data):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, data[i + 1 :]
    raise AssertionError("a number without an end")


def entries(batch: bytes) -> tuple[int, Records]:
    first, count, rest = int.from_bytes(batch[:8], "little"), int.from_bytes(batch[8:12], "little"), batch[12:]
    found: Records = []
    while rest:
        assert rest[0] == 1
        size, rest = varint(rest[1:])
        key, rest = rest[:size], rest[size:]
        size, rest = varint(rest)
        found.append((key, rest[:size]))
        rest = rest[size:]
    assert len(found) == count
    return first, found


def written(folder: Path, batches: list[Records], check: bool = True) -> list[tuple[int, Records]]:
    folder.mkdir()
    writer = LevelDbWriter(str(folder))
    for batch in batches:
        writer.write(batch)
    writer.close()
    assert (folder / "CURRENT").read_bytes() == b"MANIFEST-000002\n"
    assert log_records((folder / "MANIFEST-000002").read_bytes(), True)[0][:3] == b"\x01\x1al"
    return [entries(batch) for batch in log_records((folder / "000003.log").read_bytes(), check)]


@pytest.mark.parametrize("sizes", [[0], [1, 200], [32_768, 3, 70_000], [5] * 300, [16_000] * 7])
def test_what_is_written_is_read_again(sizes: list[int], tmp_path: Path) -> None:
    """Keys and values in their batches, numbered from 1; every checksum is right."""
    rng = random.Random(1)
    batches = [[(b"%08d_%d" % (i, part), rng.randbytes(size)) for i, size in enumerate(sizes)] for part in range(3)]
    found = written(tmp_path / "db", batches)
    assert found == [(1 + len(sizes) * part, batch) for part, batch in enumerate(batches)]


def test_a_block_may_end_anywhere(tmp_path: Path) -> None:
    """With room for a head and nothing else, for less, and with none: all seventeen around the end of a block."""
    ends = range(32768 - 12, 32768 + 5)
    overhead = 7 + 12 + 1 + 1 + 1 + 3  # of part, batch, kind, key's length, key, value's length
    for i, end in enumerate(ends):
        batches = [[(b"k", bytes(end - overhead))], [(b"l", b"second")], [(b"m", bytes(40_000))]]
        found = written(tmp_path / str(i), batches, check=i % 4 == 0)
        assert [batch for _, batch in found] == batches


def test_large_records_do_not_wait_for_a_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written once so many bytes wait; the lines that a tool prints still come by thousands."""
    monkeypatch.setattr(new_database, "MOST_BYTES", 1000)
    with new_database.new_database(str(tmp_path / "db"), "leveldb") as database:
        said = [database.put(b"%04d" % i, bytes(400)) for i in range(1000)]
        assert not (tmp_path / "db").exists()
    assert said == [False] * 999 + [True]
    found = [entries(batch)[1] for batch in log_records((tmp_path / "db" / "000003.log").read_bytes(), False)]
    assert [len(batch) for batch in found] == [3] * 333 + [1]
    assert [key for batch in found for key, _ in batch] == [b"%04d" % i for i in range(1000)]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_database.new_database(str(tmp_path / "db"), "leveldb") as database:
        database.put(b"a", b"b")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
