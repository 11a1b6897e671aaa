"""Tables and templates become prototxt: solver, train_val and deploy of an experiment.

``render`` is pure: experiment and options in, three texts out. ``write`` puts them into a folder with the snapshot
folder that the solver names; ``check`` renders everything again and compares bytes. All arithmetic happens here or in
``experiments``; the templates in ``prototxt_templates`` decide layout alone.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from allconv_caffe import files
from allconv_caffe.paper import experiments
from allconv_caffe.paper.architectures import Architecture
from allconv_caffe.paper.datasets import COLOUR_SIGMAS, Augmentation, Dataset
from allconv_caffe.paper.errors import RenderError
from allconv_caffe.paper.experiments import Experiment
from allconv_caffe.paper.options import RenderOptions, number, option_flags
from allconv_caffe.paper.plan import Layer, build
from allconv_caffe.paper.rules import LARGEST_INT, OneOf
from allconv_caffe.paper.schedules import Timetable, scaled_epochs, timetable

SOLVER, PLAIN_SOLVER = "solver.prototxt", "solver_plain.prototxt"
FILES: tuple[str, ...] = (SOLVER, "train_val.prototxt", "deploy.prototxt")
"""What every experiment has; see ``file_names``."""

RELU_LAYERS: dict[str, str] = {"plain": "", "deconv": "DeconvReLU", "guided": "GuidedReLU"}
"""What `--relu` names: the layer of ``allconv_caffe.python_layers`` in the place of each ReLU; plain: Caffe's own."""

SNAPSHOT_FOLDER_FILES: dict[str, str] = {
    ".gitignore": "# what training writes here stays out of the repository\n*\n!.gitignore\n!.gitkeep\n",
    ".gitkeep": "",
}
"""What makes the snapshot folder exist in a fresh clone, and keeps its snapshots out of the repository."""


# ---------------------------------------------------------------------------------------------------------------------


def resolve_dataset(experiment: Experiment, options: RenderOptions) -> Dataset:
    """The experiment's data set with what the options change about it."""
    dataset = experiment.dataset
    channels, height, width = dataset.shape
    size, input_size = options.image_size, dataset.input_size
    if options.channels is not None:
        channels = options.channels
    if size is not None:
        height = width = size
        input_size = input_size if dataset.augmented else options.crop_size or size
    if options.crop_size is not None:
        input_size = options.crop_size
    if input_size > min(height, width) and not dataset.augmented:
        raise RenderError("option crop_size", input_size, f"at most the image size, {min(height, width)}")
    if options.mean_value is not None and len(options.mean_value) not in (1, channels):
        raise RenderError(
            "option mean_value", options.mean_value, f"one number, or one for each of {channels} channels"
        )
    changes: dict[str, Any] = {
        "classes": options.num_output,
        "n_train": options.n_train,
        "n_test": options.n_test,
        "train_lmdb": options.train_lmdb,
        "test_lmdb": options.test_lmdb,
        "mirror": options.mirror,
        "scale": options.scale,
        "mean_value": options.mean_value if options.mean_file is None else (),
        "mean_file": options.mean_file if options.mean_value is None else "",
        "augmented": _augmented(dataset, options, input_size),
    }
    given = {key: value for key, value in changes.items() if value is not None}
    return replace(dataset, shape=(channels, height, width), input_size=input_size, **given)


def _augmented(dataset: Dataset, options: RenderOptions, size: int) -> Augmentation | None:
    """How a Python layer distorts the images; None where Caffe's Data layer reads them.

    Raises:
        RenderError: an option of the other kind of layer.
    """
    own = ("mirror", "scale", "mean_value", "mean_file") if dataset.augmented else ("graham", "colour_form")
    for name in own:
        if (value := getattr(options, name)) is not None:
            layer = "AugmentedData" if dataset.augmented else "Data"
            raise RenderError(f"option {name}", value, f"none: a layer {layer} makes the images of {dataset.name}")
    if dataset.augmented is None:
        return None
    changes: dict[str, Any] = {"size": size}
    if options.graham is not None:
        changes["graham"] = options.graham
    if options.colour_form is not None:
        changes |= {"colour_form": options.colour_form, "colour": COLOUR_SIGMAS[options.colour_form]}
    return replace(dataset.augmented, **changes)


