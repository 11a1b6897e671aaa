"""GCN and ZCA against a slow float64 oracle, and the self-tests of a correct whitening."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep import whitening
from data_prep.errors import PrepError
from data_prep.whitening import Whitening

SIDE = 8
SIZE = 3 * SIDE * SIDE
SCALE = 55 / np.sqrt(3072) * np.sqrt(SIZE)  # the same contrast for each pixel as 55 gives in 32x32 images


def oracle_gcn(images: np.ndarray, scale: float) -> np.ndarray:
    """pylearn2's formulas, an image at a time, in float64."""
    rows = []
    for image in images:
        x = image.astype(np.float64).ravel()
        x = x - sum(x) / len(x)
        divisor = np.sqrt(sum(v * v for v in x)) / scale
        rows.append(x / (1.0 if divisor < 1e-8 else divisor))
    return np.array(rows)


def oracle_zca(train: np.ndarray, bias: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, P and eigenvalues from the definition: C = sum of outer products / N + bias I."""
    mean = train.sum(axis=0) / len(train)
    covariance = np.zeros((train.shape[1],) * 2)
    for row in train:
        covariance += np.outer(row - mean, row - mean)
    eigenvalues, vectors = np.linalg.eigh(covariance / len(train) + bias * np.eye(train.shape[1]))
    return mean, sum(np.outer(v, v) / np.sqrt(e) for e, v in zip(eigenvalues, vectors.T, strict=True)), eigenvalues


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    from numpy.random import default_rng

    rng = default_rng(3)
    base = np.full((2500, 3, SIDE, SIDE), 120.0)
    for cells, amplitude in ((1, 30), (2, 40), (4, 20), (8, 6)):
        grey = rng.normal(size=(2500, 1, cells, cells)) + 0.3 * rng.normal(size=(2500, 3, cells, cells))
        base += amplitude * np.repeat(np.repeat(grey, SIDE // cells, axis=2), SIDE // cells, axis=3)
    return np.clip(base, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted(images: np.ndarray) -> Whitening:
    return whitening.fit(images, gcn_scale=SCALE)


def test_gcn_equals_the_slow_loop(images: np.ndarray) -> None:
    """Every value of a normalised image is within 1e-5 of float64's (values reach 5, float32 resolves 5e-7)."""
    np.testing.assert_allclose(whitening.gcn(images[:50], 55.0), oracle_gcn(images[:50], 55.0), atol=1e-5, rtol=1e-5)


def test_i_row_norms_are_the_scale(images: np.ndarray) -> None:
    """(i) Every image has Euclidean norm 55 after GCN."""
    np.testing.assert_allclose(np.linalg.norm(whitening.gcn(images).astype(np.float64), axis=1), 55, atol=1e-3)


def test_ii_pixel_standard_deviation_of_cifar_shaped_images(helpers: Any) -> None:
    """(ii) In 32x32 colour images norm 55 means a standard deviation of 55/sqrt(3072) = 0.992 for each pixel."""
    assert whitening.gcn(helpers.correlated(20, 1)).std() == pytest.approx(0.9923, abs=1e-4)


def test_iii_the_smallest_eigenvalue_is_the_bias_or_more(fitted: Whitening) -> None:
    """(iii) The bias is inside the covariance, so no eigenvalue lies below it (GCN removes the mean: one equals it)."""
    assert fitted.eigenvalues is not None
    assert fitted.eigenvalues[0] == pytest.approx(0.1, abs=1e-4)
    assert (np.diff(fitted.eigenvalues) >= 0).all()


def test_iv_whitened_covariance_is_c0_over_c0_plus_bias(images: np.ndarray, fitted: Whitening) -> None:
    """(iv) Along an eigenvector of variance c the whitened variance is c / (c + 0.1), always below 1."""
    white = fitted.whiten(images).reshape(len(images), -1).astype(np.float64)
    found = np.linalg.eigvalsh(np.cov(white.T, bias=True))
    assert fitted.eigenvalues is not None
    expected = (fitted.eigenvalues - 0.1) / fitted.eigenvalues
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert found[-1] < 1


def test_v_whitened_standard_deviation_tells_norm_from_std(images: np.ndarray, fitted: Whitening) -> None:
    """(v) With norm 55 the bias damps most directions, so the deviation stays clearly below 1; the common slip of
    dividing by the standard deviation instead of the norm (a scale sqrt(D) times too large) brings it to about 1."""
    assert fitted.whiten(images).std() < 0.8
    slip = whitening.fit(images, gcn_scale=SCALE * 55)
    assert slip.whiten(images).std() == pytest.approx(1.0, abs=0.01)


def test_whitening_equals_the_float64_oracle(images: np.ndarray, fitted: Whitening) -> None:
    """Mean, P and whitened values agree with float64 from end to end; a value moves by less than 1e-3."""
    x = oracle_gcn(images, SCALE)
    mean, p, eigenvalues = oracle_zca(x, 0.1)
    assert fitted.zca is not None and fitted.eigenvalues is not None
    np.testing.assert_allclose(fitted.mean, mean, atol=1e-6)
    np.testing.assert_allclose(fitted.eigenvalues, eigenvalues, rtol=1e-5)
    assert np.linalg.norm(fitted.zca - p) / np.linalg.norm(p) < 2e-4
    np.testing.assert_allclose(fitted.whiten(images).reshape(len(images), -1), (x - mean) @ p, atol=1e-3)


def test_chunks_of_any_number_give_the_same_covariance(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A remainder chunk counts as it should: sums over chunks of 7 images equal one chunk's."""
    whole = whitening.moments(images[:100], SCALE, 1e-8)
    monkeypatch.setattr(whitening, "_CHUNK", 7)
    parts = whitening.moments(images[:100], SCALE, 1e-8)
    np.testing.assert_allclose(parts.mean, whole.mean, atol=1e-6)
    np.testing.assert_allclose(parts.covariance, whole.covariance, atol=1e-5)
    assert parts.typical_mean == pytest.approx(images[:100].mean(), rel=1e-6)
    assert parts.typical_norm == pytest.approx(
        np.mean(images[:100].reshape(100, -1).std(axis=1, dtype=np.float64)) * np.sqrt(SIZE), rel=1e-6
    )


def test_an_image_of_one_colour_becomes_zero() -> None:
    """GCN divides by 1, not by 0, where there is no contrast."""
    flat = np.full((2, 3, 4, 4), 77, np.uint8)
    assert not whitening.gcn(flat).any()


def test_nothing_of_the_test_images_is_used(images: np.ndarray) -> None:
    """The transform depends on the training images alone: whitening other images does not change it."""
    fitted = whitening.fit(images[:300], gcn_scale=SCALE)
    before = fitted.mean.copy(), fitted.zca.copy()  # type: ignore[union-attr]
    fitted.whiten(images[300:])
    np.testing.assert_array_equal(fitted.mean, before[0])
    np.testing.assert_array_equal(fitted.zca, before[1])


def test_unwhiten_takes_an_image_back_up_to_brightness_and_contrast(images: np.ndarray, fitted: Whitening) -> None:
    """Un-whitened pixels are the original ones after one scale and one shift for each image."""
    back = fitted.unwhiten(fitted.whiten(images[:30])).reshape(30, -1).astype(np.float64)
    for found, pixels in zip(back, images[:30].reshape(30, -1).astype(np.float64), strict=True):
        scale, shift = np.polyfit(found, pixels, 1)
        np.testing.assert_allclose(found * scale + shift, pixels, atol=0.05)
    assert abs(back.mean() - images.mean()) < 5


@pytest.mark.parametrize("method", whitening.METHODS)
def test_the_saved_file_gives_the_same_transform(method: str, images: np.ndarray, tmp_path: Path) -> None:
    """What is loaded from whitening.npz whitens and un-whitens to the last bit as what was fitted."""
    fitted = whitening.fit(images[:200], method, gcn_scale=SCALE, class_names=("a", "b"))
    fitted.save(tmp_path / "w.npz")
    loaded = Whitening.load(tmp_path / "w.npz")
    white = fitted.whiten(images[:5])
    np.testing.assert_array_equal(loaded.whiten(images[:5]), white)
    np.testing.assert_array_equal(loaded.unwhiten(white), fitted.unwhiten(white))
    assert (loaded.method, loaded.class_names, loaded.gcn_scale) == (method, ("a", "b"), fitted.gcn_scale)


def test_raw_is_the_mean_image_and_exact(images: np.ndarray) -> None:
    """Raw preprocessing subtracts the training mean; adding it again gives the pixels."""
    fitted = whitening.fit(images, "raw")
    np.testing.assert_allclose(fitted.mean, images.reshape(len(images), -1).mean(axis=0, dtype=np.float64), atol=1e-5)
    np.testing.assert_allclose(fitted.unwhiten(fitted.whiten(images[:9])), images[:9], atol=1e-4)


def test_gcn_only_keeps_the_pixels_correlated(images: np.ndarray) -> None:
    """With "gcn" the result is GCN's and nothing else."""
    white = whitening.fit(images, "gcn").whiten(images[:9])
    np.testing.assert_array_equal(white.reshape(9, -1), whitening.gcn(images[:9]))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"method": "pca"}, "preprocessing: found 'pca'; expected gcn-zca or gcn or raw"),
        ({"gcn_scale": 0.0}, "gcn_scale: found 0; expected a number above 0"),
        ({"gcn_scale": float("nan")}, "gcn_scale: found nan; expected a number above 0"),
        ({"zca_bias": -1.0}, "zca_bias: found -1; expected a number not below 0"),
    ],
)
def test_constants_out_of_range_are_named(keywords: dict[str, Any], message: str) -> None:
    """A wrong method or constant is refused with the choices."""
    with pytest.raises(PrepError) as caught:
        whitening.fit(np.zeros((4, 3, 2, 2), np.uint8), **keywords)
    assert str(caught.value) == message


