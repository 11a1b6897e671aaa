"""Which layers lie between the image and a unit: names and indices only, of a built net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple


@dataclass(frozen=True)
class Node:
    """One layer of a built net (Split layers included)."""

    name: str
    type: str
    bottoms: Tuple[str, ...]
    tops: Tuple[str, ...]


class Graph:
    """The layers of a built net in order."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = list(nodes)

    def writer(self, blob: str) -> int:
        """Index of the last layer that writes `blob`: an in-place ReLU counts, so a seed there is post-ReLU."""
        return max(i for i, node in enumerate(self.nodes) if blob in node.tops)

    def path(self, blob: str) -> Tuple[List[int], List[str]]:
        """The layers to run back from `blob` down to the image.

        Returns:
            Indices, falling; and the blobs that these layers also write but that do not lead to `blob`: their
            diffs must be zero before.
        """
        start = self.writer(blob)
        live, order, idle = {blob}, [], []
        for i in range(start, -1, -1):
            node = self.nodes[i]
            if not live.intersection(node.tops):
                continue
            order.append(i)
            idle += [top for top in node.tops if top not in live]
            live.difference_update(top for top in node.tops if top not in node.bottoms)
            live.update(node.bottoms)
        return order, idle

    def softmax_below(self, blob: str) -> Optional[Tuple[str, str]]:
        """The softmax that `blob` depends on: its layer's name and bottom; None where there is none."""
        for i in self.path(blob)[0]:
            if self.nodes[i].type in ("Softmax", "SoftmaxWithLoss"):
                return self.nodes[i].name, self.unsplit(self.nodes[i].bottoms[0])
        return None

    def unsplit(self, blob: str) -> str:
        """The blob that `blob` is a copy of, where a Split made it; else itself."""
        for node in self.nodes:
            if node.type == "Split" and blob in node.tops:
                return node.bottoms[0]
        return blob
