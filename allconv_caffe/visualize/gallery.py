"""Pages to browse units in: for each layer and filter its top patches, three rules, a histogram, whether it is dead.

    topk = mine(net, source, ["conv3", "conv6"], k=9, path="topk.npz")
    gallery(net, source, topk, "build/gallery")          # then open build/gallery/index.html

Plain files with relative links: no server, no network, no script needed (one, in each page, helps to sort, and to turn pages by key).

    index.html               the net and its layers
    <blob>/index.html        every unit of a blob, its strongest patches
    <blob>/0017.html         one unit; beside it .png (a row of patches, a row per rule), .json, .npz (raw maps)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from allconv_caffe import files
from allconv_caffe.html.page import GALLERY, Pages
from allconv_caffe.visualize import display
from allconv_caffe.visualize.mining import EDGES, Channels, TopK
from allconv_caffe.visualize.nets.base import PathLike, VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.rules import FORMULAS, rule_name
from allconv_caffe.visualize.patches import Patch, cut, top_patches
from allconv_caffe.visualize.receptive_field import receptive_field
from allconv_caffe.visualize.sources import ImageSource
from allconv_caffe.visualize.surgery import switches_below
from allconv_caffe.visualize.whitening import InputSpace, check_space

TEMPLATES = Path(__file__).with_name("templates")
ORDER = ("guided", "deconvnet", "backprop")
TILE, GAP = 24, 1  # a tile has at least so many pixels in the PNG; the browser enlarges it
CHUNK = 16  # units whose maps are held at a time
CAVEAT = (
    "Guided backpropagation draws sharp pictures also where weights are random (Adebayo et al. 2018) and depends little on "
    "the unit (Nie et al. 2018): a map shows what lower layers can rebuild of an image, and is no proof of what a unit means. "
    "`allconv viz sanity` measures both."
)


@dataclass(kw_only=True)
class Entry:
    """One unit's place in the gallery.

    Attributes:
        channel: of the blob. dead: whether no image of the scan made it active. maximum: its largest activation.
        active_percent: of the images. patches: what the JSON says of each. name: of its files, without ending.
        histogram: as SVG.
    """

    channel: int
    dead: bool
    maximum: float
    active_percent: float
    name: str
    histogram: str
    patches: list[dict[str, Any]] = field(default_factory=list)


def gallery(
    net: VizNet,
    source: ImageSource,
    topk: TopK,
    folder: PathLike,
    blobs: Sequence[str] | None = None,
    *,
    channels: Sequence[int] | None = None,
    k: int | None = None,
    rules: Sequence[str] = ORDER,
    space: InputSpace | None = None,
    shown: str = "input",
    arrays: bool = True,
    title: str = "",
    command: str = "",
    batch_size: int = 32,
    progress: bool = False,
) -> str:
    """Writes the pages into `folder`.

    Args:
        topk: what `mine` found with this net in these data.
        blobs: of those mined; None: all. channels: of each blob; None: all.
        k: patches of a unit; None: as many as were mined.
        space: how the input blob was made of pixels; None: the source's.
        shown: "input" or "pixel": the space in which maps are drawn.
        arrays: also write the raw maps, cut to the patches' boxes, as .npz.
        title: of the pages; "": the name of the net's file. command: what was typed, for the JSON.

    Returns: the path of index.html.

    Raises: VizError: results of other weights, net or data; a blob that was not mined, a channel out of range; a folder
    that cannot be written.
    """
    topk.check(net, source)
    rules = tuple(rule_name(rule) for rule in rules)
    check_space(shown)
    if k is not None and k < 1:
        raise VizError("k", k, "1 or more")
    space = space or source.space
    wanted = _wanted(topk, blobs, channels)
    slugs = _slugs(list(wanted))
    where = os.fspath(folder)
    facts = {
        "net": net.where,
        "engine": net.engine,
        "weights_sha256": net.weights_sha256,
        "net_sha256": net.net_sha256,
        "data": topk.source or source.where,
        "data_sha256": topk.source_sha256,
        "images": topk.images_seen,
        "rules": list(rules),
        "seed": 1.0,
        "maps": {"space": shown, "normalisation": "zero-centred, each patch by its largest value"},
        "input": space.describe(),
        "arrays": arrays,
        "command": command,
    }
    writer = _Writer(where, title or os.path.basename(net.where) or "net", facts)
    layers = []
    total = sum(len(rows) for rows in wanted.values())
    try:
        with tqdm(total=total, desc="gallery", unit="unit", disable=None if progress else True) as bar:
            for blob, rows in wanted.items():
                inside = os.path.join(where, slugs[blob])
                os.makedirs(inside, exist_ok=True)
                entries: list[Entry] = []
                for start in range(0, len(rows), CHUNK):
                    part = rows[start : start + CHUNK]
                    found = top_patches(net, source, topk, blob, part, k=k, rules=rules, batch_size=batch_size)
                    for i, channel in enumerate(part):
                        entries.append(_entry(channel, topk.channels(blob)))
                        _draw(inside, entries[-1], {rule: found[rule][i] for rule in rules}, space, shown, arrays)
                        bar.update(1)
                layers.append(_layer(net, topk, blob, slugs[blob]))
                writer.layer(layers[-1], entries)
        return writer.index(layers)
    except OSError as error:
        raise VizError(where, error.strerror or str(error), "a folder that can be written") from None


def _wanted(topk: TopK, blobs: Sequence[str] | None, channels: Sequence[int] | None) -> dict[str, list[int]]:
    """The channels of each blob that get a page.

    Raises: VizError: a blob that was not mined, a channel out of range.
    """
    wanted: dict[str, list[int]] = {}
    for blob in topk.blobs if blobs is None else blobs:
        count = len(topk.channels(blob).values)
        wanted[blob] = list(range(count)) if channels is None else list(channels)
        for channel in wanted[blob]:
            if not 0 <= channel < count:
                raise VizError(f"blob '{blob}'", f"channel {channel}", f"0 to {count - 1}")
    return wanted


def _layer(net: VizNet, topk: TopK, blob: str, slug: str) -> dict[str, Any]:
    """What the templates say of a blob."""
    found, field_ = topk.channels(blob), receptive_field(net, blob)
    return {
        "blob": blob,
        "slug": slug,
        "channels": len(found.values),
        "dead": int(found.dead.sum()),
        "size": field_.size,
        "jump": field_.jump,
        "whole": field_.whole,
        "switches": switches_below(net.param, blob),
    }


def _slugs(names: Sequence[str]) -> dict[str, str]:
    """A folder's name for each blob: letters, digits, dots and dashes, no two the same."""
    out: dict[str, str] = {}
    for name in names:
        slug = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "blob"
        while slug.lower() in {other.lower() for other in out.values()}:
            slug += "_"
        out[name] = slug
    return out


