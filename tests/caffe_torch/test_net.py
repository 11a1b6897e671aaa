"""Net construction: filters, splits, outputs, sharing, who needs backward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net, load_net
from allconv_caffe.paper.experiments import EXPERIMENTS
from allconv_caffe.proto import TEST, TRAIN, NetParameter, parse_text, write_binary

SMALL = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def build(text: str, phase: int = TRAIN, **options: object) -> Net:
    context = Context(phase=phase, rng=TorchGenerator(3))
    return Net(parse_text(text, NetParameter), context, where="net.prototxt", **options)  # type: ignore[arg-type]


def test_a_phase_decides_which_layers_are_built() -> None:
    """Accuracy, included in TEST only, is absent in TRAIN, and only its presence splits its bottoms."""
    assert build(SMALL, TRAIN).layer_names == ["data", "label", "ip", "loss"]
    assert build(SMALL, TEST).layer_names == [
        "data",
        "label",
        "label_label_0_split",
        "ip",
        "ip_ip_0_split",
        "accuracy",
        "loss",
    ]


def test_split_tops_are_named_as_in_caffe() -> None:
    """A blob read twice is read through <blob>_<layer>_<top>_split_<k>."""
    net = build(SMALL, TEST)
    assert [b for b in net.blob_names if "split" in b] == [
        "label_label_0_split_0",
        "label_label_0_split_1",
        "ip_ip_0_split_0",
        "ip_ip_0_split_1",
    ]


def test_outputs_stand_in_byte_order() -> None:
    """Upper case comes before lower case, whatever the order in the file."""
    text = """
    layer { name: "i" type: "Input" top: "aa" top: "B" top: "a" input_param { shape { dim: 1 } } }
    """
    assert build(text).outputs == ["B", "a", "aa"]


def test_backward_runs_between_loss_and_parameters_only() -> None:
    """Inputs and Accuracy need no backward; the layers from the parameters up to the loss do."""
    net = build(SMALL, TEST)
    need = dict(zip(net.layer_names, net.layer_need_backward, strict=True))
    assert need == {
        "data": False,
        "label": False,
        "label_label_0_split": False,
        "ip": True,
        "ip_ip_0_split": True,
        "accuracy": False,
        "loss": True,
    }
    assert net.bottom_need_backward[net.layer_names.index("ip")] == [False]


def test_force_backward_reaches_the_data_but_no_label() -> None:
    """force_backward asks for the gradient of every bottom except labels."""
    net = build("force_backward: true " + SMALL)
    assert net.bottom_need_backward[net.layer_names.index("ip")] == [True]
    assert net.bottom_need_backward[net.layer_names.index("loss")] == [True, False]


def test_gradients_equal_autograd() -> None:
    """Forward and backward of the whole net agree with autograd over the same formula, to float32 rounding."""
    net = build("force_backward: true " + SMALL)
    net.blobs["data"].data = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    net.blobs["label"].data = torch.tensor([1.0, 3.0])
    loss = net.forward()
    net.clear_param_diffs()
    net.backward()
    w, b = (p.data.double().clone().requires_grad_() for p in net.layers[2].blobs)
    x = net.blobs["data"].data.double().clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(x @ w.t() + b, torch.tensor([1, 3]))
    expected.backward()
    assert abs(float(loss) - float(expected.detach())) < 1e-6
    for blob, leaf in ((net.layers[2].blobs[0], w), (net.layers[2].blobs[1], b), (net.blobs["data"], x)):
        torch.testing.assert_close(blob.diff.double(), leaf.grad, rtol=1e-5, atol=1e-6)


def test_a_write_through_a_numpy_view_reaches_the_net() -> None:
    """blob.data is one piece of memory: a view taken before a forward sees and changes what the net uses."""
    net = build(SMALL, TEST)
    view = net.blobs["data"].data.numpy()
    out = net.blobs["ip"].data.numpy()
    view.reshape(-1)[...] = 0
    net.forward()
    assert (out == 0).all()
    view[...] = 1
    net.forward()
    weights = net.layers[net.layer_names.index("ip")].blobs[0].data.sum(1).numpy()
    assert abs(out - weights).max() < 1e-6


SHARED = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" %s }
  inner_product_param { num_output: 4 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" %s }
  inner_product_param { num_output: %d bias_term: false weight_filler { type: "xavier" } } loss_weight: 1 }
"""


def test_parameters_of_one_name_are_one_memory_and_their_gradients_add() -> None:
    """b = W W x: the gradient of the shared W is the sum of both layers' shares; only the owner is learnable."""
    net = build(SHARED % ("", "lr_mult: 3", 4))
    assert len(net.learnable_params) == 1 and net.params_lr == [3.0]
    net.blobs["data"].data = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    net.clear_param_diffs()
    net.forward()
    net.backward()
    w = net.layers[1].blobs[0].data.double().clone().requires_grad_()
    x = net.blobs["data"].data.double()
    (x @ w.t() @ w.t()).sum().backward()
    torch.testing.assert_close(net.layers[2].blobs[0].diff.double(), w.grad, rtol=1e-5, atol=1e-6)


