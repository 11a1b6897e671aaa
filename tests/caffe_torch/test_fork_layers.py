"""Layers of Caffe's forks: forward beside a slow loop over the published formula, backward beside its differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.prototxt import input_layer, layer
from support.solvers import assert_trained_alike

from allconv_caffe.caffe_torch import glog, summary
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.rng import CaffeGenerator, TorchGenerator
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import FORKS, Context, create
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.solver import Solver
from allconv_caffe.caffe_torch.solver_factory import create_solver
from allconv_caffe.caffe_torch.tracing import Tracing
from allconv_caffe.proto import TEST, TRAIN, LayerParameter, NetParameter, SolverParameter, forks, parse_text

Array = np.ndarray
Formula = Callable[[Sequence[Array], Sequence[Array]], Array]
"""From bottoms and parameters, float64, to the top."""

# ---------------------------------------------------------------------------------------------------------------------
# The formulas, place by place


def permute(order: Sequence[int]) -> Formula:
    def top(bottom: Sequence[Array], blobs: Sequence[Array]) -> Array:
        (x,) = bottom
        y = np.zeros([x.shape[axis] for axis in order])
        for place in np.ndindex(*y.shape):
            source = [0] * x.ndim
            for i, axis in enumerate(order):
                source[axis] = place[i]
            y[place] = x[tuple(source)]
        return y

    return top


def normalize(across: bool, eps: float = 1e-10) -> Formula:
    def top(bottom: Sequence[Array], blobs: Sequence[Array]) -> Array:
        (x,), y = bottom, np.zeros_like(bottom[0])
        for n, c, *place in np.ndindex(*x.shape):
            seen = x[n] if across else x[(n, slice(None), *place)]
            norm = math.sqrt(sum(value * value for value in seen.reshape(-1)) + eps)
            scale = blobs[0].reshape(-1)[c if blobs[0].size > 1 else 0]
            y[(n, c, *place)] = scale * x[(n, c, *place)] / norm
        return y

    return top


def interp(height: int, width: int, before: int = 0, behind: int = 0) -> Formula:
    """Corner on corner: the first and the last places of both images lie on each other."""

    def top(bottom: Sequence[Array], blobs: Sequence[Array]) -> Array:
        x = bottom[0]
        x = x[:, :, before : x.shape[2] - behind, before : x.shape[3] - behind]
        y = np.zeros((*x.shape[:2], height, width))
        for n, c, i, j in np.ndindex(*y.shape):
            row = i * (x.shape[2] - 1) / (height - 1) if height > 1 else 0.0
            column = j * (x.shape[3] - 1) / (width - 1) if width > 1 else 0.0
            for h in range(x.shape[2]):
                for w in range(x.shape[3]):
                    weight = max(0.0, 1 - abs(row - h)) * max(0.0, 1 - abs(column - w))
                    y[n, c, i, j] += weight * x[n, c, h, w]
        return y

    return top


def relu6(bottom: Sequence[Array], blobs: Sequence[Array]) -> Array:
    y = np.zeros_like(bottom[0])
    for place in np.ndindex(*y.shape):
        y[place] = min(max(bottom[0][place], 0.0), 6.0)
    return y


def convolution(group: int, stride: int, pad: int, dilation: int = 1) -> Formula:
    def top(bottom: Sequence[Array], blobs: Sequence[Array]) -> Array:
        x, w = bottom[0], blobs[0]
        k, out = w.shape[2], w.shape[0]
        size = [(h + 2 * pad - (dilation * (k - 1) + 1)) // stride + 1 for h in x.shape[2:]]
        y = np.zeros((x.shape[0], out, *size))
        for n, o, i, j in np.ndindex(*y.shape):
            y[n, o, i, j] = blobs[1][o] if len(blobs) > 1 else 0.0
            first = o // (out // group) * w.shape[1]
            for c, a, b in np.ndindex(*w.shape[1:]):
                h, v = i * stride + a * dilation - pad, j * stride + b * dilation - pad
                if 0 <= h < x.shape[2] and 0 <= v < x.shape[3]:
                    y[n, o, i, j] += w[o, c, a, b] * x[n, first + c, h, v]
        return y

    return top


def shuffle(group: int) -> Formula:
    def top(bottom: Sequence[Array], blobs: Sequence[Array]) -> Array:
        x, y = bottom[0], np.zeros_like(bottom[0])
        dealt = 0
        for in_group in range(x.shape[1] // group):  # the first of each group, then the second of each, ...
            for of_group in range(group):
                y[:, dealt] = x[:, of_group * (x.shape[1] // group) + in_group]
                dealt += 1
        return y

    return top


def axpy(bottom: Sequence[Array], blobs: Sequence[Array]) -> Array:
    a, x, y = bottom
    out = np.zeros_like(x)
    for n, c, *place in np.ndindex(*x.shape):
        where = (n, c, *place)
        out[where] = a[n, c].item() * x[where] + y[where]
    return out


def upsample(height: int, width: int) -> Formula:
    def top(bottom: Sequence[Array], blobs: Sequence[Array]) -> Array:
        x, mask = bottom
        y = np.zeros((*x.shape[:2], height * width))
        for n, c, i, j in np.ndindex(*x.shape):
            y[n, c, int(mask[n, c, i, j])] = x[n, c, i, j]
        return y.reshape(*x.shape[:2], height, width)

    return top


def batch_norm(own_statistics: bool, eps: float) -> Formula:
    def top(bottom: Sequence[Array], blobs: Sequence[Array]) -> Array:
        x, y = bottom[0], np.zeros_like(bottom[0])
        mean_sum, variance_sum, factor, scale, bias = blobs
        for c in range(x.shape[1]):
            mean, variance = mean_sum[c] / factor[0], variance_sum[c] / factor[0]
            if own_statistics:
                seen = x[:, c].reshape(-1)
                mean = sum(seen) / len(seen)
                variance = sum((value - mean) ** 2 for value in seen) / len(seen)
            y[:, c] = scale[c] * (x[:, c] - mean) / math.sqrt(variance + eps) + bias[c]
        return y

    return top


def bn(statistics: str, eps: float) -> Formula:
    """`statistics`: "none", those of the "batch", or the two "stored" behind scale and shift."""

    def top(bottom: Sequence[Array], blobs: Sequence[Array]) -> Array:
        x, y = bottom[0], np.zeros_like(bottom[0])
        for c in range(x.shape[1]):
            scale, shift, *stored = (blob[0, c].item() for blob in blobs)
            mean, variance = (0.0, 1.0 - eps) if statistics == "none" else stored or (0.0, 0.0)
            if statistics == "batch":
                seen = x[:, c].reshape(-1)
                mean = sum(seen) / len(seen)
                variance = sum((value - mean) ** 2 for value in seen) / len(seen)
            y[:, c] = scale * (x[:, c] - mean) / math.sqrt(variance + eps) + shift
        return y

    return top


# ---------------------------------------------------------------------------------------------------------------------
# The cases


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layer: its other lines, its bottoms (a shape: drawn, with a gradient; an array: given, without), its formula."""

    type: str
    bottom: Sequence[tuple[int, ...] | Array]
    formula: Formula
    param: str = ""
    spread: float = 1.0
    phase: int = TEST
    # how many of the last parameters have a gradient, and how many behind them have none
    learned: int = 9
    unlearned: int = 0


