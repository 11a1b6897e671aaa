"""caffe.Net and the solvers: what pycaffe's users do with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import allconv_caffe.pycaffe as caffe
from allconv_caffe.pycaffe import draw
from allconv_caffe.pycaffe.proto import caffe_pb2

NET = """
name: "tiny" force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""

TRAIN_NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
        shape { dim: 4 dim: 3 } shape { dim: 4 } data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "train.prototxt" base_lr: 0.5 momentum: 0 lr_policy: "step" gamma: 0.1 stepsize: 2 max_iter: 4
test_iter: 1 test_interval: 100 snapshot_prefix: "snap" random_seed: 3 {}"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOG_minloglevel", "2")
    Path("net.prototxt").write_text(NET)
    Path("train.prototxt").write_text(TRAIN_NET)
    Path("solver.prototxt").write_text(SOLVER.format(""))


def tiny() -> Any:
    caffe.set_random_seed(1)
    return caffe.Net("net.prototxt", caffe.TEST)


def test_shapes_are_integers_and_arrays_are_new() -> None:
    """What is no integer is named, known shape or not; an array that a user bends is not given to the next one."""
    net = caffe.Net.from_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }', caffe.TEST
    )
    blob = net.blobs["x"]
    for wrong in ((1.0, 2), (1, 2.0), ([1], 2), ("1", 2)):
        with pytest.raises(TypeError, match=r"^Blob\.reshape: expected integers, found "):
            blob.reshape(*wrong)
    blob.reshape(True, np.int64(2))
    assert blob.shape == (1, 2) and {type(dim) for dim in blob.shape} == {int}
    blob.data[...] = 3
    bent = blob.data
    bent.shape = (2,)
    bent.flags.writeable = False
    assert blob.data.shape == (1, 2) and blob.data.flags.writeable and blob.data is not blob.data
    blob.data[0, 0] = 4
    assert bent.tolist() == [4, 3]


def test_a_write_through_a_flat_view_reaches_the_net() -> None:
    """data.reshape(-1)[...] = v of any blob or parameter is what the net computes with; views stay live."""
    net = tiny()
    net.params["ip"][0].data.reshape(-1)[...] = 1
    net.params["ip"][1].data[...] = [0, 0, 0, -100]
    net.blobs["data"].data.reshape(-1)[...] = 2
    view = net.blobs["ip"].data
    net.forward()
    np.testing.assert_array_equal(view, [[6, 6, 6, 0]] * 2)
    net.blobs["ip"].data.reshape(-1)[...] = 0
    np.testing.assert_allclose(net.forward(start="prob")["prob"], np.full((2, 4), 0.25))
    for blob in net.blobs.values():
        assert blob.data.dtype == blob.diff.dtype == np.float32
        assert blob.data.flags.c_contiguous and blob.diff.flags.c_contiguous
    with pytest.raises(AttributeError):
        net.blobs["ip"].data = view


def test_names_and_shapes() -> None:
    """Names, ids, shapes and types are those of the prototxt; lookups that fail say what there is."""
    net = tiny()
    assert list(net.blobs) == net._blob_names == ["data", "ip", "prob"]
    assert list(net.layer_dict) == net._layer_names == ["data", "ip", "relu", "prob"]
    assert (net.inputs, net.outputs, net._inputs, net._outputs) == (["data"], ["prob"], [0], [2])
    assert net.top_names["relu"] == net.bottom_names["relu"] == ["ip"]
    assert (net._top_ids(1), net._bottom_ids(1)) == ([1], [0])
    assert [layer.type for layer in net.layers] == ["Input", "InnerProduct", "ReLU", "Softmax"]
    assert list(net.params) == ["ip"] and [blob.shape for blob in net.params["ip"]] == [(4, 3), (4,)]
    assert (net.blobs["data"].num, net.blobs["data"].channels, net.blobs["data"].width, net.blobs["data"].count) == (
        2,
        3,
        1,
        6,
    )
    assert net.blob_loss_weights["prob"] == 0
    with pytest.raises(ValueError, match="'nope' is not in list"):
        net.forward(end="nope")
    with pytest.raises(IndexError, match="Invalid layer id"):
        net._top_ids(4)


