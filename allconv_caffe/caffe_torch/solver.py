"""Solvers: Caffe's verbs in Caffe's order.

Source: solver.cpp, sgd_solver.cpp and solvers/*.cpp.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from allconv_caffe.caffe_torch import glog, solver_state
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute.blas import axpy, scal
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.lr_policy import check_policy, learning_rate
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.caffe_torch.solver_state import State
from allconv_caffe.caffe_torch.upgrade import upgrade_snapshot_prefix, upgrade_solver
from allconv_caffe.proto import TEST, TRAIN, NetParameter, NetState, ProtoError, SolverParameter, read_net, to_text
from allconv_caffe.proto.files import shortened

Scalar = float | torch.Tensor
TRAIN_NET_FIELDS = ("net", "net_param", "train_net", "train_net_param")
MIN_ITERS_TO_COMPILE = 100  # below this, compiling costs more than it saves


class Solver:
    """Trains a net as a SolverParameter says.

    Args:
        param: the solver; not changed.
        context: device, generator, precision.
        where: the solver file's name, for errors and for the default snapshot prefix.
        weights: .caffemodel files to start from, in order.
        action: polled once an iteration and between test batches: "none", "stop" or "snapshot".
        executor: "plain" (layer by layer), "compiled" (fail if impossible), or "auto"; seed-exact, it is "plain".

    Raises:
        CaffeError: in Caffe's words.

    Attributes:
        net, test_nets, iter, current_step, history (Blobs, in the order of a .solverstate).
    """

    type: ClassVar[str] = ""
    histories: ClassVar[int] = 1  # arrays kept for each parameter

    def __init__(
        self,
        param: SolverParameter,
        context: Context | None = None,
        *,
        where: str = "",
        weights: Sequence[str] = (),
        action: Callable[[], str] = lambda: "none",
        executor: str = "plain",
    ) -> None:
        self.ctx = context or Context()
        self.where = where
        self.action = action
        self.executor = executor
        self.param = SolverParameter()
        self.param.CopyFrom(param)
        self.param.weights.extend(weights)
        self.iter = 0
        self.current_step = 0
        self.callbacks: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self._requested_early_exit = False
        self._compiled: Any = None
        self._losses: list[float] = []
        self._pending: list[torch.Tensor] = []
        self._smoothed_loss = 0.0
        self._folded = 0
        self._iterations_last = 0
        try:
            if self.ctx.seed_exact:
                check(
                    executor != "compiled",
                    "seed-exact: found executor compiled, expected plain or auto (compiled code draws its own numbers)",
                )
                self.executor = "plain"
            self._init()
        except CaffeError as error:
            raise error.within("" if where and error.where.startswith(str(where)) else where) from None

    def _init(self) -> None:
        glog.info("solver.cpp:45", "Initializing solver from parameters: \n" + to_text(self.param))
        param = self.param
        check(param.average_loss >= 1, "average_loss should be non-negative.")
        self._check_snapshot_write_permissions()
        self._init_train_net()
        self._init_test_nets()
        self.history = [
            Blob(p.shape, self.ctx.device) for _ in range(self.histories) for p in self.net.learnable_params
        ]
        glog.info("solver.cpp:57", "Solver scaffolding done.")
        self._check_solver()

    def _check_solver(self) -> None:
        """What a solver type demands of its parameters."""
        check(
            not self.param.weight_decay
            or self.param.regularization_type in ("L1", "L2"),  # asked for at the first decay
            f"Unknown regularization type: {self.param.regularization_type}",
        )
        check_policy(self.param)

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
        self.test_nets: list[Net] = []
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
    def solve(self, resume_file: str | None = None) -> None:
        """Restores `resume_file` if given, then trains to max_iter or until told to stop."""
        glog.info("solver.cpp:289", f"Solving {self.net.name}")
        glog.info("solver.cpp:290", f"Learning Rate Policy: {self.param.lr_policy}")
        self._requested_early_exit = False
        if resume_file:
            glog.info("solver.cpp:295", f"Restoring previous solver status from {resume_file}")
            self.restore(resume_file)
        start_iter = self.iter
        param = self.param
        self.step(param.max_iter - self.iter)
        if param.snapshot_after_train and (not param.snapshot or self.iter % param.snapshot != 0):
            self.snapshot()
        if self._requested_early_exit:
            glog.info("solver.cpp:315", "Optimization stopped early.")
            return
        if param.display and self.iter % param.display == 0:
            loss = self._forward_train()
            self._update_smoothed_loss(loss, start_iter)
            glog.info("solver.cpp:327", f"Iteration {self.iter}, loss = {glog.number(self._smoothed(start_iter))}")
        if param.test_interval and self.iter % param.test_interval == 0:
            self.test_all()
        glog.info("solver.cpp:332", "Optimization Done.")

    def step(self, iters: int) -> None:
        """Runs `iters` iterations: test, forward and backward, display, update, snapshot."""
        param = self.param
        start_iter, stop_iter = self.iter, self.iter + iters
        self._losses, self._pending, self._smoothed_loss, self._folded = [], [], 0.0, 0
        self._choose_executor(iters)
        timer = time.perf_counter()
        while self.iter < stop_iter:
            if (
                param.test_interval
                and self.iter % param.test_interval == 0
                and (self.iter > 0 or param.test_initialization)
            ):
                self.test_all()
                if self._requested_early_exit:
                    break
            for on_start, _ in self.callbacks:
                on_start()
            display = bool(param.display) and self.iter % param.display == 0
            self.net.debug_info = display and param.debug_info
            rate, status = self._learning_rate()
            loss, outputs = self._iterate(rate, display)
            self._update_smoothed_loss(loss, start_iter)
            if display:
                smoothed = self._smoothed(start_iter)
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
            request = self.action()
            if (param.snapshot and self.iter % param.snapshot == 0) or request == "snapshot":
                self.snapshot()
            if request == "stop":
                self._requested_early_exit = True
                break

    def _choose_executor(self, iters: int) -> None:
        """Compiles the iteration where that pays; says in the log why not where it cannot."""
        if self._compiled is not None or self.executor == "plain" or iters <= 0:
            return
        from allconv_caffe.caffe_torch.executor import compiled

        reason = compiled.why_not(self)
        if reason is None and self.executor == "auto" and iters < MIN_ITERS_TO_COMPILE:
            reason = f"{iters} iterations are too few to pay for compiling"
        if reason is None:
            self._compiled = compiled.CompiledSolver(self)
            glog.info("compiled.py:1", "Executor: compiled")
            return
        if self.executor == "compiled":
            raise CaffeError(f"executor compiled: {reason} (executors: auto, plain, compiled)", self.where)
        glog.info("compiled.py:1", f"Executor: plain ({reason})")
        self.executor = "plain"

    def _iterate(self, rate: float, display: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Forward and backward of one iteration; returns the mean loss and the last outputs, as tensors."""
        if self._compiled is not None:
            return self._compiled.iterate(rate)
        self.net.clear_param_diffs()
        loss: torch.Tensor | None = None
        for _ in range(self.param.iter_size):
            part = self.net.forward()
            self.net.backward()
            loss = part if loss is None else loss + part
        if loss is None:  # iter_size 0: as in Caffe, 0 / 0
            loss = torch.zeros((), device=self.ctx.device)
        return loss / self.param.iter_size, [self.net.blob_list[i].data for i in self.net.output_ids]

    def _finish_update(self, rate: float) -> None:
        for _, on_gradients_ready in self.callbacks:
            on_gradients_ready()
        if self._compiled is None or not self._compiled.updates:
            self.update(self.step_scalars(rate))
        self.iter += 1

    def apply_update(self) -> None:
        """Rate, update, iter += 1: for callers that ran forward and backward themselves."""
        rate = self.get_learning_rate()
        if self.param.display and self.iter % self.param.display == 0:
            glog.info("sgd_solver.cpp:112", f"Iteration {self.iter}, lr = {glog.number(rate)}")
        self.update(self.step_scalars(rate))
        self.iter += 1

    def get_learning_rate(self) -> float:
        """The rate of this iteration. A multistep policy takes its step, and says so."""
        rate, status = self._learning_rate()
        if status:
            glog.info("sgd_solver.cpp:50", status)
        return rate

    def _learning_rate(self) -> tuple[float, str]:
        """The rate, and what is to be logged of a step that was taken: Caffe logs it after the iteration's loss."""
        rate, step = learning_rate(self.param, self.iter, self.current_step)
        taken = step != self.current_step and self.param.lr_policy == "multistep"
        self.current_step = step
        return rate, f"MultiStep Status: Iteration {self.iter}, step = {step}" if taken else ""

    # the update, in Caffe's verbs; the same body runs on plain blobs and on traced ones
    def step_scalars(self, rate: float) -> tuple[float, ...]:
        """The numbers of this iteration that a compiled update takes as inputs; the rate comes first."""
        return (rate,)

    def update(self, scalars: Sequence[Scalar]) -> None:
        """clip, normalize, regularize, compute update value, update."""
        self.clip_gradients()
        for i in range(len(self.net.learnable_params)):
            self.normalize(i)
            self.regularize(i)
            self.compute_update_value(i, scalars)
        for blob in self.net.learnable_params:
            blob.data = blob.data - blob.diff

    def clip_gradients(self) -> None:
        """Scales all gradients by clip / norm when their common L2 norm exceeds clip_gradients."""
        limit = self.param.clip_gradients
        if limit < 0:
            return
        params = self.net.learnable_params
        squares = self._sum_of_squares([p.diff for p in params])
        if not Blob.tracing:
            value = float(np.sqrt(np.float32(float(squares))))  # on a CPU, PyTorch's root is often off by a rounding
            if value > limit:
                scale = float(np.float32(limit) / np.float32(value))
                glog.info(
                    "sgd_solver.cpp:99",
                    f"Gradient clipping: scaling down gradients (L2 norm {glog.number(value)} > {glog.number(limit)}) "
                    f"by scale factor {glog.number(scale)}",
                )
                for p in params:
                    p.diff = scal(p.diff, scale)
            return
        norm = squares.sqrt()
        factor = torch.where(norm > limit, limit / norm, torch.ones_like(norm))
        for p in params:
            p.diff = p.diff * factor

    def _sum_of_squares(self, arrays: Sequence[torch.Tensor]) -> torch.Tensor:
        if (sums := self.ctx.caffe_sums) is None:
            return torch.stack([(x * x).sum() for x in arrays]).sum()
        total = torch.zeros(())
        for x in arrays:  # one after the other
            total = total + sums.dot(x, x)
        return total

    def normalize(self, i: int) -> None:
        if self.param.iter_size != 1:
            blob = self.net.learnable_params[i]
            blob.diff = blob.diff * glog.divided(1, self.param.iter_size)

    def regularize(self, i: int) -> None:
        """diff += decay * data (L2, Caffe's lambda without the 2) or decay * sign(data) (L1)."""
        decay = float(np.float32(self.param.weight_decay) * np.float32(self.net.params_weight_decay[i]))
        if not decay:
            return
        blob = self.net.learnable_params[i]
        if (sums := self.ctx.caffe_sums) is not None:
            l2 = self.param.regularization_type == "L2"
            sums.axpy(decay, blob.data if l2 else torch.sign(blob.data), blob.diff)
        elif self.param.regularization_type == "L2":
            blob.diff = blob.diff + blob.data * decay
        else:
            blob.diff = blob.diff + torch.sign(blob.data) * decay

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        """Turns learnable_params[i].diff from gradient into update, and moves the history."""
        raise CaffeError(f"solver type {self.type} lacks compute_update_value")

    def local_rate(self, i: int, scalars: Sequence[Scalar]) -> Scalar:
        rate, mult = scalars[0], self.net.params_lr[i]
        if isinstance(rate, torch.Tensor):
            return rate * mult
        with np.errstate(all="ignore"):
            return float(np.float32(rate) * np.float32(mult))

    def axpby(self, x: torch.Tensor, alpha: Scalar, y: torch.Tensor, beta: float) -> torch.Tensor:
        """alpha * x + beta * y. Source: caffe_cpu_axpby."""
        if (sums := self.ctx.caffe_sums) is None or isinstance(alpha, torch.Tensor):
            return axpy(x, alpha) + scal(y, beta)
        result = y.clone()
        sums.axpby(alpha, x, beta, result)
        return result

    def root(self, x: torch.Tensor) -> torch.Tensor:
        """The square root, as Caffe takes it: a power of 0.5."""
        return x.sqrt() if (sums := self.ctx.caffe_sums) is None else sums.power(x, 0.5)

    def square(self, x: torch.Tensor) -> torch.Tensor:
        """x * x, as Caffe takes it in all types but Adam: a power of 2."""
        return x * x if (sums := self.ctx.caffe_sums) is None else sums.power(x, 2.0)

    # loss
    def _update_smoothed_loss(self, loss: torch.Tensor, start_iter: int) -> None:
        """Keeps the loss on its device; `_smoothed` folds the kept ones in when somebody looks."""
        if self.param.average_loss == 1:
            self._pending = [loss]
        elif self.param.display:
            self._pending.append(loss)

    def _smoothed(self, start_iter: int) -> float:
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

    def _forward_train(self) -> torch.Tensor:
        if self._compiled is not None:
            return self._compiled.forward_only()
        return self.net.forward()

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
                    f"    {word} net output #{k}: {name} = {glog.number(values[k])}"
                    + loss_suffix(weight, values[k], name),
                )
                k += 1

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
            if self._compiled is not None:
                part, outputs = self._compiled.test_forward(k)
            else:
                part, outputs = net.forward(), [net.blob_list[i].data for i in net.output_ids]
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
        hdf5 = self.param.snapshot_format == SolverParameter.HDF5
        model, state = (self.snapshot_filename(self.iter, kind) for kind in (".caffemodel", ".solverstate"))
        try:
            if hdf5:
                glog.info("solver.cpp:474", f"Snapshotting to HDF5 file {model}")
                self.net.to_hdf5(model, self.param.snapshot_diff)
            else:
                glog.info("solver.cpp:464", f"Snapshotting to binary proto file {model}")
                self.net.to_binary_proto(model, self.param.snapshot_diff)
            self._snapshot_solver_state(State(self.iter, self.current_step, self.history, model), state, hdf5)
        except ProtoError as error:
            raise CaffeError(f"Check failed: proto.SerializeToOstream(&output) ({error.reason})", error.place) from None
        except (OSError, RuntimeError) as error:
            detail = getattr(error, "strerror", None) or error
            raise CaffeError(f"Cannot write the snapshot: {detail}", self.param.snapshot_prefix) from None
        return model, state

    def _check_snapshot_write_permissions(self) -> None:
        """Fails before training, not at the first snapshot. Raises CaffeError."""
        param = self.param
        if not param.snapshot:
            return
        check(param.HasField("snapshot_prefix"), "In solver params, snapshot is specified but snapshot_prefix is not")
        folder, name = os.path.split(param.snapshot_prefix)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.lstat(self.snapshot_filename(param.snapshot, ".solverstate"))  # the name may be too long
            with tempfile.NamedTemporaryFile(dir=folder or ".", prefix=shortened(name)):
                pass
        except (OSError, ValueError):  # ValueError: a NUL in the name
            raise CaffeError(
                f"Cannot write to snapshot prefix '{param.snapshot_prefix}'.  "
                "Make sure that the directory exists and is writable."
            ) from None

    def snapshot_filename(self, iteration: int, extension: str) -> str:
        """``<prefix>_iter_<n>.caffemodel`` or ``.solverstate``, behind it ``.h5`` where the format is HDF5."""
        format_ = ".h5" if self.param.snapshot_format == SolverParameter.HDF5 else ""
        return f"{self.param.snapshot_prefix}_iter_{iteration}{extension}{format_}"

    def _snapshot_solver_state(self, state: State, path: str, hdf5: bool) -> None:
        if hdf5:
            glog.info("sgd_solver.cpp:296", f"Snapshotting solver state to HDF5 file {path}")
            solver_state.save_hdf5(state, Path(path))
        else:
            glog.info("sgd_solver.cpp:284", f"Snapshotting solver state to binary proto file {path}")
            solver_state.save_binary(state, path)

    def restore(self, path: str) -> None:
        """Iteration, step and history of a .solverstate, and the weights that it names.

        Raises:
            CaffeError: missing or damaged file, wrong number or shape of histories.
        """
        load = solver_state.load_hdf5 if path.endswith(".h5") else solver_state.load_binary
        state = load(path, self.history, self.net.copy_trained_layers_from)
        self.iter, self.current_step = state.iter, state.current_step


