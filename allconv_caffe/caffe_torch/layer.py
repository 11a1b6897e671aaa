"""The layer contract, and the registry of layer types.

Source: layer.hpp, layer_factory.hpp.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from allconv_caffe.caffe_torch.blob import Blob, Memory
from allconv_caffe.caffe_torch.compute import bf16, caffe_math, fast_math
from allconv_caffe.caffe_torch.compute.fast_math import Pack
from allconv_caffe.caffe_torch.compute.layout import ChannelsLast
from allconv_caffe.caffe_torch.compute.math_functions import Math, TorchMath
from allconv_caffe.caffe_torch.compute.program import Call
from allconv_caffe.caffe_torch.compute.rng import CaffeGenerator, Generator, Masks, TorchGenerator
from allconv_caffe.caffe_torch.errors import CaffeError, check
from allconv_caffe.caffe_torch.source.share import ALONE, Share
from allconv_caffe.proto import TEST, LayerParameter, NetParameter, forks


@dataclass(kw_only=True)
class Context:
    """What a net gives its layers.

    Raises:
        CaffeError: a `CaffeGenerator` (seed-exact) with a GPU, or with a precision that Caffe does not have.
    """

    # TRAIN (0) or TEST (1)
    phase: int = TEST
    # where blobs live
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    # where fillers, dropout and transformers draw
    rng: Generator = field(default_factory=TorchGenerator)
    # what convolutions and inner products compute in; parameters and blobs stay float32; bfloat16 on a CPU that has no
    # instructions for it: float32 products of factors rounded to bfloat16
    compute_dtype: torch.dtype = torch.float32
    # "direct" (one algorithm, the plain executor's) or "auto" (the fastest known, compiled execution)
    conv_mode: str = "direct"
    # on a GPU, let float32 products round their factors to TF32's ten bits; PyTorch knows this for the whole process alone:
    # the last Context made for a GPU decides
    tf32: bool = False
    # run forward by the fastest kernels of this CPU, whose results differ from those in Caffe's order by rounding alone; for nets
    # that no solver trains
    fast: bool = False
    # which of several solvers this is, where they train together
    share: Share = ALONE
    # builds a net that a layer has inside itself; the net gives it to its layers
    inner_net: Callable[[NetParameter, Context], object] | None = None

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = self.tf32
            torch.backends.cudnn.allow_tf32 = self.tf32
        if not self.seed_exact:
            return
        if self.device.type != "cpu":
            raise CaffeError(
                f"seed-exact: found device {self.device}, expected the CPU (on a GPU, Caffe draws from cuRAND)"
            )
        if self.compute_dtype != torch.float32:
            name = str(self.compute_dtype).removeprefix("torch.")
            raise CaffeError(f"seed-exact: found precision {name}, expected float32, the only one that Caffe has")

    def factor(self, x: torch.Tensor) -> torch.Tensor:
        """float32 `x` as convolutions and inner products take it: in compute_dtype, or rounded to it."""
        if self.compute_dtype == x.dtype:
            return x
        return bf16.rounded(x) if self.rounds_factors else x.to(self.compute_dtype)

    @property
    def rounds_factors(self) -> bool:
        """The precision asked for is bfloat16, and this machine's CPU cannot multiply it."""
        return self.compute_dtype == torch.bfloat16 and self.device.type == "cpu" and not bf16.cpu_multiplies_bf16()

    @property
    def shapes_only(self) -> bool:
        """Blobs lie on PyTorch's "meta" device: the net is built for its shapes, without memory, and never run."""
        return self.device.type == "meta"

    @property
    def seed_exact(self) -> bool:
        """Random numbers are Caffe's own, and so are sums where this machine has Caffe's order."""
        return isinstance(self.rng, CaffeGenerator)

    @functools.cached_property
    def math(self) -> Math:
        """How sums are taken: seed-exact in Caffe's order, unless this machine has it not (said in the log, once)."""
        if self.fast and self.device.type == "cpu" and self.compute_dtype == torch.float32:
            found = fast_math.find()
            if found is not None:
                return found
        return (caffe_math.find() if self.seed_exact else None) or TorchMath(self.conv_mode)