ERRORS = [
    (
        SMALL.replace('bottom: "data"', 'bottom: "dat"'),
        "net.prototxt: Unknown bottom blob 'dat' (layer 'ip', bottom index 0)",
    ),
    (
        SMALL.replace('type: "InnerProduct"', 'type: "Nope"'),
        "net.prototxt: layer 'ip': Unknown layer type: Nope (known types: ",
    ),
    (
        SMALL + 'layer { name: "again" type: "ReLU" bottom: "loss" top: "ip" }',
        "net.prototxt: layer 'again': Top blob 'ip' produced by multiple sources.",
    ),
    (
        SHARED % ("lr_mult: 1", "lr_mult: 2", 4),
        "net.prototxt: layer 'b': Shared param 'w' has mismatched lr_mult.",
    ),
    (
        SHARED % ("", "", 3),
        "net.prototxt: layer 'b': Cannot share param 'w' owned by layer 'a' with layer 'b'; shape mismatch.  "
        "Owner layer param shape is 4 4 (16); sharing layer expects shape 3 4 (12)",
    ),
]


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_a_wrong_net_is_refused_in_caffes_words(text: str, message: str) -> None:
    """The file and the layer stand before Caffe's sentence."""
    with pytest.raises(CaffeError) as caught:
        build(text)
    assert str(caught.value).startswith(message)


def test_weights_travel_through_a_caffemodel(tmp_path: Path) -> None:
    """A net saved and loaded into another of the same layers has the same weights; unknown layers are ignored."""
    first, second = build(SMALL), build(SMALL)
    assert not torch.equal(first.layers[2].blobs[0].data, torch.zeros(4, 3))
    second.layers[2].blobs[0].data = torch.zeros(4, 3)
    proto = first.to_proto()
    proto.layer.add(name="stranger", type="ReLU")
    write_binary(tmp_path / "w.caffemodel", proto)
    second.copy_trained_layers_from(tmp_path / "w.caffemodel")
    assert torch.equal(first.layers[2].blobs[0].data, second.layers[2].blobs[0].data)


def test_a_shape_mismatch_names_both_shapes(tmp_path: Path) -> None:
    """Loading weights of another shape stops with Caffe's advice."""
    write_binary(tmp_path / "w.caffemodel", build(SMALL).to_proto())
    other = build(SMALL.replace("num_output: 4", "num_output: 5"))
    with pytest.raises(CaffeError) as caught:
        other.copy_trained_layers_from(tmp_path / "w.caffemodel")
    assert str(caught.value) == (
        f"{tmp_path}/w.caffemodel: layer 'ip': Cannot copy param 0 weights from layer 'ip'; shape mismatch.  "
        "Source param shape is 4 3 (12); target param shape is 5 3 (15). To learn this layer's parameters from "
        "scratch rather than copying from a saved net, rename the layer."
    )


@pytest.mark.parametrize("type_", ["LSTM", "RNN"])
def test_what_a_recurrent_layer_says_draws_nothing(type_: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Parameters and PyTorch's own generator are the same whether the net of the steps is logged or not."""
    shapes = "shape { dim: 3 dim: 2 dim: 4 } shape { dim: 3 dim: 2 }"
    text = f'layer {{ name: "in" type: "Input" top: "x" top: "cont" input_param {{ {shapes} }} }}'
    text += f'layer {{ name: "r" type: "{type_}" bottom: "x" bottom: "cont" top: "y" recurrent_param {{ num_output: 2 '
    text += 'weight_filler { type: "gaussian" std: 0.3 sparse: 1 } bias_filler { type: "uniform" } } }'
    found = []
    for level in (glog.INFO, glog.WARNING):
        glog.init(min_level=level)
        rng = TorchGenerator(3)
        net = Net(parse_text(text, NetParameter), Context(rng=rng))
        found.append([*(p.data.clone() for p in net.params), torch.random.get_rng_state(), torch.tensor(rng.word())])
        assert ("r_cont_slice" in capsys.readouterr().err) == (level == glog.INFO)
    glog.init()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_every_committed_network_is_built() -> None:
    """All deploy files under solvers/ make nets whose last blob is the softmax over the classes."""
    root = Path(__file__).parents[2] / "solvers"
    files = sorted(root.glob("cifar*-*/deploy.prototxt"))
    assert len(files) >= 24
    for file in files:
        if "large" in str(file):
            continue
        net = load_net(file, Context(rng=TorchGenerator(0)))
        assert net.blobs[net.outputs[0]].shape[1] == EXPERIMENTS[file.parent.name].dataset.classes
        if not file.parent.name.endswith("-fc"):  # those end in fully connected layers
            assert net.blobs["global_pool"].shape[2:] == (1, 1)
