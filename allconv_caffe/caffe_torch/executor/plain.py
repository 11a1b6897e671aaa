"""The plain executor: layer after layer, every blob to be seen afterwards.

Source: solver.cpp, Step and Test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from allconv_caffe.caffe_torch.net import Net
    from allconv_caffe.caffe_torch.solver import Solver


class PlainExecutor:
    """Runs a solver's nets as they stand; the solver updates."""

    updates = False

    def __init__(self, solver: Solver) -> None:
        self.solver = solver

    def iterate(self, rate: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        solver = self.solver
        solver.net.clear_param_diffs()
        loss: torch.Tensor | None = None
        for _ in range(solver.param.iter_size):
            part = solver.net.forward()
            solver.net.backward()
            loss = part if loss is None else loss + part
        if loss is None:  # iter_size 0: as in Caffe, 0 / 0
            loss = torch.zeros((), device=solver.ctx.device)
        return loss / solver.param.iter_size, _outputs(solver.net)

    def forward(self) -> torch.Tensor:
        return self.solver.net.forward()

    def test(self, k: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return test(self.solver.test_nets[k])


def test(net: Net) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Forward, layer by layer; returns the loss and the outputs."""
    return net.forward(), _outputs(net)


def _outputs(net: Net) -> list[torch.Tensor]:
    return [net.blob_list[i].data for i in net.output_ids]
