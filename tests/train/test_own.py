"""A net of somebody's own, derived or written by hand, on the road of the experiments: run, record, sweep, report, zoo."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.databases import write_lmdb
from support.driver import fork_jobs, stand_in

from allconv_caffe import proto, zoo
from allconv_caffe.caffe_torch.lr_policy import learning_rate
from allconv_caffe.cli.answers import evaluate_run
from allconv_caffe.cli.main import main
from allconv_caffe.paper.derive import derive
from allconv_caffe.paper.errors import TableError
from allconv_caffe.proto import datum
from allconv_caffe.report import plots
from allconv_caffe.report.build import build
from allconv_caffe.train import own, process, run as driver, sweep
from allconv_caffe.train.plan import Plan, plan
from allconv_caffe.train.settings import DriverError, RunSettings
from data_prep import cifar, pipeline

SOLVER = """net: "mine/train_val.prototxt"
test_iter: 3
test_interval: 10
base_lr: 0.01
lr_policy: "step"
gamma: 0.5
stepsize: 12
momentum: 0.9
max_iter: 40
display: 5
snapshot: 10
snapshot_prefix: "mine/x"
"""
DATA = """layer { name: "images" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mean_value: 128 scale: 0.0078125 mirror: true }
  data_param { source: "photos/train_lmdb" batch_size: 10 backend: LMDB } }
layer { name: "images" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { mean_value: 128 scale: 0.0078125 }
  data_param { source: "photos/test_lmdb" batch_size: 8 backend: LMDB } }
