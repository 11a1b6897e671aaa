"""The plans on disk: which are in use, and which go.

A plan is used from when it is loaded until the process ends: the process holds the plan's list, shared, and the list's time
tells the last use. After a plan has been made, plans go that have not been used for long, and of the others the least
recently used ones until what is left fits; never one that is held, or is so young that who made it may not have come for it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from allconv_caffe import files
from allconv_caffe.caffe_torch.executor.plan import LIST

MOST_BYTES = 256 << 20
MOST_DAYS = 90
YOUNG_SECONDS = 600
REMOVED, PARTIAL = ".removed", ".partial"  # a plan on its way out; one that is being written, see files.building

_held: dict[Path, int] = {}


@dataclass(frozen=True)
class Kept:
    """A plan on disk."""

    place: Path
    used: float  # when, in seconds since 1970
    bytes: int


def use(place: Path) -> bool:
    """Keeps the plan there as long as this process lives. Returns whether there is one, which nobody is removing."""
    try:
        handle = os.open(place / LIST, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:
        pass  # a file system without locks: there nothing is removed
    if not _is_still(place / LIST, handle):
        os.close(handle)
        return False
    with suppress(OSError):  # a cache that can only be read
        os.utime(handle)
    before = _held.pop(place, None)
    if before is not None:
        os.close(before)
    _held[place] = handle
    return True


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except OSError:
        return False


def kept(folder: Path) -> list[Kept]:
    """The plans in `folder`, the least recently used first."""
    found = []
    for place in _entries(folder):
        with suppress(OSError):
            used = (place / LIST).stat().st_mtime
            found.append(Kept(place, used, sum(file.stat().st_size for file in place.iterdir())))
    return sorted(found, key=lambda one: one.used)


def _entries(folder: Path, hidden: bool = False) -> list[Path]:
    try:
        return sorted(place for place in folder.iterdir() if place.name.startswith(".") == hidden)
    except OSError:
        return []


def sweep(folder: Path, now: float | None = None) -> None:
    """Removes from `folder` the plans that go, and what killed processes have left there."""
    now = time.time() if now is None else now
    for place in _entries(folder, hidden=True):
        if place.name.endswith(REMOVED):
            shutil.rmtree(place, ignore_errors=True)
        elif place.name.endswith(PARTIAL):
            _remove(place, place, now)
    plans = kept(folder)
    total = sum(one.bytes for one in plans)
    for one in plans:
        is_old = now - one.used > MOST_DAYS * 86400
        if (is_old or total > MOST_BYTES) and _remove(one.place, one.place / LIST, now):
            total -= one.bytes


def _remove(place: Path, holds: Path, now: float) -> bool:
    """Removes `place`, unless somebody holds the file or folder `holds`, or it is young. Returns whether it was removed."""
    gone = place.with_name(f".{place.name.removeprefix('.')}{REMOVED}")
    try:
        handle = os.open(holds, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if now - os.fstat(handle).st_mtime < YOUNG_SECONDS:
            return False
        files.hold(handle)
        if not _is_still(holds, handle):
            return False
        os.rename(place, gone)
    except OSError:  # held, or no locks, or not ours
        return False
    finally:
        os.close(handle)
    shutil.rmtree(gone, ignore_errors=True)
    return True
