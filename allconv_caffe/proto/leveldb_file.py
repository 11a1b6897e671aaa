"""A LevelDB folder written as LevelDB leaves one whose records still lie in its log: the library sorts them in when it opens it.

A log is cut into blocks of 32 kB. A record that does not fit is split; each part has a head of a masked CRC-32C, a length and
a kind, and the last six bytes of a block stay empty. In 000003.log each record is a batch: the number of its first entry, how
many there are, then keys with values. MANIFEST-000002, another log, names the order of keys and the log; CURRENT names it.

Source: log_format.md, write_batch.cc, version_edit.cc, db_impl.cc (NewDB, RecoverLogFile), crc32c.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

_BLOCK, _HEAD = 32768, struct.Struct("<IHB")  # checksum, length, kind
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_VALUE = 1  # the kind of an entry that is not a deletion
_LANE = 32  # bytes of a block that are summed side by side with the other lanes'
_TOGETHER = 64  # parts whose checksums are taken at once
_MANIFEST = "MANIFEST-000002"


class LevelDbWriter:
    """Writes records into an empty folder; whole once it is closed."""

    def __init__(self, folder: str) -> None:
        name = b"leveldb.BytewiseComparator"
        with open(Path(folder, _MANIFEST), "wb") as file:
            manifest = _Log(file)
            manifest.add(b"\x01" + _varint(len(name)) + name)
            # the log is number 3, none came before it, the next file will be 4, and the last entry was 0
            manifest.add(bytes([2, 3, 9, 0, 3, 4, 4, 0]))
        Path(folder, "CURRENT").write_text(f"{_MANIFEST}\n")
        self._file = open(Path(folder, "000003.log"), "wb")  # noqa: SIM115
        self._log = _Log(self._file)
        self._next = 1

    def write(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """One batch; of two records of one key the later counts."""
        count, entries = 0, [b""]
        for key, value in records:
            entries += (bytes([_VALUE]), _varint(len(key)), key, _varint(len(value)), value)
            count += 1
        entries[0] = struct.pack("<QI", self._next, count)
        self._log.add(b"".join(entries))
        self._next += count

    def close(self) -> None:
        self._file.close()


class _Log:
    """Records of any size, appended to a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0  # in the block

    def add(self, record: bytes) -> None:
        parts = list(self._parts(memoryview(record)))
        for start in range(0, len(parts), _TOGETHER):
            some = parts[start : start + _TOGETHER]
            for (padding, kind, data), checksum in zip(some, checksums([p[1:] for p in some]), strict=True):
                self._file.write(bytes(padding) + _HEAD.pack(checksum, len(data), kind))
                self._file.write(data)

    def _parts(self, rest: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        """Zeros before it, its kind, its bytes; at least one."""
        begun = False
        while True:
            padding = 0
            if (left := _BLOCK - self._at) < _HEAD.size:
                padding, self._at, left = left, 0, _BLOCK
            size = min(len(rest), left - _HEAD.size)
            ended = size == len(rest)
            yield padding, (_LAST if begun else _FULL) if ended else (_MIDDLE if begun else _FIRST), rest[:size]
            self._at += _HEAD.size + size
            rest, begun = rest[size:], True
            if ended:
                return


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def checksums(parts: list[tuple[int, memoryview]]) -> list[int]:
    """The masked CRC-32C of each part's kind and bytes, at most a block.

    The sum is linear: every lane of 32 bytes is summed by itself, all lanes of all parts at once, and then pairs are joined, the
    left one moved on by the right one's length. Zeros in front change nothing, and four bytes lead from them to the ones that a
    sum begins with.
    """
    step, begin, moves = _tables()
    blocks = np.zeros((len(parts), _BLOCK), np.uint8)
    for row, (kind, data) in zip(blocks, parts, strict=True):
        message = begin + bytes([kind]) + data
        row[_BLOCK - len(message) :] = np.frombuffer(message, np.uint8)
    state = np.zeros(blocks.size // _LANE, np.uint32)
    for column in np.ascontiguousarray(blocks.reshape(-1, _LANE).T):
        state = step[state.astype(np.uint8) ^ column] ^ (state >> 8)
    for move in moves:
        pairs = state.reshape(-1, 2)
        state = _moved(pairs[:, 0], move) ^ pairs[:, 1]
    state = ~state
    return ((state >> 15 | state << 17) + np.uint32(0xA282EAD8)).tolist()


def _moved(state: np.ndarray, move: np.ndarray) -> np.ndarray:
    """States some zeros later."""
    found = move[0][state & 255]
    for i in (1, 2, 3):
        found = found ^ move[i][state >> 8 * i & 255]
    return found


@lru_cache(1)
def _tables() -> tuple[np.ndarray, bytes, list[np.ndarray]]:
    """What a byte does; four bytes that lead from 0 to the beginning, all ones; what 32, 64, ... zeros do to each byte of a state."""
    step = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        step = (step >> 1) ^ np.where(step & 1, np.uint32(0x82F63B78), np.uint32(0))
    begin = 0xFFFFFFFF
    backwards = {int(value) >> 24: i for i, value in enumerate(step)}
    for _ in range(4):
        i = backwards[begin >> 24]
        begin = (begin ^ int(step[i])) << 8 | i
    move = np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)
    for _ in range(_LANE):
        move = step[move & 255] ^ (move >> 8)
    moves = [move]
    while _LANE << len(moves) < _BLOCK:
        moves.append(_moved(moves[-1], moves[-1]))
    return step, begin.to_bytes(4, "little"), moves
