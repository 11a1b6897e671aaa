"""`allconv viz mine | merge | patches | sanity | gallery` from the command line: what they write, and one line for each mistake."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from unittest import mock

import cv2
import lmdb
import numpy as np
import pytest
from click.testing import CliRunner, Result

from allconv_caffe.cli import main as cli
from allconv_caffe.proto import Datum
from allconv_caffe.visualize.mining import TopK
from allconv_caffe.visualize.sanity_report import Sanity

MODEL = "--model cifar10-allcnn-c-jpeg --data data/cifar10-jpeg"
NET = "models/cifar10-allcnn-c-jpeg/deploy.prototxt"
WEIGHTS = "models/cifar10-allcnn-c-jpeg/small.caffemodel"
PATCHES = f"viz patches {MODEL} --topk build/topk.npz --output out.png"


def invoke(line: str) -> Result:
    words = shlex.split(line)
    with mock.patch("sys.argv", ["allconv", *words]):  # what records take the command from
        return CliRunner().invoke(cli.main, words, prog_name="allconv")


def succeed(line: str) -> str:
    result = invoke(line)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def world(viz_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small world, and what mistakes are made with."""
    shutil.copytree(viz_world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / NET).read_text()
    (tmp_path / "softplus.prototxt").write_text(text.replace('type: "ReLU"', 'type: "BNLL"'))
    (tmp_path / "wider.prototxt").write_text(text.replace("num_output: 8", "num_output: 9", 1))
    (tmp_path / "broken.prototxt").write_text("layer {\n  nonsense\n}\n")
    (tmp_path / "text.txt").write_text("no numbers\n")
    for name in ("empty", "junk", "grey"):
        (tmp_path / name).mkdir()
    (tmp_path / "junk" / "a.png").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path / "grey" / "a.png"), np.full((40, 50, 3), 90, np.uint8))
    for name, size in (("lmdb16", 16), ("lmdb_bad", 0)):
        with lmdb.open(str(tmp_path / name), map_size=1 << 20) as env, env.begin(write=True) as transaction:
            datum = Datum(channels=3, height=size, width=size)
            datum.float_data.extend([0.5] * (3 * size * size))
            transaction.put(b"first", datum.SerializeToString() if size else b"\xff\xff no datum")
    return tmp_path


