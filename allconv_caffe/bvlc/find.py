"""Finds and checks a real BVLC Caffe, which is never modified: the engine ``caffe``.

``python -m allconv_caffe.bvlc install`` fetches one (see `install`); ``python -m allconv_caffe.bvlc find`` says
which one would be used.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from allconv_caffe.errors import FoundError

_PROBE_SECONDS = 120
_ROOT = Path(__file__).resolve().parents[2]  # of the project
_INSTALLED = Path(".caffe/bin/caffe")  # by `make caffe`
_EXPECTED = "a BVLC Caffe binary that answers --version"


class BvlcError(FoundError):
    """A Caffe that was named but cannot be used.

    `where` is the setting that named it, ``CAFFE=...`` or ``CAFFE_ROOT=...``, or its path; `found` is what happened.
    """

    sentence = "{found}, expected {expected}"

    def __init__(self, where: str, found: str, expected: str = _EXPECTED) -> None:
        super().__init__(where, found, expected)


@dataclass(frozen=True, kw_only=True)
class BvlcCaffe:
    """One real Caffe."""

    binary: Path
    """The `caffe` command."""
    python: Path | None = None
    """An interpreter for its pycaffe; None if none is known."""
    version: str
    """As ``caffe --version`` says, or 'unknown'."""
    origin: str
    """How it was found: ``CAFFE``, ``CAFFE_ROOT``, ``make caffe`` or ``PATH``."""
    python_path: Path | None = None
    """The folder that holds its `caffe` Python package; None where `python` finds it by itself."""

    def environment(self) -> dict[str, str]:
        """This process's environment with pycaffe at the front of PYTHONPATH."""
        if self.python_path is None:
            return dict(os.environ)
        inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        return {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.abspath(self.python_path), *inherited])}

    def has_working_gpu(self, device_id: int = 0) -> bool:
        """Whether ``caffe device_query -gpu <device_id>`` succeeds: never true of a CPU build."""
        answer = self._answer("device_query", "-gpu", str(device_id))
        return answer is not None and answer.returncode == 0

    def blas_core(self) -> str | None:
        """Whose kernels its OpenBLAS takes on this processor, by OPENBLAS_CORETYPE's names; None of another BLAS."""
        answer = self._answer("--version", OPENBLAS_VERBOSE="2")
        found = None if answer is None else re.search(rb"^Core: (\w+)", answer.stderr, re.MULTILINE)
        return found[1].decode() if found else None

    def _answer(self, *words: str, **variables: str) -> subprocess.CompletedProcess[bytes] | None:
        """What the command says to `words`; None where it cannot be started or takes too long."""
        with tempfile.TemporaryDirectory() as scratch:  # takes glog's files, and a core file
            try:
                return subprocess.run(
                    [str(self.binary), *words],
                    cwd=scratch,
                    env={**self.environment(), "GLOG_log_dir": scratch, **variables},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=_PROBE_SECONDS,
                )
            except (OSError, subprocess.TimeoutExpired):
                return None


def find_caffe(root: str | Path | None = None, on_skip: Callable[[str], None] | None = None) -> BvlcCaffe | None:
    """The real Caffe to use, or None.

    Order: `CAFFE` (a binary), `CAFFE_ROOT` (a build tree: build/tools/caffe and python/), ``.caffe/bin/caffe`` under the
    project's root (``make caffe``; not that of whatever folder one stands in, which came with somebody's archive), the
    first `caffe` on PATH that is not this project's own engine.

    Args:
        root: the project's root; if None, the folder that holds this package.
        on_skip: told about each `caffe` that is passed over, and why.
    Raises: BvlcError: what CAFFE or CAFFE_ROOT names, or what ``make caffe`` installed, does not run.
    """
    named = os.environ.get("CAFFE")
    if named:
        path = shutil.which(named)
        where = f"CAFFE={named}"
        if path is None:
            raise BvlcError(where, "found no such executable file")
        if is_own_engine(Path(path)):
            raise BvlcError(where, "found this project's own engine")
        binary = Path(os.path.abspath(path))
        beside = binary.resolve().with_name("python")  # as `make caffe` lays them out
        module = binary.resolve().parents[2] / "python" if len(binary.resolve().parents) > 2 else None
        return BvlcCaffe(
            binary=binary,
            python=beside if os.access(beside, os.X_OK) else _some_python(),
            version=_version(path, where),
            origin="CAFFE",
            python_path=module if module and (module / "caffe").is_dir() else None,
        )
    tree = os.environ.get("CAFFE_ROOT")
    if tree:
        return _in_tree(Path(tree))
    binary = (_ROOT if root is None else Path(root)) / _INSTALLED
    if binary.is_file():
        again = f"{_EXPECTED}; remove .caffe and run `make caffe` again"
        return BvlcCaffe(
            binary=binary.absolute(),
            python=binary.absolute().with_name("python"),
            version=_version(str(binary), str(binary), again),
            origin="make caffe",
        )
    if _INSTALLED.is_file():
        _tell(
            on_skip, f"./{_INSTALLED}: in the current folder, which is not this project's; CAFFE={_INSTALLED} takes it"
        )
    for entry in os.get_exec_path():
        path = shutil.which("caffe", path=entry)
        if path is None:
            continue
        if is_own_engine(Path(path)):
            _tell(on_skip, f"{path}: this project's own engine")
            continue
        try:
            version = _version(path, path)
        except BvlcError as error:
            _tell(on_skip, str(error))
            continue
        return BvlcCaffe(binary=Path(os.path.abspath(path)), python=_some_python(), version=version, origin="PATH")
    return None


