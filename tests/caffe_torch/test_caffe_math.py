"""Sums in Caffe's order, where no Caffe is: the order read off numbers that cancel, and everything against float64."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import caffe_math, compiler, cpuinfo, pooling
from allconv_caffe.caffe_torch.compute.caffe_math import CaffeMath
from allconv_caffe.caffe_torch.compute.math_functions import FORMULAS, TorchMath, Wanted, along
from allconv_caffe.caffe_torch.compute.openblas import HASWELL, SKYLAKEX, Kernels, better_core, kernels
from allconv_caffe.caffe_torch.compute.rng import CaffeGenerator, TorchGenerator
from allconv_caffe.caffe_torch.compute.window import Window
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import TRAIN, NetParameter, parse_text

ZEN4 = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nflags\t\t: avx2 fma avx512vl avx512_bf16\n"
SKYLAKE_SERVER = "vendor_id : GenuineIntel\ncpu family : 6\nflags : fma avx2 avx512f avx512vl\n"
BROADWELL = "vendor_id : GenuineIntel\ncpu family : 6\nflags : fma avx2\n"
SAPPHIRE_RAPIDS = "vendor_id : GenuineIntel\ncpu family : 6\nflags : fma avx2 avx512vl avx512_bf16\n"
Numbers = tuple[int, ...]


def window(kernel: Numbers, stride: Numbers, pad: Numbers, dilation: Numbers, group: int = 1) -> Window:
    return Window(kernel=kernel, stride=stride, pad=pad, dilation=dilation, group=group)


def blob(diff: torch.Tensor) -> Blob:
    made = Blob(diff.shape)
    made.diff = diff
    return made


@pytest.fixture
def sums() -> CaffeMath:
    found = caffe_math.find()
    if found is None:
        pytest.skip(f"no sums in Caffe's order here: {caffe_math.why_not()}")
    return found


@pytest.fixture
def uncached() -> Iterator[None]:
    """What the machine offers is looked at anew, before and after."""
    caffe_math._load.cache_clear()
    caffe_math.find.cache_clear()
    yield
    caffe_math._load.cache_clear()
    caffe_math.find.cache_clear()


def test_what_the_processor_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model name; its architecture where the system has no such file, or none stands in it."""
    said = "processor\t: 0\nmodel name\t: Zen (R) 9\nmodel\t\t: 7\n\nprocessor\t: 1\nmodel name\t: another\n"
    for text, name in ((said, "Zen (R) 9"), (ZEN4, None), ("", None)):
        monkeypatch.setattr(cpuinfo, "text", lambda text=text: text)
        assert cpuinfo.model_name() == (name or platform.processor() or platform.machine())
    assert cpuinfo.field(ZEN4, "cpu family") == "25" and cpuinfo.field(ZEN4, "cpu") is None
    assert cpuinfo.field("flags\t:\nmodel\t: 7\n", "flags") == ""


def test_the_kernels_of_a_processor() -> None:
    """AMD's Zen and Intel's AVX2 take Haswell's, Intel's AVX-512 SkylakeX's; OPENBLAS_CORETYPE decides before them."""
    assert kernels("", "x86_64", ZEN4) is HASWELL and kernels("", "x86_64", BROADWELL) is HASWELL
    assert kernels("", "x86_64", SKYLAKE_SERVER) is SKYLAKEX
    assert kernels("SKYLAKEX", "x86_64", ZEN4) is SKYLAKEX and kernels("Zen", "x86_64", SKYLAKE_SERVER) is HASWELL


@pytest.mark.parametrize(
    ("core_type", "machine", "cpuinfo", "sentence"),
    [
        ("", "aarch64", "", "OpenBLAS's order on aarch64 is not known (known: x86_64)"),
        ("", "x86_64", "flags : sse2", "OpenBLAS's order on a processor without AVX2 and FMA is not known"),
        ("Atom", "x86_64", ZEN4, "OPENBLAS_CORETYPE=Atom: its order is not known (known: Haswell, SkylakeX, Zen)"),
        (
            "",
            "x86_64",
            SAPPHIRE_RAPIDS,
            "which kernels OpenBLAS takes on this processor (GenuineIntel, family 6) is not "
            "known (OPENBLAS_CORETYPE=Haswell or SkylakeX tells it, and us)",
        ),
    ],
)
def test_what_is_not_known_is_said(core_type: str, machine: str, cpuinfo: str, sentence: str) -> None:
    """Other processors and kernels get a sentence that names them and what is known."""
    assert kernels(core_type, machine, cpuinfo) == sentence


