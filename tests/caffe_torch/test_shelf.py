"""The plans on disk: which stay and which go."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from allconv_caffe import doctor, files
from allconv_caffe.caffe_torch.executor import plan, shelf

DAY = 86400
HOLD = """
import sys
from pathlib import Path
from allconv_caffe.caffe_torch.executor import shelf
print(shelf.use(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shelf, "_held", {})
    return tmp_path / "plans"


def write(folder: Path, name: str, days: float, size: int = 1000) -> Path:
    """A plan of about `size` bytes, last used so many days ago."""
    place = folder / name
    plan.write(place, "def call(args):\n    return ()\n" + "#" * size, None)
    when = time.time() - days * DAY
    os.utime(place / plan.LIST, (when, when))
    return place


def names(folder: Path) -> list[str]:
    return sorted(place.name for place in folder.iterdir())


def test_what_was_not_used_for_long_goes(folder: Path) -> None:
    """Ninety days and a little; a plan that was loaded yesterday stays, however old its files are."""
    write(folder, "old", shelf.MOST_DAYS + 0.1)
    write(folder, "new", shelf.MOST_DAYS - 0.1)
    loaded = write(folder, "loaded", shelf.MOST_DAYS + 5)
    assert shelf.use(loaded)
    os.close(shelf._held.pop(loaded))
    shelf.sweep(folder)
    assert names(folder) == ["loaded", "new"]


def test_the_least_recently_used_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until what is left fits: four plans of a size, room for two and a half; one was used since it was written."""
    for days, name in ((4, "a"), (3, "b"), (2, "c"), (1, "d")):
        write(folder, name, days, 10_000)
    assert shelf.use(folder / "a")
    os.close(shelf._held.pop(folder / "a"))
    when = time.time() - DAY / 2
    os.utime(folder / "a" / plan.LIST, (when, when))
    monkeypatch.setattr(shelf, "MOST_BYTES", 26_000)
    shelf.sweep(folder)
    assert names(folder) == ["a", "d"]
    assert sum(one.bytes for one in shelf.kept(folder)) <= 26_000


def test_a_plan_that_another_process_uses_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as that process lives, however old and large it is; then it goes."""
    place = write(folder, "used", 1)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "True"
    os.utime(place / plan.LIST, (1, 1))
    monkeypatch.setattr(shelf, "MOST_BYTES", 0)
    shelf.sweep(folder)
    assert names(folder) == ["used"]
    process.communicate("")
    shelf.sweep(folder)
    assert names(folder) == []


def test_a_young_plan_waits_for_who_made_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has loaded it yet; half an hour later it counts like any other."""
    write(folder, "young", 0)
    monkeypatch.setattr(shelf, "MOST_BYTES", 0)
    shelf.sweep(folder)
    assert names(folder) == ["young"]
    shelf.sweep(folder, time.time() + 1800)
    assert names(folder) == []


def test_what_killed_processes_left_goes(folder: Path) -> None:
    """A plan half removed, and one half written; not one that is being written."""
    write(folder, "good", 1)
    (folder / ".x.removed").mkdir()
    for name in (".dead.partial", ".alive.partial"):
        (folder / name).mkdir()
        os.utime(folder / name, (1, 1))
    handle = os.open(folder / ".alive.partial", os.O_RDONLY)
    files.hold(handle)
    shelf.sweep(folder)
    assert names(folder) == [".alive.partial", "good"]
    os.close(handle)


def test_what_is_not_there_cannot_be_used(folder: Path) -> None:
    """No plan, or one that somebody is removing at this moment: as if there were none."""
    assert not shelf.use(folder / "none")
    place = write(folder, "going", 1)
    handle = os.open(place / plan.LIST, os.O_RDONLY)
    files.hold(handle)
    assert not shelf.use(place)
    os.close(handle)
    assert shelf.use(place)
    shelf.sweep(folder / "none")  # no folder: nothing to sweep


def test_doctor_says_what_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Size and place in one line, kernels included."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    cache = folder / "allconv-caffe"
    write(cache / "plans", "one", 1, 1_500_000)
    (cache / "pooling-1.so").write_bytes(bytes(400_000))
    found = doctor.examine(folder)
    lines = [line for line in doctor.text(found).splitlines() if line.startswith("compiled ")]
    assert lines == [f"compiled      1.9 MB in {cache}, 1 training plan (at most 268 MB of them; unused, 90 days)"]