MISTAKES = {
    "unknown blob": (
        f"viz mine {MODEL} --blobs conv99 --output out.npz",
        r"--blobs: found 'conv99', expected a blob of the net (choices: data, conv1, conv2, conv3, conv4, conv5, conv6, conv7, "
        "conv8, conv9, global_pool, prob)",
    ),
    "blob not mined": (
        PATCHES + " --blobs conv1",
        "mined blobs: found 'conv1', expected a blob that was mined (choices: conv3, conv6, conv9)",
    ),
    "channel out of range": (PATCHES + " --blobs conv6 --channels 8", "blob 'conv6': found channel 8, expected 0 to 7"),
    "channels in a gallery": (
        f"viz gallery {MODEL} --topk build/topk.npz --channels 9 --output out",
        "blob 'conv3': found channel 9, expected 0 to 5",
    ),
    "channels as words": (
        PATCHES + " --blobs conv6 --channels 3-1",
        "--channels: found '3-1', expected numbers and ranges, as 0,5,8-11",
    ),
    "unit after softmax": (
        f"viz mine {MODEL} --blobs prob --output out.npz",
        "blob 'prob': found a unit after the softmax of layer 'prob', expected a score before it, as 'global_pool'",
    ),
    "sanity after softmax": (
        f"viz sanity {MODEL} --blob prob --output out",
        "blob 'prob': found a unit after the softmax of layer 'prob', expected a score before it, as 'global_pool'",
    ),
    "net without ReLU": (
        f"viz sanity {MODEL} --net softplus.prototxt --blob conv6 --images 2 --output out",
        "softplus.prototxt: layer 'relu6': found type BNLL below 'conv6', expected ReLU: the deconvnet rule has no meaning for other "
        "non-linear layers, backprop has",
    ),
    "weights of other shape": (
        f"viz mine {MODEL} --net wider.prototxt --output out.npz",
        f"{WEIGHTS}: layer 'conv4': found blobs 8x6x3x3, 8, expected 9x6x3x3, 9",
    ),
    "weights that are none": (
        f"viz mine {MODEL} --weights text.txt --output out.npz",
        None,
    ),
    "mined with other weights": (PATCHES + " --net other.prototxt", None),
    "net unreadable": (f"viz mine {MODEL} --net broken.prototxt --output out.npz", None),
    "no net": (
        "viz mine --data data/cifar10-jpeg --output out.npz",
        "--net: found nothing, expected a deploy prototxt, or --model NAME for one of models/",
    ),
    "no weights": (
        f"viz mine --net {NET} --data data/cifar10-jpeg --output out.npz",
        "--weights: found nothing, expected a .caffemodel, or --model NAME for one of models/",
    ),
    "net missing": (
        f"viz mine {MODEL} --net none.prototxt --output out.npz",
        "none.prototxt: found no such file, expected a deploy prototxt",
    ),
    "weights missing": (
        f"viz mine {MODEL} --weights none.caffemodel --output out.npz",
        "none.caffemodel: found no such file, expected a .caffemodel",
    ),
    "weights that are a folder": (
        f"viz mine {MODEL} --weights empty --output out.npz",
        "empty: found a folder, expected a .caffemodel",
    ),
    "model missing": (
        "viz mine --model nope --data data/cifar10-jpeg --output out.npz",
        "model nope: found no card.json in models/nope, expected one of: cifar10-allcnn-c-jpeg",
    ),
    "data missing": (
        f"viz mine {MODEL} --data none --output out.npz",
        "none: found nothing, expected an LMDB environment, a folder of images, or an image",
    ),
    "no data": (
        "viz sanity --model cifar10-allcnn-c-jpeg --output out",
        "--data: found nothing, expected a prepared data set, an LMDB, a folder of images or an image",
    ),
    "split": (
        f"viz mine {MODEL} --split val --output out.npz",
        "--split: found 'val', expected a part of a prepared data set (choices: test, train)",
    ),
    "folder without images": (
        f"viz mine {MODEL} --data empty --output out.npz",
        "empty: found no image files, expected files ending in .jpg, .jpeg, .png, .bmp, .ppm, .webp, or an LMDB environment",
    ),
    "image unreadable": (
        f"viz mine {MODEL} --data junk --output out.npz",
        "junk: a.png: found 10 bytes that are no image, expected a JPEG or PNG file",
    ),
    "image of wrong size": (
        f"viz mine {MODEL} --data lmdb16 --output out.npz",
        "lmdb16: first: found an image of 3x16x16, expected 3x32x32 or larger",
    ),
    "record that is none": (f"viz mine {MODEL} --data lmdb_bad --output out.npz", None),
    "topk missing": (
        f"viz patches {MODEL} --topk none.npz --output out.png",
        "none.npz: found no such file, expected what `mine` wrote",
    ),
    "topk unreadable": (f"viz gallery {MODEL} --topk text.txt --output out", None),
    "whitening missing": (
        f"viz mine {MODEL} --whitening none.npz --output out.npz",
        "none.npz: found no such file, expected the whitening.npz of a prepared data set",
    ),
    "mean missing": (
        f"viz mine {MODEL} --mean none.binaryproto --output out.npz",
        "none.binaryproto: found File not found, expected a mean.binaryproto",
    ),
    "mean of two channels": (
        f"viz mine {MODEL} --data grey --mean 104,117 --output out.npz",
        "--mean: found 2 channels, expected 3, as the net's input, or 1",
    ),
    "mean and whitening": (
        f"viz mine {MODEL} --mean 1,2,3 --whitening {Path(NET).parent}/whitening.npz --output out.npz",
        "--mean: found also --whitening, expected one of them: whitened nets get no mean",
    ),
    "order": (f"viz mine {MODEL} --order GBR --output out.npz", "--order: found 'GBR', expected RGB or BGR"),
    "engine": (
        f"viz mine {MODEL} --engine theano --output out.npz",
        "--engine: found 'theano', expected an engine (choices: torch, caffe)",
    ),
    "device": (
        f"viz mine {MODEL} --device abacus --output out.npz",
        "--device: found 'abacus', expected cpu, cuda or cuda:N",
    ),
    "shard": (
        f"viz mine {MODEL} --shard 5/4 --output out.npz",
        "--shard: found '5/4', expected I/N with 1 <= I <= N, as 1/4",
    ),
    "scale": (f"viz mine {MODEL} --scale nan --output out.npz", "--scale: found nan, expected a number"),
    "images of sanity": (
        f"viz sanity {MODEL} --images 1 --output out",
        "--images: found 1, expected 2 or more: maps are compared between images",
    ),
    "k": (f"viz mine {MODEL} --k 0 --output out.npz", "--k: found 0, expected 1 or more"),
    "limit": (f"viz mine {MODEL} --limit 0 --output out.npz", "--limit: found 0, expected 1 or more"),
    "another scan": (
        f"viz mine {MODEL} --blobs conv3 --k 4 --output build/topk.npz",
        "build/topk.npz: found a scan with blobs ['conv3', 'conv6', 'conv9'], expected blobs ['conv3']; remove it, "
        "or name another",
    ),
    "parts twice": (
        "viz merge build/part-1.npz build/part-1.npz --output out.npz",
        "merge: found images 0 to 5 twice, expected parts that do not overlap",
    ),
    "rule": (
        PATCHES + " --rules lrp",
        "--rules: found 'lrp', expected a ReLU rule (choices: backprop, deconvnet, guided, plain, gradient, deconv)",
    ),
    "space": (f"viz sanity {MODEL} --space hyper --output out", "--space: found 'hyper', expected input or pixel"),
    "space of patches": (PATCHES + " --space hyper", "--space: found 'hyper', expected input or pixel"),
    "normalisation": (PATCHES + " --normalisation loud", None),
    "picture's name": (PATCHES.replace("out.png", "out.gif"), "out.gif: found a name ending in '.gif', expected .png"),
    "patches of no place": (PATCHES + " --k 0", "--k: found 0, expected 1 or more"),
    "too few images": (
        f"viz sanity {MODEL} --images 1 --output out",
        "--images: found 1, expected 2 or more: maps are compared between images",
    ),
    "draws": (f"viz sanity {MODEL} --draws 0 --output out", "--draws: found 0, expected 1 or more"),
    "output below a file": (
        f"viz gallery {MODEL} --topk build/topk.npz --output text.txt/gallery",
        "text.txt/gallery: found Not a directory, expected a folder that can be written",
    ),
    "output of mine below a file": (f"viz mine {MODEL} --output text.txt/out.npz", "text.txt: File exists"),
}
"""What is typed, and the one line that answers; None: any one line of the usual form."""


