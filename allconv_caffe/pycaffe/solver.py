"""pycaffe's solvers: the engine's, with nets as `Net`.

Source: _caffe.cpp, solver.cpp.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from typing import Any

from allconv_caffe.caffe_torch import solver as engine
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.upgrade import upgrade_snapshot_prefix, upgrade_solver
from allconv_caffe.proto import TRAIN, read_solver
from allconv_caffe.pycaffe import common
from allconv_caffe.pycaffe.common import as_pycaffe
from allconv_caffe.pycaffe.net import Net, Path_, refuse_sharding


class Solver:
    """Trains the nets of a solver prototxt, by this class's rule whatever its `type` says.

    Attributes:
        net: the training net; test_nets: the others.
        param: the SolverParameter; what is written to its `base_lr` and so on takes effect.

    Raises:
        CaffeError: what stops Caffe, in its words.
        Whatever user code in a Python layer raises.
    """

    _type = ""

    def __init__(self, param_file: Path_) -> None:
        where = os.fspath(param_file)
        with as_pycaffe():
            param = read_solver(where)
            upgrade_solver(param, where)
            param.type = self._type
            self._make(param, where)

    def _make(self, param: Any, where: str) -> None:
        if param.random_seed >= 0:
            common.set_random_seed((param.random_seed + common.solver_rank()) % 2**32)
        upgrade_snapshot_prefix(param, where)
        self._solver = engine.SOLVERS[param.type](param, common.context(TRAIN), where=where)
        for net in (self._solver.net, *self._solver.test_nets):
            refuse_sharding(net.param)
        self.net = Net.wrap(self._solver.net)
        self.test_nets = [Net.wrap(net) for net in self._solver.test_nets]

    @property
    def iter(self) -> int:
        """Iterations done."""
        return self._solver.iter

    @property
    def param(self) -> Any:
        return self._solver.param

    def step(self, iters: int) -> None:
        """Runs `iters` iterations, with the tests, lines and snapshots that are due."""
        with as_pycaffe():
            self._solver.step(operator.index(iters))

    def solve(self, resume_file: Path_ | None = None) -> None:
        """Trains to max_iter, from `resume_file` if it is given."""
        with as_pycaffe():
            self._solver.solve(None if resume_file is None else os.fspath(resume_file))

    def restore(self, state_file: Path_) -> None:
        """Iteration, history and weights of a .solverstate."""
        with as_pycaffe():
            self._solver.restore(os.fspath(state_file))

    def snapshot(self) -> None:
        """Writes `<snapshot_prefix>_iter_<n>.caffemodel` and `.solverstate`."""
        with as_pycaffe():
            self._solver.snapshot()

    def apply_update(self) -> None:
        """Turns the gradients at hand into an update, and counts an iteration."""
        with as_pycaffe():
            self._solver.apply_update()

    def add_callback(self, on_start: Callable[[], object], on_gradients_ready: Callable[[], object]) -> None:
        """`on_start` runs before each iteration's forward pass, `on_gradients_ready` before its update."""
        self._solver.callbacks.append((lambda: _none(on_start()), lambda: _none(on_gradients_ready())))

    def share_weights(self, net: Net) -> None:
        """`net` uses the training net's parameters from now on."""
        net.share_with(self.net)


def _none(_: object) -> None:
    return None


class SGDSolver(Solver):
    _type = "SGD"

    @property
    def lr(self) -> float:
        """The rate of this iteration. Asking makes a `multistep` policy take its step, as in Caffe."""
        return self._solver.get_learning_rate()


class NesterovSolver(SGDSolver):
    _type = "Nesterov"


class AdaGradSolver(SGDSolver):
    _type = "AdaGrad"


class RMSPropSolver(SGDSolver):
    _type = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    _type = "AdaDelta"


class AdamSolver(SGDSolver):
    _type = "Adam"


_CLASSES = {
    cls._type: cls for cls in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)
}


def get_solver(filename: Path_) -> SGDSolver:
    """The solver of the `type` that the prototxt names (default SGD). Raises: CaffeError."""
    where = os.fspath(filename)
    with as_pycaffe():
        param = read_solver(where)
        upgrade_solver(param, where)
        if param.type not in _CLASSES:
            raise CaffeError(f"Unknown solver type: {param.type} (known types: {', '.join(sorted(_CLASSES))})", where)
        own = _CLASSES[param.type].__new__(_CLASSES[param.type])
        own._make(param, where)
    return own
