"""Zeros that take no memory before somebody writes there."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.memory import ALIGNMENT, LARGE, zeros

UNTOUCHED = """
import resource
from allconv_caffe.caffe_torch.blob import Blob
def taken():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
blob = Blob((1, 1))
blob.data
before = taken()
blob = Blob((256, 1 << 20))  # 1 GiB
blob.data
print(taken() - before)
"""


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (LARGE - 1,), (LARGE,), (7, LARGE)])
def test_they_are_zeros_like_pytorchs_own(shape: tuple[int, ...]) -> None:
    """Of that shape, contiguous, aligned, and to be written."""
    found = zeros(shape)
    assert torch.equal(found, torch.zeros(shape)) and found.is_contiguous() and found.dtype == torch.float32
    assert found.numel() == 0 or found.data_ptr() % ALIGNMENT == 0
    assert float(found.add_(1).sum()) == found.numel()


def test_what_nobody_touches_takes_no_memory() -> None:
    """A blob of a gibibyte that was only looked at."""
    done = subprocess.run([sys.executable, "-c", UNTOUCHED], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000


def test_a_blob_keeps_what_is_written() -> None:
    """Also where its memory is the kernel's."""
    blob = Blob((2, LARGE))
    view = blob.data_array()
    blob.data[1] = 3
    assert view[1].min() == 3 and view[0].max() == 0
