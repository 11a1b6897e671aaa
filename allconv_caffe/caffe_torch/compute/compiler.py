"""The C++ in `kernels`, compiled once per machine by the compiler that torch.compile uses.

Without a compiler there are no kernels; whoever has use for them says so, and does without.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from allconv_caffe import files
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute import cpuinfo

KERNELS = Path(__file__).with_name("kernels")
NO_COMPILER = "no C++ compiler found; install g++ (or set CXX)"
INCLUDED = re.compile(r'^#include "(\w+\.cpp)"$', re.MULTILINE)
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


def is_built(name: str, flags: Sequence[str]) -> bool:
    """Whether `load` would find the library in the cache."""
    cxx = compiler()
    return cxx is not None and (cache() / _file(cxx, name, [*FLAGS, *flags])).exists()


def _file(cxx: str, name: str, flags: Sequence[str]) -> str:
    """The library's name in the cache."""
    program = Path(cxx).resolve()
    parts = [text(name), str(program), str(program.stat().st_mtime_ns), processor(), *flags]
    key = hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]
    return f"{name}-{key}.so"


def text(name: str) -> str:
    """What kernels/<name>.cpp says, and what it may include: the headers beside it, and another that it names."""
    own = (KERNELS / f"{name}.cpp").read_text(encoding="utf-8")
    paths = [*sorted(KERNELS.glob("*.h")), *(KERNELS / included for included in INCLUDED.findall(own))]
    return "\0".join([own, *(path.read_text(encoding="utf-8") for path in paths)])


def build(cxx: str, name: str, flags: Sequence[str]) -> Path:
    """Compiles kernels/<name>.cpp for this processor unless its text, these flags and this compiler have met before.

    Behind the library stands its digest: what is damaged in the cache is compiled again.

    Returns: the library's path in the cache. Raises BuildError, OSError.
    """
    flags = [*FLAGS, *flags]
    library = cached(_file(cxx, name, flags))
    if library.exists():
        if _is_whole(library):
            return library
        glog.warning("compiler.py:1", f"{library} is damaged: compiled again")
        library = cached(library.name, anew=True)
    with files.replacing(library) as built:  # whole or not at all, also with two processes at work
        command = [cxx, *flags, str(KERNELS / f"{name}.cpp"), "-o", built]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
            raise BuildError(f"{cxx}: {lines[0][:300]}")
        digest = hashlib.sha256(Path(built).read_bytes()).digest()
        with open(built, "ab") as file:
            file.write(digest)
    return library


def _is_whole(library: Path) -> bool:
    try:
        content = library.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


@functools.cache
def processor() -> str:
    """Model and instructions of the first processor, where the system says them."""
    lines = cpuinfo.text().split("\n\n")[0].splitlines()
    if not lines:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU")))


def cache() -> Path:
    """The folder of what is compiled, made or not."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "allconv-caffe"


def cached(name: str, anew: bool = False) -> Path:
    """Where in the cache what is called `name` lies, or will; where nothing can be written, in a folder of this process.

    Args:
        anew: it is to be written, whether it is there or not.
    """
    folder = cache()
    path = folder / name
    try:
        if not anew and path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        files.check_writable(path)
    except OSError as error:
        own = _own_cache(str(folder), str(error.strerror)) / name
        own.parent.mkdir(exist_ok=True)
        return own
    return path


@functools.cache
def _own_cache(folder: str, reason: str) -> Path:
    glog.warning("compiler.py:1", f"{folder}: {reason}; what is compiled is kept for this process alone")
    own = tempfile.mkdtemp(prefix="allconv-caffe-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return Path(own)
