"""The log's lines are glog's."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from allconv_caffe.caffe_torch import glog

LINE = re.compile(r"([IWEF])(\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{6}) +(\d+) ([\w.]+:\d+)\] (.*)")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("GLOG_log_dir", "GLOG_minloglevel", "GLOG_logtostderr"):
        monkeypatch.delenv(name, raising=False)
    glog.init()
    yield
    glog.init()


def test_a_line_has_the_glog_prefix_and_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """A line is level, month and day, time with microseconds, thread, place, message."""
    glog.info("solver.cpp:218", "Iteration 0, loss = 2.30266")
    captured = capsys.readouterr()
    assert captured.out == ""
    found = LINE.fullmatch(captured.err.rstrip("\n"))
    assert found is not None, captured.err
    assert found.group(1) == "I"
    assert found.group(8) == str(threading.get_native_id())
    assert found.group(9, 10) == ("solver.cpp:218", "Iteration 0, loss = 2.30266")


def test_the_thread_number_is_padded_to_five_places(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small thread numbers are right-aligned in five places, larger ones push the rest."""
    monkeypatch.setattr(threading, "get_native_id", lambda: 42)
    glog.warning("a.cpp:1", "x")
    monkeypatch.setattr(threading, "get_native_id", lambda: 1234567)
    glog.error("a.cpp:1", "x")
    first, second = capsys.readouterr().err.splitlines()
    assert first[0] == "W" and first[21:] == "    42 a.cpp:1] x", first
    assert second[0] == "E" and second[21:] == " 1234567 a.cpp:1] x"


def test_a_message_of_several_lines_has_one_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    """Only the first line of a message carries the prefix, and one line feed ends it."""
    glog.info("net.cpp:53", 'Initializing net from parameters: \nname: "x"\n')
    text = capsys.readouterr().err
    assert text.count("] ") == 1
    assert text.endswith('Initializing net from parameters: \nname: "x"\n')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.09765625, "0.0976562"),  # round half to even
        (1e20, "1e+20"),
        (1e-5, "1e-05"),
        (123456.7, "123457"),
        (1234567.0, "1.23457e+06"),
        (2.0, "2"),
        (-0.0, "-0"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (-math.nan, "-nan"),
        (np.float32(0.1), "0.1"),
        (12345678, "12345678"),
        (np.float32(0.002), "0.002"),
    ],
)
def test_numbers_look_as_a_cpp_stream_prints_them(value: float, text: str) -> None:
    """Six significant digits; -nan keeps its sign; integers are printed whole."""
    assert glog.number(value) == text


def test_the_minimum_level_silences_all_but_fatal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GLOG_minloglevel=2 leaves errors and fatal lines; even 9 leaves fatal lines."""
    monkeypatch.setenv("GLOG_minloglevel", "2")
    for write in (glog.info, glog.warning, glog.error, glog.fatal):
        write("a.cpp:1", "x")
    assert [line[0] for line in capsys.readouterr().err.splitlines()] == ["E", "F"]
    monkeypatch.setenv("GLOG_minloglevel", "9")
    glog.error("a.cpp:1", "x")
    glog.fatal("a.cpp:1", "x")
    assert [line[0] for line in capsys.readouterr().err.splitlines()] == ["F"]


def test_quiet_leaves_out_what_is_below_its_level_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """Inside errors and fatal lines alone, an outer, stricter level stays; afterwards, after an error too, all is as before."""
    with pytest.raises(ZeroDivisionError), glog.quiet(glog.ERROR):
        for write in (glog.warning, glog.error, glog.fatal):
            write("a.cpp:1", "x")
        with glog.quiet(glog.INFO):
            glog.info("a.cpp:1", "x")
        with glog.quiet():
            glog.error("a.cpp:1", "x")
        1 / 0  # noqa: B018
    glog.info("a.cpp:1", "x")
    assert "".join(line[0] for line in capsys.readouterr().err.splitlines()) == "EFI"


def test_what_is_said_first_only_is_said_once_for_each_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOG_FIRST_N counts calls of a place, also those that the minimum level silences."""
    monkeypatch.setattr(glog, "_written_once", set())
    glog.init(min_level=glog.WARNING)
    glog.info_first("hdf5.cpp:33", "Datatype class: H5T_FLOAT")
    glog.init()
    for line in (33, 36, 36):
        glog.info_first(f"hdf5.cpp:{line}", "Datatype class: ")
    assert [line.split("] ")[0][-11:] for line in capsys.readouterr().err.splitlines()] == ["hdf5.cpp:36"]


def test_files_receive_their_level_and_all_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With GLOG_log_dir, caffe.INFO holds every line, caffe.WARNING warnings and above; links lead to dated files."""
    monkeypatch.setenv("GLOG_log_dir", str(tmp_path))
    glog.info("a.cpp:1", "one")
    glog.warning("a.cpp:2", "two")
    glog.info("a.cpp:3", "three")

    def messages(level: str) -> list[str]:
        lines = (tmp_path / f"caffe.{level}").read_text().splitlines()
        assert lines[0].startswith("Log file created at: ") and lines[1].startswith("Running on machine: ")
        assert lines[2] == "Log line format: [IWEF]mmdd hh:mm:ss.uuuuuu threadid file:line] msg"
        return [line.split("] ", 1)[1] for line in lines[3:]]

    assert messages("INFO") == ["one", "two", "three"]
    assert messages("WARNING") == ["two"]
    assert not (tmp_path / "caffe.ERROR").exists()
    target = os.readlink(tmp_path / "caffe.INFO")
    assert re.fullmatch(rf"caffe\..+\..+\.log\.INFO\.\d{{8}}-\d{{6}}\.{os.getpid()}", target)


def test_a_log_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing GLOG_log_dir costs one message, never a training."""
    monkeypatch.setenv("GLOG_log_dir", str(tmp_path / "absent"))
    glog.info("a.cpp:1", "one")
    glog.info("a.cpp:1", "two")
    error = capsys.readouterr().err
    assert error.count("Could not create log file") == 1
    assert "] one\n" in error and "] two\n" in error


def test_lines_of_several_threads_stay_whole(capfd: pytest.CaptureFixture[str]) -> None:
    """Threads that log at once never mix their lines."""

    def say(k: int) -> None:
        for _ in range(50):
            glog.info("a.cpp:1", f"{k}" * 200)

    threads = [threading.Thread(target=say, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 200
    assert all(LINE.fullmatch(line) and len(set(line.split("] ")[1])) == 1 for line in lines)
