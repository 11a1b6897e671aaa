"""netron opens what we render and save: its own reader of Caffe's formats, run by Node.js without a browser."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import pytest

import allconv_caffe.pycaffe as caffe
from allconv_caffe.proto import TEST, TRAIN, NetParameter, read_net

ROOT = Path(__file__).resolve().parents[1]
DRAWN_INTO_OTHERS = {"Dropout", "ReLU", "SoftmaxWithLoss"}  # in place: netron chains them to the layer below
NODE, NETRON = shutil.which("node"), importlib.util.find_spec("netron")


def nodes(param: NetParameter, phase: int) -> set[str]:
    """Names of the layers that are drawn for a phase: all but inputs and data."""
    chosen = [layer for layer in param.layer if not layer.include or layer.include[0].phase == phase]
    return {layer.name for layer in chosen if layer.type not in DRAWN_INTO_OTHERS | {"Input", "Data"}}


@pytest.mark.skipif(NODE is None or NETRON is None, reason="needs Node.js and the package netron")
def test_netron_opens_every_prototxt_and_a_caffemodel(tmp_path: Path) -> None:
    """All rendered nets and solvers, and a model that was saved: opened, with every layer as a node."""
    assert NODE is not None and NETRON is not None and NETRON.origin is not None
    for name in ("base.js", "caffe.js", "caffe-proto.js", "caffe-metadata.json", "protobuf.js", "text.js"):
        shutil.copy(Path(NETRON.origin).parent / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copy(Path(__file__).with_name("netron_open.mjs"), tmp_path)
    deploy = ROOT / "solvers" / "cifar10-allcnn-c" / "deploy.prototxt"
    caffe.Net(str(deploy), caffe.TEST).save(str(tmp_path / "saved.caffemodel"))

    files = sorted((ROOT / "solvers").glob("*/*.prototxt"))
    assert len(files) > 70
    command = [NODE, "netron_open.mjs", *map(str, files), "saved.caffemodel"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = json.loads(result.stdout.splitlines()[-1])
    refused = {name: said for name, said in found.items() if isinstance(said, str)}
    assert not refused
    for path in files:
        drawn = {name for _, name in found[str(path)]}
        if path.name == "deploy.prototxt":
            assert nodes(read_net(path), TEST) <= drawn, path
        elif path.name == "train_val.prototxt":
            assert nodes(read_net(path), TRAIN) <= drawn, path
        else:  # a solver opens the net that it names
            assert drawn == {name for _, name in found[str(path.with_name("train_val.prototxt"))]}, path
    types = [kind for kind, _ in found["saved.caffemodel"]]
    assert types.count("Convolution") == 9 and "Softmax" in types
