"""Class folders of images, as folders and as archives, and the names inside archives."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_prep import archive, images, source
from data_prep.errors import PrepError
from data_prep.imageset import CIFAR10_CLASSES


def message(path: Path, dataset: str = "images") -> str:
    with pytest.raises(PrepError) as caught:
        source.read(path, dataset=dataset, progress=False)
    return str(caught.value).replace(str(path), "SOURCE")


def packed(folder: Path, target: Path, prefix: str = "") -> Path:
    """The folder as a tar or zip, by the target's suffix, its files in falling order of their names."""
    files = sorted((p for p in folder.rglob("*") if p.is_file()), reverse=True)
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w") as made:
            for file in files:
                made.write(file, prefix + file.relative_to(folder).as_posix())
        return target
    mode: Any = {"tar": "w", "gz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}[target.suffix[1:]]
    with tarfile.open(target, mode) as tar:
        for file in files:
            tar.add(file, prefix + file.relative_to(folder).as_posix())
    return target


@pytest.mark.parametrize("form", ["folder", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip"])
@pytest.mark.parametrize("prefix", ["", "top/"])
def test_a_tree_comes_back_from_every_kind_of_archive(form: str, prefix: str, helpers: Any, tmp_path: Path) -> None:
    """PNG pixels come back exactly, RGB, sorted by class name and file name, with or without a folder around them."""
    pixels = helpers.make_tree(tmp_path / "tree" / prefix)
    path = tmp_path / "tree" if form == "folder" else packed(tmp_path / "tree", tmp_path / form)
    found = source.read(path, dataset="images", progress=False)
    assert found.class_names == helpers.names
    for split, part in (("train", found.train), ("test", found.test)):
        count = pixels[split].shape[1]
        np.testing.assert_array_equal(part.images, pixels[split].reshape(-1, 3, 8, 8))
        np.testing.assert_array_equal(part.labels, np.repeat(np.arange(4), count))
    assert found.display_name == ("tree (PNG)" if form == "folder" else "a (PNG)")


@pytest.mark.parametrize(
    ("suffix", "side", "dataset", "expected"),
    [
        ("jpg", 32, "cifar10", "CIFAR-10 (JPEG)"),
        ("png", 32, "cifar10", "CIFAR-10 (PNG)"),
        ("jpg", 16, "images", "tree (JPEG)"),
    ],
)
def test_cifars_classes_as_images_are_never_called_plain_cifar(
    suffix: str, side: int, dataset: str, expected: str, helpers: Any, tmp_path: Path
) -> None:
    """A tree with CIFAR-10's ten classes says in its name that it is made of image files."""
    helpers.make_tree(tmp_path / "tree", CIFAR10_CLASSES, 1, 1, side, suffix)
    assert source.read(tmp_path / "tree", dataset=dataset, progress=False).display_name == expected


def test_jpeg_and_grey_images_decode_to_three_rgb_planes() -> None:
    """A red image is red (OpenCV's own order is blue first), and a grey one has three equal planes."""
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, :, 2] = 255
    plane = images.decode(cv2.imencode(".jpg", red)[1].tobytes(), "x")
    assert plane.shape == (3, 8, 8) and plane[0].min() > 250 and plane[1:].max() < 5
    grey = images.decode(cv2.imencode(".png", np.arange(64, dtype=np.uint8).reshape(8, 8))[1].tobytes(), "x")
    np.testing.assert_array_equal(grey, np.broadcast_to(np.arange(64).reshape(8, 8), (3, 8, 8)))


def test_more_images_than_one_batch_keep_their_order(helpers: Any, tmp_path: Path) -> None:
    """Decoding in threads changes nothing about the order."""
    pixels = helpers.make_tree(tmp_path, train=300, test=1)
    found = source.read(tmp_path, dataset="images", progress=False)
    np.testing.assert_array_equal(found.train.images, pixels["train"].reshape(-1, 3, 8, 8))


def test_missing_classes_and_splits_are_named(helpers: Any, tmp_path: Path) -> None:
    """A class without training or test images, and a missing split, are named."""
    helpers.make_tree(tmp_path)
    shutil.rmtree(tmp_path / "test" / "bell")
    assert message(tmp_path) == "SOURCE: test: found no image of class bell; expected the classes of train"
    shutil.rmtree(tmp_path / "test")
    assert message(tmp_path) == (
        "SOURCE: found no folder test/<class> with images; expected train/<class>/ and test/<class>/"
    )


def test_cifar10_needs_its_ten_classes(helpers: Any, tmp_path: Path) -> None:
    """A tree offered as CIFAR-10 must have CIFAR-10's classes, no more and no fewer, of 32x32 pixels."""
    helpers.make_tree(tmp_path / "a", CIFAR10_CLASSES[:8], 1, 1, 32)
    assert message(tmp_path / "a", "cifar10").startswith("SOURCE: found no class ship, truck; expected the ten classes")
    helpers.make_tree(tmp_path / "b", (*CIFAR10_CLASSES, "zebra"), 1, 1, 32)
    assert message(tmp_path / "b", "cifar10").startswith("SOURCE: found classes zebra; expected the ten classes")
    helpers.make_tree(tmp_path / "c", CIFAR10_CLASSES, 1, 1, 16)
    assert message(tmp_path / "c", "cifar10").startswith(
        "SOURCE: found images of shape (3, 16, 16); expected (3, 32, 32)"
    )
    assert message(tmp_path / "c", "cifar100").startswith(
        "SOURCE: found class folders of images; expected an archive in"
    )


def test_wrong_shapes_and_broken_images_are_named(helpers: Any, tmp_path: Path) -> None:
    """An image of another size or that cannot be decoded is named with its place."""
    helpers.make_tree(tmp_path)
    odd = tmp_path / "train" / "cat" / "0002.png"
    assert cv2.imwrite(str(odd), np.zeros((5, 6, 3), np.uint8))
    assert message(tmp_path) == (
        "SOURCE: train/cat/0002.png: found an image of 6x5 pixels; expected 8x8 as in train/apple/0000.png"
    )
    odd.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 2**32 - 1, 2**32 - 2))
    assert message(tmp_path).startswith(
        "SOURCE: train/cat/0002.png: found an image of 4294967295x4294967294 pixels; expec"
    )
    for content in (b"", b"GIF89a"):
        odd.write_bytes(content)
        assert message(tmp_path) == (
            f"SOURCE: train/cat/0002.png: found {len(content)} bytes that are no image; expected a JPEG or PNG file"
        )


