"""Draws a net's layers and blobs as a graph.

With pydot and Graphviz's `dot`, as pycaffe does it, in any of Graphviz's formats. Without `dot`, a plain layout of our
own serves PNG, JPEG, BMP and SVG; a line in the log says so. The dot language itself (`raw`, `dot`, `gv`) needs neither.

Source: python/caffe/draw.py.
"""

from __future__ import annotations

import os
import shutil
from html import escape
from typing import Any, NamedTuple

import numpy as np

from allconv_caffe import files
from allconv_caffe.caffe_torch import glog
from allconv_caffe.pycaffe.proto import caffe_pb2

LAYER_STYLE_DEFAULT = {"shape": "record", "fillcolor": "#6495ED", "style": "filled"}
NEURON_LAYER_STYLE = {"shape": "record", "fillcolor": "#90EE90", "style": "filled"}
BLOB_STYLE = {"shape": "octagon", "fillcolor": "#E0E0E0", "style": "filled"}
COLORS = {"Convolution": "#FF5050", "Deconvolution": "#FF5050", "Pooling": "#FF9900", "InnerProduct": "#CC33FF"}
LEARNING = ("Convolution", "Deconvolution", "InnerProduct")
TEXT_FORMATS = ("raw", "dot", "gv")
OWN_FORMATS = ("png", "jpg", "jpeg", "bmp", "svg")


class Edge(NamedTuple):
    """From one node's key to another's, with a text."""

    source: str
    target: str
    label: str


class Graph(NamedTuple):
    """Nodes by key: (label, style)."""

    name: str
    rankdir: str
    nodes: dict[str, tuple[str, dict[str, str]]]
    edges: list[Edge]


def get_pooling_types_dict() -> dict[int, str]:
    """PoolMethod number -> name."""
    return {value.number: value.name for value in caffe_pb2.PoolingParameter.PoolMethod.DESCRIPTOR.values}


def get_edge_label(layer: Any) -> str:
    """What stands at a layer's outputs: the batch size, or the number of outputs."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    if layer.type == "InnerProduct":
        return str(layer.inner_product_param.num_output)
    return '""'


def get_layer_lr_mult(layer: Any) -> tuple[float, float]:
    """lr_mult of weights and bias. Raises: ValueError for a layer that learns nothing, or with more than two params."""
    if layer.type not in LEARNING:
        raise ValueError(f"{layer.type} layers do not have a learning rate multiplier")
    if len(layer.param) > 2:
        raise ValueError("Could not parse the learning rate multiplier")
    weights, bias = [*(param.lr_mult for param in layer.param), 1.0, 1.0][:2]
    return weights, bias


def get_layer_label(layer: Any, rankdir: str, display_lrm: bool = False) -> str:
    """Name, type, and for layers with a window its size; in quotes, on one line where the graph runs up or down."""
    separator = " " if rankdir in ("TB", "BT") else r"\n"
    words = [layer.name]
    window: tuple[int, ...]
    if layer.type == "Pooling":
        param = layer.pooling_param
        words.append(f"({layer.type} {get_pooling_types_dict()[param.pool]})")
        window = (param.kernel_size, param.stride, param.pad)
    else:
        words.append(f"({layer.type})")
        param = layer.convolution_param
        window = tuple(
            values[0] if len(values) else default
            for values, default in ((param.kernel_size, 1), (param.stride, 1), (param.pad, 0))
        )
    if layer.type in ("Convolution", "Deconvolution", "Pooling"):
        words += [f"kernel size: {window[0]}", f"stride: {window[1]}", f"pad: {window[2]}"]
    if display_lrm and layer.type in LEARNING:
        weights, bias = get_layer_lr_mult(layer)
        if weights or bias:
            words.append(f"lr mult: {weights:.1f}, {bias:.1f}")
    return f'"{separator.join(words)}"'


def choose_color_by_layertype(layertype: str) -> str:
    """The fill of a layer's node, ``#RRGGBB``."""
    return COLORS.get(layertype, LAYER_STYLE_DEFAULT["fillcolor"])


def _included(layer: Any, phase: int | None) -> bool:
    if phase is None:
        return True
    if len(layer.include) and len(layer.exclude):
        raise ValueError(f"layer {layer.name} has both include and exclude specified.")
    if any(rule.phase == phase for rule in layer.exclude):
        return False
    return not len(layer.include) or any(rule.phase == phase for rule in layer.include)


