"""The paper's experiments as data: network x data set x schedule x published error.

Epochs become iterations here, in Python: iterations = epochs * training images / batch size, rounded to the nearest
whole number, halves up (``iterations``). Published figures stand beside the row they come from; the competitors' rows
of Table 4 are ``CITED``.

Source: Tables 3 and 4; sections 3.2 and 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from allconv_caffe.paper import architectures
from allconv_caffe.paper.architectures import Architecture, TableError


@dataclass(frozen=True)
class Dataset:
    """One prepared data set: two LMDBs of Datum, and how Caffe reads them.

    train_lmdb, test_lmdb: paths relative to the project's root. shape: (C, H, W) of one Datum. input_size: pixels fed
    to the network; below H, Caffe crops (at random in training, centrally in test). mirror: horizontal flips in
    training only. scale, mean_value: transform_param, for LMDBs of bytes; a whitened LMDB needs neither.
    """

    name: str
    title: str
    classes: int
    n_train: int
    n_test: int
    train_lmdb: str
    test_lmdb: str
    shape: tuple[int, int, int] = (3, 32, 32)
    input_size: int = 32
    mirror: bool = False
    scale: float = 1.0
    mean_value: tuple[float, ...] = ()

    @property
    def crop_size(self) -> int:
        """The crop_size to write; 0 where the Datum already has the size of the input."""
        return self.input_size if self.shape[1:] != (self.input_size, self.input_size) else 0


CIFAR10 = Dataset("cifar10", "CIFAR-10", 10, 50_000, 10_000, "data/cifar10/train_lmdb", "data/cifar10/test_lmdb")

CIFAR100 = Dataset("cifar100", "CIFAR-100", 100, 50_000, 10_000, "data/cifar100/train_lmdb", "data/cifar100/test_lmdb")

CIFAR10_PAD5 = replace(
    CIFAR10,
    name="cifar10-pad5",
    train_lmdb="data/cifar10-pad5/train_lmdb",
    test_lmdb="data/cifar10-pad5/test_lmdb",
    shape=(3, 42, 42),  # "a maximum translation of 5 pixels in each dimension"
    mirror=True,
)

CIFAR10_LARGE = replace(
    CIFAR10,
    name="cifar10-large",
    train_lmdb="data/cifar10-large/train_lmdb",
    test_lmdb="data/cifar10-large/test_lmdb",
    shape=(3, 126, 126),
    input_size=126,
    mirror=True,
    scale=1 / 128,
    mean_value=(128,),
)

ILSVRC12 = Dataset(
    "imagenet",
    "ILSVRC-2012",
    1000,
    1_281_167,
    50_000,
    "data/imagenet/ilsvrc12_train_lmdb",
    "data/imagenet/ilsvrc12_val_lmdb",
    shape=(3, 256, 256),
    input_size=224,
    mirror=True,
    mean_value=(104, 117, 123),
)

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset for dataset in (CIFAR10, CIFAR10_PAD5, CIFAR10_LARGE, CIFAR100, ILSVRC12)
}


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    base_lr, momentum, weight_decay: as in Caffe. lr_policy ``multistep`` drops by ``gamma`` after each of
    ``drop_epochs``; ``step`` drops every ``stepsize`` iterations; ``exp`` falls by exp(-``decay_per_epoch``) an
    epoch. epochs: total; or max_iter, where the paper counts iterations.
    """

    lr_policy: str
    base_lr: float
    momentum: float
    weight_decay: float
    batch_size: int
    gamma: float = 0.1
    decay_per_epoch: float = 0.0
    epochs: float = 0.0
    drop_epochs: tuple[float, ...] = ()
    stepsize: int = 0
    max_iter: int = 0
    type: str = "SGD"
    test_batch_size: int = 100


