"""Solvers: update rules against closed forms, policies, snapshots, resuming, compiled against plain execution."""

from __future__ import annotations

import gc
import os
import shutil
import weakref
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.lr_policy import learning_rate
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.solver import Solver
from allconv_caffe.caffe_torch.solver_factory import SOLVERS, create_solver
from allconv_caffe.proto import NetParameter, SolverParameter, SolverState, parse_text, read_binary

NET = """net_param {
  layer { name: "data" type: "DummyData" top: "data" dummy_data_param {
    shape { dim: 8 dim: 3 dim: 6 dim: 6 } data_filler { type: "constant" value: 0.5 } } }
  layer { name: "label" type: "DummyData" top: "label" dummy_data_param { shape { dim: 8 }
    data_filler { type: "constant" value: 1 } } }
  layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
    convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
  layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
  layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
  layer { name: "mean" type: "Pooling" bottom: "pool" top: "mean" pooling_param { pool: AVE global_pooling: true } }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "mean" bottom: "label" top: "loss" }
}
"""
HYPER = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 6 momentum: 0.9 weight_decay: 0.01 snapshot_after_train: false\n'


def make(text: str, executor: str = "plain", seed: int = 5) -> Solver:
    context = Context(rng=TorchGenerator(seed), conv_mode="direct")
    return create_solver(parse_text(text, SolverParameter), context=context, where="solver.prototxt", executor=executor)


def weights(solver: Solver) -> list[torch.Tensor]:
    return [p.data.clone() for p in solver.net.learnable_params]


def test_sgd_keeps_the_rate_inside_the_history() -> None:
    """Across a rate drop: history = rate * (g + decay * w) + m * history; w -= history; biases at twice the rate."""
    solver = make(NET + HYPER.replace('"fixed"', '"multistep" gamma: 0.1 stepvalue: 2'))
    w = [p.double() for p in weights(solver)]
    history = [torch.zeros_like(p) for p in w]
    for it in range(4):
        solver.net.clear_param_diffs()
        solver.net.forward()
        solver.net.backward()
        gradient = [p.diff.double().clone() for p in solver.net.learnable_params]
        solver.apply_update()
        rate = 0.1 if it < 2 else 0.01
        for i, (mult, decay) in enumerate(((1, 0.01), (2, 0.0))):
            history[i] = rate * mult * (gradient[i] + decay * w[i]) + 0.9 * history[i]
            w[i] = w[i] - history[i]
            torch.testing.assert_close(solver.net.learnable_params[i].data.double(), w[i], rtol=1e-5, atol=1e-7)
    assert solver.iter == 4 and solver.current_step == 1


@pytest.mark.parametrize("executor", ["plain", "auto"])
def test_a_solver_that_is_given_up_is_gone(executor: str) -> None:
    """At once, not when the collector comes by: its nets hold memory, and threads that read for them."""
    solver = make(NET + HYPER, executor)
    solver.step(2)
    solver.test_all()
    gc.collect()
    gc.disable()
    try:
        left = weakref.ref(solver)
        del solver
        assert left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", sorted(SOLVERS))
def test_every_solver_lowers_the_loss(kind: str) -> None:
    """Ten iterations on one constant batch bring the loss down, for each of Caffe's six solvers."""
    hyper = HYPER.replace("max_iter: 6", "max_iter: 10")
    if kind in ("AdaGrad", "RMSProp"):
        hyper = hyper.replace("momentum: 0.9", "")
    if kind == "AdaDelta":
        hyper = hyper.replace("base_lr: 0.1", "base_lr: 10 delta: 1e-4")
    solver = make(NET + hyper.replace("weight_decay: 0.01", "") + f'type: "{kind}"')
    before = float(solver.net.forward())
    solver.solve()
    assert float(solver.net.forward()) < before


