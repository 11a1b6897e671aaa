"""The official CIFAR formats, read and written."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import os
import pickle
import tarfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep import cifar, pickles, source
from data_prep.errors import PrepError

WRITERS = {"python": cifar.write_python_archive, "binary": cifar.write_binary_archive}


def coarse_of(arrays: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    return arrays["train_y"] // 2, arrays["test_y"] // 2, ["small", "large"]


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]


def repack(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def message(path: Path, **keywords: Any) -> str:
    with pytest.raises(PrepError) as caught:
        source.read(path, progress=False, **keywords)
    return str(caught.value).replace(str(path), "ARCHIVE")


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("kind", ["fine", "coarse", "cifar10"])
@pytest.mark.parametrize("unpacked", [False, True])
def test_images_labels_and_names_come_back(
    form: str, kind: str, unpacked: bool, arrays: dict[str, Any], tmp_path: Path
) -> None:
    """What is written in an official format is read from it, packed or unpacked, in order and with RGB planes kept."""
    coarse = None if kind == "cifar10" else coarse_of(arrays)
    path = WRITERS[form](tmp_path / "made.tar.gz", **arrays, coarse=coarse)
    if unpacked:
        with tarfile.open(path) as tar:
            tar.extractall(tmp_path / "unpacked")
        path = tmp_path / "unpacked"
    dataset, labels = ("cifar10", "fine") if kind == "cifar10" else ("cifar100", kind)
    found = source.read(path, dataset=dataset, labels=labels, progress=False)
    np.testing.assert_array_equal(found.train.images, arrays["train_x"])
    np.testing.assert_array_equal(found.test.images, arrays["test_x"])
    expected = coarse[:2] if coarse is not None and kind == "coarse" else (arrays["train_y"], arrays["test_y"])
    np.testing.assert_array_equal(found.train.labels, expected[0])
    np.testing.assert_array_equal(found.test.labels, expected[1])
    assert found.class_names == (("small", "large") if kind == "coarse" else tuple(arrays["label_names"]))
    assert found.source["official"] is False


def test_a_generated_python_archive_is_what_other_readers_expect(arrays: dict[str, Any], tmp_path: Path) -> None:
    """Python's own unpickler with encoding latin1 (as torchvision reads CIFAR) finds data, labels and names."""
    files = contents(cifar.write_python_archive(tmp_path / "a.tar.gz", **arrays))
    assert set(files) == {f"cifar-10-batches-py/{m}" for m in cifar.FORMATS[0].members}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's old module name, which the official archives hold too
        batch = pickle.loads(files["cifar-10-batches-py/data_batch_2"], encoding="latin1")
    np.testing.assert_array_equal(batch["data"], arrays["train_x"][8:16].reshape(8, 3072))
    assert batch["labels"] == arrays["train_y"][8:16].tolist()
    meta = pickle.loads(files["cifar-10-batches-py/batches.meta"], encoding="latin1")
    assert meta["label_names"] == arrays["label_names"] and meta["num_vis"] == 3072


