"""One training on several devices: a process for each, which averages its gradients with the others before each update.

Caffe's meaning: every solver takes batches of the size that the net says, of records that are dealt out by rank; after
backward, all have the mean of all gradients; so all make the same update. Solver 0, the root, alone tests, logs and
writes snapshots, and what it is asked for by a signal, all do. N solvers of batch B take the steps of one of batch N x B.

Processes find each other as torch.distributed's do (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT in the
environment): `torchrun` starts them, on one machine or on many, or `launch` here, for ``-gpu 0,1``. NCCL averages on GPUs,
gloo on CPUs. In a compiled iteration the mean is part of the graph, and so of the CUDA graph.

Source: parallel.cpp, tools/caffe.cpp.
Differs: processes instead of threads; gradients are averaged in one piece after backward (layer_wise_reduce means
nothing); snapshots and weights are read by the root alone, which sends them to the others.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.tracing import is_tracing

if TYPE_CHECKING:
    from allconv_caffe.caffe_torch.solver import Solver

Built = TypeVar("Built")
REQUESTS = ("none", "stop", "snapshot")
PATIENCE = timedelta(
    days=7
)  # the others wait while the root tests; one that died is noticed at once, by its connection
GRACE_SECONDS = 10.0  # for the others, once one has failed
LIFELINE = "ALLCONV_LIFELINE"  # environment of launched processes: the end of a pipe that closes when the launcher dies


class LostSolver(CaffeError):
    """Another solver is gone, and this one cannot go on without it."""


@dataclass(frozen=True)
class Place:
    """Which solver this process is: `rank` of `count`, and `local_rank` on this machine."""

    rank: int
    count: int
    local_rank: int


def place() -> Place | None:
    """What the environment says; None: this process trains alone. Raises CaffeError for what says nothing."""
    text = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if not text["RANK"] and not text["WORLD_SIZE"]:
        return None
    try:
        rank, count = int(text["RANK"]), int(text["WORLD_SIZE"])
        local_rank = int(text["LOCAL_RANK"] or rank)
    except ValueError:
        rank, count, local_rank = -1, 0, 0
    if not 0 <= rank < count or local_rank < 0:
        found = " ".join(f"{name}={value!r}" for name, value in text.items())
        raise CaffeError(
            f"found {found} in the environment, expected numbers as torchrun sets them, 0 <= RANK < WORLD_SIZE"
        )
    return None if count == 1 else Place(rank, count, local_rank)


class Company:
    """The solvers that train together, each in a process of its own.

    Args:
        rank, count: this solver, and how many there are.
        device: where its gradients are.
        store: where the processes meet; None: as the environment says.

    Raises: LostSolver, from every method.
    """

    def __init__(self, rank: int, count: int, device: torch.device, store: Any = None) -> None:
        self.rank, self.count = rank, count
        options: dict[str, Any] = {"backend": "gloo"}
        if device.type == "cuda":
            options = {"backend": "cpu:gloo,cuda:nccl", "device_id": device}
        with _lost(rank):
            dist.init_process_group(rank=rank, world_size=count, store=store, timeout=PATIENCE, **options)

    def average(self, blobs: Sequence[Blob]) -> None:
        """Every diff becomes the mean of all solvers'. Source: NCCL::on_gradients_ready."""
        if not blobs:
            return
        flat = torch.cat([blob.diff.reshape(-1) for blob in blobs])
        if is_tracing():
            from torch.distributed import _functional_collectives as functional  # what compiled code can hold

            everybody = dist.group.WORLD
            assert everybody is not None
            flat = functional.wait_tensor(functional.all_reduce(flat, "sum", everybody))
        else:
            with _lost(self.rank):
                dist.all_reduce(flat)
        flat = flat * (1.0 / self.count)
        for blob, part in zip(blobs, flat.split([blob.count for blob in blobs]), strict=True):
            blob.diff = part.view(blob.shape)

    def agree(self, request: str) -> str:
        """What the root asks for, heard by all: "none", "stop" or "snapshot"."""
        return REQUESTS[self.number(REQUESTS.index(request))]

    def number(self, value: int) -> int:
        """The root's `value`."""
        told = torch.tensor([value], dtype=torch.int64)
        with _lost(self.rank):
            dist.broadcast(told, 0)
        return int(told)

    def follow_root(self, build: Callable[[], Built]) -> Built:
        """What `build` makes, by the root first: what is wrong for all of them, it alone says."""
        if self.rank:
            self.number(0)
        built = build()
        if not self.rank:
            self.number(0)
        return built

    def share(self, solver: Solver) -> None:
        """All begin where the root stands: its iteration, weights and history. Source: NCCL::Broadcast."""
        solver.iter, solver.current_step = self.number(solver.iter), self.number(solver.current_step)
        for blob in [*solver.net.params, *solver.history]:
            data = blob.data.contiguous()
            with _lost(self.rank):
                dist.broadcast(data, 0)
            blob.data = data

    def leave(self) -> None:
        """Waits for the others, and parts from them."""
        with _lost(self.rank):
            dist.barrier()
            dist.destroy_process_group()


