"""Adam: running means of gradients and of their squares, corrected for their start at 0.

Source: adam_solver.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allconv_caffe.caffe_torch.solver import Scalar
from allconv_caffe.caffe_torch.solvers.sgd import SGDSolver


class AdamSolver(SGDSolver):
    """m, v with momentum, momentum2; w -= rate * sqrt(1-b2^t)/(1-b1^t) * m / (sqrt(v) + delta), t = iter + 1."""

    type = "Adam"
    histories = 2

    def step_scalars(self, rate: float) -> tuple[float, ...]:
        b1, b2 = (np.float64(np.float32(b)) for b in (self.param.momentum, self.param.momentum2))
        with np.errstate(all="ignore"):  # a momentum of 1
            correction = np.sqrt(1 - b2 ** (self.iter + 1)) / (1 - b1 ** (self.iter + 1))  # in double, rounded once
        return (rate, float(np.float32(correction)))

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        blob, n = self.net.learnable_params[i], len(self.net.learnable_params)
        m, v = self.history[i], self.history[n + i]
        b1, b2 = np.float32(self.param.momentum), np.float32(self.param.momentum2)
        gradient, math = blob.diff, self.ctx.math
        m.data = math.axpby(float(np.float32(1) - b1), gradient, float(b1), m.data)
        v.data = math.axpby(float(np.float32(1) - b2), gradient * gradient, float(b2), v.data)
        step = m.data / (math.powx(v.data, 0.5) + float(np.float32(self.param.delta)))
        blob.diff = math.scal(self.local_rate(i, scalars) * scalars[1], step)
