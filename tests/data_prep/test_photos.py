"""Photographs of any size: found in folders, tars and zips, brought to one size, written so that a stop costs nothing."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from allconv_caffe.proto import Datum
from allconv_caffe.proto.lmdb_file import LmdbFile
from data_prep import imagenet, photos, pipeline, verify
from data_prep.errors import PrepError
from data_prep.listing import by_class
from data_prep.photos import Fit

WNIDS = ("n01440764", "n01443537", "n02102040")
SIZE = Fit(resize=(8, 8))


def picture(height: int, width: int, value: int, kind: str = ".png") -> bytes:
    return bytes(cv2.imencode(kind, np.full((height, width, 3), value, np.uint8))[1].tobytes())


def tar_of(path: Path, members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def values(listing: Any) -> dict[str, list[tuple[str, int, int]]]:
    """Name, label and the first pixel of each picture of both splits."""
    found = {}
    for split in ("train", "test"):
        pictures = getattr(listing, split)
        rows = range(len(pictures))
        found[split] = [
            (
                pictures.name(row),
                int(pictures.labels[row]),
                int(photos.decode(pictures.read(row), True, "")[0, 0, 0]),
            )
            for row in rows
        ]
    return found


@pytest.fixture
def tree() -> dict[str, bytes]:
    """Three classes, four training and two validation pictures each, of different sizes; the value tells which it is."""
    made = {}
    for split, count in (("train", 4), ("val", 2)):
        for label, wnid in enumerate(WNIDS):
            for i in range(count):
                made[f"{split}/{wnid}/{i}.png"] = picture(
                    6 + i, 9 + label, 10 * label + i + (100 if split == "val" else 0)
                )
    return made


def spread(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_a_tar_and_a_zip_hold_the_same(tree: dict[str, bytes], tmp_path: Path) -> None:
    """The same pictures and labels, whatever they are packed in."""
    folder = spread(tmp_path / "photos", tree)
    tar_of(tmp_path / "photos.tar", {f"top/{name}": data for name, data in tree.items()})
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    own = values(by_class(folder))
    assert [label for _, label, _ in own["train"]] == [0] * 4 + [1] * 4 + [2] * 4
    assert [value for _, _, value in own["test"]] == [100, 101, 110, 111, 120, 121]
    assert values(by_class(tmp_path / "photos.zip")) == own
    packed = values(by_class(tmp_path / "photos.tar"))
    assert {
        split: [(name.removeprefix("top/"), *rest) for name, *rest in rows] for split, rows in packed.items()
    } == own


def test_a_part_of_one_folder_of_classes_is_put_aside(tmp_path: Path) -> None:
    """test_fraction takes that part of every class, at least one picture and never all; the seed decides which."""
    files = {f"{name}/{i}.png": picture(5, 5, i) for name, count in (("cat", 20), ("dog", 3)) for i in range(count)}
    folder = spread(tmp_path / "pets", files)
    one = by_class(folder, test_fraction=0.1, seed=1)
    assert (len(one.train), len(one.test)) == (18 + 2, 2 + 1) and one.class_names == ("cat", "dog")
    assert np.bincount(one.test.labels).tolist() == [2, 1]
    assert not set(one.train.numbers) & set(one.test.numbers)
    assert values(one) == values(by_class(folder, test_fraction=0.1, seed=1))
    others = [set(by_class(folder, test_fraction=0.1, seed=seed).test.numbers.tolist()) for seed in range(2, 8)]
    assert any(other != set(one.test.numbers.tolist()) for other in others)


@pytest.mark.parametrize(
    ("change", "options", "line"),
    [
        ({"train/x/a.png": b"."}, {}, "test: no image"),
        (
            {"notes.txt": b"words"},
            {},
            "found no images; expected train/<class>/ and val/<class>/, or one folder of classes",
        ),
        (
            {"a/1.png": b".", "b/1.png": b"."},
            {},
            "found one folder of classes; expected train/ and val/ in it, or a test_frac",
        ),
        ({"a/1.png": b".", "a/2.png": b"."}, {"test_fraction": 0.5}, "found 1 class (a); expected at least 2"),
        (
            {"a/1.png": b".", "b/1.png": b".", "b/2.png": b"."},
            {"test_fraction": 0.5},
            "a: found one image; expected at",
        ),
        ({"train/a/1.gif": b"."}, {}, "found an image of the kind .gif; expected .jpg or"),
        (
            {"train/a/1.png": b".", "val/a/1.png": b".", "test/a/1.png": b"."},
            {},
            "found val/ and test/; expected one of them",
        ),
        (
            {"train/a/1.png": b".", "val/a/1.png": b"."},
            {"test_fraction": 0.5},
            "found 0.5 for a source with train and val",
        ),
        (
            {"train/a/1.png": b"."},
            {"test_fraction": 1.5},
            "test_fraction: found 1.5; expected a number between 0 and 1",
        ),
    ],
)
def test_a_source_that_is_none_gets_one_line(
    change: dict[str, bytes], options: dict[str, Any], line: str, tmp_path: Path
) -> None:
    """What is missing, doubled or of another kind is named with what was expected."""
    if line.startswith("test: no image"):
        change, line = (
            {"train/x/a.png": b".", "train/y/a.png": b".", "val/x/a.png": b"."},
            "val: found no image of class y",
        )
    with pytest.raises(PrepError) as caught:
        by_class(spread(tmp_path / "s", change), **options)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_compressed_tar_is_refused_with_the_way_out(tree: dict[str, bytes], tmp_path: Path) -> None:
    """A compressed tar has no place to read a picture at."""
    tar_of(tmp_path / "p.tar.gz", tree, "w:gz")
    with pytest.raises(PrepError, match="unpack it first"):
        by_class(tmp_path / "p.tar.gz")


@pytest.mark.parametrize(
    ("fit", "shape"),
    [
        (Fit(resize=(4, 6)), (4, 6, 3)),
        (Fit(shorter_side=6), (6, 12, 3)),
        (Fit(shorter_side=6, crop=(6, 6)), (6, 6, 3)),
        (Fit(crop=(5, 7)), (5, 7, 3)),
        (Fit(), (10, 20, 3)),
    ],
)
def test_a_picture_is_fitted(fit: Fit, shape: tuple[int, int, int]) -> None:
    """A 10x20 picture warped, scaled by its shorter side, cropped, or left alone; the crop is the middle."""
    image = np.arange(600, dtype=np.uint8).reshape(10, 20, 3)
    fitted = fit.apply(image, "p")
    assert fitted.shape == shape
    if fit == Fit(crop=(5, 7)):
        np.testing.assert_array_equal(fitted, image[2:7, 6:13])


@pytest.mark.parametrize(
    ("fit", "shape", "line"),
    [
        (Fit(shorter_side=256), (2, 60000), "60000x2 pixels that would have 7680000x256; expected at most 65500 on a"),
        (Fit(resize=(60000, 60000)), (2, 2), "2x2 pixels that would have 60000x60000; expected at most 65500 on a"),
        (Fit(resize=(4, 4)), (0, 2), "2x0 pixels that OpenCV cannot scale ("),
    ],
)
def test_a_picture_is_not_scaled_beyond_measure(fit: Fit, shape: tuple[int, int], line: str) -> None:
    """A new size that no memory should be asked for, or that OpenCV refuses, is one line with the picture's name."""
    with pytest.raises(PrepError) as caught:
        fit.apply(np.zeros((*shape, 3), np.uint8), "strip.png")
    assert str(caught.value).startswith("strip.png: found an image of " + line) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fit", "line"),
    [
        (Fit(resize=(4, 4), shorter_side=3), "shorter_side: found 3 beside resize; expected one of the two"),
        (Fit(resize=(0, 4)), "resize: found 0x4; expected 1 to 65500 pixels"),
        (Fit(encoded="gif"), "encoded: found 'gif'; expected '' or 'jpg' or 'png' or 'file'"),
        (Fit(encoded="file", grey=True), "encoded: found the files' own bytes beside a new size or one channel"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fit: Fit, line: str) -> None:
    """One line names the setting."""
    with pytest.raises(PrepError) as caught:
        fit.check()
    assert line in str(caught.value)


def prepared(folder: Path, out: Path, fit: Fit = SIZE, **how: Any) -> Any:
    return photos.prepare(by_class(folder), out, fit, display_name="made", source={"name": "s"}, progress=False, **how)


def stored(out: Path, split: str = "train") -> list[tuple[bytes, Any]]:
    found = []
    for key, value in LmdbFile(str(out / f"{split}_lmdb")).items():
        datum = Datum()
        datum.ParseFromString(bytes(value))
        found.append((bytes(key), datum))
    return found


def test_records_manifest_and_mean(tree: dict[str, bytes], tmp_path: Path) -> None:
    """Each record is the picture of its key, its label that of its folder; the manifest counts, and verify agrees."""
    folder = spread(tmp_path / "photos", tree)
    manifest = prepared(folder, tmp_path / "out", seed=3)
    assert (manifest.n_train, manifest.n_test, manifest.shape) == (12, 6, (3, 8, 8))
    assert manifest.class_names == WNIDS and manifest.class_counts == {"train": [4, 4, 4], "test": [2, 2, 2]}
    records = stored(tmp_path / "out")
    assert [int(key[:8]) for key, _ in records] == list(range(12))
    for key, datum in records:
        _, wnid, name = key[9:].decode().split("/")
        assert datum.label == WNIDS.index(wnid) and not datum.encoded
        assert set(datum.data) == {10 * datum.label + int(name[0])}
    order = [key[9:] for key, _ in records]
    assert order != sorted(order)
    assert verify.verify(tmp_path / "out").ok
    data = tmp_path / "out" / "train_lmdb" / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b"\x0b" * 64, b"\x0c" * 64))
    assert not verify.verify(tmp_path / "out").ok


