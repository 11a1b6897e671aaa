"""Layers beyond classification in the compiled executor: the same numbers as the plain one, or a reason in words."""

from __future__ import annotations

import os

import pytest
import torch
from support.prototxt import layer
from support.solvers import assert_trained_alike

from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.solver import Solver
from allconv_caffe.caffe_torch.solver_factory import create_solver
from allconv_caffe.caffe_torch.tracing import Tracing
from allconv_caffe.proto import TRAIN, NetParameter, SolverParameter, parse_text

HYPER = 'base_lr: 0.01 lr_policy: "fixed" max_iter: 3 momentum: 0.5 snapshot_after_train: false\n'
XAVIER = 'weight_filler { type: "xavier" }'


def dummy(name: str, dims: str, filler: str = 'type: "gaussian"') -> str:
    shape = " ".join(f"dim: {d}" for d in dims.split())
    return (
        f'layer {{ name: "{name}" type: "DummyData" top: "{name}" '
        f"dummy_data_param {{ shape {{ {shape} }} data_filler {{ {filler} }} }} }}\n"
    )


CLASS = 'type: "uniform" min: 0 max: 3.99'
NET = "".join(
    [
        dummy("x", "4 3 4 4"),
        dummy("target", "4 6", 'type: "uniform"'),
        dummy("label", "4", CLASS),
        dummy("H", "6 6"),
        layer(
            "deconv", "Deconvolution", "x", f"convolution_param {{ num_output: 4 kernel_size: 2 stride: 2 {XAVIER} }}"
        ),
        layer("crop", "Crop", "deconv x", "crop_param { offset: 1 }"),
        layer("mvn", "MVN", "crop"),
        layer("im2col", "Im2col", "mvn", "convolution_param { kernel_size: 2 }"),
        layer("tile", "Tile", "im2col", "tile_param { tiles: 2 }"),
        layer("spp", "SPP", "tile", "spp_param { pyramid_height: 2 }"),
        layer("h", "InnerProduct", "spp", f"inner_product_param {{ num_output: 6 {XAVIER} }}"),
        layer("e", "Embed", "label", f"embed_param {{ input_dim: 4 num_output: 6 {XAVIER} }}"),
        layer("p", "Parameter", "", "parameter_param { shape { dim: 4 dim: 6 } }"),
        layer("z", "Eltwise", "h e p"),
        layer("euclidean", "EuclideanLoss", "z target"),
        layer("sigmoid", "SigmoidCrossEntropyLoss", "z target", "loss_param { ignore_label: 1 normalization: VALID }"),
        layer("hinge", "HingeLoss", "z label", "hinge_loss_param { norm: L2 }"),
        layer("contrastive", "ContrastiveLoss", "h e label"),
        layer("infogain", "InfogainLoss", "z label H", "loss_param { ignore_label: 2 }"),
        layer("prob", "Softmax", "z"),
        layer("logistic", "MultinomialLogisticLoss", "prob label"),
        layer("energy", "Reduction", "z", "loss_weight: 0.01 reduction_param { operation: SUMSQ }"),
        layer("best", "ArgMax", "z"),
        dummy("seq", "3 2 5"),
        dummy("cont", "3 2", CLASS),
        dummy("h0", "1 2 4"),
        dummy("c0", "1 2 4"),
        dummy("one", "1 2", CLASS),
        layer(
            "lstm",
            "LSTM",
            "seq cont h0 c0",
            f"recurrent_param {{ num_output: 4 expose_hidden: true {XAVIER} }}",
            "o hT cT",
        ),
        layer("rnn", "RNN", "o cont h0", f"recurrent_param {{ num_output: 4 expose_hidden: true {XAVIER} }}", "q rT"),
        layer("states", "Silence", "hT cT rT", "").replace('top: "states"', ""),
        layer("read", "Reduction", "q", "loss_weight: 1"),
        layer("gate", "InnerProduct", "h0", f"inner_product_param {{ num_output: 16 axis: 2 {XAVIER} }}"),
        layer("unit", "LSTMUnit", "c0 gate one", "", "c h1"),
        layer("cells", "Reduction", "c", "loss_weight: 1"),
        layer("hidden", "Reduction", "h1", "loss_weight: 1"),
    ]
)
OUTSIDE = {
    "Filter": layer("n", "Filter", "h one"),
    "BatchReindex": layer("n", "BatchReindex", "h one"),
}


def make(net: str, executor: str) -> Solver:
    text = f"net_param {{ {net} }} {HYPER}"
    context = Context(rng=TorchGenerator(5))
    return create_solver(parse_text(text, SolverParameter), context=context, where="solver.prototxt", executor=executor)


def test_traced_layers_compute_what_plain_ones_do(uncompiled: None) -> None:
    """Three iterations of a net of all of them, captured as one graph, end in the plain executor's weights."""
    # the bias under MVN has rounding errors for a gradient
    assert_trained_alike(make(NET, "plain"), make(NET, "compiled"))