def test_a_batch_of_no_image_is_refused(world: Path) -> None:
    """By the option itself, before anything is opened."""
    result = invoke(f"viz mine {MODEL} --batch-size 0 --output out.npz")
    assert result.exit_code == 2 and "Invalid value for '--batch-size': 0 is not in the range x>=1." in result.output
    assert not list(world.glob("out.*"))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_line(world: Path, mistake: str) -> None:
    """Status 1, one line on what was found and what was expected, no picture half written."""
    line, message = MISTAKES[mistake]
    (world / "other.prototxt").write_text((world / NET).read_text().replace("pad: 1", "pad: 2", 1))
    result = invoke(line if "merge" in line else line + " --quiet")
    assert result.exit_code == 1, result.output
    assert result.output.count("\n") == 1 and result.output.startswith("Error: "), result.output
    if message is None:
        assert re.fullmatch(r"Error: (.+): found (?!\1).+, expected .+\n", result.output), result.output
    else:
        assert result.output == f"Error: {message}\n"
    assert not list(world.glob("out.*"))


def test_a_scan_that_fails_in_the_middle_leaves_nothing(world: Path) -> None:
    """In a pipe, where no bar is shown, the mistake stands alone, and nothing is left of the file."""
    shutil.copy(world / "junk" / "a.png", world / "grey" / "b.png")
    result = invoke(f"viz mine {MODEL} --data grey --batch-size 1 --output out.npz")
    assert result.exit_code == 1
    assert result.output == "Error: grey: b.png: found 10 bytes that are no image, expected a JPEG or PNG file\n"
    assert not (world / "out.npz").exists()


