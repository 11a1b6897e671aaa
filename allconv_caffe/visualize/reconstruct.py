"""What in an image excites a unit: one map per (image, unit), in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.rules import RULES, rule_name
from allconv_caffe.visualize.unit import Unit, check_unit


@dataclass(kw_only=True)
class Reconstructions:
    """K maps in the space of the input blob.

    Attributes:
        maps: (K, C, H, W) float32, the diff of the input blob: signed, not normalised.
        units: K units. image_indices: which of the images each belongs to, (K,).
        activations: (K,) float32, the units' values. seeds: (K,) float32, what the backward pass began with.
        rule: "backprop", "deconvnet" or "guided".
        notes: one line, with the remedy, for each map that is all zero and for each dead unit.
    """

    maps: np.ndarray
    units: list[Unit]
    image_indices: np.ndarray
    activations: np.ndarray
    seeds: np.ndarray
    rule: str
    notes: list[str] = field(default_factory=list)

    @property
    def dead(self) -> np.ndarray:
        """(K,) bool: units that were not active (at or below 0), for which there is nothing to explain."""
        return self.activations <= 0

    @property
    def zero(self) -> np.ndarray:
        """(K,) bool: maps that are 0 everywhere."""
        return np.logical_not(self.maps.reshape(len(self.maps), -1).any(axis=1))

    def __len__(self) -> int:
        return len(self.units)


def reconstruct(
    net: VizNet,
    images: np.ndarray,
    units: Sequence[Unit | tuple[int, Unit]],
    rule: str = "guided",
    *,
    seed: float | None = 1.0,
    batch_size: int = 32,
    progress: bool = False,
) -> Reconstructions:
    """One reconstruction for each entry of `units`.

    Args:
        images: (N, C, H, W), in the units of the input blob.
        units: (image index, unit) pairs; or units alone: as many as images, or any number for one image. Blobs may
            be mixed. Name a score before the softmax, not the probability.
        rule: of `rules.RULES`, or an alias.
        seed: where the backward pass begins, at the unit; None: the unit's activation. The rules are positively
            homogeneous, so this only scales.
        batch_size: reconstructions per pass; an image is repeated for each of its units.
        progress: show a bar on stderr.

    Returns: Reconstructions in the order of `units`.

    Raises: VizError: a unit that does not exist or lies after a softmax; images of the wrong size; and, if every map
        of live units is all zero, why that is and what helps.
    """
    rule = rule_name(rule)
    return reconstruct_rules(net, images, units, [rule], seed=seed, batch_size=batch_size, progress=progress)[rule]


def reconstruct_rules(
    net: VizNet,
    images: np.ndarray,
    units: Sequence[Unit | tuple[int, Unit]],
    rules: Sequence[str] = RULES,
    *,
    seed: float | None = 1.0,
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, Reconstructions]:
    """`reconstruct` by several rules, by their names: one forward pass serves all of them."""
    rules = list(dict.fromkeys(rule_name(rule) for rule in rules))
    images = np.asarray(images)
    pairs = _pairs(units, len(images))
    for unit in {unit for _, unit in pairs}:
        check_unit(net, unit)
    k = len(pairs)
    maps = {rule: np.zeros((k, *net.input_shape), np.float32) for rule in rules}
    activations, seeds = np.zeros(k, np.float32), np.zeros(k, np.float32)
    for blob, rows in _batches(pairs, batch_size, progress):
        data = net.forward(images[[pairs[row][0] for row in rows]], (blob,), until=blob)[blob]
        start = np.zeros_like(data)
        for i, row in enumerate(rows):
            place = (i, *pairs[row][1].index(data.shape[1:]))
            activations[row] = data[place]
            seeds[row] = data[place] if seed is None else seed
            start[place] = seeds[row]
        for rule in rules:
            maps[rule][rows] = net.backward(blob, start, rule)
    chosen, indices = [unit for _, unit in pairs], np.array([i for i, _ in pairs], np.int64)
    out = {
        rule: Reconstructions(
            maps=maps[rule], units=chosen, image_indices=indices, activations=activations, seeds=seeds, rule=rule
        )
        for rule in rules
    }
    for found in out.values():
        _explain_zeros(net, found)
    return out


def backward_alone(
    net: VizNet, units: Sequence[Unit], seeds: np.ndarray, rule: str, *, batch_size: int = 32
) -> np.ndarray:
    """Maps of units that another net's forward pass chose: from `seeds` back, reading nothing of an image.

    Args:
        units: K of one blob. seeds: (K,) float32, what the backward pass begins with at each.
        rule: one for which no layer below reads the forward pass: the deconvnet, in a net without switches.

    Returns: (K, C, H, W) float32.
    """
    blob = units[0].blob
    maps = np.zeros((len(units), *net.input_shape), np.float32)
    for start in range(0, len(units), batch_size):
        part = units[start : start + batch_size]
        net.forward(np.zeros((len(part), *net.input_shape), np.float32), until=blob)  # gives the blobs their shapes
        shape = net.blob_shape(blob)
        diff = np.zeros((len(part), *shape), np.float32)
        for i, unit in enumerate(part):
            place = (i, *unit.index(shape))
            diff[place] = seeds[start + i]
        maps[start : start + len(part)] = net.backward(blob, diff, rule)
    return maps


def _pairs(units: Sequence[Unit | tuple[int, Unit]], images: int) -> list[tuple[int, Unit]]:
    alone = [unit for unit in units if isinstance(unit, Unit)]
    if alone and len(alone) == len(units):
        if len(alone) != images and images != 1:
            raise VizError("units", f"{len(alone)} units for {images} images", "as many, or (image index, unit) pairs")
        return [(i if images > 1 else 0, unit) for i, unit in enumerate(alone)]
    pairs = [(int(i), unit) for i, unit in units]  # type: ignore[misc]
    for i, _ in pairs:
        if not 0 <= i < images:
            raise VizError("units", f"image index {i}", f"0 to {images - 1}")
    return pairs


def _batches(pairs: Sequence[tuple[int, Unit]], batch_size: int, progress: bool) -> Iterator[tuple[str, list[int]]]:
    if batch_size < 1:
        raise VizError("batch_size", batch_size, "1 or more")
    by_blob: dict = {}
    for row, (_, unit) in enumerate(pairs):
        by_blob.setdefault(unit.blob, []).append(row)
    work = [
        (blob, rows[start : start + batch_size])
        for blob, rows in by_blob.items()
        for start in range(0, len(rows), batch_size)
    ]
    off = None if progress else True
    with tqdm(total=len(pairs), desc="reconstructions", unit="map", disable=off) as bar:
        for blob, rows in work:
            yield blob, rows
            bar.update(len(rows))


def _explain_zeros(net: VizNet, out: Reconstructions) -> None:
    """Fills `notes`. Raises VizError where no live unit got a map: a net that does not run back to its image."""
    zero, dead = out.zero, out.dead
    live = ~dead & (out.seeds > 0)
    if live.any() and zero[live].all() and out.rule == "backprop":
        raise VizError(
            f"{net.where}: blob '{net.input}'",
            f"a gradient of zero everywhere for {int(live.sum())} active units ({out.units[int(live.argmax())]}, ...)",
            "a gradient at the image: set force_backward: true in the prototxt, begin at a blob before the loss or "
            "softmax, and look for propagate_down: false, dead or saturated layers below, or weights that were never loaded",
        )
    for row in np.flatnonzero(dead | zero):
        unit, image = out.units[row], int(out.image_indices[row])
        if dead[row]:
            out.notes.append(
                f"unit {unit} is not active on image {image} (activation {out.activations[row]:.4g}): "
                + ("its map is zero; " if zero[row] else "")
                + "choose an image that activates it (mine), or another unit"
            )
        elif out.seeds[row] < 0 and out.rule != "backprop":
            out.notes.append(f"unit {unit}: the seed {out.seeds[row]:.4g} is negative: {out.rule} gives zero; use 1")
        else:
            out.notes.append(
                f"unit {unit} is active on image {image} but its {out.rule} map is zero: no positive path leads down; "
                "see backprop, and whether the weights were loaded"
            )
