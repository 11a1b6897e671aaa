"""Mirror, crop, mean and scale against a slow loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from allconv_caffe.caffe_torch.compute import data_kernel
from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.source.images import Images
from allconv_caffe.caffe_torch.source.transformer import Transformer, Words
from allconv_caffe.proto import TEST, TRAIN, BlobProto, TransformationParameter


def slow(image: np.ndarray, param: Any, mean: np.ndarray | None, draw: np.ndarray) -> np.ndarray:
    """One image, pixel by pixel, in float32."""
    channels, height, width = image.shape
    out = np.empty((channels, param.crop_size or height, param.crop_size or width), np.float32)
    for c, h, w in np.ndindex(*out.shape):
        row, column = draw[1] + h, draw[2] + w
        value = np.float32(image[c, row, column])
        if mean is not None:
            value -= mean[c, row, column]
        elif param.mean_value:
            value -= np.float32(param.mean_value[c if len(param.mean_value) > 1 else 0])
        out[c, h, out.shape[2] - 1 - w if draw[0] else w] = value * np.float32(param.scale)
    return out


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from(["none", "one", "each", "file"]),
    st.sampled_from([1.0, 0.0039]),
    st.sampled_from([TRAIN, TEST]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1000),
)
def test_a_batch_is_transformed_as_each_of_its_images(
    crop: int, mirror: bool, mean: str, scale: float, phase: int, floats: bool, indexed: bool, compiled: bool, seed: int
) -> None:
    """Whole batches equal the loop over pixels bit for bit, for every combination of options, by the kernel or by numpy."""
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(data_kernel, "load", lambda: None)
        check_a_batch(crop, mirror, mean, scale, phase, floats, indexed, seed)


def check_a_batch(
    crop: int, mirror: bool, mean: str, scale: float, phase: int, floats: bool, indexed: bool, seed: int
) -> None:
    rs = np.random.RandomState(seed)
    images = rs.randint(0, 256, (5, 2, 4, 3)).astype(np.float32 if floats else np.uint8)
    param = TransformationParameter(crop_size=crop, mirror=mirror, scale=scale)
    if mean in ("one", "each"):
        param.mean_value.extend([7.5] if mean == "one" else [7.5, -3])
    transformer = Transformer(param, phase, TorchGenerator(seed))
    image_mean = None
    if mean == "file":
        image_mean = rs.randn(2, 4, 3).astype(np.float32)
        transformer._mean_file = torch.from_numpy(image_mean)[None]
    index = [4, 0, 0, 2] if indexed else list(range(5))
    draws = transformer.draw(len(index), 4, 3)
    assert (draws is None) == (not mirror and not (crop and phase == TRAIN))
    got = transformer.apply(torch.from_numpy(images), draws, torch.tensor(index) if indexed else None)
    middle = np.array([0, (4 - crop) // 2, (3 - crop) // 2] if crop else [0, 0, 0])
    for n, i in enumerate(index):
        expected = slow(images[i], param, image_mean, middle if draws is None else draws[n])
        np.testing.assert_array_equal(got[n].numpy(), expected)


@pytest.mark.parametrize("compiled", [True, False])
def test_images_lie_anyhow(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes, pixels as OpenCV has them, floats with a tag before each, odd strides: the same batch, also as bytes."""
    if not compiled:
        monkeypatch.setattr(data_kernel, "load", lambda: None)
    else:
        assert data_kernel.load() is not None
    rs = np.random.RandomState(0)
    planes = rs.randint(0, 256, (3, 19, 23)).astype(np.uint8)
    tagged = np.zeros(planes.shape, [("tag", "u1"), ("value", "<f4")])
    tagged["value"] = planes
    wide = np.zeros((3, 19, 46), np.uint8)
    wide[:, :, ::2] = planes
    pixels = np.ascontiguousarray(planes.transpose(1, 2, 0)).transpose(2, 0, 1)
    images = [planes, pixels, wide[:, :, ::2], tagged["value"], planes.astype(np.float32)]
    draws = np.array([(i % 2, i, 2 * i) for i in range(5)])
    mean = data_kernel.Mean(rs.randn(3, 19, 23).astype(np.float32))
    out = np.empty((5, 3, 12, 12), np.float32)
    Images.of(images, range(5)).put(out, draws, mean, 0.3)
    param = TransformationParameter(crop_size=12, scale=0.3)
    for got, draw in zip(out, draws, strict=True):
        np.testing.assert_array_equal(got, slow(planes, param, mean.values, draw))
    every = np.zeros((2, *planes.shape), [("tag", "u1", 4), ("value", "u1")])["value"]  # five bytes apart
    every[:] = planes
    images = [every[0], tagged["value"], *images]
    for width in (1, 7, 8, 12, 15, 16, 17, 20, 23):  # about the vectors' length
        for means in (data_kernel.NO_MEAN, mean, data_kernel.Mean(np.float32([1, 2, 3]))):
            values = means.values
            full = np.broadcast_to(
                0 if values is None else values if values.ndim == 3 else values[:, None, None], planes.shape
            )
            draws = np.array([(i % 2, i % 3, (23 - width) * (i % 3 == 1)) for i in range(len(images) + 1)])[1:]
            out = np.empty((len(images), 3, 16, width), np.float32)
            Images.of(images, range(len(images))).put(out, draws, means, 0.3)
            for got, (mirror, top, left) in zip(out, draws, strict=True):
                part = np.s_[:, top : top + 16, left : left + width]
                expected = (planes[part].astype(np.float32) - full[part].astype(np.float32)) * np.float32(0.3)
                np.testing.assert_array_equal(got, expected[:, :, ::-1] if mirror else expected)
    images = images[2:]
    copied = np.empty((3, *planes.shape), np.uint8)
    Images.of(images[:3], range(3)).put(copied)
    np.testing.assert_array_equal(copied, [planes] * 3)


