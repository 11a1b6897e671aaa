"""Real BVLC Caffe reads the databases that data preparation writes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from allconv_caffe.proto import datum
from data_prep import cifar, database, pipeline
from data_prep.whitening import Whitening

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".caffe" / "bin" / "python"

pytestmark = [
    pytest.mark.caffe,
    pytest.mark.skipif(not PYTHON.exists(), reason="no real Caffe in .caffe; run make caffe"),
]

READ = """
import os, sys
os.environ["GLOG_minloglevel"] = "2"
import caffe
import numpy as np
net = caffe.Net(sys.argv[1], caffe.TEST)
data, label = [], []
for _ in range(int(sys.argv[2])):
    net.forward()
    data.append(net.blobs["data"].data.copy())
    label.append(net.blobs["label"].data.copy())
np.savez(sys.argv[3], data=np.concatenate(data), label=np.concatenate(label))
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 8 test images of CIFAR's shape, three classes."""
    from numpy.random import default_rng

    images = default_rng(4).integers(0, 256, (32, 3, 32, 32), np.uint8)
    labels = np.arange(32) % 3
    path = tmp_path_factory.mktemp("archive") / "made.tar.gz"
    return cifar.write_python_archive(path, images[:24], labels[:24], images[24:], labels[24:], ["a", "b", "c"])


def read_by_caffe(folder: Path, lmdb: Path, batches: int, transform: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Data and labels of some batches of 8 from a Data layer in pycaffe."""
    (folder / "net.prototxt").write_text(
        'layer { name: "data" type: "Data" top: "data" top: "label" '
        f'data_param {{ source: "{lmdb}" backend: LMDB batch_size: 8 }} transform_param {{ {transform} }} }}\n'
    )
    result = folder / "blobs.npz"
    command = [str(PYTHON), "-c", READ, str(folder / "net.prototxt"), str(batches), str(result)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(result) as arrays:
        return arrays["data"], arrays["label"]


def written(lmdb: Path) -> tuple[np.ndarray, np.ndarray]:
    pairs = [datum.decode(value) for _, value in database.records(lmdb)]
    return np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs])


def test_float_records_reach_the_data_blob_bit_for_bit(archive: Path, tmp_path: Path) -> None:
    """Every value and label of both databases is in Caffe's blobs, in the order of the keys, wrapping at the end."""
    pipeline.prepare(archive, tmp_path / "out", preprocessing="gcn", progress=False)
    for split, batches in (("train", 4), ("test", 1)):
        data, label = read_by_caffe(tmp_path, tmp_path / "out" / f"{split}_lmdb", batches)
        images, labels = written(tmp_path / "out" / f"{split}_lmdb")
        count = len(labels)
        rows = np.arange(len(label)) % count
        np.testing.assert_array_equal(data, images[rows])
        np.testing.assert_array_equal(label, labels[rows])


def test_padded_records_cropped_in_the_middle_are_the_unpadded_ones(archive: Path, tmp_path: Path) -> None:
    """With pad 5 and crop_size 32 Caffe's test phase sees exactly the images without padding."""
    for pad in (0, 5):
        pipeline.prepare(archive, tmp_path / str(pad), preprocessing="gcn", pad=pad, progress=False)
    data, _ = read_by_caffe(tmp_path, tmp_path / "5" / "test_lmdb", 1, "crop_size: 32")
    np.testing.assert_array_equal(data, written(tmp_path / "0" / "test_lmdb")[0])
    whole, _ = read_by_caffe(tmp_path, tmp_path / "5" / "test_lmdb", 1)
    assert whole.shape == (8, 3, 42, 42)


@pytest.mark.parametrize("pad", [0, 5])
def test_raw_records_with_the_mean_file_are_what_whiten_gives(pad: int, archive: Path, tmp_path: Path) -> None:
    """Raw bytes minus mean.binaryproto in Caffe equal `Whitening.whiten` of the same pixels, cropped or not."""
    out = tmp_path / "out"
    pipeline.prepare(archive, out, preprocessing="raw", pad=pad, progress=False)
    transform = f'mean_file: "{out / "mean.binaryproto"}"' + (" crop_size: 32" if pad else "")
    data, label = read_by_caffe(tmp_path, out / "train_lmdb", 3, transform)
    images, labels = written(out / "train_lmdb")
    pixels: Any = images[:, :, pad : pad + 32, pad : pad + 32]
    expected = Whitening.load(out / "whitening.npz").whiten(np.ascontiguousarray(pixels))
    np.testing.assert_allclose(data, expected, atol=1e-4)
    np.testing.assert_array_equal(label, labels)