@pytest.mark.parametrize("form", WRITERS)
def test_equal_input_gives_equal_bytes(form: str, arrays: dict[str, Any], tmp_path: Path) -> None:
    """Writing twice gives the same archive, so that a generated data set has a checksum of its own."""
    one, two = (WRITERS[form](tmp_path / name, **arrays) for name in ("one.tar.gz", "two.tar.gz"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_batches_pickled_by_todays_python_and_numpy_are_read(protocol: int) -> None:
    """Every pickle protocol that numpy itself writes for a uint8 array (in-band) is understood."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
    data = pickle.dumps({"data": pixels, "labels": [1, 0, 2]}, protocol)
    if protocol == 5:
        with pytest.raises(PrepError):  # numpy 5 asks for _frombuffer, which no CIFAR archive needs
            cifar.parse_batch(data, cifar.FORMATS[0], "x")
        return
    batch = cifar.parse_batch(data, cifar.FORMATS[0], "x")
    np.testing.assert_array_equal(batch.images.reshape(3, 3072), pixels)


def test_fortran_ordered_pixels_are_read_in_their_order() -> None:
    """An array stored column by column comes back as the same array."""
    pixels = np.asfortranarray(np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8))
    batch = cifar.parse_batch(pickle.dumps({"data": pixels, "labels": [1, 0, 2]}, 2), cifar.FORMATS[0], "x")
    np.testing.assert_array_equal(batch.images.reshape(3, 3072), pixels)


class Malicious:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        (Malicious(os.system, "touch OWNED"), "posix.system"),
        (Malicious(eval, "1+1"), "eval"),
        (Malicious(np.load, "x"), "numpy.load"),
        (Malicious(getattr, np, "load"), "getattr"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_runs_nothing(
    made: Malicious, asked: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle that asks for any function is refused by name before anything is called."""
    monkeypatch.chdir(tmp_path)
    if asked == "getattr":
        made = Malicious(getattr, b"", "hex")
    with pytest.raises(PrepError, match=f"^batch: found a pickle that asks for .*{asked}; expected lists, strings"):
        pickles.load(pickle.dumps({"data": made}, protocol), "batch")
    assert not (tmp_path / "OWNED").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}(U\x04dataT\xff\xff\xff\x7f.",  # a string that claims 2 GB
        b"\x80\x02cnumpy\nndarray\n.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R(K\x01)K\x00K\x00tb.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x0c__kwdefaults__U\x01xsb.",
        b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.",
        b"\x80\x02cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R.",
        b"\x80\x02\x82\x01.",  # copyreg's extension registry
        b"\x80\x02U\x03abcQ.",  # a persistent id
        b"\x80\x02]r\x00\x00\x00\x08.",  # a memo of 2 GB for one empty list
        b"\x80\x02}q\x00" + b"".join(b"}(U\x01ah%cU\x01bh%cuq%c" % (i, i, i + 1) for i in range(60)) + b".",
        b"garbage",
    ],
)
def test_a_malformed_pickle_is_one_clear_error(data: bytes) -> None:
    """Whatever a damaged or hostile pickle does to the interpreter of pickles, the caller sees a PrepError."""
    with pytest.raises(PrepError, match="^batch: found "):
        batch = cifar.parse_batch(data, cifar.FORMATS[0], "batch")
        raise AssertionError(batch)


#: Whole numbers whose hashes are all 0: each is compared with all before it.
COLLIDING_KEYS = b"".join(b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(1, 20_000))
KEY_OF_KEYS = b"\x80\x02}" + b")" * 1_000_000 + b"\x85" * 1_000_000 + b"NsN."


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (KEY_OF_KEYS, "a pickle of more than 120000 steps"),
        (b"\x80\x02})" + b"\x85" * 50_000 + b"Ns.", "a dictionary with a key of tuple"),
        (b"\x80\x02}(K\x01q\x00h\x00" + b"\x86q\x00h\x00" * 60 + b"Nu.", "a dictionary with a key of (tuple|int)"),
        (b"\x80\x02}" + b"\x8b" + (5000).to_bytes(4, "little") + b"\x7f" * 5000 + b"Ns.", "a number of 39999 bits"),
        (b"\x80\x02}T" + (5000).to_bytes(4, "little") + b"k" * 5000 + b"Ns.", "a dictionary with a key of 5000 char"),
        (
            b"\x80\x02]c_codecs\nencode\nq\x01X\x64\0\0\0" + b"x" * 100 + b"\x85q\x02R" + b"h\x01h\x02R" * 500 + b".",
            "that makes more of them",
        ),
        (b"\x80\x02}(" + COLLIDING_KEYS + b"u.", "a number of 6[45] bits"),
        (b"\x80\x02" + b"]" * 200_000 + b".", "a pickle of more than 102000 steps"),
        (b"\x80\x02" + b"(" * 40_000 + b"t" * 40_000 + b"0.", "a pickle with the opcode POP"),
    ],
    ids=[
        "deep key",
        "nested key",
        "doubled key",
        "long number",
        "long key",
        "encode",
        "colliding keys",
        "lists",
        "tuples",
    ],
)
def test_a_hostile_pickle_costs_nothing(data: bytes, said: str) -> None:
    """A few kilobytes can neither crash the reader, nor keep it busy, nor make it take gigabytes: one line."""
    tracemalloc.start()
    with pytest.raises(PrepError, match=f"^batch: found .*{said}"):
        pickles.load(data, "batch")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


