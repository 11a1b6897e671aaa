"""Caffe's other programs beside the real ones: the same files, byte for byte, the same log lines and exit status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import command_line_files as files
import cv2
import lmdb
import numpy as np
import pytest
import real_tools

from allconv_caffe.caffe_torch.tools.new_database import new_database
from allconv_caffe.proto import BlobProto, Datum, NetParameter, write_binary

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ ([\w.]+:\d+\] .*)")
Done = tuple[int, str, list[tuple[str, ...]]]

V1 = """name: "old"
layers { name: "d" type: DATA top: "x" data_param { source: "s" batch_size: 4 scale: 0.5 crop_size: 6 } }
layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" blobs_lr: 1 convolution_param { num_output: 4 kernel_size: 3 } }
"""


def ours(name: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "allconv_caffe.caffe_torch", name, *arguments]
    env = {**real_tools.environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def lines(err: str) -> list[tuple[str, ...]]:
    """Level, place and words of what the program itself said, whatever it had to wait for."""
    found = [match.groups() for match in map(LINE.match, err.splitlines()) if match]
    return [
        line for line in found if not line[1].startswith(("net.cpp", "layer_factory", "data_layer", "blocking_queue"))
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two equal folders: a data set with a net, pictures with a list, old files."""
    found = {}
    for who in ("real", "ours"):
        folder = found[who] = tmp_path_factory.mktemp(who)
        files.write_good(folder)
        (folder / "v1.prototxt").write_text(V1)
        (folder / "old_solver.prototxt").write_text(files.SOLVER + "solver_type: ADAM\n")
        old = NetParameter()
        old.layers.add(name="c", type=4).blobs.add(num=1, channels=1, height=1, width=3, data=[1, 2, 3.5])
        write_binary(folder / "old.caffemodel", old)
        write_binary(folder / "empty.caffemodel", NetParameter(name="n"))
        rs = np.random.RandomState(5)
        (folder / "images").mkdir()
        listed = []
        for i in range(6):
            name = ("a.png", "b.PNG", "sub dir/c.png", "grey.png", "d.bmp", "e.png")[i]
            (folder / "images" / name).parent.mkdir(exist_ok=True)
            picture = rs.randint(0, 256, (9 + i, 7, 3)[: 2 if name == "grey.png" else 3]).astype(np.uint8)
            cv2.imwrite(str(folder / "images" / name), picture)
            listed.append(f"{name} {i * 3}")
        (folder / "list.txt").write_text("\n".join([*listed, "gone.png 4", "a.png -7", "a.png"]) + "\n")
        same = [Datum(channels=1, height=2, width=2, float_data=[0.1, i, 2.5, -i], label=i) for i in range(5)]
        with lmdb.open(str(folder / "floats"), map_size=1 << 20) as env, env.begin(write=True) as txn:
            for i, datum in enumerate(same):
                txn.put(b"%d" % i, datum.SerializeToString())
        encoded = cv2.imencode(".png", rs.randint(0, 256, (4, 5, 3)).astype(np.uint8))[1].tobytes()
        with lmdb.open(str(folder / "encoded"), map_size=1 << 20) as env, env.begin(write=True) as txn:
            txn.put(b"0", Datum(data=encoded, encoded=True).SerializeToString())
    train = [str(ROOT / ".caffe" / "bin" / "caffe"), "train", "-solver", "solver.prototxt"]
    subprocess.run(train, cwd=found["real"], env=real_tools.environment(), check=True, capture_output=True)
    for folder in found.values():
        (folder / "w.caffemodel").write_bytes((found["real"] / "x_iter_8.caffemodel").read_bytes())
    return found


CASES = {
    "upgrade_net_proto_text": [
        "v1.prototxt out.prototxt",
        "net.prototxt same.prototxt",
        "solver.prototxt x",
        "a",
        "gone x",
    ],
    "upgrade_net_proto_binary": [
        "old.caffemodel new.caffemodel",
        "empty.caffemodel same.caffemodel",
        "net.prototxt x",
        "gone x",
    ],
    "upgrade_solver_proto_text": [
        "old_solver.prototxt out_solver.prototxt",
        "solver.prototxt same_solver.prototxt",
        "gone x",
    ],
    "compute_image_mean": [
        "db mean.binaryproto",
        "floats mean_floats.binaryproto",
        "encoded mean_encoded.binaryproto",
        "db",
    ],
    "convert_imageset": [
        "images/ list.txt plain",
        "-gray images/ list.txt grey",
        "--resize_height=8 --resize_width=6 images/ list.txt resized",
        "-encoded images/ list.txt encoded_as_is",
    ],
}


