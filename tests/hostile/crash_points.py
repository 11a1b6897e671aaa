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
import importlib
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
    modules: tuple[str, ...] = ()
    """What it imports, and takes its time: once, not in every child."""
    end: Callable[[Path], dict[str, Any]] = lambda folder: {}
    """What the folder has in common with the undisturbed one once the work, done again, has ended, by name."""


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


def strike(name: str, scenario: Scenario, home: Path, every: int = 1) -> tuple[int, list[str]]:
    """Every point of a scenario, or one of so many: how many were tried, and what was wrong, a line each."""
    here = os.getcwd()
    try:
        return _strike(name, scenario, home, every)
    finally:
        os.chdir(here)


def _strike(name: str, scenario: Scenario, home: Path, every: int) -> tuple[int, list[str]]:

    for module in scenario.modules:
        importlib.import_module(module)
    prepared, folder = home / "prepared", home / "work"
    folder.mkdir()
    os.chdir(folder)
    scenario.prepare(folder)
    shutil.copytree(folder, prepared, symlinks=True)

    def fresh() -> Path:
        os.chdir(home)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared, folder, symlinks=True)
        os.chdir(folder)
        return folder

    def state(folder: Path) -> list[Any]:
        return [scenario.same(folder / result) for result in scenario.results]

    folder = fresh()
    before = state(folder)
    status, said = run(scenario.act, folder, None)
    if status != DONE:
        return 0, [f"{name}: undisturbed: {status} {said}"]
    expected, ended = state(folder), scenario.end(folder)
    tried, most = 0, 0
    wrong: list[str] = []
    for after, full in ((False, False), (True, False), (False, True)):
        number, word = 1 - every, "full disk" if full else "killed after" if after else "killed before"
        while True:
            number += every
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
            for path in folder.rglob(".*.tmp"):  # of the dead one, as they are a minute later
                os.utime(path, (0, 0))
            again, said = run(scenario.act, folder, None)
            if again != DONE:
                wrong.append(f"{place}: done again: {again} {said}")
            elif state(folder) != expected:
                wrong.append(f"{place}: done again, it ends otherwise")
            elif (found := scenario.end(folder)) != ended:
                others = sorted(name for name in {**ended, **found} if found.get(name) != ended.get(name))
                wrong.append(f"{place}: done again, it ends with another {', '.join(others)}")
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


def bench(folder: Path, **behaviour: object) -> None:
    """Where the driver finds a stand-in for caffe and a data set."""
    import json

    from support.driver import stand_in

    stand_in(folder)
    (folder / "behaviour").write_text(json.dumps({"gpu": False, **behaviour}))


def drive(folder: Path, **more: Any) -> None:
    """`allconv run`, in a process of its own; waits for the engine that a killed driver has left at work."""
    import time

    from allconv_caffe.train import data, process, run
    from allconv_caffe.train.settings import DriverError, RunSettings

    os.environ["CAFFE"] = str(folder / "gpu-build" / "caffe")
    process.POLL_SECONDS = 0.02
    place = folder / "data"
    found = data.PreparedData(
        folder=place, train_lmdb=place / "train_lmdb", test_lmdb=place / "test_lmdb", display_name="CIFAR-10", classes=10,
        n_train=640, n_test=400, shape=(3, 32, 32), checksums={"train": "1f", "test": "2e"}, official=False,
    )  # fmt: skip
    data.ensure = lambda *_, **__: found
    for _ in range(600):
        try:
            ended = run.run(
                "cifar10-allcnn-c",
                RunSettings(engine="caffe", epochs=4, root=folder, **more),
                lambda line: None,
            )
            assert ended.status == "done", ended.status
            return
        except DriverError as error:
            if "another training at work" not in str(error):
                raise
            time.sleep(0.05)
    raise AssertionError("an engine that never ends")


def the_run(folder: Path) -> Path:
    found = [path for path in (folder / "runs").glob("*/*") if path.is_dir()]
    return found[0] if found else folder / "no run"


def record_of(path: Path) -> Any:
    """What a run's record says; None where there is none."""
    from allconv_caffe.report.record import read

    file = the_run(path.parent) / path.name
    if not file.exists():
        return None
    found = read(file)
    return found.status, found.test_error_percent, found.iterations, found.parameters, len(found.attempts)


