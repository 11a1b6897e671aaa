"""`make fuzz`, short: a few seeded mutants of every file that is read here are taken or refused, and nothing else."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
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
    """A trace, no memory and no time: none of them passes for a refusal."""
    from allconv_caffe.errors import PlacedError

    def fails(error: BaseException) -> fuzz.Reader:
        def read(_: Path) -> object:
            raise error

        return read

    assert fuzz.judge(Path("x"), fails(PlacedError("x", "is wrong"))) == "refused"
    assert fuzz.judge(Path("x"), lambda _: None) == "taken"
    for error in (ValueError("x"), fuzz.TooSlow(), MemoryError()):
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


@pytest.mark.parametrize("name", ["binaryproto", "prototxt", "png", "manifest"])
def test_a_number_names_one_mutant(name: str) -> None:
    """However many are asked for: `--first 17 --count 1` is number 17 of a thousand."""
    make, _, _, mutants = fuzz.FORMATS[name]
    raw = make()
    few, many = (list(mutants(raw, random.Random(5), count)) for count in (20, 200))
    assert many[:20] == few and len(many) == 200 and len(set(many)) > 100


@pytest.mark.parametrize(
    ("words", "turns", "said"),
    [
        ("--count 3 --first 7", [(7, 3)], "all                6 tried, 4 survived"),
        ("--total 2001", [(0, 500), (500, 500), (1000, 1)], "all             2002 tried, 1996 survived"),
        ("--total 2001 --first 1000", [(1000, 1)], "all                2 tried, 0 survived"),
        ("--total 2001 --minutes 0", [], "the time is over; --first 0 goes on"),
    ],
)
def test_formats_take_turns(
    words: str,
    turns: list[tuple[int, int]],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each has its share of the total, and what was tried is added up; one wrong mutant a turn makes the status 1."""
    asked = []

    def turn(name: str, seed: int, first: int, count: int) -> tuple[dict[str, int], list[str]]:
        asked.append((name, seed, first, count))
        return {"taken": 0, "refused": count - 1}, ["what was wrong"]

    monkeypatch.setattr(fuzz, "fuzz", turn)
    monkeypatch.setattr(sys, "argv", ["fuzz_files.py", "--only", "tar,zip", *words.split()])
    assert fuzz.main() == (1 if turns else 0)
    assert asked == [(name, 1, *each) for each in turns for name in ("tar", "zip")]
    assert said in capsys.readouterr().out
