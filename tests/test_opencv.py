"""A .caffemodel of ours in OpenCV 4: `cv2.dnn.readNetFromCaffe` reads it and computes the same outputs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import allconv_caffe.pycaffe as caffe

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