@contextmanager
def _lost(rank: int) -> Iterator[None]:
    """What torch.distributed raises when another process is gone becomes a LostSolver."""
    try:
        yield
    except RuntimeError as error:
        raise lost(rank, error) from None


def abandon() -> None:
    """Ends the process with status 1, at once: what waits for others who are gone may abort it, or hang, at its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def lost(rank: int, error: BaseException) -> LostSolver:
    reason = (
        re.sub(r"^\[[^]]*\] ", "", str(error).strip()).partition(". ")[0].partition("\n")[0]
    )  # without gloo's own file
    return LostSolver(
        f"Solver {rank} lost another one ({reason or type(error).__name__}): training ended, "
        "it can go on from its last snapshot"
    )


def is_loss(error: RuntimeError) -> bool:
    """Whether an error out of compiled code is that another solver is gone."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "ProcessGroup", "NCCL"))


# starting them
def launch(arguments: Sequence[str], count: int) -> int:
    """Runs ``caffe-torch`` with `arguments` in `count` processes of this machine; returns 0 once all have ended with 0.

    SIGINT and SIGHUP go to the root. When one fails or is killed, the others are ended and one line says which, unless
    it has said so itself; when this process dies, all do.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    read_end, write_end = os.pipe()
    os.set_inheritable(read_end, True)
    solvers: list[subprocess.Popen[bytes]] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if solvers:
            solvers[0].send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        for rank in range(count):
            told: dict[str, object] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, LIFELINE: read_end}
            told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
            environment = {**os.environ, **{name: str(value) for name, value in told.items()}}
            if sys.platform == "linux":
                environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
            command = [sys.executable, "-m", "allconv_caffe.caffe_torch", *arguments]
            solvers.append(
                subprocess.Popen(
                    command, env=environment, pass_fds=[read_end], start_new_session=True
                )  # its own Ctrl-C
            )
        return _watch(solvers)
    finally:
        for solver in solvers:
            if solver.poll() is None:
                solver.kill()
            solver.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read_end)
        os.close(write_end)


def _watch(solvers: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits for all, or for the first that fails; returns the exit status."""
    while True:
        states = [solver.poll() for solver in solvers]
        if all(state == 0 for state in states):
            return 0
        if any(state not in (None, 0) for state in states):
            break
        time.sleep(0.05)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(solver.poll() is None for solver in solvers):
        time.sleep(0.05)
    states = [solver.poll() for solver in solvers]
    for rank, state in enumerate(states):
        if state is not None and state < 0:
            pid, name = solvers[rank].pid, signal.Signals(-state).name
            glog.fatal(
                "parallel.cpp:1",
                f"Solver {rank} of {len(solvers)} (process {pid}) was ended by {name}: training ended, "
                "it can go on from its last snapshot",
            )
            return 1
    return next((state for state in states if state), 1)  # it has said why


def hold_lifeline() -> bool:
    """In a process that `launch` started: ends it when the launcher dies. Returns whether it is one."""
    text = os.environ.get(LIFELINE, "")
    if not text.isdigit():
        return False

    def wait() -> None:
        with suppress(OSError):
            os.read(int(text), 1)  # nothing is ever written: it returns when the other end is closed
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
    return True


def meeting_place() -> Any:
    """The store of the launcher; None under torchrun, where the environment says it all."""
    if not os.environ.get(LIFELINE):
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, is_master=False)