def lost(sums: CaffeMath, order: Kernels, m: int, n: int, k: int, first: int, last: int) -> np.ndarray:
    """(m, n): how many of k ones vanish beside 2^30, which `first` brings in and `last` takes out again.

    2^30 + 1 is 2^30, so the ones that meet it while it is in the accumulator are lost. Of k - 2 ones the others remain.
    """
    a = torch.ones(m, k)
    a[:, first], a[:, last] = 2.0**30, -(2.0**30)
    found = CaffeMath(sums.library, order).gemm(a, torch.ones(k, n)).numpy()
    return np.asarray(k - 2 - found)


def test_products_are_summed_in_blocks(sums: CaffeMath) -> None:
    """Haswell: 320 while 640 remain, then halves to a multiple of 8. SkylakeX: 448, 896, 16."""
    # 864 = 320 + 272 + 272: within a block, all between first and last are lost
    assert (lost(sums, HASWELL, 1, 1, 864, 0, 319) == 318).all()
    assert (lost(sums, HASWELL, 1, 1, 864, 320, 591) == 270).all()
    # first and last in two blocks, which are summed apart: each loses its own 319 and 271 ones, the third keeps its 272
    assert (lost(sums, HASWELL, 1, 1, 864, 0, 320) == 319 + 271).all()
    # 864 = 432 + 432, for 864 < 896
    assert (lost(sums, SKYLAKEX, 1, 1, 864, 0, 431) == 430).all()
    assert (lost(sums, SKYLAKEX, 1, 1, 864, 432, 863) == 430).all()


def test_a_processor_younger_than_openblas_gets_better_kernels() -> None:
    """Those of the nearest processor that it knows, where it has taken one's without AVX; none where it has chosen well."""
    assert better_core("Prescott", ZEN4) == "SkylakeX" and better_core("Nehalem", BROADWELL) == "Haswell"
    assert better_core("Haswell", ZEN4) is None and better_core("Cooperlake", SKYLAKE_SERVER) is None
    assert better_core("Prescott", "flags : sse2 avx\n") is None


def test_where_haswells_kernels_have_two_accumulators(sums: CaffeMath) -> None:
    """Two where nothing is lost between an even and an odd product; the pattern of 22 rows and 40 + 1 columns."""
    apart = lost(sums, HASWELL, 22, 41, 16, 0, 2) == 0  # product 1 is not lost to 0 and 2
    expected = np.zeros((22, 41), bool)
    expected[0:6, 0:8] = True  # twelve rows, five tiles: the first six in the first tile,
    expected[6:12, 32:40] = True  # the last six in the last
    expected[12:20, 0:40] = True  # two fours, in the first (here the only) block of columns
    assert np.array_equal(apart, expected)
    assert not (lost(sums, SKYLAKEX, 22, 41, 16, 0, 2) == 0).any()


@pytest.mark.parametrize("rows", [1, 2, 11, 12, 30])
@pytest.mark.parametrize("n", [1, 7, 8, 41, 1003])
def test_how_a_factor_lies_changes_no_bit(sums: CaffeMath, rows: int, n: int) -> None:
    """Weights (N, K) taken transposed, by eight at once, in pieces that stay in the cache: the product of a copy (K, N)."""
    g = torch.Generator().manual_seed(n)
    for k in (1, 8, 13, 800, 2100):
        a, w = torch.randn(rows, k, generator=g), torch.randn(n, k, generator=g)
        expected, room = sums.gemm(a, w.t().contiguous()), torch.full((rows, n), 7.0)
        assert torch.equal(sums.gemm(a, w.t()), expected)
        assert sums.gemm(a, w.t(), room) is room and torch.equal(room, expected)
        torch.testing.assert_close(expected.double(), a.double() @ w.double().t(), rtol=1e-5, atol=1e-3)


