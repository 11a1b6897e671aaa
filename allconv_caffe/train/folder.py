"""What a run's directory holds, and how it is written: whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from allconv_caffe import files
from allconv_caffe.paper.render import FILES, PLAIN_SOLVER
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
def locked(folder: Path) -> Iterator[int]:
    """Hold a run directory; yields the descriptor that an engine inherits, so that the lock lasts while either lives.

    Raises:
        DriverError: another training holds it, or nothing can be held there.
    """
    path = folder / ".lock"
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(files.locked(path))
        except files.Held:
            who = path.read_text(encoding="utf-8").strip()
            process = f" (engine: process {who})" if who else ""
            raise DriverError(
                folder, f"found another training at work in it{process}; wait for it, or stop it"
            ) from None
        except (files.NoLocks, files.Planted) as error:
            raise DriverError(folder, f"found {error.strerror}, expected a folder of runs") from None
        os.ftruncate(lock, 0)
        yield lock


def move_into(folder: Path, names: Iterable[str], target: Path) -> None:
    """Move what exists of ``names`` from ``folder`` into ``target``."""
    target.mkdir(exist_ok=True)
    for name in names:
        if (folder / name).exists():
            os.replace(folder / name, target / name)
