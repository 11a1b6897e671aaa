"""Data layers beside real pycaffe: the same files, the same batches, value for value."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import lmdb
import numpy as np
import pytest
from google.protobuf import text_format

from allconv_caffe.caffe_torch import layers as _layers  # noqa: F401  (registers the layer types)
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.layer import Context, create
from allconv_caffe.caffe_torch.source.loaded import forget_loaded
from allconv_caffe.caffe_torch.source.transformer import Words
from allconv_caffe.proto import TEST, TRAIN, BlobProto, Datum, LayerParameter

PYTHON = Path(__file__).parents[2] / ".caffe" / "bin" / "python"
pytestmark = [
    pytest.mark.caffe,
    pytest.mark.skipif(not PYTHON.exists(), reason="no real Caffe: run `make caffe`"),
]

SCRIPT = """
import os, sys, numpy as np
import caffe
for folder in sys.argv[2:]:
    os.chdir(folder)
    for phase in map(int, sys.argv[1].split(",")):
        caffe.set_random_seed(17)
        net = caffe.Net("net.prototxt", phase)
        arrays = {}
        for i in range(9):
            net.forward()
            for top in net.blobs:
                arrays["%s %d" % (top, i)] = net.blobs[top].data.copy()
        np.savez("out%d.npz" % phase, **arrays)
"""
Batches = list[list[np.ndarray]]


class OneStream:
    """The main stream of `random_seed` 17, as far as data layers draw from it."""

    seed = 17

    def __init__(self) -> None:
        self._words = Words(17)

    def word(self) -> int:
        return int(self._words.draw(1)[0])

    uniform = gaussian = bernoulli = None


def run_caffe(folders: list[Path], layers: list[str], phases: str) -> None:
    """Nine batches of each layer, in its folder, by one pycaffe process."""
    for folder, layer in zip(folders, layers, strict=True):
        (folder / "net.prototxt").write_text(f'name: "n"\nlayer {{ {layer} }}\n')
    command = [str(PYTHON), "-c", SCRIPT, phases, *map(str, folders)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def caffe_batches(folder: Path, layer: str, phase: int) -> Batches:
    param = LayerParameter()
    text_format.Parse(layer, param)
    with np.load(folder / f"out{phase}.npz") as arrays:
        return [[arrays[f"{top} {i}"] for top in param.top] for i in range(9)]


def our_batches(layer: str, phase: int) -> Batches:
    param = LayerParameter()
    text_format.Parse(layer, param)
    rng: Any = OneStream()
    made = create(param, Context(phase=phase, rng=rng))
    tops = [Blob() for _ in param.top]
    made.set_up([], tops)
    found = []
    for _ in range(9):
        made.reshape([], tops)
        made.forward([], tops)
        found.append([top.data.numpy().copy() for top in tops])
    if hasattr(made, "close"):
        made.close()
    return found


def write_lmdb(folder: Path, datums: list[Any]) -> None:
    """Written in another order than that of the keys."""
    with lmdb.open(str(folder / "db"), map_size=1 << 26) as env, env.begin(write=True) as txn:
        for i, datum in enumerate(datums):
            txn.put(f"{(i * 7) % len(datums):05d}".encode(), datum.SerializeToString())


def uint8_datums(height: int, width: int, channels: int = 3, count: int = 11) -> list[Any]:
    rs = np.random.RandomState(0)
    return [
        Datum(
            channels=channels,
            height=height,
            width=width,
            label=int(rs.randint(1000)),
            data=rs.randint(0, 256, (channels, height, width)).astype(np.uint8).tobytes(),
        )
        for _ in range(count)
    ]


def float_datums(height: int, width: int, count: int = 11) -> list[Any]:
    rs = np.random.RandomState(1)
    return [
        Datum(channels=3, height=height, width=width, label=-i, float_data=rs.randn(3 * height * width).tolist())
        for i in range(count)
    ]


def encoded_datums(count: int = 5) -> list[Any]:
    rs = np.random.RandomState(2)
    datums = []
    for i in range(count):
        image = rs.randint(0, 256, (12, 10, 3)).astype(np.uint8)
        ok, data = cv2.imencode(".png", image)
        assert ok
        datums.append(Datum(data=data.tobytes(), encoded=True, label=i, channels=3, height=12, width=10))
    return datums


def both_datums() -> list[Any]:
    datums = uint8_datums(4, 4)
    for datum in datums:
        datum.float_data.extend([0.5] * 48)
    return datums


CASES: dict[str, tuple[Callable[[], list[Any]], str]] = {
    "bytes": (lambda: uint8_datums(5, 6), ""),
    "floats": (lambda: float_datums(5, 6), ""),
    "bytes win over floats": (both_datums, ""),
    "scale": (lambda: float_datums(5, 6), "scale: 0.00390625"),
    "odd scale and mean": (lambda: uint8_datums(5, 6), "scale: 0.017 mean_value: 104.007"),
    "mean per channel": (lambda: uint8_datums(5, 6), "mean_value: 104 mean_value: 117 mean_value: 123.5"),
    "mean file": (lambda: uint8_datums(7, 6), 'scale: 0.5 mean_file: "mean.binaryproto"'),
    "crop": (lambda: uint8_datums(8, 7), "crop_size: 4"),
    "crop and mirror": (lambda: uint8_datums(8, 7), "crop_size: 4 mirror: true"),
    "mirror": (lambda: float_datums(3, 7), "mirror: true scale: 2"),
    "everything": (lambda: uint8_datums(7, 6), 'crop_size: 3 mirror: true scale: 0.1 mean_file: "mean.binaryproto"'),
    "encoded": (encoded_datums, ""),
    "encoded, gray": (encoded_datums, "force_gray: true"),
    "encoded, cropped": (encoded_datums, "crop_size: 5 mirror: true mean_value: 10"),
}


def data_layer(case: str) -> str:
    return (
        'name: "d" type: "Data" top: "data" top: "label" data_param { source: "db" backend: LMDB batch_size: 4 }'
        f" transform_param {{ {CASES[case][1]} }}"
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each case with its data set and Caffe's batches of it."""
    found = {}
    mean = BlobProto(num=1, channels=3, height=7, width=6, data=np.random.RandomState(3).rand(126).tolist())
    for i, (case, (make, _)) in enumerate(CASES.items()):
        folder = found[case] = tmp_path_factory.mktemp(f"case{i}")
        write_lmdb(folder, make())
        (folder / "mean.binaryproto").write_bytes(mean.SerializeToString())
    run_caffe(list(found.values()), [data_layer(case) for case in CASES], f"{TRAIN},{TEST}")
    return found


