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
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.executor import builder, plain, plan
from allconv_caffe.caffe_torch.executor.cuda_graph import Replayed
from allconv_caffe.caffe_torch.executor.recipe import Recipe, recipe_of
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.tracing import Tracing

if TYPE_CHECKING:
    from allconv_caffe.caffe_torch.solver import Solver

Tensors = list[torch.Tensor]
Shapes = tuple[tuple[int, ...], ...]
MOST_SHAPES = 4  # of batches, whose functions are kept
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
        self._functions: dict[Shapes, Callable[..., Tensors]] = {}
        self._without: set[Shapes] = set()  # have no plan
        self._tried = True  # the function has run once: it is compiled
        self.instead: Callable[[], Tensors] | None = None  # runs a batch, bound, for whose shapes there is no plan
        self._shapes: Shapes = ()  # of the sources' tensors, for which the function is
        self._key: tuple[float, ...] = ()
        self._viewed: Tensors = []
        self._process = 0

    def __call__(self, scalars: Sequence[float] = ()) -> Tensors:
        batch = self.next_batch()
        shapes = tuple(tuple(value.shape) for value in batch)
        if self._function is None or shapes != self._shapes:
            known = self._function is not None and self._change(batch, shapes)
            if not known and self.instead is not None:
                self._shapes = ()
                self._bind(batch)
                return self.instead()
            if not known:
                self._build(batch)
        inputs = [*batch, *self._seeds()]
        check(self._process == os.getpid(), FORKED)
        if scalars and tuple(scalars) != self._key:  # the rate changes seldom; then it is copied without waiting
            self.scalars.copy_(torch.tensor(scalars, dtype=torch.float32), non_blocking=True)
            self._key = tuple(scalars)
        assert self._function is not None
        try:
            with torch.no_grad():
                results = self._function(self.buffers(), inputs, self.scalars)
        except RuntimeError as error:
            if self.device.type == "cpu":
                self._say_why(inputs)
            if not self._tried:
                raise CaffeError(f"executor compiled: {first_line(error)} (executors: auto, plain, compiled)") from None
            raise
        self._tried = True
        return results

    def compile(self) -> None:
        """Compiles for the shapes that the sources' tops have, and tries it on copies: nothing is drawn, no number changes.

        Raises: what PyTorch's compiler raises.
        """
        batch = [torch.zeros(top.shape, device=self.device) for i in self.sources for top in self.net.top_vecs[i]]
        self._build(batch)
        assert self._function is not None
        if not self._tried:
            with torch.no_grad():
                buffers = [buffer.clone() for buffer in self.buffers()]
                self._function(buffers, [*batch, *self._no_seeds()], self.scalars)
            self._tried = True

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
        return [*self.next_batch(), *self._seeds()]

    def _seeds(self) -> Tensors:
        return [torch.tensor([stream.next_seed() for stream in self._streams])] if self._streams else []

    def _no_seeds(self) -> Tensors:
        """As many as there are, without drawing them."""
        return [torch.zeros(len(self._streams), dtype=torch.int64)] if self._streams else []

    def next_batch(self) -> Tensors:
        """The sources' next tensors."""
        inputs: Tensors = []
        for i in self.sources:
            layer, tops = self.net.layers[i], self.net.top_vecs[i]
            if hasattr(layer, "next_batch"):
                inputs += layer.next_batch()
            else:
                layer.reshape([], tops)
                layer.forward([], tops)
                inputs += [t.data for t in tops]
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
        self._keep(lambda buffers, inputs, scalars: function([*buffers, *(i.contiguous() for i in inputs), scalars]))

    def _keep(self, function: Callable[..., Tensors]) -> None:
        """Takes a function for the shapes that the sources' tops have; those of a few other shapes are kept."""
        if self.device.type != "cpu" or len(self._functions) >= MOST_SHAPES:
            self._functions.clear()
        self._shapes = tuple(top.shape for i in self.sources for top in self.net.top_vecs[i])
        self._function = self._functions[self._shapes] = function
        self._process = os.getpid()

    def _change(self, batch: Tensors, shapes: Shapes) -> bool:
        """Takes the function, or the plan, that there is for other shapes than before. Returns whether there was one."""
        if shapes in self._without:
            return False
        self._reshape(batch)
        if shapes not in self._functions:
            if self.instead is None or self.take_plan():
                return self.instead is not None
            self._without.add(shapes)
            return False
        self._find_memories()
        self._function, self._shapes = self._functions[shapes], shapes
        return True

    def _reshape(self, batch: Tensors) -> None:
        """For other shapes than before: what is carried along may lie elsewhere now."""
        with Tracing():
            self._bind(batch)
            for i, layer in enumerate(self.net.layers):
                if i not in self.sources:
                    layer.reshape(self.net.bottom_vecs[i], self.net.top_vecs[i])

    def _build(self, batch: Tensors) -> None:
        alone = self._solver is None or self._solver.company is None  # a recipe knows of no others
        if self.device.type == "cpu" and alone:
            self._shape_sources(batch)
            planned = builder.get(self.recipe(), [graph.recipe() for graph in self.others])
            if planned is not None:
                self._take(planned)
                return
        start = time.perf_counter()
        graph = self.capture([*batch, *self._no_seeds()])
        options: dict[str, Any] | None = None if self.channels_last else {"layout_optimization": False}
        function: Callable[..., Tensors] = torch.compile(graph, dynamic=False, fullgraph=True, options=options)
        self._shape_sources(batch)
        self._keep(Replayed(function) if self.device.type == "cuda" else function)
        self._tried = False
        glog.info(
            "compiled.py:2",
            f"Captured {self.net.name or 'the net'}: {len(graph.graph.nodes)} operations in "
            f"{time.perf_counter() - start:.1f} s; compiling at the first run",
        )

    def _shape_sources(self, batch: Tensors) -> None:
        tops = [top for i in self.sources for top in self.net.top_vecs[i]]
        for top, value in zip(tops, batch, strict=True):
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
    return Graph(net, net.params, lambda scalars: forward_without_sources(net))


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
        results = self.forward_backward()
        self.solver.average()
        self.solver.update(scalars)
        return results

    def _accumulate_body(self, scalars: Tensors) -> Tensors:
        return self.forward_backward()

    def forward_backward(self) -> Tensors:
        net = self.solver.net
        results = forward_without_sources(net)
        net.backward()
        return results


def forward_without_sources(net: Net) -> Tensors:
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


def first_line(error: Exception) -> str:
    """What a compiler raised, in one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _unique(memories: Sequence[Memory]) -> list[Memory]:
    return list({id(m): m for m in memories}.values())


def _count(shape: Sequence[int]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count
