"""A .caffemodel of ours in OpenCV 4: `cv2.dnn.readNetFromCaffe` reads it and computes the same outputs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import allconv_caffe.pycaffe as caffe
from allconv_caffe.proto import NetParameter, read_binary, write_binary
from allconv_caffe.proto.files import varint

ROOT = Path(__file__).resolve().parents[1]

LENET = """name: "LeNet"
input: "data" input_shape { dim: 1 dim: 1 dim: 28 dim: 28 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
        convolution_param { num_output: 50 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "LRN" bottom: "conv2" top: "norm" lrn_param { local_size: 3 alpha: 0.01 } }
layer { name: "pool2" type: "Pooling" bottom: "norm" top: "pool2" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "bn" type: "BatchNorm" bottom: "pool2" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
layer { name: "ip1" type: "InnerProduct" bottom: "bn" top: "ip1"
        inner_product_param { num_output: 100 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "PReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop" type: "Dropout" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip2" top: "prob" }
"""


@pytest.mark.parametrize("name", ["cifar10-allcnn-c", "cifar10-model-c", "lenet"])
def test_opencv_computes_what_we_compute(tmp_path: Path, name: str) -> None:
    """Random weights in every blob, saved by `Net.save`: the outputs agree to 1e-5 of the largest."""
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("OpenCV 5 reads no Caffe models")
    prototxt = tmp_path / "deploy.prototxt"
    prototxt.write_text(LENET if name == "lenet" else (ROOT / "solvers" / name / "deploy.prototxt").read_text())
    caffe.set_random_seed(1)
    net = caffe.Net(str(prototxt), caffe.TEST)
    rs = np.random.RandomState(2)
    for layer, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            if layer == "bn":  # sums of means and variances, and their factor
                blob.data[...] = rs.rand(*blob.data.shape) + (0.5 if i else 0)
            elif i:  # biases, which the fillers leave at 0
                blob.data[...] = rs.randn(*blob.data.shape) * 0.1
    net.save(str(tmp_path / "x.caffemodel"))

    images = rs.randn(3, *net.blobs["data"].data.shape[1:]).astype(np.float32)
    net.blobs["data"].reshape(*images.shape)
    net.blobs["data"].data[...] = images
    ours = net.forward()[net.outputs[0]].reshape(3, -1)
    theirs = cv2.dnn.readNetFromCaffe(str(prototxt), str(tmp_path / "x.caffemodel"))
    theirs.setInput(images)
    found = theirs.forward().reshape(3, -1)
    assert ours.std(axis=0).max() > 1e-4  # the images differ in what they give
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-5 * np.abs(ours).max())


# ---------------------------------------------------------------------------------------------------------------------
# Layers of Caffe's forks, as far as OpenCV knows them


def block(name: str, bottom: str, depthwise: str, channels: int, out: int, stride: int) -> str:
    """A separable convolution as MobileNet has it: one window for each channel, then 1x1 over all of them."""
    text = ""
    for part, type_, kernel, group, number, step in (
        ("dw", depthwise, 3, channels, channels, stride),
        ("pw", "Convolution", 1, 1, out, 1),
    ):
        top, group_word = f"{name}_{part}", f"group: {group}" if group > 1 else ""
        text += f"""layer {{ name: "{top}" type: "{type_}" bottom: "{bottom}" top: "{top}" convolution_param {{
  num_output: {number} kernel_size: {kernel} pad: {kernel // 2} stride: {step} {group_word} bias_term: false
  weight_filler {{ type: "msra" }} }} }}
layer {{ name: "{top}_bn" type: "BatchNorm" bottom: "{top}" top: "{top}" }}
layer {{ name: "{top}_scale" type: "Scale" bottom: "{top}" top: "{top}" scale_param {{ bias_term: true filler {{ value: 1.5 }} }} }}
layer {{ name: "{top}_cut" type: "ReLU6" bottom: "{top}" top: "{top}" }}
"""
        bottom = top
    return text


def mobilenet(depthwise: str) -> str:
    return f"""name: "a small MobileNet"
input: "data" input_shape {{ dim: 1 dim: 3 dim: 33 dim: 33 }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 8 kernel_size: 3 stride: 2 pad: 1 weight_filler {{ type: "msra" }} }} }}
{block("a", "conv", depthwise, 8, 12, 1)}{block("b", "a_pw", depthwise, 12, 16, 2)}
layer {{ name: "shuffle" type: "ShuffleChannel" bottom: "b_pw" top: "shuffle" shuffle_channel_param {{ group: 4 }} }}
{block("c", "shuffle", depthwise, 16, 16, 2)}
layer {{ name: "pool" type: "Pooling" bottom: "c_pw" top: "pool" pooling_param {{ pool: AVE global_pooling: true }} }}
layer {{ name: "fc" type: "Convolution" bottom: "pool" top: "fc"
  convolution_param {{ num_output: 5 kernel_size: 1 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "prob" type: "Softmax" bottom: "fc" top: "prob" }}
"""


def head(name: str, bottom: str, boxes: int, prior: str) -> str:
    """What SSD reads from one map: for each box of each place 4 coordinates and 3 classes, and the box."""
    text = ""
    for part, number in (("loc", boxes * 4), ("conf", boxes * 3)):
        top = f"{name}_{part}"
        text += f"""layer {{ name: "{top}" type: "Convolution" bottom: "{bottom}" top: "{top}"
  convolution_param {{ num_output: {number} kernel_size: 3 pad: 1 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "{top}_perm" type: "Permute" bottom: "{top}" top: "{top}_perm"
  permute_param {{ order: 0 order: 2 order: 3 order: 1 }} }}
layer {{ name: "{top}_flat" type: "Flatten" bottom: "{top}_perm" top: "{top}_flat" flatten_param {{ axis: 1 }} }}
"""
    return f"""{text}layer {{ name: "{name}_prior" type: "PriorBox" bottom: "{bottom}" bottom: "data" top: "{name}_prior"
  prior_box_param {{ {prior} variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 offset: 0.5 }} }}
"""


def joined(part: str, axis: int) -> str:
    return f"""layer {{ name: "{part}" type: "Concat" bottom: "one_{part}" bottom: "two_{part}" top: "{part}"
  concat_param {{ axis: {axis} }} }}
"""


SSD = f"""name: "SSD's head over two maps"
input: "data" input_shape {{ dim: 1 dim: 3 dim: 30 dim: 40 }}
layer {{ name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param {{ num_output: 6 kernel_size: 3 stride: 4 pad: 1 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }}
layer {{ name: "norm" type: "Normalize" bottom: "conv1" top: "norm"
  norm_param {{ across_spatial: false channel_shared: false scale_filler {{ type: "constant" value: 20 }} }} }}
layer {{ name: "conv2" type: "Convolution" bottom: "conv1" top: "conv2"
  convolution_param {{ num_output: 7 kernel_size: 3 stride: 2 pad: 1 weight_filler {{ type: "msra" }} }} }}
{head("one", "norm", 4, "min_size: 4 max_size: 9 aspect_ratio: 2 flip: true clip: false step: 4")}
{head("two", "conv2", 6, "min_size: 9 max_size: 16 aspect_ratio: 2 aspect_ratio: 3 flip: true clip: true")}
{joined("loc_flat", 1)}{joined("conf_flat", 1)}{joined("prior", 2)}
"""
UNET = """name: "a part of PSPNet's pyramid, by NVCaffe's BatchNorm"
input: "data" input_shape { dim: 1 dim: 3 dim: 9 dim: 12 }
layer { name: "conv" type: "ConvolutionDepthwise" bottom: "data" top: "conv"
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 group: 3 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { eps: 0.0001 scale_bias: true } }
layer { name: "small" type: "Pooling" bottom: "conv" top: "small" pooling_param { pool: AVE kernel_size: 3 stride: 3 } }
layer { name: "all" type: "Normalize" bottom: "small" top: "all" }
layer { name: "up" type: "Interp" bottom: "all" top: "up" interp_param { height: 9 width: 12 } }
layer { name: "zoom" type: "Interp" bottom: "up" top: "zoom" interp_param { zoom_factor: 2 } }
"""
FORKS = {
    "mobilenet": (mobilenet("DepthwiseConvolution"), mobilenet("Convolution"), ["prob", "a_pw", "shuffle"]),
    "depthwise mobilenet": (mobilenet("ConvolutionDepthwise"), mobilenet("ConvolutionDepthwise"), ["prob"]),
    "ssd": (SSD, SSD, ["loc_flat", "conf_flat", "prior"]),
    "pspnet": (UNET, UNET, ["zoom", "conv"]),
    "pspnet in halves": (UNET, UNET, ["zoom", "conv"]),
}
"""By name: the prototxt for us; for OpenCV, which calls some layers otherwise; the blobs that are compared."""


@pytest.mark.parametrize("name", FORKS)
def test_opencv_computes_what_we_compute_of_forks(tmp_path: Path, name: str) -> None:
    """A net of forks' layers with random weights, saved here: every one of its ends agrees to 1e-5 of the largest value."""
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("OpenCV 5 reads no Caffe models")
    text, theirs_text, blobs = FORKS[name]
    for file, content in (("ours", text), ("theirs", theirs_text)):
        (tmp_path / f"{file}.prototxt").write_text(content)
    caffe.set_random_seed(1)
    net = caffe.Net(str(tmp_path / "ours.prototxt"), caffe.TEST)
    rs = np.random.RandomState(2)
    for layer, params in net.params.items():
        for i, blob in enumerate(params):
            if layer.endswith("bn"):  # means, variances, their factor; NVCaffe's scale and bias
                blob.data[...] = rs.rand(*blob.data.shape) + (0, 0.5, 0, 1, -1)[i] if i != 2 else 1
            elif i or layer in ("norm", "all") or layer.endswith("_scale"):
                blob.data[...] += rs.rand(*blob.data.shape)
    path = tmp_path / "x.caffemodel"
    net.save(str(path))
    weights = read_binary(path, NetParameter)
    stored = [blob for layer in weights.layer for blob in layer.blobs]
    if name.endswith("halves"):  # as NVCaffe stores them
        for blob in stored:
            raw = np.float16(blob.data).tobytes()
            blob.ClearField("data")
            blob.MergeFromString(bytes([10 << 3, 2, 12 << 3 | 2]) + varint(len(raw)) + raw)
        write_binary(path, weights)
        before = net.params["bn"][0].data.copy()
        net = caffe.Net(str(tmp_path / "ours.prototxt"), str(path), caffe.TEST)
        assert 0 < np.abs(net.params["bn"][0].data - before).max() < 1e-3
    for blob in stored:  # a scale that all channels share has no axis, which OpenCV does not read
        blob.shape.dim.extend([] if blob.shape.dim else [1])
    write_binary(path, weights)

    images = rs.randn(2, *net.blobs["data"].data.shape[1:]).astype(np.float32)
    net.blobs["data"].reshape(*images.shape)
    net.blobs["data"].data[...] = images
    net.forward()
    theirs = cv2.dnn.readNetFromCaffe(str(tmp_path / "theirs.prototxt"), str(path))
    theirs.setInput(images)
    last = {"a_pw": "a_pw_cut", "conv": "bn"}  # layers that write these blobs last
    for blob in blobs:
        found, ours = theirs.forward(last.get(blob, blob)), net.blobs[blob].data
        assert found.size == ours.size and ours.std() > 1e-3
        np.testing.assert_allclose(found.reshape(ours.shape), ours, rtol=0, atol=1e-5 * np.abs(ours).max())
    if name == "mobilenet":  # both ends of ReLU6 were met
        assert net.blobs["a_pw"].data.min() == 0 and net.blobs["a_pw"].data.max() == 6
