"""Small generated data for the tests of data preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

NAMES = ("apple", "bell", "cat", "drum")


def correlated(count: int, seed: int, side: int = 32) -> np.ndarray:
    """Images whose neighbouring pixels and colours agree, as photographs' do: (count, 3, side, side) uint8."""
    rng = np.random.default_rng(seed)
    image = np.full((count, 3, side, side), 120.0)
    for cells, amplitude in ((2, 40), (4, 25), (8, 12), (side, 5)):
        grey = rng.normal(size=(count, 1, cells, cells)) + 0.3 * rng.normal(size=(count, 3, cells, cells))
        image += amplitude * np.repeat(np.repeat(grey, side // cells, axis=2), side // cells, axis=3)
    return np.clip(image, 0, 255).astype(np.uint8)


def make_arrays(train: int = 40, test: int = 8, classes: int = 4, seed: int = 0) -> dict[str, Any]:
    """Arguments for the archive writers: every class is present in both splits."""
    return {
        "train_x": correlated(train, seed),
        "train_y": np.arange(train) % classes,
        "test_x": correlated(test, seed + 1),
        "test_y": np.arange(test) % classes,
        "label_names": [f"{NAMES[i % 4]}{i // 4 or ''}" for i in range(classes)],
    }


def make_tree(
    folder: Path, classes: tuple[str, ...] = NAMES, train: int = 6, test: int = 2, side: int = 8, suffix: str = "png"
) -> dict[str, np.ndarray]:
    """Write train/<class>/<n>.<suffix> and test/...; return (class, n, 3, side, side) RGB pixels by split."""
    pixels = {}
    for split, count, seed in (("train", train, 5), ("test", test, 6)):
        images = correlated(count * len(classes), seed, side).reshape(len(classes), count, 3, side, side)
        pixels[split] = images
        for name, rows in zip(classes, images, strict=True):
            place = folder / split / name
            place.mkdir(parents=True)
            for i, image in enumerate(rows):
                assert cv2.imwrite(str(place / f"{i:04d}.{suffix}"), image.transpose(1, 2, 0)[:, :, ::-1])
    return pixels


@pytest.fixture
def arrays() -> dict[str, Any]:
    return make_arrays()


@pytest.fixture
def helpers() -> Any:
    """The functions above, for tests that need other sizes."""

    class Helpers:
        pass

    made: Any = Helpers()
    made.correlated, made.make_arrays, made.make_tree, made.names = correlated, make_arrays, make_tree, NAMES
    return made
