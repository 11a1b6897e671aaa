"""Records read, told apart and set into a batch by the C++ of kernels/data.cpp; without a compiler numpy does the same, slower.

A table is (n, 10) int64, a row for each record: kind, channels, height, width, address, the distances in bytes from a channel,
a row and a column to the next, label, length. For ENCODED (an image file) and UNUSUAL (any other value), address and length
say where the bytes are; UNREAD: they could not be read. Addresses hold as long as what they point into.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np

from allconv_caffe.caffe_torch.compute import compiler

UNREAD, UNUSUAL, BYTES, FLOATS, ENCODED = -1, 0, 1, 2, 3
KIND, ADDRESS, LABEL, LENGTH, COLUMNS = 0, 4, 8, 9, 10
SHAPE = slice(1, 4)


@dataclass(frozen=True, eq=False)
class Mean:
    """What is subtracted: `values` (C,), one for each channel, or (C, H, W), an image; float32, contiguous."""

    values: np.ndarray | None = None

    @property
    def form(self) -> int:
        return 0 if self.values is None else 1 if self.values.ndim == 1 else 2


NO_MEAN = Mean()


class DataKernel:
    """The compiled functions on numpy arrays, which are C-contiguous; none checks what it is given."""

    def __init__(self, library: ctypes.CDLL) -> None:
        i, p = ctypes.c_int64, ctypes.c_void_p
        self._leaf, self._read, self._transform = library.data_leaf, library.data_read, library.data_transform
        self._leaf.argtypes = [ctypes.c_char_p, i, i, p]
        self._leaf.restype = i
        self._read.argtypes = [i, i, i, p, p, p]
        self._transform.argtypes = [i, p, p, i, i, i, i, p, i, i, ctypes.c_float, p, i, i]
        self._read.restype = self._transform.restype = None

    def leaf(self, page: bytes, number: int, page_size: int, count: int) -> np.ndarray | None:
        """(count, 3) int64 for the `count` values of an LMDB's leaf page: offset in the file, length, bytes of page head before.

        None where a node is not as it should be.
        """
        places = np.empty((count, 3), np.int64)
        return places if self._leaf(page, number, page_size, _address(places)) == count else None

    def read(self, file: int, page_size: int, places: np.ndarray, buffer: np.ndarray) -> np.ndarray:
        """The table of the values at `places`, which point into `buffer`: as large as all of them and a page for each."""
        table = np.empty((len(places), COLUMNS), np.int64)
        self._read(file, page_size, len(places), _address(places), _address(buffer), _address(table))
        return table

    def transform(
        self, table: np.ndarray, draws: np.ndarray, mean: Mean, scale: float, out: np.ndarray, threads: int = 1
    ) -> None:
        """out[i] = (record i, cropped and mirrored as draws[i] says, - mean) * scale.

        Args:
            table: of kinds BYTES and FLOATS.
            draws: (n, 3) int64: mirror, first row, first column.
            out: (n, C, h, w), float32, or uint8 where all are BYTES, mean is NO_MEAN and scale 1.
        """
        values = mean.values
        height, width = (values.shape[1], values.shape[2]) if values is not None and values.ndim == 3 else (0, 0)
        self._transform(
            len(table),
            _address(table),
            _address(draws),
            *out.shape[1:],
            mean.form,
            None if values is None else _address(values),
            height,
            width,
            scale,
            _address(out),
            out.dtype == np.uint8,
            threads,
        )


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@functools.cache
def load() -> DataKernel | None:
    """The kernel, compiled on the first call; None where that cannot be."""
    try:
        return DataKernel(compiler.load("data", ["-ffp-contract=off"]))
    except (compiler.BuildError, OSError):
        return None
