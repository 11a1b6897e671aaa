"""Solvers made ready: the type that a SolverParameter names, with the executor that runs its nets.

Source: solver_factory.hpp.
"""

from __future__ import annotations

from typing import Any

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.executor.plain import PlainExecutor
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.solver import ChooseExecutor, Executor, Solver
from allconv_caffe.caffe_torch.solvers.adadelta import AdaDeltaSolver
from allconv_caffe.caffe_torch.solvers.adagrad import AdaGradSolver
from allconv_caffe.caffe_torch.solvers.adam import AdamSolver
from allconv_caffe.caffe_torch.solvers.nesterov import NesterovSolver
from allconv_caffe.caffe_torch.solvers.rmsprop import RMSPropSolver
from allconv_caffe.caffe_torch.solvers.sgd import SGDSolver
from allconv_caffe.proto import SolverParameter

SOLVERS: dict[str, type[SGDSolver]] = {
    cls.type: cls for cls in (AdaDeltaSolver, AdaGradSolver, AdamSolver, NesterovSolver, RMSPropSolver, SGDSolver)
}
MIN_ITERS_TO_COMPILE = 100  # below this, compiling costs more than it saves


def create_solver(
    param: SolverParameter, *, context: Context | None = None, where: str = "", executor: str = "plain", **options: Any
) -> SGDSolver:
    """The solver that `type` names (default SGD), its nets built.

    Args:
        executor: "plain" (layer by layer), "compiled" (fail if impossible), or "auto"; seed-exact, "auto" is "plain".
        options: as `Solver` takes them.

    Raises:
        CaffeError: unknown type, or anything that stops Caffe here.
    """
    if param.type not in SOLVERS:
        raise CaffeError(f"Unknown solver type: {param.type} (known types: {', '.join(sorted(SOLVERS))})", where)
    context = context or Context()
    if context.seed_exact:
        if executor == "compiled":
            raise CaffeError(
                "seed-exact: found executor compiled, expected plain or auto (compiled code draws its own numbers)",
                where,
            )
        executor = "plain"
    return SOLVERS[param.type](param, context, _chooser(executor), where=where, **options)


def _chooser(wanted: str) -> ChooseExecutor:
    def choose(solver: Solver, iters: int) -> Executor:
        """Compiles the iteration where that pays; says in the log why not where it cannot."""
        if wanted == "plain" or iters <= 0:
            return PlainExecutor(solver)
        from allconv_caffe.caffe_torch.executor import compiled  # who runs plain does not wait for it

        reason = compiled.why_not(solver)
        if reason is None and wanted == "auto":
            from allconv_caffe.caffe_torch.executor import changing

            waits = changing.waits()
            alone = solver.ctx.device.type == "cpu" and solver.company is None
            if (waits or not alone) and iters < MIN_ITERS_TO_COMPILE:
                reason = f"{iters} iterations are too few to pay for compiling"
            elif alone:
                return changing.ChangingExecutor(solver, iters, waits)
        if reason is None:
            glog.info("solver_factory.py:1", "Executor: compiled")
            return compiled.CompiledExecutor(solver)
        if wanted == "compiled":
            raise CaffeError(f"executor compiled: {reason} (executors: auto, plain, compiled)", solver.where)
        glog.info("solver_factory.py:1", f"Executor: plain ({reason})")
        return PlainExecutor(solver)

    return choose
