"""``allconv viz patterns | compare | surgery | figure``: arguments only, for ``viz.py`` to add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allconv_caffe.cli.viz_options import (
    Inputs,
    channels_from_text,
    chosen_channels,
    names_from_text,
    viz_inputs,
)
from allconv_caffe.cli.words import command_line, example

if TYPE_CHECKING:
    import numpy as np

    from allconv_caffe.visualize.display import Drawing
    from allconv_caffe.visualize.figures import Look, Variant
    from allconv_caffe.visualize.nets.base import VizNet
    from allconv_caffe.visualize.sources import ImageSource

_PATH = click.Path(path_type=Path)
MODELS = dict.fromkeys(range(2, 6), "cifar10-allcnn-c-jpeg") | {6: "cifar10-model-c-jpeg"}
"""What a figure is made from unless a net is named."""
EXPERIMENTS = {"cifar10-allcnn-c-jpeg": "cifar10-allcnn-c", "cifar10-model-c-jpeg": "cifar10-model-c"}
DATA = Path("data/cifar10-jpeg")
SURGERY = ("without pooling", "with pooling and switches")

_OPTIONS: dict[str, Callable[..., Any]] = {
    "blobs": click.option("--blobs", metavar="NAME,...", help="left out: those of the paper's figure that fit the net"),
    "blob": click.option("--blob", metavar="NAME", help="whose largest activation in each image is explained"),
    "unit": click.option(
        "--unit", metavar="BLOB:C[:Y:X]", help="explain this unit in every image, in place of the largest"
    ),
    "same_unit": click.option(
        "--same-unit", is_flag=True, help="after surgery: the channel that was largest before it"
    ),
    "images": click.option("--images", metavar="KEY,...", help="by their keys in the data; left out: drawn by --seed"),
    "count": click.option("--count", type=int, default=4, show_default=True, help="images that are drawn"),
    "channels": click.option("--channels", metavar="LIST", help="filters of each blob, as 0,5,8-11"),
    "sample": click.option("--sample", type=int, metavar="N", help="filters of each blob that are drawn by --seed"),
    "topk": click.option(
        "--topk", type=_PATH, metavar="NPZ", help="of `allconv viz mine`; left out, or not there: mined"
    ),
    "limit": click.option("--limit", type=int, help="mine only the first so many images"),
    "k": click.option("--k", type=int, default=10, show_default=True, help="patches of a filter"),
    "rules": click.option("--rules", metavar="NAME,...", help="backprop, deconvnet, guided; left out: as in the paper"),
    "layers": click.option(
        "--layers", metavar="NAME,...", help="convolutions whose stride becomes pooling; left out: all of stride 2"
    ),
    "accuracy": click.option(
        "--accuracy",
        type=int,
        default=2000,
        show_default=True,
        metavar="N",
        help="images for the nets' top-1; 0 leaves it out",
    ),
    "labels": click.option(
        "--labels", type=_PATH, metavar="FILE", help="names of the classes, a line each; left out: the data set's"
    ),
    "activation_seed": click.option(
        "--activation-seed", is_flag=True, help="begin with the unit's activation, not with 1"
    ),
    "how": click.option(
        "--normalisation",
        "how",
        default="zero-centred",
        show_default=True,
        help="zero-centred, shared, percentile, positive or l2-grey",
    ),
    "shown": click.option(
        "--space",
        "shown",
        default="input",
        show_default=True,
        help="maps of the net's input, or of pixels: input or pixel",
    ),
    "size": click.option("--size", type=int, metavar="PIXELS", help="of a tile's longer side, about"),
    "no_arrays": click.option("--no-arrays", is_flag=True, help="no .npz with the raw maps"),
}
_DRAWN = ("how", "shown", "size", "no_arrays")
_COMPARED = ("images", "count", "unit", "same_unit", "rules", "layers", "accuracy", "labels", "activation_seed")
OF_FIGURE: dict[int, tuple[str, ...]] = {
    1: ("unit", "images", "rules", *_DRAWN),
    2: ("blobs", "channels", "sample", *_DRAWN),
    3: ("blobs", "channels", "sample", "k", "rules", "topk", "limit", *_DRAWN),
    4: ("blob", *_COMPARED, *_DRAWN),
    5: ("blob", *_COMPARED, *_DRAWN),
    6: ("blob", *(name for name in _COMPARED if name not in ("same_unit", "layers")), *_DRAWN),
}
"""The options that mean something for a figure."""


def _options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return command

    return add


@dataclass
class Words:
    """What was typed of _OPTIONS; what a command does not take has its default."""

    blobs: str | None = None
    blob: str | None = None
    unit: str | None = None
    same_unit: bool = False
    images: str | None = None
    count: int = 4
    channels: str | None = None
    sample: int | None = None
    topk: Path | None = None
    limit: int | None = None
    k: int = 10
    rules: str | None = None
    layers: str | None = None
    accuracy: int = 2000
    labels: Path | None = None
    activation_seed: bool = False
    how: str = "zero-centred"
    shown: str = "input"
    size: int | None = None
    no_arrays: bool = False

    def check(self) -> None:
        """Raises: VizError: a value that no option has."""
        from allconv_caffe.visualize import display
        from allconv_caffe.visualize.nets.errors import VizError

        for word, value, choices in (
            ("--normalisation", self.how, display.NORMALISATIONS),
            ("--space", self.shown, ("input", "pixel")),
        ):
            if value not in choices:
                raise VizError(word, repr(value), "a way to draw maps", choices)
        for word, number, least in (
            ("--size", self.size, 1),
            ("--count", self.count, 1),
            ("--k", self.k, 1),
            ("--sample", self.sample, 1),
            ("--accuracy", self.accuracy, 0),
        ):
            if number is not None and number < least:
                raise VizError(word, number, f"{least} or more")

    def look(self, inputs: Inputs) -> Look:
        """How maps of the net that was named are drawn."""
        from allconv_caffe.visualize.figures import Look

        self.check()
        return Look(self.how, self.shown, inputs.space, self.size, command_line(), _classes(inputs, self.labels))

    def rule_names(self, default: Sequence[str]) -> Sequence[str]:
        from allconv_caffe.visualize.nets.rules import rule_name

        return [rule_name(name) for name in names_from_text(self.rules)] if self.rules else default

    def one_rule(self) -> str:
        """Raises: VizError: several."""
        from allconv_caffe.visualize.nets.errors import VizError

        rules = self.rule_names(["guided"])
        if len(rules) != 1:
            raise VizError("--rules", ", ".join(rules), "one rule for this figure")
        return rules[0]

    def filters(
        self, net: VizNet, blob: str, seed: int, default: int | None, alive: Sequence[int] | None = None
    ) -> list[int]:
        """Of one blob: those named, or drawn from those that are alive, or all."""
        from allconv_caffe.visualize.unit import check_blob

        count = check_blob(net, blob)[0]
        if self.channels is not None:
            return channels_from_text(self.channels)
        number = self.sample or default
        if number is None:
            return list(range(count))
        pool = list(range(count)) if alive is None else list(alive)
        return [pool[i] for i in chosen_channels(None, number, len(pool), seed)]

    def chosen_images(self, inputs: Inputs, source: ImageSource, count: int) -> tuple[list[str], np.ndarray]:
        if self.images is not None:
            keys = names_from_text(self.images)
            return keys, source.get(keys)
        return inputs.pick(source, count)


def _classes(inputs: Inputs, labels: Path | None) -> list[str]:
    """Names of the classes: of the file, else of a prepared data set, else none."""
    if labels is not None:
        lines = [line.strip() for line in labels.read_text(encoding="utf-8").splitlines()]
        # Caffe's synset_words.txt begins each line with a synset
        return [
            line.partition(" ")[2].split(",")[0] if line[:1] == "n" and line[1:9].isdigit() else line for line in lines
        ]
    if inputs.data is not None and (inputs.data / "manifest.json").is_file():
        from data_prep.manifest import Manifest

        return list(Manifest.load(inputs.data).class_names)
    return []


def _check_png(output: Path) -> None:
    """Before the work: the picture's name ends as it must."""
    from allconv_caffe.visualize.nets.errors import VizError

    if output.suffix.lower() != ".png":
        raise VizError(str(output), f"a name ending in '{output.suffix}'", ".png")


