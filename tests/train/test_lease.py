"""A run's directory is held by one training, with flock and without it, here and on other machines."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.driver import Bench

from allconv_caffe import files
from allconv_caffe.train import lease
from allconv_caffe.train.lease import Holder, Lease, Taken

HOLDING = """
import errno, fcntl, os, sys, time
from pathlib import Path
from allconv_caffe.train import folder
from allconv_caffe.train.settings import DriverError
def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
place, times = Path(sys.argv[1]), int(sys.argv[2])
held = 0
print("ready", flush=True)
sys.stdin.readline()
while held < times:
    try:
        with folder.locked(place, print):
            held += 1
            mark = os.open(place / "inside", os.O_CREAT | os.O_EXCL)  # FileExistsError: somebody else is inside
            time.sleep(0.002)
            os.close(mark)
            (place / "inside").unlink()
            if times == 1:
                sys.stdin.readline()
    except DriverError as error:
        assert "another training at work" in str(error), error
        if times == 1:
            break
        time.sleep(0.002)
print(held)
"""


@contextlib.contextmanager
def processes(place: Path, count: int, times: int) -> Iterator[list[subprocess.Popen[str]]]:
    """That take and leave the directory ``times`` times; with 1 they try once, and hold it until they are told to go on."""
    command = [sys.executable, "-c", HOLDING, str(place), str(times)]
    made = [subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(count)]
    try:
        for process in made:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield made
    finally:
        for process in made:
            process.kill()
            process.communicate()


def take(place: Path) -> Lease:
    return Lease(place, 0, lambda line: None)


def written(place: Path, age: float = 0.0, **changes: object) -> Path:
    """A lease of another machine, touched ``age`` seconds ago."""
    path = place / ".lease-000007"
    path.write_text(json.dumps(dataclasses.asdict(Holder(host="far", machine="far 1 2", pid=4, **changes))))  # type: ignore[arg-type]
    os.utime(path, (time.time() - age, time.time() - age))
    return path


@pytest.fixture
def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)


def test_two_processes_never_both_hold_a_directory(tmp_path: Path) -> None:
    """Four processes that take and leave it as fast as they can, without flock: never is one inside beside another."""
    with processes(tmp_path, 4, 15) as made:
        for process in made:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=120) for process in made]
    assert [errors for _, errors in said] == [""] * 4
    assert [int(out.split()[-1]) for out, _ in said] == [15] * 4
    assert len(list(tmp_path.glob(".lease-*"))) == 1


def test_one_of_many_takes_a_dead_training_over(tmp_path: Path) -> None:
    """A lease of another machine that is long dead: of four that find it at once, one gets the directory."""
    written(tmp_path, age=lease.DEAD_SECONDS + 60)
    with processes(tmp_path, 4, 1) as made:
        for process in made:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        deadline = time.monotonic() + 60
        while sum(process.poll() is not None for process in made) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        for process in made:
            with contextlib.suppress(BrokenPipeError):
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
        said = [process.communicate(timeout=60) for process in made]
    assert [errors for _, errors in said] == [""] * 4
    assert sorted(int(out.split()[-1]) for out, _ in said) == [0, 0, 0, 1]


def test_a_killed_holder_of_this_machine_is_dead_at_once(tmp_path: Path) -> None:
    """Its process number is gone; while it lives, it is named."""
    with processes(tmp_path, 1, 1) as (process,):
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        while not (holder := lease.holder(tmp_path)):
            time.sleep(0.01)
        assert holder.pid == process.pid
        with pytest.raises(Taken, match=f"process {process.pid}"):
            take(tmp_path)
    take(tmp_path).release()
    assert lease.holder(tmp_path) is None


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_holder_that_is_killed_as_it_begins_is_dead_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """A lease has its name once it says whose it is; where there are no hard links it is made all the same, and by one."""

    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    code = "import os, sys; from pathlib import Path; from allconv_caffe.train import lease\n"
    code += "lease.Lease._write = lambda *_: os._exit(9)\nlease.Lease(Path(sys.argv[1]), 0, print)"
    if links:
        killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert (killed.returncode, killed.stderr) == (9, "")
    else:
        monkeypatch.setattr(os, "link", link)
    said: list[str] = []
    held = Lease(tmp_path, 0, said.append)
    try:
        assert not said and [path.name for path in tmp_path.iterdir()] == [f".lease-{1 + links:06d}"]
        with pytest.raises(Taken):
            take(tmp_path)
    finally:
        held.release()


def test_a_process_number_that_another_has_now_is_dead(tmp_path: Path) -> None:
    """This process has the number, but began at another time."""
    mine = tmp_path / ".lease-000003"
    holder = Holder(machine=lease.machine(), folder=os.stat(tmp_path).st_ino, pid=os.getpid(), born="1")
    mine.write_text(json.dumps(dataclasses.asdict(holder)))
    take(tmp_path).release()
    alive = dataclasses.replace(holder, pid=0, engine=os.getpid(), engine_born=lease.born(os.getpid()))
    (tmp_path / ".lease-000009").write_text(json.dumps(dataclasses.asdict(alive)))
    with pytest.raises(Taken, match=f"engine: process {os.getpid()}"):
        take(tmp_path)


@pytest.mark.parametrize("sign", [".lease-000007", "log"])
def test_another_machine_that_shows_life_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    """Its file is touched, or the log grows, while this one waits: refused, and who it is said."""
    path = written(tmp_path, age=30)
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: (tmp_path / sign).write_bytes(path.read_bytes()))
    said: list[str] = []
    with pytest.raises(Taken, match="on far, process 4"):
        Lease(tmp_path, 0, said.append)
    assert said == ["a training on far has this run; waiting for a sign of life, 600 s from its last at most"]


def test_another_machine_that_shows_no_life_is_waited_for_and_then_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes without a sign, by the file server's clock: the directory is this training's."""
    path = written(tmp_path, age=lease.DEAD_SECONDS - 30)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            os.utime(path, (time.time() - 601, time.time() - 601))

    monkeypatch.setattr(lease.time, "sleep", sleep)
    held = take(tmp_path)
    assert len(waits) == 3 and [path.name for path in tmp_path.glob(".lease-*")] == [".lease-000008"]
    monkeypatch.undo()
    held.release()


