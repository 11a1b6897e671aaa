"""A fuzzer over every file that the product reads: seeded mutations, each read in a child process of bounded memory and time.

    make fuzz [FUZZ="--seed 1 --count 1000 --only pickle,tar"]
    make fuzz FUZZ="--total 100000 --minutes 60"

Formats take turns, `ROUND` mutants at a time; where time ends before the mutants, it says with which ``--first`` to go on.
A mutant is taken or refused: an error of the product's own, in one line. Anything else is printed with its number, so that
``--only tar --seed 1 --first 17 --count 1`` is that one again; of a child that died also the signal, where it was, and what it
read, which is kept.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import io
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import hostile_files as hostile
import numpy as np

from allconv_caffe.errors import MOST_LETTERS, PlacedError

HERE = Path(__file__).resolve().parent
SECONDS = 20  # for one file, on a machine that does ten other things
FIRST_SECONDS = 600  # for the good one, with which everything is imported
ROUND = 500  # mutants of a format before the next one's turn
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    1e300,
    10**30,
    "",
    "x",
    "../x",
    "\ud800",
    "a\nb",
    [],
    [None],
    [[1]],
    {},
    {"a": 1},
)

Reader = Callable[[Path], object]


# what is read ---------------------------------------------------------------------------------------------------------
def pixels(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), np.uint8)


def picture(kind: str) -> bytes:
    return bytes(cv2.imencode(kind, pixels(1, 8)[0].transpose(1, 2, 0))[1].tobytes())


def tree() -> dict[str, bytes]:
    return {
        f"{split}/{label}/{i}.png": picture(".png") for split in ("train", "test") for label in "ab" for i in (0, 1)
    }


def packed_tar(mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=tarfile.PAX_FORMAT) as made:  # type: ignore[call-overload]
        for name, data in {**tree(), "train/a/" + "ü" * 90 + ".png": picture(".png")}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def packed_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in tree().items():
            made.writestr(name, data)
    return out.getvalue()


def batch(protocol: int) -> bytes:
    images = pixels(2).reshape(2, -1)
    return pickle.dumps({"data": images, "labels": [0, 1], "filenames": ["a.png", "b.png"]}, protocol)


def saved(make: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        make(path)
        return path.read_bytes()


def whitening() -> bytes:
    from data_prep.whitening import fit

    return saved(fit(pixels(20, 2), class_names=("a", "b")).save)


def database() -> bytes:
    from command_line_files import datum, write_lmdb

    rs = np.random.RandomState(0)
    values = [datum(rs, label=i % 3) for i in range(12)] + [datum(rs, label=1, float_data=rs.randn(192).tolist())]
    with tempfile.TemporaryDirectory() as folder:
        write_lmdb(Path(folder) / "db", values)
        return (Path(folder) / "db" / "data.mdb").read_bytes()


def net() -> bytes:
    from command_line_files import NET

    text = NET[NET.index('layer { name: "conv1"') : NET.index('layer { name: "accuracy"')]
    return ('name: "Tiny" input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\n' + text).encode()


def weights(ending: str) -> bytes:
    from allconv_caffe import pycaffe as caffe

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.prototxt"
        path.write_bytes(net())
        made = caffe.Net(str(path), caffe.TEST)
        (made.save_hdf5 if ending == "h5" else made.save)(str(path) + ending)
        return Path(str(path) + ending).read_bytes()


def solver_state(ending: str) -> Callable[[], bytes]:
    """What a solver has written after two iterations; it stays here, with its weights, for `read_solver_state`."""

    def make() -> bytes:
        import crash_points

        crash_points.solver(Path.cwd(), ending)
        return Path(f"x_iter_2.solverstate{ending}").read_bytes()

    return make


def mean() -> bytes:
    from allconv_caffe.proto import BlobProto

    return bytes(BlobProto(num=1, channels=3, height=2, width=2, data=[1.0] * 12).SerializeToString())


def result() -> bytes:
    path = next((HERE.parents[1] / "results").rglob("result.json"))
    return path.read_bytes()


def run_settings() -> bytes:
    path = next((HERE.parents[1] / "results").rglob("settings.json"))
    return path.read_bytes()


def log() -> bytes:
    path = min((HERE.parents[1] / "results").rglob("log"), key=lambda path: path.stat().st_size)
    return path.read_bytes()


def card() -> bytes:
    return next((HERE.parents[1] / "models").glob("*/card.json")).read_bytes()


def manifest() -> bytes:
    from data_prep.manifest import Manifest

    facts = {"path": "train_lmdb", "records": 2, "sha256": "0"}
    made = Manifest(
        dataset="images", display_name="x", labels="fine", preprocessing="raw", gcn_scale=1.0, gcn_min_divisor=1e-8,
        zca_bias=0.1, pad=0, seed=1, shape=(3, 8, 8), image_shape=(3, 8, 8), channel_order="RGB", classes=2,
        class_names=("a", "b"), class_counts={"train": [1, 1], "test": [1, 1]}, n_train=2, n_test=2, source={"name": "x"},
        pixels_sha256={"train": "0"}, lmdb={"train": facts, "test": facts}, files={"whitening.npz": "0"},
        statistics={"train_mean": 1.0}, versions={"numpy": "2"},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder))
        return (Path(folder) / "manifest.json").read_bytes()


def state() -> bytes:
    session = {"solver": "solver.prototxt", "command": "caffe train", "started": "2026-01-01T00:00:00Z", "git": {}}
    first = {"attempt": 1, "seed": 1, "status": "dead", "why": "no gradient", "sessions": [session], "seconds": 2.5}
    second = {"attempt": 2, "seed": 2, "status": "interrupted", "why": "", "sessions": [session | {"seconds": 1.5}]}
    attempts = [first | {"iterations": 5, "directory": "attempt-1"}, second | {"iterations": 10, "seconds": None}]
    return json.dumps({"attempts": attempts}).encode()


def outcome() -> bytes:
    from dataclasses import asdict

    from allconv_caffe.train.job import Outcome

    return json.dumps(asdict(Outcome(status="done", directory="runs/x", error_percent=9.5, seconds=12.5))).encode()


def lease() -> bytes:
    from dataclasses import asdict

    from allconv_caffe.train.lease import Holder

    return json.dumps(asdict(Holder(host="elsewhere", machine="elsewhere 1 2", folder=3, pid=4, born="5"))).encode()


def of_a_run(name: str) -> Callable[[], bytes]:
    """result.json or settings.json of the run that `read_run` finds beside it."""

    def make() -> bytes:
        import crash_points

        with tempfile.TemporaryDirectory() as folder:
            crash_points.finished_run(Path(folder))
            return (Path(folder) / "runs" / "one" / name).read_bytes()

    return make


def prepared_manifest() -> bytes:
    """Of the set that `read_prepared` finds beside it."""
    import crash_points

    with tempfile.TemporaryDirectory() as folder:
        crash_points.old_set(Path(folder))
        return (Path(folder) / "set" / "manifest.json").read_bytes()


# who reads it ---------------------------------------------------------------------------------------------------------
def read_net(path: Path) -> object:
    from allconv_caffe.caffe_torch.summary import summarize, to_json

    return to_json(summarize(path))


def read_solver(path: Path) -> object:
    from allconv_caffe.proto import read_solver as read

    return read(path)


def read_weights(path: Path) -> object:
    from allconv_caffe import pycaffe as caffe

    made = caffe.Net(str(path.with_name("net.prototxt")), caffe.TEST)
    try:
        return made.copy_from(str(path))
    except RuntimeError as error:
        if str(error).startswith("Could not open file "):  # pycaffe's own
            return None
        raise


def read_solver_state(path: Path) -> object:
    """A solver that goes on; the weights lie beside its state."""
    from allconv_caffe import pycaffe as caffe

    return caffe.get_solver("solver.prototxt").restore(str(path))


def read_mean(path: Path) -> object:
    from allconv_caffe.visualize.whitening import load_mean

    return load_mean(path)


def read_database(path: Path) -> object:
    from allconv_caffe.proto import ProtoError, datum
    from data_prep.database import records

    folder = path.with_name("db")
    folder.mkdir(exist_ok=True)
    (folder / "data.mdb").write_bytes(path.read_bytes())
    found = 0
    for _, value in records(folder):
        try:
            datum.parse(value)
        except ProtoError:
            found += 1
    return found


def read_batch(path: Path) -> object:
    from data_prep import cifar

    return cifar.parse_batch(path.read_bytes(), cifar.FORMATS[0], str(path))


def read_names(path: Path) -> object:
    from data_prep import cifar

    return cifar.parse_names(path.read_bytes(), cifar.FORMATS[0], "batches.meta", str(path))


def read_archive(path: Path) -> object:
    from data_prep import listing, photos, source

    with suppress(PlacedError):
        source.read(path, dataset="images", progress=False)
    return photos.image_set(listing.by_class(path), photos.Fit(resize=(4, 4)), "x", {}, progress=False)


def read_packed(path: Path) -> object:
    from data_prep import source

    return source.read(path, dataset="images", progress=False)


def read_whitening(path: Path) -> object:
    from data_prep.whitening import Whitening

    return Whitening.load(path).whiten(np.zeros((1, 3, 2, 2), np.uint8))


def read_scan(path: Path) -> object:
    from allconv_caffe.visualize.mining import TopK, merge

    found = TopK.load(path)
    for name in found.blobs:
        found.units(name, 0)
    return merge(found)


def read_picture(path: Path) -> object:
    from data_prep import images, photos

    data = path.read_bytes()
    photos.record(data, 1, photos.Fit(resize=(4, 4)), str(path))
    return images.decode(data, str(path))


def read_result(path: Path) -> object:
    from allconv_caffe.report import page, runs, tables, text, trends
    from allconv_caffe.report.collect import find_runs

    found = find_runs([path.parent])
    entries = runs.shown(found, draw=False)
    for run in found:
        run.curve("test")
    verdicts = trends.check(found)
    text.to_markdown(tables.tables(found), entries, path.parent, verdicts).encode()
    page.to_html(tables.tables(found), entries, path.parent, verdicts).encode()
    return tables.to_csv(found).encode()


def read_card(path: Path) -> object:
    from allconv_caffe import zoo

    zoo.find("m", path.parents[1])
    zoo.verify("m", None, path.parents[1])
    return [zoo.page(found.facts).encode() for found in zoo.cards(path.parents[1])]


def read_manifest(path: Path) -> object:
    from data_prep.manifest import Manifest

    return Manifest.load(path.parent)


def read_prepared(path: Path) -> object:
    """A whole set, all of whose files are as prepared but the manifest."""
    import crash_points

    from allconv_caffe.train import data
    from allconv_caffe.visualize.sources import open_images
    from data_prep.verify import verify

    if not Path("whole").exists():
        Path("whole").mkdir()
        crash_points.old_set(Path("whole"))
    folder = Path("whole") / "set"
    (folder / "manifest.json").write_bytes(path.read_bytes())
    for use in (data.prepared, verify, lambda it: open_images(it / "test_lmdb", (3, 32, 32), None)):
        try:
            use(folder)  # type: ignore[operator]
        except PlacedError as error:
            refused = error
        else:
            refused = None
    if refused is not None:
        raise refused
    return str(verify(folder))


def read_state(path: Path) -> object:
    """A run that goes on; its engine stops at once."""
    from allconv_caffe.report import plots
    from allconv_caffe.train import data, run, sweep
    from allconv_caffe.train.settings import RunSettings

    place = Path.cwd() / "data"
    found = data.PreparedData(
        folder=place, train_lmdb=place / "train_lmdb", test_lmdb=place / "test_lmdb", display_name="x", classes=10,
        n_train=640, n_test=400, shape=(3, 32, 32), checksums={}, official=False,
    )  # fmt: skip
    data.ensure = lambda *_, **__: found
    plots.curves = lambda *_: b""

    def stopped(self: run._Run, attempt: dict[str, Any]) -> str:
        for name, text in self.plan.files(attempt["seed"]).items():
            (self.folder / name).write_text(text)
        (self.folder / "log").touch()
        return "interrupted"

    run._Run._train = stopped  # type: ignore[method-assign]
    settings = RunSettings(engine="torch", gpu="none", epochs=4, root=Path.cwd(), retries=2)

    def go() -> Path:
        planned = run.plan(run.own.subject("cifar10-allcnn-c", settings.root), settings, lambda _: None)
        planned.folder.mkdir(parents=True, exist_ok=True)
        (planned.folder / "log").write_bytes(log())
        (planned.folder / "state.json").write_bytes(path.read_bytes())
        (planned.folder / "attempt-1").mkdir(exist_ok=True)
        return planned.folder

    folder = go()
    sweep._state(folder)
    sweep._tried(folder)
    return run.run("cifar10-allcnn-c", settings, lambda _: None)


def read_outcome(path: Path) -> object:
    from allconv_caffe.train import job

    return job.read_outcome(path.parent)


def read_lease(path: Path) -> object:
    """Whoever takes the folder next."""
    from allconv_caffe.train import lease

    lease.DEAD_SECONDS = -1.0
    lease.holder(path.parent)
    taken = lease.Lease(path.parent, 0, lambda _: None)
    taken.release()
    for made in path.parent.iterdir():
        made.unlink()
    return None


def read_run(path: Path) -> object:
    """A run that becomes a model, is classified with, and evaluated."""
    import crash_points

    from allconv_caffe import zoo
    from allconv_caffe.train import record

    whole = Path("whole")
    if not whole.exists():
        whole.mkdir()
        crash_points.finished_run(whole)
        for name in ("result.json", "settings.json"):
            shutil.copy(whole / "runs" / "one" / name, whole / name)
    run = whole / "runs" / "one"
    for name in ("result.json", "settings.json"):
        shutil.copy(whole / name, run / name)
    shutil.copy(path, run / path.name)
    shutil.rmtree(whole / "models", ignore_errors=True)
    for use in (lambda: zoo.find(run, root=whole), lambda: record.device_of(run), lambda: record.read_result(run)):
        with suppress(PlacedError):
            use()  # type: ignore[operator]
    return zoo.add(run, whole / "models", root=whole)


def read_log(path: Path) -> object:
    from allconv_caffe.report import beside
    from allconv_caffe.report.log import parse_log

    parse_log(path)
    return beside.read(str(path))


# what is done to it ---------------------------------------------------------------------------------------------------
def json_mutants(raw: bytes, rng: random.Random, count: int) -> Iterator[hostile.Mutant]:
    """Entries of other kinds, gone, added, at any depth; now and then other bytes."""
    for _ in range(count):
        if rng.random() < 0.2:
            yield from hostile.byte_mutants(raw, rng, 1, page=8)
            continue
        content = json.loads(raw)
        said = []
        for _ in range(rng.choice((1, 1, 2))):
            place, where = content, []
            while isinstance(place, (dict, list)) and place:
                key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
                where.append(str(key))
                if rng.random() < 0.6 or not isinstance(place[key], (dict, list)) or not place[key]:
                    odd = rng.choice(ODD)
                    said.append(f"{'.'.join(where)} is {odd!r}")
                    if rng.random() < 0.1:
                        del place[key]
                    else:
                        place[key] = copy.deepcopy(odd)  # of which the next mutation may take a part
                    break
                place = place[key]
        yield ", ".join(said), json.dumps(content).encode()


def array_mutants(raw: bytes, rng: random.Random, count: int) -> Iterator[hostile.Mutant]:
    """Arrays of other types and shapes under the same names, gone, added; now and then other bytes."""
    kinds = ("f4", "f8", "i4", "i8", "u1", "?", "U3", "S2", "c8", ">f4", "M8[s]")
    with np.load(io.BytesIO(raw)) as file:
        arrays = dict(file)
    for _ in range(count):
        if rng.random() < 0.3:
            yield from hostile.byte_mutants(raw, rng, 1)
            continue
        name = rng.choice(list(arrays))
        shape = rng.choice([arrays[name].shape, (), (0,), (3,), (2, 2), (1, 2, 3), (0, 4), (5, 0)])
        kind = rng.choice([arrays[name].dtype.str, *kinds])
        fill = rng.choice(["0", "1", "7"]) if kind[-2:] != "4]" else "0"
        changed = dict(arrays)
        if arrays[name].dtype.kind == "U" and arrays[name].shape == () and rng.random() < 0.5 and name == "head":
            said, text = next(json_mutants(str(arrays[name]).encode(), rng, 1))
            changed[name] = np.array(text.decode("utf-8", "replace"))
        else:
            said = f"{kind} {shape}"
            changed[name] = np.full(shape, int(fill)).astype(kind)
        out = io.BytesIO()
        np.savez(out, **changed)
        yield f"{name}: {said}", out.getvalue()


def scan() -> bytes:
    from test_npz import save_topk

    return saved(lambda path: save_topk(path.with_suffix(".npz")) or path.with_suffix(".npz").rename(path))


def some_bytes(raw: bytes, rng: random.Random, count: int) -> Iterator[hostile.Mutant]:
    return hostile.byte_mutants(raw, rng, count, page=16)


def some_text(raw: bytes, rng: random.Random, count: int) -> Iterator[hostile.Mutant]:
    return hostile.text_mutants(raw.decode(), rng, count)


def some_fields(tree_: dict[int, object]) -> Callable[[bytes, random.Random, int], Iterator[hostile.Mutant]]:
    def mutants(raw: bytes, rng: random.Random, count: int) -> Iterator[hostile.Mutant]:
        found = list(hostile.wire_mutants(raw, tree_, rng, 0))
        rng.shuffle(found)
        for i in range(count):
            if i % 3 and found:
                yield found.pop()
            else:
                yield from hostile.byte_mutants(raw, rng, 1)

    return mutants


FORMATS: dict[
    str, tuple[Callable[[], bytes], str, Reader, Callable[[bytes, random.Random, int], Iterator[hostile.Mutant]]]
] = {
    "prototxt": (net, "x.prototxt", read_net, some_text),
    "solver": (
        lambda: (HERE.parents[1] / "solvers/cifar10-allcnn-c/solver.prototxt").read_bytes(),
        "x",
        read_solver,
        some_text,
    ),
    "caffemodel": (lambda: weights("caffemodel"), "x.caffemodel", read_weights, some_fields(hostile.NETS)),
    "hdf5": (lambda: weights("h5"), "x.caffemodel.h5", read_weights, some_bytes),
    "solverstate": (solver_state(""), "x_iter_2.solverstate", read_solver_state, some_fields(hostile.STATES)),
    "solver-hdf5": (solver_state(".h5"), "x_iter_2.solverstate.h5", read_solver_state, some_bytes),
    "binaryproto": (mean, "x.binaryproto", read_mean, some_fields({7: {}})),
    "lmdb": (database, "data.mdb", read_database, some_bytes),
    "pickle": (lambda: batch(2), "data_batch_1", read_batch, some_bytes),
    "pickle0": (lambda: batch(0), "data_batch_1", read_batch, some_bytes),
    "pickle4": (lambda: batch(4), "data_batch_1", read_batch, some_bytes),
    "names": (
        lambda: pickle.dumps({"label_names": ["a", "b"], "data_set_name": "x"}, 2),
        "batches.meta",
        read_names,
        some_bytes,
    ),
    "tar": (lambda: packed_tar("w"), "x.tar", read_archive, some_bytes),
    "tar.gz": (lambda: packed_tar("w:gz"), "x.tar.gz", read_packed, some_bytes),
    "zip": (packed_zip, "x.zip", read_archive, some_bytes),
    "whitening": (whitening, "whitening.npz", read_whitening, array_mutants),
    "scan": (scan, "topk.npz", read_scan, array_mutants),
    "png": (lambda: picture(".png"), "x.png", read_picture, some_bytes),
    "jpeg": (lambda: picture(".jpg"), "x.jpg", read_picture, some_bytes),
    "webp": (lambda: picture(".webp"), "x.webp", read_picture, some_bytes),
    "tiff": (lambda: picture(".tif"), "x.tif", read_picture, some_bytes),
    "result": (result, "run/result.json", read_result, json_mutants),
    "settings": (run_settings, "run/settings.json", read_result, json_mutants),
    "card": (card, "models/m/card.json", read_card, json_mutants),
    "manifest": (manifest, "set/manifest.json", read_manifest, json_mutants),
    "prepared": (prepared_manifest, "set/manifest.json", read_prepared, json_mutants),
    "state": (state, "x/state.json", read_state, json_mutants),
    "outcome": (outcome, "job/outcome.json", read_outcome, json_mutants),
    "lease": (lease, "x/.lease-000001", read_lease, json_mutants),
    "run-result": (of_a_run("result.json"), "x/result.json", read_run, json_mutants),
    "run-settings": (of_a_run("settings.json"), "x/settings.json", read_run, json_mutants),
    "log": (log, "run/log", read_log, some_text),
}
"""By name: a good file, what it is called, who reads it, how it is mutated."""


# one after the other --------------------------------------------------------------------------------------------------
class TooSlow(BaseException):
    pass


def judge(path: Path, read: Reader, seconds: float = SECONDS) -> str:
    """ "taken", "refused", or what no user should see."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        read(path)
    except PlacedError as error:
        said = str(error)
        if "\n" in said or len(said) > MOST_LETTERS:
            return f"{len(said)} letters in {said.count(chr(10)) + 1} lines: {said[:300]!r}"
        return "refused"
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "taken"


