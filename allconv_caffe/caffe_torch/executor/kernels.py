"""The loops of a compiled graph as one library: the compiler's sources in one translation unit, whose headers are read once.

PyTorch's compiler makes a library of each loop, and reads its headers anew for each: seconds times dozens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INCLUDE = re.compile(r"^\s*#include .*$", re.MULTILINE)
ENTRY = re.compile(r'extern "C"\s+void\s+kernel\(')
#: How an argument of each kind is taken from Python: a pointer from a tensor, a number from a number.
NUMBERS = {"int64_t": "PyLong_AsLongLong", "float": "PyFloat_AsDouble", "double": "PyFloat_AsDouble"}
BINDINGS = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <exception>
namespace {
void* (*memory_of)(PyObject*);
PyObject* find_memory(PyObject*, PyObject* address) {
    memory_of = reinterpret_cast<void* (*)(PyObject*)>(PyLong_AsVoidPtr(address));
    Py_RETURN_NONE;
}
#define ENTRY(name, count, ...) \\
    PyObject* call_##name(PyObject*, PyObject* const* a, Py_ssize_t n) { \\
        if (n != count) { PyErr_SetString(PyExc_TypeError, #name ": another number of arguments"); return nullptr; } \\
        try { name::kernel(__VA_ARGS__); } \\
        catch (const std::exception& e) { PyErr_SetString(PyExc_RuntimeError, e.what()); return nullptr; } \\
        if (PyErr_Occurred()) return nullptr; \\
        Py_RETURN_NONE; \\
    }
"""
MODULE = """
PyMethodDef methods[] = {{
    {{"find_memory", find_memory, METH_O, nullptr}},
{entries}    {{nullptr, nullptr, 0, nullptr}}}};
PyModuleDef module = {{PyModuleDef_HEAD_INIT, "kernels", nullptr, -1, methods}};
}}
PyMODINIT_FUNC PyInit_kernels() {{ return PyModule_Create(&module); }}
"""


class UnknownProgramError(Exception):
    """The compiler wrote a program of another form than this knows; the text says what."""


@dataclass(frozen=True)
class Kernel:
    """One loop: what the program calls it, its arguments' C++ types, its source, which defines ``extern "C" void kernel``."""

    name: str
    types: Sequence[str]
    source: str


def text(kernels: Sequence[Kernel]) -> str:
    """One source of all. Raises UnknownProgramError."""
    includes = dict.fromkeys(line.strip() for kernel in kernels for line in INCLUDE.findall(kernel.source))
    parts = [*includes]
    for kernel in kernels:
        body, count = ENTRY.subn("static void kernel(", INCLUDE.sub("", kernel.source))
        if count != 1:
            raise UnknownProgramError(f"{kernel.name} has {count} entries")
        parts.append(f"namespace {kernel.name} {{{body}}}")
    parts.append(BINDINGS)
    for kernel in kernels:
        arguments = [_argument(i, type_) for i, type_ in enumerate(kernel.types)]
        parts.append(f"ENTRY({', '.join([kernel.name, str(len(arguments)), *arguments])})")
    entries = "".join(
        f'    {{"{k.name}", (PyCFunction)(void (*)())call_{k.name}, METH_FASTCALL, nullptr}},\n' for k in kernels
    )
    parts.append(MODULE.format(entries=entries))
    return "\n".join(parts)


def _argument(i: int, type_: str) -> str:
    plain = type_.removeprefix("const ").strip()
    if plain.endswith("*"):
        return f"static_cast<{type_}>(memory_of(a[{i}]))"
    if plain not in NUMBERS:
        raise UnknownProgramError(f"an argument of type {type_}")
    return f"static_cast<{plain}>({NUMBERS[plain]}(a[{i}]))"


def build(kernels: Sequence[Kernel], folder: Path) -> Path:
    """Compiles the kernels, as PyTorch's compiler would each. Returns the library's path.

    Raises: UnknownProgramError; torch._inductor.exc.CppCompileError.
    """
    from torch._inductor.cpp_builder import CppBuilder, CppTorchDeviceOptions
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    source = folder / "kernels.cpp"
    source.write_text(text(kernels), encoding="utf-8")
    options = CppTorchDeviceOptions(vec_isa=pick_vec_isa(), device_type="cpu", include_pytorch=False, shared=True)
    builder = CppBuilder(name="kernels", sources=str(source), output_dir=str(folder), BuildOption=options)
    builder.build()
    return Path(builder.get_target_file_path())
