"""Nets for the figures' tests, with weights by seed: CaffeNet of any width, and files as a user brings them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from allconv_caffe import zoo
from allconv_caffe.proto import NetParameter, write_binary
from allconv_caffe.visualize.nets.base import VizNet
from allconv_caffe.visualize.nets.open import open_net


def caffenet(width: float = 1.0, classes: int = 1000) -> str:
    """The deploy net of BVLC's CaffeNet: Krizhevsky et al. 2012 in one column, pooling before normalisation.

    Five convolutions (the second, fourth and fifth in two groups), 3x3 max-pooling with stride 2 after the first, second and
    fifth, normalisation after the first two pools, three fully connected layers with dropout. Images are 227x227.

    Args:
        width: factor on the channels of every layer but the last.
    """

    def wide(channels: int) -> int:
        return max(2, round(channels * width / 2) * 2)

    out = ['name: "CaffeNet"', 'input: "data" input_shape { dim: 1 dim: 3 dim: 227 dim: 227 }']

    def layer(name: str, kind: str, bottom: str, top: str, fields: str = "") -> str:
        out.append(f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {fields} }}')
        return top

    def conv(i: int, bottom: str, channels: int, kernel: int, more: str = "") -> str:
        fields = f'num_output: {wide(channels)} kernel_size: {kernel} {more} weight_filler {{ type: "msra" }}'
        layer(f"conv{i}", "Convolution", bottom, f"conv{i}", f"convolution_param {{ {fields} }}")
        return layer(f"relu{i}", "ReLU", f"conv{i}", f"conv{i}")

    def pool(i: int, bottom: str) -> str:
        return layer(f"pool{i}", "Pooling", bottom, f"pool{i}", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }")

    def norm(i: int, bottom: str) -> str:
        return layer(f"norm{i}", "LRN", bottom, f"norm{i}", "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")

    def full(i: int, bottom: str, outputs: int) -> str:
        fields = f'inner_product_param {{ num_output: {outputs} weight_filler {{ type: "msra" }} }}'
        return layer(f"fc{i}", "InnerProduct", bottom, f"fc{i}", fields)

    x = norm(1, pool(1, conv(1, "data", 96, 11, "stride: 4")))
    x = norm(2, pool(2, conv(2, x, 256, 5, "pad: 2 group: 2")))
    x = conv(4, conv(3, x, 384, 3, "pad: 1"), 384, 3, "pad: 1 group: 2")
    x = pool(5, conv(5, x, 256, 3, "pad: 1 group: 2"))
    for i in (6, 7):
        x = full(i, x, wide(4096))
        layer(f"relu{i}", "ReLU", x, x)
        layer(f"drop{i}", "Dropout", x, x)
    layer("prob", "Softmax", full(8, x, classes), "prob")
    return "\n".join(out) + "\n"


def randomise(net: VizNet, seed: int = 0) -> None:
    """Weights normal with the variance that keeps a ReLU net's activations alive, biases small."""
    rng = np.random.default_rng(seed)
    net.set_params(
        {
            name: [
                rng.normal(0, (2 / np.prod(blobs[0].shape[1:])) ** 0.5, blobs[0].shape).astype(np.float32),
                *(rng.normal(0, 0.05, b.shape).astype(np.float32) for b in blobs[1:]),
            ]
            for name, blobs in net.params().items()
        }
    )


def write_weights(net: VizNet, path: Path) -> Path:
    """The net's parameters as a .caffemodel."""
    out = NetParameter(name="made")
    for name, blobs in net.params().items():
        stored = out.layer.add(name=name)
        for array in blobs:
            blob = stored.blobs.add()
            blob.shape.dim.extend(array.shape)
            blob.data.extend(array.ravel().tolist())
    write_binary(path, out)
    return path


def write_images(folder: Path, count: int, size: int, seed: int = 0) -> Path:
    """Files with smooth coloured shapes and noise: where a pooling window is constant, rounding alone sets the switch."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        image = cv2.resize(rng.integers(0, 256, (6, 7, 3), np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)
        cv2.circle(image, (int(rng.integers(size)), int(rng.integers(size))), size // 5, (230, 230, 230), -1)
        image = np.clip(20 + image * 0.85 + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"image{i}.png"), image)
    return folder


def write_caffenet() -> VizNet:
    """caffenet.prototxt and w.caffemodel in this folder, an eighth as wide as CaffeNet, and two images in val."""
    write_images(Path("val"), 2, 256)
    Path("caffenet.prototxt").write_text(caffenet(1 / 8))
    net = open_net("caffenet.prototxt")
    randomise(net)
    write_weights(net, Path("w.caffemodel"))
    return net


def write_card(model: Path, facts: Mapping[str, Any]) -> None:
    """The card of a model whose deploy.prototxt, small.caffemodel and whitening.npz lie in its folder."""
    card = dict(facts)
    for key, name in {"deploy": "deploy.prototxt", "weights": "small.caffemodel", "whitening": "whitening.npz"}.items():
        content = (model / name).read_bytes()
        sha1 = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        card[key] = {"file": name, "bytes": len(content), "sha1": sha1}
    (model / zoo.CARD).write_text(json.dumps(card))
