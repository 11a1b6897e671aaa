"""Pipes, devices, full disks, names and bytes that no tool of Caffe's writes: one sentence, or what real Caffe makes of them.

Every expected outcome was seen of the real binary, but for the pipes: it waits for ever there.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import command_line_files as files
import cv2
import h5py
import numpy as np
import pytest
import test_hostile as hostile

HERE = Path(__file__).resolve().parent
folder = hostile.folder  # the fixture: data set, nets, solvers, their snapshots

PIPE, MDB = "Found a pipe, expected a file", "Check failed: mdb_status == 0"
ELSEWHERE = "Found values that lie in another file"
IMAGES = """layer { name: "d" type: "ImageData" top: "data" top: "label" image_data_param { source: "LIST" batch_size: 1 } }
layer { name: "s" type: "Silence" bottom: "data" bottom: "label" }
"""


def tag(number: int, wire: int) -> bytes:
    return bytes(hostile.hostile.varint(number << 3 | wire))


def field(number: int, payload: bytes) -> bytes:
    return tag(number, 2) + bytes(hostile.hostile.varint(len(payload))) + payload


def weights(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Caffemodels by name, and what is said of them; nothing of those that real Caffe takes."""
    whole = (folder / "x_iter_2.caffemodel").read_bytes()
    group, end = tag(2000, 3), tag(2000, 4)
    v0 = field(2, field(1, field(1, b"\xff") + field(2, b"conv") + field(50, b"")))
    return {
        "unknown group": (group + tag(1, 0) + b"\x05" + field(9, b"abc") + end + whole, ""),
        "100 groups": (group * 100 + end * 100 + whole, ""),
        "101 groups": (group * 101 + end * 101 + whole, "groups in each other, more than 100"),
        "100,000 groups": (group * 100_000 + end * 100_000 + whole, "groups in each other, more than 100"),
        "open group": (whole + group, "does not end before byte"),
        "another group's end": (whole + group + tag(2001, 4), "wire type 4"),
        "length of ten bytes": (whole + b"\x0a\x81" + b"\x80" * 8 + b"\x00a", "a key or a length of 10 bytes"),
        "V0 name of no UTF-8": (v0, ""),
        "name of no UTF-8": (whole + field(100, field(1, b"\xff\xfe")), ""),
    }


def states(folder: Path) -> dict[str, tuple[Any, str]]:
    """Changes to an HDF5 state, and what is said of them."""

    def put(name: str, value: object) -> Any:
        def change(file: Any) -> None:
            del file[name]
            file[name] = value

        return change

    def external(file: Any) -> None:
        del file["history/0"]
        file["history"].create_dataset("0", (4, 4), "f4", external=[("net.prototxt", 0, 64)])

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((4, 4), "f4")
        layout[:] = h5py.VirtualSource("pipe", "x", (4, 4))
        del file["history/0"]
        file["history"].create_virtual_dataset("0", layout)

    def chunked(file: Any) -> None:
        del file["history/0"]
        file["history"].create_dataset(
            "0", (4, 4), "f4", maxshape=(None, None), chunks=(20_000, 20_000), compression="gzip"
        )

    return {
        "iter inf": (put("iter", np.array([np.inf])), ""),
        "step nan": (put("current_step", np.array([np.nan])), ""),
        "iter beyond": (put("iter", np.array([2**64 - 1], np.uint64)), ""),
        "model in an array": (put("learned_net", np.array([b"h_iter_2.caffemodel.h5"])), ""),
        "link to a pipe": (put("history/0", h5py.ExternalLink(str(folder / "pipe"), "/x")), ELSEWHERE),
        "link to another HDF5 file": (
            put("history/0", h5py.ExternalLink("h_iter_2.caffemodel.h5", "/data")),
            ELSEWHERE,
        ),
        "values in a chunk of a gigabyte": (chunked, "found chunks of 1600000000 bytes for 64 bytes of values"),
        "values of another file": (external, f"{ELSEWHERE}, net.prototxt, expected them in"),
        "values of a pipe": (virtual, f"{ELSEWHERE}, pipe, expected them in"),
        "group in itself": (
            lambda file: file["history"].__setitem__("self", file["history"]),
            "Incorrect length of history blobs",
        ),
        "model is a pipe": (put("learned_net", np.bytes_(b"pipe")), PIPE),
    }