def test_a_picture_that_exif_turns_has_the_size_it_is_decoded_to(helpers: Any, tmp_path: Path) -> None:
    """A camera's upright picture, stored lying with orientation 6, fits among upright ones."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    for split in ("train", "test"):
        for label in helpers.names[:2]:
            for i, shape in enumerate(((24, 18, 3), (18, 24, 3))):
                place = tmp_path / split / label / f"{i}.jpg"
                place.parent.mkdir(parents=True, exist_ok=True)
                data = cv2.imencode(".jpg", np.full(shape, 90, np.uint8))[1].tobytes()
                place.write_bytes(data[:2] + segment + data[2:] if i else data)
    assert source.read(tmp_path, dataset="images", progress=False).train.images.shape == (4, 3, 24, 18)


def test_a_folder_without_data_says_what_is_read(tmp_path: Path) -> None:
    """Nothing recognisable in a folder: the error lists every form that is."""
    (tmp_path / "notes.txt").write_text("x")
    assert message(tmp_path).startswith(
        "SOURCE: found neither CIFAR batches nor images; expected cifar-10-batches-py, "
    )


def test_two_data_sets_in_one_folder_are_ambiguous(helpers: Any, tmp_path: Path) -> None:
    """Nothing is guessed when a folder holds two data sets."""
    helpers.make_tree(tmp_path)
    (tmp_path / "batches.meta.txt").write_text("a\nb\n")
    assert message(tmp_path) == (
        "SOURCE: found cifar-10-batches-bin and class folders of images; expected one data set; name the folder of the "
        "one you mean"
    )


@pytest.mark.parametrize(
    "name", ["../train/cat/a.png", "/train/cat/a.png", "train/../../cat/a.png", "C:/train/cat/a.png"]
)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_out_of_the_archive_are_refused(name: str, kind: str, tmp_path: Path) -> None:
    """A member that would land elsewhere is an error, although nothing is ever unpacked."""
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as made:
            made.writestr(name, b"x")
    else:
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    assert message(path) == f"SOURCE: found a member named {name!r}; expected names that stay inside the archive"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    """A link in an archive could stand for any file of this machine, so there are none."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("train/cat/a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    assert message(tmp_path / "a.tar") == (
        "SOURCE: train/cat/a.png: found a link or device; expected regular files and folders only"
    )


