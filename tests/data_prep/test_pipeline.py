"""The whole preparation: what lies there afterwards, and what lies there after a failure."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest

from allconv_caffe.proto import BlobProto, Datum, read_binary
from data_prep import database, pipeline, verify, whitening
from data_prep.errors import PrepError
from data_prep.manifest import Manifest
from data_prep.whitening import Whitening

ROOT = Path(__file__).resolve().parents[2]


def prepare(source: Path, out: Path, **keywords: Any) -> Manifest:
    return pipeline.prepare(source, out, **{"dataset": "images", "progress": False} | keywords)


def parsed(path: Path) -> list[tuple[bytes, Any]]:
    """Every record, read by lmdb and parsed by protobuf."""
    result = []
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as transaction:
        for key, value in transaction.cursor():
            message = Datum()
            message.ParseFromString(value)
            result.append((bytes(key), message))
    return result


@pytest.fixture
def tree(helpers: Any, tmp_path: Path) -> Path:
    helpers.make_tree(tmp_path / "tree", train=12, test=3)
    return tmp_path / "tree"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, dict[str, Any]]:
    """A tree of 320 images of 16x16 (a 768x768 covariance), whitened with the paper's constants."""
    from numpy.random import default_rng

    rng = default_rng(0)
    folder = tmp_path_factory.mktemp("full")
    small = rng.integers(30, 220, (320, 3, 4, 4))
    images = (np.repeat(np.repeat(small, 4, 2), 4, 3) + rng.integers(-20, 20, (320, 3, 16, 16))).astype(np.uint8)
    arrays: dict[str, Any] = {"train_x": images[:280], "train_y": np.repeat(np.arange(4), 70)}
    arrays |= {"test_x": images[280:], "test_y": np.repeat(np.arange(4), 10)}
    for split in ("train", "test"):
        for i, (image, label) in enumerate(zip(arrays[f"{split}_x"], arrays[f"{split}_y"], strict=True)):
            place = folder / "letters" / split / "abcd"[label]
            place.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(place / f"{i:04d}.png"), image.transpose(1, 2, 0)[:, :, ::-1])
    return folder / "out", prepare(folder / "letters", folder / "out", seed=3), arrays


def test_records_are_the_whitened_images_in_shuffled_order(full: tuple[Path, Manifest, dict[str, Any]]) -> None:
    """Each record's key leads back to its image; its floats are that image whitened, its label that image's."""
    out, _, arrays = full
    transform = Whitening.load(out / "whitening.npz")
    for number, (split, count) in enumerate((("train", 280), ("test", 40))):
        records = parsed(out / f"{split}_lmdb")
        order = [int(key[9:]) for key, _ in records]
        assert order == database.shuffled(count, 3, number).tolist() and order != sorted(order)
        assert [key[:8] for key, _ in records] == [b"%08d" % i for i in range(count)]
        assert [message.label for _, message in records] == arrays[f"{split}_y"][order].tolist()
        found = np.array([message.float_data for _, message in records], np.float32)
        expected = transform.whiten(arrays[f"{split}_x"][order]).reshape(count, -1)
        np.testing.assert_allclose(found, expected, atol=2e-6)
        assert {(m.channels, m.height, m.width, m.data, m.encoded) for _, m in records} == {(3, 16, 16, b"", False)}


def test_the_transform_is_the_papers(full: tuple[Path, Manifest, dict[str, Any]]) -> None:
    """Scale 55, bias 0.1, fitted on the training images alone: the formulas give the same values in float64."""
    out, _, arrays = full
    x = arrays["train_x"].reshape(280, -1).astype(np.float64)
    x -= x.mean(axis=1, keepdims=True)
    x *= 55 / np.linalg.norm(x, axis=1, keepdims=True)
    transform = Whitening.load(out / "whitening.npz")
    np.testing.assert_allclose(transform.mean, x.mean(axis=0), atol=1e-5)
    centred = x - x.mean(axis=0)
    # out = (x - m) C^-1/2 with C = centred' centred / N + 0.1 I, through the 280x280 Gram matrix instead of 768x768
    values, vectors = np.linalg.eigh(centred @ centred.T / 280)
    expected = (vectors * (1 / np.sqrt(np.maximum(values, 0) + 0.1))) @ vectors.T @ centred
    np.testing.assert_allclose(transform.whiten(arrays["train_x"]).reshape(280, -1), expected, atol=2e-3)


