"""What may be varied about an experiment: each option with its type, its rule, its help and its default in one line.

``NetOptions`` are those that change the network, ``RenderOptions`` all of ``allconv render``. None is as published, or as
assumed where the paper is silent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from allconv_caffe.paper.architectures import FILLERS, Readings
from allconv_caffe.paper.errors import RenderError, TableError
from allconv_caffe.paper.rules import (
    FLAG,
    MOMENTUM,
    NOT_NEGATIVE,
    PATH,
    POSITIVE,
    RATE,
    SIZE,
    Number,
    Numbers,
    OneOf,
    Whole,
    check_fields,
    rules,
)

DROPOUTS = ("paper", "all", "1x1", "none")


@dataclass(frozen=True, kw_only=True)
class NetOptions(Readings):
    """What may be varied about a network; the defaults are the faithful ones. None: as the table or the text says."""

    relu_last: Annotated[bool | None, FLAG, "ReLU on the last 1x1 convolution: true or false"] = None
    negative_slope: Annotated[float | None, NOT_NEGATIVE, "slope of the ReLUs below zero"] = None
    filler: Annotated[str | None, OneOf(FILLERS), "weight filler: xavier, gaussian, msra or graham"] = None
    filler_std: Annotated[float | None, POSITIVE, "standard deviation of the gaussian filler"] = None
    bias_lr_mult: Annotated[float | None, NOT_NEGATIVE, "lr_mult of the biases"] = None
    bias_decay_mult: Annotated[float | None, NOT_NEGATIVE, "decay_mult of the biases"] = None
    conv7_pad: Annotated[int, Whole(0), "padding in pixels of the last 3x3 convolution"] = 0
    dropout: Annotated[str, OneOf(DROPOUTS), "where dropout stands: paper, all, 1x1 or none"] = "paper"
    input_dropout: Annotated[float | None, RATE, "dropout rate on the image"] = None
    dropout_ratio: Annotated[float | None, RATE, "dropout rate inside the network"] = None
    batchwise_dropout: Annotated[
        bool, FLAG, "drop the same channels for a whole batch, as Graham does: true or false"
    ] = False
    num_output: Annotated[int | None, SIZE, "number of classes"] = None

    def __post_init__(self) -> None:
        check_fields(self, "option ")


@dataclass(frozen=True, kw_only=True)
class RenderOptions(NetOptions):
    """What may be varied when an experiment is rendered. None: as published, or as assumed where the paper is silent.

    Where ``epochs`` are given the whole schedule is stretched in proportion; ``drop_epochs`` are out of ``epochs``.
    ``net_path`` and ``snapshot_prefix`` are by default relative to the project's root.
    """

    epochs: Annotated[float | None, POSITIVE, "epochs in all; the schedule in proportion"] = None
    drop_epochs: Annotated[
        tuple[float, ...] | None,
        Numbers(Number("numbers above 0", least=0, above=True)),
        "epochs after which the rate drops, with commas between",
    ] = None
    lr: Annotated[float | None, POSITIVE, "base_lr"] = None
    momentum: Annotated[float | None, MOMENTUM, "of SGD"] = None
    weight_decay: Annotated[float | None, NOT_NEGATIVE, "of SGD"] = None
    clip_gradients: Annotated[float | None, POSITIVE, "largest L2 norm of the whole gradient"] = None
    batch_size: Annotated[int | None, SIZE, "images of one training iteration"] = None
    test_batch_size: Annotated[int | None, SIZE, "images of one test iteration; divides the test set"] = None
    random_seed: Annotated[int | None, Whole(0, 2**32 - 1), "random_seed of the solver"] = None
    solver_mode: Annotated[str, OneOf(("GPU", "CPU")), "GPU or CPU"] = "GPU"
    device_id: Annotated[int | None, Whole(0), "device_id of the solver"] = None
    display: Annotated[int | None, SIZE, "iterations between two displayed losses"] = None
    test_interval: Annotated[int | None, SIZE, "iterations between two tests"] = None
    snapshot: Annotated[int | None, SIZE, "iterations between two snapshots"] = None
    train_lmdb: Annotated[str | None, PATH, "LMDB of the training images"] = None
    test_lmdb: Annotated[str | None, PATH, "LMDB of the test images"] = None
    n_train: Annotated[int | None, SIZE, "number of training images"] = None
    n_test: Annotated[int | None, SIZE, "number of test images"] = None
    channels: Annotated[int | None, SIZE, "channels of a Datum"] = None
    image_size: Annotated[int | None, SIZE, "height and width of a Datum in pixels"] = None
    crop_size: Annotated[int | None, SIZE, "pixels the network sees of them"] = None
    mirror: Annotated[bool | None, FLAG, "horizontal flips in training: true or false"] = None
    scale: Annotated[float | None, POSITIVE, "factor on the values, after the mean"] = None
    mean_value: Annotated[
        tuple[float, ...] | None, Numbers(Number("numbers")), "subtracted from each channel, with commas between"
    ] = None
    mean_file: Annotated[str | None, PATH, "mean image (binaryproto) subtracted, for an LMDB of raw bytes"] = None
    colour_form: Annotated[
        str | None, OneOf(("cosine", "linear")), "colour distortion of Graham's first release, or of the later one"
    ] = None
    graham: Annotated[bool | None, FLAG, "distort as Graham's program does, slips and all: true or false"] = None
    net_path: Annotated[str | None, PATH, "net as written into the solver"] = None
    snapshot_prefix: Annotated[str | None, PATH, "snapshot_prefix as written into the solver"] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mean_file is not None and self.mean_value:
            raise RenderError("option mean_file", self.mean_file, "none beside mean_value: Caffe takes one of them")


def option_flags(options: NetOptions) -> list[str]:
    """The options that differ from the defaults, as flags of ``allconv render``: ``["--epochs", "15"]``."""
    flags: list[str] = []
    for entry in dataclasses.fields(options):
        value = getattr(options, entry.name)
        if value == entry.default and isinstance(value, bool) == isinstance(entry.default, bool):
            continue
        if isinstance(value, tuple):
            text = ",".join(number(part) for part in value)
        elif isinstance(value, bool):
            text = str(value).lower()
        else:
            text = number(value) if isinstance(value, float) else str(value)
        flags += ["--" + entry.name.replace("_", "-"), text]
    return flags


def options_from(entries: Mapping[str, Any], where: str = "options") -> RenderOptions:
    """Make ``RenderOptions`` of names and values, e.g. a table of a TOML file.

    Raises:
        TableError: an unknown name, or a value that does not serve; ``where`` begins the message.
    """
    known = {entry.name: entry for entry in dataclasses.fields(RenderOptions)}
    for key in entries:
        if key not in known:
            raise RenderError(f"{where}: {key}", key, "the name of an option", known)
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entries.items()}
    try:
        return RenderOptions(**values)
    except TableError as error:
        raise RenderError.of(error).within(where) from None


def option_from_text(name: str, text: str) -> Any:
    """The value of an option as typed on a command line: whole numbers, numbers, true or false, lists with commas.

    Raises:
        TableError: an unknown option, or a text that its type cannot be read from.
    """
    known = rules(RenderOptions)
    if name not in known:
        raise RenderError(f"option {name}", name, "the name of an option", known)
    try:
        return known[name].read(text)
    except (KeyError, ValueError):
        raise RenderError(f"option {name}", text, known[name].kind) from None


def number(value: float) -> str:
    """The shortest decimal of at most 9 digits: 0.05, 1, 3e-05."""
    return f"{value:.9g}"
