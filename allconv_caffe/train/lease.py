"""A run's directory is held by one training, on any file system: by signs of life.

Who holds it has made the file ``.lease-<n>`` of the largest n. A file of that name is made once, by one process, whatever
the others do (a hard link, or O_CREAT | O_EXCL, which network file systems keep, too), and only ever where number n - 1 is
free or dead; the last one is never removed. So two processes never both hold the directory, without flock and without a common clock.

The holder touches its file every ``BEAT_SECONDS``. On the machine that made it, it is dead when its process and its engine's are
gone; from another machine, when it has not been touched for ``DEAD_SECONDS``, and the log has not grown, by the file server's clock.
A holder that finds a larger number than its own was taken for dead, while its machine slept, say: it has lost the directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_type_hints

from allconv_caffe import files

BEAT_SECONDS = 20.0
DEAD_SECONDS = 600.0
_POLL_SECONDS = 1.0
_NAME = re.compile(r"\.lease-(\d{6,12})")


class Taken(Exception):
    """Another training holds the directory, and lives: who, in words."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What a lease says."""

    host: str = ""
    machine: str = ""  # where process numbers mean the same: host, its boot, its space of process numbers
    folder: int = 0  # its inode, to tell a copy of the directory
    pid: int = 0
    born: str = ""  # when that process began, in the kernel's ticks
    engine: int = 0  # its engine's process, 0 for none
    engine_born: str = ""
    free: bool = False


class Lease:
    """A directory, held.

    descriptor: of the directory's lock file, which an engine inherits, so that its flock lasts while either lives, where there
    is flock. lost: another training took this one for dead, and has the directory now.
    """

    def __init__(self, folder: Path, descriptor: int, say: Callable[[str], None]) -> None:
        """Take it, waiting for a holder on another machine to show life, or to have shown none for long enough.

        Args:
            say: takes a line where this waits.
        Raises: Taken; OSError.
        """
        self.descriptor = descriptor
        self.lost = False
        self._folder = folder
        self._holder = Holder(
            host=socket.gethostname(),
            machine=machine(),
            folder=os.stat(folder).st_ino,
            pid=os.getpid(),
            born=born(os.getpid()),
        )
        self._number = _take(folder, self._holder, say)
        self._path = _path(folder, self._number)
        self._write(self._holder)  # which _take has done already, where there are hard links
        if self._look():
            raise Taken("on another machine")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def engine(self, pid: int) -> None:
        """An engine was started, which holds the directory as long as it lives, also without this process."""
        self._holder = replace(self._holder, engine=pid, engine_born=born(pid))
        if not self.lost:
            self._write(self._holder)

    def release(self) -> None:
        """Give it back."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if not self._look():
                self._write(Holder(free=True))

    def _write(self, holder: Holder) -> None:
        files.write(self._path, _text(holder), sync=False)

    def _look(self) -> bool:
        """Whether the directory is lost; an engine in it is killed then, for another writes there."""
        if not self.lost and _newest(self._folder) > self._number:
            self.lost = True
            if alive(self._holder.engine, self._holder.engine_born):
                os.kill(self._holder.engine, signal.SIGKILL)
        return self.lost

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # the server is away for a moment
                if self._look():
                    return
                os.utime(self._path)


def _text(holder: Holder) -> str:
    return json.dumps(asdict(holder)) + "\n"


def _make(path: Path, holder: Holder) -> bool:
    """Whether this process, and no other, has made the lease.

    It has its name once all of it is written, by a hard link: whoever is killed here leaves no lease that nobody can read, for
    which the next would have to wait. A file system without hard links gets an empty one.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    whole = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with open(os.open(whole, flags, 0o666), "w", encoding="utf-8") as file:
            file.write(_text(holder))
        try:
            os.link(whole, path)
        except FileExistsError:
            pass  # or so a server says, whose first answer was lost: the file knows how many names it has
        except OSError:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, flags, 0o666))
                return True
        return os.stat(whole).st_nlink > 1
    finally:
        with contextlib.suppress(OSError):
            whole.unlink()


