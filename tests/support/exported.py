"""What every writer of nets is tried on: each layer alone, and in nets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from allconv_caffe import proto
from allconv_caffe.caffe_torch import glog
from allconv_caffe.caffe_torch.compute.rng import TorchGenerator
from allconv_caffe.caffe_torch.layer import Context
from allconv_caffe.caffe_torch.net import Net
from allconv_caffe.export.layers import WRITERS
from allconv_caffe.export.pixels import Preparation
from data_prep.whitening import Whitening

ROOT = Path(__file__).resolve().parents[2]
FILLED = 'weight_filler { type: "gaussian" std: 0.3 } bias_filler { type: "gaussian" std: 0.3 }'

# by what it shows: a layer's type, its other lines, and the shape of its bottom without the axis of the images
ALONE: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "conv": ("Convolution", f"convolution_param {{ num_output: 6 kernel_size: 3 {FILLED} }}", (4, 7, 9)),
    "conv strides, pads": (
        "Convolution",
        f"convolution_param {{ num_output: 6 kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 2 {FILLED} }}",
        (4, 9, 11),
    ),
    "conv groups, dilation": (
        "Convolution",
        f"convolution_param {{ num_output: 6 kernel_size: 3 dilation: 2 pad: 1 group: 2 {FILLED} }}",
        (4, 9, 7),
    ),
    "conv larger than the image": (
        "Convolution",
        f"convolution_param {{ num_output: 2 kernel_size: 4 stride: 3 bias_term: false {FILLED} }}",
        (2, 3, 3),
    ),
    "conv of a line": ("Convolution", f"convolution_param {{ num_output: 3 kernel_size: 3 {FILLED} }}", (2, 9)),
    "deconv": (
        "Deconvolution",
        f"convolution_param {{ num_output: 6 kernel_size: 3 stride: 2 pad: 1 dilation: 2 group: 2 {FILLED} }}",
        (4, 5, 6),
    ),
    "max, rounded up": ("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", (2, 8, 10)),
    "max, rounded down": ("Pooling", "pooling_param { kernel_size: 3 stride: 2 round_mode: FLOOR }", (2, 8, 10)),
    "max, a window dropped": ("Pooling", "pooling_param { kernel_size: 2 stride: 2 pad: 1 }", (2, 7, 5)),
    "max, a window outside": ("Pooling", "pooling_param { kernel_size: 1 stride: 3 }", (2, 5, 6)),
    "max of all": ("Pooling", "pooling_param { global_pooling: true }", (2, 5, 6)),
    "mean": ("Pooling", "pooling_param { pool: AVE kernel_size: 2 stride: 2 }", (2, 6, 8)),
    "mean, clipped": ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 }", (2, 8, 10)),
    "mean over padding": ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", (2, 7, 9)),
    "mean over padding, clipped": (
        "Pooling",
        "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }",
        (2, 8, 10),
    ),
    "mean, a window outside": ("Pooling", "pooling_param { pool: AVE kernel_size: 1 stride: 3 }", (2, 5, 6)),
    "mean of all": ("Pooling", "pooling_param { pool: AVE global_pooling: true }", (2, 5, 6)),
    "relu": ("ReLU", "", (2, 3, 5)),
    "leaky relu": ("ReLU", "relu_param { negative_slope: 0.2 }", (2, 3, 5)),
    "prelu": ("PReLU", 'prelu_param { filler { type: "uniform" } }', (3, 3, 5)),
    "prelu, shared": ("PReLU", "prelu_param { channel_shared: true }", (3, 3, 5)),
    "elu": ("ELU", "elu_param { alpha: 0.7 }", (2, 3, 5)),
    "sigmoid": ("Sigmoid", "", (2, 3, 5)),
    "tanh": ("TanH", "", (2, 3, 5)),
    "absolute value": ("AbsVal", "", (2, 3, 5)),
    "power": ("Power", "power_param { power: 2 scale: 0.5 shift: 0.3 }", (2, 3, 5)),
    "power, idle": ("Power", "", (2, 3, 5)),
    "power, constant": ("Power", "power_param { power: 2 scale: 0 shift: 3 }", (2, 3, 5)),
    "lrn": ("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }", (7, 3, 5)),
    "lrn in a channel": ("LRN", "lrn_param { local_size: 3 alpha: 0.5 k: 2 norm_region: WITHIN_CHANNEL }", (2, 5, 7)),
    "inner product": ("InnerProduct", f"inner_product_param {{ num_output: 4 {FILLED} }}", (2, 3, 5)),
    "inner product, transposed": (
        "InnerProduct",
        f"inner_product_param {{ num_output: 4 transpose: true bias_term: false {FILLED} }}",
        (7,),
    ),
    "inner product, axis": ("InnerProduct", f"inner_product_param {{ num_output: 4 axis: 2 {FILLED} }}", (2, 3, 5)),
    "scale": (
        "Scale",
        'scale_param { bias_term: true filler { type: "uniform" } bias_filler { type: "uniform" } }',
        (3, 4, 5),
    ),
    "scale, axes": ("Scale", 'scale_param { axis: 2 num_axes: 2 filler { type: "uniform" } }', (3, 4, 5)),
    "bias": ("Bias", 'bias_param { filler { type: "uniform" } }', (3, 4, 5)),
    "softmax": ("Softmax", "", (5, 2, 3)),
    "softmax, axis": ("Softmax", "softmax_param { axis: -1 }", (5, 2, 3)),
    "flatten": ("Flatten", "", (5, 2, 3)),
    "flatten, axis": ("Flatten", "flatten_param { axis: 2 }", (5, 2, 3)),
    "reshape": ("Reshape", "reshape_param { shape { dim: 0 dim: 3 dim: -1 } }", (6, 2, 3)),
    "dropout": ("Dropout", "", (2, 3, 5)),
    "batch norm": ("BatchNorm", "batch_norm_param { eps: 0.01 }", (3, 4, 5)),
    "batch norm, scale and bias": ("BatchNorm", "batch_norm_param { scale_bias: true eps: 0.01 }", (3, 4, 5)),
    "bn of segnet": (
        "BN",
        'bn_param { bn_mode: INFERENCE scale_filler { type: "uniform" } shift_filler { type: "uniform" } }',
        (3, 4, 5),
    ),
    "bn of pspnet": (
        "BN",
        'bn_param { eps: 0.01 slope_filler { type: "uniform" } bias_filler { type: "uniform" } }',
        (3, 4, 5),
    ),
    "depthwise conv": (
        "DepthwiseConvolution",
        f"convolution_param {{ num_output: 8 group: 4 kernel_size: 3 stride: 2 {FILLED} }}",
        (4, 7, 9),
    ),
    "conv, depthwise": (
        "ConvolutionDepthwise",
        f"convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 bias_term: false {FILLED} }}",
        (4, 7, 9),
    ),
    "shuffle channel": ("ShuffleChannel", "shuffle_channel_param { group: 3 }", (6, 2, 5)),
    "shuffle channel of a row": ("ShuffleChannel", "shuffle_channel_param { group: 3 }", (6,)),
    "permute": ("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", (3, 4, 5)),
    "normalize": ("Normalize", 'norm_param { scale_filler { type: "constant" value: 20 } }', (3, 4, 5)),
    "normalize, a channel each": (
        "Normalize",
        'norm_param { across_spatial: false channel_shared: false scale_filler { type: "uniform" } }',
        (3, 4, 5),
    ),
    "normalize a row": ("Normalize", "norm_param { eps: 0.5 }", (7,)),
    "interp, height and width": ("Interp", "interp_param { height: 7 width: 3 }", (2, 3, 5)),
    "interp, zoom": ("Interp", "interp_param { zoom_factor: 8 }", (2, 6, 9)),
    "interp, shrink": ("Interp", "interp_param { shrink_factor: 2 }", (2, 7, 5)),
    "interp, cut": ("Interp", "interp_param { zoom_factor: 2 pad_beg: -1 pad_end: -2 }", (2, 6, 7)),
    "interp to one place": ("Interp", "interp_param { height: 1 width: 4 }", (2, 3, 5)),
    "interp of a row": ("Interp", "interp_param { height: 2 width: 3 }", (4,)),
    "concat of one": ("Concat", "", (3, 4, 5)),
}
# by what it shows: a max pooling of 9x9 places, and the size of the planes to which it goes back
POOLS = {
    "maxima": ("kernel_size: 2 stride: 2", 9, 9),
    "windows in the image": ("kernel_size: 2 stride: 2 round_mode: FLOOR", 8, 11),
    "overlapping windows": ("kernel_size: 3 stride: 2", 9, 9),
    "padded windows": ("kernel_size: 3 stride: 2 pad: 1", 9, 9),
    "windows behind the image": ("kernel_h: 5 kernel_w: 3 stride: 3 pad_h: 0 pad_w: 2", 9, 9),
    "all": ("global_pooling: true", 10, 9),
}


def _unpooled(pool: str, height: int, width: int) -> str:
    """Maxima of values among which many are equal; other values go back to their places, and the places are an output."""
    return f"""
