"""Blobs that nobody looks at any more lend their memory to those that come after them: for forward passes alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from allconv_caffe.caffe_torch.blob import Blob, Memory

if TYPE_CHECKING:
    from allconv_caffe.caffe_torch.net import Net


@dataclass
class _Life:
    """A memory between layers: its blobs, how many values it holds, and the layers that first write and last touch it."""

    first: int
    last: int = 0
    count: int = 0
    blobs: list[Blob] = field(default_factory=list)


def share(net: Net, keep: Iterable[str] = ()) -> None:
    """From now on a blob's data is right from the layer that writes it to the last one that reads it, and no longer.

    Of no use where somebody runs backward, or reads blobs afterwards. Excepted are the net's outputs, loss weights' blobs, what
    sources bring, what parameters share, what layers carry along, and what user code in Python has seen.

    Args:
        keep: names of other blobs that stay right.
    """
    net.forgets = True
    net.reshape()  # what shares memory in forward does so now
    kept = _kept(net, keep)
    lives: dict[int, _Life] = {}
    for i, (bottoms, tops) in enumerate(zip(net.bottom_vecs, net.top_vecs, strict=True)):
        for blob in {id(blob): blob for blob in (*bottoms, *tops)}.values():
            life = lives.setdefault(id(blob._data), _Life(i))
            life.last, life.count = i, max(life.count, blob.count)
            if all(blob is not known for known in life.blobs):
                life.blobs.append(blob)
    lent = [life for memory, life in lives.items() if memory not in kept]
    for size, guests in _arrange(lent):
        memory = Memory(size, net.ctx.device)
        for life in guests:
            for blob in life.blobs:
                blob.lie_in(memory)


def _kept(net: Net, keep: Iterable[str]) -> set[int]:
    """Memories that stay as they are."""
    blobs = [*net.params, *(net.blobs[name] for name in (*net.outputs, *keep))]
    for layer, bottoms, tops in zip(net.layers, net.bottom_vecs, net.top_vecs, strict=True):
        blobs += [*layer.blobs, *layer.carried]
        blobs += [top for top, weight in zip(tops, layer.loss_weights, strict=True) if weight]
        if not bottoms or layer.type == "Python":
            blobs += [*bottoms, *tops]
    return {id(blob._data) for blob in blobs}


def _arrange(lives: list[_Life]) -> list[tuple[int, list[_Life]]]:
    """Which lives follow each other in one memory, and how large that is: each takes the free one that grows the least."""
    sizes: list[int] = []
    guests: list[list[_Life]] = []
    for life in sorted(lives, key=lambda life: life.first):
        free = [k for k, before in enumerate(guests) if before[-1].last < life.first]
        if free:
            best = min(free, key=lambda k: (max(0, life.count - sizes[k]), abs(sizes[k] - life.count)))
            sizes[best] = max(sizes[best], life.count)
            guests[best].append(life)
        else:
            sizes.append(life.count)
            guests.append([life])
    return list(zip(sizes, guests, strict=True))