@dataclass(frozen=True, eq=False, kw_only=True)
class Recording:
    """What a layer's last forward was: the calls of kernels that it made, and where its blobs lay."""

    # in order
    calls: Sequence[Call]
    # bottoms, tops and parameters
    blobs: Sequence[Blob]
    # of each of them, see Blob.state
    states: Sequence[tuple[Memory, Memory, tuple[int, ...]]]
    # the layer's
    parameters: Sequence[Blob]
    # packed filters that calls take
    packs: Sequence[Pack]
    # how the memories of bottoms lay before it
    before: Sequence[tuple[Memory, ChannelsLast | None]]
    # how those of bottoms and tops lay after it
    after: Sequence[tuple[Memory, ChannelsLast | None]]
    # its weighted loss, which the last of the calls fills: 0 axes
    loss: torch.Tensor | None


class Layer:
    """One Caffe layer: `setup` once, `reshape` before every forward, `forward`, `backward`.

    Rules that let one body serve the plain and the compiled executor:

    * read `bottom[i].data`, compute, assign whole results: `top[0].data = y`, `bottom[0].diff = dx`;
    * parameter gradients go through `self.blobs[i].accumulate_diff(g)`, only if `self.param_propagate_down[i]`;
    * what backward needs beyond blobs is kept on `self` by forward;
    * no `.item()`, no numpy, no branch on values in forward and backward, unless `traceable` is False;
    * in place, `top[0] is bottom[0]`: forward overwrites what backward then reads, exactly as in Caffe.
    """

    type: ClassVar[str] = ""
    traceable: ClassVar[bool] = True
    # ExactNumBottomBlobs and friends; None: no such check
    num_bottom: ClassVar[int | None] = None
    min_bottom: ClassVar[int | None] = None
    max_bottom: ClassVar[int | None] = None
    num_top: ClassVar[int | None] = None
    min_top: ClassVar[int | None] = None
    max_top: ClassVar[int | None] = None
    equal_num_bottom_top: ClassVar[bool] = False
    auto_top_blobs: ClassVar[bool] = False
    is_loss: ClassVar[bool] = False
    # Caffe calls ShareData in Forward: before the first one the tops hold zeros of their own
    shares_in_forward: ClassVar[bool] = False

    # in a seed-exact net, its forward is nothing but calls of kernels by `ctx.math` that follow from shapes and from where
    # blobs lie: it may be played from a tape. It holds for the class whose forward it stands beside
    calls_kernels: bool = False
    # its forward takes images channels_last as well as in C order, and what it gives lies as they do
    any_layout: ClassVar[bool] = False
    # of its last forward in the net, see tape.py; None where it has run, or was reshaped, in any other way since
    recording: Recording | None = None

    # large things that its forward leaves to backward
    for_backward: ClassVar[tuple[str, ...]] = ()

    # where its forward draws masks, if it does
    masks: Masks | None = None

    def __init__(self, param: LayerParameter, context: Context) -> None:
        self.param = param
        self.name: str = param.name
        self.ctx = context
        self.phase: int = context.phase
        self.blobs: list[Blob] = []
        self.loss_weights: list[float] = []
        self.param_propagate_down: list[bool] = []
        for proto in param.blobs:
            blob = self.new_blob()
            blob.from_proto(proto)
            self.blobs.append(blob)

    # what a type overrides
    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """LayerSetUp: reads the parameters, makes `self.blobs`."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Gives the tops their shapes."""
        raise CaffeError(f"layer type {self.type} lacks reshape")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        raise CaffeError(f"layer type {self.type} lacks forward")

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        raise CaffeError(f"{self.type} Layer cannot backpropagate")

    def allow_force_backward(self, bottom_index: int) -> bool:
        return not (self.is_loss and bottom_index == 1)

    @property
    def runs_by_kernels(self) -> bool:
        """Whether its forward is nothing but calls of kernels: its class says it of the very forward that it runs."""
        if not self.calls_kernels or "forward" in vars(self):
            return False
        return next("calls_kernels" in vars(cls) for cls in type(self).__mro__ if "forward" in vars(cls))

    @property
    def carried(self) -> list[Blob]:
        """Blobs whose data one forward leaves to the next."""
        return []

    # what the net calls
    def forget(self) -> None:
        """Gives up what the last forward left to backward."""
        for name in self.for_backward:
            vars(self).pop(name, None)

    def set_up(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Layer::SetUp: check counts, setup, reshape, loss weights; in this order."""
        self.check_blob_counts(bottom, top)
        self.setup(bottom, top)
        self.reshape(bottom, top)
        self.set_loss_weights(top)
        missing = len(self.blobs) - len(self.param_propagate_down)
        self.param_propagate_down += [True] * missing

    def check_blob_counts(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for word, blobs, does, side in (("bottom", bottom, "takes", "input"), ("top", top, "produces", "output")):
            n = len(blobs)
            exact, least, most = (getattr(self, f"{k}_{word}") for k in ("num", "min", "max"))
            if exact is not None:
                check(exact == n, f"{self.type} Layer {does} {exact} {word} blob(s) as {side}.")
            if least is not None:
                check(least <= n, f"{self.type} Layer {does} at least {least} {word} blob(s) as {side}.")
            if most is not None:
                check(n <= most, f"{self.type} Layer {does} at most {most} {word} blob(s) as {side}.")
        if self.equal_num_bottom_top:
            check(
                len(bottom) == len(top),
                f"{self.type} Layer produces one top blob as output for each bottom blob input.",
            )

    def set_loss_weights(self, top: Sequence[Blob]) -> None:
        """A loss layer's first top weighs 1 unless the prototxt says otherwise; the weight waits in the top's diff."""
        if self.is_loss and not self.param.loss_weight:
            self.param.loss_weight.append(1)
            self.param.loss_weight.extend([0] * (len(top) - 1))
        given = list(self.param.loss_weight)
        check(not given or len(given) == len(top), "loss_weight must be unspecified or specified once per top blob.")
        self.loss_weights = given or [0.0] * len(top)
        for weight, blob in zip(self.loss_weights, top, strict=True):
            if weight:
                blob.diff = torch.full(blob.shape, weight, device=blob.device)

    def new_blob(self, *shape: int) -> Blob:
        return Blob(shape or (0,), self.ctx.device)


REGISTRY: dict[str, type[Layer]] = {}
"""The types of BVLC Caffe, which it lists where it is given another."""
FORKS: dict[str, type[Layer]] = {}
"""The types of forks of Caffe that run here."""


def register(*types: str) -> Callable[[type[Layer]], type[Layer]]:
    """Class decorator: makes a layer class known under its prototxt `type`, as a fork's where `forks` names it.

    Raises: ValueError: a type that is registered already.
    """

    def add(cls: type[Layer]) -> type[Layer]:
        for name in types:
            registry = FORKS if name in forks.TYPES else REGISTRY
            if name in registry:
                raise ValueError(f"Layer type {name} already registered by {registry[name].__name__}.")
            registry[name] = cls
        cls.type = types[0]
        return cls

    return add


NATIVE: dict[tuple[str, str], type[Layer]] = {}


def register_native(module: str, layer: str) -> Callable[[type[Layer]], type[Layer]]:
    """Class decorator: this engine's own form of the Python layer that ``python_param`` names so. Twice raises."""

    def add(cls: type[Layer]) -> type[Layer]:
        if (module, layer) in NATIVE:
            raise ValueError(f"Python layer {module}.{layer} already registered by {NATIVE[module, layer].__name__}.")
        NATIVE[module, layer] = cls
        return cls

    return add


def create(param: Any, context: Context) -> Layer:
    """The layer that `param.type` names. Raises CaffeError in Caffe's words for an unknown type."""
    if param.type == "Python":
        named = param.python_param.module, param.python_param.layer
        if named in NATIVE:
            return NATIVE[named](param, context)
    cls = REGISTRY.get(param.type) or FORKS.get(param.type)
    if cls is None:
        known = ", ".join(sorted(REGISTRY))
        raise CaffeError(f"Unknown layer type: {param.type} (known types: {known}){forks.of_type(param.type)}")
    return cls(param, context)
