"""Makes plans: ``python -m allconv_caffe.caffe_torch.executor.build beside|first [RECIPE FOLDER]... [kernels]``.

A process of its own, so that training goes on meanwhile; it ends when its standard input is closed. What is wrong is one line
on its standard output and status 1.
"""

from __future__ import annotations

import ast
import gc
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute import choice, fast_math
from allconv_caffe.caffe_torch.executor import plan, shelf
from allconv_caffe.caffe_torch.executor.builder import BESIDE, KERNELS, UNKNOWN
from allconv_caffe.caffe_torch.executor.compiled import CompiledExecutor, Graph, first_line, forward_graph
from allconv_caffe.caffe_torch.executor.kernels import Kernel, UnknownProgramError, build as build_kernels
from allconv_caffe.caffe_torch.executor.recipe import Recipe
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.solver_factory import create_solver

NICE = 10  # beside training, which comes first
TOLERANCE = 1e-2  # of a tensor's norm: a maximum may be another one where two are near
RETRIED = "ALLCONV_BUILD_RETRIED"
KERNEL = re.compile(r"^(\w+) = async_compile\.cpp_pybinding\((\[[^\]]*\]), r'''(.*?)'''\)\n", re.MULTILINE | re.DOTALL)
OTHER_KERNEL = re.compile(r"^\w+ = async_compile\.", re.MULTILINE)


def main(argv: Sequence[str] | None = None) -> int:
    threading.Thread(target=_follow_parent, daemon=True).start()
    # the compiler imports much, which stays: looking through it again and again takes long
    gc.set_threshold(200_000, 50, 50)
    glog.init("build", glog.WARNING)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[0] == BESIDE:
        os.nice(NICE)
    for recipe, folder in zip(arguments[1::2], arguments[2::2], strict=False):
        try:
            make(Recipe.of_text(Path(recipe).read_text(encoding="utf-8")), Path(folder))
        except Exception as error:  # whatever it is, whoever waits does without the plan
            if not isinstance(error, UnknownProgramError) and not os.environ.get(RETRIED):
                _begin_again(arguments)
            print(first_line(error))
            return 1 if fails_anywhere(error) else UNKNOWN  # then PyTorch's own way, where it trains, may know better
    if arguments[-1] == KERNELS and (reason := fast_math.why_not()) is not None:
        print(reason)
        return 1
    return 0


def fails_anywhere(error: BaseException) -> bool:
    """Whether what PyTorch's compiler raises, or wraps, is of this machine: no compiler that works, no memory, no disk."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (OSError, MemoryError)) or type(cause).__name__ in (
            "CppCompileError",
            "InvalidCxxCompiler",
        ):
            return True
        cause = getattr(cause, "inner_exception", None) or cause.__cause__
    return False


def _begin_again(arguments: list[str]) -> None:
    """Once more, with an empty cache of the compiler's: what lies in the one at hand may be damaged."""
    with tempfile.TemporaryDirectory(prefix="allconv-caffe-") as empty:
        environment = {**os.environ, RETRIED: "1", "TORCHINDUCTOR_CACHE_DIR": empty}
        command = [sys.executable, "-m", "allconv_caffe.caffe_torch.executor.build", *arguments]
        again = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)  # which ends with this process
        status = again.wait()
    sys.exit(status)


def _follow_parent() -> None:
    os.read(0, 1)  # nothing is ever written: it returns when the other end is closed
    os._exit(1)


def make(recipe: Recipe, folder: Path) -> None:
    """Compiles the recipe's graph, and writes its plan, which was seen to compute what the compiled graph computes.

    Raises: UnknownProgramError; what PyTorch's compiler raises; OSError.
    """
    if any(layer.infogain_loss_param.source for layer in recipe.net_param().layer):
        raise UnknownProgramError("a layer takes numbers from a file")
    torch.set_num_threads(recipe.threads)
    graph = _graph(recipe)
    inputs = _fill(graph)
    with choice.recording() as choices:
        captured = graph.capture(inputs)
    arguments = [*graph.buffers(), *inputs, graph.scalars]
    captured.graph.set_codegen(torch.fx.CodeGen())  # its arguments and results in one row
    constants = _lift(captured)
    arguments += constants
    program, kernels = split(_program(captured, arguments))
    with tempfile.TemporaryDirectory(prefix="allconv-caffe-") as scratch, ThreadPoolExecutor(1) as beside:
        expected = beside.submit(_run, captured, [a.clone() for a in arguments])  # while the C++ compiler is at work
        library = build_kernels(kernels, Path(scratch)) if kernels else None
        trial = Path(scratch) / "plan"
        plan.write(trial, program, library, constants)
        function = plan.load(trial)[0]
        _compare(expected.result(), _run(lambda *a: function(a[: len(a) - len(constants)]), arguments))
        plan.write(folder, program, library, constants, choice.lines(choices))
    shelf.sweep(folder.parent)


