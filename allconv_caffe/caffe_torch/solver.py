"""The solver that all types are: nets, the loop over the iterations, tests and snapshots, in Caffe's order.

How weights are updated stands in `solvers`, how an iteration is run in `executor`; `solver_factory` puts them together.
Source: solver.hpp, solver.cpp.
"""

from __future__ import annotations

import dataclasses
import os
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch

from allconv_caffe import files
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.lr_policy import check_policy
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import TEST, TRAIN, NetParameter, NetState, ProtoError, SolverParameter, read_net, to_text

Scalar = float | torch.Tensor
TRAIN_NET_FIELDS = ("net", "net_param", "train_net", "train_net_param")


class Executor(Protocol):
    """How a solver's nets are run."""

    @property
    def updates(self) -> bool:
        """Whether `iterate` moves the weights, too."""
        ...

    def iterate(self, rate: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Forward and backward of one iteration; returns the mean loss and the last outputs, as tensors."""
        ...

    def forward(self) -> torch.Tensor:
        """Forward of the training net; returns the loss."""
        ...

    def test(self, k: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Forward of test net k; returns the loss and the outputs."""
        ...


class Company(Protocol):
    """The solvers that train together, each on a device of its own; this is one of them."""

    def average(self, blobs: Sequence[Blob]) -> None:
        """Every diff becomes the mean of all solvers'; while tracing, too."""
        ...

    def agree(self, request: str) -> str:
        """What the root asks for, heard by all."""
        ...


ChooseExecutor = Callable[["Solver", int], Executor]
"""Gives a solver its executor, knowing how many iterations it is about to run. Raises CaffeError."""


class Solver(ABC):
    """Trains a net as a SolverParameter says.

    Args:
        param: the solver; not changed.
        context: device, generator, precision.
        choose_executor: asked once, when the first iterations are to be run; before that for each use, with 0.
        where: the solver file's name, for errors.
        weights: .caffemodel files to start from, in order.
        action: polled once an iteration and between test batches: "none", "stop" or "snapshot".
        company: the others, where several solvers train together; the context says how many, and which one this is.

    Raises:
        CaffeError: in Caffe's words.

    Attributes:
        net, test_nets, iter, current_step, history (Blobs, in the order of a .solverstate).
    """

    type: ClassVar[str] = ""
    history: list[Blob]

    def __init__(
        self,
        param: SolverParameter,
        context: Context,
        choose_executor: ChooseExecutor,
        *,
        where: str = "",
        weights: Sequence[str] = (),
        action: Callable[[], str] = lambda: "none",
        company: Company | None = None,
    ) -> None:
        self.ctx = context
        self.company = company
        self.where = where
        self.action = action
        self.param = SolverParameter()
        self.param.CopyFrom(param)
        self.param.weights.extend(weights)
        self.iter = 0
        self.current_step = 0
        self.callbacks: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self._choose_executor = choose_executor
        self._executor: Executor | None = None
        self._requested_early_exit = False
        self._losses: list[float] = []
        self._pending: list[torch.Tensor] = []
        self._smoothed_loss = 0.0
        self._folded = 0
        self._iterations_last = 0
        try:
            self._init()
            self._check_solver()
            self._pre_solve()
        except CaffeError as error:
            raise error.within("" if where and error.where.startswith(str(where)) else where) from None

    def _init(self) -> None:
        glog.info("solver.cpp:45", "Initializing solver from parameters: \n" + to_text(self.param))
        check(self.param.average_loss >= 1, "average_loss should be non-negative.")
        self.test_nets: list[Net] = []
        if self.root_solver:
            self._check_snapshot_write_permissions()
        self._init_train_net()
        if self.root_solver:
            self._init_test_nets()
        glog.info("solver.cpp:57", "Solver scaffolding done.")

    @property
    def root_solver(self) -> bool:
        """Whether this solver tests, and writes snapshots: it is alone, or the first."""
        return self.ctx.share.rank == 0

    def _agreed(self, request: str) -> str:
        return request if self.company is None else self.company.agree(request)

    @property
    def executor(self) -> Executor:
        return self._chosen(0) if self._executor is None else self._executor

    def _chosen(self, iters: int) -> Executor:
        """Knows the solver weakly: given up, it lets go of nets and reading threads at once, as in Caffe."""
        return self._choose_executor(weakref.proxy(self), iters)

    # what a type gives
    def _check_solver(self) -> None:
        """What a solver type demands of its parameters: this one nothing."""
        return

    def _check_update(self) -> None:
        """What the first update will ask for: who moves the weights without one needs no policy."""
        try:
            check(
                not self.param.weight_decay or self.param.regularization_type in ("L1", "L2"),
                f"Unknown regularization type: {self.param.regularization_type}",
            )
            check_policy(self.param)
        except CaffeError as error:
            raise error.within(self.where) from None

    @abstractmethod
    def _pre_solve(self) -> None:
        """Makes the history."""

    @abstractmethod
    def _learning_rate(self) -> tuple[float, str]:
        """The rate, and what is to be logged of a step that was taken: Caffe logs it after the iteration's loss."""

    @abstractmethod
    def step_scalars(self, rate: float) -> tuple[float, ...]:
        """The numbers of this iteration that a compiled update takes as inputs; the rate comes first."""

    @abstractmethod
    def update(self, scalars: Sequence[Scalar]) -> None:
        """Moves the weights by their gradients. The same body runs on plain blobs and on traced ones."""

    @abstractmethod
    def _snapshot_solver_state(self, model: str) -> str:
        """Writes the .solverstate that belongs to the weights in `model`; returns its path."""

    @abstractmethod
    def restore(self, path: str) -> None:
        """Iteration, step and history of a .solverstate, and the weights that it names. Raises CaffeError."""

    # nets
    def _read(self, path: str) -> NetParameter:
        try:
            return read_net(path)
        except ProtoError as error:
            raise CaffeError(str(error)) from None

    def _init_train_net(self) -> None:
        param = self.param
        given = [f for f in TRAIN_NET_FIELDS if param.HasField(f)]
        fields = ", ".join(TRAIN_NET_FIELDS)
        check(len(given) >= 1, f"SolverParameter must specify a train net using one of these fields: {fields}")
        check(
            len(given) <= 1,
            f"SolverParameter must not contain more than one of these fields specifying a train_net: {fields}",
        )
        field = given[0]
        if field.endswith("_param"):
            glog.info(
                "solver.cpp:88" if field == "train_net_param" else "solver.cpp:97",
                f"Creating training net specified in {field}.",
            )
            net_param, where = getattr(param, field), self.where
        else:
            path = getattr(param, field)
            word = "train_net file" if field == "train_net" else "net file"
            glog.info(
                "solver.cpp:92" if field == "train_net" else "solver.cpp:102",
                f"Creating training net from {word}: {path}",
            )
            net_param, where = self._read(path), path
        self.net = self._build(net_param, param.train_state, TRAIN, where)
        self._load_weights(self.net)

    def _build(self, source: NetParameter, extra: NetState | None, phase: int, where: str) -> Net:
        net_param = NetParameter()
        net_param.CopyFrom(source)
        state = NetState(phase=phase)
        state.MergeFrom(net_param.state)
        if extra is not None:
            state.MergeFrom(extra)
        net_param.state.CopyFrom(state)
        return Net(net_param, dataclasses.replace(self.ctx, phase=state.phase), where=where)

    def _init_test_nets(self) -> None:
        param = self.param
        check(
            not (param.HasField("net") and param.HasField("net_param")),
            "Both net_param and net_file may not be specified.",
        )
        generic = int(param.HasField("net")) + int(param.HasField("net_param"))
        own = len(param.test_net_param) + len(param.test_net)
        if generic:
            check(
                len(param.test_iter) >= own,
                f"Check failed: param_.test_iter_size() >= num_test_nets "
                f"({len(param.test_iter)} vs. {own}) test_iter must be specified for each test network.",
            )
        else:
            check(
                len(param.test_iter) == own,
                f"Check failed: param_.test_iter_size() == num_test_nets "
                f"({len(param.test_iter)} vs. {own}) test_iter must be specified for each test network.",
            )
        instances = own + (len(param.test_iter) - own if generic else 0)
        if param.test_state:
            check(
                len(param.test_state) == instances,
                "test_state must be unspecified or specified once per test net.",
            )
        if instances:
            check(param.test_interval > 0, f"Check failed: param_.test_interval() > 0 ({param.test_interval} vs. 0)")
        sources: list[tuple[NetParameter, str, str]] = []
        for net_param in param.test_net_param:
            sources.append((net_param, self.where, "test_net_param"))
        for path in param.test_net:
            sources.append((self._read(path), path, f"test_net file: {path}"))
        while len(sources) < instances:
            if param.HasField("net_param"):
                sources.append((param.net_param, self.where, "net_param"))
            else:
                sources.append((self._read(param.net), param.net, f"net file: {param.net}"))
        for i, (net_param, where, source) in enumerate(sources):
            glog.info("solver.cpp:190", f"Creating test net (#{i}) specified by {source}")
            state = param.test_state[i] if param.test_state else None
            net = self._build(net_param, state, TEST, where)
            net.debug_info = param.debug_info
            self._load_weights(net)
            self.test_nets.append(net)

    def _load_weights(self, net: Net) -> None:
        for entry in self.param.weights:
            for path in (part.strip() for part in entry.split(",")):  # an empty one is a file that is not there
                glog.info("solver.cpp:72", f"Finetuning from {path}")
                net.copy_trained_layers_from(path)

    # training
    def step(self, iters: int) -> None:
        """Runs `iters` iterations: test, forward and backward, display, update, snapshot."""
        param = self.param
        if iters > 0:
            self._check_update()
        stop_iter = self.iter + iters
        self._losses, self._pending, self._smoothed_loss, self._folded = [], [], 0.0, 0
        if self._executor is None and iters > 0:
            self._executor = self._chosen(iters)
        timer = time.perf_counter()
        while self.iter < stop_iter:
            if (
                param.test_interval
                and self.iter % param.test_interval == 0
                and (self.iter > 0 or param.test_initialization)
            ):
                if self.root_solver:
                    self.test_all()
                if self._agreed("stop" if self._requested_early_exit else "none") == "stop":
                    self._requested_early_exit = True
                    break
            for on_start, _ in self.callbacks:
                on_start()
            display = bool(param.display) and self.iter % param.display == 0
            self.net.debug_info = display and param.debug_info
            rate, status = self._learning_rate()
            loss, outputs = self.executor.iterate(rate)
            self._update_smoothed_loss(loss)
            if display:
                smoothed = self._smoothed()
                lapse = time.perf_counter() - timer
                per_second = (self.iter - self._iterations_last) / (lapse or 1)
                glog.info(
                    "solver.cpp:239",
                    f"Iteration {self.iter} ({glog.number(per_second)} iter/s, {glog.number(lapse)}s/{param.display} "
                    f"iters), loss = {glog.number(smoothed)}",
                )
                timer = time.perf_counter()
                self._iterations_last = self.iter
                self._log_outputs(self.net, outputs, "Train", "solver.cpp:258")
            if status:
                glog.info("sgd_solver.cpp:50", status)
            if display:
                glog.info("sgd_solver.cpp:112", f"Iteration {self.iter}, lr = {glog.number(rate)}")
            self._finish_update(rate)
            request = self._agreed(self.action())
            due = bool(param.snapshot) and self.iter % param.snapshot == 0
            if self.root_solver and (due or request == "snapshot"):
                self.snapshot()
            if request == "stop":
                self._requested_early_exit = True
                break

    def _finish_update(self, rate: float) -> None:
        for _, on_gradients_ready in self.callbacks:
            on_gradients_ready()
        if not self.executor.updates:
            self.average()
            self.update(self.step_scalars(rate))
        self.iter += 1

    def average(self) -> None:
        """With several solvers: the gradients become the mean of all."""
        if self.company is not None:
            self.company.average(self.net.learnable_params)

    def solve(self, resume_file: str | None = None) -> None:
        """Restores `resume_file` if given, then trains to max_iter or until told to stop."""
        glog.info("solver.cpp:289", f"Solving {self.net.name}")
        glog.info("solver.cpp:290", f"Learning Rate Policy: {self.param.lr_policy}")
        self._requested_early_exit = False
        if resume_file:
            glog.info("solver.cpp:295", f"Restoring previous solver status from {resume_file}")
            self.restore(resume_file)
        param = self.param
        self.step(param.max_iter - self.iter)
        if param.snapshot_after_train and (not param.snapshot or self.iter % param.snapshot != 0):
            self.snapshot()
        if self._requested_early_exit:
            glog.info("solver.cpp:315", "Optimization stopped early.")
            return
        if param.display and self.iter % param.display == 0:
            loss = self.executor.forward()
            self._update_smoothed_loss(loss)
            glog.info("solver.cpp:327", f"Iteration {self.iter}, loss = {glog.number(self._smoothed())}")
        if param.test_interval and self.iter % param.test_interval == 0:
            self.test_all()
        glog.info("solver.cpp:332", "Optimization Done.")

    # testing
    def test_all(self) -> None:
        for k in range(len(self.test_nets)):
            if self._requested_early_exit:
                break
            self.test(k)

    def test(self, k: int) -> dict[str, list[float]]:
        """Averages every output element of test net k over test_iter forwards; logs and returns the means."""
        glog.info("solver.cpp:347", f"Iteration {self.iter}, Testing net (#{k})")
        net = self.test_nets[k]
        net.share_trained_layers_with(self.net)
        sums: list[torch.Tensor] | None = None
        loss: torch.Tensor | None = None
        iters = self.param.test_iter[k]
        for _ in range(iters):
            request = self.action()
            while request != "none":
                if request == "snapshot":
                    self.snapshot()
                else:
                    self._requested_early_exit = True
                request = "none" if self._requested_early_exit else self.action()
            if self._requested_early_exit:
                break
            part, outputs = self.executor.test(k)
            loss = part if loss is None else loss + part
            if sums is None:
                sums = [o.detach().to(torch.float32).clone() for o in outputs]
            else:
                sums = [s + o for s, o in zip(sums, outputs, strict=True)]
        if self._requested_early_exit:
            glog.info("solver.cpp:393", "Test interrupted.")
            return {}
        if self.param.test_compute_loss:
            glog.info(
                "solver.cpp:401", f"Test loss: {glog.number(glog.divided(0 if loss is None else float(loss), iters))}"
            )
        if sums is None:  # test_iter 0: no output was ever seen
            return {}
        means = [s / iters for s in sums]
        self._log_outputs(net, means, "Test", "solver.cpp:414")
        return {net.blob_names[i]: m.reshape(-1).tolist() for i, m in zip(net.output_ids, means, strict=True)}

    # snapshots
    def snapshot(self) -> tuple[str, str]:
        """Writes weights, then state; returns both paths. Raises CaffeError."""
        check(self.iter < 2**31, f"iteration {self.iter}: a solver state counts to {2**31 - 1}")
        model = self.snapshot_filename(self.iter, ".caffemodel")
        try:
            if self.param.snapshot_format == SolverParameter.HDF5:
                glog.info("solver.cpp:474", f"Snapshotting to HDF5 file {model}")
                self.net.to_hdf5(model, self.param.snapshot_diff)
            else:
                glog.info("solver.cpp:464", f"Snapshotting to binary proto file {model}")
                self.net.to_binary_proto(model, self.param.snapshot_diff)
            return model, self._snapshot_solver_state(model)
        except ProtoError as error:
            raise CaffeError(f"Check failed: proto.SerializeToOstream(&output) ({error.reason})", error.place) from None
        except (OSError, RuntimeError) as error:
            detail = getattr(error, "strerror", None) or error
            raise CaffeError(f"Cannot write the snapshot: {detail}", self.param.snapshot_prefix) from None

    def _check_snapshot_write_permissions(self) -> None:
        """Fails before training, not at the first snapshot. Raises CaffeError."""
        param = self.param
        if not param.snapshot:
            return
        check(param.HasField("snapshot_prefix"), "In solver params, snapshot is specified but snapshot_prefix is not")
        try:
            files.check_writable(self.snapshot_filename(param.snapshot, ".solverstate"))
            files.sweep(os.path.dirname(param.snapshot_prefix) or ".")
        except (OSError, ValueError):  # ValueError: a NUL in the name
            raise CaffeError(
                f"Cannot write to snapshot prefix '{param.snapshot_prefix}'.  "
                "Make sure that the directory exists and is writable."
            ) from None

    def snapshot_filename(self, iteration: int, extension: str) -> str:
        """``<prefix>_iter_<n>.caffemodel`` or ``.solverstate``, behind it ``.h5`` where the format is HDF5."""
        format_ = ".h5" if self.param.snapshot_format == SolverParameter.HDF5 else ""
        return f"{self.param.snapshot_prefix}_iter_{iteration}{extension}{format_}"

    # loss
    def _update_smoothed_loss(self, loss: torch.Tensor) -> None:
        """Keeps the loss on its device; `_smoothed` folds the kept ones in when somebody looks."""
        if self.param.average_loss == 1:
            self._pending = [loss]
        elif self.param.display:
            self._pending.append(loss)

    def _smoothed(self) -> float:
        """Running mean over at most average_loss iterations, folded in Caffe's order."""
        average = self.param.average_loss
        values = torch.stack([v.to(torch.float32) for v in self._pending]).tolist() if self._pending else []
        if average == 1:
            return float(values[-1])
        self._pending = []
        for loss in values:
            if len(self._losses) < average:
                self._losses.append(loss)
                size = len(self._losses)
                self._smoothed_loss = (self._smoothed_loss * (size - 1) + loss) / size
                self._folded = size
            else:
                index = self._folded % average
                self._smoothed_loss += (loss - self._losses[index]) / average
                self._losses[index] = loss
                self._folded += 1
        return self._smoothed_loss

    def _log_outputs(self, net: Net, outputs: Sequence[torch.Tensor], word: str, source: str) -> None:
        """One line for every element of every output."""
        flat = [o.detach().to(torch.float32).reshape(-1) for o in outputs]
        values = torch.cat(flat).tolist() if flat else []
        k = 0
        for blob_id, part in zip(net.output_ids, flat, strict=True):
            weight, name = net.blob_loss_weights[blob_id], net.blob_names[blob_id]
            for _ in range(part.numel()):
                glog.info(
                    source,
                    f"    {word} net output #{k}: {name} = {glog.number(values[k])}{loss_suffix(weight, values[k])}",
                )
                k += 1


def loss_suffix(weight: float, value: float) -> str:
    """`` (* 1 = 2.3 loss)`` behind the value of an output that carries a loss weight."""
    if not weight:
        return ""
    n = glog.number
    return f" (* {n(weight)} = {n(float(np.float32(weight) * np.float32(value)))} loss)"