def _entry(channel: int, found: Channels) -> Entry:
    return Entry(
        channel=channel,
        dead=bool(found.dead[channel]),
        maximum=float(found.maximum[channel]),
        active_percent=100 * float(found.active_share[channel]),
        name=f"{channel:04d}",
        histogram=histogram_svg(found.histogram[channel]),
    )


def _draw(
    folder: str, entry: Entry, patches: dict[str, list[Patch]], space: InputSpace, shown: str, arrays: bool
) -> None:
    """The unit's sprite, its numbers and its raw maps; only the numbers where it is dead."""
    rows: list[list[np.ndarray]] = []
    maps: dict[str, list[np.ndarray]] = {}
    for rule, found in patches.items():
        pictures, maps[rule] = cut(found, space, shown)
        if not rows:
            rows.append(pictures)
        rows.append(list(display.normalised(np.stack(maps[rule]))) if found else [])
    for i, patch in enumerate(next(iter(patches.values()))):
        entry.patches.append(
            {
                "rank": patch.rank,
                "image": patch.key,
                "unit": str(patch.unit),
                "activation": round(patch.activation, 6),
                "box": patch.box.as_list(),
                "largest": {rule: float(np.abs(maps[rule][i]).max()) for rule in maps},
            }
        )
    path = os.path.join(folder, entry.name)
    if entry.patches:
        display.write(path + ".png", display.png(sprite(rows)))
        if arrays:
            with files.writing(path + ".npz", sync=False) as file:
                np.savez_compressed(file, **{rule: np.stack(raw) for rule, raw in maps.items()})  # type: ignore[arg-type]


