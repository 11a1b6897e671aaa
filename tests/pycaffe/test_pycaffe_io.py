"""caffe.io: conversions, resizing, crops and the Transformer."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from allconv_caffe.pycaffe import io

RS = np.random.RandomState(0)


def test_blob_protos_keep_shape_and_values() -> None:
    """An array comes back from its BlobProto; data and diff apart."""
    data, diff = RS.randn(2, 3, 4).astype(np.float32), RS.randn(2, 3, 4).astype(np.float32)
    blob = io.array_to_blobproto(data, diff)
    np.testing.assert_array_equal(io.blobproto_to_array(blob), data)
    np.testing.assert_array_equal(io.blobproto_to_array(blob, return_diff=True), diff)
    both = io.blobprotovector_str_to_arraylist(io.arraylist_to_blobprotovector_str([data, diff[0]]))
    assert [array.shape for array in both] == [(2, 3, 4), (3, 4)]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_datums_keep_values(dtype: type) -> None:
    """A (K, H, W) array comes back from its Datum; uint8 stays uint8."""
    array = RS.randint(0, 200, (3, 4, 5)).astype(dtype)
    datum = io.array_to_datum(array, 7)
    assert (datum.label, bool(datum.data)) == (7, dtype is np.uint8)
    found = io.datum_to_array(datum)
    np.testing.assert_array_equal(found, array)
    found[...] = 0  # it may be written
    with pytest.raises(ValueError, match="Incorrect array shape"):
        io.array_to_datum(array[0])


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("dims", [(11, 17), (4, 3), (7, 9), (1, 5)])
def test_resizing_two_channels_is_scipys_zoom(order: int, dims: tuple[int, int]) -> None:
    """Images of other than one or three channels are resized as scipy.ndimage.zoom does it."""
    image = RS.rand(7, 9, 2)
    expected = ndimage.zoom(image, (dims[0] / 7, dims[1] / 9, 1), order=order)
    if order == 0 and dims == (4, 3):  # a place half-way between two pixels: SciPy's versions differ
        return
    np.testing.assert_allclose(io.resize_image(image, dims, order), expected, atol=1e-5)


def test_resizing_keeps_constants_and_own_size() -> None:
    """A constant image stays one; the same size gives the same image."""
    assert (io.resize_image(np.full((3, 4, 3), 7.0), (5, 6)) == 7).all()
    image = RS.rand(6, 5, 3).astype(np.float32)
    np.testing.assert_allclose(io.resize_image(image, (6, 5)), image, atol=1e-6)
    with pytest.raises(ValueError, match="interp_order: found 6"):
        io.resize_image(image, (3, 3), 6)


def test_halving_smooths_first() -> None:
    """Made smaller, a pixel is a weighted mean of all around it: sigma (2 - 1) / 2, zeros (the minimum) outside."""
    image = np.zeros((8, 8, 1))
    image[4, 4] = 1
    smooth = ndimage.gaussian_filter(image[:, :, 0], 0.5, mode="constant")
    expected = smooth.reshape(4, 2, 4, 2).mean((1, 3))
    np.testing.assert_allclose(io.resize_image(image, (4, 4))[:, :, 0], expected, atol=1e-6)


def test_oversampling_takes_corners_centre_and_mirrors() -> None:
    """Ten crops of an image: upper left, upper right, lower left, lower right, centre; then the same, mirrored."""
    image = np.arange(20, dtype=np.float32).reshape(4, 5, 1)
    crops = io.oversample([image], (2, 2))[:, :, :, 0]
    assert crops[:5, 0, 0].tolist() == [0, 3, 10, 13, 6]
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])


def test_preprocess_in_caffes_order_and_back() -> None:
    """Transpose, swap, raw_scale, mean, input_scale; swapped channels are a copy; deprocess undoes it."""
    transformer = io.Transformer({"data": (1, 3, 2, 2)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", np.array([1.0, 2, 3]))
    transformer.set_input_scale("data", 0.5)
    image = RS.rand(2, 2, 3).astype(np.float32)
    before = image.copy()
    found = transformer.preprocess("data", image)
    expected = (image.transpose(2, 0, 1)[::-1] * 255 - np.array([1, 2, 3]).reshape(3, 1, 1)) * 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_allclose(transformer.deprocess("data", found), image, atol=1e-5)


def test_preprocess_works_where_the_image_lies_as_pycaffe_does() -> None:
    """A float32 image of the input's size is scaled in place; one of another type or size is left alone."""
    transformer = io.Transformer({"data": (1, 1, 2, 2)})
    transformer.set_raw_scale("data", 2)
    for image, after in (
        (np.ones((2, 2, 1), np.float32), 2),
        (np.ones((2, 2, 1)), 1),
        (np.ones((3, 2, 1), np.float32), 1),
    ):
        transformer.preprocess("data", image)
        assert np.all(image == after)


def test_nearest_pixels_are_chosen_with_scikit_images_rounding() -> None:
    """Recorded from real pycaffe (scikit-image 0.18): of 14 rows made 11, row 5 lies at 6.5 but for float32's rounding."""
    rows = np.broadcast_to(np.arange(14, dtype=np.float32)[:, None, None], (14, 15, 1))
    found = io.resize_image(rows, (11, 12), interp_order=0)
    np.testing.assert_allclose(found[:, 3, 0], [0, 1, 3, 4, 5, 6, 8, 9, 10, 12, 13], atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.set_raw_scale("label", 1), "label is not one of the net inputs"),
        (lambda t: t.set_transpose("data", (0, 1)), "Transpose order needs"),
        (lambda t: t.set_channel_swap("data", (0, 1)), "Channel swap needs"),
        (lambda t: t.set_mean("data", np.zeros(2)), "Mean channels incompatible with input."),
        (lambda t: t.set_mean("data", np.zeros((1, 1, 3, 3))), "Mean shape invalid"),
    ],
)
def test_transformer_refuses(call: object, message: str) -> None:
    """Settings that do not fit the input are refused in pycaffe's words."""
    with pytest.raises(Exception, match=message):
        call(io.Transformer({"data": (1, 3, 2, 2)}))  # type: ignore[operator]


def test_images_load_as_rgb_or_luminance(tmp_path: Path) -> None:
    """Colour comes as RGB in [0, 1], grey is repeated, alpha dropped, luminance by skimage's weights; 16 bits work."""
    bgr = RS.randint(0, 256, (3, 4, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "c.png"), bgr)
    np.testing.assert_allclose(io.load_image(tmp_path / "c.png"), bgr[:, :, ::-1] / 255, atol=1e-6)
    grey = io.load_image(tmp_path / "c.png", color=False)
    np.testing.assert_allclose(grey[:, :, 0], bgr[:, :, ::-1] / 255 @ [0.2125, 0.7154, 0.0721], atol=1e-6)
    cv2.imwrite(str(tmp_path / "g.png"), (bgr[:, :, 0].astype(np.uint16) * 257))
    assert io.load_image(tmp_path / "g.png").shape == (3, 4, 3)
    np.testing.assert_allclose(io.load_image(tmp_path / "g.png", color=False)[:, :, 0], bgr[:, :, 0] / 255, atol=1e-6)
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([bgr, bgr[:, :, :1]]))
    np.testing.assert_allclose(io.load_image(tmp_path / "a.png"), bgr[:, :, ::-1] / 255, atol=1e-6)
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(ValueError, match="found no image"):
        io.load_image(tmp_path / "no.png")
    with pytest.raises(FileNotFoundError):
        io.load_image(tmp_path / "missing.png")
