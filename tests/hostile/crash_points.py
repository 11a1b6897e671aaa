"""Crash points: a process killed, or told that the disk is full, before and after each call that changes the file system.

    python tests/hostile/crash_points.py [--only prep,report]        (make crash-points)

The work is done in a child forked for each point. Afterwards what lay there before is there, or what should come, whole; and the
same work done again ends as if nothing had happened.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KILLED, FULL, DONE, WRONG = 9, 28, 0, 70
_CALLS = (
    "rename",
    "replace",
    "unlink",
    "remove",
    "rmdir",
    "mkdir",
    "link",
    "symlink",
    "truncate",
    "ftruncate",
    "fsync",
    "write",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(kw_only=True)
class Scenario:
    """Work on a folder."""

    act: Callable[[Path], object]
    """Does it; raises an error of the product's own, or an OSError, where the disk is full."""
    prepare: Callable[[Path], object] = lambda folder: None
    """What lies there before."""
    results: tuple[str, ...] = ()
    """What `act` makes, below the folder: each whole, as before or as it should be."""
    same: Callable[[Path], Any] = field(default=lambda path: digest(path))
    """What two whole results have in common."""


def digest(path: Path) -> str | None:
    """Of a file's bytes, or a folder's names and bytes; None where there is nothing."""
    if not path.exists():
        return None
    found = hashlib.sha256()
    for each in sorted([path, *path.rglob("*")]):
        found.update(str(each.relative_to(path)).encode() + (each.read_bytes() if each.is_file() else b"/"))
    return found.hexdigest()


class Point:
    """Counts the calls that change something, and ends the process at one of them."""

    def __init__(self, number: int, after: bool, full: bool) -> None:
        self.left, self.after, self.full = number, after, full

    def arm(self) -> None:
        for name in _CALLS:
            setattr(os, name, self._watched(getattr(os, name)))
        opened = os.open
        os.open = lambda path, flags, *more, **how: (  # type: ignore[assignment]
            self._watched(opened) if flags & _WRITING else opened
        )(path, flags, *more, **how)
        plain = io.open
        builtins.open = io.open = lambda file, mode="r", *more, **how: (  # type: ignore[assignment]
            self._watched(plain) if set(mode) & set("wax+") and not isinstance(file, int) else plain
        )(file, mode, *more, **how)

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **how: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                self._strike()
            found = call(*arguments, **how)
            if self.left == 0 and self.after:
                self._strike()
            return found

        return watched

    def _strike(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os._exit(KILLED)


def run(act: Callable[[Path], object], folder: Path, point: Point | None) -> tuple[int, str]:
    """How a child ends that does the work: DONE, KILLED, FULL (an error in one line) or WRONG; and what it said."""
    from allconv_caffe.errors import PlacedError

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status, said = WRONG, ""
        try:
            os.close(reading)
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            leave, tell = os._exit, os.write
            if point is not None:
                point.arm()
            try:
                act(folder)
                status = DONE
            except (PlacedError, OSError) as error:
                status, said = FULL, str(error)
            except BaseException:
                import traceback

                said = traceback.format_exc()
            tell(writing, said.encode()[:4000])
        finally:
            leave(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def strike(name: str, scenario: Scenario, home: Path) -> tuple[int, list[str]]:
    """Every point of a scenario: how many there were, and what was wrong, a line each."""
    here = os.getcwd()
    try:
        return _strike(name, scenario, home)
    finally:
        os.chdir(here)


def _strike(name: str, scenario: Scenario, home: Path) -> tuple[int, list[str]]:

    def fresh() -> Path:
        folder = home / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        os.chdir(folder)
        scenario.prepare(folder)
        return folder

    def state(folder: Path) -> list[Any]:
        return [scenario.same(folder / result) for result in scenario.results]

    folder = fresh()
    before = state(folder)
    status, said = run(scenario.act, folder, None)
    if status != DONE:
        return 0, [f"{name}: undisturbed: {status} {said}"]
    expected = state(folder)
    tried, most = 0, 0
    wrong: list[str] = []
    for after, full in ((False, False), (True, False), (False, True)):
        number, word = 0, "full disk" if full else "killed after" if after else "killed before"
        while True:
            number += 1
            folder = fresh()
            status, said = run(scenario.act, folder, Point(number, after, full))
            if status == DONE and not full:
                break  # there are no more calls
            tried += 1
            place = f"{name}: {word} call {number}"
            if status not in (DONE, KILLED, FULL) or "\n" in said:
                wrong.append(f"{place}: ended with {status}: {said[-300:]}")
            try:
                for result, old, new, found in zip(scenario.results, before, expected, state(folder), strict=True):
                    if found not in (old, new):
                        wrong.append(f"{place}: {result} is neither as before nor as it should be")
            except Exception as error:
                wrong.append(f"{place}: what lies there cannot be read: {error!r}")
            again, said = run(scenario.act, folder, None)
            if again != DONE:
                wrong.append(f"{place}: done again: {again} {said}")
            elif state(folder) != expected:
                wrong.append(f"{place}: done again, it ends otherwise")
            if full and number >= most:
                break
        most = max(most, number)
    return tried, wrong


# the work -------------------------------------------------------------------------------------------------------------
def archive(folder: Path) -> Path:
    import numpy as np

    from data_prep import cifar

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 3, 32, 32), np.uint8)
    path = folder / "cifar.tar.gz"
    labels = [0, 1] * 4
    return cifar.write_python_archive(path, pixels, labels, pixels, labels, ["a", "b"])


def prepared(path: Path) -> Any:
    """What a whole set says of itself, checked; None where there is none."""
    from data_prep.manifest import Manifest
    from data_prep.verify import verify

    if not path.exists():
        return None
    found = Manifest.load(path)
    report = verify(path)
    assert report.ok, report.problems
    return {key: entry["sha256"] for key, entry in found.lmdb.items()}, found.preprocessing


