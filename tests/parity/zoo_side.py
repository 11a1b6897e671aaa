"""A whole net run through pycaffe's interface: the same steps on either side.

Runs under real Caffe's Python 3.9 as a script (``zoo_side.py FOLDER...``) and is imported by test_zoo_nets.py for our side.
"""

import hashlib
import json
import sys

import numpy as np

SEED = 9  # of the dropout masks


def digest(net):
    """Of all parameters, in order."""
    out = hashlib.sha256()
    for name, blobs in net.params.items():
        for blob in blobs:
            out.update(name.encode())
            out.update(np.ascontiguousarray(blob.data))
    return out.hexdigest()


def draw_weights(net):
    """Normal weights, scaled so that values neither grow nor vanish, and small biases."""
    random = np.random.Generator(np.random.PCG64(7))
    for blobs in net.params.values():
        for blob in blobs:
            shape = blob.data.shape
            scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
            blob.data[...] = random.standard_normal(shape, dtype=np.float32) * np.float32(scale)


def run(net):
    """One forward and backward pass over normal noise and fixed labels."""
    state = np.random.RandomState(3)
    net.blobs["data"].data[...] = state.standard_normal(net.blobs["data"].data.shape)
    net.blobs["label"].data[...] = np.arange(net.blobs["label"].data.size) % 7
    net.forward()
    net.backward()


def arrays(net):
    """Every blob, every diff and every parameter's diff, by name."""
    out = {"data " + name: blob.data for name, blob in net.blobs.items()}
    out.update(("diff " + name, blob.diff) for name, blob in net.blobs.items())
    for name, blobs in net.params.items():
        out.update((f"diff {name} {i}", blob.diff) for i, blob in enumerate(blobs))
    return {key.replace("/", "|"): value for key, value in out.items()}


def main(*folders):
    import caffe

    for folder in folders:
        net = caffe.Net(folder + "/net.prototxt", caffe.TRAIN)
        net.copy_from(folder + "/ours.caffemodel")
        caffe.set_random_seed(SEED)
        run(net)
        np.savez(folder + "/real.npz", **arrays(net))
        net.save(folder + "/real.caffemodel")
        with open(folder + "/real.json", "w") as file:
            json.dump([digest(net), list(net.blobs), list(net.outputs)], file)


if __name__ == "__main__":
    main(*sys.argv[1:])
