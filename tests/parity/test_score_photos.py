"""A net scored on photographs by `benchmarks/score_photos.py`: this engine, BVLC Caffe and OpenCV agree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import TEST, NetParameter, parse_text, write_binary

ROOT = Path(__file__).resolve().parents[2]
DATA = """layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { crop_size: 227 mean_value: 104 mean_value: 117 mean_value: 123 }
  data_param { source: "elsewhere" batch_size: 1 backend: LMDB } }
"""
NET = """layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
  num_output: 16 kernel_size: 11 stride: 8 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "scores" type: "Convolution" bottom: "pool" top: "scores" convolution_param {
  num_output: 8 kernel_size: 1 weight_filler { type: "gaussian" std: 1 } } }
"""
ENDS = """layer { name: "top1" type: "Accuracy" bottom: "scores" bottom: "label" top: "accuracy_top1" }
layer { name: "top5" type: "Accuracy" bottom: "scores" bottom: "label" top: "accuracy_top5" accuracy_param { top_k: 5 } }
"""
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 227 dim: 227 } } }\n'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/: 24 of eight classes, in sizes of their own; train_val.prototxt, deploy.prototxt, net.caffemodel."""
    folder = tmp_path_factory.mktemp("score")
    rng = np.random.default_rng(4)
    (folder / "photos").mkdir()
    for i in range(24):
        coarse = rng.integers(0, 256, (6, 7, 3)).astype(np.uint8)
        image = cv2.resize(coarse, (int(rng.integers(200, 400)), int(rng.integers(200, 400))))
        cv2.imwrite(str(folder / "photos" / f"n{i % 8:08d}_{i}.jpg"), image)
    (folder / "train_val.prototxt").write_text(DATA + NET + ENDS, encoding="utf-8")
    (folder / "deploy.prototxt").write_text(INPUT + NET, encoding="utf-8")
    deploy = parse_text(INPUT + NET, NetParameter)
    write_binary(folder / "net.caffemodel", Net(deploy, Context(phase=TEST, rng=TorchGenerator(3))).to_proto())
    return folder


def scored(files: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/score_photos.py", files / "photos", files / "train_val.prototxt"]
    command += [files / "net.caffemodel", *words]
    return subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_three_judges_agree(files: Path) -> None:
    """Files, LMDB, Data layer and net: no judge counts another photograph as right."""
    done = scored(files, "--deploy", files / "deploy.prototxt", "--batch", "6", "--json", files / "scores.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((files / "scores.json").read_text(encoding="utf-8"))
    assert {"caffe-torch", "BVLC Caffe"} <= set(found)
    assert len({tuple(sorted(row.items())) for row in found.values()}) == 1, found
    assert 0 < found["BVLC Caffe"]["accuracy_top1"] < found["BVLC Caffe"]["accuracy_top5"] < 100


def test_a_batch_that_leaves_photographs_out_is_refused(files: Path) -> None:
    done = scored(files, "--batch", "7")
    assert done.returncode == 1 and done.stderr == "score_photos: --batch 7: does not divide the 24 photographs\n"
