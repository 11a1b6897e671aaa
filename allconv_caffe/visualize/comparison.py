"""Figures 4 to 6: maps of the largest activation by three rules, with switches and without, side by side.

Which nets stand beside each other depends on what the trained one has:

    no max-pooling    the net, and the same after surgery (`surgery.strides_to_pools`), which gives it switches: the paper's way
    max-pooling       the net with its own switches, and the deconvnet without them: each window's gradient goes to all of its
                      places alike (`surgery.without_switches`). This second reading is ours; the other rules need no switches
                      only where there is no pooling, so the deconvnet stands alone.

Paper: section 4, figures 4 and 5, and figure 6 of its appendix.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from allconv_caffe.visualize.display import Drawing, Grid, provenance, sheet
from allconv_caffe.visualize.look import CAVEAT, Look, tile_facts
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.rules import RULES, rule_name
from allconv_caffe.visualize.receptive_field import receptive_field
from allconv_caffe.visualize.reconstruct import Reconstructions, backward_alone, reconstruct_rules
from allconv_caffe.visualize.similarity import cosine
from allconv_caffe.visualize.sources import ImageSource
from allconv_caffe.visualize.surgery import switches_below
from allconv_caffe.visualize.unit import Unit, argmax_units, check_blob, scores_blob


@dataclass(kw_only=True)
class Variant:
    """One net of a comparison.

    Attributes:
        name: what it is called above its maps.
        net: with its weights.
        backward_only: a net of `surgery.without_switches`, whose forward pass is none of the trained net's: the deconvnet,
            which reads nothing of it, explains the first net's units.
        top1: its accuracy, as `top1` gives it.
    """

    name: str
    net: VizNet
    backward_only: bool = False
    top1: dict[str, Any] | None = None

    def rules(self, asked: Sequence[str]) -> list[str]:
        """Those of the rules asked for that mean something for this net."""
        return [rule for rule in asked if rule == "deconvnet" or not self.backward_only]


@dataclass(kw_only=True)
class Explained:
    """What one variant contributes.

    Attributes:
        variant: the net.
        units: the one explained in each image.
        found: by rule, a map for each image.
        across: how much maps of one unit differ between the images, see `_across_images`.
    """

    variant: Variant
    units: Sequence[Unit]
    found: dict[str, Reconstructions]
    across: dict[str, Any]


@dataclass(kw_only=True)
class Question:
    """What a comparison asks of each net.

    Attributes:
        images: (N, C, H, W), as the input blob takes them.
        keys: their names.
        blob: whose single largest activation in each image is explained.
        rules: of RULES.
        unit: explain this one instead, in every image and net.
        same_unit: in every net the first one's channel, at its largest place there.
        seed: where the backward pass begins; None: with the unit's activation.
        batch_size: images of one pass.
    """

    images: np.ndarray
    keys: Sequence[str]
    blob: str
    rules: Sequence[str] = RULES
    unit: Unit | None = None
    same_unit: bool = False
    seed: float | None = 1.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        self.images = np.asarray(self.images, np.float32)
        self.rules = [rule_name(rule) for rule in self.rules]

    def units(self, net: VizNet, first: Sequence[Unit] | None) -> Sequence[Unit]:
        """Which unit of `net` is explained in each image; `first`: those of the comparison's first net, or None."""
        if self.unit is not None:
            return [self.unit] * len(self.images)
        if first is None or not self.same_unit:
            return argmax_units(net, self.images, self.blob, batch_size=self.batch_size)[0]
        return [
            argmax_units(net, self.images[i : i + 1], self.blob, channel=one.channel)[0][0]
            for i, one in enumerate(first)
        ]


