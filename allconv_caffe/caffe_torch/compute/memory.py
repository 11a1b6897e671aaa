"""Keeps freed CPU memory in the process.

One iteration frees and takes the same large buffers as the one before. By default glibc hands each of them back to the
kernel at once and gets it anew, page by page and zeroed: about a tenth of an iteration of All-CNN-C on two cores.
"""

from __future__ import annotations

import ctypes

# malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


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
