"""On a CUDA device: the compiled executor and its CUDA graph, data, snapshots, pycaffe and the command line, beside the CPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from support.databases import write_lmdb

import allconv_caffe.pycaffe as pycaffe
from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.executor.compiled import CompiledExecutor
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.solver import Solver
from allconv_caffe.caffe_torch.solver_factory import create_solver
from allconv_caffe.caffe_torch.source.loaded import forget_loaded
from allconv_caffe.caffe_torch.tools import caffe as caffe_torch
from allconv_caffe.proto import TRAIN, Datum, NetParameter, SolverParameter, parse_text
from allconv_caffe.visualize.nets.open import open_net

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

NET = """name: "Small"
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "db" backend: LMDB batch_size: 8 } TRANSFORM }
layer { name: "drop" type: "Dropout" bottom: "data" top: "data" dropout_param { dropout_ratio: DROPPED } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "conv2" type: "Convolution" bottom: "conv" top: "conv2"
  convolution_param { num_output: 16 kernel_size: 3 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "ip" type: "InnerProduct" bottom: "conv2" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.05 lr_policy: "multistep" gamma: 0.1 stepvalue: 9 weight_decay: 0.01 max_iter: 14
test_iter: 3 test_interval: 5 display: 4 snapshot_prefix: "small" random_seed: 3 """


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory with 30 records of class-dependent noise and the net."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOG_minloglevel", "2")
    rng = np.random.default_rng(0)
    images = [rng.normal(i % 3 - 1, 1, 3 * 12 * 12) for i in range(30)]
    write_lmdb(
        "db", (Datum(channels=3, height=12, width=12, label=i % 3, float_data=image) for i, image in enumerate(images))
    )
    write_net()
    forget_loaded()
    yield
    forget_loaded()


def write_net(dropped: float = 0, transform: str = "") -> None:
    Path("net.prototxt").write_text(NET.replace("DROPPED", str(dropped)).replace("TRANSFORM", transform))


def make(
    extra: str = "momentum: 0.9", executor: str = "compiled", device: str = "cuda", precision: str = "float32"
) -> Solver:
    context = Context(
        rng=TorchGenerator(5),
        device=torch.device(device),
        conv_mode="direct",
        tf32=precision == "tf32",
        compute_dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )
    return create_solver(
        parse_text(SOLVER + extra, SolverParameter), context=context, where="solver.prototxt", executor=executor
    )


def weights(solver: Solver) -> list[torch.Tensor]:
    return [p.data.cpu().clone() for p in solver.net.learnable_params]


def replays(solver: Solver) -> int:
    compiled = solver.executor
    assert isinstance(compiled, CompiledExecutor)
    return compiled._train._function.replays  # type: ignore[union-attr]


KINDS = [
    "momentum: 0.9",
    "momentum: 0.9 iter_size: 2",
    "momentum: 0.9 clip_gradients: 0.5",
    'type: "Nesterov" momentum: 0.9',
    'type: "AdaGrad"',
    'type: "RMSProp" rms_decay: 0.9',
    'type: "AdaDelta" momentum: 0.9 delta: 1e-6',
    'type: "Adam" momentum: 0.9',
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_on_the_gpu_is_the_cpus(kind: str) -> None:
    """14 iterations with tests and a rate drop, the CUDA graph replayed in most: the plain CPU executor's weights."""
    on_cpu, on_gpu = make(kind, "plain", "cpu"), make(kind)
    on_cpu.solve()
    on_gpu.solve()
    assert replays(on_gpu) >= 10
    for a, b in zip(weights(on_cpu), weights(on_gpu), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4)
    means = [solver.test(0) for solver in (on_cpu, on_gpu)]
    assert means[0]["loss"] == pytest.approx(means[1]["loss"], rel=1e-3)


def test_the_plain_executor_on_the_gpu_is_the_cpus() -> None:
    """The same, layer by layer."""
    on_cpu, on_gpu = make(executor="plain", device="cpu"), make(executor="plain")
    on_cpu.solve()
    on_gpu.solve()
    for a, b in zip(weights(on_cpu), weights(on_gpu), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4)


def test_every_replay_drops_other_units() -> None:
    """With dropout, replays of one graph on one batch at rate 0 give different losses, of the right spread."""
    write_net(0.5)
    solver = make("momentum: 0")
    solver.param.base_lr, solver.param.test_interval = 0.0, 1000
    solver.param.weight_decay = 0
    losses = []
    solver.step(6)
    for _ in range(15 * 4):  # 15 batches of 8 are four rounds of 30 records
        solver.step(1)
        losses.append(float(solver._pending[-1]))
    same_batch = np.array(losses).reshape(4, 15)
    assert replays(solver) >= 60
    assert np.all(np.ptp(same_batch, axis=0) > 1e-4)


def test_an_iteration_never_waits_for_the_gpu() -> None:
    """Between two looks at the loss nothing synchronises: any call that would raises."""
    write_net(0.5, "transform_param { mirror: true crop_size: 10 }")
    solver = make()
    solver.param.display, solver.param.test_interval = 0, 0
    solver.step(6)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        solver.step(12)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert replays(solver) >= 12


@pytest.mark.parametrize("megabytes", ["64", "0"])
def test_batches_on_the_gpu_are_the_cpus(megabytes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept on the device or streamed, mirrored and cropped: the CPU's batches, over the end of the data set."""
    monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", megabytes)
    write_net(0, "transform_param { mirror: true crop_size: 9 scale: 0.5 mean_value: 0.25 }")
    on_cpu, on_gpu = make(device="cpu", executor="plain"), make(executor="plain")
    for _ in range(9):
        ours = [t.cpu() for t in on_gpu.net.layers[0].next_batch()]  # type: ignore[attr-defined]
        theirs = on_cpu.net.layers[0].next_batch()  # type: ignore[attr-defined]
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    for solver in (on_cpu, on_gpu):
        solver.net.layers[0].close()  # type: ignore[attr-defined]


def test_a_streamed_data_set_trains_through_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prefetch thread pins memory while the graph is recorded; the weights are those of the set kept on the device."""
    kept = make()
    kept.solve()
    monkeypatch.setenv("ALLCONV_DATA_MEMORY_MB", "0")
    forget_loaded()
    streamed = make()
    streamed.solve()
    assert replays(streamed) >= 10
    for a, b in zip(weights(kept), weights(streamed), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_bf16_stays_near_float32() -> None:
    """14 iterations end near float32's weights, and not in them; the weights themselves stay float32."""
    exact, rounded = make(), make(precision="bf16")
    exact.solve()
    rounded.solve()
    differences = [float((a - b).abs().max()) for a, b in zip(weights(exact), weights(rounded), strict=True)]
    assert 0 < max(differences) < 0.05
    assert all(p.data.dtype == torch.float32 for p in rounded.net.params)


POOLS = """layer { name: "max" type: "Pooling" bottom: "conv" top: "max" pooling_param { kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "ave" type: "Pooling" bottom: "conv" top: "ave" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "most" type: "Eltwise" bottom: "max" bottom: "ave" top: "most" eltwise_param { operation: MAX } }
layer { name: "norm" type: "LRN" bottom: "most" top: "norm" }
layer { name: "batch" type: "BatchNorm" bottom: "norm" top: "batch" }
layer { name: "scale" type: "Scale" bottom: "batch" top: "scale" scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "scale" top: "ip" """


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_layers_between_convolutions_compile_in_each_precision(precision: str) -> None:
    """Pooling of both kinds, Eltwise, LRN, BatchNorm and Scale behind a bf16 convolution: near the CPU's float32 weights."""
    text = Path("net.prototxt").read_text()
    begin, end = text.index('layer { name: "conv2"'), text.index('layer { name: "ip"')
    rest = text[end:].replace('layer { name: "ip" type: "InnerProduct" bottom: "conv2" top: "ip"', POOLS)
    Path("net.prototxt").write_text(text[:begin] + rest)
    on_cpu, on_gpu = make(executor="plain", device="cpu"), make(precision=precision)
    on_cpu.solve()
    on_gpu.solve()
    assert replays(on_gpu) >= 10
    bound = 2e-3 if precision == "float32" else 0.1
    for a, b in zip(weights(on_cpu), weights(on_gpu), strict=True):
        torch.testing.assert_close(a, b, rtol=bound, atol=bound)


WIDE = """force_backward: true layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 16 dim: 64 dim: 32 dim: 32 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 64 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 64 weight_filler { type: "gaussian" std: 0.01 } } }"""


def test_tf32_only_where_it_is_asked_for() -> None:
    """Convolution and InnerProduct keep float32's seven digits by default, also behind pycaffe; with tf32 they lose four."""
    x = torch.randn(16, 64, 32, 32, generator=torch.Generator().manual_seed(0))

    def tops(context: Context) -> list[torch.Tensor]:
        net = Net(parse_text(WIDE, NetParameter), context)
        net.blobs["x"].data = x.to(context.device)
        net.forward()
        return [net.blobs[name].data.double().cpu() for name in ("conv", "ip")]

    def context(device: str, tf32: bool = False) -> Context:
        return Context(rng=TorchGenerator(4), device=torch.device(device), tf32=tf32)

    exact = tops(context("cpu"))
    for tf32, low, high in ((True, 1e-5, 1e-2), (False, 0, 2e-6)):
        for found, wanted in zip(tops(context("cuda", tf32)), exact, strict=True):
            assert low <= float((found - wanted).abs().max() / wanted.abs().max()) <= high
    Context(device=torch.device("cuda"), tf32=True)
    pycaffe.set_mode_gpu()
    try:
        Path("wide.prototxt").write_text(WIDE)
        pycaffe.Net("wide.prototxt", pycaffe.TEST)
    finally:
        pycaffe.set_mode_cpu()
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def source_layer(type_: str, param: str) -> str:
    return f'layer {{ name: "in" type: "{type_}" top: "data" top: "label" {param} }}'


SOURCES = [
    source_layer(
        "ImageData",
        'image_data_param { source: "list.txt" batch_size: 3 new_height: 8 new_width: 8 } '
        "transform_param { crop_size: 6 mirror: true mean_value: 3 scale: 0.5 }",
    ),
    source_layer("HDF5Data", 'hdf5_data_param { source: "hdf5.txt" batch_size: 3 }'),
    source_layer("Data", 'data_param { source: "db" backend: LMDB batch_size: 7 }'),
    source_layer("DummyData", 'dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "gaussian" } }'),
]


@pytest.mark.parametrize("text", SOURCES)
def test_a_source_layer_gives_the_gpu_what_it_gives_the_cpu(text: str) -> None:
    """ImageData, HDF5Data, Data, DummyData: five batches, bit for bit."""
    rng = np.random.default_rng(0)
    for i in range(4):
        cv2.imwrite(f"{i}.png", rng.integers(0, 256, (10, 9, 3), dtype=np.uint8))
    Path("list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(4)))
    with h5py.File("numbers.h5", "w") as file:
        file["data"] = rng.normal(size=(5, 2, 3)).astype(np.float32)
        file["label"] = np.arange(5, dtype=np.float32)
    Path("hdf5.txt").write_text("numbers.h5\n")
    nets = [
        Net(parse_text(text, NetParameter), Context(phase=TRAIN, rng=TorchGenerator(2), device=torch.device(device)))
        for device in ("cpu", "cuda")
    ]
    for _ in range(5):
        for net in nets:
            net.forward()
        for name in ("data", "label"):
            assert nets[1].blobs[name].data.is_cuda
            torch.testing.assert_close(nets[1].blobs[name].data.cpu(), nets[0].blobs[name].data, rtol=0, atol=0)


def test_memory_and_hdf5_files_on_the_gpu() -> None:
    """What set_input_arrays was given goes through a net on the GPU into HDF5Output's file unchanged."""
    Path("memory.prototxt").write_text(
        'layer { name: "in" type: "MemoryData" top: "data" top: "label" '
        "memory_data_param { batch_size: 4 channels: 3 height: 4 width: 5 } }\n"
        'layer { name: "out" type: "HDF5Output" bottom: "data" bottom: "label" hdf5_output_param { file_name: "out.h5" } }'
    )
    images = np.random.default_rng(1).normal(size=(4, 3, 4, 5)).astype(np.float32)
    labels = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
    pycaffe.set_mode_gpu()
    try:
        net = pycaffe.Net("memory.prototxt", pycaffe.TEST)
        net.set_input_arrays(images, labels)
        net.forward()
        np.testing.assert_array_equal(net.blobs["data"].data, images)
        np.testing.assert_array_equal(net.blobs["label"].data.ravel(), labels.ravel())
    finally:
        pycaffe.set_mode_cpu()
    del net
    gc.collect()
    with h5py.File("out.h5") as file:
        np.testing.assert_array_equal(file["data"][()], images)


def test_a_snapshot_goes_on_where_it_was_taken() -> None:
    """Eight iterations, snapshot, a new solver restored and run to the end: the uninterrupted weights; so on the CPU."""
    whole = make()
    whole.solve()
    first = make()
    first.step(8)
    first.snapshot()
    for device, executor in (("cuda", "compiled"), ("cpu", "plain")):
        second = make(executor=executor, device=device)
        second.restore("small_iter_8.solverstate")
        second.net.layers[0].data_position = 64 % 30  # type: ignore[attr-defined]
        second.step(6)
        for a, b in zip(weights(whole), weights(second), strict=True):
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4)


def test_the_command_line_on_the_gpu(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """device_query, train in each precision and executor, test and time with -gpu 0 end with status 0; -gpu 99 does not."""
    monkeypatch.delenv("GLOG_minloglevel")
    Path("solver.prototxt").write_text(SOLVER + "momentum: 0.9")
    assert caffe_torch.main(["device_query", "-gpu", "0"]) == 0
    assert torch.cuda.get_device_name(0) in capfd.readouterr().err
    for flags in (["-precision", "float32"], ["-precision", "tf32"], ["-precision", "bf16"], ["-executor", "plain"]):
        wanted = [] if "plain" in flags else ["-executor", "compiled"]
        assert caffe_torch.main(["train", "-solver", "solver.prototxt", "-gpu", "0", *flags, *wanted]) == 0
        log = capfd.readouterr().err
        assert "No CUDA graph" not in log and "Iteration 14, loss" not in log and "Iteration 12, lr" in log
    scored = ["-model", "net.prototxt", "-weights", "small_iter_14.caffemodel", "-iterations", "3"]
    assert caffe_torch.main(["test", *scored, "-gpu", "0"]) == 0
    on_gpu = capfd.readouterr().err
    assert caffe_torch.main(["test", *scored]) == 0
    last = [float(log.split("accuracy = ")[-1].split()[0]) for log in (on_gpu, capfd.readouterr().err)]
    assert last[0] == pytest.approx(last[1])
    assert caffe_torch.main(["time", "-model", "net.prototxt", "-iterations", "2", "-gpu", "all"]) == 0
    assert caffe_torch.main(["time", "-model", "net.prototxt", "-gpu", "99"]) == 1


def test_pycaffe_in_gpu_mode() -> None:
    """set_mode_gpu: forward, backward, parameters written through numpy and a solver's steps agree with CPU mode."""
    found = {}
    for mode in (pycaffe.set_mode_cpu, pycaffe.set_mode_gpu):
        mode()
        try:
            Path("solver.prototxt").write_text(SOLVER + "momentum: 0.9")
            solver = pycaffe.get_solver("solver.prototxt")
            rng = np.random.default_rng(1)
            for blobs in solver.net.params.values():
                for blob in blobs:
                    blob.data[...] = rng.normal(0, 0.2, blob.data.shape)
            solver.net.forward()
            solver.net.backward()
            gradient = solver.net.params["conv"][0].diff.copy()
            solver.step(3)
            found[mode.__name__] = [gradient, *(b.data.copy() for bs in solver.net.params.values() for b in bs)]
            solver.net.blobs["conv2"].data.reshape(-1)[...] = 0.5
            solver.net.params["ip"][0].data[...] = 1
            solver.net.params["ip"][1].data[...] = 0
            solver.net.forward(start="ip")
            np.testing.assert_allclose(
                solver.net.blobs["ip"].data, 0.5 * solver.net.blobs["conv2"].data[0].size, rtol=1e-4
            )
        finally:
            pycaffe.set_mode_cpu()
    for ours, theirs in zip(found["set_mode_gpu"], found["set_mode_cpu"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-4)


def test_pictures_on_the_gpu_are_the_cpus() -> None:
    """Guided backpropagation from conv9 of the ImageNet net on random images: the CPU's maps."""
    deploy = Path(__file__).resolve().parents[2] / "solvers" / "imagenet-allcnn" / "deploy.prototxt"
    images = np.random.default_rng(2).normal(0, 60, (2, 3, 224, 224)).astype(np.float32)
    rng = np.random.default_rng(3)
    params: dict[str, list[np.ndarray]] = {}
    maps = []
    for device in ("cpu", "cuda"):
        net = open_net(deploy, device=device)
        if not params:
            params = {
                name: [rng.normal(0, np.sqrt(2 / np.prod(w.shape[1:])), w.shape).astype(np.float32), np.zeros_like(b)]
                for name, (w, b) in net.params().items()
            }
        net.set_params(params)
        top = net.forward(images, ("conv9",))["conv9"]
        seeds = np.zeros_like(top)
        seeds[:, 7] = top[:, 7]
        maps.append(net.backward("conv9", seeds, rule="guided"))
    scale = np.abs(maps[0]).max()
    assert scale > 0
    flipped = np.abs(maps[0] - maps[1]) > 1e-3 * scale  # a ReLU input within rounding of zero may pass in one alone
    assert flipped.mean() < 1e-3