def _graph(recipe: Recipe) -> Graph:
    if recipe.solver is None:
        return forward_graph(Net(recipe.net_param(), recipe.context()))
    solver = create_solver(recipe.solver_param(), context=recipe.context())
    return CompiledExecutor(solver).train


def _fill(graph: Graph) -> list[torch.Tensor]:
    """Numbers between 0 and 1 for inputs: labels are 0, and everything else is something."""
    for i in graph.sources:
        for top in graph.net.top_vecs[i]:
            top.data.uniform_()
    graph.scalars.fill_(0.01)
    return graph.next_inputs()


def _lift(captured: torch.fx.GraphModule) -> list[torch.Tensor]:
    """Makes arguments, behind the others, of the numbers that the graph holds (Winograd's transforms); returns these."""
    constants: list[torch.Tensor] = []
    names = {str(node.target) for node in captured.graph.nodes if node.op == "get_attr"}
    last = [node for node in captured.graph.nodes if node.op == "placeholder"][-1]
    for node in [node for node in captured.graph.nodes if node.op == "get_attr"]:
        constants.append(getattr(captured, str(node.target)).clone())
        with captured.graph.inserting_after(last):
            last = captured.graph.placeholder(f"constant{len(constants)}")
        last.meta = dict(node.meta)
        node.replace_all_uses_with(last)
        captured.graph.erase_node(node)
    for name in names:  # what stays would be taken for an argument
        delattr(captured, name)
    captured.recompile()
    return constants


def _program(captured: torch.fx.GraphModule, arguments: list[torch.Tensor]) -> str:
    """The text of the program that PyTorch's compiler writes for the graph."""
    import torch._functorch.config
    from torch._inductor import config
    from torch._inductor.async_compile import AsyncCompile
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.cpu_vec_isa import VecISA
    from torch._inductor.fx_passes import fuse_attention
    from torch._inductor.standalone_compile import standalone_compile

    written: list[str] = []

    def keep(module: Any, examples: Any, *args: Any, **options: Any) -> Any:
        code: Any = compile_fx_inner(module, examples, *args, **options)
        written.append(code.source_code)
        return code

    AsyncCompile.cpp_pybinding = lambda *_: None  # type: ignore[method-assign]  # they are compiled together
    if not os.environ.get(RETRIED):
        config.cpp.vec_isa_ok = True  # what the processor says is believed, until it has failed once
        VecISA.check_build = lambda *_: True  # type: ignore[method-assign]
    fuse_attention._sfdp_init = lambda *_: None  # type: ignore[assignment]  # no layer of Caffe is attention, whose patterns take long to trace
    with (
        torch.no_grad(),
        torch._functorch.config.patch(enable_autograd_cache=False),
        config.patch(fx_graph_cache=False),
    ):
        standalone_compile(captured, arguments, dynamic_shapes="from_example_inputs", options={"inner_compile": keep})
    if len(written) != 1:
        raise UnknownProgramError(f"{len(written)} programs for one graph")
    return written[0]


def split(source: str) -> tuple[str, list[Kernel]]:
    """A program of the compiler's, without imports, kernels and what tries it out; and its kernels.

    Raises: UnknownProgramError.
    """
    kernels = [Kernel(name, ast.literal_eval(types), text) for name, types, text in KERNEL.findall(source)]
    source = KERNEL.sub("", source)
    _, mark, rest = source.rpartition("\ndel async_compile\n")
    body = rest.partition("\ndef get_args(")[0].partition("\ndef benchmark_compiled_module(")[0]
    if not mark or "async_compile" in body or OTHER_KERNEL.search(source):
        raise UnknownProgramError("its text has another order")
    return body, kernels


def _run(function: Callable[..., Sequence[torch.Tensor]], arguments: list[torch.Tensor]) -> list[torch.Tensor]:
    """Results, and behind them what is left in the arguments."""
    with torch.no_grad():
        return [*function(*arguments), *arguments]


def _compare(graph: Sequence[torch.Tensor], plan: Sequence[torch.Tensor]) -> None:
    """Graph and plan have run from the same numbers: what `_run` gives of each is the same but for rounding."""
    for a, b in zip(graph, plan, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise UnknownProgramError(f"its results are {b.dtype} of {tuple(b.shape)}")
        if not _is_near(a, b):
            raise UnknownProgramError("its results are others")


def _is_near(a: torch.Tensor, b: torch.Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    far = float((a - b).nan_to_num().norm()) > TOLERANCE * float(a.nan_to_num().norm()) + 1e-6
    return not far and torch.equal(a.isnan(), b.isnan())


if __name__ == "__main__":
    sys.exit(main())
