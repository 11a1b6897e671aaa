"""The C++ in `kernels`, compiled once per machine by the compiler that torch.compile uses.

Without a compiler there are no kernels; whoever has use for them says so, and does without.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from allconv_caffe import files

KERNELS = Path(__file__).with_name("kernels")
NO_COMPILER = "no C++ compiler found; install g++ (or set CXX)"
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared")


class BuildError(RuntimeError):
    """The kernels could not be compiled; the text is the compiler's first complaint, or that there is none."""


def compiler() -> str | None:
    """The C++ compiler that CXX names, else g++ or clang++; None where there is none."""
    named = os.environ.get("CXX")
    return shutil.which(named) if named else shutil.which("g++") or shutil.which("clang++")


def load(name: str, flags: Sequence[str]) -> ctypes.CDLL:
    """The library that kernels/<name>.cpp makes, compiled on the first call. Raises BuildError, OSError."""
    cxx = compiler()
    if cxx is None:
        raise BuildError(NO_COMPILER)
    return ctypes.CDLL(str(build(cxx, name, flags)))


def build(cxx: str, name: str, flags: Sequence[str]) -> Path:
    """Compiles kernels/<name>.cpp for this processor unless it, these flags and this compiler have met before.

    Returns: the library's path in the cache. Raises BuildError, OSError.
    """
    source, flags = KERNELS / f"{name}.cpp", [*FLAGS, *flags]
    version = subprocess.run([cxx, "--version"], capture_output=True, text=True, check=False).stdout
    target = subprocess.run(
        [cxx, "-march=native", "-E", "-v", "-x", "c++", os.devnull, "-o", os.devnull],
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    parts = [source.read_text(encoding="utf-8"), version, target, *flags]
    library = _cache() / f"{name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"
    if not library.exists():
        with files.replacing(library) as built:  # whole or not at all, also with two processes at work
            command = [cxx, *flags, str(source), "-o", built]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
                raise BuildError(f"{cxx}: {lines[0][:300]}")
    return library


def _cache() -> Path:
    """Where compiled kernels are kept; where that cannot be made, a folder of this process alone."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "allconv-caffe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="allconv-caffe-"))
    return folder
