"""Sums in Caffe's order: no bit differs from the OpenBLAS that real Caffe calls, nor from real Caffe's layers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import layer_harness as harness
import numpy as np
import pytest
import torch

from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import caffe_math
from allconv_caffe.caffe_torch.compute.caffe_math import CaffeMath
from allconv_caffe.caffe_torch.compute.math_functions import Wanted
from allconv_caffe.caffe_torch.compute.openblas import CORE_TYPES
from allconv_caffe.caffe_torch.compute.rng import CaffeGenerator
from allconv_caffe.caffe_torch.compute.window import Window

HERE = Path(__file__).resolve().parent
#: types all of whose results are Caffe's, bit for bit
TYPES = (
    "Convolution",
    "Deconvolution",
    "Dropout",
    "Eltwise",
    "EuclideanLoss",
    "Im2col",
    "InnerProduct",
    "Pooling",
    "SoftmaxWithLoss",
)
#: types whose tops are, and whose gradients are not
FORWARD = (
    "AbsVal",
    "ArgMax",
    "BNLL",
    "Bias",
    "Clip",
    "Crop",
    "ELU",
    "Exp",
    "LRN",
    "Log",
    "MVN",
    "PReLU",
    "Power",
    "ReLU",
    "Scale",
    "Sigmoid",
    "Slice",
    "Tile",
    "Swish",
    "TanH",
    "Threshold",
)


def has_caffes_top(case: harness.Case) -> bool:
    """A BatchNorm that takes no statistics of its batch, a Reduction that adds no absolute values: in part, a type's tops are."""
    given = {text: f"use_global_stats: {text}" in case.param for text in ("true", "false")}
    if case.type == "BatchNorm":
        return given["true"] or (case.phase == harness.TEST and not given["false"])
    return case.type == "Reduction" and "ASUM" not in case.param


CASES = [case for case in harness.collect() if case.type in TYPES + FORWARD or has_caffes_top(case)]
SIZES = (300, 2500, 3000)  # rows, columns, products of the largest matrices
pytestmark = pytest.mark.skipif(not harness.PYTHON.exists(), reason="no real Caffe: run `make caffe`")


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def random_jobs(random: np.random.RandomState) -> dict[str, list[np.ndarray]]:
    """Matrices of all sizes and both ways round, and vectors: by job, its arrays."""

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    def size(most: int) -> int:
        return int(np.exp(random.uniform(0, np.log(most))))

    jobs: dict[str, list[np.ndarray]] = {}
    for i in range(150):
        m, n, k = (size(most) for most in SIZES)
        ta, tb, beta = (int(random.randint(2)) for _ in range(3))
        jobs[f"{i:03d} gemm {ta} {tb} {beta}"] = [
            normal(*((k, m) if ta else (m, k))),
            normal(*((n, k) if tb else (k, n))),
            normal(m, n),
        ]
    for m, n, k in (
        (96, 1024, 27),
        (96, 1024, 864),
        (192, 1728, 64),
        (1728, 64, 192),
        (10, 64, 192),
        (46, 2353, 13),
        (8, 1639, 48),
    ):
        jobs[f"{len(jobs):03d} gemm 0 0 0"] = [normal(m, k), normal(k, n), normal(m, n)]
    for _ in range(100):
        a = normal(size(100), size(20000))
        jobs[f"{len(jobs):03d} rows"] = [a, normal(a.shape[0])]
        jobs[f"{len(jobs):03d} mean"] = [a, normal(a.shape[0])]
    for i in range(100):
        a = normal(size(60), size(9000) if i % 2 else 1 + i % 9)
        jobs[f"{len(jobs):03d} columns {i % 3 % 2}"] = [a, normal(a.shape[1])]
    for _ in range(100):
        n = size(400000)
        jobs[f"{len(jobs):03d} dot"] = [normal(n), normal(n)]
    for n in (1, 5, 33, 64, 1000, 2592, 331777):
        jobs[f"{len(jobs):03d} axpy 0.001234"] = [normal(n), normal(n)]
        jobs[f"{len(jobs):03d} axpby 0.0123 0.9"] = [normal(n), normal(n)]
    return jobs


