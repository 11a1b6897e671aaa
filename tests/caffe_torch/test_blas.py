"""Factors of 0 and nan as OpenBLAS has them."""

from __future__ import annotations

import math

import pytest
import torch

from allconv_caffe.caffe_torch.compute.blas import axpy, scal

NAN, INF = math.nan, math.inf
X = torch.tensor([2.0, NAN, INF, 0.0])


@pytest.mark.parametrize("alpha", [0.0, -0.0, NAN])
def test_scal_by_zero_or_nan_fills_with_zero(alpha: float) -> None:
    """Whatever stands there, given as a number or as a tensor."""
    for factor in (alpha, torch.tensor(alpha), torch.full((4,), alpha)):
        assert scal(X, factor).tolist() == [0, 0, 0, 0]


def test_axpy_by_zero_adds_nothing_and_by_nan_adds_nan() -> None:
    for zero in (0.0, torch.tensor(-0.0)):
        assert axpy(X, zero).tolist() == [0, 0, 0, 0]
    assert axpy(X, NAN).isnan().all() and axpy(X, torch.tensor(NAN)).isnan().all()


@pytest.mark.parametrize("alpha", [3.0, -1.0, INF])
def test_any_other_factor_multiplies(alpha: float) -> None:
    for product in (scal, axpy):
        for factor in (alpha, torch.tensor(alpha)):
            torch.testing.assert_close(product(X, factor), X * alpha, rtol=0, atol=0, equal_nan=True)


def test_factors_of_a_tensor_count_each_for_itself() -> None:
    """A Scale layer's row of scales: 0 and nan fill their columns, the others multiply."""
    x = torch.full((2, 3), INF)
    assert scal(x, torch.tensor([0.0, NAN, 2.0])).tolist() == [[0, 0, INF]] * 2
