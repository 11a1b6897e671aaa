"""p-norm pooling beside a slow loop, in this engine and in real Caffe."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from allconv_caffe.paper import architectures as a
from allconv_caffe.paper.architectures import CLASSES, Architecture, NormPool, conv, global_pool
from allconv_caffe.paper.errors import TableError
from allconv_caffe.paper.experiments import EXPERIMENTS
from allconv_caffe.paper.options import NetOptions, RenderOptions
from allconv_caffe.paper.plan import build, map_sizes, parameters
from allconv_caffe.paper.render import render
from allconv_caffe.pycaffe import Net

PYTHON = Path(__file__).resolve().parents[2] / ".caffe" / "bin" / "python"

CHANNELS = 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """One pooling of one image."""

    p: float
    kernel_size: int = 3
    stride: int = 2
    pad: int = 1  # what "same" means for the kernel size, in all cases but the last
    size: int = 8
    mean: bool = False

    @property
    def name(self) -> str:
        words = f"p{self.p:g}-k{self.kernel_size}-s{self.stride}-pad{self.pad}-{self.size}"
        return words + ("-mean" if self.mean else "")


CASES = (
    Case(p=1),
    Case(p=2),
    Case(p=3),
    Case(p=2.5, size=7),
    Case(p=2, kernel_size=2, pad=0, size=7),
    Case(p=3, kernel_size=5, stride=3, pad=2, size=9),
    Case(p=1, mean=True),
    Case(p=2, mean=True, size=7),
    Case(p=3, pad=0),
)


def prototxt(case: Case) -> str:
    """A deploy net whose pool1 is the pooling of its image; gradients reach the image."""
    pool = NormPool(case.kernel_size, case.stride, case.p, pad=case.pad, mean=case.mean)
    shape = (CHANNELS, case.size, case.size)
    network = Architecture("pooled", "test", (pool, conv(CLASSES, 1), global_pool()), input_shape=shape)
    experiment = replace(EXPERIMENTS["cifar10-model-a"], architecture=network)
    options = RenderOptions(channels=CHANNELS, image_size=case.size)
    return render(experiment, options, relu="plain")["deploy.prototxt"]


def image(case: Case) -> np.ndarray:
    """(1, C, H, W) float32 of both signs; a corner of the first channel, wider than any window, is 0, and lone pixels."""
    random = np.random.default_rng(case.size)
    pixels = random.uniform(0.3, 2.0, (1, CHANNELS, case.size, case.size)) * random.choice(
        [-1, 1], (1, 1, 1, case.size)
    )
    pixels[0, 0, -6:, -6:] = 0
    pixels[0, 1, 0, 0] = pixels[0, 1, 3, 4] = 0
    return pixels.astype(np.float32)


def pooled(case: Case, pixels: np.ndarray) -> np.ndarray:
    """Equation 1, window by window, in float64: what lies beyond the border adds nothing."""
    size = (case.size + 2 * case.pad - case.kernel_size) // case.stride + 1
    out = np.zeros((1, CHANNELS, size, size))
    for u in range(CHANNELS):
        for i in range(size):
            for j in range(size):
                total = 0.0
                for h in range(case.kernel_size):
                    for w in range(case.kernel_size):
                        y, x = i * case.stride - case.pad + h, j * case.stride - case.pad + w
                        if 0 <= y < case.size and 0 <= x < case.size:
                            total += abs(float(pixels[0, u, y, x])) ** case.p
                out[0, u, i, j] = (total / (case.kernel_size**2 if case.mean else 1)) ** (1 / case.p)
    return out


def slopes(case: Case, pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The gradient of sum(weights * pooled) by central differences of the loop; 0 at a 0, where |x| has a corner."""
    found = np.zeros(pixels.shape)
    step = 1e-5
    for place in np.ndindex(*pixels.shape):
        ends = []
        for sign in (1, -1):
            moved = pixels.astype(np.float64)
            moved[place] += sign * step
            ends.append((weights * pooled(case, moved)).sum())
        found[place] = (ends[0] - ends[1]) / (2 * step)
    return found


def top_gradient(case: Case) -> np.ndarray:
    """What flows in at the top."""
    shape = pooled(case, image(case)).shape
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_pnorm_pool_of_model_c() -> None:
    """Each pool becomes three layers of stock Caffe, the last with the pool's name; maps stay 32, 16, 8; nothing is learned."""
    net = a.pnorm_pool(a.MODEL_C, 3)
    assert map_sizes(net) == map_sizes(a.MODEL_C)
    pools = [layer for layer in build(net) if layer.name.startswith("pool1")]
    assert [(layer.name, layer.type) for layer in pools] == [
        ("pool1_power", "Power"),
        ("pool1_sum", "Convolution"),
        ("pool1", "Power"),
    ]
    assert "pool1_abs" not in [layer.name for layer in build(net)], "after a ReLU nothing is below 0"
    leaky = [layer.name for layer in build(net, NetOptions(negative_slope=0.1))]
    assert leaky.count("pool1_abs") == leaky.count("pool2_abs") == 1
    assert [layer.bottom for layer in build(net) if layer.type == "Dropout"] == ["data", "pool1", "pool2"]
    assert parameters(net) - parameters(a.MODEL_C) == (96 + 192) * 9
    assert net.name == "PNorm3-CNN-C" and "Table 2" not in net.source
    options = NetOptions(pnorm=4, pnorm_mean=True)
    assert a.transform(a.MODEL_C, "pnorm_pool", options).layers[2] == NormPool(3, 2, 4, pad="same", mean=True)
    both = a.transform(a.MODEL_C, "pnorm_pool,fully_connected", options)
    assert both.steps == ("pnorm_pool", "fully_connected")
    with pytest.raises(TableError, match="p: found 0.5, expected a number from 1 to 64"):
        a.pnorm_pool(a.MODEL_C, 0.5)
    with pytest.raises(
        TableError, match="own: layer 1: pad: found 3, expected fewer pixels than kernel_size, or 'same'"
    ):
        build(Architecture("own", "test", (a.norm_pool(3, 2, 2, pad=3), a.conv(a.CLASSES, 1))))


