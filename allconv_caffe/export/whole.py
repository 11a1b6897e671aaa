"""A net from what is given to it to what it answers: its preparation, its layers, its probabilities; and what a written
file has to answer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.export import graph as built
from allconv_caffe.export.errors import ExportError
from allconv_caffe.export.layers import FLOAT, WRITERS, Graph, fixed
from allconv_caffe.export.pixels import Preparation
from data_prep.whitening import Whitening

TOLERANCE = 1e-5
"""How far a written file's answer may lie from the engine's, in parts of the answer's largest value."""
BATCHES = (1, 3)
"""How many random images are asked of both, in one batch each."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What an export has made."""

    # the file
    path: Path
    # name, type and shape of what goes in and of what comes out
    inputs: str
    outputs: str
    # in words: what was compared with the engine
    checked: str
    # the largest difference from the engine's answers, in parts of the answer's largest value
    difference: float


@dataclass(frozen=True, kw_only=True)
class Ends:
    """What goes into a written net and what comes out of it."""

    # "pixels", or the input blob
    input: str
    # without the axis of the images
    input_shape: tuple[int, ...]
    # by name; axis 0 is "N", or 1 of what is the same for any images
    outputs: dict[str, tuple[int | str, ...]]


def emit(graph: Graph, net: Net, preparation: Preparation, *, pixels: bool) -> Ends:
    """Writes all operations of `net` to `graph`. Raises: ExportError: a layer or an input that cannot be written."""
    nodes = built.nodes(net, WRITERS, net.where)
    names = {name for node in nodes for name in (*node.inputs, *node.outputs)} | set(net.blob_names)
    graph.reserve(*names, "pixels", "probabilities")
    blob = net.inputs[0]
    shape = tuple(net.blobs[blob].shape[1:])
    if pixels:
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise ExportError(f"{net.where}: blob '{blob}'", f"shape (N, {shape})", "an image of 1 or 3 channels")
        if taken := names & {"pixels", "probabilities"}:
            raise ExportError(f"{net.where}: blob", f"'{taken.pop()}'", "another name: the file's own value has it")
        _prepare(graph, preparation, shape, blob)
    for node in nodes:
        try:
            (WRITERS[node.layer.type] if node.fixed is None else fixed)(graph, node)
        except ExportError as error:
            raise error.within(net.where) from None
    if pixels:
        return Ends(input="pixels", input_shape=shape, outputs={"probabilities": ("N", _probabilities(graph, net))})
    alike = {name for node in nodes if node.fixed is not None for name in node.outputs}
    shapes = {name: tuple(net.blobs[name].shape) for name in net.outputs}
    outputs = {name: ("N" if name not in alike else size[0], *size[1:]) for name, size in shapes.items()}
    return Ends(input=blob, input_shape=shape, outputs=outputs)


def description(preparation: Preparation, pixels: bool, shape: Sequence[int]) -> dict[str, str]:
    """What a file says of itself: "input" in words, "class_names" as JSON where they are known."""
    planes = ("R, G, B" if pixels else ", ".join(preparation.order)) if shape[0] == 3 else "grey"
    what = "pixels 0..255, uint8" if pixels else "an image as the net's input blob takes it, prepared"
    words = {"input": f"{what}; (N, C, H, W), planes {planes}"}
    if preparation.class_names:
        words["class_names"] = json.dumps(preparation.class_names, ensure_ascii=False)
    return words


def _prepare(graph: Graph, preparation: Preparation, shape: Sequence[int], blob: str) -> None:
    """From "pixels" to the input blob."""
    x = graph.add("Cast", "pixels", to=FLOAT)
    if preparation.swaps(shape[0]):
        x = graph.add("Gather", x, graph.constant([2, 1, 0], "order", np.int64), hint="pixels", axis=1)
    if preparation.whitening is not None:
        _whiten(graph, preparation.whitening, shape, x, blob)
        return
    if preparation.mean is not None:
        x = graph.add("Sub", x, graph.constant(preparation.mean, "mean"), hint="pixels")
    graph.add("Mul", x, graph.constant(preparation.scale, "scale"), hint="pixels", output=blob)


