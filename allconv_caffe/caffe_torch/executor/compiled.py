"""The compiled executor: one training iteration captured as a graph of tensor operations and compiled once.

It runs the layers' own forward and backward and the solver's own update, traced inside a `Tracing`. Parameters and
history stay where they are and are updated in place, so snapshots and tests see them; the blobs between layers are
not kept. The rate and the loss stay on the device: nothing is read back unless the caller looks. On a GPU the compiled
function is recorded as a CUDA graph (see cuda_graph.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from allconv_caffe.caffe_torch import glog, shared_memory
from allconv_caffe.caffe_torch.blob import Blob, Memory
from allconv_caffe.caffe_torch.compute.compiler import NO_COMPILER, compiler
from allconv_caffe.caffe_torch.compute.memory import keep_freed_memory
from allconv_caffe.caffe_torch.compute.rng import MaskStream, TorchGenerator
from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.caffe_torch.executor import builder, plain, plan
from allconv_caffe.caffe_torch.executor.cuda_graph import Replayed
from allconv_caffe.caffe_torch.executor.recipe import Recipe, recipe_of
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.tracing import Tracing

if TYPE_CHECKING:
    from allconv_caffe.caffe_torch.solver import Solver

Tensors = list[torch.Tensor]
FORKED = (
    "executor compiled: found a process forked since the net was compiled, expected the same one (or -executor plain)"
)


def why_not(solver: Solver) -> str | None:
    """What keeps this solver from compiled execution, in words; None where nothing does."""
    nets = [solver.net, *(solver.test_nets if compiles_tests(solver.ctx) else [])]
    for net in nets:
        for i, layer in enumerate(net.layers):
            if not layer.traceable and not is_source(net, i):
                return f"layer '{layer.name}' of type {layer.type} runs outside the graph"
    if solver.param.iter_size < 1:
        return f"iter_size is {solver.param.iter_size}"
    if solver.param.debug_info:
        return "debug_info looks at every blob"
    if solver.param.snapshot_diff:
        return "snapshot_diff keeps the gradients"
    if solver.callbacks:
        return "callbacks look at the net between its steps"
    if not isinstance(solver.ctx.rng, TorchGenerator):
        return "seed-exact random numbers are drawn one layer at a time"
    if solver.ctx.device.type == "cpu" and not compiler():
        return NO_COMPILER
    return None


def compiles_tests(context: Context) -> bool:
    """Whether tests are graphs, too: in float32 on a CPU the kernels of forward passes are faster, and need no compiling."""
    return context.device.type != "cpu" or context.compute_dtype != torch.float32


def is_source(net: Net, i: int) -> bool:
    """Whether layer i only brings data in: no bottoms, nothing learned. Such layers run eagerly, before the graph."""
    return not net.bottom_vecs[i] and not net.layers[i].blobs


class Graph:
    """A net's forward (and what `body` adds) as one compiled function of the source tensors and some scalars.

    Args:
        net: the net; its sources run eagerly and feed the graph.
        persistent: blobs whose data the graph reads and updates in place, beside what the layers carry along: parameters,
            history.
        body: run under tracing after the sources are bound; gets the traced scalars, returns the loss and outputs.
        scalars: how many float32 inputs `body` takes.
        persistent_diffs: blobs whose diff the graph reads and updates in place.
        solver: whose iteration this is; without, it is the net's forward alone.
    """

    def __init__(
        self,
        net: Net,
        persistent: Sequence[Blob],
        body: Callable[[Tensors], Tensors],
        scalars: int = 0,
        persistent_diffs: Sequence[Blob] = (),
        solver: Solver | None = None,
    ) -> None:
        self.net = net
        self._solver = solver
        self.sources = [i for i in range(len(net.layers)) if is_source(net, i)]
        self._persistent, self._persistent_diffs = persistent, persistent_diffs
        self.others: Sequence[Graph] = ()  # what will be compiled after this one
        self.body = body
        self.device = net.ctx.device
        # what the convolutions' fastest kernels take; cuDNN's for whole float32 work on NCHW
        self.channels_last = self.device.type == "cpu" or net.ctx.tf32 or net.ctx.compute_dtype != torch.float32
        self.scalars = torch.zeros(scalars, dtype=torch.float32, device=self.device)
        masks = [layer.masks for layer in net.layers] if self.device.type == "cpu" else []
        self._streams = [stream for stream in masks if isinstance(stream, MaskStream)]
        self._function: Callable[..., Tensors] | None = None
        self._input_shapes: list[torch.Size] = []
        self._key: tuple[float, ...] = ()
        self._viewed: Tensors = []
        self._process = 0

    def __call__(self, scalars: Sequence[float] = ()) -> Tensors:
        inputs = self.next_inputs()
        if self._function is None or [t.shape for t in inputs] != self._input_shapes:
            self._build(inputs)
        check(self._process == os.getpid(), FORKED)
        if scalars and tuple(scalars) != self._key:  # the rate changes seldom; then it is copied without waiting
            self.scalars.copy_(torch.tensor(scalars, dtype=torch.float32), non_blocking=True)
            self._key = tuple(scalars)
        assert self._function is not None
        try:
            with torch.no_grad():
                return self._function(self.buffers(), inputs, self.scalars)
        except RuntimeError:
            if self.device.type == "cpu":
                self._say_why(inputs)
            raise

    def _say_why(self, inputs: Tensors) -> None:
        """Runs the net on `inputs` layer by layer. Raises CaffeError for a value that it cannot take, such as a label."""
        self._bind(inputs)
        for i in range(len(self.net.layers)):
            if i not in self.sources:
                self.net.forward_layer(i)

    def _find_memories(self) -> None:
        data = [*self._persistent, *(blob for layer in self.net.layers for blob in layer.carried)]
        pairs = [(b._data, b.shape) for b in data] + [(b._diff, b.shape) for b in self._persistent_diffs]
        self.memories = _unique([memory for memory, _ in pairs])
        self.shapes = {id(memory): shape for memory, shape in pairs}
        self._views: Tensors | None = None

    def buffers(self) -> Tensors:
        """The memories as tensors: the same list as long as they lie where they lay."""
        tensors = [m.tensor() for m in self.memories]
        if self._views is None or any(a is not b for a, b in zip(tensors, self._viewed, strict=True)):
            self._viewed = tensors
            self._views = [
                t[: _count(self.shapes[id(m)])].view(self.shapes[id(m)])
                for t, m in zip(tensors, self.memories, strict=True)
            ]
        return self._views

    def next_inputs(self) -> Tensors:
        """The sources' next tensors; behind them, where there are masks to be drawn, their seeds."""
        inputs: Tensors = []
        for i in self.sources:
            layer, tops = self.net.layers[i], self.net.top_vecs[i]
            if hasattr(layer, "next_batch"):
                inputs += layer.next_batch()
            else:
                layer.reshape([], tops)
                layer.forward([], tops)
                inputs += [t.data for t in tops]
        if self._streams:
            inputs.append(torch.tensor([stream.next_seed() for stream in self._streams]))
        return inputs

    def _bind(self, inputs: Tensors) -> None:
        """Gives the sources' tops their tensors."""
        position = 0
        for i in self.sources:
            for top in self.net.top_vecs[i]:
                value = inputs[position]
                position += 1
                if tuple(value.shape) != top.shape:
                    top.reshape(*value.shape)
                if value.dim() == 4 and value.shape[1] > 1 and self.channels_last:
                    value = value.contiguous(memory_format=torch.channels_last)
                top.data = value

    def recipe(self) -> Recipe:
        """What a plan of this graph is made from, for the shapes that the sources' tops have."""
        return recipe_of(self.net, self.sources, self._solver)

    @property
    def ready(self) -> bool:
        return self._function is not None

    def take_plan(self) -> bool:
        """Takes the plan that is there for the sources' shapes. Returns whether there was one."""
        function = builder.find(self.recipe())
        if function is not None:
            self._take(function)
        return function is not None

    def _take(self, function: plan.Function) -> None:
        self._find_memories()
        self._function = lambda buffers, inputs, scalars: function(
            [*buffers, *(value.contiguous() for value in inputs), scalars]
        )
        shapes = [torch.Size(top.shape) for i in self.sources for top in self.net.top_vecs[i]]
        self._input_shapes = shapes + ([torch.Size([len(self._streams)])] if self._streams else [])
        self._process = os.getpid()

    def _build(self, inputs: Tensors) -> None:
        if self._function is not None:  # other shapes than before: what is carried along may lie elsewhere now
            with Tracing():
                self._bind(inputs)
                for i, layer in enumerate(self.net.layers):
                    if i not in self.sources:
                        layer.reshape(self.net.bottom_vecs[i], self.net.top_vecs[i])
        alone = self._solver is None or self._solver.company is None  # a recipe knows of no others
        if self.device.type == "cpu" and alone:
            self._shape_sources(inputs)
            function = builder.get(self.recipe(), [graph.recipe() for graph in self.others])
            if function is not None:
                self._take(function)
                return
        start = time.perf_counter()
        graph = self.capture(inputs)
        options: dict[str, Any] | None = None if self.channels_last else {"layout_optimization": False}
        self._function = torch.compile(graph, dynamic=False, fullgraph=True, options=options)
        if self.device.type == "cuda":
            self._function = Replayed(self._function)
        self._input_shapes = [t.shape for t in inputs]
        self._process = os.getpid()
        glog.info(
            "compiled.py:2",
            f"Captured {self.net.name or 'the net'}: {len(graph.graph.nodes)} operations in "
            f"{time.perf_counter() - start:.1f} s; compiling at the first run",
        )

    def _shape_sources(self, inputs: Tensors) -> None:
        tops = [top for i in self.sources for top in self.net.top_vecs[i]]
        for top, value in zip(tops, inputs, strict=False):
            top.reshape(*value.shape)

    def capture(self, inputs: Tensors) -> torch.fx.GraphModule:
        """The graph as PyTorch's operations; it takes buffers, inputs and scalars, and updates the buffers in place."""
        from torch.fx.experimental.proxy_tensor import make_fx

        def run(buffers: Tensors, ins: Tensors, scalars: torch.Tensor) -> Tensors:
            with Tracing() as tracing:
                tracing.bound.update(zip(self.memories, buffers, strict=True))
                if self._streams:
                    tracing.bound.update(zip(self._streams, ins[-1].unbind(), strict=True))
                self._bind(ins)
                results = self.body(list(scalars.unbind()) if scalars.numel() else [])
                updates = [tracing.bound[memory] for memory in self.memories]
            for buffer, update in zip(buffers, updates, strict=True):
                if update is not buffer:
                    buffer.copy_(update.reshape(buffer.shape))
            return results

        self._find_memories()
        with torch.no_grad():
            return make_fx(run, tracing_mode="fake")(self.buffers(), inputs, self.scalars)


