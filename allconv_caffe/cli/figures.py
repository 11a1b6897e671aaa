"""``allconv viz patterns | compare | surgery | figure``: arguments only, for ``viz.py`` to add."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allconv_caffe.cli.telling import Told, telling
from allconv_caffe.cli.viz_options import PATH, Inputs, names_from_text, options_of, viz_inputs
from allconv_caffe.cli.viz_words import BESIDE, COMPARED, DRAWN, OUTPUT, Words, check_png, save
from allconv_caffe.cli.words import command_line, example

if TYPE_CHECKING:
    from allconv_caffe.visualize.comparison import Variant
    from allconv_caffe.visualize.display import Drawing
    from allconv_caffe.visualize.nets.base import VizNet
    from allconv_caffe.visualize.sources import ImageSource

MODELS = dict.fromkeys(range(2, 6), "cifar10-allcnn-c-jpeg") | {6: "cifar10-model-c-jpeg"}
"""What a figure is made from unless a net is named."""
EXPERIMENTS = {"cifar10-allcnn-c-jpeg": "cifar10-allcnn-c", "cifar10-model-c-jpeg": "cifar10-model-c"}
DATA = Path("data/cifar10-jpeg")
SURGERY = ("without pooling", "with pooling and switches")

OF_FIGURE: dict[int, tuple[str, ...]] = {
    1: ("unit", "images", "rules", *DRAWN),
    2: ("blobs", "channels", "sample", *DRAWN),
    3: ("blobs", "channels", "sample", "k", "rules", "topk", "limit", *DRAWN),
    4: ("blob", *COMPARED, *DRAWN),
    5: ("blob", *COMPARED, *DRAWN),
    6: ("blob", *(name for name in COMPARED if name not in ("same_unit", "layers")), *DRAWN),
}
"""The options that mean something for a figure."""


@click.command(
    "patterns",
    epilog=example(
        "allconv viz patterns --model cifar10-allcnn-c-jpeg --blobs conv1,conv3 --output build/patterns.png"
    ),
)
@OUTPUT
@options_of(Words, ("blobs", "channels", "sample", *DRAWN))
@telling(BESIDE)
@viz_inputs(data=False)
def patterns(inputs: Inputs, told: Told, output: Path, **words: Any) -> None:
    """What the filters of low layers look for, from the weights alone: the paper's figure 2."""
    chosen = Words(**words)
    check_png(output)
    save(told, _patterns(inputs, chosen, None), output, chosen.no_arrays)


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
@OUTPUT
@click.option("--surgery", is_flag=True, help="beside them the maps of the net whose strides became max-pooling")
@click.option(
    "--without-switches", is_flag=True, help="beside them the deconvnet with pooling's gradient spread over each window"
)
@options_of(Words, ("blob", *COMPARED, *DRAWN))
@telling(BESIDE)
@viz_inputs()
def compare(inputs: Inputs, told: Told, output: Path, surgery: bool, without_switches: bool, **words: Any) -> None:
    """Maps by each rule of one unit in each image, beside them with switches or without: as the paper's figures 4 to 6."""
    chosen = Words(**words)
    check_png(output)
    if without_switches and (surgery or chosen.layers is not None):
        raise click.UsageError(
            "--without-switches is for a net with max-pooling of its own: leave out --surgery, --layers"
        )
    beside = "surgery" if surgery or chosen.layers is not None else "no switches" if without_switches else ""
    save(told, _compare(inputs, chosen, None, beside), output, chosen.no_arrays)


