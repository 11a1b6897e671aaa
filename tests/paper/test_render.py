"""Rendered prototxt: committed bytes, parsed fields, options, errors."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path

import jinja2
import pytest

from allconv_caffe.paper import render as r
from allconv_caffe.paper.errors import RenderError, TableError
from allconv_caffe.paper.experiments import EXPERIMENTS
from allconv_caffe.paper.options import RenderOptions, option_flags, option_from_text, options_from
from allconv_caffe.paper.render import render
from allconv_caffe.paper.rules import Numbers, OneOf, helps, rules
from allconv_caffe.proto import NetParameter, SolverParameter, parse_text

ROOT = Path(__file__).resolve().parents[2]
ALL = list(EXPERIMENTS)


def parsed(name: str, options: RenderOptions | None = None) -> tuple[SolverParameter, NetParameter, NetParameter]:
    texts = render(name, options)
    types = (SolverParameter, NetParameter, NetParameter)
    solver, train_val, deploy = (parse_text(texts[file], cls) for file, cls in zip(r.FILES, types, strict=True))
    return solver, train_val, deploy


def test_committed_files_are_as_rendered() -> None:
    """Every committed file in solvers/ equals, byte for byte, what its tables and templates give."""
    assert r.check(ROOT) == []


def test_check_finds_each_difference(tmp_path: Path) -> None:
    """check names a changed line, a missing file, a missing snapshot folder and a folder of no experiment."""
    r.write("cifar10-model-a", root=tmp_path)
    assert r.check(tmp_path, ["cifar10-model-a"]) == []
    folder = tmp_path / "solvers" / "cifar10-model-a"
    solver = folder / "solver.prototxt"
    solver.write_text(solver.read_text().replace("base_lr: 0.05", "base_lr: 0.06"))
    (folder / "deploy.prototxt").unlink()
    shutil.rmtree(folder / "snapshots")
    assert r.check(tmp_path, ["cifar10-model-a"]) == [
        "solvers/cifar10-model-a/solver.prototxt:6: found 'base_lr: 0.06', expected 'base_lr: 0.05'; "
        "run: allconv render cifar10-model-a",
        "solvers/cifar10-model-a/deploy.prototxt: missing; run: allconv render cifar10-model-a",
        "solvers/cifar10-model-a/snapshots/.gitignore: missing; run: allconv render cifar10-model-a",
        "solvers/cifar10-model-a/snapshots/.gitkeep: missing; run: allconv render cifar10-model-a",
    ]
    (tmp_path / "solvers" / "stray").mkdir()
    assert "solvers/stray: belongs to no experiment; remove it" in r.check(tmp_path)


@pytest.mark.parametrize("name", ALL)
def test_every_file_parses(name: str) -> None:
    """Every rendered file parses; the solver names its own net and a snapshot folder that a clone has."""
    solver, train_val, deploy = parsed(name)
    assert solver.net == f"solvers/{name}/train_val.prototxt"
    assert solver.solver_mode == SolverParameter.GPU
    assert (ROOT / solver.snapshot_prefix).parent.is_dir() and not Path(solver.snapshot_prefix).is_absolute()
    ours = [layer.name for layer in train_val.layer if layer.name not in ("data", "accuracy", "loss")]
    assert [layer.name for layer in deploy.layer[1:-1]] == ours
    assert [layer.name for layer in train_val.layer[-2:]] == ["accuracy", "loss"]
    (test,) = [layer for layer in train_val.layer if layer.name == "data" and layer.include[0].phase == 1]
    n_test = EXPERIMENTS[name].dataset.n_test
    text = test.python_param.param_str
    assert solver.test_iter[0] * (json.loads(text)["batch_size"] if text else test.data_param.batch_size) == n_test
    assert not test.transform_param.mirror, "Caffe would mirror test images too"


@pytest.mark.parametrize("name", ALL)
def test_first_line(name: str) -> None:
    """The first line names the experiment, its source row and the command that rendered it."""
    for text in render(name).values():
        source = EXPERIMENTS[name].source
        assert text.splitlines()[0] == f"# {name}: {source}. Rendered by: allconv render {name}"
        assert text.endswith("\n") and "\t" not in text and "\n\n" not in text


def _orders() -> dict[str, list[str]]:
    """The fields of caffe.proto in the order in which it writes them."""
    return {
        "solver": [
            "net",
            "train_state",
            "test_iter",
            "test_interval",
            "base_lr",
            "display",
            "max_iter",
            "lr_policy",
            "gamma",
            "momentum",
            "weight_decay",
            "stepsize",
            "stepvalue",
            "clip_gradients",
            "snapshot",
            "snapshot_prefix",
            "solver_mode",
            "device_id",
            "random_seed",
            "type",
        ],
        "layer": [
            "name",
            "type",
            "bottom",
            "top",
            "param",
            "include",
            "transform_param",
            "convolution_param",
            "data_param",
            "dropout_param",
            "dummy_data_param",
            "inner_product_param",
            "input_param",
            "pooling_param",
            "power_param",
            "python_param",
            "relu_param",
            "scale_param",
        ],
    }


def test_fields_in_the_order_of_caffe_proto() -> None:
    """Fields follow caffe.proto, in the solver and in each layer."""
    options = RenderOptions(clip_gradients=1, device_id=0, random_seed=1, batchwise_dropout=True, filler="graham")
    for name in ("cifar10-model-c", "imagenet-allcnn", "cifar10-large-allcnn", "cifar10-model-a-fc"):
        texts = render(name, options)
        order = _orders()["solver"]
        for file in (file for file in texts if file.startswith("solver")):
            keys = re.findall(r"^(\w+)[: ]", texts[file], re.MULTILINE)
            assert keys == sorted(keys, key=order.index) and len(keys) > 12
        for block in texts["train_val.prototxt"].split("layer {\n")[1:]:
            keys = re.findall(r"^  (\w+)[: ]", block, re.MULTILINE)
            assert keys == sorted(keys, key=_orders()["layer"].index)


def test_all_cnn_c() -> None:
    """All-CNN-C's solver has the paper's numbers."""
    solver, train_val, deploy = parsed("cifar10-allcnn-c")
    assert (solver.base_lr, solver.momentum, solver.weight_decay, solver.gamma) == pytest.approx(
        (0.05, 0.9, 0.001, 0.1)
    )
    assert (solver.max_iter, list(solver.stepvalue), solver.lr_policy) == (136719, [78125, 97656, 117188], "multistep")
    assert [layer.data_param.source for layer in train_val.layer[:2]] == [
        "data/cifar10/train_lmdb",
        "data/cifar10/test_lmdb",
    ]
    assert list(deploy.layer[0].input_param.shape[0].dim) == [1, 3, 32, 32]


def test_rates_are_the_measured_ones() -> None:
    """0.05, but 0.01 for Model C and Strided-CNN-C, which 0.05 silences, on both data sets."""
    rates = {name: parsed(name)[0].base_lr for name in EXPERIMENTS if name.startswith(("cifar10-", "cifar100-"))}
    slow = {f"{data}-{net}" for data in ("cifar10", "cifar100") for net in ("model-c", "strided-cnn-c")}
    slow.add("cifar10-model-c-fc")
    assert {name for name, rate in rates.items() if rate == pytest.approx(0.01)} == slow
    assert (
        sum(rate == pytest.approx(0.05) for rate in rates.values()) == len(rates) - len(slow) - 1
    )  # Large-All-CNN has its own


def test_augmented() -> None:
    """The augmented run crops 32 of the padded 42x42 in both phases and mirrors in training alone."""
    _, train_val, _ = parsed("cifar10-allcnn-c-aug")
    train, test = (layer.transform_param for layer in train_val.layer[:2])
    assert (train.crop_size, train.mirror, test.crop_size, test.mirror) == (32, True, 32, False)


def test_run_directory() -> None:
    """A driver may change paths, rate, epochs, seed, mode, batch size, classes and the data set."""
    options = RenderOptions(
        epochs=15,
        lr=0.01,
        random_seed=1,
        solver_mode="CPU",
        batch_size=64,
        num_output=4,
        n_train=1500,
        n_test=500,
        train_lmdb="run/train",
        test_lmdb="run/test",
        snapshot_prefix="run/s/x",
        net_path="run/train_val.prototxt",
        filler="gaussian",
        filler_std=0.1,
        bias_lr_mult=2,
        bias_decay_mult=0,
        clip_gradients=2,
        weight_decay=0,
        momentum=0.8,
        drop_epochs=(5, 10),
    )
    solver, train_val, deploy = parsed("cifar10-allcnn-c", options)
    assert (solver.max_iter, list(solver.stepvalue)) == (352, [117, 234])
    assert (solver.random_seed, solver.solver_mode) == (1, SolverParameter.CPU)
    assert (solver.net, solver.snapshot_prefix) == ("run/train_val.prototxt", "run/s/x")
    assert (solver.base_lr, solver.clip_gradients, solver.momentum) == pytest.approx((0.01, 2, 0.8))
    assert solver.HasField("weight_decay") and solver.weight_decay == 0
    assert solver.test_iter[0] * train_val.layer[1].data_param.batch_size == 500
    assert (train_val.layer[0].data_param.source, train_val.layer[0].data_param.batch_size) == ("run/train", 64)
    convs = [layer for layer in deploy.layer if layer.type == "Convolution"]
    assert convs[-1].convolution_param.num_output == 4
    filler = convs[0].convolution_param.weight_filler
    assert (filler.type, filler.std) == ("gaussian", pytest.approx(0.1))
    assert [(p.lr_mult, p.decay_mult) for p in convs[0].param] == [(1, 1), (2, 0)]


def test_other_images() -> None:
    """Other channels and sizes, scaling and means go into the data layers and the deploy input."""
    options = RenderOptions(channels=1, image_size=28, scale=0.5, mean_value=(3,), mirror=True)
    _, train_val, deploy = parsed("cifar10-model-c", options)
    assert list(deploy.layer[0].input_param.shape[0].dim) == [1, 1, 28, 28]
    transform = train_val.layer[0].transform_param
    assert (transform.scale, list(transform.mean_value), transform.crop_size, transform.mirror) == (0.5, [3], 0, True)


def test_write_elsewhere(tmp_path: Path) -> None:
    """Written into another folder below the root, the solver names that folder, and its snapshot folder exists."""
    paths = r.write("cifar10-allcnn-c", tmp_path / "build" / "c", RenderOptions(epochs=1), root=tmp_path)
    solver = parse_text(paths[0].read_text(), SolverParameter)
    assert solver.net == "build/c/train_val.prototxt"
    assert solver.snapshot_prefix == "build/c/snapshots/cifar10-allcnn-c"
    assert sorted(path.name for path in (tmp_path / "build/c").iterdir()) == sorted([*r.FILES, "snapshots"])
    assert "--epochs 1" in paths[0].read_text().splitlines()[0]


def test_flags_lead_back() -> None:
    """The flags in the first line, read again, give the same options."""
    options = RenderOptions(epochs=2.5, relu_last=False, mean_value=(1, 2, 3), filler="msra", n_train=10, lr=3e-5)
    flags = option_flags(options)
    names = [flag.removeprefix("--").replace("-", "_") for flag in flags[::2]]
    read = {name: option_from_text(name, text) for name, text in zip(names, flags[1::2], strict=True)}
    assert RenderOptions(**read) == options and len(read) == 6
    assert option_flags(RenderOptions()) == []


def test_templates_refuse_undefined_names() -> None:
    """A name that a template does not get is an error, never an empty text."""
    with pytest.raises(jinja2.UndefinedError):
        r._environment().get_template("solver.prototxt.j2").render(header="x", solver={})


MOST, HELD = "a whole number of at most", "the largest that Caffe holds"
RATE = "expected a rate of at least 0 and below 1"
WRONG = [
    ({"epochs": 0}, "option epochs: found 0, expected a number above 0"),
    ({"lr": float("nan")}, "option lr: found nan, expected a number above 0"),
    ({"batch_size": 1.5}, "option batch_size: found 1.5, expected a whole number of at least 1"),
    ({"n_train": True}, "option n_train: found True, expected a whole number of at least 1"),
    ({"solver_mode": "TPU"}, "option solver_mode: found 'TPU', expected one of the choices (choices: GPU, CPU)"),
    ({"dropout": "some"}, "option dropout: found 'some', expected one of the choices (choices: paper, all, 1x1, none)"),
    ({"dropout_ratio": 1}, f"option dropout_ratio: found 1, {RATE}"),
    ({"mirror": "yes"}, "option mirror: found 'yes', expected true or false (choices: true, false)"),
    ({"net_path": 'a"b'}, "option net_path: found 'a\"b', expected a path without quotes, backslashes or line ends"),
    ({"random_seed": -1}, "option random_seed: found -1, expected a whole number of at least 0"),
    ({"crop_size": 40}, "option crop_size: found 40, expected at most the image size, 32"),
    ({"dropout_ratio": 0.999999999}, f"option dropout_ratio: found 0.999999999, {RATE}"),
    ({"lr": 1e-50}, "option lr: found 1e-50, expected a number above 0, of a size that float32 holds"),
    (
        {"bias_lr_mult": float("inf")},
        "option bias_lr_mult: found inf, expected a number of at least 0, of a size that float32 holds",
    ),
    ({"mean_value": (1, float("nan"))}, "option mean_value: found nan, expected numbers"),
    ({"mean_value": (1, 2)}, "option mean_value: found (1, 2), expected one number, or one for each of 3 channels"),
    ({"snapshot": 2**31}, f"option snapshot: found 2147483648, expected {MOST} 2147483647, {HELD}"),
    ({"random_seed": 2**32}, f"option random_seed: found 4294967296, expected {MOST} 4294967295, {HELD}"),
    (
        {"epochs": 1e9},
        "cifar10-model-a: max_iter: found 390625000000, expected at most 2147483647, which Caffe's int holds",
    ),
    ({"drop_epochs": (9, 8)}, "option drop_epochs: found (9, 8), expected rising epochs below 350"),
]


@pytest.mark.parametrize(("entries", "message"), WRONG)
def test_wrong_options_are_named(entries: dict[str, object], message: str) -> None:
    """A wrong option gets one line: its name, what was found, what was expected, the choices."""
    with pytest.raises(TableError) as caught:
        render("cifar10-model-a", RenderOptions(**entries))
    assert str(caught.value) == message


def test_option_texts() -> None:
    """Options typed on a command line are read by their type, or refused by name."""
    assert option_from_text("batch_size", "64") == 64
    assert option_from_text("relu_last", "False") is False
    assert option_from_text("drop_epochs", "3,4.5") == (3.0, 4.5)
    with pytest.raises(TableError, match="option batch_size: found 'many', expected a whole number"):
        option_from_text("batch_size", "many")
    with pytest.raises(TableError, match="option nope: found 'nope', expected the name of an option"):
        option_from_text("nope", "1")
    with pytest.raises(TableError, match="t.toml: nope: found 'nope'"):
        options_from({"nope": 1}, "t.toml")
    with pytest.raises(TableError, match="t.toml: option lr: found 'x', expected a number above 0"):
        options_from({"lr": "x"}, "t.toml")


def test_every_option_has_a_rule_and_a_help() -> None:
    """Each option of rendering has a rule that reads it from text and takes its default, and words for the command line."""
    samples = {
        "true or false": "true",
        "a whole number": "3",
        "a number": "0.5",
        "pnorm": "3",
        "numbers with commas between": "1,2",
    }
    for entry in fields(RenderOptions):
        rule = rules(RenderOptions)[entry.name]
        assert helps(RenderOptions)[entry.name]
        word = rule.known()[0] if isinstance(rule, OneOf) else samples.get(entry.name, samples.get(rule.kind, "x"))
        RenderOptions(**{entry.name: option_from_text(entry.name, word)})
        assert rule.fault("\n") if not isinstance(rule, Numbers) else rule.each.fault("\n"), entry.name


def test_scores_must_be_one_by_one() -> None:
    """A table that ends in a map of scores is refused: the loss needs one score per class."""
    experiment = EXPERIMENTS["cifar10-model-a"]
    network = experiment.network()
    bare = replace(experiment, architecture=replace(network, layers=network.layers[:-1]))
    with pytest.raises(TableError, match="Model A: last layer: found '6x6 scores per class'"):
        render(bare)


def test_a_mean_file_stands_in_both_data_layers() -> None:
    """`mean_file` is written into TRAIN and TEST, in place of an experiment's own mean_value; beside mean_value it is
    refused, as Caffe refuses it."""
    options = RenderOptions(mean_file="data/raw/mean.binaryproto", scale=0.5)
    text = render("imagenet-allcnn", options)["train_val.prototxt"]
    assert text.count('mean_file: "data/raw/mean.binaryproto"') == 2 and text.count("scale: 0.5") == 2
    assert "mean_value" not in text
    with pytest.raises(RenderError) as caught:
        RenderOptions(mean_file="m", mean_value=(1.0,))
    assert str(caught.value) == (
        "option mean_file: found 'm', expected none beside mean_value: Caffe takes one of them"
    )
