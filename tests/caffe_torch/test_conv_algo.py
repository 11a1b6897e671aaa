"""Convolution algorithms against float64 direct convolution."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from allconv_caffe.caffe_torch.compute import choice, conv_algo, winograd
from allconv_caffe.caffe_torch.compute.window import Window

SHAPES = [(2, 16, 32, 8, 1), (1, 32, 16, 7, 0), (3, 16, 16, 5, 2), (1, 48, 32, 9, 1)]  # N, C, O, H, pad
#: relative to the largest value; Winograd on 4x4 tiles loses about one digit to its transforms
TOLERANCE = {"direct": 5e-6, "winograd2": 5e-6, "winograd4": 5e-5}


def square(*, pad: int = 0, stride: int = 1, dilation: int = 1, group: int = 1) -> Window:
    """A window of 3x3."""
    return Window(kernel=(3, 3), stride=(stride,) * 2, pad=(pad,) * 2, dilation=(dilation,) * 2, group=group)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for answers, in a process that has none yet; the kernels are compiled before."""
    winograd.why_not()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(choice, "_answers", {})
    return tmp_path / "allconv-caffe"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("algo", conv_algo.ALGORITHMS)
def test_every_algorithm_convolves(algo: str, shape: tuple[int, int, int, int, int]) -> None:
    """Forward and the three gradients equal float64 convolution, on sizes that are no multiple of a tile too."""
    if algo != "direct" and winograd.why_not() is not None:
        pytest.skip(str(winograd.why_not()))
    n, c, o, h, p = shape
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(n, c, h, h, generator=g), torch.randn(o, c, 3, 3, generator=g)
    b, dy = torch.randn(o, generator=g), torch.randn(n, o, h + 2 * p - 2, h + 2 * p - 2, generator=g)
    window = square(pad=p)
    found = [
        conv_algo.forward(algo, x, w, b, window),
        *conv_algo.backward((algo, algo), dy, x, w, window, (True, True, True)),
    ]
    exact = [x.double(), w.double(), b.double()]
    expected = [
        torch.nn.functional.conv2d(*exact, padding=p),
        *torch.ops.aten.convolution_backward(
            dy.double(), exact[0], exact[1], [o], [1, 1], [p, p], [1, 1], False, [0, 0], 1, [True, True, True]
        ),
    ]
    for one, two in zip(found, expected, strict=True):
        assert one is not None
        assert float((one.double() - two).abs().max()) <= TOLERANCE[algo] * float(two.abs().max())


def test_what_nobody_needs_is_not_computed() -> None:
    """Gradients that are not asked for are None."""
    x, w = torch.randn(1, 16, 4, 4), torch.randn(16, 16, 3, 3)
    assert conv_algo.backward(conv_algo.DIRECT, x, x, w, square(pad=1), (False, True, False))[0] is None


@pytest.mark.parametrize("need", [(True, True, True), (True, False, True), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("algos", [("winograd4", "direct"), ("direct", "winograd2"), ("winograd2", "winograd4")])
def test_each_gradient_has_its_own_algorithm(algos: tuple[str, str], need: conv_algo.Need) -> None:
    """Whatever computes which, the gradients are those of one algorithm for both, and only those asked for."""
    if winograd.why_not() is not None:
        pytest.skip(str(winograd.why_not()))
    g = torch.Generator().manual_seed(0)
    x, w, dy = (torch.randn(*shape, generator=g) for shape in ((2, 16, 6, 6), (32, 16, 3, 3), (2, 32, 6, 6)))
    found = conv_algo.backward(algos, dy, x, w, square(pad=1), need)
    expected = conv_algo.backward(conv_algo.DIRECT, dy, x, w, square(pad=1), need)
    assert [one is not None for one in found] == list(need)
    for one, two in zip(found, expected, strict=True):
        if one is not None and two is not None:
            assert float((one - two).abs().max()) <= TOLERANCE["winograd4"] * float(two.abs().max())


def test_plain_execution_convolves_directly(cache: Path) -> None:
    """Only compiled nets choose among algorithms; strides, groups and odd channels never do."""
    x, w = torch.empty(1, 16, 8, 8), torch.empty(16, 16, 3, 3)
    assert conv_algo.choose("forward", x, w, square(pad=1), compiled=False) == "direct"
    for other in (square(pad=1, stride=2), square(pad=1, dilation=2), square(pad=1, group=2), square(pad=3)):
        assert conv_algo.choose("forward", x, w, other, compiled=True) == "direct"
    assert conv_algo.choose("dx", x[:, :3], w[:, :3], square(pad=1), compiled=True) == "direct"
    assert conv_algo.choose("dw", x.double(), w.double(), square(pad=1), compiled=True) == "direct"
    assert not cache.exists()
    if winograd.why_not() is None:
        assert conv_algo.choose("forward", x, w, square(pad=1), compiled=True) in conv_algo.ALGORITHMS
        assert len(list(cache.glob("convolutions/*.json"))) == 1


def test_an_unknown_algorithm_is_named() -> None:
    """The message lists the choices."""
    with pytest.raises(ValueError) as caught:
        conv_algo.choose("dw", torch.empty(1), torch.empty(1), square(), compiled=True, mode="fft")
    assert str(caught.value) == "unknown convolution algorithm 'fft' (known: auto, direct, winograd2, winograd4)"