def made(folder: Path) -> dict[str, Any]:
    """What a finished run holds: names, points of the curves but their clocks, the picture, the events of TensorBoard."""
    import csv

    run = the_run(folder)
    names = {
        str(path.relative_to(run))
        for path in run.rglob("*")
        if path.is_file() and not path.name.startswith(("events.out", ".lease", ".lock"))
    }
    points = []
    for name in ("train.csv", "test.csv"):
        with open(run / name, newline="") as file:
            rows = {row["iteration"]: row for row in csv.DictReader(file)}
            points.append([(row["iteration"], row.get("loss"), row.get("error_percent")) for row in rows.values()])
    return {**dict.fromkeys(names, True), "points": points, "events": len(list(run.glob("events/*")))}


WEIGHTS = """name: "Tiny"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool" type: "Pooling" bottom: "conv1" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "prob" type: "Softmax" bottom: "pool" top: "prob" }
"""


def net_and_weights(folder: Path, name: str) -> None:
    """A tiny net, deploy.prototxt, and its weights."""
    import numpy as np

    from allconv_caffe import proto

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "deploy.prototxt").write_text(WEIGHTS)
    stored = proto.NetParameter(name="Tiny")
    layer = stored.layer.add(name="conv1", type="Convolution")
    rng = np.random.default_rng(1)
    for shape in ((2, 3, 3, 3), (2,)):
        blob = layer.blobs.add()
        blob.shape.dim.extend(shape)
        blob.data.extend(rng.normal(size=shape).astype(np.float32).ravel().tolist())
    proto.write_binary(folder / name, stored)


def finished_run(folder: Path) -> None:
    """A finished run of whitened images, beside its data's whitening."""
    import json

    run = folder / "runs" / "one"
    net_and_weights(run, "unused")
    (run / "snapshots").mkdir()
    (run / "unused").rename(run / "snapshots" / "tiny_iter_5.caffemodel")
    facts = {
        "experiment": "tiny", "model": "Tiny", "source": "no table", "status": "done", "max_iter": 5, "seed": 1,
        "test_error_percent": 5.0, "published_error_percent": 9.08, "parameters": 56, "epochs": 2.0,
        "published_parameters": "1.4 M", "dataset": "Made", "paper_title": "CIFAR-10", "engine": "torch", "n_train": 20,
        "n_test": 20, "preprocessing": "gcn", "device": "CPU",
    }  # fmt: skip
    (run / "result.json").write_text(json.dumps(facts))
    data = {"folder": "data/made", "sha256": {"train": "1f"}, "class_names": ["a", "b"]}
    (run / "settings.json").write_text(json.dumps({"data": data, "engine": {"version": "torch 2"}, "git": None}))
    (folder / "data" / "made").mkdir(parents=True)
    whitening(folder / "data" / "made")


def add(folder: Path) -> None:
    from allconv_caffe import zoo

    if not (folder / "models" / "tiny").exists():
        zoo.add("runs/one")


def verified(path: Path) -> Any:
    """The digest of a model that is as its card says; None where there is none."""
    from allconv_caffe import zoo

    if not path.exists():
        return None
    assert not (problems := zoo.verify(path.name, None, path.parent)), problems
    return digest(path)


def published(folder: Path) -> None:
    """A model in the folder of a server."""
    finished_run(folder)
    add(folder)
    (folder / "models").rename(folder / "served")