def forward_graph(net: Net) -> Graph:
    """A net's forward: the loss, then the outputs."""
    return Graph(net, net.params, lambda scalars: _forward(net))


class CompiledExecutor:
    """One solver's iteration, final forward and tests, compiled."""

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        if solver.ctx.device.type == "cpu":
            keep_freed_memory()
        else:
            torch.backends.cudnn.benchmark = True  # every shape comes back: trying the algorithms once pays
        self.updates = solver.param.iter_size == 1  # the update is part of the graph
        net = solver.net
        count = len(solver.step_scalars(0.0))
        if self.updates:
            self.train = Graph(net, [*net.params, *solver.history], self._train_body, count, solver=solver)
        else:
            self.train = Graph(net, net.params, self._accumulate_body, 0, net.learnable_params, solver=solver)
        self._forward: Graph | None = None
        self.tests = [forward_graph(net) for net in solver.test_nets] if compiles_tests(solver.ctx) else []
        self.train.others = self.tests
        self._asked: set[int] = set()  # test nets that have become fast, if they can

    def iterate(self, rate: float) -> tuple[torch.Tensor, Tensors]:
        solver = self.solver
        if self.updates:
            loss, *outputs = self.train(solver.step_scalars(rate))
            return loss, outputs
        solver.net.clear_param_diffs()
        total: torch.Tensor | None = None
        outputs = []
        for _ in range(solver.param.iter_size):
            loss, *outputs = self.train()
            total = loss if total is None else total + loss
        assert total is not None
        return total / solver.param.iter_size, outputs

    def forward(self) -> torch.Tensor:
        """On a CPU, layer by layer: it is asked for once, at the end."""
        if self.solver.ctx.device.type == "cpu":
            return self.solver.net.forward()
        if self._forward is None:
            self._forward = forward_graph(self.solver.net)
        return self._forward()[0]

    def test(self, k: int) -> tuple[torch.Tensor, Tensors]:
        if self.tests:
            loss, *outputs = self.tests[k]()
            return loss, outputs
        net = self.solver.test_nets[k]
        if k not in self._asked:
            self._asked.add(k)
            if net.become_fast():
                shared_memory.share(net)
        return plain.test(net)

    def _train_body(self, scalars: Tensors) -> Tensors:
        results = self._forward_backward()
        self.solver.average()
        self.solver.update(scalars)
        return results

    def _accumulate_body(self, scalars: Tensors) -> Tensors:
        return self._forward_backward()

    def _forward_backward(self) -> Tensors:
        net = self.solver.net
        results = _forward(net)
        net.backward()
        return results


def _forward(net: Net) -> Tensors:
    """Every layer but the sources; the loss, then the outputs. Loss weights stand in the tops' diffs, as in set-up."""
    loss: torch.Tensor | None = None
    for i, layer in enumerate(net.layers):
        if not is_source(net, i):
            part = net.forward_layer(i)
            if part is not None:
                loss = part if loss is None else loss + part
        for blob, weight in zip(net.top_vecs[i], layer.loss_weights, strict=True):
            if weight:
                blob.diff = torch.full(blob.shape, weight, device=blob.device)
    first = torch.zeros((), device=net.ctx.device) if loss is None else loss
    return [first, *(net.blob_list[i].data.to(torch.float32) for i in net.output_ids)]


def _unique(memories: Sequence[Memory]) -> list[Memory]:
    return list({id(m): m for m in memories}.values())


def _count(shape: Sequence[int]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count
