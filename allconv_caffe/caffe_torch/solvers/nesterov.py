"""Nesterov: Nesterov's accelerated gradient.

Source: nesterov_solver.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allconv_caffe.caffe_torch.solver import Scalar
from allconv_caffe.caffe_torch.solvers.sgd import SGDSolver


class NesterovSolver(SGDSolver):
    """h' = rate * diff + m * h; w -= (1 + m) * h' - m * h."""

    type = "Nesterov"

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        blob, history, m = self.net.learnable_params[i], self.history[i], self._momentum
        math, before = self.ctx.math, history.data.clone()
        history.data = math.axpby(self.local_rate(i, scalars), blob.diff, m, before)
        blob.diff = math.axpby(float(np.float32(1) + np.float32(m)), history.data, -m, before)
