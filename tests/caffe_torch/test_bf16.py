"""bfloat16 where float32 multiplies it: products of rounded factors."""

from __future__ import annotations

import pytest
import torch

from allconv_caffe.caffe_torch.compute import bf16
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import TRAIN, NetParameter, parse_text

NET = """
force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 9 dim: 9 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "up" type: "Deconvolution" bottom: "conv" top: "up"
        convolution_param { num_output: 5 kernel_size: 2 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "up" top: "ip"
        inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
"""
SPECIAL = [
    float("nan"),
    float("inf"),
    -float("inf"),
    0.0,
    -0.0,
    1e-45,
    1.17e-38,
    3.4028235e38,
    -3.39e38,
    1.00390625,
    1.01171875,
]


def _net(precision: torch.dtype) -> Net:
    torch.manual_seed(3)
    net = Net(parse_text(NET, NetParameter), context=Context(phase=TRAIN, compute_dtype=precision))
    generator = torch.Generator().manual_seed(1)
    for layer in net.layers:
        for blob in layer.blobs:
            blob.data = torch.randn(blob.shape, generator=generator) / 5
    net.blobs["data"].data = torch.randn(4, 3, 9, 9, generator=generator)
    return net


def _run(net: Net) -> list[torch.Tensor]:
    net.forward()
    net.blobs["ip"].diff = torch.ones(4, 7) / 3
    net.backward()
    gradients = [blob.diff for layer in net.layers for blob in layer.blobs]
    return [net.blobs["ip"].data, net.blobs["data"].diff, *gradients]


def test_rounded_is_the_conversion_there_and_back() -> None:
    """Every number, ties and numbers that are none included, as the conversion gives it; in a compiled graph too."""
    odd = torch.tensor([0x7FFFFFFF, 0x7F800001, -1], dtype=torch.int32).view(torch.float32)
    x = torch.cat([torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 100, torch.tensor(SPECIAL), odd])

    def there_and_back(x: torch.Tensor) -> torch.Tensor:
        return bf16.widened(x.bfloat16())

    for round_ in (bf16.rounded, torch.compile(bf16.rounded), there_and_back, torch.compile(there_and_back)):
        torch.testing.assert_close(round_(x), x.bfloat16().float(), rtol=0, atol=0, equal_nan=True)


def test_without_instructions_nothing_is_multiplied_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The net computes in float32, near float32's own numbers, and every factor is rounded."""
    exact = _run(_net(torch.float32))
    monkeypatch.setattr(bf16, "cpu_multiplies_bf16", lambda: False)
    net = _net(torch.bfloat16)
    factor = net.ctx.factor(torch.tensor([1.001]))
    assert (factor.dtype, float(factor)) == (torch.float32, 1.0)
    for right, ours in zip(exact, _run(net), strict=True):
        error = float((ours - right).abs().max() / right.abs().max())
        assert ours.dtype == torch.float32 and error < 0.02
        assert error > 1e-4 or right is exact[-1]  # of the last bias: a sum, no product


def test_only_bfloat16_on_a_cpu_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 and a device that is no CPU take their factors as they are."""
    monkeypatch.setattr(bf16, "cpu_multiplies_bf16", lambda: False)
    assert Context(compute_dtype=torch.bfloat16).rounds_factors
    assert not Context().rounds_factors
    assert not Context(compute_dtype=torch.bfloat16, device=torch.device("meta")).rounds_factors
