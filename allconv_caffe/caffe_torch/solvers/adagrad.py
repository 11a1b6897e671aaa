"""AdaGrad: a rate for each weight, falling with the sum of its squared gradients.

Source: adagrad_solver.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.solver import Scalar
from allconv_caffe.caffe_torch.solvers.sgd import SGDSolver


class AdaGradSolver(SGDSolver):
    """h += diff^2; w -= rate * diff / (sqrt(h) + delta)."""

    type = "AdaGrad"

    def _check_solver(self) -> None:
        check(self.param.momentum == 0, f"Momentum cannot be used with {self.type}.")

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        blob, history, math = self.net.learnable_params[i], self.history[i], self.ctx.math
        history.data = history.data + math.powx(blob.diff, 2)
        step = blob.diff / (math.powx(history.data, 0.5) + float(np.float32(self.param.delta)))
        blob.diff = math.axpby(self.local_rate(i, scalars), step)
