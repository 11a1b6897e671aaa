"""The rule for dead trainings, and the line or bar that shows how far a training has come."""

from __future__ import annotations

import contextlib
import math
import os
import re

import pytest

from allconv_caffe.report.log import TestRow, TrainRow
from allconv_caffe.train.estimate import Estimate, Work
from allconv_caffe.train.watch import DeadRule, DeadWatch, Progress, duration

WORK = Work(max_iter=1000, batch_size=128, display=100, test_interval=100, test_images=400)
RULE = DeadRule(classes=10, n_test=10_000, epoch_iters=400, max_iter=100_000)


def _judge(losses: list[tuple[int, float]], rule: DeadRule = RULE) -> str | None:
    watch = DeadWatch(rule)
    for iteration, loss in losses:
        if why := watch.train(TrainRow(iteration=iteration, loss=loss)):
            return why
    return None


def test_a_loss_at_ln_classes_is_dead_after_three_epochs() -> None:
    """ln(10) = 2.302585 is judged at iteration 1200 = 3 epochs of 400, not before."""
    flat = [(iteration, 2.302585) for iteration in range(0, 4000, 100)]
    assert RULE.patience_iters == 1200
    assert _judge(flat[:12]) is None
    assert "at iteration 1200 (epoch 3.00): still at ln(10)" in str(_judge(flat))


