"""Tracing: what a blob shows inside and outside, again, in another thread, after an error."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.tracing import Tracing, is_tracing


def test_inside_assignments_bind_and_outside_memory_is_as_it_was() -> None:
    """What is bound is the very tensor, of any type; unbound is zero; entered again, the tracing still knows it."""
    blob, value, tracing = Blob((2,)), torch.tensor([1.5, 2.5], dtype=torch.bfloat16), Tracing()
    blob.data = torch.tensor([7.0, 8.0])
    with tracing:
        assert is_tracing() and blob.data.tolist() == [0, 0]
        blob.data = value
        blob.accumulate_diff(torch.ones(2))
        blob.accumulate_diff(torch.ones(2))
        assert blob.data is value and blob.diff.tolist() == [2, 2]
    assert not is_tracing() and blob.data.tolist() == [7, 8] and blob.diff.tolist() == [0, 0]
    with tracing:
        assert blob.data is value
    with Tracing(), tracing:
        assert blob.data is value


def test_what_shares_memory_shares_what_is_bound() -> None:
    """Two blobs over one memory show one tensor, each in its own shape."""
    one, other = Blob((2, 3)), Blob((6,))
    other.share_data(one)
    with Tracing():
        one.data = torch.arange(6.0).reshape(2, 3)
        assert other.data.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_tracing_ends_with_an_error_and_is_seen_by_its_thread_alone() -> None:
    """Another thread reads and writes memory meanwhile; an error inside leaves nothing behind."""
    blob = Blob((1,))

    def elsewhere() -> bool:
        blob.data = torch.tensor([3.0])
        return is_tracing()

    with pytest.raises(ZeroDivisionError), Tracing():
        blob.data = torch.tensor([4.0])
        with ThreadPoolExecutor(1) as pool:
            assert not pool.submit(elsewhere).result()
        assert blob.data.item() == 4
        _ = 1 / 0
    assert not is_tracing() and blob.data.item() == 3