layer {{ name: "relu" type: "ReLU" bottom: "data" top: "data" }}
layer {{ name: "pool" type: "Pooling" bottom: "data" top: "pool" top: "places" pooling_param {{ {pool} }} }}
layer {{ name: "less" type: "Power" bottom: "pool" top: "other" power_param {{ shift: -2 }} }}
layer {{ name: "up" type: "Upsample" bottom: "other" bottom: "places" top: "up"
  upsample_param {{ upsample_h: {height} upsample_w: {width} }} }}
layer {{ name: "again" type: "Power" bottom: "places" top: "again" }}
"""


# every other type, and types that stand beside another, in nets of their own
NETS: dict[str, str] = {
    "eltwise": """
layer { name: "a" type: "Power" bottom: "data" top: "a" power_param { scale: 2 } }
layer { name: "b" type: "TanH" bottom: "data" top: "b" }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" bottom: "data" top: "sum"
  eltwise_param { coeff: 1 coeff: -2 coeff: 0.5 } }
layer { name: "product" type: "Eltwise" bottom: "a" bottom: "b" top: "product" eltwise_param { operation: PROD } }
layer { name: "max" type: "Eltwise" bottom: "sum" bottom: "product" bottom: "b" top: "max"
  eltwise_param { operation: MAX } }
