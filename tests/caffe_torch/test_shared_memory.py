"""Nets for forward passes alone, whose blobs share memory as far as nobody sees it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.prototxt import input_layer, layer

from allconv_caffe.caffe_torch import shared_memory
from allconv_caffe.caffe_torch.compute.rng import CaffeGenerator, ShapesOnly, TorchGenerator
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import TEST, NetParameter, parse_text

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

XAVIER = 'weight_filler { type: "xavier" } bias_filler { type: "uniform" }'
CONV = f"convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 {XAVIER} }}"
NET = "".join(
    [
        input_layer("x", 2, 6, 9, 8),
        input_layer("label", 2),
        layer("conv1", "Convolution", "x", CONV),
        layer("relu1", "ReLU", "conv1", "", tops="conv1"),
        layer("conv2", "Convolution", "conv1", CONV),
        layer("pool", "Pooling", "conv1", "pooling_param { kernel_size: 3 stride: 1 pad: 1 }"),
        layer("sum", "Eltwise", "conv2 pool", ""),
        layer("both", "Concat", "sum conv1", ""),
        layer("norm", "BatchNorm", "both", ""),
        layer("flat", "Flatten", "norm", ""),
        layer("wide", "InnerProduct", "flat", f"inner_product_param {{ num_output: 900 {XAVIER} }}"),
        layer("ip", "InnerProduct", "wide", f"inner_product_param {{ num_output: 5 {XAVIER} }}"),
        layer("top", "ArgMax", "ip", ""),
        layer("loss", "SoftmaxWithLoss", "ip label", ""),
    ]
)


def build(rng: Any, text: str = NET) -> Net:
    return Net(parse_text(text, NetParameter), Context(phase=TEST, rng=rng))


def values(net: Net) -> int:
    """In all memories between layers, each counted once."""
    return sum({id(blob._data): blob._data.capacity for blob in net.blob_list}.values())


@pytest.mark.parametrize("make", [lambda: CaffeGenerator(1), lambda: TorchGenerator(1)], ids=["caffe", "torch"])
def test_what_is_seen_has_every_bit(make: Any) -> None:
    """Outputs, loss and a blob that is kept, over several inputs; of the others some lie where others lay."""
    plain, shared = build(make()), build(make())
    shared_memory.share(shared, ["sum"])
    for seed in range(4):
        x = torch.randn(2, 6, 9, 8, generator=torch.Generator().manual_seed(seed))
        losses = []
        for net in (plain, shared):
            net.blobs["x"].data, net.blobs["label"].data = x, torch.tensor([1.0, 4.0])
            losses.append(float(net.forward()))
            assert torch.equal(net.blobs["x"].data, x)
        assert losses[0] == losses[1] > 0
        for name in ("loss", "top", "sum"):
            assert torch.equal(plain.blobs[name].data, shared.blobs[name].data), name
    for each in shared.layers:
        kept = [name for name, value in vars(each).items() if isinstance(value, torch.Tensor) and value.numel() > 100]
        assert not kept, each.name
    assert any(isinstance(value, torch.Tensor) for each in plain.layers for value in vars(each).values())
    assert values(shared) < 0.7 * values(plain)
    assert any(not torch.equal(plain.blobs[name].data, shared.blobs[name].data) for name in ("conv1", "conv2", "pool"))


def test_a_larger_batch_gets_memory_of_its_own() -> None:
    """Shapes may grow afterwards."""
    plain, shared = build(TorchGenerator(1)), build(TorchGenerator(1))
    shared_memory.share(shared)
    for net in (plain, shared):
        net.blobs["x"].reshape(5, 6, 9, 8)
        net.blobs["label"].reshape(5)
        net.blobs["x"].data = torch.randn(5, 6, 9, 8, generator=torch.Generator().manual_seed(3))
    assert float(plain.forward()) == float(shared.forward())


def test_googlenet_takes_a_fraction() -> None:
    """At batch 50, values between its layers: 2.1 GB in all, of which a fifth is needed at a time."""
    from nets.table import NETS

    net = Net(NETS["googlenet"].param(50, True), Context(phase=TEST, device=torch.device("meta"), rng=ShapesOnly()))
    before = values(net)
    shared_memory.share(net)
    assert values(net) < 0.3 * before
