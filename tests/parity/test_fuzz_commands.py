"""Random command lines in real `caffe` and in ours: a few of what `python tests/parity/fuzz_commands.py` can make without end."""

from __future__ import annotations

from pathlib import Path

import fuzz_commands as commands
import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize(
    ("kind", "first", "count"), [("resume", 0, 8), ("rules", 0, 8), ("sharing", 2, 6), ("time", 0, 20)]
)
def test_random_command_lines_do_what_caffe_does(kind: str, first: int, count: int, tmp_path: Path) -> None:
    """Status, log and snapshots of each command; a training goes on in the other program as if it had never stopped."""
    wrong = []
    for seed in range(first, first + count):
        job = commands.MAKERS[kind](seed)
        if found := commands.compare(job, tmp_path):
            wrong.append("\n".join([job.id, *job.actions, *job.files.values(), *found]))
    assert not wrong, "\n".join(wrong)