def databases(folder: Path) -> dict[str, tuple[bytes | None, str]]:
    """data.mdb, None for a pipe, and what is said of it. In the metas: map size at byte 32, last page at 136, transaction at 144."""
    raw = (folder / "db" / "data.mdb").read_bytes()

    def both(offset: int, value: int) -> bytes:
        changed = bytearray(raw)
        for page in (0, 4096):
            struct.pack_into("<Q", changed, page + offset, value)
        return bytes(changed)

    return {
        "pipe": (None, f"{MDB} (22 vs. 0) Invalid argument (data.mdb: {PIPE})"),
        "map of 2^62": (both(32, 2**62), f"{MDB} (12 vs. 0) Cannot allocate memory"),
        "last page -1": (both(136, 2**64 - 1), f"{MDB} (-30797 vs. 0)"),
        "odd transaction in both": (both(144, 1), ""),
    }


def test_pipes_devices_and_odd_bytes_end_as_in_caffe_or_in_a_sentence(folder: Path) -> None:
    """On the command line: weights, states, databases, lists of images and of HDF5 files, mean files, prefixes."""
    place = folder / "m"
    os.mkfifo(folder / "pipe")
    jobs, expected = [], {}

    def job(name: str, argv: str, said: str) -> None:
        jobs.append({"name": name, "folder": str(folder), "argv": argv.split()})
        expected[name] = said

    def net(name: str, text: str, said: str) -> None:
        path = place / f"places{len(jobs)}.prototxt"
        path.write_text(text)
        job(name, f"time -iterations 1 -model m/{path.name}", said)

    for name, (raw, said) in weights(folder).items():
        path = place / f"places{len(jobs)}.caffemodel"
        path.write_bytes(raw)
        job(f"weights: {name}", f"test -model net.prototxt -iterations 1 -weights m/{path.name}", said)
    for name, (change, said) in states(folder).items():
        path = place / f"places{len(jobs)}.solverstate.h5"
        shutil.copy(folder / "h_iter_2.solverstate.h5", path)
        with h5py.File(path, "r+") as file:
            change(file)
        job(f"state: {name}", f"train -solver h5.prototxt -snapshot m/{path.name}", said)
    for command in (
        "test -model net.prototxt -weights",
        "train -solver solver.prototxt -snapshot",
        "train -solver solver.prototxt -weights",
    ):
        job(f"{command} pipe", f"{command} pipe", PIPE)
    job("solver pipe", "train -solver pipe", "pipe: Found a pipe that nobody writes to, expected a file")
    job("flagfile pipe", "train -flagfile=pipe", "")

    for name, (contents, said) in databases(folder).items():
        home = place / f"places{len(jobs)}"
        home.mkdir()
        if contents is None:
            os.mkfifo(home / "data.mdb")
        else:
            (home / "data.mdb").write_bytes(contents)
        net(f"database: {name}", files.NET.replace('"db"', f'"m/{home.name}"'), said)
    shutil.copytree(folder / "db", place / "locked")
    (place / "locked" / "lock.mdb").unlink(missing_ok=True)
    (place / "locked" / "lock.mdb").mkdir()
    net("lock.mdb", files.NET.replace('"db"', '"m/locked"'), f"{MDB} (21 vs. 0) Is a directory (lock.mdb)")
    net("NUL in a source", files.NET.replace('"db"', '"a\\000b"'), f"{MDB} (2 vs. 0) No such file or directory")

    image = cv2.imencode(".jpg", np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8))[1].tobytes()
    (place / "cut.jpg").write_bytes(image[: len(image) - 100])
    for line, said in {
        "pipe 1": "Could not load pipe",
        "/dev/zero 1": "Could not load /dev/zero",
        "m/cut.jpg 1": "",
        "m/cut.jpg\0more 1": "",
        "m/cut.jpg " + "9" * 5000: "",
    }.items():
        path = place / f"list{len(jobs)}.txt"
        path.write_text(line + "\n")
        net(f"image list: {line[:20]!r}", IMAGES.replace("LIST", f"m/{path.name}"), said)
    hdf5 = IMAGES.replace("ImageData", "HDF5Data").replace("image_data", "hdf5_data")
    (place / "pipes.txt").write_text("pipe\n")
    net("HDF5 list", hdf5.replace("LIST", "m/pipes.txt"), f"Failed opening HDF5 file: pipe ({PIPE})")
    for source, found in (("pipe", "a pipe that nobody writes to"), ("/dev/zero", "a device")):
        net(
            f"list {source}",
            IMAGES.replace("LIST", source),
            f"File is empty (cannot be read: Found {found}, expected a file)",
        )
        net(f"HDF5 list {source}", hdf5.replace("LIST", source), f"Failed to open source file: {source} (Found {found}")

    for name, (shape, said) in {
        "negative": ((-1, 3, 8, -8), "Check failed: shape[i] >= 0 (-1 vs. 0)"),
        "huge": ((2**31, 2**31, 2**31), "Check failed: count_ == proto.data_size()"),
    }.items():
        mean = files.BlobProto(data=[1.0] * 192)
        mean.shape.dim.extend(shape)
        (place / f"mean_{name}").write_bytes(mean.SerializeToString())
        net(f"mean {name}", files.NET.replace("mean_value: 128", f'mean_file: "m/mean_{name}"'), said)
    mean = files.BlobProto(num=1, channels=3, height=8, width=8, data=[1.0] * 192).SerializeToString() + field(
        1000, b"fork"
    )
    (place / "mean_fork").write_bytes(mean)
    net("mean of a fork", files.NET.replace("mean_value: 128", 'mean_file: "m/mean_fork"'), "")

    for kind in ("solver", "h5"):
        text = (folder / f"{kind}.prototxt").read_text()
        old = {"solver": '"x"', "h5": '"h"'}[kind]
        longest = 255 - len("_iter_2.solverstate" + ".h5" * (kind == "h5"))
        prefixes = {
            "a" * longest: "",
            "a" * (longest + 1): "Cannot write to snapshot prefix 'aaa",
            "gone/": "Cannot write to snapshot prefix 'gone/'",
        }
        for i, (prefix, said) in enumerate(prefixes.items()):
            (place / f"{kind}{i}.prototxt").write_text(text.replace(old, f'"{prefix}"'))
            job(f"{kind} prefix {i}", f"train -solver m/{kind}{i}.prototxt", said)

    wrong = {}
    for name, answer in hostile.run_all(folder, jobs).items():
        if name == "flagfile pipe":
            assert "pipe: Found a pipe that nobody writes to, expected a file" in answer["err"], answer
            continue
        said = hostile.sentence(answer)
        if bool(said) != bool(expected[name]) or expected[name] not in said:
            wrong[name] = said
    assert not wrong, wrong


