"""Bytes of image files as arrays."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from allconv_caffe.proto import image_file
from allconv_caffe.proto.image_file import ImageError

PICTURE = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)


def _file(end: str, picture: np.ndarray = PICTURE) -> bytes:
    done, data = cv2.imencode(end, picture)
    assert done
    return bytes(data.tobytes())


def test_a_png_comes_back_as_it_was() -> None:
    """(H, W, channels) in the order B, G, R; of any type, if asked for as it is; planes in either order."""
    image = image_file.decode(_file(".png"))
    np.testing.assert_array_equal(image, PICTURE)
    np.testing.assert_array_equal(image_file.planes(image), PICTURE.transpose(2, 0, 1))
    rgb = image_file.planes(image, "RGB")
    np.testing.assert_array_equal(rgb, PICTURE.transpose(2, 0, 1)[::-1])
    assert rgb.flags.c_contiguous
    deep = PICTURE.astype(np.uint16) * 257
    np.testing.assert_array_equal(image_file.decode(_file(".png", deep)), deep)


def test_colour_is_what_is_asked_for() -> None:
    """A grey file as three equal planes, a coloured one as one."""
    grey = PICTURE[:, :, 0]
    assert image_file.planes(image_file.decode(_file(".png", grey))).shape == (1, 8, 6)
    np.testing.assert_array_equal(image_file.decode(_file(".png", grey), color=True), np.stack([grey] * 3, 2))
    assert image_file.decode(_file(".png"), color=False).shape == (8, 6)


@pytest.mark.parametrize("data", [b"", b"no image", _file(".png")[:40]])
def test_what_is_no_image_is_said(data: bytes) -> None:
    """With the number of bytes."""
    with pytest.raises(ImageError, match=f"^found {len(data)} bytes that are no image, expected a JPEG or PNG file$"):
        image_file.decode(data, mend=True)


def test_a_cut_jpeg_is_refused_or_mended() -> None:
    """Caffe's OpenCV fills it up with grey; today's takes none without its end."""
    cut = _file(".jpg", np.full((64, 64, 3), 200, np.uint8))[:-2]
    with pytest.raises(ImageError, match="that are no image"):
        image_file.decode(cut)
    assert image_file.decode(cut, mend=True).shape == (64, 64, 3)


def _bmp(width: int, height: int) -> bytes:
    """The head of a BMP file, and no pixels."""
    head = b"BM" + bytes(12) + (40).to_bytes(4, "little") + width.to_bytes(4, "little") + height.to_bytes(4, "little")
    return head + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)


@pytest.mark.parametrize(
    "kind", ["avif", "bmp", "gif", "hdr", "jp2", "jpg", "pam", "pfm", "ppm", "png", "ras", "tif", "webp"]
)
def test_the_head_tells_the_size(kind: str) -> None:
    """Height and width of every kind that OpenCV writes, as it decodes them."""
    if not cv2.haveImageWriter(f".{kind}"):
        pytest.skip(f"OpenCV {cv2.__version__} writes no {kind}")
    image = (
        np.random.default_rng(0)
        .integers(0, 256, (129, 70, 3))
        .astype(np.float32 if kind in ("hdr", "pfm") else np.uint8)
    )
    data = _file(f".{kind}", image)
    assert image_file.decode(data).shape[:2] == image_file.size(data) == (129, 70)


def test_a_few_bytes_make_no_large_image() -> None:
    """A file's head is read first: no memory is taken for what 100 bytes for each of its own would not hold."""
    for width, height in ((20_000, 20_000), (1 << 20, 1 << 20), (1 << 14, 4097)):
        with pytest.raises(ImageError, match=f"found an image of {width}x{height} pixels in 54 bytes, expected"):
            image_file.decode(_bmp(width, height))
    with pytest.raises(ImageError, match="bytes that are no image"):  # OpenCV was asked
        image_file.decode(_bmp(1 << 13, 1 << 13))


def test_an_image_too_large_for_opencv_is_said() -> None:
    """Its own reason stands in brackets, and alone in `detail`."""
    with pytest.raises(ImageError) as caught:
        image_file.decode(_bmp(1 << 21, 1))
    assert "an image OpenCV refuses (" in str(caught.value) and caught.value.detail in str(caught.value)
    assert caught.value.detail
