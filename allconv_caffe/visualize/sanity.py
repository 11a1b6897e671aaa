"""Does a map depend on what the network learned? Two published tests of the three rules.

    report = sanity(net, images)
    print(report.text())

*Cascade* (Adebayo et al. 2018, arXiv 1810.03292): the weights are drawn anew, layer by layer from the top; a map that stays as it
was did not show what those layers learned. *Insensitivity* (Nie et al. 2018, arXiv 1805.07039): maps of two units of one image,
and of one unit in two images; a map that ignores the unit shows the image. Similarities are of single maps, then averaged:

    cosine     of the signed maps. 1: the same but for scale
    spearman   rank correlation of the pixels' strengths, the sum over channels of absolute values
    ssim       structural similarity of the strengths, each map scaled to 0..1 (Wang et al. 2004, windows of 7x7)

Spearman's alone misleads where receptive fields end inside the image: all maps agree on the zeros around. Binder et al. 2022
(arXiv 2211.12486) show that a cascade keeps the sizes of activations and is no ranking of methods. Random labels, the
second test of Adebayo et al., need another training and are not here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from allconv_caffe import files, markdown
from allconv_caffe.visualize.display import zero_centred
from allconv_caffe.visualize.nets.base import PathLike, VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.rules import RULES, rule_name
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.unit import Unit, check_blob, scores_blob
from allconv_caffe.visualize.whitening import InputSpace

MEASURES = ("cosine", "spearman", "ssim")
WINDOW = 7


def strength(maps: np.ndarray) -> np.ndarray:
    """(K, C, H, W) signed to (K, H, W): the sum of absolute values over channels."""
    return np.abs(maps).sum(axis=1)


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Of two arrays of one shape, as vectors; 0 where one of them is zero."""
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size else 0.0


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of ranks, equal values sharing the mean of theirs; 0 where one array is constant."""
    a, b = (_ranks(x.ravel()) for x in (one, other))
    return cosine(a - a.mean(), b - b.mean())


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[place.ravel()]


def ssim(one: np.ndarray, other: np.ndarray, window: int = WINDOW) -> float:
    """Mean structural similarity of two (H, W) images of 0..1 over all windows that lie inside; constants 0.01 and 0.03.

    Raises: VizError: images smaller than the window.
    """
    if min(one.shape) < window:
        raise VizError("ssim", f"maps of {one.shape[0]}x{one.shape[1]}", f"{window}x{window} or larger")
    x, y = one.astype(np.float64), other.astype(np.float64)
    mx, my, xx, yy, xy = (_box_mean(values, window) for values in (x, y, x * x, y * y, x * y))
    vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float(np.mean((2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))))


def _box_mean(values: np.ndarray, n: int) -> np.ndarray:
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    return (total[n:, n:] - total[:-n, n:] - total[n:, :-n] + total[:-n, :-n]) / (n * n)


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(3,) float64: the MEASURES of two signed maps (C, H, W)."""
    a, b = strength(np.stack([one, other])).astype(np.float64)
    a, b = a / max(a.max(), 1e-30), b / max(b.max(), 1e-30)
    return np.array([cosine(one, other), spearman(a, b), ssim(a, b)])


def edges(image: np.ndarray) -> np.ndarray:
    """Strength of Sobel's edges of an image (C, H, W): (H, W), the outermost pixels repeated beyond the border."""
    x = np.pad(image.astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    columns = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]
    across, down = rows[:, :, 2:] - rows[:, :, :-2], columns[:, 2:] - columns[:, :-2]
    return np.sqrt(across**2 + down**2).sum(axis=0)