MASK = np.array([[[[0, 3], [9, 10]], [[5, 5], [15, 12]]]], np.float32)  # channel 1 sends two values to place 5
BN = "batch_norm_param { scale_bias: true eps: 0.01 }"
CASES = {
    "permute": Case(
        type="Permute",
        param="permute_param { order: 0 order: 2 order: 3 order: 1 }",
        bottom=[(2, 3, 4, 5)],
        formula=permute([0, 2, 3, 1]),
    ),
    "permute, the rest in order": Case(
        type="Permute", param="permute_param { order: 2 }", bottom=[(2, 3, 4)], formula=permute([2, 0, 1])
    ),
    "permute, nothing": Case(type="Permute", bottom=[(2, 3, 4)], formula=permute([0, 1, 2])),
    "normalize": Case(type="Normalize", bottom=[(2, 3, 2, 4)], formula=normalize(True)),
    "normalize, a channel each": Case(
        type="Normalize",
        param='norm_param { across_spatial: false channel_shared: false scale_filler { type: "constant" value: 20 } }',
        bottom=[(2, 3, 2, 4)],
        formula=normalize(False),
    ),
    "normalize a row": Case(
        type="Normalize",
        param="norm_param { across_spatial: false eps: 0.5 }",
        bottom=[(3, 4)],
        formula=normalize(False, 0.5),
    ),
    "interp, height and width": Case(
        type="Interp", param="interp_param { height: 6 width: 3 }", bottom=[(2, 2, 3, 5)], formula=interp(6, 3)
    ),
    "interp, zoom": Case(
        type="Interp", param="interp_param { zoom_factor: 3 }", bottom=[(1, 2, 3, 4)], formula=interp(7, 10)
    ),
    "interp, shrink": Case(
        type="Interp", param="interp_param { shrink_factor: 2 }", bottom=[(1, 2, 6, 5)], formula=interp(3, 3)
    ),
    "interp, shrink and zoom": Case(
        type="Interp",
        param="interp_param { shrink_factor: 2 zoom_factor: 3 }",
        bottom=[(1, 2, 6, 5)],
        formula=interp(7, 7),
    ),
    "interp, cut": Case(
        type="Interp",
        param="interp_param { zoom_factor: 2 pad_beg: -1 pad_end: -2 }",
        bottom=[(1, 2, 6, 7)],
        formula=interp(5, 7, 1, 2),
    ),
    "interp, a second bottom": Case(
        type="Interp", bottom=[(1, 2, 3, 4), np.zeros((1, 1, 5, 6), np.float32)], formula=interp(5, 6)
    ),
    "interp to one place": Case(
        type="Interp", param="interp_param { height: 1 width: 4 }", bottom=[(1, 2, 3, 4)], formula=interp(1, 4)
    ),
    "relu6": Case(type="ReLU6", bottom=[(2, 3, 4, 2)], formula=relu6, spread=6.0),
    "depthwise convolution": Case(
        type="DepthwiseConvolution",
        param="convolution_param { num_output: 3 group: 3 kernel_size: 3 pad: 1 stride: 2 }",
        bottom=[(2, 3, 5, 4)],
        formula=convolution(3, 2, 1),
    ),
    "depthwise convolution, two each": Case(
        type="DepthwiseConvolution",
        param="convolution_param { num_output: 6 group: 3 kernel_size: 2 bias_term: false }",
        bottom=[(1, 3, 3, 4)],
        formula=convolution(3, 1, 0),
    ),
    "convolution depthwise, no group": Case(
        type="ConvolutionDepthwise",
        param="convolution_param { num_output: 3 kernel_size: 2 dilation: 2 pad: 1 }",
        bottom=[(2, 3, 4, 5)],
        formula=convolution(3, 1, 1, 2),
    ),
    "shuffle channel": Case(
        type="ShuffleChannel", param="shuffle_channel_param { group: 3 }", bottom=[(2, 6, 2, 3)], formula=shuffle(3)
    ),
    "shuffle channel of one group": Case(type="ShuffleChannel", bottom=[(2, 4)], formula=shuffle(1)),
    "axpy": Case(type="Axpy", bottom=[(2, 3, 1, 1), (2, 3, 2, 4), (2, 3, 2, 4)], formula=axpy),
    "axpy by a row": Case(type="Axpy", bottom=[(2, 3), (2, 3, 4), (2, 3, 4)], formula=axpy),
    "upsample": Case(type="Upsample", bottom=[(1, 2, 2, 2), MASK], formula=upsample(4, 4)),
    "upsample, less": Case(
        type="Upsample",
        param="upsample_param { scale: 2 pad_out_w: true }",
        bottom=[(1, 2, 2, 3), np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3) + 7],
        formula=upsample(4, 5),
    ),
    "upsample, height and width": Case(
        type="Upsample",
        param="upsample_param { upsample_h: 3 upsample_w: 6 }",
        bottom=[(1, 2, 2, 2), MASK],
        formula=upsample(3, 6),
    ),
    "batch norm": Case(type="BatchNorm", param=BN, bottom=[(2, 3, 2, 2)], formula=batch_norm(False, 0.01), learned=2),
    "batch norm of a batch": Case(
        type="BatchNorm", param=BN, bottom=[(2, 3, 2, 2)], formula=batch_norm(True, 0.01), phase=TRAIN, learned=2
    ),
    "bn, segnet's": Case(
        type="BN", param="bn_param { bn_mode: INFERENCE }", bottom=[(2, 3, 2, 2)], formula=bn("none", 1e-9)
    ),
    "bn, segnet's, learning": Case(
        type="BN", param="bn_param { scale_filler { value: 1 } }", bottom=[(2, 3, 2, 2)], formula=bn("batch", 1e-9)
    ),
    "bn, pspnet's": Case(
        type="BN", param="bn_param { eps: 0.1 }", bottom=[(2, 3, 2, 2)], formula=bn("stored", 0.1), unlearned=2
    ),
    "bn, pspnet's, frozen": Case(
        type="BN",
        param="bn_param { frozen: true }",
        bottom=[(2, 3)],
        formula=bn("stored", 1e-5),
        phase=TRAIN,
        unlearned=2,
    ),
    "bn, pspnet's, of a batch": Case(
        type="BN",
        param="bn_param { eps: 0.1 }",
        bottom=[(2, 3, 2, 2)],
        formula=bn("batch", 0.1),
        phase=TRAIN,
        unlearned=2,
    ),
    "batch norm, fillers": Case(
        type="BatchNorm",
        param='batch_norm_param { use_global_stats: false eps: 0 scale_filler { type: "constant" value: 2 } }',
        bottom=[(4, 3)],
        formula=batch_norm(False, 1e-5),
        learned=2,
    ),
}