@pytest.mark.parametrize("tool", CASES)
def test_files_lines_and_status_are_those_of_the_real_tool(tool: str, folders: dict[str, Path]) -> None:
    """Every file written has the same bytes, a data set's data.mdb too; the same lines at the same levels and places."""
    for case in CASES[tool]:
        real, own = (call(tool, case.split(), folders[who]) for call, who in ((real_tools.run, "real"), (ours, "ours")))
        if real.returncode == -6:
            assert own.returncode == 1 and lines(own.stderr)[-1][0] == "F" and "File not found: gone" in own.stderr
            assert "File not found: gone" in real.stderr
            continue
        assert own.returncode == real.returncode, (case, real.stderr[-500:], own.stderr[-500:])
        theirs, found = lines(real.stderr), lines(own.stderr)
        if real.returncode == 2:  # ours says why, too
            found = [(level, text[: len(expected[1])]) for (level, text), expected in zip(found, theirs, strict=True)]
        assert found == theirs, case
        out = case.split()[-1]
        if real.returncode == 0 and (tool != "compute_image_mean" or len(case.split()) > 1):
            path = Path(out, "data.mdb") if tool == "convert_imageset" else Path(out)
            assert (folders["ours"] / path).read_bytes() == (folders["real"] / path).read_bytes(), case
    assert not [path.name for path in folders["ours"].iterdir() if path.name.startswith(".")]


def records(path: Path) -> list[tuple[bytes, bytes]]:
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as txn:
        return [(bytes(key), bytes(value)) for key, value in txn.cursor()]


def test_features_are_those_of_the_real_tool(folders: dict[str, Path]) -> None:
    """The same keys and Datums, floats to 2e-5; a second run into the same data sets is refused by both."""
    arguments = ["w.caffemodel", "net.prototxt", "pool1,ip,label", "f_pool,f_ip,f_label", "3", "lmdb", "CPU"]
    real, own = (
        call("extract_features", arguments, folders[who]) for call, who in ((real_tools.run, "real"), (ours, "ours"))
    )
    assert (own.returncode, lines(own.stderr)) == (real.returncode, lines(real.stderr)) and real.returncode == 0
    assert "state {\n  phase: TEST\n  level: 0\n}" in real.stderr and "level: 0" in own.stderr
    for name in ("f_pool", "f_ip", "f_label"):
        a, b = (records(folders[who] / name) for who in ("real", "ours"))
        assert [key for key, _ in a] == [key for key, _ in b] and len(a) == 15
        for (_, expected), (_, value) in zip(a, b, strict=True):
            one, two = Datum.FromString(expected), Datum.FromString(value)
            np.testing.assert_allclose(two.float_data, one.float_data, rtol=2e-5, atol=1e-6)
            two.float_data[:] = one.float_data
            assert two.SerializeToString() == expected
    again = [
        call("extract_features", arguments, folders[who]) for call, who in ((real_tools.run, "real"), (ours, "ours"))
    ]
    assert all(done.returncode for done in again) and all("mkdir f_pool failed" in done.stderr for done in again)


def test_encoded_pictures_are_the_same_pictures(folders: dict[str, Path]) -> None:
    """-encode_type png: the same keys, labels and pixels (another OpenCV may pack them otherwise)."""
    case = ["-encode_type", "png", "-resize_height", "5", "-resize_width", "4", "images/", "list.txt", "packed"]
    real, own = (
        call("convert_imageset", case, folders[who]) for call, who in ((real_tools.run, "real"), (ours, "ours"))
    )
    assert lines(own.stderr) == lines(real.stderr)
    pairs = list(zip(*(records(folders[who] / "packed") for who in ("real", "ours")), strict=True))
    assert len(pairs) == 8
    for (key, expected), (own_key, value) in pairs:
        one, two = Datum.FromString(expected), Datum.FromString(value)
        pixels = [cv2.imdecode(np.frombuffer(datum.data, np.uint8), -1) for datum in (one, two)]
        assert (key, one.label, one.encoded) == (own_key, two.label, two.encoded) and np.array_equal(*pixels)


def test_a_mean_image_feeds_a_net(folders: dict[str, Path]) -> None:
    """What the tool writes is a mean_file: the mean of the ten records, in their shape."""
    assert ours("compute_image_mean", ["db", "mean_of_ten"], folders["ours"]).returncode == 0
    mean = BlobProto.FromString((folders["ours"] / "mean_of_ten").read_bytes())
    with lmdb.open(str(folders["ours"] / "db"), readonly=True, lock=False) as env, env.begin() as txn:
        data = np.array([list(Datum.FromString(value).data) for _, value in txn.cursor()], float)
    np.testing.assert_allclose(mean.data, data.mean(0), rtol=1e-6)
    assert (mean.num, mean.channels, mean.height, mean.width) == (1, 3, 8, 8)


LEVELDB = ("CURRENT", "MANIFEST-000002", "000003.log")


