"""Does a map depend on what the network learned? Two published tests of the three rules.

    report = sanity(net, images)
    print(report.text())

*Cascade* (Adebayo et al. 2018, arXiv 1810.03292): the weights are drawn anew, layer by layer from the top; a map that stays as it
was did not show what those layers learned. *Insensitivity* (Nie et al. 2018, arXiv 1805.07039): maps of two units of one image in
one place, and of one unit in two images; a map that ignores the unit shows the image. Similarities (`similarity`) are of single
maps, where their unit can see, then averaged.

Binder et al. 2022 (arXiv 2211.12486) show that a cascade keeps the sizes of activations and is no ranking of methods. Random
labels, the second test of Adebayo et al., need another training and are not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.rules import RULES, rule_name
from allconv_caffe.visualize.receptive_field import Box, receptive_field
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.sanity_report import Sanity
from allconv_caffe.visualize.similarity import edges, similarity, spearman, strength
from allconv_caffe.visualize.unit import Unit, check_blob, scores_blob
from allconv_caffe.visualize.whitening import InputSpace


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


@dataclass(kw_only=True)
class _Subjects:
    """The images that have an active unit, and what is asked of them.

    Attributes:
        images: (N, C, H, W).
        units: each image's strongest.
        rivals: the strongest of another channel in the same place; None where none is active.
        boxes: the pixels that the units can see.
        outlines: the edges of each image within its box.
        data: (N, ...), the blob in each image.
        rules: those tested.
        batch_size: images of one pass.
    """

    images: np.ndarray
    units: list[Unit]
    rivals: list[Unit | None]
    boxes: list[Box]
    outlines: list[np.ndarray]
    data: np.ndarray
    rules: tuple[str, ...]
    batch_size: int

    def maps(self, net: VizNet) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Each rule's maps, (N, C, H, W), of one forward pass; and which units are active, (N,) bool: only those have one."""
        out: dict[str, list[np.ndarray]] = {rule: [] for rule in self.rules}
        active: list[bool] = []
        blob = self.units[0].blob
        for start in range(0, len(self.images), self.batch_size):
            rows = slice(start, start + self.batch_size)
            data = net.forward(self.images[rows], (blob,), until=blob)[blob]
            places = [(i, *unit.index(data.shape[1:])) for i, unit in enumerate(self.units[rows])]
            active += [bool(data[place] > 0) for place in places]
            seeds = np.zeros_like(data)
            for place in places:
                seeds[place] = 1
            for rule in self.rules:
                out[rule].append(net.backward(blob, seeds, rule))
        return {rule: np.concatenate(maps) for rule, maps in out.items()}, np.array(active)

    def alike(self, i: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The similarity of two maps of image i's unit, or of others in its place."""
        return similarity(_cut(one, self.boxes[i]), _cut(other, self.boxes[i]))

    def on_edges(self, i: int, map_: np.ndarray) -> float:
        """How much a map of image i's unit lies on the image's edges."""
        return spearman(strength(_cut(map_, self.boxes[i])[None])[0], self.outlines[i])


def _cut(array: np.ndarray, box: Box) -> np.ndarray:
    return array[..., box.top : box.bottom, box.left : box.right]


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
    asked = _subjects(net, np.asarray(images, np.float32), blob, rules, space, batch_size)
    trained, _ = asked.maps(net)
    two_units, two_images = _two_units(net, asked, trained), _two_images(net, asked, trained)
    steps = _cascade(net, asked, trained, layers, draws=draws, seed=seed, examples=examples, progress=progress)
    return Sanity(
        blob=blob,
        rules=rules,
        layers=tuple(layers),
        images=len(asked.images),
        draws=draws,
        seed=seed,
        cascade={rule: np.stack([_mean(rows) for rows in steps.alike[rule]]) for rule in rules},
        spread={rule: np.stack([_deviation(rows) for rows in steps.alike[rule]]) for rule in rules},
        compared={rule: np.array([len(rows) for rows in steps.alike[rule]]) for rule in rules},
        two_units={rule: _mean(two_units[rule]) for rule in rules},
        two_images={rule: _mean(two_images[rule]) for rule in rules},
        pairs=(len(two_units[rules[0]]), len(two_images[rules[0]])),
        edge={rule: np.array([np.mean(rows) if rows else np.nan for rows in steps.on_edges[rule]]) for rule in rules},
        examples=steps.examples,
        example_images=asked.images[:examples],
        facts={
            "net": net.where,
            "engine": net.engine,
            "weights_sha256": net.weights_sha256,
            "net_sha256": net.net_sha256,
        },
    )


def _mean(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.mean(rows, axis=0) if len(rows) else np.full(3, np.nan)


def _deviation(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.std(rows, axis=0) if len(rows) else np.full(3, np.nan)


def _subjects(
    net: VizNet, images: np.ndarray, blob: str, rules: tuple[str, ...], space: InputSpace | None, batch_size: int
) -> _Subjects:
    """Raises: VizError: fewer than two images with an active unit."""
    data = np.concatenate(
        [
            net.forward(images[start : start + batch_size], (blob,), until=blob)[blob]
            for start in range(0, len(images), batch_size)
        ]
    )
    pairs = [_strongest(blob, row) for row in data]
    kept = [i for i, pair in enumerate(pairs) if pair is not None]
    if len(kept) < 2:
        raise VizError(f"blob '{blob}'", f"{len(kept)} images with an active unit", "2 or more: take other images")
    images, field = images[kept], receptive_field(net, blob)
    units, rivals = zip(*(pair for pair in pairs if pair is not None), strict=True)
    boxes = [field.support(unit) for unit in units]
    seen = images if space is None else space.pictures(images).transpose(0, 3, 1, 2)
    return _Subjects(
        images=images,
        units=list(units),
        rivals=list(rivals),
        boxes=boxes,
        outlines=[_cut(edges(image), box) for image, box in zip(seen, boxes, strict=True)],
        data=data[kept],
        rules=rules,
        batch_size=batch_size,
    )


def _strongest(blob: str, row: np.ndarray) -> tuple[Unit, Unit | None] | None:
    """The strongest unit of one image's part of a blob, and the strongest of another channel in its place, where active."""
    maps = row.reshape(*row.shape, *(1,) * (3 - row.ndim))
    channel, y, x = (int(n) for n in np.unravel_index(int(maps.argmax()), maps.shape))
    if not maps[channel, y, x] > 0:
        return None
    others = maps[:, y, x].copy()
    others[channel] = -np.inf
    second = int(others.argmax())
    return Unit(blob, channel, y, x), Unit(blob, second, y, x) if others[second] > 0 else None


@dataclass(kw_only=True)
class _Steps:
    """What the cascade gives, by rule.

    Attributes:
        alike: for each layer, the similarities to the trained net's maps.
        on_edges: trained and for each layer, the correlations with the images' edges.
        examples: the first images' maps.
    """

    alike: dict[str, list[list[np.ndarray]]]
    on_edges: dict[str, list[list[float]]]
    examples: dict[str, np.ndarray]


def _cascade(
    net: VizNet,
    asked: _Subjects,
    trained: dict[str, np.ndarray],
    layers: Sequence[str],
    *,
    draws: int,
    seed: int,
    examples: int,
    progress: bool,
) -> _Steps:
    """Layer by layer from the top, weights drawn anew; then the net's own again."""
    rules, examples = asked.rules, min(examples, len(asked.images))
    alike: dict[str, list[list[np.ndarray]]] = {rule: [[] for _ in layers] for rule in rules}
    on_edges: dict[str, list[list[float]]] = {rule: [[] for _ in range(len(layers) + 1)] for rule in rules}
    shape = (draws, examples, len(layers) + 1, *net.input_shape)
    shown = {rule: np.full(shape, np.nan, np.float32) for rule in rules}
    steps_alive = np.zeros((draws, examples), int)
    for rule in rules:
        shown[rule][:, :, 0] = trained[rule][:examples]
        on_edges[rule][0] = [asked.on_edges(i, map_) for i, map_ in enumerate(trained[rule])]
    own, own_hash = net.params(), net.weights_sha256
    with tqdm(total=draws * len(layers), desc="randomising", unit="step", disable=None if progress else True) as bar:
        try:
            for draw in range(draws):
                rng = np.random.default_rng([seed, draw])
                net.set_params(own)
                for step, layer in enumerate(layers):
                    net.set_params({layer: randomised(own[layer], rng)})
                    now, alive = asked.maps(net)
                    steps_alive[draw] += alive[:examples]
                    for rule in rules:
                        for i in np.flatnonzero(alive).tolist():
                            alike[rule][step].append(asked.alike(i, trained[rule][i], now[rule][i]))
                            on_edges[rule][step + 1].append(asked.on_edges(i, now[rule][i]))
                            if i < examples:
                                shown[rule][draw, i, step + 1] = now[rule][i]
                    bar.update(1)
        finally:
            net.set_params(own)
            net.weights_sha256 = own_hash
    longest = steps_alive.argmax(axis=0)
    kept = {rule: maps[longest, np.arange(examples)] for rule, maps in shown.items()}
    return _Steps(alike=alike, on_edges=on_edges, examples=kept)


def _two_units(net: VizNet, asked: _Subjects, trained: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Each image's unit beside its rival."""
    pairs = [(i, unit) for i, unit in enumerate(asked.rivals) if unit is not None]
    return _compared(net, asked, trained, [(i, i, unit) for i, unit in pairs])


def _two_images(net: VizNet, asked: _Subjects, trained: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Each image's unit beside the same in the next image in which it is active."""
    count, pairs = len(asked.images), []
    for i, unit in enumerate(asked.units):
        later = (*range(i + 1, count), *range(i))
        place = unit.index(asked.data.shape[1:])
        j = next((j for j in later if asked.data[j][place] > 0), None)
        if j is not None:
            pairs.append((i, j, unit))
    return _compared(net, asked, trained, pairs)


def _compared(
    net: VizNet, asked: _Subjects, trained: dict[str, np.ndarray], pairs: Sequence[tuple[int, int, Unit]]
) -> dict[str, list[np.ndarray]]:
    """By rule, the similarity of image i's trained map and of the unit's in image j, for each (i, j, unit)."""
    out: dict[str, list[np.ndarray]] = {rule: [] for rule in asked.rules}
    for rule in asked.rules if pairs else ():
        units = [(j, unit) for _, j, unit in pairs]
        maps = reconstruct(net, asked.images, units, rule, batch_size=asked.batch_size).maps
        out[rule] = [asked.alike(i, trained[rule][i], map_) for (i, _, _), map_ in zip(pairs, maps, strict=True)]
    return out
