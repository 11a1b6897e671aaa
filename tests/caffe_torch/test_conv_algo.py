"""Convolution algorithms against float64 direct convolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from allconv_caffe.caffe_torch.compute import amx, choice, conv_algo, winograd
from allconv_caffe.caffe_torch.compute.window import Window

SHAPES = [
    (2, 16, 32, 8, 1),
    (1, 32, 16, 7, 0),
    (3, 16, 16, 5, 2),
    (1, 48, 32, 9, 1),
    (2, 1, 16, 6, 1),
]  # N, C, O, H, pad
#: relative to the largest value; Winograd on 4x4 tiles loses about one digit to its transforms
TOLERANCE = {"direct": 5e-6, "winograd2": 5e-6, "winograd4": 5e-5}


def square(*, kernel: int = 3, pad: int = 0, stride: int = 1, dilation: int = 1, group: int = 1) -> Window:
    """A window of 3x3, or another."""
    return Window(kernel=(kernel,) * 2, stride=(stride,) * 2, pad=(pad,) * 2, dilation=(dilation,) * 2, group=group)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for answers, in a process that has none yet; the kernels are compiled before."""
    winograd.why_not()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(choice, "_answers", {})
    return tmp_path / "allconv-caffe"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("algo", "kernel", "group"),
    [
        ("direct", 3, 1),
        ("winograd2", 3, 1),
        ("winograd4", 3, 1),
        ("winograd4", 3, 2),
        ("direct", 5, 1),
        ("winograd2", 5, 1),
        ("winograd2", 5, 3),
    ],
)
def test_every_algorithm_convolves(algo: str, kernel: int, group: int, shape: tuple[int, int, int, int, int]) -> None:
    """Forward and the three gradients equal float64 convolution, on sizes that are no multiple of a tile too."""
    n, c, o, h, p = shape
    if algo != "direct" and (winograd.why_not() is not None or c % 16):
        pytest.skip(winograd.why_not() or "one channel is no whole vector")
    g, window = torch.Generator().manual_seed(0), square(kernel=kernel, pad=p, group=group)
    c, o = c * group, o * group
    x, w = torch.randn(n, c, h, h, generator=g), torch.randn(o, c // group, kernel, kernel, generator=g)
    b, dy = torch.randn(o, generator=g), torch.randn(n, o, *window.output_size((h, h)), generator=g)
    found = [
        conv_algo.forward(algo, x, w, b, window),
        *conv_algo.backward((algo, algo), dy, x, w, window, (True, True, True)),
    ]
    exact = [x.double(), w.double(), b.double()]
    expected = [
        torch.nn.functional.conv2d(*exact, padding=p, groups=group),
        *torch.ops.aten.convolution_backward(
            dy.double(), exact[0], exact[1], [o], [1, 1], [p, p], [1, 1], False, [0, 0], group, [True, True, True]
        ),
    ]
    for one, two in zip(found, expected, strict=True):
        assert one is not None
        tolerance = TOLERANCE[
            "winograd4" if (algo, kernel) == ("winograd2", 5) else algo
        ]  # on tiles of six places, too
        assert float((one.double() - two).abs().max()) <= tolerance * float(two.abs().max())


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "pad", "size"),
    [(3, (11, 11), 4, (0, 0), (39, 43)), (16, (5, 5), 2, (2, 2), (17, 16)), (16, (9, 10), 2, (0, 0), (19, 24))],
)
@pytest.mark.parametrize("algo", ["phases2", "phases4"])
def test_strided_convolution_by_phases(
    algo: str, channels: int, kernel: tuple[int, int], stride: int, pad: tuple[int, int], size: tuple[int, int]
) -> None:
    """Forward and the gradients of filters and bias equal float64 convolution."""
    if winograd.why_not() is not None:
        pytest.skip(str(winograd.why_not()))
    g, window = torch.Generator().manual_seed(0), Window(kernel=kernel, stride=(stride,) * 2, pad=pad, dilation=(1, 1))
    x, w = torch.randn(3, channels, *size, generator=g), torch.randn(32, channels, *kernel, generator=g)
    b, dy = torch.randn(32, generator=g), torch.randn(3, 32, *window.output_size(size), generator=g)
    fits = conv_algo.choose("dw", x, w, window, compiled=False, mode=algo) == algo
    assert fits == (algo == "phases2" or kernel[0] != 9), "tiles of 4x4 through 3x3 alone"
    assert conv_algo.choose("dx", x, w, window, compiled=False, mode=algo) == "direct"
    if not fits:
        return
    found = [
        conv_algo.forward(algo, x, w, b, window),
        *conv_algo.backward(("direct", algo), dy, x, w, window, (False, True, True))[1:],
    ]
    arguments = [stride] * 2, list(pad), [1, 1], False, [0, 0], 1
    exact = [x.double(), w.double(), b.double()]
    expected = [
        torch.ops.aten.convolution(*exact, *arguments),
        *torch.ops.aten.convolution_backward(dy.double(), *exact[:2], [32], *arguments, [False, True, True])[1:],
    ]
    for one, two in zip(found, expected, strict=True):
        assert one is not None and float((one.double() - two).abs().max()) <= 5e-5 * float(two.abs().max())