def test_parts_of_a_scan_merge_to_the_whole(world: Path) -> None:
    """Three shards on the command line, merged in another order, are what one scan finds; merge says what is missing."""
    words = f"viz mine {MODEL} --blobs conv3,global_pool --k 3"
    said = succeed(f"{words} --output whole.npz")
    lines = said.splitlines()
    assert lines[0].startswith("conv3: 6 channels, 1 dead, strongest ") and lines[-1] == "whole.npz: 12 of 12 images"
    for i in (1, 2, 3):
        succeed(f"{words} --shard {i}/3 --output deep/part-{i}.npz")
    assert "12 of 12 images" in succeed("viz merge deep/part-3.npz deep/part-1.npz deep/part-2.npz --output merged.npz")
    assert "8 of 12 images" in succeed("viz merge deep/part-3.npz deep/part-1.npz --output some.npz")
    one, other = TopK.load("whole.npz"), TopK.load("merged.npz")
    for blob in ("conv3", "global_pool"):
        for name in ("values", "keys", "y", "x", "histogram"):
            assert np.array_equal(getattr(one.blobs[blob], name), getattr(other.blobs[blob], name))
    assert not TopK.load("some.npz").complete and other.complete


def test_a_finished_scan_is_not_begun_again(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command with its file there runs no image through the net and says the same."""
    words = f"viz mine {MODEL} --blobs conv6 --output out.npz --quiet"
    first = succeed(words)
    monkeypatch.setattr("allconv_caffe.visualize.nets.base.VizNet.forward", None)
    assert succeed(words) == first


def test_without_blobs_those_with_a_relu_are_mined(world: Path) -> None:
    """All nine convolutions of All-CNN-C, neither data nor scores; only the first images where a limit is set."""
    said = succeed(f"viz mine {MODEL} --limit 5 --output out.npz")
    assert [line.split(":")[0] for line in said.splitlines()] == [*(f"conv{i}" for i in range(1, 10)), "out.npz"]
    assert TopK.load("out.npz").n_images == 5


def test_data_may_be_a_set_an_lmdb_or_image_files(world: Path) -> None:
    """A prepared set is its test LMDB, --split train the other; the whitening of set or model; image files are whitened."""
    mine = "viz mine --model cifar10-allcnn-c-jpeg --blobs conv3 --quiet"
    succeed(f"{mine} --data data/cifar10-jpeg --output set.npz")
    succeed(f"{mine} --data data/cifar10-jpeg/test_lmdb --output lmdb.npz")
    by_name = f"viz mine --net {NET} --weights {WEIGHTS} --blobs conv3 --quiet"
    succeed(f"{by_name} --data data/cifar10-jpeg --output named.npz")
    succeed(f"{mine} --data data/cifar10-jpeg --split train --output train.npz")
    values = {name: TopK.load(f"{name}.npz").blobs["conv3"].values for name in ("set", "lmdb", "named", "train")}
    assert np.array_equal(values["set"], values["lmdb"]) and np.array_equal(values["set"], values["named"])
    assert not np.array_equal(values["set"], values["train"])

    # the first training record's picture, as a file: GCN of its pixels is the record itself
    from allconv_caffe.proto import datum
    from data_prep import database
    from data_prep.whitening import Whitening

    whitening = Whitening.load("data/cifar10-jpeg/whitening.npz")
    _, value = next(iter(database.records(Path("data/cifar10-jpeg/test_lmdb"))))
    record, _ = datum.decode(value)
    pixels = np.clip(whitening.unwhiten(record[None])[0], 0, 255).astype(np.uint8)
    (world / "one").mkdir()
    cv2.imwrite("one/a.png", pixels[::-1].transpose(1, 2, 0))
    succeed(f"{mine} --data one/a.png --output file.npz")
    with lmdb.open("one_lmdb", map_size=1 << 20) as env, env.begin(write=True) as transaction:
        whitened = Datum(channels=3, height=32, width=32)
        whitened.float_data.extend(whitening.whiten(pixels[None])[0].ravel().tolist())
        transaction.put(b"a", whitened.SerializeToString())
    succeed(f"{mine} --data one_lmdb --output record.npz")
    one, other = (TopK.load(f"{name}.npz").blobs["conv3"].values[:, 0] for name in ("file", "record"))
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_a_set_whitened_otherwise_is_taken_to_the_models_whitening(world: Path) -> None:
    """The same images under GCN with another norm excite as before; of other classes they are refused in one line."""
    from allconv_caffe.proto import datum
    from data_prep import database

    mine = f"viz mine {MODEL} --blobs conv3 --quiet"
    succeed(f"{mine} --output before.npz")
    scale, path = 11.0, Path("data/cifar10-jpeg")
    records = [(key, *datum.decode(value)) for key, value in database.records(path / "test_lmdb")]
    shutil.rmtree(path / "test_lmdb")
    with lmdb.open(str(path / "test_lmdb"), map_size=1 << 26) as env, env.begin(write=True) as transaction:
        for key, image, label in records:
            other = Datum(channels=3, height=image.shape[1], width=image.shape[2], label=label)
            other.float_data.extend((image * scale / 55.0).ravel().tolist())
            transaction.put(key, other.SerializeToString())
    with np.load(path / "whitening.npz") as file:
        arrays = {name: file[name] for name in file.files}
    assert str(arrays["method"]) == "gcn"
    np.savez(path / "whitening.npz", **arrays | {"gcn_scale": np.array(scale)})
    succeed(f"{mine} --output after.npz")
    before, after = (TopK.load(f"{name}.npz").blobs["conv3"].values for name in ("before", "after"))
    np.testing.assert_allclose(after, before, rtol=1e-4)

    np.savez(path / "whitening.npz", **arrays | {"class_names": arrays["class_names"][::-1]})
    out = invoke(f"{mine} --output other.npz").output
    assert out.startswith("Error: data/cifar10-jpeg/whitening.npz: found the classes ") and out.count("\n") == 1
    assert "expected those of models/cifar10-allcnn-c-jpeg/whitening.npz: " in out


def test_patches_are_drawn_with_their_record(world: Path) -> None:
    """A picture, its JSON with command, units, keys and hashes, and raw maps, one for each patch; a dead row stays free."""
    line = f"{PATCHES} --blobs conv3,conv6 --channels 2,3 --k 2 --rules guided,deconvnet --quiet"
    assert succeed(line).split() == ["out.png", "out.json", "out.npz"]
    facts = json.loads(Path("out.json").read_text())
    found = TopK.load("build/topk.npz")
    expected = [
        (str(unit), key)
        for blob in ("conv3", "conv6")
        for channel in (2, 3)
        for key, unit, _ in found.units(blob, channel, 2)
    ]
    drawn = [(tile["unit"], tile["image"]) for tile in facts["tiles"] if tile["rule"] == "guided"]
    assert drawn == expected and facts["dead"]["conv3"] == [3]
    assert not any(unit.startswith("conv3:3:") for unit, _ in drawn)
    assert facts["weights_sha256"] == found.weights_sha256 and facts["command"] == f"allconv {line}"
    with np.load("out.npz") as arrays:
        for blob in ("conv3", "conv6"):
            count = sum(unit.startswith(blob) for unit, _ in expected)
            assert arrays[f"{blob}.guided"].shape[0] == arrays[f"{blob}.deconvnet"].shape[0] == count
            assert arrays[f"{blob}.guided"].any()
    assert cv2.imread("out.png").std() > 10
    assert succeed(line.replace("out.png", "again.png") + " --no-arrays").split() == ["again.png", "again.json"]
    assert Path("again.png").read_bytes() == Path("out.png").read_bytes()


def test_sanity_writes_what_it_says(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables on the terminal are those of sanity.md; the JSON names images and command; the seed decides."""
    line = f"viz sanity {MODEL} --images 4 --draws 1 --quiet --output "
    said = succeed(line + "one")
    facts = json.loads(Path("one/sanity.json").read_text())
    assert facts["blob"] == "global_pool" and facts["images"] == 4 and len(facts["keys"]) == 4
    assert facts["layers"] == [f"conv{i}" for i in range(9, 0, -1)]
    assert all(sentence in said and sentence in Path("one/sanity.md").read_text() for sentence in facts["verdict"])
    assert cv2.imread("one/sanity.png").std() > 10
    assert Path("one/sanity.npz").exists()
    monkeypatch.setattr(Sanity, "_picture", lambda *_: b"drawn once")  # of a hundred maps
    succeed(line + "two --no-arrays")
    assert not Path("two/sanity.npz").exists()
    succeed(line + "three --seed 5")
    names = [json.loads(Path(name, "sanity.json").read_text())["keys"] for name in ("one", "two", "three")]
    assert names[0] == names[1] != names[2]
    assert Path("one/sanity.md").read_text() == Path("two/sanity.md").read_text() != Path("three/sanity.md").read_text()
