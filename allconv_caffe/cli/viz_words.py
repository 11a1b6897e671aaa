"""What the drawing commands of ``allconv viz`` take besides `Inputs`: which blobs, units and images, how maps are drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from allconv_caffe.cli.telling import Told
from allconv_caffe.cli.viz_options import (
    PATH,
    Inputs,
    Option,
    channels_from_text,
    check_least,
    chosen_channels,
    names_from_text,
)
from allconv_caffe.cli.words import command_line
from allconv_caffe.errors import visible

if TYPE_CHECKING:
    import numpy as np

    from allconv_caffe.visualize.display import Drawing
    from allconv_caffe.visualize.labels import Labels
    from allconv_caffe.visualize.look import Look
    from allconv_caffe.visualize.nets.base import VizNet
    from allconv_caffe.visualize.sources import ImageSource

OUTPUT = click.option(
    "--output", type=PATH, required=True, metavar="PNG", help="picture to write; beside it .json and .npz"
)
BESIDE = "what stands in the .json beside the picture, and the files"
DRAWN = ("how", "shown", "size", "no_arrays")
COMPARED = ("images", "count", "unit", "same_unit", "rules", "layers", "accuracy", "labels", "activation_seed")


@dataclass(kw_only=True)
class Words:
    """What was typed; what a command does not take has its default."""

    blobs: Annotated[
        str | None, Option("--blobs", metavar="NAME,...", help="left out: those of the paper's figure that fit the net")
    ] = None
    blob: Annotated[
        str | None, Option("--blob", metavar="NAME", help="whose largest activation in each image is explained")
    ] = None
    unit: Annotated[
        str | None,
        Option("--unit", metavar="BLOB:C[:Y:X]", help="explain this unit in every image, in place of the largest"),
    ] = None
    same_unit: Annotated[bool, Option("--same-unit", help="after surgery: the channel that was largest before it")] = (
        False
    )
    images: Annotated[
        str | None, Option("--images", metavar="KEY,...", help="by their keys in the data; left out: drawn by --seed")
    ] = None
    count: Annotated[int, Option("--count", least=1, help="images that are drawn")] = 4
    channels: Annotated[str | None, Option("--channels", metavar="LIST", help="filters of each blob, as 0,5,8-11")] = (
        None
    )
    sample: Annotated[
        int | None,
        Option("--sample", least=1, metavar="N", help="filters of each blob that are drawn by --seed"),
    ] = None
    topk: Annotated[
        Path | None,
        Option("--topk", metavar="NPZ", help="of `allconv viz mine`; left out, or not there: mined"),
    ] = None
    limit: Annotated[int | None, Option("--limit", help="mine only the first so many images")] = None
    k: Annotated[int, Option("--k", least=1, help="patches of a filter")] = 10
    rules: Annotated[
        str | None, Option("--rules", metavar="NAME,...", help="backprop, deconvnet, guided; left out: as in the paper")
    ] = None
    layers: Annotated[
        str | None,
        Option(
            "--layers", metavar="NAME,...", help="convolutions whose stride becomes pooling; left out: all of stride 2"
        ),
    ] = None
    accuracy: Annotated[
        int, Option("--accuracy", least=0, metavar="N", help="images for the nets' top-1; 0 leaves it out")
    ] = 2000
    labels: Annotated[
        Path | None,
        Option("--labels", metavar="FILE", help="names of the classes, a line each; left out: the data set's"),
    ] = None
    activation_seed: Annotated[
        bool, Option("--activation-seed", help="begin with the unit's activation, not with 1")
    ] = False
    how: Annotated[str, Option("--normalisation", help="zero-centred, shared, percentile, positive or l2-grey")] = (
        "zero-centred"
    )
    shown: Annotated[str, Option("--space", help="maps of the net's input, or of pixels: input or pixel")] = "input"
    size: Annotated[int | None, Option("--size", least=1, metavar="PIXELS", help="of a tile's longer side, about")] = (
        None
    )
    no_arrays: Annotated[bool, Option("--no-arrays", help="no .npz with the raw maps")] = False

    def check(self) -> None:
        """Raises: VizError: a value that no option has."""
        from allconv_caffe.visualize import display
        from allconv_caffe.visualize.nets.errors import VizError
        from allconv_caffe.visualize.whitening import check_space

        check_least(self)
        check_space(self.shown)
        if self.how not in display.NORMALISATIONS:
            raise VizError("--normalisation", repr(self.how), "a way to draw maps", display.NORMALISATIONS)

    def look(self, inputs: Inputs, labels: Labels | None = None) -> Look:
        """How maps of the net that was named are drawn."""
        from allconv_caffe.visualize.look import Look

        self.check()
        return Look(
            how=self.how,
            shown=self.shown,
            space=inputs.space,
            size=self.size,
            command=command_line(),
            classes=labels.names if labels else (),
        )

    def classes(self, inputs: Inputs) -> Labels | None:
        """Of --labels, else of a prepared data set; None where neither names them.

        Raises: VizError: --labels is no list of names.
        """
        from allconv_caffe.visualize.labels import Labels

        if self.labels is not None:
            return Labels.read(self.labels)
        if inputs.data is not None and (inputs.data / "manifest.json").is_file():
            from data_prep.manifest import Manifest

            names = Manifest.load(inputs.data).class_names
            return Labels(names, names, str(inputs.data))
        return None

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
        """Keys and images: those named, else `count` drawn by --seed."""
        if self.images is not None:
            keys = names_from_text(self.images)
            return keys, source.get(keys)
        return source.sample(count, inputs.seed)


def check_png(output: Path) -> None:
    """Before the work: the picture's name ends as it must.

    Raises: VizError: it does not.
    """
    from allconv_caffe.visualize.nets.errors import VizError

    if output.suffix.lower() != ".png":
        raise VizError(str(output), f"a name ending in '{output.suffix}'", ".png")


def save(told: Told, drawing: Drawing, output: Path, no_arrays: bool) -> None:
    """Writes a picture and what stands beside it; says the paths, and on stderr what has to be known of the maps."""
    for note in drawing.facts.get("notes", []):
        click.echo(visible(note), err=True)  # a warning: also for programs, and in short
    paths = drawing.save(output, arrays=not no_arrays)
    beside = json.loads(output.with_suffix(".json").read_text(encoding="utf-8")) if told.json else {}
    told.end({"files": paths, **beside}, *paths)
