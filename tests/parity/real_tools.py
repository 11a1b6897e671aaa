"""Caffe's other tools, as Debian's package of Caffe has them beside `caffe`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

DEBIAN = Path(__file__).resolve().parents[2] / ".caffe" / "root"
LIBRARIES = ("usr/lib/x86_64-linux-gnu/openblas-pthread", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib")


def run(name: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the real tool `name` in `folder`, its log on stderr alone."""
    command = [
        str(DEBIAN / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
        "--library-path",
        ":".join(str(DEBIAN / path) for path in LIBRARIES),
        str(DEBIAN / "usr/bin" / name),
    ]
    return subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
    )


def environment() -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GLOG", "FLAGS_", "LD_"))}
    return env | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GLOG_logtostderr": "1"}