def _save(drawing: Drawing, output: Path, no_arrays: bool) -> None:
    for note in drawing.facts.get("notes", []):
        click.echo(note, err=True)
    for path in drawing.save(output, arrays=not no_arrays):
        click.echo(path)


@click.command(
    "patterns",
    epilog=example(
        "allconv viz patterns --model cifar10-allcnn-c-jpeg --blobs conv1,conv3 --output build/patterns.png"
    ),
)
@click.option("--output", type=_PATH, required=True, metavar="PNG", help="picture to write; beside it .json and .npz")
@_options("blobs", "channels", "sample", *_DRAWN)
@viz_inputs(data=False)
def patterns(inputs: Inputs, output: Path, **words: Any) -> None:
    """What the filters of low layers look for, from the weights alone: the paper's figure 2."""
    chosen = Words(**words)
    _check_png(output)
    _save(_patterns(inputs, chosen, None), output, chosen.no_arrays)


def _patterns(inputs: Inputs, words: Words, number: int | None) -> Drawing:
    from allconv_caffe.visualize import figures

    look = words.look(inputs)
    net = inputs.open_net()
    blobs = names_from_text(words.blobs) if words.blobs else figures.default_blobs(net, 2)
    channels = {blob: words.filters(net, blob, inputs.seed, None) for blob in blobs}
    return figures.pattern_figure(
        net, blobs, look, channels=channels, number=number, batch_size=inputs.batch_size, progress=inputs.progress
    )


