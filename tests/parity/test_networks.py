"""The paper's networks in real Caffe and in ours: same files, same weights, same numbers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net, load_net
from allconv_caffe.caffe_torch.solver_factory import create_solver
from allconv_caffe.proto import NetParameter, SolverParameter, parse_text, read_binary, write_binary

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".caffe" / "bin" / "python"
CAFFE = ROOT / ".caffe" / "bin" / "caffe"
TWELVE = sorted(p.parent.name for p in (ROOT / "solvers").glob("cifar10-*/deploy.prototxt") if "large" not in str(p))

FORWARD = """
import sys, numpy as np, caffe
for line in open(sys.argv[1]):
    deploy, weights, inputs, out = line.split()
    net = caffe.Net(deploy, weights, caffe.TEST)
    net.blobs['data'].reshape(*np.load(inputs).shape)
    net.blobs['data'].data[...] = np.load(inputs)
    net.forward()
    np.savez(out, **dict((k, b.data) for k, b in net.blobs.items()))
"""


def test_the_paper_networks_compute_the_same_in_both(tmp_path: Path) -> None:
    """Every blob of every CIFAR-10 network's deploy file, msra-scaled weights, to 1e-5 of the blob's largest value."""
    nets: dict[str, Net] = {}
    images = np.random.RandomState(0).randn(2, 3, 32, 32).astype(np.float32)
    np.save(tmp_path / "in.npy", images)
    jobs = []
    for name in TWELVE:
        deploy = ROOT / "solvers" / name / "deploy.prototxt"
        net = load_net(deploy, Context(rng=TorchGenerator(1)))
        generator = torch.Generator().manual_seed(7)
        for blob in net.params:
            scale = (2 / (blob.count / blob.shape[0])) ** 0.5 if blob.num_axes > 1 else 0.1
            blob.data = torch.randn(blob.shape, generator=generator) * scale
        write_binary(tmp_path / f"{name}.caffemodel", net.to_proto())
        net.blobs["data"].reshape(*images.shape)
        net.blobs["data"].data = torch.from_numpy(images)
        net.forward()
        nets[name] = net
        jobs.append(f"{deploy} {tmp_path}/{name}.caffemodel {tmp_path}/in.npy {tmp_path}/{name}.npz")
    (tmp_path / "jobs").write_text("\n".join(jobs))
    subprocess.run([str(PYTHON), "-c", FORWARD, str(tmp_path / "jobs")], check=True, capture_output=True)
    for name, net in nets.items():
        real = np.load(tmp_path / f"{name}.npz")
        assert sorted(real.files) == sorted(net.blobs), name
        for blob_name, blob in net.blobs.items():
            expected = real[blob_name]
            error = np.abs(blob.data.numpy() - expected).max() / np.abs(expected).max()
            assert error < 1e-5, (name, blob_name, error)


NET = """
layer {{ name: "data" type: "DummyData" top: "data" dummy_data_param {{
  shape {{ dim: 8 dim: 3 dim: 9 dim: 9 }} data_filler {{ type: "constant" value: 0.7 }} }} }}