def test_a_free_lease_of_another_machine_is_no_hindrance(tmp_path: Path) -> None:
    """What was given back is free at once, wherever."""
    written(tmp_path, free=True)
    take(tmp_path).release()


def test_who_was_taken_for_dead_loses_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that slept too long finds another's lease above its own: its engine is killed, the other's lease stays."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    held = take(tmp_path)
    engine = subprocess.Popen(["sleep", "1000"])
    held.engine(engine.pid)
    other = tmp_path / ".lease-000002"
    other.write_text("{}")
    assert engine.wait(timeout=60) == -signal.SIGKILL and held.lost
    held.release()
    assert other.read_text() == "{}"


def test_the_holder_shows_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is touched again and again."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    held = take(tmp_path)
    path = tmp_path / ".lease-000001"
    os.utime(path, (1, 1))
    while path.stat().st_mtime == 1:
        time.sleep(0.01)
    held.release()


def test_a_copy_of_a_held_directory_is_free(tmp_path: Path) -> None:
    """A directory that was copied while a training was at work in it is another one."""
    place = tmp_path / "run"
    place.mkdir()
    held = take(place)
    shutil.copytree(place, tmp_path / "copy")
    take(tmp_path / "copy").release()
    held.release()


def test_nothing_is_written_through_a_planted_link(tmp_path: Path) -> None:
    """Somebody else's link in the place of a lease is passed over and cleared."""
    (tmp_path / ".lease-000001").symlink_to(tmp_path / "victim")
    take(tmp_path).release()
    assert sorted(os.listdir(tmp_path)) == [".lease-000002"]


@pytest.mark.usefixtures("without_flock")
def test_a_run_on_a_file_system_without_flock_trains(bench: Bench) -> None:
    """No lock is no other training: the run goes through, and so does the next look at it."""
    assert bench.run().status == "done" and bench.run().status == "done"
    assert "another training" not in bench.said
