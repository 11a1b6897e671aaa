"""A set that one transform has whitened, as another would have whitened its pixels."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.errors import PrepError
from data_prep.whitening import Whitening, fit

RNG = np.random.default_rng(0)
FIRST, SECOND = (RNG.integers(0, 256, (200, 3, 6, 6), np.uint8) // (1 + k) for k in range(2))
PIXELS = RNG.integers(0, 256, (20, 3, 6, 6), np.uint8)
CLASSES = ("a", "b")


def _fit(images: np.ndarray, method: str, **constants: float) -> Whitening:
    return fit(images, method, class_names=CLASSES, **constants)


@pytest.mark.parametrize("method", ["gcn-zca", "gcn"])
@pytest.mark.parametrize(
    ("other", "constants"), [("gcn-zca", {}), ("gcn-zca", {"gcn_scale": 3.0}), ("gcn", {}), ("raw", {})]
)
def test_rewhitened_is_as_whitened_from_pixels(method: str, other: str, constants: dict[str, float]) -> None:
    """Through the GCN'd images that lie between two transforms, or through pixels."""
    own, theirs = _fit(FIRST, method), _fit(SECOND, other, **constants)
    own.check_kind(theirs, "theirs", "own")
    right = own.whiten(PIXELS)
    assert (not own.same_as(theirs) and np.abs(theirs.whiten(PIXELS) - right).max() > 0.1) or other == method == "gcn"
    np.testing.assert_allclose(own.rewhiten(theirs.whiten(PIXELS), theirs), right, atol=2e-3)


def test_the_same_transform_is_known() -> None:
    """Fitted to the same images; to others it is another."""
    assert _fit(FIRST, "gcn-zca").same_as(_fit(FIRST, "gcn-zca"))
    assert not _fit(FIRST, "gcn-zca").same_as(_fit(SECOND, "gcn-zca"))
    assert not _fit(FIRST, "gcn").same_as(_fit(FIRST, "gcn", gcn_scale=1.0))


def test_another_kind_is_refused() -> None:
    """Another shape, other classes, pixels wanted where GCN has taken the contrast."""
    own = _fit(FIRST, "gcn")
    for theirs, words in (
        (_fit(FIRST[:, :, :5], "gcn"), r"theirs: found images of shape \(3, 5, 6\); expected \(3, 6, 6\), as in own"),
        (
            fit(FIRST, "gcn", class_names=("b", "a")),
            "theirs: found the classes b, a, ...; expected those of own: a, b, ...",
        ),
    ):
        with pytest.raises(PrepError, match=words):
            own.check_kind(theirs, "theirs", "own")
    with pytest.raises(PrepError, match="found method gcn; expected raw, as in own"):
        _fit(FIRST, "raw").check_kind(own, "theirs", "own")