def resolve_network(experiment: Experiment, options: RenderOptions) -> Architecture:
    """The experiment's network for the data set that the options leave it with."""
    dataset = resolve_dataset(experiment, options)
    network = experiment.network(options)
    size = dataset.input_size
    return replace(network, classes=dataset.classes, input_shape=(dataset.shape[0], size, size))


def resolve_timetable(experiment: Experiment, options: RenderOptions) -> Timetable:
    """The experiment's schedule in iterations."""
    dataset = resolve_dataset(experiment, options)
    schedule = experiment.schedule
    if options.drop_epochs is not None:
        if schedule.lr_policy != "multistep":
            raise RenderError("option drop_epochs", options.drop_epochs, f"none: lr_policy is {schedule.lr_policy}")
        total = options.epochs or schedule.epochs
        if any(drop >= total for drop in options.drop_epochs) or list(options.drop_epochs) != sorted(
            options.drop_epochs
        ):
            raise RenderError("option drop_epochs", options.drop_epochs, f"rising epochs below {total:g}")
        schedule = replace(schedule, epochs=total, drop_epochs=options.drop_epochs)
    table = timetable(
        schedule,
        dataset.n_train,
        dataset.n_test,
        options.batch_size or schedule.batch_size,
        options.epochs,
        options.test_batch_size,
    )
    for entry in ("max_iter", "test_iter", "test_interval"):
        if (count := getattr(table, entry)) > LARGEST_INT:
            raise RenderError(f"{experiment.name}: {entry}", count, f"at most {LARGEST_INT}, which Caffe's int holds")
    return replace(
        table,
        display=options.display or table.display,
        test_interval=options.test_interval or table.test_interval,
        snapshot=options.snapshot or table.snapshot,
    )


