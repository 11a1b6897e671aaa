"""What a run's directory holds, and how it is written: whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from allconv_caffe import files
from allconv_caffe.paper.render import FILES, PLAIN_SOLVER
from allconv_caffe.train import lease as lease_
from allconv_caffe.train.lease import Lease, Taken
from allconv_caffe.train.settings import DriverError, RecordError

SETTINGS_FILE, STATE_FILE, RESULT_FILE, LOG, TEST_LOG = "settings.json", "state.json", "result.json", "log", "test.log"
ATTEMPT_FILES: tuple[str, ...] = (
    *FILES,
    PLAIN_SOLVER,
    LOG,
    TEST_LOG,
    "train.csv",
    "test.csv",
    "curves.png",
    "events",
    "snapshots",
    RESULT_FILE,
)
"""What belongs to one attempt, and is put aside when another begins."""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run's directory. Raises: RecordError."""
    return files.read_json(path, "a record of the driver (or remove it, or the folder it stands in)", RecordError)


@contextlib.contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[Lease]:
    """Hold a run directory, by flock where the file system has it, and by signs of life.

    Raises:
        DriverError: another training holds it, or nothing can be held there.
    """
    try:
        handle = files.open_own(folder / ".lock", os.O_RDWR | os.O_CREAT)
    except files.Planted as error:
        raise DriverError(folder, f"found {error.strerror}, expected a folder of runs") from None
    try:
        try:
            with contextlib.suppress(files.NoLocks):
                files.hold(handle)
            lease = Lease(folder, handle, say)
        except (files.Held, Taken) as error:
            raise DriverError(
                folder, f"found another training at work in it{_who(folder, error)}; wait for it, or stop it"
            ) from None
        try:
            yield lease
        finally:
            lease.release()
    finally:
        os.close(handle)


def _who(folder: Path, error: Exception) -> str:
    if isinstance(error, Taken):
        return f" ({error})"
    holder = lease_.holder(folder)
    return f" (engine: process {holder.engine})" if holder and holder.engine else ""


def move_into(folder: Path, names: Iterable[str], target: Path) -> None:
    """Move what exists of ``names`` from ``folder`` into ``target``."""
    target.mkdir(exist_ok=True)
    for name in names:
        if (folder / name).exists():
            os.replace(folder / name, target / name)
