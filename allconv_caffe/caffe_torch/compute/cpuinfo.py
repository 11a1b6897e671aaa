"""What /proc/cpuinfo says of the processor, for kernels, caches and records."""

from __future__ import annotations

import platform
import re
from pathlib import Path


def text() -> str:
    """All that it says, a block for each processor; "" where the system has no such file."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def field(cpuinfo: str, name: str) -> str | None:
    """The first entry of that name in such a text; None where there is none."""
    found = re.search(rf"^{re.escape(name)}\s*:[ \t]*(.*)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else None


def model_name() -> str:
    """What the processor is called, or its architecture where nobody says that."""
    return field(text(), "model name") or platform.processor() or platform.machine()
