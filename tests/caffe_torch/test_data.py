"""Data sets and the layers that bring them into a net, without Caffe at hand."""

from __future__ import annotations

import copy
import gc
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from google.protobuf import text_format
from hypothesis import given, settings, strategies as st
from support.databases import write_lmdb

from allconv_caffe.caffe_torch import layers as _layers  # noqa: F401  (registers the layer types)
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import data_kernel
from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context, Layer, create
from allconv_caffe.caffe_torch.source.datum import decode_image, parse_datum
from allconv_caffe.caffe_torch.source.feed import POOL, _end
from allconv_caffe.caffe_torch.source.loaded import forget_loaded
from allconv_caffe.caffe_torch.source.transformer import Words
from allconv_caffe.proto import TEST, TRAIN, Datum, LayerParameter
from allconv_caffe.proto.datum import _parse_slowly, _scan


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", "64")
    forget_loaded()
    yield
    forget_loaded()


def numbered(count: int, dtype: str = "bytes", shape: tuple[int, int, int] = (1, 2, 2)) -> list[Any]:
    """Datums filled with their own number, labels ten times that."""
    size = int(np.prod(shape))
    datums = []
    for i in range(count):
        datum = Datum(channels=shape[0], height=shape[1], width=shape[2], label=10 * i)
        if dtype == "bytes":
            datum.data = bytes([i]) * size
        else:
            datum.float_data.extend([float(i)] * size)
        datums.append(datum)
    return datums


def build(text: str, phase: int = TRAIN, bottoms: int = 0) -> tuple[Layer, list[Blob]]:
    param = LayerParameter()
    text_format.Parse(text, param)
    layer = create(param, Context(phase=phase, rng=TorchGenerator(1)))
    tops = [Blob() for _ in param.top]
    layer.set_up([], tops)
    return layer, tops


def data_text(source: str, batch_size: int, more: str = "", tops: str = 'top: "data" top: "label"') -> str:
    return (
        f'name: "d" type: "Data" {tops} '
        f'data_param {{ source: "{source}" batch_size: {batch_size} backend: LMDB }} {more}'
    )


def labels(layer: Any, batches: int) -> list[list[int]]:
    return [[int(x) // 10 for x in layer.next_batch()[1]] for _ in range(batches)]


# Datum
def test_a_datum_is_read_field_by_field() -> None:
    """Shape, floats and a negative label come out of the unpacked form."""
    datum = Datum(channels=1, height=2, width=3, label=-5, float_data=[0.5, -1, 2, 3, 4, 5], encoded=False)
    record = parse_datum(datum.SerializeToString())
    assert record.image is not None
    np.testing.assert_array_equal(record.image, [[[0.5, -1, 2], [3, 4, 5]]])
    assert record.label == -5


def test_a_packed_datum_reads_the_same() -> None:
    """float_data in packed form, as some writers have it, gives the same image."""
    values = np.arange(6, dtype="<f4").tobytes()
    raw = bytes([8, 1, 16, 2, 24, 3, 0x32, len(values)]) + values + bytes([40, 7])
    record = parse_datum(raw)
    assert record.image is not None
    np.testing.assert_array_equal(record.image.ravel(), np.arange(6))
    assert record.label == 7


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(-(2**31), 2**31 - 1),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_the_quick_reader_agrees_with_protobuf(
    channels: int, height: int, width: int, label: int, floats: bool, seed: int, has_label: bool
) -> None:
    """For any ordinary Datum, reading the wire format directly gives what protobuf gives."""
    rs = np.random.RandomState(seed)
    size = channels * height * width
    datum = Datum(channels=channels, height=height, width=width)
    if has_label:
        datum.label = label
    if floats:
        datum.float_data.extend(rs.randn(size).tolist())
    else:
        datum.data = rs.randint(0, 256, size).astype(np.uint8).tobytes()
    raw = datum.SerializeToString()
    quick, slow = _scan(memoryview(raw)), _parse_slowly(raw)
    assert quick is not None
    assert quick[:3] == slow[:3] and quick[5:] == slow[5:] and bytes(quick[3]) == bytes(slow[3])
    np.testing.assert_array_equal(quick[4], slow[4])


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 90))
def test_a_cut_datum_is_refused(keep: int) -> None:
    """A record that lost its end never trains: it is an error, wherever the cut falls."""
    raw = Datum(channels=1, height=4, width=4, float_data=[1.5] * 16, label=3).SerializeToString()
    if keep >= len(raw):
        return
    with pytest.raises(CaffeError):
        parse_datum(raw[:keep])