def test_a_stopped_preparation_goes_on(tree: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged picture stops it; what was written stays, and the mended source goes on from there to the same end."""
    monkeypatch.setattr(photos, "_CHUNK", 2)
    folder = spread(tmp_path / "photos", tree)
    prepared(folder, tmp_path / "whole", seed=3)
    whole = (tmp_path / "whole" / "manifest.json").read_text()
    last = stored(tmp_path / "whole")[9][0][9:].decode()
    (folder / last).write_bytes(b"no picture")
    with pytest.raises(PrepError, match="10 bytes that are no image"):
        prepared(folder, tmp_path / "out", seed=3)
    left = tmp_path / ".out.partial"
    assert not (tmp_path / "out").exists() and len(stored(left)) == 8
    (folder / last).write_bytes(tree[last])
    decoded: list[str] = []
    real = photos.record
    monkeypatch.setattr(
        photos, "record", lambda data, label, fit, place: decoded.append(place) or real(data, label, fit, place)
    )
    prepared(folder, tmp_path / "out", seed=3)
    assert len(decoded) == 4 + 6
    assert (tmp_path / "out" / "manifest.json").read_text() == whole
    assert not left.exists() and not (tmp_path / "out" / ".token").exists()


def test_a_left_over_of_another_preparation_is_cleared(
    tree: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed, size or source begins anew."""
    monkeypatch.setattr(photos, "_CHUNK", 2)
    folder = spread(tmp_path / "photos", tree)
    (folder / "val" / WNIDS[0] / "0.png").write_bytes(b"no picture")
    with pytest.raises(PrepError):
        prepared(folder, tmp_path / "out", seed=3)
    assert len(stored(tmp_path / ".out.partial")) == 12
    (folder / "val" / WNIDS[0] / "0.png").write_bytes(tree[f"val/{WNIDS[0]}/0.png"])
    made = prepared(folder, tmp_path / "out", Fit(resize=(4, 4)), seed=3)
    assert made.shape == (3, 4, 4) and verify.verify(tmp_path / "out").ok


def test_pictures_of_several_sizes_are_refused(tree: dict[str, bytes], tmp_path: Path) -> None:
    """Without a fit the first picture of another size is named, with what would mend it."""
    folder = spread(tmp_path / "photos", tree)
    with pytest.raises(PrepError, match=r"an image of shape 3x.*give resize, or shorter_side and crop"):
        prepared(folder, tmp_path / "out", Fit())
    with pytest.raises(PrepError, match="at least 8x8 to crop; give shorter_side or resize"):
        prepared(folder, tmp_path / "out", Fit(crop=(8, 8)))


def test_photographs_can_be_whitened(tree: dict[str, bytes], tmp_path: Path) -> None:
    """Brought to one size in memory, they are whitened as CIFAR is: red first, of the same values."""
    folder = spread(tmp_path / "photos", tree)
    images = photos.image_set(by_class(folder), SIZE, "made", {"name": "s"}, progress=False)
    assert images.train.images.shape == (12, 3, 8, 8) and images.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    manifest = pipeline.prepare(
        folder, tmp_path / "out", dataset="images", images=images, preprocessing="gcn", progress=False
    )
    assert manifest.display_name == "made" and verify.verify(tmp_path / "out").ok


def test_a_published_name_is_not_given(tree: dict[str, bytes], tmp_path: Path) -> None:
    """Only the MD5 of an archive makes a set CIFAR-10."""
    with pytest.raises(PrepError, match="a published set is known by the MD5"):
        pipeline.prepare(spread(tmp_path / "p", tree), tmp_path / "out", dataset="images", display_name="CIFAR-10")


# ---- ILSVRC-2012 -----------------------------------------------------------------------------------------------------


@pytest.fixture
def official(tree: dict[str, bytes], tmp_path: Path) -> Path:
    """The two tars as ILSVRC has them: a tar for each wnid in one, numbered pictures in the other; and val.txt."""
    folder = tmp_path / "ilsvrc"
    folder.mkdir()
    inner = {}
    for wnid in reversed(WNIDS):
        files = {f"{wnid}_{i}.JPEG": tree[f"train/{wnid}/{i}.png"] for i in range(4)}
        inner[f"{wnid}.tar"] = tar_of(tmp_path / "inner", files)
    tar_of(folder / imagenet.TRAIN_TAR, inner)
    order = [2, 0, 1, 1, 0, 2]
    seen = [0, 0, 0]
    val = {}
    lines = []
    for number, label in enumerate(order, 1):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        val[name] = tree[f"val/{WNIDS[label]}/{seen[label]}.png"]
        seen[label] += 1
        lines.append(f"{name} {label}\n")
    tar_of(folder / imagenet.VAL_TAR, val)
    (folder / "val.txt").write_text("".join(lines))
    return folder


def devkit(folder: Path, numbers: list[int]) -> None:
    """A devkit whose own numbers of the classes run against their order: 1, 2, 3 are the third, second, first wnid."""
    scipy_io = pytest.importorskip("scipy.io")
    meta = io.BytesIO()
    rows = np.array(
        [(number, wnid) for number, wnid in zip((3, 2, 1, 4), (*WNIDS, "n00000001"), strict=True)],
        dtype=[("ILSVRC2012_ID", object), ("WNID", object)],
    )
    scipy_io.savemat(meta, {"synsets": rows.reshape(-1, 1)})
    truth = "".join(f"{number}\n" for number in numbers).encode()
    members = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": truth}
    tar_of(
        folder / imagenet.DEVKITS[0],
        {f"ILSVRC2012_devkit_t12/data/{name}": data for name, data in members.items()},
        "w:gz",
    )


def test_the_official_tars(official: Path, tmp_path: Path) -> None:
    """Labels in the order of the wnids, pictures read out of the tars within the tar, classes called by their words."""
    (official / "synset_words.txt").write_text(
        "n01440764 tench, Tinca tinca\nn01443537 crane\nn02102040 crane\nn09999999 nobody\n"
    )
    listing = imagenet.read(official)
    found = values(listing)
    assert {(name, label, value) for name, label, value in found["train"]} == {
        (f"{wnid}/{wnid}_{i}.JPEG", label, 10 * label + i) for label, wnid in enumerate(WNIDS) for i in range(4)
    }
    assert [(label, value) for _, label, value in found["test"]] == [
        (2, 120),
        (0, 100),
        (1, 110),
        (1, 111),
        (0, 101),
        (2, 121),
    ]
    assert listing.class_names == ("tench, Tinca tinca", "crane (n01443537)", "crane (n02102040)")
    manifest = imagenet.prepare(official, tmp_path / "out", fit=SIZE, progress=False)
    assert manifest.dataset == "ilsvrc12" and manifest.display_name == "ilsvrc (3 classes of photographs)"
    assert verify.verify(tmp_path / "out").ok


def test_labels_of_the_devkit(official: Path) -> None:
    """The devkit's own numbers become wnids and their places; beside val.txt, the two must agree."""
    expected = imagenet.read(official).test.labels.tolist()
    (official / "val.txt").rename(official / "other.txt")
    devkit(official, [3 - label for label in expected])
    assert imagenet.read(official).test.labels.tolist() == expected
    (official / "other.txt").rename(official / "val.txt")
    assert imagenet.read(official).test.labels.tolist() == expected
    devkit(official, [1] * 6)
    with pytest.raises(PrepError, match=r"label 2 for ILSVRC2012_val_00000002.JPEG; expected 0 as val.txt has"):
        imagenet.read(official)
    devkit(official, [1] * 5)
    with pytest.raises(PrepError, match="5 lines of ground truth; expected 6"):
        imagenet.read(official)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        (imagenet.VAL_TAR, None, "found no ILSVRC2012_img_val.tar; expected"),
        ("val.txt", None, "found no labels of the validation images; expected val.txt"),
        (
            "val.txt",
            b"ILSVRC2012_val_00000001.JPEG 3\n",
            "val.txt:1: found 'ILSVRC2012_val_00000001.JPEG 3'; expected a name",
        ),
        ("val.txt", b"ILSVRC2012_val_00000001.JPEG 2\n", "found no line for ILSVRC2012_val_00000002.JPEG"),
        ("synset_words.txt", b"tench\n", "synset_words.txt:1: found 'tench'; expected a wnid and words"),
        ("synset_words.txt", b"n01440764 tench\n", "found no line for n01443537; expected words for each of 3 classes"),
        (imagenet.TRAIN_TAR, b"no tar" * 200, "found no uncompressed tar"),
    ],
)
def test_what_is_missing_of_ilsvrc_is_named(official: Path, name: str, content: bytes | None, line: str) -> None:
    """One line says which file, what is there, what belongs there."""
    (official / name).unlink(missing_ok=True)
    if content is not None:
        (official / name).write_bytes(content)
    with pytest.raises(PrepError) as caught:
        imagenet.read(official)
    assert line in str(caught.value) and "\n" not in str(caught.value)


COUNT = """
import resource, sys
from pathlib import Path
from data_prep import photos
from data_prep.listing import by_class
from data_prep.photos import Fit
limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
photos.prepare(
    by_class(Path(sys.argv[1])), sys.argv[2], Fit(resize=(256, 256)), display_name="m", source={}, progress=False, workers=2
)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - limit) // 1024)
"""


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    """1,200 pictures of 196,608 bytes each (236 MB) pass through less than 150 MB more than 300 need."""
    peaks = []
    for count in (150, 600):
        files = {
            f"{split}/{c}/{i}.jpg": picture(20, 20, i % 256, ".jpg")
            for split in ("train", "val")
            for c in "ab"
            for i in range(count // 2)
        }
        folder = spread(tmp_path / str(count), files)
        done = subprocess.run(
            [sys.executable, "-c", COUNT, str(folder), str(tmp_path / f"out{count}")], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 150, peaks
