"""The images of a channel's strongest places, with their reconstructions, checked against the scan: figure 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

import numpy as np

from .errors import VizError
from .receptive_field import Box, receptive_field
from .reconstruct import reconstruct
from .unit import Unit

if TYPE_CHECKING:
    from .engines import VizNet
    from .mining import TopK
    from .sources import ImageSource

TOLERANCE = 1e-4  # relative: the same activation on another engine or machine


@dataclass
class Patch:
    """One place of one image, and what in it excited the unit.

    Attributes:
        unit, key, rank: which place (rank from 0), in which image. activation: of the unit, recomputed.
        box: the unit's nominal receptive field, the same size for all of a blob; may reach beyond the image.
        image, map: (C, H, W) float32, the whole input and its whole reconstruction, in the input's space; cut both with
            `crops.crop(..., patch.box)` after taking them to pixels (`InputSpace.pictures`, `InputSpace.maps`).
        rule, seed: of the reconstruction.
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
    k: Optional[int] = None,
    rule: str = "guided",
    seed: Optional[float] = 1.0,
    batch_size: int = 32,
    progress: bool = False,
) -> List[List[Patch]]:
    """The strongest k places of each channel, best first; fewer where fewer were active, none for a dead channel.

    Raises: VizError: results of other weights, net or data; an activation that is not the one that was mined.
    """
    topk.check(net, source)
    field = receptive_field(net, blob)
    found: List[Tuple[int, int, str, Unit, float]] = [
        (row, rank, key, unit, value)
        for row, channel in enumerate(channels)
        for rank, (key, unit, value) in enumerate(topk.units(blob, channel, k))
    ]
    out: List[List[Patch]] = [[] for _ in channels]
    if not found:
        return out
    keys = sorted({key for _, _, key, _, _ in found})
    images = source.get(keys)
    place = {key: i for i, key in enumerate(keys)}
    maps = reconstruct(
        net, images, [(place[key], unit) for _, _, key, unit, _ in found], rule, seed=seed, batch_size=batch_size,
        progress=progress,
    )  # fmt: skip
    for i, (row, rank, key, unit, value) in enumerate(found):
        now = float(maps.activations[i])
        if abs(now - value) > TOLERANCE * max(abs(value), 1e-6):
            raise VizError(
                f"{source.where}: {key}: unit {unit}", f"activation {now:.6g}", f"{value:.6g}, as mined: the image, the "
                "weights or the preprocessing are not the same; mine again"
            )  # fmt: skip
        out[row].append(
            Patch(unit, key, rank, now, field.box(unit), images[place[key]], maps.maps[i], maps.rule, float(maps.seeds[i]))
        )
    return out
