"""Images that lie channels_last in a blob's memory: where the kernels of channels_last.cpp read and write them.

Nobody but layers whose forward takes them so ever sees it: a memory that is looked at is put into C order first.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.compute.compiler import BuildError, is_built as has_built, load
from allconv_caffe.caffe_torch.compute.winograd import POINTS


@functools.cache
def library() -> ctypes.CDLL | str:
    """The kernels, compiled on the first call; in words, why there are none."""
    try:
        return load("channels_last", _flags())
    except (BuildError, OSError) as error:
        return str(error)


def is_built() -> bool:
    """Whether they have been compiled."""
    return has_built("channels_last", _flags())


def _flags() -> list[str]:
    p, q = POINTS[4]
    return ["-ffp-contract=fast", "-fno-math-errno", f"-DP4={p}f", f"-DQ4={q}f"]


class ChannelsLast:
    """How (N, C, H, W) lies as (N, H, W, C)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        n, c, h, w = shape
        self.count = n * c * h * w
        self._strides = (h * w * c, 1, w * c, c)

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        """The images, (N, C, H, W), at the beginning of `flat`."""
        return flat.as_strided(self.shape, self._strides)

    def take(self, flat: torch.Tensor) -> None:
        """Brings what lies in C order at the beginning of `flat` into this one."""
        self._reorder(flat, 1)

    def restore(self, flat: torch.Tensor) -> None:
        """Brings it back into C order."""
        self._reorder(flat, 0)

    def _reorder(self, flat: torch.Tensor, last: int) -> None:
        found = library()
        assert isinstance(found, ctypes.CDLL)  # nothing lies so without it
        n, c, h, w = self.shape
        sizes = (ctypes.c_int64(size) for size in (n, c, h * w, last))
        found.caffe_last_reorder(*sizes, ctypes.c_void_p(flat.data_ptr()), ctypes.c_int64(torch.get_num_threads()))


def channels_last(shape: Sequence[int]) -> ChannelsLast | None:
    """How images of this shape lie channels_last; None for what is no image, or lies in both ways at once."""
    return _channels_last(tuple(shape)) if len(shape) == 4 else None


@functools.lru_cache(maxsize=4096)
def _channels_last(shape: tuple[int, ...]) -> ChannelsLast | None:
    n, c, h, w = shape
    return ChannelsLast(shape) if n and c > 1 and h * w > 1 else None


def layout_of(x: torch.Tensor) -> ChannelsLast | None:
    """The way in which x lies, if that is channels_last and not C order, too."""
    if x.dim() != 4 or x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    return channels_last(x.shape)