def prep(folder: Path, force: bool = False) -> None:
    from data_prep import pipeline

    if (folder / "set").exists() and not force:
        return  # an earlier attempt ended well
    pipeline.prepare(
        folder / "cifar.tar.gz", folder / "set", preprocessing="raw", progress=False, force=force, seed=1 + force
    )


def old_set(folder: Path) -> None:
    archive(folder)
    prep(folder)


def pictures(folder: Path) -> None:
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in "ab":
            place = folder / "tree" / split / label
            place.mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(str(place / f"{i}.png"), rng.integers(0, 256, (8, 8, 3), np.uint8))


def photos(folder: Path) -> None:
    from data_prep import listing, photos

    if not (folder / "set").exists():
        found = listing.by_class(folder / "tree")
        photos.prepare(
            found, folder / "set", photos.Fit(), display_name="x", source={"name": "x"}, progress=False, workers=1
        )


def a_run(folder: Path) -> None:
    source = min(
        (Path(__file__).resolve().parents[2] / "results").glob("*/result.json"), key=lambda p: p.stat().st_size
    ).parent
    (folder / "runs").mkdir()
    for name in ("result.json", "settings.json"):
        shutil.copy(source / name, folder / "runs" / name)


def report(folder: Path) -> None:
    from allconv_caffe.report.build import build

    build([Path("runs")], Path("out"))


def scan(folder: Path) -> None:
    import numpy as np

    from allconv_caffe.visualize.mining import Channels, TopK

    found = TopK(
        blobs={"conv1": Channels.empty(2, 3)}, k=3, per_image=1, weights_sha256="", net_sha256="", source_sha256="",
        n_images=4, done=[(0, 4)],
    )  # fmt: skip
    found.blobs["conv1"].values += np.float32(0)
    found.save(folder / "topk.npz")


def read_scan(path: Path) -> Any:
    from allconv_caffe.visualize.mining import TopK

    return TopK.load(path).done if path.exists() else None


def older_scan(folder: Path) -> None:
    scan(folder)


def whitening(folder: Path) -> None:
    import numpy as np

    from data_prep.whitening import fit

    fit(np.random.default_rng(0).integers(0, 256, (20, 3, 4, 4), np.uint8), "gcn").save(folder / "whitening.npz")


def render(folder: Path) -> None:
    import click

    from allconv_caffe.cli.main import main as cli

    try:
        cli(["render", "cifar10-allcnn-c", "--output", "net"], standalone_mode=False)
    except click.ClickException as error:
        raise OSError(errno.ENOSPC, error.message) from None


SOLVER = """net_param { name: "tiny"
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 }
  data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" } }
base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 snapshot_prefix: "x" random_seed: 1 max_iter: 4 snapshot_after_train: false
"""


def solver(folder: Path, ending: str) -> None:
    from allconv_caffe import pycaffe as caffe

    (folder / "solver.prototxt").write_text(SOLVER + ("snapshot_format: HDF5\n" if ending else ""))
    made = caffe.get_solver(str(folder / "solver.prototxt"))
    made.step(2)
    made.snapshot()
    made.step(2)


def go_on(folder: Path) -> None:
    from allconv_caffe import pycaffe as caffe

    made = caffe.get_solver(str(folder / "solver.prototxt"))
    made.step(4)
    made.snapshot()


def resumable(path: Path) -> Any:
    """The iteration that the newest state, if there is one, leads to; its weights are beside it."""
    from allconv_caffe import pycaffe as caffe

    states = sorted(path.parent.glob("x_iter_*.solverstate*"))
    os.chdir(path.parent)
    made = caffe.get_solver("solver.prototxt")
    made.restore(states[-1].name)
    return made.iter


SCENARIOS: dict[str, Scenario] = {
    "prep": Scenario(prepare=archive, act=prep, results=("set",), same=prepared),
    "prep --force": Scenario(prepare=old_set, act=lambda folder: prep(folder, True), results=("set",), same=prepared),
    "photos": Scenario(
        prepare=pictures, act=photos, results=("set",), same=lambda p: p.exists() and digest(p / "mean.binaryproto")
    ),
    "report": Scenario(prepare=a_run, act=report, results=("out/report.md", "out/report.csv", "out/report.html")),
    "scan": Scenario(prepare=older_scan, act=scan, results=("topk.npz",), same=read_scan),
    "whitening": Scenario(act=whitening, results=("whitening.npz",)),
    "render": Scenario(act=render, results=("net/solver.prototxt", "net/train_val.prototxt", "net/deploy.prototxt")),
    "snapshot": Scenario(prepare=lambda folder: solver(folder, ""), act=go_on, results=("x",), same=resumable),
    "snapshot h5": Scenario(prepare=lambda folder: solver(folder, "h5"), act=go_on, results=("x",), same=resumable),
}
"""By name: prepared sets, photographs, a report, a scan, a transform, rendered prototxt, snapshots of a solver."""


def main() -> int:
    """Returns: 1 if anything was lost, half there, or could not be done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SCENARIOS), metavar="NAME,NAME", help=", ".join(SCENARIOS))
    options = parser.parse_args()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Caffe's log, the bars, and what each of the killed had to say
    failed = 0
    print(f"{'work':<14} {'points':>7} {'wrong':>7}")
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as home:
            tried, wrong = strike(name, SCENARIOS[name], Path(home))
        print(f"{name:<14} {tried:>7} {len(wrong):>7}", flush=True)
        for line in wrong[:10]:
            print(f"  {line}")
        failed += len(wrong)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
