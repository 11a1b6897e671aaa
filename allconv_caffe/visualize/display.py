"""Signed maps as pictures, sheets of labelled tiles, and what is kept beside every picture.

    zero-centred   0.5 + x / (2 max|x|), each map by its own largest value: 0 is mid grey. The default.
    shared         the same with one largest value for all maps: sizes can be compared
    percentile     the same with the 99th percentile of |x| for the largest value; what lies beyond is clipped
    positive       max(x, 0) / max(x): 0 is black
    l2-grey        sqrt(sum of x^2 over channels) / its maximum: 0 is black, one grey value per pixel

A map that is 0 everywhere is mid grey in each of them. Guided maps have negative pixels, rightly: only at ReLUs are they
positive, so a picture scaled from minimum to maximum would give 0 another grey in every map.
"""

from __future__ import annotations

import io
import json
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from allconv_caffe import files
from allconv_caffe.visualize.nets.base import PathLike, VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.sources import ImageSource

NORMALISATIONS = ("zero-centred", "shared", "percentile", "positive", "l2-grey")
PERCENTILE = 99.0
GREY = 128
DPI = 100
FONT = 10.0  # points


def zero_centred(map_: np.ndarray, largest: float | None = None) -> np.ndarray:
    """A signed map (C, H, W) as a picture (H, W, 3) of 0..1: 0 is mid grey, the largest value white or black.

    Args:
        largest: the value drawn white, -largest black, what lies beyond clipped; None: the largest absolute value.
    """
    if largest is None:
        largest = float(np.abs(map_).max())
    picture = np.clip(0.5 + map_ / (2 * max(largest, 1e-30)), 0, 1).transpose(1, 2, 0)
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture


def normalised(maps: np.ndarray, how: str = "zero-centred") -> np.ndarray:
    """Signed maps with planes R, G, B as pictures.

    Args:
        maps: (K, C, H, W), C 1 or 3.
        how: of NORMALISATIONS. "shared" takes the largest value of all K.

    Returns: (K, H, W, 3) uint8.

    Raises: VizError: an unknown normalisation; another number of channels; values that are not finite.
    """
    if how not in NORMALISATIONS:
        raise VizError("normalisation", repr(how), "a way to draw a map", NORMALISATIONS)
    maps = np.asarray(maps, np.float32)
    if maps.ndim != 4 or maps.shape[1] not in (1, 3):
        raise VizError("maps", f"shape {maps.shape}", "(K, C, H, W) with C 1 or 3")
    if not np.isfinite(maps).all():
        raise VizError("maps", "values that are not finite", "numbers: see whether the weights are sound")
    together = float(np.abs(maps).max()) if maps.size else 0.0
    out = np.empty((len(maps), *maps.shape[2:], 3), np.uint8)
    for i, map_ in enumerate(maps):
        out[i] = np.rint(255 * _picture(map_, how, together))
    return out


def _picture(map_: np.ndarray, how: str, together: float) -> np.ndarray:
    strongest = float(np.abs(map_).max())
    if strongest == 0 or how == "zero-centred":
        return zero_centred(map_)
    if how == "shared":
        return zero_centred(map_, together)
    if how == "percentile":
        return zero_centred(map_, float(np.percentile(np.abs(map_), PERCENTILE)) or strongest)
    if how == "positive":
        above = np.maximum(map_, 0)
        return np.broadcast_to((above / (above.max() or 1)).transpose(1, 2, 0), (*map_.shape[1:], 3))
    length = np.sqrt(np.square(map_, dtype=np.float64).sum(axis=0))
    return np.broadcast_to((length / length.max())[..., None], (*length.shape, 3))


def resized(tile: np.ndarray, size: int) -> np.ndarray:
    """(h, w, 3) uint8 with a longer side of about `size`: enlarged by a whole factor, every pixel a square; or shrunk."""
    longer = max(tile.shape[:2])
    if longer > size:
        h, w = (max(round(n * size / longer), 1) for n in tile.shape[:2])
        return np.asarray(cv2.resize(np.ascontiguousarray(tile), (w, h), interpolation=cv2.INTER_AREA), np.uint8)
    factor = max(1, int(size / longer + 0.5))
    return tile.repeat(factor, axis=0).repeat(factor, axis=1)


@dataclass(kw_only=True)
class Grid:
    """Rows of tiles with labels.

    Attributes:
        tiles: rows of (h, w, 3) uint8; None leaves a place free; rows may differ in length.
        title: above. columns: above each column. rows: to the left of each row. captions: beneath each tile. under: beneath
            each row, in its middle.
        size: pixels of a tile's longer side, about. gap: between tiles.
        breaks: columns after which a wider gap stands.
    """

    tiles: Sequence[Sequence[np.ndarray | None]]
    title: str = ""
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    captions: Sequence[Sequence[str]] = ()
    under: Sequence[str] = ()
    size: int = 64
    gap: int = 3
    breaks: Sequence[int] = ()
    font: float = FONT


