"""CaffeGenerator against what real Caffe drew (git 99bd997, boost 1.74), and against itself word by word."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from allconv_caffe.caffe_torch.compute import ziggurat
from allconv_caffe.caffe_torch.compute.rng import CaffeGenerator
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.executor.plain import PlainExecutor
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import load_net
from allconv_caffe.caffe_torch.solver_factory import MIN_ITERS_TO_COMPILE, create_solver
from allconv_caffe.proto import TRAIN, SolverParameter, parse_text

GOLDEN = Path(__file__).parents[1] / "golden" / "rng"
RECORDED: dict[str, dict[str, list[Any]]] = json.loads((GOLDEN / "caffe.json").read_text(encoding="utf-8"))
DRAWN = ("noise", "hiss", "drop2", "drop5", "drop0")
CPU = torch.device("cpu")


def entry(values: np.ndarray) -> list[Any]:
    """The start of the SHA-256 of the float32 bytes, and the first three values."""
    little = np.ascontiguousarray(values, "<f4")
    return [hashlib.sha256(little.tobytes()).hexdigest()[:16], *(float(v) for v in little.reshape(-1)[:3])]


@pytest.mark.parametrize("seed", list(RECORDED))
def test_every_filler_mask_and_noise_is_caffes_bit_for_bit(seed: str) -> None:
    """All fillers with their variants, biases, DummyData and Dropout over two forwards, in Caffe's order of drawing."""
    net = load_net(GOLDEN / "net.prototxt", Context(phase=TRAIN, rng=CaffeGenerator(int(seed))))
    found = {f"{layer.name}[{i}]": entry(b.data.numpy()) for layer in net.layers for i, b in enumerate(layer.blobs)}
    for step in (1, 2):
        net.forward()
        found.update({f"{name}, forward {step}": entry(net.blobs[name].data.numpy()) for name in DRAWN})
    assert found == RECORDED[seed]


def test_the_words_are_those_of_the_mersenne_twister() -> None:
    """The 10,000th word of seed 5489 is the one that the C++ standard prescribes for mt19937."""
    generator = CaffeGenerator(5489)
    generator.words(9999)
    assert generator.word() == 4123659995


def test_normal_numbers_drawn_in_pieces_are_those_drawn_one_by_one() -> None:
    """Blocks, wedges, tails and pieces of any size: the scalar ziggurat gives the same numbers from the same words."""
    whole, slow = CaffeGenerator(3), CaffeGenerator(3)
    pieces = [1, 2, 3, 5000, 1, 20000, 7, 7, 7]
    for n in pieces:
        found = whole.unit_normal(n)
        expected = np.array([ziggurat.one_normal(slow.word) for _ in range(n)], np.float32)
        assert (found.view(np.uint32) == expected.view(np.uint32)).all()
        assert whole.words_drawn == slow.words_drawn


def test_the_tables_end_where_a_ziggurat_must() -> None:
    """Equal areas: the layers' x fall to 0, their y rise to 1, and x * dy is the same everywhere."""
    for table, area in (
        (ziggurat.normal_table(), ziggurat.NORMAL_AREA),
        (ziggurat.exponential_table(), ziggurat.EXPONENTIAL_AREA),
    ):
        assert (np.diff(table.x) < 0).all() and table.x[-1] == 0 and table.y[-1] == 1
        np.testing.assert_allclose(table.x[1:-1] * np.diff(table.y)[1:], float(area), rtol=1e-12)


def test_certainty_and_impossibility_take_the_words_that_caffe_takes() -> None:
    """p = 0 draws nothing, p = 1 draws one word for each element and keeps all."""
    generator = CaffeGenerator(1)
    assert not generator.bernoulli((4, 5), 0.0, CPU).any()
    assert generator.words_drawn == 0
    assert generator.bernoulli((4, 5), 1.0, CPU).all()
    assert generator.words_drawn == 20


def test_seed_exact_is_refused_where_caffe_could_not_agree() -> None:
    """A GPU, another precision, or the compiled executor: one line that says what was found and expected."""
    with pytest.raises(CaffeError) as refused:
        Context(device=torch.device("cuda:0"), rng=CaffeGenerator(1))
    assert str(refused.value) == (
        "seed-exact: found device cuda:0, expected the CPU (on a GPU, Caffe draws from cuRAND)"
    )
    with pytest.raises(CaffeError) as refused:
        Context(rng=CaffeGenerator(1), compute_dtype=torch.bfloat16)
    assert str(refused.value) == "seed-exact: found precision bfloat16, expected float32, the only one that Caffe has"
    with pytest.raises(CaffeError) as refused:
        create_solver(SolverParameter(), context=Context(rng=CaffeGenerator(1)), executor="compiled")
    assert str(refused.value) == (
        "seed-exact: found executor compiled, expected plain or auto (compiled code draws its own numbers)"
    )


def test_auto_means_plain_in_seed_exact_mode() -> None:
    """A solver with Caffe's generator runs layer by layer."""
    param = parse_text(
        'net_param { layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 } } } } '
        'base_lr: 1 lr_policy: "fixed"',
        SolverParameter,
    )
    solver = create_solver(param, context=Context(rng=CaffeGenerator(1)), executor="auto")
    solver.step(MIN_ITERS_TO_COMPILE)
    assert isinstance(solver.executor, PlainExecutor)
