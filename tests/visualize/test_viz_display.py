"""Maps as pictures: closed forms of every normalisation, sheets of tiles, and the files beside a picture."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from allconv_caffe.visualize import display
from allconv_caffe.visualize.display import GREY, NORMALISATIONS, Drawing, Grid, normalised, sheet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.whitening import InputSpace


def row(*values: float) -> np.ndarray:
    """One grey map of one row, (1, 1, 1, W)."""
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def values(picture: np.ndarray) -> list[int]:
    assert (picture == picture[..., :1]).all()
    return list(picture[..., 0].ravel())


@pytest.mark.parametrize(
    ("how", "map_", "expected"),
    [
        ("zero-centred", row(-2, 0, 1, 2), [0, 128, 191, 255]),  # 0.5 + x / 4
        ("zero-centred", row(5, 5, 5), [255, 255, 255]),  # min-max would give one grey for any constant
        ("zero-centred", row(1, 3), [170, 255]),  # 0.5 + 1 / 6
        ("positive", row(-9, 0, 1, 2), [0, 0, 128, 255]),
        ("positive", row(-9, -1), [0, 0]),
        ("l2-grey", row(-4, 0, 2), [255, 0, 128]),
    ],
)
def test_a_normalisation_is_its_closed_form(how: str, map_: np.ndarray, expected: list[int]) -> None:
    """Zero is mid grey wherever signs are drawn, and the named value is white."""
    assert values(normalised(map_, how)) == expected


def test_the_99th_percentile_is_white_and_what_lies_beyond_is_clipped() -> None:
    """Of 0, 1, ..., 100 the percentile is 99: 49.5 lies halfway to white; 99 and 100 are white, -99 black."""
    found = values(normalised(row(*range(101)), "percentile"))
    assert found[0] == 128 and found[98] < 255 and found[99] == found[100] == 255
    assert found[50] == np.rint(255 * (0.5 + 50 / 198))
    assert values(normalised(-row(*range(101)), "percentile"))[99] == 0


def test_shared_is_one_scale_for_all() -> None:
    """The largest value of all maps is white; a map of half the size reaches half as far; alone it reaches white."""
    maps = np.concatenate([row(4, 0), row(-2, 1)])
    assert values(normalised(maps, "shared")) == [255, 128, 64, 159]  # 0.5 - 2 / 8, 0.5 + 1 / 8
    assert values(normalised(maps, "zero-centred")) == [255, 128, 0, 191]


def test_l2_grey_is_the_length_over_channels() -> None:
    """(3, 0, 4) has length 5; with the largest length 10 it is half way from black to white."""
    map_ = np.zeros((1, 3, 1, 3), np.float32)
    map_[0, :, 0, 0], map_[0, :, 0, 1] = (3, 0, 4), (0, -10, 0)
    assert values(normalised(map_, "l2-grey")) == [128, 255, 0]


@pytest.mark.parametrize("how", NORMALISATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_zero_map_is_grey_in_every_normalisation(how: str, channels: int) -> None:
    """No division by zero, no noise: a dead unit is a grey square, also beside a map that is not zero."""
    maps = np.zeros((2, channels, 4, 5), np.float32)
    maps[1, 0, 0, 0] = 1
    pictures = normalised(maps, how)
    assert pictures.shape == (2, 4, 5, 3) and pictures.dtype == np.uint8
    assert (pictures[0] == GREY).all()
    assert (pictures[1] != GREY).any()


def test_red_stays_red_on_the_way_to_the_file(tmp_path: Path) -> None:
    """A BGR net's map with a strong third plane is red in the picture, and red in the PNG as another reader sees it."""
    map_ = np.zeros((1, 3, 2, 2), np.float32)
    map_[0, 2] = 1  # B, G, R
    picture = normalised(InputSpace(order="BGR").maps(map_))[0]
    assert (picture == [255, 128, 128]).all()
    (tmp_path / "red.png").write_bytes(display.png(picture))
    assert (cv2.imread(str(tmp_path / "red.png"))[0, 0] == [128, 128, 255]).all()  # OpenCV's order is B, G, R


