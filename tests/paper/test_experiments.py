"""Published figures, schedules in iterations, and the page written from them."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from allconv_caffe.paper import experiments as e
from allconv_caffe.paper.assumptions import ASSUMPTIONS
from allconv_caffe.paper.errors import TableError
from allconv_caffe.paper.page import document
from allconv_caffe.paper.plan import parameters
from allconv_caffe.paper.published import CITED
from allconv_caffe.paper.schedules import CIFAR_SCHEDULE, IMAGENET_SCHEDULE, LARGE_SCHEDULE, timetable

ROOT = Path(__file__).resolve().parents[2]


def test_table_3() -> None:
    """The twelve errors are those of Table 3, in its order."""
    errors = [e.EXPERIMENTS[name].published_error_percent for name in list(e.EXPERIMENTS)[:12]]
    assert errors == [12.47, 13.46, 10.21, 10.30, 10.20, 10.98, 9.33, 9.10, 9.74, 10.19, 9.31, 9.08]
    assert list(e.EXPERIMENTS)[:4] == [
        "cifar10-model-a",
        "cifar10-strided-cnn-a",
        "cifar10-convpool-cnn-a",
        "cifar10-allcnn-a",
    ]


def test_other_published_errors() -> None:
    """Table 4 and section 3.3 give four more; the other CIFAR-100 networks were not published."""
    published = {name: one.published_error_percent for name, one in e.EXPERIMENTS.items()}
    assert published["cifar10-allcnn-c-aug"] == 7.25
    assert published["cifar100-allcnn-c"] == 33.71
    assert published["cifar10-large-allcnn"] == 4.41
    assert published["imagenet-allcnn"] == 41.2
    unpublished = {name for name in e.EXPERIMENTS if name.startswith("cifar100-") and name != "cifar100-allcnn-c"}
    controls = {name for name in e.EXPERIMENTS if name.endswith(("-fc", "-copies"))}
    assert {name for name, error in published.items() if error is None} == unpublished | controls
    assert len(e.EXPERIMENTS) == 33 and len(CITED) == 19


def test_networks_have_the_data_sets_classes() -> None:
    """A CIFAR-100 network has 100 outputs, the ImageNet one 1000."""
    assert parameters(e.EXPERIMENTS["cifar100-allcnn-c"].network()) == 1_387_108
    assert parameters(e.EXPERIMENTS["imagenet-allcnn"].network()) == 9_372_840


def test_published_schedule_in_iterations() -> None:
    """350 epochs of 50,000 by 128 are 136,719 iterations, with drops at 78,125, 97,656 and 117,188; by 256 half of that."""
    plan = timetable(CIFAR_SCHEDULE, 50_000, 10_000, 128)
    assert (plan.max_iter, plan.stepvalue) == (136_719, (78_125, 97_656, 117_188))
    assert (plan.test_iter, plan.test_batch_size, plan.test_interval) == (100, 100, 391)
    assert (plan.display, plan.snapshot) == (100, 9766)
    plan = timetable(CIFAR_SCHEDULE, 50_000, 10_000, 256)
    assert (plan.max_iter, plan.stepvalue) == (68_359, (39_063, 48_828, 58_594))


@pytest.mark.parametrize("epochs", [1, 7, 15, 35, 350, 700, 2.5])
def test_epochs_scale_in_proportion(epochs: float) -> None:
    """EPOCHS=n keeps the drops at 200/350, 250/350 and 300/350 of the run."""
    plan = timetable(CIFAR_SCHEDULE, 50_000, 10_000, 100, epochs)
    assert plan.max_iter == 500 * epochs
    for value, share in zip(plan.stepvalue, (200, 250, 300), strict=True):
        assert abs(value - Fraction(500) * Fraction(epochs) * share / 350) <= Fraction(1, 2)


def test_imagenet_schedule() -> None:
    """450,000 iterations of 64 with a drop every 200,000; half the images an iteration, twice the iterations."""
    plan = timetable(IMAGENET_SCHEDULE, 1_281_167, 50_000, 64)
    assert (plan.max_iter, plan.stepsize, plan.stepvalue) == (450_000, 200_000, ())
    assert plan.test_iter * plan.test_batch_size == 50_000
    doubled = timetable(IMAGENET_SCHEDULE, 1_281_167, 50_000, 32)
    assert (doubled.max_iter, doubled.stepsize) == (900_000, 400_000)


def test_large_schedule() -> None:
    """Large-All-CNN's rate falls by exp(-0.01) an epoch, to exp(-4.1), however many epochs it is given; 10 of 410 are plain."""
    for epochs, batch in ((None, 50), (41, 50), (410, 25)):
        plan = timetable(LARGE_SCHEDULE, 50_000, 10_000, batch, epochs)
        assert plan.stepsize * batch == 50_000
        assert math.isclose(plan.gamma ** (plan.max_iter / plan.stepsize), math.exp(-4.1), rel_tol=1e-9)
        assert plan.plain_iter == plan.max_iter * 400 / 410
    published = timetable(LARGE_SCHEDULE, 50_000, 10_000, 50)
    assert (published.plain_iter, published.max_iter) == (400_000, 410_000)