def loss_suffix(weight: float, value: float, name: str) -> str:
    """`` (* 1 = 2.3 loss)`` behind the value of an output that carries a loss weight."""
    if not weight:
        return ""
    n = glog.number
    return f" (* {n(weight)} = {n(float(np.float32(weight) * np.float32(value)))} loss)"


SOLVERS: dict[str, type[Solver]] = {}


def register_solver(cls: type[Solver]) -> type[Solver]:
    if cls.type in SOLVERS:
        raise ValueError(f"Solver type {cls.type} already registered.")
    SOLVERS[cls.type] = cls
    return cls


@register_solver
class SGDSolver(Solver):
    """history = local_rate * diff + momentum * history; w -= history.

    Differs from PyTorch's SGD: the rate stands inside the history, so a drop acts on new gradients only.
    Source: sgd_solver.cpp.
    """

    type = "SGD"

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        blob, history = self.net.learnable_params[i], self.history[i]
        history.data = self.axpby(blob.diff, self.local_rate(i, scalars), history.data, self._momentum)
        blob.diff = history.data

    @property
    def _momentum(self) -> float:
        return float(np.float32(self.param.momentum))


@register_solver
class NesterovSolver(SGDSolver):
    """h' = rate * diff + m * h; w -= (1 + m) * h' - m * h. Source: nesterov_solver.cpp."""

    type = "Nesterov"

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        blob, history, m = self.net.learnable_params[i], self.history[i], self._momentum
        before = history.data.clone()
        history.data = self.axpby(blob.diff, self.local_rate(i, scalars), before, m)
        blob.diff = self.axpby(history.data, float(np.float32(1) + np.float32(m)), before, -m)