@click.command(
    "compare",
    epilog=example(
        "allconv viz compare --model cifar10-allcnn-c-jpeg --data data/cifar10-jpeg --blob conv9 "
        "--surgery --accuracy 0 --output build/conv9.png"
    ),
)
@click.option("--output", type=_PATH, required=True, metavar="PNG", help="picture to write; beside it .json and .npz")
@click.option("--surgery", is_flag=True, help="beside them the maps of the net whose strides became max-pooling")
@_options("blob", *_COMPARED, *_DRAWN)
@viz_inputs()
def compare(inputs: Inputs, output: Path, surgery: bool, **words: Any) -> None:
    """Maps by each rule of one unit in each image, with --surgery also by switches: as the paper's figures 4 to 6."""
    chosen = Words(**words)
    _check_png(output)
    _save(_compare(inputs, chosen, None, surgery or chosen.layers is not None), output, chosen.no_arrays)


def _compare(inputs: Inputs, words: Words, number: int | None, surgery: bool) -> Drawing:
    from allconv_caffe.visualize import figures
    from allconv_caffe.visualize.nets.errors import VizError
    from allconv_caffe.visualize.nets.rules import RULES
    from allconv_caffe.visualize.surgery import switches_below
    from allconv_caffe.visualize.unit import Unit, check_blob, check_unit

    look, rules = words.look(inputs), words.rule_names(RULES)
    net = inputs.open_net()
    unit = Unit.parse(words.unit) if words.unit else None
    if words.same_unit and (unit is not None or not surgery):
        raise VizError(
            "--same-unit", "a unit by --unit" if unit else "one net", "--surgery, and units that each net chooses"
        )
    if unit is not None and words.blob not in (None, unit.blob):
        raise VizError("--unit", str(unit), f"a unit of --blob {words.blob}")
    blob = unit.blob if unit else words.blob or figures.default_blobs(net, number or 5)[0]
    check_blob(net, blob)
    if unit is not None:
        check_unit(net, unit)
    own = switches_below(net.param, blob)
    if number == 6 and not own:
        raise VizError(
            net.where,
            f"no max-pooling below '{blob}'",
            "a net trained with max-pooling: figures 4 and 5 are for others",
        )
    variants = [
        figures.Variant(SURGERY[0] if surgery else f"switches of {', '.join(own)}" if own else "without switches", net)
    ]
    if surgery:
        variants.append(figures.Variant(SURGERY[1], inputs.open_net(_pooled(inputs, words.layers, "max"))))
    source = inputs.open_images(net)
    keys, images = words.chosen_images(inputs, source, words.count)
    label = getattr(source, "label", None)
    labels = [None if label is None else label(key) for key in keys]
    _measure(variants, source, words.accuracy, inputs)
    title = f"Figure {number}: " if number else ""
    return figures.comparison(
        variants,
        images,
        keys,
        blob,
        look,
        rules=rules,
        unit=unit,
        same_unit=words.same_unit,
        labels=labels,
        seed=None if words.activation_seed else 1.0,
        number=number,
        source=source,
        batch_size=inputs.batch_size,
        title=title + (f"unit {unit}" if unit else f"the largest activation of {blob} in each image"),
    )


def _pooled(inputs: Inputs, layers: str | None, method: str) -> Any:
    """The net after surgery, as a NetParameter."""
    from allconv_caffe.visualize.surgery import operate

    return operate(inputs.files[0], names_from_text(layers) if layers else None, method=method)


def _measure(variants: Sequence[Variant], source: ImageSource, count: int, inputs: Inputs) -> None:
    from allconv_caffe.visualize.figures import top1

    if count:
        for variant in variants:
            variant.top1 = top1(variant.net, source, count, batch_size=inputs.batch_size, progress=inputs.progress)


