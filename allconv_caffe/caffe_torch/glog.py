"""Log lines as Caffe writes them: google-glog 0.4's prefix, to stderr and, where GLOG_log_dir says, to files.

    I1123 11:26:16.123456  4242 solver.cpp:218] Iteration 0, loss = 2.30266

Environment, as in glog: GLOG_minloglevel (0 INFO to 3 FATAL), GLOG_log_dir, GLOG_logtostderr (1: no files).

Source: glog 0.4 logging.cc.
Differs: files are written only when GLOG_log_dir is set (Caffe's go to /tmp otherwise); `fatal` writes its line and
returns, without stack trace and abort.
"""

from __future__ import annotations

import contextlib
import getpass
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import SupportsFloat, TextIO

import numpy as np

INFO, WARNING, ERROR, FATAL = range(4)
NAMES = ("INFO", "WARNING", "ERROR", "FATAL")

_lock = threading.RLock()
_program = "caffe"
_min_level: int | None = None  # None: as the environment says
_log_dir: str | None = None
_no_files: bool | None = None
_files: list[TextIO | None] | None = None  # one per level; None: not opened yet, or forbidden
_files_dir = ""
_written_once: set[str] = set()


def info(source: str, message: str) -> None:
    """Writes an I line; `source` is the place in Caffe's sources, such as ``solver.cpp:218``."""
    log(INFO, source, message)


def info_first(source: str, message: str) -> None:
    """Writes an I line for the first call from `source` in this process, as glog's LOG_FIRST_N(INFO, 1) does."""
    if source not in _written_once:
        _written_once.add(source)
        log(INFO, source, message)


def warning(source: str, message: str) -> None:
    log(WARNING, source, message)


def error(source: str, message: str) -> None:
    log(ERROR, source, message)


def fatal(source: str, message: str) -> None:
    """Writes an F line, whatever the minimum level. The caller ends the program."""
    log(FATAL, source, message)


def number(x: SupportsFloat | int) -> str:
    """`x` as a C++ stream prints it: 6 significant digits, ``0.0976562``, ``1e+20``, ``-nan``; integers whole."""
    if isinstance(x, int):
        return str(int(x))
    value = float(x)
    if math.isnan(value):
        return "-nan" if math.copysign(1.0, value) < 0 else "nan"
    return f"{value:g}"


def divided(x: float, y: float) -> float:
    """x / y in float32, with C's results where y is 0: -nan, inf."""
    with np.errstate(all="ignore"):
        return float(np.float32(x) / np.float32(y))


def init(
    program: str = "caffe",
    min_level: int | None = None,
    log_dir: str | None = None,
    logtostderr: bool | None = None,
) -> None:
    """InitGoogleLogging: `program` names the log files, the others overrule the environment. Closes open files."""
    global _program, _min_level, _log_dir, _no_files
    with _lock:
        close()
        _program, _min_level, _log_dir, _no_files = program, min_level, log_dir, logtostderr


@contextlib.contextmanager
def quiet(level: int = FATAL) -> Iterator[None]:
    """Inside, nothing below `level` is written, in all threads: nets that are only a means are built without Caffe's log."""
    global _min_level  # noqa: PLW0603 (glog has one level for a process)
    before, _min_level = _min_level, max(level, min_level())
    try:
        yield
    finally:
        _min_level = before


def close() -> None:
    """Closes the log files; the next line opens new ones."""
    global _files  # noqa: PLW0603 (glog has one set of files for a process)
    with _lock:
        for file in _files or []:
            if file is not None:
                file.close()
        _files = None


def min_level() -> int:
    """The lowest level that is written: what `init` said, else GLOG_minloglevel, else INFO; FATAL always is."""
    if _min_level is not None:
        return _min_level
    return _integer(os.environ.get("GLOG_minloglevel", ""))


def log(level: int, source: str, message: str) -> None:
    """Writes one line of `level` (INFO to FATAL). A message of several lines has one prefix, as in glog."""
    if level < min(min_level(), FATAL):
        return
    text = prefix(level, source) + message
    if not text.endswith("\n"):
        text += "\n"
    with _lock:
        _write(sys.stderr, text)
        directory = os.environ.get("GLOG_log_dir", "") if _log_dir is None else _log_dir
        no_files = bool(_integer(os.environ.get("GLOG_logtostderr", ""))) if _no_files is None else _no_files
        if directory and not no_files:
            _write_files(level, directory, text)


def prefix(level: int, source: str) -> str:
    """``Lmmdd hh:mm:ss.uuuuuu tid source] `` for now, local time, this thread."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    stamp = time.strftime("%m%d %H:%M:%S", time.localtime(seconds))
    return f"{NAMES[level][0]}{stamp}.{nanoseconds // 1000:06d} {threading.get_native_id():5d} {source}] "


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 1 if text.lower() in ("true", "t", "yes", "y") else 0


def _write(file: TextIO, text: str) -> None:
    try:
        file.write(text)
        file.flush()
    except (OSError, ValueError):  # a closed pipe, a full disk: a log line must not end a training, nor does it in glog
        pass


def _write_files(level: int, directory: str, text: str) -> None:
    """A line goes to the file of its own level and to those of all levels below."""
    global _files, _files_dir
    if _files is not None and directory != _files_dir:
        close()
    if _files is None:
        _files, _files_dir = [None] * len(NAMES), directory
        failed = False
    else:
        failed = _files[INFO] is None
    for target in range(level, INFO - 1, -1):
        file = _files[target]
        if file is None and not failed:
            file = _files[target] = _open(target, Path(directory))
        if file is not None:
            _write(file, text)


def _open(level: int, directory: Path) -> TextIO | None:
    """Makes ``caffe.<host>.<user>.log.<LEVEL>.<time>.<pid>`` and the link ``caffe.<LEVEL>`` to it."""
    now = time.localtime()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "invalid-user"
    host = socket.gethostname()
    stamp = time.strftime("%Y%m%d-%H%M%S", now)
    path = directory / f"{_program}.{host}.{user}.log.{NAMES[level]}.{stamp}.{os.getpid()}"
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        _write(sys.stderr, f"Could not create log file {path}: {error.strerror}\n")
        return None
    created = time.strftime("%Y/%m/%d %H:%M:%S", now)
    file.write(
        f"Log file created at: {created}\nRunning on machine: {host}\n"
        "Log line format: [IWEF]mmdd hh:mm:ss.uuuuuu threadid file:line] msg\n"
    )
    link = directory / f"{_program}.{NAMES[level]}"
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
    except OSError:  # a file system without links
        pass
    return file
