"""Training that begins plain and goes on compiled: the same numbers whenever the change comes, and a cache that may be spoilt."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from support.prototxt import layer

from allconv_caffe import files
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import compiler, fast_math, layout
from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.executor import build, builder, changing, plan
from allconv_caffe.caffe_torch.executor.changing import ChangingExecutor
from allconv_caffe.caffe_torch.executor.compiled import CompiledExecutor, Graph
from allconv_caffe.caffe_torch.executor.plain import PlainExecutor
from allconv_caffe.caffe_torch.executor.recipe import Recipe, recipe_of
from allconv_caffe.caffe_torch.layer import REGISTRY, Context
from allconv_caffe.caffe_torch.layers.data_input import DummyDataLayer
from allconv_caffe.caffe_torch.solver import Solver
from allconv_caffe.caffe_torch.solver_factory import create_solver
from allconv_caffe.proto import SolverParameter, parse_text

needs_compiler = pytest.mark.skipif(not compiler.compiler(), reason="no C++ compiler on this machine")
XAVIER = 'weight_filler { type: "xavier" }'
SOURCE = 'layer {{ name: "{0}" type: "DummyData" top: "{0}" dummy_data_param {{ shape {{ {1} }} data_filler {{ {2} }} }} }}\n'
NORMAL = 'type: "gaussian" std: 1'
NET = "".join(
    [
        SOURCE.format("x", "dim: 6 dim: 10", NORMAL),
        layer("ip", "InnerProduct", "x", f"inner_product_param {{ num_output: 8 {XAVIER} }}"),
        layer("relu", "ReLU", "ip", ""),
        layer("drop", "Dropout", "relu", ""),
        SOURCE.format("target", "dim: 6 dim: 8", NORMAL),
        layer("loss", "EuclideanLoss", "drop target", ""),
    ]
)
HYPER = 'base_lr: 0.05 lr_policy: "step" gamma: 0.5 stepsize: 4 max_iter: 8 momentum: 0.9 weight_decay: 0.01\n'
QUIET = "snapshot_after_train: false\n"
ITERATIONS = 8


def make(net: str = NET, executor: str = "auto", hyper: str = HYPER, seed: int = 5) -> Solver:
    text = f"net_param {{ {net} }} {hyper} {QUIET}"
    context = Context(rng=TorchGenerator(seed))
    return create_solver(parse_text(text, SolverParameter), context=context, where="solver.prototxt", executor=executor)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLCONV_COMPILE", "beside")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: None) -> Path:
    """A cache of its own, with nothing but the kernels of forward passes."""
    layout.library()
    kernels = list(compiler.cache().glob("channels_last-*.so"))
    (tmp_path / "cache" / "allconv-caffe").mkdir(parents=True)
    for path in kernels:
        shutil.copy(path, tmp_path / "cache" / "allconv-caffe")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(builder, "_making", {})
    monkeypatch.setattr(builder, "_damaged", set())
    return tmp_path / "cache" / "allconv-caffe"


class ChangesAt(ChangingExecutor):
    """Changes at one iteration's border, to the captured graph, which no compiler has touched."""

    at = 0

    def _change(self) -> bool:
        return False

    def _look(self) -> None:
        if self.solver.iter == self.at:
            graph = self.compiled.train
            captured = graph.capture(_same_shapes(graph))
            graph._take(lambda flat: _row(captured, graph, flat))
            self._now = self.compiled


def _same_shapes(graph: Graph) -> list[torch.Tensor]:
    """Inputs to capture with, without asking the sources for a batch."""
    tops = [torch.zeros(top.shape) for i in graph.sources for top in graph.net.top_vecs[i]]
    return [*tops, *([torch.zeros(len(graph._streams), dtype=torch.int64)] if graph._streams else [])]


