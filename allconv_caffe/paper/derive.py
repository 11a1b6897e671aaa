"""New variants: from a user's own table (``table_file``), or from a network of the paper with other widths, kernel sizes,
depth or transformation. The result is a folder ready for ``caffe train``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allconv_caffe.paper import architectures
from allconv_caffe.paper.architectures import Architecture
from allconv_caffe.paper.changes import apply_changes
from allconv_caffe.paper.datasets import DATASETS
from allconv_caffe.paper.errors import DeriveError
from allconv_caffe.paper.experiments import Experiment
from allconv_caffe.paper.options import options_from
from allconv_caffe.paper.plan import parameters
from allconv_caffe.paper.render import write
from allconv_caffe.paper.schedules import CIFAR_SCHEDULE, IMAGENET_SCHEDULE, LARGE_SCHEDULE
from allconv_caffe.paper.table_file import checked, checked_name, load, placed, transform_names


@dataclass(frozen=True)
class Derived:
    """What ``derive`` made."""

    architecture: Architecture
    experiment: Experiment
    files: tuple[Path, ...]
    parameters: int  # weights and biases


def derive(
    source: str | Path,
    directory: str | Path,
    *,
    name: str | None = None,
    transform: str | None = None,
    widths: Mapping[int, int] | Sequence[int] | None = None,
    width_multiplier: float | None = None,
    kernel_sizes: Mapping[int, int] | int | None = None,
    depth: int | None = None,
    dataset: str | None = None,
    options: Mapping[str, Any] | None = None,
    root: str | Path = ".",
    command: str | None = None,
) -> Derived:
    """Write a new variant into ``directory``: solver, train_val, deploy and the snapshot folder.

    Args:
        source: a ``.toml`` or ``.py`` table, or a network of the paper (``model_c``, ``all_cnn_c``, ...).
        transform: in place of the source's own; the other changes act on the base before it.
        dataset: name in ``DATASETS``, whose paths and counts the solver uses where the options name no
            others. None: the data set of the source's table in the paper, else cifar10.
        options: options of ``allconv render``; they go before the table's own.
        root: the folder that ``caffe train`` will be started in; paths below it are written relative to it.
    Raises:
        TableError: naming file and entry.
    """
    own_name, base, step, table_options = load(source)
    if transform is not None:
        step = transform_names(transform, "option transform")
    changes = {
        "widths": widths,
        "width_multiplier": width_multiplier,
        "kernel_sizes": kernel_sizes,
        "depth": depth,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    where = str(source)
    if given:
        base = placed(where, lambda: apply_changes(base, given))
        checked(base, where)
    if dataset is None:
        dataset = {"large": "cifar10-large", "imagenet": "imagenet"}.get(base.family, "cifar10")
    if dataset not in DATASETS:
        raise DeriveError("option dataset", dataset, "the name of a data set", DATASETS)
    asked = {key: value for key, value in (options or {}).items() if value is not None}
    overrides = options_from(asked)
    merged = replace(table_options, **{key: getattr(overrides, key) for key in asked})
    network = placed(where, lambda: architectures.transform(base, step, merged))
    title = checked_name(name if name is not None else own_name, "option name")
    network = replace(network, name=title, source=f"derived from {base.source}")
    data = DATASETS[dataset]
    if network.input_shape[1] != data.input_size and merged.image_size is None:
        merged = replace(merged, image_size=network.input_shape[1])
    if network.input_shape[0] != data.shape[0] and merged.channels is None:
        merged = replace(merged, channels=network.input_shape[0])
    schedule = {"large": LARGE_SCHEDULE, "imagenet": IMAGENET_SCHEDULE}.get(network.family, CIFAR_SCHEDULE)
    experiment = Experiment(
        name=title, title=title, architecture=network, dataset=data, schedule=schedule, source=network.source
    )
    if command is None:
        command = f"allconv derive {where} --output {directory}"
        command += "".join(f" --{key.replace('_', '-')} {_typed(value)}" for key, value in given.items())
        command += f" --transform {transform}" if transform is not None else ""
    files = placed(where, lambda: write(experiment, directory, merged, root, command))
    return Derived(network, experiment, tuple(files), parameters(network, merged))


def _typed(value: Any) -> str:
    """A change as it is typed: 64,128 or 96=64,192=128."""
    if isinstance(value, Mapping):
        return ",".join(f"{old}={new}" for old, new in value.items())
    return ",".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)


def numbers_from_text(text: str, where: str) -> dict[int, int] | list[int]:
    """``64,128`` -> [64, 128]; ``96=64,192=128`` -> {96: 64, 192: 128}: widths and kernel sizes of a command line."""
    parts = [part.strip() for part in text.split(",")]
    try:
        if all("=" in part for part in parts):
            return {int(old): int(new) for old, new in (part.split("=", 1) for part in parts)}
        return [int(part) for part in parts]
    except ValueError:
        raise DeriveError(where, text, "whole numbers: 64,128 or 96=64,192=128") from None
