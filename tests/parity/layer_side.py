"""One layer case driven through a net with pycaffe's interface: the same steps on either side.

Runs under real Caffe's Python 3.9 as a script (``layer_side.py JOBS ARRAYS OUT``) and is imported by layer_harness.py for
our side. Imports nothing but numpy, and caffe where it is the script.
"""

import json
import os
import sys
import traceback
import zlib

import numpy as np

UNTOUCHED = 0.5  # what the bottoms' diffs hold before backward
BEFORE = 0.25  # what the parameters' diffs hold before the first backward: gradients must add to it


def normal(shape, *words):
    """Standard normal float32 values that depend on `words` only; equal under every NumPy."""
    state = np.random.RandomState(zlib.crc32(" ".join(map(str, words)).encode()) & 0xFFFFFFFF)
    return np.asarray(state.standard_normal(tuple(shape)), np.float32)


def drive(net, job, arrays):
    """Runs every batch of a case forward and, where the job says so, backward.

    Args:
        net: with blobs, params, blob_loss_weights, forward() and backward(), as pycaffe's Net.
        job: dict of `id`, `seed`, `inputs`, `bottoms`, `tops` (names), `batches` (number), `params` (number given), `backward`.
        arrays: "<id>/<batch>/<input>" and "<id>/param/<i>": float32 arrays.

    Returns: dict "<batch> data|diff <name>" -> array; parameters are called p0, p1, ...
    """
    out = {}
    params = list(net.params["layer"]) if "layer" in net.params else []
    for i, blob in enumerate(params):
        if job["params"] is None:
            blob.data[...] = 0.5 * normal(blob.data.shape, job["seed"], "param", i)
        elif i < job["params"]:
            blob.data[...] = arrays[f"{job['id']}/param/{i}"]
        blob.diff[...] = BEFORE
    for step in range(job["batches"]):
        for name in job["inputs"]:
            value = arrays[f"{job['id']}/{step}/{name}"]
            if tuple(net.blobs[name].data.shape) != value.shape:
                net.blobs[name].reshape(*value.shape)
            net.blobs[name].data[...] = value
        net.forward()
        for name in job["tops"]:
            out[f"{step} data {name}"] = net.blobs[name].data.copy()
        if job["backward"]:
            for name in job["bottoms"]:
                net.blobs[name].diff[...] = UNTOUCHED
            for name in job["tops"]:
                if not net.blob_loss_weights[name]:
                    diff = net.blobs[name].diff
                    diff[...] = normal(diff.shape, job["seed"], step, "diff", name)
            net.backward()
            for name in job["bottoms"]:
                out[f"{step} diff {name}"] = net.blobs[name].diff.copy()
            for i, blob in enumerate(params):
                out[f"{step} diff p{i}"] = blob.diff.copy()
        for i, blob in enumerate(params):
            out[f"{step} data p{i}"] = blob.data.copy()
    return out


def run_job(caffe, job, arrays, folder):
    path = os.path.join(folder, "net.prototxt")
    with open(path, "w", encoding="utf-8") as file:
        file.write(job["net"])
    caffe.set_random_seed(1)
    return drive(caffe.Net(path, job["phase"]), job, arrays)


def main(jobs_file, arrays_file, folder):
    """Every job in this process, each that is meant to abort in a fork of its own with its stderr kept."""
    import caffe

    with open(jobs_file, encoding="utf-8") as file:
        jobs = json.load(file)
    sys.path[:0] = sorted({job["path"] for job in jobs if job["path"]})
    arrays = dict(np.load(arrays_file))
    for job in jobs:
        result = os.path.join(folder, job["id"] + ".npz")
        if job["aborts"]:
            error = os.path.join(folder, job["id"] + ".stderr")
            child = os.fork()
            if child == 0:
                os.dup2(os.open(error, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
                try:
                    run_job(caffe, job, arrays, folder)
                    status = 0
                except BaseException:
                    traceback.print_exc()
                    status = 1
                sys.stderr.flush()
                os._exit(status)
            status = os.waitpid(child, 0)[1]
            with open(error, errors="replace") as file:
                np.savez(result, error=np.array([str(status), file.read()]))
            continue
        with open(os.path.join(folder, "now"), "w") as file:
            file.write(job["id"])
        np.savez(result, **run_job(caffe, job, arrays, folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
