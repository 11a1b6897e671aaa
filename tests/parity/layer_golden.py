"""Real Caffe's results of a few small cases of every type, for where no Caffe is: tests/golden/layers/caffe.npz.

Record: ``python tests/parity/layer_golden.py`` (needs `make caffe`). The file holds one float32 array, all results end to
end, and an index: case id -> [[name of the result, shape], ...] in the order of the array.
"""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import groupby
from math import prod
from pathlib import Path

import numpy as np
from layer_harness import HERE, Case, Real, Results, collect, run_real

GOLDEN = HERE.parents[0] / "golden" / "layers" / "caffe.npz"
CAFFE = "BVLC Caffe git 99bd997 (Debian 1.0.0+git20180821.99bd997), CPU, OpenBLAS, one thread"
PER_TYPE = 3
VALUES = 400  # of one case


def choose(cases: list[Case], real: Real) -> list[Case]:
    """The cases with `golden`, and of each type the first, the middle and the last of the small ones."""
    chosen: list[Case] = []
    for _, group in groupby(cases, lambda case: case.type):
        own = [case for case in group if case.id in real.results and case.golden is not False]
        size = {case.id: sum(value.size for value in real.results[case.id].values()) for case in own}
        small = [case for case in own if size[case.id] <= VALUES] or sorted(own, key=lambda case: size[case.id])[:1]
        spread = {small[i * (len(small) - 1) // (PER_TYPE - 1)].id for i in range(PER_TYPE)} if small else set()
        chosen += [case for case in own if case.golden or case.id in spread]
    return chosen


def write(cases: list[Case], real: Real, path: Path) -> None:
    index = {c.id: [[name, list(value.shape)] for name, value in real.results[c.id].items()] for c in cases}
    values = [value.astype(np.float32).ravel() for c in cases for value in real.results[c.id].values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, values=np.concatenate(values), index=np.array(json.dumps(index)), caffe=np.array(CAFFE))


def read(path: Path = GOLDEN) -> dict[str, Results]:
    """Case id -> name of the result -> array."""
    with np.load(path) as file:
        values, index = file["values"], json.loads(str(file["index"]))
    out: dict[str, Results] = {}
    at = 0
    for case_id, results in index.items():
        out[case_id] = {}
        for name, dims in results:
            out[case_id][name] = values[at : at + prod(dims)].reshape(dims)
            at += prod(dims)
    return out


def main() -> None:
    cases = collect()
    with tempfile.TemporaryDirectory() as folder:
        real = run_real(cases, [], Path(folder))
    chosen = choose(cases, real)
    write(chosen, real, GOLDEN)
    print(f"{len(chosen)} cases of {len({c.type for c in chosen})} types, {GOLDEN.stat().st_size} bytes: {GOLDEN}")


if __name__ == "__main__":
    sys.exit(main())
