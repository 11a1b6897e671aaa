"""Blobs and layers as user code in Python sees them: pycaffe's `Blob`, `BlobVec` and `Layer`.

The drop-in `allconv_caffe.pycaffe` hands these out, and the engine's `type: "Python"` layer runs classes derived from
`PyLayer`.

Source: _caffe.cpp, python_layer.hpp.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import Layer

NO_DATA, NO_DIFF = "Check failed: data_", "Check failed: diff_"


class PyBlob:
    """pycaffe's face of a blob.

    Attributes:
        data, diff: live float32 arrays of shape `shape`, C-contiguous, not assignable: write with ``data[...] = x``. On a
            GPU they are synchronised on access: get them again after the net has run. A blob that never held a value has
            none (an Input without a shape): CaffeError.
        shape, count: as the blob's; num, channels, height, width: its first four axes (missing ones count 1).
    """

    __slots__ = ("blob",)

    def __init__(self, blob: Blob) -> None:
        self.blob = blob

    @property
    def data(self) -> np.ndarray:
        check(self.blob.has_data, NO_DATA)
        return self.blob.data_array()

    @property
    def diff(self) -> np.ndarray:
        check(self.blob.has_diff, NO_DIFF)
        return self.blob.diff_array()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.blob.shape

    @property
    def count(self) -> int:
        return self.blob.count

    @property
    def num(self) -> int:
        return self.blob.legacy_shape(0)

    @property
    def channels(self) -> int:
        return self.blob.legacy_shape(1)

    @property
    def height(self) -> int:
        return self.blob.legacy_shape(2)

    @property
    def width(self) -> int:
        return self.blob.legacy_shape(3)

    def reshape(self, *shape: int, **unknown: Any) -> None:
        """Changes the shape; memory grows where needed (arrays taken before then see the old one), never shrinks."""
        self.blob.reshape(*dims("Blob.reshape", shape, unknown))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PyBlob) and other.blob is self.blob

    def __hash__(self) -> int:
        return id(self.blob)


class PyBlobVec(Sequence[PyBlob]):
    """The parameters of a layer, as they are at this moment; `add_blob` appends one."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    @overload
    def __getitem__(self, index: int) -> PyBlob: ...
    @overload
    def __getitem__(self, index: slice) -> list[PyBlob]: ...
    def __getitem__(self, index: int | slice) -> PyBlob | list[PyBlob]:
        if isinstance(index, slice):
            return [PyBlob(blob) for blob in self._layer.blobs[index]]
        return PyBlob(self._layer.blobs[index])

    def __len__(self) -> int:
        return len(self._layer.blobs)

    def __iter__(self) -> Iterator[PyBlob]:
        return (PyBlob(blob) for blob in self._layer.blobs)

    def append(self, blob: PyBlob) -> None:
        self._layer.blobs.append(blob.blob)

    def extend(self, blobs: Sequence[PyBlob]) -> None:
        self._layer.blobs.extend(blob.blob for blob in blobs)

    def add_blob(self, *shape: int, **unknown: Any) -> None:
        """Appends a parameter of `shape`, zeroed. Only in a layer's `setup`: the net counts parameters after it."""
        blob = self._layer.new_blob()
        blob.reshape(*dims("BlobVec.add_blob", shape, unknown))
        self._layer.blobs.append(blob)


class PyLayer:
    """pycaffe's `Layer`: the face of any layer, and the base class of layers written in Python.

    A subclass gives `setup`, `reshape`, `forward` (bottom, top) and `backward` (top, propagate_down, bottom), with lists of
    PyBlobs and of bools. Before `setup` it has `param_str` (str) and `phase` (0 TRAIN, 1 TEST).
    """

    layer: Layer  # the engine's layer behind this face
    param_str: str
    phase: int

    def __init__(self, param: Any) -> None:
        """param: the LayerParameter; `bind` has been called before."""

    @classmethod
    def bind(cls, layer: Layer) -> PyLayer:
        """An object of this class that stands for `layer`."""
        own = cls.__new__(cls)
        own.layer = layer
        own.__init__(layer.param)  # type: ignore[misc]  # blobs must be reachable in a subclass's __init__
        return own

    @property
    def blobs(self) -> PyBlobVec:
        return PyBlobVec(self.layer)

    @property
    def type(self) -> str:
        return self.layer.type

    def setup(self, bottom: Sequence[PyBlob], top: Sequence[PyBlob]) -> None:
        self.layer.setup([b.blob for b in bottom], [b.blob for b in top])

    def reshape(self, bottom: Sequence[PyBlob], top: Sequence[PyBlob]) -> None:
        self.layer.reshape([b.blob for b in bottom], [b.blob for b in top])


class PythonLayerError(CaffeError):
    """User code of a Python layer raised.

    Attributes:
        original: what it raised; pycaffe's callers get this one.
        details: the traceback from the user's code on, ending in a newline; a command line prints it before the message.
        loading: whether the module or the class could not be had at all (SystemError in pycaffe).
    """

    def __init__(self, message: str, original: BaseException, loading: bool = False) -> None:
        super().__init__(message)
        self.original = original
        self.loading = loading
        self.details = "".join(traceback.format_exception(type(original), original, original.__traceback__))


def dims(function: str, shape: Sequence[Any], unknown: dict[str, Any]) -> list[int]:
    """The dims given to `function`. Raises RuntimeError for keywords, TypeError for what is no integer."""
    if unknown:
        raise RuntimeError(f"{function} takes no kwargs")
    for dim in shape:
        if not isinstance(dim, (int, np.integer)):
            raise TypeError(f"{function}: expected integers, found {dim!r}")
    return [int(dim) for dim in shape]
