"""The paper's figures 1 to 6, from any net: each function gives a `display.Drawing`, picture, raw maps and record.

    1  figure_one      the schematic, the three rules on a toy, their formulas
    2  pattern_figure  what the filters of low layers look for, without an image
    3  patch_figure    guided reconstructions of each filter's strongest patches
    4  comparison      three rules from the last convolution, with and without switches
    5  comparison      the same from the scores before the softmax
    6  comparison      the same from the scores of a net with max-pooling of its own

Every map comes from an engine (`nets.base.VizNet`), the toy's too. Paper: section 4 and its appendix.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from allconv_caffe.proto import NetParameter, parse_text
from allconv_caffe.visualize.crops import crop
from allconv_caffe.visualize.display import Drawing, Grid, normalised, provenance, sheet
from allconv_caffe.visualize.mining import TopK
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.nets.rules import FORMULAS, RULES, rule_name
from allconv_caffe.visualize.patches import cut, top_patches_rules
from allconv_caffe.visualize.patterns import interior_unit, patterns
from allconv_caffe.visualize.receptive_field import receptive_field
from allconv_caffe.visualize.reconstruct import Reconstructions, reconstruct, reconstruct_rules
from allconv_caffe.visualize.sanity import cosine, scores_blob
from allconv_caffe.visualize.sources import ImageSource
from allconv_caffe.visualize.surgery import stride2_layers, switches_below
from allconv_caffe.visualize.unit import Unit, argmax_units, check_blob
from allconv_caffe.visualize.whitening import InputSpace

TIES = "the first maximum of a window in row order; convolution, ReLU, pooling"
CAVEAT = (
    "A map shows what the lower layers can rebuild of an image, which is no proof of what a unit means: "
    "`allconv viz sanity` (Adebayo et al. 2018, Nie et al. 2018)."
)

TOY = np.array([[1, -1, 5], [2, -5, -7], [-3, 2, 4]], np.float32)
TOY_GRADIENT = np.array([[-2, 3, -1], [6, -3, 1], [2, -1, 3]], np.float32)
"""Figure 1b: a ReLU's bottom, and the gradient at its top."""

TOY_NET = """
name: "toy"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 3 dim: 3 } } }
layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }
"""

CORNERS_NET = """
name: "corners"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 24 dim: 24 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 4 kernel_size: 5 pad: 2 stride: 2 } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
"""
"""Figure 1a without a trained net: edges in four directions, and the four corners that two of them make."""

SPACES = {"input": "the input blob's values", "pixel": "gradients at the pixels"}


@dataclass
class Look:
    """How maps are drawn.

    Attributes:
        how: of `display.NORMALISATIONS`. shown: "input" (the space of the input blob, whitened where the net is) or "pixel".
        space: how the input blob was made of pixels. size: pixels of a tile's longer side; None: as fits the figure.
        command: what was typed, for the record. classes: names, by label.
    """

    how: str = "zero-centred"
    shown: str = "input"
    space: InputSpace = field(default_factory=InputSpace)
    size: int | None = None
    command: str = ""
    classes: Sequence[str] = ()

    def draw(self, maps: np.ndarray) -> np.ndarray:
        """Maps with planes R, G, B, in the space they are shown in, as pictures."""
        return normalised(maps, self.how)

    def facts(self, number: int | None, title: str) -> dict[str, Any]:
        space = "pixel" if self.shown == "pixel" else "whitened input" if self.space.whitened else "input"
        return {
            "figure": number,
            "title": title,
            "command": self.command,
            "normalisation": self.how,
            "space": space,
            "ties": TIES,
            "input": self.space.describe(),
        }

    def says(self) -> str:
        """One sentence for beneath the picture."""
        space = (
            "pixel space" if self.shown == "pixel" else "whitened space" if self.space.whitened else "the input's space"
        )
        scale = {
            "zero-centred": "each by its largest value, 0 is grey",
            "shared": "one scale for each kind, 0 is grey",
            "percentile": "each by the 99th percentile, 0 is grey",
            "positive": "positive values, each by its largest",
            "l2-grey": "length over channels, each by its largest",
        }.get(self.how, self.how)
        return f"Maps in {space}, {scale}."


def open_text(text: str, **how: Any) -> VizNet:
    """TOY_NET or CORNERS_NET by the engine that `open_net` is told of; `where` is the net's own name."""
    net = open_net(parse_text(text, NetParameter), **how)
    net.where = net.param.name
    return net