# the Data layer
@pytest.mark.parametrize("memory", ["64", "0"], ids=["memory", "stream"])
def test_batches_wrap_inside_and_go_on(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five records in batches of three: 012 340 123 401 ..., whether kept in memory or streamed."""
    monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", memory)
    layer, tops = build(data_text(write_lmdb(tmp_path / "db", numbered(5)), 3))
    assert labels(layer, 4) == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]
    layer.forward([], tops)
    np.testing.assert_array_equal(tops[0].data[:, 0, 0, 0], [2, 3, 4])
    assert tops[0].shape == (3, 1, 2, 2) and tops[1].shape == (3,)


@pytest.mark.parametrize("memory", ["64", "0"], ids=["memory", "stream"])
def test_a_batch_may_be_larger_than_the_data_set(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two records in a batch of five: 01010, then 10101; each passing of the end is logged."""
    monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", memory)
    layer, _ = build(data_text(write_lmdb(tmp_path / "db", numbered(2)), 5))
    capsys.readouterr()
    assert labels(layer, 2) == [[0, 1, 0, 1, 0], [1, 0, 1, 0, 1]]
    assert capsys.readouterr().err.count("data_layer.cpp:73] Restarting data prefetching from start.\n") == 5


@pytest.mark.parametrize("memory", ["64", "0"], ids=["memory", "stream"])
def test_the_position_can_be_kept_and_set(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`data_position` is the next batch's first record; setting it continues there."""
    monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", memory)
    layer: Any
    layer, _ = build(data_text(write_lmdb(tmp_path / "db", numbered(7)), 3))
    assert layer.data_position == 0
    labels(layer, 1)
    assert layer.data_position == 3
    layer.data_position = 5
    assert labels(layer, 1) == [[5, 6, 0]]
    assert layer.data_position == 1
    with pytest.raises(CaffeError, match=r"record 7 \(expected 0 to 6\)"):
        layer.data_position = 7


def test_a_data_set_is_kept_once(tmp_path: Path) -> None:
    """Two layers on one source read one array, and untransformed batches are views of it."""
    source = write_lmdb(tmp_path / "db", numbered(6, "floats"))
    first, second = (build(data_text(source, 3))[0] for _ in range(2))
    a, b = first.next_batch()[0], second.next_batch()[0]  # type: ignore[attr-defined]
    assert a.data_ptr() == b.data_ptr()
    assert second.next_batch()[0].data_ptr() == a.data_ptr() + a.nbytes  # type: ignore[attr-defined]


def test_a_rewritten_data_set_is_read_again(tmp_path: Path) -> None:
    """What lies in memory is used only as long as the file is the same."""
    source = write_lmdb(tmp_path / "db", numbered(4))
    layer, _ = build(data_text(source, 2))
    assert labels(layer, 1) == [[0, 1]]
    del layer
    gc.collect()
    write_lmdb(tmp_path / "db", list(reversed(numbered(4))))
    assert labels(build(data_text(source, 2))[0], 1) == [[3, 2]]


def mixed(count: int, same_size: bool) -> list[Any]:
    """Datums as the kernel reads them and as it leaves them to Python: bytes, both kinds of floats, files, odd fields."""
    rs = np.random.RandomState(3)
    found: list[Any] = []
    for i in range(count):
        height, width = (9, 8) if same_size else (9 + i % 3, 8 + i % 2)
        image = rs.randint(0, 256, (3, height, width)).astype(np.uint8)
        datum = Datum(channels=3, height=height, width=width, label=10 * i)
        if i % 5 == 0:
            ok, encoded = cv2.imencode(".png", image.transpose(1, 2, 0))
            assert ok
            datum.data, datum.encoded = encoded.tobytes(), True
        elif i % 5 == 1:
            datum.float_data.extend(image.ravel().tolist())
        else:
            datum.data = image.tobytes()
        raw = datum.SerializeToString()
        if i % 5 == 3:
            raw += bytes([0x78, 1])  # a field that no Datum has
        if i % 5 == 4:
            datum.ClearField("data")
            values = image.astype("<f4").tobytes()
            raw = datum.SerializeToString() + bytes([0x32, 0x80 | len(values) % 128, len(values) // 128]) + values
        found.append(raw)
    return found


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("same_size", [True, False])
def test_a_stream_gives_what_one_record_at_a_time_gives(
    same_size: bool, compiled: bool, threads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is read, on however many threads: the batches of a loop over records that draws for each in turn."""
    monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", "0")
    monkeypatch.setenv("ALLCONV_DATA_THREADS", threads)
    if compiled:
        assert data_kernel.load() is not None
    else:
        monkeypatch.setattr(data_kernel, "load", lambda: None)
    raws = mixed(23, same_size)
    source = write_lmdb(tmp_path / "db", raws)
    layer: Any
    layer, tops = build(data_text(source, 7, "transform_param { crop_size: 6 mirror: true mean_value: 3 scale: 0.5 }"))
    words = Words(0)
    words._bits = copy.deepcopy(layer.transformer._words._bits)
    position = 0
    for _ in range(8):
        layer.forward([], tops)
        for i in range(7):
            record = parse_datum(raws[position])
            image = decode_image(record.encoded) if record.image is None else record.image
            mirror, top, left = words.draw(3) % (2, image.shape[1] - 5, image.shape[2] - 5)
            crop = (image[:, top : top + 6, left : left + 6].astype(np.float32) - np.float32(3)) * np.float32(0.5)
            np.testing.assert_array_equal(tops[0].data[i].numpy(), crop[:, :, ::-1] if mirror else crop)
            assert float(tops[1].data[i]) == record.label == 10 * position
            position = (position + 1) % len(raws)
    layer.close()


def test_a_batch_of_its_own_is_taken_and_the_data_sets_is_not(tmp_path: Path) -> None:
    """Who writes into a top never writes into the data set that is kept in memory; what is made for it is not copied."""
    source = write_lmdb(tmp_path / "db", numbered(2, "floats", (1, 8, 8)))
    layer, tops = build(data_text(source, 2))
    layer.forward([], tops)
    tops[0].data.fill_(7)
    tops[1].data.fill_(7)
    layer.forward([], tops)
    assert tops[0].data[:, 0, 0, 0].tolist() == [0, 1] and tops[1].data.tolist() == [0, 10]
    layer, tops = build(data_text(source, 2, "transform_param { scale: 2 }"))
    layer.forward([], tops)
    before = tops[0].data
    layer.forward([], tops)
    assert before.data_ptr() != tops[0].data.data_ptr() and tops[0].data[:, 0, 0, 0].tolist() == [0, 2]


def test_a_bad_number_of_threads_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ALLCONV_DATA_THREADS must be a number from 1 on."""
    monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", "0")
    monkeypatch.setenv("ALLCONV_DATA_THREADS", "0")
    assert message(data_text(write_lmdb(tmp_path / "db", numbered(2)), 1), 1).startswith("ALLCONV_DATA_THREADS=0: ")


def test_one_top_means_no_labels(tmp_path: Path) -> None:
    """With one top, a batch is the images alone."""
    layer, tops = build(data_text(write_lmdb(tmp_path / "db", numbered(4)), 2, tops='top: "data"'))
    layer.forward([], tops)
    np.testing.assert_array_equal(tops[0].data[:, 0, 0, 0], [0, 1])


def test_a_streaming_layer_ends_its_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the layer is gone, so are its threads: none must be inside PyTorch when the interpreter ends."""
    monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", "0")
    monkeypatch.setenv("ALLCONV_DATA_THREADS", "2")
    before = set(threading.enumerate())
    layer: Any
    layer, _ = build(data_text(write_lmdb(tmp_path / "db", numbered(9)), 2))
    layer.next_batch()
    threads = set(threading.enumerate()) - before
    assert len(threads) > 1
    del layer
    gc.collect()
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("name", ["data_0", "data prefetch", "other"])
def test_a_feed_can_end_in_any_thread(name: str) -> None:
    """The collector may run in a thread of the feed's own: that one ends without waiting for itself."""
    stop, ready = threading.Event(), queue.Queue()
    thread = threading.Thread(target=stop.wait, daemon=True)
    thread.start()
    pool = ThreadPoolExecutor(1, thread_name_prefix=POOL)
    ended: Future[None] = Future()

    def end() -> None:
        try:
            threading.current_thread().name = name
            _end(thread, stop, ready, pool)
            ended.set_result(None)
        except BaseException as error:
            ended.set_exception(error)

    if name == "data_0":
        pool.submit(end)
    else:
        threading.Thread(target=end).start()
    ended.result(10)
    assert not thread.is_alive()


def test_streaming_serves_sizes_that_differ(tmp_path: Path) -> None:
    """Images of different size are cropped one by one; without a crop, one batch must be of one size."""
    datums = numbered(1, shape=(1, 4, 4)) + numbered(1, shape=(1, 5, 6)) + numbered(2, shape=(1, 3, 3))
    source = write_lmdb(tmp_path / "db", datums)
    layer, tops = build(data_text(source, 4, "transform_param { crop_size: 3 mirror: true }"))
    layer.forward([], tops)
    assert tops[0].shape == (4, 1, 3, 3)
    layer, tops = build(data_text(source, 1))
    shapes = []
    for _ in range(3):
        layer.forward([], tops)
        shapes.append(tops[0].shape)
    assert shapes == [(1, 1, 4, 4), (1, 1, 5, 6), (1, 1, 3, 3)]
    layer, tops = build(data_text(source, 2))
    with pytest.raises(CaffeError, match=r"Check failed: datum_height == height \(5 vs. 4\)"):
        layer.forward([], tops)


def png(shape: tuple[int, ...], value: int = 9) -> bytes:
    ok, encoded = cv2.imencode(".png", np.full(shape, value, np.uint8))
    assert ok
    return bytes(encoded.tobytes())


def test_encoded_records_are_decoded(tmp_path: Path) -> None:
    """An image file in a Datum keeps its channels; force_gray and force_color change their number."""
    source = write_lmdb(tmp_path / "db", [Datum(encoded=True, data=png((4, 5, 3)), label=1)])
    for force, channels in (("", 3), ("force_gray: true", 1), ("force_color: true", 3)):
        _, tops = build(data_text(source, 1, f"transform_param {{ {force} }}"))
        assert tops[0].shape == (1, channels, 4, 5)
    with pytest.raises(CaffeError, match="cannot set both force_color and force_gray"):
        build(data_text(source, 1, "transform_param { force_color: true force_gray: true }"))


def message(text: str, forwards: int = 0) -> str:
    with pytest.raises(CaffeError) as caught:
        layer, tops = build(text)
        for _ in range(forwards):
            layer.forward([], tops)
    return str(caught.value)


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    """Caffe's sentence, with the path that Caffe leaves out."""
    path = tmp_path / "absent"
    assert message(data_text(str(path), 2)) == (
        f"{path}: Check failed: mdb_status == 0 (2 vs. 0) No such file or directory"
    )
    (tmp_path / "file").write_text("x")
    assert "mdb_status == 0 (20 vs. 0) Not a directory" in message(data_text(str(tmp_path / "file"), 2))
    (tmp_path / "folder").mkdir()
    assert message(data_text(str(tmp_path / "folder"), 2)).startswith(f"{tmp_path}/folder: Check failed: mdb_status")


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    """No records: Caffe's sentence, the path and the reason."""
    source = write_lmdb(tmp_path / "db", [])
    assert message(data_text(source, 2)) == (
        f"{source}: Check failed: datum_channels > 0 (0 vs. 0): the data set has no records"
    )


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("memory", ["64", "0"], ids=["memory", "stream"])
def test_a_broken_record_is_named(memory: str, threads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A truncated record stops with its number and key."""
    monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", memory)
    monkeypatch.setenv("ALLCONV_DATA_THREADS", threads)
    good = numbered(3)
    source = write_lmdb(tmp_path / "db", [good[0], good[1], good[2].SerializeToString()[:-4]])
    assert message(data_text(source, 2), 3).startswith(f"{source}: record 2 (key '00000002'): ")
    short = Datum(channels=1, height=2, width=2, data=b"abc")
    source = write_lmdb(tmp_path / "db2", [short])
    assert message(data_text(source, 1)) == (
        f"{source}: record 0 (key '00000000'): a Datum of 1 x 2 x 2 holds 3 values, expected 4"
    )
    source = write_lmdb(tmp_path / "db3", [Datum(encoded=True, data=b"no image")])
    assert message(data_text(source, 1)).endswith("record 0 (key '00000000'): Could not decode datum ")


def test_a_crop_must_fit(tmp_path: Path) -> None:
    """A crop larger than the image stops at set-up."""
    source = write_lmdb(tmp_path / "db", numbered(2, shape=(1, 4, 3)))
    assert message(data_text(source, 2, "transform_param { crop_size: 4 }")) == (
        f"{source}: Check failed: datum_width >= crop_size (3 vs. 4)"
    )


def test_leveldb_points_to_lmdb(tmp_path: Path) -> None:
    """backend LEVELDB, also by default, says what to do, unless plyvel is installed."""
    try:
        import plyvel  # type: ignore[import-not-found]  # noqa: F401

        pytest.skip("plyvel is installed")
    except ImportError:
        pass
    text = message('name: "d" type: "Data" top: "x" data_param { source: "some/path" batch_size: 1 }')
    assert text.startswith("some/path: backend LEVELDB cannot be read") and "backend: LMDB" in text


def test_a_bad_memory_limit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ALLCONV_DATA_MEMORY_MB must be a number."""
    monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", "much")
    assert message(data_text(write_lmdb(tmp_path / "db", numbered(2)), 1), 1).startswith(
        "ALLCONV_DATA_MEMORY_MB=much: "
    )


def test_set_up_takes_caffes_number_of_words(tmp_path: Path) -> None:
    """One word of the main stream, three where crops or mirrors are random: what follows draws as in Caffe."""
    source = write_lmdb(tmp_path / "db", numbered(2, shape=(1, 4, 4)))
    for transform, phase, words in (
        ("", TRAIN, 1),
        ("crop_size: 2", TEST, 1),
        ("crop_size: 2", TRAIN, 3),
        ("mirror: true", TEST, 3),
    ):
        taken: list[int] = []

        class Counting(TorchGenerator):
            def word(self, taken: list[int] = taken) -> int:
                taken.append(1)
                return super().word()

        param = LayerParameter()
        text_format.Parse(data_text(source, 1, f"transform_param {{ {transform} }}"), param)
        create(param, Context(phase=phase, rng=Counting(1))).set_up([], [Blob(), Blob()])
        assert len(taken) == words, (transform, phase)


# the other layers
def test_input_only_gives_shapes() -> None:
    """Shapes once, or once per top; what was written into a top stays."""
    layer, tops = build('name: "i" type: "Input" top: "a" top: "b" input_param { shape { dim: 2 dim: 3 } }')
    tops[1].data = torch.ones(2, 3)
    layer.forward([], tops)
    assert tops[0].shape == (2, 3) and float(tops[1].data.sum()) == 6
    text = 'name: "i" type: "Input" top: "a" top: "b" top: "c" input_param { shape { dim: 2 } shape { dim: 2 } }'
    assert message(text) == ("Must specify 'shape' once, once per top blob, or not at all: 3 tops vs. 2 shapes.")


def test_dummy_data_fills_constants_once() -> None:
    """Constants are filled at set-up and never again; noise at each forward and not before."""
    layer, tops = build(
        'name: "d" type: "DummyData" top: "a" top: "b" dummy_data_param { shape { dim: 2 dim: 3 } '
        'data_filler { type: "constant" value: 4 } data_filler { type: "gaussian" std: 1 } }'
    )
    assert float(tops[0].data.sum()) == 24 and float(tops[1].data.abs().sum()) == 0
    tops[0].data = torch.zeros(2, 3)
    layer.forward([], tops)
    first = tops[1].data.clone()
    layer.forward([], tops)
    assert float(tops[0].data.sum()) == 0
    assert float(first.abs().sum()) > 0 and not torch.equal(first, tops[1].data)


def test_dummy_data_takes_legacy_shapes_and_refuses_mixtures() -> None:
    """num, channels, height and width make a shape of four axes; both forms together, or odd counts, stop."""
    legacy = "num: 2 channels: 3 height: 4 width: 5"
    _, tops = build(f'name: "d" type: "DummyData" top: "a" dummy_data_param {{ {legacy} }}')
    assert tops[0].shape == (2, 3, 4, 5)
    both = f'name: "d" type: "DummyData" top: "a" dummy_data_param {{ {legacy} shape {{ dim: 1 }} }}'
    assert message(both) == "Both shape and legacy fields were specified"
    none = 'name: "d" type: "DummyData" top: "a" dummy_data_param { }'
    assert message(none) == "Must specify 'shape' once, or once per top blob (1); specified 0."


def test_memory_data_serves_the_callers_arrays() -> None:
    """Batches cycle through the arrays, which are not copied; a ragged length is refused."""
    text = 'name: "m" type: "MemoryData" top: "x" top: "y" memory_data_param { batch_size: 2 channels: 1 height: 1 width: 1 }'
    layer: Any
    layer, tops = build(text)
    assert message(text, 1) == "MemoryDataLayer needs to be initialized by calling Reset"
    values = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
    layer.reset(values, np.arange(4, dtype=np.float32))
    seen = []
    for i in range(3):
        layer.forward([], tops)
        seen.append(tops[0].data.reshape(-1).tolist())
        if i == 0:
            values[2] = 50
    assert seen == [[0, 1], [50, 3], [0, 1]]
    assert tops[1].shape == (2, 1, 1, 1)
    with pytest.raises(CaffeError, match="n must be a multiple of batch size"):
        layer.reset(values[:3], np.zeros(3, np.float32))


def test_image_lists_follow_caffes_reading(tmp_path: Path) -> None:
    """The label stands after the last space; no number counts 0; names may hold spaces."""
    from allconv_caffe.caffe_torch.layers.data_image import read_list

    (tmp_path / "list.txt").write_text("a b.png 3\nc.png x\nd.png\ne.png -2 ")
    assert read_list(str(tmp_path / "list.txt")) == [("a b.png", 3), ("c.png", 0), ("d.png", 0), ("e.png -2", 0)]
    (tmp_path / "empty.txt").write_text("")
    text = f'name: "i" type: "ImageData" top: "x" top: "y" image_data_param {{ source: "{tmp_path}/empty.txt" }}'
    assert message(text) == f"{tmp_path}/empty.txt: File is empty"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("+3", 3),
        ("-2x", -2),
        (" \t4", 4),
        ("0x10", 0),
        ("", 0),
        ("x", 0),
        ("4294967297", 1),
        ("9" * 30, -1),
        ("2147483648", -(2**31)),
        ("\u0663", 0),
    ],
)
def test_labels_are_what_atoi_makes_of_them(text: str, number: int) -> None:
    """glibc: strtol, 64 bits and no more, of which an int keeps the low 32."""
    from allconv_caffe.caffe_torch.layers.data_image import c_integer

    assert c_integer(text) == number


def test_fillers_of_a_blob_without_axes_say_so() -> None:
    for kind in ("xavier", "msra", "positive_unitball"):
        text = (
            f'name: "d" type: "DummyData" top: "x" dummy_data_param {{ shape {{ }} data_filler {{ type: "{kind}" }} }}'
        )
        assert "axis 0 out of range for 0-D Blob with shape (1)" in message(text, 1)


def test_image_data_cycles_and_names_what_is_missing(tmp_path: Path) -> None:
    """Images in list order, wrapping; a file that cannot be read is named."""
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png((2, 2, 3), i))
    (tmp_path / "list.txt").write_text("0.png 0\n1.png 1\n2.png 2\n")
    text = (
        'name: "i" type: "ImageData" top: "x" top: "y" image_data_param '
        f'{{ source: "{tmp_path}/list.txt" root_folder: "{tmp_path}/" batch_size: 2 }}'
    )
    layer: Any
    layer, tops = build(text)
    seen = []
    for _ in range(3):
        layer.forward([], tops)
        seen.append((tops[0].data[:, 0, 0, 0].tolist(), tops[1].data.tolist()))
    assert seen == [([0, 1], [0, 1]), ([2, 0], [2, 0]), ([1, 2], [1, 2])]
    layer.close()
    (tmp_path / "list.txt").write_text("gone.png 0\n")
    assert message(text) == "Could not load gone.png"


def hdf5(folder: Path, rows: list[int]) -> str:
    start = 0
    for i, n in enumerate(rows):
        with h5py.File(folder / f"{i}.h5", "w") as file:
            file["x"] = np.arange(start, start + n).reshape(n, 1)
            file["y"] = np.arange(start, start + n) * 0.5
        start += n
    (folder / "list.txt").write_text(" ".join(f"{folder}/{i}.h5" for i in range(len(rows))))
    return (
        f'name: "h" type: "HDF5Data" top: "x" top: "y" hdf5_data_param {{ source: "{folder}/list.txt" batch_size: 4 }}'
    )


def test_hdf5_batches_span_files(tmp_path: Path) -> None:
    """Rows run on from file to file and around; integers become floats."""
    layer, tops = build(hdf5(tmp_path, [3, 2]))
    seen = []
    for _ in range(3):
        layer.forward([], tops)
        seen.append(tops[0].data.reshape(-1).tolist())
    assert seen == [[0, 1, 2, 3], [4, 0, 1, 2], [3, 4, 0, 1]]
    assert tops[0].shape == (4, 1) and tops[1].shape == (4,)


def test_hdf5_mistakes_are_named(tmp_path: Path) -> None:
    """A missing list, file or data set, text instead of numbers, and a transformation are refused in Caffe's words."""
    text = hdf5(tmp_path, [3])
    assert message(text.replace("list.txt", "none.txt")) == f"Failed to open source file: {tmp_path}/none.txt"
    assert message(text + " transform_param { scale: 2 }") == "HDF5Data does not transform data."
    assert message(text.replace('top: "x"', 'top: "z"')) == f"{tmp_path}/0.h5: Failed to find HDF5 dataset z"
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["x"], file["y"] = ["a", "b"], [1, 2]
    assert message(text) == f"{tmp_path}/0.h5: Unsupported datatype class: H5T_STRING"
    (tmp_path / "0.h5").unlink()
    assert message(text).startswith(f"Failed opening HDF5 file: {tmp_path}/0.h5 (")


def test_c_rand_is_glibcs() -> None:
    """The first numbers of rand() after srand(1), as any C program on Linux prints them."""
    from allconv_caffe.caffe_torch.layers.data_hdf5 import CRand

    generator = CRand()
    assert [generator.rand() for _ in range(5)] == [1804289383, 846930886, 1681692777, 1714636915, 1957747793]


def test_hdf5_output_writes_one_batch(tmp_path: Path) -> None:
    """data and label stand in the file with four axes; a second forward stops."""
    param = LayerParameter()
    text_format.Parse(
        f'name: "o" type: "HDF5Output" bottom: "x" bottom: "y" hdf5_output_param {{ file_name: "{tmp_path}/o.h5" }}',
        param,
    )
    layer = create(param, Context())
    bottoms = [Blob((2, 3)), Blob((2,))]
    bottoms[0].data = torch.arange(6.0).reshape(2, 3)
    layer.set_up(bottoms, [])
    layer.forward(bottoms, [])
    with h5py.File(tmp_path / "o.h5", "r") as file:
        assert file["data"].shape == (2, 3, 1, 1) and file["label"].shape == (2, 1, 1, 1)
        np.testing.assert_array_equal(file["data"][()].ravel(), np.arange(6))
    with pytest.raises(CaffeError, match="Failed to make float dataset data"):
        layer.forward(bottoms, [])