def blob_of(values: Array | torch.Tensor) -> Blob:
    blob = Blob(tuple(values.shape))
    blob.data = torch.as_tensor(values, dtype=torch.float32)
    return blob


def build(case: Case, context: Context) -> tuple[Any, list[Blob], list[Blob]]:
    generator = torch.Generator().manual_seed(3)
    made = create(parse_text(f'name: "l" type: "{case.type}" {case.param}', LayerParameter), context)
    bottom = [
        blob_of(torch.randn(given, generator=generator) * case.spread if isinstance(given, tuple) else given)
        for given in case.bottom
    ]
    top = [Blob()]
    with glog.quiet():
        made.set_up(bottom, top)
    for blob in made.blobs:
        blob.data = torch.rand(blob.shape, generator=generator) + 0.5
    return made, bottom, top


def doubles(blobs: Sequence[Blob]) -> list[Array]:
    return [blob.data.double().numpy() for blob in blobs]


@pytest.mark.parametrize("rng", ["torch", "caffe"])
@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward_are_the_formulas(name: str, rng: str) -> None:
    """The top is the formula's; with weights on the top, each gradient is the slope of the formula, value by value."""
    case = CASES[name]
    generator = CaffeGenerator(1) if rng == "caffe" else TorchGenerator(1)
    made, bottom, top = build(case, Context(phase=case.phase, rng=generator))
    before, parameters = doubles(bottom), doubles(made.blobs)
    made.forward(bottom, top)
    expected = case.formula(before, parameters)
    assert top[0].shape == expected.shape
    np.testing.assert_allclose(top[0].data.numpy(), expected, rtol=2e-5, atol=2e-6)

    weights = np.random.default_rng(4).normal(size=expected.shape)
    if case.type == "Upsample":  # of two values for one place both get its gradient, as in the fork
        weights[0, 1].reshape(-1)[5] = 0
    top[0].diff = torch.from_numpy(weights).float()
    wanted = [isinstance(given, tuple) for given in case.bottom]
    made.backward(top, wanted, bottom)
    learned = range(max(0, len(parameters) - case.learned), len(parameters) - case.unlearned)
    places = [(before, i, bottom[i]) for i, want in enumerate(wanted) if want]
    places += [(parameters, i, made.blobs[i]) for i in learned]
    step = 1e-6
    for arrays, index, blob in places:
        slope = np.zeros(arrays[index].shape)
        for place in np.ndindex(*slope.shape):
            start, ends = arrays[index][place], []
            for sign in (1, -1):
                arrays[index][place] = start + sign * step
                ends.append((case.formula(before, parameters) * weights).sum())
            arrays[index][place] = start
            slope[place] = (ends[0] - ends[1]) / (2 * step)
        assert np.abs(slope).max() > 0
        np.testing.assert_allclose(blob.diff.numpy(), slope, rtol=1e-4, atol=1e-5 * np.abs(slope).max())