""",
    "eltwise in place": """
layer { name: "a" type: "Power" bottom: "data" top: "a" power_param { scale: 2 } }
layer { name: "b" type: "TanH" bottom: "data" top: "b" }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "a" eltwise_param { coeff: 3 coeff: 2 } }
""",
    "two bottoms": """
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" pooling_param { pool: AVE global_pooling: true } }
layer { name: "flat" type: "Flatten" bottom: "mean" top: "flat" }
layer { name: "gate" type: "Sigmoid" bottom: "flat" top: "gate" }
layer { name: "scale" type: "Scale" bottom: "data" bottom: "gate" top: "scale" scale_param { axis: 0 } }
layer { name: "bias" type: "Bias" bottom: "scale" bottom: "flat" top: "bias" bias_param { axis: 0 } }
""",
    "relu6": """
layer { name: "large" type: "Power" bottom: "data" top: "large" power_param { scale: 10 } }
layer { name: "cut" type: "ReLU6" bottom: "large" top: "cut" }
""",
    "axpy": """
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" pooling_param { pool: AVE global_pooling: true } }
layer { name: "gate" type: "Sigmoid" bottom: "mean" top: "gate" }
layer { name: "flat" type: "Flatten" bottom: "mean" top: "flat" }
layer { name: "b" type: "TanH" bottom: "data" top: "b" }
layer { name: "sum" type: "Axpy" bottom: "gate" bottom: "data" bottom: "b" top: "sum" }
layer { name: "more" type: "Axpy" bottom: "flat" bottom: "sum" bottom: "b" top: "more" }
""",
    "prior boxes": """
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "prior1" type: "PriorBox" bottom: "data" bottom: "data" top: "prior1"
  prior_box_param { min_size: 3 max_size: 5 aspect_ratio: 2 clip: true } }