def test_one_row_is_summed_like_each_of_several(sums: CaffeMath) -> None:
    """A product of one row by four tiles at once: as every row of a few, whose panels know no second accumulators."""
    g = torch.Generator().manual_seed(3)
    a, w = torch.randn(3, 900, generator=g), torch.randn(77, 900, generator=g)
    together = sums.gemm(a, w.t())
    for i in range(3):
        assert torch.equal(sums.gemm(a[i : i + 1], w.t()), together[i : i + 1])


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 0), (3, 1, 1), (5, 3, 2)])
def test_maxima_are_those_of_every_other_device(sums: CaffeMath, kernel: int, stride: int, pad: int) -> None:
    """Values and places: the first of equals, nan passed over, -FLT_MAX and -1 where nothing is greater."""
    where = window((kernel,) * 2, (stride,) * 2, (pad,) * 2, (1, 1))
    x = torch.randn(3, 4, 13, 11, generator=torch.Generator().manual_seed(kernel)).round(decimals=1)
    x[0, 0, :6], x[0, 1, 3:, :5], x[1, 2] = float("nan"), -float("inf"), float("inf")
    out = where.pooled_size(x.shape[2:], True)
    expected, room = pooling.maxima(x.double(), where, out), torch.zeros(3, 4, *out)
    values, places = sums.max_pool(x, where, out, room)
    assert values is room
    nothing = expected[1] < 0
    assert torch.equal(places, expected[1]) and nothing.any()
    assert torch.equal(values[~nothing].double(), expected[0][~nothing])
    assert (values[nothing] == -torch.finfo(torch.float32).max).all()


@pytest.mark.parametrize("order", [HASWELL, SKYLAKEX], ids=lambda order: order.name)
@pytest.mark.parametrize(
    ("c", "m", "size", "window"),
    [
        (3, 13, (9, 7), window((3, 2), (2, 1), (1, 0), (1, 1))),
        (4, 26, (8, 8), window((1, 1), (1, 1), (0, 0), (1, 1), group=2)),
        (6, 9, (11, 12), window((3, 3), (1, 2), (2, 1), (2, 3), group=3)),
        (5, 12, (40,), window((5,), (1,), (2,), (1,))),
        (2, 4, (5, 6, 7), window((2, 3, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2), group=2)),
    ],
)
def test_convolutions_and_gradients(
    sums: CaffeMath,
    order: Kernels,
    c: int,
    m: int,
    size: tuple[int, ...],
    window: Window,
) -> None:
    """Forward and gradients equal float64's to rounding, with groups, dilation and any number of axes; gradients add up."""
    own, g = CaffeMath(sums.library, order), torch.Generator().manual_seed(3)
    x = torch.randn(3, c, *size, generator=g)
    w = torch.randn(m, c // window.group, *window.kernel, generator=g)
    b = torch.randn(m, generator=g)
    y = own.convolution(x, w, b, window)
    dy = torch.randn(y.shape, generator=g)
    dw, db = blob(torch.ones(w.shape)), blob(torch.ones(m))
    dx = own.convolution_backward(dy, x, w, window, Wanted(dx=True, dw=dw, db=db))
    assert dx is not None
    found = [y, dx, dw.diff - 1, db.diff - 1]
    zero, group = [0] * len(size), window.group
    flat = [list(window.stride), list(window.pad), list(window.dilation)]
    expected = [
        torch.ops.aten.convolution(x.double(), w.double(), b.double(), *flat, False, zero, group),
        *torch.ops.aten.convolution_backward(
            dy.double(), x.double(), w.double(), [m], *flat, False, zero, group, [True] * 3
        ),
    ]
    for one, two in zip(found, expected, strict=True):
        assert float((one.double() - two).abs().max()) <= 5e-6 * float(two.abs().max())


@pytest.mark.parametrize(("images", "kernel", "pad"), [(5, 3, 1), (1, 3, 0), (1, 1, 0), (2, 3, 1)])
def test_threads_change_no_bit(sums: CaffeMath, images: int, kernel: int, pad: int) -> None:
    """Convolution and its gradients on one, three and eight threads, with more images or fewer: the same bits."""
    g, k, out = torch.Generator().manual_seed(5), (kernel, kernel), 13 + 2 * pad - kernel
    x, w, dy = (torch.randn(s, generator=g) for s in ((images, 14, 12, 12), (34, 7, *k), (images, 34, out, out)))
    slides, found, before = window(k, (1, 1), (pad, pad), (1, 1), group=2), [], torch.get_num_threads()
    try:
        for threads in (1, 3, 8):
            torch.set_num_threads(threads)
            dw, db = blob(torch.zeros(w.shape)), blob(torch.zeros(34))
            dx = sums.convolution_backward(dy, x, w, slides, Wanted(dx=True, dw=dw, db=db))
            y = sums.convolution(x, w, db.diff, slides)
            found.append([y, dx, dw.diff, db.diff, sums.gemm(x.reshape(7, -1).t(), x.reshape(7, -1))])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) and torch.equal(one, three) for one, two, three in zip(*found, strict=True))


