"""The quickstart's pictures, its linear classifier, and the road it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allconv_caffe.report.record import Record
from allconv_caffe.train import quickstart, quickstart_data, run as driver
from allconv_caffe.train.quickstart_data import CLASSES, PERIODS, SIDE, draw, generate
from allconv_caffe.train.settings import RunSettings
from data_prep import source, whitening


def test_pictures_are_made_by_seed() -> None:
    """Equal seeds give equal pictures and labels, others other ones; every class is as frequent as the next."""
    images, labels = generate(100, 3)
    again, labels_again = generate(100, 3)
    other, _ = generate(100, 4)
    assert images.shape == (100, 3, SIDE, SIDE) and images.dtype == np.uint8
    assert np.array_equal(images, again) and np.array_equal(labels, labels_again)
    assert not np.array_equal(images, other)
    assert np.bincount(labels).tolist() == [10] * 10
    assert len({image.tobytes() for image in images}) == 100


@pytest.mark.parametrize("count", [0, -10, 15])
def test_a_wrong_number_of_pictures_is_refused(count: int) -> None:
    """The number must be a positive multiple of ten; the message says what was found."""
    with pytest.raises(ValueError) as caught:
        generate(count, 0)
    assert str(caught.value) == f"quickstart data: count {count}: expected a positive multiple of 10"


@pytest.mark.parametrize("label", range(10))
def test_every_cloth_has_the_stripes_of_its_name(label: int) -> None:
    """Brightness changes across the stripes and not along them, with the period of the class, lying or standing."""
    for seed in range(3):
        grey = draw(label, np.random.default_rng(seed)).astype(float).mean(axis=2)
        if CLASSES[label].startswith("standing"):
            grey = grey.T
        assert np.abs(np.diff(grey, axis=0)).sum() > 1.3 * np.abs(np.diff(grey, axis=1)).sum()
        strong = np.abs(np.fft.rfft(grey - grey.mean(), n=256, axis=0)).sum(axis=1)
        found = 256 / (8 + int(strong[8:].argmax()))
        assert abs(found / PERIODS[label // 2] - 1) < 0.25


def test_no_pixel_tells_the_class() -> None:
    """The mean picture of every class is nearly flat: where stripes begin and which colour comes first is random."""
    images, labels = generate(600, 1)
    means = np.stack([images[labels == label].mean(axis=0) for label in range(10)])
    assert means.std(axis=(2, 3)).max() < 15 < images.std(axis=(2, 3)).mean()


def test_the_archive_has_cifars_own_form(tmp_path: Path) -> None:
    """The archive reads like CIFAR-10: 3x32x32 pictures, ten class names, and a name that does not claim to be CIFAR."""
    path = quickstart.write_archive(tmp_path / "cloth.tar.gz", 40, 20, seed=5)
    found = source.read(path, dataset="cifar10", progress=False)
    assert (len(found.train), len(found.test), found.class_names) == (40, 20, CLASSES)
    assert found.display_name == quickstart.DISPLAY_NAME
    assert not np.array_equal(found.train.images[:20], found.test.images)
    again = quickstart.write_archive(tmp_path / "again.tar.gz", 40, 20, seed=5)
    assert path.read_bytes() == again.read_bytes()


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = np.array([[0, 0, 3], [0, 3, 0], [3, 0, 0]], np.float32)
    return (centres[labels] + rng.normal(0, 1.5, (count, 3))).astype(np.float32), labels.astype(np.int64)


def test_the_linear_classifier_agrees_with_scikit_learn() -> None:
    """On overlapping clusters the error equals that of scikit-learn's logistic regression within one point of 600."""
    from sklearn.linear_model import LogisticRegression

    train, test, strength = blobs(600, 1), blobs(600, 2), 0.01
    other = LogisticRegression(C=1 / (strength * 600)).fit(*train)
    expected = 100 * (1 - other.score(*test))
    assert 5 < expected < 40
    assert abs(quickstart.linear_error_percent(train, test, (strength,)) - expected) <= 100 / 600 + 1e-9


def test_a_linear_classifier_cannot_do_exclusive_or() -> None:
    """On exclusive or, which no linear classifier separates, at least a quarter is wrong."""
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    labels = np.array([0, 1, 1, 0])
    assert quickstart.linear_error_percent((corners, labels), (corners, labels)) >= 25


