"""``caffe-torch``: Caffe's command line on the engine of this package.

    caffe-torch train -solver solver.prototxt [-snapshot x.solverstate | -weights a.caffemodel,b.caffemodel]
    caffe-torch test -model train_val.prototxt -weights x.caffemodel -iterations 100
    caffe-torch time -model train_val.prototxt
    caffe-torch device_query -gpu all
    caffe-torch train -solver solver.prototxt -gpu 0,1
    torchrun --nproc-per-node 2 -m allconv_caffe.caffe_torch train -solver solver.prototxt

Flags, log lines and their order are those of `caffe`; the log goes to stderr.
Source: tools/caffe.cpp.
Differs: a mistake ends with one F line and exit status 1, without stack trace and abort. A solver that asks for a GPU
by ``solver_mode: GPU`` alone runs on the CPU where there is none. Several GPUs are several processes, see
`executor.distributed`.
"""

from __future__ import annotations

import atexit
import dataclasses
import gc
import math
import os
import secrets
import sys
import time as clock
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.tools import gflags
from allconv_caffe.caffe_torch.tools.gflags import Flag
from allconv_caffe.caffe_torch.tools.program import Flags, fatal, guarded, start

if TYPE_CHECKING:
    import torch

    from allconv_caffe.caffe_torch.executor import distributed
    from allconv_caffe.caffe_torch.layer import Context
    from allconv_caffe.caffe_torch.solver import Solver
    from allconv_caffe.proto import SolverParameter

MESSAGE = """command line brew
usage: caffe <command> <args>

commands:
  train           train or finetune a model
  test            score a model
  device_query    show GPU diagnostic information
  time            benchmark model execution time"""
PRECISIONS = ("float32", "tf32", "bf16")
TAKES = {"solver": "solver", "model": "net", "snapshot": "state"}  # what is in the file that a flag names
EXECUTORS = ("auto", "plain", "compiled")