def test_the_manifest_says_what_was_made(full: tuple[Path, Manifest, dict[str, Any]]) -> None:
    """Names, counts, constants, checksums and versions are on record, and the file gives back the same object."""
    out, manifest, _ = full
    assert Manifest.load(out) == manifest
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "test_lmdb", "train_lmdb", "whitening.npz"]
    assert (manifest.display_name, manifest.dataset, manifest.classes) == ("letters (PNG)", "images", 4)
    assert (manifest.n_train, manifest.n_test, manifest.shape) == (280, 40, (3, 16, 16))
    assert (manifest.gcn_scale, manifest.zca_bias, manifest.seed, manifest.pad) == (55.0, 0.1, 3, 0)
    assert manifest.class_counts == {"train": [70] * 4, "test": [10] * 4}
    assert manifest.source["official"] is False and len(manifest.source["md5"]) == 32
    assert {"python", "numpy", "blas", "opencv", "py-lmdb", "lmdb", "machine"} == set(manifest.versions)
    assert manifest.statistics["eigenvalue_min"] == pytest.approx(0.1, abs=1e-4)
    text = json.loads((out / "manifest.json").read_text())
    assert text["class_names"] == list("abcd") and text["lmdb"]["train"]["records"] == 280


def test_verify_agrees_and_draws(full: tuple[Path, Manifest, dict[str, Any]], tmp_path: Path) -> None:
    """A finished set verifies, with counts and statistics of its own, and a picture of its samples."""
    out, manifest, arrays = full
    report = verify.verify(out, tmp_path / "grid.png")
    assert report.ok and report.counts == {"train": 280, "test": 40} and report.class_counts == manifest.class_counts
    assert report.statistics["train_std"] == pytest.approx(manifest.statistics["train_std"], rel=1e-5)
    lines = str(report).splitlines()
    assert lines[0] == f"{out}: letters (PNG), 4 classes, 3x16x16 (GCN 55, ZCA 0.1), seed 3"
    assert lines[3] == "    0 a  train 70, test 10" and lines[-1] == "all checksums as in the manifest"
    picture = cv2.imread(str(tmp_path / "grid.png"))
    assert picture.shape == (2 * (4 * 18 + 2), 2 * (2 * 180 + 6), 3)
    order = [i for i in database.shuffled(280, 3, 0) if arrays["train_y"][i] == 0]
    tile = picture[4 : 4 + 32 : 2, 4 : 4 + 32 : 2, ::-1].transpose(2, 0, 1).astype(float)
    original = arrays["train_x"][order[0]].astype(float)
    assert np.corrcoef(tile.ravel(), original.ravel())[0, 1] > 0.99  # un-whitened: the image again


@pytest.mark.parametrize("preprocessing", whitening.METHODS)
@pytest.mark.parametrize("pad", [0, 5])
def test_padding_is_a_border_of_zeros_after_preprocessing(preprocessing: str, pad: int, tree: Path) -> None:
    """With pad 5, an image of 8x8 becomes a Datum of 18x18 whose centre is the unpadded one and whose rest is zero."""
    out = tree.parent / "out"
    manifest = prepare(tree, out, preprocessing=preprocessing, pad=pad)
    side = 8 + 2 * pad
    assert manifest.shape == (3, side, side) and manifest.image_shape == (3, 8, 8)
    plain = prepare(tree, tree.parent / "plain", preprocessing=preprocessing)
    for (_, padded), (_, inner) in zip(
        parsed(out / "train_lmdb"), parsed(tree.parent / "plain" / "train_lmdb"), strict=True
    ):
        values = [
            np.frombuffer(m.data, np.uint8) if preprocessing == "raw" else np.array(m.float_data)
            for m in (padded, inner)
        ]
        image = values[0].reshape(3, side, side)
        expected = np.pad(values[1].reshape(3, 8, 8), ((0, 0), (pad, pad), (pad, pad)))
        np.testing.assert_allclose(image, expected, atol=1e-6)
    assert plain.pixels_sha256 == manifest.pixels_sha256
    assert verify.verify(out, tree.parent / "grid.png").ok