def _row(captured: torch.fx.GraphModule, graph: Graph, flat: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    buffers, inputs = len(graph.buffers()), len(flat) - 1
    return list(captured(list(flat[:buffers]), list(flat[buffers:inputs]), flat[-1]))


def _run(executor: type[PlainExecutor] | None, at: int = -1) -> tuple[list[float], list[torch.Tensor]]:
    solver = make(executor="plain")
    changing_executor = None if executor else type("At", (ChangesAt,), {"at": at})(solver, ITERATIONS)
    solver._choose_executor = lambda s, iters: changing_executor or PlainExecutor(s)
    losses: list[float] = []
    keep = solver._update_smoothed_loss

    def note(loss: torch.Tensor) -> None:
        losses.append(float(loss))
        keep(loss)

    solver._update_smoothed_loss = note  # type: ignore[method-assign]
    solver.step(ITERATIONS)
    return losses, [b.data.clone() for b in [*solver.net.learnable_params, *solver.history]]


@pytest.mark.parametrize("at", [0, 1, 3, 7])
def test_losses_and_weights_do_not_depend_on_when_the_change_comes(at: int) -> None:
    """The same draws of data and masks, the same carried state: here both executors agree to the bit, so all of it does."""
    expected, found = _run(PlainExecutor), _run(None, at)
    assert found[0] == expected[0]
    for a, b in zip(expected[1], found[1], strict=True):
        assert torch.equal(a, b)
    assert len(set(expected[0])) == ITERATIONS


def test_a_net_gives_back_what_layers_have_computed() -> None:
    """After the change nobody looks at the blobs between layers: their memory goes, weights stay, and a forward runs."""
    solver = make(executor="plain")
    net, twin = solver.net, make(executor="plain").net
    for one in (net, twin):
        one.forward()
        one.backward()
    net.release()
    assert net.blobs["ip"]._data.flat is None and net.blobs["drop"]._diff.flat is None
    assert net.blobs["x"]._data.flat is not None
    for one in (net, twin):
        one.clear_param_diffs()
    assert float(net.forward()) == float(twin.forward()) > 0
    net.backward()
    twin.backward()
    for a, b in zip(net.learnable_params, twin.learnable_params, strict=True):
        assert torch.equal(a.data, b.data) and torch.equal(a.diff, b.diff) and float(a.diff.abs().sum()) > 0


def test_a_short_training_starts_no_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is soon over runs plain to its end."""

    def refuse(*_: object) -> None:
        raise AssertionError("compiles")

    monkeypatch.setattr(builder, "Building", refuse)
    solver = make()
    solver.solve()
    assert isinstance(solver.executor, ChangingExecutor)
    assert solver.iter == ITERATIONS


@needs_compiler
def test_training_changes_when_the_plan_is_ready(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A process beside makes the plans; the iterations before and after it end in the plain executor's weights, and tests
    in its outputs; a second training finds the plans and is compiled from its first iteration on.
    """
    monkeypatch.setattr(changing, "PAYS_SECONDS", 0.0)

    def follow(solver: Solver) -> None:
        executor = solver.executor
        assert isinstance(executor, ChangingExecutor)
        deadline = time.monotonic() + 500
        while executor._building is not None and not executor._building.ended and time.monotonic() < deadline:
            time.sleep(0.1)
        assert executor._building is not None and executor._building._process.poll() == 0

    tested = HYPER + "test_iter: 2 test_interval: 100 test_initialization: false"
    changed, plain = make(hyper=tested), make(executor="plain", hyper=tested)
    changed.step(4)
    follow(changed)
    changed.step(4)
    plain.step(4)
    plain.step(4)
    said = capfd.readouterr().err
    assert changed.executor.updates, said.splitlines()[-1]
    for a, b in zip(plain.net.learnable_params, changed.net.learnable_params, strict=True):
        torch.testing.assert_close(a.data, b.data, rtol=1e-4, atol=1e-6)
    assert "Executor: plain, until a compiled iteration is ready" in said
    assert "Executor: compiled, from iteration 4 on" in said
    assert changed.test(0)["loss"] == pytest.approx(plain.test(0)["loss"], rel=1e-4)
    assert changed.test_nets[0].is_fast and not plain.test_nets[0].is_fast
    capfd.readouterr()
    again = make(hyper=tested)
    again.step(1)
    assert again.executor.updates
    assert "Executor: compiled\n" in capfd.readouterr().err


IMAGES = "".join(
    [
        SOURCE.format("x", "dim: 3 dim: 16 dim: 9 dim: 9", NORMAL),
        layer("conv", "Convolution", "x", f"convolution_param {{ num_output: 16 kernel_size: 3 pad: 1 {XAVIER} }}"),
        layer("pool", "Pooling", "conv", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"),
        layer("loss", "Reduction", "pool", "loss_weight: 1 reduction_param { operation: MEAN }"),
    ]
)
TESTED = HYPER + "test_iter: 3 test_interval: 2\n"


class _Making:
    """A process that makes nothing, and does not end."""

    ended, program_unknown, complaint = False, False, "out of memory"

    def __init__(self, recipes: list[Recipe], beside: bool, kernels: bool) -> None:
        assert beside
        self.kernels = kernels


@pytest.mark.skipif(fast_math.why_not() is not None, reason="no kernels of forward passes here")
def test_tests_take_their_kernels_as_soon_as_these_are_there(monkeypatch: pytest.MonkeyPatch, beside: None) -> None:
    """A test is plain, bit for bit, while they are compiled beside it, and from then on differs by rounding; training by nothing."""
    monkeypatch.setattr(builder, "Building", _Making)
    monkeypatch.setattr(changing, "PAYS_TEST_SECONDS", 0.0)
    monkeypatch.setattr(fast_math, "is_built", lambda: False)
    changed, plain = make(IMAGES, hyper=TESTED), make(IMAGES, "plain", TESTED)
    changed.step(3)
    plain.step(3)
    assert changed.test(0) == plain.test(0) and not changed.test_nets[0].is_fast
    executor = changed.executor
    assert (
        isinstance(executor, ChangingExecutor) and isinstance(executor._kernels, _Making) and executor._kernels.kernels
    )
    monkeypatch.setattr(fast_math, "is_built", lambda: True)
    changed.step(3)
    plain.step(3)
    for a, b in zip(plain.net.learnable_params, changed.net.learnable_params, strict=True):
        assert torch.equal(a.data, b.data)
    assert changed.test(0)["loss"] == pytest.approx(plain.test(0)["loss"], rel=1e-5)
    assert changed.test_nets[0].is_fast and not changed.net.is_fast and not plain.test_nets[0].is_fast


def test_tests_stay_plain_where_there_are_no_kernels(
    monkeypatch: pytest.MonkeyPatch, beside: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where these could not be compiled, one line says why."""
    monkeypatch.setattr(builder, "Building", _Making)
    monkeypatch.setattr(changing, "PAYS_TEST_SECONDS", 0.0)
    monkeypatch.setattr(fast_math, "is_built", lambda: False)
    monkeypatch.setattr(_Making, "ended", True)
    changed, plain = make(IMAGES, hyper=TESTED), make(IMAGES, "plain", TESTED)
    for solver in (changed, plain):
        solver.step(5)
    assert changed.test(0) == plain.test(0) and not changed.test_nets[0].is_fast
    assert capfd.readouterr().err.count("Tests: plain (out of memory)") == 1


@needs_compiler
def test_compiled_execution_compiles_no_test() -> None:
    """Where compiling comes first, a test takes the kernels at once."""
    solver = make(IMAGES, "plain", TESTED)
    executor = CompiledExecutor(solver)
    assert not executor.tests and not solver.test_nets[0].is_fast
    executor.test(0)
    assert solver.test_nets[0].is_fast


def _spoil_kernel(folder: Path) -> None:
    library = next(folder.glob("*.so"))
    library.write_bytes(library.read_bytes()[:2000])


def _spoil_list(folder: Path) -> None:
    (folder / "plan.json").write_text('{"digests": ')


def _of_another_version(folder: Path) -> None:
    (folder / "plan.json").write_text('{"files": {}}')


def _write(solver: Solver) -> Path:
    """A plan without kernels, as the process that compiles would write it: it adds 1 to the first weights."""
    one = recipe(solver)
    folder = builder.place(one, anew=True)
    kernel = folder.parent / "some.so"
    kernel.write_bytes(b"ELF" * 1000)
    plan.write(folder, "def call(args):\n    args[0].add_(1)\n    return (torch.zeros(()),)\n", kernel)
    return folder


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_spoil_kernel, "kernels.so is not what was written"),
        (_spoil_list, "plan.json"),
        (_of_another_version, "digests"),
    ],
)
def test_a_spoilt_plan_is_said_once_and_made_again(
    spoil: Callable[[Path], None],
    says: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Cut, unreadable or of another version: one line, no plan, and a process that makes it anew."""
    solver = make()
    folder = _write(solver)
    spoil(folder)
    assert builder.find(recipe(solver)) is None
    assert builder.find(recipe(solver)) is None
    lines = [line for line in capfd.readouterr().err.splitlines() if "compiled again" in line]
    assert len(lines) == 1 and says in lines[0] and "Traceback" not in lines[0]
    asked: list[tuple[list[Recipe], bool]] = []

    class Nothing:
        ended, program_unknown, complaint = True, False, "a test makes none"

        def __init__(self, recipes: list[Recipe], beside: bool, kernels: bool) -> None:
            asked.append((recipes, beside))

    monkeypatch.setattr(builder, "Building", Nothing)
    assert builder.get(recipe(solver)) is None
    assert asked == [([recipe(solver)], False)]
    assert "No plan of the graph (a test makes none): compiled in this process" in capfd.readouterr().err


def test_a_cache_that_cannot_be_written_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file where the cache's folder would be: what is compiled lies elsewhere, for this process alone."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    one, two = (compiler.cached(f"plans/{name}", anew=True) for name in ("one", "two"))
    assert one.parent == two.parent and one.parent.is_dir() and tmp_path not in one.parents
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "Not a directory; what is compiled is kept for this process alone" in lines[0]


def test_a_read_only_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies there is used; what is made lies elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    there = tmp_path / "allconv-caffe" / "plans" / "there"
    there.mkdir(parents=True)

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(files, "check_writable", refuse)
    assert compiler.cached("plans/there") == there
    assert tmp_path not in compiler.cached("plans/other").parents
    assert tmp_path not in compiler.cached("plans/there", anew=True).parents


def test_what_cannot_be_kept_is_compiled_here(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the compiler's program is of another form, training compiles in its own process, as soon as that is known."""
    monkeypatch.setattr(changing, "PAYS_SECONDS", 0.0)
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)

    class Unknown:
        ended, program_unknown, complaint = True, True, "of another form"

        def __init__(self, recipes: list[Recipe], beside: bool, kernels: bool) -> None:
            assert beside

    monkeypatch.setattr(builder, "Building", Unknown)
    changed, plain = make(), make(executor="plain")
    for solver in (changed, plain):
        solver.step(ITERATIONS)
    assert changed.executor.updates
    for a, b in zip(plain.net.learnable_params, changed.net.learnable_params, strict=True):
        torch.testing.assert_close(a.data, b.data, rtol=1e-4, atol=1e-6)


class _Unknown:
    """A process that compiled, and could not make a plan of it."""

    ended, program_unknown, complaint = True, True, "of another form"

    def __init__(self, recipes: list[Recipe], beside: bool, kernels: bool = False) -> None:
        pass


def _fail(graph: torch.fx.GraphModule, **_: object) -> Callable[..., list[torch.Tensor]]:
    def run(*_: object) -> list[torch.Tensor]:
        raise RuntimeError("no compiler works\nhere")

    return run


@pytest.mark.parametrize("way", ["beside", "wait"])
def test_training_goes_on_where_compiling_fails_here(
    way: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Beside or first, `auto` warns once and trains plain, bit for bit; asked for outright, it is one clean line."""
    monkeypatch.setenv("ALLCONV_COMPILE", way)
    monkeypatch.setattr(changing, "PAYS_SECONDS", 0.0)
    monkeypatch.setattr("allconv_caffe.caffe_torch.solver_factory.MIN_ITERS_TO_COMPILE", 1)
    monkeypatch.setattr(torch, "compile", _fail)
    monkeypatch.setattr(builder, "Building", _Unknown)
    solver, plain = make(), make(executor="plain")
    for one in (solver, plain):
        one.step(ITERATIONS)
    assert capfd.readouterr().err.count("Executor: plain (RuntimeError: no compiler works)") == 1
    for a, b in zip(plain.net.learnable_params, solver.net.learnable_params, strict=True):
        assert torch.equal(a.data, b.data)
    with pytest.raises(CaffeError, match=r"executor compiled: RuntimeError: no compiler works \(executors: auto"):
        make(executor="compiled").step(1)


def test_a_machine_without_a_compiler_that_works_is_known_by_what_pytorch_wraps() -> None:
    """No other process would know better; a program of another form may be compiled in the process that trains."""
    wrapped = RuntimeError("InductorError")
    wrapped.inner_exception = OSError("Exec format error")  # type: ignore[attr-defined]
    caused = RuntimeError("InductorError")
    caused.__cause__ = type("InvalidCxxCompiler", (RuntimeError,), {})()
    assert build.fails_anywhere(wrapped) and build.fails_anywhere(caused) and build.fails_anywhere(MemoryError())
    assert not build.fails_anywhere(build.UnknownProgramError("another form"))


SIZES = (9, 9, 12, 9, 12, 9, 11, 9)


class Varies(DummyDataLayer):
    """Images of another size in each batch."""

    sizes: Sequence[int] = SIZES

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self._drawn = 0

    def next_batch(self) -> list[torch.Tensor]:
        size = self.sizes[self._drawn % len(self.sizes)]
        self._drawn += 1
        return [torch.from_numpy(np.random.default_rng(self._drawn).random((3, 16, size, size), dtype=np.float32))]

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        (batch,) = self.next_batch()
        top[0].reshape(*batch.shape)
        top[0].data = batch


VARYING = IMAGES.replace('bottom: "pool"', 'bottom: "drop"').replace(
    'layer { name: "loss"', layer("drop", "Dropout", "pool", "") + 'layer { name: "loss"'
)


def _vary(monkeypatch: pytest.MonkeyPatch, sizes: Sequence[int], extra: str = "") -> tuple[Solver, Solver]:
    """Two solvers, auto and plain, whose source brings images of these sizes."""
    monkeypatch.setattr(Varies, "sizes", sizes)
    monkeypatch.setitem(REGISTRY, "DummyData", Varies)
    return make(VARYING, hyper=HYPER + extra), make(VARYING, "plain", HYPER + extra)


@pytest.mark.parametrize("extra", ["", "iter_size: 2"])
def test_batches_of_other_shapes_run_plain(
    extra: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same draws and numbers as plain training; nothing is compiled for them, and the log says nothing of it."""
    solver, plain = _vary(monkeypatch, SIZES, extra)
    executor = ChangesAt(solver, ITERATIONS)
    monkeypatch.setattr(ChangesAt, "at", 1)
    solver._executor = executor
    ran: list[bool] = []
    for _ in range(ITERATIONS):
        solver.step(1)
        ran.append(executor._ran_plain)
        plain.step(1)
    assert executor._now is executor.compiled
    if not extra:
        assert ran == [False, False, True, False, True, False, True, False]
    for a, b in zip(plain.net.learnable_params, solver.net.learnable_params, strict=True):
        torch.testing.assert_close(a.data, b.data, rtol=1e-4, atol=1e-6)


def test_shapes_that_change_all_the_time_end_compiling(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where hardly a batch has the shapes of another, one line says so, and training is plain to its end, bit for bit."""
    solver, plain = _vary(monkeypatch, range(5, 15))
    for one in (solver, plain):
        one.step(ITERATIONS)
    assert capfd.readouterr().err.count("Executor: plain (the sources' shapes change)") == 1
    for a, b in zip(plain.net.learnable_params, solver.net.learnable_params, strict=True):
        assert torch.equal(a.data, b.data)


def recipe(solver: Solver) -> Recipe:
    return recipe_of(solver.net, [0, 4], solver)


def test_a_recipe_holds_what_changes_the_iteration_and_nothing_else() -> None:
    """Rates' multiplier, momentum, a layer's parameter and threads do; rate, seed and what fills the sources do not."""
    base = recipe(make()).key
    assert recipe(make(seed=6)).key == base
    assert recipe(make(hyper=HYPER.replace("0.05", "1") + "display: 3 random_seed: 3")).key == base
    assert recipe(make(NET.replace(NORMAL, 'type: "constant" value: 2'))).key == base
    assert recipe(make(hyper=HYPER.replace("momentum: 0.9", "momentum: 0.5"))).key != base
    assert recipe(make(hyper=HYPER + "iter_size: 2")).key != base
    assert recipe(make(NET.replace("num_output: 8", "num_output: 8 bias_term: false"))).key != base
    assert recipe(make(NET.replace("dim: 6", "dim: 7"))).key != base
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert recipe(make()).key != base
    finally:
        torch.set_num_threads(before)


def test_a_recipe_comes_back_from_its_text() -> None:
    """What the process that compiles reads is what was written, and it builds the net with Input layers for sources."""
    one = recipe(make())
    assert Recipe.of_text(one.text()) == one
    types = [layer.type for layer in one.net_param().layer]
    assert types == ["Input", "InnerProduct", "ReLU", "Dropout", "Input", "EuclideanLoss"]
    assert one.solver_param().momentum == pytest.approx(0.9)


def test_a_recipe_tells_sources_of_one_name_apart() -> None:
    """As Caffe allows: each Input layer has the shape of its own source, whatever layers are called."""
    twins = NET.replace('name: "target"', 'name: "x"').replace('name: "ip"', 'name: "x"')
    made = recipe(make(twins)).net_param().layer
    shapes = [list(one.input_param.shape[0].dim) for one in made if one.type == "Input"]
    assert shapes == [[6, 10], [6, 8]] and made[1].type == "InnerProduct"


def test_a_wrong_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ALLCONV_COMPILE knows two words."""
    monkeypatch.setenv("ALLCONV_COMPILE", "later")
    with pytest.raises(CaffeError, match=r"^ALLCONV_COMPILE=later: expected beside or wait$"):
        make().solve()
