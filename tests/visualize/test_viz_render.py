"""`allconv render --relu`: a deploy net to look inside with, for every experiment, and the nets as trained untouched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from allconv_caffe.cli.main import main
from allconv_caffe.paper import experiments, render as rendering
from allconv_caffe.proto import NetParameter, parse_text, to_text
from allconv_caffe.visualize.nets import rules
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.unit import argmax_units

KINDS = {"plain": "backprop", "deconv": "deconvnet", "guided": "guided"}


@pytest.mark.parametrize("relu", rendering.RELU_LAYERS)
@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_the_template_says_what_the_rewrite_says(name: str, relu: str) -> None:
    """For every experiment the rendered net is the deploy net rewritten by `rules.rewrite`."""
    plain_relus = rendering.RenderOptions(negative_slope=0)  # Large-All-CNN's are leaky
    texts = rendering.render(name, plain_relus, relu=relu)
    assert list(texts) == ["deploy.prototxt"] and "force_backward: true\n" in texts["deploy.prototxt"]
    found = parse_text(texts["deploy.prototxt"], NetParameter)
    expected = rules.rewrite(
        parse_text(rendering.render(name, plain_relus)["deploy.prototxt"], NetParameter), KINDS[relu]
    )
    expected.ClearField("state")
    assert to_text(found) == to_text(expected)
    assert sum(layer.type == "Python" for layer in found.layer) == (
        0 if relu == "plain" else len(rules.relu_names(found))
    )


def test_the_command_writes_one_net_beside_the_solvers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --output the net goes to build/; solvers/ is not touched, and the first line names the command."""
    monkeypatch.chdir(tmp_path)
    for words, path, command in (
        (["--relu", "guided"], "build/cifar10-allcnn-c-guided/deploy.prototxt", "--relu guided"),
        (["--relu", "deconv", "--output", "d"], "d/deploy.prototxt", "--relu deconv --output d"),
    ):
        result = CliRunner().invoke(main, ["render", "cifar10-allcnn-c", *words])
        assert (result.exit_code, result.output) == (0, f"{path}\n")
        assert Path(path).read_text().splitlines()[0].endswith(f"allconv render cifar10-allcnn-c {command}")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["deploy.prototxt"] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "cifar10-model-a --relu leaky",
            "Error: --relu: found 'leaky', expected one of the choices (choices: plain, deconv, guided)",
        ),
        (
            "cifar10-model-a --relu guided --negative-slope 0.1",
            "Error: Model A: layer 'relu1': found 'negative_slope 0.1', expected 0 with --relu guided: the rule has no other "
            "meaning (--negative-slope 0 takes plain ReLUs)",
        ),
        ("--relu guided", "Error: options need the name of an experiment (allconv render --list names them)"),
        ("--check --relu guided", "Error: --check compares what is committed; it takes no other option"),
    ],
)
def test_a_mistake_gets_one_line(words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown rule, a leaky ReLU, no experiment: one line, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["render", *words.split()])
    assert result.exit_code != 0 and result.output.strip().splitlines()[-1] == message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("relu", ["deconv", "guided"])
def test_the_rendered_net_gives_its_rule_in_the_drop_in(relu: str, tmp_path: Path) -> None:
    """`net.backward` of pycaffe on the rendered net equals the native rule on the net as trained."""
    from allconv_caffe import pycaffe as caffe

    options = rendering.RenderOptions(num_output=4)
    (path,) = rendering.write("cifar10-model-a", tmp_path, options, relu=relu)
    caffe.set_random_seed(1)  # sums in two orders: with other weights a ReLU may pass an input near zero in one alone
    net = caffe.Net(str(path), caffe.TEST)
    native = open_net(parse_text(rendering.render("cifar10-model-a", options)["deploy.prototxt"], NetParameter))
    native.set_params({name: [np.array(blob.data) for blob in blobs] for name, blobs in net.params.items()})
    image = np.random.default_rng(0).standard_normal(native.input_shape).astype(np.float32)[None]
    (unit,), _ = argmax_units(native, image, "global_pool")
    expected = reconstruct(native, image, [unit], KINDS[relu]).maps
    net.blobs["data"].data[...] = image
    net.forward(end="global_pool")
    net.blobs["global_pool"].diff[...] = 0
    net.blobs["global_pool"].diff[0, unit.channel] = 1
    found = net.backward(start="global_pool")["data"]
    assert expected.any()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