@pytest.mark.parametrize(("kind", "limit"), [("x", 0), ("x", 700), ("h", 0), ("h", 1500), ("h", 5000)])
def test_a_full_disk_leaves_the_snapshot_before(folder: Path, kind: str, limit: int) -> None:
    """No file may grow beyond `limit` bytes: status 1, one F line, what was there is there, and nothing else."""
    home = folder / f"full_{kind}{limit}"
    home.mkdir()
    solver = (folder / {"x": "solver.prototxt", "h": "h5.prototxt"}[kind]).read_text()
    (folder / f"{home.name}.prototxt").write_text(solver.replace(f'"{kind}"', f'"{home.name}/{kind}"'))
    endings = ["caffemodel", "solverstate"] if kind == "x" else ["caffemodel.h5", "solverstate.h5"]
    before = {f"{kind}_iter_2.{ending}": b"before" for ending in endings}
    for name, contents in before.items():
        (home / name).write_bytes(contents)

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    result = subprocess.run(
        [*hostile.OURS, "train", "-solver", f"{home.name}.prototxt"],
        cwd=folder,
        env=hostile.golden.environment(),
        capture_output=True,
        text=True,
        preexec_fn=full,
    )
    found = hostile.golden.fatal(result.stderr)
    assert (result.returncode, len(found)) == (1, 1), result.stderr[-2000:]
    assert "File too large" in found[0] and f"{home.name}/{kind}_iter_2.caffemodel" in found[0]
    assert "Traceback" not in result.stderr
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_a_prototxt_may_come_through_a_pipe() -> None:
    """As a shell's <(command) gives it."""
    from allconv_caffe.proto import read_net

    reading, writing = os.pipe()
    threading.Timer(0.2, lambda: (os.write(writing, b'name: "piped"'), os.close(writing))).start()
    assert read_net(f"/dev/fd/{reading}").name == "piped"
    os.close(reading)


