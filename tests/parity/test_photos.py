"""Photographs become the records of convert_imageset and the mean of compute_image_mean, byte for byte."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from allconv_caffe.proto.lmdb_file import LmdbFile
from data_prep.listing import by_class
from data_prep.photos import Fit, prepare

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"wide": (90, 240), "tall": (300, 70), "tiny": (5, 9), "large": (700, 900), "same": (64, 64)}


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs one of Caffe's tools as the installed wrapper runs `caffe`."""
    wrapper = (ROOT / ".caffe" / "bin" / "caffe").read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("tools")
    root = (ROOT / ".caffe" / "bin" / "caffe").resolve().parents[1] / "root"

    def run(name: str, *words: str | Path) -> str:
        script = folder / name
        text = wrapper.replace("/usr/bin/caffe", f"/usr/bin/{name}").replace("root=${self%/bin/*}/root", f"root={root}")
        script.write_text(text, encoding="utf-8")
        script.chmod(0o755)
        done = subprocess.run([script, *map(str, words)], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures of many sizes, in colour, grey, with four channels and sixteen bits, as JPEG, PNG and BMP."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    for split in ("train", "val"):
        for label, wnid in enumerate(("n01440764", "n02102040")):
            folder = root / split / wnid
            folder.mkdir(parents=True)
            for name, (height, width) in SIZES.items():
                small = rng.integers(0, 256, (6, 7, 3)).astype(np.uint8)
                image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
                assert cv2.imwrite(str(folder / f"{name}.JPEG"), image, [cv2.IMWRITE_JPEG_QUALITY, 80 + 9 * label])
                assert cv2.imwrite(str(folder / f"{name}_grey.jpg"), image[:, :, 0])
                assert cv2.imwrite(str(folder / f"{name}.bmp"), image)
            assert cv2.imwrite(str(folder / "alpha.png"), np.dstack([image, image[:, :, 0]]))
            assert cv2.imwrite(str(folder / "deep.png"), image.astype(np.uint16) * 257)
            assert cv2.imwrite(
                str(folder / "progressive.jpg"), image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 60]
            )
    return root


def read(path: Path) -> list[tuple[bytes, bytes]]:
    return [(bytes(key), bytes(value)) for key, value in LmdbFile(str(path)).items()]


WARP = ("--resize_height=48", "--resize_width=56")
CASES = {
    "pixels": (Fit(resize=(48, 56)), WARP),
    "grey": (Fit(resize=(48, 56), grey=True), (*WARP, "-gray")),
    "jpg": (Fit(resize=(48, 56), encoded="jpg"), (*WARP, "-encoded", "-encode_type=jpg")),
    "png": (Fit(resize=(48, 56), encoded="png"), (*WARP, "-encoded", "-encode_type=png")),
}


@pytest.mark.parametrize("case", CASES)
def test_records_and_mean_are_caffes(case: str, photos: Path, tool: Callable[..., str], tmp_path: Path) -> None:
    """The same list of files gives the same keys, the same records and the same mean image, to the last byte."""
    fit, flags = CASES[case]
    made = prepare(
        by_class(photos), tmp_path / "ours", fit, display_name="made", source={}, seed=7, progress=False, workers=3
    )
    assert made.n_train == made.n_test == 36
    for split, folder in (("train", "train"), ("test", "val")):
        ours = read(tmp_path / "ours" / f"{split}_lmdb")
        names = [key[9:].decode() for key, _ in ours]
        assert len(set(names)) == 36 and all(name.startswith(f"{folder}/") for name in names)
        listed = tmp_path / f"{split}.txt"
        listed.write_text("".join(f"{name} {int('n02102040' in name)}\n" for name in names))
        tool("convert_imageset", *flags, f"{photos}/", listed, tmp_path / f"real_{split}")
        assert ours == read(tmp_path / f"real_{split}")
    tool("compute_image_mean", tmp_path / "real_train", tmp_path / "real.binaryproto")
    assert (tmp_path / "ours" / "mean.binaryproto").read_bytes() == (tmp_path / "real.binaryproto").read_bytes()


def test_files_as_they_are_are_caffes_records(photos: Path, tool: Callable[..., str], tmp_path: Path) -> None:
    """Without a new size, `encoded` keeps each file's own bytes, as convert_imageset -encoded does."""
    root = tmp_path / "one_size"
    for split in ("train", "val"):
        for wnid in ("n01440764", "n02102040"):
            (root / split / wnid).mkdir(parents=True)
            shutil.copy(photos / split / wnid / "same.JPEG", root / split / wnid / "a.jpg")
            shutil.copy(photos / split / wnid / "same.bmp", root / split / wnid / "b.bmp")
    prepare(by_class(root), tmp_path / "ours", Fit(encoded="file"), display_name="made", source={}, progress=False)
    ours = read(tmp_path / "ours" / "train_lmdb")
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{key[9:].decode()} {int(b'n02102040' in key)}\n" for key, _ in ours))
    tool("convert_imageset", "-encoded", f"{root}/", listed, tmp_path / "real")
    assert ours == read(tmp_path / "real")
    tool("compute_image_mean", tmp_path / "real", tmp_path / "real.binaryproto")
    assert (tmp_path / "ours" / "mean.binaryproto").read_bytes() == (tmp_path / "real.binaryproto").read_bytes()
