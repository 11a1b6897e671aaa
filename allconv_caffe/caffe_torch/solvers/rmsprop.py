"""RMSProp: a rate for each weight, by the running mean of its squared gradients.

Source: rmsprop_solver.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.solver import Scalar
from allconv_caffe.caffe_torch.solvers.sgd import SGDSolver


class RMSPropSolver(SGDSolver):
    """h = (1 - d) * diff^2 + d * h; w -= rate * diff / (sqrt(h) + delta)."""

    type = "RMSProp"

    def _check_solver(self) -> None:
        check(self.param.momentum == 0, "Momentum cannot be used with RMSProp.")
        check(0 <= self.param.rms_decay < 1, "rms_decay should lie between 0 and 1.")

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        blob, history, math = self.net.learnable_params[i], self.history[i], self.ctx.math
        decay = np.float32(self.param.rms_decay)
        history.data = math.axpby(float(np.float32(1) - decay), math.powx(blob.diff, 2), float(decay), history.data)
        step = blob.diff / (math.powx(history.data, 0.5) + float(np.float32(self.param.delta)))
        blob.diff = math.axpby(self.local_rate(i, scalars), step)
