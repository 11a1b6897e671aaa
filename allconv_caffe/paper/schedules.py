"""How a network is trained, in epochs, and the same in iterations.

Epochs become iterations here, in Python: iterations = epochs * training images / batch size, rounded to the nearest
whole number, halves up (``iterations``).

Source: section 3.2.1, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from allconv_caffe.paper.errors import TableError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a network is trained."""

    lr_policy: str  # multistep or step, as in Caffe
    base_lr: float
    momentum: float
    weight_decay: float
    batch_size: int  # images of an iteration
    gamma: float = 0.1  # factor at each drop of multistep and step
    decay_per_epoch: float = 0.0  # of step: the rate falls by exp(-decay_per_epoch) after each epoch
    epochs: float = 0.0  # in all; 0: ``max_iter`` says it
    plain_epochs: float = 0.0  # the last of them, in which training images are not distorted
    drop_epochs: tuple[float, ...] = ()  # of multistep: the rate drops after each of them
    stepsize: int = 0  # of step: iterations between two drops
    max_iter: int = 0  # in all, where the paper counts iterations
    type: str = "SGD"  # of the solver
    test_batch_size: int = 100  # at most; what is taken divides the test set


CIFAR_SCHEDULE = Schedule(
    lr_policy="multistep",
    base_lr=0.05,  # one of [0.25, 0.1, 0.05, 0.01]; assumed, see ASSUMPTIONS
    momentum=0.9,
    weight_decay=0.001,
    gamma=0.1,
    batch_size=128,  # assumed
    epochs=350,
    drop_epochs=(200, 250, 300),
)
"""Section 3.2.1: S = [200, 250, 300], 350 epochs in all."""

LEARNING_RATES: tuple[float, ...] = (0.25, 0.1, 0.05, 0.01)
"""Section 3.2.1: the set that the learning rate of each model was searched in."""

LARGE_SCHEDULE = Schedule(
    lr_policy="step",  # of an epoch: Graham's program sets the rate there, and float32 holds exp(-0.01) better than its root
    base_lr=0.0015,  # assumed: Graham's 0.003 * (1 - momentum), times the batch, over which he sums and Caffe averages
    momentum=0.99,
    weight_decay=0.0,
    batch_size=50,
    decay_per_epoch=0.01,
    epochs=410,
    plain_epochs=10,
    type="Nesterov",
    test_batch_size=50,
)

IMAGENET_SCHEDULE = Schedule(
    lr_policy="step",
    base_lr=0.01,
    momentum=0.9,  # assumed
    weight_decay=0.0005,
    gamma=0.1,
    batch_size=64,
    stepsize=200_000,
    max_iter=450_000,
    test_batch_size=50,
)
"""Section 3.3: 450,000 iterations of 64 images, the rate divided by 10 after every 200,000."""


def iterations(epochs: float | Fraction, n_train: int, batch_size: int) -> int:
    """epochs * n_train / batch_size, rounded to the nearest whole number, halves up; at least 1.

    200, 250, 300 and 350 epochs of 50,000 images by 128 are 78125, 97656, 117188 and 136719 iterations.
    """
    exact = Fraction(epochs).limit_denominator(10**9) * n_train / batch_size
    return max(1, math.floor(exact + Fraction(1, 2)))


def scaled_epochs(schedule: Schedule, epochs: float | None) -> tuple[Fraction, tuple[Fraction, ...]]:
    """Total and drop epochs of a schedule, stretched in proportion to ``epochs`` in all (None: as published)."""
    total = Fraction(schedule.epochs).limit_denominator(10**6)
    new = total if epochs is None else Fraction(epochs).limit_denominator(10**6)
    return new, tuple(Fraction(drop).limit_denominator(10**6) * new / total for drop in schedule.drop_epochs)


def exact_batch(n_test: int, most: int) -> int:
    """The largest batch size of at most ``most`` that divides the test set: test_iter then covers it exactly once."""
    return next(size for size in range(min(most, n_test), 0, -1) if n_test % size == 0)


@dataclass(frozen=True, kw_only=True)
class Timetable:
    """A schedule in iterations."""

    max_iter: int
    stepvalue: tuple[int, ...]  # of multistep
    stepsize: int  # of step
    gamma: float  # factor at each step
    test_iter: int  # test batches
    test_batch_size: int
    test_interval: int  # iterations
    display: int  # iterations
    snapshot: int  # iterations
    epochs: float  # in all
    plain_iter: int = 0  # where the epochs without distortion begin; 0: there are none


SNAPSHOTS_PER_RUN = 14
"""A run keeps 14 snapshots: every 25 of 350 epochs."""


def timetable(
    schedule: Schedule,
    n_train: int,
    n_test: int,
    batch_size: int,
    epochs: float | None = None,
    test_batch_size: int | None = None,
) -> Timetable:
    """Turn a schedule into iterations.

    Tests once an epoch; shows the loss every 100, 10 or 1 iterations, the largest of them that fits into an epoch;
    snapshots 14 times a run and at its end, but not oftener than once an epoch. Other totals of epochs stretch the
    whole schedule.

    Raises:
        TableError: a test batch size that does not divide the test set.
    """
    if test_batch_size is None:
        test_batch_size = exact_batch(n_test, schedule.test_batch_size)
    elif n_test % test_batch_size:
        divisors = [size for size in range(1, min(n_test, 1000) + 1) if n_test % size == 0]
        raise TableError("option test_batch_size", test_batch_size, f"a divisor of {n_test} test images", divisors)
    epoch_iters = iterations(1, n_train, batch_size)
    stepvalue: Sequence[int] = ()
    stepsize, gamma, plain_iter = 0, schedule.gamma, 0
    if schedule.max_iter:  # the paper counts iterations; its own batch size turns them into epochs
        published = Fraction(schedule.max_iter * schedule.batch_size, n_train)
        total = published if epochs is None else Fraction(epochs).limit_denominator(10**6)
        max_iter = iterations(total, n_train, batch_size)
        stepsize = max(1, math.floor(Fraction(schedule.stepsize * max_iter, schedule.max_iter) + Fraction(1, 2)))
    else:
        total, drops = scaled_epochs(schedule, epochs)
        max_iter = iterations(total, n_train, batch_size)
        stepvalue = [iterations(drop, n_train, batch_size) for drop in drops]
        if schedule.decay_per_epoch:
            stepsize, gamma = epoch_iters, math.exp(-schedule.decay_per_epoch * schedule.epochs / float(total))
        if schedule.plain_epochs:
            share = 1 - Fraction(schedule.plain_epochs).limit_denominator(10**6) / Fraction(schedule.epochs)
            plain_iter = iterations(total * share, n_train, batch_size)
    display = next(step for step in (100, 10, 1) if epoch_iters >= step)
    snapshot = max(epoch_iters, math.floor(Fraction(max_iter, SNAPSHOTS_PER_RUN) + Fraction(1, 2)))
    return Timetable(
        max_iter=max_iter,
        stepvalue=tuple(stepvalue),
        stepsize=stepsize,
        gamma=gamma,
        test_iter=n_test // test_batch_size,
        test_batch_size=test_batch_size,
        test_interval=epoch_iters,
        display=display,
        snapshot=snapshot,
        epochs=float(total),
        plain_iter=plain_iter,
    )