def _compare(inputs: Inputs, words: Words, number: int | None, beside: str | None) -> Drawing:
    """Args: beside: the trained net stands "surgery", "no switches", "" nothing; None: what its pooling asks for."""
    from allconv_caffe.visualize import comparison, figures
    from allconv_caffe.visualize.nets.errors import VizError
    from allconv_caffe.visualize.nets.rules import RULES
    from allconv_caffe.visualize.surgery import normalisations_below, switches_below
    from allconv_caffe.visualize.unit import Unit, check_blob, check_unit, scores_blob

    labels = words.classes(inputs)
    look, rules = words.look(inputs, labels), words.rule_names(RULES)
    net = inputs.open_net()
    if words.labels is not None and labels is not None:
        scores = scores_blob(net)
        labels.check_count(check_blob(net, scores)[0], scores)
    unit = Unit.parse(words.unit) if words.unit else None
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
    if beside is None:
        alone = "deconvnet" not in rules or normalisations_below(net.param, blob)
        beside = "surgery" if not own or words.layers else "" if alone else "no switches"
    if words.same_unit and (unit is not None or beside != "surgery"):
        raise VizError(
            "--same-unit", "a unit by --unit" if unit else "one net", "--surgery, and units that each net chooses"
        )
    variants = _variants(inputs, words, net, blob, beside)
    source = inputs.open_images(net, labels)
    keys, images = words.chosen_images(inputs, source, words.count)
    _measure(variants, source, words.accuracy, inputs)
    title = f"Figure {number}: " if number else ""
    return comparison.comparison(
        variants,
        comparison.Question(
            images=images,
            keys=keys,
            blob=blob,
            rules=rules,
            unit=unit,
            same_unit=words.same_unit,
            seed=None if words.activation_seed else 1.0,
            batch_size=inputs.batch_size,
        ),
        look,
        labels=[source.label(key) for key in keys],
        number=number,
        source=source,
        title=title + (f"unit {unit}" if unit else f"the largest activation of {blob} in each image"),
    )


def _variants(inputs: Inputs, words: Words, net: VizNet, blob: str, beside: str) -> list[Variant]:
    """The trained net, and what stands beside it."""
    from allconv_caffe.visualize.comparison import Variant
    from allconv_caffe.visualize.surgery import switches_below, without_switches

    own = switches_below(net.param, blob)
    name = f"switches of {', '.join(own)}" if own else SURGERY[0] if beside == "surgery" else "without switches"
    variants = [Variant(name=name, net=net)]
    if beside == "surgery":
        pooled = inputs.open_net(_pooled(inputs, words.layers, "max"))
        after = SURGERY[1] if not own else f"switches of {', '.join(switches_below(pooled.param, blob))}"
        variants.append(Variant(name=after, net=pooled))
    elif beside == "no switches":
        spread = inputs.open_net(without_switches(net.param, blob, net.where))
        variants.append(Variant(name="without switches", net=spread, backward_only=True))
    return variants


def _pooled(inputs: Inputs, layers: str | None, method: str, switches: bool = False) -> Any:
    """The net after surgery, as a NetParameter."""
    from allconv_caffe.visualize.surgery import strides_to_pools

    names = names_from_text(layers) if layers else None
    return strides_to_pools(inputs.read_net(), names, method=method, switches=switches, where=str(inputs.files[0]))


def _measure(variants: Sequence[Variant], source: ImageSource, count: int, inputs: Inputs) -> None:
    from allconv_caffe.visualize.comparison import top1

    for variant in variants:
        if count and not variant.backward_only:
            variant.top1 = top1(variant.net, source, count, batch_size=inputs.batch_size, progress=inputs.progress)


@click.command(
    "surgery", epilog=example("allconv viz surgery --model cifar10-allcnn-c-jpeg --output build/pooled.prototxt")
)
@click.option("--output", type=PATH, required=True, metavar="PROTOTXT", help="deploy net to write")
@click.option(
    "--method", default="max", show_default=True, help="max, or top-left: what the stride took (the null test)"
)
@click.option("--switches", is_flag=True, help="a second top of each pooling layer, the places of the maxima")
@options_of(Words, ("layers", "images", "count", "accuracy"))
@telling("the net, the null test and the accuracies")
@viz_inputs()
def surgery(inputs: Inputs, told: Told, output: Path, method: str, switches: bool, **words: Any) -> None:
    """Turn the strides of a trained net into max-pooling; the same weights fit. Checked by a null test.

    The null test takes from each window what the stride took, and must change nothing: on --count images of --data, or on noise.
    """
    import numpy as np

    from allconv_caffe.visualize.comparison import Variant
    from allconv_caffe.visualize.nets.errors import VizError
    from allconv_caffe.visualize.surgery import null_test, save as save_net
    from allconv_caffe.visualize.unit import scores_blob

    chosen = Words(**words)
    if chosen.count < 1:
        raise VizError("--count", chosen.count, "1 or more")
    path = inputs.files[0]
    pooled = _pooled(inputs, chosen.layers, method, switches)
    net, same = inputs.open_net(), inputs.open_net(_pooled(inputs, chosen.layers, "top-left"))
    source = inputs.open_images(net) if inputs.data is not None else None
    if source is not None:
        _, images = chosen.chosen_images(inputs, source, chosen.count)
    else:
        images = np.random.default_rng(inputs.seed).standard_normal((chosen.count, *net.input_shape)).astype(np.float32)
    blob = scores_blob(net)
    values, maps = null_test(net, same, images, blob, batch_size=inputs.batch_size)
    what = "images" if source is not None else "images of noise"
    told.say(f"null test on {len(images)} {what}: {blob} differs by {values:.1e}, maps by {maps:.1e}, relative")
    if max(values, maps) > 1e-4:
        raise VizError(
            str(path), f"maps that differ by {max(values, maps):.1e}", "at most 1e-4: this net cannot be operated on"
        )
    accuracies = {}
    if source is not None and chosen.accuracy:
        after = inputs.open_net(pooled)
        pair = [Variant(name="before", net=net), Variant(name="after", net=after)]
        _measure(pair, source, chosen.accuracy, inputs)
        for variant in pair:
            found = accuracies[variant.name] = variant.top1 or {}
            text = (
                f"{found['percent']:.2f} % of {found['images']} images"
                if found["percent"] is not None
                else found["reason"]
            )
            told.say(f"top-1 {variant.name}: {text}")
    save_net(pooled, output, f"{path.name} after stride-to-pool surgery ({method}). Made by: {command_line()}")
    test = {
        "images": len(images),
        "of": what,
        "blob": blob,
        "difference": float(values),
        "maps_difference": float(maps),
    }
    told.end({"net": output, "null_test": test, "top1": accuracies}, output)


