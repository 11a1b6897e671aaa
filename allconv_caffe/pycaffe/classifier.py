"""A net that classifies images: resize, crop, preprocess, average over crops.

Source: python/caffe/classifier.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allconv_caffe.proto import TEST
from allconv_caffe.pycaffe import io
from allconv_caffe.pycaffe.net import Net, Path_


def transformer_of(
    net: Net,
    mean: np.ndarray | None,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> io.Transformer:
    """A Transformer from (H, W, K) images to the net's first input."""
    name = net.inputs[0]
    transformer = io.Transformer({name: net.blobs[name].shape})
    transformer.set_transpose(name, (2, 0, 1))
    if mean is not None:
        transformer.set_mean(name, mean)
    if input_scale is not None:
        transformer.set_input_scale(name, input_scale)
    if raw_scale is not None:
        transformer.set_raw_scale(name, raw_scale)
    if channel_swap is not None:
        transformer.set_channel_swap(name, channel_swap)
    return transformer


class Classifier(Net):
    """A TEST net with its input's `transformer`.

    Args:
        model_file, pretrained_file: prototxt and weights.
        image_dims: (height, width) that images are resized to before cropping; default: the input's.
        mean, input_scale, raw_scale, channel_swap: as `io.Transformer` takes them.
    """

    def __init__(
        self,
        model_file: Path_,
        pretrained_file: Path_ | None,
        image_dims: Sequence[int] | None = None,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = transformer_of(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims: Sequence[int] | np.ndarray = (
            self.crop_dims if image_dims is None or not len(image_dims) else image_dims
        )

    def predict(self, inputs: Sequence[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Class probabilities.

        Args:
            inputs: n images (H, W, K).
            oversample: average over corners, centre and their mirror images; else the centre alone.
        Returns: (n, classes); without oversampling the output as the net has it.
        """
        resized = np.stack([io.resize_image(image, self.image_dims) for image in inputs])
        if oversample:
            crops = io.oversample(resized, self.crop_dims)
        else:
            center = np.array(self.image_dims) / 2.0
            top, left = (center - self.crop_dims / 2.0).astype(int)
            bottom, right = (center + self.crop_dims / 2.0).astype(int)
            crops = resized[:, top:bottom, left:right, :]
        name = self.inputs[0]
        caffe_in = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        predictions = self.forward_all(None, **{name: caffe_in})[self.outputs[0]]
        if oversample:
            predictions = predictions.reshape((len(predictions) // 10, 10, -1)).mean(1)
        return predictions