def test_inputs_are_checked() -> None:
    """Keywords must be exactly the inputs, with the batch's length; likewise diffs and outputs."""
    net = tiny()
    out = net.forward(blobs=["ip"], data=np.ones((2, 3)))
    assert sorted(out) == ["ip", "prob"]
    assert list(net.backward(prob=np.ones((2, 4)), diffs=["ip"])) == ["data", "ip"]
    for call, message in (
        (lambda: net.forward(image=np.ones((2, 3))), "Input blob arguments do not match net inputs."),
        (lambda: net.forward(data=np.ones((1, 3))), "Input is not batch sized"),
        (lambda: net.backward(ip=np.ones((2, 4))), "Top diff arguments do not match net outputs."),
        (lambda: net.backward(prob=np.ones((3, 4))), "Diff is not batch sized"),
    ):
        with pytest.raises(Exception, match=message):
            call()


def test_forward_all_cuts_the_padding() -> None:
    """Five rows through a batch of two give five rows, each as if alone; diffs come back alike."""
    net = tiny()
    data = np.random.RandomState(0).randn(5, 3).astype(np.float32)
    expected = np.concatenate([net.forward(data=np.stack([row, row]))["prob"][:1].copy() for row in data])
    np.testing.assert_allclose(net.forward_all(data=data)["prob"], expected, rtol=1e-6)
    outs, diffs = net.forward_backward_all(blobs=["ip"], data=data, prob=np.ones((5, 4)))
    np.testing.assert_allclose(outs["prob"], expected, rtol=1e-6)
    assert outs["ip"].shape == (5, 4) and diffs["data"].shape == (5, 3)


def test_reshape_changes_the_whole_net() -> None:
    """An input that was reshaped passes its size on."""
    net = tiny()
    net.blobs["data"].reshape(7, 3)
    net.reshape()
    assert net.blobs["prob"].shape == (7, 4)
    with pytest.raises(RuntimeError, match="takes no kwargs"):
        net.blobs["data"].reshape(shape=(1, 3))


@pytest.mark.parametrize("format", ["protobuf", "hdf5"])
def test_weights_come_back(format: str) -> None:
    """Weights come back from both formats, by every constructor; share_with makes them the same memory."""
    net = tiny()
    net.save_hdf5("w.h5") if format == "hdf5" else net.save("w.caffemodel")
    name = "w.h5" if format == "hdf5" else "w.caffemodel"
    for other in (
        caffe.Net("net.prototxt", name, caffe.TEST),
        caffe.Net("net.prototxt", caffe.TEST, weights=name),
        caffe.Net.from_text(NET, caffe.TEST, weights=name),
    ):
        np.testing.assert_array_equal(other.params["ip"][0].data, net.params["ip"][0].data)
    other = caffe.Net("net.prototxt", caffe.TRAIN)
    other.load_hdf5(name) if format == "hdf5" else other.copy_from(name)
    np.testing.assert_array_equal(other.params["ip"][0].data, net.params["ip"][0].data)
    other.share_with(net)
    net.params["ip"][0].data[...] = 5
    assert (other.params["ip"][0].data == 5).all()