def test_updates_are_rounded_as_a_fused_multiply_add_rounds(sums: CaffeMath) -> None:
    """axpy rounds once; axpby rounds beta y and then once; factors of 0 and nan are as in OpenBLAS."""
    e = 2.0**-12
    x, y = torch.tensor([1 + e]), torch.tensor([-1.0])
    assert sums.axpy(1 + e, x, y).item() == 2 * e + e * e  # (1 + e)^2 - 1 = 2e + e^2; rounded before: 2e
    # beta y is rounded to -(1 + 2e), so e^2 is left
    assert sums.axpby(1 + e, x, 1 + e, torch.tensor([-(1 + e)])).item() == e * e
    nan, three = torch.tensor([float("nan")]), torch.tensor([3.0])
    assert sums.axpy(0.0, nan, three).item() == 3
    assert sums.axpby(0.0, nan, 0.5, three).item() == 1.5
    assert sums.axpby(1.0, x, 0.0, nan).item() == 1 + e
    assert (x.item(), y.item(), three.item()) == (1 + e, -1, 3) and nan.isnan()  # nothing is written over


def test_a_dot_product_has_four_vectors_of_lanes(sums: CaffeMath) -> None:
    """2^30 and -2^30 in the same lane lose what lies between in it; the rest beyond 32 is summed in double."""
    for order, stride in ((HASWELL, 32), (SKYLAKEX, 64)):
        x = torch.ones(1024 + 5)
        x[0], x[1024 - stride], x[1024] = 2.0**30, -(2.0**30), 0.25  # one lane: 1024 / stride products, two are these
        assert CaffeMath(sums.library, order).dot(x, torch.ones(1029)).item() == 1024 - 1024 // stride + 4.25


def test_powers_are_the_c_librarys(sums: CaffeMath) -> None:
    """Roots and squares to a rounding, for numbers of any size and 0."""
    x = torch.cat([torch.zeros(1), 2.0 ** torch.linspace(-60, 60, 1000)])
    for exponent in (0.5, 2.0):
        assert torch.allclose(sums.powx(x, exponent).double(), x.double() ** exponent, rtol=1.3e-7, atol=0)


OPERANDS = {  # what lies along which axis of (3, 4, 5, 2)
    "a number": (0.7, 0),
    "one value": (torch.tensor(-0.3), 1),
    "channels": (torch.tensor([0.5, -1.5, 2.0, 0.25]), 1),
    "two axes": (torch.linspace(-1, 2, 10).reshape(5, 2), 2),
    "the last axis": (torch.tensor([0.2, 1.2]), 3),
    "the whole": (torch.linspace(-2, 2, 120).reshape(3, 4, 5, 2), 0),
}


@pytest.mark.parametrize(
    ("formula", "operand"),
    [(f, name) for f in FORMULAS for name, (a, _) in OPERANDS.items() if f != "powx" or isinstance(a, float)],
)
def test_each_formula_is_pytorchs_in_double(sums: CaffeMath, formula: str, operand: str) -> None:
    """To roundings, zero among the values, with what lies along any axis; in place and not."""
    (a, axis), b = OPERANDS[operand], 1.25
    x = torch.randn(3, 4, 5, 2, generator=torch.Generator().manual_seed(2))
    x[0, 0, 0] = 0
    double = along(a.double(), axis, 4) if isinstance(a, torch.Tensor) else a
    expected, before = FORMULAS[formula](x.double(), double, b).float(), x.clone()
    y = sums.each(formula, x, a, b, axis=axis)
    torch.testing.assert_close(y, expected, rtol=3e-7, atol=1e-7, equal_nan=True)
    assert torch.equal(x, before)
    assert sums.each(formula, x, a, b, axis=axis, room=x) is x
    assert x.numpy().tobytes() == y.numpy().tobytes()


def test_threads_change_no_bit_of_a_formula(sums: CaffeMath) -> None:
    """Over more values than one thread takes, cut in the midst of a channel, and of a row of operands."""
    x, before = torch.randn(3, 7, 5001), torch.get_num_threads()
    for operand, axis in ((torch.randn(7), 1), (torch.randn(5001), 2), (0.3, 0)):
        try:
            torch.set_num_threads(1)
            one = sums.each("subtract", x, operand, axis=axis)
            torch.set_num_threads(4)
            four = sums.each("subtract", x, operand, axis=axis)
        finally:
            torch.set_num_threads(before)
        assert torch.equal(one, x - (along(operand, axis, 3) if isinstance(operand, torch.Tensor) else operand))
        assert torch.equal(one, four)