def test_every_type_has_a_case() -> None:
    """Whoever adds a type adds its formula; PriorBox has tests of its own."""
    assert {case.type for case in CASES.values()} - {"BatchNorm"} == FORKS.keys() - {"PriorBox"}


def test_the_page_names_every_type_and_its_fork() -> None:
    """docs/caffe_torch.md lists what runs, with the fork that `forks` names."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "caffe_torch.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.count("|") == 5]
    listed = {row[1]: row[2] for row in rows}
    for type_ in FORKS:
        assert set(forks.TYPES[type_].split(" or ")) <= set(listed[type_].split(", "))


@pytest.mark.parametrize(
    "name",
    ["normalize", "relu6", "shuffle channel", "batch norm", "batch norm of a batch", "bn, segnet's", "bn, pspnet's"],
)
def test_in_place(name: str) -> None:
    """A layer whose top is its bottom gives the same numbers, forward and backward."""
    case = CASES[name]
    apart, bottom, top = build(case, Context(phase=case.phase))
    made, one, _ = build(case, Context(phase=case.phase))
    made.reshape(one, one)
    apart.forward(bottom, top)
    made.forward(one, one)
    assert torch.equal(one[0].data, top[0].data) and not torch.equal(one[0].data, bottom[0].data)
    dy = torch.randn(top[0].shape, generator=torch.Generator().manual_seed(5))
    one[0].diff = top[0].diff = dy
    apart.backward(top, [True], bottom)
    made.backward(one, [True], one)
    assert torch.equal(one[0].diff, bottom[0].diff) and float(dy.sub(one[0].diff).abs().max()) > 0


def test_scale_bias_is_set_up_as_nvcaffe_does() -> None:
    """1 and 0 unless fillers say otherwise, an eps of 1e-5 at least, statistics that do not learn whatever is said."""
    param = "param { lr_mult: 1 } batch_norm_param { scale_bias: true eps: 1e-9 bias_filler { value: 7 } }"
    text = input_layer("x", 3, 2) + layer("bn", "BatchNorm", "x", param)
    net = Net(parse_text(text, NetParameter), Context())
    net.blobs["x"].data = torch.tensor([[1.0, -2.0], [3.0, 0.5], [0.0, 0.0]])
    net.forward()
    # no statistics: mean 0, variance 0
    np.testing.assert_allclose(net.blobs["bn"].data, net.blobs["x"].data.numpy() / math.sqrt(1e-5) + 7, rtol=1e-6)
    assert net.params_lr == [0, 0, 0, 1, 1]
    assert [blob.shape for blob in net.layers[1].blobs] == [(2,), (2,), (1,), (2,), (2,)]


def test_pspnets_bn_keeps_means() -> None:
    """Training moves mean and variance by a tenth towards the batch's, whose rates are 0; frozen nothing moves, nothing learns."""
    x = torch.tensor([[1.0, -2.0], [3.0, 0.5], [0.0, 0.0]])
    for frozen in ("false", "true"):
        text = input_layer("x", 3, 2) + layer(
            "bn", "BN", "x", f"bn_param {{ slope_filler {{ value: 2 }} frozen: {frozen} }}"
        )
        net = Net(parse_text(text, NetParameter), Context(phase=TRAIN))
        net.blobs["x"].data = x
        net.forward()
        mean, var = (blob.data.reshape(-1).numpy() for blob in net.layers[1].blobs[2:])
        if frozen == "true":
            assert net.params_lr == [0] * 4 and not mean.any() and (var == 1).all()
            np.testing.assert_allclose(net.blobs["bn"].data, 2 * x.numpy() / math.sqrt(1 + 1e-5), rtol=1e-6)
        else:
            assert net.params_lr == [1, 1, 0, 0]
            np.testing.assert_allclose(mean, 0.1 * x.numpy().mean(0), rtol=1e-5)
            np.testing.assert_allclose(var, 0.1 * x.numpy().var(0), rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# PriorBox


def boxes(
    h: int, w: int, image: tuple[int, int], sizes: Sequence[tuple[int, int | None]], ratios: Sequence[float]
) -> list[list[float]]:
    """Of every place in row order, its boxes: corners in parts of the image, without `clip`, `offset` 0.5, no `step`."""
    found = []
    for row in range(h):
        for column in range(w):
            x, y = (column + 0.5) * image[1] / w, (row + 0.5) * image[0] / h
            for small, large in sizes:
                sides = [(float(small), float(small))]
                if large is not None:
                    sides.append((math.sqrt(small * large), math.sqrt(small * large)))
                sides += [(small * math.sqrt(r), small / math.sqrt(r)) for r in ratios]
                found += [
                    [(x - a / 2) / image[1], (y - b / 2) / image[0], (x + a / 2) / image[1], (y + b / 2) / image[0]]
                    for a, b in sides
                ]
    return found


def prior_box(param: str, h: int = 2, w: int = 3, image: tuple[int, int] = (30, 60)) -> Array:
    made, bottom, top = build(
        Case(
            type="PriorBox",
            param=f"prior_box_param {{ {param} }}",
            bottom=[(2, 4, h, w), (2, 3, *image)],
            formula=relu6,
        ),
        Context(),
    )
    made.forward(bottom, top)
    assert top[0].shape[:2] == (1, 2)
    return top[0].data.numpy().reshape(2, -1, 4)


def test_the_first_boxes_by_hand() -> None:
    """A map of one place over an image of 40 by 20: a square of 10, one of sqrt(10 * 40) = 20, one of 20 by 5."""
    found, variance = prior_box("min_size: 10 max_size: 40 aspect_ratio: 4 flip: false", 1, 1, (20, 40))
    np.testing.assert_allclose(
        found,
        [[15 / 40, 5 / 20, 25 / 40, 15 / 20], [10 / 40, 0, 30 / 40, 1], [10 / 40, 7.5 / 20, 30 / 40, 12.5 / 20]],
        atol=1e-7,
    )
    assert np.all(variance == np.float32(0.1))


@pytest.mark.parametrize(
    ("param", "sizes", "ratios"),
    [
        ("min_size: 8", [(8, None)], []),
        ("min_size: 8 aspect_ratio: 2 aspect_ratio: 3", [(8, None)], [2, 1 / 2, 3, 1 / 3]),
        ("min_size: 8 max_size: 15 aspect_ratio: 2 flip: false", [(8, 15)], [2]),
        # one ratio given twice, one that flipping gives, and 1
        ("min_size: 8 max_size: 15 aspect_ratio: [1, 2, 0.5, 2]", [(8, 15)], [2, 1 / 2]),
        ("min_size: 8 min_size: 9 max_size: 15 max_size: 20 aspect_ratio: 2", [(8, 15), (9, 20)], [2, 1 / 2]),
        # the fork keeps sizes in ints
        ("min_size: 35.84 max_size: 76.8 aspect_ratio: 2", [(35, 76)], [2, 1 / 2]),
    ],
)
def test_boxes_are_the_formulas(param: str, sizes: Sequence[tuple[int, int | None]], ratios: Sequence[float]) -> None:
    """Every place, size and ratio in their order."""
    found, _ = prior_box(param)
    np.testing.assert_allclose(found, boxes(2, 3, (30, 60), sizes, ratios), rtol=1e-6, atol=1e-6)


def test_boxes_cut_moved_and_of_a_told_size() -> None:
    """`clip`, `variance`, `offset`, `step` and the image's size from the prototxt, each by hand from the plain boxes."""
    plain = prior_box("min_size: 20")[0]
    cut, variance = prior_box("min_size: 20 clip: true variance: [0.1, 0.2, 0.3, 0.4]")
    assert plain.min() < 0 and plain.max() > 1
    np.testing.assert_array_equal(cut, plain.clip(0, 1))
    np.testing.assert_array_equal(variance, np.tile(np.float32([0.1, 0.2, 0.3, 0.4]), (6, 1)))
    told = "img_h: 30 img_w: 60"
    np.testing.assert_array_equal(prior_box(f"min_size: 20 {told}", image=(7, 5))[0], plain)
    np.testing.assert_array_equal(
        prior_box("min_size: 20 img_size: 30")[0], prior_box("min_size: 20", image=(30, 30))[0]
    )
    moved = prior_box("min_size: 20 offset: 0.75")[0] - plain  # a quarter of a place: 20 by 15 pixels
    np.testing.assert_allclose(moved, np.tile([5 / 60, 3.75 / 30], (6, 2)), atol=1e-6)
    wide = prior_box("min_size: 20 step_h: 15 step_w: 40")[0] - plain  # twice a place's width
    np.testing.assert_allclose(wide[:3], [[c / 60, 0] * 2 for c in (10, 30, 50)], atol=1e-6)
    np.testing.assert_allclose(
        prior_box("min_size: 20 step: 15")[0], prior_box("min_size: 20 step_h: 15 step_w: 15")[0]
    )


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


REFUSED = [
    ("Permute", "permute_param { order: 4 }", [(1, 2, 3, 4)], "order should be less than the input dimension."),
    ("Permute", "permute_param { order: 1 order: 1 }", [(1, 2, 3, 4)], "there are duplicate orders"),
    ("Normalize", "", [(3,)], "Number of axes of bottom blob must be >=2."),
    ("PriorBox", "", [(1, 1, 2, 2)] * 2, "must provide min_size."),
    ("PriorBox", "prior_box_param { min_size: 0 }", [(1, 1, 2, 2)] * 2, "min_size must be positive."),
    (
        "PriorBox",
        "prior_box_param { min_size: 3 max_size: 3 }",
        [(1, 1, 2, 2)] * 2,
        "max_size must be greater than min_size.",
    ),
    (
        "PriorBox",
        "prior_box_param { min_size: [3, 4] max_size: 9 }",
        [(1, 1, 2, 2)] * 2,
        "Check failed: min_size_size() == max_size_size() (2 vs. 1)",
    ),
    (
        "PriorBox",
        "prior_box_param { min_size: 3 variance: [0.1, 0.1] }",
        [(1, 1, 2, 2)] * 2,
        "Check failed: variance_size() == 4 (2 vs. 4)",
    ),
    (
        "PriorBox",
        "prior_box_param { min_size: 3 variance: -1 }",
        [(1, 1, 2, 2)] * 2,
        "Check failed: variance > 0 (-1 vs. 0)",
    ),
    (
        "PriorBox",
        "prior_box_param { min_size: 3 step: 1 step_h: 1 }",
        [(1, 1, 2, 2)] * 2,
        "Either step or step_h/step_w should be specified; not both.",
    ),
    ("PriorBox", "prior_box_param { min_size: 3 img_h: 3 }", [(1, 1, 2, 2)] * 2, "img_w should be larger than 0."),
    (
        "PriorBox",
        "prior_box_param { min_size: 3 aspect_ratio: -2 }",
        [(1, 1, 2, 2)] * 2,
        "aspect_ratio must be positive, found -2",
    ),
    (
        "BN",
        "",
        [(1, 2)],
        "bn_param has no field, expected SegNet's (bn_mode, scale_filler, shift_filler) or PSPNet's (slope_filler, "
        "bias_filler, momentum, eps, frozen, engine)",
    ),
    (
        "BN",
        "bn_param { bn_mode: LEARN frozen: true }",
        [(1, 2)],
        "bn_param has bn_mode, frozen, expected SegNet's (bn_mode, scale_filler, shift_filler) or PSPNet's (slope_filler, "
        "bias_filler, momentum, eps, frozen, engine)",
    ),
    ("Interp", "interp_param { pad_beg: 1 }", [(1, 1, 2, 2)], "Only supports non-pos padding (cropping) for now"),
    (
        "Interp",
        "interp_param { height: 3 }",
        [(1, 1, 2, 2)],
        "interp_param gives no size (choices: zoom_factor, shrink_factor, height and width, a second bottom)",
    ),
    ("Interp", "interp_param { zoom_factor: 0 }", [(1, 1, 2, 2)], "Zoom factor must be positive"),
    ("Interp", "interp_param { zoom_factor: 2 pad_beg: -3 }", [(1, 1, 2, 4)], "height should be positive"),
    (
        "ConvolutionDepthwise",
        "convolution_param { num_output: 4 kernel_size: 1 }",
        [(1, 2, 2, 2)],
        "Check failed: num_output == channels (4 vs. 2)",
    ),
    (
        "ShuffleChannel",
        "shuffle_channel_param { group: 4 }",
        [(1, 6, 1, 1)],
        "Wrong group size. (6 channels, group 4)",
    ),
    ("ShuffleChannel", "shuffle_channel_param { group: 0 }", [(1, 6, 1, 1)], "group must be greater than 0"),
    (
        "Axpy",
        "",
        [(1, 3), (1, 2, 4), (1, 2, 4)],
        "Check failed: bottom[0]->shape(1) == bottom[1]->shape(1) (3 vs. 2)",
    ),
    ("Axpy", "", [(1, 2), (1, 2, 4), (1, 2, 5)], "bottom[1]: 1 2 4 (8), bottom[2]: 1 2 5 (10)"),
    (
        "Axpy",
        "",
        [(1, 2, 2), (1, 2, 4), (1, 2, 4)],
        "bottom[0] must have one value for each channel of each image, found 1 2 2 (4)",
    ),
    (
        "Upsample",
        "",
        [(1, 1, 2, 2)],
        "Upsample Layer takes 2 bottom blob(s) as input. (with one, it belongs to a fork of Caffe that converts YOLO)",
    ),
    ("Upsample", "", [(1, 1, 2, 2), (1, 1, 2, 3)], "bottom[0]: 1 1 2 2 (4), bottom[1]: 1 1 2 3 (6)"),
    ("Upsample", "upsample_param { scale: 1 }", [(1, 1, 2, 2)] * 2, "Check failed: scale_h_ > 1 (1 vs. 1)"),
    (
        "Upsample",
        "upsample_param { scale: 3 pad_out_h: true }",
        [(1, 1, 2, 2)] * 2,
        "Output height padding compensation requires scale_h == 2, otherwise the output size is ill-defined.",
    ),
    (
        "Upsample",
        "upsample_param { scale_h: 2 }",
        [(1, 1, 2, 2)] * 2,
        "upsample_h & upsample_w are required, else (DEPRECATED) scale OR scale_h & scale_w are required.",
    ),
]


@pytest.mark.parametrize(("type_", "param", "shapes", "sentence"), REFUSED)
def test_what_the_fork_refuses_is_refused(
    type_: str, param: str, shapes: Sequence[tuple[int, ...]], sentence: str
) -> None:
    """At set-up, in its words where it has some."""
    with pytest.raises(CaffeError) as caught:
        build(Case(type=type_, param=param, bottom=shapes, formula=relu6), Context())
    assert str(caught.value) == sentence


@pytest.mark.parametrize("place", [16, -1])
def test_a_place_outside_of_the_top_is_named(place: int) -> None:
    """A mask that another pooling has made."""
    mask = np.array([[[[0, 1], [2, place]]]], np.float32)
    made, bottom, top = build(Case(type="Upsample", bottom=[(1, 1, 2, 2), mask], formula=relu6), Context())
    with pytest.raises(CaffeError, match=f"^upsample top index {place} out of range - check scale settings"):
        made.forward(bottom, top)


# ---------------------------------------------------------------------------------------------------------------------
# In nets

FILLED = 'weight_filler { type: "gaussian" std: 0.4 }'
NET = "".join(
    [
        'layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 dim: 4 dim: 6 dim: 6 } '
        'data_filler { type: "gaussian" } } }\n',
        layer("conv", "Convolution", "x", f"convolution_param {{ num_output: 4 kernel_size: 1 {FILLED} }}"),
        layer("bn", "BatchNorm", "conv", "batch_norm_param { scale_bias: true }"),
        layer("segnet", "BN", "bn", "bn_param { bn_mode: INFERENCE scale_filler { value: 1 } }", "bn"),
        layer("relu6", "ReLU6", "bn", "", "bn"),
        layer("shuffle", "ShuffleChannel", "bn", "shuffle_channel_param { group: 2 }"),
        layer(
            "dw",
            "DepthwiseConvolution",
            "shuffle",
            f"convolution_param {{ num_output: 4 group: 4 kernel_size: 3 pad: 1 {FILLED} }}",
        ),
        layer(
            "wd",
            "ConvolutionDepthwise",
            "dw",
            f"convolution_param {{ num_output: 4 bias_term: false kernel_size: 3 pad: 1 {FILLED} }}",
        ),
        layer("pspnet", "BN", "wd", "bn_param { slope_filler { value: 1 } }", "wd"),
        layer("mean", "Pooling", "wd", "pooling_param { pool: AVE global_pooling: true }"),
        layer("gate", "Sigmoid", "mean"),
        layer("axpy", "Axpy", "gate wd bn"),
        layer("pool", "Pooling", "axpy", "pooling_param { kernel_size: 2 stride: 2 }", "pool mask"),
        layer("up", "Upsample", "pool mask", "upsample_param { scale: 2 }"),
        layer("norm", "Normalize", "up", "norm_param { across_spatial: false channel_shared: false }"),
        layer("interp", "Interp", "norm", "interp_param { height: 4 width: 9 }"),
        layer("permute", "Permute", "interp", "permute_param { order: 0 order: 2 order: 3 order: 1 }"),
        layer("flat", "Flatten", "permute"),
        layer("prior", "PriorBox", "interp x", "prior_box_param { min_size: 2 }"),
        layer("priors", "Silence", "prior", "", ""),
        layer("ip", "InnerProduct", "flat", f"inner_product_param {{ num_output: 3 {FILLED} }}"),
        layer("energy", "Reduction", "ip", "loss_weight: 0.01 reduction_param { operation: SUMSQ }"),
    ]
)
HYPER = 'base_lr: 0.01 lr_policy: "fixed" max_iter: 3 momentum: 0.5 snapshot_after_train: false\n'


def solver_of(executor: str) -> Solver:
    param = parse_text(f"net_param {{ {NET} }} {HYPER}", SolverParameter)
    return create_solver(param, context=Context(rng=TorchGenerator(5)), where="solver.prototxt", executor=executor)


def test_traced_layers_compute_what_plain_ones_do(uncompiled: None) -> None:
    """Three iterations of a net of all of them, captured as one graph, end in the plain executor's weights."""
    plain, traced = solver_of("plain"), solver_of("compiled")
    assert {each.param.type for each in plain.net.layers} >= FORKS.keys()
    assert_trained_alike(plain, traced)


def test_every_tensor_lies_on_the_nets_device() -> None:
    """The net runs on a device that holds shapes without values."""
    net = Net(parse_text(NET, NetParameter), Context(phase=TRAIN, device=torch.device("meta"), rng=TorchGenerator(5)))
    with Tracing():
        for i in range(1, len(net.layers)):
            net.forward_layer(i)
        net.backward()
        assert {p.diff.device.type for p in net.learnable_params} == {"meta"}


def test_one_line_says_whose_the_layers_are(capfd: pytest.CaptureFixture[str]) -> None:
    """Once for a net, as a warning: what BVLC Caffe would refuse, by fork; a net of BVLC Caffe's own is told nothing."""
    text = input_layer("x", 2, 4, 3, 3) + "".join(
        [
            layer("a", "Permute", "x", "permute_param { order: 0 }"),
            layer("b", "Permute", "a"),
            layer("c", "ReLU6", "b"),
            layer("bn", "BatchNorm", "c", "batch_norm_param { scale_bias: true }"),
        ]
    )
    Net(parse_text(text, NetParameter), Context())
    lines = [line for line in capfd.readouterr().err.splitlines() if "fork" in line]
    assert len(lines) == 1 and lines[0].startswith("W")
    assert lines[0].endswith(
        "] BVLC Caffe would refuse this net, which needs a fork of it: Permute (that of SSD); ReLU6 (that of MobileNet); "
        "scale_bias (that of NVCaffe)"
    )
    Net(parse_text(input_layer("x", 2, 4) + layer("a", "BatchNorm", "x"), NetParameter), Context())
    assert "fork" not in capfd.readouterr().err


def test_the_summary_has_their_shapes() -> None:
    """Shapes, parameters, multiply-adds and receptive fields of the net above, and the line in its notes."""
    found = summary.summarize_net(parse_text(NET, NetParameter), phase="TRAIN")
    rows = {row.name: row for row in found.layers}
    assert [rows[name].shapes[0] for name in ("bn", "shuffle", "dw", "wd", "axpy", "up", "norm")] == [(2, 4, 6, 6)] * 7
    assert [rows[name].shapes[0] for name in ("interp", "permute", "flat", "prior")] == [
        (2, 4, 4, 9),
        (2, 4, 9, 4),
        (2, 144),
        (1, 2, 4 * 9 * 4),
    ]
    assert [rows[name].parameters for name in ("bn", "dw", "wd", "norm")] == [4 * 4 + 1, 4 * 9 + 4, 4 * 9, 4]
    assert [rows[name].multiply_adds for name in ("dw", "wd")] == [4 * 9 * 36] * 2
    sizes = {name: row.receptive_field and [span.size for span in row.receptive_field] for name, row in rows.items()}
    assert [sizes[name] for name in ("relu6", "shuffle", "dw", "wd")] == [[1, 1], [1, 1], [3, 3], [5, 5]]
    assert sizes["axpy"] is not None and min(sizes["axpy"]) >= 6  # the gate sees all of the image
    assert sizes["up"] is None and sizes["prior"] is None
    assert any(note.startswith("BVLC Caffe would refuse this net") for note in found.notes)


def test_a_summary_says_how_far_permuted_places_see() -> None:
    """Where height and width stay, as the bottom's; where they move, no field is told. Normalize over all sees all."""
    text = input_layer("x", 1, 3, 8, 8) + "".join(
        [
            layer("pool", "Pooling", "x", "pooling_param { kernel_size: 3 }"),
            layer("stays", "Permute", "pool", "permute_param { order: 1 order: 0 }"),
            layer("moves", "Permute", "pool", "permute_param { order: 0 order: 2 }"),
            layer("norm", "Normalize", "pool", "norm_param { across_spatial: false }"),
            layer("all", "Normalize", "pool"),
        ]
    )
    found = summary.summarize_net(parse_text(text, NetParameter))
    sizes = {row.name: row.receptive_field and [span.size for span in row.receptive_field] for row in found.layers}
    assert sizes["stays"] == sizes["norm"] == [3, 3] and sizes["moves"] is None
    assert sizes["all"] is not None and min(sizes["all"]) >= 8


def test_a_segnet_pair_takes_its_maxima_back() -> None:
    """Pooling's second top is Upsample's second bottom: each maximum stands where it was, all else is 0."""
    text = input_layer("x", 2, 3, 6, 4) + "".join(
        [
            layer("pool", "Pooling", "x", "pooling_param { kernel_size: 2 stride: 2 }", "pool mask"),
            layer("up", "Upsample", "pool mask", "upsample_param { scale: 2 }"),
        ]
    )
    net = Net(parse_text(text, NetParameter), Context())
    x = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(2))
    net.blobs["x"].data = x
    net.forward()
    kept = torch.zeros_like(x)
    for n, c, i, j in np.ndindex(2, 3, 3, 2):
        part = (n, c, slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2))
        kept[part] = torch.where(x[part] == x[part].max(), x[part], 0)
    assert torch.equal(net.blobs["up"].data, kept)
    net.blobs["x"].reshape(1, 3, 4, 8)  # the fork keeps the first size
    net.forward()
    assert net.blobs["up"].shape == (1, 3, 4, 8)
