"""Layers as a user of pycaffe writes them; they run in real Caffe and in ours, unchanged.

Real Caffe's bottom and top can be indexed and counted, but not iterated.
"""

import caffe
import numpy as np


class ScaledSum(caffe.Layer):
    """top[0] = k * sum of the bottoms + phase; top[1], if there: the product of the bottoms."""

    def setup(self, bottom, top):
        self.k = float(self.param_str or 1)

    def reshape(self, bottom, top):
        for i in range(len(top)):
            top[i].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        values = [bottom[i].data for i in range(len(bottom))]
        top[0].data[...] = self.k * sum(values) + self.phase
        if len(top) > 1:
            top[1].data[...] = np.prod(values, axis=0)

    def backward(self, top, propagate_down, bottom):
        for i in range(len(bottom)):
            if propagate_down[i]:
                bottom[i].diff[...] = self.k * top[0].diff
                if len(top) > 1:
                    others = [bottom[j].data for j in range(len(bottom)) if j != i]
                    bottom[i].diff[...] += top[1].diff * np.prod(others, axis=0)


class Affine(caffe.Layer):
    """top = bottom * w + b with two parameters of its own, (channels,) each."""

    def setup(self, bottom, top):
        for value in (2, -1):
            self.blobs.add_blob(bottom[0].channels)
            self.blobs[len(self.blobs) - 1].data[...] = value

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].num, bottom[0].channels, bottom[0].height, bottom[0].width)

    def forward(self, bottom, top):
        w, b = (blob.data.reshape(1, -1, 1, 1) for blob in self.blobs)
        top[0].data[...] = bottom[0].data * w + b

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += (top[0].diff * bottom[0].data).sum((0, 2, 3))
        self.blobs[1].diff[...] += top[0].diff.sum((0, 2, 3))
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff * self.blobs[0].data.reshape(1, -1, 1, 1)


class Loss(caffe.Layer):
    """The mean square of the bottom, a scalar."""

    def setup(self, bottom, top):
        if len(bottom) != 1:
            raise ValueError("Loss takes one bottom")

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[0] = np.mean(bottom[0].data ** 2)

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff[0] * 2 * bottom[0].data / bottom[0].count
