"""A built net as a file format sees it: layers in order, each value with a name of its own, any number of images.

Caffe writes blobs in place; here every write of a blob is another value. The last one has the blob's name.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Layer
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.export.errors import ExportError


@dataclass(frozen=True, kw_only=True)
class Node:
    """A layer in its place."""

    # the layer, set up for `IMAGES` images
    layer: Layer
    # its blobs
    bottom: Sequence[Blob]
    top: Sequence[Blob]
    # the values that it reads
    inputs: tuple[str, ...]
    # the values that it gives
    outputs: tuple[str, ...]
    # these, of a layer that gives the same for any images; else None
    fixed: tuple[np.ndarray, ...] | None

    @property
    def in_place(self) -> bool:
        return bool(self.bottom) and self.top[0] is self.bottom[0]

    def refuse(self, found: object, expected: str, choices: Iterable[str] = ()) -> ExportError:
        """The error that this layer cannot be written."""
        return ExportError(f"layer '{self.layer.name}'", found, expected, choices)


IMAGES = 2
"""The batch that shapes are told for; axis 0 of every value that is not fixed is any number of images."""
OF_SHAPES = ("PriorBox",)
"""Types of layers whose answers hang on the shapes of their bottoms alone."""


def nodes(net: Net, known: Iterable[str], where: str) -> list[Node]:
    """The layers of `net`, each fixed or of a type in `known`; but for its Input, and fixed ones that only fixed ones read.

    Raises: ExportError: another layer type, more inputs than one, a layer that does not take any number of images.
    """
    types, found = tuple(known), []
    try:
        if len(net.inputs) != 1:
            raise ExportError("inputs", ", ".join(net.inputs) or "none", "one Input blob")
        fixed = _fixed(net)
        for layer in net.layers:
            if layer.type not in (*types, "Input") and layer not in fixed:
                raise ExportError(f"layer '{layer.name}'", f"type {layer.type}", "a type that can be written", types)
        for images in (IMAGES + 1, IMAGES):  # the last is what shapes are read from
            _reshape(net, images, fixed)
        last = {blob: i for i, ids in enumerate(net.top_ids) for blob in ids}
        values, taken = {blob: net.blob_names[blob] for blob in net.net_input_ids}, set(net.blob_names)
        for i, layer in enumerate(net.layers):
            if layer.type == "Input":
                continue
            inputs = tuple(values[blob] for blob in net.bottom_ids[i])
            for blob in net.top_ids[i]:
                name = net.blob_names[blob]
                if last[blob] != i:
                    name = _unique(f"{name}:{layer.name}", taken)
                elif blob in net.net_input_ids:
                    name = _unique(f"{name}:last", taken)
                values[blob] = name
            outputs = tuple(values[blob] for blob in net.top_ids[i])
            bottom, top = net.bottom_vecs[i], net.top_vecs[i]
            tables = _forward(layer, bottom, top) if layer in fixed else None
            found.append(Node(layer=layer, bottom=bottom, top=top, inputs=inputs, outputs=outputs, fixed=tables))
    except ExportError as error:
        raise error.within(where) from None
    read = {*net.outputs, *(name for node in found if node.fixed is None for name in node.inputs)}
    return [node for node in found if node.fixed is None or not read.isdisjoint(node.outputs)]


def _unique(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "'"
    taken.add(name)
    return name


def _fixed(net: Net) -> set[Layer]:
    """The layers that give the same for any images: those of `OF_SHAPES`, and what reads nothing else."""
    layers: set[Layer] = set()
    blobs: set[int] = set()
    for layer, bottom, top in zip(net.layers, net.bottom_ids, net.top_ids, strict=True):
        if layer.type in OF_SHAPES or (bottom and blobs.issuperset(bottom)):
            layers.add(layer)
            blobs.update(top)
        else:
            blobs.difference_update(top)
    return layers


def _reshape(net: Net, images: int, fixed: Container[Layer]) -> None:
    """Raises: ExportError: a layer that is none of `fixed` does not give as many rows as there are images."""
    blob = net.blobs[net.inputs[0]]
    blob.reshape(images, *blob.shape[1:])
    for layer, bottom, top in zip(net.layers, net.bottom_vecs, net.top_vecs, strict=True):
        try:
            with glog.quiet():
                if layer.type != "Input":
                    layer.reshape(bottom, top)
        except CaffeError as error:
            raise ExportError(f"layer '{layer.name}'", str(error), "a layer for any number of images") from None
        for each in top:
            if layer not in fixed and each.shape[:1] != (images,):
                raise ExportError(
                    f"layer '{layer.name}'",
                    f"a top of shape {each.shape} for {images} images",
                    "one row for each image",
                )


def _forward(layer: Layer, bottom: Sequence[Blob], top: Sequence[Blob]) -> tuple[np.ndarray, ...]:
    """What the engine's layer gives, (...) float32; copies."""
    with torch.no_grad():
        layer.forward(bottom, top)
    return tuple(np.array(blob.data.cpu().numpy(), np.float32) for blob in top)


def run(net: Net, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the engine's net gives at its outputs for a batch, (N, C, H, W) float32; copies."""
    blob = net.blobs[net.inputs[0]]
    blob.reshape(*images.shape)
    with torch.no_grad(), glog.quiet():
        blob.data = torch.from_numpy(np.ascontiguousarray(images, np.float32)).to(blob.device)
        net.forward()
    return {name: np.array(net.blobs[name].data.cpu().numpy()) for name in net.outputs}