@click.command(
    "surgery", epilog=example("allconv viz surgery --model cifar10-allcnn-c-jpeg --output build/pooled.prototxt")
)
@click.option("--output", type=_PATH, required=True, metavar="PROTOTXT", help="deploy net to write")
@click.option(
    "--method", default="max", show_default=True, help="max, or top-left: what the stride took (the null test)"
)
@click.option("--switches", is_flag=True, help="a second top of each pooling layer, the places of the maxima")
@_options("layers", "images", "count", "accuracy")
@viz_inputs()
def surgery(inputs: Inputs, output: Path, method: str, switches: bool, **words: Any) -> None:
    """Turn the strides of a trained net into max-pooling; the same weights fit. Checked by a null test.

    The null test takes from each window what the stride took, and must change nothing: on --count images of --data, or on noise.
    """
    import numpy as np

    from allconv_caffe.visualize import figures
    from allconv_caffe.visualize.nets.errors import VizError
    from allconv_caffe.visualize.surgery import null_test, operate, save

    chosen = Words(**words)
    if chosen.count < 1:
        raise VizError("--count", chosen.count, "1 or more")
    path = inputs.files[0]
    layers = names_from_text(chosen.layers) if chosen.layers else None
    pooled = operate(path, layers, method=method, switches=switches)
    net, same = inputs.open_net(), inputs.open_net(_pooled(inputs, chosen.layers, "top-left"))
    source = inputs.open_images(net) if inputs.data is not None else None
    if source is not None:
        _, images = chosen.chosen_images(inputs, source, chosen.count)
    else:
        images = np.random.default_rng(inputs.seed).standard_normal((chosen.count, *net.input_shape)).astype(np.float32)
    blob = figures.default_blobs(net, 5)[0]
    values, maps = null_test(net, same, images, blob, batch_size=inputs.batch_size)
    what = "images" if source is not None else "images of noise"
    click.echo(
        f"null test on {len(images)} {what}: {blob} differs by {values:.1e}, guided maps by {maps:.1e}, relative"
    )
    if max(values, maps) > 1e-4:
        raise VizError(
            str(path), f"maps that differ by {max(values, maps):.1e}", "at most 1e-4: this net cannot be operated on"
        )
    if source is not None and chosen.accuracy:
        after = inputs.open_net(pooled)
        pair = [figures.Variant("before", net), figures.Variant("after", after)]
        _measure(pair, source, chosen.accuracy, inputs)
        for variant in pair:
            found = variant.top1 or {}
            text = (
                f"{found['percent']:.2f} % of {found['images']} images"
                if found["percent"] is not None
                else found["reason"]
            )
            click.echo(f"top-1 {variant.name}: {text}")
    save(pooled, output, f"{path.name} after stride-to-pool surgery ({method}). Made by: {command_line()}")
    click.echo(output)


def _figure_options(command: Callable[..., Any]) -> Callable[..., Any]:
    return _options(*_OPTIONS)(command)


@click.command(
    "figure",
    epilog=example(
        "allconv viz figure 1 --output build/figure-1.png",
        "allconv viz figure 2 --space pixel --no-arrays",
        "allconv viz figure 5 --seed 5 --output build/figure-5.png",
    ),
)
@click.argument("number", type=click.IntRange(1, 6))
@click.option("--output", type=_PATH, metavar="PNG", help="picture to write; left out: build/figures/figure-N.png")
@_figure_options
@viz_inputs()
@click.pass_context
def figure(context: click.Context, inputs: Inputs, number: int, output: Path | None, **words: Any) -> None:
    """The paper's figure NUMBER, 1 to 6: from the nets trained here, or from any net, weights and images.

    Unless named, the net is cifar10-allcnn-c-jpeg (figure 6: cifar10-model-c-jpeg) of models/, the images are data/cifar10-jpeg;
    figure 1 draws a small net of its own.
    """
    given = [name for name in words if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE]
    for name in given:
        if name not in OF_FIGURE[number]:
            flag = next(p.opts[0] for p in context.command.params if p.name == name)
            raise click.UsageError(f"figure {number} has no {flag}")
    chosen = Words(**words)
    output = output or Path(f"build/figures/figure-{number}.png")
    _check_png(output)
    named = inputs.model is not None or inputs.net_path is not None
    if number == 1 and not named:
        _save(_small_one(inputs, chosen), output, chosen.no_arrays)
        return
    if not named:
        inputs.model = MODELS[number]
    if inputs.data is None and number != 2:
        inputs.data = DATA
    _ready(inputs, number)
    makers: dict[int, Callable[[], Drawing]] = {
        1: lambda: _one(inputs, chosen),
        2: lambda: _patterns(inputs, chosen, 2),
        3: lambda: _patches(inputs, chosen, output),
        4: lambda: _compare(inputs, chosen, 4, True),
        5: lambda: _compare(inputs, chosen, 5, True),
        6: lambda: _compare(inputs, chosen, 6, False),
    }
    _save(makers[number](), output, chosen.no_arrays)


