"""Markers at work: what needs Caffe or a GPU is skipped where there is none, or fails where it is required.

With ALLCONV_REQUIRE_CAFFE=1 (`make parity`, .ci/run) a skipped test of tests/parity/ is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: each worker keeps to one core
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

from allconv_caffe.caffe_torch.compute import openblas

if isinstance(
    openblas.order_here(), str
):  # a processor whose order of sums is not known: both engines take one that is
    os.environ["OPENBLAS_CORETYPE"] = "Haswell"

_ROOT = Path(__file__).resolve().parents[1]
_PARITY = Path(__file__).resolve().parent / "parity"


def _caffe_required() -> bool:
    return os.environ.get("ALLCONV_REQUIRE_CAFFE", "0") not in ("", "0")


def _is_parity(path: Path) -> bool:
    return path.is_relative_to(_PARITY)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in tests/parity is marked `caffe`; a marked test is skipped where what it needs is missing."""
    for item in items:
        if _is_parity(item.path) and item.get_closest_marker("caffe") is None:
            item.add_marker("caffe")
    with_caffe = [item for item in items if item.get_closest_marker("caffe")]
    if with_caffe and not _has_caffe():
        for item in with_caffe:
            item.add_marker(pytest.mark.skip(reason="no BVLC Caffe: make caffe"))
    with_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if with_gpu and not _has_gpu():
        for item in with_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_caffe() -> bool:
    from allconv_caffe.bvlc import find as bvlc

    return bvlc.find_caffe(_ROOT) is not None


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """A skipped parity test fails where Caffe is required."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _caffe_required() and item.get_closest_marker("caffe"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, but ALLCONV_REQUIRE_CAFFE is set: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """So does a whole module of tests/parity that skips itself."""
    report = yield
    if report.skipped and _caffe_required() and _is_parity(Path(collector.path)):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: skipped, but ALLCONV_REQUIRE_CAFFE is set: {reason}"
    return report


@pytest.fixture(scope="session")
def viz_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the examples of `allconv viz` find it: a model, a prepared data set, and what was mined in build/.

    models/cifar10-allcnn-c-jpeg is an All-CNN-C of 6 and 8 channels with weights by seed, channel 3 of conv3 dead;
    data/cifar10-jpeg has 12 test images, smooth ones, whitened by GCN.
    """
    import json

    import figure_nets
    import numpy as np

    from allconv_caffe import zoo
    from allconv_caffe.paper import derive
    from allconv_caffe.visualize.mining import mine
    from allconv_caffe.visualize.nets.open import open_net
    from allconv_caffe.visualize.sources import open_images
    from allconv_caffe.visualize.whitening import load_whitening
    from data_prep import cifar, pipeline

    world = tmp_path_factory.mktemp("viz")
    model, data, built = world / "models" / "cifar10-allcnn-c-jpeg", world / "data" / "cifar10-jpeg", world / "build"
    for folder in (model, data.parent, built):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(4)
    coarse = rng.integers(0, 256, (24, 3, 8, 8)).repeat(4, axis=2).repeat(4, axis=3)
    images = np.clip(coarse + rng.integers(-20, 20, coarse.shape), 0, 255).astype(np.uint8)
    labels = np.arange(24) % 10
    archive = cifar.write_python_archive(
        world / "made.tar.gz", images[:12], labels[:12], images[12:], labels[12:], list("abcdefghij")
    )
    pipeline.prepare(archive, data, preprocessing="gcn", progress=False)

    derive.derive("all_cnn_c", world / "derived", widths={96: 6, 192: 8})
    (model / "deploy.prototxt").write_bytes((world / "derived" / "deploy.prototxt").read_bytes())
    net = open_net(model / "deploy.prototxt")
    params = net.params()
    for weights, bias in params.values():
        weights[:] = rng.normal(0, (2 / weights[0].size) ** 0.5, weights.shape)
        bias[:] = rng.normal(0, 0.1, bias.shape)
    params["conv3"][0][3], params["conv3"][1][3] = 0, -1
    net.set_params(params)
    figure_nets.write_weights(net, model / "small.caffemodel")
    (model / "whitening.npz").write_bytes((data / "whitening.npz").read_bytes())
    figure_nets.write_card(model, json.loads((_ROOT / "models" / model.name / zoo.CARD).read_text()))

    net = open_net(model / "deploy.prototxt", model / "small.caffemodel")
    source = open_images(data / "test_lmdb", net.input_shape, load_whitening(model / "whitening.npz"))
    blobs = ["conv3", "conv6", "conv9"]
    mine(net, source, blobs, k=4, path=built / "topk.npz", progress=False)
    for i in range(2):
        mine(net, source, blobs, k=4, shard=(i, 2), path=built / f"part-{i + 1}.npz", progress=False)
    return world