def child(name: str, seed: int, first: int, count: int) -> None:
    """Reads mutants number `first` and on; a line of JSON before each and after it."""

    def too_slow(*_: object) -> None:
        raise TooSlow

    faulthandler.enable()
    make, file, read, mutants = FORMATS[name]
    raw = make()
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    if name in ("caffemodel", "hdf5"):
        Path("net.prototxt").write_bytes(net())
    if name in ("result", "settings"):
        path.with_name("log").write_bytes(log())
    signal.signal(signal.SIGALRM, too_slow)
    print(json.dumps({"good": judge(path, read, FIRST_SECONDS)}), flush=True)
    hostile.bound_memory()
    for i, (said, mutant) in enumerate(mutants(raw, random.Random(f"{name} {seed}"), first + count)):
        if i < first:
            continue
        print(json.dumps({"begins": i, "said": said}), flush=True)
        path.write_bytes(mutant)
        found = judge(path, read)
        if TooSlow.__name__ in found:  # the machine may have had other work; what hangs hangs again
            found = judge(path, read, 3 * SECONDS)
        print(json.dumps({"is": found}), flush=True)


def fuzz(name: str, seed: int, first: int, count: int) -> tuple[dict[str, int], list[str]]:
    """How many mutants were taken and refused; and a text for each that was neither."""
    outcomes = {"taken": 0, "refused": 0}
    wrong: list[str] = []
    end = first + count
    while first < end:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                str(HERE / "fuzz_files.py"),
                "--child",
                name,
                str(seed),
                str(first),
                str(end - first),
            ]
            tests = HERE.parent
            places = (HERE.parents[1], tests, tests / "parity", HERE)
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), **hostile.BOUNDED}
            done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, errors="replace")
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            if not lines or lines[0].get("good") != "taken":
                said = f"{lines[:1]}, {ending(done.returncode)}: {done.stderr[-3000:]}"
                return outcomes, [f"{name}: the good file: {said}"]
            at = {"begins": first, "said": "before the first"}
            for line in lines[1:]:
                if "begins" in line:
                    at = line
                elif line["is"] in outcomes:
                    outcomes[line["is"]] += 1
                else:
                    wrong.append(f"{name} seed {seed} number {at['begins']} ({at['said']}):\n{line['is']}")
            if done.returncode == 0:
                break
            kept = Path(tempfile.gettempdir()) / f"fuzz-{name}-{seed}-{at['begins']}{Path(FORMATS[name][1]).suffix}"
            shutil.copyfile(Path(folder) / FORMATS[name][1], kept)
        wrong.append(
            f"{name} seed {seed} number {at['begins']} ({at['said']}): {ending(done.returncode)}; what it read is in {kept}; "
            f"it said last: {done.stderr[-2000:]}"
        )
        first = at["begins"] + 1
    return outcomes, wrong


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"


