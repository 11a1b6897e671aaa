"""Random small nets: every layer type with odd parameters, as far as a net of ours can be built, and now and then beyond.

`net_job(seed)` gives one as a job for fuzz_side.py. The same seed gives the same net as long as the engine's shapes stay.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.errors import CaffeError
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.proto import NetParameter, ProtoError, parse_text

Shape = tuple[int, ...]


@dataclass
class Blob_:
    name: str
    shape: Shape
    readers: int = 0
    is_input: bool = False


@dataclass
class Want:
    """A layer to be: its parameters, and its bottoms: a blob of the pool, or (kind, shape) of an input of its own."""

    type: str
    param: str
    bottoms: list[Any]
    tops: int = 1
    in_place: bool = False


@dataclass
class Maker:
    """One net in the making."""

    rng: random.Random
    wrong: float = 0.0  # how often a layer that ours refuses is kept
    pool: list[Blob_] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    inputs: list[tuple[str, str, list[Shape]]] = field(default_factory=list)
    shared: dict[str, tuple[str, str]] = field(default_factory=dict)
    count: int = 0
    other_batch: int = 0
    batch: int = 2

    # small draws
    def maybe(self, p: float = 0.5) -> bool:
        return self.rng.random() < p

    def pick(self, *values: Any) -> Any:
        return self.rng.choice(values)

    def some(self, p: float, text: str) -> str:
        return text + " " if self.maybe(p) else ""

    def axis(self, n: int, first: int = 0) -> int:
        """An axis of n, counted from either end; rarely out of range."""
        if self.maybe(0.02) or n <= first:
            return self.rng.choice([n, -n - 1])
        axis = self.rng.randrange(first, n)
        return axis - n if self.maybe(0.35) else axis

    def number(self) -> str:
        return f"{self.rng.choice([0, 1, -1, 2, 0.5, -0.3, 1.7, 0.01, 3])}"

    def filler(self) -> str:
        return self.pick(
            'type: "gaussian" std: 0.3',
            'type: "xavier"',
            'type: "uniform" min: -0.5 max: 0.4',
            'type: "msra"',
            'type: "xavier" variance_norm: AVERAGE',
            'type: "msra" variance_norm: FAN_OUT',
            'type: "gaussian" std: 0.2 mean: 0.1',
            'type: "positive_unitball"',
            'type: "gaussian" std: 0.5 sparse: 2',
            "value: 0.2",
        )

    # blobs
    def blob(
        self, *, axes: tuple[int, ...] | None = None, at_least: int = 0, test: Callable[[Blob_], bool] | None = None
    ) -> Blob_ | None:
        fits = [
            b
            for b in self.pool
            if (axes is None or len(b.shape) in axes) and len(b.shape) >= at_least and (test is None or test(b))
        ]
        if not fits:
            return None
        fresh = [b for b in fits if not b.readers]
        return self.rng.choice(fresh if fresh and self.maybe(0.75) else fits)

    def new_input(self, kind: str, shape: Shape) -> Blob_:
        name = f"in{len(self.inputs)}"
        shapes = [shape]
        if self.other_batch and shape and shape[0] == self.batch:
            shapes.append((self.other_batch, *shape[1:]))
        self.inputs.append((name, kind, shapes))
        dims = " ".join(f"dim: {d}" for d in shape)
        self.lines.append(
            f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}'
        )
        return Blob_(name, shape, is_input=True)

    # layers
    def shapes_of(self, want: Want) -> list[Shape]:
        """The shapes of the tops, by building the layer alone. Raises CaffeError."""
        lines = []
        for i, bottom in enumerate(want.bottoms):
            shape = bottom.shape if isinstance(bottom, Blob_) else bottom[1]
            dims = " ".join(f"dim: {d}" for d in shape)
            lines.append(f'layer {{ name: "b{i}" type: "Input" top: "b{i}" input_param {{ shape {{ {dims} }} }} }}')
        ends = " ".join(f'bottom: "b{i}"' for i in range(len(want.bottoms)))
        tops = ["b0"] if want.in_place else [f"t{i}" for i in range(want.tops)]
        ends += "".join(f' top: "{t}"' for t in tops)
        lines.append(f'layer {{ name: "l" type: "{want.type}" {ends} {want.param} }}')
        net = Net(parse_text("\n".join(lines), NetParameter), Context(phase=0, rng=TorchGenerator(1)))
        return [net.blobs[t].shape for t in tops]

    def add(self, want: Want) -> bool:
        """Puts the layer into the net. False where it cannot be, and is left out."""
        try:
            shapes = self.shapes_of(want)
            if any(0 in s for s in shapes) or sum(_count(s) for s in shapes) > 20000:
                return False
        except (CaffeError, ProtoError):
            if not self.maybe(self.wrong):
                return False
            shapes = [(1,)] * want.tops
        name = f"l{self.count}"
        self.count += 1
        bottoms = []
        for bottom in want.bottoms:
            blob = bottom if isinstance(bottom, Blob_) else self.new_input(*bottom)
            bottoms.append(blob)
        if want.in_place:
            tops = [bottoms[0].name]
            bottoms[0].readers += 1 - 1
            bottoms[0].shape = shapes[0]
        else:
            for blob in bottoms:
                blob.readers += 1
            tops = [f"{self.rng.choice(['t', 'T', 'zz'])}{self.count}_{i}" for i in range(want.tops)]
            self.pool += [Blob_(t, s) for t, s in zip(tops, shapes, strict=True)]
        ends = " ".join([f'bottom: "{b.name}"' for b in bottoms] + [f'top: "{t}"' for t in tops])
        extra = ""
        if self.maybe(0.06) and tops and "Loss" not in want.type:
            extra += " ".join(f"loss_weight: {self.pick(0, 1, 0.5, 2, -1)}" for _ in tops) + " "
        if self.maybe(0.05) and bottoms and want.type not in NO_GRADIENT:
            flags = [self.pick("true", "false") for _ in bottoms]
            if "Loss" in want.type or want.type in ("LSTM", "RNN", "BatchReindex", "Filter", "LSTMUnit"):
                flags[-1 if want.type in ("BatchReindex", "Filter", "LSTMUnit") else 1] = "false"
            extra += " ".join(f"propagate_down: {f}" for f in flags) + " "
        if self.maybe(0.025):
            extra += self.rule()
        self.lines.append(f'layer {{ name: "{name}" type: "{want.type}" {ends} {extra}{want.param} }}')
        return True

    def rule(self) -> str:
        word = self.pick("include", "exclude")
        what = self.pick("phase: TRAIN", "phase: TEST", "stage: 'a'", "not_stage: 'b'", "min_level: 1", "max_level: 1")
        return f"{word} {{ {what} }} "


def _count(shape: Shape) -> int:
    out = 1
    for d in shape:
        out *= d
    return out


NO_GRADIENT = {"Accuracy", "ArgMax", "Threshold", "Silence", "Input", "DummyData"}
NOT_FORCED = {
    "Accuracy",
    "ArgMax",
    "Threshold",
    "BatchReindex",
    "Embed",
    "InfogainLoss",
    "Filter",
}  # force_backward: refused


# parameters that several types share
def specs(m: Maker, key: str, n: int = 2) -> str:
    """param { } entries: multipliers, and now and then a name shared by layers of one key."""
    if m.maybe(0.6):
        return ""
    out = ""
    for i in range(m.rng.randint(1, n)):
        words = ""
        if m.maybe(0.3):
            words += f'name: "{key}{i}" '
            key_mult = m.shared.setdefault(
                f"{key}{i}", (m.pick("", "lr_mult: 2", "lr_mult: 0"), m.pick("", "decay_mult: 0.5"))
            )
            words += " ".join(key_mult) + " "
            words += m.some(0.3, "share_mode: PERMISSIVE")
        else:
            words += m.pick("", "lr_mult: 0 ", "lr_mult: 2 ", "lr_mult: 1 decay_mult: 0 ")
        out += f"param {{ {words}}} "
    return out


def neuron(type_: str, word: str = "", texts: tuple[str, ...] = ("",)) -> Callable[[Maker], Want | None]:
    def make(m: Maker) -> Want | None:
        blob = m.blob()
        if blob is None:
            return None
        text = m.rng.choice(texts)
        return Want(
            type_, f"{word} {{ {text} }}" if word and text else "", [blob], in_place=not blob.readers and m.maybe(0.35)
        )

    return make


def spatial(m: Maker, sizes: Shape, transposed: bool = False) -> str:
    out = ""
    if len(sizes) == 2 and m.maybe(0.3):
        out += f"kernel_h: {m.rng.randint(1, min(4, sizes[0] + 1))} kernel_w: {m.rng.randint(1, min(4, sizes[1] + 1))} "
    elif m.maybe(0.25):
        out += "".join(f"kernel_size: {m.rng.randint(1, min(4, s + 1))} " for s in sizes)
    else:
        out += f"kernel_size: {m.rng.randint(1, min(4, min(sizes) + 1))} "
    for word, most in (("stride", 3), ("pad", 2)):
        if m.maybe(0.5):
            least = 0 if word == "pad" else 1
            if len(sizes) == 2 and m.maybe(0.3):
                out += f"{word}_h: {m.rng.randint(least, most)} {word}_w: {m.rng.randint(least, most)} "
            elif m.maybe(0.3):
                out += "".join(f"{word}: {m.rng.randint(least, most)} " for _ in sizes)
            else:
                out += f"{word}: {m.rng.randint(least, most)} "
    if m.maybe(0.25):
        out += f"dilation: {m.rng.randint(1, 2)} "
    return out


def convolution(type_: str) -> Callable[[Maker], Want | None]:
    def make(m: Maker) -> Want | None:
        blob = m.blob(axes=(3, 4, 4, 4, 5)) if type_ == "Im2col" or m.maybe(0.3) else m.blob(axes=(4,))
        if blob is None:
            return None
        n = len(blob.shape)
        axis = 1 if m.maybe(0.85) else m.rng.randrange(0, n - 1)
        sizes = blob.shape[axis + 1 :]
        if not sizes:
            return None
        text = spatial(m, sizes)
        if axis != 1 or m.maybe(0.1):
            text += f"axis: {axis if m.maybe(0.6) else axis - n} "
        if type_ == "Im2col":
            return Want(type_, f"convolution_param {{ {text}}}", [blob])
        channels = blob.shape[axis]
        group = m.rng.choice([g for g in range(1, channels + 1) if channels % g == 0]) if m.maybe(0.3) else 1
        text += f"num_output: {group * m.rng.randint(1, 3)} " + (f"group: {group} " if group > 1 else "")
        text += m.some(0.25, "bias_term: false") + f"weight_filler {{ {m.filler()} }} "
        text += m.some(0.4, "bias_filler { type: 'uniform' min: -1 max: 1 }")
        bottoms, tops = [blob], 1
        if m.maybe(0.12):
            twin = m.blob(test=lambda b: b.shape == blob.shape and b is not blob)
            if twin is not None:
                bottoms, tops = [blob, twin], 2
        return Want(type_, specs(m, f"c{type_[0]}") + f"convolution_param {{ {text}}}", bottoms, tops)

    return make


def pooling(m: Maker) -> Want | None:
    blob = m.blob(axes=(4,)) or m.blob()
    if blob is None or len(blob.shape) != 4:
        return None
    h, w = blob.shape[2:]
    pool = m.pick("MAX", "MAX", "AVE", "AVE") if m.maybe(0.98) else "STOCHASTIC"
    text = f"pool: {pool} "
    if m.maybe(0.12):
        text += "global_pooling: true " + m.some(0.1, "pad: 1")
    else:
        k = m.rng.randint(1, min(4, h + 1, w + 1))
        text += (
            f"kernel_size: {k} " if m.maybe(0.7) else f"kernel_h: {min(k, h)} kernel_w: {m.rng.randint(1, min(4, w))} "
        )
        if m.maybe(0.7):
            text += (
                f"stride: {m.rng.randint(1, 4)} "
                if m.maybe(0.7)
                else f"stride_h: {m.rng.randint(1, 3)} stride_w: {m.rng.randint(1, 3)} "
            )
        if m.maybe(0.5):
            text += (
                f"pad: {m.rng.randint(0, max(0, k - (0 if m.maybe(0.1) else 1)))} "
                if m.maybe(0.7)
                else f"pad_h: {m.rng.randint(0, 1)} pad_w: {m.rng.randint(0, 1)} "
            )
        text += m.some(0.2, f"round_mode: {m.pick('CEIL', 'FLOOR')}")
    return Want("Pooling", f"pooling_param {{ {text}}}", [blob], 2 if pool == "MAX" and m.maybe(0.1) else 1)


def inner_product(m: Maker) -> Want | None:
    blob = m.blob(at_least=1)
    if blob is None:
        return None
    text = f"num_output: {m.rng.randint(1, 5)} weight_filler {{ {m.filler()} }} " + m.some(0.2, "transpose: true")
    bias = m.pick("value: 0.3", "type: 'gaussian'")
    text += m.some(0.2, "bias_term: false") + m.some(0.4, f"bias_filler {{ {bias} }}")
    if len(blob.shape) < 2 or m.maybe(0.25):
        text += f"axis: {m.axis(len(blob.shape))} "
    return Want("InnerProduct", specs(m, "ip") + f"inner_product_param {{ {text}}}", [blob])


def same_shapes(m: Maker, blob: Blob_, n: int) -> list[Any]:
    out: list[Any] = [blob]
    while len(out) < n:
        twin = m.blob(test=lambda b: b.shape == blob.shape)
        out.append(twin if twin is not None and m.maybe(0.7) else (m.pick("normal", "ties"), blob.shape))
    return out


def eltwise(m: Maker) -> Want | None:
    blob = m.blob()
    if blob is None:
        return None
    n = m.rng.choice([2, 2, 3, 4])
    op = m.pick("SUM", "SUM", "PROD", "MAX")
    text = f"operation: {op} " if op != "SUM" or m.maybe() else ""
    if op == "SUM" and m.maybe():
        text += "".join(f"coeff: {m.number()} " for _ in range(n if m.maybe(0.95) else n - 1))
    text += m.some(0.3, "stable_prod_grad: false") if op == "PROD" else ""
    return Want("Eltwise", f"eltwise_param {{ {text}}}" if text else "", same_shapes(m, blob, n))


def concat(m: Maker) -> Want | None:
    blob = m.blob(at_least=1)
    if blob is None:
        return None
    axis = m.axis(len(blob.shape))
    place = axis % len(blob.shape)
    rest = (blob.shape[:place], blob.shape[place + 1 :])

    def fits(other: Blob_) -> bool:
        return len(other.shape) == len(blob.shape) and (other.shape[:place], other.shape[place + 1 :]) == rest

    bottoms: list[Any] = [blob]
    for _ in range(m.rng.choice([0, 1, 1, 2])):
        twin = m.blob(test=fits) if m.maybe(0.7) else None
        bottoms.append(twin or ("normal", (*rest[0], m.rng.randint(1, 3), *rest[1])))
    text = f"axis: {axis}" if axis != 1 or m.maybe() else ""
    if axis >= 0 and m.maybe(0.1):
        text = f"concat_dim: {axis}"
    return Want("Concat", f"concat_param {{ {text} }}", bottoms)


def slice_(m: Maker) -> Want | None:
    blob = m.blob(at_least=1)
    if blob is None:
        return None
    axis = m.axis(len(blob.shape))
    size = blob.shape[axis % len(blob.shape)]
    text, tops = (f"axis: {axis} " if axis != 1 or m.maybe() else ""), 1
    if size > 1 and m.maybe(0.6):
        points = sorted(m.rng.sample(range(1, size), min(size - 1, m.rng.randint(1, 2))))
        text += "".join(f"slice_point: {p} " for p in points)
        tops = len(points) + 1
    elif size > 1:
        tops = m.rng.choice([t for t in range(1, size + 1) if size % t == 0][:3])
    return Want("Slice", f"slice_param {{ {text}}}", [blob], tops)


def reshape(m: Maker) -> Want | None:
    blob = m.blob()
    if blob is None:
        return None
    n, total = len(blob.shape), _count(blob.shape)
    form = m.rng.randrange(6)
    if form == 0:
        text = "shape { dim: 0 dim: -1 }"
    elif form == 1:
        text = "shape { dim: -1 }"
    elif form == 2 and n >= 1:
        text = f"shape {{ dim: 1 }} axis: {m.rng.randint(-n - 1, n)} num_axes: 0"
    elif form == 3 and n >= 3:
        text = f"shape {{ dim: -1 }} axis: {m.rng.choice([1, -n])} num_axes: 2"
    elif form == 4:
        factor = m.rng.choice([d for d in range(1, total + 1) if total % d == 0])
        text = f"shape {{ dim: {factor} dim: -1 dim: 1 }}"
    else:
        text = "shape { " + "dim: 0 " * max(n - 1, 0) + "dim: -1 dim: 1 }"
    return Want("Reshape", f"reshape_param {{ {text} }}", [blob], in_place=m.maybe(0.01))


def flatten(m: Maker) -> Want | None:
    blob = m.blob(at_least=1)
    if blob is None:
        return None
    n = len(blob.shape)
    a = m.rng.randrange(n)
    b = m.rng.randrange(a, n)
    text = f"axis: {a if m.maybe() else a - n} end_axis: {b if m.maybe() else b - n}" if m.maybe(0.7) else ""
    return Want("Flatten", f"flatten_param {{ {text} }}", [blob])


def scale_bias(type_: str) -> Callable[[Maker], Want | None]:
    word = type_.lower() + "_param"

    def make(m: Maker) -> Want | None:
        blob = m.blob(at_least=1)
        if blob is None:
            return None
        n = len(blob.shape)
        axis = 1 if n > 1 and m.maybe(0.5) else m.axis(n)
        start = axis % n
        text = f"axis: {axis} " if axis != 1 or m.maybe(0.3) else ""
        bottoms: list[Any] = [blob]
        if m.maybe(0.3):
            end = m.rng.randint(start, n)
            bottoms.append(("normal", blob.shape[start:end] if m.maybe(0.9) or start else ()))
        elif m.maybe(0.5):
            text += f"num_axes: {m.rng.choice([-1, 0, 1, n - start])} "
        filler = m.pick("value: 0.7", "type: 'gaussian' std: 1", "type: 'uniform' min: 0.5 max: 2")
        text += m.some(0.5, f"filler {{ {filler} }}")
        if type_ == "Scale":
            text += m.some(0.5, "bias_term: true") + m.some(0.3, "bias_filler { type: 'gaussian' }")
        spec = "" if len(bottoms) > 1 else specs(m, type_ + str(blob.shape[start] if start < n else 0), 1)
        return Want(type_, spec + f"{word} {{ {text}}}", bottoms, in_place=not blob.readers and m.maybe(0.3))

    return make


def batch_norm(m: Maker) -> Want | None:
    blob = m.blob(at_least=2)
    if blob is None:
        return None
    text = (
        m.some(0.3, "eps: 0.001")
        + m.some(0.3, "moving_average_fraction: 0.9")
        + m.some(0.3, f"use_global_stats: {m.pick('true', 'false')}")
    )
    spec = m.some(0.3, "param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }")
    return Want("BatchNorm", f"{spec}batch_norm_param {{ {text}}}", [blob], in_place=not blob.readers and m.maybe(0.4))


def lrn(m: Maker) -> Want | None:
    blob = m.blob(axes=(4,))
    if blob is None:
        return None
    text = (
        f"local_size: {m.pick(1, 3, 5, 7)} "
        + m.some(0.5, f"alpha: {m.pick(0.1, 2, 0.0001)}")
        + m.some(0.4, f"beta: {m.pick(0.5, 1, 0.75)}")
    )
    text += m.some(0.3, f"k: {m.pick(2, 1, 0.5)}") + m.some(0.4, "norm_region: WITHIN_CHANNEL")
    return Want("LRN", f"lrn_param {{ {text}}}", [blob])


def mvn(m: Maker) -> Want | None:
    blob = m.blob(axes=(3, 4), test=lambda b: _count(b.shape[2:]) > 2)
    if blob is None:
        return None
    text = m.some(0.4, "normalize_variance: false") + m.some(0.4, "across_channels: true") + m.some(0.3, "eps: 0.01")
    return Want("MVN", f"mvn_param {{ {text}}}", [blob])


def prelu(m: Maker) -> Want | None:
    blob = m.blob(axes=(2, 3, 4))
    if blob is None:
        return None
    filler = m.pick("value: 0.1", "type: 'gaussian' std: 0.5")
    text = m.some(0.3, "channel_shared: true") + m.some(0.4, f"filler {{ {filler} }}")
    return Want(
        "PReLU",
        specs(m, f"pr{blob.shape[1]}", 1) + f"prelu_param {{ {text}}}",
        [blob],
        in_place=not blob.readers and m.maybe(0.4),
    )


def crop(m: Maker) -> Want | None:
    blob = m.blob(at_least=2)
    if blob is None:
        return None
    n = len(blob.shape)
    axis = m.rng.randrange(n)
    shape = list(blob.shape)
    offsets = []
    for i in range(axis, n):
        shape[i] = m.rng.randint(1, shape[i])
        offsets.append(m.rng.randint(0, blob.shape[i] - shape[i]))
    text = f"axis: {axis if m.maybe(0.6) else axis - n} "
    if m.maybe(0.3):
        offsets = [min(offsets)]
    if m.maybe(0.8):
        text += "".join(f"offset: {o} " for o in offsets)
    twin = m.blob(test=lambda b: b.shape == tuple(shape) and b is not blob)
    return Want("Crop", f"crop_param {{ {text}}}", [blob, twin or ("normal", tuple(shape))])


def spp(m: Maker) -> Want | None:
    blob = m.blob(axes=(4,))
    if blob is None:
        return None
    return Want(
        "SPP", f"spp_param {{ pyramid_height: {m.rng.randint(1, 3)} {m.pick('pool: MAX', 'pool: AVE', '')} }}", [blob]
    )


def embed(m: Maker) -> Want | None:
    k = m.rng.randint(2, 5)
    shape = tuple(m.rng.randint(1, 3) for _ in range(m.rng.randint(1, 2)))
    text = f"input_dim: {k} num_output: {m.rng.randint(1, 4)} weight_filler {{ {m.filler()} }} " + m.some(
        0.3, "bias_term: false"
    )
    return Want("Embed", specs(m, "em") + f"embed_param {{ {text}}}", [(f"index {k}", (m.batch, *shape))])


def argmax(m: Maker) -> Want | None:
    blob = m.blob(at_least=1)
    if blob is None:
        return None
    text = (
        m.some(0.5, f"axis: {m.axis(len(blob.shape))}")
        + m.some(0.4, f"top_k: {m.rng.randint(1, 3)}")
        + m.some(0.4, "out_max_val: true")
    )
    return Want("ArgMax", f"argmax_param {{ {text}}}", [blob])


def reduction(m: Maker) -> Want | None:
    blob = m.blob(at_least=1)
    if blob is None:
        return None
    text = (
        m.some(0.8, f"operation: {m.pick('SUM', 'ASUM', 'SUMSQ', 'MEAN')}")
        + m.some(0.6, f"axis: {m.axis(len(blob.shape))}")
        + m.some(0.4, f"coeff: {m.number()}")
    )
    return Want("Reduction", m.some(0.3, f"loss_weight: {m.pick(1, 0.1)}") + f"reduction_param {{ {text}}}", [blob])


def tile(m: Maker) -> Want | None:
    blob = m.blob(at_least=1)
    if blob is None:
        return None
    return Want("Tile", f"tile_param {{ axis: {m.axis(len(blob.shape))} tiles: {m.rng.randint(1, 3)} }}", [blob])


def recurrent(type_: str) -> Callable[[Maker], Want | None]:
    def make(m: Maker) -> Want | None:
        t, n, d = m.rng.randint(1, 4), m.rng.randint(1, 3), m.rng.randint(1, 4)
        blob = m.blob(at_least=3, test=lambda b: b.shape[0] <= 4 and b.shape[1] <= 4 and _count(b.shape[2:]) < 30)
        x: Any = blob if blob is not None and m.maybe(0.5) else ("normal", (t, n, m.rng.randint(1, 4)))
        t, n = (x.shape if isinstance(x, Blob_) else x[1])[:2]
        bottoms: list[Any] = [x, ("cont", (t, n))]
        text = f"num_output: {d} weight_filler {{ {m.filler()} }} bias_filler {{ type: 'uniform' min: -1 max: 1 }} "
        if m.maybe(0.25):
            bottoms.append(("normal", (n, m.rng.randint(1, 3))))
        tops = 1
        if m.maybe(0.3):
            text += "expose_hidden: true "
            states = 2 if type_ == "LSTM" else 1
            bottoms += [("normal", (1, n, d))] * states
            tops += states
        return Want(type_, f"recurrent_param {{ {text}}}", bottoms, tops)

    return make


def lstm_unit(m: Maker) -> Want | None:
    n, d = m.rng.randint(1, 3), m.rng.randint(1, 4)
    return Want(
        "LSTMUnit", "", [("normal", (1, n, d)), ("normal", (1, n, 4 * d)), (m.pick("cont", "zeroone"), (1, n))], 2
    )


def batch_reindex(m: Maker) -> Want | None:
    blob = m.blob(at_least=1)
    if blob is None:
        return None
    return Want(
        "BatchReindex", "", [blob, (f"index {min(blob.shape[0], m.other_batch or 99)}", (m.rng.randint(1, 4),))]
    )


def filter_(m: Maker) -> Want | None:
    blob = m.blob(at_least=1)
    if blob is None:
        return None
    bottoms: list[Any] = [blob]
    tops = 1
    if m.maybe(0.5):
        twin = m.blob(at_least=1, test=lambda b: b is not blob and b.shape[0] == blob.shape[0])
        if twin is not None:
            bottoms.append(twin)
            tops = 2
    return Want("Filter", "", [*bottoms, ("zeroone", (blob.shape[0],))], tops)


def labelled(m: Maker, blob: Blob_, axis: int, p_short: float = 0.1) -> tuple[str, Shape]:
    shape = (*blob.shape[:axis], *((1,) if m.maybe() else ()), *blob.shape[axis + 1 :])
    return f"label {blob.shape[axis]}", shape


def softmax(m: Maker) -> Want | None:
    blob = m.blob(at_least=1)
    if blob is None:
        return None
    return Want(
        "Softmax",
        f"softmax_param {{ axis: {m.axis(len(blob.shape))} }}" if m.maybe() or len(blob.shape) < 2 else "",
        [blob],
        in_place=not blob.readers and m.maybe(0.2),
    )


def loss_param(m: Maker) -> str:
    text = m.some(0.4, f"ignore_label: {m.pick(0, 1, -1, 255)}") + m.some(
        0.5, f"normalization: {m.pick('FULL', 'VALID', 'BATCH_SIZE', 'NONE')}"
    )
    text += m.some(0.1, f"normalize: {m.pick('true', 'false')}")
    return f"loss_param {{ {text}}} " if text else ""


def softmax_loss(m: Maker) -> Want | None:
    blob = m.blob(at_least=2)
    if blob is None:
        return None
    axis = 1 if m.maybe(0.8) else m.rng.randrange(1, len(blob.shape))
    text = (
        f"softmax_param {{ axis: {axis if m.maybe() else axis - len(blob.shape)} }} "
        if axis != 1 or m.maybe(0.2)
        else ""
    )
    return Want(
        "SoftmaxWithLoss",
        text + loss_param(m) + m.some(0.3, f"loss_weight: {m.pick(0.5, 2, 0)}"),
        [blob, labelled(m, blob, axis)],
    )


def accuracy(m: Maker) -> Want | None:
    blob = m.blob(at_least=2)
    if blob is None:
        return None
    axis = 1 if m.maybe(0.8) else m.rng.randrange(0, len(blob.shape))
    text = f"axis: {axis if m.maybe() else axis - len(blob.shape)} " if axis != 1 else ""
    text += m.some(0.4, f"top_k: {m.rng.randint(1, max(1, blob.shape[axis]))}") + m.some(
        0.3, f"ignore_label: {m.pick(0, 1, 5)}"
    )
    return Want("Accuracy", f"accuracy_param {{ {text}}}", [blob, labelled(m, blob, axis)], m.pick(1, 1, 2))


def two_sided(type_: str) -> Callable[[Maker], Want | None]:
    def make(m: Maker) -> Want | None:
        blob = m.blob(at_least=1)
        if blob is None:
            return None
        weight = m.some(0.3, f"loss_weight: {m.pick(0.5, 2, 0)}")
        if type_ == "EuclideanLoss":
            other = same_shapes(m, blob, 2)[1]
            return Want(type_, weight, [blob, other])
        return Want(type_, weight + loss_param(m), [blob, (m.pick("unit", "zeroone"), blob.shape)])

    return make


def label_loss(type_: str) -> Callable[[Maker], Want | None]:
    def make(m: Maker) -> Want | None:
        blob = m.blob(axes=(2, 4), test=lambda b: b.shape[0] > 0)
        if blob is None:
            return None
        classes = _count(blob.shape[1:])
        label: Any = (f"label {classes}", (blob.shape[0],))
        if type_ == "HingeLoss":
            return Want(
                type_, f"hinge_loss_param {{ norm: {m.pick('L1', 'L2')} }}" if m.maybe(0.7) else "", [blob, label]
            )
        if type_ == "InfogainLoss":
            axis = 1
            k = blob.shape[axis]
            shape = (blob.shape[0], *blob.shape[2:])
            return Want(
                type_,
                loss_param(m) + "propagate_down: true propagate_down: false propagate_down: false",
                [blob, (f"label {k}", shape), ("matrix", (k, k))],
            )
        return Want(type_, "", [("positive", blob.shape), label])

    return make


def contrastive(m: Maker) -> Want | None:
    blob = m.blob(axes=(2,))
    if blob is None:
        return None
    text = m.some(0.5, f"margin: {m.pick(0.5, 2, 5)}") + m.some(0.3, "legacy_version: true")
    return Want(
        "ContrastiveLoss",
        f"contrastive_loss_param {{ {text}}}",
        [*same_shapes(m, blob, 2), ("zeroone", (blob.shape[0],))],
    )


def dropout(m: Maker) -> Want | None:
    blob = m.blob()
    if blob is None:
        return None
    return Want(
        "Dropout",
        f"dropout_param {{ dropout_ratio: {m.pick(0.2, 0.5, 0.9, 0)} }}" if m.maybe(0.8) else "",
        [blob],
        in_place=not blob.readers and m.maybe(0.5),
    )


def dummy(m: Maker) -> Want | None:
    shape = (m.batch, *(m.rng.randint(1, 4) for _ in range(m.rng.randint(0, 3))))
    dims = " ".join(f"dim: {d}" for d in shape)
    tops = m.pick(1, 1, 2)
    fillers = f"data_filler {{ {m.filler()} }} " * (m.pick(0, 1, tops) if tops > 1 else m.pick(0, 1))
    return Want("DummyData", f"dummy_data_param {{ shape {{ {dims} }} {fillers}}}", [], tops)


def parameter(m: Maker) -> Want | None:
    shape = tuple(m.rng.randint(1, 4) for _ in range(m.rng.randint(1, 3)))
    return Want(
        "Parameter",
        specs(m, "pa" + "x".join(map(str, shape)), 1)
        + "parameter_param { shape { "
        + " ".join(f"dim: {d}" for d in shape)
        + " } }",
        [],
    )


def silence(m: Maker) -> Want | None:
    blob = m.blob()
    return None if blob is None else Want("Silence", "", [blob], 0)


def split(m: Maker) -> Want | None:
    blob = m.blob()
    return None if blob is None else Want("Split", "", [blob], m.rng.randint(1, 3))


def positive_first(type_: str, word: str, texts: tuple[str, ...]) -> Callable[[Maker], Want | None]:
    """Types that want positive values: over an Exp or Sigmoid of a blob, or an input of their own."""

    def make(m: Maker) -> Want | None:
        blob = m.blob()
        if blob is None:
            return None
        if m.maybe(0.5):
            if not m.add(Want("Sigmoid", "", [blob])):
                return None
            bottom: Any = m.pool[-1]
        else:
            bottom = ("positive", blob.shape)
        return Want(type_, f"{word} {{ {m.rng.choice(texts)} }}", [bottom])

    return make


POWERS = (
    "",
    "scale: 2 shift: 1",
    "power: 2",
    "power: 2 scale: 0.5 shift: -1",
    "power: 0 shift: 3",
    "power: 3",
    "scale: 0 shift: 2 power: 3",
)
EXPS = ("", "base: 2 scale: 0.3 shift: 0.5", "scale: -0.5", "base: 10 scale: 0.2")
ROOTS = ("power: 0.5 shift: 1", "power: -0.75", "power: 1.5 scale: 2 shift: 0.1")
LOGS = ("", "base: 2 shift: 1", "scale: 2 shift: 0.5")
MAKERS: list[tuple[float, Callable[[Maker], Want | None]]] = [
    (3, convolution("Convolution")),
    (1.5, convolution("Deconvolution")),
    (0.7, convolution("Im2col")),
    (3, pooling),
    (3, inner_product),
    (2, eltwise),
    (1.5, concat),
    (1.5, slice_),
    (1.5, reshape),
    (1, flatten),
    (2, scale_bias("Scale")),
    (1.2, scale_bias("Bias")),
    (2, batch_norm),
    (1.2, lrn),
    (1, mvn),
    (1.2, prelu),
    (1, crop),
    (0.8, spp),
    (0.7, embed),
    (0.7, argmax),
    (1, reduction),
    (1, tile),
    (0.8, recurrent("LSTM")),
    (0.8, recurrent("RNN")),
    (0.3, lstm_unit),
    (0.7, batch_reindex),
    (0.5, filter_),
    (1, softmax),
    (1.5, softmax_loss),
    (1, accuracy),
    (1, two_sided("EuclideanLoss")),
    (1, two_sided("SigmoidCrossEntropyLoss")),
    (0.8, label_loss("HingeLoss")),
    (0.6, label_loss("InfogainLoss")),
    (0.4, label_loss("MultinomialLogisticLoss")),
    (0.6, contrastive),
    (1.2, dropout),
    (0.5, dummy),
    (0.5, parameter),
    (0.3, silence),
    (0.4, split),
    (2.5, neuron("ReLU", "relu_param", ("", "", "negative_slope: 0.1", "negative_slope: -0.5"))),
    (0.6, neuron("Sigmoid")),
    (0.6, neuron("TanH")),
    (0.6, neuron("ELU", "elu_param", ("", "alpha: 0.5"))),
    (0.6, neuron("AbsVal")),
    (0.6, neuron("BNLL")),
    (0.6, neuron("Clip", "clip_param", ("min: -0.5 max: 0.7",))),
    (0.6, neuron("Swish", "swish_param", ("", "beta: 1.7"))),
    (0.5, neuron("Exp", "exp_param", EXPS)),
    (0.7, neuron("Power", "power_param", POWERS)),
    (0.4, neuron("Threshold", "threshold_param", ("", "threshold: 0.5"))),
    (0.4, positive_first("Log", "log_param", LOGS)),
    (0.4, positive_first("Power", "power_param", ROOTS)),
]


def net_job(seed: int, wrong: float = 0.02) -> dict[str, Any]:
    """A job for fuzz_side.py: a net of 3 to 12 layers, its inputs, phase, level, stages and how it is run."""
    rng = random.Random(seed)
    batch = rng.randint(1, 4)
    m = Maker(rng, wrong=wrong, batch=batch, other_batch=rng.randint(1, 5) if rng.random() < 0.3 else 0)
    if m.other_batch == batch:
        m.other_batch = 0
    for _ in range(rng.randint(1, 3)):
        axes = rng.choice([1, 2, 2, 3, 4, 4, 4, 4, 5])
        shape = (batch, *(rng.randint(1, 7 if i else 5) for i in range(axes - 1)))
        if axes == 5:
            shape = tuple(min(d, 4) for d in shape)
        m.pool.append(m.new_input(rng.choice(["normal", "normal", "ties"]), shape))
    weights = [w for w, _ in MAKERS]
    force = rng.random() < 0.4
    goal = rng.randint(2, 12)
    tries = 0
    while m.count < goal and tries < 60:
        tries += 1
        make = rng.choices(MAKERS, weights)[0][1]
        want = make(m)
        if want is not None and not (force and want.type in NOT_FORCED and m.maybe(0.9)):
            m.add(want)
    head = ["force_backward: true"] if force else []
    if rng.random() < 0.1:
        state = rng.choice(["level: 1", "stage: 'a'", "stage: 'b' level: 2"])
        head.append(f"state {{ {state} }}")
    if rng.random() < 0.3:
        head.append('name: "fuzz"')
    return {
        "kind": "net",
        "id": f"net{seed}",
        "seed": seed % 2**31,
        "net": "\n".join(head + m.lines) + "\n",
        "inputs": [(name, kind, [list(s) for s in shapes]) for name, kind, shapes in m.inputs],
        "phase": rng.choice([0, 0, 0, 1]),
        "level": rng.choice([0, 0, 0, 1]),
        "stages": rng.choice([[], [], [], ["a"], ["a", "b"]]),
        "steps": rng.choice([1, 2, 3]),
        "backward": rng.random() < 0.9,
        "clear": rng.random() < 0.5,
        "update": rng.random() < 0.3,
    }
