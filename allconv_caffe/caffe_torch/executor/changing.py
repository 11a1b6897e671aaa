"""The executor that training begins with: plain at once, compiled from the iteration on at whose border the plan is ready.

Another process makes the plans meanwhile, as soon as it is clear that there is enough left to do for it to pay. Nothing else
depends on when the change comes: weights, history and what layers carry along stay where they are, the sources go on, and
masks follow from seed, layer and iteration. Loss and weights differ by the rounding by which the two executors do.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute import fast_math
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.executor import builder
from allconv_caffe.caffe_torch.executor.compiled import (
    MOST_SHAPES,
    CompiledExecutor,
    Shapes,
    first_line,
    forward_without_sources,
)
from allconv_caffe.caffe_torch.executor.plain import PlainExecutor

if TYPE_CHECKING:
    from allconv_caffe.caffe_torch.executor.builder import Building
    from allconv_caffe.caffe_torch.solver import Executor, Solver

#: Plain training that takes less is over before a compiler would have paid, which at worst takes this much of a core.
PAYS_SECONDS = 60.0
#: Likewise a plain test, before the kernels of forward passes would have been compiled.
PAYS_TEST_SECONDS = 20.0
WAYS = ("beside", "wait")


def waits() -> bool:
    """Whether compiling comes before the first iteration: on one core, or where ALLCONV_COMPILE says so. Raises CaffeError."""
    way = os.environ.get("ALLCONV_COMPILE", "")
    check(way in ("", *WAYS), f"ALLCONV_COMPILE={way}: expected {' or '.join(WAYS)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return way == "wait" or (not way and cores == 1)


class ChangingExecutor:
    """Runs a solver's nets as they stand until the plan of its iteration is there, then compiled.

    Args:
        iters: how many iterations are to be run.
        wait: compiling comes first, and training after it.
    """

    def __init__(self, solver: Solver, iters: int, wait: bool = False) -> None:
        self.solver = solver
        self._left = iters
        self._plain = PlainExecutor(solver)
        self.compiled = CompiledExecutor(solver)
        self._now: Executor = self._plain
        self._tests: Executor = self.compiled if wait else self._plain
        self.compiled.train.instead = self._train_instead
        if not wait:
            for graph, net in zip(self.compiled.tests, solver.test_nets, strict=False):
                graph.instead = functools.partial(forward_without_sources, net)
        self._recipes = [graph.recipe() for graph in (self.compiled.train, *self.compiled.tests)]
        self._building: Building | None = None
        self._kernels: Building | None = None  # of tests
        self._kernels_wanted = not self.compiled.tests and bool(solver.test_nets) and not wait
        self._wait = wait
        self._ran_plain = False  # the last iteration, for its batch's shapes
        self._shapes: set[Shapes] = set()  # of the batches
        self._gave_up = False
        self._began: float | None = None
        self._seconds = float("inf")  # of the fastest iteration so far
        if self._change() or (wait and self._compile_here()):
            glog.info("changing.py:1", "Executor: compiled")
        elif not wait:
            glog.info("changing.py:1", "Executor: plain, until a compiled iteration is ready")

    @property
    def updates(self) -> bool:
        return self._now.updates and not self._ran_plain

    def iterate(self, rate: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        if not self._gave_up and (self._now is self._plain or self._ran_plain):
            self._look_at_shapes()
        if self._now is self._plain and not self._gave_up:
            self._look()
        self._left -= 1
        self._ran_plain = False
        return self._now.iterate(rate)

    def _train_instead(self) -> list[torch.Tensor]:
        """Forward and backward of a batch, layer by layer; the solver updates."""
        self._ran_plain = True
        if self.compiled.updates:
            self.solver.net.clear_param_diffs()
        return self.compiled.forward_backward()

    def _look_at_shapes(self) -> None:
        """Compiling does not pay where hardly a batch has the shapes of another."""
        graph = self.compiled.train
        self._shapes.add(tuple(top.shape for i in graph.sources for top in self.solver.net.top_vecs[i]))
        if len(self._shapes) > MOST_SHAPES:
            self._give_up("the sources' shapes change", glog.info)
            if self._building is not None and self._building is not self._kernels:
                self._building.stop()

    def _give_up(self, reason: str, say: Callable[[str, str], None] = glog.warning) -> None:
        self._gave_up, self._now = True, self._plain
        say("changing.py:1", f"Executor: plain ({reason})")

    def forward(self) -> torch.Tensor:
        return self._now.forward()

    def test(self, k: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        if not self.compiled.tests:
            return self._test_by_kernels(k)
        graph = self.compiled.tests[k]
        if self._gave_up or not (self._wait or graph.ready or graph.take_plan()):
            return self._plain.test(k)
        return self.compiled.test(k)

    def _test_by_kernels(self, k: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """As soon as these have been compiled, which begins where it pays; until then as the net stands."""
        ended = self._kernels is not None and self._kernels.ended
        if self._kernels_wanted and (fast_math.is_built() or ended):
            self._kernels_wanted = False
            self._tests = self.compiled if fast_math.is_built() else self._plain
            if self._kernels is not None and self._tests is self._plain:
                glog.warning("changing.py:1", f"Tests: plain ({self._kernels.complaint})")
        start = time.perf_counter()
        loss, outputs = self._tests.test(k)
        seconds = (time.perf_counter() - start) * self.solver.param.test_iter[k]
        if self._kernels_wanted and self._kernels is None and seconds > PAYS_TEST_SECONDS:
            self._kernels = builder.start([], beside=True, kernels=True)
        return loss, outputs

    def _look(self) -> None:
        """At an iteration's border: begins to compile, or changes, or gives up."""
        if self._building is None:
            now = time.perf_counter()
            if self._began is not None:
                self._seconds = min(self._seconds, now - self._began)
            self._began = now
            if self._seconds != float("inf") and self._seconds * self._left > PAYS_SECONDS:
                kernels = self._kernels_wanted and self._kernels is None and not fast_math.is_built()
                self._building = builder.start(self._recipes, beside=True, kernels=kernels)
                self._kernels = self._building if kernels else self._kernels
        elif builder.is_there(self._recipes[0]):
            if self._change():
                glog.info("changing.py:1", f"Executor: compiled, from iteration {self.solver.iter} on")
        elif self._building.program_unknown:
            self._compile_here()
        elif self._building.ended:
            self._give_up(self._building.complaint)

    def _compile_here(self) -> bool:
        """At once, in this process. Returns whether that was possible."""
        try:
            self.compiled.train.compile()
        except Exception as error:  # whatever the compiler raises, training goes on without it
            self._give_up(first_line(error))
            return False
        self._now = self.compiled
        return True

    def _change(self) -> bool:
        if not self.compiled.train.take_plan():
            return False
        self._now = self.compiled
        self.solver.net.release()
        return True
