"""Every blob gets one reader: a blob read twice is followed by a Split layer.

Source: insert_splits.cpp.
"""

from __future__ import annotations

from collections import defaultdict

from allconv_caffe.caffe_torch.errors import check
from allconv_caffe.proto import LayerParameter, NetParameter


def split_layer_name(layer_name: str, blob_name: str, blob_index: int) -> str:
    return f"{blob_name}_{layer_name}_{blob_index}_split"


def split_blob_name(layer_name: str, blob_name: str, blob_index: int, split_index: int) -> str:
    return f"{split_layer_name(layer_name, blob_name, blob_index)}_{split_index}"


def insert_splits(param: NetParameter) -> NetParameter:
    """A copy of `param` in which each top with more than one reader is split right after its (last in-place) producer.

    A non-zero `loss_weight` written in the prototxt counts as a reader and takes the first split.
    """
    producer: dict[str, tuple[int, int]] = {}  # blob name -> (layer, top) that wrote it last
    source: dict[tuple[int, int], tuple[int, int]] = {}  # (layer, bottom) -> (layer, top)
    readers: dict[tuple[int, int], int] = defaultdict(int)
    loss_weight: dict[tuple[int, int], float] = {}

    for i, layer in enumerate(param.layer):
        for j, name in enumerate(layer.bottom):
            check(name in producer, f"Unknown bottom blob '{name}' (layer '{layer.name}', bottom index {j})")
            source[i, j] = producer[name]
            readers[producer[name]] += 1
        for j, name in enumerate(layer.top):
            producer[name] = (i, j)
        for j in range(min(len(layer.loss_weight), len(layer.top))):
            top = producer[layer.top[j]]
            loss_weight[top] = layer.loss_weight[j]
            if layer.loss_weight[j]:
                readers[top] += 1

    out = NetParameter()
    out.CopyFrom(param)
    del out.layer[:]
    used: dict[tuple[int, int], int] = defaultdict(int)
    for i, original in enumerate(param.layer):
        layer = out.layer.add()
        layer.CopyFrom(original)
        for j in range(len(layer.bottom)):
            top = source[i, j]
            if readers[top] > 1:
                owner = param.layer[top[0]].name
                layer.bottom[j] = split_blob_name(owner, layer.bottom[j], top[1], used[top])
                used[top] += 1
        for j in range(len(layer.top)):
            count = readers[i, j]
            if count > 1:
                weight = loss_weight.get((i, j), 0.0)
                _add_split(out.layer.add(), layer.name, layer.top[j], j, count, weight)
                if weight:
                    layer.ClearField("loss_weight")
                    used[i, j] += 1
    return out


def _add_split(split: LayerParameter, layer_name: str, blob: str, index: int, count: int, loss_weight: float) -> None:
    split.bottom.append(blob)
    split.name = split_layer_name(layer_name, blob, index)
    split.type = "Split"
    for k in range(count):
        split.top.append(split_blob_name(layer_name, blob, index, k))
        if loss_weight:
            split.loss_weight.append(loss_weight if k == 0 else 0)
