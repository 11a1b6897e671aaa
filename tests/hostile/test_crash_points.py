"""`make crash-points`, short: what is cheap to do again is killed, and refused room, at each call that changes a file."""

from __future__ import annotations

from pathlib import Path

import crash_points
import pytest


@pytest.mark.parametrize("name", ["scan", "whitening", "render", "download", "leveldb"])
def test_nothing_is_lost_and_all_can_be_done_again(name: str, tmp_path: Path) -> None:
    """After every one of them the file is as before or as it should be, and the work, done again, ends as if undisturbed."""
    tried, wrong = crash_points.strike(name, crash_points.SCENARIOS[name], tmp_path)
    assert not wrong, "\n".join(wrong)
    assert tried > 8


def careless(folder: Path) -> None:
    """Empties what lies there before it writes, and then finds that something lies there."""
    with open(folder / "file", "w") as file:
        file.write("new")
    (folder / "another").mkdir()


def test_work_that_loses_something_is_seen(tmp_path: Path) -> None:
    """A file emptied before it is written, and a folder that is in the way the next time."""
    work = crash_points.Scenario(
        prepare=lambda folder: (folder / "file").write_text("old"), act=careless, results=("file",)
    )
    _, wrong = crash_points.strike("careless", work, tmp_path)
    assert any("killed after call 1: file is neither" in line for line in wrong)
    assert any("killed after call 2: done again" in line for line in wrong)