def _ready(inputs: Inputs, number: int) -> None:
    """Raises VizError, with the way to get it, where the model or the data are missing."""
    from allconv_caffe import zoo
    from allconv_caffe.visualize.nets.errors import VizError

    name = inputs.model
    if (
        name in EXPERIMENTS
        and not (Path(name) / zoo.CARD).is_file()
        and not (zoo.DEFAULT_FOLDER / name / zoo.CARD).is_file()
    ):
        raise VizError(
            f"figure {number}",
            f"no {zoo.DEFAULT_FOLDER / name}",
            f"a trained model: `allconv run {EXPERIMENTS[name]} --data "
            f"{DATA} --epochs 15`, then `allconv zoo add RUN --name {name}`; or another with --model, or --net and --weights",
        )
    if inputs.data is not None and not inputs.data.exists():
        made = f"`allconv prep cifar10 --source ARCHIVE --output {DATA}`, or others with --data"
        raise VizError(
            f"figure {number}",
            f"no {inputs.data}",
            f"images: {made}"
            if inputs.data == DATA
            else "a prepared data set, an LMDB, a folder of images or an image",
        )


def _toy_net(inputs: Inputs, text: str) -> VizNet:
    from allconv_caffe.visualize.figures import open_text

    net = open_text(text, engine=inputs.engine, device=inputs.device, python=inputs.python)
    click.get_current_context().call_on_close(net.close)
    return net


def _small_one(inputs: Inputs, words: Words) -> Drawing:
    from allconv_caffe.visualize import figures
    from allconv_caffe.visualize.nets.errors import VizError
    from allconv_caffe.visualize.unit import Unit, argmax_units, check_unit

    if words.images is not None or inputs.data is not None:
        raise VizError("figure 1", "images without a net", "--model, or --net and --weights")
    words.check()
    net = _toy_net(inputs, figures.CORNERS_NET)
    image = figures.corners(net)
    unit = Unit.parse(words.unit) if words.unit else argmax_units(net, image, "conv2")[0][0]
    check_unit(net, unit)
    look = figures.Look(words.how, words.shown, size=words.size, command=command_line())
    return figures.figure_one(
        _toy_net(inputs, figures.TOY_NET), net, image, unit, look, rule=words.one_rule(), key="a square"
    )


def _one(inputs: Inputs, words: Words) -> Drawing:
    from allconv_caffe.visualize import figures
    from allconv_caffe.visualize.unit import Unit, argmax_units, check_unit

    look, net = words.look(inputs), inputs.open_net()
    unit = Unit.parse(words.unit) if words.unit else None
    if unit is not None:
        check_unit(net, unit)
    source = inputs.open_images(net)
    keys, images = words.chosen_images(inputs, source, words.count)  # the first of figures 4 to 6
    unit = unit or argmax_units(net, images[:1], figures.default_blobs(net, 3)[-1])[0][0]
    return figures.figure_one(
        _toy_net(inputs, figures.TOY_NET), net, images[:1], unit, look, rule=words.one_rule(), key=keys[0]
    )


def _patches(inputs: Inputs, words: Words, output: Path) -> Drawing:
    """Figure 3; mines where no result is named, and keeps it beside the picture."""
    import numpy as np

    from allconv_caffe.visualize import figures
    from allconv_caffe.visualize.mining import TopK, mine

    look, rules, net = words.look(inputs), words.rule_names(["guided"]), inputs.open_net()
    blobs = names_from_text(words.blobs) if words.blobs else figures.default_blobs(net, 3)
    source = inputs.open_images(net)
    path = words.topk or output.parent / f"topk-{net.weights_sha256[:12]}.npz"
    if words.topk is not None and path.is_file():
        topk = TopK.load(path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        topk = mine(
            net,
            source,
            blobs,
            k=words.k,
            batch_size=inputs.batch_size,
            limit=words.limit,
            path=path,
            progress=inputs.progress,
        )
    rows = {}
    for blob in blobs:
        alive = np.flatnonzero(~topk.channels(blob).dead)
        rows[blob] = words.filters(net, blob, inputs.seed, 8, [int(c) for c in alive])
    return figures.patch_figure(
        net,
        source,
        topk,
        rows,
        look,
        k=words.k,
        rules=rules,
        number=3,
        batch_size=inputs.batch_size,
        progress=inputs.progress,
    )


COMMANDS: tuple[click.Command, ...] = (patterns, compare, surgery, figure)
