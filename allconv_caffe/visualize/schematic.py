"""Figure 1: how one activation is traced back, what a ReLU does by each rule on a toy, the rules' formulas.

The toy's numbers come from an engine, as every map does. Paper: figure 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allconv_caffe.proto import NetParameter, parse_text
from allconv_caffe.visualize.display import Drawing, normalised, provenance
from allconv_caffe.visualize.look import Look, tile_facts
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.open import open_net
from allconv_caffe.visualize.nets.rules import FORMULAS, RULES, rule_name
from allconv_caffe.visualize.receptive_field import receptive_field
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.unit import Unit, check_blob

TOY = np.array([[1, -1, 5], [2, -5, -7], [-3, 2, 4]], np.float32)
TOY_GRADIENT = np.array([[-2, 3, -1], [6, -3, 1], [2, -1, 3]], np.float32)
"""Figure 1b: a ReLU's bottom, and the gradient at its top."""

TOY_NET = """
name: "toy"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 3 dim: 3 } } }
layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }
"""

CORNER = "conv2:0:3:3"
"""Of the four units that the square's corners excite equally, to rounding, the one for its upper left."""

CORNERS_NET = """
name: "corners"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 24 dim: 24 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param { num_output: 4 kernel_size: 5 pad: 2 stride: 2 } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
"""
"""Figure 1a without a trained net: edges in four directions, and the four corners that two of them make."""


def open_text(text: str, **how: Any) -> VizNet:
    """TOY_NET or CORNERS_NET by the engine that `open_net` is told of; `where` is the net's own name."""
    net = open_net(parse_text(text, NetParameter), **how)
    net.where = net.param.name
    return net


def toy(net: VizNet) -> dict[str, np.ndarray]:
    """Figure 1b: "forward" and each rule on TOY and TOY_GRADIENT, computed by the engine of `net`, a TOY_NET.

    >>> toy(open_text(TOY_NET))["guided"].astype(int).tolist()
    [[0, 0, 0], [6, 0, 0], [0, 0, 3]]
    """
    out = {"forward": net.forward(TOY[None, None], ("relu",))["relu"][0, 0]}
    for rule in RULES:
        out[rule] = net.backward("relu", TOY_GRADIENT[None, None], rule)[0, 0]
    return out


def corners(net: VizNet) -> np.ndarray:
    """Gives `net`, a CORNERS_NET, its weights, and returns the image that goes with it: a square, (1, 1, 24, 24)."""
    edge = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32) / 4
    first = np.stack([edge, edge.T, -edge, -edge.T])[:, None]
    second = np.zeros((4, 4, 5, 5), np.float32)
    for i in range(4):
        second[i, i], second[i, (i + 1) % 4] = 0.05, 0.05
    net.set_params({"conv1": [first, np.zeros(4, np.float32)], "conv2": [second, np.full(4, -0.6, np.float32)]})
    image = np.zeros((1, 1, 24, 24), np.float32)
    image[:, :, 6:17, 5:18] = 1
    return image


def figure_one(
    toy_net: VizNet, net: VizNet, image: np.ndarray, unit: Unit, look: Look, *, rule: str = "guided", key: str = ""
) -> Drawing:
    """Figure 1: forward to a layer, all but one unit set to zero, back to the image; the rules on a toy; the formulas.

    Args:
        toy_net: a TOY_NET. net: any net for part a. image: (1, C, H, W), in the units of its input blob.
        unit: the one that is kept; its blob is drawn. key: the image's name in its data.
    """
    rule = rule_name(rule)
    shape = check_blob(net, unit.blob)
    if len(shape) != 3:
        raise VizError(f"blob '{unit.blob}'", "a blob without height and width", "one with maps: a convolution's")
    numbers = toy(toy_net)
    found = reconstruct(net, image, [(0, unit)], rule)
    maps = net.forward(image, (unit.blob,), until=unit.blob)[unit.blob][0]
    one = look.space.maps(found.maps, look.shown)
    parts = {
        "picture": look.space.pictures(image)[0] if look.space.source or image.shape[1] == 3 else normalised(image)[0],
        "map": look.draw(one)[0],
    }
    facts = {**look.facts(1, "Figure 1: how an activation is traced back"), **provenance(net)}
    facts.update(rule=rule, formulas=FORMULAS, toy={name: values.tolist() for name, values in numbers.items()})
    facts["notes"] = found.notes
    tile = tile_facts(net, found, 0, key=key, array=("maps", 0), box=receptive_field(net, unit.blob).box(unit))
    picture = _draw_one(parts, maps, unit, rule, numbers)
    return Drawing(picture, {"maps": one, "activations": maps, **numbers}, facts, [tile])


_COLOURS = {"backprop": "#e8f1fb", "deconvnet": "#fdeeda", "guided": "#e6f4e6", "forward": "#f1f1f1"}


def _draw_one(
    parts: dict[str, np.ndarray], maps: np.ndarray, unit: Unit, rule: str, numbers: dict[str, np.ndarray]
) -> np.ndarray:
    """The three parts of figure 1 on one page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.2, 5.6), dpi=100, facecolor="white")
    agg = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 1120)
    axes.set_ylim(560, 0)
    axes.axis("off")
    _part_a(figure, axes, parts, maps, unit, rule)
    _part_b(axes, numbers)
    _part_c(axes)
    agg.draw()
    return np.array(np.asarray(agg.buffer_rgba())[..., :3])


def _tile(figure: Any, picture: np.ndarray, x: float, y: float, size: float) -> None:
    """A picture with its top left corner at pixel (x, y) of the page."""
    axes = figure.add_axes((x / 1120, 1 - (y + size) / 560, size / 1120, size / 560))
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for edge in axes.spines.values():
        edge.set_color("#777777")
        edge.set_linewidth(0.8)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate(
        "",
        end,
        start,
        arrowprops={"arrowstyle": "-|>", "color": "#444444", "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0},
    )


def _part_a(figure: Any, axes: Any, parts: dict[str, np.ndarray], maps: np.ndarray, unit: Unit, rule: str) -> None:
    axes.text(16, 34, "a)", fontsize=15, fontweight="bold")
    others = [int(c) for c in np.argsort(-maps.reshape(len(maps), -1).max(axis=1)) if c != unit.channel][:3]
    shown = [*others[::-1], unit.channel]
    kept = np.zeros_like(maps)
    kept[unit.index(maps.shape)] = maps[unit.index(maps.shape)]
    strongest = max(float(maps[shown].max()), 1e-30)
    for top, word, stack, name in (
        (70, "forward pass", maps, "picture"),
        (250, "backward pass", kept, "map"),
    ):
        axes.text(46, top - 12, "input image" if name == "picture" else "reconstructed image", fontsize=10)
        _tile(figure, parts[name], 46, top, 116)
        for i, channel in enumerate(shown):
            grey = np.rint(255 * np.clip(stack[channel] / strongest, 0, 1)).astype(np.uint8)
            _tile(figure, 255 - np.repeat(grey[..., None], 3, axis=2), 300 + 22 * i, top - 14 + 14 * i, 86)
        axes.text(300, top - 22, f"feature maps of {unit.blob}", fontsize=10, parse_math=False)
        axes.text(231, top + 44, word, fontsize=9, ha="center", color="#444444")
        ends = ((172, top + 58), (290, top + 58))
        _arrow(axes, *(ends if name == "picture" else ends[::-1]))
    axes.annotate(
        "",
        (470, 236 + 56),
        (470, 126 + 40),
        arrowprops={"arrowstyle": "-|>", "color": "#444444", "linewidth": 1.4, "connectionstyle": "arc3,rad=-0.35"},
    )
    y, x = unit.y, unit.x
    kept_one = f"all set to zero but {unit.blob}:{unit.channel}, row {y}, column {x}"
    axes.text(300, 390, kept_one, fontsize=9, color="#444444", parse_math=False)
    axes.text(46, 390, f"{rule} rule", fontsize=9, color="#444444")


def _matrix(axes: Any, values: np.ndarray, x: float, y: float, colour: str, kept: np.ndarray | None = None) -> None:
    side = 32
    for i in range(3):
        for j in range(3):
            fill = colour if kept is None or kept[i, j] else "white"
            axes.add_patch(_rectangle(x + side * j, y + side * i, side, fill))
            axes.text(
                x + side * (j + 0.5),
                y + side * (i + 0.5),
                f"{values[i, j] + 0:g}",
                fontsize=10.5,
                ha="center",
                va="center",
                color="black" if values[i, j] else "#999999",
            )


def _rectangle(x: float, y: float, side: float, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), side, side, facecolor=colour, edgecolor="#888888", linewidth=0.8)


def _part_b(axes: Any, numbers: dict[str, np.ndarray]) -> None:
    axes.text(590, 34, "b)", fontsize=15, fontweight="bold")
    names = {
        "forward": "forward pass",
        "backprop": "backward pass:\nbackpropagation",
        "deconvnet": "backward pass:\ndeconvnet",
        "guided": "backward pass:\nguided backprop",
    }
    for i, (name, label) in enumerate(names.items()):
        y = 34 + 130 * i
        axes.text(735, y + 48, label, fontsize=10, ha="right", va="center")
        left, right = (TOY, numbers[name]) if name == "forward" else (numbers[name], TOY_GRADIENT)
        _matrix(axes, left, 760, y, _COLOURS[name], left != 0 if name != "forward" else None)
        _matrix(axes, right, 985, y, _COLOURS[name], right != 0 if name == "forward" else None)
        ends = ((868, y + 48), (973, y + 48))
        _arrow(axes, *(ends if name == "forward" else ends[::-1]))
        axes.text(920, y + 38, "ReLU", fontsize=9, ha="center", color="#444444")
        symbols = ("f", "f '") if name == "forward" else ("R", "R '")
        for x, symbol in zip((750, 1091), symbols, strict=True):
            axes.text(
                x, y - 2 + 10, symbol, fontsize=10, style="italic", ha="right" if x < 800 else "left", va="center"
            )


def _part_c(axes: Any) -> None:
    axes.text(16, 440, "c)", fontsize=15, fontweight="bold")
    for i, (name, formula) in enumerate(FORMULAS.items()):
        axes.text(46, 440 + 30 * i, f"{name}:", fontsize=10.5)
        axes.text(160, 440 + 30 * i, formula, fontsize=11.5, family="monospace")
    axes.text(
        395,
        440,
        "f   bottom of a ReLU\nR'  gradient at its top\nR   gradient at its bottom",
        fontsize=9.5,
        family="monospace",
        va="top",
        color="#444444",
    )