def comparison(
    variants: Sequence[Variant],
    question: Question,
    look: Look,
    *,
    labels: Sequence[int | None] = (),
    answers: Sequence[str] = (),
    number: int | None = None,
    title: str = "",
    source: ImageSource | None = None,
) -> Drawing:
    """A row for each image, the maps of every rule, for each net side by side; whole images.

    Args:
        variants: the trained net, and perhaps what stands beside it.
        labels: the images' classes, where known.
        answers: what stands beneath the maps of each image, in place of the unit and its activation.
        number: of the paper's figure; None: it is none of them.
        title: "": what is explained.
        source: where the images came from, for the record.

    Raises: VizError: see `reconstruct.reconstruct`.
    """
    nets: list[Explained] = []
    for variant in variants:
        nets.append(_explain(variant, question, nets[0] if nets else None))
    arrays: dict[str, np.ndarray] = {}
    tiles: list[dict[str, Any]] = []
    notes: list[str] = []
    for v, answer in enumerate(nets):
        box = receptive_field(answer.variant.net, question.blob)
        for rule, result in answer.found.items():
            name = f"{v}.{rule}"
            arrays[name] = look.space.maps(result.maps, look.shown)
            notes += [note for note in result.notes if note not in notes]
            for i, (unit, key) in enumerate(zip(answer.units, question.keys, strict=True)):
                facts = tile_facts(answer.variant.net, result, i, key=key, array=(name, i), box=box.box(unit))
                tiles.append({**facts, "variant": answer.variant.name})
    arrays["images"] = question.images
    title = title or f"the largest activation of {question.blob}"
    records = [_record(answer, nets[0]) for answer in nets]
    says = [_independence(records, question), _accuracies(records), look.says() + " " + CAVEAT]
    facts = {
        **look.facts(number, title),
        **provenance(variants[0].net, source),
        "blob": question.blob,
        "rules": list(question.rules),
        "variants": records,
        "notes": notes,
    }
    grids = _grids(nets, question, look, labels, answers, arrays)
    return Drawing(sheet([grids], title, [line for line in says if line]), arrays, facts, tiles)


def _explain(variant: Variant, question: Question, first: Explained | None) -> Explained:
    net, rules = variant.net, variant.rules(question.rules)
    if variant.backward_only:
        assert first is not None
        units: Sequence[Unit] = first.units
        given = first.found[question.rules[0]]
        maps = backward_alone(net, units, given.seeds, "deconvnet", batch_size=question.batch_size)
        found = {
            rule: Reconstructions(
                maps=maps,
                units=given.units,
                image_indices=given.image_indices,
                activations=given.activations,
                seeds=given.seeds,
                rule=rule,
            )
            for rule in rules
        }
    else:
        units = question.units(net, first.units if first else None)
        found = reconstruct_rules(
            net, question.images, list(enumerate(units)), rules, seed=question.seed, batch_size=question.batch_size
        )
    return Explained(
        variant=variant, units=units, found=found, across=_across_images(variant, units[0], rules, question)
    )


def _across_images(variant: Variant, unit: Unit, rules: Sequence[str], question: Question) -> dict[str, Any]:
    """How much the maps of one unit differ between the images: what the absence of switches does to the deconvnet."""
    count = len(question.images)
    if count < 2:
        return {}
    out: dict[str, Any] = {"unit": str(unit)}
    if variant.backward_only:
        seeds = np.ones(count, np.float32)
        maps_by_rule = {
            rule: backward_alone(variant.net, [unit] * count, seeds, rule, batch_size=question.batch_size)
            for rule in rules
        }
    else:
        pairs = [(i, unit) for i in range(count)]
        seed = 1.0 if question.seed is None else question.seed
        found = reconstruct_rules(variant.net, question.images, pairs, rules, seed=seed, batch_size=question.batch_size)
        maps_by_rule = {rule: found[rule].maps for rule in rules}
    for rule, maps in maps_by_rule.items():
        largest = float(np.abs(maps).max())
        difference = max(float(np.abs(maps[0] - other).max()) for other in maps[1:])
        out[rule] = {
            "largest": largest,
            "largest_difference": difference / largest if largest else 0.0,
            "mean_cosine": float(np.mean([cosine(maps[0], other) for other in maps[1:]])),
        }
    return out


def _record(answer: Explained, first: Explained) -> dict[str, Any]:
    """What the JSON says of one net."""
    return {
        "name": answer.variant.name,
        **provenance(answer.variant.net),
        "switches": switches_below(answer.variant.net.param, answer.units[0].blob),
        "top1": answer.variant.top1,
        "units": [str(one) for one in answer.units],
        "same_unit_as_first": [a == b for a, b in zip(answer.units, first.units, strict=True)],
        "one_unit_on_all_images": answer.across,
    }


