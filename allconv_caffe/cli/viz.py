"""``allconv viz``: arguments only, for ``cli/main.py`` to add. The options that all commands share: ``viz_options.py``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allconv_caffe.cli.telling import Told, telling
from allconv_caffe.cli.viz_options import (
    PATH,
    Inputs,
    channels_from_text,
    chosen_channels,
    names_from_text,
    options_of,
    viz_inputs,
)
from allconv_caffe.cli.viz_words import BESIDE, DRAWN, OUTPUT, Words, check_png, save
from allconv_caffe.cli.words import command_line, example

if TYPE_CHECKING:
    from allconv_caffe.visualize.mining import TopK

_TOPK = click.option("--topk", type=PATH, required=True, metavar="NPZ", help="what `allconv viz mine` wrote")


@click.group(epilog=example("allconv viz mine --help"))
def viz() -> None:
    """Look inside a trained net: what excites a unit, and what in an image does."""


@viz.command(
    "mine",
    epilog=example(
        "allconv viz mine --model cifar10-allcnn-c-jpeg --data data/cifar10-jpeg --blobs conv3,conv6 "
        "--output build/topk.npz"
    ),
)
@click.option(
    "--output", type=PATH, required=True, metavar="NPZ", help="file to write; if it is there, the scan goes on"
)
@click.option("--blobs", metavar="NAME,...", help="left out: every blob with a ReLU")
@click.option("--k", type=int, default=10, show_default=True, help="places of a channel that are kept")
@click.option("--per-image", type=int, default=1, show_default=True, help="at most so many of them from one image")
@click.option("--limit", type=int, help="only the first so many images")
@click.option(
    "--shard", metavar="I/N", help="the I-th of N equal parts of the data, from 1; `allconv viz merge` joins them"
)
@telling("what each blob's channels saw")
@viz_inputs()
def mine(
    inputs: Inputs,
    told: Told,
    output: Path,
    blobs: str | None,
    k: int,
    per_image: int,
    limit: int | None,
    shard: str | None,
) -> None:
    """The strongest places of every channel over a data set, in one scan.

    Ctrl-C stops it; the same command goes on. Parts may run on several machines.
    """
    from allconv_caffe.visualize import mining

    part = mining.shard_from_text(shard)
    net = inputs.open_net()
    source = inputs.open_images(net)
    output.parent.mkdir(parents=True, exist_ok=True)
    found = mining.mine(
        net,
        source,
        mining.relu_blobs(net) if blobs is None else names_from_text(blobs),
        k=k,
        per_image=per_image,
        batch_size=inputs.batch_size,
        limit=limit,
        shard=part,
        path=output,
        save_seconds=20,
        progress=inputs.progress,
    )
    _say(told, found, output)


@viz.command("merge", epilog=example("allconv viz merge build/part-1.npz build/part-2.npz --output build/topk.npz"))
@click.argument("parts", nargs=-1, required=True, type=PATH, metavar="NPZ...")
@click.option("--output", type=PATH, required=True, metavar="NPZ", help="file to write")
@telling("what each blob's channels saw")
def merge(told: Told, parts: tuple[Path, ...], output: Path) -> None:
    """Join what the shards of a scan found: the same as of one scan."""
    from allconv_caffe.visualize import mining

    found = mining.merge(*(mining.TopK.load(path) for path in parts))
    output.parent.mkdir(parents=True, exist_ok=True)
    found.save(output)
    _say(told, found, output)


def _say(told: Told, found: TopK, output: Path) -> None:
    blobs = {}
    for blob, channels in found.blobs.items() if found.images_seen else ():
        best = int(channels.maximum.argmax())
        facts = {"channels": len(channels.values), "dead": int(channels.dead.sum())}
        strongest = {"channel": best, "value": float(channels.maximum[best])}
        blobs[blob] = {**facts, "strongest": strongest}
        told.say(
            f"{blob}: {facts['channels']} channels, {facts['dead']} dead, strongest {strongest['value']:.4g} (channel {best})"
        )
    answer = {"file": output, "images_seen": found.images_seen, "images": found.n_images, "blobs": blobs}
    told.end(answer, f"{output}: {found.images_seen} of {found.n_images} images")


@viz.command(
    "patches",
    epilog=example(
        "allconv viz patches --model cifar10-allcnn-c-jpeg --data data/cifar10-jpeg --topk "
        "build/topk.npz --blobs conv6 --channels 0-3 --output build/conv6.png"
    ),
)
@OUTPUT
@_TOPK
@click.option("--blobs", metavar="NAME,...", help="of those mined, one beneath the other; left out: all")
@click.option("--channels", metavar="LIST", help="rows, as 0,5,8-11; left out: --sample of them, drawn by --seed")
@click.option(
    "--sample", type=click.IntRange(min=1), default=10, show_default=True, help="channels of each blob that are drawn"
)
@click.option("--k", type=int, help="patches of a channel; left out: as many as were mined")
@click.option("--rules", default="guided", show_default=True, metavar="NAME,...", help="a block of maps each")
@options_of(Words, DRAWN)
@telling(BESIDE)
@viz_inputs()
def patches(
    inputs: Inputs,
    told: Told,
    output: Path,
    topk: Path,
    blobs: str | None,
    channels: str | None,
    sample: int,
    k: int | None,
    rules: str,
    **words: Any,
) -> None:
    """The strongest patches of channels and, by their side, what in them excites the unit."""
    from allconv_caffe.visualize.figures import patch_figure
    from allconv_caffe.visualize.mining import TopK
    from allconv_caffe.visualize.nets.errors import VizError

    drawn = Words(**words)
    drawn.check()  # before the work, as the name of the picture
    check_png(output)
    if k is not None and k < 1:
        raise VizError("k", k, "1 or more")
    found = TopK.load(topk)
    rows = {
        blob: chosen_channels(channels, sample, len(found.channels(blob).values), inputs.seed)
        for blob in (found.blobs if blobs is None else names_from_text(blobs))
    }
    net = inputs.open_net()
    drawing = patch_figure(
        net,
        inputs.open_images(net),
        found,
        rows,
        drawn.look(inputs),
        k=found.k if k is None else k,
        rules=names_from_text(rules),
        batch_size=inputs.batch_size,
        progress=inputs.progress,
    )
    save(told, drawing, output, drawn.no_arrays)


@viz.command(
    "sanity",
    epilog=example(
        "allconv viz sanity --model cifar10-allcnn-c-jpeg --data data/cifar10-jpeg --blob conv6 "
        "--images 8 --output build/sanity"
    ),
)
@click.option("--output", type=PATH, required=True, metavar="FOLDER", help="gets sanity.json, .md, .png and .npz")
@click.option("--blob", help="whose strongest unit in each image is explained; left out: the scores")
@click.option("--images", "count", type=int, default=32, show_default=True, help="images, drawn from the data")
@click.option("--draws", type=int, default=3, show_default=True, help="of random weights")
@click.option(
    "--rules", default="backprop,deconvnet,guided", show_default=True, metavar="NAME,...", help="rules to test"
)
@options_of(Words, ("shown", "no_arrays"))
@telling("every measure, the verdict and the files")
@viz_inputs()
def sanity(
    inputs: Inputs,
    told: Told,
    output: Path,
    blob: str | None,
    count: int,
    draws: int,
    rules: str,
    no_arrays: bool,
    shown: str,
) -> None:
    """Do maps depend on what was learned? Weights made random from the top down, other units, other images.

    The tests of Adebayo et al. 2018 and Nie et al. 2018: read them before a picture is taken for an explanation.
    """
    from allconv_caffe.visualize.sanity import sanity as examine
    from allconv_caffe.visualize.whitening import check_space

    check_space(shown)
    net = inputs.open_net()
    source = inputs.open_images(net)
    keys, images = source.sample(count, inputs.seed)
    found = examine(
        net,
        images,
        blob,
        rules=names_from_text(rules),
        draws=draws,
        seed=inputs.seed,
        batch_size=inputs.batch_size,
        space=source.space,
        progress=inputs.progress,
    )
    found.facts.update(command=command_line(), data=source.where, data_sha256=source.fingerprint, keys=keys)
    paths = found.save(output, source.space, shown, arrays=not no_arrays)
    lines = found.verdict() if told.quiet else found.text().splitlines()
    told.end({"files": paths, **found.as_dict()}, *lines)
    for path in paths:
        told.say(path, err=True)


@viz.command(
    "gallery",
    epilog=example(
        "allconv viz gallery --model cifar10-allcnn-c-jpeg --data data/cifar10-jpeg --topk "
        "build/topk.npz --blobs conv6 --channels 0-3 --output build/gallery"
    ),
)
@click.option("--output", type=PATH, required=True, metavar="FOLDER", help="gets index.html and what it links to")
@_TOPK
@click.option("--blobs", metavar="NAME,...", help="of those mined; left out: all")
@click.option("--channels", metavar="LIST", help="of each blob, as 0,5,8-11; left out: all")
@click.option("--k", type=int, help="patches of a unit; left out: as many as were mined")
@click.option(
    "--rules", default="guided,deconvnet,backprop", show_default=True, metavar="NAME,...", help="a row of maps each"
)
@click.option("--title", help="of the pages; left out: the model's or the net's name")
@options_of(Words, ("shown", "no_arrays"))
@telling("the first page")
@viz_inputs()
def gallery(
    inputs: Inputs,
    told: Told,
    output: Path,
    topk: Path,
    blobs: str | None,
    channels: str | None,
    k: int | None,
    rules: str,
    title: str | None,
    no_arrays: bool,
    shown: str,
) -> None:
    """Pages to browse units in: top patches, three rules, histogram, dead units. Plain files, no server."""
    from allconv_caffe.visualize.gallery import gallery as build
    from allconv_caffe.visualize.mining import TopK

    found = TopK.load(topk)
    net = inputs.open_net()
    path = build(
        net,
        inputs.open_images(net),
        found,
        output,
        None if blobs is None else names_from_text(blobs),
        channels=None if channels is None else channels_from_text(channels),
        k=k,
        rules=names_from_text(rules),
        shown=shown,
        arrays=not no_arrays,
        title=title or inputs.name,
        command=command_line(),
        batch_size=inputs.batch_size,
        progress=inputs.progress,
    )
    told.end({"page": path}, path)
