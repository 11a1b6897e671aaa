"""Convolution kernels in C++, compiled once per machine by the compiler that torch.compile uses, called as torch ops.

oneDNN's direct 3x3 convolution leaves most of a CPU's time to arithmetic that Winograd's identity avoids. The kernels
here compute F(m x m, 3 x 3), m = 2 or 4, over channels_last float32: tiles are transformed, multiplied and transformed
back in blocks that stay in the cache. Without a C++ compiler there are no kernels; `why_not()` says so and the caller
convolves directly.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016); the interpolation points are ours.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

PANEL = 16  # output channels that the innermost loop holds in registers
NO_COMPILER = "no C++ compiler found; install g++ (or set CXX)"
LANES = 8  # channels that one vector holds

#: The finite interpolation points 0, +-p (and +-q). 5/8 and 3/2 have short binary fractions, so the transforms'
#: constants are exact, and of the pairs tried they round least: a quarter of the largest error of 1/2 and 1.
POINTS: dict[int, tuple[float, ...]] = {2: (1.0,), 4: (0.625, 1.5)}

_SOURCE = r"""
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <omp.h>

typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef int64_t I;

static inline v8 ld(const float* p) { return *(const v8*)p; }
static inline void st(float* p, v8 v) { *(v8*)p = v; }

struct Buffer {  // grows, is never returned: one iteration after the other needs the same
    float* p = nullptr; size_t n = 0;
    float* get(size_t want) {
        if (want > n) { free(p); n = want; p = (float*)aligned_alloc(4096, (n * 4 + 4095) / 4096 * 4096); }
        return p;
    }
};
static thread_local Buffer local_v, local_m, local_zero;
static Buffer shared_v, shared_m;

static const float* zeros(I n) {
    size_t had = local_zero.n;
    float* z = local_zero.get(n);
    if (local_zero.n != had) memset(z, 0, local_zero.n * 4);
    return z;
}

// C[i][0..16) (+)= sum_k A[i * ai + k * ak] * B[k * 16 + 0..16)
template <int MR>
static inline void micro(I K, const float* A, I ai, I ak, const float* B, float* C, I ldc, bool add) {
    v8 c0[MR], c1[MR];
    #pragma GCC unroll 6
    for (int i = 0; i < MR; ++i) {
        if (add) { c0[i] = ld(C + i * ldc); c1[i] = ld(C + i * ldc + 8); }
        else { c0[i] = v8{}; c1[i] = v8{}; }
    }
    for (I k = 0; k < K; ++k, A += ak, B += 16) {
        v8 b0 = ld(B), b1 = ld(B + 8);
        #pragma GCC unroll 6
        for (int i = 0; i < MR; ++i) { float a = A[i * ai]; c0[i] += a * b0; c1[i] += a * b1; }
    }
    #pragma GCC unroll 6
    for (int i = 0; i < MR; ++i) { st(C + i * ldc, c0[i]); st(C + i * ldc + 8, c1[i]); }
}

static inline void rows(I M, I K, const float* A, I ai, I ak, const float* B, float* C, I ldc, bool add) {
    I i = 0;
    for (; i + 6 <= M; i += 6) micro<6>(K, A + i * ai, ai, ak, B, C + i * ldc, ldc, add);
    A += i * ai; C += i * ldc;
    switch (M - i) {
        case 5: micro<5>(K, A, ai, ak, B, C, ldc, add); break;
        case 4: micro<4>(K, A, ai, ak, B, C, ldc, add); break;
        case 3: micro<3>(K, A, ai, ak, B, C, ldc, add); break;
        case 2: micro<2>(K, A, ai, ak, B, C, ldc, add); break;
        case 1: micro<1>(K, A, ai, ak, B, C, ldc, add); break;
    }
}

template <int m> struct F;
template <> struct F<2> {
    static inline void bt(const v8* d, v8* o) { o[0] = d[0] - d[2]; o[1] = d[2] + d[1]; o[2] = d[2] - d[1]; o[3] = d[3] - d[1]; }
    static inline void at(const v8* x, v8* o) { o[0] = x[0] + (x[1] + x[2]); o[1] = (x[1] - x[2]) + x[3]; }
    static inline void a(const v8* y, v8* o) { o[0] = y[0]; o[1] = y[0] + y[1]; o[2] = y[0] - y[1]; o[3] = y[1]; }
};
template <> struct F<4> {
    static constexpr float p = P4, q = Q4, pp = p * p, qq = q * q;
    static inline void bt(const v8* d, v8* o) {
        v8 a = d[4] - qq * d[2], b = p * (d[3] - qq * d[1]), c = d[4] - pp * d[2], e = q * (d[3] - pp * d[1]);
        o[0] = (pp * qq) * d[0] - (pp + qq) * d[2] + d[4];
        o[1] = a + b; o[2] = a - b; o[3] = c + e; o[4] = c - e;
        o[5] = (pp * qq) * d[1] - (pp + qq) * d[3] + d[5];
    }
    static inline void at(const v8* x, v8* o) {
        v8 s = x[1] + x[2], d = x[1] - x[2], t = x[3] + x[4], e = x[3] - x[4];
        o[0] = x[0] + (s + t); o[1] = p * d + q * e; o[2] = pp * s + qq * t; o[3] = (pp * p) * d + (qq * q) * e + x[5];
    }
    static inline void a(const v8* y, v8* o) {
        v8 s = y[0] + pp * y[2], d = p * y[1] + (pp * p) * y[3], t = y[0] + qq * y[2], e = q * y[1] + (qq * q) * y[3];
        o[0] = y[0]; o[1] = s + d; o[2] = s - d; o[3] = t + e; o[4] = t - e; o[5] = y[3];
    }
};