def test_large_rate_as_caffe_computes_it() -> None:
    """base_lr * gamma^(epoch), gamma and base_lr in float32: within 1e-5 of Graham's rate in every epoch; a gamma for each
    iteration would be half a percent off at the end."""
    plan = timetable(LARGE_SCHEDULE, 50_000, 10_000, 50)
    base_lr, gamma = (float(np.float32(f"{value:.9g}")) for value in (LARGE_SCHEDULE.base_lr, plan.gamma))
    grahams = 0.003 * (1 - 0.99) * 50  # he sums over the batch; his momentum step is (1 - momentum) times the gradient
    for epoch in (0, 1, 100, 409):
        assert math.isclose(base_lr * gamma**epoch, grahams * math.exp(-0.01 * epoch), rel_tol=1e-5)
    exp = float(np.float32(f"{math.exp(-0.01 / 1000):.9g}"))
    assert not math.isclose(exp**409_000, math.exp(-4.09), rel_tol=5e-3)


@pytest.mark.parametrize("n_test", [1, 7, 97, 100, 360, 500, 997, 1797, 10_000, 50_000])
def test_test_set_is_covered_exactly(n_test: int) -> None:
    """test_iter times the test batch is the test set, for any size of it, with a batch of at most 100."""
    plan = timetable(CIFAR_SCHEDULE, 1000, n_test, 128)
    assert plan.test_iter * plan.test_batch_size == n_test and plan.test_batch_size <= 100


def test_small_data_sets() -> None:
    """A data set smaller than a batch still trains, tests and snapshots at least once an iteration."""
    plan = timetable(CIFAR_SCHEDULE, 10, 10, 128, 1)
    assert min(plan.max_iter, plan.test_interval, plan.display, plan.snapshot, *plan.stepvalue) >= 1


def test_errors() -> None:
    """A test batch that does not divide the test set and an unknown experiment are named."""
    with pytest.raises(TableError, match="option test_batch_size: found 64, expected a divisor of 10000 test images"):
        timetable(CIFAR_SCHEDULE, 50_000, 10_000, 128, test_batch_size=64)
    with pytest.raises(TableError, match="experiment: found 'cifar10-allcnn', expected the name of an experiment"):
        e.experiment("cifar10-allcnn")


def test_page_is_current() -> None:
    """docs/architectures.md is what the tables say, with both counts of Model C and every assumption."""
    page = document()
    assert (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8") == page
    assert "954,730" in page and "1.3 M" in page
    assert all(f"| `{entry.key}` | " in page for entry in ASSUMPTIONS)


def test_stored_copies_train_as_many_iterations() -> None:
    """Four records for each image, a quarter of the epochs: the iterations and drops of the set distorted while it trains."""
    stored, other = e.EXPERIMENTS["cifar10-allcnn-c-copies"], e.EXPERIMENTS["cifar10-allcnn-c-aug"]
    plans = [timetable(one.schedule, one.dataset.n_train, 10_000, 128) for one in (stored, other)]
    assert plans[0].max_iter == plans[1].max_iter and plans[0].stepvalue == plans[1].stepvalue
    assert stored.dataset.crop_size == 0 and not stored.dataset.mirror
    assert stored.dataset.recipe is not None and stored.dataset.recipe.copies == ("flipped", "translated")
