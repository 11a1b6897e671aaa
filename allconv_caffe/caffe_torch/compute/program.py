"""Calls of compiled kernels written down as numbers, so that a row of them is made again by one call.

Arrays are written as addresses. Those that lie in blobs move when a blob's memory does; all others, which hold what the calls
themselves leave there or what never changes, are kept as long as the program. kernels/caffe_math.cpp reads what is written here.
"""

from __future__ import annotations

import bisect
import ctypes
import struct
from collections.abc import Sequence

import numpy as np
import torch

from allconv_caffe.caffe_torch.blob import Memory

#: A kernel's name, and what it is called with.
Call = tuple[str, tuple[torch.Tensor | float | None, ...]]


class Result(ctypes.c_void_p):
    """An argument of a kernel: the array that it fills, whatever stood there."""


def results(library: ctypes.CDLL, call: Call) -> list[torch.Tensor]:
    """The arrays that a call fills."""
    name, arguments = call
    kinds = zip(arguments, getattr(library, f"caffe_{name}").argtypes, strict=True)
    return [argument for argument, kind in kinds if kind is Result and isinstance(argument, torch.Tensor)]


class Program:
    """Rows of calls, one behind the other, to be made from any row to any other."""

    def __init__(self) -> None:
        self._words: list[int] = []
        self._starts = [0]
        self._places: list[tuple[Memory, int, int]] = []  # a memory, the word that points into it, and how far
        self._kept: list[torch.Tensor] = []

    def append(self, library: ctypes.CDLL, calls: Sequence[Call], memories: Sequence[Memory]) -> bool:
        """One row more, unless an array of float32 lies in none of `memories` and no call of the row has filled it before: who
        knows what it holds next time.

        Args:
            library: the compiled kernels, of all rows the same.
        Returns: whether it was appended.
        """
        words: list[int] = []
        places: list[tuple[Memory, int, int]] = []
        kept: list[torch.Tensor] = []
        filled: list[torch.Tensor] = []
        for name, arguments in calls:
            number = library.caffe_number(name.encode())
            if number < 0:
                return False
            words += [number, len(arguments)]
            types = getattr(library, f"caffe_{name}").argtypes
            for argument, kind in zip(arguments, types, strict=True):
                if not isinstance(argument, torch.Tensor):
                    words.append(_word(argument, kind))
                    continue
                if argument.dtype == torch.float32 and (place := place_of(argument, memories)) is not None:
                    places.append((place[0], len(self._words) + len(words), place[1]))
                elif argument.dtype != torch.float32 or kind is Result or _lies_in(argument, filled):
                    kept.append(argument)
                else:
                    return False
                words.append(argument.data_ptr())
            filled += results(library, (name, arguments))
        self._play = library.caffe_play
        self._words += words
        self._places += places
        self._kept += kept
        self._starts.append(len(self._words))
        return True

    def change(self, word: int, value: int) -> None:
        """Sets an argument of the last call; `word` counts from its end, -1 is the last argument."""
        self._words[word] = value

    def close(self) -> None:
        """Makes it ready to run; nothing is appended any more."""
        self._array = np.array(self._words, np.int64)
        self._first = self._array.ctypes.data
        self._ends = [self._first + 8 * start for start in self._starts]
        self.memories = list({id(memory): memory for memory, _, _ in self._places}.values())

    def run(self, first: int, end: int) -> int:
        """Makes the calls of the rows from `first` to `end`, which is not included.

        Returns: `end`, or the row of the first call that refused what it was given; no call behind it was made.
        """
        stopped: int = self._play(self._ends[first], self._ends[end])
        return end if stopped == self._ends[end] else bisect.bisect(self._ends, stopped) - 1

    def move(self, memory: Memory) -> None:
        """`memory` lies elsewhere now."""
        address = memory.tensor().data_ptr()
        for moved, word, offset in self._places:
            if moved is memory:
                self._array[word] = address + offset


def _word(argument: float | None, kind: type) -> int:
    if argument is None:
        return 0
    if kind is ctypes.c_float:
        return int(struct.unpack("<i", struct.pack("<f", argument))[0])
    return int(argument)


def _lies_in(array: torch.Tensor, others: Sequence[torch.Tensor]) -> bool:
    return any(0 <= array.data_ptr() - other.data_ptr() < max(1, 4 * other.numel()) for other in others)


def place_of(array: torch.Tensor, memories: Sequence[Memory]) -> tuple[Memory, int] | None:
    """In which memory an array lies, and how many bytes from its beginning."""
    address = array.data_ptr()
    for memory in memories:
        flat = memory.flat
        if flat is not None and 0 <= address - flat.data_ptr() < max(1, 4 * flat.numel()):
            return memory, address - flat.data_ptr()
    return None
