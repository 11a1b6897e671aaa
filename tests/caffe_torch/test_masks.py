"""Dropout's masks: the same in plain and in compiled execution, so that training may change from one to the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.prototxt import layer

from allconv_caffe.caffe_torch.compute import rng
from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.solver import Solver
from allconv_caffe.caffe_torch.solver_factory import create_solver
from allconv_caffe.proto import SolverParameter, parse_text

SOURCE = (
    'layer {{ name: "{0}" type: "DummyData" top: "{0}" dummy_data_param {{ shape {{ {1} }} data_filler {{ {2} }} }} }}'
)
NORMAL = 'type: "gaussian" std: 1'
NET = "".join(
    [
        SOURCE.format("x", "dim: 4 dim: 6 dim: 5 dim: 5", 'type: "constant" value: 1'),
        layer("drop", "Dropout", "x", "dropout_param { dropout_ratio: 0.3 }"),
        layer(
            "conv",
            "Convolution",
            "drop",
            'convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } }',
        ),
        layer("again", "Dropout", "conv", ""),
        SOURCE.format("target", "dim: 4 dim: 8 dim: 3 dim: 3", NORMAL),  # draws after the masks of a plain forward
        layer("loss", "EuclideanLoss", "again target"),
    ]
)
HYPER = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 9 momentum: 0.9 snapshot_after_train: false\n'


def make(executor: str = "plain", seed: int = 5) -> Solver:
    context = Context(rng=TorchGenerator(seed))
    return create_solver(
        parse_text(f"net_param {{ {NET} }} {HYPER}", SolverParameter), context=context, executor=executor
    )


def _losses(solver: Solver, iterations: int) -> list[float]:
    rate = solver.param.base_lr
    losses = []
    for _ in range(iterations):
        loss, _ = solver.executor.iterate(rate)
        losses.append(float(loss))
        solver._finish_update(rate)
    return losses


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize(
    "shape", [(3, 5, 7, 3), (2, 16, 8, 8), (1, 9, 33, 33), (4, 8, 1, 1), (5,), (3, 1001), (0, 4, 2, 2)]
)
def test_masks_are_drawn_by_numpys_generator(
    shape: tuple[int, ...], kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 64-bit words of SFC64, the low half first, in C order whatever lies how in memory; with a compiler and without."""
    if not kernels:
        monkeypatch.setattr(rng, "_library", lambda: None)
    count = int(np.prod(shape))
    words = np.random.SFC64(11).random_raw((count + 1) // 2)
    halves = [int(word) >> shift & 0xFFFFFFFF for word in words for shift in (0, 32)][:count]
    for p in (0.0, 2.0**-32, 0.3, 0.5, 1.0):
        expected = torch.tensor([half < p * 2**32 for half in halves], dtype=torch.bool).reshape(shape)
        for last in (False, True) if len(shape) == 4 else (False,):
            found = rng._mask(11, shape, p, last)
            assert found.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
            assert torch.equal(found, expected)


def test_both_executors_drop_the_same_elements(uncompiled: None) -> None:
    """Masks follow from the seed, the layer and the iteration: the losses of four iterations agree to rounding."""
    plain, compiled = make(), make("compiled")
    for solver in (plain, compiled):
        solver.step(1)
    torch.testing.assert_close(_losses(plain, 3), _losses(compiled, 3), rtol=1e-5, atol=1e-6)


def test_each_layer_iteration_and_seed_has_masks_of_its_own() -> None:
    """Two layers, two forwards, two seeds: eight masks, each with its share of ones, no two alike."""
    masks = []
    for seed in (5, 6):
        solver = make(seed=seed)
        for _ in range(2):
            solver.net.forward()
            masks += [
                (x := solver.net.layers[solver.net.layer_names.index(name)]).mask.clone() for name in ("drop", "again")
            ]
            assert x.masks is not None
    for i, a in enumerate(masks):
        assert abs(float(a.mean()) - (0.7, 0.5)[i % 2]) < 0.1
        for b in masks[:i]:
            assert a.shape != b.shape or not torch.equal(a, b)
    repeated = make(seed=5)
    repeated.net.forward()
    assert torch.equal(masks[0], repeated.net.layers[1].mask)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (2, 3, 5, 7)])
def test_certainty_and_impossibility(shape: tuple[int, ...]) -> None:
    """p = 1 keeps all and p = 0 none, whatever the shape."""
    stream, cpu = TorchGenerator(1).stream(), torch.device("cpu")
    assert torch.equal(stream.bernoulli(shape, 1.0, cpu), torch.ones(shape))
    assert torch.equal(stream.bernoulli(shape, 0.0, cpu), torch.zeros(shape))
