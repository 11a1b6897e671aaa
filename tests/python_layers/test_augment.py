"""What Large-All-CNN's training images are made of: settings, draws, geometry, colour. Numbers drawn in comments."""

from __future__ import annotations

import json
import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from allconv_caffe import augment
from allconv_caffe.augment import COSINE, LINEAR, AugmentError, Drawing, Order, Settings
from allconv_caffe.caffe_torch.source import augmented

SHAPE = (3, 32, 32)


def settings(**given: Any) -> Settings:
    return augment.parse(json.dumps({"source": "x", "batch_size": 2, **given}), True)


def noise(count: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def placed(
    chosen: Settings,
    c: list[list[float]],
    jiggle: tuple[int, int] = (0, 0),
    d: np.ndarray | None = None,
    shape: tuple[int, int, int] = SHAPE,
) -> Drawing:
    """One image's drawing: matrix `c`, moved by `jiggle`, colours shifted by `d` (4, C)."""
    shift = np.zeros((1, 4, shape[0])) if d is None else d[None]
    return augment.place(chosen, np.array([c], float), np.array([jiggle], float), shift, shape)


IDENTITY = [[1.0, 0.0], [0.0, 1.0]]


# settings
def test_a_param_str_is_read_in_jsons_and_in_pythons_words() -> None:
    """{"graham": true} and {'graham': True} say the same."""
    one = augment.parse('{"source": "x", "batch_size": 2, "graham": true, "colour": [1, 2, 3, 4]}', True)
    other = augment.parse("{'source': 'x', 'batch_size': 2, 'graham': True, 'colour': (1, 2, 3, 4)}", True)
    assert one == other and one.graham and one.colour == (1, 2, 3, 4)


def test_the_recipe_is_the_default_and_the_phase_decides_on_distortion() -> None:
    """Graham's ranges; in TEST nothing is distorted or shuffled unless the text says so."""
    train, test = (augment.parse('{"source": "x", "batch_size": 2}', phase) for phase in (True, False))
    assert (train.size, train.background, train.divisor) == (126, 128, 128)
    assert (train.stretch, train.flip, train.shear, train.rotation, train.jiggle) == (0.2, 0.5, 0.2, 0.2, 16)
    assert (train.colour, train.colour_form) == ((0.2, 0.3, 0.6, 0.6), COSINE)
    assert (train.distort, train.shuffle, test.distort, test.shuffle) == (True, True, False, False)
    assert settings(colour_form=LINEAR).colour == (25.5, 0.15, 2.4, 2.4)
    assert augment.parse('{"source": "x", "batch_size": 2, "distort": true}', False).distort


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found '', expected a dict with the keys source, batch_size, size, "),
        ("[1]", "found '[1]', expected a dict with the keys source, "),
        ('{"batch_size": 2}', "found no source, expected the folder of an LMDB"),
        ('{"source": "x"}', "found no batch_size, expected a whole number of at least 1"),
        (
            '{"source": "x", "batch_size": 2, "strech": 0.1}',
            "found the key 'strech', expected one of source, batch_size, size, background, distort, shuffle, stretch, "
            "flip, shear, rotation, jiggle, colour, colour_form, graham, seed, start",
        ),
        ('{"source": "x", "batch_size": 0}', "found batch_size 0, expected a whole number of at least 1"),
        ('{"source": "x", "batch_size": 2.5}', "found batch_size 2.5, expected a whole number of at least 1"),
        ('{"source": "x", "batch_size": 2, "flip": true}', "found flip True, expected a number from 0 to 1"),
        (
            '{"source": "x", "batch_size": 2, "stretch": 1}',
            "found stretch 1, expected a number of at least 0 and below 1",
        ),
        ('{"source": "x", "batch_size": 2, "shear": NaN}', "found shear nan, expected a number from 0 to 10"),
        (
            '{"source": "x", "batch_size": 2, "colour": [1, 2, 3]}',
            "found colour [1, 2, 3], expected a list of four numbers of at least 0",
        ),
        (
            '{"source": "x", "batch_size": 2, "colour_form": "hue"}',
            "found colour_form 'hue', expected one of cosine, linear",
        ),
        (
            '{"source": "x", "batch_size": 2, "seed": -1}',
            f"found seed -1, expected a whole number from 0 to {2**64 - 1}",
        ),
    ],
)
def test_a_param_str_that_will_not_do_is_refused_in_one_line(text: str, message: str) -> None:
    """What was found and what was expected; keys by name, with all that there are."""
    with pytest.raises(AugmentError) as caught:
        augment.parse(text, True)
    assert str(caught.value).startswith("param_str: " + message) and "\n" not in str(caught.value)


