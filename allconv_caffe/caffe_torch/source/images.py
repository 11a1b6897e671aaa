"""Images on their way into a batch, wherever they lie: what a reader gives and a transformer takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from allconv_caffe.caffe_torch.compute import data_kernel
from allconv_caffe.caffe_torch.compute.data_kernel import (
    ADDRESS,
    BYTES,
    COLUMNS,
    FLOATS,
    KIND,
    LABEL,
    NO_MEAN,
    SHAPE,
    Mean,
)

CHUNK_BYTES = 1 << 20  # of images read at once
Shape = tuple[int, int, int]


class Images:
    """n images (C, H, W) of bytes or float32, each of its own shape, and their labels.

    Args:
        table: a row for each (see `data_kernel`).
        arrays: the images; without them,
        keep: what holds the memory that the table's addresses point into.
    """

    def __init__(self, table: np.ndarray, arrays: Sequence[np.ndarray] | None = None, keep: object = None) -> None:
        self.table, self.arrays, self.keep = table, arrays, keep

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], labels: Sequence[int] | np.ndarray) -> Images:
        """Arrays of any strides, uint8 or float32."""
        rows = [_row(array, int(label)) for array, label in zip(arrays, labels, strict=True)]
        return cls(np.array(rows, np.int64).reshape(-1, COLUMNS), arrays)

    @classmethod
    def rows(cls, array: np.ndarray, index: np.ndarray) -> Images:
        """array[index] of a (N, C, H, W) array, without labels."""
        table = np.empty((len(index), COLUMNS), np.int64)
        table[:] = _row(array[0], 0)
        table[:, ADDRESS] += index * array.strides[0]
        return cls(table, None if data_kernel.load() is not None else [array[i] for i in index], array)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, part: slice) -> Images:
        return Images(self.table[part], None if self.arrays is None else self.arrays[part], self.keep)

    @property
    def labels(self) -> np.ndarray:
        """(n,) int64."""
        return self.table[:, LABEL]

    @property
    def shapes(self) -> np.ndarray:
        """(n, 3) int64: channels, height, width."""
        return self.table[:, SHAPE]

    @property
    def shape(self) -> Shape:
        """The first one's."""
        channels, height, width = self.table[0, SHAPE].tolist()
        return channels, height, width

    @property
    def floats(self) -> bool:
        """Whether the first one is of float32."""
        return bool(self.table[0, KIND] == FLOATS)

    def are(self, shape: Shape, floats: bool) -> bool:
        """Whether each is of this shape and type."""
        return bool((self.table[:, : SHAPE.stop] == (FLOATS if floats else BYTES, *shape)).all())

    def put(
        self,
        out: np.ndarray,
        draws: np.ndarray | None = None,
        mean: Mean = NO_MEAN,
        scale: float = 1.0,
        threads: int = 1,
    ) -> None:
        """out[i] = (image i, cropped and mirrored as draws[i] says, - mean) * scale, each step rounded to float32.

        Args:
            out: (n, C, h, w) C-contiguous; float32, or the images' own type where mean is NO_MEAN and scale 1.
            draws: (n, 3) int64: mirror (0 or 1), first row, first column; None: zeros.
        """
        if draws is None:
            draws = np.zeros((len(self), 3), np.int64)
        kernel = data_kernel.load()
        if kernel is not None:
            kernel.transform(np.ascontiguousarray(self.table), np.ascontiguousarray(draws), mean, scale, out, threads)
            return
        assert self.arrays is not None
        _put(self.arrays, out, draws, mean, scale)


def gathered(found: Iterable[tuple[np.ndarray, int]]) -> Iterator[Images]:
    """Arrays and their labels, some at once: as many as are still in the cache when they are transformed."""
    arrays: list[np.ndarray] = []
    labels: list[int] = []
    size = 0
    for array, label in found:
        arrays.append(array)
        labels.append(label)
        size += array.nbytes
        if size >= CHUNK_BYTES:
            yield Images.of(arrays, labels)
            arrays, labels, size = [], [], 0
    if arrays:
        yield Images.of(arrays, labels)


def _row(array: np.ndarray, label: int) -> tuple[int, ...]:
    kind = BYTES if array.dtype == np.uint8 else FLOATS
    return kind, *array.shape, array.__array_interface__["data"][0], *array.strides, label, math.prod(array.shape)


def _put(arrays: Sequence[np.ndarray], out: np.ndarray, draws: np.ndarray, mean: Mean, scale: float) -> None:
    """The kernel's work by numpy: slice, flip, subtract, straight into the batch."""
    height, width = out.shape[2:]
    for image, target, (mirror, top, left) in zip(arrays, out, draws.tolist(), strict=True):
        view = image[:, top : top + height, left : left + width]
        if mirror:
            target = target[:, :, ::-1]
        if mean.values is None:
            np.copyto(target, view)
        elif mean.values.ndim == 1:
            np.subtract(view, mean.values[:, None, None], out=target)
        else:
            np.subtract(view, mean.values[:, top : top + height, left : left + width], out=target)
        if scale != 1:
            np.multiply(target, np.float32(scale), out=target)
