"""Recipes: all that a compiled iteration follows from, so that it can be made in another process, and found again.

A recipe holds the net as it was filtered, its sources replaced by Input layers of the same shapes; of the solver, what moves
the weights; and how numbers are computed. A process that knows nothing else builds from it the same graph, so whatever
changes a graph changes its recipe. The key adds what changes the program that is made of it: this processor, the versions of
Python, PyTorch and this package.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from allconv_caffe.caffe_torch.compute.compiler import compiler, processor
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.proto import NetParameter, SolverParameter

if TYPE_CHECKING:
    from allconv_caffe.caffe_torch.net import Net
    from allconv_caffe.caffe_torch.solver import Solver

PACKAGE = Path(__file__).resolve().parents[2]
#: Fields of a SolverParameter that leave the graph of an iteration as it is: when it runs, at which rate, what is said and saved.
ASIDE = (
    "net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param", "train_state", "test_state",
    "test_iter", "test_interval", "test_compute_loss", "test_initialization", "base_lr", "display", "average_loss",
    "max_iter", "lr_policy", "gamma", "power", "stepsize", "stepvalue", "snapshot", "snapshot_prefix", "snapshot_diff",
    "snapshot_format", "snapshot_after_train", "solver_mode", "device_id", "random_seed", "debug_info", "weights",
    "layer_wise_reduce",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a graph follows from.

    net and solver are messages in binary form; without a solver, the graph is the net's forward alone.
    """

    net: bytes
    phase: int
    solver: bytes | None
    compute_dtype: str
    conv_mode: str
    threads: int

    def text(self) -> str:
        fields = {name: value.hex() if isinstance(value, bytes) else value for name, value in asdict(self).items()}
        return json.dumps(fields, sort_keys=True)

    @staticmethod
    def of_text(text: str) -> Recipe:
        fields = json.loads(text)
        solver = fields["solver"]
        fields.update(net=bytes.fromhex(fields["net"]), solver=None if solver is None else bytes.fromhex(solver))
        return Recipe(**fields)

    @property
    def key(self) -> str:
        """Names the program: equal where recipe, processor and versions are."""
        return hashlib.sha256("\0".join([self.text(), *_surroundings()]).encode()).hexdigest()[:24]

    def context(self) -> Context:
        return Context(phase=self.phase, compute_dtype=getattr(torch, self.compute_dtype), conv_mode=self.conv_mode)

    def net_param(self) -> NetParameter:
        return NetParameter.FromString(self.net)

    def solver_param(self) -> SolverParameter:
        """The solver, its net inside, ready to be built; its rate is an input of the graph."""
        assert self.solver is not None
        param = SolverParameter.FromString(self.solver)
        param.net_param.CopyFrom(self.net_param())
        param.base_lr, param.lr_policy, param.snapshot_after_train = 1.0, "fixed", False
        return param


def recipe_of(net: Net, sources: Sequence[int], solver: Solver | None) -> Recipe:
    """The recipe of `solver`'s iteration over `net`, or of the net's forward.

    Args:
        sources: the layers that only bring data in, their tops as they will be.
    """
    return Recipe(
        net=_bare(net, sources).SerializeToString(deterministic=True),
        phase=net.phase,
        solver=None if solver is None else _update(solver.param).SerializeToString(deterministic=True),
        compute_dtype=str(net.ctx.compute_dtype).removeprefix("torch."),
        conv_mode=net.ctx.conv_mode,
        threads=torch.get_num_threads(),
    )


def _bare(net: Net, sources: Sequence[int]) -> NetParameter:
    """The net with Input layers for sources, and nothing that names files or people."""
    without_bottoms = (i for i, bottoms in enumerate(net.bottom_vecs) if not bottoms)  # no Split is among them
    bare = NetParameter()
    bare.CopyFrom(net.filtered)
    bare.ClearField("name")
    for layer in bare.layer:
        if layer.bottom or (i := next(without_bottoms)) not in sources:
            continue
        names, weights = list(layer.top), list(layer.loss_weight)
        name = layer.name
        layer.Clear()
        layer.name, layer.type = name, "Input"
        layer.top.extend(names)
        layer.loss_weight.extend(weights)
        for blob in net.top_vecs[i]:
            layer.input_param.shape.add().dim.extend(blob.shape)
    return bare


def _update(param: SolverParameter) -> SolverParameter:
    kept = SolverParameter()
    kept.CopyFrom(param)
    for field in ASIDE:
        kept.ClearField(field)
    return kept


@functools.cache
def _surroundings() -> tuple[str, ...]:
    settings = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith("TORCHINDUCTOR_") and name != "TORCHINDUCTOR_CACHE_DIR"
    ]
    return (
        sys.version,
        torch.__version__,
        str(torch.version.git_version),
        torch.backends.cpu.get_cpu_capability(),
        processor(),
        _sources(),
        str(compiler()),
        *settings,
    )


def _sources() -> str:
    """A digest of what this package computes with."""
    digest = hashlib.sha256()
    for folder in ("caffe_torch", "proto"):
        for path in sorted((PACKAGE / folder).rglob("*")):
            if path.suffix in (".py", ".cpp", ".h"):
                digest.update(path.read_bytes())
    return digest.hexdigest()
