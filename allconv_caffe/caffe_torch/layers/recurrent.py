"""What LSTM and RNN have in common: inputs, state, parameters, and the loop over the timesteps.

Caffe builds a net of T copies of a step and runs it; here the steps are computed one after the other, and the net is built
for its log lines alone.
Source: recurrent_layer.cpp.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.blob import Blob
from allconv_caffe.caffe_torch.compute import recurrent
from allconv_caffe.caffe_torch.compute.fast_math import FastMath
from allconv_caffe.caffe_torch.compute.rng import ShapesOnly
from allconv_caffe.caffe_torch.compute.window import c_int
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.fillers import fill
from allconv_caffe.caffe_torch.layer import Layer
from allconv_caffe.caffe_torch.layers.base import add_filled, float32
from allconv_caffe.caffe_torch.layers.recurrent_net import add_shapes, conted, part, product
from allconv_caffe.caffe_torch.tracing import is_tracing
from allconv_caffe.proto import TRAIN, LayerParameter, NetParameter

Kept = list[torch.Tensor] | torch.Tensor  # of each step: in a list, or along the first axis


class RecurrentLayer(Layer):
    """T steps over N independent streams.

    bottom[0]: x (T, N, ...); bottom[1]: cont (T, N), 0 where a sequence begins, else 1; then, where there is one more, a
    static input (N, ...) of every step; then, with `expose_hidden`, the state before the first step, (1, N, D) each.
    top[0]: (T, N, D), D = num_output; with `expose_hidden` then the state after the last step, (1, N, D) each.
    Without `expose_hidden` the state stays in the layer: each forward goes on where the last one ended; no gradient crosses from
    one forward to another. A compiled net takes such a layer where all steps are one operator: step by step its graph would
    take minutes to compile.
    blobs[0]: W of x (G * D, K); blobs[1]: its bias (G * D); with a static input W_static (G * D, S); then the type's own.
    Each step after the first draws its own initial weights once more, unused, as in Caffe: this keeps the random stream.
    Differs: `debug_info` prints nothing.
    Caffe's bugs, kept: backward reads the gradient where reshape left the top's, which a Flatten above has taken away (it is 0
    then); gradients of exposed states are neither read nor written; x, the static input and every parameter
    get their gradients whether wanted or not (`lr_mult: 0`, `propagate_down: false`).
    """

    state_names: ClassVar[tuple[str, ...]] = ()  # RecurrentInputBlobNames
    gate_count: ClassVar[int] = 1
    input_params: ClassVar[tuple[str, str, str]] = ("", "", "")
    output_name: ClassVar[str] = ""  # OutputBlobNames

    @property
    def traceable(self) -> bool:  # type: ignore[override]
        return bool(self.param.recurrent_param.expose_hidden) or self.sequences_fit

    @property
    def sequences_fit(self) -> bool:
        """Whether compute/recurrent.py's operators, all steps in one, serve where this layer is."""
        here = self.ctx.device.type == "cpu" and self.ctx.compute_dtype == torch.float32
        return here and recurrent.why_not() is None

    @property
    def runs_sequences(self) -> bool:
        """Whether these operators are taken: sums in another order than step by step."""
        return (is_tracing() or self.ctx.fast) and self.sequences_fit

    @property
    def carried(self) -> list[Blob]:
        return [] if self.exposed else self.states

    @property
    def min_bottom(self) -> int:  # type: ignore[override]
        return 2 + self.exposed

    @property
    def max_bottom(self) -> int:  # type: ignore[override]
        return 3 + self.exposed

    @property
    def num_top(self) -> int:  # type: ignore[override]
        return 1 + self.exposed

    @property
    def exposed(self) -> int:
        """How many states are bottoms and tops."""
        return len(self.state_names) if self.param.recurrent_param.expose_hidden else 0

    # what a type adds
    def step_params(self) -> list[tuple[str, tuple[int, ...], Any]]:
        """Name, shape and filler of the parameters of a step, in Caffe's order."""
        raise CaffeError(f"layer type {self.type} lacks step_params")

    def step_layers(self, t: int, inputs: list[str]) -> list[LayerParameter]:
        """Step t (from 1) of the inner net, behind h_conted_<t - 1>; `inputs` are the blobs of x and the static input."""
        raise CaffeError(f"layer type {self.type} lacks step_layers")

    def last_layers(self) -> list[LayerParameter]:
        """What stands between the last step and the outputs' Concat."""
        return []

    def unroll(
        self, inputs: torch.Tensor, cont: torch.Tensor, states: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The steps: inputs (T, N, G * D), cont (T, N, 1), states (N, D) each, to outputs (T, N, D) and the last states."""
        raise CaffeError(f"layer type {self.type} lacks unroll")

    def unroll_backward(self, dy: torch.Tensor, cont: torch.Tensor) -> torch.Tensor:
        """Adds up the gradients of the steps' parameters; returns that of `inputs`."""
        raise CaffeError(f"layer type {self.type} lacks unroll_backward")

    # Caffe's methods
    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        param = self.param.recurrent_param
        self.check_sequences(bottom)
        self.steps, n = bottom[0].shape[:2]  # T_, N_
        glog.info(
            "recurrent_layer.cpp:20",
            f"Initializing recurrent layer: assuming input batch contains {self.steps} timesteps of {n} independent "
            "streams.",
        )
        self.static = len(bottom) > 2 + self.exposed  # static_input_
        if self.static:
            bottom[2].canonical_axis(0)
            check(bottom[2].shape[0] == n, f"Check failed: N_ == bottom[2]->shape(0) ({n} vs. {bottom[2].shape[0]})")
        self.d = c_int(param.num_output)
        check(self.d > 0, "num_output must be positive")
        check(max(n, self.gate_count) * self.d < 2**31, "blob size exceeds INT_MAX")
        self.k = bottom[0].count_range(bottom[0].canonical_axis(2))
        out = self.gate_count * self.d
        weight, bias, static = self.input_params
        named: list[tuple[str, tuple[int, ...], Any]] = [
            (weight, (out, self.k), param.weight_filler),
            (bias, (out,), param.bias_filler),
        ]
        if self.static:
            self.s = bottom[2].count_range(bottom[2].canonical_axis(1))
            named.append((static, (out, self.s), param.weight_filler))
        self.first_step_param = len(named)
        named += self.step_params()
        self.log_unrolled_net(bottom)
        self.blobs.clear()
        for i, (name, shape, filler) in enumerate(named):
            add_filled(self, shape, filler)
            glog.info("recurrent_layer.cpp:150", f"Adding parameter {i}: {name}")
        for _ in range(1, self.steps):
            for _, shape, filler in named[self.first_step_param :]:
                fill(shape, filler, self.ctx.rng)
        self.param_propagate_down = [True] * len(self.blobs)
        self.states = [self.new_blob() for _ in self.state_names]  # recur_output_blobs_
        self.rooms = recurrent.Rooms()
        self.output = self.new_blob()  # output_blobs_[0]; only its diff is used

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.check_sequences(bottom, self.steps)
        n = bottom[0].shape[1]
        incompatible = "Input size incompatible with inner product parameters."
        check(bottom[0].count_range(bottom[0].canonical_axis(2)) == self.k, incompatible)
        if self.static:
            check(bottom[2].count_range(bottom[2].canonical_axis(1)) == self.s, incompatible)
            out, streams = self.gate_count * self.d, bottom[2].shape[0]
            check(
                streams == n,
                f"bottom[0]: 1 {n} {out} ({n * out}), bottom[2]: 1 {streams} {out} ({streams * out})",
            )
        for state in self.states:
            state.reshape(1, n, self.d)
        for j in range(self.exposed):
            i = 2 + self.static + j
            check(
                self.states[j].shape == bottom[i].shape,
                f"shape mismatch - recur_input_blobs_[{j}]: {self.states[j].shape_string} vs. bottom[{i}]: "
                f"{bottom[i].shape_string}",
            )
        top[0].reshape(self.steps, n, self.d)
        self.output.reshape(self.steps, n, self.d)
        top[0].share_diff(self.output)
        for blob in top[1:]:
            blob.reshape(1, n, self.d)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = (*top[0].shape[:2], -1)
        math = self.ctx.math
        if isinstance(math, FastMath) and self.sequences_fit:
            self.rooms.begin()
            x, w, b = bottom[0].data.reshape(-1, self.k), self.blobs[0].data, self.blobs[1].data
            inputs = math.product_with_packed(x, w, b, self.rooms(len(x), len(w))).view(shape)
        else:
            inputs = self.times(bottom[0].data.reshape(-1, self.k), 0).reshape(shape) + self.blobs[1].data
        if self.static:
            inputs = inputs + self.times(bottom[2].data.reshape(-1, self.s), 2)
        before = bottom[2 + self.static :] if self.exposed else self.states
        states = [float32(blob.data).squeeze(0).clone() for blob in before]
        y, states = self.unroll(inputs, self.cont(bottom), states)
        top[0].data = y
        for blob, state in zip(top[1:] if self.exposed else self.states, states, strict=True):
            blob.data = state.unsqueeze(0)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        check(not propagate_down[1], "Cannot backpropagate to sequence indicators.")
        d_inputs = self.unroll_backward(float32(self.output.diff), self.cont(bottom))
        flat = d_inputs.reshape(-1, d_inputs.shape[-1])
        bottom[0].diff = self.times_backward(bottom[0].data.reshape(-1, self.k), flat, 0).reshape(bottom[0].shape)
        self.blobs[1].accumulate_diff(flat.sum(0))
        if self.static:
            dx = self.times_backward(bottom[2].data.reshape(-1, self.s), d_inputs.sum(0), 2)
            bottom[2].diff = dx.reshape(bottom[2].shape)

    def allow_force_backward(self, bottom_index: int) -> bool:
        return bottom_index != 1

    def unrolled_net(self, bottom: Sequence[Blob]) -> NetParameter:
        """FillUnrolledNet, and what LayerSetUp puts around it: the net that Caffe builds over these bottoms."""
        given, (weight, bias, static_weight) = ["x", "cont"] + ["x_static"] * self.static, self.input_params
        steps, out, transformed = range(1, self.steps + 1), self.gate_count * self.d, f"{weight}_x"
        data = part("Input", "", [], given)
        add_shapes(data, (blob.shape for blob in bottom[: len(given)]))
        states = part("Input", "", [], self.state_names[::-1])
        add_shapes(states, [(1, bottom[0].shape[1], self.d)] * len(self.state_names))
        layers = [
            data,
            states,
            part("Slice", "cont_slice", ["cont"], [f"cont_{t}" for t in steps], 0),
            product(self.param.recurrent_param, "x_transform", "x", transformed, (weight, bias), out),
        ]
        layers[-1].propagate_down.append(True)
        if self.static:
            static = f"{transformed}_static"
            layers.append(
                product(self.param.recurrent_param, static, "x_static", f"{static}_preshape", (static_weight,), out, 1)
            )
            layers[-1].propagate_down.append(True)
            layers.append(part("Reshape", f"{static}_reshape", [f"{static}_preshape"], [static]))
            layers[-1].reshape_param.shape.dim.extend((1, -1, out))
        layers.append(part("Slice", f"{transformed}_slice", [transformed], [f"{transformed}_{t}" for t in steps], 0))
        for t in steps:
            inputs = [f"{transformed}_{t}"] + [f"{transformed}_static"] * self.static
            layers += [conted(t), *self.step_layers(t, inputs)]
        layers += self.last_layers()
        output = self.output_name
        layers.append(part("Concat", f"{output}_concat", [f"{output}_{t}" for t in steps], [output], 0))
        if self.name:
            for made in layers:
                made.name = f"{self.name}_{made.name}"
        layers.append(part("Reduction", f"{output}_pseudoloss", [output], [f"{output}_pseudoloss"]))
        layers[-1].loss_weight.append(1)
        return NetParameter(layer=layers)

    def log_unrolled_net(self, bottom: Sequence[Blob]) -> None:
        """Writes what Caffe writes while it builds the net: builds it, without memory and random numbers, and drops it."""
        if self.ctx.inner_net is None or glog.min_level() > glog.INFO:
            return
        context = dataclasses.replace(self.ctx, device=torch.device("meta"), rng=ShapesOnly(), phase=TRAIN)
        with contextlib.suppress(CaffeError):  # the layer says itself what is wrong
            self.ctx.inner_net(self.unrolled_net(bottom), context)

    @staticmethod
    def check_sequences(bottom: Sequence[Blob], steps: int | None = None) -> None:
        """The shapes of x and cont; in set-up `steps` is what x says, later what it said."""
        x, cont = bottom[0].shape, bottom[1].shape
        check(len(x) >= 2, "bottom[0] must have at least 2 axes -- (#timesteps, #streams, ...)")
        check(
            steps in (None, x[0]),
            f"Check failed: T_ == bottom[0]->shape(0) ({steps} vs. {x[0]}) input number of timesteps changed",
        )
        check(len(cont) == 2, "bottom[1] must have exactly 2 axes -- (#timesteps, #streams)")
        check(x[0] == cont[0], f"Check failed: T_ == bottom[1]->shape(0) ({x[0]} vs. {cont[0]})")
        check(x[1] == cont[1], f"Check failed: N_ == bottom[1]->shape(1) ({x[1]} vs. {cont[1]})")

    @staticmethod
    def cont(bottom: Sequence[Blob]) -> torch.Tensor:
        return float32(bottom[1].data).unsqueeze(-1)

    def product(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """a (M, K) b (K, N), multiplied in the context's compute_dtype; float32."""
        if self.runs_sequences:
            return torch.ops.allconv_caffe.product(float32(a), float32(b))
        factor = self.ctx.factor
        return float32(factor(a) @ factor(b))

    def times(self, x: torch.Tensor, i: int) -> torch.Tensor:
        """x (rows, K) times the transpose of blobs[i] (out, K)."""
        return self.product(x, self.blobs[i].data.t())

    def times_weights(self, dy: torch.Tensor, i: int) -> torch.Tensor:
        """dy (rows, out) times blobs[i] (out, K), the gradient of what `times` multiplied, likewise."""
        return self.product(dy, self.blobs[i].data)

    def times_backward(self, x: torch.Tensor, dy: torch.Tensor, i: int) -> torch.Tensor:
        """Adds dy^T x to the gradient of blobs[i]; returns that of x."""
        self.accumulate_steps([x], [dy], i)
        return self.times_weights(dy, i)

    @staticmethod
    def with_last(kept: Kept, last: torch.Tensor) -> Kept:
        """What was kept of all steps, with `last` for the last one's."""
        return [*kept[:-1], last] if isinstance(kept, list) else torch.cat([kept[:-1], last.unsqueeze(0)])

    def accumulate_steps(
        self, xs: list[torch.Tensor], dys: list[torch.Tensor], i: int, bias: int | None = None
    ) -> None:
        """Adds each step's dy^T x to the gradient of blobs[i], and its sums of dy to that of blobs[bias].

        One step after the other, as Caffe does; a compiled net multiplies all steps' rows at once.
        """
        if is_tracing() and len(xs) > 1:
            xs, dys = [torch.cat(xs)], [torch.cat(dys)]
        for x, dy in zip(xs, dys, strict=True):
            if bias is not None:
                self.blobs[bias].accumulate_diff(dy.sum(0))
            self.blobs[i].accumulate_diff(self.product(dy.t(), x))
