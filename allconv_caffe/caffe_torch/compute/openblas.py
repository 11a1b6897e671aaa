"""The order in which Caffe's BLAS takes sums: OpenBLAS 0.3.13 on one thread, as Debian 11 ships it.

A float32 sum depends on its order. What is known of this one, found by experiment on that library (tests/parity/test_caffe_sums.py
holds it to this):

* sgemm, C (M x N, row-major) += A B. The K products of an element are cut into blocks: q of them while 2q or more are
  left; of more than q, half, rounded up to a multiple of 16 (8 in the Haswell kernels); else the rest. Within a block each
  product is added to the one accumulator by a fused multiply-add, from zero, in ascending order. Then C += accumulator.
* Haswell's kernels (also taken for AMD's Zen) have q = 320 and, for some elements, two accumulators: one for the products
  of even and one for those of odd number, as far as whole eights of products go; the rest goes to the first; the two are
  added at the end. Which elements: N is cut by the same rule into blocks of 320 or less columns, each block into tiles of 8.
  Of every whole twelve rows, the first six have two accumulators in the first tile of a block, and in the last tile
  the first six (an even number of tiles) or the last six (an odd one), unless there is only one tile. Of the rows beyond
  the last twelve, every whole four have two in every tile; but if these are eight, only in the first block of columns.
* SkylakeX's kernels have q = 448 and one accumulator everywhere.
* sgemv by a vector of ones, row by row (a bias's gradient): eight lanes, the row's remainder of four first, then in pairs.
* sdot has four vectors of lanes, of 8 (Haswell) or 16 (SkylakeX), each a fused multiply-add per product; what is left beyond whole
  fours of vectors, after another of 8 lanes in SkylakeX's, is multiplied in float32 and summed in double, as is the total.
* saxpy is one fused multiply-add per element; saxpby scales y first, and rounds, then is as saxpy.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from allconv_caffe.caffe_torch.compute.cpuinfo import field, text


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """One of OpenBLAS's sets of kernels."""

    name: str  # as OPENBLAS_CORETYPE has it
    q: int  # products in a block of a sum
    unit: int  # to a multiple of which a half block is rounded up
    p: int  # columns in a block of columns; 0: they do not matter
    lanes: int  # of a vector in sdot


HASWELL = Kernels(name="Haswell", q=320, unit=8, p=320, lanes=8)
SKYLAKEX = Kernels(name="SkylakeX", q=448, unit=16, p=0, lanes=16)
#: what OPENBLAS_CORETYPE may say, in lower case
CORE_TYPES = {"haswell": HASWELL, "zen": HASWELL, "skylakex": SKYLAKEX}


def kernels(core_type: str, machine: str, cpuinfo: str) -> Kernels | str:
    """The kernels that OpenBLAS 0.3.13 takes on a processor; in words, why they are not known.

    Args:
        core_type: what OPENBLAS_CORETYPE says ("": nothing), which OpenBLAS obeys.
        machine: the architecture, such as "x86_64".
        cpuinfo: what /proc/cpuinfo says.
    """
    if machine not in ("x86_64", "AMD64"):
        return f"OpenBLAS's order on {machine} is not known (known: x86_64)"
    flags = set((field(cpuinfo, "flags") or "").split())
    if not {"avx2", "fma"} <= flags:
        return "OpenBLAS's order on a processor without AVX2 and FMA is not known"
    if core_type:
        found = CORE_TYPES.get(core_type.lower())
        return found or f"OPENBLAS_CORETYPE={core_type}: its order is not known (known: Haswell, SkylakeX, Zen)"
    vendor, family = field(cpuinfo, "vendor_id"), int(field(cpuinfo, "cpu family") or 0)
    if vendor in ("AuthenticAMD", "HygonGenuine") and family in (0x17, 0x18, 0x19):
        return HASWELL
    if vendor == "GenuineIntel" and family == 6 and "avx512_bf16" not in flags:
        return SKYLAKEX if "avx512vl" in flags else HASWELL
    return (
        f"which kernels OpenBLAS takes on this processor ({vendor}, family {family}) is not known "
        "(OPENBLAS_CORETYPE=Haswell or SkylakeX tells it, and us)"
    )


def better_core(core: str | None, cpuinfo: str) -> str | None:
    """What OPENBLAS_CORETYPE makes faster on a processor that is younger than OpenBLAS, which takes the kernels of one without
    AVX for it; None where it has chosen well.

    Args:
        core: whose kernels it has chosen, by itself; None: it is not OpenBLAS.
        cpuinfo: what /proc/cpuinfo says.
    """
    flags = set((field(cpuinfo, "flags") or "").split())
    if core is None or core.lower() in {*CORE_TYPES, "cooperlake"} or not {"avx2", "fma"} <= flags:
        return None
    return (SKYLAKEX if "avx512vl" in flags else HASWELL).name


def order_here() -> Kernels | str:
    """The kernels that OpenBLAS 0.3.13 takes in this process; in words, why they are not known."""
    return kernels(os.environ.get("OPENBLAS_CORETYPE", ""), platform.machine(), text())
