"""A small data set as a whole: read once, kept in memory, shared by all layers that read it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.source.database import Reader

CHUNK_BYTES = 64 << 20  # read at once on the way to a GPU


@dataclass(frozen=True)
class Loaded:
    """A whole data set: images (N, C, H, W) float32 or uint8, labels (N,) float32, on one device."""

    images: torch.Tensor
    labels: torch.Tensor


class Irregular(Exception):
    """Records differ in shape: only streaming can serve them."""


_loaded: dict[tuple[Any, ...], Loaded] = {}
_loaded_lock = threading.Lock()


def forget_loaded() -> None:
    """Drops the data sets kept in memory; layers that use one keep it as long as they live."""
    with _loaded_lock:
        _loaded.clear()


def load(reader: Reader, device: torch.device, limit: int | None = None) -> Loaded | None:
    """The whole data set on `device`, read once per process; None where it is too large or irregular.

    Args:
        limit: bytes; None: ALLCONV_DATA_MEMORY_MB, else half of what is free on the device.
    """
    source = reader.source
    key = (os.path.realpath(source.path), source.version(), str(device), reader.force_color, reader.force_gray)
    with _loaded_lock:
        if key in _loaded:
            return _loaded[key]
        needed = len(reader) * (reader.first().nbytes + 4)
        if needed > (memory_limit(device) if limit is None else limit):
            _loaded.clear()  # the others may be in the way
            if needed > (memory_limit(device) if limit is None else limit):
                return None
        try:
            _loaded[key] = _load(reader, device)
        except Irregular:
            return None
        return _loaded[key]


def _load(reader: Reader, device: torch.device) -> Loaded:
    count, first = len(reader), reader.first()
    dtype = torch.uint8 if first.dtype == np.uint8 else torch.float32
    images = torch.empty((count, *first.shape), dtype=dtype, device=device)
    labels = np.empty(count, np.float32)
    step = count if device.type == "cpu" else max(1, min(count, CHUNK_BYTES // first.nbytes))
    chunk = images if device.type == "cpu" else torch.empty((step, *first.shape), dtype=dtype)
    host, done = chunk.numpy(), 0
    shape, floats = (first.shape[0], first.shape[1], first.shape[2]), dtype == torch.float32
    for run in reader.runs():
        for found in reader.load(run):
            if not found.are(shape, floats):
                raise Irregular
            check(done + len(found) <= count, f"{reader.source.path}: found more records than {count}")
            labels[done : done + len(found)] = found.labels
            while len(found):
                begin = done % step
                part = found[: step - begin]
                part.put(host[begin : begin + len(part)])
                done, found = done + len(part), found[len(part) :]
                if chunk is not images and (done % step == 0 or done == count):
                    images[done - begin - len(part) : done].copy_(chunk[: begin + len(part)])
    check(done == count, f"{reader.source.path}: found {done} records, expected {count}")
    return Loaded(images, torch.from_numpy(labels).to(device))


def memory_limit(device: torch.device) -> int:
    """Bytes that one data set may take on `device`: ALLCONV_DATA_MEMORY_MB, else half of what is free there."""
    text = os.environ.get("ALLCONV_DATA_MEMORY_MB", "")
    if text:
        try:
            limit = float(text)
        except ValueError:
            limit = -1.0
        check(0 <= limit < 2**40, f"ALLCONV_DATA_MEMORY_MB={text}: expected megabytes, a number from 0 (always stream)")
        return int(limit * 2**20)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] // 2)
    return _free_host_memory() // 2


def _free_host_memory() -> int:
    free = 2**62
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    free = int(line.split()[1]) * 1024
    except OSError:  # not Linux
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:  # a container's own limit
        most = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        if most != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
            free = min(free, max(0, int(most) - used))
    except (OSError, ValueError):
        pass
    return free