def test_a_memo_with_gaps_takes_what_it_holds() -> None:
    """The number of an object is a name, not a place in a table."""
    assert pickles.load(b"\x80\x02]r\x00\x00\x00\x20.", "batch") == []


def test_lists_in_lists_end_without_a_crash() -> None:
    """Depth costs nothing where nothing descends: a million lists within each other are read, or refused, in one line."""
    deep = b"\x80\x02}U\x04data" + b"]" * 49_000 + b"a" * 48_999 + b"s."
    with pytest.raises(PrepError, match=r"^batch: found entries \['data'\]; expected 'data', an array"):
        cifar.parse_batch(deep, cifar.FORMATS[0], "batch")


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "x" * 1001, ""])
def test_a_name_that_no_page_can_show_is_refused(name: str, arrays: dict[str, Any], tmp_path: Path) -> None:
    """Class names go into manifests, tables and pages: text in UTF-8, in one line, not endless."""
    files = contents(cifar.write_python_archive(tmp_path / "a.tar.gz", **arrays))
    names = [name, *arrays["label_names"][1:]]
    files["cifar-10-batches-py/batches.meta"] = pickle.dumps({"label_names": names}, 2)
    with pytest.raises(PrepError, match=r"found a class named '.*; expected 1 to 1000 characters of UTF-8"):
        source.read(repack(tmp_path / "b.tar.gz", files), progress=False)


def test_many_names_are_counted_once(arrays: dict[str, Any], tmp_path: Path) -> None:
    """As many names as one likes: the time is that of reading them, and two that are equal are still found."""
    files = contents(cifar.write_python_archive(tmp_path / "a.tar.gz", **arrays))
    names = [str(i) for i in range(40_000)]
    for listed, said in ((names, "no image of class 4, 5"), ([*names, "7"], "several classes named 7; expected")):
        files["cifar-10-batches-py/batches.meta"] = pickle.dumps({"label_names": listed}, 2)
        with pytest.raises(PrepError, match=f"found {said}") as caught:
            source.read(repack(tmp_path / "b.tar.gz", files), progress=False)
        assert len(str(caught.value)) < 500


def test_a_dictionary_of_many_keys_is_still_one_short_line() -> None:
    """An error lists eight keys of a dictionary that is no batch, and counts the others."""
    data = pickle.dumps({"k" * 500 + str(i): i for i in range(1000)}, 2)
    with pytest.raises(PrepError, match="and 992 more; expected 'data'") as caught:
        cifar.parse_batch(data, cifar.FORMATS[0], "batch")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("kind", ["password", "method"])
