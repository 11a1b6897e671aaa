"""Datum's wire format against protobuf's own serialisation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from allconv_caffe.proto import Datum, ProtoError, datum


def protobuf(image: np.ndarray, label: int, pad: int) -> bytes:
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    message = Datum(channels=padded.shape[0], height=padded.shape[1], width=padded.shape[2], label=label)
    if image.dtype == np.uint8:
        message.data = padded.tobytes()
    else:
        message.float_data.extend(padded.ravel().tolist())
    return message.SerializeToString()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 150), st.integers(1, 5)),
    labels=st.lists(st.sampled_from([0, 1, 9, 127, 128, 999, 16383, 16384, 2**31 - 1]), min_size=1, max_size=6),
    pad=st.integers(0, 2),
    is_bytes=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_record_equals_protobufs_bytes(
    shape: tuple[int, int, int], labels: list[int], pad: int, is_bytes: bool, seed: int
) -> None:
    """Whatever shape, border, kind of data and length of label, a record is byte for byte what protobuf writes."""
    rng = np.random.default_rng(seed)
    size = (len(labels), *shape)
    images = rng.integers(0, 256, size, np.uint8) if is_bytes else rng.normal(size=size).astype(np.float32)
    records = datum.encode(images, np.array(labels), pad)
    assert [bytes(record) for record in records] == [
        protobuf(image, label, pad) for image, label in zip(images, labels, strict=True)
    ]


def test_special_floats_keep_their_bits() -> None:
    """Infinities, the negative zero and subnormal numbers pass unchanged."""
    values = np.array([np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32).reshape(1, 1, 1, 5)
    (record,) = datum.encode(values, np.array([3]))
    image, label = datum.decode(bytes(record))
    assert image.tobytes() == values.tobytes() and label == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_decode_takes_back_what_encode_wrote(dtype: type) -> None:
    """Reading a record gives the image with its border of zeros, and the label."""
    images = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(dtype)
    for record, image, label in zip(datum.encode(images, np.array([7, 300]), 1), images, (7, 300), strict=True):
        back, found = datum.decode(bytes(record))
        assert found == label and back.dtype == dtype
        np.testing.assert_array_equal(back, np.pad(image, ((0, 0), (1, 1), (1, 1))))


@pytest.mark.parametrize("cut", [0, 1, 3, 7, 12, -1])
def test_a_cut_record_is_refused(cut: int) -> None:
    """A record that ends early is an error here, where Caffe would train on garbage."""
    (record,) = datum.encode(np.ones((1, 3, 2, 2), np.float32), np.array([1]))
    with pytest.raises(
        ProtoError, match=r"^(\d+ bytes that are no whole Datum|a Datum of 3 x 2 x 2 holds|Check failed)"
    ):
        datum.decode(bytes(record)[:cut])


def test_a_negative_label_is_refused() -> None:
    """A label below zero never reaches a database."""
    with pytest.raises(ProtoError, match=r"^label: found -1, expected 0 or more$"):
        datum.encode(np.zeros((1, 1, 1, 1), np.float32), np.array([-1]))
