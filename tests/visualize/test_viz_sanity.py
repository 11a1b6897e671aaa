"""Weight randomisation and unit insensitivity: the measures against slow forms, both tests on nets whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr

from allconv_caffe.proto import NetParameter, parse_text
from allconv_caffe.visualize import sanity as module
from allconv_caffe.visualize.display import zero_centred
from allconv_caffe.visualize.look import Look
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.nets.rules import RULES
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.sanity import sanity
from allconv_caffe.visualize.schematic import TOY_NET, figure_one
from allconv_caffe.visualize.similarity import cosine, edges, similarity, spearman, ssim
from allconv_caffe.visualize.unit import Unit, argmax_units
from allconv_caffe.visualize.whitening import InputSpace

NET = """
input: "data" input_shape { dim: 1 dim: 3 dim: 14 dim: 14 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { num_output: 8 kernel_size: 3 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2" convolution_param { num_output: 8 kernel_size: 3 stride: 2 } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "conv3" type: "Convolution" bottom: "conv2" top: "conv3" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "relu3" type: "ReLU" bottom: "conv3" top: "conv3" }
layer { name: "scores" type: "Pooling" bottom: "conv3" top: "scores" pooling_param { pool: AVE global_pooling: true } }
layer { name: "prob" type: "Softmax" bottom: "scores" top: "prob" }
"""


@pytest.fixture
def net() -> VizNet:
    net = open_net(parse_text(NET, NetParameter))
    rng = np.random.default_rng(0)
    net.set_params({name: [rng.normal(0, 0.3, p.shape) for p in blobs] for name, blobs in net.params().items()})
    return net


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((6, 3, 14, 14)).astype(np.float32)


def test_spearman_is_scipys() -> None:
    """Rank correlation with ties, as in scipy; constant arrays give 0, not NaN."""
    rng = np.random.default_rng(0)
    for levels in (3, 1000):
        a, b = rng.integers(0, levels, (2, 9, 9))
        assert spearman(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic, abs=1e-12)
    assert spearman(np.ones((3, 3)), rng.random((3, 3))) == 0


def test_ssim_is_its_definition() -> None:
    """The mean over all 7x7 windows of the formula of Wang et al.; 1 for equal images; small images are refused."""
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 11, 13))
    b = 0.7 * a + 0.3 * b
    values = []
    for y in range(5):
        for x in range(7):
            p, q = a[y : y + 7, x : x + 7], b[y : y + 7, x : x + 7]
            covariance = ((p - p.mean()) * (q - q.mean())).mean()
            values.append(
                (2 * p.mean() * q.mean() + 1e-4)
                * (2 * covariance + 9e-4)
                / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (p.var() + q.var() + 9e-4))
            )
    assert ssim(a, b) == pytest.approx(np.mean(values), rel=1e-9)
    assert ssim(a, a) == pytest.approx(1)
    with pytest.raises(VizError, match="ssim: found maps of 5x9, expected 7x7 or larger"):
        ssim(a[:5, :9], b[:5, :9])


def test_edges_are_sobels() -> None:
    """The strength of OpenCV's Sobel, borders repeated, summed over channels."""
    image = np.random.default_rng(0).random((3, 9, 12)).astype(np.float32)
    expected = sum(
        np.hypot(*(cv2.Sobel(plane, cv2.CV_64F, *d, borderType=cv2.BORDER_REPLICATE) for d in ((1, 0), (0, 1))))
        for plane in image
    )
    np.testing.assert_allclose(edges(image), expected, rtol=1e-5)


def test_similarity_ignores_scale_and_knows_sign() -> None:
    """A scaled map is the same; the negative has cosine -1 and the same strengths."""
    map_ = np.random.default_rng(0).standard_normal((3, 9, 9))
    np.testing.assert_allclose(similarity(map_, 5 * map_), [1, 1, 1])
    np.testing.assert_allclose(similarity(map_, -map_), [-1, 1, 1])
    assert cosine(map_, 0 * map_) == 0


def test_a_cascade_goes_down_layer_by_layer(net: VizNet, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the top: each step draws one more layer and keeps the rest as trained; every draw begins at the trained net."""
    own = net.params()
    changed: list[set[str]] = []
    maps = module._Subjects.maps

    def watch(asked: module._Subjects, net: VizNet) -> object:
        now = net.params()
        changed.append({name for name in own if not np.array_equal(now[name][0], own[name][0])})
        return maps(asked, net)

    monkeypatch.setattr(module._Subjects, "maps", watch)
    report = sanity(net, images, draws=2)
    steps = [{"conv3"}, {"conv3", "conv2"}, {"conv3", "conv2", "conv1"}]
    assert report.layers == ("conv3", "conv2", "conv1") and report.blob == "scores"
    assert changed == [set(), *steps, *steps]


def test_weights_come_back_whatever_happens(net: VizNet, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters and their hash are the trained ones afterwards, also after an exception."""
    own, own_hash = net.params(), net.weights_sha256
    sanity(net, images, draws=1)
    calls: list[object] = []

    def broken(params: list[np.ndarray], rng: object) -> list[np.ndarray]:
        calls.append(params)
        if len(calls) == 2:
            raise RuntimeError("broken")
        return [0 * p for p in params]

    monkeypatch.setattr(module, "randomised", broken)
    with pytest.raises(RuntimeError, match="broken"):
        sanity(net, images, draws=1)
    assert net.weights_sha256 == own_hash
    assert all(np.array_equal(a, b) for name in own for a, b in zip(own[name], net.params()[name], strict=True))


def test_where_nothing_changes_every_similarity_is_one(
    net: VizNet, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the drawn weights equal to the trained ones the cascade stays at 1; with the weights negated it does not."""
    monkeypatch.setattr(module, "randomised", lambda params, rng: params)
    same = sanity(net, images, draws=1)
    for rule in same.rules:
        np.testing.assert_allclose(same.cascade[rule], 1)
        assert (same.compared[rule] == same.images).all()
    monkeypatch.setattr(module, "randomised", lambda params, rng: [-params[0], np.abs(params[1]) + 3])
    other = sanity(net, images, draws=1)
    assert other.cascade["backprop"][0, 0] < 0.9


def test_the_drawn_weights_keep_their_size() -> None:
    """Weights of the trained root mean square, biases the trained ones in another order, both by the generator."""
    weights, bias = np.random.default_rng(0).normal(1, 2, (40, 30)), np.arange(40.0)
    drawn = module.randomised([weights, bias], np.random.default_rng(5))
    again = module.randomised([weights, bias], np.random.default_rng(5))
    assert np.sqrt((drawn[0] ** 2).mean()) == pytest.approx(np.sqrt((weights**2).mean()), rel=0.1)
    assert abs(cosine(drawn[0], weights)) < 0.15
    assert sorted(drawn[1]) == sorted(bias) and not np.array_equal(drawn[1], bias)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))


def test_the_deconvnet_ignores_the_image(net: VizNet, images: np.ndarray) -> None:
    """In a net without pooling one unit has the same deconvnet map in two images, and the verdict says so."""
    report = sanity(net, images, draws=1)
    assert report.pairs[1] > 0
    np.testing.assert_allclose(report.two_images["deconvnet"], 1, atol=1e-5)
    assert report.two_images["guided"][0] < 0.9
    assert any(line.startswith("deconvnet:") and "does not depend on the image" in line for line in report.verdict())


def test_two_units_are_the_two_strongest_channels(images: np.ndarray) -> None:
    """Where conv1 is the top, maps are filters in their places: the similarity is that of the filters."""
    text = NET[: NET.index('layer { name: "conv2"')].replace("kernel_size: 3", "kernel_size: 14").replace("8", "4")
    net = open_net(parse_text(text, NetParameter))
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.3, (4, 3, 14, 14))
    net.set_params({"conv1": [weights, np.array([50.0, 40, 3, 2])]})
    report = sanity(net, images, "conv1", draws=1, rules=("guided",))
    assert report.pairs[0] == len(images)
    np.testing.assert_allclose(report.two_units["guided"], similarity(weights[0], weights[1]), atol=1e-4)
    np.testing.assert_allclose(report.two_images["guided"], 1, atol=1e-5)


def test_maps_are_compared_where_the_unit_can_see(net: VizNet, images: np.ndarray) -> None:
    """conv2's units see 5x5 pixels: outside all maps are zero, which is no likeness. Both units of an image are of one place."""
    report = sanity(net, images, "conv2", draws=2, rules=("backprop",))
    first, _ = argmax_units(net, images, "conv2")
    data = net.forward(images, ("conv2",))["conv2"]
    expected = []
    for i, unit in enumerate(first):
        others = [c for c in range(8) if c != unit.channel and data[i, c, unit.y, unit.x] > 0]
        if others:
            rival = max(others, key=lambda c: data[i, c, unit.y, unit.x])
            pair = [unit, Unit("conv2", rival, unit.y, unit.x)]
            top, left = 2 * unit.y, 2 * unit.x
            one, other = reconstruct(net, images[i : i + 1], pair, "backprop").maps[
                :, :, top : top + 5, left : left + 5
            ]
            expected.append(similarity(one, other))
    assert report.pairs[0] == len(expected) > 1
    np.testing.assert_allclose(report.two_units["backprop"], np.mean(expected, axis=0), rtol=1e-6)
    assert (
        report.cascade["backprop"][-1, 2] < 0.5
    )  # the SSIM of whole maps, of which 171 pixels of 196 are zero, is 0.8


def test_nothing_is_judged_that_was_not_measured(images: np.ndarray) -> None:
    """One channel has no rival, a net that dies under random weights no cascade: the verdict says so, and only that."""
    text = NET.replace("num_output: 6", "num_output: 1")
    net = open_net(parse_text(text, NetParameter))
    rng = np.random.default_rng(0)
    net.set_params({name: [np.abs(rng.normal(0, 0.3, p.shape)) for p in blobs] for name, blobs in net.params().items()})
    report = sanity(net, np.abs(images), draws=1)
    assert report.pairs[0] == 0
    verdict = report.verdict()
    for rule in RULES:
        assert (
            f"{rule}: no second channel is active, so whether maps depend on the unit and the image was not measured."
            in (verdict)
        )
    report.cascade["guided"][:] = np.nan
    assert report.verdict()[0] == (
        "With conv3 to conv2 random, no unit stayed active: whether maps depend on what those layers learned was not measured."
    )


def test_a_name_is_no_formula(images: np.ndarray, tmp_path: Path) -> None:
    """What matplotlib would set as TeX, or refuse, is drawn letter by letter: layers' names, and blobs' in figure 1."""
    odd = r"$\frac{$"
    net = open_net(parse_text(NET.replace('"conv2"', '"' + odd.replace("\\", "\\\\") + '"'), NetParameter))
    rng = np.random.default_rng(0)
    net.set_params({name: [rng.normal(0, 0.3, p.shape) for p in blobs] for name, blobs in net.params().items()})
    report = sanity(net, images, draws=1, examples=1)
    assert odd in report.layers
    report.save(tmp_path / "out")
    toy = open_net(parse_text(TOY_NET, NetParameter))
    assert figure_one(toy, net, images[:1], Unit(odd, 0, 2, 2), Look()).picture.std() > 10


def test_what_is_written(net: VizNet, images: np.ndarray, tmp_path: Path) -> None:
    """JSON with every number and no NaN, the maps raw, tables as Markdown, a picture that can be read."""
    report = sanity(net, images, draws=2, examples=2)
    paths = [Path(path) for path in report.save(tmp_path / "out")]
    assert [path.name for path in paths] == ["sanity.json", "sanity.md", "sanity.png", "sanity.npz"]
    facts = json.loads(paths[0].read_text(), parse_constant=lambda name: pytest.fail(name))
    assert facts["cascade"]["guided"][0]["down_to"] == "conv3" and facts["weights_sha256"] == net.weights_sha256
    with np.load(paths[3]) as file:
        assert file["maps_guided"].shape == (2, 4, 3, 14, 14) and file["layers"].tolist() == [
            "",
            "conv3",
            "conv2",
            "conv1",
        ]
        np.testing.assert_array_equal(file["images"], images[:2])
    assert "| none (trained) | 1.00 |" in paths[1].read_text()
    picture = cv2.imread(str(paths[2]))
    assert picture is not None and picture.std() > 10
    assert all(line in report.text() for line in report.verdict())


def test_zero_is_mid_grey() -> None:
    """A map is drawn around grey by its largest value; a map of zeros is grey."""
    drawn = zero_centred(np.array([[[0.0, 2.0], [-1.0, -2.0]]] * 3))
    np.testing.assert_allclose(drawn[..., 0], [[0.5, 1], [0.25, 0]])
    assert (zero_centred(np.zeros((1, 2, 2))) == 0.5).all() and zero_centred(np.zeros((1, 2, 2))).shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blob": "conv7"}, "blob: found 'conv7', expected a blob of the net"),
        ({"blob": "prob"}, "blob 'prob': found a unit after the softmax of layer 'prob'"),
        ({"draws": 0}, "draws: found 0, expected 1 or more"),
        ({"rules": ("leaky",)}, "rule: found 'leaky', expected a ReLU rule"),
        ({"images": 1}, "images: found 1, expected 2 or more: maps are compared between images"),
    ],
)
def test_mistakes_get_one_line(net: VizNet, images: np.ndarray, changes: dict, message: str) -> None:
    """Unknown blobs and rules, no draws, a single image."""
    images = images[: changes.pop("images", 6)]
    with pytest.raises(VizError) as caught:
        sanity(net, images, **changes)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_edges_are_those_of_the_picture(net: VizNet, images: np.ndarray) -> None:
    """With the input space known, strengths are held against the edges of what the eye sees; else against the input's."""
    space = InputSpace(order="BGR", mean=np.array([120.0, 110.0, 100.0]), scale=0.01)
    found = {
        given: sanity(net, images, draws=1, rules=["guided"], space=space if given else None) for given in (True, False)
    }
    units = argmax_units(net, images, "scores")[0]
    live = [i for i, unit in enumerate(units) if net.forward(images, ("scores",))["scores"][i, unit.channel].max() > 0]
    maps = reconstruct(net, images[live], [units[i] for i in live], "guided").maps
    pictures = space.pictures(images[live]).transpose(0, 3, 1, 2)
    for given, seen in ((True, pictures), (False, images[live])):
        read = slice(0, 13)  # conv2's stride leaves the last row and column unread
        expected = [
            spearman(np.abs(map_).sum(axis=0)[read, read], edges(one)[read, read])
            for map_, one in zip(maps, seen, strict=True)
        ]
        assert found[given].edge["guided"][0] == pytest.approx(np.mean(expected), abs=1e-6)
    assert found[True].edge["guided"][0] != found[False].edge["guided"][0]