def test_raw_has_bytes_and_a_mean_file_of_the_datums_size(tree: Path, helpers: Any) -> None:
    """Raw records hold the pixels; mean.binaryproto holds the training mean as Caffe's compute_image_mean would."""
    out = tree.parent / "out"
    prepare(tree, out, preprocessing="raw", pad=1)
    records = parsed(out / "train_lmdb")
    pixels = np.array([np.frombuffer(m.data, np.uint8) for _, m in records]).reshape(-1, 3, 10, 10)
    assert not records[0][1].float_data
    blob = read_binary(out / "mean.binaryproto", BlobProto)
    assert (blob.num, blob.channels, blob.height, blob.width) == (1, 3, 10, 10)
    np.testing.assert_allclose(np.array(blob.data), pixels.mean(axis=0).ravel(), rtol=1e-6)
    assert "mean.binaryproto" in Manifest.load(out).files


def test_a_seed_gives_the_same_set_again_and_another_seed_another_order(tree: Path) -> None:
    """Checksums of both databases repeat with the seed; another seed changes the order, not the images."""
    made = {n: prepare(tree, tree.parent / n, preprocessing="gcn", seed=s) for n, s in (("a", 1), ("b", 1), ("c", 2))}
    assert made["a"] == made["b"] and made["a"].lmdb != made["c"].lmdb
    assert made["a"].pixels_sha256 == made["c"].pixels_sha256