def get_graph(
    caffe_net: Any, rankdir: str, label_edges: bool = True, phase: int | None = None, display_lrm: bool = False
) -> Graph:
    """The nodes and edges of a NetParameter, for `phase` or for all."""
    graph = Graph(caffe_net.name or "Net", rankdir, {}, [])
    for layer in caffe_net.layer:
        if not _included(layer, phase):
            continue
        node = f"{layer.name}_{layer.type}"
        in_place = len(layer.bottom) == len(layer.top) == 1 and layer.bottom[0] == layer.top[0]
        style = (
            NEURON_LAYER_STYLE
            if in_place
            else {**LAYER_STYLE_DEFAULT, "fillcolor": choose_color_by_layertype(layer.type)}
        )
        graph.nodes[node] = (get_layer_label(layer, rankdir, display_lrm), style)
        for bottom in layer.bottom:
            graph.nodes[f"{bottom}_blob"] = (bottom, BLOB_STYLE)
            graph.edges.append(Edge(f"{bottom}_blob", node, '""'))
        for top in layer.top:
            graph.nodes[f"{top}_blob"] = (top, {})  # until a layer reads it: pycaffe gives tops no style
            graph.edges.append(Edge(node, f"{top}_blob", get_edge_label(layer) if label_edges else '""'))
    return graph


def get_pydot_graph(
    caffe_net: Any, rankdir: str, label_edges: bool = True, phase: int | None = None, display_lrm: bool = False
) -> Any:
    """The graph as a `pydot.Dot`. Raises: ImportError without pydot and pydotplus."""
    pydot = _pydot()
    graph = get_graph(caffe_net, rankdir, label_edges, phase, display_lrm)
    out = pydot.Dot(graph.name, graph_type="digraph", rankdir=rankdir)
    nodes = {key: pydot.Node(label, **style) for key, (label, style) in graph.nodes.items()}
    for node in nodes.values():
        out.add_node(node)
    for edge in graph.edges:
        out.add_edge(pydot.Edge(nodes[edge.source], nodes[edge.target], label=edge.label))
    return out


def _pydot() -> Any:
    import importlib

    for name in ("pydotplus", "pydot"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError("found neither pydotplus nor pydot: pip install pydot, and Graphviz for its `dot`")


def draw_net(
    caffe_net: Any, rankdir: str, ext: str = "png", phase: int | None = None, display_lrm: bool = False
) -> bytes:
    """The drawing of a NetParameter as a file's bytes.

    Args:
        rankdir: "LR" (left to right), "TB", "BT" or "RL".
        ext: format: any of Graphviz's with pydot and `dot`; else png, jpg, bmp, svg, raw, dot.
    Raises: RuntimeError for a format that only Graphviz has, where it is missing.
    """
    graph = get_graph(caffe_net, rankdir, True, phase, display_lrm)
    if ext in TEXT_FORMATS:
        return to_dot(graph).encode()
    missing = ""
    if shutil.which("dot") is None:
        missing = "Graphviz's `dot` not found"
    else:
        try:
            return bytes(get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm).create(format=ext))
        except ImportError as error:
            missing = str(error)
    if ext not in OWN_FORMATS:
        raise RuntimeError(
            f"format {ext!r}: {missing} (formats without it: {', '.join((*OWN_FORMATS, *TEXT_FORMATS))})"
        )
    glog.info("draw.py:1", f"Drawing by our own plain layout: {missing}")
    layout = _Layout(graph)
    return layout.svg() if ext == "svg" else layout.image(ext)


