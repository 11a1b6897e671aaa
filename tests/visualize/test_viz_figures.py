"""The paper's six figures: what they show is what the engine computed, on nets trained here and on nets a user brings."""

from __future__ import annotations

import dataclasses
import doctest
import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import figure_nets
import numpy as np
import pytest
from click.testing import CliRunner, Result

from allconv_caffe import zoo
from allconv_caffe.cli import main as cli
from allconv_caffe.paper import derive
from allconv_caffe.proto import NetParameter, parse_text, read_net
from allconv_caffe.visualize import comparison, figures, schematic, surgery
from allconv_caffe.visualize.comparison import Question, Variant
from allconv_caffe.visualize.crops import crop
from allconv_caffe.visualize.look import Look
from allconv_caffe.visualize.mining import TopK
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.nets.rules import RULES
from allconv_caffe.visualize.receptive_field import Box
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.sources import ImageSource, open_images
from allconv_caffe.visualize.surgery import strides_to_pools
from allconv_caffe.visualize.unit import Unit, argmax_units
from allconv_caffe.visualize.whitening import InputSpace, load_whitening

ROOT = Path(__file__).resolve().parents[2]
MODEL = Path("models/cifar10-allcnn-c-jpeg")


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli.main, ["viz", *words], prog_name="allconv")


def facts_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return found


