"""How many places a window has: counted one by one, and numbers recorded from real Caffe."""

from __future__ import annotations

import itertools

import pytest

from allconv_caffe.caffe_torch.compute.window import Window

CASES = [
    Window(kernel=(k,), stride=(s,), pad=(p,), dilation=(d,))
    for k, s, p, d in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2))
]


def square(kernel: int, stride: int, pad: int = 0, dilation: int = 1) -> Window:
    return Window(kernel=(kernel,) * 2, stride=(stride,) * 2, pad=(pad,) * 2, dilation=(dilation,) * 2)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "places"),
    [(2, 3, 2, 1), (2, 3, 4, 1), (1, 3, 4, 1), (1, 4, 4, 1), (2, 4, 2, 0), (2, 5, 3, 0), (2, 3, 1, 0), (7, 3, 2, 3)],
)
def test_a_convolution_divides_as_c_does(size: int, kernel: int, stride: int, places: int) -> None:
    """Recorded from real Caffe: a window larger than the image by less than its stride has one place."""
    assert square(kernel, stride).output_size((size, size)) == (places, places)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "up", "places"),
    [
        (8, 3, 2, 0, True, 4),
        (8, 3, 2, 0, False, 3),
        (8, 2, 2, 1, True, 5),
        (8, 2, 4, 1, True, 3),
        (2, 3, 2, 0, True, 1),
        (2, 3, 2, 0, False, 0),
    ],
)
def test_pooling_rounds_and_drops_as_caffe_does(
    size: int, kernel: int, stride: int, pad: int, up: bool, places: int
) -> None:
    """Recorded from real Caffe."""
    assert square(kernel, stride, pad).pooled_size((size, size), up) == (places, places)


def test_a_deconvolution_undoes_a_convolution() -> None:
    for size, kernel, stride, pad, dilation in ((5, 3, 2, 1, 1), (4, 4, 2, 1, 1), (6, 3, 3, 2, 2)):
        window = square(kernel, stride, pad, dilation)
        assert window.output_size(window.input_size((size, size))) == (size, size)


def test_a_larger_window_reaches_behind_the_image() -> None:
    """Five values from the first to the last, over four with padding: one behind."""
    assert square(3, 2, 1, 2).behind((2, 5)) == (1, 0)


def places(window: Window, size: int) -> list[list[int]]:
    """Of each place of a window of one axis, the pixels of a padded image under it; only whole windows count."""
    (k,), (s,), (p,), (d,) = window.kernel, window.stride, window.pad, window.dilation
    image = range(-p, size + p)
    return [under for start in image[::s] if (under := [start + i * d for i in range(k)])[-1] in image]


@pytest.mark.parametrize("window", CASES, ids=str)
def test_an_output_has_as_many_pixels_as_a_window_has_places(window: Window) -> None:
    """And a deconvolution's is the smallest image that has so many places."""
    for size in range(window.extent[0], 12):
        count = len(places(window, size))
        assert window.output_size((size,)) == (count,)
        (least,) = window.input_size((count,))
        assert len(places(window, least)) == count and len(places(window, least - 1)) == count - 1


def test_margins_make_an_image_as_long_as_the_windows_reach() -> None:
    """The last axis comes first, before and behind it; a window that would begin beyond the image may be cut off."""
    window = Window(kernel=(3, 2), stride=(2, 2), pad=(1, 0), dilation=(1, 1))
    # rows -1..1, 1..3, 3..5 of 0..4: one zero before, one behind; columns 0..1, 2..3 of 0..4: the fifth is left out
    assert window.margins((5, 5), (3, 2)) == (0, -1, 1, 1)


def test_a_window_over_the_whole_image() -> None:
    whole = Window(kernel=(4, 6), stride=(1, 3), pad=(0, 0), dilation=(1, 1))
    assert whole.covers((4, 6)) and not whole.covers((6, 4)) and not whole.covers((4, 7))
    assert not Window(kernel=(4, 6), stride=(1, 3), pad=(1, 0), dilation=(1, 1)).covers((4, 6))


def test_without_its_first_axis_a_window_keeps_the_others() -> None:
    window = Window(kernel=(1, 2, 3), stride=(4, 5, 6), pad=(7, 8, 9), dilation=(1, 2, 1), group=2)
    inner = Window(kernel=(2, 3), stride=(5, 6), pad=(8, 9), dilation=(2, 1), group=2)
    assert window.without_first_axis() == inner and window.num_axes == 3 and inner.num_axes == 2
