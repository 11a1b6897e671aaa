"""Archives of a megabyte or less that would take gigabytes, hours, or the process: one line each, within a gigabyte."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import lzma
import pickle
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
READ = """
import json, sys
from data_prep import listing, photos, source
from data_prep.errors import PrepError

def read(path):
    source.read(path, dataset="images" if "images" in path else "cifar10", progress=False)

def fit(path):
    found = listing.by_class(listing.Path(path))
    photos.image_set(found, photos.Fit(resize=(8, 8)), "x", {}, progress=False)

said = {}
for path in sys.argv[1:]:
    for ask in (read, fit):
        try:
            ask(path)
            said[ask.__name__ + " " + path] = ""
        except PrepError as error:
            said[ask.__name__ + " " + path] = str(error)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))  # not the parent's
print(json.dumps([said, peak]))
"""
GB = 1 << 30
MUCH = 96 << 20


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def tar(*members: tuple[str, bytes]) -> bytes:
    out = b""
    for name, data in members:
        out += header(name, len(data)) + data + bytes(-len(data) % 512)
    return out + bytes(1024)


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        for name, data in members:
            made.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


def packed_zeros(head: bytes, count: int, packer: object) -> bytes:
    """`head` and so many zeros through a compressor, a block at a time."""
    out = packer.compress(head)  # type: ignore[attr-defined]
    for _ in range(count >> 20):
        out += packer.compress(bytes(1 << 20))  # type: ignore[attr-defined]
    return bytes(out + packer.flush())  # type: ignore[attr-defined]


def gz() -> object:
    return zlib.compressobj(9, zlib.DEFLATED, 31)


@functools.cache
def png(side: int) -> bytes:
    """A picture of side x side pixels in one bit each, all black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packer = zlib.compressobj(9)
    row = bytes(1 + -(-side // 8))
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = side.to_bytes(4, "big") * 2 + b"\x01\x00\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def small() -> bytes:
    return cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


def pictures(data: Callable[[str], bytes], count: int = 1) -> list[tuple[str, bytes]]:
    places = [f"{split}/{label}" for split in ("train", "test") for label in "ab"]
    return [(f"{place}/{i:04d}.png", data(place)) for place in places for i in range(count)]


def no_utf8_zip() -> bytes:
    made = bytearray(zipped(("train/a/xx.png", small())))
    for mark, flags, name in ((b"PK\x03\x04", 6, 30), (b"PK\x01\x02", 8, 46)):
        place = made.index(mark)
        made[place + flags + 1] |= 8  # "the name is UTF-8"
        made[place + name + 8 : place + name + 10] = b"\xff\xfe"
    return bytes(made)


def lying_zip() -> bytes:
    """A member that says it has ten bytes, and unpacks to as many megabytes as one likes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packed_zeros(b"", MUCH, packer)
    made = bytearray(zipped(("cifar-10-batches-py/test_batch", body)))
    for mark, method, size in ((b"PK\x03\x04", 8, 22), (b"PK\x01\x02", 10, 24)):
        place = made.index(mark)
        made[place + method] = zipfile.ZIP_DEFLATED
        made[place + size : place + size + 4] = (10).to_bytes(4, "little")
    return bytes(made)


BATCH = "cifar-10-batches-py/data_batch_1"
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "long name.tar.gz": (
        lambda: packed_zeros(header("a", 2 * GB, b"L"), 64 << 20, gz()),
        "a header of 2147483648 bytes",
    ),
    "long link.tar.gz": (
        lambda: packed_zeros(header("a", 2 * GB, b"K"), 1 << 20, gz()),
        "a header of 2147483648 bytes",
    ),
    "pax.tar.gz": (lambda: packed_zeros(header("a", GB, b"x"), 1 << 20, gz()), "a header of 1073741824 bytes"),
    "global pax.tar": (lambda: header("a", 1 << 20, b"g") + bytes(1 << 20), "a header of 1048576 bytes"),
    "sparse.tar": (lambda: header("a", 512, b"S") + bytes(1024), "a sparse file"),
    "member.tar.gz": (lambda: packed_zeros(header(BATCH, MUCH), MUCH, gz()), "packed into"),
    "unwanted.tar.bz2": (lambda: packed_zeros(header("other", MUCH), MUCH, bz2.BZ2Compressor()), "packed into"),
    "behind the end.tar.xz": (
        lambda: packed_zeros(tar(("other", b"")), MUCH, lzma.LZMACompressor()),
        "packed into",
    ),
    "member.zip": (lambda: zipped((BATCH, bytes(200 << 20)), method=zipfile.ZIP_DEFLATED), "packed into"),
    "lying.zip": (lying_zip, "a damaged archive"),
    "bzip2.zip": (lambda: zipped((BATCH, bytes(9)), method=zipfile.ZIP_BZIP2), "compression method 12"),
    "no name.zip": (lambda: zipped(("", b"x")), "a member without a name"),
    "no UTF-8 images.zip": (no_utf8_zip, "a damaged archive (UnicodeDecodeError"),
    "backwards.tar": (lambda: b"".join([pax_size("-1024"), header("b", 512), bytes(1024)]), "a member of -1024 bytes"),
    "damaged in the middle images.tar": (
        lambda: tar(*pictures(lambda _: small()))[:2048] + b"\x01" * 512 + bytes(1024),
        "no readable archive",
    ),
    "twice images.tar": (lambda: tar(*pictures(lambda _: small()), ("train/a/0000.png", small())), "a second member"),
    "twice images.zip": (
        lambda: zipped(*pictures(lambda _: small()), ("train/a/0000.png", small())),
        "a second member",
    ),
    "twice.tar": (lambda: tar((BATCH, b"x"), (BATCH, b"x")), ""),
    "large images.zip": (lambda: zipped(*pictures(lambda _: png(20_000))), "packed into"),
    "many images.zip": (
        lambda: zipped(*pictures(lambda _: png(4000), 8)),
        "packed into",
    ),
    "one large images.zip": (
        lambda: zipped(*pictures(lambda place: png(20_000) if place == "test/b" else small(), 3)),
        "an image of 20000x20000 pixels; expected 8x8",
    ),
    "class images.tar": (
        lambda: tar(*[(n.replace("/b/", "/b\n/"), d) for n, d in pictures(lambda _: small())]),
        "b\\n",
    ),
    "pickle.zip": (lambda: zipped((BATCH, pickle.dumps([[]] * 9)[:-1] + b"]" * (1 << 20) + b".")), "more than"),
}


FITTING = {"many images.zip"}  # photographs that are read one by one


def pax_size(size: str) -> bytes:
    """A header that gives the next member another size."""
    line = f" size={size}\n"
    count = len(line) + len(str(len(line) + 2))
    body = f"{count}{line}".encode()
    return header("a", len(body), b"x") + body + bytes(512 - len(body))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is said of each, by name; all read in one process, which takes less than a gigabyte."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, (make, _) in BOMBS.items():
        (folder / name).write_bytes(make())
        assert (folder / name).stat().st_size < 1_200_000, name
    result = subprocess.run(
        [sys.executable, "-c", READ, *BOMBS], cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    said, kilobytes = json.loads(result.stdout)
    assert kilobytes < 1_000_000
    return dict(said)


@pytest.mark.parametrize("name", BOMBS)
def test_an_archive_of_a_megabyte_costs_one_line(name: str, answers: dict[str, str]) -> None:
    """Read as a data set, and as photographs: refused with what is wrong, whole lines, nothing else."""
    said = answers[f"read {name}"]
    assert BOMBS[name][1] in said and said.startswith(name) and "\n" not in said and len(said) < 400, said
    fitted = answers[f"fit {name}"]
    assert "\n" not in fitted and len(fitted) < 400 and bool(fitted) != (name in FITTING), fitted


def test_gzip_is_what_it_was() -> None:
    """The ratio that is taken for a bomb's is far from that of pictures: noise, and a drawing of two colours."""
    drawing = np.zeros((50, 32, 32, 3), np.uint8)
    drawing[:, 8:24, 8:24] = 255
    for images in (drawing, np.random.default_rng(0).integers(0, 256, drawing.shape).astype(np.uint8)):
        noise = images + np.random.default_rng(1).integers(0, 2, images.shape).astype(np.uint8)
        assert len(gzip.compress(noise.tobytes())) > noise.nbytes / 50