@pytest.mark.parametrize(("size", "kernel", "stride"), [((28, 28), (5, 5), (1, 1)), ((9, 12), (2, 5), (3, 2))])
def test_filters_of_one_channel_by_patches(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]
) -> None:
    """Their gradient equals that of a float64 convolution, and the bias's."""
    g, window = torch.Generator().manual_seed(0), Window(kernel=kernel, stride=stride, pad=(0, 0), dilation=(1, 1))
    x, w = torch.randn(7, 1, *size, generator=g), torch.zeros(20, 1, *kernel)
    dy = torch.randn(7, 20, *window.output_size(size), generator=g)
    assert conv_algo.choose("dw", x, w, window, compiled=False, mode="patches") == "patches"
    _, dw, db = conv_algo.backward(("direct", "patches"), dy, x, w, window, (False, True, True))
    arguments = list(stride), [0, 0], [1, 1], False, [0, 0], 1, [False, True, True]
    expected = torch.ops.aten.convolution_backward(dy.double(), x.double(), w.double(), [20], *arguments)[1:]
    for one, two in zip((dw, db), expected, strict=True):
        assert one is not None and float((one.double() - two).abs().max()) <= 1e-5 * float(two.abs().max())


def test_images_of_one_channel_give_images_channels_last() -> None:
    """So that what follows copies nothing, whichever way their own strides count the only channel."""
    x, w = torch.randn(2, 1, 8, 8), torch.randn(20, 1, 3, 3)
    for images in (x, x.to(memory_format=torch.channels_last)):
        y = conv_algo.forward("direct", images, w, None, square())
        assert y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()


