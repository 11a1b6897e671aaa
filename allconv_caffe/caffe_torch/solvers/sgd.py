"""SGD: stochastic gradient descent with momentum; the base of all types.

Source: sgd_solvers.hpp, sgd_solver.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from allconv_caffe.caffe_torch import glog, solver_state
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.lr_policy import learning_rate
from allconv_caffe.caffe_torch.solver import Scalar, Solver
from allconv_caffe.caffe_torch.solver_state import State
from allconv_caffe.caffe_torch.tracing import is_tracing
from allconv_caffe.proto import SolverParameter


class SGDSolver(Solver):
    """history = local_rate * diff + momentum * history; w -= history.

    Differs from PyTorch's SGD: the rate stands inside the history, so a drop acts on new gradients only.
    """

    type = "SGD"
    histories: ClassVar[int] = 1  # arrays kept for each parameter

    def get_learning_rate(self) -> float:
        """The rate of this iteration. A multistep policy takes its step, and says so."""
        rate, status = self._learning_rate()
        if status:
            glog.info("sgd_solver.cpp:50", status)
        return rate

    def _learning_rate(self) -> tuple[float, str]:
        """The rate, and what is to be logged of a step that was taken: Caffe logs it after the iteration's loss."""
        rate, step = learning_rate(self.param, self.iter, self.current_step)
        taken = step != self.current_step and self.param.lr_policy == "multistep"
        self.current_step = step
        return rate, f"MultiStep Status: Iteration {self.iter}, step = {step}" if taken else ""

    def _pre_solve(self) -> None:
        params = self.net.learnable_params
        self.history = [Blob(p.shape, self.ctx.device) for _ in range(self.histories) for p in params]

    def clip_gradients(self) -> None:
        """Scales all gradients by clip / norm when their common L2 norm exceeds clip_gradients."""
        limit = self.param.clip_gradients
        if limit < 0:
            return
        params = self.net.learnable_params
        zero = torch.zeros((), device=self.ctx.device)
        squares = sum((self.ctx.math.dot(p.diff, p.diff) for p in params), zero)  # one after the other
        if not is_tracing():
            value = float(np.sqrt(np.float32(float(squares))))  # on a CPU, PyTorch's root is often off by a rounding
            if value > limit:
                scale = float(np.float32(limit) / np.float32(value))
                glog.info(
                    "sgd_solver.cpp:99",
                    f"Gradient clipping: scaling down gradients (L2 norm {glog.number(value)} > {glog.number(limit)}) "
                    f"by scale factor {glog.number(scale)}",
                )
                for p in params:
                    p.diff = self.ctx.math.scal(scale, p.diff)
            return
        norm = squares.sqrt()
        factor = torch.where(norm > limit, limit / norm, torch.ones_like(norm))
        for p in params:
            p.diff = p.diff * factor

    def apply_update(self) -> None:
        """Rate, update, iter += 1: for callers that ran forward and backward themselves."""
        rate = self.get_learning_rate()
        if self.param.display and self.iter % self.param.display == 0:
            glog.info("sgd_solver.cpp:112", f"Iteration {self.iter}, lr = {glog.number(rate)}")
        self.update(self.step_scalars(rate))
        self.iter += 1

    def step_scalars(self, rate: float) -> tuple[float, ...]:
        return (rate,)

    def update(self, scalars: Sequence[Scalar]) -> None:
        """clip, normalize, regularize, compute update value, update."""
        self.clip_gradients()
        for i in range(len(self.net.learnable_params)):
            self.normalize(i)
            self.regularize(i)
            self.compute_update_value(i, scalars)
        for blob in self.net.learnable_params:
            blob.data = blob.data - blob.diff

    def normalize(self, i: int) -> None:
        if self.param.iter_size != 1:
            blob = self.net.learnable_params[i]
            blob.diff = blob.diff * glog.divided(1, self.param.iter_size)

    def regularize(self, i: int) -> None:
        """diff += decay * data (L2, Caffe's lambda without the 2) or decay * sign(data) (L1)."""
        decay = float(np.float32(self.param.weight_decay) * np.float32(self.net.params_weight_decay[i]))
        if not decay:
            return
        blob = self.net.learnable_params[i]
        l2 = self.param.regularization_type == "L2"
        blob.diff = self.ctx.math.axpy(decay, blob.data if l2 else torch.sign(blob.data), blob.diff)

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        blob, history = self.net.learnable_params[i], self.history[i]
        rate = self.local_rate(i, scalars)
        history.data = self.ctx.math.axpby(rate, blob.diff, self._momentum, history.data)
        blob.diff = history.data

    @property
    def _momentum(self) -> float:
        return float(np.float32(self.param.momentum))

    def local_rate(self, i: int, scalars: Sequence[Scalar]) -> Scalar:
        rate, mult = scalars[0], self.net.params_lr[i]
        if isinstance(rate, torch.Tensor):
            return rate * mult
        with np.errstate(all="ignore"):
            return float(np.float32(rate) * np.float32(mult))

    # snapshots
    def _snapshot_solver_state(self, model: str) -> str:
        state = State(self.iter, self.current_step, self.history, model)
        path = self.snapshot_filename(self.iter, ".solverstate")
        if self.param.snapshot_format == SolverParameter.HDF5:
            glog.info("sgd_solver.cpp:296", f"Snapshotting solver state to HDF5 file {path}")
            solver_state.save_hdf5(state, Path(path))
        else:
            glog.info("sgd_solver.cpp:284", f"Snapshotting solver state to binary proto file {path}")
            solver_state.save_binary(state, path)
        return path

    def restore(self, path: str) -> None:
        """Iteration, step and history of a .solverstate, and the weights that it names.

        Raises:
            CaffeError: missing or damaged file, wrong number or shape of histories.
        """
        load = solver_state.load_hdf5 if path.endswith(".h5") else solver_state.load_binary
        state = load(path, self.history, self.net.copy_trained_layers_from)
        self.iter, self.current_step = state.iter, state.current_step
