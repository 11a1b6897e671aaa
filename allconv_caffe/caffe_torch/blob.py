"""A blob: one shape, and two float32 arrays over it, `data` and `diff`.

Source: blob.hpp, blob.cpp.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

from allconv_caffe.caffe_torch.compute.layout import ChannelsLast
from allconv_caffe.caffe_torch.compute.memory import zeros
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.tracing import current
from allconv_caffe.proto import Numbers, ProtoError, StoredBlob
from allconv_caffe.proto.caffemodel import blob_shape

MAX_AXES = 32  # kMaxBlobAxes


class Memory:
    """What blobs share when they share data: a flat float32 buffer, allocated (zeroed) at first use.

    A buffer on a GPU has a second face on the CPU, synchronised on access: after `array`, the array is the newer one,
    until `tensor` copies it to the device. Likewise numbers that layers have left channels_last are brought into C order when
    somebody looks (`layout`). Source: syncedmem.cpp.

    Attributes:
        layout: how the numbers lie in `flat`, if not in C order.
        looks: how often somebody has got the buffer, who may write to it since.
    """

    __slots__ = (
        "capacity",
        "device",
        "flat",
        "host",
        "host_is_newer",
        "layout",
        "looks",
        "on_cpu",
        "owned",
        "owner",
        "views",
    )

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.capacity = capacity
        self.device = device
        self.on_cpu = device.type == "cpu"
        self.flat: torch.Tensor | None = None
        self.host: np.ndarray | None = None
        self.host_is_newer = False
        self.layout: ChannelsLast | None = None
        self.looks = 0
        self.owned: torch.Tensor | None = None  # the buffer
        self.owner: np.ndarray | None = None  # that `owner` is of, whose views are what `view` has given
        self.views: dict[tuple[int, ...], np.ndarray] = {}  # some of them

    def tensor(self) -> torch.Tensor:
        """The buffer on its device."""
        self.looks += 1
        if self.layout is not None and self.flat is not None:
            self.layout.restore(self.flat)
            self.layout = None
        if self.flat is None:
            on_cpu, shape = self.on_cpu, (self.capacity,)
            self.flat = zeros(shape) if on_cpu else torch.zeros(shape, dtype=torch.float32, device=self.device)
        if self.host_is_newer:
            self.flat.copy_(torch.from_numpy(self.host))
            self.host_is_newer = False
        return self.flat

    def view(self, shape: tuple[int, ...], count: int) -> np.ndarray:
        """The first `count` values as a NumPy array of that shape that may be written, see `array`; a new one each time."""
        if not self.on_cpu:
            return self.array()[:count].reshape(shape)
        flat = self.tensor()
        if self.owned is not flat or self.owner is None:
            self.owned, self.owner = flat, flat.numpy()
            self.views.clear()
        kept = self.views.get(shape)
        if kept is None:
            kept = self.views[shape] = self.owner[:count].reshape(shape)
        return kept[...]

    def lie(self, layout: ChannelsLast | None) -> None:
        """Brings the numbers into this order."""
        flat = self.tensor()
        if layout is not None:
            layout.take(flat)
            self.layout = layout

    @property
    def is_seen(self) -> bool:
        """Whether somebody still has a NumPy array of `view`, which is to show what becomes of the numbers."""
        return self.owner is not None and sys.getrefcount(self.owner) > 2 + len(self.views)

    def array(self) -> np.ndarray:
        """The buffer as a flat NumPy array that may be written: on the CPU the same memory, else its copy there."""
        if self.on_cpu:
            return self.view((self.capacity,), self.capacity)
        if self.device.type == "meta" and self.host is None:
            self.host = np.zeros(self.capacity, np.float32)  # no memory before somebody writes to it
            self.host_is_newer = True
        if self.host is None:
            self.host = np.empty(self.capacity, np.float32)
        if not self.host_is_newer:
            np.copyto(self.host, self.tensor().cpu().numpy())
            self.host_is_newer = True
        return self.host


class Blob:
    """An N-dimensional array with its gradient.

    `data` and `diff` are float32 tensors of shape `shape`, C-contiguous, that stay in place: assigning to them copies,
    so every view taken before (numpy's too) sees the new values. Inside a `Tracing` an assignment binds the tensor
    instead; a layer that reads `x.data` and assigns whole results runs in both.
    """

    def __init__(self, shape: Sequence[int] = (0,), device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.shape: tuple[int, ...] = ()
        self._views: dict[bool, tuple[torch.Tensor, tuple[int, ...], torch.Tensor]] = {}  # of data (True) and diff
        self._data = Memory(0, self.device)
        self._diff = Memory(0, self.device)
        self.reshape(*shape)

    # shape
    def reshape(self, *shape: int) -> None:
        """Changes the shape. Contents are kept as long as the count does not outgrow the memory, as in Caffe."""
        if shape == self.shape and shape:  # as before every forward
            return
        self.become(*counted(*shape))

    def become(self, shape: Sequence[int], count: int) -> None:
        """reshape, to a shape whose count is known."""
        self.count = count
        self.shape = (*shape,)  # one of its own: who has seen another has to look again
        if count > self._data.capacity:
            self._data = Memory(count, self.device)
        if count > self._diff.capacity:
            self._diff = Memory(count, self.device)
        self._views.clear()  # they would keep the memory of before

    def reshape_like(self, other: Blob) -> None:
        self.reshape(*other.shape)

    @property
    def num_axes(self) -> int:
        return len(self.shape)

    def canonical_axis(self, axis: int) -> int:
        """`axis` counted from the front; negative counts from the end. Raises CaffeError when out of range."""
        n = self.num_axes
        if not -n <= axis < n:
            raise CaffeError(f"axis {axis} out of range for {n}-D Blob with shape {self.shape_string}")
        return axis % n

    def count_range(self, start: int, end: int | None = None) -> int:
        """The number of elements in axes [start, end)."""
        count = 1
        for dim in self.shape[start:end]:
            count *= dim
        return count

    def legacy_shape(self, index: int) -> int:
        """num, channels, height, width (index 0 to 3) of a blob of at most four axes; missing axes count 1."""
        check(self.num_axes <= 4, "Cannot use legacy accessors on Blobs with > 4 axes.")
        return self.shape[index] if index < self.num_axes else 1

    @property
    def shape_string(self) -> str:
        """As Caffe logs it: ``32 3 32 32 (98304)``."""
        return shape_string(self.shape)

    # contents
    @property
    def data(self) -> torch.Tensor:
        return self._get(self._data)

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        self._set(self._data, value)

    @property
    def diff(self) -> torch.Tensor:
        return self._get(self._diff)

    @diff.setter
    def diff(self, value: torch.Tensor) -> None:
        self._set(self._diff, value)

    def adopt_data(self, value: torch.Tensor) -> None:
        """data = value, a tensor that nobody else keeps: where this blob has no memory yet, `value` becomes it.

        Unless it is aligned otherwise than PyTorch's own: the same numbers elsewhere could be summed in another order.
        """
        memory = self._data
        free = memory.flat is None and not memory.host_is_newer and value.numel() == memory.capacity == self.count
        alike = value.dtype == torch.float32 and value.is_contiguous() and value.device == self.device
        if free and alike and value.data_ptr() % 64 == 0:
            memory.flat = value.reshape(-1)
        else:
            self.data = value

    def take_data(self, value: torch.Tensor) -> None:
        """data = value, a tensor that nobody else keeps and that becomes this blob's memory, as `set_cpu_data` has it.

        Views taken before keep the old one. Aligned otherwise than PyTorch's own, it is copied (see `adopt_data`).
        """
        memory = self._data
        alike = value.dtype == torch.float32 and value.is_contiguous() and value.device == self.device
        if (
            current() is None
            and alike
            and value.numel() == memory.capacity == self.count
            and value.data_ptr() % 64 == 0
        ):
            memory.flat, memory.host_is_newer, memory.layout = value.view(-1), False, None
        else:
            self.data = value

    def room(self, *sources: Blob) -> torch.Tensor | None:
        """Where new data may be computed, so that assigning it copies nothing; None while tracing, or where a source lies."""
        if any(source._data is self._data for source in sources):
            return None
        if (tracing := current()) is not None:
            return tracing.room(self._data, self.shape, self.count)
        return self._view(self._data)

    def accumulate_diff(self, value: torch.Tensor) -> None:
        """diff += value: how layers deliver the gradients of their parameters."""
        if (tracing := current()) is not None and tracing.captures:
            before = tracing.bound.get(self._diff)
            tracing.bound[self._diff] = value if before is None else before + value
        else:
            self.diff.add_(value.to(torch.float32).reshape(self.shape))

    def share_data(self, other: Blob) -> None:
        """From now on this blob's data is `other`'s memory; counts must agree."""
        check(self.count == other.count, f"Check failed: count_ == other.count() ({self.count} vs. {other.count})")
        self._data = other._data

    def lie_in(self, memory: Memory) -> None:
        """From now on data is the beginning of `memory`, which is large enough; what stood here is lost."""
        self._data = memory
        self._views.clear()

    def own_data(self) -> None:
        """From now on data is memory of this blob's own, zeros at first."""
        self._data = Memory(self.count, self.device)

    def share_diff(self, other: Blob) -> None:
        check(self.count == other.count, f"Check failed: count_ == other.count() ({self.count} vs. {other.count})")
        self._diff = other._diff

    @property
    def state(self) -> tuple[Memory, Memory, tuple[int, ...]]:
        """Where data and diff lie, and the shape: the very objects, to be compared by identity."""
        return self._data, self._diff, self.shape

    @property
    def has_data(self) -> bool:
        """Whether data was ever large enough to hold a value: without, Caffe has no memory for it."""
        return self._data.capacity > 0

    @property
    def has_diff(self) -> bool:
        return self._diff.capacity > 0

    def data_array(self) -> np.ndarray:
        """data as a live NumPy array of shape `shape`, to read and to write (see Memory.array); a new one each time."""
        return self._data.view(self.shape, self.count)

    def diff_array(self) -> np.ndarray:
        """diff, likewise."""
        return self._diff.view(self.shape, self.count)

    def _get(self, memory: Memory) -> torch.Tensor:
        if (tracing := current()) is not None:
            found = tracing.get(memory, self.shape, self.device)
            if found is not None:
                return found
        return self._view(memory)

    def _view(self, memory: Memory) -> torch.Tensor:
        flat, which = memory.tensor(), memory is self._data
        kept = self._views.get(which)
        if kept is not None and kept[0] is flat and kept[1] is self.shape:
            return kept[2]
        view = (flat if memory.capacity == self.count else flat[: self.count]).view(self.shape)
        self._views[which] = flat, self.shape, view
        return view

    def release(self, memory: Memory) -> None:
        """Gives back this memory, of data or of diff, which comes back, zeroed, when somebody looks."""
        memory.flat, memory.host, memory.host_is_newer, memory.layout = None, None, False, None
        memory.owned = memory.owner = None
        memory.views.clear()
        self._views.clear()

    def _set(self, memory: Memory, value: torch.Tensor) -> None:
        if tuple(value.shape) != self.shape:
            raise ValueError(f"cannot assign a tensor of shape {tuple(value.shape)} to a blob of shape {self.shape}")
        if (tracing := current()) is not None and tracing.put(memory, value):
            return
        own = self._view(memory)
        if value.data_ptr() != own.data_ptr() or value.stride() != own.stride() or value.dtype != own.dtype:
            own.copy_(value)

    # BlobProto
    def from_proto(self, proto: Any) -> None:
        """Takes shape, data and, where there is one, diff of a BlobProto. Raises CaffeError when the counts disagree."""
        self.reshape(*blob_shape(proto))
        for field, memory in (("data", self._data), ("diff", self._diff)):
            values = getattr(proto, f"double_{field}") or getattr(proto, field)
            if len(values):
                check(
                    len(values) == self.count,
                    f"Check failed: count_ == proto.{field}_size() ({self.count} vs. {len(values)})",
                )
                array = np.array(values, dtype=np.float32)
                memory.tensor()[: self.count].copy_(torch.from_numpy(array))
            elif field == "data":
                check(self.count == 0, f"Check failed: count_ == proto.data_size() ({self.count} vs. 0)")

    def from_stored(self, stored: StoredBlob) -> None:
        """Reads data and, where there is one, diff from a file, of a BlobProto that has this count. Raises CaffeError."""
        stored_data(self.count, stored)
        diffs = stored.count("diff")
        check(diffs in (0, self.count), f"Check failed: count_ == proto.diff_size() ({self.count} vs. {diffs})")
        for name in ("data", "diff") if diffs else ("data",):
            tensor = getattr(self, name)
            try:
                if tensor.device.type == "cpu" and tensor.is_contiguous():
                    stored.read(name, tensor.detach().numpy())
                else:
                    setattr(self, name, torch.from_numpy(stored.read(name)).reshape(self.shape).to(tensor.device))
            except ProtoError as error:
                raise CaffeError(str(error)) from None

    def to_proto(self, proto: Any, write_diff: bool = False, with_data: bool = True) -> None:
        """Fills a BlobProto with shape, data and, on request, diff; without data, with the shape alone."""
        proto.Clear()
        proto.shape.dim.extend(self.shape)
        if not with_data:
            return
        proto.data.extend(self.data.detach().reshape(-1).cpu().numpy())
        if write_diff:
            proto.diff.extend(self.diff.detach().reshape(-1).cpu().numpy())

    def numbers(self, write_diff: bool = False) -> Numbers:
        """What `write_stored` writes of this blob, fetched from its device when its turn comes."""
        return {name: (self.count, partial(self._fetched, name)) for name in ("data", "diff")[: 1 + write_diff]}

    def _fetched(self, name: str) -> np.ndarray:
        values: torch.Tensor = getattr(self, name)
        return values.detach().cpu().numpy()


@lru_cache(maxsize=4096, typed=True)  # True and 1.0 are other keys than 1
def counted(*shape: int) -> tuple[tuple[int, ...], int]:
    """A shape in Python's integers, and how many values it means. Raises CaffeError; TypeError for what is no integer."""
    for dim in shape:
        if not isinstance(dim, (int, np.integer)):
            raise TypeError(f"Blob.reshape: expected integers, found {dim!r}")
    return tuple(int(dim) for dim in shape), shape_count(shape)


def shape_count(shape: Sequence[int]) -> int:
    """How many values a shape means. Raises CaffeError for one that no blob can have."""
    check(len(shape) <= MAX_AXES, f"Check failed: shape.size() <= kMaxBlobAxes ({len(shape)} vs. {MAX_AXES})")
    count = 1
    for dim in shape:
        check(dim >= 0, f"Check failed: shape[i] >= 0 ({dim} vs. 0)")
        check(not count or dim <= (2**31 - 1) // count, "blob size exceeds INT_MAX")
        count *= dim
    return count


def shape_string(shape: Sequence[int]) -> str:
    """A shape and its count as Caffe logs them: ``32 3 32 32 (98304)``."""
    return "".join(f"{dim} " for dim in shape) + f"({math.prod(shape)})"


def stored_data(expected: int, stored: StoredBlob) -> None:
    """Blob::FromProto's demand; an array of nothing has no memory to copy into. Raises CaffeError."""
    count = stored.count("data")
    check(expected > 0, "Check failed: data_ (a blob without values)")
    check(count == expected, f"Check failed: count_ == proto.data_size() ({expected} vs. {count})")
