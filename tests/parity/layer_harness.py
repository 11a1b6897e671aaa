"""Layer cases, and how one is run by real Caffe and by ours.

**To add cases**, write a module ``tests/parity/layer_cases_<what>.py`` with a list `CASES` (and `ERRORS`, if any)::

    from layer_harness import Case, ErrorCase

    CASES = [Case("ReLU", "relu_param { negative_slope: 0.1 }", [(2, 3, 4, 5)])]
    ERRORS = [ErrorCase("LRN", "lrn_param { local_size: 4 }", [(1, 2, 3, 3)], sentence="LRN only supports odd values")]

Nothing else: test_layers.py, the goldens and docs/layers.md collect every module of that name. For each case a net of one
layer (called ``layer``, bottoms b0, b1, ..., tops t0, t1, ...) is built with force_backward; parameters, bottoms and top
diffs are drawn from a seed that the case's text decides; forward, backward; then `then`, a second batch of other shapes.
Compared: every top, every bottom diff (0.5 before, so that what is not written shows), every parameter and its diff
(0.25 before, so that what is assigned instead of added shows).

Run one type: ``pytest tests/parity/test_layers.py -k Pooling``. Record goldens: ``python tests/parity/layer_golden.py``.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import os
import subprocess
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import layer_side
import numpy as np
import torch

import allconv_caffe.pycaffe  # noqa: F401  (answers to `import caffe` in a Python layer's module)
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute.rng import Masks, TorchGenerator
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.pyblob import PyBlob
from allconv_caffe.proto import TEST, TRAIN, NetParameter, parse_text

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parents[1] / ".caffe" / "bin" / "python"
TOLERANCE = 1e-5

Bottom = tuple[int, ...] | np.ndarray
Results = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One layer with its parameters and inputs.

    Attributes:
        type: the layer's `type`.
        param: what else stands in ``layer { }``: its ..._param, `loss_weight`, `param { }`, `propagate_down`.
        bottoms: one entry per bottom: a shape, filled with standard normal values, or the values (float32).
        tops: the number of tops.
        phase: TRAIN or TEST.
        tolerance: largest difference over the blob's largest absolute value; above 1e-5 `reason` says why.
        in_place: top i is bottom i, for every top.
        backward: whether backward runs, too.
        force: force_backward; without it only what `propagate_down`, `loss_weight` and lr_mult ask for is computed.
        below: a Bias layer (bias 0) lies under each bottom, so that without `force` there is something to propagate to.
        then: a second batch for the same net, without clearing the gradients of the parameters. None: no second batch.
        params: values of the first parameters (the others keep their fillers' values); None: all normal, std 0.5.
        masked: the layer draws a Bernoulli mask; ours is given the one that real Caffe drew, read from its top.
        golden: recorded for where no Caffe is. None: the first cases of each type, as far as they are small.
        ignore: results that are not compared, such as "0 diff c0"; `reason` says why.
        path: a folder that is put on sys.path (type Python).
    """

    type: str
    param: str = ""
    bottoms: Sequence[Bottom] = ((2, 3, 4, 5),)
    tops: int = 1
    phase: int = TRAIN
    tolerance: float = TOLERANCE
    reason: str = ""
    in_place: bool = False
    backward: bool = True
    force: bool = True
    below: bool = False
    then: Sequence[Bottom] | None = None
    params: Sequence[np.ndarray] | None = None
    masked: bool = False
    golden: bool | None = None
    ignore: Sequence[str] = ()
    path: str = ""

    def __post_init__(self) -> None:
        if (self.tolerance > TOLERANCE or self.ignore) and not self.reason:
            raise ValueError(f"{self.id}: a tolerance of {self.tolerance}, ignoring {self.ignore}, needs a reason")

    @property
    def id(self) -> str:
        """The type and eight digits that stand for everything else; the same on every machine."""
        return f"{self.type}-{zlib.crc32(self.text.encode()):08x}"

    @property
    def text(self) -> str:
        """All that decides the case's numbers, in words."""

        def words(bottoms: Sequence[Any] | None) -> list[str]:
            return [
                f"{b.shape} {zlib.crc32(np.ascontiguousarray(b, np.float32).tobytes()):08x}"
                if isinstance(b, np.ndarray)
                else str(tuple(b))
                for b in bottoms or ()
            ]

        return " | ".join(
            [
                self.type,
                " ".join(self.param.split()),
                f"phase {self.phase} tops {self.tops}",
                f"{'in-place ' * self.in_place}{'no-backward ' * (not self.backward)}{'not-forced ' * (not self.force)}"
                f"{'below' * self.below}",
                *words(self.bottoms),
                "then",
                *words(self.then),
                "params",
                *words(self.params),
            ]
        )

    @property
    def input_names(self) -> list[str]:
        return [f"b{i}" for i in range(len(self.bottoms))]

    @property
    def bottom_names(self) -> list[str]:
        return [f"{'c' if self.below else 'b'}{i}" for i in range(len(self.bottoms))]

    @property
    def top_names(self) -> list[str]:
        return self.bottom_names[: self.tops] if self.in_place else [f"t{i}" for i in range(self.tops)]

    @property
    def net(self) -> str:
        """The prototxt."""
        lines = ["force_backward: true"] if self.force else []
        for own, under, bottom in zip(self.bottom_names, self.input_names, self.bottoms, strict=True):
            dims = " ".join(f"dim: {d}" for d in shape(bottom))
            lines.append(
                f'layer {{ name: "{under}" type: "Input" top: "{under}" input_param {{ shape {{ {dims} }} }} }}'
            )
            if self.below:
                bias = "bias_param { axis: 0 num_axes: 0 }"
                lines.append(f'layer {{ name: "{own}" type: "Bias" bottom: "{under}" top: "{own}" {bias} }}')
        ends = "".join(f'bottom: "{n}" ' for n in self.bottom_names) + "".join(f'top: "{n}" ' for n in self.top_names)
        lines.append(f'layer {{ name: "layer" type: "{self.type}" {ends}{self.param} }}')
        return "\n".join(lines) + "\n"

    @property
    def batches(self) -> list[Sequence[Bottom]]:
        return [self.bottoms] if self.then is None else [self.bottoms, self.then]

    def job(self, aborts: bool = False) -> dict[str, Any]:
        """What layer_side.py is told."""
        return {
            "id": self.id,
            "seed": self.text,
            "net": self.net,
            "phase": self.phase,
            "inputs": self.input_names,
            "bottoms": self.bottom_names,
            "tops": self.top_names,
            "batches": len(self.batches),
            "backward": self.backward,
            "path": self.path,
            "params": None if self.params is None else len(self.params),
            "aborts": aborts,
        }

    def arrays(self) -> Results:
        """The inputs and given parameters under layer_side.py's names."""
        out = {}
        for step, batch in enumerate(self.batches):
            for name, bottom in zip(self.input_names, batch, strict=True):
                own = bottom if isinstance(bottom, np.ndarray) else layer_side.normal(bottom, self.text, step, name)
                out[f"{self.id}/{step}/{name}"] = np.asarray(own, np.float32)
        for i, values in enumerate(self.params or ()):
            out[f"{self.id}/param/{i}"] = np.asarray(values, np.float32)
        return out


