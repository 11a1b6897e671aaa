"""Finds, checks and drives a real BVLC Caffe, which is never modified: the engine ``caffe``.

``python -m allconv_caffe.bvlc install`` fetches one (see `bvlc_install`); ``python -m allconv_caffe.bvlc find`` says
which one would be used.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from allconv_caffe.errors import FoundError

_PROBE_SECONDS = 120
_EXPECTED = "a BVLC Caffe binary that answers --version"


class BvlcError(FoundError):
    """A Caffe that was named but cannot be used.

    `where` is the setting that named it, ``CAFFE=...`` or ``CAFFE_ROOT=...``, or its path; `found` is what happened.
    """

    sentence = "{found}, expected {expected}"

    def __init__(self, where: str, found: str, expected: str = _EXPECTED) -> None:
        super().__init__(where, found, expected)


@dataclass(frozen=True)
class BvlcCaffe:
    """One real Caffe.

    Attributes:
        binary: the `caffe` command.
        python: an interpreter for its pycaffe, or None if none is known.
        version: as ``caffe --version`` says, or 'unknown'.
        origin: how it was found: ``CAFFE``, ``CAFFE_ROOT``, ``make caffe`` or ``PATH``.
        python_path: folder that holds its `caffe` Python package, or None where `python` finds it by itself.
    """

    binary: Path
    python: Path | None
    version: str
    origin: str
    python_path: Path | None = None

    def environment(self, extra_python_path: Sequence[str | Path] = ()) -> dict[str, str]:
        """This process's environment with pycaffe, then `extra_python_path`, at the front of PYTHONPATH."""
        own = [self.python_path] if self.python_path else []
        inherited = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        parts = [os.path.abspath(part) for part in [*own, *extra_python_path]] + inherited
        environment = dict(os.environ)
        if parts:
            environment["PYTHONPATH"] = os.pathsep.join(parts)
        return environment

    def has_working_gpu(self, device_id: int = 0) -> bool:
        """Whether ``caffe device_query -gpu <device_id>`` succeeds: never true of a CPU build."""
        with tempfile.TemporaryDirectory() as scratch:  # takes glog's files, and a core file
            try:
                answer = subprocess.run(
                    [str(self.binary), "device_query", "-gpu", str(device_id)],
                    cwd=scratch,
                    env={**self.environment(), "GLOG_log_dir": scratch},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=_PROBE_SECONDS,
                )
            except (OSError, subprocess.TimeoutExpired):
                return False
        return answer.returncode == 0

    def run(
        self,
        args: Sequence[str],
        log_path: str | Path,
        cwd: str | Path | None = None,
        on_line: Callable[[str], None] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Run ``caffe <args>``; its output is appended to `log_path` as it comes.

        Args:
            args: e.g. ``["train", "-solver", "solver.prototxt"]``.
            log_path: glog's lines (stderr) and whatever stands on stdout, in the order written.
            cwd: where relative paths of the prototxt begin.
            on_line: called with each line, without its line end.
            env: the whole environment; `environment()` if None.
        Returns: exit status; 128 + n where signal n ended it, as a shell says.
        Raises: BvlcError if it cannot be started; OSError if the log cannot be written; KeyboardInterrupt after Ctrl-C
            was passed on and Caffe has ended (by its ``-sigint_effect``: it stops with a snapshot).
        """
        binary = os.path.abspath(self.binary)
        with open(log_path, "ab") as log:
            try:
                process = subprocess.Popen(
                    [binary, *args],
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=dict(env) if env is not None else self.environment(),
                )
            except OSError as error:
                raise BvlcError(binary, f"cannot start ({error.strerror})") from None
            assert process.stdout is not None
            interrupted = False
            try:
                while True:
                    try:
                        line = process.stdout.readline()
                        if not line:
                            break
                        log.write(line)
                        log.flush()
                        if on_line:
                            on_line(line.decode("utf-8", errors="replace").rstrip("\r\n"))
                    except KeyboardInterrupt:
                        interrupted = True
                        if process.poll() is None:
                            process.send_signal(signal.SIGINT)
                status = process.wait()
            finally:
                if process.poll() is None:  # a callback failed: leave no training behind
                    process.terminate()
                    process.wait()
                process.stdout.close()
        if interrupted:
            raise KeyboardInterrupt
        return status if status >= 0 else 128 - status


def find_caffe(root: str | Path | None = None, on_skip: Callable[[str], None] | None = None) -> BvlcCaffe | None:
    """The real Caffe to use, or None.

    Order: `CAFFE` (a binary), `CAFFE_ROOT` (a build tree: build/tools/caffe and python/), ``.caffe/bin/caffe`` under the
    project's root (``make caffe``), the first `caffe` on PATH that is not this project's own engine.

    Args:
        root: the project's root; if None, the current folder, then the folder that holds this package.
        on_skip: told about each `caffe` on PATH that is passed over, and why.
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
            binary,
            beside if os.access(beside, os.X_OK) else _some_python(),
            _version(path, where),
            "CAFFE",
            module if module and (module / "caffe").is_dir() else None,
        )
    tree = os.environ.get("CAFFE_ROOT")
    if tree:
        return _in_tree(Path(tree))
    roots = [Path(root)] if root is not None else [Path.cwd(), Path(__file__).resolve().parents[2]]
    for folder in roots:
        binary = folder / ".caffe" / "bin" / "caffe"
        if binary.is_file():
            again = f"{_EXPECTED}; remove .caffe and run `make caffe` again"
            version = _version(str(binary), str(binary), again)
            return BvlcCaffe(binary.absolute(), binary.absolute().with_name("python"), version, "make caffe")
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
        return BvlcCaffe(Path(os.path.abspath(path)), _some_python(), version, "PATH")
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
        binary.absolute(),
        _some_python(),
        _version(str(binary), where),
        "CAFFE_ROOT",
        module if (module / "caffe").is_dir() else None,
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
