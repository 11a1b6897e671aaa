"""Every rendered prototxt in real Caffe: it parses and constructs, it trains from our LMDB, its weights pass both ways."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.databases import write_lmdb

from allconv_caffe import proto
from allconv_caffe.caffe_torch.summary import summarize
from allconv_caffe.paper import datasets, experiments
from allconv_caffe.proto import datum
from allconv_caffe.train import run as driver
from allconv_caffe.train.settings import RunSettings
from data_prep import cifar, pipeline

ROOT = Path(__file__).resolve().parents[2]
CAFFE = ROOT / ".caffe" / "bin" / "caffe"
PYTHON = ROOT / ".caffe" / "bin" / "python"

pytestmark = pytest.mark.caffe

CONSTRUCT = """
import gc, json, os, sys
os.environ["GLOG_minloglevel"] = "2"
import caffe
found = {}
for line in sys.stdin:
    file, phase = line.split()
    net = caffe.Net(file, getattr(caffe, phase))
    found[file + " " + phase] = {
        "layers": [[name, layer.type, [list(blob.shape) for blob in layer.blobs]]
                   for name, layer in zip(net._layer_names, net.layers)],
        "tops": {name: list(blob.shape) for name, blob in net.blobs.items()},
    }
    del net
    gc.collect()
json.dump(found, open(sys.argv[1], "w"))
"""


def _databases(root: Path) -> None:
    """A tiny LMDB of the right shape at every path that a committed file names."""
    rng = np.random.default_rng(0)
    for dataset in datasets.DATASETS.values():
        raw = dataset.scale != 1 or dataset.mean_value or dataset.mean_file or dataset.augmented
        for path in (dataset.train_lmdb, dataset.test_lmdb):
            (root / path).mkdir(parents=True)
            images = rng.integers(0, 256, (2, *dataset.shape), np.uint8)
            records = datum.encode(images if raw else images.astype(np.float32), np.arange(2))
            write_lmdb(root / path, map(bytes, records))
        if dataset.mean_file:
            mean = proto.BlobProto(num=1, data=np.zeros(int(np.prod(dataset.shape)), np.float32))
            mean.channels, mean.height, mean.width = dataset.shape
            (root / dataset.mean_file).write_bytes(mean.SerializeToString())


@pytest.fixture(scope="module")
def constructed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What pycaffe made of each committed file, all in one process whose root holds data of the right shapes."""
    root = tmp_path_factory.mktemp("root")
    _databases(root)
    (root / "solvers").symlink_to(ROOT / "solvers")
    lines = []
    for name in experiments.EXPERIMENTS:
        lines += [f"solvers/{name}/train_val.prototxt {phase}" for phase in ("TRAIN", "TEST")]
        lines.append(f"solvers/{name}/deploy.prototxt TEST")
    done = subprocess.run(
        [str(PYTHON), "-c", CONSTRUCT, "found.json"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input="\n".join(lines),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((root / "found.json").read_text())


@pytest.mark.parametrize("experiment", experiments.EXPERIMENTS)
@pytest.mark.parametrize(
    ("file", "phase"), [("train_val", "TRAIN"), ("train_val", "TEST"), ("deploy", "TEST")], ids=" ".join
)
def test_real_caffe_constructs_every_committed_net(
    experiment: str, file: str, phase: str, constructed: dict[str, Any]
) -> None:
    """Layer by layer the real net has the types, map sizes and parameters that `allconv summary` computes."""
    path = f"solvers/{experiment}/{file}.prototxt"
    real = constructed[f"{path} {phase}"]
    size = experiments.EXPERIMENTS[experiment].dataset.input_size
    ours = summarize(ROOT / path, phase, input_shape=(3, size, size))
    layers = [
        (name, kind, sum(int(np.prod(shape)) for shape in blobs))
        for name, kind, blobs in real["layers"]
        if kind != "Split"
    ]
    assert layers == [(row.name, row.type, row.parameters) for row in ours.layers]
    for row in ours.layers:
        for top, shape in zip(row.tops, row.shapes, strict=True):
            assert tuple(real["tops"][top]) == shape, (row.name, top)


FLAGS = ("-executor", "plain", "-threads", "1")


class Trained:
    """All-CNN-C after a few iterations on a tiny data set of our making, by each engine through the driver."""

    def __init__(self, root: Path) -> None:
        self.root = root
        images = np.random.default_rng(4).integers(0, 256, (60, 3, 32, 32), np.uint8)
        labels = np.arange(60) % 10
        archive = cifar.write_python_archive(
            root / "made.tar.gz", images[:40], labels[:40], images[40:], labels[40:], list("abcdefghij")
        )
        pipeline.prepare(archive, root / "data" / "made", preprocessing="gcn", progress=False)
        self.ended, self.said = {}, {}
        for engine, flags in (("caffe", ()), ("torch", FLAGS)):
            lines: list[str] = []
            settings = RunSettings(
                engine=engine,
                gpu="none",
                epochs=1,
                batch_size=8,
                seed=3,
                root=root,
                data=root / "data" / "made",
                options={"test_batch_size": 10, "filler": "msra", "display": 1},
                caffe_flags=flags,
                stop_dead=False,
            )
            self.ended[engine] = driver.run("cifar10-allcnn-c", settings, lines.append)
            self.said[engine] = lines

    def scores(self, engine: str, run: str) -> dict[str, float]:
        """What `caffe test` of `engine` finds for the weights that `run` left."""
        folder = self.ended[run].directory
        weights = folder / "snapshots" / "cifar10-allcnn-c_iter_5.caffemodel"
        command, flags = (
            ([str(CAFFE)], [])
            if engine == "caffe"
            else ([sys.executable, "-m", "allconv_caffe.caffe_torch"], list(FLAGS))
        )
        words = ["test", "-model", str(folder / "train_val.prototxt"), "-weights", str(weights), "-iterations", "2"]
        done = subprocess.run([*command, *words, *flags], cwd=self.root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return {name: float(value) for name, value in re.findall(r"\] (accuracy|loss) = (\S+)", done.stderr)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


def test_all_cnn_c_trains_in_real_caffe_through_the_driver(trained: Trained) -> None:
    """ENGINE=caffe trains the rendered All-CNN-C from our LMDB: five iterations, finite losses, snapshot, result."""
    ended = trained.ended["caffe"]
    assert ended.status == "done" and ended.record.engine == "caffe"
    assert ended.record.engine_version.startswith("caffe 1.0") and ended.record.parameters == 1_369_738
    assert any(line.startswith("$ ") and "bin/caffe train -solver" in line for line in trained.said["caffe"])
    rows = (ended.directory / "train.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [0, 1, 2, 3, 4, 5]
    assert ended.record.test_iteration == 5


@pytest.mark.parametrize("run", ["caffe", "torch"])
def test_weights_of_either_engine_score_the_same_in_both(run: str, trained: Trained) -> None:
    """A caffemodel gives one accuracy and one loss in both, and in its own training's last test."""
    real, ours = trained.scores("caffe", run), trained.scores("torch", run)
    assert real["accuracy"] == ours["accuracy"] == pytest.approx(1 - trained.ended[run].record.test_error_percent / 100)
    assert ours["loss"] == pytest.approx(real["loss"], rel=1e-4)
    assert abs(real["loss"] - np.log(10)) > 1e-3  # not a net that says nothing


def test_states_of_either_engine_have_one_form(trained: Trained) -> None:
    """Layers, blobs and histories of both engines' snapshots have the same names and shapes."""
    found = []
    for ended in trained.ended.values():
        base = ended.directory / "snapshots" / "cifar10-allcnn-c_iter_5"
        net = proto.read_binary(base.with_suffix(".caffemodel"), proto.NetParameter)
        state = proto.read_binary(base.with_suffix(".solverstate"), proto.SolverState)
        found.append(
            (
                [(layer.name, layer.type, [list(blob.shape.dim) for blob in layer.blobs]) for layer in net.layer],
                [list(blob.shape.dim) for blob in state.history],
                state.iter,
                state.current_step,
            )
        )
    assert found[0] == found[1]