@dataclass(frozen=True)
class ErrorCase(Case):
    """A layer that cannot be: `sentence` stands in what real Caffe says before it aborts, and in our CaffeError."""

    sentence: str = ""


def shape(bottom: Bottom) -> tuple[int, ...]:
    return tuple(bottom.shape) if isinstance(bottom, np.ndarray) else tuple(bottom)


def labels(count: Sequence[int] | int, classes: int, seed: int = 0) -> np.ndarray:
    """Integers 0 to classes - 1 as float32."""
    return np.random.RandomState(seed).randint(0, classes, count).astype(np.float32)


def uniform(dims: Sequence[int], low: float, high: float, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).uniform(low, high, tuple(dims)).astype(np.float32)


def normal(dims: Sequence[int], seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.RandomState(seed).standard_normal(tuple(dims)) * scale).astype(np.float32)


def modules() -> list[Any]:
    """layer_cases.py and every layer_cases_*.py beside it."""
    return [importlib.import_module(path.stem) for path in sorted(HERE.glob("layer_cases*.py"))]


def collect() -> list[Case]:
    """Every case, in order of type. Raises ValueError where one stands there twice."""
    cases = [case for module in modules() for case in module.CASES]
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise ValueError(f"{case.id} stands there twice: {case.text}")
        seen.add(case.id)
    return sorted(cases, key=lambda case: case.type)


def collect_errors() -> list[ErrorCase]:
    return [case for module in modules() for case in getattr(module, "ERRORS", [])]


def elsewhere() -> dict[str, str]:
    """Types that a one-layer net cannot show -> the test module that compares them with real Caffe."""
    out: dict[str, str] = {}
    for module in modules():
        out |= getattr(module, "ELSEWHERE", {})
    return out


