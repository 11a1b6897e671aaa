"""NumPy's files: names, types and shapes are looked at before contents."""

from __future__ import annotations

import io
import json
import random
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allconv_caffe import npz
from allconv_caffe.errors import FoundError
from allconv_caffe.visualize.mining import EDGES, FORMAT, TopK
from allconv_caffe.visualize.nets.errors import VizError
from data_prep.errors import PrepError
from data_prep.whitening import Whitening, fit

KINDS: dict[str, npz.Kind] = {"a": ("float32", 2), "name": ("U", 0), "n": ("iuf", 0), "*.x": ("int64", 1)}
ODD: list[Any] = [
    np.array("x"),
    np.array(["x", "y"]),
    np.array(1.5),
    np.array(-1),
    np.array(np.nan),
    np.array([]),
    np.array([[1.0]]),
    np.zeros((2, 3, 4), np.float32),
    np.zeros((0, 4), np.float32),
    np.array([1, 2, 3]),
    np.array([1, -2, 3]),
    np.array([2**62, 2**62, 2**62]),
    np.array([True]),
    np.array([b"x"]),
    np.array([1j]),
    np.array(["2026-01-01"], "datetime64[D]"),
    np.zeros(3, [("a", "f4"), ("b", "i8")]),
    np.zeros(5, ">f4"),
    np.full((192, 192), np.inf, np.float32),
    np.full(192, np.nan, np.float32),
]


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    """Arrays of the kinds asked for come back, also in column order, empty and compressed; others are left alone."""
    a, x = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)), np.zeros(0, np.int64)
    for save in (np.savez, np.savez_compressed):
        save(
            tmp_path / "x.npz", **{"a": a, "name": np.array("äö"), "n": np.array(3), "12.x": x, "other": np.array([{}])}
        )
        found = npz.read(tmp_path / "x.npz", "a test's", KINDS)
        assert list(found) == ["a", "name", "n", "12.x"] and str(found["name"]) == "äö" and int(found["n"]) == 3
        assert np.array_equal(found["a"], a) and found["12.x"].shape == (0,) and found["a"].flags.writeable


def member(head: str, size: int) -> bytes:
    """An .npz of one array "a" whose header is `head`, with so many zeros."""
    text = head.encode() + b" " * (118 - len(head)) + b"\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(size))
    return out.getvalue()


def twice() -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as made:
        warnings.simplefilter("ignore")
        array = io.BytesIO()
        np.save(array, np.zeros((1, 1), np.float32))
        for _ in range(2):
            made.writestr("a.npy", array.getvalue())
    return out.getvalue()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: member("{'descr': '<f4', 'fortran_order': False, 'shape': (30000, 1000), }", 120_000_000),
            "more than",
        ),
        (lambda: member("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 4), }", 9), "more than"),
        (
            lambda: member("{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 4), }", 9),
            "an array of shape (-3, 4)",
        ),
        (lambda: member("{'descr': '|O', 'fortran_order': False, 'shape': (3, 4), }", 9), "an array of objects"),
        (lambda: member("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }", 9), "float64 (3, 4) for a"),
        (
            lambda: member("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", 9),
            "9 bytes for a, which has 48",
        ),
        (lambda: member("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 60, 9), "an unreadable file"),
        (
            lambda: member("{'descr': '<U0', 'fortran_order': False, 'shape': (4611686018427387904, 4), }", 0),
            "found str (",
        ),
        (twice, "two arrays 'a'"),
        (lambda: b"PK\x03\x04", "an unreadable file"),
        (lambda: b"", "an unreadable file"),
    ],
)
def test_what_no_array_of_ours_is_costs_one_line(make: Callable[[], bytes], said: str, tmp_path: Path) -> None:
    """A header that lies or a file of 117 kB that unpacks to 120 MB is refused before memory is taken."""
    path = tmp_path / "x.npz"
    path.write_bytes(make())
    tracemalloc.start()
    with pytest.raises(FoundError) as caught:
        npz.read(path, "a test's", KINDS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said in str(caught.value) and str(caught.value).startswith(str(path)) and peak < 16 << 20


def save_whitening(path: Path) -> None:
    fit(np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), np.uint8)).save(path, compact=False)


def save_topk(path: Path) -> None:
    parts = {
        "values": np.ones((2, 3), np.float32),
        "positions": np.zeros((2, 3), np.int64),
        "keys": np.full((2, 3), "k"),
        "y": np.zeros((2, 3), np.int32),
        "x": np.zeros((2, 3), np.int32),
        "histogram": np.zeros((2, len(EDGES) + 1), np.int64),
    }
    head = {"k": 3, "per_image": 1, "weights_sha256": "", "net_sha256": "", "source_sha256": "", "n_images": 4}
    head |= {"format": FORMAT, "done": [[0, 4]], "source": "s", "blobs": ["conv1"]}
    np.savez(path, head=np.array(json.dumps(head)), **{f"0.{name}": part for name, part in parts.items()})


def refusal(load: Callable[[Path], object], path: Path, error: type[Exception]) -> str:
    """What is said of a file; "" where it is taken."""
    try:
        load(path)
    except error as caught:
        return str(caught)
    return ""


@pytest.mark.parametrize(
    ("save", "load", "error"), [(save_whitening, Whitening.load, PrepError), (save_topk, TopK.load, VizError)]
)
def test_any_array_under_any_name_is_taken_or_refused(
    save: Callable[[Path], None], load: Callable[[Path], object], error: type[Exception], tmp_path: Path
) -> None:
    """Every array replaced by every odd one, or gone: one line, or a file that is as good; never another exception."""
    path = tmp_path / "x.npz"
    save(path)
    load(path)
    with np.load(path) as file:
        arrays = dict(file)
    refused = 0
    for name in arrays:
        for odd in (None, *ODD):
            np.savez(path, **{key: value for key, value in {**arrays, name: odd}.items() if value is not None})
            said = refusal(load, path, error)
            assert "\n" not in said and len(said) < 600
            refused += bool(said)
    assert refused > 0.8 * len(arrays) * len(ODD)


JSONS: list[Any] = [None, True, -1, 0, 10**30, 1.5, "x", "\ud800", [], [1], [[1]], [[1, 2], [0, 1]], {}, {"a": 1}]


def test_any_entry_of_a_scans_head_is_taken_or_refused(tmp_path: Path) -> None:
    """Kinds of JSON that the head's entries do not have, entries gone, entries added."""
    path = tmp_path / "x.npz"
    save_topk(path)
    with np.load(path) as file:
        arrays = dict(file)
    head = json.loads(str(arrays["head"]))
    rng = random.Random(0)
    refused = 0
    for key in (*head, "another"):
        for odd in JSONS:
            changed = {**head, key: odd}
            if rng.random() < 0.1:
                del changed[key]
            np.savez(path, **{**arrays, "head": np.array(json.dumps(changed))})
            said = refusal(TopK.load, path, VizError)
            assert "\n" not in said and len(said) < 600
            refused += bool(said)
    assert refused > 0.8 * len(head) * len(JSONS)
