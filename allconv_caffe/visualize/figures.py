"""The paper's figures 2 and 3, and what each figure shows of a net: every function gives a `display.Drawing`.

    1  schematic.figure_one      the schematic, the three rules on a toy, their formulas
    2  pattern_figure            what the filters of low layers look for, without an image
    3  patch_figure              guided reconstructions of each filter's strongest patches
    4  comparison.comparison     three rules from the last convolution, with and without switches
    5  comparison.comparison     the same from the scores before the softmax
    6  comparison.comparison     the same from the scores of a net with max-pooling of its own

Every map comes from an engine (`nets.base.VizNet`), the toy's too. Paper: section 4 and its appendix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from allconv_caffe.proto import PoolingParameter
from allconv_caffe.visualize.crops import crop
from allconv_caffe.visualize.display import Drawing, Grid, provenance, sheet
from allconv_caffe.visualize.look import CAVEAT, Look
from allconv_caffe.visualize.mining import TopK
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.rules import rule_name
from allconv_caffe.visualize.patches import Patch, cut, top_patches
from allconv_caffe.visualize.patterns import image_decides, interior_unit, patterns
from allconv_caffe.visualize.receptive_field import Box, receptive_field
from allconv_caffe.visualize.sources import ImageSource
from allconv_caffe.visualize.surgery import stride2_layers, switches_below
from allconv_caffe.visualize.unit import Unit, check_blob, scores_blob


def pattern_figure(
    net: VizNet,
    blobs: Sequence[str],
    look: Look,
    *,
    channels: Mapping[str, Sequence[int]] | None = None,
    number: int | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Drawing:
    """Figure 2: one patch per filter, a panel per blob.

    Args:
        channels: by blob, which filters; all of those not named.

    Raises: VizError: see `patterns.patterns`.
    """
    panels, arrays, tiles, notes = [], {}, [], []
    dead: dict[str, list[int]] = {}
    for blob in blobs:
        wanted = list((channels or {}).get(blob) or range(check_blob(net, blob)[0]))
        y, x, box = interior_unit(net, blob)
        maps = patterns(net, blob, wanted, batch_size=batch_size, progress=progress)
        if look.shown == "pixel":
            whole = np.zeros((len(maps), *net.input_shape), np.float32)
            whole[:, :, box.top : box.bottom, box.left : box.right] = maps
            maps = crop(look.space.maps(whole, "pixel"), box)
        else:
            maps = look.space.maps(maps, "input")
        arrays[blob] = maps
        pictures = look.draw(maps)
        columns = min(12, len(wanted))
        panels.append(
            Grid(
                tiles=[list(pictures[start : start + columns]) for start in range(0, len(pictures), columns)],
                title=f"{blob}: {len(wanted)} filters, {box.height}x{box.width}",
                size=look.size or 30,
                gap=3,
            )
        )
        found = [_pattern_facts(Unit(blob, channel, y, x), box, i, maps[i]) for i, channel in enumerate(wanted)]
        dead[blob] = [channel for channel, facts in zip(wanted, found, strict=True) if facts["dead"]]
        if dead[blob]:
            notes.append(f"{blob}: dead, drawn grey: {', '.join(map(str, dead[blob]))}.")
        tiles += found
    title = ("Figure 2: " if number == 2 else "") + "patterns of low layers, without an image"
    says = f"Deconvnet from one unit for each filter; no pooling lies below, so no image enters. {look.says()}"
    facts = {**look.facts(number, title), **provenance(net), "rule": "deconvnet", "dead": dead, "notes": notes}
    rows = [panels] if len(panels) * 12 * (look.size or 30) < 1300 else [[panel] for panel in panels]
    return Drawing(sheet(rows, title, [says, *notes]), arrays, facts, tiles)


def _pattern_facts(unit: Unit, box: Box, row: int, map_: np.ndarray) -> dict[str, Any]:
    """What the JSON says of one pattern, row `row` of its blob's array: no image, so no activation."""
    return {
        "unit": str(unit),
        "image": None,
        "seed": 1.0,
        "activation": None,
        "box": box.as_list(),
        "rule": "deconvnet",
        "switches": [],
        "array": [unit.blob, row],
        "dead": not map_.any(),
        "largest": float(np.abs(map_).max()),
    }


