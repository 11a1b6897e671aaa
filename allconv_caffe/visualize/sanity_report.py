"""What the sanity tests found, as tables, sentences, JSON and a picture."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from allconv_caffe import markdown
from allconv_caffe.visualize.display import write, zero_centred
from allconv_caffe.visualize.nets.base import PathLike
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.similarity import MEASURES
from allconv_caffe.visualize.whitening import InputSpace


@dataclass(kw_only=True)
class Sanity:
    """What both tests found. NaN stands for what could not be measured.

    Attributes:
        blob: whose strongest units were explained.
        rules: those tested.
        layers: drawn anew one after the other, from the top.
        images: how many.
        draws: of random weights.
        seed: of the weights.
        cascade: by rule, (layers, 3): mean similarity to the trained net's maps once all layers up to this one are random.
        spread: the same, standard deviation over images and draws.
        compared: by rule, (layers,): how many maps that is; units that are dead under random weights are left out.
        two_units: by rule, (3,): similarity of the maps of an image's strongest unit and of the strongest other channel in
            the same place.
        two_images: by rule, (3,): similarity of the maps of one unit in two images that both activate it.
        pairs: how many pairs of each.
        edge: by rule, (layers + 1,): Spearman's correlation of strengths with the image's edges: trained, then by layer.
        examples: by rule, (examples, layers + 1, C, H, W) float32: the maps of the first images, of the draw that left the
            unit alive longest; NaN where it is dead.
        example_images: (examples, C, H, W).
        facts: where net and weights came from, for the JSON.
    """

    blob: str
    rules: tuple[str, ...]
    layers: tuple[str, ...]
    images: int
    draws: int
    seed: int
    cascade: dict[str, np.ndarray]
    spread: dict[str, np.ndarray]
    compared: dict[str, np.ndarray]
    two_units: dict[str, np.ndarray]
    two_images: dict[str, np.ndarray]
    pairs: tuple[int, int]
    edge: dict[str, np.ndarray]
    examples: dict[str, np.ndarray]
    example_images: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every number, no maps."""
        return {
            "blob": self.blob,
            "rules": list(self.rules),
            "layers": list(self.layers),
            "images": self.images,
            "draws": self.draws,
            "seed": self.seed,
            "measures": list(MEASURES),
            "cascade": {
                rule: [
                    {
                        "down_to": layer,
                        "compared": int(self.compared[rule][i]),
                        "mean": _named(self.cascade[rule][i]),
                        "standard_deviation": _named(self.spread[rule][i]),
                        "edges_spearman": _number(self.edge[rule][i + 1]),
                    }
                    for i, layer in enumerate(self.layers)
                ]
                for rule in self.rules
            },
            "edges_spearman_trained": {rule: _number(self.edge[rule][0]) for rule in self.rules},
            "two_units_of_one_image": {rule: _named(self.two_units[rule]) for rule in self.rules},
            "one_unit_in_two_images": {rule: _named(self.two_images[rule]) for rule in self.rules},
            "pairs": list(self.pairs),
            "verdict": self.verdict(),
            **self.facts,
        }

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """(title, head, rows) of each table, cells as text."""
        head = ["random from the top down to"] + [f"{rule} {measure}" for rule in self.rules for measure in MEASURES]
        rows = [["none (trained)"] + ["1.00"] * (len(head) - 1)]
        for i, layer in enumerate(self.layers):
            rows.append([layer] + [_text(value) for rule in self.rules for value in self.cascade[rule][i]])
        yield (
            f"Similarity to the maps of the trained net, units of {self.blob}, {self.images} images, {self.draws} draws",
            head,
            rows,
        )
        yield (
            "Spearman's correlation of the maps' strengths with the edges of the image",
            ["random from the top down to", *self.rules],
            [
                [layer, *(_text(self.edge[rule][i]) for rule in self.rules)]
                for i, layer in enumerate(("none (trained)", *self.layers))
            ],
        )
        pairs = [
            ("two units of one image", self.two_units, self.pairs[0]),
            ("one unit in two images", self.two_images, self.pairs[1]),
        ]
        yield (
            "Similarity of maps of the trained net",
            ["maps of", "pairs", *head[1:]],
            [
                [name, str(count), *(_text(value) for rule in self.rules for value in found[rule])]
                for name, found, count in pairs
            ],
        )

    def markdown(self) -> str:
        """The tables and the verdict as Markdown."""
        lines = []
        for title, head, rows in self.tables():
            lines += [title + ":", "", *markdown.table(head, rows, right=range(1, len(head))), ""]
        return "\n".join(lines + [f"* {sentence}" for sentence in self.verdict()]) + "\n"

    def text(self) -> str:
        """The tables and the verdict for a terminal."""
        lines = []
        for title, head, rows in self.tables():
            groups = [""] * (len(head) - 3 * len(self.rules))
            if len(head) > 3 * len(self.rules):
                groups += [rule if i == 0 else "" for rule in self.rules for i in range(3)]
                head = [*head[: -3 * len(self.rules)], *(MEASURES * len(self.rules))]
            widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
            lines += [title, ""]
            for row in ([groups] if any(groups) else []) + [head, *rows]:
                cells = [row[0].ljust(widths[0])] + [
                    cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
                ]
                lines.append("  ".join(cells).rstrip())
            lines.append("")
        return "\n".join(lines + self.verdict()) + "\n"

    def verdict(self) -> list[str]:
        """What the numbers say, one sentence each; computed, not assumed, and nothing of what was not measured."""
        out = []
        if len(self.layers) > 1 and "backprop" in self.rules and "guided" in self.rules:
            out.append(self._of_the_cascade())
        out += [self._of_units_and_images(rule) for rule in self.rules]
        if "guided" in self.rules:
            trained, random = self.edge["guided"][0], self.edge["guided"][-1]
            out.append(
                f"Strengths of guided maps correlate with the edges of the image by {_said(trained)} where trained, by "
                f"{_said(random)} where every layer is random."
            )
        out.append(
            "A guided picture shows what the lower layers can rebuild of an image; alone it is no evidence of what a unit "
            "or the classifier means."
        )
        return out

    def _of_the_cascade(self) -> str:
        half = (len(self.layers) - 1) // 2
        guided, plain = self.cascade["guided"][half], self.cascade["backprop"][half]
        at = f"With {self.layers[0]} to {self.layers[half]} random"
        if not (np.isfinite(guided).all() and np.isfinite(plain).all()):
            return f"{at}, no unit stayed active: whether maps depend on what those layers learned was not measured."
        if guided[0] > 0.5:
            says = "guided backpropagation depends little on what the upper layers learned (it fails the test)."
        elif guided[0] > plain[0] + 0.05:
            says = "guided maps stay closer to what they were, but they change."
        else:
            says = "here guided maps change as much as plain gradients."
        return (
            f"{at}, guided maps keep a cosine of {_text(guided[0])} and an SSIM of {_text(guided[2])} to those of the "
            f"trained net, plain backprop {_text(plain[0])} and {_text(plain[2])}: {says}"
        )

    def _of_units_and_images(self, rule: str) -> str:
        value, other = self.two_units[rule][0], self.two_images[rule][0]
        missing = [
            word
            for word, number in (("no second channel is active", value), ("no unit is active in two images", other))
            if not np.isfinite(number)
        ]
        if missing:
            return (
                f"{rule}: {' and '.join(missing)}, so whether maps depend on the unit and the image was not measured."
            )
        if value > 0.8 and value > other:
            says = "the map hardly says which unit was asked"
        elif other > 0.99:
            says = "the map does not depend on the image"
        else:
            says = "the map depends on both"
        return (
            f"{rule}: two units of one image have maps of cosine {_text(value)}, one unit in two images {_text(other)}: "
            f"{says}."
        )

    def save(
        self, folder: PathLike, space: InputSpace | None = None, shown: str = "input", *, arrays: bool = True
    ) -> list[str]:
        """Writes sanity.json (every number), sanity.md, sanity.png and, if `arrays`, sanity.npz (maps of the examples, raw).

        Args:
            space: how the input blob was made of pixels. shown: "input" or "pixel", the space in which maps are drawn.

        Returns: the paths. Raises: VizError: a folder that cannot be written.
        """
        space = space or InputSpace()
        where = os.fspath(folder)
        paths = [os.path.join(where, f"sanity.{end}") for end in ("json", "md", "png", "npz")]
        facts = dict(
            self.as_dict(), maps={"space": shown, "normalisation": "zero-centred, each map by its largest value"}
        )
        if os.path.exists(where) and not os.path.isdir(where):
            raise VizError(where, "a file", "a folder that can be written")
        write(paths[0], (json.dumps(dict(facts, input=space.describe()), indent=1) + "\n").encode())
        write(paths[1], self.markdown().encode())
        write(paths[2], self._picture(space, shown))
        if not arrays:
            return paths[:3]
        packed, maps = io.BytesIO(), {f"maps_{rule}": maps for rule, maps in self.examples.items()}
        np.savez_compressed(
            packed,
            images=self.example_images,
            layers=np.array(["", *self.layers]),
            **maps,  # type: ignore[arg-type]
        )
        write(paths[3], packed.getvalue())
        return paths

    def _picture(self, space: InputSpace, shown: str) -> bytes:
        """A PNG: curves of the cascade above, the examples' maps below, a row for each rule, a column for each layer."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        columns, rows = len(self.layers) + 2, len(self.example_images) * len(self.rules)
        width, curves = 1.05 * columns, 2.6
        figure = Figure(figsize=(width, curves + 1.05 * rows + 0.6), dpi=80)
        FigureCanvasAgg(figure)
        parts: Any = figure.subfigures(2, 1, height_ratios=[curves, 1.05 * rows + 0.6])
        above, below = parts
        self._draw_curves(above)
        self._draw_examples(below, space, shown)
        out = io.BytesIO()
        figure.savefig(out)
        return out.getvalue()

    def _draw_curves(self, above: Any) -> None:
        names = ["trained", *self.layers]
        for axes, measure, at in zip(above.subplots(1, 3, sharey=True), MEASURES, range(3), strict=True):
            for rule in self.rules:
                axes.plot([1, *self.cascade[rule][:, at]], marker=".", label=rule)
            axes.set_xticks(range(len(names)), names, parse_math=False)
            axes.set_title(measure, fontsize=9)
            axes.tick_params(axis="x", rotation=90, labelsize=7)
            axes.tick_params(axis="y", labelsize=7)
            axes.set_ylim(-0.35, 1.05)
            axes.grid(alpha=0.3)
            if not at:
                axes.legend(fontsize=7, loc="lower right", ncols=3, borderpad=0.2, handlelength=1, columnspacing=0.8)
        above.subplots_adjust(left=0.06, right=0.98, top=0.9, bottom=0.3, wspace=0.08)

    def _draw_examples(self, below: Any, space: InputSpace, shown: str) -> None:
        names = ["trained", *self.layers]
        columns, rows = len(self.layers) + 2, len(self.example_images) * len(self.rules)
        grid = below.subplots(rows, columns, squeeze=False)
        below.subplots_adjust(
            left=0.08, right=0.99, top=1 - 0.3 / (1.05 * rows + 0.6), bottom=0.02, wspace=0.06, hspace=0.06
        )
        pictures = space.pictures(self.example_images)
        for i in range(len(self.example_images)):
            for j, rule in enumerate(self.rules):
                line = grid[len(self.rules) * i + j]
                maps = space.maps(self.examples[rule][i], shown)
                line[0].set_ylabel(rule, fontsize=8)
                tiles = [pictures[i] if j == 0 else None, *maps]
                for axes, tile, name in zip(line, tiles, ["image", *names], strict=True):
                    axes.set_box_aspect(1)
                    axes.set_xticks([])
                    axes.set_yticks([])
                    for edge in axes.spines.values():
                        edge.set_visible(False)
                    if i == j == 0:
                        axes.set_title(name, fontsize=8, parse_math=False)
                    if tile is None:
                        continue
                    if tile.dtype == np.uint8:
                        axes.imshow(tile, interpolation="nearest")
                    elif np.isfinite(tile).all():
                        axes.imshow(zero_centred(tile), interpolation="nearest")
                    else:
                        axes.text(0.5, 0.5, "dead", ha="center", va="center", fontsize=7, transform=axes.transAxes)


def _named(values: np.ndarray) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(MEASURES, values, strict=True)}


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _text(value: float) -> str:
    return f"{value + 0.0:.2f}".replace("-0.00", "0.00") if np.isfinite(value) else "-"


def _said(value: float) -> str:
    return _text(value) if np.isfinite(value) else "(not measured)"