CIFAR_SCHEDULE = Schedule(
    "multistep",
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

MEASURED_RATES: dict[str, float] = {"model_c": 0.01, "strided_cnn_c": 0.01}
"""Where 0.05 failed: Model C died of it, Strided-CNN-C ended 7.7 points higher than with 0.01 (results/, seed 1)."""

LARGE_SCHEDULE = Schedule(
    "exp",
    base_lr=0.00003,  # assumed: Graham's 0.003 * (1 - momentum)
    momentum=0.99,
    weight_decay=0.0,
    batch_size=50,
    decay_per_epoch=0.01,
    epochs=410,
    type="Nesterov",
    test_batch_size=50,
)

IMAGENET_SCHEDULE = Schedule(
    "step",
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


@dataclass(frozen=True)
class Experiment:
    """One row of the paper's results: a network on a data set, its schedule and the published figures.

    architecture: name in ``architectures.NAMES``, or the table itself. published_parameters: the paper's words.
    """

    name: str
    title: str
    architecture: str | Architecture
    dataset: Dataset
    schedule: Schedule
    source: str
    published_error_percent: float | None = None
    published_parameters: str = ""

    def network(self, stride_on: str = "1x1") -> Architecture:
        """The architecture with this experiment's number of classes."""
        if isinstance(self.architecture, Architecture):
            base = self.architecture
        else:
            base = architectures.architecture(self.architecture, stride_on)
        return replace(base, classes=self.dataset.classes)


TABLE_3_ERRORS: dict[str, tuple[str, float, str]] = {
    "model_a": ("Model A", 12.47, "0.9 M"),
    "strided_cnn_a": ("Strided-CNN-A", 13.46, "0.9 M"),
    "convpool_cnn_a": ("ConvPool-CNN-A", 10.21, "1.28 M"),
    "all_cnn_a": ("All-CNN-A", 10.30, "1.28 M"),
    "model_b": ("Model B", 10.20, "1 M"),
    "strided_cnn_b": ("Strided-CNN-B", 10.98, "1 M"),
    "convpool_cnn_b": ("ConvPool-CNN-B", 9.33, "1.35 M"),
    "all_cnn_b": ("All-CNN-B", 9.10, "1.35 M"),
    "model_c": ("Model C", 9.74, "1.3 M"),
    "strided_cnn_c": ("Strided-CNN-C", 10.19, "1.3 M"),
    "convpool_cnn_c": ("ConvPool-CNN-C", 9.31, "1.4 M"),
    "all_cnn_c": ("All-CNN-C", 9.08, "1.4 M"),
}
"""Table 3: title, error in percent, approximate number of parameters."""


TABLE_4_PARAMETERS: dict[str, str] = {"cifar10-allcnn-c": "1.3 M"}
"""Where Table 4 prints another number of parameters than Table 3 for the same network."""


def _slug(architecture: str) -> str:
    return architecture.replace("all_cnn", "allcnn").replace("_", "-")


def _cifar_schedule(architecture: str) -> Schedule:
    return replace(CIFAR_SCHEDULE, base_lr=MEASURED_RATES.get(architecture, CIFAR_SCHEDULE.base_lr))


def _experiments() -> dict[str, Experiment]:
    found: list[Experiment] = []
    for name, (title, error, count) in TABLE_3_ERRORS.items():
        found.append(
            Experiment(
                f"cifar10-{_slug(name)}", title, name, CIFAR10, _cifar_schedule(name), f"Table 3, {title}", error, count
            )
        )
    found.append(
        Experiment(
            "cifar10-allcnn-c-aug",
            "All-CNN-C, augmented",
            "all_cnn_c",
            CIFAR10_PAD5,
            CIFAR_SCHEDULE,
            "Table 4, CIFAR-10 with data augmentation, ALL-CNN",
            7.25,
            "1.3 M",
        )
    )
    for name, (title, _, _) in TABLE_3_ERRORS.items():
        published = name == "all_cnn_c"
        found.append(
            Experiment(
                f"cifar100-{_slug(name)}",
                title,
                name,
                CIFAR100,
                _cifar_schedule(name),
                "Table 4, CIFAR-100, ALL-CNN" if published else f"{title} of Table 3 on CIFAR-100, not published",
                33.71 if published else None,
            )
        )
    found.append(
        Experiment(
            "cifar10-large-allcnn",
            "Large-All-CNN",
            "large_all_cnn",
            CIFAR10_LARGE,
            LARGE_SCHEDULE,
            "Table 4, CIFAR-10 with large data augmentation, Large ALL-CNN",
            4.41,
            "> 50 M",
        )
    )
    found.append(
        Experiment(
            "imagenet-allcnn",
            "ImageNet All-CNN-B",
            "imagenet",
            ILSVRC12,
            IMAGENET_SCHEDULE,
            "section 3.3 and Table 6",
            41.2,
            "< 10 M",
        )
    )
    return {experiment.name: experiment for experiment in found}


EXPERIMENTS: dict[str, Experiment] = _experiments()
"""Every experiment by name, in the order of the paper's tables."""


def experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        TableError: no such experiment.
    """
    if name not in EXPERIMENTS:
        raise TableError("experiment", name, "the name of an experiment", EXPERIMENTS)
    return EXPERIMENTS[name]


# ---------------------------------------------------------------------------------------------------------------------
# Figures that the paper cites


@dataclass(frozen=True)
class Cited:
    """A competitor's row: table and its section, method, error in percent, parameters, where the figure is from."""

    table: str
    section: str
    method: str
    error_percent: float
    parameters: str
    reference: str


_MAXOUT = "Goodfellow et al., 2013"
_NIN = "Lin et al., 2014"
_DSN = "Lee et al., 2014"
_DASNET = "Stollenga et al., 2014"
_TREE = "Srivastava & Salakhutdinov, 2013"
_GRAHAM = "Graham, 2015"

PLAIN, AUGMENTED = "CIFAR-10 without data augmentation", "CIFAR-10 with data augmentation"
HUNDRED, LARGE = "CIFAR-100", "CIFAR-10 with large data augmentation"

CITED: tuple[Cited, ...] = (
    Cited("Table 4", PLAIN, "Maxout", 11.68, "> 6 M", _MAXOUT),
    Cited("Table 4", PLAIN, "Network in Network", 10.41, "1 M", _NIN),
    Cited("Table 4", PLAIN, "Deeply Supervised", 9.69, "1 M", _DSN),
    Cited("Table 4", AUGMENTED, "Maxout", 9.38, "> 6 M", _MAXOUT),
    Cited("Table 4", AUGMENTED, "DropConnect", 9.32, "", _NIN),
    Cited("Table 4", AUGMENTED, "dasNet", 9.22, "> 6 M", _DASNET),
    Cited("Table 4", AUGMENTED, "Network in Network", 8.81, "1 M", _NIN),
    Cited("Table 4", AUGMENTED, "Deeply Supervised", 7.97, "1 M", _DSN),
    Cited("Table 4", HUNDRED, "CNN + tree prior", 36.85, "", _TREE),
    Cited("Table 4", HUNDRED, "Network in Network", 35.68, "", _NIN),
    Cited("Table 4", HUNDRED, "Deeply Supervised", 34.57, "", _DSN),
    Cited("Table 4", HUNDRED, "Maxout (larger)", 34.54, "", _DASNET),
    Cited("Table 4", HUNDRED, "dasNet", 33.78, "", _DASNET),
    Cited("Table 4", HUNDRED, "Fractional Pooling (1 test)", 31.45, "", _GRAHAM),
    Cited("Table 4", HUNDRED, "Fractional Pooling (12 tests)", 26.39, "", _GRAHAM),
    Cited("Table 4", LARGE, "Spatially Sparse CNN", 4.47, "", _GRAHAM),
    Cited("Table 4", LARGE, "Fractional Pooling (1 test)", 4.50, "", _GRAHAM),
    Cited("Table 4", LARGE, "Fractional Pooling (100 tests)", 3.47, "", _GRAHAM),
    Cited("section 3.3", "ILSVRC-2012, Top-1", "Krizhevsky et al.", 40.7, "60 M", "Krizhevsky et al., 2012"),
)
"""The competitors' figures as the paper prints them: cited, not measured here."""


# ---------------------------------------------------------------------------------------------------------------------
# Epochs to iterations


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


@dataclass(frozen=True)
class Plan:
    """A schedule in iterations. snapshot and test_interval in iterations too."""

    max_iter: int
    stepvalue: tuple[int, ...]
    stepsize: int
    gamma: float
    test_iter: int
    test_batch_size: int
    test_interval: int
    display: int
    snapshot: int
    epochs: float


SNAPSHOTS_PER_RUN = 14
"""A run keeps 14 snapshots: every 25 of 350 epochs."""


def plan(
    schedule: Schedule,
    n_train: int,
    n_test: int,
    batch_size: int,
    epochs: float | None = None,
    test_batch_size: int | None = None,
) -> Plan:
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
    stepsize, gamma = 0, schedule.gamma
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
            gamma = math.exp(-schedule.decay_per_epoch * schedule.epochs / float(total) * batch_size / n_train)
    display = next(step for step in (100, 10, 1) if epoch_iters >= step)
    snapshot = max(epoch_iters, math.floor(Fraction(max_iter, SNAPSHOTS_PER_RUN) + Fraction(1, 2)))
    return Plan(
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
    )


# ---------------------------------------------------------------------------------------------------------------------
# docs/architectures.md


def _measured(name: str, options: architectures.NetOptions | None = None) -> int:
    return architectures.parameters(architectures.architecture(name), options)


def _map_sizes(name: str) -> str:
    return ", ".join(map(str, architectures.map_sizes(architectures.architecture(name))))


def _parameter_rows() -> list[str]:
    rows = ["| network | built | 100-way | paper | paper is off by | map sizes |", "|---|---:|---:|---:|---:|---|"]
    hundred = architectures.NetOptions(num_output=100)
    for name, (title, _, published) in TABLE_3_ERRORS.items():
        count = _measured(name)
        off = 100 * (float(published.split()[0]) * 1e6 / count - 1)
        rows.append(
            f"| {title} | {count:,} | {_measured(name, hundred):,} | {published} | {off:+.0f} % | {_map_sizes(name)} |"
        )
    for name, title, published in (("large_all_cnn", "Large-All-CNN", "> 50 M"), ("imagenet", "ImageNet", "< 10 M")):
        rows.append(f"| {title} | {_measured(name):,} | | {published} | | {_map_sizes(name)} |")
    return rows


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def document() -> str:
    """``docs/architectures.md``: the counts beside the published ones, and every assumption; written from the tables."""
    model_a, model_b, model_c = (_measured(name) for name in ("model_a", "model_b", "model_c"))
    lines = [
        "# Architectures",
        "",
        "Written by `python -m allconv_caffe.paper.experiments > docs/architectures.md` from `allconv_caffe/paper/architectures.py`",
        "and `allconv_caffe/paper/experiments.py`; a test compares.",
        "",
        "Twelve networks are three base tables (Table 1: Models A, B, C) and three transformations (section 3.1, Table 2):",
        "",
        "* `strided`: each pool is dropped; the convolution before it takes the pool's stride on top of its own.",
        "* `conv_pool`: one more convolution before each pool, with the pool's kernel size and stride 1.",
        "* `all_conv`: each pool becomes a convolution with the pool's kernel size and stride.",
        "",
        "An added convolution keeps the number of channels. They work for any base, see below.",
        "Large-All-CNN (Table 5) and the ImageNet network (Table 6) are tables of their own.",
        "",
        "Convolutions are conv1 to convN, their ReLUs relu1 to reluN (in place), pools pool1 and so on; drop0 is the",
        "dropout on the input; then come global_pool, accuracy and loss; in deploy, prob.",
        "",
        "## Parameters",
        "",
        "Weights and biases, as built and as printed in the paper; map sizes in pixels after each convolution and pool.",
        "",
        *_parameter_rows(),
        "",
        f"**Model C contradicts the paper.** With Table 1's layers Model C and Strided-CNN-C have {model_c:,} parameters;",
        f"Table 3 prints 1.3 M, {100 * (1.3e6 / model_c - 1):.0f} % more. No reading of Table 1 explains the rest, while",
        f"{model_a:,}, {model_b:,}, {model_c:,} fit the text's \"the depth and number of parameters gradually",
        'increases". Table 4 in turn prints 1.3 M for All-CNN-C where Table 3 prints 1.4 M. The other figures of Table 3',
        "lie 2 to 13 % above the counts. What is built is Table 1; reports print both numbers.",
        "",
        "Every one of the twelve reaches 6x6 before the global average, as Table 1 says, with no padding on the 3x3",
        "convolution above the last pool.",
        "",
        "## Schedules",
        "",
        "iterations = epochs * training images / batch size, rounded to the nearest whole number, halves up. For CIFAR with",
        "batch 128 the drops after 200, 250 and 300 of 350 epochs fall on iterations 78125, 97656 and 117188 of 136719; an",
        "epoch is 390.625 iterations, so tests come every 391. `EPOCHS=n` stretches the whole schedule in proportion. The",
        "last iteration is in general no multiple of the test interval, and Caffe then ends without a test: the final error",
        "comes from a test of the last snapshot, not from the training log.",
        "",
        "## What the paper leaves open",
        "",
        "Every default that the paper does not state, why it is taken, and what else may be chosen (options of",
        "`allconv render`).",
    ]
    for family, title in (
        ("cifar", "Models A, B, C and their derivatives, on CIFAR-10 and CIFAR-100"),
        ("large", "Large-All-CNN"),
        ("imagenet", "The ImageNet network"),
    ):
        lines += ["", f"### {title}", "", "| point | taken | why | else |", "|---|---|---|---|"]
        for entry in architectures.ASSUMPTIONS:
            if family in entry.families:
                cells = [f"`{entry.key}`", entry.value, entry.reason, entry.options]
                lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    lines += ["", *_TABLE_OF_YOUR_OWN]
    return "\n".join(lines) + "\n"


_TABLE_OF_YOUR_OWN = [
    "## A table of your own",
    "",
    "`allconv derive TABLE.toml --output FOLDER` writes solver, train_val and deploy for a network of your own; `caffe train`",
    "takes them as they are. `allconv derive all_cnn_c --width-multiplier 0.5 --output FOLDER` changes a network of the paper;",
    "`--widths`, `--kernel-sizes`, `--depth` and `--transform` too. A table:",
    "",
    "```toml",
    'name = "tiny"              # letters, digits, ".", "_", "-"',
    'transform = "all_conv"     # none, strided, conv_pool, all_conv',
    "input_shape = [3, 32, 32]  # channels, height, width; the default",
    "classes = 10               # the default: the data set's",
    "input_dropout = 0.2        # the default: 0",
    "pool_dropout = 0.5         # after each pool, or the layer that replaces it; the default: 0",
    "# also: source, negative_slope, filler",
    "",
    "[[layer]]",
    'type = "conv"              # conv, max_pool, average_pool, global_pool',
    'num_output = 32            # or "classes"',
    'kernel_size = 3            # also: stride, pad (pixels or "same"), relu, dropout',
    "",
    "[[layer]]",
    'type = "max_pool"          # or average_pool; also: pad',
    "kernel_size = 3",
    "stride = 2",
    "",
    "[[layer]]",
    'type = "conv"',
    'num_output = "classes"',
    "kernel_size = 1",
    "",
    "[[layer]]",
    'type = "global_pool"',
    "",
    '[options]                  # options of `allconv render`, with "_" for "-"',
    'train_lmdb = "data/mine/train_lmdb"',
    'test_lmdb = "data/mine/test_lmdb"',
    "n_train = 1500",
    "n_test = 500",
    "```",
    "",
    'Instead of `[[layer]]` entries a table may say `base = "model_c"` (or another of the paper\'s networks); `[change]` with',
    "`widths`, `width_multiplier`, `kernel_sizes` or `depth` acts on either, before the transformation. A Python table is a",
    "file that sets `ARCHITECTURE` with the constructors of `allconv_caffe.paper.architectures`; it is executed.",
]


if __name__ == "__main__":
    print(document(), end="")
