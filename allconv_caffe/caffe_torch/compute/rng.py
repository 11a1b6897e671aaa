"""Random numbers for fillers, dropout, crops and mirrors: one seed, one generator.

`TorchGenerator` is fast and is the default. `CaffeGenerator` draws BVLC Caffe's own numbers, on the CPU (seed-exact).
`seed` follows `random_seed` (negative: drawn from the system).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from allconv_caffe.caffe_torch.compute import compiler, operators, ziggurat
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.tracing import current, is_tracing

F = np.float32
BUFFER_WORDS = 1 << 16  # drawn from the twister at once
BLOCK_WORDS = 1 << 18  # of normal tries looked at together
LAST_WORD = 2**32 - 1


class Generator(Protocol):
    """What layers and fillers draw from."""

    seed: int
    device: torch.device  # where initial values lie: the CPU; or nowhere, on "meta", where only shapes are wanted

    def uniform(self, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
        """U(low, high), float32, on `device`."""
        ...

    def gaussian(self, shape: Sequence[int], mean: float, std: float) -> torch.Tensor:
        """N(mean, std), float32, on `device`."""
        ...

    def bernoulli(self, shape: Sequence[int], p: float | np.float32, device: torch.device) -> torch.Tensor:
        """1 with probability p, else 0; float32 on `device`. Row-major order of drawing.

        The type of `p` says in which precision Caffe compares: double for dropout, float32 for sparse fillers.
        """
        ...

    def word(self) -> int:
        """One raw 32-bit word (caffe_rng_rand): seeds for data transformers and prefetch threads."""
        ...


def check_probability(p: float | np.float32) -> float | np.float32:
    """`p`, if it is one. Raises: CaffeError, in the words of caffe_rng_bernoulli."""
    check(bool(p >= 0), f"Check failed: p >= 0 ({p:g} vs. 0)")
    check(bool(p <= 1), f"Check failed: p <= 1 ({p:g} vs. 1)")
    return p


class TorchGenerator:
    """PyTorch's generators behind Caffe's calls."""

    device = torch.device("cpu")

    def __init__(self, seed: int = -1) -> None:
        self.seed = seed if seed >= 0 else secrets.randbits(32)
        self._cpu = torch.Generator().manual_seed(self.seed)
        self._cuda: torch.Generator | None = None
        self._streams = 0
        torch.manual_seed(self.seed)  # what compiled code on a GPU draws from

    def uniform(self, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
        return torch.empty(tuple(shape)).uniform_(low, high, generator=self._cpu)

    def gaussian(self, shape: Sequence[int], mean: float, std: float) -> torch.Tensor:
        return torch.empty(tuple(shape)).normal_(mean, std, generator=self._cpu)

    def bernoulli(self, shape: Sequence[int], p: float | np.float32, device: torch.device) -> torch.Tensor:
        p = float(check_probability(p))
        if is_tracing() and device.type != "cpu":  # compiled code cannot carry a generator object
            return (torch.rand(tuple(shape), device=device) < p).to(torch.float32)
        if device.type == "cpu":
            return torch.empty(tuple(shape)).bernoulli_(p, generator=self._cpu)
        if self._cuda is None:
            self._cuda = torch.Generator(device).manual_seed(self.seed)
        return torch.empty(tuple(shape), device=device).bernoulli_(p, generator=self._cuda)

    def word(self) -> int:
        return int(torch.randint(0, 2**32, (1,), generator=self._cpu, dtype=torch.int64).item())

    def stream(self) -> Masks:
        """The next layer's stream of masks."""
        self._streams += 1
        return MaskStream(self, self._streams)


class Masks(Protocol):
    """What Dropout draws from."""

    def bernoulli(self, shape: Sequence[int], p: float | np.float32, device: torch.device) -> torch.Tensor: ...


class MaskStream:
    """One layer's masks. On a CPU, the n-th follows from the generator's seed, the layer and n: so it is the same in plain
    and in compiled execution, whatever else is drawn between, and in whichever order a compiled graph draws.
    """

    def __init__(self, generator: TorchGenerator, number: int) -> None:
        self._generator, self._number, self._drawn = generator, number, 0

    def next_seed(self) -> int:
        """The seed of the next mask: a compiled graph takes it as an input, see `Tracing.bound`."""
        self._drawn += 1
        text = f"{self._generator.seed} {self._number} {self._drawn}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1

    def bernoulli(
        self, shape: Sequence[int], p: float | np.float32, device: torch.device, channels_last: bool = False
    ) -> torch.Tensor:
        """As a generator's `bernoulli`; in a compiled graph on a CPU a mask of bytes, in the memory format that is asked for."""
        check_probability(p)
        if device.type != "cpu":
            return self._generator.bernoulli(shape, p, device)
        tracing = current()
        seed = None if tracing is None else tracing.bound.get(self)
        if seed is None:
            return _mask(self.next_seed(), shape, float(p)).to(torch.float32)
        return torch.ops.allconv_caffe.mask(seed, list(shape), float(p), channels_last)