def test_what_does_not_lie_along_its_axis_is_refused(sums: CaffeMath) -> None:
    """An array of another length would be read past its end."""
    with pytest.raises(AssertionError, match=r"\(3,\) does not lie along axis 1 of \(2, 4\)"):
        sums.each("add", torch.zeros(2, 4), torch.zeros(3), axis=1)


@pytest.mark.parametrize("size", [1, 3, 5, 11])
def test_lrns_sum_runs_along_the_channels(sums: CaffeMath, size: int) -> None:
    """As PyTorch's sums of windows, over planes of more values than one piece; nan spoils the channels behind it."""
    x = torch.randn(2, 7, 17, 19, generator=torch.Generator().manual_seed(size))
    expected = TorchMath().lrn_scale(x.double(), size, 0.3, 2.0)
    torch.testing.assert_close(sums.lrn_scale(x, size, 0.3, 2.0).double(), expected, rtol=2e-6, atol=0)
    x[0, 2, 3, 4] = float("nan")
    spoilt = sums.lrn_scale(x, size, 0.3, 2.0).isnan()
    assert spoilt[0, :, 3, 4].tolist() == [c >= 2 - size // 2 for c in range(7)] and int(spoilt.sum()) == min(
        7, 5 + size // 2
    )


def test_softmax_loss_and_average_pooling(sums: CaffeMath) -> None:
    """Softmax over any axis, the loss's floor at FLT_MIN, and windows that count padding: as in float64."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, 4, 6, generator=g)
    for axis in range(4):
        assert float((sums.softmax(x, axis).double() - torch.softmax(x.double(), axis)).abs().max()) < 2e-7
    p = torch.tensor([0.5, 0.25, 0.0])
    assert float(sums.log_loss(p)) == pytest.approx(np.log(8) + 87.3365, abs=1e-4)
    # windows of 3 at -1, 1, 3 over 4 + 2: the first and the last see padding; the last ends at the padding's end, 5
    y = sums.average_pool(torch.ones(1, 1, 4, 4), window((3, 3), (2, 2), (1, 1), (1, 1)), (3, 3))
    assert y[0, 0, 0].tolist() == [np.float32(4 / 9), np.float32(6 / 9), np.float32(2 / 6)]
    dx = sums.average_pool_backward(torch.ones(1, 1, 1, 1), window((3, 2), (1, 1), (0, 0), (1, 1)), (3, 2))
    assert dx.tolist() == torch.full((1, 1, 3, 2), 1 / 6).tolist()


NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 12 kernel_size: 3 weight_filler { type: "xavier" } } }
"""


def test_only_seed_exact_nets_take_them(sums: CaffeMath, monkeypatch: pytest.MonkeyPatch) -> None:
    """A net that draws from Caffe's stream calls them, any other does not."""
    called = []
    monkeypatch.setattr(CaffeMath, "convolution", lambda *_: called.append(1) or torch.zeros(2, 12, 6, 6))
    param = parse_text(NET, NetParameter)
    Net(param, Context(phase=TRAIN, rng=TorchGenerator(1))).forward()
    assert not called
    Net(param, Context(phase=TRAIN, rng=CaffeGenerator(1))).forward()
    assert called


@pytest.mark.usefixtures("uncached")
def test_without_a_compiler_the_log_says_that_sums_are_pytorchs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One warning, with the reason; the net then computes all the same."""
    monkeypatch.setattr(compiler, "compiler", lambda: None)
    monkeypatch.setattr(caffe_math, "order_here", lambda: HASWELL)
    glog.init()
    net = Net(parse_text(NET, NetParameter), Context(phase=TRAIN, rng=CaffeGenerator(1)))
    net.blobs["data"].data = torch.ones(2, 3, 8, 8)
    net.forward()
    net.forward()
    lines = [line for line in capsys.readouterr().err.splitlines() if "Sums are" in line]
    assert len(lines) == 1 and lines[0].startswith("W")
    assert lines[0].endswith(
        "Sums are taken in PyTorch's order, not in Caffe's: no C++ compiler found; install g++ (or set CXX)"
    )
    assert float(net.blobs["conv"].data.abs().max()) > 0


def test_the_library_has_what_is_called(sums: CaffeMath) -> None:
    """Every operation has its argument types set, so that a wrong number of arguments stops."""
    with pytest.raises((ctypes.ArgumentError, TypeError)):
        sums.library.caffe_axpby(1)
    with pytest.raises(CaffeError):
        Context(phase=TRAIN, rng=CaffeGenerator(1), compute_dtype=torch.bfloat16)
