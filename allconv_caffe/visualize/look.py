"""How a figure's maps are drawn, and what is said of it beneath the picture and in the JSON beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from allconv_caffe.visualize.display import normalised
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.receptive_field import Box
from allconv_caffe.visualize.reconstruct import Reconstructions
from allconv_caffe.visualize.surgery import switches_below
from allconv_caffe.visualize.whitening import InputSpace

TIES = "the first maximum of a window in row order; convolution, ReLU, pooling"
CAVEAT = (
    "A map shows what the lower layers can rebuild of an image, which is no proof of what a unit means: "
    "`allconv viz sanity` (Adebayo et al. 2018, Nie et al. 2018)."
)
SCALES = {
    "zero-centred": "each by its largest value, 0 is grey",
    "shared": "one scale for each kind, 0 is grey",
    "percentile": "each by the 99th percentile, 0 is grey",
    "positive": "positive values, each by its largest",
    "l2-grey": "length over channels, each by its largest",
}
"""What a sentence says of each of `display.NORMALISATIONS`."""


@dataclass(kw_only=True)
class Look:
    """How maps are drawn.

    Attributes:
        how: of `display.NORMALISATIONS`.
        shown: "input" (the space of the input blob, whitened where the net is) or "pixel".
        space: how the input blob was made of pixels.
        size: pixels of a tile's longer side; None: as fits the figure.
        command: what was typed, for the record.
        classes: their names, by label.
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
        """What the JSON says of every map of figure `number`; None: of a figure that is not the paper's."""
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
        whitened = "whitened space" if self.space.whitened else "the input's space"
        return f"Maps in {'pixel space' if self.shown == 'pixel' else whitened}, {SCALES[self.how]}."


def tile_facts(
    net: VizNet, found: Reconstructions, row: int, *, key: str, array: tuple[str, int], box: Box
) -> dict[str, Any]:
    """What the JSON says of one map.

    Args:
        found, row: the maps, and which of them. key: its image's name. array: where the raw map lies in the .npz.
        box: the unit's receptive field.
    """
    unit = found.units[row]
    return {
        "unit": str(unit),
        "image": key,
        "seed": float(found.seeds[row]),
        "activation": float(found.activations[row]),
        "box": box.as_list(),
        "rule": found.rule,
        "switches": switches_below(net.param, unit.blob),
        "array": list(array),
        "dead": bool(found.dead[row]),
        "zero": bool(found.zero[row]),
        "largest": float(np.abs(found.maps[row]).max()),
    }