def test_a_zip_file_that_cannot_be_opened_is_refused(kind: str, tmp_path: Path) -> None:
    """What zipfile says of a password or of a method that it lacks is one line."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("cifar-10-batches-py/test_batch", b"abc")
    data = bytearray(path.read_bytes())
    entry = data.find(b"PK\x01\x02")
    if kind == "password":
        data[6] |= 1
        data[entry + 8] |= 1
    else:
        data[8] = data[entry + 10] = 99
    path.write_bytes(data)
    with pytest.raises(PrepError, match="a.zip: found a zip file that cannot be read"):
        source.read(path, progress=False)


@pytest.mark.parametrize("form", ["zip", "tar.bz2"])
def test_a_cut_zip_or_bz2_says_so(form: str, arrays: dict[str, Any], tmp_path: Path) -> None:
    """Half of a zip or bz2 file is not called "no archive"."""
    whole = cifar.write_python_archive(tmp_path / "whole.tar.gz", **arrays)
    path = tmp_path / f"a.{form}"
    with tarfile.open(whole) as tar, (zipfile.ZipFile if form == "zip" else bz2.BZ2File)(path, "w") as made:
        if isinstance(made, bz2.BZ2File):
            made.write(gzip.decompress(whole.read_bytes()))
        else:
            for member in tar:
                made.writestr(member.name, tar.extractfile(member).read())  # type: ignore[union-attr]
    assert len(source.read(path, progress=False).train) == 40
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PrepError, match="found a truncated or damaged archive"):
        source.read(path, progress=False)


def test_two_classes_of_one_name_are_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    """Reports and grids name classes: a name stands for one."""
    arrays["label_names"][1] = arrays["label_names"][0]
    path = cifar.write_python_archive(tmp_path / "a.tar.gz", **arrays)
    with pytest.raises(PrepError, match="found several classes named apple; expected a name of its own"):
        source.read(path, progress=False)


def test_a_pickle_cannot_change_the_reader_for_the_next_one() -> None:
    """State that a hostile pickle sets on the names it is given is gone with it."""
    hostile = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x08__name__U\x01xsb."
    with contextlib.suppress(PrepError):
        pickles.load(hostile, "batch")
    pixels = np.zeros((1, 3072), np.uint8)
    batch = cifar.parse_batch(pickle.dumps({"data": pixels, "labels": [0]}, 2), cifar.FORMATS[0], "x")
    np.testing.assert_array_equal(batch.images.reshape(1, 3072), pixels)


def test_official_md5_decides_the_display_name(
    arrays: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an archive whose MD5 is the published one is called CIFAR-10; any other says that it has the format only."""
    path = cifar.write_binary_archive(tmp_path / "mine.tar.gz", **arrays)
    assert source.read(path, progress=False).display_name == "CIFAR-10 format: mine.tar.gz"
    data = path.read_bytes()
    known = cifar.Archive(
        name="x", dataset="cifar10", display_name="CIFAR-10", bytes=len(data), md5=hashlib.md5(data).hexdigest(), url=""
    )
    monkeypatch.setitem(cifar.ARCHIVES, "x", known)
    found = source.read(path, progress=False)
    assert (found.display_name, found.source["official"]) == ("CIFAR-10", True)


def test_an_unpacked_official_folder_is_recognised_by_its_batches(
    arrays: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is called CIFAR-10 when every batch in it has the published MD5, and not if a single one differs."""
    files = contents(cifar.write_python_archive(tmp_path / "a.tar.gz", **arrays))
    for name, data in files.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(data)
    sums = {m: hashlib.md5(files[f"cifar-10-batches-py/{m}"]).hexdigest() for m in cifar.FORMATS[0].members}
    monkeypatch.setitem(cifar.OFFICIAL_MEMBERS, "CIFAR-10", sums)
    assert source.read(tmp_path / "d", progress=False).display_name == "CIFAR-10"
    monkeypatch.setitem(cifar.OFFICIAL_MEMBERS, "CIFAR-10", sums | {"test_batch": "0" * 32})
    assert source.read(tmp_path / "d", progress=False).display_name == "CIFAR-10 format: d"


@pytest.mark.parametrize(
    ("given", "shown"),
    [("Shapes", "Shapes"), ("CIFAR-10", "CIFAR-10 format: a.tar.gz"), (None, "CIFAR-10 format: a.tar.gz")],
)
def test_a_generated_archive_may_name_itself_but_not_cifar(
    given: str | None, shown: str, arrays: dict[str, Any], tmp_path: Path
) -> None:
    """The name in batches.meta is shown, unless it claims to be CIFAR."""
    path = cifar.write_python_archive(tmp_path / "a.tar.gz", **arrays, data_set_name=given)
    assert source.read(path, progress=False).display_name == shown


def test_coarse_labels_are_said_in_the_display_name(arrays: dict[str, Any], tmp_path: Path) -> None:
    """A table cannot confuse 20 coarse classes with 100 fine ones."""
    path = cifar.write_python_archive(tmp_path / "a.tar.gz", **arrays, coarse=coarse_of(arrays))
    found = source.read(path, dataset="cifar100", labels="coarse", progress=False)
    assert found.display_name == "CIFAR-100 format: a.tar.gz (coarse labels)"


def test_the_official_size_with_another_md5_is_refused(
    arrays: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the official name and size whose MD5 is wrong is damaged."""
    path = cifar.write_python_archive(tmp_path / "cifar-10-python.tar.gz", **arrays)
    official = cifar.Archive(
        name=path.name, dataset="cifar10", display_name="CIFAR-10", bytes=path.stat().st_size, md5="0" * 32, url=""
    )
    monkeypatch.setitem(cifar.ARCHIVES, path.name, official)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    assert message(path) == f"ARCHIVE: found MD5 {md5}; expected {'0' * 32}; the file is damaged, download it again"


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9, 0.9999])
def test_a_truncated_archive_says_so(fraction: float, arrays: dict[str, Any], tmp_path: Path) -> None:
    """An archive cut anywhere is called truncated; under an official name its full size is given."""
    data = cifar.write_python_archive(tmp_path / "a.tar.gz", **arrays).read_bytes()
    cut = int(len(data) * fraction)
    for name, expected in (("b.tar.gz", "a complete one"), ("cifar-10-python.tar.gz", "170498071 bytes")):
        (tmp_path / name).write_bytes(data[:cut])
        found = message(tmp_path / name)
        assert found == f"ARCHIVE: found a truncated archive ({cut} bytes); expected {expected}; download it again"