@pytest.mark.parametrize("stage", ["read", "fit", "write", "finish", "manifest", "rename"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), PrepError("x", "y", "z")]
)
def test_a_failure_at_any_point_leaves_nothing_and_a_second_run_finishes(
    stage: str, error: BaseException, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails and whenever, there is neither a data set nor a left-over; the next run is not disturbed."""
    place = {
        "read": (pipeline.source, "read"),
        "fit": (pipeline.whitening_, "fit"),
        "write": (database.Writer, "_put"),
        "finish": (Whitening, "save"),
        "manifest": (Manifest, "save"),
        "rename": (os, "rename"),
    }[stage]

    def fail(*_: Any, **__: Any) -> None:
        raise error

    out = tree.parent / "out"
    with monkeypatch.context() as patch:
        patch.setattr(*place, fail)
        with pytest.raises(BaseException) as caught:
            prepare(tree, out, preprocessing="gcn")
    assert isinstance(caught.value, (type(error), PrepError))
    if isinstance(error, OSError) and stage in ("write", "rename"):
        assert "found a full disk; expected room for the data set" in str(caught.value)
    assert sorted(p.name for p in tree.parent.iterdir()) == ["tree"]
    prepare(tree, out, preprocessing="gcn")
    assert verify.verify(out).ok and sorted(p.name for p in tree.parent.iterdir()) == ["out", "tree"]


def test_a_killed_run_leaves_nothing_under_the_final_name_and_the_next_one_finishes(tree: Path) -> None:
    """Even SIGKILL in the middle of writing leaves no data set; the next run clears the left-over."""
    out = tree.parent / "out"
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from data_prep import database, pipeline\n"
        "put = database.Writer._put\n"
        "def slow(self, *a):\n"
        "    put(self, *a); print('writing', flush=True); time.sleep(60)\n"
        "database.Writer._put = slow\n"
        "pipeline.prepare(sys.argv[2], sys.argv[3], dataset='images', preprocessing='gcn', progress=False)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(ROOT), str(tree), str(out)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"writing\n"
        with pytest.raises(PrepError, match="found another preparation at work; expected one at a time"):
            prepare(tree, out, preprocessing="gcn")
        assert child.poll() is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    assert not out.exists() and (tree.parent / ".out.partial" / "train_lmdb").exists()
    prepare(tree, out, preprocessing="gcn")
    assert verify.verify(out).ok and not (tree.parent / ".out.partial").exists()


def test_a_finished_set_is_replaced_only_by_force(tree: Path) -> None:
    """A second preparation under the same name is refused, and with force replaces the first one whole."""
    out = tree.parent / "out"
    prepare(tree, out, preprocessing="gcn", seed=1)
    with pytest.raises(PrepError) as caught:
        prepare(tree, out, preprocessing="gcn", seed=2)
    assert str(caught.value) == f"{out}: found a finished data set; expected a new name, or force to replace it"
    assert Manifest.load(out).seed == 1
    prepare(tree, out, preprocessing="gcn", seed=2, force=True)
    assert Manifest.load(out).seed == 2 and verify.verify(out).ok
    assert sorted(p.name for p in tree.parent.iterdir()) == ["out", "tree"]


def test_a_failed_replacement_keeps_the_old_set(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With force, a failure before the end leaves the finished set as it was."""
    out = tree.parent / "out"
    prepare(tree, out, preprocessing="gcn", seed=1)
    monkeypatch.setattr(database.Writer, "_put", lambda *_: (_ for _ in ()).throw(lmdb.DiskError("full")))
    with pytest.raises(PrepError, match="found a full disk"):
        prepare(tree, out, preprocessing="gcn", seed=2, force=True)
    assert Manifest.load(out).seed == 1 and verify.verify(out).ok


def test_other_things_under_the_name_are_never_touched(tree: Path) -> None:
    """A folder with other files, or a file, is refused even with force; an empty folder is filled."""
    out = tree.parent / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    with pytest.raises(PrepError, match="found something else than a prepared data set; expected a new name"):
        prepare(tree, out, preprocessing="gcn", force=True)
    assert (out / "thesis.txt").read_text() == "x"
    (out / "thesis.txt").unlink()
    prepare(tree, out, preprocessing="gcn")
    assert verify.verify(out).ok


def test_too_little_room_is_noticed_before_work_begins(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The free space is compared with what will be written before anything is fitted."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("usage", (), {"free": 1000})())
    monkeypatch.setattr(whitening, "fit", lambda *_: pytest.fail("work began"))
    with pytest.raises(PrepError, match="found 0 MB free; expected 1 MB for the data set; free some space"):
        prepare(tree, tree.parent / "out")
    assert sorted(p.name for p in tree.parent.iterdir()) == ["tree"]


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"preprocessing": "zca"}, "preprocessing: found 'zca'; expected gcn-zca or gcn or raw"),
        ({"pad": -1}, "pad: found -1; expected 0 to 1024 pixels"),
        ({"seed": -1}, "seed: found -1; expected a number from 0 to 2^63 - 1"),
        ({"gcn_scale": 1e-40}, "gcn_scale: found 1e-40; expected a number from 1e-06 to 1e+06"),
        ({"zca_bias": 1e300}, "zca_bias: found 1e+300; expected a number up to 1e+12"),
        ({"gcn_scale": -1.0, "preprocessing": "gcn"}, "gcn_scale: found -1; expected a number above 0"),
    ],
)
def test_wrong_options_are_named(keywords: dict[str, Any], expected: str, tree: Path) -> None:
    """A wrong option is one line with the choices, and leaves nothing."""
    with pytest.raises(PrepError) as caught:
        prepare(tree, tree.parent / "out", **keywords)
    assert str(caught.value) == expected
    assert sorted(p.name for p in tree.parent.iterdir()) == ["tree"]


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "x" * 1001])
def test_a_name_that_no_table_can_hold_is_refused(name: str) -> None:
    """Given by --name, which goes into manifests, reports and pages."""
    with pytest.raises(
        PrepError, match="^--name: found a data set named .*; expected 1 to 1000 characters of UTF-8, in one line$"
    ):
        pipeline.checked_name(name)
    assert pipeline.checked_name(" ") == "" and pipeline.checked_name(" a b ") == "a b"