def sprite(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of tiles of one size, (h, w, 3) uint8, as one picture; small tiles enlarged by a whole factor."""
    h, w = rows[0][0].shape[:2]
    factor = max(1, -(-TILE // max(h, w)))
    h, w = h * factor, w * factor
    out = np.full((len(rows) * (h + GAP) - GAP, len(rows[0]) * (w + GAP) - GAP, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            big = tile.repeat(factor, axis=0).repeat(factor, axis=1)
            out[i * (h + GAP) : i * (h + GAP) + h, j * (w + GAP) : j * (w + GAP) + w] = big
    return out


def histogram_svg(counts: np.ndarray, width: int = 260, height: int = 64) -> str:
    """Images by their largest activation: a grey bar for those that left the unit off, bars on a log scale for the rest.

    Args:
        counts: (62,), see `mining.EDGES`.
    """
    counts = np.asarray(counts)
    used = np.flatnonzero(counts[1:]) + 1
    bars = [("off", int(counts[0]), "images without activation")]
    if len(used):
        for i in range(used[0], used[-1] + 1):
            low, high = EDGES[i - 1], EDGES[i] if i < len(EDGES) else np.inf
            bars.append(("on", int(counts[i]), f"{low:.3g} to {high:.3g}"))
    top = max(1, *(count for _, count, _ in bars))
    step = width / max(len(bars), 12)
    parts = [
        f'<svg class="histogram" viewBox="0 0 {width} {height + 12}" width="{width}" height="{height + 12}" role="img" '
        'aria-label="histogram of activations">'
    ]
    for i, (kind, count, says) in enumerate(bars):
        tall = height * count / top if count else 0
        parts.append(
            f'<rect class="{kind}" x="{i * step + 0.5:.1f}" y="{height - tall:.1f}" width="{step - 1:.1f}" '
            f'height="{tall:.1f}"><title>{says}: {count} images</title></rect>'
        )
    parts.append(f'<line x1="0" y1="{height}" x2="{width}" y2="{height}"/>')
    parts.append(f'<text x="0" y="{height + 10}">off</text>')
    if len(used):
        high = EDGES[min(used[-1], len(EDGES) - 1)]
        parts.append(f'<text x="{max(step, 20) + 4:.1f}" y="{height + 10}">{EDGES[used[0] - 1]:.2g}</text>')
        parts.append(
            f'<text x="{min(len(bars) * step, width):.1f}" y="{height + 10}" text-anchor="end">{high:.2g}</text>'
        )
    return "".join(parts) + "</svg>"


class _Writer:
    """Fills the templates; beside each unit's page its JSON."""

    def __init__(self, folder: str, title: str, facts: dict[str, Any]) -> None:
        self.folder, self.facts = folder, facts
        self._pages = Pages(TEMPLATES, GALLERY, scripts=("gallery.js",), styles=("page.css", "gallery.css"))
        self._common = {"title": title, "facts": facts, "caveat": CAVEAT, "formulas": FORMULAS}
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise VizError(folder, error.strerror or str(error), "a folder that can be written") from None

    def layer(self, layer: dict[str, Any], entries: Sequence[Entry]) -> None:
        """The page of a blob, and one for each of its units."""
        shares = sorted({len(entry.patches) for entry in entries if entry.patches})
        style = "".join(f".card .peek .of{count} {{ width: {25 * count}%; }}\n" for count in shares)  # four in a row
        values: dict[str, Any] = {"layer": layer, "entries": entries}
        self._page(f"{layer['slug']}/index.html", "gallery_layer.html.j2", style, **values)
        for i, entry in enumerate(entries):
            before, after = entries[i - 1] if i else None, entries[i + 1] if i + 1 < len(entries) else None
            path = f"{layer['slug']}/{entry.name}"
            values = {"layer": layer, "entry": entry, "before": before, "after": after}
            style = f".sprite {{ --columns: {len(entry.patches)}; --rows: {1 + len(self.facts['rules'])}; }}\n"
            self._page(path + ".html", "gallery_unit.html.j2", style, **values)
            facts = {
                "blob": layer["blob"],
                "channel": entry.channel,
                "dead": entry.dead,
                "maximum": entry.maximum,
                "active_percent": round(entry.active_percent, 3),
                "switches": layer["switches"],
                "rows": ["image", *self.facts["rules"]],
                "patches": entry.patches,
                **self.facts,
            }
            if not np.isfinite(entry.maximum):
                facts["maximum"] = None
            self._write(path + ".json", json.dumps(facts, indent=1) + "\n")

    def index(self, layers: Sequence[dict[str, Any]]) -> str:
        """The first page; returns its path."""
        self._page("index.html", "gallery_index.html.j2", layers=layers)
        return os.path.join(self.folder, "index.html")

    def _page(self, path: str, template: str, style: str = "", **values: Any) -> None:
        self._write(path, self._pages.fill(template, style=style, **self._common, **values))

    def _write(self, path: str, text: str) -> None:
        files.write(os.path.join(self.folder, path), text, sync=False)