def test_pipes_and_odd_bytes_for_the_other_commands(tmp_path: Path) -> None:
    """`allconv zoo verify` of a page that is no text; what `viz mine` wrote and a whitening as pipes; an image as a pipe."""
    from allconv_caffe import pycaffe, zoo
    from allconv_caffe.visualize.mining import TopK
    from allconv_caffe.visualize.nets.errors import VizError
    from allconv_caffe.visualize.whitening import load_whitening
    from data_prep.errors import PrepError
    from data_prep.whitening import Whitening

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for load in (TopK.load, load_whitening):
        with pytest.raises(VizError, match="a folder, a device or a pipe"):
            load(pipe)
    with pytest.raises(PrepError, match="a folder, a device or a pipe"):
        Whitening.load(pipe)
    with pytest.raises(OSError, match=PIPE):
        pycaffe.io.load_image(pipe)
    model = next((HERE.parents[1] / zoo.DEFAULT_FOLDER).glob(f"*/{zoo.CARD}")).parent
    copy = tmp_path / model.name
    shutil.copytree(model, copy)
    (copy / zoo.PAGE).unlink()
    (copy / zoo.PAGE).write_bytes(b"\xff\xfe")
    assert f"{copy / zoo.PAGE}: found another text than the card gives" in zoo.verify(copy)


def test_what_failed_once_fails_with_the_same_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that go away while a net reads them, through pycaffe; HDF5 files that come back are read on."""
    from allconv_caffe import pycaffe as caffe

    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", np.zeros((8, 8, 3), np.uint8))
    for name in ("a.h5", "b.h5"):
        with h5py.File(name, "w") as file:
            file["data"], file["label"] = np.ones((1, 3)), np.zeros(1)
    Path("images").write_text("a.png 0\ngone.png 1\n")
    Path("hdf5").write_text("a.h5\nb.h5\n")
    Path("images.prototxt").write_text(IMAGES.replace("LIST", "images"))
    text = IMAGES.replace("ImageData", "HDF5Data").replace("image_data", "hdf5_data").replace("LIST", "hdf5")
    Path("hdf5.prototxt").write_text(text)
    images, hdf5 = caffe.Net("images.prototxt", caffe.TRAIN), caffe.Net("hdf5.prototxt", caffe.TRAIN)
    os.rename("b.h5", "c.h5")
    images.forward()
    for _ in range(3):
        with pytest.raises(caffe.CaffeError) as error:
            images.forward()
        assert str(error.value) == "images.prototxt: layer 'd': Could not load gone.png"
        with pytest.raises(caffe.CaffeError, match="^hdf5.prototxt: layer 'd': Failed opening HDF5 file: b.h5"):
            hdf5.forward()
    os.rename("c.h5", "b.h5")
    hdf5.forward()
    with pytest.raises(caffe.CaffeError, match="to save weights"):
        hdf5.save_hdf5("")
