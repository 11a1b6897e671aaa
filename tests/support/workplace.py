"""A folder as the pages expect it, small: a model, prepared sets, photographs, an archive, a Caffe project."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from click.testing import CliRunner

from allconv_caffe.cli import main as cli
from allconv_caffe.paper import architectures, derive
from allconv_caffe.paper.datasets import DATASETS
from allconv_caffe.train import data, quickstart, quickstart_data
from data_prep import pipeline
from support import pages
from support.pages import ROOT

CLASSES = ("lying-pinstripe", "lying-ticking", "standing-stripe")
"""Three kinds of cloth, in the order of their labels."""


def make(place: Path, viz_world: Path, page: Path) -> dict[str, Any]:
    """Fill `place`, whose neighbour `home` is the home folder; returns the names that the page's programs find."""
    shutil.copytree(viz_world, place)
    (place / "build" / "topk.npz").unlink()
    shutil.copytree(place / "models" / "cifar10-allcnn-c-jpeg", place / "models" / "cifar10-model-c-jpeg")
    if re.search(r"data/cifar10(?!-)|build/half", (ROOT / page).read_text(encoding="utf-8")):
        _cifar10(place)
    (place / "solvers").symlink_to(ROOT / "solvers")
    (place / "docs").mkdir()
    (place / "docs" / "examples").symlink_to(ROOT / "docs" / "examples")
    photographs(place / "photos")
    for name in ("new.jpg", "cat.png", "holiday/beach.png"):
        (place / name).parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(place / name), cv2.imread(str(place / "photos" / CLASSES[0] / "003.jpg")))
    _archive(place)
    _net(place)
    if page.name in ("variant.md", "caffe_project.md"):
        _project(place)
    images = np.full((1, 3, 32, 32), 99, np.uint8)
    return {**vars(architectures), "np": np, "images": images, "pixels": torch.from_numpy(images)}


def photographs(folder: Path, count: int = 20) -> None:
    """`count` photographs of each kind of cloth, 40 pixels high and 48 wide, by seed."""
    rng = np.random.default_rng(0)
    for label in (0, 2, 5):
        place = folder / quickstart_data.CLASSES[label].replace(" ", "-")
        place.mkdir(parents=True)
        for number in range(count):
            picture = cv2.copyMakeBorder(quickstart_data.draw(label, rng), 4, 4, 8, 8, cv2.BORDER_REFLECT)
            assert cv2.imwrite(str(place / f"{number:03}.jpg"), picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def _cifar10(place: Path) -> None:
    """data/cifar10: 130 pictures in CIFAR-10's format, a batch and some more, and 10 to test on."""
    archive = quickstart.write_archive(place / "cifar.tar.gz", 130, 10, seed=1)
    pipeline.prepare(archive, place / "data" / "cifar10", preprocessing="gcn", progress=False)


def _archive(place: Path) -> None:
    """photos.tar.xz: pictures of 8x8 pixels, two classes, so that whitening takes no time."""
    rng = np.random.default_rng(1)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (place / "tree" / split / name).mkdir(parents=True)
            for number in range(4):
                picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                assert cv2.imwrite(str(place / "tree" / split / name / f"{number}.png"), picture)
    with tarfile.open(place / "photos.tar.xz", "w:xz") as archive:
        archive.add(place / "tree", "photos")


def _net(place: Path) -> None:
    """The model's net under the names that pages give to somebody's own."""
    model = place / "models" / "cifar10-allcnn-c-jpeg"
    (place / "net").mkdir()
    for name in ("net/deploy.prototxt", "deploy.prototxt"):
        shutil.copy(model / "deploy.prototxt", place / name)
    for name in ("net/net.caffemodel", "weights.caffemodel", "snapshot_iter_1000.caffemodel"):
        shutil.copy(model / "small.caffemodel", place / name)


def _project(place: Path) -> None:
    """A Caffe project of 20 iterations on photographs, in `place` and in `net`; the table of docs/architectures.md."""
    prepared = place / "data" / "mine"
    photographs(place / "many", 60)
    sizes = ["--shorter-side", "32", "--crop", "32x32", "--preprocessing", "gcn", "--test-fraction", "0.2"]
    words = ["prep", "images", str(place / "many"), *sizes, "--output", str(prepared), "--quiet"]
    result = CliRunner().invoke(cli.main, words)
    assert result.exit_code == 0, result.output
    options = {**data.render_options(prepared, DATASETS["cifar10"]), "filler": "msra", "batch_size": 8, "epochs": 4}
    derive.derive("strided_cnn_a", place / "net", width_multiplier=0.1, options=options)
    for name in ("train_val.prototxt", "deploy.prototxt", "solver.prototxt"):
        text = (place / "net" / name).read_text()
        text = re.sub(r'^net: ".*"', 'net: "train_val.prototxt"', text, flags=re.MULTILINE)
        text = re.sub(r'^snapshot_prefix: ".*"', 'snapshot_prefix: "mine"', text, flags=re.MULTILINE)
        (place / name).write_text(re.sub(r"^max_iter: \d+", "max_iter: 20", text, flags=re.MULTILINE))
    (table,) = [block for block in pages.blocks(Path("docs/architectures.md")) if block.language == "toml"]
    (place / "tiny.toml").write_text(table.text)
