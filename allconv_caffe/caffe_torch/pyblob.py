"""Blobs and layers as user code in Python sees them: pycaffe's `Blob`, `BlobVec` and `Layer`.

The drop-in `allconv_caffe.pycaffe` hands these out, and the engine's `type: "Python"` layer runs classes derived from
`PyLayer`.

Source: _caffe.cpp, python_layer.hpp.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeVar, overload

import numpy as np

from allconv_caffe.caffe_torch.blob import Blob, counted
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import Layer

Item = TypeVar("Item")
NO_DATA, NO_DIFF = "Check failed: data_", "Check failed: diff_"


class PyBlob:
    """pycaffe's face of a blob.

    Attributes:
        data, diff: live float32 arrays of shape `shape`, C-contiguous, not assignable: write with ``data[...] = x``. On a
            GPU they are synchronised on access: get them again after the net has run. A blob that never held a value has
            none (an Input without a shape): CaffeError.
        shape, count: as the blob's; num, channels, height, width: its first four axes (missing ones count 1).
    """

    def __init__(self, blob: Blob | None = None) -> None:
        if blob is None:
            raise RuntimeError("This class cannot be instantiated from Python")
        self.blob = blob

    @property
    def data(self) -> np.ndarray:
        blob = self.blob
        if not blob.has_data:
            raise CaffeError(NO_DATA)
        return blob.data_array()

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
        if unknown:
            raise RuntimeError("Blob.reshape takes no kwargs")
        try:
            found, count = counted(*shape)
        except TypeError:  # what is not hashable is no integer either
            found, count = counted.__wrapped__(*shape)
        if found != self.blob.shape or not found:
            self.blob.become(found, count)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PyBlob) and other.blob is self.blob

    def __hash__(self) -> int:
        return id(self.blob)


class Vec(Generic[Item]):
    """A vector as pycaffe has it: items of one kind by index; a slice is a vector of its own.

    Raises: IndexError, and TypeError for an item or an index of another kind, in Boost's words.
    Source: _caffe.cpp, boost's vector_indexing_suite.
    """

    _kind: ClassVar[type[Any]] = object

    def __init__(self) -> None:
        self._items: list[Any] = []

    def _face(self, item: Any) -> Item:
        """What a user sees of an item."""
        return item

    def _item(self, value: object, sentence: str) -> Any:
        """What is kept of what a user gives."""
        if not isinstance(value, self._kind):
            raise TypeError(sentence)
        return value

    def _place(self, index: object) -> int:
        if not isinstance(index, (int, np.integer)):
            raise TypeError("Invalid index type")
        if not -len(self) <= index < len(self):
            raise IndexError("Index out of range")
        return int(index)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Vec[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Vec[Item]:
        if not isinstance(index, slice):
            return self._face(self._items[self._place(index)])
        part = type(self)()
        part._items.extend(self._items[index])
        return part

    def __setitem__(self, index: int | slice, value: Any) -> None:
        if isinstance(index, slice):
            values = value if isinstance(value, Iterable) else [value]
            self._items[index] = [self._item(each, "Invalid assignment") for each in values]
        else:
            self._items[self._place(index)] = self._item(value, "Invalid assignment")

    def __delitem__(self, index: int | slice) -> None:
        del self._items[index if isinstance(index, slice) else self._place(index)]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return (self._face(item) for item in self._items)

    def __contains__(self, item: object) -> bool:
        return any(each == item for each in self)

    def append(self, value: Item) -> None:
        self._items.append(self._item(value, "Attempting to append an invalid type"))

    def extend(self, values: Iterable[Item]) -> None:
        self._items.extend([self._item(value, "Incompatible Data Type") for value in values])


class RawBlobVec(Vec[PyBlob]):
    """Blobs to call a layer's methods with."""

    _kind = PyBlob


class PyBlobVec(Vec[PyBlob]):
    """The parameters of a layer, the very ones: what is put here is what the layer runs with and what is saved.

    The solver, and HDF5 files, keep to the blobs that the net was built with, as in Caffe. `add_blob` appends a new one.
    """

    _kind = PyBlob

    def __init__(self, layer: Layer | None = None) -> None:
        self._items = [] if layer is None else layer.blobs
        self._new_blob = Blob if layer is None else layer.new_blob

    def _face(self, item: Any) -> PyBlob:
        return PyBlob(item)

    def _item(self, value: object, sentence: str) -> Any:
        return super()._item(value, sentence).blob

    def add_blob(self, *shape: int, **unknown: Any) -> None:
        """Appends a parameter of `shape`, zeroed. Only in a layer's `setup`: the net counts parameters after it."""
        blob = self._new_blob()
        blob.reshape(*dims("BlobVec.add_blob", shape, unknown))
        self._items.append(blob)


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
        raise self._lacks("setup")

    def reshape(self, bottom: Sequence[PyBlob], top: Sequence[PyBlob]) -> None:
        raise self._lacks("reshape")

    def _lacks(self, method: str) -> NotImplementedError:
        return NotImplementedError(f"class {type(self).__name__} lacks the method {method} of a Python layer")


class PythonLayerError(CaffeError):
    """User code of a Python layer raised.

    Attributes:
        original: what it raised; pycaffe's callers get this one.
        details: the traceback from the user's code on, ending in a newline; a command line prints it before the message.
            Empty where none of it ran.
        loading: whether the module or the class could not be had at all (SystemError in pycaffe).
    """

    def __init__(self, message: str, original: BaseException, loading: bool = False) -> None:
        super().__init__(message)
        self.original = original
        self.loading = loading
        if original.__traceback__ is not None:
            self.details = "".join(traceback.format_exception(type(original), original, original.__traceback__))


def dims(function: str, shape: Sequence[Any], unknown: dict[str, Any]) -> list[int]:
    """The dims given to `function`. Raises RuntimeError for keywords, TypeError for what is no integer."""
    if unknown:
        raise RuntimeError(f"{function} takes no kwargs")
    for dim in shape:
        if not isinstance(dim, (int, np.integer)):
            raise TypeError(f"{function}: expected integers, found {dim!r}")
    return [int(dim) for dim in shape]
