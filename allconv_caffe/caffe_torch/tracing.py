"""Tracing: tensors stand for the memories of blobs while an executor lets layers compute.

Inside, assigning to a blob's data or diff binds the tensor, whatever its memory format or dtype, instead of copying it into
the blob's memory, and reading gives what is bound. So a layer that reads whole tensors and assigns whole results can be
captured as a graph. What looks at values, or writes in place, asks `is_tracing` and leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar, Token

import torch


class Tracing:
    """What stands for which memory. It can be entered again and again: what is bound stays so until it is taken out of `bound`.

    It holds for the thread that entered it; others see their blobs as they are.
    """

    captures = True
    """Whether tensors stand for memories; faces.py has another kind."""

    def __init__(self) -> None:
        self.bound: dict[object, torch.Tensor] = {}
        self._entered: list[Token[Tracing | None]] = []

    def get(self, memory: object, shape: tuple[int, ...], device: torch.device) -> torch.Tensor | None:
        """What a blob of this shape has in `memory`; None: what stands there in C order."""
        bound = self.bound.get(memory)
        if bound is None:
            bound = self.bound[memory] = torch.zeros(shape, dtype=torch.float32, device=device)
        return bound if bound.shape == shape else bound.reshape(shape)

    def put(self, memory: object, value: torch.Tensor) -> bool:
        """Assigns to a blob's memory. Returns whether that is done; else it is to be copied there, in C order."""
        self.bound[memory] = value
        return True

    def room(self, memory: object, shape: Sequence[int], count: int) -> torch.Tensor | None:
        """Where a blob's new data may be computed; None: anywhere."""
        return None

    def __enter__(self) -> Tracing:
        self._entered.append(_current.set(self))
        return self

    def __exit__(self, *error: object) -> None:
        _current.reset(self._entered.pop())


_current: ContextVar[Tracing | None] = ContextVar("tracing", default=None)
current = _current.get
"""The tracing that this thread is in, or None."""


def is_tracing() -> bool:
    tracing = current()
    return tracing is not None and tracing.captures