@register_solver
class AdaGradSolver(SGDSolver):
    """h += diff^2; w -= rate * diff / (sqrt(h) + delta). Source: adagrad_solver.cpp."""

    type = "AdaGrad"

    def _check_solver(self) -> None:
        super()._check_solver()
        check(self.param.momentum == 0, f"Momentum cannot be used with {self.type}.")

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        blob, history = self.net.learnable_params[i], self.history[i]
        history.data = history.data + self.square(blob.diff)
        step = blob.diff / (self.root(history.data) + float(np.float32(self.param.delta)))
        blob.diff = axpy(step, self.local_rate(i, scalars))


@register_solver
class RMSPropSolver(SGDSolver):
    """h = (1 - d) * diff^2 + d * h; w -= rate * diff / (sqrt(h) + delta). Source: rmsprop_solver.cpp."""

    type = "RMSProp"

    def _check_solver(self) -> None:
        super()._check_solver()
        check(self.param.momentum == 0, "Momentum cannot be used with RMSProp.")
        check(0 <= self.param.rms_decay < 1, "rms_decay should lie between 0 and 1.")

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        blob, history = self.net.learnable_params[i], self.history[i]
        decay = np.float32(self.param.rms_decay)
        history.data = self.axpby(self.square(blob.diff), float(np.float32(1) - decay), history.data, float(decay))
        step = blob.diff / (self.root(history.data) + float(np.float32(self.param.delta)))
        blob.diff = axpy(step, self.local_rate(i, scalars))