layer { name: "prior2" type: "PriorBox" bottom: "pool" bottom: "data" top: "prior2" prior_box_param { min_size: 4 } }
layer { name: "priors" type: "Concat" bottom: "prior1" bottom: "prior2" top: "priors" concat_param { axis: 2 } }
layer { name: "two" type: "Slice" bottom: "prior2" top: "boxes" top: "variances" }
layer { name: "rows" type: "Reshape" bottom: "boxes" top: "rows" reshape_param { shape { dim: -1 dim: 4 } } }
layer { name: "rows" type: "Power" bottom: "rows" top: "rows" power_param { shift: 1 } }
layer { name: "other" type: "TanH" bottom: "pool" top: "other" }
""",
    "interp to another blob": """
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "tanh" type: "TanH" bottom: "pool" top: "tanh" }
layer { name: "up" type: "Interp" bottom: "tanh" bottom: "data" top: "up" }
""",
    **{f"places of {what}": _unpooled(*words) for what, words in POOLS.items()},
    "everything": f"""
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 {FILLED} }} }}
layer {{ name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }}
layer {{ name: "scale1" type: "Scale" bottom: "conv1" top: "conv1"
  scale_param {{ bias_term: true filler {{ type: "uniform" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }}
layer {{ name: "norm1" type: "LRN" bottom: "conv1" top: "norm1" }}
layer {{ name: "conv2" type: "Convolution" bottom: "norm1" top: "conv2"
  convolution_param {{ num_output: 8 group: 4 kernel_size: 3 pad: 1 {FILLED} }} }}
layer {{ name: "sum" type: "Eltwise" bottom: "conv1" bottom: "conv2" top: "sum" }}
layer {{ name: "pool" type: "Pooling" bottom: "sum" top: "pool" pooling_param {{ kernel_size: 3 stride: 2 }} }}
layer {{ name: "up" type: "Deconvolution" bottom: "pool" top: "up"
  convolution_param {{ num_output: 4 kernel_size: 2 stride: 2 {FILLED} }} }}
layer {{ name: "down" type: "Pooling" bottom: "up" top: "down" pooling_param {{ kernel_size: 2 stride: 2 }} }}
layer {{ name: "both" type: "Concat" bottom: "pool" bottom: "down" top: "both" }}
layer {{ name: "drop" type: "Dropout" bottom: "both" top: "both" }}
layer {{ name: "fc" type: "InnerProduct" bottom: "both" top: "fc"
  inner_product_param {{ num_output: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "prob" type: "Softmax" bottom: "fc" top: "prob" }}
""",
}


def net(layers: str, *shape: int) -> Net:
    """A net over "data" (1, *shape)."""
    dims = " ".join(f"dim: {size}" for size in (1, *shape))
    text = f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n{layers}'
    return random_net(proto.parse_text(text, proto.NetParameter))


def random_net(param: Any) -> Net:
    """The net with weights of its own fillers, its statistics no longer those that it begins with."""
    with glog.quiet():
        built = Net(param, Context(rng=TorchGenerator(1)), where="deploy.prototxt")
    rng = np.random.default_rng(5)
    for layer in built.layers:
        if layer.type == "BatchNorm":
            lows = (-1, 1, 1.5, 0.5, -2)[: len(layer.blobs)]
            for blob, low in zip(layer.blobs, lows, strict=True):
                blob.data_array()[:] = rng.uniform(low, low + 1, blob.shape)
        if layer.type == "BN":  # mean and variance, where it has them
            for blob in layer.blobs[2:]:
                blob.data_array()[:] = rng.uniform(1, 2, blob.shape)
    return built


def plain(**more: Any) -> Preparation:
    words: dict[str, Any] = dict(order="RGB", mean=None, scale=1.0, whitening=None)
    return Preparation(**{**words, "blob": lambda pixels: np.float32(pixels) / 100 - 1, **more})


def whitening(method: str, size: int) -> Preparation:
    """That of 3x4x4 pixels, drawn; in the middle of an image of `size` pixels a side, with zeros around."""
    rng = np.random.default_rng(6)
    matrix = rng.normal(size=(48, 48)).astype(np.float32) / 7
    transform = Whitening(
        method=method,
        shape=(3, 4, 4),
        mean=rng.normal(size=48).astype(np.float32),
        zca=matrix + matrix.T if method == "gcn-zca" else None,
    )
    edge = (size - 4) // 2
    middle = (..., slice(edge, edge + 4), slice(edge, edge + 4))

    def blob(pixels: np.ndarray) -> np.ndarray:
        out = np.zeros(pixels.shape, np.float32)
        out[middle] = transform.whiten(np.ascontiguousarray(pixels[middle]))
        return out

    return plain(whitening=transform, blob=blob)


def of_pixels() -> Preparation:
    """Pixels as Caffe's ImageNet nets take them: B, G, R, less a mean for each channel."""
    mean = np.float32([[[104]], [[117]], [[123]]])
    return plain(order="BGR", mean=mean, scale=0.02, blob=lambda pixels: (pixels - mean) * np.float32(0.02))


def untested() -> set[str]:
    """The types that no case has; Split stands between a blob and its readers in every net."""
    text = " ".join(NETS.values())
    tested = {kind for kind, _, _ in ALONE.values()} | {kind for kind in WRITERS if f'type: "{kind}"' in text}
    return WRITERS.keys() - {"Split"} - tested


def answers(net: Net, images: np.ndarray) -> list[np.ndarray]:
    """The engine's outputs for a batch of the blob "data"."""
    blob = net.blobs["data"]
    blob.reshape(*images.shape)
    blob.data_array()[:] = images
    with glog.quiet():
        net.forward()
    return [net.blobs[name].data.numpy().copy() for name in net.outputs]


def large(name: str) -> Net:
    """A net of the benchmarks' table, or of solvers/<name>, up to its scores."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from nets.table import NETS as TABLE
    finally:
        sys.path.pop(0)
    if name in TABLE:
        return random_net(TABLE[name].param(1, forward=True))
    return random_net(proto.read_net(str(ROOT / "solvers" / name / "deploy.prototxt")))


LARGE = [
    *("lenet", "cifar10_full", "nin", "caffenet", "googlenet", "squeezenet", "resnet20", "imagenet_allcnn"),
    *(f"cifar10-{kind}-{base}" for base in "abc" for kind in ("model", "strided-cnn", "convpool-cnn", "allcnn")),
]