def test_a_singular_covariance_without_bias_is_refused(images: np.ndarray) -> None:
    """Bias 0 cannot whiten GCN'd images, whose mean direction has no variance: an error instead of infinities."""
    with pytest.raises(
        PrepError, match="zca_bias: found 0, with which the smallest eigenvalue is .*; expected a larger"
    ):
        whitening.fit(images[:50], zca_bias=0.0)


def test_images_too_large_for_zca_are_refused() -> None:
    """A covariance that would not fit into memory is refused before it is made."""
    with pytest.raises(
        PrepError, match="gcn-zca for images of 49152 values; expected at most 12288, or 'gcn' or 'raw'"
    ):
        whitening.fit(np.zeros((2, 3, 128, 128), np.uint8))


def test_another_shape_is_refused(fitted: Whitening) -> None:
    """Images of another shape than the fitted one are an error in both directions."""
    with pytest.raises(PrepError, match=r"images to whiten: found shape \(1, 3, 9, 9\); expected \(N, 3, 8, 8\)"):
        fitted.whiten(np.zeros((1, 3, 9, 9), np.uint8))
    with pytest.raises(PrepError, match="images to un-whiten"):
        fitted.unwhiten(np.zeros((1, 3, 9, 9), np.float32))


@pytest.mark.parametrize("content", [None, b"", b"no zip at all"])
def test_a_damaged_whitening_file_is_one_clear_line(content: bytes | None, tmp_path: Path) -> None:
    """A missing or damaged whitening.npz is named, without numpy's or zipfile's own words alone."""
    path = tmp_path / "whitening.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PrepError, match="expected the whitening.npz of a prepared data set"):
        Whitening.load(path)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("method", np.array("zca"), "found method 'zca'; expected gcn-zca or gcn or raw"),
        ("shape", np.zeros(2, np.int64), "found shape (0, 0); expected (3, height, width)"),
        ("shape", np.zeros(3), "found float64 (3,) for shape; expected int64 of 1 axes"),
        ("mean", np.zeros(7, np.float32), "found float32 (7,) for mean; expected float32 (192,)"),
        ("zca", np.full((192, 192), np.nan, np.float32), "found values in zca that are not finite; expected numbers"),
        ("gcn_scale", np.array("x"), "found str32 () for gcn_scale; expected a number of 0 axes"),
        ("class_names", np.array(["a", "b\n"]), "found a class named 'b\\n'; expected 1 to 1000 characters"),
        ("eigenvalues", np.zeros(3), "found 3 eigenvalues; expected 192"),
        ("gcn_scale", np.array(0.0), "found constants (0.0, "),
    ],
)
def test_a_saved_file_of_another_form_is_one_line(
    name: str, value: Any, line: str, tmp_path: Path, helpers: Any
) -> None:
    """A whitening.npz whose arrays do not fit each other is refused when it is read."""
    path = tmp_path / "whitening.npz"
    whitening.fit(helpers.correlated(20, 1, 8)).save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {name: value}))
    with pytest.raises(PrepError) as caught:
        Whitening.load(path)
    assert str(caught.value).startswith(f"{path}: {line}")
