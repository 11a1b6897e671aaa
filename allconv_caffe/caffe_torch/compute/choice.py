"""Which algorithm is fastest for one convolution or product on this machine: each is tried once, and the answer is kept in the
cache.

Which wins depends on the shape as much as on the processor: on a map of 7x7 most of what Winograd's 4x4 tiles compute is
thrown away, and the filters' transforms weigh more than what they save. What counts is a process's CPU time, which training
beside changes little. A machine that has an answer gives it again, so that the same training has the same numbers.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch
from torch.utils._python_dispatch import _disable_current_modes

from allconv_caffe import files
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute.compiler import cached, processor, text
from allconv_caffe.errors import FoundError

TURNS = 4
HOPELESS = 1.5  # times the fastest one's time: what takes more in a turn takes no further one
ENOUGH_FLOP = 8e9  # of a trial; a batch that has more is tried in part
BFLOAT16_FLOP = 2e10  # likewise, where a processor has instructions for bfloat16
GROUP = 32  # images
CLEARLY = 0.95  # what another than the first algorithm may take of its time to be chosen

What = Literal["forward", "dx", "dw"]
Layout = Literal["a b", "a.t b", "a b.t", "a.t b.t"]  # how the factors lie in memory
Trial = Callable[[int], object]
"""Runs an algorithm once, for so many images, see `Question.part`."""


@dataclass(frozen=True, kw_only=True)
class Question(ABC):
    """What is computed on the CPU, with `threads` threads; in float32 where nothing else is said."""

    kernels: ClassVar[tuple[str, ...]] = ()  # of ours that are tried

    what: str
    threads: int

    @property
    def path(self) -> str:
        """Where the answer is kept, below the cache."""
        return f"{type(self).__name__.lower()}s/{self.key}.json"

    @property
    def key(self) -> str:
        """Names the answer: equal where shape, processor, PyTorch and the kernels of ours are."""
        asked = json.dumps(asdict(self), sort_keys=True)
        parts = [asked, processor(), torch.__version__, *map(text, self.kernels)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    @abstractmethod
    def part(self) -> int:
        """How much of it a trial computes."""


@dataclass(frozen=True, kw_only=True)
class Convolution(Question):
    """A convolution through a square window with stride 1: `what` of it is computed ("forward", "dx" or "dw"), of images
    (n, c, h, w) that become o channels."""

    kernels = ("winograd",)

    what: What
    n: int
    c: int
    h: int
    w: int
    o: int
    kernel: int
    pad: int
    group: int = 1

    def part(self) -> int:
        """The images of a trial: all, or as many as are work enough to tell."""
        less = 2 * self.pad - self.kernel + 1
        flop = 2 * self.kernel**2 * self.c // self.group * self.o * (self.h + less) * (self.w + less)
        return max(1, min(self.n, math.ceil(ENOUGH_FLOP / max(flop, 1))))

    def __str__(self) -> str:
        images, groups = f"{self.n}x{self.c}x{self.h}x{self.w}", f", {self.group} groups" if self.group > 1 else ""
        return f"{images} to {self.o} channels, kernel {self.kernel}x{self.kernel}, pad {self.pad}{groups}"


@dataclass(frozen=True, kw_only=True)
class WindowConvolution(Question):
    """A convolution of images (n, c, h, w), which become o channels (oh, ow), through windows of two axes."""

    kernels: ClassVar[tuple[str, ...]] = ("winograd",)
    enough_flop: ClassVar[float] = ENOUGH_FLOP

    what: What
    n: int
    c: int
    h: int
    w: int
    o: int
    oh: int
    ow: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]

    def part(self) -> int:
        """The images of a trial, likewise, in whole groups of those that a kernel takes together."""
        flop = 2 * self.c * self.o * self.oh * self.ow * math.prod(self.kernel)
        groups = math.ceil(self.enough_flop / max(flop, 1) / GROUP)
        return max(1, min(self.n, groups * GROUP))

    def __str__(self) -> str:
        kernel, stride, pad = ("x".join(map(str, numbers)) for numbers in (self.kernel, self.stride, self.pad))
        return f"{self.n}x{self.c}x{self.h}x{self.w} to {self.o} channels, kernel {kernel}, stride {stride}, pad {pad}"


@dataclass(frozen=True, kw_only=True)
class Bfloat16Convolution(WindowConvolution):
    """One of images in bfloat16."""

    kernels = ("amx", "winograd")
    enough_flop = BFLOAT16_FLOP


@dataclass(frozen=True, kw_only=True)
class Product(Question):
    """a (m, k) b (k, n)."""

    what: Layout
    m: int
    k: int
    n: int

    def part(self) -> int:
        """The rows of a trial, likewise."""
        return max(1, min(self.m, math.ceil(ENOUGH_FLOP / (2 * self.k * self.n))))

    def __str__(self) -> str:
        return f"{self.m}x{self.k} by {self.k}x{self.n}"


_answers: dict[Question, str] = {}  # of this process
_recorded: list[dict[Question, str]] = []


def fastest(question: Question, trials: Mapping[str, Trial]) -> str:
    """The name of the algorithm that takes the least CPU time.

    Args:
        trials: the algorithms, the one that is chosen unless another is clearly faster first; run only where no answer is kept.
    """
    if question not in _answers:
        _answers[question] = _kept(question, list(trials)) or _measured(question, trials)
    for record in _recorded:
        record[question] = _answers[question]
    return _answers[question]


@contextmanager
def recording() -> Iterator[dict[Question, str]]:
    """What is asked inside, with its answers."""
    record: dict[Question, str] = {}
    _recorded.append(record)
    try:
        yield record
    finally:
        _recorded.remove(record)


def lines(record: Mapping[Question, str]) -> list[str]:
    """A line for each shape: which algorithm makes what."""
    shapes: dict[str, list[str]] = {}
    for question, algorithm in record.items():
        shapes.setdefault(f"{type(question).__name__} of {question}", []).append(f"{question.what} {algorithm}")
    return [f"{shape}: {', '.join(said)}" for shape, said in shapes.items()]


def _kept(question: Question, algorithms: Sequence[str]) -> str | None:
    path = cached(question.path)
    if not path.exists():
        return None
    try:
        algorithm = files.read_json(path, "a choice of an algorithm").get("algorithm")
        if algorithm not in algorithms:
            raise FoundError(f"{path}: algorithm", algorithm, "", algorithms)
    except FoundError as error:
        glog.warning("choice.py:1", f"{error}; measured again")
        return None
    return str(algorithm)


def _measured(question: Question, trials: Mapping[str, Trial]) -> str:
    part = question.part()
    with _disable_current_modes(), torch.no_grad():  # a graph may be in the making
        for run in trials.values():  # warms up
            _cpu_seconds(run, part)
        best = {name: _cpu_seconds(run, part) for name, run in trials.items()}
        for _ in range(TURNS - 1):
            limit = HOPELESS * min(best.values())
            left = [name for name in trials if best[name] <= limit]
            if len(left) == 1:
                break
            best |= {name: min(best[name], _cpu_seconds(trials[name], part)) for name in left}
    numbers.cache_clear()
    usual, winner = next(iter(best)), min(best, key=lambda name: best[name])
    algorithm = winner if best[winner] < CLEARLY * best[usual] else usual
    try:
        path = cached(question.path, anew=True)
        files.write_json(path, {"algorithm": algorithm, "question": asdict(question), "cpu_seconds": best})
    except OSError as error:
        glog.warning("choice.py:1", f"{error.filename}: {error.strerror}; the choice is not kept")
    return algorithm


def _cpu_seconds(run: Trial, images: int) -> float:
    start = time.process_time()
    run(images)
    return time.process_time() - start


@functools.cache
def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Numbers between -1 and 1 to try with, channels_last where there are four axes; no generator moves for them."""
    flat = torch.linspace(-1, 1, math.prod(shape)).to(dtype).reshape(shape)
    return flat.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else flat