struct Shape { I n, h, w, c, oh, ow, co, pad, th, tw; };

// Where each of the size x size pixels of a tile lies, starting at (y, x); outside the image: zeros.
template <int size>
static inline void tile(const float* image, I h, I w, I c, I y, I x, const float* zero, const float** at) {
    for (int i = 0; i < size; ++i) for (int j = 0; j < size; ++j) {
        I r = y + i, s = x + j;
        at[i * size + j] = (r >= 0 && r < h && s >= 0 && s < w) ? image + (r * w + s) * c : zero;
    }
}

template <int m>
static inline void to_v(const float** at, I c, float* v, I stride) {  // v[k * stride + channel] = B^T d B
    constexpr int a = m + 2;
    for (I ch = 0; ch < c; ch += 8) {
        v8 t[a][a];
        #pragma GCC unroll 6
        for (int j = 0; j < a; ++j) {
            v8 d[a], o[a];
            #pragma GCC unroll 6
            for (int i = 0; i < a; ++i) d[i] = ld(at[i * a + j] + ch);
            F<m>::bt(d, o);
            #pragma GCC unroll 6
            for (int i = 0; i < a; ++i) t[i][j] = o[i];
        }
        #pragma GCC unroll 6
        for (int i = 0; i < a; ++i) {
            v8 o[a];
            F<m>::bt(t[i], o);
            #pragma GCC unroll 6
            for (int j = 0; j < a; ++j) st(v + (i * a + j) * stride + ch, o[j]);
        }
    }
}

template <int m>
static void forward(const float* x, const float* u, const float* bias, float* y, Shape s) {
    constexpr int a = m + 2;
    const I tiles = s.n * s.th * s.tw, block = BLOCK, panels = s.co / 16;
    const I vs = block * s.c + 16, ms = block * s.co + 16;  // 16: streams a multiple of 4 KiB apart evict each other
    #pragma omp parallel
    {
        float* v = local_v.get(a * a * vs);
        float* g = local_m.get(a * a * ms);
        const float* zero = zeros(std::max(s.c, s.co));
        #pragma omp for schedule(dynamic, 1)
        for (I b = 0; b < (tiles + block - 1) / block; ++b) {
            const I first = b * block, count = std::min(block, tiles - first);
            for (I t = 0; t < count; ++t) {
                I id = first + t, tx = id % s.tw, ty = id / s.tw % s.th, n = id / (s.tw * s.th);
                const float* at[a * a];
                tile<a>(x + n * s.h * s.w * s.c, s.h, s.w, s.c, ty * m - s.pad, tx * m - s.pad, zero, at);
                to_v<m>(at, s.c, v + t * s.c, vs);
            }
            for (int k = 0; k < a * a; ++k)
                for (I p = 0; p < panels; ++p)
                    rows(count, s.c, v + k * vs, s.c, 1, u + (k * panels + p) * s.c * 16, g + k * ms + p * 16, s.co, false);
            for (I t = 0; t < count; ++t) {
                I id = first + t, tx = id % s.tw, ty = id / s.tw % s.th, n = id / (s.tw * s.th);
                float* to = y + ((n * s.oh + ty * m) * s.ow + tx * m) * s.co;
                const I nr = std::min<I>(m, s.oh - ty * m), nc = std::min<I>(m, s.ow - tx * m);
                for (I ch = 0; ch < s.co; ch += 8) {
                    v8 z[m][a];
                    #pragma GCC unroll 6
                    for (int j = 0; j < a; ++j) {
                        v8 d[a], o[m];
                        #pragma GCC unroll 6
                        for (int i = 0; i < a; ++i) d[i] = ld(g + (i * a + j) * ms + t * s.co + ch);
                        F<m>::at(d, o);
                        #pragma GCC unroll 6
                        for (int i = 0; i < m; ++i) z[i][j] = o[i];
                    }
                    v8 add = bias ? ld(bias + ch) : v8{};
                    #pragma GCC unroll 6
                    for (int i = 0; i < m; ++i) {
                        v8 o[m];
                        F<m>::at(z[i], o);
                        if (i < nr)
                            for (int j = 0; j < m; ++j) if (j < nc) st(to + (i * s.ow + j) * s.co + ch, o[j] + add);
                    }
                }
            }
        }
    }
}