def patch_figure(
    net: VizNet,
    source: ImageSource,
    topk: TopK,
    rows: Mapping[str, Sequence[int]],
    look: Look,
    *,
    k: int = 10,
    rules: Sequence[str] = ("guided",),
    number: int | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Drawing:
    """Figure 3: a row for each filter, its k strongest patches: reconstructions to the left, image patches to the right.

    Args:
        topk: what `mining.mine` found. rows: by blob, its filters. A dead filter's row says so; free places stay white.

    Raises: VizError: results of other weights, net or data.
    """
    rules, k = [rule_name(rule) for rule in rules], min(k, topk.k)
    parts, arrays, tiles, dead = [], {}, [], {}
    for blob, wanted in rows.items():
        field_ = receptive_field(net, blob)
        size = look.size or (42 if max(field_.size) <= 32 else 72)
        dead[blob] = [int(c) for c in np.flatnonzero(topk.channels(blob).dead)]
        labels = [f"{blob}:{c}" + ("\ndead" if c in dead[blob] else "") for c in wanted]
        grids: list[Grid] = []
        found = top_patches(net, source, topk, blob, wanted, k=k, rules=rules, batch_size=batch_size, progress=progress)
        counts = [len(row) for row in found[rules[0]]]
        switches = switches_below(net.param, blob)
        shown: list[np.ndarray] = []
        for rule in rules:
            flat = [patch for row in found[rule] for patch in row]
            shown, cuts = cut(flat, look.space, look.shown)
            name = f"{blob}.{rule}"
            maps = np.stack(cuts) if cuts else np.zeros((0, net.input_shape[0], *field_.size), np.float32)
            arrays[name] = maps
            grids.append(
                Grid(
                    tiles=_rows(list(look.draw(maps)), counts, k),
                    title=f"{rule} maps",
                    rows=() if grids else labels,
                    size=size,
                )
            )
            tiles += [_patch_facts(patch, switches, name, i, maps[i]) for i, patch in enumerate(flat)]
        grids.append(Grid(tiles=_rows(shown, counts, k), title="image patches", size=size))
        if not shown:
            grids = [Grid(tiles=[[]], title=f"{blob}: every filter drawn is dead")]
        parts.append(grids)
    title = ("Figure 3: " if number == 3 else "") + f"the {k} strongest patches of each filter"
    gone = ", ".join(f"{len(dead[b])} of {len(topk.channels(b).values)} in {b}" for b in rows)
    says = (
        f"{topk.images_seen:,} images seen, at most one patch of each; dead filters: {gone}. Sizes of patches are not "
        f"preserved. {look.says()} {CAVEAT}"
    )
    facts = {
        **look.facts(number, title),
        **provenance(net, source),
        "rules": rules,
        "k": k,
        "images_seen": topk.images_seen,
        "dead": dead,
    }
    return Drawing(sheet(parts, title, [says]), arrays, facts, tiles)


def _patch_facts(patch: Patch, switches: Sequence[str], array: str, row: int, map_: np.ndarray) -> dict[str, Any]:
    """What the JSON says of one patch, whose map, cut to its box, is row `row` of `array`."""
    return {
        "unit": str(patch.unit),
        "image": patch.key,
        "rank": patch.rank,
        "seed": patch.seed,
        "activation": patch.activation,
        "box": patch.box.as_list(),
        "rule": patch.rule,
        "switches": list(switches),
        "array": [array, row],
        "dead": False,
        "zero": not map_.any(),
        "largest": float(np.abs(map_).max()),
    }


def _rows(pictures: Sequence[np.ndarray], counts: Sequence[int], k: int) -> list[list[np.ndarray | None]]:
    out: list[list[np.ndarray | None]] = []
    start = 0
    for count in counts:
        out.append([*pictures[start : start + count], *[None] * (k - count)])
        start += count
    return out


def default_blobs(net: VizNet, number: int) -> list[str]:
    """What a figure shows of a net unless told.

    2: the first three convolutions, as far as no image decides what their filters look for. 3: the ends of the last two
    stages, that is convolutions that stride by 2 or what a max-pooling reads; without any, the last two convolutions but
    one. 4: the last convolution. 5 and 6: the scores before the softmax.

    Raises: VizError: a net without what is needed.
    """
    tops = {layer.name: str(layer.top[0]) for layer in net.param.layer if layer.type == "Convolution"}
    names = list(dict.fromkeys(tops.values()))
    if number in (5, 6):
        return [scores_blob(net)]
    if not names:
        raise VizError(net.where, "no convolution", "a convolutional net, or a blob named")
    if number == 2:
        return [name for name in names[:3] if image_decides(net, name) is None] or names[:1]
    if number == 4:
        return names[-1:]
    return _stage_ends(net, tops) or names[-3:-1] or names


def _stage_ends(net: VizNet, tops: Mapping[str, str]) -> list[str]:
    """The last two blobs after which the maps get smaller, the first convolution's left out; `tops`: by convolution."""
    strided = stride2_layers(net.param)
    first = next(iter(tops.values()))
    ends: dict[str, None] = {}
    for layer in net.param.layer:
        if layer.name in strided:
            ends[tops[layer.name]] = None
        elif layer.type == "Pooling" and layer.pooling_param.pool == PoolingParameter.MAX:
            ends[str(layer.bottom[0])] = None
    return [blob for blob in ends if blob != first][-2:]