def served(folder: Path, ask: Callable[[str], object]) -> None:
    """A web server over the folder, in a thread, its own calls not counted: it only reads."""
    import functools
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    os.environ["NO_PROXY"] = "127.0.0.1"
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder / "served"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            ask(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()


def get(folder: Path) -> None:
    """`allconv zoo get`."""
    from allconv_caffe import files, hub

    card = folder / "served" / "tiny" / "card.json"
    if not (folder / "models" / "tiny").exists():
        served(
            folder, lambda url: hub.get(f"{url}/tiny", sha1=files.digest(card, "sha1"), wait_seconds=0, progress=False)
        )


def archived(folder: Path) -> None:
    (folder / "served").mkdir()
    archive(folder / "served")


def download(folder: Path) -> None:
    """An archive, of which a part is there already."""
    from allconv_caffe import files
    from data_prep import download as downloading

    file = folder / "served" / "cifar.tar.gz"
    size, sha1 = file.stat().st_size, files.digest(file, "sha1")
    target = folder / "got" / "cifar.tar.gz"
    served(
        folder,
        lambda url: downloading.fetch(f"{url}/cifar.tar.gz", target, size, sha1, wait_seconds=0, progress=False),
    )


def leveldb(folder: Path) -> None:
    """`convert_imageset -backend leveldb`, its records."""
    from allconv_caffe.caffe_torch.tools.new_database import new_database

    if not (folder / "db").exists():
        with new_database(str(folder / "db"), "leveldb") as database:
            for i in range(3):
                database.put(b"%d" % i, bytes(20_000))
                database.commit()


def minable(folder: Path) -> None:
    pictures(folder)
    net_and_weights(folder / "net", "net.caffemodel")


def mine(folder: Path) -> None:
    """`allconv viz mine`, which keeps what it has after each batch."""
    from allconv_caffe.visualize.mining import mine as scanning
    from allconv_caffe.visualize.nets.open import open_net
    from allconv_caffe.visualize.sources import open_images

    net = open_net(folder / "net" / "deploy.prototxt", folder / "net" / "net.caffemodel")
    source = open_images(folder / "tree" / "train", net.input_shape, None)
    scanning(net, source, ["conv1"], k=2, batch_size=1, path=folder / "topk.npz", save_seconds=0, progress=False)


def mined(folder: Path) -> dict[str, Any]:
    from allconv_caffe.visualize.mining import PARTS, TopK

    found = TopK.load(folder / "topk.npz")
    return {"done": found.done, **{part: getattr(found.blobs["conv1"], part).tolist() for part in PARTS}}


def whole_scan(path: Path) -> bool:
    return path.exists() and bool(read_scan(path))


ZOO = ("allconv_caffe.hub", "allconv_caffe.caffe_torch.summary")
VIZ = ("allconv_caffe.visualize.mining", "allconv_caffe.visualize.nets.open", "allconv_caffe.pycaffe")
RUN: dict[str, Any] = {
    "modules": ("allconv_caffe.train.run", "tensorboard.summary.writer.event_file_writer", "matplotlib.figure"),
    "results": ("result.json",),
    "same": record_of,
    "end": made,
}
SCENARIOS: dict[str, Scenario] = {
    "prep": Scenario(prepare=archive, act=prep, results=("set",), same=prepared),
    "prep-force": Scenario(prepare=old_set, act=lambda folder: prep(folder, True), results=("set",), same=prepared),
    "photos": Scenario(
        prepare=pictures, act=photos, results=("set",), same=lambda p: p.exists() and digest(p / "mean.binaryproto")
    ),
    "report": Scenario(prepare=a_run, act=report, results=("out/report.md", "out/report.csv", "out/report.html")),
    "run": Scenario(prepare=bench, act=drive, **RUN),
    "run-retries": Scenario(
        prepare=lambda folder: bench(folder, **{"1": {"dead_from": 2}}),
        act=lambda folder: drive(folder, retries=1),
        **RUN,
    ),
    "zoo-add": Scenario(prepare=finished_run, act=add, modules=ZOO, results=("models/tiny",), same=verified),
    "zoo-get": Scenario(prepare=published, act=get, modules=ZOO, results=("models/tiny",), same=verified),
    "download": Scenario(prepare=archived, act=download, results=("got/cifar.tar.gz",)),
    "leveldb": Scenario(act=leveldb, results=("db",)),
    "mine": Scenario(prepare=minable, act=mine, modules=VIZ, results=("topk.npz",), same=whole_scan, end=mined),
    "scan": Scenario(prepare=older_scan, act=scan, results=("topk.npz",), same=read_scan),
    "whitening": Scenario(act=whitening, results=("whitening.npz",)),
    "render": Scenario(act=render, results=("net/solver.prototxt", "net/train_val.prototxt", "net/deploy.prototxt")),
    "snapshot": Scenario(prepare=lambda folder: solver(folder, ""), act=go_on, results=("x",), same=resumable),
    "snapshot-h5": Scenario(prepare=lambda folder: solver(folder, "h5"), act=go_on, results=("x",), same=resumable),
}
"""By name: prepared sets, photographs, a report, a scan, a transform, rendered prototxt, snapshots of a solver."""


def main() -> int:
    """Returns: 1 if anything was lost, half there, or could not be done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SCENARIOS), metavar="NAME,NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only one point of N (default: %(default)s)")
    options = parser.parse_args()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Caffe's log, the bars, and what each of the killed had to say
    failed = 0
    print(f"{'work':<14} {'points':>7} {'wrong':>7}")
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as home:
            tried, wrong = strike(name, SCENARIOS[name], Path(home), options.every)
        print(f"{name:<14} {tried:>7} {len(wrong):>7}", flush=True)
        for line in wrong[:10]:
            print(f"  {line}")
        failed += len(wrong)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