layer {{ name: "label" type: "DummyData" top: "label" dummy_data_param {{ shape {{ dim: 8 }}
  data_filler {{ type: "constant" value: 2 }} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" param {{ lr_mult: 1 }}
  param {{ lr_mult: 2 decay_mult: 0 }} convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 stride: 2
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param {{ pool: MAX kernel_size: 3 stride: 2 }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param {{ num_output: 5
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""
SOLVERS = {
    "sgd": 'type: "SGD" lr_policy: "multistep" gamma: 0.1 stepvalue: 5 stepvalue: 10 momentum: 0.9 weight_decay: 0.01',
    "sgd-l1-clip": 'type: "SGD" lr_policy: "fixed" momentum: 0.5 weight_decay: 0.01 regularization_type: "L1" '
    "clip_gradients: 0.1",
    "sgd-iter-size": 'type: "SGD" lr_policy: "inv" gamma: 0.1 power: 0.75 momentum: 0.9 iter_size: 3',
    "nesterov": 'type: "Nesterov" lr_policy: "step" gamma: 0.5 stepsize: 4 momentum: 0.9 weight_decay: 0.001',
    "adagrad": 'type: "AdaGrad" lr_policy: "poly" power: 2',
    "rmsprop": 'type: "RMSProp" lr_policy: "exp" gamma: 0.99 rms_decay: 0.9',
    "adadelta": 'type: "AdaDelta" lr_policy: "fixed" momentum: 0.95 delta: 1e-4',
    "adam": 'type: "Adam" lr_policy: "sigmoid" gamma: 0.1 stepsize: 5 momentum: 0.9 momentum2: 0.99',
}


@pytest.mark.parametrize("kind", sorted(SOLVERS))
def test_training_ends_in_real_caffes_weights(tmp_path: Path, kind: str) -> None:
    """Fifteen iterations from Caffe's own first weights: weights and history within 1e-4 of their largest value."""
    (tmp_path / "net.prototxt").write_text(NET.format())
    common = (
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.05 max_iter: 15 display: 5 random_seed: 3 solver_mode: CPU '
        f'snapshot: 15 snapshot_prefix: "{tmp_path}/real" {SOLVERS[kind]}'
    )
    (tmp_path / "solver.prototxt").write_text(common)
    start = common.replace("max_iter: 15", "max_iter: 0").replace("snapshot: 15", "").replace("/real", "/start")
    (tmp_path / "start.prototxt").write_text(start)
    for solver_file in ("start", "solver"):
        subprocess.run(
            [str(CAFFE), "train", "-solver", str(tmp_path / f"{solver_file}.prototxt")], check=True, capture_output=True
        )
    param = parse_text(common.replace("/real", "/ours"), SolverParameter)
    weights = [f"{tmp_path}/start_iter_0.caffemodel"]
    solver = create_solver(param, context=Context(rng=TorchGenerator(0)), weights=weights)
    solver.solve()
    real = read_binary(tmp_path / "real_iter_15.caffemodel", NetParameter)
    for layer, proto in zip(solver.net.layers, real.layer, strict=True):
        for blob, values in zip(layer.blobs, proto.blobs, strict=True):
            expected = np.array(values.data, np.float32).reshape(blob.shape)
            error = np.abs(blob.data.numpy() - expected).max() / np.abs(expected).max()
            assert error < 1e-4, (layer.name, error)
    resumed = create_solver(param, context=Context(rng=TorchGenerator(0)))
    resumed.restore(f"{tmp_path}/real_iter_15.solverstate")
    assert resumed.iter == 15
    for mine, other in zip(solver.history, resumed.history, strict=True):
        scale = float(other.data.abs().max()) + 1e-12
        assert float((mine.data - other.data).abs().max()) < 1e-4 * scale + 1e-9


def test_real_caffe_resumes_what_we_saved(tmp_path: Path) -> None:
    """A snapshot of ours after 5 of 10 iterations, resumed by the real Caffe, ends where ours ends by itself."""
    (tmp_path / "net.prototxt").write_text(NET.format())
    text = (
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.05 max_iter: 10 random_seed: 3 solver_mode: CPU snapshot: 5 '
        f'snapshot_prefix: "{tmp_path}/ours" {SOLVERS["sgd"]}'
    )
    create_solver(parse_text(text, SolverParameter), context=Context(rng=TorchGenerator(0))).solve()
    (tmp_path / "solver.prototxt").write_text(text.replace("/ours", "/real"))
    subprocess.run(
        [
            str(CAFFE),
            "train",
            "-solver",
            str(tmp_path / "solver.prototxt"),
            "-snapshot",
            f"{tmp_path}/ours_iter_5.solverstate",
        ],
        check=True,
        capture_output=True,
    )
    ours, real = (read_binary(tmp_path / f"{who}_iter_10.caffemodel", NetParameter) for who in ("ours", "real"))
    for a, b in zip(ours.layer, real.layer, strict=True):
        for mine, other in zip(a.blobs, b.blobs, strict=True):
            one, two = np.array(mine.data), np.array(other.data)
            assert np.abs(one - two).max() < 1e-5 * np.abs(two).max()