@pytest.mark.parametrize("phase", [TRAIN, TEST], ids=["train", "test"])
@pytest.mark.parametrize("stream", [False, True], ids=["memory", "stream"])
@pytest.mark.parametrize("case", list(CASES))
def test_data_layer_gives_caffes_batches(
    case: str, stream: bool, phase: int, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches equal Caffe's bit for bit over several wraps, random crops and mirrors of the same seed included."""
    if stream:
        monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", "0")
    forget_loaded()
    monkeypatch.chdir(folders[case])
    real, ours = caffe_batches(folders[case], data_layer(case), phase), our_batches(data_layer(case), phase)
    for expected, found in zip(real, ours, strict=True):
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "shuffle: true",
        "rand_skip: 4",
        "shuffle: true rand_skip: 5",
        "new_height: 5 new_width: 7",
        "is_color: false",
    ],
)
def test_image_data_gives_caffes_batches(options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order, shuffles, skips, labels and pixels equal Caffe's; resized images within one grey level (OpenCV's own)."""
    monkeypatch.chdir(tmp_path)
    rs = np.random.RandomState(4)
    lines = []
    for i in range(7):
        cv2.imwrite(f"image {i}.png", rs.randint(0, 256, (9, 8, 3)).astype(np.uint8))
        lines.append(f"image {i}.png {i * 3}\n")
    Path("list.txt").write_text("".join(lines))
    layer = (
        'name: "d" type: "ImageData" top: "data" top: "label" transform_param { mirror: true crop_size: 4 } '
        f'image_data_param {{ source: "list.txt" batch_size: 3 {options} }}'
    )
    run_caffe([tmp_path], [layer], str(TRAIN))
    real, ours = caffe_batches(tmp_path, layer, TRAIN), our_batches(layer, TRAIN)
    tolerance = 1 if "new_height" in options or "is_color" in options else 0
    for expected, found in zip(real, ours, strict=True):
        np.testing.assert_array_equal(expected[1], found[1])
        np.testing.assert_allclose(expected[0], found[0], rtol=0, atol=tolerance)


@pytest.mark.parametrize("shuffle", [False, True])
def test_hdf5_data_gives_caffes_batches(shuffle: bool, tmp_path: Path) -> None:
    """Rows come in Caffe's order over files and wraps; shuffled, in the order of C's rand(). Integers become floats."""
    rs = np.random.RandomState(5)
    for i, rows in enumerate((3, 5, 2)):
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            file["data"] = rs.rand(rows, 2, 3).astype(np.float64)
            file["label"] = rs.randint(0, 100, rows)
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path}/{i}.h5\n" for i in range(3)))
    layer = (
        'name: "d" type: "HDF5Data" top: "data" top: "label" hdf5_data_param '
        f'{{ source: "{tmp_path}/list.txt" batch_size: 4 {"shuffle: true" if shuffle else ""} }}'
    )
    run_caffe([tmp_path], [layer], str(TRAIN))
    real = caffe_batches(tmp_path, layer, TRAIN)
    from allconv_caffe.caffe_torch.layers import data_hdf5

    data_hdf5.RAND.__init__()  # type: ignore[misc]  # as in a fresh process
    for expected, found in zip(real, our_batches(layer, TRAIN), strict=True):
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a, b)
