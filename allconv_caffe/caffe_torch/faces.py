"""Layers that compute over memories as they lie: channels_last, where kernels have left them so.

Inside a `Faces`, reading a blob gives a view of its memory whichever way that lies; assigning notes the way in which the result
lies. Outside, a memory is in C order as soon as somebody looks, see `Memory.layout`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allconv_caffe.caffe_torch.blob import Memory
from allconv_caffe.caffe_torch.compute.fast_math import FastMath
from allconv_caffe.caffe_torch.compute.layout import layout_of
from allconv_caffe.caffe_torch.tracing import Tracing


class Faces(Tracing):
    """The memories, for one layer.

    Args:
        math: the layer's.
        any_layout: whether the layer's forward takes images channels_last.
    """

    captures = False

    def __init__(self, math: FastMath, any_layout: bool) -> None:
        super().__init__()
        self.math, self.any_layout = math, any_layout

    def get(self, memory: object, shape: tuple[int, ...], device: torch.device) -> torch.Tensor | None:
        assert isinstance(memory, Memory)
        if memory.layout is None or memory.flat is None:
            return None
        if self.any_layout and memory.layout.shape == shape:
            return memory.layout.view(memory.flat)
        self.math.restore(memory.flat, memory.layout)
        memory.layout = None
        return None

    def put(self, memory: object, value: torch.Tensor) -> bool:
        assert isinstance(memory, Memory)
        flat, layout = memory.flat, layout_of(value)
        memory.layout = None  # what stood there is no more
        if flat is None or value.data_ptr() != flat.data_ptr():
            if layout is None:
                return False
            layout.view(memory.tensor()).copy_(value)
        elif layout is None and not value.is_contiguous():
            return False
        memory.layout = layout
        return True

    def room(self, memory: object, shape: Sequence[int], count: int) -> torch.Tensor | None:
        """A view in C order, whatever lies there now."""
        assert isinstance(memory, Memory)
        flat = memory.tensor() if memory.flat is None else memory.flat
        return flat[:count].view(tuple(shape))
