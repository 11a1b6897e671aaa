"""How many places a window has: numbers recorded from real Caffe."""

from __future__ import annotations

import pytest

from allconv_caffe.caffe_torch.compute.window import Window


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