def test_adam_equals_its_formula() -> None:
    """m, v and the bias correction sqrt(1-b2^t)/(1-b1^t) outside of the epsilon, over three steps."""
    solver = make(NET + HYPER.replace("weight_decay: 0.01", "") + 'type: "Adam" momentum2: 0.99 delta: 1e-4')
    w = weights(solver)[0].double()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t in range(1, 4):
        solver.net.clear_param_diffs()
        solver.net.forward()
        solver.net.backward()
        g = solver.net.learnable_params[0].diff.double().clone()
        solver.apply_update()
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        w = w - 0.1 * (1 - 0.99**t) ** 0.5 / (1 - 0.9**t) * m / (v.sqrt() + 1e-4)
        torch.testing.assert_close(solver.net.learnable_params[0].data.double(), w, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_by_their_common_norm() -> None:
    """All gradients together are scaled to clip_gradients when longer, and left alone when shorter."""
    solver = make(NET + HYPER.replace("weight_decay: 0.01", "clip_gradients: 0.01"))
    solver.net.clear_param_diffs()
    solver.net.forward()
    solver.net.backward()
    norm = torch.cat([p.diff.reshape(-1) for p in solver.net.learnable_params]).norm()
    before = [p.diff.clone() for p in solver.net.learnable_params]
    assert norm > 0.01
    solver.clip_gradients()
    for p, g in zip(solver.net.learnable_params, before, strict=True):
        torch.testing.assert_close(p.diff, g * (0.01 / norm))
    solver.param.clip_gradients = 100.0
    again = [p.diff.clone() for p in solver.net.learnable_params]
    solver.clip_gradients()
    assert all(torch.equal(p.diff, g) for p, g in zip(solver.net.learnable_params, again, strict=True))


def test_iter_size_averages_gradients() -> None:
    """Two passes over the same batch, halved, are one pass: iter_size 2 equals iter_size 1 on constant data."""
    one, two = make(NET + HYPER), make(NET + HYPER + "iter_size: 2")
    one.solve()
    two.solve()
    for a, b in zip(weights(one), weights(two), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


POLICIES = [
    ('lr_policy: "fixed"', [0.5, 0.5, 0.5, 0.5]),
    ('lr_policy: "step" gamma: 0.1 stepsize: 2', [0.5, 0.5, 0.05, 0.05]),
    ('lr_policy: "exp" gamma: 0.5', [0.5, 0.25, 0.125, 0.0625]),
    ('lr_policy: "inv" gamma: 1 power: 1', [0.5, 0.25, 1 / 6, 0.125]),
    ('lr_policy: "multistep" gamma: 0.1 stepvalue: 1 stepvalue: 3', [0.5, 0.05, 0.05, 0.005]),
    ('lr_policy: "multistep" gamma: 0.1 stepvalue: 1 stepvalue: 1', [0.5, 0.05, 0.005, 0.005]),
    ('lr_policy: "poly" power: 2 max_iter: 4', [0.5, 0.28125, 0.125, 0.03125]),
    ('lr_policy: "sigmoid" gamma: 1 stepsize: 1', [0.5 / (1 + np.exp(-x)) for x in (-1, 0, 1, 2)]),
]


@pytest.mark.parametrize(("text", "expected"), POLICIES)
def test_learning_rates_follow_their_formula(text: str, expected: list[float]) -> None:
    """The first four iterations of each policy, written out; two equal stepvalues take two iterations."""
    param, step, rates = parse_text("base_lr: 0.5 " + text, SolverParameter), 0, []
    for it in range(4):
        rate, step = learning_rate(param, it, step)
        rates.append(rate)
    assert rates == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_a_resumed_training_continues_byte_for_byte(tmp_path: Path, form: str) -> None:
    """Six iterations in one go and three plus three through a snapshot end in equal weights and histories."""
    prefix = f'snapshot: 3 snapshot_prefix: "{tmp_path}/s" snapshot_format: {form}'
    whole = make(NET + HYPER + prefix)
    whole.solve()
    suffix = ".solverstate" + (".h5" if form == "HDF5" else "")
    resumed = make(NET + HYPER + prefix, seed=99)
    resumed.solve(f"{tmp_path}/s_iter_3{suffix}")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert all(torch.equal(a.data, b.data) for a, b in zip(whole.history, resumed.history, strict=True))
    assert not list(tmp_path.glob("*.tmp"))


def test_a_solverstate_names_its_weights(tmp_path: Path) -> None:
    """iter, learned_net as given in snapshot_prefix, current_step and one history blob for each parameter."""
    solver = make(NET + HYPER + f'snapshot: 6 snapshot_prefix: "{tmp_path}/s"')
    solver.solve()
    state = read_binary(tmp_path / "s_iter_6.solverstate", SolverState)
    assert (state.iter, state.learned_net, len(state.history)) == (6, f"{tmp_path}/s_iter_6.caffemodel", 2)


def test_an_hdf5_state_ends_the_name_of_its_weights_with_a_nul(tmp_path: Path) -> None:
    """Caffe reads the name as C's strings are read: without a NUL, on into what lies behind it."""
    solver = make(NET + HYPER + f'snapshot: 6 snapshot_prefix: "{tmp_path}/s" snapshot_format: HDF5')
    solver.solve()
    with h5py.File(tmp_path / "s_iter_6.solverstate.h5") as file:
        name, kind = file["learned_net"][()], file["learned_net"].id.get_type()
    assert name.decode() == f"{tmp_path}/s_iter_6.caffemodel.h5"
    assert (kind.get_size(), kind.get_strpad()) == (len(name) + 1, h5py.h5t.STR_NULLTERM)


@pytest.mark.parametrize("name", ["", ".", "n/one", "d"])
def test_hdf5_weights_need_a_group_for_each_layer(tmp_path: Path, name: str) -> None:
    """A layer that has no name, another's, or the path to a group not there, is refused; nothing stays behind."""
    text = f'layer {{ name: "d" type: "Input" top: "d" }} layer {{ name: "{name}" type: "Power" bottom: "d" top: "p" }}'
    net = Net(parse_text(text, NetParameter))
    with pytest.raises(CaffeError, match=r"layer_data_hid >= 0 \(-1 vs. 0\) Error saving weights to .*w\.h5\. "):
        net.to_hdf5(tmp_path / "w.h5")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_snapshot_left_is_cleared(tmp_path: Path) -> None:
    """A solver that begins removes old temporary files of snapshots, and nothing else; it leaves none of its own."""
    for name in (".s_iter_3.caffemodel.01234567.tmp", "s_iter_3.caffemodel", ".s.tmp"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    make(NET + HYPER + f'snapshot: 6 snapshot_prefix: "{tmp_path}/s"')
    assert sorted(os.listdir(tmp_path)) == [".s.tmp", "s_iter_3.caffemodel"]


ERRORS = [
    (HYPER, "solver.prototxt: SolverParameter must specify a train net using one of these fields: "),
    (NET + HYPER.replace('"fixed"', '"nope"'), "solver.prototxt: Unknown learning rate policy: nope (known policies: "),
    (
        NET + HYPER + 'type: "Nope"',
        "solver.prototxt: Unknown solver type: Nope (known types: AdaDelta, AdaGrad, Adam, ",
    ),
    (NET + HYPER + 'type: "AdaGrad"', "solver.prototxt: Momentum cannot be used with AdaGrad."),
    (
        NET + HYPER + 'snapshot: 1 snapshot_prefix: "/nowhere/to/be/found"',
        "solver.prototxt: Cannot write to snapshot prefix '/nowhere/to/be/found'.  "
        "Make sure that the directory exists and is writable.",
    ),
    (NET + HYPER + "test_iter: 1", "solver.prototxt: Check failed: param_.test_interval() > 0 (0 vs. 0)"),
]


@pytest.mark.parametrize(("text", "message"), ERRORS)
def test_a_wrong_solver_is_refused_before_training(text: str, message: str) -> None:
    """Every mistake stops at construction, or at the first step, in Caffe's words behind the file's name."""
    with pytest.raises(CaffeError) as caught:
        make(text).solve()
    assert str(caught.value).startswith(message)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler on this machine")
@pytest.mark.parametrize("extra", ["iter_size: 2", "clip_gradients: 0.01"])  # neither of them: test_changing
def test_compiled_execution_equals_plain_execution(extra: str) -> None:
    """Six iterations captured as one graph end in the plain executor's weights, to float32 rounding."""
    plain, compiled = make(NET + HYPER + extra), make(NET + HYPER + extra, executor="compiled")
    plain.solve()
    compiled.solve()
    for a, b in zip(weights(plain), weights(compiled), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("debug_info: true display: 1", "debug_info looks at every blob"),
        ("snapshot_diff: true", "snapshot_diff keeps the gradients"),
    ],
)
def test_compiled_execution_says_what_it_cannot_do(extra: str, reason: str) -> None:
    """Asked for outright, compiled execution of a net whose blobs are looked at fails with the reason."""
    solver = make(NET + HYPER + extra, executor="compiled")
    with pytest.raises(CaffeError, match=f"executor compiled: {reason}"):
        solver.solve()
