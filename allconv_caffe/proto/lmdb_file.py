"""An LMDB environment read page by page: its records in key order.

The library maps the file and follows what its pages say: a truncated or damaged data.mdb ends the process with SIGBUS
or SIGSEGV, and reading a record is where it happens. Here each page is read with `pread` and looked at first.

The file (LMDB 0.9, data version 1, little-endian) is an array of pages. Pages 0 and 1 are metas: the one of the last
transaction counts, which is page 1 where its number is odd. It names the root of a B+tree. A branch page holds pointers to
pages, a leaf page keys with values, and a value too long for its leaf lies in a run of overflow pages.

Source: lmdb.h (status codes).
Differs: no lock file is made; what the library would crash on is an error.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Iterator, Optional, Tuple

from allconv_caffe.errors import PlacedError
from allconv_caffe.files import NotAFile, open_file

_PAGE = struct.Struct("<QHHHH")  # number, pad, flags, lower, upper
_OVERFLOW_PAGES = struct.Struct("<12xI")
_META = struct.Struct(
    "<IIQQ48sIHHQQQQQQQ"
)  # magic, version, address, map size, free tree, main tree, last page, transaction
_NODE = struct.Struct("<HHHH")  # size or page number: low, high; flags or its top bits; key size
_NUMBER = struct.Struct("<Q")
_BRANCH, _LEAF, _OVERFLOW, _META_FLAG = 1, 2, 4, 8
_BIG, _OF_OTHER_TREES = 1, 6  # node flags; the others: a named database, values sorted under one key
_MAGIC, _VERSION, _NO_PAGE = 0xBEEFC0DE, 1, 2**64 - 1
_MOST_MAPPED = 2**47  # the addresses of a process
_DEEPEST = 32  # pages from root to leaf: CURSOR_STACK

NOT_FOUND = -30797, "MDB_PAGE_NOTFOUND: Requested page not found"
CORRUPTED = -30796, "MDB_CORRUPTED: Located page was wrong type"
VERSION_MISMATCH = -30794, "MDB_VERSION_MISMATCH: Database environment version mismatch"
INVALID = -30793, "MDB_INVALID: File is not an LMDB file"


class LmdbError(PlacedError):
    """What LMDB says of a file: the reason, and in brackets the place."""


class LmdbFile:
    """The main database of the environment in `folder`, as its last transaction left it.

    Raises: what `status` makes, an LmdbError unless a subclass says it otherwise: missing, no LMDB, or damaged. Reading
    raises it likewise.
    """

    @staticmethod
    def status(code: int, reason: str, detail: str = "") -> Exception:
        """The error for a status code of LMDB's, or of the system's where positive."""
        return LmdbError("", reason + (f" ({detail})" if detail else ""))

    def __init__(self, folder: str) -> None:
        try:
            self._file = open_file(os.path.join(folder, "data.mdb"))
            self._size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            code = error.errno or errno.EIO
            detail = f"data.mdb: {error.strerror}" if isinstance(error, NotAFile) else ""
            raise self.status(code, os.strerror(code), detail) from None
        if not self._size:
            raise self.status(errno.EBADF, os.strerror(errno.EBADF), "data.mdb is empty")
        self._page_size = 4096
        metas = [self._meta(0)]
        self._page_size = metas[0][0]
        metas.append(self._meta(1))
        transaction = max(meta[-1] for meta in metas)
        _, self._flags, self._depth, self._entries, self._root, last_page, map_size, _ = metas[transaction & 1]
        if map_size >= _MOST_MAPPED:
            raise self.status(errno.ENOMEM, os.strerror(errno.ENOMEM), f"data.mdb asks for a map of {map_size} bytes")
        self._pages = min((last_page + 1) % 2**64, -(-self._size // self._page_size))
        empty = self._root == _NO_PAGE
        if self._flags & 0x04:  # MDB_DUPSORT
            raise self.status(*CORRUPTED, "several values under one key, which Caffe never writes")
        if empty != (self._entries == 0) or self._depth > _DEEPEST or self._entries > self._size // (_NODE.size + 2):
            raise self.status(*CORRUPTED, f"{self._entries} records in {self._depth} levels in {self._size} bytes")

    def __len__(self) -> int:
        return self._entries

    def _meta(self, number: int) -> Tuple[int, ...]:
        """Page size, then of the main tree flags, depth, entries, root, then last page, map size, transaction."""
        raw = os.pread(self._file.fileno(), _PAGE.size + _META.size, number * self._page_size)
        if len(raw) < _PAGE.size + _META.size or not _PAGE.unpack_from(raw)[2] & _META_FLAG:
            raise self.status(*INVALID)
        found = _META.unpack_from(raw, _PAGE.size)
        magic, version, _, map_size, free, _, flags, depth, _, _, _, entries, root, last_page, transaction = found
        if magic != _MAGIC:
            raise self.status(*INVALID)
        if version != _VERSION:
            raise self.status(*VERSION_MISMATCH, f"version {version}, expected {_VERSION}")
        page_size = int.from_bytes(free[:4], "little")
        if page_size & (page_size - 1) or not 512 <= page_size <= 65536:
            raise self.status(*INVALID, f"pages of {page_size} bytes")
        return page_size, flags, depth, entries, root, last_page, map_size, transaction

    def _read(self, number: int, count: int) -> bytes:
        """The first `count` bytes of page `number` and those that follow it."""
        if not 1 < number < self._pages:
            raise self.status(*NOT_FOUND, f"page {number} of {self._pages} in data.mdb")
        try:
            raw = os.pread(self._file.fileno(), count, number * self._page_size)
        except OSError as error:
            raise self.status(
                error.errno or errno.EIO, os.strerror(error.errno or errno.EIO), f"page {number}"
            ) from None
        if len(raw) != count:
            raise self.status(*NOT_FOUND, f"data.mdb ends in page {number}")
        return raw

    def _nodes(self, number: int, kind: int) -> Tuple[bytes, Tuple[int, ...]]:
        """A branch or leaf page and where its nodes begin."""
        raw = self._read(number, self._page_size)
        own, _, flags, lower, upper = _PAGE.unpack_from(raw)
        if own != number or flags & 0x6F != kind:
            raise self.status(*CORRUPTED, f"page {number} has flags {flags}, expected {kind}")
        count = (lower - _PAGE.size) // 2
        if not lower <= upper <= self._page_size or count < 1:
            raise self.status(*CORRUPTED, f"page {number} is filled to byte {lower} and from byte {upper}")
        return raw, struct.unpack_from(f"<{count}H", raw, _PAGE.size)

    def _leaves(self, number: int, depth: int) -> Iterator[Tuple[int, bytes, Tuple[int, ...]]]:
        """Every leaf page below `number`, from the left: its number, its bytes, its nodes."""
        if depth <= 1:
            yield number, *self._nodes(number, _LEAF)
            return
        raw, nodes = self._nodes(number, _BRANCH)
        for at in nodes:
            if at + _NODE.size > self._page_size:
                raise self.status(*CORRUPTED, f"page {number} has a node at byte {at}")
            low, high, top, _ = _NODE.unpack_from(raw, at)
            yield from self._leaves(low | high << 16 | top << 32, depth - 1)

    @property
    def page_size(self) -> int:
        return self._page_size

    @property
    def end(self) -> int:
        """Where the last page ends, or the file before it."""
        return min(self._size, self._pages * self._page_size)

    def fileno(self) -> int:
        """The open file's descriptor."""
        return self._file.fileno()

    def leaves(self, start: int = 0) -> Iterator[Tuple[int, int, bytes, Tuple[int, ...]]]:
        """The leaf pages from that of the `start`-th record on: how many records lie before, number, bytes, nodes."""
        for leaf in self._counted_leaves():
            if start < leaf[0] + len(leaf[3]):
                yield leaf

    def items(self, start: int = 0) -> Iterator[Tuple[bytes, memoryview]]:
        """(key, value) pairs from the `start`-th on."""
        for done, number, raw, nodes in self._counted_leaves():
            if start < done + len(nodes):
                view = memoryview(raw)
                for at in nodes[max(0, start - done) :]:
                    yield self._item(number, view, at)

    def _counted_leaves(self) -> Iterator[Tuple[int, int, bytes, Tuple[int, ...]]]:
        """Every leaf page: how many records lie before it, its number, its bytes, its nodes; in all, as many as there are."""
        done = 0
        if self._entries:
            for number, raw, nodes in self._leaves(self._root, self._depth):
                if done + len(nodes) > self._entries:
                    raise self.status(*CORRUPTED, f"found more than {self._entries} records, expected {self._entries}")
                yield done, number, raw, nodes
                done += len(nodes)
        if done != self._entries:
            raise self.status(*CORRUPTED, f"found {done} records, expected {self._entries}")

    def keys(self) -> Iterator[bytes]:
        """Every key, in order; no value is read."""
        for _, number, raw, nodes in self._counted_leaves():
            for at in nodes:
                yield self._key(number, raw, at)

    def get(self, key: bytes) -> Optional[memoryview]:
        """The value of `key`, or None: down the tree, a page for each level."""
        if not self._entries:
            return None
        page, raw, nodes = self._leaf(key)
        for at in nodes:
            if self._key(page, raw, at) == key:
                return self._item(page, memoryview(raw), at)[1]
        return None

    def last_key(self) -> Optional[bytes]:
        """The largest key; None where there are no records."""
        if not self._entries:
            return None
        page, raw, nodes = self._leaf(None)
        return self._key(page, raw, nodes[-1])

    def _leaf(self, key: Optional[bytes]) -> Tuple[int, bytes, Tuple[int, ...]]:
        """The leaf page where `key` would lie; for None the last: its number, its bytes, its nodes."""
        page = self._root
        for _ in range(self._depth - 1):
            raw, nodes = self._nodes(page, _BRANCH)
            below = nodes[0]  # its own key counts for nothing: what is smaller than the second lies there
            for at in nodes[1:]:
                if key is not None and self._key(page, raw, at) > key:
                    break
                below = at
            self._key(page, raw, below)  # it lies in the page
            low, high, top, _ = _NODE.unpack_from(raw, below)
            page = low | high << 16 | top << 32
        return (page, *self._nodes(page, _LEAF))

    def _key(self, number: int, raw: bytes, at: int) -> bytes:
        begin = at + _NODE.size
        end = begin + (_NODE.unpack_from(raw, at)[3] if begin <= len(raw) else 0)
        if end > len(raw) or begin > len(raw):
            raise self.status(*CORRUPTED, f"page {number} has a node at byte {at}")
        return raw[begin:end]

    def _item(self, number: int, raw: memoryview, at: int) -> Tuple[bytes, memoryview]:
        if at + _NODE.size > len(raw):
            raise self.status(*CORRUPTED, f"page {number} has a node at byte {at}")
        low, high, flags, key_size = _NODE.unpack_from(raw, at)
        size, begin = low | high << 16, at + _NODE.size + key_size
        end = begin + (_NUMBER.size if flags & _BIG else size)
        if end > len(raw) or flags & _OF_OTHER_TREES:
            raise self.status(*CORRUPTED, f"page {number} has a record of {size} bytes, flags {flags}, at byte {at}")
        key = bytes(raw[at + _NODE.size : begin])
        if not flags & _BIG:
            return key, raw[begin:end]
        page = _NUMBER.unpack_from(raw, begin)[0]
        long = self._read(page, _PAGE.size + size)
        own, _, kind, _, _ = _PAGE.unpack_from(long)
        pages = _OVERFLOW_PAGES.unpack_from(long)[0]
        if own != page or kind & 0x6F != _OVERFLOW or pages * self._page_size < _PAGE.size + size:
            raise self.status(*CORRUPTED, f"page {page} has flags {kind}, {pages} pages, expected {size} bytes")
        return key, memoryview(long)[_PAGE.size :]