def test_a_member_of_absurd_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decompression bomb is refused by the size its header gives, before it is read."""
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 10)
    for kind in ("tar", "zip"):
        path = tmp_path / f"a.{kind}"
        (tmp_path / "f").write_bytes(bytes(11))
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as made:
                made.write(tmp_path / "f", "train/cat/a.png")
        else:
            with tarfile.open(path, "w") as tar:
                tar.add(tmp_path / "f", "train/cat/a.png")
        assert message(path) == "SOURCE: train/cat/a.png: found 11 bytes; expected at most 10"


def test_hidden_files_and_other_suffixes_are_left_alone(helpers: Any, tmp_path: Path) -> None:
    """Notes, thumbnails and a file manager's hidden files in a class folder are no images of the class."""
    helpers.make_tree(tmp_path)
    (tmp_path / "train" / "cat" / "._0000.png").write_bytes(b"x")
    (tmp_path / "train" / "cat" / "notes.txt").write_bytes(b"x")
    assert len(source.read(tmp_path, dataset="images", progress=False).train) == 24


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "train/cat/more/a.png",
            "SOURCE: train/cat/more/a.png: found an image at this depth; expected train/<class>/<ima",
        ),
        ("test/a.jpg", "SOURCE: test/a.jpg: found an image at this depth; expected train/<class>/<image> and test/"),
        (
            "train/cat/a.WEBP",
            "SOURCE: train/cat/a.WEBP: found an image of the kind .webp; expected .jpg or .jpeg or .png",
        ),
        (
            "train/cat/a\nb.png",
            r"SOURCE: found a file named 'train/cat/a\nb.png'; expected a name in UTF-8 without contr",
        ),
    ],
)
@pytest.mark.parametrize("form", ["folder", "a.tar", "a.zip"])
def test_no_image_is_passed_over_in_silence(name: str, line: str, form: str, helpers: Any, tmp_path: Path) -> None:
    """An image too deep, not deep enough or of a kind that is not read stops the preparation."""
    tree = tmp_path / "tree"
    helpers.make_tree(tree)
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).write_bytes(b"x")
    assert message(tree if form == "folder" else packed(tree, tmp_path / form)).startswith(line)


@pytest.mark.parametrize("form", ["folder", "a.tar"])
def test_an_empty_class_folder_is_named(form: str, helpers: Any, tmp_path: Path) -> None:
    """A class whose folder holds no image is not left out in silence; a hidden folder is no class."""
    tree = tmp_path / "tree"
    helpers.make_tree(tree)
    (tree / "train" / ".cache").mkdir()
    assert len(source.read(tree, dataset="images", progress=False).class_names) == 4
    (tree / "train" / "zebra").mkdir()
    path = tree
    if form == "a.tar":
        path = tmp_path / form
        with tarfile.open(path, "w") as tar:
            tar.add(tree, "top")
    assert message(path) == "SOURCE: train: found no image of class zebra; expected an image in each class folder"


def test_links_in_a_folder_are_followed_and_what_cannot_be_read_is_named(helpers: Any, tmp_path: Path) -> None:
    """A class may lie elsewhere; a broken link, a circle and a pipe are errors (a pipe would wait for ever)."""
    tree = tmp_path / "tree"
    helpers.make_tree(tree)
    for split in ("train", "test"):
        shutil.move(tree / split / "cat", tmp_path / f"cats-{split}")
        (tree / split / "cat").symlink_to(tmp_path / f"cats-{split}")
    assert source.read(tree, dataset="images", progress=False).class_names == helpers.names
    extra = tree / "train" / "drum" / "x.png"
    extra.symlink_to("nowhere")
    assert (
        message(tree) == "SOURCE/train/drum/x.png: found an unreadable file (No such file or directory); expected a "
        "readable one"
    )
    extra.unlink()
    os.mkfifo(extra)
    assert (
        message(tree) == "SOURCE/train/drum/x.png: found a pipe, socket or device; expected regular files and folders "
        "only"
    )
    assert message(extra) == "SOURCE: found a pipe, socket or device; expected an archive or a folder of images"
    extra.unlink()
    (tree / "train" / "circle").symlink_to("..")
    assert "found an unreadable file (Too many levels of symbolic links)" in message(tree)


def test_large_files_beside_the_classes_do_no_harm(
    helpers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is read as an image must be of a bearable size."""
    helpers.make_tree(tmp_path)
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 20000)
    (tmp_path / "backup.bin").write_bytes(bytes(20001))
    assert len(source.read(tmp_path, dataset="images", progress=False).train) == 24


def test_folder_checksums_know_names_and_contents(tmp_path: Path) -> None:
    """Two folders have equal checksums exactly if files and names are equal."""
    for folder, name, data in (("a", "x", b"1"), ("b", "x", b"1"), ("c", "y", b"1"), ("d", "x", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(data)
    sums = {f: archive.folder_checksums(tmp_path / f).sha256 for f in "abcd"}
    assert sums["a"] == sums["b"] and len(set(sums.values())) == 3
