"""The compiler's programs taken apart, and loaded again without the compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from allconv_caffe.caffe_torch.executor import build, kernels, plan
from allconv_caffe.caffe_torch.executor.kernels import Kernel, UnknownProgramError

LOOP = """
#include <cmath>
extern "C"  void  kernel(const float* in_ptr0, float* out_ptr0, const int64_t n)
{
    for (int64_t i = 0; i < n; i++) out_ptr0[i] = helper(in_ptr0[i]);
}
"""
SOURCE = f'''r"""
async_compile.wait(globals())
del async_compile
"""
# AOT ID: ['0_inference']
import torch
from torch._inductor.async_compile import AsyncCompile
async_compile = AsyncCompile()

cpp_fused_add_0 = async_compile.cpp_pybinding(['const float*', 'float*', 'const int64_t'], r\'\'\'{LOOP}\'\'\')


async_compile.wait(globals())
del async_compile

def call(args):
    x, y = args
    args.clear()
    assert_size_stride(x, (3, ), (1, ))
    cpp_fused_add_0(x, y, 3)
    z = empty_strided_cpu((3, ), (1, ), torch.float32)
    extern_kernels.mm(reinterpret_tensor(x, (3, 1), (1, 1), 0), reinterpret_tensor(y, (1, 3), (3, 1), 0))
    return (z.fill_(inf), )

def get_args():
    from torch._dynamo.testing import rand_strided
'''


def test_a_program_is_taken_apart() -> None:
    """What is left needs no compiler: no import, no kernel's source, nothing that tries it out."""
    program, found = build.split(SOURCE)
    assert found == [Kernel("cpp_fused_add_0", ["const float*", "float*", "const int64_t"], LOOP)]
    assert program.lstrip().startswith("def call(args):")
    assert "import" not in program and "async_compile" not in program and "get_args" not in program


def test_a_program_is_loaded_with_what_it_takes_for_given(tmp_path: Path) -> None:
    """`call` runs with the names that the compiler's modules would give it; a kernel that is missing is one error."""
    program, _ = build.split(SOURCE)
    plan.write(tmp_path / "one", program.replace("cpp_fused_add_0(x, y, 3)", "y.copy_(x + 1)"), None, notes=["a", "b"])
    x, y = torch.arange(3.0), torch.zeros(3)
    function, notes = plan.load(tmp_path / "one")
    (z,) = function([x, y])
    assert y.tolist() == [1, 2, 3] and z.isinf().all() and notes == ["a", "b"]
    plan.write(tmp_path / "two", "def call(args:\n", None)
    with pytest.raises(plan.DamagedPlanError):
        plan.load(tmp_path / "two")


def test_kernels_become_one_source() -> None:
    """Headers once and first; each loop in a namespace of its own, called with pointers and numbers from Python."""
    text = kernels.text([Kernel(name, ["const float*", "float*", "const int64_t"], LOOP) for name in ("one", "two")])
    assert text.count("#include <cmath>") == 1 and text.startswith("#include <cmath>")
    assert "namespace two {" in text and 'extern "C"' not in text
    arguments = "static_cast<const float*>(memory_of(a[0])), static_cast<float*>(memory_of(a[1]))"
    assert f"ENTRY(one, 3, {arguments}, static_cast<int64_t>(PyLong_AsLongLong(a[2])))" in text


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (SOURCE.replace("del async_compile", ""), "its text has another order"),
        (SOURCE.replace("cpp_pybinding", "triton"), "its text has another order"),
    ],
)
def test_a_program_of_another_form_is_none(source: str, says: str) -> None:
    """Another version's compiler may write otherwise: then there is no plan, and the graph is compiled where it is needed."""
    with pytest.raises(UnknownProgramError, match=says):
        build.split(source)


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        (Kernel("k", ["std::string"], LOOP), "an argument of type std::string"),
        (Kernel("k", ["float*"], LOOP.replace("kernel", "other")), "k has 0 entries"),
    ],
)
def test_a_kernel_of_another_form_is_none(kernel: Kernel, says: str) -> None:
    with pytest.raises(UnknownProgramError, match=says):
        kernels.text([kernel])


def test_numbers_that_a_graph_holds_become_arguments(tmp_path: Path) -> None:
    """Winograd's transforms, for one: kept beside the program, given to it behind its own arguments."""

    class Holds(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.tensor([1.0, 2.0, 4.0])

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
            return [x * self.table + y]

    graph = torch.fx.symbolic_trace(Holds())
    constants = build._lift(graph)
    x, y = torch.arange(3.0), torch.ones(3)
    assert [c.tolist() for c in constants] == [[1, 2, 4]] and not hasattr(graph, "table")
    assert graph(x, y, *constants)[0].tolist() == [1, 3, 9]
    program = "def call(args):\n    x, y, table = args\n    return (x * table + y, )\n"
    plan.write(tmp_path / "one", program, None, constants)
    assert plan.load(tmp_path / "one")[0]([x, y])[0].tolist() == [1, 3, 9]