def test_an_unwritable_place_is_named(tree: Path) -> None:
    """A name below a file cannot be written, and the line says so."""
    (tree.parent / "file").write_text("x")
    with pytest.raises(PrepError, match="found a failed write"):
        prepare(tree, tree.parent / "file" / "out", preprocessing="gcn")


def damage_label(out: Path) -> None:
    with lmdb.open(str(out / "train_lmdb"), map_size=1 << 28, lock=False) as env, env.begin(write=True) as transaction:
        key, value = next(iter(transaction.cursor()))
        message = Datum()
        message.ParseFromString(value)
        message.label = (message.label + 1) % 4
        transaction.put(key, message.SerializeToString())


def drop_record(out: Path) -> None:
    with lmdb.open(str(out / "test_lmdb"), map_size=1 << 28, lock=False) as env, env.begin(write=True) as transaction:
        transaction.delete(next(iter(transaction.cursor()))[0])


def cut_record(out: Path) -> None:
    with lmdb.open(str(out / "train_lmdb"), map_size=1 << 28, lock=False) as env, env.begin(write=True) as transaction:
        key, value = next(iter(transaction.cursor()))
        transaction.put(key, value[:-3])


def touch_whitening(out: Path) -> None:
    data = bytearray((out / "whitening.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (out / "whitening.npz").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (damage_label, ["train_lmdb: class counts ", "train_lmdb: SHA-256 "]),
        (
            drop_record,
            ["test_lmdb: record b'00000001_", "test_lmdb: 11 records, in the manifest 12", "test_lmdb: SHA-256 "],
        ),
        (cut_record, ["train_lmdb: record b'00000000_", "train_lmdb: SHA-256 "]),
        (touch_whitening, ["whitening.npz: SHA-256 "]),
        (lambda out: (out / "whitening.npz").unlink(), ["whitening.npz: missing"]),
    ],
)
def test_verify_finds_every_damage(damage: Any, expected: list[str], tree: Path) -> None:
    """A changed label, a missing or cut record, a changed or missing file: each is a line in the report."""
    out = tree.parent / "out"
    prepare(tree, out, preprocessing="gcn-zca")
    damage(out)
    report = verify.verify(out)
    assert not report.ok and "PROBLEM " in str(report)
    for start in expected:
        assert any(problem.startswith(start) for problem in report.problems), (start, report.problems)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", 4, "train_lmdb: records in another order than seed 4 gives"),
        ("gcn_scale", 54.0, "manifest.json: gcn_scale 54.0, found 55.0"),
        ("zca_bias", 0.2, "manifest.json: zca_bias 0.2, found 0.1"),
        ("class_names", list("abcd"), "manifest.json: class_names ('a', 'b', 'c', 'd'), found "),
        ("n_train", 7, "manifest.json: n_train 7, found 48"),
        ("statistics", {}, "manifest.json: train_mean nan, found "),
        ("files", {}, "whitening.npz: not in the manifest"),
    ],
)
def test_verify_does_not_take_the_manifests_word(name: str, value: Any, expected: str, tree: Path) -> None:
    """Seed, constants, names and statistics in the manifest are held against databases and transform."""
    out = tree.parent / "out"
    prepare(tree, out)
    change_manifest(out, **{name: value})
    problems = verify.verify(out).problems
    assert any(problem.startswith(expected) for problem in problems), problems


