"""Copies of training images stored beside them: mirror images and translations, after the whitening."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allconv_caffe.proto import datum
from data_prep import database, pipeline, verify
from data_prep.copies import Copies
from data_prep.errors import PrepError

HOW: dict[str, Any] = {"dataset": "images", "preprocessing": "gcn", "seed": 4, "progress": False}


@pytest.fixture
def tree(helpers: Any, tmp_path: Path) -> Path:
    helpers.make_tree(tmp_path / "tree", train=5, test=2)
    return tmp_path / "tree"


def stored(folder: Path, split: str) -> dict[int, tuple[np.ndarray, int]]:
    """Image and label by the number in the key."""
    return {int(key[9:]): datum.decode(value) for key, value in database.records(folder / f"{split}_lmdb")}


def moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Pixel by pixel."""
    out = np.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                out[:, y, x] = image[:, y - down, x - right]
    return out


def shift_of(copy: np.ndarray, image: np.ndarray) -> tuple[int, int]:
    """How far a copy is moved; fails where it is no moved copy."""
    found = [(y, x) for y in range(-5, 6) for x in range(-5, 6) if np.array_equal(copy, moved(image, y, x))]
    assert len(found) == 1
    return found[0]


def test_flipped_and_translated_copies_stand_beside_the_images(tree: Path, tmp_path: Path) -> None:
    """Each training image stands there four times: itself, its mirror image, and both moved by up to five pixels; the test
    images once, and all that the plain set has is in it, too.
    """
    plain = pipeline.prepare(tree, tmp_path / "plain", **HOW)
    manifest = pipeline.prepare(tree, tmp_path / "more", copies=("flipped", "translated"), **HOW)
    images, records = stored(tmp_path / "plain", "train"), stored(tmp_path / "more", "train")
    count = plain.n_train
    assert (manifest.n_train, manifest.n_test, len(records)) == (4 * count, plain.n_test, 4 * count)
    assert manifest.copies == ("flipped", "translated") and plain.copies == ()
    assert manifest.class_counts["train"] == [4 * number for number in plain.class_counts["train"]]
    shifts = []
    for number, (image, label) in images.items():
        copies = [records[number + copy * count] for copy in range(4)]
        assert {one for _, one in copies} == {label}
        np.testing.assert_array_equal(copies[0][0], image)
        np.testing.assert_array_equal(copies[1][0], image[:, :, ::-1])
        shifts += [shift_of(copies[2][0], image), shift_of(copies[3][0], image[:, :, ::-1])]
    assert len(set(shifts)) > count, "each copy is moved on its own"
    for number, (image, _) in stored(tmp_path / "plain", "test").items():
        np.testing.assert_array_equal(stored(tmp_path / "more", "test")[number][0], image)
    assert verify.verify(tmp_path / "more").ok
    again = pipeline.prepare(tree, tmp_path / "again", copies=("flipped", "translated"), **HOW)
    assert again.lmdb == manifest.lmdb, "the seed decides the translations"


def test_a_doubled_set_is_padded_like_any_other(tree: Path, tmp_path: Path) -> None:
    """`flipped` alone doubles the set; padding comes after it."""
    manifest = pipeline.prepare(tree, tmp_path / "out", copies=("flipped",), pad=2, **HOW)
    records = stored(tmp_path / "out", "train")
    count = manifest.n_train // 2
    for number in range(count):
        image, mirrored = records[number][0], records[number + count][0]
        np.testing.assert_array_equal(mirrored, image[:, :, ::-1])
        assert not image[:, :2].any() and not image[:, :, -2:].any()
    assert verify.verify(tmp_path / "out").ok


def test_every_translation_is_drawn() -> None:
    """Of 6,000 copies each of the 121 moves is some, none goes further: Poisson of mean 50 at each."""
    copies = Copies(("translated",), 6000, 0)
    point = np.zeros((1, 1, 11, 11), np.float32)
    point[0, 0, 5, 5] = 1
    records = np.arange(6000, 12000)
    moves = copies.make(np.repeat(point, 6000, axis=0), records).sum(axis=(0, 1))
    assert moves.sum() == 6000 and moves.min() > 15 and moves.max() < 100


@pytest.mark.parametrize(
    ("copies", "preprocessing", "message"),
    [
        (("turned",), "gcn", "copies: found 'turned'; expected some of flipped, translated, each once"),
        (
            ("flipped", "flipped"),
            "gcn",
            "copies: found 'flipped,flipped'; expected some of flipped, translated, each once",
        ),
        (
            ("flipped",),
            "raw",
            "copies: found flipped of raw bytes; expected whitened images, to which 0 is the middle",
        ),
    ],
)
def test_other_copies_are_refused(
    tree: Path, tmp_path: Path, copies: tuple[str, ...], preprocessing: str, message: str
) -> None:
    """Unknown words, one twice, and copies of bytes get one line, and nothing is left."""
    with pytest.raises(PrepError) as caught:
        pipeline.prepare(tree, tmp_path / "out", **{**HOW, "preprocessing": preprocessing}, copies=copies)
    assert str(caught.value) == message and not (tmp_path / "out").exists()
