"""Runs command lines of caffe-torch, or pycaffe's calls, one after the other in this process.

    python hostile_worker.py jobs.json answers.jsonl

A job: {"name", "folder", "argv"} or {"name", "folder", "code"}. Its name is written before it starts, so that a crash is
known by it; then its answer: {"name", "status", "out", "err", "seconds", "trace"}. `trace` is what no user should see.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from hostile_files import bound_memory

SECONDS = 60  # for one job, on a machine that does ten other things


class TooSlow(BaseException):
    pass


def _too_slow(*_: object) -> None:
    raise TooSlow


def run(job: dict[str, Any]) -> dict[str, Any]:
    from allconv_caffe import pycaffe as caffe
    from allconv_caffe.caffe_torch import glog
    from allconv_caffe.caffe_torch.source.loaded import forget_loaded
    from allconv_caffe.caffe_torch.tools import caffe as caffe_torch

    os.chdir(job["folder"])
    forget_loaded()
    out, err = io.StringIO(), io.StringIO()
    status: int | None = None
    trace = ""
    began = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if "argv" in job:
                status = caffe_torch.main(job["argv"])
            else:
                try:
                    exec(job["code"], {"caffe": caffe})
                    status = 0
                except caffe.CaffeError as error:
                    print(error, file=sys.stderr)
                    status = 1
                except RuntimeError as error:
                    if not str(error).startswith("Could not open file "):  # pycaffe's own
                        raise
                    print(error, file=sys.stderr)
                    status = 1
    except BaseException:  # whatever comes out here is what the tests look for
        trace = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        glog.init()
    return {
        "name": job["name"],
        "status": status,
        "out": out.getvalue(),
        "err": err.getvalue(),
        "trace": trace,
        "seconds": round(time.perf_counter() - began, 3),
    }


def main(jobs: str, answers: str) -> None:
    import torch

    import allconv_caffe.caffe_torch.solver
    import allconv_caffe.caffe_torch.tools.caffe
    import allconv_caffe.pycaffe  # noqa: F401

    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_slow)
    bound_memory()
    with open(answers, "w", encoding="utf-8") as file:
        for i, job in enumerate(json.loads(Path(jobs).read_text())):
            print(json.dumps({"name": job["name"], "begins": True}), file=file, flush=True)
            print(json.dumps(run(job)), file=file, flush=True)
            if i % 25 == 0:
                gc.collect()  # nets that were given up, and the threads that read for them


if __name__ == "__main__":
    main(*sys.argv[1:])