def core_types() -> list[str]:
    """The sets of OpenBLAS's kernels whose order of sums is known and that this processor can run."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    return ["Haswell", "Zen", *(["SkylakeX"] if "avx512vl" in cpuinfo else [])]


# real Caffe
@dataclass
class Real:
    """What real Caffe computed: id -> results; id -> (exit status, stderr) where it aborted, whether meant to or not."""

    results: dict[str, Results] = field(default_factory=dict)
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)


def run_real(cases: Sequence[Case], errors: Sequence[ErrorCase], folder: Path) -> Real:
    """All cases in one process of real Caffe; where one kills it unmeant, another process does the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: Results = {}
    for case in [*cases, *errors]:
        arrays |= case.arrays()
    np.savez(folder / "arrays.npz", **arrays)
    left = [case.job() for case in cases] + [case.job(aborts=True) for case in errors]
    kernels = {name: value for name, value in os.environ.items() if name == "OPENBLAS_CORETYPE"}  # those that we follow
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    env = {"GLOG_minloglevel": "2", "PATH": "/usr/bin:/bin", **one_thread, **kernels}
    files = [folder / "jobs.json", folder / "arrays.npz", folder]
    while left:
        (folder / "jobs.json").write_text(json.dumps(left))
        command = [str(PYTHON), str(HERE / "layer_side.py"), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
        if not done.returncode:
            break
        now = folder / "now"
        if not now.exists():
            raise RuntimeError(f"real Caffe does not start: {done.stderr[-3000:]}")
        died = now.read_text()
        now.unlink()
        np.savez(folder / f"{died}.npz", error=np.array([str(done.returncode), done.stderr[-3000:]]))
        left = [job for job in left if not (folder / f"{job['id']}.npz").exists()]
    (folder / "done").touch()
    return read_real(cases, errors, folder)


def read_real(cases: Sequence[Case], errors: Sequence[ErrorCase], folder: Path) -> Real:
    real = Real()
    for case in [*cases, *errors]:
        with np.load(folder / f"{case.id}.npz") as file:
            if "error" in file.files:
                status, text = file["error"]
                real.errors[case.id] = (int(status), str(text))
            else:
                real.results[case.id] = dict(file)
    return real


def run_real_once(cases: Sequence[Case], errors: Sequence[ErrorCase], shared: Path) -> Real:
    """As run_real, but only by the first of several test processes that share the folder `shared`."""
    harness = (HERE / "layer_side.py").read_text() + os.environ.get("OPENBLAS_CORETYPE", "")
    harness += "".join(case.text for case in [*cases, *errors])
    folder = shared / f"layers-{hashlib.sha1(harness.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return (read_real if (folder / "done").exists() else run_real)(cases, errors, folder)


# ours
class OurNet:
    """Our engine's net with as much of pycaffe's interface as layer_side.drive uses."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.blobs = {name: PyBlob(blob) for name, blob in net.blobs.items()}
        self.params = {layer.name: [PyBlob(b) for b in layer.blobs] for layer in net.layers if layer.blobs}
        self.blob_loss_weights = dict(zip(net.blob_names, net.blob_loss_weights, strict=True))
        self.forward = net.forward
        self.backward = net.backward


class MaskGenerator(TorchGenerator):
    """Draws the masks it was given, one after the other."""

    def __init__(self, masks: Sequence[np.ndarray]) -> None:
        super().__init__(0)
        self._masks = iter(masks)

    def bernoulli(self, shape: Sequence[int], p: float, device: torch.device) -> torch.Tensor:
        mask = next(self._masks)
        assert mask.shape == tuple(shape)
        return torch.from_numpy(mask.astype(np.float32)).to(device)

    def stream(self) -> Masks:
        return self


def run_ours(case: Case, real: Results | None = None, device: str = "cpu") -> Results:
    """The case on our engine. `real` gives the masks of a `masked` case. Raises CaffeError where the layer cannot be."""
    rng = TorchGenerator(1)
    if case.masked:
        assert real is not None
        rng = MaskGenerator([real[f"{step} data {case.top_names[0]}"] != 0 for step in range(len(case.batches))])
    with glog.quiet(glog.ERROR):
        context = Context(phase=case.phase, rng=rng, device=torch.device(device))
        net = Net(parse_text(case.net, NetParameter), context)
        return layer_side.drive(OurNet(net), case.job(), case.arrays())


# comparison
def difference(ours: np.ndarray, real: np.ndarray) -> float:
    """The largest difference over the largest finite absolute value of `real`; inf where shapes, nan or inf disagree.

    Where `real` is all 0, the largest absolute value of ours counts as it is.
    """
    if ours.shape != real.shape:
        return float("inf")
    finite = np.isfinite(real)
    if not np.array_equal(ours[~finite], real[~finite], equal_nan=True) or not np.isfinite(ours[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    a, b = ours[finite].astype(np.float64), real[finite].astype(np.float64)
    scale = np.abs(b).max()
    return float(np.abs(a - b).max() / (scale if scale > 0 else 1.0))


def compare(ours: Results, real: Results, ignore: Sequence[str] = ()) -> dict[str, float]:
    """Name of the result -> difference; a result that only one side has counts as inf."""
    return {
        name: difference(ours[name], real[name]) if name in ours and name in real else float("inf")
        for name in [*real, *(set(ours) - set(real))]
        if name not in ignore
    }


def worst(errors: dict[str, float], word: str) -> float:
    """The largest difference among forward ("data") or backward ("diff") results."""
    return max((value for name, value in errors.items() if name.split()[1] == word), default=0.0)


__all__ = [
    "TEST",
    "TRAIN",
    "Callable",
    "Case",
    "ErrorCase",
    "collect",
    "collect_errors",
    "compare",
    "labels",
    "normal",
    "replace",
    "run_ours",
    "run_real",
    "run_real_once",
    "uniform",
    "worst",
]