def test_a_leveldb_is_that_of_the_real_tool(folders: dict[str, Path]) -> None:
    """Its files byte for byte, into a folder that is missing or empty; the same lines; and not over another."""
    for who in ("real", "ours"):
        (folders[who] / "empty_folder").mkdir()
    for case in (
        "-backend leveldb images/ list.txt level",
        "-backend leveldb -gray -resize_height 30 -resize_width 200 images/ list.txt empty_folder",
        "-backend leveldb images/ list.txt level",
    ):
        real, own = (
            call("convert_imageset", case.split(), folders[who])
            for call, who in ((real_tools.run, "real"), (ours, "ours"))
        )
        if real.returncode:
            assert (real.returncode, own.returncode) == (-6, 1)
            assert "level: exists (error_if_exists is true)" in real.stderr and "level: exists (error_if" in own.stderr
            continue
        assert lines(own.stderr) == lines(real.stderr)
        for name in LEVELDB:
            path = Path(case.split()[-1], name)
            assert (folders["ours"] / path).read_bytes() == (folders["real"] / path).read_bytes(), path


def test_a_leveldb_of_features_is_that_of_the_real_tool(folders: dict[str, Path]) -> None:
    """Of labels, which no rounding touches."""
    arguments = ["w.caffemodel", "net.prototxt", "label", "level_label", "4", "leveldb", "CPU"]
    real, own = (
        call("extract_features", arguments, folders[who]) for call, who in ((real_tools.run, "real"), (ours, "ours"))
    )
    assert (own.returncode, lines(own.stderr)) == (real.returncode, lines(real.stderr)) and real.returncode == 0
    for name in LEVELDB:
        path = Path("level_label", name)
        assert (folders["ours"] / path).read_bytes() == (folders["real"] / path).read_bytes(), path


READ = """
import json, sys, caffe
labels = []
net = caffe.Net("read.prototxt", caffe.TEST)
for _ in range(int(sys.argv[1])):
    net.forward()
    labels += [[int(label), int(data.sum())] for label, data in zip(net.blobs["label"].data, net.blobs["data"].data)]
print(json.dumps(labels))
"""


def test_the_real_caffe_reads_every_record_of_a_long_one(tmp_path: Path) -> None:
    """2,300 records, the later of two with one key, keys in no order: real pycaffe and the real tool read each of them."""
    rs, expected = np.random.RandomState(3), {}
    with new_database(str(tmp_path / "db"), "leveldb") as database:
        for i in [*rs.permutation(2300).tolist(), 7, 8]:
            pixels = rs.randint(0, 256, (3, 20, 30)).astype(np.uint8)
            expected[i] = pixels
            record = Datum(channels=3, height=20, width=30, data=pixels.tobytes(), label=i)
            database.put(b"%08d" % i, record.SerializeToString())
    (tmp_path / "read.prototxt").write_text(
        'layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "db" batch_size: 100 } }'
    )
    done = subprocess.run(
        [str(ROOT / ".caffe" / "bin" / "python"), "-W", "ignore", "-c", READ, "24"],
        cwd=tmp_path,
        env={**real_tools.environment(), "GLOG_minloglevel": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    found = json.loads(done.stdout)
    assert found == [[i % 2300, int(expected[i % 2300].sum(dtype=int))] for i in range(2400)]
    assert real_tools.run("compute_image_mean", ["-backend", "leveldb", "db", "mean"], tmp_path).returncode == 0
    mean = BlobProto.FromString((tmp_path / "mean").read_bytes())
    np.testing.assert_allclose(mean.data, np.mean(list(expected.values()), 0).ravel(), rtol=1e-5)


MISTAKES = {
    "convert_imageset -encode_type nope images/ list.txt y": "encode_type 'nope': OpenCV has no encoder of that name",
    "convert_imageset -check_size images/ list.txt y": "Incorrect data field size",
    "convert_imageset images/ list.txt db": "mkdir db failed",
    "convert_imageset -backend leveldb images/ list.txt list.txt": "Failed to open leveldb list.txt: Invalid argument",
    "convert_imageset -backend leveldb -check_size images/ list.txt y": "Incorrect data field size",
    "convert_imageset -backend leveldb images/ list.txt list.txt/y": "Failed to open leveldb list.txt/y: IO error: ",
    "convert_imageset images/ gone.txt y": "gone.txt: File is empty (cannot be read: No such file or directory)",
    "convert_imageset -backend nope images/ list.txt y": "Unknown database backend",
    "compute_image_mean gone": "mdb_status == 0",
    "compute_image_mean -backend nope db": "Unknown database backend",
    "extract_features gone net.prototxt ip y 1 lmdb": "Couldn't open gone",
    "extract_features w.caffemodel net.prototxt ip,x y,z 1 lmdb": "Unknown feature blob name x in the network net.prototxt",
    "extract_features w.caffemodel net.prototxt ip y,z 1 lmdb": "the number of blob names and dataset names must be equal",
    "extract_features w.caffemodel net.prototxt ip y 1 nope": "Unknown database backend",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(command: str, folders: dict[str, Path]) -> None:
    name, *arguments = command.split()
    done = ours(name, arguments, folders["ours"])
    fatal = [line for line in lines(done.stderr) if line[0] == "F"]
    assert done.returncode == 1 and len(fatal) == 1 and MISTAKES[command] in fatal[0][1]
    assert not [path.name for path in folders["ours"].iterdir() if path.name in ("y", "z") or path.name.startswith(".")]
    assert not done.stdout
