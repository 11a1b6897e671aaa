"""AugmentedData in a net: the Python layer in the drop-in, the engine's own form, the two beside each other, a training."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

import allconv_caffe.pycaffe  # noqa: F401  (answers to `import caffe` in a Python layer's module)
from allconv_caffe import augment
from allconv_caffe.caffe_torch.__main__ import main as caffe_torch
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.layers.augmented_data import AugmentedDataLayer
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.source.database import LmdbSource, Reader
from allconv_caffe.caffe_torch.source.loaded import forget_loaded
from allconv_caffe.proto import (
    TEST,
    TRAIN,
    Datum,
    LayerParameter,
    NetParameter,
    parse_text,
    read_binary,
    read_net,
    write_text,
)
from data_prep import cifar, pipeline

ROOT = Path(__file__).resolve().parents[2]
OWN = "allconv_caffe.python_layers"
NUMPY = "allconv_caffe.python_layers.augmented_data"
LAYER = """layer {{ name: "data" type: "Python" top: "data" top: "label"
  python_param {{ module: "{module}" layer: "AugmentedData" param_str: '{text}' }} }}"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    forget_loaded()
    yield
    forget_loaded()


@pytest.fixture
def records(tmp_path: Path) -> str:
    """An LMDB of 14 records, 3 x 8 x 8 bytes, labels 0 to 13."""
    rng = np.random.default_rng(3)
    return write(
        tmp_path / "lmdb", [Datum(channels=3, height=8, width=8, label=i, data=rng.bytes(192)) for i in range(14)]
    )


def write(path: Path, datums: list[Any]) -> str:
    with lmdb.open(str(path), map_size=1 << 24) as env, env.begin(write=True) as txn:
        for i, datum in enumerate(datums):
            txn.put(b"%05d" % i, datum.SerializeToString())
    return str(path)


def net(module: str, phase: int = TRAIN, **given: Any) -> Net:
    text = json.dumps({"batch_size": 4, "size": 20, "jiggle": 3, "seed": 7, **given})
    return Net(parse_text(LAYER.format(module=module, text=text), NetParameter), Context(phase=phase))


def batches(module: str, count: int, phase: int = TRAIN, **given: Any) -> list[tuple[np.ndarray, list[int]]]:
    built = net(module, phase, **given)
    found = []
    for _ in range(count):
        built.forward()
        labels = built.blobs["label"].data.tolist()
        found.append((built.blobs["data"].data.clone().numpy(), [int(label) for label in labels]))
    return found


def test_the_engine_takes_its_own_form_of_the_layer(records: str) -> None:
    """`allconv_caffe.python_layers` AugmentedData is the engine's class; named by its file it is the numpy one."""
    assert isinstance(net(OWN, source=records).layers[0], AugmentedDataLayer)
    assert not isinstance(net(NUMPY, source=records).layers[0], AugmentedDataLayer)


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_both_forms_serve_the_same_batches(records: str, phase: int) -> None:
    """Nine batches of four from 14 records, over two ends of the data set: equal labels, fields within a grey level."""
    own, numpy = (batches(module, 9, phase, source=records) for module in (OWN, NUMPY))
    for (ours, our_labels), (theirs, their_labels) in zip(own, numpy, strict=True):
        assert our_labels == their_labels
        assert np.abs(ours - theirs).max() * 128 < 0.01
    served = [label for _, labels in own for label in labels]
    assert sorted(served[:14]) == sorted(served[14:28]) == list(range(14))
    assert (served[:14] == list(range(14))) == (phase == TEST)


@pytest.mark.parametrize("module", [OWN, NUMPY])
def test_batches_are_what_augment_draws_for_their_samples(records: str, module: str) -> None:
    """Batch k holds samples 4 k to 4 k + 3: `augment` asked for them directly gives the same."""
    chosen = augment.parse(json.dumps({"source": records, "batch_size": 4, "size": 20, "jiggle": 3}), True)
    images = np.stack([image for image, _ in Reader(LmdbSource(records)).records()])
    order = augment.Order(14, 7, shuffle=True)
    for k, (fields, labels) in enumerate(batches(module, 5, source=records)):
        samples = np.arange(4 * k, 4 * k + 4)
        index = order.records(samples)
        expected = augment.distorted(chosen, images[index], augment.draw(chosen, 7, samples, (3, 8, 8)))
        assert labels == index.tolist()
        assert np.abs(fields - expected).max() * 128 < 0.01


