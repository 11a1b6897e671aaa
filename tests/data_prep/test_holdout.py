"""Training images held out: nothing is lost, nothing stands on both sides, and the result can be verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep import cifar, database, holdout, pipeline
from data_prep.errors import PrepError
from data_prep.manifest import Manifest
from data_prep.verify import verify


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    images = random.integers(0, 256, (70, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(70) % 10
    archive = cifar.write_python_archive(
        tmp_path / "a.tar.gz", images[:50], labels[:50], images[50:], labels[50:], list("abcdefghij")
    )
    pipeline.prepare(archive, tmp_path / "whole", preprocessing="gcn", pad=2, seed=7, progress=False)
    return tmp_path / "whole"


def values_of(folder: Path, split: str) -> list[bytes]:
    return [bytes(value) for _, value in database.records(folder / f"{split}_lmdb")]


def test_both_parts_together_are_the_training_set_in_its_order(whole: Path, tmp_path: Path) -> None:
    """35 + 15 records are the 50 training records byte for byte; no test image is among them."""
    made = holdout.hold_out(whole, tmp_path / "cut", 15)
    parts = {split: values_of(tmp_path / "cut", split) for split in ("train", "test")}
    assert (len(parts["train"]), len(parts["test"])) == (made.n_train, made.n_test) == (35, 15)
    assert parts["train"] + parts["test"] == values_of(whole, "train")
    keys = [bytes(key) for key, _ in database.records(tmp_path / "cut" / "test_lmdb")]
    assert [key[:8] for key in keys] == [b"%08d" % place for place in range(15)]


def test_the_result_is_a_prepared_set_that_verifies(whole: Path, tmp_path: Path) -> None:
    """verify finds order, counts, checksums and statistics as the manifest says; a swapped record it would find."""
    made = holdout.hold_out(whole, tmp_path / "cut", 15)
    report = verify(tmp_path / "cut")
    assert report.ok, report.problems
    assert made == Manifest.load(tmp_path / "cut")
    assert made.display_name == f"{Manifest.load(whole).display_name}, 15 held out"
    both = np.add(made.class_counts["train"], made.class_counts["test"]).tolist()
    assert both == Manifest.load(whole).class_counts["train"]
    assert holdout.order(made, "train") + holdout.order(made, "test") == holdout.order(Manifest.load(whole), "train")


@pytest.mark.parametrize("count", [0, 50, -1])
def test_something_must_be_left_on_both_sides(whole: Path, tmp_path: Path, count: int) -> None:
    """1 to 49 of 50 images can be held out; after an error nothing lies there."""
    with pytest.raises(PrepError, match=f"^held out: found {count} images; expected 1 to 49 of 50$"):
        holdout.hold_out(whole, tmp_path / "cut", count)
    assert not (tmp_path / "cut").exists()


def test_what_is_cut_is_not_cut_again(whole: Path, tmp_path: Path) -> None:
    """A second cut of the same set would be another sample than its name says."""
    holdout.hold_out(whole, tmp_path / "cut", 15)
    with pytest.raises(PrepError, match="held out already"):
        holdout.hold_out(tmp_path / "cut", tmp_path / "again", 5)
