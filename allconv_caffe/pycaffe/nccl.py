"""pycaffe's NCCL: the solvers of several processes average their gradients, as ``python/train.py`` of Caffe has it.

On GPUs NCCL does it, on CPUs gloo. Source: parallel.cpp, _caffe.cpp.
Differs: `layer_wise_reduce` means nothing, gradients are averaged in one piece; `bcast` sends the history and the iteration,
too.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from typing import Any

import torch.distributed as dist

from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.executor.distributed import Company
from allconv_caffe.pycaffe import common

_STORE = "caffe-nccl-"


class NCCL:
    """This process's solver, number `solver_rank` of `solver_count`, and its way to the others.

    ``solver.add_callback(nccl)`` has gradients averaged before each update.

    Args:
        solver: a pycaffe solver.
        uid: what `new_uid` gave one process, which has told it to all of them.

    Raises: CaffeError: no such uid; another process is gone (also from `bcast`, and from a step).
    """

    def __init__(self, solver: Any, uid: bytes) -> None:
        self._solver = solver._solver
        folder = os.fsdecode(uid)
        if not os.path.basename(folder).startswith(_STORE) or not os.path.isdir(folder):
            raise CaffeError(f"NCCL: found uid {uid!r}, expected one that NCCL.new_uid() made on this machine")
        count = common.solver_count()
        store = dist.FileStore(os.path.join(folder, "store"), count)
        self._company = Company(common.solver_rank(), count, self._solver.ctx.device, store)

    @staticmethod
    def new_uid() -> bytes:
        """Names a training that several processes of this machine will share; good as long as this process lives."""
        folder = tempfile.mkdtemp(prefix=_STORE)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return os.fsencode(folder)

    def bcast(self) -> None:
        """All solvers take the weights, the history and the iteration of solver 0."""
        self._company.share(self._solver)

    def on_start(self) -> None:
        """Nothing is to be done before an iteration."""

    def on_gradients_ready(self) -> None:
        """The gradients become the mean of all solvers'."""
        self._company.average(self._solver.net.learnable_params)

    def __call__(self, layer: int) -> None:
        """For ``net.after_backward(nccl)``: nothing, gradients are averaged once all are there."""
