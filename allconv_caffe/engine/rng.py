"""Random numbers for fillers, dropout, crops and mirrors: one seed, one generator.

`TorchGenerator` is fast and is the default. `seed` follows `random_seed` (negative: drawn from the system).
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Protocol

import torch

from allconv_caffe.engine.blob import Blob


class Generator(Protocol):
    """What layers and fillers draw from."""

    seed: int

    def uniform(self, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
        """U(low, high), float32, on the CPU."""
        ...

    def gaussian(self, shape: Sequence[int], mean: float, std: float) -> torch.Tensor:
        """N(mean, std), float32, on the CPU."""
        ...

    def bernoulli(self, shape: Sequence[int], p: float, device: torch.device) -> torch.Tensor:
        """1 with probability p, else 0; float32 on `device`. Row-major order of drawing."""
        ...

    def word(self) -> int:
        """One raw 32-bit word (caffe_rng_rand): seeds for data transformers and prefetch threads."""
        ...


class TorchGenerator:
    """PyTorch's generators behind Caffe's calls."""

    def __init__(self, seed: int = -1) -> None:
        self.seed = seed if seed >= 0 else secrets.randbits(32)
        self._cpu = torch.Generator().manual_seed(self.seed)
        self._cuda: torch.Generator | None = None
        torch.manual_seed(self.seed)  # what compiled code draws from

    def uniform(self, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
        return torch.empty(tuple(shape)).uniform_(low, high, generator=self._cpu)

    def gaussian(self, shape: Sequence[int], mean: float, std: float) -> torch.Tensor:
        return torch.empty(tuple(shape)).normal_(mean, std, generator=self._cpu)

    def bernoulli(self, shape: Sequence[int], p: float, device: torch.device) -> torch.Tensor:
        if Blob.tracing:  # compiled code cannot carry a generator object
            return (torch.rand(tuple(shape), device=device) < p).to(torch.float32)
        if device.type == "cpu":
            return torch.empty(tuple(shape)).bernoulli_(p, generator=self._cpu)
        if self._cuda is None:
            self._cuda = torch.Generator(device).manual_seed(self.seed)
        return torch.empty(tuple(shape), device=device).bernoulli_(p, generator=self._cuda)

    def word(self) -> int:
        return int(torch.randint(0, 2**32, (1,), generator=self._cpu, dtype=torch.int64).item())