def is_own_engine(path: Path) -> bool:
    """Whether the command `path` starts this project's engine: a link to caffe-torch, or a script that names it."""
    target = path.resolve()
    if target.name == "caffe-torch":
        return True
    try:
        with target.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return head.startswith(b"#!") and (b"allconv_caffe" in head or b"caffe-torch" in head)


def _in_tree(tree: Path) -> BvlcCaffe:
    where = f"CAFFE_ROOT={tree}"
    places = [Path("build/tools/caffe"), Path("build/tools/caffe.bin"), Path("bin/caffe")]
    binary = next((tree / place for place in places if (tree / place).is_file()), None)
    if binary is None:
        raise BvlcError(where, "found no caffe binary", " or ".join(str(place) for place in places))
    module = (tree / "python").absolute()
    return BvlcCaffe(
        binary=binary.absolute(),
        python=_some_python(),
        version=_version(str(binary), where),
        origin="CAFFE_ROOT",
        python_path=module if (module / "caffe").is_dir() else None,
    )


def _some_python() -> Path | None:
    path = shutil.which("python3")
    return Path(path) if path else None


def _version(binary: str, where: str, expected: str = _EXPECTED) -> str:
    try:
        answer = subprocess.run(
            [binary, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_SECONDS,
        )
    except OSError as error:
        raise BvlcError(where, f"cannot start ({error.strerror})", expected) from None
    except subprocess.TimeoutExpired:
        raise BvlcError(where, f"no answer to --version in {_PROBE_SECONDS} s", expected) from None
    lines = (answer.stdout + "\n" + answer.stderr).split("\n")
    said = next((line.strip() for line in lines if line.strip()), "nothing")
    match = re.match(r"caffe(?:\.bin)?(?: version (\S+))?\s*$", said)
    if match is None:
        raise BvlcError(where, f"answered '{said}' with status {answer.returncode}", expected)
    return match[1] or "unknown"


def _tell(on_skip: Callable[[str], None] | None, line: str) -> None:
    if on_skip:
        on_skip(line)


def main(argv: Sequence[str] | None = None) -> int:
    """``install [--prefix .caffe] [--archives DIR]``, ``source [--prefix .caffe-source]``, ``find``.

    Returns: exit status; 1 with one line for what goes wrong.
    """
    parser = argparse.ArgumentParser(
        prog="python -m allconv_caffe.bvlc",
        description="Real BVLC Caffe: fetch, find.",
        epilog="Example: python -m allconv_caffe.bvlc find",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("install", help="unpack Debian 11's Caffe (CPU) into a folder, without root")
    fetch.add_argument("--prefix", type=Path, default=Path(".caffe"), help="folder to create (default: %(default)s)")
    fetch.add_argument("--archives", type=Path, help="folder of .deb files to use and to fill, kept afterwards")
    tree = commands.add_parser(
        "source", help="unpack the source of Debian 11's Caffe, with pycaffe's tests, into a folder"
    )
    tree.add_argument(
        "--prefix", type=Path, default=Path(".caffe-source"), help="folder to create (default: %(default)s)"
    )
    commands.add_parser("find", help="say which Caffe would be used")
    options = parser.parse_args(argv)
    if options.command == "install":
        from allconv_caffe.bvlc.install import main as install

        return install(options.prefix, options.archives)
    if options.command == "source":
        from allconv_caffe.bvlc.install import main as install

        return install(options.prefix, what="caffe-source")
    try:
        caffe = find_caffe(on_skip=lambda line: print(f"passed over {line}"))
    except BvlcError as error:
        print(f"find: {error}", file=sys.stderr)
        return 1
    if caffe is None:
        print("find: no BVLC Caffe (make caffe, CAFFE=<binary> or CAFFE_ROOT=<build tree>)", file=sys.stderr)
        return 1
    gpu = "works on GPU 0" if caffe.has_working_gpu() else "CPU only"
    print(f"{caffe.binary} version {caffe.version} (from {caffe.origin}), {gpu}")
    return 0