@dataclass
class Sanity:
    """What both tests found.

    Attributes:
        blob: whose strongest units were explained. rules: those tested. layers: drawn anew one after the other, from the top.
        images: how many. draws, seed: of the weights.
        cascade: by rule, (layers, 3): mean similarity to the trained net's maps once all layers up to this one are random.
        spread: the same, standard deviation over images and draws.
        compared: by rule, (layers,): how many maps that is; units that are dead under random weights are left out.
        two_units, two_images: by rule, (3,): similarity of the maps of an image's two strongest units, and of one unit in two
            images that both activate it. pairs: how many of each.
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
        """What the numbers say, one sentence each; computed, not assumed."""
        out = []
        half = (len(self.layers) - 1) // 2
        if len(self.layers) > 1 and "backprop" in self.rules and "guided" in self.rules:
            guided, plain = self.cascade["guided"][half], self.cascade["backprop"][half]
            at = f"With {self.layers[0]} to {self.layers[half]} random"
            out.append(
                f"{at}, guided maps keep a cosine of {_text(guided[0])} and an SSIM of {_text(guided[2])} to those of the "
                f"trained net, plain backprop {_text(plain[0])} and {_text(plain[2])}: "
                + (
                    "guided backpropagation depends little on what the upper layers learned (it fails the test)."
                    if guided[0] > 0.5
                    else "guided maps stay closer to what they were, but they change."
                    if guided[0] > plain[0] + 0.05
                    else "here guided maps change as much as plain gradients."
                )
            )
        for rule in self.rules:
            value = self.two_units[rule][0]
            other = self.two_images[rule][0]
            if np.isfinite(value) and np.isfinite(other):
                if value > 0.8 and value > other:
                    says = "the map hardly says which unit was asked"
                elif other > 0.99:
                    says = "the map does not depend on the image"
                else:
                    says = "the map depends on both"
                out.append(
                    f"{rule}: two units of one image have maps of cosine {_text(value)}, one unit in two images "
                    f"{_text(other)}: {says}."
                )
        if "guided" in self.rules:
            trained, random = self.edge["guided"][0], self.edge["guided"][-1]
            out.append(
                f"Strengths of guided maps correlate with the edges of the image by {_text(trained)} where trained, by "
                f"{_text(random)} where every layer is random."
            )
        out.append(
            "A guided picture shows what the lower layers can rebuild of an image; alone it is no evidence of what a unit "
            "or the classifier means."
        )
        return out

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
        try:
            os.makedirs(where, exist_ok=True)
            files.write(paths[0], json.dumps(dict(facts, input=space.describe()), indent=1) + "\n")
            files.write(paths[1], self.markdown())
            self._draw(paths[2], space, shown)
            if arrays:
                maps = {f"maps_{rule}": maps for rule, maps in self.examples.items()}
                np.savez_compressed(
                    paths[3],
                    images=self.example_images,
                    layers=np.array(["", *self.layers]),
                    **maps,  # type: ignore[arg-type]
                )
        except OSError as error:
            raise VizError(where, error.strerror or str(error), "a folder that can be written") from None
        return paths if arrays else paths[:3]

    def _draw(self, path: str, space: InputSpace, shown: str) -> None:
        """Curves of the cascade above, the examples' maps below: a row for each rule, a column for each layer."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        columns, rows = len(self.layers) + 2, len(self.example_images) * len(self.rules)
        width, curves = 1.05 * columns, 2.6
        figure = Figure(figsize=(width, curves + 1.05 * rows + 0.6), dpi=80)
        FigureCanvasAgg(figure)
        parts: Any = figure.subfigures(2, 1, height_ratios=[curves, 1.05 * rows + 0.6])
        above, below = parts
        names = ["trained", *self.layers]
        for axes, measure, at in zip(above.subplots(1, 3, sharey=True), MEASURES, range(3), strict=True):
            for rule in self.rules:
                axes.plot(names, [1, *self.cascade[rule][:, at]], marker=".", label=rule)
            axes.set_title(measure, fontsize=9)
            axes.tick_params(axis="x", rotation=90, labelsize=7)
            axes.tick_params(axis="y", labelsize=7)
            axes.set_ylim(-0.35, 1.05)
            axes.grid(alpha=0.3)
            if not at:
                axes.legend(fontsize=7, loc="lower right", ncols=3, borderpad=0.2, handlelength=1, columnspacing=0.8)
        above.subplots_adjust(left=0.06, right=0.98, top=0.9, bottom=0.3, wspace=0.08)
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
                        axes.set_title(name, fontsize=8)
                    if tile is None:
                        continue
                    if tile.dtype == np.uint8:
                        axes.imshow(tile, interpolation="nearest")
                    elif np.isfinite(tile).all():
                        axes.imshow(zero_centred(tile), interpolation="nearest")
                    else:
                        axes.text(0.5, 0.5, "dead", ha="center", va="center", fontsize=7, transform=axes.transAxes)
        figure.savefig(path)


def _named(values: np.ndarray) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(MEASURES, values, strict=True)}


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _text(value: float) -> str:
    return f"{value + 0.0:.2f}".replace("-0.00", "0.00") if np.isfinite(value) else "-"


def layers_below(net: VizNet, blob: str) -> list[str]:
    """Names of the layers with parameters between `blob` and the image, from the top."""
    params = net.params()
    return [net.graph.nodes[i].name for i in net.graph.path(blob)[0] if params.get(net.graph.nodes[i].name)]