def _whiten(graph: Graph, whitening: Whitening, shape: Sequence[int], x: str, blob: str) -> None:
    """`Whitening.whiten` of the middle of `x`; zeros around it.

    A mean is a sum of whole numbers, which float32 adds up exactly, as long as an image has less than 65,000 values.
    """

    def constant(value: Any, word: str, dtype: Any = np.float32) -> str:
        return graph.constant(value, word, dtype)

    _, h, w = whitening.shape
    if len(shape) != 3 or shape[0] != whitening.shape[0] or shape[1] < h or shape[2] < w:
        raise ExportError("whitening", f"images of shape {whitening.shape}", f"at most {tuple(shape)}, the net's input")
    top, left = (shape[1] - h) // 2, (shape[2] - w) // 2
    inner = (h, w) == tuple(shape[1:])
    if not inner:
        start, end, axes = (constant(v, "middle", np.int64) for v in ([top, left], [top + h, left + w], [2, 3]))
        x = graph.add("Slice", x, start, end, axes, hint="middle")
    size = math.prod(whitening.shape)
    x = graph.shaped(x, [size])
    rows = constant([1], "row", np.int64)
    if whitening.method == "raw":
        x = graph.add("Sub", x, constant(whitening.mean, "mean"), hint="raw")
    else:
        total = graph.add("ReduceSum", x, rows, hint="gcn", keepdims=1)
        x = graph.add("Sub", x, graph.add("Div", total, constant(size, "size"), hint="gcn"), hint="gcn")
        norm = graph.add("ReduceL2", x, rows, hint="gcn", keepdims=1)
        divisor = graph.add("Div", norm, constant(whitening.gcn_scale, "gcn_scale"), hint="gcn")
        flat = graph.add("Less", divisor, constant(whitening.gcn_min_divisor, "gcn_min_divisor"), hint="gcn")
        x = graph.add("Div", x, graph.add("Where", flat, constant(1.0, "one"), divisor, hint="gcn"), hint="gcn")
        if whitening.zca is not None:
            x = graph.add("Sub", x, constant(whitening.mean, "mean"), hint="zca")
            x = graph.add("MatMul", x, constant(whitening.zca, "zca"), hint="zca")
    x = graph.shaped(x, whitening.shape, output=blob if inner else None)
    if not inner:
        below, right = shape[1] - h - top, shape[2] - w - left
        graph.add("Pad", x, constant([0, 0, top, left, 0, 0, below, right], "around", np.int64), output=blob)


def _scores(net: Net) -> tuple[str, bool]:
    """The blob that probabilities are made of, and whether it holds them already: what a Softmax gives last, else the output.

    Raises: ExportError: several outputs, or scores at several places.
    """
    if len(net.outputs) != 1:
        raise ExportError(
            f"{net.where}: outputs", ", ".join(net.outputs), "one, to make probabilities of; or --input prepared"
        )
    name = net.outputs[0]
    blob = net.blobs[name]
    if math.prod(blob.shape[2:]) != 1 or len(blob.shape) < 2:
        raise ExportError(
            f"{net.where}: blob '{name}'", f"shape {blob.shape}", "one score for each class; or --input prepared"
        )
    last = [layer.type for layer, top in zip(net.layers, net.top_vecs, strict=True) if any(t is blob for t in top)][-1]
    return name, last == "Softmax"


def _probabilities(graph: Graph, net: Net) -> int:
    """To "probabilities", (N, classes); returns how many classes."""
    name, done = _scores(net)
    classes = net.blobs[name].shape[1]
    if done:
        graph.shaped(name, [classes], output="probabilities")
    else:
        graph.add("Softmax", graph.shaped(name, [classes]), output="probabilities", axis=1)
    return classes


def answers(net: Net, blob: np.ndarray, *, pixels: bool) -> list[np.ndarray]:
    """What the engine gives where the file gives its outputs, for a batch of the input blob."""
    found = built.run(net, blob)
    if not pixels:
        return [found[name] for name in net.outputs]
    name, done = _scores(net)
    scores = found[name].reshape(len(blob), -1)
    if done:
        return [scores]
    powers = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    return [(powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)]


Answer = Callable[[np.ndarray], Sequence[np.ndarray]]
"""What a written file gives for a batch of pixels, or of the input blob."""


def difference(answer: Answer, net: Net, preparation: Preparation, *, pixels: bool, batch: int) -> float:
    """The largest difference between a file's answers and the engine's for a batch of random images, in parts of the
    largest value of an answer; nan where one has a number and the other has none."""
    shape = net.blobs[net.inputs[0]].shape[1:]
    given = np.random.default_rng(batch).integers(0, 256, (batch, *shape), np.uint8)
    blob, largest = preparation.apply(given), 0.0
    for one, right in zip(answer(given if pixels else blob), answers(net, blob, pixels=pixels), strict=True):
        if one.shape != right.shape or not (np.isfinite(one) == np.isfinite(right)).all():
            return math.nan
        finite = np.isfinite(right)
        off = np.abs(one[finite].astype(np.float64) - right[finite]).max(initial=0.0)
        largest = max(largest, float(off / max(np.abs(right[finite]).max(initial=0.0), np.finfo(np.float32).tiny)))
    return largest


def check(path: Any, checked: str, differences: Sequence[float]) -> float:
    """The largest of `differences`. Raises: ExportError: above the tolerance, or no number."""
    for found in differences:
        if not found <= TOLERANCE:
            raise ExportError(path, f"answers of {checked} {found:.2g} beside the engine's", f"{TOLERANCE:g} at most")
    return max(differences)
