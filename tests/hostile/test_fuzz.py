"""`make fuzz`, short: a few seeded mutants of every file that is read here are taken or refused, and nothing else."""

from __future__ import annotations

import fuzz_files as fuzz
import pytest


@pytest.mark.parametrize("name", fuzz.FORMATS)
def test_a_mutated_file_is_taken_or_refused(name: str) -> None:
    """An error of ours in one line, within bounds of memory and time; never a trace, a crash, a hang."""
    outcomes, wrong = fuzz.fuzz(name, seed=1, first=0, count=60)
    assert not wrong, "\n\n".join(wrong)
    assert sum(outcomes.values()) == 60 and outcomes["refused"] > 0


def test_a_reader_that_fails_is_seen() -> None:
    """A trace, a text of several lines, an endless one, and time: none of them passes for a refusal."""
    from pathlib import Path

    from allconv_caffe.errors import PlacedError

    def fails(error: BaseException) -> fuzz.Reader:
        def read(_: Path) -> object:
            raise error

        return read

    assert fuzz.judge(Path("x"), fails(PlacedError("x", "is wrong"))) == "refused"
    assert fuzz.judge(Path("x"), lambda _: None) == "taken"
    for error in (ValueError("x"), fuzz.TooSlow(), MemoryError(), PlacedError("x", "a\nb")):
        assert fuzz.judge(Path("x"), fails(error)) not in ("taken", "refused")
