"""Caffe's state, one for each thread: mode, device, random stream; the log; and the timer.

On the CPU, random numbers are BVLC Caffe's own stream: the same `set_random_seed` gives the same weights, masks and
crops as real pycaffe. On a GPU they are PyTorch's.

Source: common.cpp, _caffe.cpp, util/benchmark.cpp.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute.rng import CaffeGenerator, TorchGenerator
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import REGISTRY, Context
from allconv_caffe.caffe_torch.pyblob import PythonLayerError
from allconv_caffe.caffe_torch.source.share import Share
from allconv_caffe.proto import ProtoError

NO_GPU = "Cannot use GPU in CPU-only Caffe: check mode."


class _Stream(threading.local, CaffeGenerator):
    """A stream of random numbers for each thread, of a seed of its own until the thread sets one."""


class _PerThread(threading.local):
    """What `Caffe::Get()` holds: each thread has its own."""

    gpu = False
    device_id = 0
    solver_count = 1
    solver_rank = 0
    multiprocess = False
    cpu_stream = _Stream()  # what nets draw from: the stream of the thread that runs them
    gpu_stream: TorchGenerator | None = None
    seed = -1
    seed_exact = False


_State = _PerThread()


def context(phase: int, *, fast: bool = False) -> Context:
    """What a new net is built with: this mode's device and its random stream. Raises: CaffeError without a GPU.

    Args:
        fast: run it forward by the fastest kernels, unless `set_seed_exact` says otherwise.
    """
    share = Share(_State.solver_count, _State.solver_rank)
    if not _State.gpu:
        return Context(phase=phase, rng=_State.cpu_stream, share=share, fast=fast and not _State.seed_exact)
    if not torch.cuda.is_available():
        raise CaffeError(f"{NO_GPU} (PyTorch {torch.__version__} finds no CUDA device)")
    if _State.gpu_stream is None:
        _State.gpu_stream = TorchGenerator(_State.seed)
    return Context(phase=phase, device=torch.device("cuda", _State.device_id), rng=_State.gpu_stream, share=share)


def set_mode_cpu() -> None:
    """Nets and solvers that are made from now on live on the CPU."""
    _State.gpu = False


def set_mode_gpu() -> None:
    """Nets and solvers that are made from now on live on the GPU; where there is none, making one raises CaffeError."""
    _State.gpu = True


def set_device(device_id: int) -> None:
    """The GPU for what is made from now on, by its number. Raises: CaffeError where PyTorch has no such GPU."""
    device_id = operator.index(device_id)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise CaffeError(f"{NO_GPU} (PyTorch {torch.__version__} finds no CUDA device)")
    if not 0 <= device_id < count:
        raise CaffeError(f"invalid device ordinal: found {device_id}, expected 0 to {count - 1}")
    _State.device_id = device_id


def set_random_seed(seed: int) -> None:
    """Starts this thread's random stream anew, for nets that exist, too.

    Raises: TypeError for what is no integer, OverflowError outside 0 to 2^32 - 1.
    """
    seed = operator.index(seed)
    if seed < 0:
        raise OverflowError("can't convert negative value to unsigned int")
    if seed >= 2**32:
        raise OverflowError("unsigned int is less than 32 bits: found a seed of 2^32 or more")
    _State.seed = seed
    _State.cpu_stream.__init__(seed)  # type: ignore[misc]  # in place: nets hold this very stream
    if _State.gpu_stream is not None:
        _State.gpu_stream.__init__(seed)  # type: ignore[misc]


def set_seed_exact(exact: bool = True) -> None:
    """Nets that are made from now on sum in the order of Caffe's BLAS, so that no bit of a forward pass differs from Caffe's.

    Without, they run forward by the fastest kernels. Solvers' nets are seed-exact in any case. Ours alone.
    """
    _State.seed_exact = bool(exact)


def solver_count() -> int:
    return _State.solver_count


def set_solver_count(val: int) -> None:
    """How many solvers train together: their nets' data layers, built from now on, deal the records out."""
    _State.solver_count = operator.index(val)


def solver_rank() -> int:
    return _State.solver_rank


def set_solver_rank(val: int) -> None:
    """Which of them this process is, from 0, the root, on: it alone tests and writes snapshots."""
    _State.solver_rank = operator.index(val)


def set_multiprocess(val: bool) -> None:
    _State.multiprocess = bool(val)


def has_nccl() -> bool:
    """Whether gradients are averaged on GPUs, by NCCL. `NCCL` works without, too: by gloo, on CPUs."""
    return torch.cuda.is_available() and torch.distributed.is_nccl_available()


def layer_type_list() -> list[str]:
    """The layer types that a prototxt may name, in byte order."""
    return sorted(REGISTRY)


def init_log(level: int | None = None, stderr: bool | None = None) -> None:
    """From which level on lines are logged (0 INFO to 3 FATAL), and whether to the standard error stream only."""
    glog.init("", level, None, stderr)


def log(message: str) -> None:
    """Writes an I line."""
    glog.info("_caffe.cpp:68", message)


class Timer:
    """`start`, `stop`, and `ms` between them."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._seconds: float | None = None

    @staticmethod
    def _now() -> float:
        if _State.gpu and torch.cuda.is_available():
            torch.cuda.synchronize(_State.device_id)
        return time.perf_counter()

    def start(self) -> None:
        if self._start is None:
            self._start = self._now()
            self._seconds = 0.0

    def stop(self) -> None:
        if self._start is not None:
            self._seconds = self._now() - self._start
            self._start = None

    @property
    def ms(self) -> float:
        """Milliseconds between start and stop; a running timer is stopped; 0 for one that never ran."""
        if self._seconds is None:
            glog.warning("benchmark.cpp:62", "Timer has never been run before reading time.")
            return 0.0
        self.stop()
        return self._seconds * 1000


@contextmanager
def as_pycaffe() -> Iterator[None]:
    """What user code in a Python layer raised comes out as it was raised; a layer that cannot be had is a SystemError."""
    try:
        yield
    except PythonLayerError as error:
        if error.loading:
            raise SystemError(str(error)) from error.original
        raise error.original from None
    except ProtoError as error:
        raise CaffeError(str(error)) from None
