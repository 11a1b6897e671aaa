"""Which engine runs a training, and how it is called: always through Caffe's command line."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from allconv_caffe.train.settings import Devices, DriverError, RunSettings


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine, chosen."""

    name: str  # caffe, or torch for caffe-torch
    command: tuple[str, ...]  # what stands before ``train``
    gpus: tuple[int, ...]  # device numbers for ``-gpu``; empty on a CPU
    version: str  # which Caffe or PyTorch
    origin: str  # where it lies
    reason: str  # why this one
    flags: tuple[str, ...] = ()  # its own, after those of ``train``
    env: dict[str, str] = field(default_factory=dict)  # added to the environment

    def describe(self) -> str:
        """One line for people."""
        device = f"GPU {','.join(map(str, self.gpus))}" if self.gpus else "CPU"
        return f"engine {self.name} ({self.version}, {self.origin}) on {device}: {self.reason}"


def choose(settings: RunSettings) -> Engine:
    """Take an engine as the settings say.

    ``auto``: a real Caffe with a working GPU if there is one, else caffe-torch. A device that was named is passed on
    unchecked to a real Caffe that was named; whether it works, that Caffe says. ``rng`` ``caffe``: caffe-torch on the
    CPU, seed-exact.

    Raises:
        DriverError: ``caffe`` where none is found; a precision that BVLC Caffe does not have; a setting that cannot be
            seed-exact.
    """
    gpus, precision, threads = Devices.numbers(settings.gpu), settings.precision, settings.threads
    if settings.rng == "caffe":
        return _seed_exact(settings, gpus)
    if settings.engine == "torch":
        return _torch(settings, gpus, "asked for")
    caffe = _find_caffe()
    if settings.engine == "caffe":
        if caffe is None:
            raise DriverError(
                "ENGINE=caffe",
                "found no Caffe; name one with CAFFE=path/to/caffe or CAFFE_ROOT=folder, install the "
                "CPU build with `make caffe`, or use caffe-torch (ENGINE=torch)",
            )
        if precision != "float32":
            raise DriverError(
                "ENGINE=caffe", f"BVLC Caffe has no precision {precision} (choices: float32; or ENGINE=torch)"
            )
        if gpus is None:
            gpus = (0,) if caffe.has_working_gpu() else ()
        return _caffe(caffe, gpus, threads, "asked for")
    if precision != "float32":
        return _torch(settings, gpus, f"BVLC Caffe has no precision {precision}")
    if caffe is None:
        return _torch(settings, gpus, "no real Caffe was found")
    if gpus == ():
        return _torch(settings, gpus, "on a CPU it is faster than the real Caffe that was found")
    if caffe.has_working_gpu():
        return _caffe(caffe, gpus or (0,), threads, "a real Caffe with a working GPU was found")
    return _torch(settings, gpus, f"the real Caffe that was found ({caffe.origin}) has no working GPU")


def _seed_exact(settings: RunSettings, gpus: tuple[int, ...] | None) -> Engine:
    if settings.engine == "caffe":
        raise DriverError(
            "RNG=caffe",
            "found ENGINE=caffe, which draws its own numbers anyway, expected caffe-torch "
            "(choices: ENGINE=torch, or no RNG)",
        )
    if gpus:
        raise DriverError(
            "RNG=caffe", f"found GPU={','.join(map(str, gpus))}, expected none (on a GPU, Caffe draws from cuRAND)"
        )
    if settings.precision != "float32":
        raise DriverError(
            "RNG=caffe", f"found PRECISION={settings.precision}, expected float32, the only one that Caffe has"
        )
    if flags_given(settings)["executor"] == "compiled":
        raise DriverError(
            "RNG=caffe", "found -executor compiled, expected auto or plain (compiled code draws its own numbers)"
        )
    reason = "asked for" if settings.engine == "torch" else "it draws BVLC Caffe's random numbers on a CPU"
    found = _torch(settings, (), reason)
    return replace(found, flags=(*found.flags, "-seed_exact"))


def flags_given(settings: RunSettings) -> dict[str, Any]:
    """What the user's own flags say to caffe-torch, by name; looked at before a run has a folder.

    Raises: DriverError: a flag that it does not have, or a value that the flag does not take.
    """
    from allconv_caffe.caffe_torch.tools import gflags
    from allconv_caffe.caffe_torch.tools.caffe import FLAGS

    try:
        values, rest, wrong = gflags.parse(FLAGS, settings.caffe_flags)
    except gflags.Stop as error:
        values, rest, wrong = {}, [], [str(error)]
    wrong += [f"found {rest[0]}" for _ in rest[:1]]
    if wrong:
        raise DriverError(f"-- {' '.join(settings.caffe_flags)}", f"{wrong[0]}, expected flags of `caffe-torch train`")
    return values


def _find_caffe() -> Any:
    from allconv_caffe.bvlc import find as bvlc

    try:
        return bvlc.find_caffe()
    except bvlc.BvlcError as error:
        raise DriverError.of(error) from None


def _caffe(caffe: Any, gpus: tuple[int, ...], threads: int | None, reason: str) -> Engine:
    env = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    binary = str(caffe.binary)
    if os.sep in binary:
        binary = os.path.abspath(binary)
    return Engine(
        name="caffe",
        command=(binary,),
        gpus=gpus,
        version=f"caffe {caffe.version}",
        origin=str(caffe.origin),
        reason=reason,
        env=env,
    )


def _torch(settings: RunSettings, gpus: tuple[int, ...] | None, reason: str) -> Engine:
    precision, threads = settings.precision, settings.threads
    flags_given(settings)
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus is None:
        gpus = (0,) if count else ()
    if gpus and max(gpus) >= count:
        choices = ", ".join(["none", *map(str, range(count))])
        raise DriverError(
            f"GPU={','.join(map(str, gpus))}",
            f"PyTorch {torch.__version__} finds {count} CUDA devices, expected one of them (choices: {choices}; "
            "or ENGINE=caffe with a GPU build)",
        )
    flags: tuple[str, ...] = ()
    if precision != "float32":
        flags += ("-precision", precision)
    if threads is not None:
        flags += ("-threads", str(threads))
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    return Engine(
        name="torch",
        command=(sys.executable, "-m", "allconv_caffe.caffe_torch"),
        gpus=gpus,
        version=f"torch {torch.__version__}",
        origin="caffe-torch",
        reason=reason,
        flags=flags,
        env={"PYTHONPATH": path},
    )