def test_a_single_changed_pixel_is_an_error(arrays: dict[str, Any], tmp_path: Path) -> None:
    """Even a damage that leaves a readable archive is noticed, by the checksum at its end."""
    path = cifar.write_python_archive(tmp_path / "a.tar.gz", **arrays, compresslevel=0)
    data = bytearray(path.read_bytes())
    data[data.index(arrays["train_x"][9].tobytes()[:64])] ^= 1
    path.write_bytes(data)
    assert "CRC check failed" in message(path)


def test_damaged_bytes_are_an_error(arrays: dict[str, Any], tmp_path: Path) -> None:
    """Bytes changed in the middle of a compressed archive are an error."""
    path = cifar.write_python_archive(tmp_path / "a.tar.gz", **arrays)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    assert message(path).startswith("ARCHIVE: ")


@pytest.mark.parametrize("content", [b"", b"hello", gzip.compress(b"hello", mtime=0)])
def test_a_file_that_is_no_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    """Something else than an archive is named as such, with the kinds that are read."""
    (tmp_path / "a.tar.gz").write_bytes(content)
    assert "expected tar, tar.gz, tar.bz2, tar.xz or zip" in message(tmp_path / "a.tar.gz")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data_batch_3": None}, "ARCHIVE: found no member data_batch_3; expected all of data_batch_1, data_batch_2, "),
        ({"batches.meta": None}, "ARCHIVE: found no member batches.meta; expected all of"),
        (
            {"data_batch_2": {"data": np.zeros((2, 3071), np.uint8), "labels": [0, 1]}},
            "ARCHIVE: cifar-10-batches-py/data_batch_2: found images of shape (2, 3071); expected (N, 3072)",
        ),
        (
            {"data_batch_2": {"data": np.zeros((2, 3072), np.uint8), "labels": [0]}},
            "ARCHIVE: cifar-10-batches-py/data_batch_2: found 2 images and 1 labels; expected as many labels as images",
        ),
        (
            {"data_batch_2": {"labels": [0]}},
            "ARCHIVE: cifar-10-batches-py/data_batch_2: found entries ['labels']; expected 'data', an array (N, 3072)",
        ),
        (
            {"data_batch_2": {"data": np.zeros((1, 3072), np.uint8)}},
            "ARCHIVE: cifar-10-batches-py/data_batch_2: found entries ['data']; expected 'labels', a list of integers",
        ),
        ({"data_batch_2": [1]}, "ARCHIVE: cifar-10-batches-py/data_batch_2: found a list; expected a dictionary"),
        (
            {"data_batch_2": {"data": np.zeros((1, 3072), np.uint8), "labels": [4]}},
            "ARCHIVE: train: found label 4; expected labels in [0, 3]",
        ),
        (
            {"data_batch_2": {"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}},
            "ARCHIVE: train: found label -1; expected labels in [0, 3]",
        ),
        (
            {"test_batch": {"data": np.zeros((1, 3072), np.uint8), "labels": [0]}},
            "ARCHIVE: test: found no image of class bell, cat, drum; expected images of all 4 classes",
        ),
        ({"batches.meta": {"names": []}}, "ARCHIVE: cifar-10-batches-py/batches.meta: found no list 'label_names'"),
    ],
)
def test_what_is_wrong_inside_an_archive_is_named(
    change: dict[str, Any], expected: str, arrays: dict[str, Any], tmp_path: Path
) -> None:
    """Missing members, wrong shapes, missing entries, labels out of range and missing classes each have their line."""
    files = contents(cifar.write_python_archive(tmp_path / "a.tar.gz", **arrays))
    for member, value in change.items():
        name = f"cifar-10-batches-py/{member}"
        if value is None:
            del files[name]
        else:
            files[name] = pickle.dumps(value, 2)
    assert message(repack(tmp_path / "b.tar.gz", files)).startswith(expected)