template <int m>
static void weight(const float* x, const float* dy, float* du, Shape s) {  // du: [a * a][c][co]
    constexpr int a = m + 2;
    const I tiles = s.n * s.th * s.tw, chunk = CHUNK, panels = s.co / 16;
    const I vs = chunk * s.c + 16, ms = chunk * s.co + 16, part = 48, parts = (s.c + part - 1) / part;
    float* v = shared_v.get(a * a * vs);
    float* g = shared_m.get(a * a * ms);
    #pragma omp parallel
    {
        const float* zero = zeros(std::max(s.c, s.co));
        for (I first = 0; first < tiles; first += chunk) {
            const I count = std::min(chunk, tiles - first);
            #pragma omp for schedule(static)
            for (I t = 0; t < count; ++t) {
                I id = first + t, tx = id % s.tw, ty = id / s.tw % s.th, n = id / (s.tw * s.th);
                const float* at[a * a];
                tile<a>(x + n * s.h * s.w * s.c, s.h, s.w, s.c, ty * m - s.pad, tx * m - s.pad, zero, at);
                to_v<m>(at, s.c, v + t * s.c, vs);
                tile<m>(dy + n * s.oh * s.ow * s.co, s.oh, s.ow, s.co, ty * m, tx * m, zero, at);
                for (I ch = 0; ch < s.co; ch += 8) {
                    v8 z[a][m];
                    #pragma GCC unroll 6
                    for (int j = 0; j < m; ++j) {
                        v8 d[m], o[a];
                        #pragma GCC unroll 6
                        for (int i = 0; i < m; ++i) d[i] = ld(at[i * m + j] + ch);
                        F<m>::a(d, o);
                        #pragma GCC unroll 6
                        for (int i = 0; i < a; ++i) z[i][j] = o[i];
                    }
                    float* to = g + (ch / 16 * chunk + t) * 16 + ch % 16;
                    #pragma GCC unroll 6
                    for (int i = 0; i < a; ++i) {
                        v8 o[a];
                        F<m>::a(z[i], o);
                        #pragma GCC unroll 6
                        for (int j = 0; j < a; ++j) st(to + (i * a + j) * ms, o[j]);
                    }
                }
            }
            #pragma omp for schedule(dynamic, 1)
            for (I item = 0; item < a * a * parts; ++item) {
                const I k = item / parts, from = item % parts * part;
                for (I p = 0; p < panels; ++p)
                    rows(std::min(part, s.c - from), count, v + k * vs + from, 1, s.c, g + k * ms + p * chunk * 16,
                         du + (k * s.c + from) * s.co + p * 16, s.co, first > 0);
            }
        }
    }
}

static Shape shape(I n, I h, I w, I c, I co, I pad, I m) {
    const I oh = h + 2 * pad - 2, ow = w + 2 * pad - 2;
    return {n, h, w, c, oh, ow, co, pad, (oh + m - 1) / m, (ow + m - 1) / m};
}

extern "C" void winograd_forward(I m, const float* x, const float* u, const float* bias, float* y,
                                 I n, I h, I w, I c, I co, I pad, I threads) {
    omp_set_num_threads((int)threads);
    if (m == 2) forward<2>(x, u, bias, y, shape(n, h, w, c, co, pad, m));
    else forward<4>(x, u, bias, y, shape(n, h, w, c, co, pad, m));
}

extern "C" void winograd_weight(I m, const float* x, const float* dy, float* du,
                                I n, I h, I w, I c, I co, I pad, I threads) {
    omp_set_num_threads((int)threads);
    if (m == 2) weight<2>(x, dy, du, shape(n, h, w, c, co, pad, m));
    else weight<4>(x, dy, du, shape(n, h, w, c, co, pad, m));
}
"""


class BuildError(RuntimeError):
    """The kernels could not be compiled; the text is the compiler's first complaint."""


def compiler() -> str | None:
    """The C++ compiler that CXX names, else g++ or clang++; None where there is none."""
    named = os.environ.get("CXX")
    return shutil.which(named) if named else shutil.which("g++") or shutil.which("clang++")


def _cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "allconv-caffe"