#: N, C, O, size, kernel, stride, pad: whole tiles and parts of them, groups of images and parts, windows that reach past the
#: padding, that leave pixels out, of one pixel, larger than their stride and smaller
WINDOWS = [
    (32, 32, 32, (8, 8), (3, 3), (1, 1), (1, 1)),
    (33, 16, 48, (9, 7), (3, 3), (2, 2), (1, 1)),
    (70, 5, 10, (6, 20), (1, 1), (1, 1), (0, 0)),
    (7, 40, 33, (12, 40), (5, 4), (2, 3), (2, 0)),
    (16, 3, 17, (11, 11), (2, 3), (3, 1), (1, 4)),
    (1, 96, 20, (5, 6), (5, 6), (1, 1), (0, 0)),
    (3, 32, 16, (9, 7), (5, 5), (1, 1), (2, 2)),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", WINDOWS)
@pytest.mark.parametrize("algo", ["direct", "turned", "amx", "winograd2", "winograd4"])
def test_in_bfloat16_sums_are_those_of_the_rounded_factors(algo: str, shape: tuple[Any, ...], threads: int) -> None:
    """Forward and the three gradients equal float64 convolution of the same factors but for the rounding of results: half a unit in
    the last of bfloat16's eight places, and float32's, of a sum in another order.
    """
    missing = amx.why_not() if algo == "amx" else winograd.why_not() if algo in conv_algo.WINOGRAD else None
    if missing is not None:
        pytest.skip(missing)
    n, c, o, size, kernel, stride, pad = shape
    window = Window(kernel=kernel, stride=stride, pad=pad, dilation=(1, 1))
    g = torch.Generator().manual_seed(0)
    shapes = (n, c, *size), (o, c, *kernel), (o,), (n, o, *window.output_size(size))
    x, w, b, dy = (torch.randn(*each, generator=g).bfloat16() for each in shapes)
    algos = [algo if algo in conv_algo._fitting(what, x, w, window) else "direct" for what in ("forward", "dx", "dw")]
    if algo not in algos:
        pytest.skip(f"{algo} does not fit")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = [
            conv_algo.forward(algos[0], x, w, b, window),
            *conv_algo.backward((algos[1], algos[2]), dy, x, w, window, (True, True, True)),
        ]
    finally:
        torch.set_num_threads(before)
    exact = [x.double(), w.double(), b.double()]
    arguments = [list(stride), list(pad), [1, 1], False, [0, 0], 1]
    expected = [
        torch.ops.aten.convolution(*exact, *arguments),
        *torch.ops.aten.convolution_backward(dy.double(), *exact[:2], [o], *arguments, [True, True, True]),
    ]
    for one, two in zip(found, expected, strict=True):
        assert one is not None and one.shape == two.shape
        rounding = 2.0**-8 * two.abs() if one.dtype == torch.bfloat16 else 0
        order = (2e-6 if algo == "direct" else TOLERANCE.get(algo, 2e-6)) * two.abs().max()
        assert bool(((one.double() - two).abs() <= rounding + order).all())


def test_the_gradients_of_filters_by_amx_keep_float32() -> None:
    """They are added to float32 anyway; nobody has to round them before."""
    if amx.why_not() is not None:
        pytest.skip(str(amx.why_not()))
    x = torch.ones(2, 16, 4, 4, dtype=torch.bfloat16)
    _, dw, db = conv_algo.backward(
        ("amx", "amx"), x, x, x[:, :, :3, :3].repeat(8, 1, 1, 1), square(pad=1), (False, True, True)
    )
    assert dw is not None and db is not None
    assert dw.dtype == db.dtype == torch.float32


def test_bfloat16_is_multiplied_by_tiles_of_the_processor_or_of_winograd(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are AMX's, Winograd's are not tried; where windows have holes or groups, nothing is measured."""
    x, w = (torch.empty(*shape, dtype=torch.bfloat16) for shape in ((4, 16, 8, 8), (16, 16, 3, 3)))
    for other in (square(pad=1, dilation=2), square(pad=1, group=2)):
        assert conv_algo.choose("dw", x, w, other, compiled=True) == "direct"
    assert not (cache / "bfloat16convolutions").exists()
    if amx.why_not() is None or winograd.why_not() is None:
        assert conv_algo.choose("dx", x, w, square(pad=1), compiled=True) in conv_algo.ALGORITHMS
        assert len(list(cache.glob("bfloat16convolutions/*.json"))) == 1
    tried: list[list[str]] = []
    monkeypatch.setattr(choice, "fastest", lambda question, trials: tried.append(list(trials)) or "direct")
    monkeypatch.setattr(winograd, "why_not", lambda: None)
    for missing in (None, "the processor has no amx_bf16"):
        monkeypatch.setattr(amx, "why_not", lambda missing=missing: missing)
        for what in ("forward", "dx"):
            assert conv_algo.choose(what, x, w, square(pad=1), compiled=True) == "direct"
    monkeypatch.setattr(winograd, "why_not", lambda: "found no C++ compiler")
    assert conv_algo.choose("dx", x, w, square(pad=1), compiled=True) == "direct"
    tiles = ["direct", "winograd4", "winograd2"]
    assert tried == [["direct", "amx"], ["direct", "turned", "amx"], tiles, tiles]


def test_a_processor_without_the_instructions_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said by its name in /proc/cpuinfo."""
    monkeypatch.setattr(amx.cpuinfo, "text", lambda: "flags\t\t: fpu avx512bw avx512vl avx512_bf16 amx_tile\n")
    monkeypatch.setattr(amx, "load", lambda *_: pytest.fail("compiled"))
    amx._load.cache_clear()
    try:
        assert amx.why_not() == "the processor has no amx_bf16"
    finally:
        amx._load.cache_clear()


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
    assert (
        str(caught.value)
        == "unknown convolution algorithm 'fft' (known: auto, direct, winograd2, winograd4, phases2, phases4, turned, amx, patches)"
    )