def stream_of(generator: Generator) -> Masks:
    """Where a layer draws its masks; seed-exact, from the one stream that there is."""
    return generator.stream() if isinstance(generator, TorchGenerator) else generator


def _mask(seed: int, shape: Sequence[int], p: float, channels_last: bool = False) -> torch.Tensor:
    """Bytes, drawn row-major: 1 where a 32-bit word lies below p * 2^32, else 0."""
    below = round(p * 2**32)
    mask = torch.empty(tuple(shape), dtype=torch.uint8, memory_format=_format(channels_last))
    if not below or not mask.numel():
        return mask.zero_()
    generator, library = np.random.SFC64(seed), _library()
    if library is None:
        words = generator.random_raw((mask.numel() + 1) // 2).view(np.uint32)[: mask.numel()]
        return mask.copy_(torch.from_numpy(words <= np.uint32(below - 1)).view(tuple(shape)))
    state: Any = generator.state["state"]["state"]
    n, c, pixels = (shape[0], shape[1], math.prod(shape[2:])) if channels_last else (1, 1, mask.numel())
    library.masks_draw(state.ctypes.data, below, mask.data_ptr(), n, c, pixels, channels_last)
    return mask


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The C++ that draws as numpy does, compiled on the first call; None where this machine has no compiler."""
    try:
        library = compiler.load("masks", [])
    except (compiler.BuildError, OSError):
        return None
    i, p = ctypes.c_int64, ctypes.c_void_p
    library.masks_draw.argtypes = [p, i, p, i, i, i, i]
    library.masks_draw.restype = None
    return library


def mask(seed: torch.Tensor, shape: Sequence[int], p: float, channels_last: bool) -> torch.Tensor:
    return _mask(int(seed), shape, p, channels_last)


def _empty_mask(seed: torch.Tensor, shape: Sequence[int], p: float, channels_last: bool) -> torch.Tensor:
    return torch.empty(tuple(shape), dtype=torch.uint8, device=seed.device, memory_format=_format(channels_last))


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


operators.define("Tensor seed, SymInt[] shape, float p, bool channels_last", "Tensor", mask, _empty_mask)


class ShapesOnly:
    """Draws nothing: for nets on PyTorch's "meta" device, whose values nobody reads."""

    seed = 0
    device = torch.device("meta")

    def uniform(self, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
        return torch.empty(tuple(shape), device=self.device)

    def gaussian(self, shape: Sequence[int], mean: float, std: float) -> torch.Tensor:
        return torch.empty(tuple(shape), device=self.device)

    def bernoulli(self, shape: Sequence[int], p: float | np.float32, device: torch.device) -> torch.Tensor:
        return torch.empty(tuple(shape), device=self.device)

    def word(self) -> int:
        return 0


class CaffeGenerator:
    """BVLC Caffe's stream on the CPU, bit for bit: boost::mt19937 and boost 1.74's distributions over its words.

    Every call takes from the stream as many words as Caffe's takes, so that what is drawn later agrees too.
    `words_drawn` counts them.

    Source: rng.hpp, common.cpp (Caffe::RNG), math_functions.cpp (caffe_rng_*).
    """

    device = torch.device("cpu")

    def __init__(self, seed: int = -1) -> None:
        self.seed = seed if seed >= 0 else secrets.randbits(32)
        self.words_drawn = 0
        # RandomState seeds as boost does (init_genrand); MT19937(seed) does not
        self._twister: Any = np.random.RandomState(self.seed & LAST_WORD)._bit_generator
        self._buffer = np.empty(0, np.uint32)
        self._next = 0

    # words
    def _peek(self, n: int) -> np.ndarray:
        """The next n words, (n,) uint32, without taking them."""
        missing = n - (len(self._buffer) - self._next)
        if missing > 0:
            fresh = self._twister.random_raw(max(missing, BUFFER_WORDS)).astype(np.uint32)
            self._buffer = np.concatenate((self._buffer[self._next :], fresh))
            self._next = 0
        return self._buffer[self._next : self._next + n]

    def _skip(self, n: int) -> None:
        self._next += n
        self.words_drawn += n

    def words(self, n: int) -> np.ndarray:
        """The next n words, (n,) uint32."""
        words = self._peek(n)
        self._skip(n)
        return words

    def word(self) -> int:
        return int(self.words(1)[0])

    # distributions
    def uniform(self, shape: Sequence[int], low: float, high: float) -> torch.Tensor:
        """word / 2^32 * (high' - low) + low, high' the float32 after `high`; what rounds up to high' is drawn again."""
        a, b = F(low), np.nextafter(F(high), F(np.inf))
        tensor = torch.empty(tuple(shape), dtype=torch.float32)
        out = tensor.reshape(-1).numpy()
        done = 0
        while done < len(out):
            values = self.words(min(len(out) - done, BLOCK_WORDS)).astype(F) / F(2**32) * F(b - a) + a
            values = values[values < b]
            out[done : done + len(values)] = values
            done += len(values)
        return tensor

    def gaussian(self, shape: Sequence[int], mean: float, std: float) -> torch.Tensor:
        """unit normal * std + mean, in float32."""
        tensor = torch.empty(tuple(shape), dtype=torch.float32)
        out = tensor.reshape(-1).numpy()
        for begin in range(0, len(out), BLOCK_WORDS):
            part = out[begin : begin + BLOCK_WORDS]
            part[...] = self.unit_normal(len(part)) * F(std) + F(mean)
        return tensor

    def bernoulli(self, shape: Sequence[int], p: float | np.float32, device: torch.device) -> torch.Tensor:
        """1 where word <= p * (2^32 - 1), both sides in the type of p; p = 0 takes no words."""
        if check_probability(p) == 0:
            return torch.zeros(tuple(shape), device=device)
        words = self.words(math.prod(shape))
        if isinstance(p, np.float32):
            keep = words.astype(F) <= p * F(LAST_WORD)
        else:
            keep = words <= math.floor(p * float(LAST_WORD))
        return torch.from_numpy(keep.astype(F)).reshape(tuple(shape)).to(device)

    def unit_normal(self, n: int) -> np.ndarray:
        """(n,) float32 of boost's ziggurat.

        Tries are made at all words of a block at once, wanted or not; then the few that take a second word are
        walked through in order, to cross out the words that were no beginning of a try.
        """
        parts: list[np.ndarray] = []
        missing = n
        while missing > 0:
            size = min(BLOCK_WORDS, missing + missing // 32 + 8)
            values, taken = self._normal_block(size, missing)
            parts.append(values)
            missing -= len(values)
            self._skip(taken)
        return np.concatenate(parts) if parts else np.empty(0, F)

    def _normal_block(self, size: int, wanted: int) -> tuple[np.ndarray, int]:
        """At most `wanted` numbers of the next `size` words, and how many words they took (a few more than `size` at most)."""
        values, slow, outcome = ziggurat.tries(self._peek(size + 1))
        begins = np.ones(size, bool)  # a try begins here
        gives = np.ones(size, bool)  # and gives a number
        end = size  # where the first try after this block begins
        cursor = 0
        for position, kind in zip(slow.tolist(), outcome.tolist(), strict=True):
            if position < cursor:  # used up by the try before
                continue
            if kind == ziggurat.HARD:
                values[position], cursor = self._hard(position)
            else:
                gives[position] = kind == ziggurat.ACCEPTED
                cursor = position + 2
            begins[position + 1 : cursor] = False
        end = max(end, cursor)
        numbers = np.flatnonzero(begins & gives)
        if len(numbers) > wanted:  # stop behind the last one: a rejected try after it belongs to the next call
            numbers = numbers[:wanted]
        if len(numbers) == wanted:
            after = int(numbers[-1]) + 1
            while after < size and not begins[after]:
                after += 1
            end = after if after < size else end
        return values[numbers], end

    def _hard(self, position: int) -> tuple[np.float32, int]:
        """The number of a try that begins `position` words from here, and where the next try begins."""
        cursor = position

        def next_word() -> int:
            nonlocal cursor
            cursor += 1
            return int(self._peek(cursor)[-1])

        value = ziggurat.one_normal(next_word)
        return value, cursor
