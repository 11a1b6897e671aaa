"""CPU memory: zeros that take none before somebody writes, and freed memory that stays in the process.

One iteration frees and takes the same large buffers as the one before. By default glibc hands each of them back to the
kernel at once and gets it anew, page by page and zeroed: about a tenth of an iteration of All-CNN-C on two cores.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np
import torch

# malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


LARGE = 1 << 16  # values; below, asking the kernel costs more than it saves
ALIGNMENT = 64  # bytes, of PyTorch's own tensors


def zeros(shape: Sequence[int]) -> torch.Tensor:
    """float32 zeros, aligned as PyTorch's. Many of them are the kernel's own, page by page where they are touched: weights
    that are read from a file next are not written twice.
    """
    count = math.prod(shape)
    if count < LARGE:
        return torch.zeros(tuple(shape))
    raw = np.zeros(count + ALIGNMENT // 4, np.float32)  # calloc
    first = -raw.ctypes.data % ALIGNMENT // 4
    return torch.from_numpy(raw[first : first + count]).view(tuple(shape))


def keep_freed_memory() -> bool:
    """Lets malloc keep what the process frees; it asks the kernel only for more than it ever had.

    Returns: whether the C library knows how (glibc does; elsewhere nothing changes).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wanted = [(M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)]
    done = [mallopt(option, value) == 1 for option, value in wanted]  # each is asked for, whatever became of the others
    return all(done)