def toy(net: VizNet) -> dict[str, np.ndarray]:
    """Figure 1b: "forward" and each rule on TOY and TOY_GRADIENT, computed by the engine of `net`, a TOY_NET.

    >>> toy(open_text(TOY_NET))["guided"].astype(int).tolist()
    [[0, 0, 0], [6, 0, 0], [0, 0, 3]]
    """
    out = {"forward": net.forward(TOY[None, None], ("relu",))["relu"][0, 0]}
    for rule in RULES:
        out[rule] = net.backward("relu", TOY_GRADIENT[None, None], rule)[0, 0]
    return out


def corners(net: VizNet) -> np.ndarray:
    """Gives `net`, a CORNERS_NET, its weights, and returns the image that goes with it: a square, (1, 1, 24, 24)."""
    edge = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32) / 4
    first = np.stack([edge, edge.T, -edge, -edge.T])[:, None]
    second = np.zeros((4, 4, 5, 5), np.float32)
    for i in range(4):
        second[i, i], second[i, (i + 1) % 4] = 0.05, 0.05
    net.set_params({"conv1": [first, np.zeros(4, np.float32)], "conv2": [second, np.full(4, -0.6, np.float32)]})
    image = np.zeros((1, 1, 24, 24), np.float32)
    image[:, :, 6:17, 5:18] = 1
    return image


def figure_one(
    toy_net: VizNet, net: VizNet, image: np.ndarray, unit: Unit, look: Look, *, rule: str = "guided", key: str = ""
) -> Drawing:
    """Figure 1: forward to a layer, all but one unit set to zero, back to the image; the rules on a toy; the formulas.

    Args:
        toy_net: a TOY_NET. net: any net for part a. image: (1, C, H, W), in the units of its input blob.
        unit: the one that is kept; its blob is drawn. key: the image's name in its data.
    """
    rule = rule_name(rule)
    shape = check_blob(net, unit.blob)
    if len(shape) != 3:
        raise VizError(f"blob '{unit.blob}'", "a blob without height and width", "one with maps: a convolution's")
    numbers = toy(toy_net)
    found = reconstruct(net, image, [(0, unit)], rule)
    maps = net.forward(image, (unit.blob,), until=unit.blob)[unit.blob][0]
    one = look.space.maps(found.maps, look.shown)
    parts = {
        "picture": look.space.pictures(image)[0] if look.space.source or image.shape[1] == 3 else normalised(image)[0],
        "map": look.draw(one)[0],
    }
    facts = {**look.facts(1, "Figure 1: how an activation is traced back"), **provenance(net)}
    facts.update(rule=rule, formulas=FORMULAS, toy={name: values.tolist() for name, values in numbers.items()})
    facts["notes"] = found.notes
    tile = _fact(unit, key, found, 0, rule, net, ("maps", 0), receptive_field(net, unit.blob).box(unit).as_list())
    picture = _draw_one(parts, maps, unit, rule, numbers)
    return Drawing(picture, {"maps": one, "activations": maps, **numbers}, facts, [tile])