Text = tuple[float, float, str, dict[str, Any]]


@dataclass
class _Block:
    """A grid laid out: how large it is, and where pictures and words go."""

    width: int
    height: int
    pictures: list[tuple[int, int, np.ndarray]]
    words: list[Text]


def sheet(
    parts: Sequence[Sequence[Grid]], title: str = "", notes: Sequence[str] = (), *, margin: int = 12, spacing: int = 22
) -> np.ndarray:
    """Grids as one picture on white: rows of grids, a title above, sentences beneath.

    Returns: (H, W, 3) uint8, R G B.
    """
    blocks = [[_lay_out(grid) for grid in row] for row in parts]
    wide = max(
        [sum(b.width for b in row) + spacing * (len(row) - 1) for row in blocks]
        + [text_width(title, 1.3 * FONT, True), 240]
    )
    pictures: list[tuple[int, int, np.ndarray]] = []
    words: list[Text] = []
    y = margin
    if title:
        words.append((margin, y, title, {"fontsize": 1.3 * FONT, "fontweight": "bold", "va": "top"}))
        y += _line(1.3 * FONT) + 8
    for row in blocks:
        x = margin
        for block in row:
            pictures += [(x + left, y + top, tile) for left, top, tile in block.pictures]
            words += [(x + left, y + top, text, how) for left, top, text, how in block.words]
            x += block.width + spacing
        y += max(block.height for block in row) + spacing
    y += 8 - spacing
    for note in notes:
        for line in _wrapped(note, wide, 0.85 * FONT):
            words.append((margin, y, line, {"fontsize": 0.85 * FONT, "color": "#444444", "va": "top"}))
            y += _line(0.85 * FONT)
        y += 3
    return _paint(wide + 2 * margin, y + margin - 3, pictures, words)