def test_a_binary_batch_of_odd_length_is_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    """A binary batch that is no whole number of records is named with the record's length."""
    files = contents(cifar.write_binary_archive(tmp_path / "a.tar.gz", **arrays))
    files["cifar-10-batches-bin/test_batch.bin"] += b"x"
    assert message(repack(tmp_path / "b.tar.gz", files)) == (
        "ARCHIVE: cifar-10-batches-bin/test_batch.bin: found 24585 bytes; expected a multiple of 3073 bytes, "
        "1 of label and 3072 of image"
    )


def test_another_data_set_than_asked_for_is_refused(arrays: dict[str, Any], tmp_path: Path) -> None:
    """CIFAR-100 is not taken for CIFAR-10, nor the reverse."""
    ten = cifar.write_python_archive(tmp_path / "ten.tar.gz", **arrays)
    hundred = cifar.write_python_archive(tmp_path / "hundred.tar.gz", **arrays, coarse=coarse_of(arrays))
    assert "found cifar10 data (cifar-10-batches-py); expected cifar100 data" in message(ten, dataset="cifar100")
    assert "found cifar100 data (cifar-100-python); expected cifar10 data" in message(hundred)


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"dataset": "mnist"}, "dataset: found 'mnist'; expected cifar10 or cifar100 or images"),
        ({"labels": "medium"}, "labels: found 'medium'; expected fine or coarse"),
        (
            {"labels": "coarse"},
            "labels: found 'coarse' with cifar10; expected 'fine' (only CIFAR-100 has coarse labels)",
        ),
        ({}, "ARCHIVE: found nothing; expected an archive (tar, tar.gz, tar.xz, zip) or a folder"),
    ],
)
def test_wrong_options_and_paths_name_the_choices(keywords: dict[str, Any], expected: str, tmp_path: Path) -> None:
    """A wrong option or a path without anything behind it is refused with the choices."""
    assert message(tmp_path / "absent", **keywords) == expected


def test_writers_refuse_what_the_format_cannot_hold(arrays: dict[str, Any], tmp_path: Path) -> None:
    """Other shapes and labels beyond a byte never become an archive."""
    with pytest.raises(PrepError, match=r"expected \(N, 3, 32, 32\) uint8"):
        cifar.write_python_archive(tmp_path / "a.tar.gz", **arrays | {"train_x": arrays["train_x"][:, :, :8]})
    with pytest.raises(PrepError, match=r"expected 40 integers in \[0, 255\]"):
        cifar.write_binary_archive(tmp_path / "a.tar.gz", **arrays | {"train_y": arrays["train_y"] + 256})
    assert not list(tmp_path.iterdir())