def randomised(params: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """A layer's parameters drawn anew: weights normal, of the trained ones' root mean square; biases in another order."""
    first, *others = params
    std = float(np.sqrt(np.mean(np.square(first, dtype=np.float64))))
    return [
        rng.normal(0, std, first.shape).astype(np.float32),
        *(rng.permutation(p.ravel()).reshape(p.shape) for p in others),
    ]


def sanity(
    net: VizNet,
    images: np.ndarray,
    blob: str | None = None,
    *,
    rules: Sequence[str] = RULES,
    draws: int = 3,
    seed: int = 0,
    examples: int = 3,
    batch_size: int = 32,
    space: InputSpace | None = None,
    progress: bool = False,
) -> Sanity:
    """Both tests on the strongest unit of `blob` in each image. The net's weights are put back in the end, whatever happens.

    Args:
        images: (N, C, H, W), in the units of the input blob, N of 2 or more.
        blob: None: the scores.
        draws: of random weights, each with a cascade of its own.
        examples: of how many images the maps are kept, for the picture.
        space: how the input blob was made of pixels: the edges are those of the picture, not of whitened values. None: of the
            input.

    Raises: VizError: fewer than two images, none of them with an active unit, an unknown blob or rule, no weights below it.
    """
    blob = scores_blob(net) if blob is None else blob
    check_blob(net, blob)
    rules = tuple(rule_name(rule) for rule in rules)
    for word, value in (("draws", draws), ("batch_size", batch_size)):
        if value < 1:
            raise VizError(word, value, "1 or more")
    if len(images) < 2:
        raise VizError("images", len(images), "2 or more: maps are compared between images")
    layers = layers_below(net, blob)
    if not layers:
        raise VizError(f"blob '{blob}'", "no layer with weights below", "a blob above one", net.blob_names)
    images = np.asarray(images, np.float32)
    first, second, active = _strongest(net, images, blob, batch_size)
    kept = [i for i, unit in enumerate(first) if unit is not None]
    if len(kept) < 2:
        raise VizError(f"blob '{blob}'", f"{len(kept)} images with an active unit", "2 or more: take other images")
    images, active = images[kept], active[kept]
    units = [unit for unit in first if unit is not None]
    rivals = [second[i] for i in kept]
    outline = [edges(image) for image in (images if space is None else space.pictures(images).transpose(0, 3, 1, 2))]
    examples = min(examples, len(images))

    trained, _ = _maps(net, images, units, rules, batch_size)
    two_units, unit_pairs = _two_units(net, images, rivals, trained, rules, batch_size)
    two_images, image_pairs = _two_images(net, images, units, active, trained, rules, batch_size)

    found: dict[str, list[list[np.ndarray]]] = {rule: [[] for _ in layers] for rule in rules}
    edge: dict[str, list[list[float]]] = {rule: [[] for _ in range(len(layers) + 1)] for rule in rules}
    shown = {rule: np.full((draws, examples, len(layers) + 1, *net.input_shape), np.nan, np.float32) for rule in rules}
    steps_alive = np.zeros((draws, examples), int)
    for rule in rules:
        shown[rule][:, :, 0] = trained[rule][:examples]
        edge[rule][0] = [spearman(one, line) for one, line in zip(strength(trained[rule]), outline, strict=True)]
    own, own_hash = net.params(), net.weights_sha256
    bar = None
    if progress:
        bar = tqdm(total=draws * len(layers), desc="randomising", unit="step")
    try:
        for draw in range(draws):
            rng = np.random.default_rng([seed, draw])
            net.set_params(own)
            for step, layer in enumerate(layers):
                net.set_params({layer: randomised(own[layer], rng)})
                now, alive = _maps(net, images, units, rules, batch_size)
                steps_alive[draw] += alive[:examples]
                for rule in rules:
                    for i in np.flatnonzero(alive):
                        found[rule][step].append(similarity(trained[rule][i], now[rule][i]))
                        edge[rule][step + 1].append(spearman(strength(now[rule][i][None])[0], outline[i]))
                        if i < examples:
                            shown[rule][draw, i, step + 1] = now[rule][i]
                if bar is not None:
                    bar.update(1)
    finally:
        net.set_params(own)
        net.weights_sha256 = own_hash
        if bar is not None:
            bar.close()

    def mean(rows: Sequence[Any], width: int = 3) -> np.ndarray:
        return np.mean(rows, axis=0) if len(rows) else np.full(width, np.nan)

    return Sanity(
        blob,
        rules,
        tuple(layers),
        len(images),
        draws,
        seed,
        {rule: np.stack([mean(rows) for rows in found[rule]]) for rule in rules},
        {
            rule: np.stack([np.std(rows, axis=0) if rows else np.full(3, np.nan) for rows in found[rule]])
            for rule in rules
        },
        {rule: np.array([len(rows) for rows in found[rule]]) for rule in rules},
        {rule: mean(two_units[rule]) for rule in rules},
        {rule: mean(two_images[rule]) for rule in rules},
        (unit_pairs, image_pairs),
        {rule: np.array([np.mean(rows) if rows else np.nan for rows in edge[rule]]) for rule in rules},
        {rule: maps[steps_alive.argmax(axis=0), np.arange(examples)] for rule, maps in shown.items()},
        images[:examples],
        {"net": net.where, "engine": net.engine, "weights_sha256": own_hash, "net_sha256": net.net_sha256},
    )


def _strongest(
    net: VizNet, images: np.ndarray, blob: str, batch_size: int
) -> tuple[list[Unit | None], list[Unit | None], np.ndarray]:
    """Each image's strongest unit, the strongest of another channel, None where not active; and (N, C): the largest activations."""
    first: list[Unit | None] = []
    second: list[Unit | None] = []
    largest = []
    for start in range(0, len(images), batch_size):
        data = net.forward(images[start : start + batch_size], (blob,), until=blob)[blob]
        width = data.shape[3] if data.ndim == 4 else 1
        flat = data.reshape(*data.shape[:2], -1)
        for row in flat:
            order = np.argsort(-row.max(axis=1), kind="stable")[:2]
            best: list[Unit | None] = []
            for channel in order:
                place = int(row[channel].argmax())
                unit = Unit(blob, int(channel), place // width, place % width)
                best.append(unit if row[channel, place] > 0 else None)
            first.append(best[0])
            second.append(best[1] if len(best) > 1 else None)
        largest.append(flat.max(axis=2))
    return first, second, np.concatenate(largest)


def _maps(
    net: VizNet, images: np.ndarray, units: Sequence[Unit], rules: Sequence[str], batch_size: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each rule's maps, (K, C, H, W), of one forward pass; and which units are active, (K,) bool: only those have a map."""
    out: dict[str, list[np.ndarray]] = {rule: [] for rule in rules}
    active = []
    blob = units[0].blob
    for start in range(0, len(images), batch_size):
        data = net.forward(images[start : start + batch_size], (blob,), until=blob)[blob]
        places = [(i, *unit.index(data.shape[1:])) for i, unit in enumerate(units[start : start + batch_size])]
        active += [bool(data[place] > 0) for place in places]
        seeds = np.zeros_like(data)
        for place in places:
            seeds[place] = 1
        for rule in rules:
            out[rule].append(net.backward(blob, seeds, rule))
    return {rule: np.concatenate(maps) for rule, maps in out.items()}, np.array(active)


def _two_units(
    net: VizNet,
    images: np.ndarray,
    rivals: Sequence[Unit | None],
    trained: dict[str, np.ndarray],
    rules: Sequence[str],
    batch_size: int,
) -> tuple[dict[str, list[np.ndarray]], int]:
    rows = [i for i, unit in enumerate(rivals) if unit is not None]
    out: dict[str, list[np.ndarray]] = {rule: [] for rule in rules}
    if rows:
        others = [(i, unit) for i, unit in enumerate(rivals) if unit is not None]
        for rule in rules:
            maps = reconstruct(net, images, others, rule, batch_size=batch_size).maps
            out[rule] = [similarity(trained[rule][i], map_) for i, map_ in zip(rows, maps, strict=True)]
    return out, len(rows)


def _two_images(
    net: VizNet,
    images: np.ndarray,
    units: Sequence[Unit],
    active: np.ndarray,
    trained: dict[str, np.ndarray],
    rules: Sequence[str],
    batch_size: int,
) -> tuple[dict[str, list[np.ndarray]], int]:
    """Each image's unit, at the same place, in the next image in which its channel is active there."""
    pairs = []
    blob = units[0].blob
    data = np.concatenate(
        [net.forward(images[s : s + batch_size], (blob,), until=blob)[blob] for s in range(0, len(images), batch_size)]
    )
    for i, unit in enumerate(units):
        for j in [*range(i + 1, len(images)), *range(i)]:
            place = (j, *unit.index(data.shape[1:]))
            if active[j, unit.channel] > 0 and data[place] > 0:
                pairs.append((i, j, unit))
                break
    out: dict[str, list[np.ndarray]] = {rule: [] for rule in rules}
    if pairs:
        for rule in rules:
            maps = reconstruct(net, images, [(j, unit) for _, j, unit in pairs], rule, batch_size=batch_size).maps
            out[rule] = [similarity(trained[rule][i], map_) for (i, _, _), map_ in zip(pairs, maps, strict=True)]
    return out, len(pairs)