@pytest.fixture
def world(viz_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small world, and a Model C of 6 and 8 channels beside its All-CNN-C."""
    shutil.copytree(viz_world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "models" / "cifar10-model-c-jpeg"
    model.mkdir()
    derive.derive("model_c", tmp_path / "derived-c", widths={96: 6, 192: 8})
    shutil.copy(tmp_path / "derived-c" / "deploy.prototxt", model / "deploy.prototxt")
    shutil.copy(MODEL / "whitening.npz", model / "whitening.npz")
    net = open_net(model / "deploy.prototxt")
    figure_nets.randomise(net)
    figure_nets.write_weights(net, model / "small.caffemodel")
    card = json.loads((MODEL / zoo.CARD).read_text()) | {
        "name": model.name,
        "experiment": "cifar10-model-c",
        "model": "Model C",
    }
    figure_nets.write_card(model, card)
    return tmp_path


def small(pooled: bool = False) -> VizNet:
    """The world's All-CNN-C, perhaps after surgery."""
    param = read_net(MODEL / "deploy.prototxt")
    return open_net(strides_to_pools(param) if pooled else param, MODEL / "small.caffemodel")


def images_of(net: VizNet) -> ImageSource:
    return open_images("data/cifar10-jpeg/test_lmdb", net.input_shape, load_whitening(MODEL / "whitening.npz"))


TOY = {  # figure 1b by hand, from f = TOY and R' = TOY_GRADIENT
    "forward": [[1, 0, 5], [2, 0, 0], [0, 2, 4]],
    "backprop": [[-2, 0, -1], [6, 0, 0], [0, -1, 3]],
    "deconvnet": [[0, 3, 0], [6, 0, 1], [2, 0, 3]],
    "guided": [[0, 0, 0], [6, 0, 0], [0, 0, 3]],
}


def test_figure_one_shows_the_toys_numbers(world: Path) -> None:
    """`figure 1` alone needs no net and no images: its numbers are those of the paper, its unit a corner of the square."""
    result = invoke("figure", "1", "--output", "one.png")
    assert (result.exit_code, result.output) == (0, "one.png\none.json\none.npz\n")
    facts, arrays = facts_of(Path("one.png")), np.load("one.npz")
    assert facts["toy"] == TOY and facts["formulas"]["guided"] == "R = (f > 0) (R' > 0) R'"
    assert all(arrays[name].tolist() == rows for name, rows in TOY.items())
    assert [tile["unit"] for tile in facts["tiles"]] == [
        "conv2:0:3:3"
    ]  # a left and a top edge meet at (6, 5) of the image
    strength = np.abs(arrays["maps"][0, 0])
    top, left, bottom, right = facts["tiles"][0]["box"]
    assert np.count_nonzero(strength[top:bottom, left:right]) == np.count_nonzero(strength) > 0
    assert (arrays["activations"][0] > 0).sum() == 2 and arrays["activations"][0].argmax() == 3 * 12 + 3
    assert (cv2.imread("one.png") < 100).all(axis=2).sum() > 2000  # it has words and numbers


def test_the_docstrings_example_of_the_toy_runs() -> None:
    """What schematic.toy says in its docstring is what it gives."""
    found = doctest.testmod(schematic)
    assert found.attempted == 1 and found.failed == 0


def test_figure_one_of_a_net_is_that_nets(world: Path) -> None:
    """With a model, part a shows its image, a unit of the blob, and the engine's reconstruction."""
    words = (
        "figure 1 --model cifar10-allcnn-c-jpeg --data data/cifar10-jpeg --unit conv6:2:4:4 --rules deconvnet --quiet"
    )
    result = invoke(*words.split(), "--output", "one.png")
    assert result.exit_code == 0, result.output
    net = small()
    source = images_of(net)
    tile = facts_of(Path("one.png"))["tiles"][0]
    assert (tile["unit"], tile["rule"], tile["switches"]) == ("conv6:2:4:4", "deconvnet", [])
    expected = reconstruct(net, source.get([tile["image"]]), [Unit("conv6", 2, 4, 4)], "deconvnet").maps
    np.testing.assert_array_equal(np.load("one.npz")["maps"], expected)


def test_figure_two_shows_patterns_in_either_space(world: Path) -> None:
    """conv1's patterns are its filters; in pixel space a pattern is the whole map through the matrix, cut to the same box."""
    assert invoke("figure", "2", "--output", "two.png", "--quiet").exit_code == 0
    net, arrays, facts = small(), np.load("two.npz"), facts_of(Path("two.png"))
    assert arrays.files == ["conv1", "conv2", "conv3"] and facts["rule"] == "deconvnet"
    np.testing.assert_allclose(arrays["conv1"], net.params()["conv1"][0], atol=1e-7)  # planes R, G, B as trained
    assert facts["dead"]["conv1"] == []
    assert len(facts["tiles"]) == 18 and facts["tiles"][7]["array"] == ["conv2", 1]

    rng = np.random.default_rng(0)
    zca = rng.standard_normal((3072, 3072)).astype(np.float32) / 55
    space = load_whitening(MODEL / "whitening.npz")
    assert space.whitening is not None
    space.whitening = dataclasses.replace(space.whitening, method="gcn-zca", zca=zca)
    drawing = figures.pattern_figure(net, ["conv2"], Look(shown="pixel", space=space), channels={"conv2": [4]})
    (tile,) = drawing.tiles
    unit = Unit.parse(tile["unit"])
    whole = reconstruct(net, np.zeros((1, 3, 32, 32)), [unit], "deconvnet").maps.reshape(1, -1)
    top, left, bottom, right = tile["box"]
    expected = (whole @ zca.T).reshape(3, 32, 32)[:, top:bottom, left:right]
    np.testing.assert_allclose(drawing.arrays["conv2"][0], expected, rtol=1e-4, atol=1e-5)
    assert drawing.facts["space"] == "pixel" and facts["space"] == "whitened input"


def test_figure_three_shows_the_strongest_patches(world: Path) -> None:
    """Rows of filters: maps are guided reconstructions cut to the boxes; a dead filter's row says so; the scan is kept."""
    words = ["figure", "3", "--k", "4", "--channels", "1,3", "--blobs", "conv3", "--quiet", "--output", "three.png"]
    assert invoke(*words).exit_code == 0
    facts, arrays, net = facts_of(Path("three.png")), np.load("three.npz"), small()
    source = images_of(net)
    assert facts["dead"] == {"conv3": [3]} and facts["images_seen"] == 12
    assert [tile["unit"].split(":")[1] for tile in facts["tiles"]] == ["1"] * 4
    assert [tile["rank"] for tile in facts["tiles"]] == [0, 1, 2, 3]
    everything = np.concatenate([net.forward(image[None], ("conv3",))["conv3"] for _, _, image in source.items()])
    best = np.sort(everything[:, 1].reshape(12, -1).max(axis=1))[::-1][:4]
    np.testing.assert_allclose([tile["activation"] for tile in facts["tiles"]], best, rtol=1e-5)
    for tile in facts["tiles"]:
        unit = Unit.parse(tile["unit"])
        map_ = reconstruct(net, source.get([tile["image"]]), [unit], "guided").maps[0]
        name, row = tile["array"]
        top, left, bottom, right = tile["box"]
        np.testing.assert_allclose(arrays[name][row], crop(map_, Box(top, left, bottom, right)), atol=1e-6)
    (kept,) = Path().glob("topk-*.npz")
    assert TopK.load(kept).complete
    before = kept.stat().st_mtime_ns
    del source  # LMDB opens an environment once in a process
    again = invoke(*words[:-1], "again.png", "--topk", str(kept))
    assert again.exit_code == 0, again.output
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(("number", "blob"), [(4, "conv9"), (5, "global_pool")])
def test_figures_four_and_five_hold_the_papers_contrast(world: Path, number: int, blob: str) -> None:
    """Of one unit the deconvnet without switches shows the same for every image, bit by bit, and with switches not; guided
    maps differ in both. Units are each net's own strongest, and both nets' accuracies are written down."""
    result = invoke("figure", str(number), "--quiet", "--output", "f.png")
    assert result.exit_code == 0, result.output
    facts, arrays = facts_of(Path("f.png")), np.load("f.npz")
    without, pooled = facts["variants"]
    assert (without["name"], pooled["name"]) == ("without pooling", "with pooling and switches")
    assert without["switches"] == [] and pooled["switches"] == ["conv3_pool", "conv6_pool"]
    assert without["weights_sha256"] == pooled["weights_sha256"] and without["net_sha256"] != pooled["net_sha256"]
    assert without["one_unit_on_all_images"]["deconvnet"]["largest_difference"] == 0
    assert pooled["one_unit_on_all_images"]["deconvnet"]["largest_difference"] > 0.01
    assert all(v["one_unit_on_all_images"]["guided"]["largest_difference"] > 0.01 for v in facts["variants"])

    nets = [small(), small(pooled=True)]
    source = images_of(nets[0])
    keys = list(dict.fromkeys(tile["image"] for tile in facts["tiles"]))
    images = source.get(keys)
    np.testing.assert_array_equal(arrays["images"], images)
    for v, net in enumerate(nets):
        units, values = argmax_units(net, images, blob)
        own = [tile for tile in facts["tiles"] if tile["variant"] == facts["variants"][v]["name"]]
        assert [tile["unit"] for tile in own] == [str(unit) for unit in units] * 3
        np.testing.assert_allclose([tile["activation"] for tile in own[:4]], values, rtol=1e-6)
        for rule in RULES:
            np.testing.assert_array_equal(arrays[f"{v}.{rule}"], reconstruct(net, images, units, rule).maps)
        scores = np.stack(
            [net.forward(image[None], ("global_pool",))["global_pool"].ravel() for _, _, image in source.items()]
        )
        keys = source.keys()
        truth = [source.label(key) for key in keys]  # type: ignore[attr-defined]
        right = sum(int(row.argmax()) == label for row, label in zip(scores, truth, strict=True))
        expected = {"percent": pytest.approx(100 * right / 12), "images": 12, "blob": "global_pool"}
        assert facts["variants"][v]["top1"] == expected
    flags = [str(a) == str(b) for a, b in zip(without["units"], pooled["units"], strict=True)]
    assert pooled["same_unit_as_first"] == flags


def test_one_unit_can_be_asked_of_every_image(world: Path) -> None:
    """--unit explains it everywhere: the deconvnet's pictures are one picture. --same-unit keeps the channel."""
    words = [
        "compare",
        "--model",
        "cifar10-allcnn-c-jpeg",
        "--data",
        "data/cifar10-jpeg",
        "--surgery",
        "--accuracy",
        "0",
        "--quiet",
        "--output",
        "c.png",
    ]
    assert invoke(*words, "--unit", "conv9:2:3:3").exit_code == 0
    arrays = np.load("c.npz")
    assert (arrays["0.deconvnet"] == arrays["0.deconvnet"][0]).all() and arrays["0.deconvnet"].any()
    assert not (arrays["1.deconvnet"] == arrays["1.deconvnet"][0]).all()
    assert not (arrays["0.guided"] == arrays["0.guided"][0]).all()
    assert {tile["unit"] for tile in facts_of(Path("c.png"))["tiles"]} == {"conv9:2:3:3"}

    assert invoke(*words, "--blob", "conv6", "--same-unit").exit_code == 0
    without, pooled = facts_of(Path("c.png"))["variants"]
    channels = [[unit.split(":")[1] for unit in variant["units"]] for variant in (without, pooled)]
    assert channels[0] == channels[1]
    assert facts_of(Path("c.png"))["variants"][0]["top1"] is None


def test_figure_six_uses_the_nets_own_switches(world: Path) -> None:
    """Of Model C: one column of maps by rule, with the switches of its own pools, on which the deconvnet depends."""
    result = invoke("figure", "6", "--quiet", "--output", "six.png")
    assert result.exit_code == 0, result.output
    facts = facts_of(Path("six.png"))
    (variant,) = facts["variants"]
    assert (variant["name"], variant["switches"]) == ("switches of pool1, pool2", ["pool1", "pool2"])
    assert (
        facts["blob"] == "global_pool" and variant["one_unit_on_all_images"]["deconvnet"]["largest_difference"] > 0.01
    )
    refused = invoke("figure", "6", "--model", "cifar10-allcnn-c-jpeg", "--quiet")
    assert refused.output == (
        "Error: models/cifar10-allcnn-c-jpeg/deploy.prototxt: found no max-pooling below 'global_pool', expected a net trained "
        "with max-pooling: figures 4 and 5 are for others\n"
    )


def test_figures_four_and_five_of_a_net_with_pools_show_the_deconvnet_without_its_switches(world: Path) -> None:
    """Of Model C: its own switches, and beside them the deconvnet alone, the same for one unit in every image, of its units."""
    for number in (4, 5):
        words = (
            "figure",
            str(number),
            "--model",
            "cifar10-model-c-jpeg",
            "--accuracy",
            "0",
            "--quiet",
            "--output",
            "f.png",
        )
        result = invoke(*words)
        assert result.exit_code == 0, result.output
        facts = facts_of(Path("f.png"))
        own, without = facts["variants"]
        assert (own["name"], without["name"]) == ("switches of pool1, pool2", "without switches")
        assert (own["switches"], without["switches"]) == (["pool1", "pool2"], []) and own["units"] == without["units"]
        assert list(without["one_unit_on_all_images"]) == ["unit", "deconvnet"]
        assert without["one_unit_on_all_images"]["deconvnet"]["largest_difference"] == 0
        assert np.load("f.npz").files == ["0.backprop", "0.deconvnet", "0.guided", "1.deconvnet", "images"]
    both = invoke("compare", "--surgery", "--without-switches", "--output", "c.png")
    assert both.exit_code == 2 and both.output.splitlines()[-1] == (
        "Error: --without-switches is for a net with max-pooling of its own: leave out --surgery, --layers"
    )
    assert figures.default_blobs(open_net("models/cifar10-model-c-jpeg/deploy.prototxt"), 2) == ["conv1", "conv2"]


def test_a_shared_scale_is_shared_by_images_and_nets_of_a_rule(world: Path) -> None:
    """The whitest pixel of each rule's maps is white in one of them alone; the raw maps stay as they are."""
    nets = [small(), small(pooled=True)]
    source = images_of(nets[0])
    keys, images = source.sample(3, 0)
    look = Look(how="shared", space=source.space)
    variants = [Variant(name=name, net=net) for name, net in zip("ab", nets, strict=True)]
    drawing = comparison.comparison(variants, Question(images=images, keys=keys, blob="conv9"), look)
    for rule in RULES:
        largest = max(float(np.abs(drawing.arrays[f"{v}.{rule}"]).max()) for v in (0, 1))
        drawn = comparison._scaled(drawing.arrays, [rule], look)
        for v in (0, 1):
            expected = np.rint(255 * (0.5 + drawing.arrays[f"{v}.{rule}"] / (2 * largest))).transpose(0, 2, 3, 1)
            assert np.abs(drawn[f"{v}.{rule}"] - expected).max() <= 1


def test_a_dead_unit_is_grey_and_named(world: Path) -> None:
    """A unit that is off: its maps are grey, the JSON says dead, the command says why and what helps."""
    words = "compare --model cifar10-allcnn-c-jpeg --data data/cifar10-jpeg --unit conv3:3:4:4 --count 1 --quiet --output d.png"
    result = CliRunner().invoke(cli.main, ["viz", *words.split()])
    assert result.exit_code == 0
    assert "unit conv3:3:4:4 is not active on image 0 (activation 0): its map is zero; choose an image" in result.output
    facts = facts_of(Path("d.png"))
    assert all(tile["dead"] for tile in facts["tiles"])
    assert [tile["zero"] for tile in facts["tiles"]] == [True] * 3  # its weights are zero: even the deconvnet's
    assert ((cv2.imread("d.png") == 128).all(axis=2)).sum() >= 3 * 96 * 96


def test_surgery_writes_a_net_that_the_weights_fit(world: Path) -> None:
    """`surgery` prints the null test's differences and both accuracies, and writes the net; noise serves without images."""
    words = ["surgery", "--model", "cifar10-allcnn-c-jpeg", "--output", "out/pooled.prototxt"]
    result = invoke(*words)
    assert result.exit_code == 0 and result.output.splitlines()[-1] == "out/pooled.prototxt"
    assert result.output.startswith("null test on 4 images of noise: global_pool differs by ")
    assert "Made by: allconv" in Path("out/pooled.prototxt").read_text().splitlines()[0]
    net = open_net("out/pooled.prototxt", MODEL / "small.caffemodel")
    assert net.net_sha256 == small(pooled=True).net_sha256
    lines = invoke(*words, "--data", "data/cifar10-jpeg", "--layers", "conv6").output.splitlines()
    assert lines[0].startswith("null test on 4 images: ")
    assert [line.partition(":")[0] for line in lines[1:3]] == ["top-1 before", "top-1 after"]
    assert [layer.name for layer in read_net("out/pooled.prototxt").layer if layer.type == "Pooling"] == [
        "conv6_pool",
        "global_pool",
    ]


def test_surgery_stops_where_the_null_test_fails(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where taking what the stride took changes the net, nothing is written."""
    right = surgery.strides_to_pools

    def wrong(param: Any, layers: Any = None, **more: Any) -> Any:
        out = right(param, layers, **more)
        for layer in out.layer:
            if layer.name == "conv3":
                layer.convolution_param.pad[0] = 2
                layer.convolution_param.kernel_size[0] = 3
            if layer.name == "conv4":
                layer.convolution_param.pad[0] = 1
            if layer.name == "conv3_pool" and more["method"] == "top-left":
                layer.pooling_param.kernel_size = 2  # one further on
        return out

    monkeypatch.setattr(surgery, "strides_to_pools", wrong)
    result = invoke("surgery", "--model", "cifar10-allcnn-c-jpeg", "--output", "pooled.prototxt")
    assert result.exit_code == 1 and not Path("pooled.prototxt").exists()
    assert "expected at most 1e-4: this net cannot be operated on" in result.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "figure 4 --blob conv99",
            "--blob: found 'conv99', expected a blob of the net (choices: data, conv1, conv2, conv3, conv4, conv5, conv6, conv7, "
            "conv8, conv9, global_pool, prob)",
        ),
        (
            "figure 4 --blob prob",
            "blob 'prob': found a unit after the softmax of layer 'prob', expected a score before it, as 'global_pool'",
        ),
        ("figure 5 --unit conv9:10:0:0", "unit conv9:10:0:0: found channel 10, expected 0 to 9"),
        ("figure 5 --unit conv9", "--unit: found 'conv9', expected BLOB:CHANNEL or BLOB:CHANNEL:Y:X"),
        ("figure 5 --unit conv9:1:0:0 --blob conv6", "--unit: found conv9:1:0:0, expected a unit of --blob conv6"),
        (
            "figure 5 --unit conv9:1:0:0 --same-unit",
            "--same-unit: found a unit by --unit, expected --surgery, and units that each net chooses",
        ),
        (
            "compare --model cifar10-allcnn-c-jpeg --data data/cifar10-jpeg --output c.png --same-unit",
            "--same-unit: found one net, expected --surgery, and units that each net chooses",
        ),
        (
            "figure 5 --rules grad",
            "--rules: found 'grad', expected a ReLU rule (choices: backprop, deconvnet, guided, plain, gradient, deconv)",
        ),
        (
            "figure 5 --normalisation minmax",
            "--normalisation: found 'minmax', expected a way to draw maps (choices: "
            "zero-centred, shared, percentile, positive, l2-grey)",
        ),
        ("figure 5 --space whitened", "--space: found 'whitened', expected input or pixel"),
        ("figure 5 --count 0", "--count: found 0, expected 1 or more"),
        (
            "figure 5 --images nokey",
            "data/cifar10-jpeg/test_lmdb: found no record 'nokey', expected a key of these data, such as '00000000_00000006'",
        ),
        (
            "figure 5 --images \N{CJK UNIFIED IDEOGRAPH-732B}",
            "data/cifar10-jpeg/test_lmdb: found no record '\N{CJK UNIFIED IDEOGRAPH-732B}', expected a key of these data, "
            "such as '00000000_00000006'",
        ),
        (
            "figure 4 --layers conv2",
            "models/cifar10-allcnn-c-jpeg/deploy.prototxt: layer 'conv2': found stride 1, expected a "
            "convolution with stride 2 (choices: conv3, conv6)",
        ),
        (
            "figure 2 --blobs global_pool",
            "blob 'global_pool': found receptive fields of 47x47, expected a lower layer, whose units "
            "see less than the image of 32x32",
        ),
        ("figure 2 --channels 6 --blobs conv1", "unit conv1:6:0:0: found channel 6, expected 0 to 5"),
        (
            "figure 3 --channels 6 --blobs conv3 --k 4 --topk build/topk.npz",
            "blob 'conv3': found channel 6, expected 0 to 5",
        ),
        (
            "figure 4 --data nowhere",
            "figure 4: found no nowhere, expected a prepared data set, an LMDB, a folder of images or an image",
        ),
        ("figure 1 --images a", "figure 1: found images without a net, expected --model, or --net and --weights"),
        ("figure 1 --rules guided,deconvnet", "--rules: found guided, deconvnet, expected one rule for this figure"),
        ("figure 1 --unit conv1:9", "unit conv1:9:0:0: found channel 9, expected 0 to 3"),
        ("figure 5 --output five.jpg", "five.jpg: found a name ending in '.jpg', expected .png"),
    ],
)
def test_a_mistake_gets_one_line(words: str, message: str, world: Path) -> None:
    """Whatever is wrong with a figure's words: status 1, one line, nothing written."""
    result = invoke(*words.split(), "--quiet")
    assert (result.exit_code, result.output) == (1, f"Error: {message}\n")
    assert not Path("build/figures").exists()


def test_what_is_missing_is_named_with_the_way_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without model, or without images: one line that says how to make them."""
    monkeypatch.chdir(tmp_path)
    assert invoke("figure", "6").output == (
        "Error: figure 6: found no models/cifar10-model-c-jpeg, expected a trained model: `allconv run cifar10-model-c --data "
        "data/cifar10-jpeg --epochs 15`, then `allconv zoo add RUN --name cifar10-model-c-jpeg`; or another with --model, or "
        "--net and --weights\n"
    )
    (tmp_path / "models").symlink_to(ROOT / "models")
    result = invoke("figure", "5")
    assert (result.exit_code, result.output) == (
        1,
        "Error: figure 5: found no data/cifar10-jpeg, expected images: `allconv prep cifar10 --source ARCHIVE --output "
        "data/cifar10-jpeg`, or others with --data\n",
    )


def test_an_option_of_another_figure_is_refused(world: Path) -> None:
    """--k says nothing of figure 4, --layers nothing of figure 6: they are not passed over."""
    for words, flag in (
        ("figure 4 --k 3", "--k"),
        ("figure 6 --layers conv3", "--layers"),
        ("figure 2 --rules guided", "--rules"),
    ):
        result = invoke(*words.split())
        assert result.exit_code == 2 and result.output.splitlines()[-1] == f"Error: figure {words[7]} has no {flag}"


def test_default_blobs_are_the_papers() -> None:
    """Of the ImageNet net: conv1-3, conv6 and conv9, conv12, global_pool; of All-CNN-C conv3 and conv6; of CaffeNet fc8."""
    imagenet = open_net(ROOT / "solvers/imagenet-allcnn/deploy.prototxt")
    assert [figures.default_blobs(imagenet, n) for n in range(2, 6)] == [
        ["conv1", "conv2", "conv3"],
        ["conv6", "conv9"],
        ["conv12"],
        ["global_pool"],
    ]
    cifar = open_net(ROOT / "solvers/cifar10-allcnn-c/deploy.prototxt")
    assert [figures.default_blobs(cifar, n) for n in range(2, 6)] == [
        ["conv1", "conv2", "conv3"],
        ["conv3", "conv6"],
        ["conv9"],
        ["global_pool"],
    ]
    caffenet = open_net(parse_text(figure_nets.caffenet(1 / 32), NetParameter))
    assert figures.default_blobs(caffenet, 6) == ["fc8"] and figures.default_blobs(caffenet, 3) == ["conv2", "conv5"]


def test_figures_of_the_imagenet_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's net at 224x224 (an eighth of its width) and JPEG files: figures 2 to 5 as a user makes them."""
    monkeypatch.chdir(tmp_path)
    figure_nets.write_images(Path("val"), 3, 256)
    deploy = Path("deploy.prototxt")
    text = (ROOT / "solvers/imagenet-allcnn/deploy.prototxt").read_text()
    deploy.write_text(re.sub(r"num_output: (\d+)", lambda m: f"num_output: {int(m[1]) // 8}", text))
    net = open_net(deploy)
    figure_nets.randomise(net)
    figure_nets.write_weights(net, Path("w.caffemodel"))
    net_words = f"--net {deploy} --weights w.caffemodel --mean 104,117,123 --quiet".split()
    for number, more in (
        (2, "--sample 4"),
        (3, "--sample 2 --k 2 --data val"),
        (4, "--count 2 --data val"),
        (5, "--count 2 --data val"),
    ):
        result = invoke("figure", str(number), *net_words, *more.split(), "--output", f"{number}.png")
        assert result.exit_code == 0, result.output
    facts = {n: facts_of(Path(f"{n}.png")) for n in (2, 3, 4, 5)}
    size = {tile["unit"].split(":")[0]: tile["box"][2] - tile["box"][0] for n in (2, 3) for tile in facts[n]["tiles"]}
    assert size == {"conv1": 11, "conv2": 11, "conv3": 19, "conv6": 67, "conv9": 131}  # visualisation by hand: k, s, p
    filters = net.params()["conv1"][0]
    channel = int(facts[2]["tiles"][0]["unit"].split(":")[1])
    np.testing.assert_allclose(np.load("2.npz")["conv1"][0], filters[channel][::-1], atol=1e-6)  # B, G, R to R, G, B
    for n, blob in ((4, "conv12"), (5, "global_pool")):
        without, pooled = facts[n]["variants"]
        assert facts[n]["blob"] == blob and pooled["switches"] == ["conv3_pool", "conv6_pool", "conv9_pool"]
        assert without["one_unit_on_all_images"]["deconvnet"]["largest_difference"] == 0
        assert pooled["one_unit_on_all_images"]["deconvnet"]["largest_difference"] > 0.01
        assert without["top1"]["reason"] == "the data have no labels"
    assert facts[5]["input"]["mean"] == [104, 117, 123]


def test_figure_six_of_caffenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CaffeNet (an eighth of its width) at 227x227: fc8's largest unit; the ReLUs of fc6 and fc7 follow the rule too."""
    monkeypatch.chdir(tmp_path)
    net = figure_nets.write_caffenet()
    words = "figure 6 --net caffenet.prototxt --weights w.caffemodel --mean 104,117,123 --data val --count 2 --quiet --output 6.png"
    result = invoke(*words.split())
    assert result.exit_code == 0, result.output
    facts, arrays = facts_of(Path("6.png")), np.load("6.npz")
    assert facts["blob"] == "fc8" and facts["variants"][0]["switches"] == ["pool1", "pool2", "pool5"]
    source = open_images("val", net.input_shape, InputSpace(mean=np.array([104, 117, 123])))
    images = source.get([tile["image"] for tile in facts["tiles"][:2]])
    scores = net.forward(images, ("fc8",))["fc8"]
    assert [tile["unit"] for tile in facts["tiles"][:2]] == [f"fc8:{c}:0:0" for c in scores.argmax(axis=1)]
    assert arrays["0.guided"].shape == (2, 3, 227, 227)
    assert net.backward("fc8", np.eye(1000, dtype=np.float32)[scores.argmax(axis=1)], "guided").any()
    for blob in ("fc7", "fc6", "conv5"):  # after the guided pass above: at every ReLU's bottom
        assert (net.diff(blob) >= 0).all() and net.diff(blob).any(), blob


def test_accuracy_says_why_there_is_none(world: Path) -> None:
    """Labels that the scores do not have, and data without labels, give a reason in place of a number."""
    net = small()
    source = images_of(net)
    assert comparison.top1(net, source, 5)["images"] == 5
    source.label = lambda key: 10  # type: ignore[attr-defined]
    assert comparison.top1(net, source)["reason"] == "labels up to 10, 10 scores"


def test_no_convolution_no_defaults() -> None:
    """A net of fully connected layers has scores, but no figure 2."""
    text = """input: "data" input_shape { dim: 1 dim: 3 dim: 4 dim: 4 }
    layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1" inner_product_param { num_output: 4 } }
    layer { name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }"""
    net = open_net(parse_text(text, NetParameter))
    assert figures.default_blobs(net, 6) == ["fc1"]
    with pytest.raises(VizError, match="found no convolution, expected a convolutional net, or a blob named"):
        figures.default_blobs(net, 2)
