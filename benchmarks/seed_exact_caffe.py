"""The part of seed_exact.py that runs inside BVLC Caffe's own Python (3.9, numpy 1.19): one solver, observed.

    python seed_exact_caffe.py train SOLVER FOLDER     for each line on stdin one iteration, written to FOLDER
    python seed_exact_caffe.py masks SOLVER N          packed dropout masks of N iterations on stdout

The log goes to stderr, as Caffe writes it.
"""

import ctypes
import os
import sys

import caffe
import numpy as np


def parameters(net):
    """Every parameter of a net, by layer and index."""
    return {f"{name}[{i}]": blob.data.copy() for name, blobs in net.params.items() for i, blob in enumerate(blobs)}


def observed(net):
    """What an iteration leaves in the blobs that random numbers went through: data, labels, what dropout let through."""
    blobs = {}
    for name, layer in net.layer_dict.items():
        if layer.type in ("Data", "ImageData", "Dropout"):
            for top in net.top_names[name]:
                blobs[top] = net.blobs[top].data.copy()
    return blobs


def passed(net):
    """By layer, which inputs its ReLUs let through, eight to a byte, where no later layer but Dropout writes the blob."""
    writers = {}
    for name, layer in net.layer_dict.items():
        for top in net.top_names[name]:
            writers.setdefault(top, []).append((layer.type, name))
    found = {}
    for top, layers in writers.items():
        names = [name for kind, name in layers if kind == "ReLU"]
        if names and all(kind == "Dropout" for kind, _ in layers[layers.index(("ReLU", names[-1])) + 1 :]):
            found[top] = np.packbits(net.blobs[top].data.reshape(-1) > 0)
    return found


def blas_kernels():
    """What OpenBLAS calls the processor whose kernels it takes; "" where Caffe's BLAS is no OpenBLAS."""
    try:
        name = ctypes.CDLL("libopenblas.so.0").openblas_get_corename
    except (OSError, AttributeError):
        return ""
    name.restype = ctypes.c_char_p
    return name().decode()


def train(solver_path, folder):
    """Answers each line `step` with one iteration: FOLDER/step.npz and a snapshot; `end` with what solve() ends with."""
    solver = caffe.get_solver(solver_path)
    initial = {f"train {key}": value for key, value in parameters(solver.net).items()}
    for i, net in enumerate(solver.test_nets):
        initial.update((f"test{i} {key}", value) for key, value in parameters(net).items())
    np.savez(os.path.join(folder, "initial.npz"), **initial)
    print("ready", blas_kernels(), flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            solver.solve()
            print("done", flush=True)
            return
        solver.step(1)
        solver.snapshot()
        arrays = {f"blob {key}": value for key, value in observed(solver.net).items()}
        arrays.update((f"relu {key}", bits) for key, bits in passed(solver.net).items())
        np.savez(os.path.join(folder, "step.npz"), **arrays)
        print(solver.iter, flush=True)


def masks(solver_path, iterations):
    """Feeds ones to every Dropout layer, in order, as often as training would run it: top != 0 is the mask."""
    solver = caffe.get_solver(solver_path)
    net = solver.net
    layers = [i for i, name in enumerate(net._layer_names) if net.layer_dict[name].type == "Dropout"]
    for _ in range(iterations):
        for i in layers:
            name = net._layer_names[i]
            net.blobs[net.bottom_names[name][0]].data[...] = 1
            net._forward(i, i)
            bits = np.packbits(net.blobs[net.top_names[name][0]].data.reshape(-1) != 0)
            sys.stdout.buffer.write(bits.tobytes())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    if sys.argv[1] == "train":
        train(sys.argv[2], sys.argv[3])
    else:
        masks(sys.argv[2], int(sys.argv[3]))