def _grids(
    nets: Sequence[Explained],
    question: Question,
    look: Look,
    labels: Sequence[int | None],
    answers: Sequence[str],
    arrays: dict[str, np.ndarray],
) -> list[Grid]:
    """The images, and for each net a column of maps for each rule."""
    count, size = len(question.images), look.size or (96 if len(nets) > 1 else 128)
    names = _class_names(look, nets[0].variant.net, question.blob)
    under = [_image_label(i, question.keys, labels, look) for i in range(count)]
    pictures = look.space.pictures(question.images)
    grids = [Grid(tiles=[[picture] for picture in pictures], title=" ", columns=["image"], under=under, size=size)]
    scaled = _scaled(arrays, question.rules, look)
    for v, answer in enumerate(nets):
        rules = list(answer.found)
        rows = [[scaled[f"{v}.{rule}"][i] for rule in rules] for i in range(count)]
        under = [" " if answer.variant.backward_only else _row_label(answer, i, names, answers) for i in range(count)]
        grids.append(Grid(tiles=rows, title=answer.variant.name, columns=rules, under=under, size=size))
    return grids


def _scaled(arrays: dict[str, np.ndarray], rules: Sequence[str], look: Look) -> dict[str, np.ndarray]:
    """Pictures of every map; with a shared scale, one for all images and nets of a rule: rules differ in size by far."""
    out: dict[str, np.ndarray] = {}
    for rule in rules:
        names = [name for name in arrays if name.endswith(f".{rule}")]
        drawn = look.draw(np.concatenate([arrays[name] for name in names]))
        out.update(zip(names, np.split(drawn, len(names)), strict=True))
    return out


def _independence(records: Sequence[dict[str, Any]], question: Question) -> str:
    """What the deconvnet makes of one unit in all images."""
    if "deconvnet" not in question.rules or len(question.images) < 2:
        return ""
    words = []
    for record in records:
        value = record["one_unit_on_all_images"]["deconvnet"]
        if not value["largest"]:
            says = "zero"
        elif value["largest_difference"] == 0:
            says = "the same in every bit"
        else:
            says = f"cosine {value['mean_cosine']:.2f}"
        words.append((record["name"], says))
    unit = records[0]["units"][0]
    return f"Deconvnet maps of one unit ({unit}) on all {len(question.images)} images{_by_net(words)}."


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


def _row_label(answer: Explained, i: int, names: Sequence[str], answers: Sequence[str]) -> str:
    """Beneath the maps of an image: the unit and its activation, or what was answered; which maps are grey, and why."""
    unit, found = answer.units[i], answer.found
    one = next(iter(found.values()))
    what = f"{names[unit.channel]} " if names else ""
    place = f"{unit.channel}:{unit.y}:{unit.x}" if unit.y or unit.x else str(unit.channel)
    label = answers[i] if answers else f"{what}({place}) {one.activations[i]:.2f}"
    if one.dead[i]:
        return f"{label}, dead"
    zero = [rule for rule in found if found[rule].zero[i]]
    return f"{label}, zero: {', '.join(zero)}" if zero else label


def top1(
    net: VizNet, source: ImageSource, count: int | None = None, *, batch_size: int = 100, progress: bool = False
) -> dict[str, Any]:
    """Accuracy of the scores' largest on the first `count` images.

    Returns: percent, images, blob; percent None and a reason where the data have no labels, or others.
    """
    blob = scores_blob(net)
    out: dict[str, Any] = {"percent": None, "images": 0, "blob": blob}
    shape = check_blob(net, blob)
    if int(np.prod(shape[1:])) != 1:
        return dict(out, reason=f"{blob} has no single score for each class")
    total = len(source) if count is None else min(count, len(source))
    right = 0
    with tqdm(total=total, desc="top-1", unit="image", disable=None if progress else True) as bar:
        for _, keys, images in source.batches(batch_size, 0, total):
            truth = [source.label(key) for key in keys]
            known = [label for label in truth if label is not None]
            if len(known) < len(truth):
                return dict(out, reason="the data have no labels")
            scores = net.forward(images, (blob,), until=blob)[blob].reshape(len(images), -1)
            if min(known) < 0 or max(known) >= scores.shape[1]:
                return dict(out, reason=f"labels up to {max(known)}, {scores.shape[1]} scores")
            right += int((scores.argmax(axis=1) == np.array(known)).sum())
            bar.update(len(keys))
    return {"percent": 100.0 * right / total, "images": total, "blob": blob}
