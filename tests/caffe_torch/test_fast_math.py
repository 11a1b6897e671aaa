"""Forward passes by the fastest kernels: numbers that differ from Caffe's order by rounding alone, and nothing else changed."""

from __future__ import annotations

import ctypes
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets.table import NETS
from support.prototxt import layer

from allconv_caffe import pycaffe
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import caffe_math, compiler, fast_math, layout
from allconv_caffe.caffe_torch.compute.caffe_math import CaffeMath
from allconv_caffe.caffe_torch.compute.fast_math import FastMath
from allconv_caffe.caffe_torch.compute.math_functions import Wanted
from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.compute.window import Window
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import TRAIN, NetParameter, parse_text

pytestmark = pytest.mark.skipif(
    caffe_math.why_not() is not None or fast_math.why_not() is not None, reason="this machine has not the kernels"
)


@pytest.fixture(scope="module", params=["here", "haswell"])
def math(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FastMath:
    """The kernels for this processor, and those for one with AVX2 alone, which it runs, too."""
    found = layout.library()
    assert isinstance(found, ctypes.CDLL)
    if request.param == "haswell":
        if "avx512f" not in compiler.processor():
            pytest.skip("they are the same here")
        patch = pytest.MonkeyPatch()
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(compiler, "FLAGS", [flag.replace("native", "haswell") for flag in compiler.FLAGS])
        found = layout.library.__wrapped__()
        patch.undo()
        assert isinstance(found, ctypes.CDLL)
    return FastMath(fast_math.declared(found))


def window(
    kernel: int, stride: int = 1, pad: tuple[int, int] = (0, 0), dilation: tuple[int, int] = (1, 1), group: int = 1
) -> Window:
    return Window(kernel=(kernel, kernel), stride=(stride, stride), pad=pad, dilation=dilation, group=group)


#: images, channels, height, width, outputs, window; the second row by Winograd's tiles where there are vectors enough
CONVOLUTIONS = [
    (2, 3, 9, 11, 10, window(3, 1, (1, 1))),
    (3, 1, 12, 12, 20, window(5)),
    (2, 7, 8, 8, 33, window(1)),
    (2, 6, 10, 7, 50, window(3, 2, (1, 0))),
    (1, 4, 13, 13, 6, window(3, 1, (2, 2), (2, 1))),
    (2, 8, 9, 9, 12, window(3, 1, (1, 1), (1, 3), 4)),
    (2, 4, 30, 40, 5, window(11, 4)),
    (2, 32, 12, 12, 48, window(3, 1, (1, 1))),
    (1, 16, 7, 5, 16, window(3, 1, (2, 2))),
    (2, 32, 9, 10, 32, window(5, 1, (2, 2))),
    (1, 64, 8, 8, 32, window(5, 1, (2, 2), group=2)),
    (2, 64, 9, 9, 96, window(3, 1, (1, 1), group=2)),
    (40, 64, 3, 3, 64, window(1)),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: "-".join(map(str, case[:5])))
@pytest.mark.parametrize("planar", [True, False])
def test_a_convolution_is_that_in_double(math: FastMath, case: tuple[Any, ...], planar: bool) -> None:
    """Of any window, groups, layout and number of channels, by every kind of tile, within 2e-6 of the sum of absolute products."""
    n, c, h, w, o, win = case
    g = torch.Generator().manual_seed(1)
    x, b = torch.randn(n, c, h, w, generator=g), torch.randn(o, generator=g)
    filters = torch.randn(o, c // win.group, *win.kernel, generator=g)
    options = {"stride": win.stride, "padding": win.pad, "dilation": win.dilation, "groups": win.group}
    expected = F.conv2d(x.double(), filters.double(), b.double(), **options)
    most = F.conv2d(x.double().abs(), filters.double().abs(), b.double().abs(), **options)
    own = x if planar else x.contiguous(memory_format=torch.channels_last)
    y = math.convolution(own, filters, b, win)
    assert ((y.double() - expected).abs() <= 2e-6 * most).all()
    assert torch.equal(math.convolution(own, filters, None, win) + 0, math.convolution(own, filters, 0 * b, win) + 0)


@pytest.mark.parametrize(
    "case", [*CONVOLUTIONS, (2, 3, 23, 20, 16, window(5, 2, (1, 1)))], ids=lambda c: "-".join(map(str, c[:5]))
)
@pytest.mark.parametrize("planar", [True, False])
def test_a_gradient_is_that_in_double(math: FastMath, case: tuple[Any, ...], planar: bool) -> None:
    """As a convolution itself; and by the filters of now, not by those that were packed before."""
    n, c, h, w, o, win = case
    g = torch.Generator().manual_seed(2)
    filters = torch.randn(o, c // win.group, *win.kernel, generator=g)
    x, dy = torch.randn(n, c, h, w, generator=g), torch.randn(n, o, *win.output_size((h, w)), generator=g)
    options = {"stride": win.stride, "padding": win.pad, "dilation": win.dilation, "groups": win.group}

    def gradient(filters: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        below = torch.zeros(x.shape, dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(F.conv2d(below, filters.double(), None, **options), below, dy.double())
        return found

    own = dy if planar else dy.contiguous(memory_format=torch.channels_last)
    for _ in range(2):
        dx = math.convolution_backward(own, x, filters, win, Wanted(dx=True, dw=None, db=None))
        assert dx is not None
        most = gradient(filters.abs(), dy.abs())
        assert ((dx.double() - gradient(filters, dy)).abs() <= 2e-6 * most).all()
        filters.mul_(-2).add_(0.5)


def test_a_gradient_comes_with_those_of_the_filters(math: FastMath) -> None:
    """dw and db are added to their blobs' diffs, whoever makes dx."""
    g, win = torch.Generator().manual_seed(3), window(3, 1, (1, 1))
    x, dy, filters = (torch.randn(*shape, generator=g) for shape in ((2, 32, 9, 9), (2, 32, 9, 9), (32, 32, 3, 3)))
    dw, db = Blob((32, 32, 3, 3)), Blob((32,))
    for blob in (dw, db):
        blob.diff = torch.ones(blob.shape)
    assert math.convolution_backward(dy, x, filters, win, Wanted(dx=True, dw=dw, db=db)) is not None
    expected = torch.nn.grad.conv2d_weight(x, filters.shape, dy, padding=1)
    torch.testing.assert_close(dw.diff, expected + 1, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(db.diff, dy.sum((0, 2, 3)) + 1, rtol=1e-4, atol=1e-4)


def test_tiles_are_taken_where_they_are_less_work() -> None:
    """Not for strides, few channels or where most of a tile lies outside; large tiles on large maps."""
    size = {"n": 8, "lanes": 16}
    w = torch.empty(96, 96, 3, 3, device="meta")

    def tile(w: torch.Tensor, win: Window, out: tuple[int, int]) -> int:
        return fast_math.fastest(size["n"], w, win, out, size["lanes"])

    assert [tile(w, window(3), (side, side)) for side in (32, 6)] == [4, 2]
    assert tile(w, window(3, 2), (16, 16)) == tile(w[:, :3], window(3), (32, 32)) == fast_math.DIRECT
    assert tile(torch.empty(96, 96, 5, 5, device="meta"), window(5), (16, 16)) == 2
    assert tile(torch.empty(16, 16, 5, 5, device="meta"), window(5), (28, 28)) == fast_math.DIRECT


def ordered() -> CaffeMath:
    found = caffe_math.find()
    assert found is not None
    return found


@pytest.mark.parametrize("channels", [5, 16, 40])
def test_each_verb_over_images_channels_last_is_that_in_c_order(math: FastMath, channels: int) -> None:
    """Pooling, LRN, Concat, Slice, softmax, maxima, normalisation and formulas: the same to rounding, maxima to the bit."""
    g = torch.Generator().manual_seed(2)
    x, other = (torch.randn(2, channels, 9, 7, generator=g) for _ in range(2))
    scale, shift = torch.rand(channels, generator=g) + 0.5, torch.randn(channels, generator=g)
    x[0, 1, 2, 3] = float("nan")
    pool, small = window(3, 2, (1, 1)), window(3)

    def verbs(m: CaffeMath, x: torch.Tensor, other: torch.Tensor) -> dict[str, torch.Tensor]:
        y, index = m.max_pool(x, pool, (5, 4))
        most, which = m.greatest([x, other])
        return {
            "max": y,
            "place": index.long(),
            "average": m.average_pool(x, pool, (5, 4)),
            "across": m.lrn_scale(other, 5, 0.1, 2.0),
            "within": m.lrn_scale_within(x, dataclasses.replace(small, pad=(1, 1)), 0.7),
            "quarters": m.each("times_power", other, m.lrn_scale(other, 3, 0.1, 1.0), -0.75),
            "concat": m.concat([x, other], 1, torch.empty(2, 2 * channels, 9, 7)),
            "wide": m.concat([x, other], 3, torch.empty(2, channels, 9, 14)),
            "part": m.part(x, 1, 1, 3, torch.empty(2, 3, 9, 7)),
            "row": m.part(x, 2, 1, 3, torch.empty(2, channels, 3, 7)),
            "softmax": m.softmax(other, 1),
            "most": most,
            "which": which,
            "normalized": m.normalized(x, shift, scale),
            "affine": m.affine(x, scale, shift, (1, 1)),
            "relu": m.relu(x, 0.1),
            "channel": m.each("multiply", x, scale, axis=1),
            "column": m.each("add", x, torch.arange(7.0), axis=3),
            "sum": m.axpy(-2.0, x, other),
            "copy": m.copy(x, torch.empty(x.shape)),
        }

    last = [a.contiguous(memory_format=torch.channels_last) for a in (x, other)]
    expected, mixed = verbs(ordered(), x, other), verbs(math, last[0], other)
    for name, value in verbs(math, *last).items():
        for found in (value, mixed[name]):
            assert torch.allclose(found.float(), expected[name].float(), rtol=2e-6, atol=2e-6, equal_nan=True), name
        if name in ("max", "place", "most", "which", "concat", "part", "copy"):
            assert torch.equal(value.nan_to_num(7), expected[name].nan_to_num(7)), name


def test_a_product_by_rows_is_that_in_double(math: FastMath) -> None:
    """Of any size, rests of vectors and tiles among them."""
    g = torch.Generator().manual_seed(3)
    for m, n, k in [(1, 1, 1), (5, 13, 37), (16, 100, 64), (3, 7, 1000)]:
        x, w, b = (torch.randn(*size, generator=g) for size in ((m, k), (n, k), (n,)))
        most = x.abs().double() @ w.abs().double().t() + b.abs()
        assert (
            (math.inner_product(x, w.t(), b).double() - (x.double() @ w.double().t() + b)).abs() <= 1e-6 * most
        ).all()


@pytest.mark.parametrize("change", range(4))
def test_a_digest_tells_any_change(math: FastMath, change: int) -> None:
    """One bit, two numbers exchanged, a sign of zero, anywhere; and is the same for any number of threads."""
    x = torch.randn(100_003)
    x[50_001] = 0.0

    def sums(threads: int = 1) -> list[int]:
        kept = (ctypes.c_int64 * 2)()
        math.library.caffe_last_digest(x.numel(), x.data_ptr(), kept, threads)
        return [*kept]

    before = sums()
    assert before == sums(2)
    if change < 2:
        x.view(torch.int32)[[0, -1][change]] ^= 1
    elif change == 2:
        x[[17, 60_000]] = x[[60_000, 17]]
    else:
        x[50_001] = -0.0
    assert all(a != b for a, b in zip(before, sums(), strict=True))


# nets
def drop_in(param: Any, *, exact: bool = False) -> pycaffe.Net:
    """A net of the drop-in, its inputs filled, of one seed."""
    pycaffe.set_random_seed(5)
    pycaffe.set_seed_exact(exact)
    try:
        net = pycaffe.Net.from_proto(param, pycaffe.TEST)
    finally:
        pycaffe.set_seed_exact(False)
    rng = np.random.default_rng(0)
    for name in net.inputs:
        net.blobs[name].data[...] = 1 if name == "cont" else rng.standard_normal(net.blobs[name].shape)
    return net


def alike(fast: pycaffe.Net, exact: pycaffe.Net, tolerance: float = 2e-5) -> None:
    """Every blob, to a part of its largest number: sums of one layer go on into the next."""
    for name, blob in exact.blobs.items():
        expected, found = blob.data, fast.blobs[name].data
        assert np.abs(found - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-3), name


@pytest.mark.parametrize("name", [name for name in NETS if name not in ("caffenet", "imagenet_allcnn")])
def test_nets_of_the_table_give_what_they_give_in_caffes_order(name: str) -> None:
    """Every blob, from the first forward to one that is played, is that of a seed-exact net to rounding."""
    param = NETS[name].param(2, True)
    for each in param.layer:  # statistics of nothing yet would make numbers grow without end
        each.param.extend([])
    fast, exact = drop_in(param), drop_in(param, exact=True)
    assert isinstance(fast._net.ctx.math, FastMath) and not isinstance(exact._net.ctx.math, FastMath)
    for net in (fast, exact):
        for layer_, blobs in net.params.items():
            if net.layer_dict[layer_].type == "BatchNorm":
                blobs[1].data[...] = 2
                blobs[2].data[...] = 1
    exact.forward()
    for _ in range(3):
        fast.forward()
        alike(fast, exact)
        exact.forward()


SMALL = (
    'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 32 dim: 9 dim: 8 } } }\n'
    + layer(
        "conv",
        "Convolution",
        "x",
        'convolution_param { num_output: 32 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } }',
    )
    + 'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }\n'
    + layer("pool", "Pooling", "conv", "pooling_param { kernel_size: 3 stride: 2 }")
    + layer(
        "up",
        "Convolution",
        "pool",
        'convolution_param { num_output: 16 kernel_size: 5 pad: 2 weight_filler { type: "xavier" } }',
    )
    + layer("ip", "InnerProduct", "up", 'inner_product_param { num_output: 5 weight_filler { type: "xavier" } }')
)


def small(*, exact: bool = False, extra: str = "") -> pycaffe.Net:
    return drop_in(parse_text(SMALL + extra, NetParameter), exact=exact)


def _write_anew(net: pycaffe.Net, held: np.ndarray) -> None:
    net.params["conv"][0].data[...] *= -1.5


def _write_held(net: pycaffe.Net, held: np.ndarray) -> None:
    held[3, 4, 1, 1] += 2


def _write_tensor(net: pycaffe.Net, held: np.ndarray) -> None:
    net._net.layers[1].blobs[0].data.mul_(0.5)


def _load(net: pycaffe.Net, held: np.ndarray) -> None:
    other = small()
    other.params["conv"][0].data[...] *= 3
    other.save("other.caffemodel")
    net.copy_from("other.caffemodel")


def _share(net: pycaffe.Net, held: np.ndarray) -> None:
    other = small()
    other.params["conv"][0].data[...] += 0.25
    net.share_with(other)


@pytest.mark.parametrize("change", [_write_anew, _write_held, _write_tensor, _load, _share])
def test_new_weights_are_seen(change: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are written between two forwards that are played; and again."""
    monkeypatch.chdir(tmp_path)
    nets = small(), small(exact=True)
    held = [net.params["conv"][0].data for net in nets]
    for _ in range(2):
        for net in nets:
            for _ in range(4):
                net.forward()
        alike(*nets)
        before = nets[0].blobs["conv"].data.copy()
        for net, array in zip(nets, held, strict=True):
            change(net, array)
            net.forward()
        assert np.abs(nets[0].blobs["conv"].data - before).max() > 0.01 or change in (_load, _share)
        alike(*nets)


def test_weights_that_a_solver_moves_are_seen(tmp_path: Path) -> None:
    """A net that shares a training net's weights scores with those of now."""
    (tmp_path / "net.prototxt").write_text(
        SMALL
        + 'layer { name: "y" type: "DummyData" top: "y" dummy_data_param { shape { dim: 2 } } }\n'
        + layer("loss", "SoftmaxWithLoss", "ip y")
    )
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path / "net.prototxt"}" base_lr: 0.5 lr_policy: "fixed" max_iter: 9 snapshot_prefix: "{tmp_path}/s"'
    )
    solver = pycaffe.SGDSolver(str(tmp_path / "solver.prototxt"))
    assert not isinstance(solver.net._net.ctx.math, FastMath)
    solver.net.blobs["x"].data[...] = np.random.default_rng(1).standard_normal((2, 32, 9, 8))
    net = small()
    net.share_with(solver.net)
    for _ in range(3):
        net.forward()
    before = net.blobs["up"].data.copy()
    solver.step(2)
    net.forward()
    assert np.abs(net.blobs["up"].data - before).max() > 1e-3
    again = small(exact=True)
    again.share_with(solver.net)
    again.forward()
    alike(net, again)


def test_an_array_got_before_shows_every_forward() -> None:
    """Arrays of blobs in the middle are live, whether got before the first forward or between two, played or not."""
    net, held = small(), {}
    exact = small(exact=True)
    for step in range(6):
        for each in (net, exact):
            each.blobs["x"].data[...] = np.random.default_rng(step).standard_normal((2, 32, 9, 8))
            each.forward()
        for name, array in held.items():
            assert np.abs(array - exact.blobs[name].data).max() < 1e-4 and array.flags.c_contiguous, name
        name = ["conv", "up", "pool", "ip", "x", "conv"][step]
        held[name] = net.blobs[name].data


def test_what_is_written_in_the_middle_is_taken_from_there() -> None:
    """A blob changed through an array, then the rest of the net; a forward that ends between a convolution and its ReLU."""
    nets = small(), small(exact=True)
    for _ in range(4):
        for net in nets:
            net.forward(end="conv")
            assert net.blobs["conv"].data.min() < -0.1
            net.forward(start="relu")
            assert net.blobs["conv"].data.min() == 0
            net.forward()
        alike(*nets)
        for net in nets:
            net.blobs["conv"].data[0, 3] = 7.0
            net.forward(start="pool")
            assert net.blobs["conv"].data[0, 3].min() == 7
        alike(*nets)


def test_gradients_follow_a_forward_that_was_played() -> None:
    """Data and diffs of every blob and parameter are those of a seed-exact net, to rounding."""
    nets = small(extra="force_backward: true"), small(exact=True, extra="force_backward: true")
    for _ in range(4):
        for net in nets:
            net.forward()
            net.clear_param_diffs()
            net.blobs["ip"].diff[...] = np.arange(10).reshape(2, 5)
            net.backward()
        alike(*nets)
        for (name, fast), exact in zip(nets[0].blobs.items(), nets[1].blobs.values(), strict=True):
            assert np.abs(fast.diff - exact.diff).max() <= 2e-5 * np.abs(exact.diff).max(), name
        for name in nets[0].params:
            for fast, exact in zip(nets[0].params[name], nets[1].params[name], strict=True):
                assert np.abs(fast.diff - exact.diff).max() <= 2e-5 * np.abs(exact.diff).max(), name


def test_backward_by_hand_says_what_was_not_kept() -> None:
    """Where no loss lies above, a pooling keeps no places; running it back all the same is an error, not zeros."""
    net = small()
    net.forward()
    with pytest.raises(CaffeError) as refused:
        net.layers[3].backward([net.blobs["pool"]], [True], [net.blobs["conv"]])
    assert str(refused.value).endswith(
        "forward has kept nothing for backward, since no loss lies above (force_backward: true asks for it)"
    )


def test_memory_stays_what_it_was() -> None:
    """Images lie in the blobs' own memories: three forwards leave as many arrays as the blobs need."""
    net = small()
    for _ in range(4):
        net.forward()
    conv = net._net.blobs["conv"]._data
    assert conv.layout is not None and conv.layout.shape == (2, 32, 9, 8) and conv.flat is not None
    assert conv.flat.numel() == net.blobs["conv"].count
    address = conv.flat.data_ptr()
    assert net.blobs["conv"].data.ctypes.data == address and conv.layout is None


@pytest.mark.parametrize("what", ["fast", "exact", "solver", "bf16"])
def test_who_takes_them(what: str) -> None:
    """Nets of the drop-in, unless set_seed_exact says otherwise; no context that a solver is built with, no other precision."""
    context = {
        "fast": Context(rng=TorchGenerator(1), fast=True),
        "exact": Context(rng=TorchGenerator(1)),
        "solver": pycaffe.common.context(TRAIN),
        "bf16": Context(rng=TorchGenerator(1), fast=True, compute_dtype=torch.bfloat16),
    }[what]
    net = Net(parse_text(SMALL, NetParameter), context)
    assert {isinstance(layer.ctx.math, FastMath) for layer in net.layers} == {what == "fast"}