def check(case: Case, values: np.ndarray, gradient: np.ndarray) -> None:
    """Values and gradients are the loop's: float32 powers, so a relative 1e-5; at a window of zeros (1e-37)^(1/p)."""
    pixels = image(case)
    np.testing.assert_allclose(values, pooled(case, pixels), rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(gradient, slopes(case, pixels, top_gradient(case)), rtol=1e-4, atol=2e-5)
    assert not gradient[pixels == 0].any()


def test_a_window_of_zeros_is_among_the_cases() -> None:
    """Each p meets a window of zeros, and a lone 0 in a window of others."""
    for p in {case.p for case in CASES}:
        assert any((pooled(case, image(case)) == 0).any() for case in CASES if case.p == p)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pnorm_pool_beside_a_slow_loop(case: Case, tmp_path: Path) -> None:
    """Values and gradients are the loop's, at borders too; where a window is all 0 the gradient is 0, and never nan."""
    (tmp_path / "net.prototxt").write_text(prototxt(case))
    net = Net(str(tmp_path / "net.prototxt"), 1)
    net.blobs["data"].data[...] = image(case)
    net.forward()
    net.blobs["pool1"].diff[...] = top_gradient(case)
    net.backward(start="pool1")
    check(case, net.blobs["pool1"].data, net.blobs["data"].diff)


REAL = """
import os, sys
os.environ["GLOG_minloglevel"] = "2"
import caffe
import numpy as np
given = np.load("given.npz")
found = {}
for name in sys.argv[1:]:
    net = caffe.Net(name + ".prototxt", caffe.TEST)
    net.blobs["data"].data[...] = given[name + " data"]
    net.forward()
    net.blobs["pool1"].diff[...] = given[name + " top"]
    net.backward(start="pool1")
    found[name + " values"], found[name + " gradient"] = net.blobs["pool1"].data, net.blobs["data"].diff
np.savez("found.npz", **found)
"""


@pytest.mark.caffe
def test_pnorm_pool_in_real_caffe(tmp_path: Path) -> None:
    """The same files in stock Caffe give the loop's values and gradients too."""
    given = {}
    for case in CASES:
        (tmp_path / f"{case.name}.prototxt").write_text(prototxt(case))
        given[f"{case.name} data"], given[f"{case.name} top"] = image(case), top_gradient(case)
    np.savez(tmp_path / "given.npz", **given)
    names = [case.name for case in CASES]
    done = subprocess.run([str(PYTHON), "-c", REAL, *names], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "found.npz")
    for case in CASES:
        check(case, found[f"{case.name} values"], found[f"{case.name} gradient"])


def test_large_p_tends_to_the_maximum(tmp_path: Path) -> None:
    """The p-norm lies between the maximum and 9^(1/p) times it, and falls towards it; the windows are Caffe's of pad 1."""
    shape = (CHANNELS, 7, 7)
    pixels = np.random.default_rng(0).uniform(0.5, 1, (1, *shape)).astype(np.float32)

    def pool1(row: a.Row) -> np.ndarray:
        network = Architecture("n", "test", (row, a.conv(a.CLASSES, 1), a.global_pool()), input_shape=shape)
        experiment = replace(EXPERIMENTS["cifar10-model-a"], architecture=network)
        options = RenderOptions(channels=CHANNELS, image_size=7)
        (tmp_path / "net.prototxt").write_text(render(experiment, options)["deploy.prototxt"])
        net = Net(str(tmp_path / "net.prototxt"), 1)
        net.blobs["data"].data[...] = pixels
        net.forward()
        return net.blobs["pool1"].data.copy()

    largest = pool1(a.max_pool(3, 2, pad=1))
    before = np.full_like(largest, np.inf)
    for p in (1, 2, 4, 8, 16, 32, 64):
        found = pool1(a.norm_pool(3, 2, p))
        assert (found >= largest * (1 - 1e-5)).all() and (found <= largest * 9 ** (1 / p) * (1 + 1e-5)).all()
        assert (found < before).all()
        before = found
    assert np.abs(before / largest - 1).max() < 0.035