def _loader() -> jinja2.BaseLoader:
    """The templates: those of the installed package, or of the tree that this file stands in."""
    beside = Path(__file__).resolve().parents[2] / "prototxt_templates"
    folder = beside if beside.is_dir() else resources.files("prototxt_templates")

    def load(name: str) -> str | None:
        entry = folder / name
        return entry.read_text(encoding="utf-8") if entry.is_file() else None

    return jinja2.FunctionLoader(load)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=_loader(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def _data_layers(dataset: Dataset, batch_size: int, table: Timetable, seed: int | None) -> list[dict[str, Any]]:
    """TRAIN and TEST; of a distorted data set also the TRAIN of the plain epochs, in a net of the stage ``plain``."""
    sides = (("TRAIN", dataset.train_lmdb, batch_size), ("TEST", dataset.test_lmdb, table.test_batch_size))
    if dataset.augmented is None:
        return [
            {
                "phase": phase,
                "rule": "",
                "param_str": "",
                "source": source,
                "batch_size": size,
                "transform": _transform(dataset, phase),
            }
            for phase, source, size in sides
        ]
    layers: list[dict[str, Any]] = []
    for phase, source, size in sides:
        if "'" in source:
            raise RenderError(f"{phase} data", source, "a path without apostrophes: it stands between two in param_str")
        start = 0
        for rule in ("not_stage", "stage") if phase == "TRAIN" and table.plain_iter else ("",):
            text = dataset.augmented.param_str(source, size, phase == "TRAIN" and not start, seed, start)
            layers.append({"phase": phase, "rule": rule, "param_str": text})
            start = table.plain_iter * batch_size
    return layers


def _transform(dataset: Dataset, phase: str) -> list[dict[str, str]]:
    transform: list[dict[str, str]] = []
    if dataset.scale != 1:
        transform.append({"field": "scale", "value": number(dataset.scale)})
    if dataset.mirror and phase == "TRAIN":  # Caffe mirrors in TEST too wherever it stands
        transform.append({"field": "mirror", "value": "true"})
    if dataset.crop_size:
        transform.append({"field": "crop_size", "value": str(dataset.crop_size)})
    transform += [{"field": "mean_value", "value": number(value)} for value in dataset.mean_value]
    if dataset.mean_file:
        transform.append({"field": "mean_file", "value": f'"{dataset.mean_file}"'})
    return transform


def render(
    experiment: str | Experiment,
    options: RenderOptions | None = None,
    command: str | None = None,
    relu: str | None = None,
) -> dict[str, str]:
    """The three files of an experiment.

    Args:
        experiment: its name in ``EXPERIMENTS``, or an ``Experiment`` of one's own.
        command: what the first line names as the command that rendered it; by default ``allconv render`` with its
        flags.
        relu: of ``RELU_LAYERS``: the deploy net alone, for visualising: ``force_backward: true``, so that gradients
        reach the image in pycaffe, and the rule's Python layer in the place of each ReLU. None: the nets as trained.
    Returns:
        ``{"solver.prototxt": text, "train_val.prototxt": text, "deploy.prototxt": text}``; with `relu` the last alone.
    Raises:
        TableError: an unknown experiment, an option or a table that does not serve; a leaky ReLU with a rule.
    """
    if isinstance(experiment, str):
        experiment = experiments.experiment(experiment)
    options = options or RenderOptions()
    if relu is not None:
        OneOf(tuple(RELU_LAYERS)).check("option relu", relu)
    if command is None:
        flags = [*option_flags(options), *(["--relu", relu] if relu else [])]
        command = " ".join(["allconv render", experiment.name, *map(shlex.quote, flags)])
    context = {
        "header": f"{experiment.name}: {experiment.source}. Rendered by: {command}",
        "net": _net(experiment, options, relu),
    }
    environment = _environment()
    texts = {}
    for name in FILES[-1:] if relu else file_names(experiment, options):
        template = environment.get_template(f"{SOLVER if name == PLAIN_SOLVER else name}.j2")
        solver = {} if relu else {"solver": _solver(experiment, options, plain=name == PLAIN_SOLVER)}
        texts[name] = template.render({**context, **solver})
    return texts


def file_names(experiment: Experiment, options: RenderOptions | None = None) -> tuple[str, ...]:
    """The names of an experiment's files; where its last epochs are plain, ``solver_plain.prototxt`` stands second.

    ``caffe train -solver solver.prototxt`` ends where the plain epochs begin, and ``-solver solver_plain.prototxt -snapshot``
    with its last snapshot goes on to the end.
    """
    plain = resolve_timetable(experiment, options or RenderOptions()).plain_iter
    return (SOLVER, PLAIN_SOLVER, *FILES[1:]) if plain else FILES


def _net(experiment: Experiment, options: RenderOptions, relu: str | None) -> dict[str, Any]:
    """What the templates of the two nets print."""
    dataset = resolve_dataset(experiment, options)
    network = resolve_network(experiment, options)
    layers = _resolved(network, options, relu)
    batch_size = options.batch_size or experiment.schedule.batch_size
    bias_lr, bias_decay = options.bias_lr_mult, options.bias_decay_mult
    return {
        "name": network.name,
        "force_backward": relu is not None,
        "data": _data_layers(dataset, batch_size, resolve_timetable(experiment, options), options.random_seed),
        "layers": [
            {
                **dataclasses.asdict(layer),
                "python_layer": RELU_LAYERS[relu] if relu and layer.type == "ReLU" else "",
                "dropout_ratio": number(layer.dropout_ratio),
                "filler_std": number(layer.filler_std),
                "filler_bound": number(layer.filler_bound),
                "fixed_weight": number(layer.fixed_weight) if layer.fixed_weight else "",
                "power": number(layer.power),
                "shift": number(layer.shift) if layer.shift else "",
                "negative_slope": number(layer.negative_slope) if layer.negative_slope else "",
            }
            for layer in layers
        ],
        "scores": layers[-1].top,
        "input_shape": (1, *network.input_shape),
        "bias_lr_mult": number(network.bias_lr_mult if bias_lr is None else bias_lr),
        "bias_decay_mult": number(network.bias_decay_mult if bias_decay is None else bias_decay),
    }


def _resolved(network: Architecture, options: RenderOptions, relu: str | None) -> tuple[Layer, ...]:
    """The network's layers; they end in one score per class, and no leaky ReLU has a rule of ``relu``."""
    layers = build(network, options)
    height, width = layers[-1].shape[1:]
    if (height, width) != (1, 1):
        expected = "1x1 (end the table with global averaging)"
        raise RenderError(f"{network.name}: last layer", f"{height}x{width} scores per class", expected)
    leaky = next((layer for layer in layers if layer.type == "ReLU" and layer.negative_slope), None)
    if relu not in (None, "plain") and leaky is not None:
        expected = f"0 with --relu {relu}: the rule has no other meaning (--negative-slope 0 takes plain ReLUs)"
        raise RenderError(f"{network.name}: layer '{leaky.name}'", f"negative_slope {leaky.negative_slope:g}", expected)
    return layers


def _solver(experiment: Experiment, options: RenderOptions, plain: bool) -> dict[str, Any]:
    """What the template of the solver prints; ``plain``: of the one for the plain epochs at the end."""
    dataset, schedule = resolve_dataset(experiment, options), experiment.schedule
    table = resolve_timetable(experiment, options)
    batch_size = options.batch_size or schedule.batch_size
    epoch_iters = number(dataset.n_train / batch_size)
    max_iter = table.plain_iter if table.plain_iter and not plain else table.max_iter
    length = table.epochs if max_iter == table.max_iter else max_iter * batch_size / dataset.n_train
    drops = options.drop_epochs or scaled_epochs(schedule, options.epochs)[1]
    test_note = f"{table.test_iter} x {table.test_batch_size} = {dataset.n_test} test images, once each"
    return {
        "net": options.net_path or f"solvers/{experiment.name}/train_val.prototxt",
        "test_note": test_note + (", every epoch" if options.test_interval is None else ""),
        "test_iter": table.test_iter,
        "test_interval": table.test_interval,
        "base_lr": number(options.lr or schedule.base_lr),
        "display": table.display,
        "stage": "plain" if plain else "",
        "length_note": f"{length:.6g} epochs of {dataset.n_train} / {batch_size} = {epoch_iters} iterations"
        + (", the last of them plain" if plain else ""),
        "max_iter": max_iter,
        "lr_policy": schedule.lr_policy,
        "gamma": number(table.gamma),
        "momentum": number(schedule.momentum if options.momentum is None else options.momentum),
        "weight_decay": number(schedule.weight_decay if options.weight_decay is None else options.weight_decay),
        "stepsize": table.stepsize,
        "stepvalue": table.stepvalue,
        "drop_note": f"epochs {', '.join(f'{float(drop):.6g}' for drop in drops)}",
        "clip_gradients": number(options.clip_gradients) if options.clip_gradients else "",
        "snapshot": table.snapshot,
        "snapshot_prefix": options.snapshot_prefix or f"solvers/{experiment.name}/snapshots/{experiment.name}",
        "mode": options.solver_mode,
        "device_id": options.device_id,
        "random_seed": options.random_seed,
        "type": schedule.type,
    }


# ---------------------------------------------------------------------------------------------------------------------


def _posix(path: Path, root: Path) -> str:
    """The path as a solver names it: relative to the root if it lies below it."""
    path, root = path.resolve(), root.resolve()
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def write(
    experiment: str | Experiment,
    directory: str | Path | None = None,
    options: RenderOptions | None = None,
    root: str | Path = ".",
    command: str | None = None,
    relu: str | None = None,
) -> list[Path]:
    """Render an experiment into a folder and make the snapshot folder that its solver names.

    Args:
        directory: by default ``root/solvers/<experiment>``. The solver names its files there, relative to ``root``
            when the folder lies below it, unless the options name others.
        relu: see ``render``; the deploy net alone, by default in ``root/build/<experiment>-<relu>``.
    Returns:
        The paths of the three files, or of the one.
    Raises:
        TableError: see ``render``; or the folder cannot be written.
    """
    if isinstance(experiment, str):
        experiment = experiments.experiment(experiment)
    options = options or RenderOptions()
    root = Path(root)
    usual = root / "build" / f"{experiment.name}-{relu}" if relu else root / "solvers" / experiment.name
    folder = usual if directory is None else Path(directory)
    default = folder.resolve() == usual.resolve()
    if command is None:
        extra = [] if default else ["--output", str(directory)]
        flags = map(shlex.quote, [*option_flags(options), *(["--relu", relu] if relu else []), *extra])
        command = " ".join(["allconv render", experiment.name, *flags])
    if not default and not relu:
        options = replace(
            options,
            net_path=options.net_path or _posix(folder / "train_val.prototxt", root),
            snapshot_prefix=options.snapshot_prefix or _posix(folder / "snapshots" / experiment.name, root),
        )
    texts = render(experiment, options, command, relu)
    snapshots = folder / "snapshots"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not relu:
            snapshots.mkdir(exist_ok=True)
            for name, text in SNAPSHOT_FOLDER_FILES.items():
                files.write(snapshots / name, text)
        for name, text in texts.items():
            files.write(folder / name, text)
    except OSError as error:
        raise RenderError(str(folder), error.strerror or str(error), "a folder that can be written") from None
    return [folder / name for name in texts]


def write_all(names: Iterable[str] | None = None) -> list[Path]:
    """Render every experiment, or those named, into ``solvers``."""
    return [path for name in names or experiments.EXPERIMENTS for path in write(name)]


def check(root: str | Path = ".", names: Iterable[str] | None = None) -> list[str]:
    """Render again and compare bytes with what lies in ``root/solvers``.

    Returns:
        One line per difference: a file that is missing or differs (with the first differing line), a missing snapshot
        folder, a folder that belongs to no experiment. Empty: all is as rendered.
    """
    root = Path(root)
    chosen = list(names) if names is not None else list(experiments.EXPERIMENTS)
    found: list[str] = []
    for name in chosen:
        folder = Path("solvers") / name
        for file, text in render(name).items():
            path = root / folder / file
            if not path.is_file():
                found.append(f"{(folder / file).as_posix()}: missing; run: allconv render {name}")
            elif path.read_bytes() != text.encode("utf-8"):
                line, is_now, should = _first_difference(path.read_text(encoding="utf-8", errors="replace"), text)
                found.append(
                    f"{(folder / file).as_posix()}:{line}: found {is_now!r}, expected {should!r}; "
                    f"run: allconv render {name}"
                )
        for file in SNAPSHOT_FOLDER_FILES:
            if not (root / folder / "snapshots" / file).is_file():
                found.append(f"{(folder / 'snapshots' / file).as_posix()}: missing; run: allconv render {name}")
    if names is None and (root / "solvers").is_dir():
        for path in sorted((root / "solvers").iterdir()):
            if path.is_dir() and path.name not in experiments.EXPERIMENTS:
                found.append(f"solvers/{path.name}: belongs to no experiment; remove it")
    return found


def _first_difference(found: str, expected: str) -> tuple[int, str, str]:
    first, second = found.splitlines(), expected.splitlines()
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index + 1, one, other
    index = min(len(first), len(second))
    one, other = (lines[index] if index < len(lines) else "end of file" for lines in (first, second))
    return index + 1, one, other