# places
def test_a_plain_image_lies_in_the_middle() -> None:
    """32 pixels in 126: columns and rows 47 to 78 hold (p - 128) / 128, all else is 0; in both forms, to the bit."""
    chosen, pixels = settings(), noise(2)
    field = augment.plain(chosen, pixels)
    assert field.shape == (2, 3, 126, 126) and field.dtype == np.float32
    assert np.array_equal(field[:, :, 47:79, 47:79], (pixels.astype(np.float32) - 128) / 128)
    assert np.count_nonzero(field) == np.count_nonzero(pixels != 128)
    assert np.array_equal(augmented.plain(chosen, torch.from_numpy(pixels)).numpy(), field)


@pytest.mark.parametrize(("size", "corner"), [(32, 0), (33, 0), (34, 1), (31, -1), (20, -6), (1, -16)])
def test_a_plain_image_larger_than_its_field_is_cut_around_its_middle(size: int, corner: int) -> None:
    """Field size // 2 shows image column 16."""
    chosen, pixels = settings(size=size), noise(1)
    field = augment.plain(chosen, pixels)
    assert chosen.corner(32) == corner
    assert np.array_equal(field[0, :, size // 2, size // 2], (pixels[0, :, 16, 16].astype(np.float32) - 128) / 128)
    assert np.array_equal(augmented.plain(chosen, torch.from_numpy(pixels)).numpy(), field)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 28), (3, 9, 14)])
