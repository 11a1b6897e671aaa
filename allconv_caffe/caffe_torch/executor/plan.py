"""Plans: compiled iterations on disk, loaded without the compiler.

A plan is a folder in the cache, named by its recipe's key: the program that PyTorch's compiler wrote for the graph, its kernels
as libraries, and a list of these files with their digests. Loading takes milliseconds; importing the compiler takes seconds.
What does not fit its digests is not loaded, and made again.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from allconv_caffe import files
from allconv_caffe.errors import FoundError

Function = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
LIST, PROGRAM, LIBRARY = "plan.json", "program.py", "kernels.so"
#: The operations that a program calls by these names.
EXTERN = {name: getattr(torch, name) for name in ("convolution", "mm", "addmm", "bmm", "baddbmm")}


class DamagedPlanError(Exception):
    """A plan that is not what was written; the text says what is wrong."""


def write(
    out: Path, program: str, library: Path | None, constants: Sequence[torch.Tensor] = (), notes: Sequence[str] = ()
) -> None:
    """Writes a plan, whole or not at all.

    Args:
        program: what is left of the compiler's program without its imports and kernels; it defines `call`.
        library: its kernels, see `kernels.build`; None where it has none.
        constants: arguments of `call`, behind those that it is given.
        notes: lines for the log of whoever takes the plan.

    Raises: OSError.
    """
    with files.building(out, sync=False) as partial:
        place = Path(partial)
        (place / PROGRAM).write_text(program, encoding="utf-8")
        if library is not None:
            shutil.copyfile(library, place / LIBRARY)
        for i, constant in enumerate(constants):
            np.save(place / f"constant{i}.npy", constant.numpy())
        digests = {path.name: files.digest(path) for path in sorted(place.iterdir())}
        files.write_json(place / LIST, {"digests": digests, "constants": len(constants), "notes": list(notes)})


def load(place: Path) -> tuple[Function, list[str]]:
    """The plan's function, and its notes. The function takes the graph's inputs in a row, updates what the graph updates, and
    returns the graph's outputs.

    Raises: DamagedPlanError.
    """
    try:
        listed = files.read_json(place / LIST, "a list of a plan's files")
        for name, digest in listed["digests"].items():
            if files.digest(place / name) != digest:
                raise DamagedPlanError(f"{name} is not what was written")
        names = _names()
        if LIBRARY in listed["digests"]:
            names |= _kernels(place)
        path = place / PROGRAM
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
        call = names["call"]
        arrays = [np.load(place / f"constant{i}.npy", allow_pickle=False) for i in range(listed["constants"])]
        notes = [str(note) for note in listed["notes"]]
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
        ImportError,
        SyntaxError,
        NameError,
        TypeError,
        FoundError,
    ) as error:
        raise DamagedPlanError(str(error).partition("\n")[0] or type(error).__name__) from None
    constants = [torch.from_numpy(array) for array in arrays]
    return (lambda inputs: list(call([*inputs, *constants]))), notes


def _names() -> dict[str, Any]:
    """What a program of the compiler's takes for given."""
    guards: Any = torch._C._dynamo.guards
    return {
        "torch": torch,
        "math": math,
        "inf": math.inf,
        "nan": math.nan,
        "device": torch.device,
        "aten": torch.ops.aten,
        "inductor_ops": torch.ops.inductor,
        "extern_kernels": SimpleNamespace(**EXTERN),
        "assert_size_stride": guards.assert_size_stride,
        "assert_alignment": guards.assert_alignment,
        "empty_strided": torch.empty_strided,
        "empty_strided_cpu": guards._empty_strided_cpu,
        "reinterpret_tensor": guards._reinterpret_tensor,
        "alloc_from_pool": torch.ops.inductor._alloc_from_pool,
    }


def _kernels(place: Path) -> dict[str, Any]:
    """The kernels' functions by name."""
    spec = importlib.util.spec_from_file_location(f"allconv_plan_{place.name}.kernels", place / LIBRARY)
    if spec is None or spec.loader is None:
        raise ImportError(f"{LIBRARY} is no library")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    guards: Any = torch._C._dynamo.guards
    module.find_memory(guards._torchinductor_pyobject_tensor_data_ptr)
    return {name: value for name, value in vars(module).items() if not name.startswith("__")}