def test_missing_files_and_bad_arguments() -> None:
    """What cannot be opened is a RuntimeError; what makes Caffe abort is a CaffeError with Caffe's text."""
    net = tiny()
    Path("bad.prototxt").write_text('layer { name: "x" type: "Nope" top: "x" }')
    for call, error, message in (
        (lambda: caffe.Net("no.prototxt", caffe.TEST), RuntimeError, "Could not open file no.prototxt"),
        (lambda: caffe.Net("net.prototxt", caffe.TEST, weights="no"), RuntimeError, "Could not open file no"),
        (lambda: caffe.Net("net.prototxt"), TypeError, "phase"),
        (lambda: caffe.Net("bad.prototxt", caffe.TEST), caffe.CaffeError, "Unknown layer type: Nope"),
        (lambda: net.copy_from("no.caffemodel"), caffe.CaffeError, "Couldn't open no.caffemodel"),
        (lambda: net._forward(0, 9), caffe.CaffeError, "Check failed: end < layers_.size()"),
        (lambda: net.set_input_arrays(np.ones((2, 3)), np.ones(2)), RuntimeError, "first layer is a MemoryDataLayer"),
        (lambda: caffe.set_random_seed(-1), OverflowError, "negative"),
        (lambda: caffe.set_random_seed("x"), TypeError, "integer"),
        (lambda: caffe.SGDSolver("no.prototxt"), caffe.CaffeError, "File not found: no.prototxt"),
        (
            lambda: caffe.NCCL(caffe.SGDSolver("solver.prototxt"), b"x"),
            caffe.CaffeError,
            "NCCL: found uid b'x', expected one that NCCL.new_uid",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_memory_data_serves_the_callers_arrays() -> None:
    """set_input_arrays takes float32 arrays of the layer's shape, a multiple of the batch, and refuses others."""
    net = caffe.Net.from_text(
        'layer { name: "d" type: "MemoryData" top: "data" top: "label" '
        "memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 } }",
        caffe.TEST,
    )
    data = np.random.RandomState(0).rand(4, 1, 2, 3).astype(np.float32)
    net.set_input_arrays(data, np.arange(4, dtype=np.float32))
    for first in (0, 2, 0):
        net.forward()
        np.testing.assert_array_equal(net.blobs["data"].data, data[first : first + 2])
        assert net.blobs["label"].data.reshape(-1).tolist() == [first, first + 1]
    labels = np.zeros(4, np.float32)
    for bad, message in (
        (data[:, :, :, ::-1], "data array must be C contiguous"),
        (data[0], "data array must be 4-d"),
        (data.astype(float), "data array must be float32"),
        (np.zeros((4, 2, 2, 3), np.float32), "data array has wrong number of channels"),
        (np.zeros((4, 1, 1, 3), np.float32), "data array has wrong height"),
        (np.zeros((4, 1, 2, 1), np.float32), "data array has wrong width"),
        (data[:2], "data and labels must have the same first dimension"),
    ):
        with pytest.raises(RuntimeError, match=message):
            net.set_input_arrays(bad, labels)
    with pytest.raises(RuntimeError, match="multiple of batch size"):
        net.set_input_arrays(data[:3], labels[:3])


def test_callbacks_see_every_layer() -> None:
    """before_ and after_ callbacks get the layer's index, in the order of the pass."""
    net, seen = tiny(), []
    net.before_forward(lambda i: seen.append(("before", i)))
    net.after_forward(lambda i: seen.append(("after", i)))
    net.before_backward(lambda i: seen.append(("before back", i)))
    net.after_backward(lambda i: seen.append(("after back", i)))
    net.forward(start="ip", end="relu")
    net.backward(start="relu", end="ip")
    assert seen == [
        ("before", 1),
        ("after", 1),
        ("before", 2),
        ("after", 2),
        ("before back", 2),
        ("after back", 2),
        ("before back", 1),
        ("after back", 1),
    ]


def test_layers_run_by_hand() -> None:
    """A layer's own reshape, forward and backward take lists of blobs."""
    net = tiny()
    net.blobs["data"].data[...] = 1
    ip, data, top = net.layers[1], net.blobs["data"], net.blobs["ip"]
    ip.reshape([data], [top])
    ip.forward([data], [top])
    np.testing.assert_allclose(top.data, data.data @ ip.blobs[0].data.T, rtol=1e-6)
    top.diff[...] = 1
    ip.backward([top], [True], [data])
    np.testing.assert_allclose(data.diff, top.diff @ ip.blobs[0].data, rtol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_solvers_learn_and_resume(name: str) -> None:
    """Every solver class trains; get_solver gives the same class; a restored state has the same weights and iteration."""
    Path("solver.prototxt").write_text(SOLVER.format(f'type: "{name}"'))
    cls = getattr(caffe, f"{name}Solver")
    solver = cls("solver.prototxt")
    assert type(caffe.get_solver("solver.prototxt")) is cls and issubclass(cls, caffe.SGDSolver)
    before = solver.net.params["ip"][0].data.copy()
    solver.step(3)
    assert solver.iter == 3 and not np.array_equal(before, solver.net.params["ip"][0].data)
    assert abs(solver.lr - 0.05) < 1e-7
    solver.snapshot()
    other = cls("solver.prototxt")
    other.restore("snap_iter_3.solverstate")
    assert other.iter == 3
    np.testing.assert_array_equal(other.net.params["ip"][0].data, solver.net.params["ip"][0].data)
    other.solve("snap_iter_3.solverstate")
    assert other.iter == 4


def test_who_trains_by_hand_needs_no_policy() -> None:
    """A solver file without lr_policy gives a net to move; only a step asks for the policy."""
    Path("solver.prototxt").write_text('net: "train.prototxt" random_seed: 3')
    solver = caffe.SGDSolver("solver.prototxt")
    losses = []
    for _ in range(5):
        solver.net.clear_param_diffs()
        losses.append(float(solver.net.forward()["loss"]))
        solver.net.backward()
        for blobs in solver.net.params.values():
            for blob in blobs:
                blob.data[...] -= 0.5 * blob.diff
    assert losses[-1] < losses[0]
    solver.step(0)
    with pytest.raises(caffe.CaffeError, match="Unknown learning rate policy"):
        solver.step(1)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("layer", ["Convolution", "Im2col", "Pooling", "Pooling AVE"])
def test_an_image_smaller_than_the_window(layer: str, exact: bool) -> None:
    """Gives an empty top where there was a larger one before, and Caffe's sentence where there was none."""
    kind, _, pool = layer.partition(" ")
    word = "pooling" if pool or kind == "Pooling" else "convolution"
    param = (
        f"{word}_param {{ kernel_size: 2 {'num_output: 2' if kind == 'Convolution' else ''}{pool and 'pool: AVE'} }}"
    )
    size = "input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } }"
    text = f'layer {{ name: "x" type: "Input" top: "x" {size} }} layer {{ name: "l" type: "{kind}" bottom: "x" top: "l" {param} }}'
    caffe.set_seed_exact(exact)
    try:
        net = caffe.Net.from_text(text, caffe.TEST)
        net.forward()
        net.blobs["x"].reshape(2, 3, 1, 1)
        assert net.forward()["l"].size == 0
        net = caffe.Net.from_text(text.replace("dim: 4 dim: 5", "dim: 1 dim: 1"), caffe.TEST)
        with pytest.raises(caffe.CaffeError, match="Check failed: data_"):
            net.forward()
    finally:
        caffe.set_seed_exact(False)


@pytest.mark.parametrize(
    ("layer", "shape", "sentence"),
    [
        ('type: "PReLU"', (2, 4, 4, 5), "Negative slope size is inconsistent with prototxt config"),
        ('type: "ArgMax" argmax_param { axis: 1 }', (120,), "axis 1 out of range for 1-D Blob with shape 120"),
    ],
)
def test_a_shape_that_no_longer_fits_a_layer(layer: str, shape: tuple[int, ...], sentence: str) -> None:
    """Is refused in the words that set-up has for it."""
    size = "input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } }"
    text = f'layer {{ name: "x" type: "Input" top: "x" {size} }} layer {{ name: "l" bottom: "x" top: "l" {layer} }}'
    net = caffe.Net.from_text(text, caffe.TEST)
    net.forward()
    net.blobs["x"].reshape(*shape)
    with pytest.raises(caffe.CaffeError, match=sentence):
        net.forward()


def test_the_same_seed_gives_the_same_weights() -> None:
    """A solver's random_seed starts the stream anew; so does set_random_seed."""
    first, second = (caffe.SGDSolver("solver.prototxt").net.params["ip"][0].data for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(tiny().params["ip"][0].data, tiny().params["ip"][0].data)


def test_solver_callbacks_parameters_and_sharing() -> None:
    """on_start comes before on_gradients_ready; a written base_lr takes effect; share_weights shares memory."""
    solver, seen = caffe.SGDSolver("solver.prototxt"), []
    solver.add_callback(lambda: seen.append("start"), lambda: seen.append("ready"))
    solver.param.base_lr = 0
    before = solver.net.params["ip"][0].data.copy()
    solver.step(1)
    assert seen == ["start", "ready"]
    np.testing.assert_array_equal(before, solver.net.params["ip"][0].data)
    net = caffe.Net("train.prototxt", caffe.TRAIN)
    solver.share_weights(net)
    solver.net.params["ip"][0].data[...] = 4
    assert (net.params["ip"][0].data == 4).all()


def test_a_python_layer_raises_its_own_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What user code raises comes out unchanged; a class or module that is missing is a SystemError."""
    monkeypatch.syspath_prepend(tmp_path)
    Path("user_layers.py").write_text(
        "import allconv_caffe.pycaffe as caffe\nclass Bad(caffe.Layer):\n def setup(self, b, t): raise KeyError('mine')\n"
    )
    text = 'layer {{ name: "p" type: "Python" top: "p" python_param {{ module: "user_layers" layer: "{}" }} }}'
    with pytest.raises(KeyError, match="mine"):
        caffe.Net.from_text(text.format("Bad"), caffe.TEST)
    with pytest.raises(SystemError, match="Missing"):
        caffe.Net.from_text(text.format("Missing"), caffe.TEST)


def test_install_answers_to_the_name_caffe() -> None:
    """After install(), `import caffe` and its sub-modules are the drop-in; before, nothing takes the name."""
    code = (
        "import sys, allconv_caffe.pycaffe as ours\nassert 'caffe' not in sys.modules\nours.install()\n"
        "import caffe, caffe.io, caffe.draw, caffe.coord_map, caffe.net_spec\nfrom caffe.proto import caffe_pb2\n"
        "from caffe import layers as L, params as P\nimport caffe.proto.caffe_pb2\n"
        "assert caffe is ours and caffe.io is ours.io and caffe_pb2 is ours.proto.caffe_pb2\n"
        "assert P.Pooling.MAX == 0 and caffe.__version__ == '1.0.0' and 'Convolution' in caffe.layer_type_list()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=280)


def test_net_spec_writes_what_builds() -> None:
    """Names come from attributes, else type and number; in-place layers share their bottom; the net builds and runs."""
    n = caffe.NetSpec()
    n.data, n.label = caffe.layers.DummyData(shape=[dict(dim=[2, 3]), dict(dim=[2])], ntop=2)
    hidden = caffe.layers.InnerProduct(n.data, num_output=4, weight_filler=dict(type="xavier"), param=[dict(lr_mult=2)])
    n.relu = caffe.layers.ReLU(hidden, in_place=True)
    n.loss = caffe.layers.SoftmaxWithLoss(n.relu, n.label, loss_weight=3)
    net = n.to_proto()
    assert [layer.name for layer in net.layer] == ["data", "InnerProduct1", "relu", "loss"]
    assert net.layer[1].param[0].lr_mult == 2 and list(net.layer[3].loss_weight) == [3]
    assert list(caffe.Net.from_proto(net, caffe.TRAIN).forward()) == ["loss"]
    with pytest.raises(AttributeError, match="has no top 'nope'"):
        n.nope  # noqa: B018
    with pytest.raises(AttributeError):
        caffe.layers.ReLU(hidden, slope=1).to_proto()


@pytest.mark.parametrize("ext", ["png", "svg", "raw"])
def test_nets_are_drawn_without_graphviz(ext: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and Graphviz text need neither pydot nor dot; other formats say what is missing."""
    monkeypatch.setattr(draw.shutil, "which", lambda _: None)
    net = caffe_pb2.NetParameter()
    from google.protobuf import text_format

    text_format.Merge(NET, net)
    draw.draw_net_to_file(net, f"net.{ext}", "TB")
    begin = {"png": b"\x89PNG", "svg": b"<svg", "raw": b"digraph"}[ext]
    assert Path(f"net.{ext}").read_bytes().startswith(begin)
    with pytest.raises(RuntimeError, match="format 'pdf': Graphviz's `dot` not found"):
        draw.draw_net(net, "LR", "pdf")


def test_timer_and_process_state() -> None:
    """A timer counts milliseconds; counts and ranks are kept."""
    timer = caffe.Timer()
    assert timer.ms == 0
    timer.start()
    timer.stop()
    assert timer.ms > 0
    assert (caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl()) == (1, 0, False)
    caffe.set_solver_count(3)
    caffe.set_solver_rank(2)
    assert (caffe.solver_count(), caffe.solver_rank()) == (3, 2)
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)
