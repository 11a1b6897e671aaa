"""What a run's directory holds, and how it is written: whole or not at all."""

from __future__ import annotations

import contextlib
import json
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


_ATTEMPT: dict[str, Any] = {
    **dict.fromkeys(("attempt", "seed"), int),
    **dict.fromkeys(("status", "why"), str),
    "sessions": list[dict],
}
"""What the record of an attempt holds."""
_LATER: dict[str, Any] = {"iterations": int, "seconds": float | None, "directory": str}
"""What it gets when it ends, or is put aside."""


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a run's directory: its attempts, in their order, under "attempts"; none of a run that has not begun.

    Raises: RecordError: another thing stands there.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return {"attempts": []}
    mend = "; remove the file to go on from the newest snapshot"
    state = read_json(path)
    attempts = state.get("attempts")
    if not isinstance(attempts, list) or not all(isinstance(entry, dict) for entry in attempts):
        raise RecordError(path, "no record of attempts", f'a list of objects under "attempts"{mend}')
    for number, entry in enumerate(attempts, 1):
        kinds = {**_ATTEMPT, **{key: kind for key, kind in _LATER.items() if key in entry}}
        for key, kind in kinds.items():
            if not files.fits(value := entry.get(key), kind):
                found = f"attempt {number} with {key} {json.dumps(value)[:60]}"
                raise RecordError(path, found, f"{files.kind_of(kind)}{mend}")
        for session in entry["sessions"]:
            if not files.fits(solver := session.get("solver"), str | None):
                found = f"attempt {number} with a session of the solver {json.dumps(solver)[:60]}"
                raise RecordError(path, found, f"{files.kind_of(str)}{mend}")
    return state


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