@pytest.mark.parametrize(
    ("maps", "how", "message"),
    [
        (
            row(1),
            "minmax",
            "normalisation: found 'minmax', expected a way to draw a map (choices: zero-centred, shared, "
            "percentile, positive, l2-grey)",
        ),
        (np.zeros((1, 2, 3, 3)), "shared", "maps: found shape (1, 2, 3, 3), expected (K, C, H, W) with C 1 or 3"),
        (
            row(1, np.nan),
            "shared",
            "maps: found values that are not finite, expected numbers: see whether the weights are sound",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(maps: np.ndarray, how: str, message: str) -> None:
    """Unknown normalisation, another number of channels, values that are not finite: one line each."""
    with pytest.raises(VizError) as error:
        normalised(maps, how)
    assert str(error.value) == message


def test_small_tiles_grow_by_whole_factors_and_large_ones_shrink() -> None:
    """Every pixel becomes a square; a tile larger than asked is averaged down."""
    tile = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    grown = display.resized(tile, 10)
    assert grown.shape == (9, 9, 3)
    assert all((grown[3 * y : 3 * y + 3, 3 * x : 3 * x + 3] == tile[y, x]).all() for y in range(3) for x in range(3))
    assert display.resized(tile, 2).shape == (2, 2, 3)
    half = display.resized(np.repeat(np.array([[[0] * 3, [200] * 3]], np.uint8), 4, axis=0).repeat(4, axis=1), 4)
    assert half.shape == (2, 4, 3) and half[0, 0, 0] == 0 and half[0, 3, 0] == 200


def test_a_sheet_holds_every_tile_whole_and_its_words() -> None:
    """Each tile's pixels are found once, enlarged; rows and columns keep their order; words make a difference."""
    colours = [[(10, 200, 30), (40, 50, 220)], [(230, 60, 70), None]]
    tiles = [[None if c is None else np.full((4, 4, 3), c, np.uint8) for c in line] for line in colours]
    page = sheet(
        [[Grid(tiles=tiles, title="title $5", rows=["one", "two"], columns=["a", "b"], size=16)]], "head", ["a note"]
    )
    at = {c: np.argwhere((page == c).all(axis=2)) for line in colours for c in line if c is not None}
    for places in at.values():
        assert len(places) == 256 and (places.max(axis=0) - places.min(axis=0) == 15).all()
    corner = {c: places.min(axis=0) for c, places in at.items()}
    first, second, third = (corner[c] for c in ((10, 200, 30), (40, 50, 220), (230, 60, 70)))
    assert first[0] == second[0] < third[0] and first[1] == third[1] < second[1]
    bare = sheet([[Grid(tiles=tiles, rows=["one", "two"], columns=["a", "b"], size=16)]], "head", ["a note"])
    assert page.shape[0] > bare.shape[0]
    assert ((page < 128).all(axis=2)).sum() > 100  # black words


@pytest.mark.parametrize("where", ["captions", "under"])
def test_words_wider_than_their_tile_are_whole(where: str) -> None:
    """They stand in the tile's middle, as far out to the left as to the right, and the margins stay white."""
    long = "cassette player: parachute 75 %"
    words = {"captions": [[long]]} if where == "captions" else {"under": [long]}
    green = (10, 200, 30)
    page = sheet([[Grid(tiles=[[np.full((4, 4, 3), green, np.uint8)]], size=16, **words)]])  # type: ignore[arg-type]
    tile = np.flatnonzero((page == green).all(axis=2).any(axis=0))
    inked = np.flatnonzero((page < 200).all(axis=2).any(axis=0))
    assert inked[0] >= 12 and inked[-1] < page.shape[1] - 12
    assert abs((inked[0] + inked[-1]) - (tile[0] + tile[-1])) <= 6


def test_a_drawing_leaves_its_numbers_beside_it(tmp_path: Path) -> None:
    """PNG, JSON with every fact, raw arrays bit for bit; nothing half written; names that follow the picture's."""
    maps = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    drawing = Drawing(
        normalised(maps)[0],
        {"guided": maps},
        {"figure": 3, "rule": "guided", "count": np.int64(7)},
        [{"unit": "conv6:1:2:3", "box": [0, -4, 19, 15], "largest": np.float32(0.5)}],
    )
    paths = drawing.save(tmp_path / "new" / "figure.png")
    assert [os.path.basename(path) for path in paths] == ["figure.png", "figure.json", "figure.npz"]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["figure.json", "figure.npz", "figure.png"]
    text = Path(paths[1]).read_text()
    assert "[0, -4, 19, 15]" in text
    facts = json.loads(text)
    assert facts == {
        "figure": 3,
        "rule": "guided",
        "count": 7,
        "arrays": "figure.npz",
        "tiles": [{"unit": "conv6:1:2:3", "box": [0, -4, 19, 15], "largest": 0.5}],
    }
    np.testing.assert_array_equal(np.load(paths[2])["guided"], maps)
    np.testing.assert_array_equal(cv2.imread(paths[0])[..., ::-1], drawing.picture)
    drawing.save(tmp_path / "two.png", arrays=False)
    assert json.loads((tmp_path / "two.json").read_text())["arrays"] is None and not (tmp_path / "two.npz").exists()


def test_where_nothing_can_be_written_one_line_says_so(tmp_path: Path) -> None:
    """Another ending than .png, a file in the place of a folder."""
    drawing = Drawing(np.zeros((2, 2, 3), np.uint8), {})
    with pytest.raises(VizError, match=r"figure.jpg: found a name ending in '.jpg', expected .png"):
        drawing.save("figure.jpg")
    (tmp_path / "file").write_text("")
    with pytest.raises(VizError, match="expected a file that can be written"):
        drawing.save(tmp_path / "file" / "figure.png")
