"""pycaffe's solvers: the engine's, with nets as `Net`.

Source: _caffe.cpp, solver.cpp.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from typing import Any, TypeVar

from allconv_caffe.caffe_torch.solver_factory import create_solver
from allconv_caffe.caffe_torch.solvers.sgd import SGDSolver as EngineSolver
from allconv_caffe.caffe_torch.upgrade import read_solver_params
from allconv_caffe.proto import TRAIN
from allconv_caffe.pycaffe import common
from allconv_caffe.pycaffe.common import as_pycaffe
from allconv_caffe.pycaffe.nccl import NCCL
from allconv_caffe.pycaffe.net import Net, Path_

Own = TypeVar("Own", bound="Solver")


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

    def __new__(cls: type[Own], *_: object, **__: object) -> Own:
        if cls is Solver:
            raise RuntimeError("This class cannot be instantiated from Python")
        return super().__new__(cls)

    def __init__(self, param_file: Path_) -> None:
        where = os.fspath(param_file)
        with as_pycaffe():
            param = read_solver_params(where)
            param.type = self._type
            self._adopt(_create(param, where))

    def _adopt(self, solver: EngineSolver) -> None:
        self._solver = solver
        self._net = Net.wrap(solver.net)
        self._test_nets = [Net.wrap(net) for net in solver.test_nets]

    @property
    def net(self) -> Net:
        return self._net

    @property
    def test_nets(self) -> list[Net]:
        return self._test_nets

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

    def add_callback(
        self, on_start: Callable[[], object] | NCCL, on_gradients_ready: Callable[[], object] | None = None
    ) -> None:
        """`on_start` runs before each iteration's forward pass, `on_gradients_ready` before its update; an NCCL has both."""
        first: Callable[[], object]
        second: Callable[[], object]
        if isinstance(on_start, NCCL):
            first, second = on_start.on_start, on_start.on_gradients_ready
        elif on_gradients_ready is not None:
            first, second = on_start, on_gradients_ready
        else:
            raise TypeError("add_callback: found one function, expected two, or an NCCL")
        self._solver.callbacks.append((lambda: _none(first()), lambda: _none(second())))

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
        made = _create(read_solver_params(where), where)
    own = _CLASSES[made.type].__new__(_CLASSES[made.type])
    own._adopt(made)
    return own


def _create(param: Any, where: str) -> EngineSolver:
    if param.random_seed >= 0:
        common.set_random_seed((param.random_seed + common.solver_rank()) % 2**32)
    return create_solver(param, context=common.context(TRAIN), where=where)