def _take(folder: Path, holder: Holder, say: Callable[[str], None]) -> int:
    """The number of a lease that this process alone has made."""
    while True:
        last = _newest(folder)
        if last:
            _wait_for_death(folder, last, say)
        path = _path(folder, last + 1)
        if not _make(path, holder):
            continue  # another was faster: once more
        if _newest(folder) > last + 1:  # made, ended and cleared away by others since this one looked
            with contextlib.suppress(OSError):
                path.unlink()
            continue
        for number in _numbers(folder):
            if number <= last:
                with contextlib.suppress(OSError):
                    _path(folder, number).unlink()
        return last + 1


def _wait_for_death(folder: Path, number: int, say: Callable[[str], None]) -> None:
    """Returns when the lease is free or its holder dead. Raises: Taken, where it shows life."""
    path, first_beat = _path(folder, number), None
    while True:
        holder = _read(path)
        if holder is None and _newest(folder) != number:
            return  # gone: somebody else has the next
        if holder is not None and holder.free:
            return
        if holder is not None and holder.machine == machine():
            if holder.folder != os.stat(folder).st_ino:
                return  # the directory is a copy of the one that is held
            if alive(holder.pid, holder.born) or alive(holder.engine, holder.engine_born):
                raise Taken(f"engine: process {holder.engine}" if holder.engine else f"process {holder.pid}")
            return
        beat = _last_sign(folder, path)
        silent = _server_time(folder) - beat
        if silent > DEAD_SECONDS:
            return
        if first_beat is None:
            first_beat = beat
            who = f"a training on {holder.host}" if holder else "a training"
            say(f"{who} has this run; waiting for a sign of life, {DEAD_SECONDS:g} s from its last at most")
        elif beat > first_beat:
            raise Taken(f"on {holder.host}, process {holder.pid}" if holder else "on another machine")
        time.sleep(min(_POLL_SECONDS, BEAT_SECONDS))


def _last_sign(folder: Path, path: Path) -> float:
    """When the lease was touched or the log has grown, by the server's clock."""
    found = [path.stat().st_mtime if path.exists() else 0.0]
    with contextlib.suppress(OSError):
        found.append((folder / "log").stat().st_mtime)
    return max(found)


def _server_time(folder: Path) -> float:
    """What the file server's clock says: its time, not this machine's, stands in the files of others."""
    name = folder / f".lease-now-{os.urandom(4).hex()}"
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        os.write(handle, b"\n")
        os.fsync(handle)
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        name.unlink()


def _read(path: Path) -> Holder | None:
    """None: made a moment ago and not written yet, or by a process that was killed in that moment."""
    try:
        with files.open_file(path) as file:
            content = json.loads(file.read().decode())
        found = Holder(**content)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return (
        found if all(files.fits(getattr(found, name), kind) for name, kind in get_type_hints(Holder).items()) else None
    )


def _path(folder: Path, number: int) -> Path:
    return folder / f".lease-{number:06d}"


def _numbers(folder: Path) -> list[int]:
    return [int(match[1]) for match in map(_NAME.fullmatch, os.listdir(folder)) if match]


def _newest(folder: Path) -> int:
    return max(_numbers(folder), default=0)


def holder(folder: Path) -> Holder | None:
    """What the last lease says; None where there is none, or where it was given back."""
    last = _newest(folder)
    found = _read(_path(folder, last)) if last else None
    return None if found is None or found.free else found


def machine() -> str:
    """Equal where process numbers mean the same: not in two containers of one host, nor after a restart."""
    boot = space = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {space}"


def born(pid: int) -> str:
    """When a process of this machine began, so that its number is not taken for another's; "" where that cannot be told."""
    fields = _status(pid)
    return fields[19] if len(fields) > 19 else ""


def alive(pid: int, began: str) -> bool:
    """Whether the process of that number, which began then, runs; one that is dead but not buried does not."""
    if pid < 1:
        return False
    if fields := _status(pid):
        return fields[0] not in ("Z", "X") and began in ("", born(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _status(pid: int) -> list[str]:
    """The words of /proc/<pid>/stat behind the command's name."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []
