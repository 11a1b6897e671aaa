"""Products of matrices, by both libraries, against float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.prototxt import layer

from allconv_caffe.caffe_torch.compute import choice, gemm
from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.tracing import Tracing
from allconv_caffe.proto import TRAIN, NetParameter, parse_text

#: images, inputs, outputs: LeNet's ip1, cifar10_quick's, CaffeNet's fc8
INNER_PRODUCTS = [(64, 800, 500), (100, 1024, 64), (16, 4096, 1000)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for answers, in a process that has none yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(choice, "_answers", {})
    return tmp_path / "allconv-caffe"


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 100 roundings of float32 of the largest value."""
    assert found.dtype == torch.float32
    limit = 100 * 2**-24 * float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=limit)


@pytest.mark.parametrize("algo", gemm.ALGORITHMS)
@pytest.mark.parametrize("size", [*INNER_PRODUCTS, (1, 1, 1), (5, 3, 7)], ids=str)
def test_the_products_of_an_inner_product(algo: str, size: tuple[int, int, int]) -> None:
    """Top, dx and dw, in the layouts in which the layer multiplies, weights transposed or not."""
    n, k, o = size
    x, w, dy = noise(n, k, seed=1), noise(o, k, seed=2), noise(n, o, seed=3)
    for weights in (w, w.t().contiguous().t()):
        for a, b in [(x, weights.t()), (dy, weights), (dy.t(), x), (x.t(), dy)]:
            close(gemm.product(algo, a, b), a.double() @ b.double())


@pytest.mark.parametrize("algo", gemm.ALGORITHMS)
def test_a_compiled_layer_multiplies_by_what_is_chosen(algo: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traced InnerProduct asks for its three products, and computes what the formula says, whichever is the answer."""
    asked: list[str] = []

    def answer(question: choice.Product, trials: dict[str, choice.Trial]) -> str:
        asked.append(f"{question}: {question.what}")
        return algo

    monkeypatch.setattr(choice, "fastest", answer)
    text = 'layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 64 dim: 800 } } }' + layer(
        "ip", "InnerProduct", "x", "inner_product_param { num_output: 500 }"
    )
    context = Context(phase=TRAIN, rng=TorchGenerator(1), conv_mode="auto")
    net = Net(parse_text(f"force_backward: true {text}", NetParameter), context)
    (ip,) = [one for one in net.layers if one.param.type == "InnerProduct"]
    x, w, dy = noise(64, 800, seed=1), noise(500, 800, seed=2), noise(64, 500, seed=3)
    bottom, top = net.blobs["x"], net.blobs["ip"]
    with Tracing():
        bottom.data, ip.blobs[0].data = x, w
        ip.forward([bottom], [top])
        top.diff = dy
        ip.backward([top], [True], [bottom])
        found = [top.data, ip.blobs[0].diff, bottom.diff]
    assert asked == ["64x800 by 800x500: a b.t", "500x64 by 64x800: a.t b", "64x500 by 500x800: a b"]
    for one, (a, b) in zip(found, [(x, w.t()), (dy.t(), x), (dy, w)], strict=True):
        close(one, a.double() @ b.double())


def test_only_large_float32_products_of_compiled_nets_are_tried(cache: Path) -> None:
    """Others are PyTorch's own, and nothing is measured for them."""
    a, b = torch.empty(64, 800), torch.empty(500, 800).t()
    assert gemm.choose(a, b, compiled=False) == "mm"
    assert gemm.choose(a, b, compiled=True, mode="direct") == "mm"
    assert gemm.choose(a.bfloat16(), b.bfloat16(), compiled=True) == "mm"
    assert gemm.choose(a[:, :0], b[:0], compiled=True) == "mm"
    assert gemm.choose(a, b[:, :10], compiled=True) == "mm"
    assert not cache.exists()
    assert gemm.choose(a, b, compiled=True) in gemm.ALGORITHMS
    assert len(list(cache.glob("products/*.json"))) == 1


def test_a_trial_multiplies_what_is_asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors of the question's shapes, which lie as those do."""
    seen = []

    def product(algo: str, a: torch.Tensor, b: torch.Tensor) -> None:
        seen.append((algo, a.shape, a.stride(), b.shape, b.stride()))

    monkeypatch.setattr(gemm, "product", product)
    for a, b in [
        (torch.empty(64, 800), torch.empty(500, 800).t()),
        (torch.empty(64, 500).t(), torch.empty(64, 800)),
    ]:
        gemm.choose(a, b, compiled=True)
        expected = {(algo, a.shape, a.stride(), b.shape, b.stride()) for algo in gemm.ALGORITHMS}
        assert set(seen) == expected
        seen.clear()