NO_BF16 = "This CPU has no bfloat16 instructions: factors are rounded to bfloat16 and multiplied in float32"
NO_GPU = "Cannot use GPU in CPU-only Caffe: check mode."
CAFFE, OWN = "tools/caffe.cpp", "allconv_caffe/caffe_torch/tools/caffe.py"
EFFECT = "Optional; action to take when a {} signal is received: snapshot, stop or none."
FLAGS = (
    Flag(
        "gpu",
        "",
        "Optional; run in GPU mode on the given device IDs, separated by ',', or on 'all'. Training takes a batch on each.",
        CAFFE,
    ),
    Flag("solver", "", "The solver definition protocol buffer text file.", CAFFE),
    Flag("model", "", "The model definition protocol buffer text file.", CAFFE),
    Flag("phase", "", "Optional; network phase (TRAIN or TEST). Only used for 'time'.", CAFFE),
    Flag("level", 0, "Optional; network level.", CAFFE),
    Flag("stage", "", "Optional; network stages (not to be confused with phase), separated by ','.", CAFFE),
    Flag("snapshot", "", "Optional; the snapshot solver state to resume training.", CAFFE),
    Flag(
        "weights",
        "",
        "Optional; the pretrained weights to initialize finetuning, separated by ','. "
        "Cannot be set simultaneously with snapshot.",
        CAFFE,
    ),
    Flag("iterations", 50, "The number of iterations to run.", CAFFE),
    Flag("sigint_effect", "stop", EFFECT.format("SIGINT"), CAFFE),
    Flag("sighup_effect", "snapshot", EFFECT.format("SIGHUP"), CAFFE),
    Flag(
        "precision",
        "float32",
        "What convolutions and inner products compute in: float32, tf32 or bf16. Weights and history stay float32.",
        OWN,
    ),
    Flag(
        "executor",
        "auto",
        "How training runs: plain (layer by layer), compiled (fails where that is impossible), or auto.",
        OWN,
    ),
    Flag("threads", 0, "CPU threads; 0: as PyTorch chooses.", OWN),
    Flag(
        "seed_exact",
        False,
        "Draw BVLC Caffe's own random numbers for random_seed: the same initial weights, dropout "
        "masks, crops, mirrors and shuffles, bit for bit; and sum in the order of its BLAS. CPU and executor plain only.",
        OWN,
    ),
    *gflags.GLOG,
    *gflags.BUILT_IN,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one action; returns the exit status: 0 done or stopped by a signal, 1 any mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = os.path.basename(sys.argv[0]) if argv is None else "caffe-torch"
    if program.endswith(".py"):  # python -m
        program = "caffe-torch"
    started = start(program, "caffe", MESSAGE, FLAGS, CAFFE, arguments)
    if isinstance(started, int):
        return started
    flags, rest = started
    if len(rest) != 1:
        print(gflags.usage(program, MESSAGE, FLAGS), end="")
        return 0
    if rest[0] not in ACTIONS:
        glog.error("caffe.cpp:78", "Available caffe actions:")
        for name in sorted(ACTIONS):
            glog.error("caffe.cpp:81", f"\t{name}")
        return fatal("caffe.cpp:83", f"Unknown action: {rest[0]}")
    if argv is None:
        load_torch()
    return run(ACTIONS[rest[0]], flags)


def load_torch() -> None:
    """Imports PyTorch for a process of our own: a thousand modules that stay, through which the collector need not look."""
    gc.disable()
    import torch  # noqa: F401

    gc.freeze()
    gc.enable()


def run(action: Callable[[Flags], int], flags: Flags) -> int:
    """Calls `action`; a mistake becomes one F line and 1."""

    def checked() -> int:
        check(flags.precision in PRECISIONS, f"-precision {flags.precision}: expected one of {', '.join(PRECISIONS)}")
        check(flags.executor in EXECUTORS, f"-executor {flags.executor}: expected one of {', '.join(EXECUTORS)}")
        check(flags.threads >= 0, f"-threads {flags.threads}: expected 1 or more, or 0 for PyTorch's choice")
        return action(flags)

    return guarded(checked, "caffe.cpp:439", lambda: misplaced(flags))


def misplaced(flags: Flags) -> str:
    """What is to be said where a file was given to another flag than its own; else ""."""
    from allconv_caffe.caffe_torch.tools import kinds

    one = [(flag, getattr(flags, flag), kind) for flag, kind in TAKES.items() if getattr(flags, flag)]
    return kinds.misplaced([*one, *(("weights", path, "weights") for path in flags.weights.split(",") if path)])


# devices
def get_gpus(text: str) -> list[int]:
    """Device numbers from ``-gpu``. Raises CaffeError where PyTorch has no such device."""
    if not text:
        return []
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "all":
        check(count > 0, f"-gpu all: {NO_GPU} (PyTorch {torch.__version__} finds no CUDA device)")
        return list(range(count))
    try:
        gpus = [int(part) for part in text.split(",")]
    except ValueError:
        raise CaffeError(f"-gpu {text}: expected device IDs separated by ',', or all") from None
    return gpus


def check_gpus(gpus: Sequence[int]) -> None:
    """Raises CaffeError unless PyTorch can use them."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for gpu in gpus:
        if count == 0:
            raise CaffeError(
                f"-gpu {gpu}: {NO_GPU} (PyTorch {torch.__version__} finds no CUDA device; without -gpu the CPU is used)"
            )
        check(
            0 <= gpu < count,
            f"-gpu {gpu}: invalid device ordinal: PyTorch finds {count} CUDA device(s), 0 to {count - 1}",
        )


def set_device(gpus: Sequence[int]) -> torch.device:
    """Caffe::SetDevice and set_mode: the first of `gpus`, or the CPU."""
    import torch

    if not gpus:
        return torch.device("cpu")
    check_gpus(gpus)
    torch.cuda.set_device(gpus[0])
    return torch.device("cuda", gpus[0])


def make_context(flags: Flags, device: torch.device, phase: int, seed: int = -1, *, fast: bool = False) -> Context:
    """What the nets of one action share.

    Args:
        fast: nothing is trained: forward by the fastest kernels, unless -executor or -seed_exact asks for another order of sums.
    """
    import torch

    from allconv_caffe.caffe_torch.compute import caffe_math
    from allconv_caffe.caffe_torch.compute.rng import CaffeGenerator, TorchGenerator
    from allconv_caffe.caffe_torch.layer import Context

    if flags.threads:
        torch.set_num_threads(flags.threads)
    if flags.precision == "tf32" and device.type != "cuda":
        glog.warning("caffe.py:1", "-precision tf32 is a mode of CUDA devices: on the CPU it is float32")
    elif flags.precision != "float32":
        glog.info("caffe.py:1", f"Precision: {flags.precision}; weights and history stay float32")
    if flags.seed_exact and (math := caffe_math.find()) is not None:  # where there is none, it says so itself
        glog.info("caffe.py:1", f"Sums are taken in the order of OpenBLAS 0.3.13, kernels for {math.order.name}")
    context = Context(
        phase=phase,
        device=device,
        rng=CaffeGenerator(seed) if flags.seed_exact else TorchGenerator(seed),
        compute_dtype=torch.bfloat16 if flags.precision == "bf16" else torch.float32,
        conv_mode="direct" if flags.executor == "plain" or flags.seed_exact else "auto",
        tf32=flags.precision == "tf32",
        fast=fast and flags.executor != "plain" and not flags.seed_exact,
    )
    if context.rounds_factors:
        glog.info("caffe.py:1", NO_BF16)
    return context


# actions
def device_query(flags: Flags) -> int:
    """Shows what PyTorch says of the GPUs named."""
    glog.info("caffe.cpp:138", f"Querying GPUs {flags.gpu}")
    gpus = get_gpus(flags.gpu)
    check_gpus(gpus)
    for gpu in gpus:
        import torch

        prop = torch.cuda.get_device_properties(gpu)
        for source, word, value in (
            ("common.cpp:178", "Device id:", gpu),
            ("common.cpp:179", "Major revision number:", prop.major),
            ("common.cpp:180", "Minor revision number:", prop.minor),
            ("common.cpp:181", "Name:", prop.name),
            ("common.cpp:182", "Total global memory:", prop.total_memory),
            ("common.cpp:198", "Number of multiprocessors:", prop.multi_processor_count),
        ):
            glog.info(source, f"{word:<30} {value}")
    return 0


def train(flags: Flags) -> int:
    """Trains or finetunes a model."""
    check(flags.solver != "", "Need a solver definition to train.")
    check(
        not flags.snapshot or not flags.weights,
        "Give a snapshot to resume training or weights to finetune but not both.",
    )
    from allconv_caffe.caffe_torch.executor import distributed
    from allconv_caffe.caffe_torch.tools.signals import SignalHandler
    from allconv_caffe.caffe_torch.upgrade import read_solver_params

    param = read_solver_params(flags.solver)
    handler = SignalHandler(flags.sigint_effect, flags.sighup_effect)
    param.train_state.level = flags.level
    param.train_state.stage.extend(flags.stage.split(","))

    place = distributed.place()
    gpus = training_gpus(flags, param, place)
    if place is None and len(gpus) > 1:
        check_gpus(gpus)
        check(len(set(gpus)) == len(gpus), f"-gpu {flags.gpu}: found a device twice, expected each once")
        return distributed.launch(flags.arguments, len(gpus))
    launched = distributed.hold_lifeline()
    if place is not None:
        if place.rank:
            glog.init("caffe", max(glog.min_level(), glog.WARNING), flags.log_dir or None, flags.logtostderr or None)
        check(
            not gpus or place.local_rank < len(gpus),
            f"-gpu {flags.gpu}: found {len(gpus)} GPUs for solver {place.local_rank} of this machine",
        )
    own = gpus[place.local_rank if place else 0 :][:1]
    if gpus:
        glog.info("caffe.cpp:204", f"Using GPUs {', '.join(map(str, gpus))}")
    device = set_device(own)
    if own:
        import torch

        for gpu in gpus:
            glog.info("caffe.cpp:209", f"GPU {gpu}: {torch.cuda.get_device_name(gpu)}")
        param.device_id = own[0]
    else:
        glog.info("caffe.cpp:197", "Use CPU.")
    if flags.snapshot or flags.weights:
        param.ClearField("weights")
    if flags.weights:
        param.weights.append(flags.weights)
    with handler:
        try:
            optimize(flags, param, device, handler.action, place)
        except distributed.LostSolver:
            if launched or (place is not None and place.rank):  # the launcher, or the root, says it
                return 1
            raise
    glog.info("caffe.cpp:250", "Optimization Done.")
    return 0


def training_gpus(flags: Flags, param: SolverParameter, place: distributed.Place | None) -> list[int]:
    """The GPUs of this machine that are to train: -gpu's, else where `solver_mode` is GPU the solver's, if there is one.

    One of several solvers of torchrun's takes the GPU of its local rank, unless -gpu says which there are.
    """
    import torch

    from allconv_caffe.proto import SolverParameter

    gpus = get_gpus(flags.gpu)
    if gpus or not param.HasField("solver_mode") or param.solver_mode != SolverParameter.GPU:
        return gpus
    if not torch.cuda.is_available():
        glog.warning(
            "caffe.cpp:185",
            f"{flags.solver} says solver_mode: GPU, but PyTorch {torch.__version__} finds no CUDA device",
        )
        return []
    if place is not None:
        return list(range(torch.cuda.device_count()))
    return [param.device_id if param.HasField("device_id") else 0]


def optimize(
    flags: Flags,
    param: SolverParameter,
    device: torch.device,
    action: Callable[[], str],
    place: distributed.Place | None,
) -> None:
    """Builds the solver, and trains: alone, or with the others of its company. Raises CaffeError; LostSolver is one."""
    from allconv_caffe.caffe_torch.executor import distributed
    from allconv_caffe.caffe_torch.solver_factory import create_solver
    from allconv_caffe.caffe_torch.source.share import ALONE, Share
    from allconv_caffe.proto import TRAIN

    company, share, seed = None, ALONE, param.random_seed
    if place is not None:
        company = distributed.Company(place.rank, place.count, device, distributed.meeting_place())
        atexit.register(distributed.abandon)
        common = company.number(seed if seed >= 0 else secrets.randbits(31))
        share, seed = Share(place.count, place.rank, common), common + place.rank
        glog.info("parallel.cpp:1", f"Solver {place.rank} of {place.count}")
        if place.rank:
            param.ClearField("weights")  # they come from the root
    context = dataclasses.replace(make_context(flags, device, TRAIN, seed), share=share)

    def build() -> Solver:
        solver = create_solver(
            param, context=context, where=flags.solver, action=action, executor=flags.executor, company=company
        )
        if flags.snapshot and solver.root_solver:
            glog.info("caffe.cpp:235", f"Resuming from {flags.snapshot}")
            solver.restore(flags.snapshot)
        return solver

    solver = build() if company is None else company.follow_root(build)
    if company is not None:
        company.share(solver)
    glog.info("caffe.cpp:239", "Starting Optimization")
    try:
        if solver.root_solver:
            solver.solve()
        else:
            solver.step(param.max_iter - solver.iter)
    except RuntimeError as error:
        if company is not None and distributed.is_loss(error):
            raise distributed.lost(company.rank, error) from None
        raise
    if company is not None:
        company.leave()
        atexit.unregister(distributed.abandon)


def test(flags: Flags) -> int:
    """Scores a model: every output element of every batch, then the means."""
    import numpy as np

    check(flags.model != "", "Need a model definition to score.")
    check(flags.weights != "", "Need model weights to score.")
    from allconv_caffe.caffe_torch import shared_memory
    from allconv_caffe.caffe_torch.net import load_net
    from allconv_caffe.caffe_torch.solver import loss_suffix
    from allconv_caffe.proto import TEST

    gpus = get_gpus(flags.gpu)
    if gpus:
        import torch

        glog.info("caffe.cpp:266", f"Use GPU with device ID {gpus[0]}")
        device = set_device(gpus[:1])
        glog.info("caffe.cpp:270", f"GPU device name: {torch.cuda.get_device_name(gpus[0])}")
    else:
        glog.info("caffe.cpp:275", "Use CPU.")
        device = set_device([])
    net = load_net(
        flags.model, make_context(flags, device, TEST, fast=True), level=flags.level, stages=flags.stage.split(",")
    )
    net.copy_trained_layers_from(flags.weights)
    if not net.debug_info:
        shared_memory.share(net)
    glog.info("caffe.cpp:281", f"Running for {flags.iterations} iterations.")
    scores: dict[tuple[int, int], np.float32] = {}
    loss = np.float32(0)
    for i in range(flags.iterations):
        loss += np.float32(net.forward().item())
        for blob_id in net.output_ids:
            values = net.blob_list[blob_id].data.reshape(-1).tolist()
            for k, score in enumerate(values):
                scores[blob_id, k] = scores.get((blob_id, k), np.float32(0)) + np.float32(score)
                glog.info("caffe.cpp:304", f"Batch {i}, {net.blob_names[blob_id]} = {glog.number(score)}")
    n = flags.iterations
    glog.info("caffe.cpp:309", f"Loss: {glog.number(glog.divided(float(loss), n))}")
    for (blob_id, _), total in scores.items():
        name, mean = net.blob_names[blob_id], glog.divided(float(total), n)
        weight = net.blob_loss_weights[blob_id]
        suffix = loss_suffix(weight, mean)
        glog.info("caffe.cpp:321", f"{name} = {glog.number(mean)}{suffix}")
    return 0


class Stopwatch:
    """Milliseconds of work on `device`, waiting for it to finish at both ends.

    On a CPU, whole ones of `unit` seconds: Caffe reads them as integers, of milliseconds or of microseconds.
    Source: benchmark.cpp.
    """

    def __init__(self, device: torch.device, unit: float = 1e-6) -> None:
        self.device = device
        self.unit = unit
        self.total = 0.0
        self.start()

    def _now(self) -> float:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)
        return clock.perf_counter()

    def start(self) -> None:
        self._began = self._now()

    def stop(self) -> float:
        """Adds what passed since `start` to `total`, and returns it."""
        passed = self._now() - self._began
        if self.device.type == "cpu":
            passed = math.floor(passed / self.unit) * self.unit
        passed *= 1000
        self.total += passed
        return passed


def time(flags: Flags) -> int:
    """Measures a model layer by layer."""
    check(flags.model != "", "Need a model definition to time.")
    check(flags.phase in ("", "TRAIN", "TEST"), 'phase must be "TRAIN" or "TEST"')
    from allconv_caffe.caffe_torch.net import load_net
    from allconv_caffe.proto import TEST, TRAIN

    gpus = get_gpus(flags.gpu)
    if gpus:
        glog.info("caffe.cpp:339", f"Use GPU with device ID {gpus[0]}")
        device = set_device(gpus[:1])
    else:
        glog.info("caffe.cpp:343", "Use CPU.")
        device = set_device([])
    context = make_context(flags, device, TEST if flags.phase == "TEST" else TRAIN, fast=True)
    net = load_net(flags.model, context, level=flags.level, stages=flags.stage.split(","))
    net.remembers = True
    n = glog.number

    def mean(watch: Stopwatch) -> str:
        return n(glog.divided(watch.total, flags.iterations))

    glog.info("caffe.cpp:351", "Performing Forward")
    glog.info("caffe.cpp:356", f"Initial loss: {n(net.forward().item())}")
    glog.info("caffe.cpp:357", "Performing Backward")
    net.backward()
    glog.info("caffe.cpp:365", "*** Benchmark begins ***")
    glog.info("caffe.cpp:366", f"Testing for {flags.iterations} iterations.")
    count = len(net.layers)
    total, iteration = Stopwatch(device, 1e-3), Stopwatch(device, 1e-3)
    whole_forward, whole_backward = Stopwatch(device), Stopwatch(device)
    forward = [Stopwatch(device) for _ in range(count)]
    backward = [Stopwatch(device) for _ in range(count)]
    total.start()
    for j in range(flags.iterations):
        iteration.start()
        whole_forward.start()
        for i in range(count):
            forward[i].start()
            net.forward_layer(i)
            forward[i].stop()
        whole_forward.stop()
        whole_backward.start()
        for i in reversed(range(count)):
            backward[i].start()
            net.backward_layer(i)  # whether needed or not
            backward[i].stop()
        whole_backward.stop()
        glog.info("caffe.cpp:394", f"Iteration: {j + 1} forward-backward time: {n(iteration.stop())} ms.")
    glog.info("caffe.cpp:397", "Average time per layer: ")
    for name, there, back in zip(net.layer_names, forward, backward, strict=True):
        glog.info("caffe.cpp:400", f"{name:>10}\tforward: {mean(there)} ms.")
        glog.info("caffe.cpp:403", f"{name:>10}\tbackward: {mean(back)} ms.")
    total.stop()
    glog.info("caffe.cpp:408", f"Average Forward pass: {mean(whole_forward)} ms.")
    glog.info("caffe.cpp:410", f"Average Backward pass: {mean(whole_backward)} ms.")
    glog.info("caffe.cpp:412", f"Average Forward-Backward: {mean(total)} ms.")
    glog.info("caffe.cpp:414", f"Total Time: {n(total.total)} ms.")
    glog.info("caffe.cpp:415", "*** Benchmark ends ***")
    return 0


ACTIONS: dict[str, Callable[[Flags], int]] = {
    "device_query": device_query,
    "test": test,
    "time": time,
    "train": train,
}
