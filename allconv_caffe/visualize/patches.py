"""The images of a channel's strongest places, with their reconstructions, checked against the scan: figure 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allconv_caffe.visualize.crops import crop, crop_picture
from allconv_caffe.visualize.mining import TopK
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.rules import RULES, rule_name
from allconv_caffe.visualize.receptive_field import Box, receptive_field
from allconv_caffe.visualize.reconstruct import reconstruct_rules
from allconv_caffe.visualize.sources import ImageSource
from allconv_caffe.visualize.unit import Unit
from allconv_caffe.visualize.whitening import InputSpace

TOLERANCE = 1e-4  # relative: the same activation on another engine or machine


@dataclass(kw_only=True)
class Patch:
    """One place of one image, and what in it excited the unit.

    Attributes:
        unit: which unit, where.
        key: the image's name in the data.
        rank: among the places of its channel, from 0.
        activation: of the unit, recomputed.
        box: the unit's nominal receptive field, the same size for all of a blob; may reach beyond the image.
        image: (C, H, W) float32, the whole input, in the input's space.
        map: (C, H, W) float32, its whole reconstruction. Both are cut by `cut`, after they were taken to pixels.
        rule: of the reconstruction.
        seed: what its backward pass began with.
    """

    unit: Unit
    key: str
    rank: int
    activation: float
    box: Box
    image: np.ndarray
    map: np.ndarray
    rule: str
    seed: float


def top_patches(
    net: VizNet,
    source: ImageSource,
    topk: TopK,
    blob: str,
    channels: Sequence[int],
    *,
    k: int | None = None,
    rules: Sequence[str] = RULES,
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, list[list[Patch]]]:
    """The strongest k places of each channel, best first, by each rule: by its name, a row for each channel.

    A row has fewer places where fewer were active, none for a dead channel. One forward pass serves all rules.

    Raises: VizError: results of other weights, net or data; an activation that is not the one that was mined.
    """
    topk.check(net, source)
    rules = list(dict.fromkeys(rule_name(rule) for rule in rules))
    field = receptive_field(net, blob)
    found: list[tuple[int, int, str, Unit, float]] = [
        (row, rank, key, unit, value)
        for row, channel in enumerate(channels)
        for rank, (key, unit, value) in enumerate(topk.units(blob, channel, k))
    ]
    out: dict[str, list[list[Patch]]] = {rule: [[] for _ in channels] for rule in rules}
    if not found:
        return out
    keys = sorted({key for _, _, key, _, _ in found})
    images = source.get(keys)
    place = {key: i for i, key in enumerate(keys)}
    maps = reconstruct_rules(
        net,
        images,
        [(place[key], unit) for _, _, key, unit, _ in found],
        rules,
        batch_size=batch_size,
        progress=progress,
    )
    for i, (row, rank, key, unit, value) in enumerate(found):
        now = float(maps[rules[0]].activations[i])
        if abs(now - value) > TOLERANCE * max(abs(value), 1e-6):
            raise VizError(
                f"{source.where}: {key}: unit {unit}",
                f"activation {now:.6g}",
                f"{value:.6g}, as mined: the image, the weights or the preprocessing are not the same; mine again",
            )
        for rule in rules:
            out[rule][row].append(
                Patch(
                    unit=unit,
                    key=key,
                    rank=rank,
                    activation=now,
                    box=field.box(unit),
                    image=images[place[key]],
                    map=maps[rule].maps[i],
                    rule=rule,
                    seed=float(maps[rule].seeds[i]),
                )
            )
    return out


def cut(patches: Sequence[Patch], space: InputSpace, shown: str = "input") -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The patches' boxes cut out of image and map.

    Args:
        shown: "input" or "pixel": the space of the maps.

    Returns: pictures (box height, box width, 3) uint8; maps (C, box height, box width) float32, planes R, G, B.
    """
    if not patches:
        return [], []
    pictures = space.pictures(np.stack([patch.image for patch in patches]))
    maps = space.maps(np.stack([patch.map for patch in patches]), shown)
    return (
        [crop_picture(picture, patch.box) for picture, patch in zip(pictures, patches, strict=True)],
        [crop(map_, patch.box) for map_, patch in zip(maps, patches, strict=True)],
    )