def build(cxx: str, name: str, source: str, flags: Sequence[str]) -> Path:
    """Compiles `source` for this processor unless it, these flags and this compiler have met before.

    Returns: the library's path in the cache. Raises BuildError, OSError.
    """
    flags = ["-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared", *flags]
    version = subprocess.run([cxx, "--version"], capture_output=True, text=True, check=False).stdout
    target = subprocess.run(
        [cxx, "-march=native", "-E", "-v", "-x", "c++", os.devnull, "-o", os.devnull],
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    key = hashlib.sha256("\0".join([source, version, target, *flags]).encode()).hexdigest()[:16]
    folder = _cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="allconv-caffe-"))
    library = folder / f"{name}-{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            written, built = Path(work) / f"{name}.cpp", Path(work) / f"{name}.so"
            written.write_text(source)
            done = subprocess.run(
                [cxx, *flags, str(written), "-o", str(built)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
                raise BuildError(f"{cxx}: {lines[0][:300]}")
            os.replace(built, library)  # whole or not at all, also with two processes at work
    return library


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    cxx = compiler()
    if cxx is None:
        return None, NO_COMPILER
    p4, q4 = POINTS[4]
    flags = ["-ffp-contract=fast", "-fno-math-errno", f"-DP4={p4}f", f"-DQ4={q4}f", "-DBLOCK=24", "-DCHUNK=192"]
    try:
        library = ctypes.CDLL(str(build(cxx, "conv", _SOURCE, flags)))
    except (BuildError, OSError) as error:
        return None, str(error)
    i, p = ctypes.c_int64, ctypes.c_void_p
    library.winograd_forward.argtypes = [i, p, p, p, p, i, i, i, i, i, i, i]
    library.winograd_weight.argtypes = [i, p, p, p, i, i, i, i, i, i, i]
    for function in (library.winograd_forward, library.winograd_weight):
        function.restype = None
    return library, None


def why_not() -> str | None:
    """What keeps this machine from the kernels, in words; None where nothing does. Compiles them on the first call."""
    return _load()[1]


def _library() -> ctypes.CDLL:
    library, reason = _load()
    if library is None:
        raise BuildError(f"the convolution kernels are not available: {reason}")
    return library


def _nhwc(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


@torch.library.custom_op("allconv_caffe::winograd", mutates_args=(), device_types="cpu")
def winograd(x: torch.Tensor, u: torch.Tensor, bias: torch.Tensor | None, m: int, pad: int) -> torch.Tensor:
    """A^T [sum over channels of u * (B^T d B)] A + bias, for every tile d of x: a 3x3 convolution with stride 1.

    Args:
        x: (N, C, H, W) float32, C a multiple of 8; without a copy if channels_last.
        u: ((m + 2)^2, O / 16, C, 16) float32: the transformed filters.
        bias: (O) float32 or None.
        m: outputs per tile side, 2 or 4.
        pad: zeros around the image.
    Returns: (N, O, H + 2 pad - 2, W + 2 pad - 2), channels_last.
    """
    n, c, h, w = x.shape
    image, u = _nhwc(x), u.contiguous()
    bias = None if bias is None else bias.contiguous()
    y = torch.empty(n, h + 2 * pad - 2, w + 2 * pad - 2, u.shape[1] * PANEL)
    _library().winograd_forward(
        m,
        image.data_ptr(),
        u.data_ptr(),
        None if bias is None else bias.data_ptr(),
        y.data_ptr(),
        n,
        h,
        w,
        c,
        y.shape[3],
        pad,
        torch.get_num_threads(),
    )
    return y.permute(0, 3, 1, 2)


@winograd.register_fake
def _(x: torch.Tensor, u: torch.Tensor, bias: torch.Tensor | None, m: int, pad: int) -> torch.Tensor:
    n, _, h, w = x.shape
    return x.new_empty(n, h + 2 * pad - 2, w + 2 * pad - 2, u.shape[1] * PANEL).permute(0, 3, 1, 2)


@torch.library.custom_op("allconv_caffe::winograd_weight", mutates_args=(), device_types="cpu")
def winograd_weight(x: torch.Tensor, dy: torch.Tensor, m: int, pad: int) -> torch.Tensor:
    """sum over tiles of (B^T d B) (A dy A^T): the gradient of the transformed filters.

    Args:
        x: (N, C, H, W) float32, C a multiple of 8.
        dy: (N, O, H + 2 pad - 2, W + 2 pad - 2) float32, O a multiple of 16.
        m, pad: as for `winograd`.
    Returns: ((m + 2)^2, C, O) float32.
    """
    n, c, h, w = x.shape
    image, diff = _nhwc(x), _nhwc(dy)
    du = torch.empty((m + 2) ** 2, c, dy.shape[1])
    _library().winograd_weight(
        m, image.data_ptr(), diff.data_ptr(), du.data_ptr(), n, h, w, c, dy.shape[1], pad, torch.get_num_threads()
    )
    return du


@winograd_weight.register_fake
def _(x: torch.Tensor, dy: torch.Tensor, m: int, pad: int) -> torch.Tensor:
    return x.new_empty((m + 2) ** 2, x.shape[1], dy.shape[1])
