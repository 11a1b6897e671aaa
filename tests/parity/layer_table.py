"""docs/layers.md: every layer type, how far ours is from real Caffe, and where that was measured.

Measure and write: ``python tests/parity/layer_table.py`` (needs `make caffe`; on a machine without it the recorded results
serve). On a GPU: ``python tests/parity/layer_table.py --device cuda``; without Caffe there, real results of all cases travel
in a file: ``--record all.npz`` where Caffe is, ``--expected all.npz`` where the GPU is. Numbers are kept in docs/layers.json,
one entry for each device; the page is rendered from them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import layer_golden
import torch
from layer_harness import (
    HERE,
    PYTHON,
    Case,
    Results,
    collect,
    collect_errors,
    compare,
    elsewhere,
    run_ours,
    run_real,
    worst,
)

from allconv_caffe.caffe_torch.layer import REGISTRY

DOCS = HERE.parents[1] / "docs"
GPU_TESTS = "tests/caffe_torch/test_gpu.py"  # the types that a one-layer net cannot show, on a GPU beside the CPU
NUMBERS, PAGE = DOCS / "layers.json", DOCS / "layers.md"
HEAD = """# Layer types beside real Caffe

Written by `python tests/parity/layer_table.py` from `docs/layers.json`; do not edit.

Each case is a net of one layer, run forward and backward by real BVLC Caffe (git 99bd997, CPU) and by this engine with the
same parameters, inputs and top gradients. Compared are all tops, all bottom gradients, all parameters and all their gradients.
An error is the largest difference over the blob's largest absolute value; the column holds the worst over all cases. The
bound is 1e-5 unless the case states a reason. "Refused" counts wrong parameters for which real Caffe aborts and this engine
raises the same sentence. How to add a case: `tests/parity/layer_harness.py`.
"""


def measure(cases: list[Case], expected: dict[str, Results], device: str) -> dict[str, Any]:
    """type -> number of cases, largest forward and backward error on `device`. Raises KeyError for a case not in `expected`."""
    out: dict[str, Any] = {}
    for case in cases:
        real = expected[case.id]
        errors = compare(run_ours(case, real, device), real, case.ignore)
        row = out.setdefault(case.type, {"cases": 0, "forward": 0.0, "backward": None})
        row["cases"] += 1
        row["forward"] = max(row["forward"], worst(errors, "data"))
        if case.backward:
            row["backward"] = max(row["backward"] or 0.0, worst(errors, "diff"))
    return out


def summary(numbers: dict[str, Any], device: str) -> str:
    entry = numbers.get(device)
    if entry is None:
        return f"* {device}: not run."
    rows = entry["types"].values()
    cases = sum(row["cases"] for row in rows)
    return f"* {device}: {cases} cases of {len(entry['types'])} types against {entry['against']}; {entry['where']}."


def render(numbers: dict[str, Any]) -> str:
    """The page, from docs/layers.json."""
    lines = [HEAD, *(summary(numbers, device) for device in ("cpu", "cuda")), ""]
    lines += ["| type | forward | backward | cases | refused | CPU | GPU |", "|---|---|---|---|---|---|---|"]
    cpu = numbers["cpu"]["types"]
    for type_ in sorted({*cpu, *numbers["elsewhere"]}):
        refused = numbers["refused"].get(type_, 0)
        gpu = numbers.get("cuda", {}).get("types", {}).get(type_)
        on_gpu = "not run" if gpu is None else f"{max(gpu['forward'], gpu['backward'] or 0.0):.0e} in {gpu['cases']}"
        if type_ not in cpu and "cuda" in numbers:
            on_gpu = "refused" if type_ == "WindowData" else f"`{GPU_TESTS}`"
        if type_ in cpu:
            row = cpu[type_]
            back = "none" if row["backward"] is None else f"{row['backward']:.0e}"
            lines.append(f"| {type_} | {row['forward']:.0e} | {back} | {row['cases']} | {refused} | yes | {on_gpu} |")
        else:
            where = f"`tests/parity/{numbers['elsewhere'][type_]}`"
            lines.append(
                f"| {type_} | {where} | | | {refused} | {'refused' if type_ == 'WindowData' else 'yes'} | {on_gpu} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--render", action="store_true", help="only write the page again")
    parser.add_argument("--record", type=Path, help="only write real Caffe's results of all cases to this file")
    parser.add_argument("--expected", type=Path, help="real Caffe's results, as --record wrote them")
    options = parser.parse_args()
    if options.record:
        cases = collect()
        with tempfile.TemporaryDirectory() as folder:
            real = run_real(cases, [], Path(folder))
        layer_golden.write(cases, real, options.record)
        return
    numbers = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    if not options.render:
        cases = collect()
        if options.expected:
            expected, against = layer_golden.read(options.expected), "real Caffe's results of the same cases"
        elif PYTHON.exists():
            with tempfile.TemporaryDirectory() as folder:
                expected, against = run_real(cases, [], Path(folder)).results, "real Caffe in the same run"
        else:
            expected, against = layer_golden.read(), "results recorded from real Caffe"
            cases = [case for case in cases if case.id in expected]
        where = torch.cuda.get_device_name() if options.device == "cuda" else "one thread"
        where += f", torch {torch.__version__.partition('+')[0]}"
        numbers[options.device] = {
            "against": against,
            "where": where,
            "types": measure(cases, expected, options.device),
        }
        errors = [case.type for case in collect_errors() if case.type in REGISTRY]
        numbers["refused"] = {type_: errors.count(type_) for type_ in sorted(set(errors))}
        numbers["elsewhere"] = elsewhere()
        NUMBERS.write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(render(numbers))
    print(f"{PAGE.relative_to(HERE.parents[1])} written")


if __name__ == "__main__":
    sys.exit(main())
