"""`make fuzz`, short: a few seeded mutants of every file that is read here are taken or refused, and nothing else."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import fuzz_files as fuzz
import pytest


@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_a_mutated_file_is_taken_or_refused(name: str) -> None:
    """An error of ours in one line, within bounds of memory and time; never a trace, a crash, a hang."""
    outcomes, wrong = fuzz.fuzz(name, seed=1, first=0, count=60)
    assert not wrong, "\n\n".join(wrong)
    assert sum(outcomes.values()) == 60
    assert outcomes["refused"] > 0 or name == "lease"  # one that nobody can read is nobody's


def test_a_reader_that_fails_is_seen() -> None:
    """A trace, a text of several lines, an endless one, and time: none of them passes for a refusal."""
    from allconv_caffe.errors import PlacedError

    def fails(error: BaseException) -> fuzz.Reader:
        def read(_: Path) -> object:
            raise error

        return read

    assert fuzz.judge(Path("x"), fails(PlacedError("x", "is wrong"))) == "refused"
    assert fuzz.judge(Path("x"), lambda _: None) == "taken"
    for error in (ValueError("x"), fuzz.TooSlow(), MemoryError(), PlacedError("x", "a\nb")):
        assert fuzz.judge(Path("x"), fails(error)) not in ("taken", "refused")


def test_a_child_that_dies_is_named_with_what_it_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Format, seed, number, what was done to the file, the signal; the file is kept. The others are tried all the same."""
    monkeypatch.setattr(fuzz.tempfile, "tempdir", str(tmp_path))
    asked = []

    def run(command: list[str], cwd: str, **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[-2:])
        Path(cwd, "x.prototxt").write_bytes(b"killer")
        said = ['{"good": "taken"}', '{"begins": 7, "said": "no name"}']
        if len(asked) > 1:
            return subprocess.CompletedProcess(
                command, 0, f'{said[0]}\n{{"begins": 8, "said": ""}}\n{{"is": "refused"}}', ""
            )
        return subprocess.CompletedProcess(command, -signal.SIGSEGV, "\n".join(said), "where it was")

    monkeypatch.setattr(fuzz.subprocess, "run", run)
    outcomes, wrong = fuzz.fuzz("prototxt", seed=3, first=7, count=2)
    kept = tmp_path / "fuzz-prototxt-3-7.prototxt"
    assert wrong == [
        f"prototxt seed 3 number 7 (no name): ended by SIGSEGV; what it read is in {kept}; it said last: where it was"
    ]
    assert (
        kept.read_bytes() == b"killer" and outcomes == {"taken": 0, "refused": 1} and asked == [["7", "2"], ["8", "1"]]
    )
