"""A unit: one number in one blob of a net, the thing whose reconstruction is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError


@dataclass(frozen=True, order=True)
class Unit:
    """blob[channel, y, x]; y and x are 0 in a blob without them (fc8, global_pool). Prints as ``conv6:17:3:4``."""

    blob: str
    channel: int
    y: int = 0
    x: int = 0

    def __str__(self) -> str:
        return f"{self.blob}:{self.channel}:{self.y}:{self.x}"

    @staticmethod
    def parse(text: str) -> Unit:
        """``blob:channel`` or ``blob:channel:y:x``.

        Raises: VizError: another form.
        """
        words = text.split(":")
        if len(words) in (2, 4) and words[0]:
            try:
                return Unit(words[0], *(int(word) for word in words[1:]))
            except ValueError:
                pass
        raise VizError("unit", repr(text), "BLOB:CHANNEL or BLOB:CHANNEL:Y:X")

    def index(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Where the unit lies in one image's part of the blob, whose shape without the batch axis is `shape`."""
        return (self.channel, self.y, self.x)[: len(shape)]


def check_unit(net: VizNet, unit: Unit) -> None:
    """The unit exists in the net, and is no probability.

    Raises: VizError: unknown blob (with the choices), channel or position out of range, a unit after a softmax.
    """
    shape = check_blob(net, unit.blob)
    for word, value, size in zip(("channel", "y", "x"), (unit.channel, unit.y, unit.x), (*shape, 1, 1), strict=False):
        if not 0 <= value < size:
            raise VizError(f"unit {unit}", f"{word} {value}", f"0 to {size - 1}" if size > 1 else "0")


def check_blob(net: VizNet, blob: str) -> tuple[int, ...]:
    """The shape of one image's part of `blob`: (C, H, W) or (C,).

    Raises: VizError: unknown blob, a blob that is no array of units, or one after a softmax.
    """
    if blob not in net.blob_names:
        raise VizError("blob", repr(blob), "a blob of the net", net.blob_names)
    softmax = net.graph.softmax_below(blob)
    if softmax:
        layer, score = softmax
        raise VizError(
            f"blob '{blob}'", f"a unit after the softmax of layer '{layer}'", f"a score before it, as '{score}'"
        )
    shape = net.blob_shape(blob)
    if len(shape) not in (1, 3):
        raise VizError(f"blob '{blob}'", f"{len(shape) + 1} axes", "a batch of (C, H, W) or (C)")
    return shape


def scores_blob(net: VizNet) -> str:
    """The scores: what the first softmax reads, else the net's last blob."""
    for node in net.graph.nodes:
        if node.type in ("Softmax", "SoftmaxWithLoss"):
            return net.graph.unsplit(node.bottoms[0])
    return net.blob_names[-1]


def argmax_units(
    net: VizNet, images: np.ndarray, blob: str, *, channel: int | None = None, batch_size: int = 32
) -> tuple[Sequence[Unit], np.ndarray]:
    """The most active unit of `blob` for each image: figures 4 to 6.

    Args:
        images: (N, C, H, W) float32, as the net's input blob takes them.
        channel: look there alone; else over all channels.

    Returns:
        N units and their activations, (N,) float32. Of equal ones the first in (channel, y, x).
    """
    shape = check_blob(net, blob)
    if channel is not None:
        check_unit(net, Unit(blob, channel))
    units, values = [], []
    for start in range(0, len(images), batch_size):
        data = net.forward(images[start : start + batch_size], (blob,), until=blob)[blob]
        data = data.reshape(len(data), *shape)
        if channel is not None:
            data = data[:, channel : channel + 1]
        flat = data.reshape(len(data), -1)
        for row, place in zip(flat, flat.argmax(axis=1), strict=True):
            c, *yx = np.unravel_index(int(place), data.shape[1:])
            units.append(Unit(blob, int(c) + (channel or 0), *(int(v) for v in yx)))
            values.append(row[place])
    return units, np.asarray(values, np.float32)