def test_the_network_is_the_papers() -> None:
    """The quickstart trains All-CNN-C with the paper's dropout, momentum, weight decay and one of its four rates."""
    from allconv_caffe.paper import render
    from allconv_caffe.paper.schedules import LEARNING_RATES

    texts = render.render(quickstart.EXPERIMENT, render.RenderOptions(**quickstart.OPTIONS))
    published = render.render("cifar10-allcnn-c", render.RenderOptions(relu_last=False))["train_val.prototxt"]
    net, solver = texts["train_val.prototxt"], texts["solver.prototxt"]
    layers = [text[text.index('layer {\n  name: "drop0"') :] for text in (net, published)]
    assert layers[0].replace("msra", "xavier") == layers[1]
    assert [line.split()[-1] for line in net.splitlines() if "dropout_ratio" in line] == ["0.2", "0.5", "0.5"]
    assert "momentum: 0.9\n" in solver and "weight_decay: 0.001\n" in solver
    assert quickstart.SCHEDULE.base_lr in LEARNING_RATES


def each_pixel_alone(covariance: np.ndarray, bias: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`whitening.decompose` of the diagonal: the 3072 eigenvectors of the whole take seconds."""
    values = np.diag(covariance) + bias
    return np.sort(values), np.diag(values**-0.5).astype(np.float32), np.diag(values**0.5).astype(np.float32)


def test_the_whole_road(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archive, LMDBs, picture and table come from one call; the driver gets the prepared set; a second call keeps it."""
    handed: list[RunSettings] = []

    def train(experiment: Any, settings: RunSettings, say: Any) -> driver.RunResult:
        assert experiment.name == "quickstart" and experiment.dataset.n_train == 40
        handed.append(settings)
        record = Record(
            experiment="quickstart",
            model="All-CNN-C",
            status="done",
            test_error_percent=12.5,
            parameters=1_369_738,
            dataset="Quickstart cloth",
            seed=2,
            epochs=6.0,
            engine="torch",
        )
        return driver.RunResult("done", tmp_path / "runs", record)

    monkeypatch.setattr(driver, "run", train)
    monkeypatch.setattr(whitening, "decompose", each_pixel_alone)
    said: list[str] = []
    result = quickstart.run(tmp_path, seed=2, n_train=40, n_test=20, say=said.append)
    assert result is not None and result.test_error_percent == 12.5 and 0 <= result.linear_error_percent <= 100
    made = tmp_path / "data" / "quickstart"
    assert (made / "train_lmdb" / "data.mdb").is_file() and (tmp_path / "data" / "quickstart.png").is_file()
    assert handed[0].data == made and handed[0].seed == 2 and not handed[0].download
    text = "\n".join(said := [*said, *quickstart.lines(result)])
    assert "| All-CNN-C | 1,369,738 | 12.5 |" in text
    assert f"| linear classifier, same pixels | 30,730 | {result.linear_error_percent:.1f} |" in text
    assert "to look at all of it on one page: allconv open" in said
    written = (made / "manifest.json").stat().st_mtime_ns
    assert quickstart.run(tmp_path, seed=2, n_train=40, n_test=20, say=said.append) is not None
    assert (made / "manifest.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(("error", "linear", "learned"), [(19.9, 34.9, True), (20.0, 90.0, False), (10.0, 24.9, False)])
def test_what_counts_as_learned(error: float, linear: float, learned: bool) -> None:
    """Below 20 %, and at least 15 points below the linear classifier."""
    result = quickstart.QuickstartResult(
        title="A", test_error_percent=error, linear_error_percent=linear, parameters=1, seconds={}, directory=Path()
    )
    assert result.learned is learned


def test_a_dead_training_gives_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver reports a dead or interrupted training, there is no result."""
    monkeypatch.setattr(quickstart, "linear_error_percent", lambda *_: 50.0)
    monkeypatch.setattr(driver, "run", lambda *_, **__: driver.RunResult("dead", tmp_path, None))
    monkeypatch.setattr("data_prep.pipeline.prepare", lambda *_, **__: None)
    monkeypatch.setattr("data_prep.verify.verify", lambda *_, **__: type("Report", (), {"ok": True})())
    monkeypatch.setattr(quickstart, "read_split", lambda _: None)
    assert quickstart.run(tmp_path, n_train=10, n_test=10, say=lambda _: None) is None


def test_pictures_need_no_library_but_numpy() -> None:
    """The pictures are drawn by NumPy alone."""
    text = Path(quickstart_data.__file__).read_text(encoding="utf-8")
    assert {line.split()[1] for line in text.splitlines() if line.startswith("import ")} == {"numpy"}