def test_a_forked_process_is_told(uncompiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled loops count on threads that a fork leaves behind: one line, where they would wait for ever."""
    solver = make(dummy("x", "2 3") + layer("s", "Reduction", "x", "loss_weight: 1"), "compiled")
    solver.step(1)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(CaffeError, match="executor compiled: found a process forked since the net was compiled"):
        solver.step(1)


@pytest.mark.parametrize("type_", OUTSIDE)
def test_layers_that_follow_values_stay_outside_the_graph(type_: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Shapes or checks that follow the data need the plain executor, which then runs."""
    sources = dummy("h", "2 5") + dummy("one", "2", 'type: "constant" value: 1')
    below = layer("ip", "InnerProduct", "h", "inner_product_param { num_output: 1 }") + layer("ips", "Silence", "ip")
    net = sources + below.replace('top: "ips"', "") + OUTSIDE[type_]
    with pytest.raises(CaffeError, match=f"executor compiled: layer 'n' of type {type_} runs outside the graph"):
        make(net, "compiled").solve()
    solver = make(net, "auto")
    solver.solve()
    assert solver.iter == 3
    assert f"Executor: plain (layer 'n' of type {type_} runs outside the graph)" in capfd.readouterr().err


RECURRENT = "".join(
    [
        *(
            f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'
            for name, dims in (("x", "dim: 3 dim: 2 dim: 5"), ("cont", "dim: 3 dim: 2"), ("still", "dim: 2 dim: 4"))
        ),
        layer("lstm", "LSTM", "x cont still", f"recurrent_param {{ num_output: 12 {XAVIER} }}"),
        layer("rnn", "RNN", "lstm cont still", f"recurrent_param {{ num_output: 4 {XAVIER} }}"),
        layer("read", "Reduction", "rnn", "loss_weight: 1 reduction_param { operation: SUMSQ }"),
    ]
)


def test_a_state_is_carried_from_one_iteration_to_the_next(uncompiled: None) -> None:
    """As in the plain executor: sequences go on, `cont` 0 begins one, more streams than before begin at 0; static input, too."""
    plain, traced = make(RECURRENT, "plain"), make(RECURRENT, "compiled")
    g = torch.Generator().manual_seed(0)
    for streams in (2, 2, 3, 1):
        x, cont = torch.randn(3, streams, 5, generator=g), torch.randint(0, 2, (3, streams), generator=g).float()
        still = torch.randn(streams, 4, generator=g)
        for solver in (plain, traced):
            for name, value in (("x", x), ("cont", cont), ("still", still)):
                solver.net.blobs[name].reshape(*value.shape)
                solver.net.blobs[name].data = value
            solver.step(1)
        for a, b in zip(plain.net.learnable_params, traced.net.learnable_params, strict=True):
            torch.testing.assert_close(a.data, b.data, rtol=1e-5, atol=1e-6)
        for name in ("lstm", "rnn"):
            ours, theirs = (solver.net.layers[solver.net.layer_names.index(name)].carried for solver in (plain, traced))
            for a, b in zip(ours, theirs, strict=True):
                assert float(a.data.abs().sum()) > 0
                torch.testing.assert_close(a.data, b.data, rtol=1e-5, atol=1e-6)


def test_every_tensor_lies_on_the_net_s_device() -> None:
    """Forward and backward of the same net mix no devices: it runs on one that holds shapes without values."""
    net = Net(parse_text(NET, NetParameter), Context(phase=TRAIN, device=torch.device("meta"), rng=TorchGenerator(5)))
    with Tracing():
        for i in range(len(net.layers)):
            if net.bottom_vecs[i] or net.layers[i].blobs:
                net.forward_layer(i)
        net.backward()
        assert {p.diff.device.type for p in net.learnable_params} == {"meta"}


def test_window_data_is_refused_by_name() -> None:
    """The one type that is not computed says so at set-up, and what to use instead."""
    with pytest.raises(
        CaffeError, match="layer 'w': WindowData is the one layer type of Caffe that this engine does not"
    ):
        Net(parse_text(layer("w", "WindowData", ""), NetParameter))


def test_a_label_out_of_range_is_named_by_compiled_code_too() -> None:
    """The kernel only knows that an index is wrong; the sentence is that of the plain executor."""
    net = dummy("x", "4 3") + dummy("label", "4", 'type: "constant" value: 7')
    net += layer("ip", "InnerProduct", "x", f"inner_product_param {{ num_output: 3 {XAVIER} }}")
    net += layer("loss", "SoftmaxWithLoss", "ip label")
    param = parse_text(HYPER, SolverParameter)
    param.net_param.CopyFrom(parse_text(net, NetParameter))
    solver = create_solver(param, context=Context(phase=TRAIN, rng=TorchGenerator(1)), executor="compiled")
    with pytest.raises(CaffeError) as raised:
        solver.step(1)
    assert str(raised.value) == ("layer 'loss': Check failed: label_value < classes (7 vs. 3): labels are 0 to 2")
