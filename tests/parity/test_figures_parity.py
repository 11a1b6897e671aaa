"""The figures through a real Caffe: the same pictures' numbers as from our engine, by the same commands."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import figure_nets
import numpy as np
import pytest
from click.testing import CliRunner

from allconv_caffe.bvlc import find as bvlc
from allconv_caffe.cli import main as cli
from allconv_caffe.visualize import schematic
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.nets.rules import RULES

pytestmark = pytest.mark.caffe

ROOT = Path(__file__).resolve().parents[2]

TOLERANCE = 1e-4  # of a map's largest value: float32 sums in another order


def both(words: str) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """`allconv viz` by either engine: the JSON of real Caffe's, the arrays of both. Units and activations must agree."""
    facts, arrays = [], []
    for engine in ("torch", "caffe"):
        result = CliRunner().invoke(
            cli.main, ["viz", *words.split(), "--engine", engine, "--quiet", "--output", f"{engine}.png"]
        )
        assert result.exit_code == 0, result.output
        facts.append(json.loads(Path(f"{engine}.json").read_text()))
        with np.load(f"{engine}.npz") as file:
            arrays.append({name: file[name] for name in file.files})
    assert [found["engine"] for found in facts] == ["torch", "caffe"]
    assert [tile["unit"] for tile in facts[0]["tiles"]] == [tile["unit"] for tile in facts[1]["tiles"]]
    for ours, theirs in zip(facts[0]["tiles"], facts[1]["tiles"], strict=True):
        if ours["activation"] is not None:
            assert theirs["activation"] == pytest.approx(ours["activation"], rel=TOLERANCE)
    return facts[1], arrays[0], arrays[1]


def agree(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert list(ours) == list(theirs)
    for name, expected in ours.items():
        scale = max(float(np.abs(expected).max()), 1e-30)
        np.testing.assert_allclose(theirs[name] / scale, expected / scale, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_a_figure_is_the_same_from_real_caffe(
    number: int, viz_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures 1, 2, 3 and 5 (surgery included) by --engine caffe and --engine torch."""
    shutil.copytree(viz_world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    more = {3: "--k 4 --sample 3 --topk build/topk.npz", 5: "--count 2"}.get(number, "")
    facts, ours, theirs = both(f"figure {number} {more}")
    agree(ours, theirs)
    if number == 1:
        assert theirs["guided"].tolist() == [[0, 0, 0], [6, 0, 0], [0, 0, 3]]
    if number == 5:
        without, pooled = facts["variants"]
        assert without["one_unit_on_all_images"]["deconvnet"]["largest_difference"] == 0
        assert pooled["one_unit_on_all_images"]["deconvnet"]["largest_difference"] > 0.01


def test_figure_six_of_caffenet_is_the_same_from_real_caffe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CaffeNet (an eighth of its width) at 227x227: groups, normalisation, overlapping pools, fully connected layers."""
    monkeypatch.chdir(tmp_path)
    figure_nets.write_caffenet()
    facts, ours, theirs = both(
        "figure 6 --net caffenet.prototxt --weights w.caffemodel --mean 104,117,123 --data val --count 2"
    )
    assert facts["variants"][0]["switches"] == ["pool1", "pool2", "pool5"]
    agree(ours, theirs)


def test_surgery_passes_its_null_test_in_real_caffe(
    viz_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`surgery --engine caffe`: the net with what the stride took is the net before."""
    shutil.copytree(viz_world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    words = "viz surgery --model cifar10-allcnn-c-jpeg --engine caffe --output pooled.prototxt"
    result = CliRunner().invoke(cli.main, words.split())
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[0].startswith("null test on 4 images of noise: global_pool differs by ")


INSIDE = """
import importlib, pathlib, sys
import numpy as np
import caffe
for path in sorted(pathlib.Path(sys.argv[1], "allconv_caffe", "visualize", "nets").glob("*.py")):
    if path.stem not in ("__init__", "native", "phases"):
        importlib.import_module("allconv_caffe.visualize.nets." + path.stem)
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.nets.rules import RULES
net = open_net("corners.prototxt", "corners.caffemodel", engine="caffe")
assert type(net).__name__ == "PycaffeNet"
data = net.forward(np.load("image.npy"), ("conv2",))["conv2"]
np.savez("maps.npz", data=data, **{rule: net.backward("conv2", (data > 0.999 * data.max()).astype("f"), rule) for rule in RULES})
"""


def test_a_net_runs_inside_the_interpreter_of_pycaffe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of visualize/nets but torch's loads beside a real pycaffe (Python 3.9, numpy 1.19), and gives our engine's maps."""
    monkeypatch.chdir(tmp_path)
    caffe = bvlc.find_caffe(ROOT)
    assert caffe is not None and caffe.python is not None
    Path("corners.prototxt").write_text(schematic.CORNERS_NET)
    net = open_net("corners.prototxt")
    image = schematic.corners(net)
    figure_nets.write_weights(net, Path("corners.caffemodel"))
    np.save("image.npy", image)
    data = net.forward(image, ("conv2",))["conv2"]
    # the four units of the corners tie, to rounding
    ours = {
        "data": data,
        **{rule: net.backward("conv2", (data > 0.999 * data.max()).astype("f"), rule) for rule in RULES},
    }
    environment = {**caffe.environment(), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(caffe.python), "-c", INSIDE, str(ROOT)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(values.any() for values in ours.values())
    with np.load("maps.npz") as file:
        agree(ours, {name: file[name] for name in file.files})