def test_nothing_to_do_costs_nothing() -> None:
    """Without options, float images pass through as they are."""
    images = torch.randn(2, 3, 4, 4)
    transformer = Transformer(TransformationParameter(), TRAIN, TorchGenerator(0))
    assert transformer.apply(images, None).data_ptr() == images.data_ptr()


def test_draws_come_in_caffes_order() -> None:
    """For each record: mirror, row, column, each a word of the transformer's own generator modulo the choices."""
    transformer = Transformer(TransformationParameter(crop_size=2, mirror=True), TRAIN, TorchGenerator(0))
    transformer._words = Words(5)
    draws = transformer.draw(3, 6, 9)
    words = np.random.RandomState(5).randint(0, 2**32, 9, dtype=np.uint32).astype(np.int64).reshape(3, 3)
    np.testing.assert_array_equal(draws, words % [2, 5, 8])


def test_words_are_a_mersenne_twisters() -> None:
    """Seed 5489 gives the published first and 1,000th outputs of MT19937."""
    words = Words(5489).draw(10000)
    assert words[0] == 3499211612 and words[9999] == 4123659995


def mean_file(path: Path, **fields: Any) -> Any:
    path.write_bytes(BlobProto(**fields).SerializeToString())
    return TransformationParameter(mean_file=str(path))


def test_mean_mistakes_are_named(tmp_path: Path) -> None:
    """A mean that is missing, doubled, of another size or of another number of channels stops in Caffe's words."""
    rng = TorchGenerator(0)
    with pytest.raises(CaffeError) as caught:
        Transformer(TransformationParameter(mean_file="gone.binaryproto"), TRAIN, rng)
    assert str(caught.value) == "File not found: gone.binaryproto"
    param = mean_file(tmp_path / "m", num=1, channels=1, height=2, width=2, data=[1, 2, 3, 4])
    param.mean_value.append(3)
    with pytest.raises(CaffeError, match="Cannot specify mean_file and mean_value at the same time"):
        Transformer(param, TRAIN, rng)
    param.ClearField("mean_value")
    with pytest.raises(CaffeError) as caught:
        Transformer(param, TRAIN, rng).check_mean(1, 2, 3)
    assert str(caught.value) == f"{tmp_path}/m: Check failed: datum_width == data_mean_.width() (3 vs. 2)"
    param = mean_file(tmp_path / "short", num=1, channels=1, height=2, width=2, data=[1, 2, 3])
    with pytest.raises(CaffeError, match=r"Check failed: count_ == proto.data_size\(\) \(4 vs. 3\)"):
        Transformer(param, TRAIN, rng)
    with pytest.raises(CaffeError, match="Specify either 1 mean_value or as many as channels: 3"):
        Transformer(TransformationParameter(mean_value=[1, 2]), TRAIN, rng).check_mean(3, 2, 2)
