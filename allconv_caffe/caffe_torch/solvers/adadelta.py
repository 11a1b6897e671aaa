"""AdaDelta: steps scaled by the running means of squared gradients and squared steps.

Source: adadelta_solver.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allconv_caffe.caffe_torch.solver import Scalar
from allconv_caffe.caffe_torch.solvers.sgd import SGDSolver


class AdaDeltaSolver(SGDSolver):
    """h1 = (1-m) g^2 + m h1; v = g sqrt((delta+h2)/(delta+h1)); h2 = (1-m) v^2 + m h2; w -= rate * v."""

    type = "AdaDelta"
    histories = 2

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        blob, n = self.net.learnable_params[i], len(self.net.learnable_params)
        first, second, m = self.history[i], self.history[n + i], self._momentum
        rest, delta = float(np.float32(1) - np.float32(m)), float(np.float32(self.param.delta))
        gradient, math = blob.diff, self.ctx.math
        first.data = math.axpby(rest, math.powx(gradient, 2), m, first.data)
        step = gradient * math.powx((second.data + delta) / (first.data + delta), 0.5)
        second.data = math.axpby(rest, math.powx(step, 2), m, second.data)
        blob.diff = math.scal(self.local_rate(i, scalars), step)