def main() -> int:
    """Returns: 1 if anything was neither taken nor refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000, help="mutants of each format (default: %(default)s)")
    parser.add_argument("--total", type=int, help="mutants of all formats together, in place of --count")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no round begins after them")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--only", default=",".join(FORMATS), metavar="FORMAT,FORMAT", help=", ".join(FORMATS))
    options = parser.parse_args()
    names = options.only.split(",")
    end = options.first + options.count if options.total is None else -(-options.total // len(names))
    until = time.monotonic() + 60 * options.minutes
    first = options.first
    table = {name: Counter(taken=0, refused=0, wrong=0) for name in names}
    while first < end and time.monotonic() < until:
        count = min(ROUND, end - first)
        for name in names:
            outcomes, wrong = fuzz(name, options.seed, first, count)
            table[name].update(outcomes, wrong=len(wrong))
            for text in wrong[:5]:
                print(text, file=sys.stderr)
            print(f"{name} {first} to {first + count - 1}: {outcomes}, {len(wrong)} wrong", file=sys.stderr)
        first += count
    print(f"{'format':<12} {'tried':>7} {'taken':>7} {'refused':>7} {'wrong':>7}")
    for name, found in table.items():
        print(f"{name:<12} {found.total():>7} {found['taken']:>7} {found['refused']:>7} {found['wrong']:>7}")
    tried = sum(found.total() for found in table.values())
    failed = sum(found["wrong"] for found in table.values())
    print(f"{'all':<12} {tried:>7} tried, {tried - failed} survived")
    if first < end:
        print(f"the time is over; --first {first} goes on")
    return int(failed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], *map(int, sys.argv[3:6]))
    else:
        sys.exit(main())