@click.command(
    "figure",
    epilog=example(
        "allconv viz figure 1 --output build/figure-1.png",
        "allconv viz figure 2 --space pixel --no-arrays",
        "allconv viz figure 5 --seed 5 --output build/figure-5.png",
    ),
)
@click.argument("number", type=click.IntRange(1, 6))
@click.option("--output", type=PATH, metavar="PNG", help="picture to write; left out: build/figures/figure-N.png")
@options_of(Words, [field.name for field in dataclasses.fields(Words)])
@telling(BESIDE)
@viz_inputs()
@click.pass_context
def figure(context: click.Context, inputs: Inputs, told: Told, number: int, output: Path | None, **words: Any) -> None:
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
    check_png(output)
    named = inputs.model is not None or inputs.net_path is not None
    if number == 1 and not named:
        save(told, _small_one(inputs, chosen), output, chosen.no_arrays)
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
        4: lambda: _compare(inputs, chosen, 4, None),
        5: lambda: _compare(inputs, chosen, 5, None),
        6: lambda: _compare(inputs, chosen, 6, ""),
    }
    save(told, makers[number](), output, chosen.no_arrays)


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
    from allconv_caffe.visualize.schematic import open_text

    net = open_text(text, engine=inputs.engine, device=inputs.device, python=inputs.python)
    click.get_current_context().call_on_close(net.close)
    return net


def _small_one(inputs: Inputs, words: Words) -> Drawing:
    from allconv_caffe.visualize import schematic
    from allconv_caffe.visualize.look import Look
    from allconv_caffe.visualize.nets.errors import VizError
    from allconv_caffe.visualize.unit import Unit, check_unit

    if words.images is not None or inputs.data is not None:
        raise VizError("figure 1", "images without a net", "--model, or --net and --weights")
    words.check()
    net = _toy_net(inputs, schematic.CORNERS_NET)
    image = schematic.corners(net)
    unit = Unit.parse(words.unit or schematic.CORNER)
    check_unit(net, unit)
    look = Look(how=words.how, shown=words.shown, size=words.size, command=command_line())
    return schematic.figure_one(
        _toy_net(inputs, schematic.TOY_NET), net, image, unit, look, rule=words.one_rule(), key="a square"
    )


def _one(inputs: Inputs, words: Words) -> Drawing:
    from allconv_caffe.visualize import figures, schematic
    from allconv_caffe.visualize.unit import Unit, argmax_units, check_unit

    look, net = words.look(inputs), inputs.open_net()
    unit = Unit.parse(words.unit) if words.unit else None
    if unit is not None:
        check_unit(net, unit)
    source = inputs.open_images(net)
    keys, images = words.chosen_images(inputs, source, words.count)  # the first of figures 4 to 6
    unit = unit or argmax_units(net, images[:1], figures.default_blobs(net, 3)[-1])[0][0]
    return schematic.figure_one(
        _toy_net(inputs, schematic.TOY_NET), net, images[:1], unit, look, rule=words.one_rule(), key=keys[0]
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
