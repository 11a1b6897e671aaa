"""A stride-2 convolution becomes stride 1 and 2x2 max-pooling, after training: switches for a net that has none.

    conv3 { kernel 3, stride 2, pad p }        conv3 { kernel 3, stride 1, pad p }     same name, same weights
    relu3, in place                     ->     relu3, in place
                                               conv3_pool { MAX, kernel 2, stride 2 }  top: conv3_pool
    conv4 { bottom: conv3 }                    conv4 { bottom: conv3_pool }

With the stride-1 output z, the strided convolution gives z[2i, 2j]: the top-left element of each pooling window. Caffe
rounds pooled sizes up, so ceil(n / 2) = floor((n - 1) / 2) + 1: the sizes agree for every n and pad. A .caffemodel
does not say strides, so it loads unchanged. Paper: section 4; that conv1's stride of 4 stays is our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from allconv_caffe.proto import LayerParameter, NetParameter, PoolingParameter, to_text
from allconv_caffe.proto.upgrade import upgrade_net
from allconv_caffe.visualize.display import write
from allconv_caffe.visualize.nets.base import PathLike, VizNet
from allconv_caffe.visualize.nets.errors import VizError
from allconv_caffe.visualize.nets.rules import NOT_RELU
from allconv_caffe.visualize.reconstruct import reconstruct
from allconv_caffe.visualize.unit import argmax_units

METHODS = ("max", "top-left")
POINTWISE = {
    *("ReLU", "Dropout", "Python", "BatchNorm", "Scale", "Bias", "PReLU", "ELU", "Sigmoid", "TanH"),
    *("AbsVal", "BNLL", "Clip", "Exp", "Log", "Power", "Swish", "Threshold"),
}
"""Layers of one bottom that treat every place by itself: between a convolution and its pooling they may stay."""


def stride2_layers(param: NetParameter) -> list[str]:
    """Names of the convolutions with stride 2 in both directions: what surgery replaces by default."""
    return [layer.name for layer in param.layer if _stride(layer) == (2, 2)]


def strides_to_pools(
    param: NetParameter,
    layers: Sequence[str] | None = None,
    *,
    method: str = "max",
    switches: bool = False,
    where: str = "net",
) -> NetParameter:
    """The net with the stride of `layers` taken over by pooling layers; nothing else changes.

    Args:
        layers: convolutions of one stride s > 1 in both directions; None: all of stride 2.
        method: "max", kernel s, stride s, after the convolution's ReLU and dropout; "top-left", a kernel of 1 that takes
            what the stride took: the null test, whose result equals the net before (needs Caffe's round_mode: FLOOR).
        switches: give the pooling layers a second top, ``<layer>_switch``: the flat index of each maximum.

    Raises: VizError: an unknown layer, one without stride, or a net without strided convolutions. ProtoError: an old net
    that cannot be upgraded.
    """
    if method not in METHODS:
        raise VizError("method", repr(method), "a way to pool", METHODS)
    out = NetParameter()
    out.CopyFrom(param)
    upgrade_net(out, where)
    by_name = {layer.name: layer for layer in out.layer}
    chosen = stride2_layers(out) if layers is None else list(layers)
    candidates = [layer.name for layer in out.layer if _stride(layer)[0] > 1]
    if not chosen:
        raise VizError(
            where, "no convolution with stride 2", "at least one whose stride can become pooling", candidates
        )
    for name in chosen:
        if name not in by_name:
            raise VizError(where, f"no layer '{name}'", "a strided convolution", candidates)
        vertical, horizontal = _stride(by_name[name])
        if vertical != horizontal or vertical < 2:
            raise VizError(f"{where}: layer '{name}'", f"stride {vertical}", "a convolution with stride 2", candidates)
    for name in chosen:
        _replace(out, name, method, switches)
    return out


def without_switches(param: NetParameter, blob: str, where: str = "net") -> NetParameter:
    """A net whose backward pass gives each max-pooling window's gradient to all of its places alike: average pooling.

    Its forward pass is not the trained net's. It serves the deconvnet alone, which reads nothing of the forward pass once
    the switches are gone. That a window's gradient is spread evenly is our reading: the paper has no such net.

    Args:
        blob: where the maps begin: the layers below it count.

    Raises: VizError: no max-pooling below; LRN or MVN below, whose gradient reads the forward pass.
    """
    out = NetParameter()
    out.CopyFrom(param)
    upgrade_net(out, where)
    names = switches_below(out, blob)
    if not names:
        raise VizError(f"{where}: blob '{blob}'", "no max-pooling below", "a net with switches")
    for layer in normalisations_below(out, blob):
        raise VizError(
            f"{where}: layer '{layer.name}'", f"type {layer.type} below '{blob}'", "none: its gradient reads the image"
        )
    for layer in layers_below(out, blob):
        if layer.name in names:
            layer.pooling_param.pool = PoolingParameter.AVE
            del layer.top[1:]
    return out


def _replace(param: NetParameter, name: str, method: str, switches: bool) -> None:
    layers = list(param.layer)
    start = next(i for i, layer in enumerate(layers) if layer.name == name)
    stride = _stride(layers[start])[0]
    conv = layers[start].convolution_param
    for field in ("stride", "stride_h", "stride_w"):
        conv.ClearField(field)
    after, blob = _end_of_chain(layers, start)
    pool = LayerParameter(name=f"{name}_pool", type="Pooling", bottom=[blob], top=[f"{name}_pool"])
    pool.pooling_param.pool = PoolingParameter.MAX
    pool.pooling_param.kernel_size = stride if method == "max" else 1
    pool.pooling_param.stride = stride
    if method == "top-left":
        pool.pooling_param.round_mode = PoolingParameter.FLOOR
    if switches:
        pool.top.append(f"{name}_switch")
    for layer in layers[after + 1 :]:
        for names in (layer.bottom, layer.top):  # tops too: what worked in place on the blob now does so on the pool
            for i, other in enumerate(names):
                if other == blob:
                    names[i] = f"{name}_pool"
    kept = NetParameter()
    kept.layer.extend(layers[: after + 1])
    kept.layer.append(pool) if hasattr(kept.layer, "append") else kept.layer.extend([pool])
    kept.layer.extend(layers[after + 1 :])
    del param.layer[:]
    param.layer.extend(kept.layer)


def _end_of_chain(layers: Sequence[Any], start: int) -> tuple[int, str]:
    """The last of the POINTWISE layers that follow a convolution without a branch, and the blob it writes."""
    index, blob = start, layers[start].top[0]
    while True:
        readers = [i for i in range(index + 1, len(layers)) if blob in layers[i].bottom]
        if not readers:
            return index, blob
        follower = layers[readers[0]]
        in_place = blob in follower.top
        if follower.type not in POINTWISE or len(follower.bottom) > 1 or (len(readers) > 1 and not in_place):
            return index, blob
        index, blob = readers[0], follower.top[0]


def _stride(layer: Any) -> tuple[int, int]:
    if layer.type != "Convolution":
        return (1, 1)
    param = layer.convolution_param
    if param.HasField("stride_h") or param.HasField("stride_w"):
        return (param.stride_h, param.stride_w)
    values = list(param.stride)
    return (values[0], values[-1]) if values else (1, 1)


def switches_below(param: NetParameter, blob: str) -> list[str]:
    """Names of the max-pooling layers between the image and `blob`: whose switches its reconstructions use."""
    return [
        layer.name
        for layer in layers_below(param, blob)
        if layer.type == "Pooling" and layer.pooling_param.pool == PoolingParameter.MAX
    ]


def normalisations_below(param: NetParameter, blob: str) -> list[LayerParameter]:
    """The LRN and MVN layers between the image and `blob`: their gradient reads the forward pass, whatever the rule."""
    return [layer for layer in layers_below(param, blob) if layer.type in ("LRN", "MVN")]


def layers_below(param: NetParameter, blob: str) -> list[LayerParameter]:
    """The layers between the image and `blob`, in the net's order."""
    live, found = {blob}, []
    for layer in reversed(param.layer):
        if live.intersection(layer.top):
            live.update(layer.bottom)
            found.append(layer)
    return found[::-1]


def save(param: NetParameter, path: PathLike, comment: str) -> None:
    """Writes the net as a prototxt whose first line is a comment.

    Raises: VizError: a folder that cannot be written.
    """
    write(path, f"# {comment}\n{to_text(param)}".encode())


def null_test(
    net: VizNet, other: VizNet, images: np.ndarray, blob: str, *, batch_size: int = 32
) -> tuple[float, float]:
    """How far `other`, the net after surgery by method "top-left", is from `net`: both 0 but for rounding.

    Args:
        blob: whose values are compared, and from whose strongest units maps go back.

    Returns: the largest difference of the values and of the maps (guided; backprop's where a layer below is no ReLU), each
    relative to the largest value of `net`'s.
    """
    units, _ = argmax_units(net, images, blob, batch_size=batch_size)
    pairs = list(enumerate(units))
    rule = "backprop" if any(layer.type in NOT_RELU for layer in layers_below(net.param, blob)) else "guided"
    found = []
    for one in (net, other):
        values = np.concatenate(
            [
                one.forward(images[start : start + batch_size], (blob,), until=blob)[blob]
                for start in range(0, len(images), batch_size)
            ]
        )
        found.append((values, reconstruct(one, images, pairs, rule, batch_size=batch_size).maps))
    (values, maps), (other_values, other_maps) = found
    return _relative(values, other_values), _relative(maps, other_maps)


def _relative(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max()) / max(float(np.abs(one).max()), 1e-30)