def test_testing_is_plain_and_in_order(records: str) -> None:
    """The images as `augment.plain` sets them, records 0, 1, 2, ...; the position goes on over the end."""
    images = np.stack([image for image, _ in Reader(LmdbSource(records)).records()])
    chosen = augment.parse(json.dumps({"source": records, "batch_size": 4, "size": 20}), False)
    found = batches(OWN, 4, TEST, source=records)
    assert [labels for _, labels in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 0, 1]]
    assert np.array_equal(found[1][0], augment.plain(chosen, images[4:8]))


@pytest.mark.parametrize("module", [OWN, NUMPY])
def test_a_run_goes_on_where_it_ended(records: str, module: str) -> None:
    """`start` 8 serves what came third and fourth before; the engine's own form can be moved, too."""
    whole, rest = batches(module, 4, source=records), batches(module, 2, source=records, start=8)
    for (ours, our_labels), (theirs, their_labels) in zip(rest, whole[2:], strict=True):
        assert our_labels == their_labels and np.array_equal(ours, theirs)
    if module == OWN:
        built = net(OWN, source=records)
        layer: Any = built.layers[0]
        built.forward()
        assert layer.data_position == 4
        layer.data_position = 12
        built.forward()
        assert [int(v) for v in built.blobs["label"].data.tolist()] == whole[3][1]
        assert layer.data_position == 16


def test_without_a_seed_the_solvers_is_taken(records: str) -> None:
    """Two nets of the same random stream agree, one of another differs; the stream itself is not touched."""
    from allconv_caffe.caffe_torch.compute.rng import CaffeGenerator

    text = json.dumps({"source": records, "batch_size": 4, "size": 20})
    labels = []
    for seed in (5, 5, 6):
        context = Context(phase=TRAIN, rng=CaffeGenerator(seed))
        built = Net(parse_text(LAYER.format(module=OWN, text=text), NetParameter), context)
        built.forward()
        labels.append(built.blobs["label"].data.tolist())
        assert context.rng.words_drawn == 0  # type: ignore[attr-defined]
    assert labels[0] == labels[1] != labels[2]


def test_threads_end_with_the_layer(records: str) -> None:
    """`close` ends them; after it the layer serves on from its position."""
    built = net(OWN, source=records)
    layer: Any = built.layers[0]
    built.forward()
    assert any(thread.name.startswith("augment") for thread in threading.enumerate())
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("augment")]
    layer.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    built.forward()
    assert layer.data_position == 8
    layer.close()


def refusal(module: str, phase: int = TRAIN, **given: Any) -> str:
    with pytest.raises(CaffeError) as caught:
        net(module, phase, **given).forward()
    return str(caught.value)


def test_what_cannot_be_used_is_refused_in_one_line(records: str, tmp_path: Path) -> None:
    """A wrong setting, a missing data set, floats, several shapes: which layer, what was found, what was expected."""
    for module, start in (
        (OWN, "layer 'data': "),
        (NUMPY, f"layer 'data': {NUMPY}.AugmentedData.setup: AugmentError: "),
    ):
        assert refusal(module, source=records, jigle=3).startswith(
            f"{start}param_str: found the key 'jigle', expected one of source, batch_size, "
        )
    missing = str(tmp_path / "none")
    assert refusal(OWN, source=missing).startswith(f"layer 'data': {missing}: ")
    assert refusal(NUMPY, source=missing).endswith(f"{missing}: No such file or directory")
    floats = write(tmp_path / "floats", [Datum(channels=1, height=1, width=2, label=1, float_data=[1, 2])])
    assert "found records that are no arrays of bytes" in refusal(OWN, source=floats)
    assert "found no whole, unencoded Datum of bytes" in refusal(NUMPY, source=floats)
    shapes = [Datum(channels=1, height=1, width=n, label=1, data=bytes(n)) for n in (2, 3)]
    mixed = write(tmp_path / "mixed", shapes)
    assert "found records of several shapes" in refusal(OWN, source=mixed)
    assert refusal(NUMPY, source=mixed).endswith("record 1: found 1 x 1 x 3, expected 1 x 1 x 2, as in record 0")


