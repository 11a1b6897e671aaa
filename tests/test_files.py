"""Whole or absent, digests, JSON with kinds, locks: what `files` promises."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from allconv_caffe import files
from allconv_caffe.errors import FoundError

KILLED = """
import os, signal, sys
from allconv_caffe import files
with files.{what}(sys.argv[1]) as place:
    print("ready", flush=True)
    {then}
"""


def _process(what: str, path: Path, then: str) -> subprocess.Popen[str]:
    """A process that is in the middle of `files.<what>(path)`."""
    script = KILLED.format(what=what, then=then)
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def _stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


# files
@pytest.mark.parametrize("content", ["ä\n", "ä\n".encode(), [b"\xc3", memoryview(b"\xa4\n")]], ids=type)
def test_a_file_is_written_whole(tmp_path: Path, content: Any) -> None:
    """Text, bytes and pieces; the mode is the umask's, and nothing else is left."""
    path = tmp_path / "x"
    files.write(path, content)
    assert path.read_bytes() == b"\xc3\xa4\n" and os.listdir(tmp_path) == ["x"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    """An exception of the writer, whichever, and a name that cannot be taken."""
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.writing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    (tmp_path / "folder" / "in").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        files.write(tmp_path / "folder", "x")
    with pytest.raises(FileNotFoundError):
        files.write(tmp_path / "no" / "x", "x")
    assert path.read_text() == "old" and sorted(os.listdir(tmp_path)) == ["folder", "x"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Writing `path` leaves alone what a link at `path` points to."""
    (tmp_path / "other").write_text("other's")
    (tmp_path / "x").symlink_to("other")
    files.write(tmp_path / "x", "mine")
    assert (tmp_path / "other").read_text() == "other's" and (tmp_path / "x").read_text() == "mine"


def test_a_long_name_is_no_obstacle(tmp_path: Path) -> None:
    """A name of 255 bytes, the most that there are, still has a temporary one."""
    path = tmp_path / ("ä" * 127 + "x")
    files.write(path, "x")
    assert path.read_text() == "x"


def test_a_writer_that_opens_the_file_itself(tmp_path: Path) -> None:
    """`replacing` gives a name; also where the writer puts another file there."""
    path = tmp_path / "x"
    with files.replacing(path) as temporary:
        assert Path(temporary).parent == tmp_path
        os.unlink(temporary)
        Path(temporary).write_text("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["x"]


def test_temporaries_of_the_dead_are_swept(tmp_path: Path) -> None:
    """What a killed writer left goes; what a living one holds stays, however old, and so does what is not ours."""
    dead = _process("replacing", tmp_path / "dead", "os.kill(os.getpid(), signal.SIGKILL)")
    dead.communicate()
    alive = _process("replacing", tmp_path / "alive", "signal.pause()")
    (tmp_path / ".x.0123456.tmp").write_text("seven letters")
    (tmp_path / "target").write_text("x")
    (tmp_path / ".x.01234567.tmp").symlink_to("target")
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1), follow_symlinks=False)
    young = tmp_path / ".young.01234567.tmp"
    young.write_text("made this minute")
    before = set(os.listdir(tmp_path))
    files.sweep(tmp_path)
    gone = before - set(os.listdir(tmp_path))
    _stop(alive)
    assert [name.rpartition(".")[0].rpartition(".")[0] for name in gone] == [".dead"]
    files.sweep(tmp_path / "no such folder")


def test_a_file_of_our_own_is_never_a_link(tmp_path: Path) -> None:
    """`open_own` says so instead of writing through it."""
    (tmp_path / "victim").write_text("x")
    (tmp_path / ".lock").symlink_to("victim")
    with pytest.raises(files.Planted, match="a link in the place of a file of our own"):
        files.open_own(tmp_path / ".lock", os.O_RDWR | os.O_TRUNC)
    assert (tmp_path / "victim").read_text() == "x"


# folders
def _tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_appears_complete(tmp_path: Path) -> None:
    """Empty at the start, named at the end, beside it nothing; an empty one in its place is taken."""
    out = tmp_path / "a" / "out"
    with files.building(out) as partial:
        assert os.listdir(partial) == [] and not out.exists()
        (Path(partial) / "deep").mkdir()
        (Path(partial) / "deep" / "x").write_text("x")
    assert _tree(tmp_path) == {"a/out/deep/x": "x"}
    (tmp_path / "empty").mkdir()
    with files.building(tmp_path / "empty") as partial:
        (Path(partial) / "x").write_text("x")
    assert _tree(tmp_path / "empty") == {"x": "x"} and sorted(os.listdir(tmp_path)) == ["a", "empty"]


def test_a_failed_folder_leaves_what_was_there(tmp_path: Path) -> None:
    """Whether the builder fails or `check` refuses, before or after."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "x").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.building(out) as partial:
        (Path(partial) / "x").write_text("new")
        raise KeyboardInterrupt
    answers = [None, ValueError("stays"), ValueError("stays")]

    def check() -> None:
        if answer := answers.pop(0):
            raise answer

    for _ in range(2):
        with pytest.raises(ValueError, match="stays"), files.building(out, check) as partial:
            (Path(partial) / "x").write_text("new")
    assert _tree(tmp_path) == {"out/x": "old"} and not answers
    with files.building(out) as partial:
        (Path(partial) / "x").write_text("new")
    assert _tree(tmp_path) == {"out/x": "new"} and os.listdir(tmp_path) == ["out"]


def test_a_builder_at_work_is_told_from_a_left_over(tmp_path: Path) -> None:
    """While another process builds: Held. Once it was killed: its left-over is cleared."""
    out = tmp_path / "out"
    other = _process("building", out, "open(place + '/half', 'w').close(); signal.pause()")
    with pytest.raises(files.Held), files.building(out):
        pass
    _stop(other)
    assert (tmp_path / ".out.partial").is_dir()
    with files.building(out) as partial:
        assert os.listdir(partial) == []
    assert os.listdir(tmp_path) == ["out"]


def test_a_replacement_killed_between_its_renames_is_taken_back(tmp_path: Path) -> None:
    """The retired folder gets its name again before anything else is decided."""
    (tmp_path / ".out.replaced").mkdir()
    (tmp_path / ".out.replaced" / "x").write_text("old")
    seen = []
    with pytest.raises(ZeroDivisionError), files.building(tmp_path / "out", lambda: seen.append(_tree(tmp_path))):
        raise ZeroDivisionError
    assert seen == [{"out/x": "old"}] and _tree(tmp_path) == {"out/x": "old"}


def test_a_planted_link_gets_no_name_of_ours(tmp_path: Path) -> None:
    """A link in the place of the retired folder is removed, not put where the folder was."""
    (tmp_path / "victim").mkdir()
    (tmp_path / ".out.replaced").symlink_to("victim")
    with files.building(tmp_path / "out"):
        assert not (tmp_path / "out").exists()
    assert sorted(os.listdir(tmp_path)) == ["out", "victim"] and not (tmp_path / "out").is_symlink()


@pytest.mark.parametrize("names", [[], ["old"]])
def test_a_link_makes_way_and_what_it_points_to_stays(names: list[str], tmp_path: Path) -> None:
    """As often as one likes; the folder behind it, empty or not, is as before, and nothing else is left."""
    (tmp_path / "other").mkdir()
    for name in names:
        (tmp_path / "other" / name).write_text("old")
    (tmp_path / "out").symlink_to("other")
    for _ in range(2):
        with files.building(tmp_path / "out") as partial:
            Path(partial, "new").write_text("new")
        assert sorted(os.listdir(tmp_path)) == ["other", "out"] and not (tmp_path / "out").is_symlink()
    assert os.listdir(tmp_path / "other") == names and os.listdir(tmp_path / "out") == ["new"]


def test_nothing_is_cleared_through_a_link(tmp_path: Path) -> None:
    """A link in the place of the partial folder is refused; what it points to stays as it is."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "x").write_text("x")
    (tmp_path / ".out.partial").symlink_to("victim")
    with pytest.raises(files.Planted, match="in the place of a folder of our own"), files.building(tmp_path / "out"):
        pass
    assert _tree(tmp_path / "victim") == {"x": "x"} and not (tmp_path / "out").exists()


# locks
def test_a_lock_is_held_by_one_process(tmp_path: Path) -> None:
    """Held by another: refused. After its death: free."""
    path = tmp_path / ".lock"
    other = _process("locked", path, "signal.pause()")
    with pytest.raises(files.Held, match="another process at work"), files.locked(path):
        pass
    _stop(other)
    with files.locked(path) as handle:
        assert os.fstat(handle).st_ino == path.stat().st_ino


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for another process at work."""

    def flock(*_: Any) -> None:
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    said = "a file system without locks (No locks available)"
    for hold, place in ((files.locked, tmp_path / ".lock"), (files.building, tmp_path / ".set.partial")):
        with pytest.raises(files.NoLocks) as error, hold(tmp_path / (".lock" if hold is files.locked else "set")):
            pass
        assert (error.value.strerror, os.fspath(error.value.filename)) == (said, os.fspath(place))
    assert list(tmp_path.iterdir()) == []  # nothing is left of either
    files.write(tmp_path / "x", "x")  # one file needs none
    assert (tmp_path / "x").read_text() == "x"


def test_every_command_says_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`allconv prep`, a download and `allconv zoo add` stop with a line that names the place; nothing is left."""
    import crash_points
    from click.testing import CliRunner

    from allconv_caffe.cli import main as cli
    from data_prep import download
    from data_prep.errors import PrepError

    crash_points.archive(tmp_path)
    crash_points.finished_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    words = (
        "found a file system without locks (No locks available){} expected one with flock, a local disk for instance"
    )
    prep = CliRunner().invoke(cli.main, ["prep", "cifar10", "--source", "cifar.tar.gz", "--output", "set"])
    assert (prep.exit_code, prep.output.splitlines()[-1]) == (1, "Error: set: " + words.format(";"))
    add = CliRunner().invoke(cli.main, ["zoo", "add", "runs/one"])
    assert (add.exit_code, add.output) == (1, f"Error: {tmp_path}/models/.tiny.partial: {words.format(',')}\n")
    (tmp_path / "models").rmdir()
    with pytest.raises(PrepError, match="a file system without locks"):
        download.fetch("http://127.0.0.1:1/x", tmp_path / "x", 1, "0", progress=False)
    assert sorted(tmp_path.rglob("*")) == before


# digests
def test_digests_are_hashlibs(tmp_path: Path) -> None:
    """Over more than one block; several at once read the file once."""
    data = os.urandom(3_000_000)
    (tmp_path / "x").write_bytes(data)
    for name in ("md5", "sha1", "sha256"):
        assert files.digest(tmp_path / "x", name) == hashlib.new(name, data).hexdigest()
    md5, sha1 = files.hasher("md5"), files.hasher("sha1")
    with open(tmp_path / "x", "rb") as file:
        assert files.feed(file, md5, sha1) == len(data)
    assert (md5.hexdigest(), sha1.hexdigest()) == (hashlib.md5(data).hexdigest(), hashlib.sha1(data).hexdigest())


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Neither its digest nor its JSON."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(files.NotAFile, match="Found a pipe"):
        files.digest(tmp_path / "pipe")
    with pytest.raises(FoundError, match=r"found nothing \(Found a pipe, expected a file\), expected a card"):
        files.read_json(tmp_path / "pipe", "a card")


# JSON
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "found nothing (No such file or directory), expected a card"),
        (
            b"{",
            "found no JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)), expected a card",
        ),
        (
            b"\xff",
            "found no JSON ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte), expected a card",
        ),
        (b"[1]", "found a list, expected a card"),
        (b"null", "found null, expected a card"),
        (b"[" * 100_000, "found no JSON"),
    ],
)
def test_what_is_no_json_object_is_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    """Missing, cut, no text, another kind, too deep."""
    path = tmp_path / "card.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FoundError) as caught:
        files.read_json(path, "a card")
    assert str(caught.value).startswith(f"{path}: {said}") and "\n" not in str(caught.value)


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """In the order of the keys, as UTF-8, with null for what JSON has no number for."""
    content = {"b": [1, 2.5, math.nan], "a": {"ä": -math.inf, "t": (1,)}}
    files.write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert (
        text
        == '{\n  "b": [\n    1,\n    2.5,\n    null\n  ],\n  "a": {\n    "ä": null,\n    "t": [\n      1\n    ]\n  }\n}\n'
    )
    assert files.read_json(tmp_path / "x.json", "x") == json.loads(text)


GOOD: list[tuple[Any, str, list[Any], list[Any]]] = [
    (str, "a text", ["", "x"], [1, None, ["x"]]),
    (int, "a whole number", [0, -1, 2**64 - 1], [10**400, 1.5, True, "1", None]),
    (float, "a number", [0, 1.5, 2**63], [10**400, True, math.nan, math.inf, -math.inf, "1", None]),
    (bool, "true or false", [True], [0, None]),
    (dict, "an object", [{}], [[], None]),
    (float | None, "a number or null", [None, 1], [math.nan, {}]),
    (list[str], "a list of texts", [[], ["x"]], [["x", 1], "x", None]),
    (list[dict], "a list of objects", [[{}]], [[1]]),
    (dict[str, int], "an object of whole numbers", [{"x": 1}], [{"x": "y"}, [1]]),
    (tuple[int, int], "a list of 2 whole numbers", [[1, 2]], [[1], [1, 2, 3], [1, "2"]]),
    (tuple[str, ...], "a list of texts", [[], ["x", "y"]], [[1]]),
    (dict[str, Any], "an object of anything", [{"x": 1}], [1]),
]


@pytest.mark.parametrize(("kind", "words", "good", "bad"), GOOD, ids=lambda value: str(value)[:30])
def test_kinds(kind: Any, words: str, good: list[Any], bad: list[Any]) -> None:
    """An annotation says which values out of JSON fit, and has a name for people."""
    assert files.kind_of(kind) == words
    assert all(files.fits(value, kind) for value in good)
    assert not any(files.fits(value, kind) for value in bad)


def test_the_first_entry_of_another_kind_is_named() -> None:
    """What only one side has is not looked at."""
    kinds = {"absent": int, "seed": int, "name": str}
    files.check_kinds("card.json", {"seed": 1, "name": "x", "more": None}, kinds)
    with pytest.raises(FoundError) as caught:
        files.check_kinds("card.json", {"name": [1], "seed": None}, kinds)
    assert str(caught.value) == "card.json: found seed null, expected a whole number"