def pattern_figure(
    net: VizNet,
    blobs: Sequence[str],
    look: Look,
    *,
    channels: Mapping[str, Sequence[int]] | None = None,
    number: int | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Drawing:
    """Figure 2: one patch per filter, a panel per blob.

    Args:
        channels: by blob, which filters; all of those not named.

    Raises: VizError: see `patterns.patterns`.
    """
    panels, arrays, tiles, notes = [], {}, [], []
    dead: dict[str, list[int]] = {}
    for blob in blobs:
        wanted = list((channels or {}).get(blob) or range(check_blob(net, blob)[0]))
        y, x, box = interior_unit(net, blob)
        maps = patterns(net, blob, wanted, batch_size=batch_size, progress=progress)
        if look.shown == "pixel":
            whole = np.zeros((len(maps), *net.input_shape), np.float32)
            whole[:, :, box.top : box.bottom, box.left : box.right] = maps
            maps = crop(look.space.maps(whole, "pixel"), box)
        else:
            maps = look.space.maps(maps, "input")
        arrays[blob] = maps
        pictures = look.draw(maps)
        columns = min(12, len(wanted))
        panels.append(
            Grid(
                [list(pictures[start : start + columns]) for start in range(0, len(pictures), columns)],
                title=f"{blob}: {len(wanted)} filters, {box.height}x{box.width}",
                size=look.size or 30,
                gap=3,
            )
        )
        zero = np.logical_not(maps.reshape(len(maps), -1).any(axis=1))
        dead[blob] = [channel for channel, gone in zip(wanted, zero, strict=True) if gone]
        if dead[blob]:
            notes.append(f"{blob}: dead, drawn grey: {', '.join(map(str, dead[blob]))}.")
        for i, channel in enumerate(wanted):
            tiles.append(
                {
                    "unit": str(Unit(blob, channel, y, x)),
                    "image": None,
                    "seed": 1.0,
                    "activation": None,
                    "box": box.as_list(),
                    "rule": "deconvnet",
                    "switches": [],
                    "array": [blob, i],
                    "dead": bool(zero[i]),
                    "largest": float(np.abs(maps[i]).max()),
                }
            )
    title = ("Figure 2: " if number == 2 else "") + "patterns of low layers, without an image"
    says = f"Deconvnet from one unit for each filter; no pooling lies below, so no image enters. {look.says()}"
    facts = {**look.facts(number, title), **provenance(net), "rule": "deconvnet", "dead": dead, "notes": notes}
    rows = [panels] if len(panels) * 12 * (look.size or 30) < 1300 else [[panel] for panel in panels]
    return Drawing(sheet(rows, title, [says, *notes]), arrays, facts, tiles)


def patch_figure(
    net: VizNet,
    source: ImageSource,
    topk: TopK,
    rows: Mapping[str, Sequence[int]],
    look: Look,
    *,
    k: int = 10,
    rules: Sequence[str] = ("guided",),
    number: int | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Drawing:
    """Figure 3: a row for each filter, its k strongest patches: reconstructions to the left, image patches to the right.

    Args:
        topk: what `mining.mine` found. rows: by blob, its filters. A dead filter's row says so; free places stay white.

    Raises: VizError: results of other weights, net or data.
    """
    rules, k = [rule_name(rule) for rule in rules], min(k, topk.k)
    parts, arrays, tiles, dead = [], {}, [], {}
    for blob, wanted in rows.items():
        field_ = receptive_field(net, blob)
        size = look.size or (42 if max(field_.size) <= 32 else 72)
        dead[blob] = [int(c) for c in np.flatnonzero(topk.channels(blob).dead)]
        labels = [f"{blob}:{c}" + ("\ndead" if c in dead[blob] else "") for c in wanted]
        grids: list[Grid] = []
        found = top_patches_rules(
            net, source, topk, blob, wanted, k=k, rules=rules, batch_size=batch_size, progress=progress
        )
        counts = [len(row) for row in found[rules[0]]]
        switches = switches_below(net.param, blob)
        shown: list[np.ndarray] = []
        for rule in rules:
            flat = [patch for row in found[rule] for patch in row]
            shown, cuts = cut(flat, look.space, look.shown)
            name = f"{blob}.{rule}"
            maps = np.stack(cuts) if cuts else np.zeros((0, net.input_shape[0], *field_.size), np.float32)
            arrays[name] = maps
            grids.append(
                Grid(_rows(list(look.draw(maps)), counts, k), f"{rule} maps", rows=() if grids else labels, size=size)
            )
            for i, patch in enumerate(flat):
                tiles.append(
                    {
                        "unit": str(patch.unit),
                        "image": patch.key,
                        "rank": patch.rank,
                        "seed": patch.seed,
                        "activation": patch.activation,
                        "box": patch.box.as_list(),
                        "rule": rule,
                        "switches": switches,
                        "array": [name, i],
                        "dead": False,
                        "zero": not maps[i].any(),
                        "largest": float(np.abs(maps[i]).max()),
                    }
                )
        grids.append(Grid(_rows(shown, counts, k), "image patches", size=size))
        if not shown:
            grids = [Grid([[]], f"{blob}: every filter drawn is dead")]
        parts.append(grids)
    title = ("Figure 3: " if number == 3 else "") + f"the {k} strongest patches of each filter"
    gone = ", ".join(f"{len(dead[b])} of {len(topk.channels(b).values)} in {b}" for b in rows)
    says = (
        f"{topk.images_seen:,} images seen, at most one patch of each; dead filters: {gone}. Sizes of patches are not "
        f"preserved. {look.says()} {CAVEAT}"
    )
    facts = {
        **look.facts(number, title),
        **provenance(net, source),
        "rules": rules,
        "k": k,
        "images_seen": topk.images_seen,
        "dead": dead,
    }
    return Drawing(sheet(parts, title, [says]), arrays, facts, tiles)


def _rows(pictures: Sequence[np.ndarray], counts: Sequence[int], k: int) -> list[list[np.ndarray | None]]:
    out: list[list[np.ndarray | None]] = []
    start = 0
    for count in counts:
        out.append([*pictures[start : start + count], *[None] * (k - count)])
        start += count
    return out


@dataclass
class Variant:
    """One net of a comparison: what it is called, and its top-1 accuracy as `top1` gives it."""

    name: str
    net: VizNet
    top1: dict[str, Any] | None = None


def comparison(
    variants: Sequence[Variant],
    images: np.ndarray,
    keys: Sequence[str],
    blob: str,
    look: Look,
    *,
    rules: Sequence[str] = RULES,
    unit: Unit | None = None,
    same_unit: bool = False,
    labels: Sequence[int | None] = (),
    seed: float | None = 1.0,
    number: int | None = None,
    title: str = "",
    source: ImageSource | None = None,
    batch_size: int = 32,
) -> Drawing:
    """Figures 4 to 6: a row for each image, the maps of every rule, for each net side by side; whole images.

    Args:
        variants: the trained net, and perhaps the same after surgery.
        images: (N, C, H, W). keys: their names. labels: their classes, where known.
        blob: its single largest activation in each image and net is explained.
        unit: explain this one instead, in every image and net. same_unit: in every net the first one's channel, at its
            largest place there.

    Raises: VizError: see `reconstruct.reconstruct`.
    """
    rules = [rule_name(rule) for rule in rules]
    names = _class_names(look, variants[0].net, blob)
    first = (
        [unit] * len(images)
        if unit is not None
        else argmax_units(variants[0].net, images, blob, batch_size=batch_size)[0]
    )
    arrays: dict[str, np.ndarray] = {}
    tiles: list[dict[str, Any]] = []
    chosen: list[Sequence[Unit]] = []
    records: list[dict[str, Any]] = []
    notes: list[str] = []
    found: list[dict[str, Reconstructions]] = []
    for v, variant in enumerate(variants):
        net = variant.net
        if v == 0 or unit is not None:
            units = first
        elif same_unit:
            units = [
                argmax_units(net, images[i : i + 1], blob, channel=one.channel)[0][0] for i, one in enumerate(first)
            ]
        else:
            units = argmax_units(net, images, blob, batch_size=batch_size)[0]
        chosen.append(units)
        found.append(reconstruct_rules(net, images, list(enumerate(units)), rules, seed=seed, batch_size=batch_size))
        box = receptive_field(net, blob)
        switches = switches_below(net.param, blob)
        for rule in rules:
            result = found[-1][rule]
            name = f"{v}.{rule}"
            arrays[name] = look.space.maps(result.maps, look.shown)
            notes += [note for note in result.notes if note not in notes]
            for i, one in enumerate(units):
                tile = _fact(one, keys[i], result, i, rule, net, (name, i), box.box(one).as_list())
                tiles.append({**tile, "variant": variant.name})
        records.append(
            {
                "name": variant.name,
                **provenance(net),
                "switches": switches,
                "top1": variant.top1,
                "units": [str(one) for one in units],
                "same_unit_as_first": [a == b for a, b in zip(units, first, strict=True)],
                "one_unit_on_all_images": _across_images(net, images, units[0], rules, seed, batch_size),
            }
        )
    size = look.size or (96 if len(variants) > 1 else 128)
    pictures = look.space.pictures(images)
    arrays["images"] = np.asarray(images, np.float32)
    under = [_image_label(i, keys, labels, look) for i in range(len(images))]
    grids = [Grid([[picture] for picture in pictures], " ", columns=["image"], under=under, size=size)]
    scaled = _scaled(arrays, len(variants), rules, look)
    for v, variant in enumerate(variants):
        rows = [[scaled[f"{v}.{rule}"][i] for rule in rules] for i in range(len(images))]
        under = [_row_label(one, i, found[v], rules, names) for i, one in enumerate(chosen[v])]
        grids.append(Grid(rows, variant.name, columns=list(rules), under=under, size=size))
    title = title or f"the largest activation of {blob}"
    says = [_independence(records, rules, chosen), _accuracies(records), look.says() + " " + CAVEAT]
    facts = {
        **look.facts(number, title),
        **provenance(variants[0].net, source),
        "blob": blob,
        "rules": rules,
        "variants": records,
        "notes": notes,
    }
    return Drawing(sheet([grids], title, [line for line in says if line]), arrays, facts, tiles)


def _scaled(arrays: dict[str, np.ndarray], count: int, rules: Sequence[str], look: Look) -> dict[str, np.ndarray]:
    """Pictures of every map; with a shared scale, one for all images and nets of a rule: rules differ in size by far."""
    out = {}
    for rule in rules:
        parts = [arrays[f"{v}.{rule}"] for v in range(count)]
        drawn = look.draw(np.concatenate(parts))
        for v in range(count):
            out[f"{v}.{rule}"] = drawn[v * len(parts[0]) : (v + 1) * len(parts[0])]
    return out


def _across_images(
    net: VizNet, images: np.ndarray, unit: Unit, rules: Sequence[str], seed: float | None, batch_size: int
) -> dict[str, Any]:
    """How much the maps of one unit differ between the images: what the absence of switches does to the deconvnet."""
    if len(images) < 2:
        return {}
    out: dict[str, Any] = {"unit": str(unit)}
    pairs = [(i, unit) for i in range(len(images))]
    found = reconstruct_rules(net, images, pairs, rules, seed=1.0 if seed is None else seed, batch_size=batch_size)
    for rule in rules:
        maps = found[rule].maps
        others = [cosine(maps[0], other) for other in maps[1:]]
        largest = float(np.abs(maps).max())
        difference = max(float(np.abs(maps[0] - other).max()) for other in maps[1:])
        out[rule] = {
            "largest_difference": difference / largest if largest else 0.0,
            "mean_cosine": float(np.mean(others)),
        }
    return out


def _independence(records: Sequence[dict[str, Any]], rules: Sequence[str], chosen: Sequence[Sequence[Unit]]) -> str:
    if "deconvnet" not in rules or len(chosen[0]) < 2:
        return ""
    words = []
    for record in records:
        value = record["one_unit_on_all_images"]["deconvnet"]
        same = value["largest_difference"] == 0
        words.append((record["name"], "the same in every bit" if same else f"cosine {value['mean_cosine']:.2f}"))
    return f"Deconvnet maps of one unit ({chosen[0][0]}) on all {len(chosen[0])} images{_by_net(words)}."


def _by_net(words: Sequence[tuple[str, str]]) -> str:
    """What is said of each net, by its name where there are several."""
    return f": {words[0][1]}" if len(words) == 1 else ", " + "; ".join(f"{name}: {says}" for name, says in words)


def _accuracies(records: Sequence[dict[str, Any]]) -> str:
    words = [
        (r["name"], f"{r['top1']['percent']:.1f} %") for r in records if r["top1"] and r["top1"]["percent"] is not None
    ]
    if not words:
        return ""
    after = " (not trained any further)" if len(words) > 1 else ""
    return f"Top-1 on {records[0]['top1']['images']:,} images{_by_net(words)}{after}."


def _image_label(i: int, keys: Sequence[str], labels: Sequence[int | None], look: Look) -> str:
    label = labels[i] if i < len(labels) else None
    if label is not None and label < len(look.classes):
        return str(look.classes[label])
    return os.path.basename(keys[i])[-14:]


def _class_names(look: Look, net: VizNet, blob: str) -> Sequence[str]:
    """Names for the channels of `blob`, where they are classes."""
    return look.classes if len(look.classes) == check_blob(net, blob)[0] else ()


def _row_label(unit: Unit, i: int, found: dict[str, Any], rules: Sequence[str], names: Sequence[str]) -> str:
    """Beneath the maps of an image: the unit, its activation; which maps are grey, and why."""
    what = f"{names[unit.channel]} " if names else ""
    place = f"{unit.channel}:{unit.y}:{unit.x}" if unit.y or unit.x else str(unit.channel)
    label = f"{what}({place}) {found[rules[0]].activations[i]:.2f}"
    if found[rules[0]].dead[i]:
        return f"{label}, dead"
    zero = [rule for rule in rules if found[rule].zero[i]]
    return f"{label}, zero: {', '.join(zero)}" if zero else label


def _fact(
    unit: Unit, key: str, found: Any, row: int, rule: str, net: VizNet, array: tuple[str, int], box: list[int]
) -> dict[str, Any]:
    """What the JSON says of one map."""
    return {
        "unit": str(unit),
        "image": key,
        "seed": float(found.seeds[row]),
        "activation": float(found.activations[row]),
        "box": box,
        "rule": rule,
        "switches": switches_below(net.param, unit.blob),
        "array": list(array),
        "dead": bool(found.dead[row]),
        "zero": bool(found.zero[row]),
        "largest": float(np.abs(found.maps[row]).max()),
    }


def top1(
    net: VizNet, source: ImageSource, count: int | None = None, *, batch_size: int = 100, progress: bool = False
) -> dict[str, Any]:
    """Accuracy of the scores' largest on the first `count` images.

    Returns: percent, images, blob; percent None and a reason where the data have no labels, or others.
    """
    blob = scores_blob(net)
    label = getattr(source, "label", None)
    out: dict[str, Any] = {"percent": None, "images": 0, "blob": blob}
    if label is None:
        return dict(out, reason="the data have no labels")
    shape = check_blob(net, blob)
    if int(np.prod(shape[1:])) != 1:
        return dict(out, reason=f"{blob} has no single score for each class")
    total = len(source) if count is None else min(count, len(source))
    right = 0
    bar = None
    if progress:
        bar = tqdm(total=total, desc="top-1", unit="image")
    for _, keys, images in source.batches(batch_size, 0, total):
        scores = net.forward(images, (blob,), until=blob)[blob].reshape(len(images), -1)
        truth = np.array([label(key) for key in keys])
        if truth.min() < 0 or truth.max() >= scores.shape[1]:
            return dict(out, reason=f"labels up to {truth.max()}, {scores.shape[1]} scores")
        right += int((scores.argmax(axis=1) == truth).sum())
        if bar is not None:
            bar.update(len(keys))
    if bar is not None:
        bar.close()
    return {"percent": 100.0 * right / total, "images": total, "blob": blob}


def default_blobs(net: VizNet, number: int) -> list[str]:
    """What a figure shows of a net unless told: 2: the first three convolutions; 3: the last two that stride by 2, or the
    last two but one; 4: the last convolution; 5 and 6: the scores before the softmax.

    Raises: VizError: a net without what is needed.
    """
    tops = {layer.name: str(layer.top[0]) for layer in net.param.layer if layer.type == "Convolution"}
    names = list(dict.fromkeys(tops.values()))
    if number in (5, 6):
        return [scores_blob(net)]
    if not names:
        raise VizError(net.where, "no convolution", "a convolutional net, or a blob named")
    if number == 2:
        return names[:3]
    if number == 4:
        return names[-1:]
    strided = [tops[name] for name in stride2_layers(net.param) if tops[name] != names[0]]
    return strided[-2:] if strided else names[-3:-1] or names


_COLOURS = {"backprop": "#e8f1fb", "deconvnet": "#fdeeda", "guided": "#e6f4e6", "forward": "#f1f1f1"}


def _draw_one(
    parts: dict[str, np.ndarray], maps: np.ndarray, unit: Unit, rule: str, numbers: dict[str, np.ndarray]
) -> np.ndarray:
    """The three parts of figure 1 on one page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.2, 5.6), dpi=100, facecolor="white")
    agg = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 1120)
    axes.set_ylim(560, 0)
    axes.axis("off")
    _part_a(figure, axes, parts, maps, unit, rule)
    _part_b(axes, numbers)
    _part_c(axes)
    agg.draw()
    return np.array(np.asarray(agg.buffer_rgba())[..., :3])


def _tile(figure: Any, picture: np.ndarray, x: float, y: float, size: float) -> None:
    """A picture with its top left corner at pixel (x, y) of the page."""
    axes = figure.add_axes((x / 1120, 1 - (y + size) / 560, size / 1120, size / 560))
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for edge in axes.spines.values():
        edge.set_color("#777777")
        edge.set_linewidth(0.8)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate(
        "",
        end,
        start,
        arrowprops={"arrowstyle": "-|>", "color": "#444444", "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0},
    )


def _part_a(figure: Any, axes: Any, parts: dict[str, np.ndarray], maps: np.ndarray, unit: Unit, rule: str) -> None:
    axes.text(16, 34, "a)", fontsize=15, fontweight="bold")
    others = [int(c) for c in np.argsort(-maps.reshape(len(maps), -1).max(axis=1)) if c != unit.channel][:3]
    shown = [*others[::-1], unit.channel]
    kept = np.zeros_like(maps)
    kept[unit.index(maps.shape)] = maps[unit.index(maps.shape)]
    strongest = max(float(maps[shown].max()), 1e-30)
    for top, word, stack, name in (
        (70, "forward pass", maps, "picture"),
        (250, "backward pass", kept, "map"),
    ):
        axes.text(46, top - 12, "input image" if name == "picture" else "reconstructed image", fontsize=10)
        _tile(figure, parts[name], 46, top, 116)
        for i, channel in enumerate(shown):
            grey = np.rint(255 * np.clip(stack[channel] / strongest, 0, 1)).astype(np.uint8)
            _tile(figure, 255 - np.repeat(grey[..., None], 3, axis=2), 300 + 22 * i, top - 14 + 14 * i, 86)
        axes.text(300, top - 22, f"feature maps of {unit.blob}", fontsize=10)
        axes.text(231, top + 44, word, fontsize=9, ha="center", color="#444444")
        ends = ((172, top + 58), (290, top + 58))
        _arrow(axes, *(ends if name == "picture" else ends[::-1]))
    axes.annotate(
        "",
        (470, 236 + 56),
        (470, 126 + 40),
        arrowprops={"arrowstyle": "-|>", "color": "#444444", "linewidth": 1.4, "connectionstyle": "arc3,rad=-0.35"},
    )
    y, x = unit.y, unit.x
    axes.text(
        300, 390, f"all set to zero but {unit.blob}:{unit.channel}, row {y}, column {x}", fontsize=9, color="#444444"
    )
    axes.text(46, 390, f"{rule} rule", fontsize=9, color="#444444")


def _matrix(axes: Any, values: np.ndarray, x: float, y: float, colour: str, kept: np.ndarray | None = None) -> None:
    side = 32
    for i in range(3):
        for j in range(3):
            fill = colour if kept is None or kept[i, j] else "white"
            axes.add_patch(_rectangle(x + side * j, y + side * i, side, fill))
            axes.text(
                x + side * (j + 0.5),
                y + side * (i + 0.5),
                f"{values[i, j] + 0:g}",
                fontsize=10.5,
                ha="center",
                va="center",
                color="black" if values[i, j] else "#999999",
            )


def _rectangle(x: float, y: float, side: float, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), side, side, facecolor=colour, edgecolor="#888888", linewidth=0.8)


def _part_b(axes: Any, numbers: dict[str, np.ndarray]) -> None:
    axes.text(590, 34, "b)", fontsize=15, fontweight="bold")
    names = {
        "forward": "forward pass",
        "backprop": "backward pass:\nbackpropagation",
        "deconvnet": "backward pass:\ndeconvnet",
        "guided": "backward pass:\nguided backprop",
    }
    for i, (name, label) in enumerate(names.items()):
        y = 34 + 130 * i
        axes.text(735, y + 48, label, fontsize=10, ha="right", va="center")
        left, right = (TOY, numbers[name]) if name == "forward" else (numbers[name], TOY_GRADIENT)
        _matrix(axes, left, 760, y, _COLOURS[name], left != 0 if name != "forward" else None)
        _matrix(axes, right, 985, y, _COLOURS[name], right != 0 if name == "forward" else None)
        ends = ((868, y + 48), (973, y + 48))
        _arrow(axes, *(ends if name == "forward" else ends[::-1]))
        axes.text(920, y + 38, "ReLU", fontsize=9, ha="center", color="#444444")
        symbols = ("f", "f '") if name == "forward" else ("R", "R '")
        for x, symbol in zip((750, 1091), symbols, strict=True):
            axes.text(
                x, y - 2 + 10, symbol, fontsize=10, style="italic", ha="right" if x < 800 else "left", va="center"
            )


def _part_c(axes: Any) -> None:
    axes.text(16, 440, "c)", fontsize=15, fontweight="bold")
    for i, (name, formula) in enumerate(FORMULAS.items()):
        axes.text(46, 440 + 30 * i, f"{name}:", fontsize=10.5)
        axes.text(160, 440 + 30 * i, formula, fontsize=11.5, family="monospace")
    axes.text(
        395,
        440,
        "f   bottom of a ReLU\nR'  gradient at its top\nR   gradient at its bottom",
        fontsize=9.5,
        family="monospace",
        va="top",
        color="#444444",
    )