# a training
def write_narrow(folder: Path, module: str, archive: Path) -> None:
    """Large-All-CNN as it is rendered, a fortieth as wide, on what `archive` holds; `module` is the data layers'.

    Two iterations distorted (solver.prototxt), two more plain (solver_plain.prototxt, taken up by -snapshot).
    """
    pipeline.prepare(archive, folder / "data", preprocessing="raw", progress=False)
    param = read_net(ROOT / "solvers" / "cifar10-large-allcnn" / "train_val.prototxt")
    for layer in param.layer:
        if layer.type == "Python":
            named = json.loads(layer.python_param.param_str)
            source = folder / "data" / Path(named["source"]).name
            start = {"start": 8} if "start" in named else {}
            layer.python_param.param_str = json.dumps(
                {**named, "source": str(source), "batch_size": 4, "seed": 3, **start}
            )
            layer.python_param.module = module
        if layer.type == "Convolution" and layer.convolution_param.num_output != 10:
            layer.convolution_param.num_output //= 40
    write_text(folder / "train_val.prototxt", param)
    for name, more in (("solver", "max_iter: 2"), ("solver_plain", 'max_iter: 4 train_state { stage: "plain" }')):
        (folder / f"{name}.prototxt").write_text(
            f'net: "{folder}/train_val.prototxt"\nbase_lr: 0.0015 lr_policy: "fixed" momentum: 0.99 type: "Nesterov"\n'
            "display: 1 test_iter: 2 test_interval: 2 random_seed: 1 solver_mode: CPU\n"
            f'snapshot_prefix: "{folder}/out" {more}\n'
        )


def losses_of(log: str) -> list[float]:
    return [float(line.rpartition("loss = ")[2]) for line in log.splitlines() if "iters), loss = " in line]


def test_large_all_cnn_trains_on_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """From the archive to the error, by either form: two distorted iterations, two plain ones; the same losses, and tests."""
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (22, 3, 32, 32)).astype(np.uint8), np.arange(12) % 10
    archive = cifar.write_python_archive(
        tmp_path / "made.tar.gz", images[:12], labels, images[12:], labels[:10], list("abcdefghij")
    )
    losses = []
    for name, module in (("own", OWN), ("numpy", NUMPY)):
        folder = tmp_path / name
        folder.mkdir()
        write_narrow(folder, module, archive)
        train = ["train", "-executor", "plain", "-solver"]
        assert caffe_torch([*train, str(folder / "solver.prototxt")]) == 0
        resumed = ["-snapshot", str(folder / "out_iter_2.solverstate")]
        assert caffe_torch([*train, str(folder / "solver_plain.prototxt"), *resumed]) == 0
        log = capfd.readouterr().err
        losses.append(losses_of(log))
        assert log.count("Test net output #0: accuracy") == 4
    assert len(losses[0]) == 4 and all(0 < loss < 1000 for loss in losses[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    learned = read_binary(tmp_path / "own" / "out_iter_4.caffemodel", NetParameter)
    weights = {layer.name: tuple(layer.blobs[0].shape.dim) for layer in learned.layer if layer.blobs}
    assert weights["conv1"] == (8, 3, 2, 2) and weights["conv18"] == (10, 48, 1, 1)


def test_the_layer_parameter_of_the_docstring_is_whole() -> None:
    """The example in the module's docstring parses, as does its param_str, once that is on one line."""
    from allconv_caffe.python_layers import augmented_data

    text = (augmented_data.__doc__ or "").split("layer {", 1)[1].split("\n    }\n", 1)[0]
    param = parse_text(" ".join(text.split()), LayerParameter)
    assert param.python_param.module == OWN and param.python_param.layer == "AugmentedData"
    assert augment.parse(param.python_param.param_str, True).seed == 1