def test_a_slow_start_is_not_dead() -> None:
    """A training that has left the plateau by a hundredth is alive, and so is one that is noisy around it at first."""
    noise = [(iteration, 2.3026 + 0.001 * (-1) ** (iteration // 100)) for iteration in range(0, 1200, 100)]
    assert _judge(noise + [(iteration, 2.292) for iteration in range(1200, 8000, 100)]) is None


def test_a_training_that_dies_late_is_noticed() -> None:
    """The rule is judged at every later loss too."""
    alive = [(iteration, 0.7) for iteration in range(0, 20_000, 100)]
    dead = [(iteration, math.log(10)) for iteration in range(20_000, 20_500, 100)]
    assert "at iteration 20200" in str(_judge(alive + dead))


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 87.3365])
def test_an_impossible_loss_is_dead_at_once(loss: float) -> None:
    """NaN, infinity and 87.3365 (Caffe's overflowed softmax) need no patience."""
    assert _judge([(0, 2.3), (100, loss)])


def test_a_diverged_loss_is_dead_after_the_patience() -> None:
    """A loss above 2 ln(10) = 4.605 is forgiven in the beginning only."""
    assert "diverged" in str(_judge([(iteration, 9.0) for iteration in range(0, 1300, 100)]))
    assert _judge([(iteration, 9.0) for iteration in range(0, 1200, 100)]) is None


@pytest.mark.parametrize(("loss", "dead"), [(0.2, False), (1.05, True)])
def test_few_test_images_do_not_deny_a_falling_loss(loss: float, dead: bool) -> None:
    """Of twelve images of three classes guessing may get 10 right: that is no death while the loss is far below ln(3)."""
    watch = DeadWatch(DeadRule(classes=3, n_test=12, epoch_iters=3, max_iter=90))
    for iteration in range(45, 48):
        assert watch.train(TrainRow(iteration=iteration, loss=loss)) is None
    row = TestRow(iteration=48, outputs={"accuracy": 10 / 12, "loss": loss})
    assert [why is not None for why in (watch.test(row), watch.test(row), watch.test(row))] == [False, False, dead]


def test_too_few_test_images_give_no_verdict() -> None:
    """Of eight images of two classes guessing may well get all right (1/2 + 4 sqrt(1/32) > 1): no accuracy is a death."""
    watch = DeadWatch(DeadRule(classes=2, n_test=8, epoch_iters=3, max_iter=90))
    row = TestRow(iteration=48, outputs={"accuracy": 1.0, "loss": 0.69})
    assert [watch.test(row) for _ in range(3)] == [None] * 3


def test_three_tests_at_chance_are_dead() -> None:
    """Guessing gets 10 % +- 0.3 % of 10,000 images right: three tests in a row below 11.2 % are no success."""
    watch = DeadWatch(RULE)
    assert RULE.chance_accuracy == pytest.approx(0.112)

    def test(iteration: int, accuracy: float, loss: float = 2.29) -> str | None:
        return watch.test(TestRow(iteration=iteration, outputs={"accuracy": accuracy, "loss": loss}))

    assert [test(400, 0.1), test(800, 0.1), test(1200, 0.1), test(1600, 0.13), test(2000, 0.1), test(2400, 0.0)] == [
        None
    ] * 6
    assert "not above 11.2 %, what guessing among 10,000 images may reach" in str(test(2800, 0.1))
    assert "not a number" in str(test(3200, 1.0, float("nan")))


def test_a_net_whose_outputs_are_all_zero_is_dead_at_once() -> None:
    """Accuracy 0 (Caffe counts ties as wrong) beside a loss of ln(10) = 2.30259 needs no patience."""

    def judge(iteration: int, accuracy: float, loss: float) -> str | None:
        return DeadWatch(RULE).test(TestRow(iteration=iteration, outputs={"accuracy": accuracy, "loss": loss}))

    assert "all outputs are equal" in str(judge(400, 0.0, 2.30259))
    assert [judge(0, 0.0, 2.30259), judge(400, 0.0, 2.301), judge(400, 0.1, 2.30259)] == [None] * 3


def test_small_data_sets_get_more_epochs() -> None:
    """Three epochs of 12 iterations are too short to judge: the patience is 1000 iterations, or half of all."""
    assert DeadRule(classes=10, n_test=100, epoch_iters=12, max_iter=100_000).patience_iters == 1000
    assert DeadRule(classes=10, n_test=100, epoch_iters=12, max_iter=600).patience_iters == 300


def test_progress_without_a_terminal_is_a_line_for_each_test() -> None:
    """Without a terminal a test prints one plain line with iteration, loss and error."""
    lines: list[str] = []
    with open(os.devnull, "w") as stream:
        progress = Progress(1000, 0, 128, 100.0, lines.append, Estimate(WORK), stream)
        progress.train(TrainRow(iteration=0, loss=2.3))
        progress.train(TrainRow(iteration=100, loss=1.5))
        progress.test(TestRow(iteration=100, outputs={"accuracy": 0.4, "loss": 1.6}))
        progress.close()
    assert len(lines) == 1
    assert lines[0].startswith("iteration 100 of 1000 (epoch 1.00): loss 1.5, test error 60.00 %")


def test_progress_on_a_terminal_is_a_bar_with_loss_error_speed_and_time_left() -> None:
    """On a terminal, also one that does not know its width, a bar shows where the training is."""
    main, terminal = os.openpty()
    try:
        with open(terminal, "w", closefd=False) as stream:
            progress = Progress(1000, 0, 128, 100.0, lambda line: None, Estimate(WORK), stream)
            progress.train(TrainRow(iteration=0, loss=2.3))
            progress.train(TrainRow(iteration=100, loss=1.5))
            progress.test(TestRow(iteration=100, outputs={"accuracy": 0.4, "loss": 1.6}))
            progress.close()
        os.close(terminal)
        shown = ""
        with contextlib.suppress(OSError):  # EIO: nothing more will come; a read may give a part of what was written
            while part := os.read(main, 65536):
                shown += part.decode()
        shown = shown.splitlines()[-1]
    finally:
        os.close(main)
    last = shown.split("\r")[-1]
    assert re.search(r"10%.*100/1000 \[.*<.*loss 1\.5, test error 60\.00 %, [\d,]+ images/s", last)


def test_durations_read_as_clocks() -> None:
    """3723 seconds are one hour, two minutes and three seconds."""
    assert duration(3723) == "1:02:03"