def change_manifest(out: Path, **changes: Any) -> None:
    values = json.loads((out / "manifest.json").read_text()) | changes
    (out / "manifest.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": "1"}, 'found seed "1"; expected a whole number'),
        ({"classes": True}, "found classes true; expected a whole number"),
        ({"statistics": {"a": 1e400}}, 'found statistics {"a": Infinity}; expected an object of numbers'),
        ({"class_names": ["a", 1]}, 'found class_names ["a", 1]; expected a list of texts'),
        ({"shape": [3, 8]}, "found shape [3, 8]; expected a list of 3 whole numbers"),
        ({"shape": [3, 9, 9]}, "found shape [3, 9, 9]; expected image_shape [3, 8, 8], pad 0"),
        ({"classes": 3}, "found classes 3; expected 4, as class_names has"),
        ({"class_counts": {"train": [1, 1, 1, 1]}}, "found class_counts of 0 classes for test; expected 4"),
        (
            {"lmdb": {"train": {"path": "x"}}},
            "found no records or sha256 in lmdb.train; expected path, records and sha256",
        ),
        (
            {"files": {"../whitening.npz": ""}},
            "found a file '../whitening.npz'; expected names of files beside the manifest",
        ),
    ],
)
def test_a_manifest_of_another_form_is_one_line(changes: dict[str, Any], line: str, tree: Path) -> None:
    """Whatever stands in manifest.json: the entry, what was found, what was expected."""
    out = tree.parent / "out"
    prepare(tree, out, preprocessing="gcn")
    change_manifest(out, **changes)
    with pytest.raises(PrepError) as caught:
        verify.verify(out)
    assert str(caught.value) == f"{out}/manifest.json: {line}"


def test_a_killed_replacement_gives_the_old_set_back(tree: Path) -> None:
    """Killed between the two renames, the old set lies under another name: the next run puts it back before anything."""
    out, away = tree.parent / "out", tree.parent / ".out.replaced"
    old = prepare(tree, out, preprocessing="gcn")
    out.rename(away)
    with pytest.raises(PrepError, match="found a finished data set"):
        prepare(tree, out, preprocessing="raw")
    assert Manifest.load(out) == old and verify.verify(out).ok and not away.exists()
    assert sorted(p.name for p in tree.parent.iterdir()) == ["out", "tree"]


def test_a_set_made_otherwise_is_not_the_one_asked_for(tree: Path, tmp_path: Path) -> None:
    """Other constants or another source than the finished set's are said; constants without effect are not."""
    out = tree.parent / "out"
    prepare(tree, out, preprocessing="gcn")
    pipeline.check_same(out, tree, preprocessing="gcn", gcn_scale=55.0, zca_bias=9.0, pad=0, seed=0)
    for asked, line in (
        ({"seed": 1}, "found a set prepared with seed 0; expected 1; give another output, or force to replace it"),
        (
            {"preprocessing": "raw"},
            "found a set prepared with preprocessing gcn; expected raw; give another output, or ",
        ),
    ):
        with pytest.raises(PrepError, match=line):
            pipeline.check_same(out, tree, **asked)
    (tree.parent / "other").mkdir()
    with pytest.raises(PrepError, match="found a set prepared from tree; expected one from .*other; give another"):
        pipeline.check_same(out, tree.parent / "other")


def test_verify_needs_a_prepared_set(tmp_path: Path) -> None:
    """Without a manifest, or with one of another version, there is nothing to verify."""
    with pytest.raises(PrepError, match="found no manifest.json; expected a prepared data set"):
        verify.verify(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format_version": 99}')
    with pytest.raises(PrepError, match="found format_version 99; expected 1; prepare the data set again"):
        verify.verify(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(PrepError, match=r"found no JSON \("):
        verify.verify(tmp_path)


def test_torch_is_never_imported() -> None:
    """Data preparation runs where PyTorch is not installed."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import data_prep.pipeline, data_prep.verify, data_prep.download\n"
        "assert 'torch' not in sys.modules\n"
        "ours = {m.split('.')[1] for m in sys.modules if m.startswith('allconv_caffe.')}\n"
        "assert ours <= {'errors', 'files', 'npz', 'proto'}, ours\n"
    )
    subprocess.run([sys.executable, "-c", program, str(ROOT)], check=True)