def _lay_out(grid: Grid) -> _Block:
    font = grid.font
    tiles = [[None if tile is None else resized(tile, grid.size) for tile in row] for row in grid.tiles]
    present = [tile for row in tiles for tile in row if tile is not None]
    h = max([tile.shape[0] for tile in present] + [1])
    w = max([tile.shape[1] for tile in present] + [1])
    count = max([len(row) for row in tiles] + [1])
    labels = [label for caption in grid.captions for label in caption]
    step = max([w, *(text_width(t, 0.8 * font) for t in labels)]) + grid.gap
    left = max([text_width(t, font) for text in grid.rows for t in text.split("\n")] + [0])
    left += 8 if left else 0
    top = 0
    words: list[Text] = []
    first = left
    if grid.title:
        words.append((left, 0, grid.title, {"fontsize": 1.1 * font, "fontweight": "bold", "va": "top"}))
        top += _line(1.1 * font) + 4
    starts, x = [], 0
    for i in range(count):
        starts.append(x)
        x += step + (14 if i in grid.breaks else 0)
    inner = starts[-1] + w
    over = max(step - grid.gap - w, max([text_width(t, 0.8 * font) for t in grid.under] + [0]) - inner, 0)
    left += (over + 1) // 2  # what words stand out beside the tiles, on either side
    starts = [left + start for start in starts]
    right = left + inner + over // 2
    if any(grid.columns):
        lines = max(text.count("\n") + 1 for text in grid.columns)
        for i, text in enumerate(grid.columns):
            place = starts[i] + w / 2
            words.append((place, top + lines * _line(font), text, {"fontsize": font, "ha": "center", "va": "bottom"}))
        top += lines * _line(font) + 3
    beneath = _line(0.8 * font) + 2 if any(labels) or any(grid.under) else 0
    pictures = []
    for j, row in enumerate(tiles):
        y = top + j * (h + beneath + grid.gap)
        if j < len(grid.rows):
            words.append((first - 8, y + h / 2, grid.rows[j], {"fontsize": font, "ha": "right", "va": "center"}))
        if j < len(grid.under):
            words.append(
                (left + inner / 2, y + h + 2, grid.under[j], {"fontsize": 0.8 * font, "ha": "center", "va": "top"})
            )
        for i, tile in enumerate(row):
            if tile is not None:
                pictures.append((starts[i] + (w - tile.shape[1]) // 2, y + (h - tile.shape[0]) // 2, tile))
            if j < len(grid.captions) and i < len(grid.captions[j]) and grid.captions[j][i]:
                words.append(
                    (
                        starts[i] + w / 2,
                        y + h + 2,
                        grid.captions[j][i],
                        {"fontsize": 0.8 * font, "ha": "center", "va": "top"},
                    )
                )
    heading = first + text_width(grid.title, 1.1 * font, True)
    return _Block(max(right, heading), top + len(tiles) * (h + beneath + grid.gap) - grid.gap, pictures, words)


def text_width(text: str, font: float, bold: bool = False) -> int:
    """Pixels that a line of text takes, in points of `font`, and some to spare."""
    if not text.strip():
        return 0
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    how = FontProperties(weight="bold" if bold else "normal")
    return int(TextPath((0, 0), text.replace("$", r"\$"), font, prop=how).get_extents().width * DPI / 72 * 1.06) + 2


def _line(font: float) -> int:
    return int(font * DPI / 72 * 1.25)


def _wrapped(text: str, width: int, font: float) -> list[str]:
    """`text` in lines that fit."""
    each = max(text_width(text, font) / max(len(text), 1), 1)
    return textwrap.wrap(text, max(int(width / each), 20)) or [""]


def _paint(
    width: int, height: int, pictures: Sequence[tuple[int, int, np.ndarray]], words: Sequence[Text]
) -> np.ndarray:
    canvas, draw = canvas_of(width, height)
    for x, y, text, how in words:
        draw(x, y, text, how)
    out = canvas()
    for left, top, tile in pictures:
        out[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return out


def canvas_of(
    width: int, height: int
) -> tuple[Callable[[], np.ndarray], Callable[[float, float, str, dict[str, Any]], None]]:
    """A white page: a function that gives its pixels (height, width, 3), and one that writes at pixel (x, y) from top left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    agg = FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, how: dict[str, Any]) -> None:
        figure.text(x / width, 1 - y / height, text.replace("$", r"\$"), **how)

    def pixels() -> np.ndarray:
        agg.draw()
        return np.array(np.asarray(agg.buffer_rgba())[:height, :width, :3])

    return pixels, write


def png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8, R G B, as the bytes of a PNG file.

    Raises: VizError: another shape or type.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise VizError("picture", f"{picture.dtype} of shape {picture.shape}", "uint8 of shape (H, W, 3)")
    done, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    return bytes(data.tobytes())


def write(path: PathLike, data: bytes, *, make_folder: bool = True) -> None:
    """A file, whole or not at all; its folder is made, unless `make_folder` says that it must be there.

    Raises: VizError: a folder that cannot be written.
    """
    try:
        if make_folder:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        files.write(path, data, sync=False)
    except OSError as error:
        raise VizError(os.fspath(path), error.strerror or str(error), "a file that can be written") from None


@dataclass
class Drawing:
    """A picture, the numbers it shows, and what they are.

    Attributes:
        picture: (H, W, 3) uint8, R G B.
        arrays: raw maps by name, not normalised, for the .npz.
        facts: for the JSON: everything the picture depends on. tiles: for every map drawn unit, image, seed, activation,
            box, rule, switches, and which array and row hold it.
    """

    picture: np.ndarray
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any] = field(default_factory=dict)
    tiles: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: PathLike, *, arrays: bool = True) -> list[str]:
        """Writes `path` (a name ending in .png) and beside it .json and, unless `arrays` is False, .npz.

        Returns: the paths. Raises: VizError: another ending, a folder that cannot be written.
        """
        where = os.fspath(path)
        stem, end = os.path.splitext(where)
        if end.lower() != ".png":
            raise VizError(where, f"a name ending in '{end}'", ".png")
        facts = dict(self.facts, arrays=os.path.basename(stem) + ".npz" if arrays else None)
        out = [where, stem + ".json"]
        write(where, png(self.picture))
        write(out[1], _json(facts, self.tiles).encode())
        if arrays:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **self.arrays)  # type: ignore[arg-type]
            write(stem + ".npz", buffer.getvalue())
            out.append(stem + ".npz")
        return out


def provenance(net: VizNet, source: ImageSource | None = None) -> dict[str, Any]:
    """Engine and hashes of net, weights and data."""
    facts: dict[str, Any] = {
        "engine": net.engine,
        "net": net.where,
        "net_sha256": net.net_sha256,
        "weights_sha256": net.weights_sha256,
    }
    if source is not None:
        facts.update(
            data=source.where, data_sha256=source.fingerprint, images=len(source), input=source.space.describe()
        )
    return facts


def _json(facts: dict[str, Any], tiles: Sequence[dict[str, Any]]) -> str:
    """Facts by the line, lists of numbers on one; each tile on a line."""
    text = json.dumps(_plain(facts), indent=1, allow_nan=False)
    number = r"-?[\d.e+-]+"
    text = re.sub(rf"\[\s+({number}(?:,\s+{number})*)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    lines = ",\n".join("  " + json.dumps(_plain(tile), allow_nan=False) for tile in tiles)
    return text[: text.rindex("\n}")] + ',\n "tiles": [' + (f"\n{lines}\n " if lines else "") + "]\n}\n"


def _plain(value: Any) -> Any:
    """What JSON has types for; floats with the eight digits that a float32 has at most."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    return float(f"{value:.8g}") if isinstance(value, float) else value