def draw_net_to_file(
    caffe_net: Any,
    filename: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Draws a NetParameter into a file whose extension names the format; ``.raw`` is Graphviz's own language."""
    name = os.fspath(filename)
    picture = draw_net(caffe_net, rankdir, name[name.rfind(".") + 1 :], phase, display_lrm)
    files.write(name, picture)


def to_dot(graph: Graph) -> str:
    """The graph in Graphviz's language."""

    def quoted(text: str) -> str:
        inner = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
        return '"' + inner.replace('"', r"\"") + '"'

    lines = [f"digraph {quoted(graph.name)} {{", f"rankdir={graph.rankdir};"]
    for key, (label, style) in graph.nodes.items():
        settings = ", ".join(f"{name}={quoted(value)}" for name, value in {"label": label, **style}.items())
        lines.append(f"{quoted(key)} [{settings}];")
    lines += [f"{quoted(e.source)} -> {quoted(e.target)} [label={quoted(e.label)}];" for e in graph.edges]
    return "\n".join([*lines, "}", ""])


class _Layout:
    """Boxes in ranks: a node stands one rank behind the last of those that lead to it; straight lines between them."""

    LETTER, LINE, GAP, RANK_GAP, MARGIN = 7, 16, 18, 48, 12  # pixels
    LONGEST = 30000  # side of a bitmap

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.vertical = graph.rankdir in ("TB", "BT")
        ranks: dict[str, int] = dict.fromkeys(graph.nodes, 0)
        order = {key: i for i, key in enumerate(graph.nodes)}
        for _ in range(len(ranks)):
            changed = False
            for edge in graph.edges:
                in_place = any(e.source == edge.target and e.target == edge.source for e in graph.edges)
                if not in_place and ranks[edge.target] <= ranks[edge.source]:
                    ranks[edge.target], changed = ranks[edge.source] + 1, True
            if not changed:
                break
        for edge in graph.edges:  # an in-place layer stands beside its blob
            if Edge(edge.target, edge.source, '""') in graph.edges and not edge.target.endswith("_blob"):
                ranks[edge.target] = ranks[edge.source] + 1
        self.lines = {key: label.strip('"').split(r"\n") for key, (label, _) in graph.nodes.items()}
        sizes = {
            key: (self.LETTER * max(len(line) for line in lines) + 12, self.LINE * len(lines) + 8)
            for key, lines in self.lines.items()
        }
        self.boxes: dict[str, tuple[int, int, int, int]] = {}
        along, most = self.MARGIN, 0
        levels = sorted(set(ranks.values()), reverse=graph.rankdir in ("BT", "RL"))
        for level in levels:
            members = sorted((key for key in ranks if ranks[key] == level), key=order.__getitem__)
            across = self.MARGIN
            for key in members:
                width, height = sizes[key]
                x, y = (across, along) if self.vertical else (along, across)
                self.boxes[key] = (x, y, width, height)
                across += (width if self.vertical else height) + self.GAP
            along += max(sizes[key][1 if self.vertical else 0] for key in members) + self.RANK_GAP
            most = max(most, across)
        self.size = (most, along) if self.vertical else (along, most)

    def _line(self, edge: Edge) -> tuple[int, int, int, int]:
        (x1, y1, w1, h1), (x2, y2, w2, h2) = self.boxes[edge.source], self.boxes[edge.target]
        if self.vertical:
            down = y2 >= y1
            return x1 + w1 // 2, y1 + (h1 if down else 0), x2 + w2 // 2, y2 + (0 if down else h2)
        right = x2 >= x1
        return x1 + (w1 if right else 0), y1 + h1 // 2, x2 + (0 if right else w2), y2 + h2 // 2

    def image(self, ext: str) -> bytes:
        import cv2

        scale = min(1.0, self.LONGEST / max(self.size))
        canvas = np.full((max(1, int(self.size[1] * scale)), max(1, int(self.size[0] * scale)), 3), 255, np.uint8)

        def at(x: float, y: float) -> tuple[int, int]:
            return int(x * scale), int(y * scale)

        def write(text: str, x: float, y: float) -> None:
            cv2.putText(canvas, text, at(x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.38 * scale, (0, 0, 0), 1, cv2.LINE_AA)

        for edge in self.graph.edges:
            x1, y1, x2, y2 = self._line(edge)
            cv2.arrowedLine(canvas, at(x1, y1), at(x2, y2), (0, 0, 0), 1, cv2.LINE_AA, 0, 0.1)
            write(edge.label.strip('"'), (x1 + x2) / 2, (y1 + y2) / 2 - 3)
        for key, (x, y, width, height) in self.boxes.items():
            color = self.graph.nodes[key][1].get("fillcolor", BLOB_STYLE["fillcolor"])
            bgr = tuple(int(color[i : i + 2], 16) for i in (5, 3, 1))
            cv2.rectangle(canvas, at(x, y), at(x + width, y + height), bgr, -1)
            cv2.rectangle(canvas, at(x, y), at(x + width, y + height), (0, 0, 0), 1)
            for i, line in enumerate(self.lines[key]):
                write(line, x + 6, y + self.LINE * (i + 1))
        ok, data = cv2.imencode(f".{ext}", canvas)
        if not ok:
            raise RuntimeError(f"format {ext!r}: OpenCV could not encode it")
        return data.tobytes()

    def svg(self) -> bytes:
        width, height = self.size
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="monospace" '
            'font-size="11">'
        ]
        for edge in self.graph.edges:
            x1, y1, x2, y2 = self._line(edge)
            parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="black"/>')
            parts.append(f'<circle cx="{x2}" cy="{y2}" r="3"/>')
            parts.append(
                f'<text x="{(x1 + x2) / 2}" y="{(y1 + y2) / 2 - 3}">{escape(edge.label.strip(chr(34)))}</text>'
            )
        for key, (x, y, w, h) in self.boxes.items():
            color = self.graph.nodes[key][1].get("fillcolor", BLOB_STYLE["fillcolor"])
            parts.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="{color}" stroke="black"/>')
            for i, line in enumerate(self.lines[key]):
                parts.append(f'<text x="{x + 6}" y="{y + self.LINE * (i + 1)}">{escape(line)}</text>')
        return "\n".join([*parts, "</svg>", ""]).encode()