@pytest.mark.parametrize("graham", [False, True])
def test_the_identity_is_the_plain_image(shape: tuple[int, int, int], graham: bool) -> None:
    """No stretch, turn, move or shift: what is drawn then equals `plain`."""
    chosen, pixels = settings(graham=graham), noise(1, shape)
    field = augment.distorted(chosen, pixels, placed(chosen, IDENTITY, shape=shape))
    assert np.abs(field - augment.plain(chosen, pixels)).max() * 128 < 1e-3


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_right_angle_turns_the_image(turns: int) -> None:
    """C [[cos a,-sin a],[sin a,cos a]] at a = 90 degrees sends (x, y) to (y, -x): counter-clockwise where y points down."""
    chosen, pixels = settings(), noise(1)
    a = turns * math.pi / 2
    c = [[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]
    field = augment.distorted(chosen, pixels, placed(chosen, c))
    expected = augment.plain(chosen, np.ascontiguousarray(np.rot90(pixels, turns, axes=(2, 3))))
    assert np.abs(field - expected).max() * 128 < 1e-3


def test_a_flip_mirrors_every_column_or_loses_one_as_grahams() -> None:
    """Sane: column x goes to 31 - x. Graham's corners send x to 32 - x: column 0 is lost, and a background column comes in."""
    pixels, flipped = noise(1), [[-1.0, 0.0], [0.0, 1.0]]
    chosen = settings()
    field = augment.distorted(chosen, pixels, placed(chosen, flipped))
    assert np.abs(field - augment.plain(chosen, np.ascontiguousarray(pixels[..., ::-1]))).max() * 128 < 1e-3
    chosen = settings(graham=True)
    field = augment.distorted(chosen, pixels, placed(chosen, flipped))
    lost = augment.plain(chosen, np.concatenate([np.full((1, 3, 32, 1), 128, np.uint8), pixels[..., :0:-1]], axis=3))
    assert np.abs(field - lost).max() * 128 < 1e-3


@pytest.mark.parametrize("graham", [False, True])
def test_jiggle_moves_by_whole_pixels(graham: bool) -> None:
    """x to the right, y down; at the edge of the field the image is cut."""
    chosen, pixels = settings(graham=graham), noise(1)
    field = augment.distorted(chosen, pixels, placed(chosen, IDENTITY, (16, -3)))
    assert np.abs(field - np.roll(augment.plain(chosen, pixels), (-3, 16), axis=(2, 3))).max() * 128 < 1e-3
    far = augment.distorted(chosen, pixels, placed(chosen, IDENTITY, (-60, 0)))
    assert np.abs(far[..., :19] - augment.plain(chosen, pixels)[..., 60:79]).max() * 128 < 1e-3
    assert not far[..., 19:].any()


def test_each_part_of_the_map_goes_where_the_recipe_says() -> None:
    """x' = x c00 + y c10, y' = x c01 + y c11 about the middle: a bright dot is found again there."""
    chosen = settings()
    dark = np.full((1, 1, 33, 33), 128, np.uint8)
    dark[0, 0, 16 + 5, 16 + 8] = 255  # x 8, y 5 from the middle
    for c in ([[1.5, 0.0], [0.0, 1.0]], [[1.0, 0.25], [0.0, 1.0]], [[1.0, 0.0], [0.4, 1.0]]):
        field = augment.distorted(chosen, dark, placed(chosen, c, shape=(1, 33, 33)))[0, 0]
        y, x = np.unravel_index(field.argmax(), field.shape)
        middle = chosen.corner(33) + 16
        assert (x - middle, y - middle) == (8 * c[0][0] + 5 * c[1][0], 8 * c[0][1] + 5 * c[1][1])


def smooth(count: int, seed: int) -> np.ndarray:
    """Images without hard edges: OpenCV rounds coordinates to 1/32 of a pixel, which such images hardly feel."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 3, 5, 5)).astype(np.float32)
    fine = [cv2.resize(image.transpose(1, 2, 0), (32, 32), interpolation=cv2.INTER_LINEAR) for image in coarse]
    return np.stack(fine).transpose(0, 3, 1, 2).astype(np.uint8)


def test_grahams_option_equals_his_program_by_opencv() -> None:
    """His steps, in a slow loop with OpenCV: corners, warpAffine, centred by whole pixels, grey counts as background."""
    chosen = settings(graham=True, colour=[0, 0, 0, 0])
    pixels = smooth(40, seed=3)
    rng = np.random.default_rng(5)
    for image in pixels:
        c00, c11 = rng.uniform(0.8, 1.2, 2) * (rng.choice([-1, 1]), 1)
        a, (jx, jy) = rng.uniform(-0.2, 0.2), rng.integers(-16, 17, 2)
        slant, other = [[1, 0], [a, 1]], [[1, a], [0, 1]]
        turn = [[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]
        c = np.diag([c00, c11]) @ (slant, other, turn)[rng.integers(3)]
        source = np.array([[0, 0], [32, 0], [0, 32]], np.float32)
        target = source @ c
        fourth = target[1] + target[2]
        target = target - np.minimum(target.min(0), fourth)
        size = np.ceil(np.vstack([target, target[1] + target[2] - target[0]]).max(0)).astype(int)
        warp = cv2.getAffineTransform(source, target.astype(np.float32))
        warped = cv2.warpAffine(
            image.transpose(1, 2, 0).astype(np.float32),
            warp,
            tuple(size.tolist()),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(128, 128, 128),
        )
        expected = np.full((126, 126, 3), 128, np.float32)
        left, top = 63 - size[0] // 2 + jx, 63 - size[1] // 2 + jy
        expected[top : top + size[1], left : left + size[0]] = warped
        found = augment.distorted(chosen, image[None], placed(chosen, c.tolist(), (int(jx), int(jy))))[0]
        grey = found.transpose(1, 2, 0) * 128 + 128
        off = np.abs(grey - expected).max(2)
        inside = np.abs(expected - 128).max(2) > 2.56 + 1
        # 1/32 of a pixel on slopes of up to 255 / 8 grey levels a pixel; at the image's edge the slope is up to 128
        assert np.quantile(off[inside], 0.9) < 1
        assert off[inside].max() < 128 / 16
        assert off[~inside].max() <= 2.56 + 1 + 128 / 16


def test_the_sane_option_equals_opencv_about_the_middle() -> None:
    """The whole field by one warpAffine whose map keeps the middle: within a grey level on smooth images."""
    chosen = settings(colour=[0, 0, 0, 0], jiggle=5)
    pixels = smooth(20, seed=7)
    drawing = augment.draw(chosen, 3, np.arange(20), SHAPE)
    fields = augment.distorted(chosen, pixels, drawing) * 128 + 128
    for image, field, affine in zip(pixels, fields, drawing.affine, strict=True):
        expected = cv2.warpAffine(
            image.transpose(1, 2, 0).astype(np.float32),
            affine,
            (126, 126),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(128, 128, 128),
        )
        off = np.abs(field.transpose(1, 2, 0) - expected)
        assert np.quantile(off, 0.995) < 1 and off.max() < 128 / 16


# colour
def test_a_constant_shift_moves_every_image_pixel_and_no_background() -> None:
    """d1 alone: v += d1, channel by channel; outside the image the field stays 0."""
    chosen, pixels = settings(), noise(1)
    d = np.zeros((4, 3))
    d[0] = 0.25, -0.5, 1
    field = augment.distorted(chosen, pixels, placed(chosen, IDENTITY, d=d))
    expected = augment.plain(chosen, pixels)
    expected[0, :, 47:79, 47:79] += np.array([0.25, -0.5, 1], np.float32)[:, None, None]
    assert np.abs(field - expected).max() * 128 < 1e-3


def test_the_cosine_form_is_the_first_releases_formula() -> None:
    """v += d1 + d2 cos(pi v / 2) + d3 (x / 126 - .5) + d4 (y / 126 - .5), x and y in the field: a slow loop."""
    chosen, pixels = settings(), noise(1)
    d = np.random.default_rng(2).normal(size=(4, 3))
    field = augment.distorted(chosen, pixels, placed(chosen, IDENTITY, (3, 4), d))
    for y, x in ((51, 50), (60, 70), (82, 81)):
        for channel in range(3):
            v = (float(pixels[0, channel, y - 51, x - 50]) - 128) / 128
            v += (
                d[0, channel]
                + d[1, channel] * math.cos(math.pi * v / 2)
                + d[2, channel] * (x / 126 - 0.5)
                + d[3, channel] * (y / 126 - 0.5)
            )
            assert field[0, channel, y, x] == pytest.approx(v, abs=1e-5)


@pytest.mark.parametrize("graham", [False, True])
def test_the_linear_form_is_the_later_formula(graham: bool) -> None:
    """p += d1 + d2 (p - 128) + d3 x + d4 y, x and y from the middle (Graham's: from column 16), moved along by jiggle."""
    chosen, pixels = settings(colour_form=LINEAR, graham=graham), noise(1)
    d = np.random.default_rng(2).normal(size=(4, 3)) * 10
    field = augment.distorted(chosen, pixels, placed(chosen, IDENTITY, (3, 4), d)) * 128
    middle = 16 if graham else 15.5
    for y, x in ((0, 0), (9, 20), (31, 31)):
        p = pixels[0, :, y, x].astype(float)
        p = p - 128 + d[0] + d[1] * (p - 128) + d[2] * (x - middle) + d[3] * (y - middle)
        assert field[0, :, y + 51, x + 50] == pytest.approx(p, abs=1e-2)


def test_grahams_grey_pixels_count_as_background() -> None:
    """|p - 128| of at most 2 ("cosine": .02 of 128, 2.56) in all channels: 0, and not shifted; 3 in one is enough."""
    pixels = np.full((1, 3, 32, 32), 128, np.uint8)
    pixels[0, 0, 0, :4] = 129, 130, 131, 125
    d = np.zeros((4, 3))
    d[0] = 64
    for form, scale in ((COSINE, 128), (LINEAR, 1)):
        chosen = settings(graham=True, colour_form=form)
        field = augment.distorted(chosen, pixels, placed(chosen, IDENTITY, d=d / scale)) * 128
        assert field[0, 0, 47, 47:52].round(3).tolist() == [0, 0, 3 + 64, -3 + 64, 0]
        assert np.count_nonzero(augment.plain(chosen, pixels)) == 2
    assert settings(colour_form=LINEAR, graham=True).sigmas == (25, 0, 2, 2)  # his arguments are int
    assert settings(colour_form=LINEAR).sigmas == (25.5, 0.15, 2.4, 2.4)


# draws
def test_what_is_drawn_stays_in_its_range_and_fills_it() -> None:
    """Of 20,000 images: stretch, angle and move reach to within 1 % of both ends and never beyond; half are flipped."""
    chosen = settings(colour=[0.1, 0.2, 0.3, 0.4])
    count = 20_000
    drawing = augment.draw(chosen, 11, np.arange(count), SHAPE)
    c = np.linalg.inv(drawing.affine[:, :, :2].transpose(0, 2, 1).astype(float))
    moved = drawing.centre - 62.5
    assert sorted(set(moved[:, 0])) == sorted(set(moved[:, 1])) == list(range(-16, 17))
    assert np.bincount((moved[:, 0] + 16).astype(int)).min() > 0.8 * count / 33  # standard deviation 4 %
    assert 0.48 < (np.linalg.det(c) < 0).mean() < 0.52
    # by which of its entries are 0, a matrix is a slant, the other slant, or a rotation
    slanted, other = np.abs(c[:, 0, 1]) < 1e-6, np.abs(c[:, 1, 0]) < 1e-6
    turned = ~slanted & ~other
    for kind in (slanted, other, turned):
        assert 0.31 < kind.mean() < 0.36
    assert np.abs((c[turned, 0] * c[turned, 1]).sum(1)).max() < 1e-6  # rows stay at right angles
    straight = slanted | other
    for values in (np.abs(c[straight, 0, 0]), c[straight, 1, 1]):
        assert 0.8 <= values.min() < 0.804 and 1.196 < values.max() <= 1.2 + 1e-6
    for a in (
        c[slanted, 1, 0] / c[slanted, 1, 1],
        c[other, 0, 1] / c[other, 0, 0],
        np.arctan2(c[turned, 1, 0], c[turned, 1, 1]),
    ):
        assert -0.2 - 1e-6 <= a.min() < -0.198 and 0.198 < a.max() <= 0.2 + 1e-6
    sigmas = np.array([0.1, 0.2, 0.3 / 126, 0.4 / 126])
    spread = drawing.colour.std(axis=(0, 2))
    assert spread[1:] == pytest.approx(sigmas[1:], rel=0.02)
    assert spread[0] == pytest.approx(math.sqrt(0.1**2 + 0.15**2 + 0.2**2), rel=0.02)  # d1 - d3 / 2 - d4 / 2
    assert np.abs(drawing.colour.mean(axis=(0, 2))).max() < 0.01
    assert np.abs(np.corrcoef(drawing.colour[:, 1].T) - np.eye(3)).max() < 0.03  # channels are drawn apart


def test_a_range_of_zero_draws_nothing() -> None:
    """All ranges 0: every image is the plain one."""
    chosen = settings(stretch=0, flip=0, shear=0, rotation=0, jiggle=0, colour=[0, 0, 0, 0])
    pixels = noise(8)
    field = augment.distorted(chosen, pixels, augment.draw(chosen, 1, np.arange(8), SHAPE))
    assert np.abs(field - augment.plain(chosen, pixels)).max() * 128 < 1e-3


@pytest.mark.parametrize("graham", [False, True])
@pytest.mark.parametrize(
    "more", [{}, {"size": 40, "jiggle": 39}, {"shear": 2, "rotation": 3, "stretch": 0.9}, {"rotation": 3}]
)
def test_the_square_worked_on_holds_the_whole_image(more: dict[str, Any], graham: bool) -> None:
    """The CPU works on a square of side `patch`; what lies outside of it would be background anyway."""
    chosen = settings(graham=graham, **more)
    pixels = noise(60, (1, 20, 32))
    drawing = augment.draw(chosen, 5, np.arange(60), (1, 20, 32))
    whole = settings(**{**more, "shear": 10, "graham": graham})  # its square is the field
    assert whole.patch(20, 32) == whole.size
    assert np.array_equal(augment.distorted(chosen, pixels, drawing), augment.distorted(whole, pixels, drawing))


def test_a_sample_is_drawn_the_same_in_any_company() -> None:
    """Samples 10 to 19 one by one, together, and every second one: the same numbers; another seed or sample: others."""
    chosen = settings()
    together = augment.draw(chosen, 1, np.arange(10, 20), SHAPE)
    for i in range(10):
        alone = augment.draw(chosen, 1, np.array([10 + i]), SHAPE)
        assert np.array_equal(alone.affine[0], together.affine[i]) and np.array_equal(
            alone.colour[0], together.colour[i]
        )
    second = augment.draw(chosen, 1, np.arange(11, 20, 2), SHAPE)
    assert np.array_equal(second.affine, together.affine[1::2])
    assert not np.array_equal(augment.draw(chosen, 2, np.arange(10, 20), SHAPE).affine, together.affine)
    assert len(np.unique(together.affine[:, 0, 0])) == 10


def test_an_epoch_is_every_record_once_in_an_order_of_its_own() -> None:
    """Samples 0..99, 100..199 of 100 records: two permutations, neither the other nor the identity; by seed."""
    order = Order(100, 4, shuffle=True)
    first, second = order.records(np.arange(100)), order.records(np.arange(100, 200))
    assert sorted(first) == sorted(second) == list(range(100))
    assert not np.array_equal(first, second) and not np.array_equal(first, np.arange(100))
    across = Order(100, 4, shuffle=True).records(np.arange(90, 110))
    assert np.array_equal(across, np.concatenate([first[90:], second[:10]]))
    assert not np.array_equal(Order(100, 5, shuffle=True).records(np.arange(100)), first)
    assert Order(3, 4, shuffle=False).records(np.arange(2, 8)).tolist() == [2, 0, 1, 2, 0, 1]


# the two forms
@pytest.mark.parametrize("graham", [False, True])
@pytest.mark.parametrize("form", [COSINE, LINEAR])
@pytest.mark.parametrize(
    ("shape", "more"),
    [
        (SHAPE, {}),
        ((1, 20, 32), {"background": 0}),
        (SHAPE, {"size": 40, "jiggle": 30}),
        (SHAPE, {"shear": 1, "rotation": 3}),
    ],
)
def test_both_forms_agree_within_a_grey_level(
    form: str, graham: bool, shape: tuple[int, int, int], more: dict[str, Any]
) -> None:
    """numpy's and PyTorch's fields of the same drawing. Where grey decides (graham), a rounding may decide otherwise."""
    chosen = settings(graham=graham, colour_form=form, **more)
    pixels = noise(100, shape)
    drawing = augment.draw(chosen, 9, np.arange(100), shape)
    ours = augment.distorted(chosen, pixels, drawing)
    theirs = augmented.distorted(chosen, torch.from_numpy(pixels), drawing).numpy()
    assert ours.shape == theirs.shape == (100, shape[0], chosen.size, chosen.size)
    off = np.abs(ours - theirs) * chosen.divisor
    if graham:
        assert (off > 1).mean() < 1e-5
    else:
        assert off.max() < 0.01