def ours(math: CaffeMath, job: str, arrays: list[np.ndarray]) -> np.ndarray:
    """What blas_side.py's `run` does, by our sums."""
    what, *numbers = job.split()[1:]
    first, *rest, last = (torch.from_numpy(a.copy()) for a in arrays)
    blob = Blob(last.shape)
    blob.diff = last
    if what == "gemm":
        a, b = (x.t() if flag == "1" else x for x, flag in zip((first, rest[0]), numbers, strict=False))
        if numbers[2] == "0":
            return math.gemm(a, b).numpy()
        math.accumulate_gemm(blob, a, b)
    elif what == "rows":  # what a convolution of one image gives its bias
        image, one = first[None], Window(kernel=(1,), stride=(1,), pad=(0,), dilation=(1,))
        math.convolution_backward(image, image, torch.empty(0), one, Wanted(dx=False, dw=None, db=blob))
    elif what == "mean":
        return math.row_sums(first, 1 / first.shape[1]).numpy()
    elif what == "columns":
        blob.diff = last * float(numbers[0])
        math.accumulate_columns(blob, first)
    elif what == "dot":
        return math.dot(first, last).reshape(1).numpy()
    elif what == "axpy":
        return math.axpy(float(numbers[0]), first, last).numpy()
    else:
        return math.axpby(float(numbers[0]), first, float(numbers[1]), last).numpy()
    return blob.diff.numpy()


@pytest.mark.parametrize("core_type", harness.core_types())
def test_sums_are_those_of_caffes_openblas(core_type: str, tmp_path: Path) -> None:
    """sgemm in every transposition, sgemv by ones, sdot, saxpy and saxpby: all bits are those of OpenBLAS 0.3.13, one thread."""
    found = caffe_math.find()
    assert found is not None, caffe_math.why_not()
    math = CaffeMath(found.library, CORE_TYPES[core_type.lower()])
    jobs = random_jobs(np.random.RandomState(7))
    np.savez(tmp_path / "jobs.npz", **{f"{job}/{i}": a for job, arrays in jobs.items() for i, a in enumerate(arrays)})
    env = {**os.environ, "OPENBLAS_CORETYPE": core_type, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [str(harness.PYTHON), str(HERE / "blas_side.py"), str(tmp_path / "jobs.npz"), str(tmp_path / "out.npz")]
    subprocess.run(command, check=True, timeout=250, env=env)
    with np.load(tmp_path / "out.npz") as real:
        assert str(real["kernels"]) == core_type
        wrong = {}
        for job, arrays in jobs.items():
            different = int((bits(real[job]) != bits(ours(math, job, arrays))).sum())
            if different:
                wrong[f"{job} {[a.shape for a in arrays]}"] = different
    assert not wrong


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Real Caffe's results of these cases, from one process."""
    return harness.run_real_once(CASES, [], tmp_path_factory.getbasetemp().parent)


class GivenMasks(CaffeGenerator):
    """Caffe's stream, but masks as they are given."""

    def __init__(self, masks: list[np.ndarray]) -> None:
        super().__init__(1)
        self.masks = iter(masks)

    def bernoulli(self, shape: Any, p: float, device: torch.device) -> torch.Tensor:
        return torch.from_numpy(next(self.masks).astype(np.float32)).to(device)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_layer_computes_caffes_bits(case: Any, real: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed-exact, every top, and of `TYPES` every bottom diff and parameter gradient, is Caffe's, bit for bit."""
    assert caffe_math.find() is not None, caffe_math.why_not()
    expected = real.results[case.id]
    masks = (
        [expected[f"{step} data {case.top_names[0]}"] != 0 for step in range(len(case.batches))] if case.masked else []
    )
    monkeypatch.setattr(harness, "TorchGenerator", lambda seed: GivenMasks(masks))
    monkeypatch.setattr(harness, "MaskGenerator", GivenMasks)
    found = harness.run_ours(case, expected)
    wrong = {}
    for name, value in expected.items():
        if name not in case.ignore and (case.type in TYPES or name.split()[1] == "data"):
            mine = np.asarray(found[name], np.float32).reshape(value.shape)
            different = int(((bits(mine) != bits(value)) & ~(np.isnan(mine) & np.isnan(value))).sum())
            if different:
                wrong[name] = (different, value.size)
    assert not wrong, case.text