"""
BODY = """layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 5 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "fc" type: "InnerProduct" bottom: "conv1" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""
ENDS = """layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


def images(count: int, size: int) -> list[bytes]:
    """One-channel records of three classes that differ in their brightness: 40, 120 and 200, and some noise."""
    labels = np.arange(count) % 3
    noise = np.random.default_rng(count).integers(0, 30, (count, 1, size, size))
    pixels = (noise + 40 + 80 * labels.reshape(-1, 1, 1, 1)).astype(np.uint8)
    return [bytes(record) for record in datum.encode(pixels, labels)]


class World:
    """A project's root with 60 and 24 photographs of 20x20 pixels in LMDBs of no set, and a net for them in ``mine/``.

    Both are made where they are not there yet.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.lines: list[str] = []
        if (home / "photos").exists():
            return
        (home / "photos").mkdir()
        for split, count in (("train", 60), ("test", 24)):
            write_lmdb(home / "photos" / f"{split}_lmdb", images(count, 20))
        (home / "mine").mkdir()
        self.write()

    def write(self, solver: str = SOLVER, net: str = 'name: "Mine"\n' + DATA + BODY + ENDS) -> None:
        (self.home / "mine/solver.prototxt").write_text(solver)
        (self.home / "mine/train_val.prototxt").write_text(net)

    def settings(self, **changes: Any) -> RunSettings:
        return RunSettings(**{"engine": "torch", "root": self.home, "gpu": "none", "threads": 1, **changes})

    def plan(self, word: str = "mine", **changes: Any) -> Plan:
        self.lines.clear()
        return plan(own.subject(word, self.home), self.settings(**changes), self.lines.append)

    def run(self, word: str = "mine", **changes: Any) -> driver.RunResult:
        self.lines.clear()
        return driver.run(word, self.settings(**changes), self.lines.append)

    @property
    def said(self) -> str:
        return "\n".join(self.lines)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(process, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(plots, "curves", lambda *_: b"drawn")
    return World(tmp_path)


RUN = ("run", "mine", "--engine", "torch", "--gpu", "none", "--threads", "1")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A world after `allconv run mine --json`, and what that said."""
    home = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(process, "POLL_SECONDS", 0.02)
        World(home)
        ended = CliRunner().invoke(main, [*RUN, "--json"])
    assert ended.exit_code == 0, ended.output
    return home, ended


@pytest.fixture
def ran(once: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch) -> World:
    """That world, for what leaves it as it is: at another place it would be another run."""
    monkeypatch.chdir(once[0])
    return World(once[0])


@pytest.fixture
def copied(once: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run's folder in a copy of that world."""
    shutil.copytree(once[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return folder_of(tmp_path)


def folder_of(home: Path) -> Path:
    """The one run."""
    (result,) = (home / "runs").rglob("result.json")
    return result.parent


def solver_of(found: Plan, seed: int = 1) -> Any:
    """The solver as it would be run."""
    return proto.parse_text(found.files(seed)["solver.prototxt"], proto.SolverParameter)


def net_of(found: Plan) -> Any:
    return proto.parse_text(found.files(1)["train_val.prototxt"], proto.NetParameter)


def test_a_net_written_by_hand_is_trained_tested_and_recorded(ran: World) -> None:
    """Grey images of 20x20 and three classes: a record of what they are, a deploy net, a row of the report; done once."""
    ended = ran.run()
    found = ended.record
    assert ended.status == "done" and found is not None and "already done" in ran.said
    # 40 iterations of 10 in 60 images; brightness alone tells the classes apart
    assert (found.experiment, found.model, found.dataset, found.classes) == ("mine", "Mine", "photos", 3)
    assert (found.max_iter, found.n_train, found.n_test, found.batch_size) == (40, 60, 24, 10)
    assert found.epochs == pytest.approx(40 / 6, rel=1e-5) and found.lr == 0.01 and found.assumptions == []
    # conv1 has 4 x 25 + 4, and leaves 8x8; fc has 3 x 256 + 3
    assert found.parameters == 104 + 771
    assert found.error_percent is not None and found.error_percent < 40
    deploy = proto.read_net(ended.directory / "deploy.prototxt")
    assert list(deploy.layer[0].input_param.shape[0].dim) == [1, 1, 20, 20]
    assert [layer.type for layer in deploy.layer] == ["Input", "Convolution", "ReLU", "InnerProduct", "Softmax"]
    text = build([ran.home / "runs"], ran.home / "report")
    row = next(line for line in text.partition("Other networks")[2].splitlines() if line.startswith("| Mine"))
    assert f"| {found.error_percent:.2f} % | – | 875 | 6.66667 | 0.01 | 10 | 1 | photos | torch" in row


def test_a_derived_net_takes_the_whole_road(world: World) -> None:
    """`allconv derive`, a few iterations on a small whitened set, report, and a model whose error is measured again."""
    labels = np.arange(60) % 10
    pictures = np.random.default_rng(0).integers(0, 256, (60, 3, 32, 32), np.uint8)
    archive = cifar.write_python_archive(
        world.home / "a.tar.gz", pictures[:40], labels[:40], pictures[40:], labels[40:], list("abcdefghij")
    )
    pipeline.prepare(archive, world.home / "data/cifar10", preprocessing="gcn", progress=False)
    derive("model_c", world.home / "build/small", width_multiplier=0.05, root=world.home)
    ended = world.run("build/small", epochs=1.0, batch_size=10, lr=0.001, command="allconv run build/small")
    found = ended.record
    assert found is not None and (ended.status, found.max_iter, found.lr, found.batch_size) == ("done", 4, 0.001, 10)
    assert "build/small/solver.prototxt: a test takes 10000 images of 20, each of which is tested once" in world.lines
    solver = proto.read_solver(ended.directory / "solver.prototxt")
    assert (list(solver.test_iter), solver.solver_mode) == ([1], proto.SolverParameter.CPU)
    assert solver.net == str((ended.directory / "train_val.prototxt").relative_to(world.home))
    card = zoo.add(ended.directory, world.home / "models", root=world.home)
    assert card.facts["test_error_percent"] == found.error_percent and "not the paper's" not in zoo.page(card.facts)
    assert zoo.verify("small", world.home / "data/cifar10", world.home / "models") == []
    assert "| model_c (preprocessing gcn) |" in build([world.home / "runs"], None)


def test_a_net_of_a_fork_is_trained_and_called_one(world: World) -> None:
    """Its fields are in what is run; a line says what BVLC Caffe would not take."""
    norm = 'layer { name: "bn" type: "BatchNorm" bottom: "conv1" top: "conv1" batch_norm_param { scale_bias: true } }\n'
    relu = 'layer { name: "relu1" type: "ReLU'
    assert relu in BODY
    world.write(net='name: "Mine"\n' + DATA + BODY.replace(relu, f"{norm}{relu}6") + ENDS)
    ended = world.run()
    assert ended.status == "done" and ended.record is not None
    assert ended.record.parameters == 104 + 771 + 4 * 4 + 1
    assert (
        world.lines.count(
            "BVLC Caffe would refuse this net, which needs a fork of it: scale_bias (that of NVCaffe); ReLU6 (that of MobileNet)"
        )
        == 1
    )
    assert "scale_bias: true" in (ended.directory / "train_val.prototxt").read_text()


def test_what_the_solver_says_is_run_unless_asked_otherwise(world: World) -> None:
    """Nothing asked: its own rate, iterations, batch and tests, but for paths, device and seed."""
    found = world.plan()
    solver = solver_of(found)
    wanted = proto.parse_text(SOLVER, proto.SolverParameter)
    wanted.net, wanted.snapshot_prefix = found.path(found.folder / "train_val.prototxt"), found.path(found.prefix)
    wanted.solver_mode, wanted.random_seed, wanted.snapshot_after_train = proto.SolverParameter.CPU, 1, True
    assert solver == wanted and solver_of(found, seed=4).random_seed == 4
    assert net_of(found) == proto.read_net(world.home / "mine/train_val.prototxt")
    assert found.folder.name == "seed1-epochs6.66667-torch-photos"


def test_rate_epochs_batch_and_solver_fields_may_be_given(world: World) -> None:
    """60 images by 20 for 4 epochs are 12 iterations; the steps of 12 of 40 iterations are 4 of 12."""
    found = world.plan(lr=0.5, epochs=4.0, batch_size=20, options={"momentum": 0.5, "display": 1, "snapshot": 6})
    solver = solver_of(found)
    assert (solver.max_iter, solver.stepsize, solver.display, solver.snapshot) == (12, 4, 1, 6)
    assert (solver.base_lr, solver.momentum) == (0.5, 0.5)
    assert net_of(found).layer[0].data_param.batch_size == 20
    words = "seed1-epochs4-torch-lr0.5-batch20-photos-display1-momentum0.5-snapshot6"
    assert found.folder.name == words and found.identity != world.plan().identity


def test_the_epochs_that_were_asked_for_name_the_run(world: World) -> None:
    """Four epochs of 60 images are no whole number of batches of 7: the iterations are rounded, the name is not."""
    found = world.plan(epochs=4.0, batch_size=7)
    assert solver_of(found).max_iter == 34
    assert found.folder.name.startswith("seed1-epochs4-torch") and found.taken["epochs"] == 4.0


def test_another_batch_alone_keeps_the_epochs(world: World) -> None:
    """Half the batch is twice the iterations."""
    solver = solver_of(world.plan(batch_size=5))
    assert (solver.max_iter, solver.stepsize) == (80, 24)


def test_iter_size_is_part_of_the_batch(world: World) -> None:
    """BATCH_SIZE is the images of an update: 20 are two rounds of 10."""
    world.write(SOLVER + "iter_size: 2\n")
    assert world.plan().batch_size == 20
    found = world.plan(batch_size=40)
    assert net_of(found).layer[0].data_param.batch_size == 20 and solver_of(found).max_iter == 20
    with pytest.raises(DriverError, match=r"^BATCH_SIZE=15: expected a multiple of iter_size 2 of solver\.prototxt$"):
        world.plan(batch_size=15)


@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        ("fixed", {}),
        ("step", {"stepsize": 10, "gamma": 0.5}),
        ("multistep", {"stepvalue": [10, 30], "gamma": 0.5}),
        ("exp", {"gamma": 0.98}),
        ("inv", {"gamma": 0.01, "power": 0.75}),
        ("poly", {"power": 2.0}),
        ("sigmoid", {"gamma": 0.1, "stepsize": 20}),
    ],
)
def test_a_stretched_schedule_takes_the_same_course(policy: str, fields: dict[str, Any]) -> None:
    """Three times as long: the rate at iteration 3 i is what it was at i, by the engine's own policies."""
    short = proto.SolverParameter(base_lr=0.1, lr_policy=policy, max_iter=40, **fields)
    long = proto.SolverParameter()
    long.CopyFrom(short)
    long.max_iter = 120
    own.stretch(long, Fraction(3))

    def rates(param: Any) -> list[float]:
        step, found = 0, []
        for iteration in range(param.max_iter):
            rate, step = learning_rate(param, iteration, step)
            found.append(rate)
        return found

    assert rates(long)[::3] == pytest.approx(rates(short), rel=1e-5)


def prepared(home: Path, name: str = "pictures") -> Path:
    """A prepared set of grey bytes of 20x20 pixels in two classes: 12 and 6 images, with their mean."""
    for split, count in (("train", 12), ("test", 6)):
        for number in range(count):
            path = home / name / split / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((20, 20), 80 * (number % 2) + number, np.uint8))
    out = home / "data" / name
    words = ["prep", "images", str(home / name), "--grey", "--resize", "20x20", "--preprocessing", "raw", "--quiet"]
    done = CliRunner().invoke(main, [*words, "--output", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_a_prepared_set_takes_the_place_of_the_sources(world: World) -> None:
    """--data: its LMDBs and mean, and a test that sees each of its images once; elsewhere it makes the same run."""
    net = DATA.replace("mean_value: 128", 'mean_file: "x"') + BODY + ENDS
    world.write(net=net)
    folder = prepared(world.home)
    found = world.plan(data=folder)
    layers = net_of(found).layer
    assert [layer.data_param.source for layer in layers[:2]] == ["data/pictures/train_lmdb", "data/pictures/test_lmdb"]
    assert {layer.transform_param.mean_file for layer in layers[:2]} == {"data/pictures/mean.binaryproto"}
    assert (layers[1].data_param.batch_size, list(solver_of(found).test_iter)) == (6, [1])
    assert (found.data.n_train, found.data.classes, found.batch_size) == (12, 2, 10)
    assert found.folder.name.startswith("seed1-epochs33.3333-torch-pictures-raw")
    folder.rename(world.home / "elsewhere")
    assert world.plan(data=world.home / "elsewhere").identity == found.identity
    held = world.plan(data=world.home / "elsewhere", validation=4, batch_size=4)
    assert (held.data.n_train, held.data.n_test, held.data.display_name) == (8, 4, "pictures, 4 held out")


def test_sources_that_are_a_prepared_set_are_known_as_one(world: World) -> None:
    """Data layers that name a set's LMDBs make the run that --data makes of it."""
    prepared(world.home)
    world.write(
        net=(DATA + BODY + ENDS).replace("photos/", "data/pictures/"), solver=SOLVER.replace("iter: 3", "iter: 1")
    )
    found = world.plan()
    assert (found.data.display_name, found.data.classes, bool(found.data.checksums)) == ("pictures", 2, True)
    assert "mine/solver.prototxt: a test takes 8 images of 6, each of which is tested once" in world.said
    assert found.identity == world.plan(data=world.home / "data/pictures").identity


def test_a_net_of_raw_pixels_becomes_a_model(world: World) -> None:
    """Without a whitening: the card says what is done to pixels, the mean lies beside it, and the error is measured again."""
    folder = prepared(world.home)
    world.write(net=(DATA.replace("mean_value: 128", 'mean_file: "x" crop_size: 18') + BODY + ENDS))
    ended = world.run(data=folder, epochs=10.0, batch_size=6)
    assert ended.record is not None
    made = zoo.add(ended.directory, world.home / "models", root=world.home)
    assert made.facts["whitening"] is None and made.facts["transform"] == {"scale": 0.0078125, "mean_value": []}
    assert (made.folder / "mean.binaryproto").read_bytes() == (folder / "mean.binaryproto").read_bytes()
    page = (made.folder / "README.md").read_text()
    assert "minus `mean.binaryproto`, times 0.0078125" in page and "whiten" not in page
    assert zoo.measure(made.folder, folder, batch_size=4) == ended.record.error_percent
    assert zoo.verify(made.folder, folder) == [] and zoo.cards(world.home / "models") == [made]
    with pytest.raises(zoo.ZooError, match="found a net of raw pixels, expected one with a whitening"):
        zoo.unpack(made.folder, world.home / "w.npz")
    (made.folder / "mean.binaryproto").unlink()
    assert zoo.verify(made.folder) == [f"{made.folder / 'mean.binaryproto'}: missing"]


def test_a_run_ends_with_its_confusion_matrix(ran: World, once: tuple[Path, Result]) -> None:
    """`allconv run`: matrix, table and sheet in the run's folder, errors by class in its record, links in the report; once."""
    folder = folder_of(ran.home)
    record = json.loads((folder / "result.json").read_text())
    rows = [line.split(",") for line in (folder / "evaluation/confusion.csv").read_text().splitlines()]
    matrix = np.array([[int(cell) for cell in row[1:-1]] for row in rows[1:]])
    assert matrix.sum() == 24 and (matrix.sum(axis=1) == 8).all()
    assert 100 * (1 - np.trace(matrix) / 24) == pytest.approx(record["test_error_percent"], abs=1e-3)
    assert record["class_errors_percent"] == {row[0]: pytest.approx(float(row[-1]), abs=0.01) for row in rows[1:]}
    for name in ("confusion.png", "wrong.png"):
        assert cv2.imread(str(folder / "evaluation" / name)) is not None
    assert once[1].stderr.splitlines()[-1].startswith(f"confusion matrix, and what is most surely wrong: {folder}")
    page = build([Path("runs")], Path("report"))
    html = Path("report/report.html").read_text()
    assert "evaluation/confusion.png" in html and "evaluation/wrong.png" in page
    before = (folder / "evaluation/evaluation.json").stat().st_mtime_ns
    again = CliRunner().invoke(main, RUN)
    assert "confusion" not in again.output and (folder / "evaluation/evaluation.json").stat().st_mtime_ns == before


def test_a_run_says_little_or_speaks_to_programs(ran: World, once: tuple[Path, Result]) -> None:
    """`--quiet`: how it ended, in one line; `--json`: its record on standard output, the rest on standard error."""
    folder = folder_of(ran.home)
    record = {"directory": str(folder), **json.loads((folder / "result.json").read_text())}
    assert json.loads(once[1].stdout) == record and "run directory" in once[1].stderr
    quiet = CliRunner().invoke(main, [*RUN, "--quiet"])
    assert quiet.stdout.count("\n") == 1 and quiet.stdout.startswith("Mine on photos: test error ")


def test_a_grid_ends_with_the_confusion_matrix_of_each_run(world: World) -> None:
    """`allconv sweep`: what `allconv run` makes of each, by the run's own process, and a page that leads to all of them; once."""
    words = ["sweep", "mine", "--engine", "torch", "--gpu", "none", "--threads", "1", "--lr", ".01,.02", "--jobs", "2"]
    first = CliRunner().invoke(main, [*words, "--json"])
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    folders = [Path(one["directory"]) for one in found["runs"]]
    assert [one["point"] for one in found["runs"]] == [{"lr": 0.01}, {"lr": 0.02}] and found["status"] == "done"
    errors = {one["point"]["lr"]: one["error_percent"] for one in found["runs"]}
    assert found["best"]["mine"]["mean_error_percent"] == min(errors.values())
    page = Path(found["page"]).read_text()
    for folder in folders:
        record = json.loads((folder / "result.json").read_text())
        assert sum(record["class_errors_percent"].values()) / 3 == pytest.approx(record["test_error_percent"], abs=0.01)
        assert f"{folder.name}/evaluation/confusion.png" in page
    files = [folder / "evaluation/evaluation.json" for folder in folders]
    before = [file.stat().st_mtime_ns for file in files]
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 0 and "2 runs, 0 to do" in again.stdout
    assert "a page of each of them: runs/sweep/report/report.html" in again.stdout
    assert [file.stat().st_mtime_ns for file in files] == before


def test_where_no_confusion_matrix_can_be_a_line_says_why(copied: Path) -> None:
    """A real Caffe's run, a net fed otherwise, scores at several places, test images that are gone: the run stays what it is."""
    folder = copied
    shutil.rmtree(folder / "evaluation")
    said: list[str] = []
    kept = {name: (folder / name).read_text() for name in ("result.json", "train_val.prototxt", "deploy.prototxt")}

    def line(name: str, old: str, new: str) -> str:
        assert old in kept[name]
        (folder / name).write_text(kept[name].replace(old, new))
        evaluate_run(folder, said.append)
        (folder / name).write_text(kept[name])
        return said.pop()

    assert line("result.json", '"engine": "torch"', '"engine": "caffe"') == (
        f"no confusion matrix of a real Caffe's run; allconv evaluate {folder} --data SET --output {folder}/evaluation makes one"
    )
    assert line("train_val.prototxt", 'type: "Data"', 'type: "ImageData"') == (
        "no confusion matrix: no Data layer feeds the test"
    )
    assert line("train_val.prototxt", "photos/test_lmdb", "gone") == (
        "no confusion matrix: gone: found nothing, expected an LMDB environment, a folder of images, or an image"
    )
    assert not said and not (folder / "evaluation").exists()
    assert (folder / "result.json").read_text() == kept["result.json"]


def test_a_run_and_its_model_know_what_is_done_to_pixels(copied: Path) -> None:
    """`predict` without --mean and --scale: those of the run's data layer, and of the card."""
    folder = copied
    zoo.add(folder, name="grey")
    assert cv2.imwrite("photo.png", np.full((20, 20), 130, np.uint8))

    def said(*words: str) -> str:
        out = CliRunner().invoke(main, ["predict", *words, "photo.png", "--json"])
        assert out.exit_code == 0, out.output
        return out.stdout

    right = said(str(folder), "--mean", "128", "--scale", "0.0078125")
    assert said(str(folder)) == right == said("models/grey")
    assert said(str(folder), "--scale", "1") == said(str(folder), "--mean", "128") != right


def test_another_net_is_another_run(ran: World) -> None:
    """One layer changed: the same name of the directory, which gets a digest behind it."""
    first = folder_of(ran.home)
    ran.write(net=DATA + BODY.replace("num_output: 4", "num_output: 5") + ENDS)
    second = ran.plan().folder
    ran.write()
    assert ran.plan().folder == first
    assert second.name.startswith(first.name + "-") and second.parent == first.parent == ran.home / "runs/mine"


@pytest.fixture
def bench(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """With a stand-in for caffe."""
    monkeypatch.setenv("CAFFE", str(stand_in(world.home)))
    fork_jobs(monkeypatch)
    behave(world)
    return world


def behave(world: World, **behaviour: object) -> None:
    (world.home / "behaviour").write_text(json.dumps({"gpu": False, **behaviour}))


def test_a_run_of_a_folder_goes_on_after_a_crash(bench: World) -> None:
    """The same command goes on from the newest snapshot."""
    behave(bench, **{"1": {"crash_at": 25}})
    with pytest.raises(DriverError, match="the engine failed"):
        bench.run(engine="caffe")
    assert bench.run(engine="caffe").status == "done"
    assert "continuing from iteration 20 of 40" in bench.said


def test_a_dead_training_of_a_folder_is_stopped(bench: World) -> None:
    """The rule judges by the data's own classes, and the next seed is tried."""
    behave(bench, **{"1": {"nan_from": 5}})
    ended = bench.run(engine="caffe", retries=1)
    assert ended.status == "done" and ended.record is not None and ended.record.seed == 2
    assert [attempt["status"] for attempt in ended.record.attempts] == ["dead", "done"]


def test_a_grid_goes_over_folders_and_experiments(bench: World) -> None:
    """`allconv sweep FOLDER --lr ...`: a row of the table for the folder, its runs ordinary ones."""
    asked = sweep.Grid(
        experiments=("mine",),
        lists={"lr": [".1,.01"], "engine": ["caffe"]},
        settings=RunSettings(root=bench.home, gpu="none"),
        jobs=2,
    )
    assert [job.command for job in asked.runs()] == [
        f"allconv run mine --engine caffe --lr {lr} --gpu none" for lr in ("0.1", "0.01")
    ]
    lines: list[str] = []
    ended = sweep.run(asked, lines.append)
    assert ended.counts == {"done": 2}
    assert "| mine | 10.00 % | 10.00 % | lr 0.1 | 10.00 % | – |" in ended.lines
    assert {Path(outcome.directory).parent for outcome in ended.outcomes.values()} == {bench.home / "runs/mine"}


def test_plain_epochs_have_their_own_solver(world: World) -> None:
    """A folder with solver_plain.prototxt, as `derive` writes for Large-All-CNN: one after the other, to the last iteration."""
    (world.home / "mine/solver_plain.prototxt").write_text(SOLVER.replace("max_iter: 40", "max_iter: 60"))
    found = world.plan(lr=0.02)
    assert found.prototxt.stages == (("solver.prototxt", 40), ("solver_plain.prototxt", 60)) and found.max_iter == 60
    plain = proto.parse_text(found.files(1)["solver_plain.prototxt"], proto.SolverParameter)
    assert plain.base_lr == pytest.approx(0.02)
    with pytest.raises(DriverError, match=r"^EPOCHS: found two solvers in .*, expected one to stretch"):
        world.plan(epochs=2.0)


WHERE = "mine/train_val.prototxt"


@pytest.mark.parametrize(
    ("change", "settings", "text"),
    [
        (("max_iter: 40", "max_iter: 0"), {}, "mine/solver.prototxt: found max_iter 0, expected more than 0"),
        (("base_lr: 0.01", ""), {}, "mine/solver.prototxt: found base_lr 0, expected more than 0"),
        (
            ("net:", "train_net:"),
            {},
            "mine/solver.prototxt: found train_net, expected net: the driver runs train_val.prototxt beside it",
        ),
        (
            ("display: 5", "snapshot_format: HDF5"),
            {},
            "mine/solver.prototxt: found snapshot_format HDF5, expected BINARYPROTO, from which the driver goes on",
        ),
        (
            ("test_iter: 3", "test_iter: 3 test_iter: 4"),
            {},
            "mine/solver.prototxt: found several test nets, expected one",
        ),
        (
            ('top: "accuracy"', 'top: "acc"'),
            {},
            WHERE
            + ": found Accuracy with the top acc in the TEST phase, expected one with the top accuracy: the error "
            "is taken from it",
        ),
        (
            (ENDS.splitlines()[0], ""),
            {},
            WHERE
            + ": found no Accuracy layer in the TEST phase, expected one with the top accuracy: the error is taken "
            "from it",
        ),
        (
            ("photos/test_lmdb", "nowhere"),
            {},
            WHERE + ": layer 'images': found no LMDB at nowhere, expected one, or a prepared set (--data)",
        ),
        (
            (DATA, 'layer { name: "d" type: "DummyData" top: "data" top: "label" }\n'),
            {},
            WHERE
            + ": layer 'd': found DummyData without a source and a batch_size, expected a layer that names its images "
            "(choices: Data, ImageData, HDF5Data, Python (AugmentedData))",
        ),
        (
            ("include { phase: TEST }\n  transform_param", "include { phase: TRAIN }\n  transform_param"),
            {},
            WHERE
            + ": found no data layer in the TEST phase (choices: Data, ImageData, HDF5Data, Python (AugmentedData))",
        ),
        (
            (
                DATA,
                DATA.replace(" include { phase: TRAIN }", "").partition(
                    'layer { name: "images" type: "Data" top: "data" top: "label" include'
                )[0],
            ),
            {},
            WHERE + ": layer 'images': found one data layer for both phases, expected one for each phase",
        ),
        (("num_output: 3", "num_output: 1"), {}, WHERE + ": found scores of 1 class, expected at least 2"),
        (
            ("", ""),
            {"options": {"filler": "msra"}},
            "option filler: found msra, expected an option of the solver: the net is that of mine/train_val.prototxt "
            "(choices: momentum, weight_decay, clip_gradients, display, test_interval, snapshot)",
        ),
        (("", ""), {"batch_size": 61}, "BATCH_SIZE=61: expected at most 60 images"),
        (("", ""), {"data": Path("nowhere")}, "DATA=nowhere: found nothing there, expected a prepared set"),
        (
            ("", ""),
            {"data": Path("photos")},
            "DATA=photos: found no prepared set, expected what `allconv prep` makes of a source",
        ),
    ],
)
def test_what_cannot_be_run_is_one_line(
    world: World, change: tuple[str, str], settings: dict[str, Any], text: str
) -> None:
    """Where, what was found, what was expected; nothing is written."""
    for name in ("solver.prototxt", "train_val.prototxt"):
        path = world.home / "mine" / name
        if change[0]:
            path.write_text(path.read_text().replace(*change))
    with pytest.raises(DriverError) as caught:
        world.plan(**settings)
    assert str(caught.value) == text
    assert not (world.home / "runs").exists()


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (
            "some/where",
            "some/where: found nothing there, expected a folder with solver.prototxt and train_val.prototxt",
        ),
        ("empty", "empty: found no solver.prototxt, expected solver.prototxt and train_val.prototxt"),
        (
            "solvers/cifar10-allcnn-c",
            "solvers/cifar10-allcnn-c: found a folder called 'cifar10-allcnn-c', expected a name of its own, or "
            "`allconv run cifar10-allcnn-c`",
        ),
        ("report", "report: found a folder called 'report', expected a name of its own"),
    ],
)
def test_a_word_that_is_no_net_is_one_line(word: str, text: str, world: World) -> None:
    """A folder without a net, one named like an experiment or a folder of runs, and nothing at all."""
    for name in ("empty", "solvers/cifar10-allcnn-c", "report"):
        (world.home / name).mkdir(parents=True)
    with pytest.raises(DriverError) as caught:
        own.subject(word, world.home)
    assert str(caught.value) == text


def test_a_name_is_an_experiment_before_it_is_a_folder(world: World) -> None:
    """A folder in the working directory does not hide an experiment; an unknown word names the experiments."""
    (world.home / "cifar10-allcnn-c").mkdir()
    assert not isinstance(own.subject("cifar10-allcnn-c", world.home), own.OwnNet)
    with pytest.raises(TableError, match="found 'nope', expected the name of an experiment"):
        own.subject("nope", world.home)


def test_more_classes_than_the_net_has_scores_are_refused(world: World) -> None:
    """A set of two classes for a net of three is trained; one of four is not."""
    folder = prepared(world.home)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"classes": 4, "class_names": list("abcd")}
    manifest["class_counts"] = {split: [*counts, 0, 0] for split, counts in manifest["class_counts"].items()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        DriverError, match=r"pictures: found 4 classes, expected at most the 3 of .*train_val\.prototxt$"
    ):
        world.plan(data=folder)