@register_solver
class AdaDeltaSolver(SGDSolver):
    """h1 = (1-m) g^2 + m h1; v = g sqrt((delta+h2)/(delta+h1)); h2 = (1-m) v^2 + m h2; w -= rate * v.

    Source: adadelta_solver.cpp.
    """

    type = "AdaDelta"
    histories = 2

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        blob, n = self.net.learnable_params[i], len(self.net.learnable_params)
        first, second, m = self.history[i], self.history[n + i], self._momentum
        rest, delta = float(np.float32(1) - np.float32(m)), float(np.float32(self.param.delta))
        gradient = blob.diff
        first.data = self.axpby(self.square(gradient), rest, first.data, m)
        step = gradient * self.root((second.data + delta) / (first.data + delta))
        second.data = self.axpby(self.square(step), rest, second.data, m)
        blob.diff = scal(step, self.local_rate(i, scalars))


@register_solver
class AdamSolver(SGDSolver):
    """m, v with momentum, momentum2; w -= rate * sqrt(1-b2^t)/(1-b1^t) * m / (sqrt(v) + delta), t = iter + 1.

    Source: adam_solver.cpp.
    """

    type = "Adam"
    histories = 2

    def step_scalars(self, rate: float) -> tuple[float, ...]:
        b1, b2 = (np.float64(np.float32(b)) for b in (self.param.momentum, self.param.momentum2))
        with np.errstate(all="ignore"):  # a momentum of 1
            correction = np.sqrt(1 - b2 ** (self.iter + 1)) / (1 - b1 ** (self.iter + 1))  # in double, rounded once
        return (rate, float(np.float32(correction)))

    def compute_update_value(self, i: int, scalars: Sequence[Scalar]) -> None:
        blob, n = self.net.learnable_params[i], len(self.net.learnable_params)
        m, v = self.history[i], self.history[n + i]
        b1, b2 = np.float32(self.param.momentum), np.float32(self.param.momentum2)
        gradient = blob.diff
        m.data = self.axpby(gradient, float(np.float32(1) - b1), m.data, float(b1))
        v.data = self.axpby(gradient * gradient, float(np.float32(1) - b2), v.data, float(b2))
        step = m.data / (self.root(v.data) + float(np.float32(self.param.delta)))
        blob.diff = scal(step, self.local_rate(i, scalars) * scalars[1])


def create_solver(param: SolverParameter, *, context: Context | None = None, where: str = "", **options: Any) -> Solver:
    """The solver that `type` names (default SGD), its nets built. Options as `Solver` takes them.

    Raises:
        CaffeError: unknown type, or anything that stops Caffe here.
    """
    upgraded = SolverParameter()
    upgraded.CopyFrom(param)
    upgrade_solver(upgraded, where)
    if upgraded.type not in SOLVERS:
        raise CaffeError(f"Unknown solver type: {upgraded.type} (known types: {', '.join(sorted(SOLVERS))})", where)
    if where:
        upgrade_snapshot_prefix(upgraded, where)
    return SOLVERS[upgraded.type](upgraded, context, where=where, **options)
