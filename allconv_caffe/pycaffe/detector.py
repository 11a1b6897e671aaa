"""A net that classifies windows of images, with some of their surroundings.

Source: python/caffe/detector.py.
Differs: `context_pad` works (Caffe's indexes with floats, which NumPy refuses).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from allconv_caffe.proto import TEST
from allconv_caffe.pycaffe import io
from allconv_caffe.pycaffe.classifier import transformer_of
from allconv_caffe.pycaffe.net import Net, Path_


class Detector(Net):
    """A TEST net with its input's `transformer`.

    Args:
        model_file, pretrained_file, mean, input_scale, raw_scale, channel_swap: as `Classifier` takes them.
        context_pad: width of the border of surroundings, in pixels of the net's (square) input.
    """

    def __init__(
        self,
        model_file: Path_,
        pretrained_file: Path_ | None,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = transformer_of(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(self, images_windows: Iterable[tuple[Any, Any]]) -> list[dict[str, Any]]:
        """Classifies windows of image files.

        Args:
            images_windows: (file name, windows); a window is (ymin, xmin, ymax, xmax).
        Returns: for each window a dict with `window`, `prediction` and `filename`.
        """
        found, crops = [], []
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                crops.append(self.crop(image, np.asarray(window)))
                found.append({"window": window, "filename": filename})
        name = self.inputs[0]
        caffe_in = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        predictions = self.forward_all(None, **{name: caffe_in})[self.outputs[0]]
        return [{**entry, "prediction": prediction} for entry, prediction in zip(found, predictions, strict=True)]

    def detect_selective_search(self, image_fnames: Sequence[Path_]) -> list[dict[str, Any]]:
        """`detect_windows` on the proposals of the module `selective_search_ijcv_with_python`, which must be installed."""
        search = importlib.import_module("selective_search_ijcv_with_python")
        paths = [os.path.abspath(name) for name in image_fnames]
        return self.detect_windows(zip(paths, search.get_windows(paths, cmd="selective_search_rcnn"), strict=True))

    def crop(self, im: np.ndarray, window: np.ndarray) -> np.ndarray:
        """The window of an image (H, W, K); with `context_pad`, resized into a frame of its surroundings and the mean."""
        if not self.context_pad:
            return im[window[0] : window[2], window[1] : window[3]]
        size = self.blobs[self.inputs[0]].width  # a square, as in Caffe
        scale = size / (size - self.context_pad * 2.0)
        half = np.array([window[2] - window[0] + 1, window[3] - window[1] + 1]) / 2.0
        center = window[:2] + half
        box = np.round(np.concatenate([center - scale * half, center + scale * half])).astype(int)
        scale_h, scale_w = size / (box[2] - box[0] + 1), size / (box[3] - box[1] + 1)
        pad_y, pad_x = round(max(0, -box[0]) * scale_h), round(max(0, -box[1]) * scale_w)
        box = np.clip(box, 0, [im.shape[0], im.shape[1]] * 2)
        clip_h, clip_w = box[2] - box[0] + 1, box[3] - box[1] + 1
        if clip_h <= 0 or clip_w <= 0:
            raise ValueError(f"window {list(window)} lies outside the image of shape {im.shape}")
        crop_h, crop_w = min(round(clip_h * scale_h), size - pad_y), min(round(clip_w * scale_w), size - pad_x)
        inner = io.resize_image(im[box[0] : box[2], box[1] : box[3]], (crop_h, crop_w))
        crop = np.ones(self.crop_dims, dtype=np.float32) * self.crop_mean
        crop[pad_y : pad_y + crop_h, pad_x : pad_x + crop_w] = inner
        return crop

    def configure_crop(self, context_pad: int | None) -> None:
        """Sets the size of crops, and for surroundings beyond the image the mean, as an image."""
        name = self.inputs[0]
        transpose = self.transformer.transpose[name]
        inverse = [transpose[t] for t in transpose]
        self.crop_dims = np.array(self.blobs[name].shape[1:])[inverse]
        self.context_pad = context_pad
        if not context_pad:
            return
        mean = self.transformer.mean.get(name)
        if mean is None:
            self.crop_mean = np.zeros(self.crop_dims, dtype=np.float32)
            return
        crop_mean = mean.copy().transpose(inverse)
        order = self.transformer.channel_swap.get(name)
        if order is not None:
            crop_mean = crop_mean[:, :, [list(order).index(i) for i in range(crop_mean.shape[2])]]
        raw_scale = self.transformer.raw_scale.get(name)
        self.crop_mean = crop_mean if raw_scale is None else crop_mean / raw_scale
