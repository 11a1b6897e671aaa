"""The part of test_caffe_sums.py that runs inside BVLC Caffe's own Python (3.9, numpy 1.19): its OpenBLAS, called directly.

    python blas_side.py JOBS.npz OUT.npz      for each job its result; "kernels" says which processor's kernels computed

A job `<n> <what>`: "gemm ta tb beta" of arrays a, b, c; "rows", "mean" and "columns beta" of a, y; "axpy alpha" and
"axpby alpha beta" of x, y; "dot" of x, y.
"""

import ctypes
import sys

import numpy as np

ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112


def call(blas, name, *arguments):
    """cblas_<name> with ints, float32s and arrays; what it returns."""
    types, values = [], []
    for a in arguments:
        if isinstance(a, np.ndarray):
            types.append(ctypes.c_void_p)
            values.append(a.ctypes.data)
        else:
            types.append(ctypes.c_float if isinstance(a, float) else ctypes.c_int)
            values.append(a)
    function = getattr(blas, f"cblas_{name}")
    function.argtypes = types
    if name != "sdot":
        function.restype = None
    return function(*values)


def run(blas, words, arrays):
    """One job: its result."""
    what, numbers = words[0], [float(w) for w in words[1:]]
    if what == "gemm":
        a, b, c = arrays
        ta, tb, beta = numbers
        k = a.shape[0 if ta else 1]
        call(
            blas,
            "sgemm",
            ROW_MAJOR,
            TRANSPOSED if ta else PLAIN,
            TRANSPOSED if tb else PLAIN,
            c.shape[0],
            c.shape[1],
            k,
            1.0,
            a,
            a.shape[1],
            b,
            b.shape[1],
            beta,
            c,
            c.shape[1],
        )
        return c
    if what in ("rows", "mean", "columns"):
        a, y = arrays
        ones = np.ones(a.shape[0 if what == "columns" else 1], np.float32)
        alpha, beta = 1.0, numbers[0] if numbers else 1.0
        if what == "mean":
            alpha, beta = 1.0 / a.shape[1], 0.0
        call(
            blas,
            "sgemv",
            ROW_MAJOR,
            TRANSPOSED if what == "columns" else PLAIN,
            a.shape[0],
            a.shape[1],
            alpha,
            a,
            a.shape[1],
            ones,
            1,
            beta,
            y,
            1,
        )
        return y
    x, y = arrays
    if what == "dot":
        blas.cblas_sdot.restype = ctypes.c_float
        return np.array([call(blas, "sdot", y.size, x, 1, y, 1)], np.float32)
    if what == "axpby":  # as mkl_alternate.hpp has it
        call(blas, "sscal", y.size, numbers[1], y, 1)
    call(blas, "saxpy", y.size, numbers[0], x, 1, y, 1)
    return y


def main(jobs_path, out_path):
    blas = ctypes.CDLL("libopenblas.so.0")
    blas.openblas_get_corename.restype = ctypes.c_char_p
    out = {"kernels": np.array(blas.openblas_get_corename().decode())}
    with np.load(jobs_path) as file:
        arrays = {name: file[name].copy() for name in file.files}
    jobs = sorted({name.rsplit("/", 1)[0] for name in arrays})
    for job in jobs:
        own = [arrays[name] for name in sorted(arrays) if name.rsplit("/", 1)[0] == job]
        out[job] = run(blas, job.split()[1:], own)
    np.savez(out_path, **out)


if __name__ == "__main__":
    main(*sys.argv[1:])
