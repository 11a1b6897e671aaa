// Convolution 3x3 or 5x5 with stride 1 by Winograd's identity, F(m x m, r x r), on tiles of a = m + r - 1 places a side (4 or
// 6), over channels_last float32 or bfloat16: tiles of the image are transformed, multiplied and transformed back in blocks that
// stay in the cache, in float32. ../winograd.py calls it.
//
// From the compiler's command line: P4, Q4, the interpolation points of a = 6; BLOCK, CHUNK, tiles to a block of the
// forward pass and of the filters' gradient.

#include <cstdint>
#include <cstring>
#include <algorithm>
#include <omp.h>
#include "buffer.h"
#include "transforms.h"

typedef int64_t I;

// what the products hold in registers: ROWS tiles by so many panels of 16 channels
#ifdef __AVX512F__
constexpr int LANES = 16, ROWS = 12, PANELS = 2;
#else
constexpr int LANES = 8, ROWS = 6, PANELS = 1;
#endif
typedef float vf __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t Half;  // bfloat16: the upper half of a float's bits
typedef uint16_t vh __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));

// every loop over registers is unrolled, or the compiler keeps them in memory
#define EACH(i, n) _Pragma("GCC unroll 12") for (int i = 0; i < n; ++i)

static inline vf ld(const float* p) { return *(const vf*)p; }
static inline vf ld(const Half* p) { return (vf)(__builtin_convertvector(*(const vh*)p, vu) << 16); }
static inline void st(float* p, vf v) { *(vf*)p = v; }
static inline void st(Half* p, vf v) {  // the nearest, ties to even
    const vu bits = (vu)v, near = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16, nan = (vu)(v != v);
    *(vh*)p = __builtin_convertvector((nan & (bits >> 16 | 0x40)) | (~nan & near), vh);
}

static thread_local Buffer local_v, local_m, local_zero;
static Buffer shared_v, shared_m;

template <class E>
static const E* zeros(I n) {
    size_t had = local_zero.n;
    float* z = local_zero.get(n);
    if (local_zero.n != had) memset(z, 0, local_zero.n * 4);
    return (const E*)z;
}

// C[i][p * 16 + 0..16) (+)= sum_k A[i * ai + k * ak] * B[p * bp + k * 16 + 0..16)
template <int R, int P>
static void micro(I K, const float* A, I ai, I ak, const float* B, I bp, float* C, I ldc, bool add) {
    constexpr int each = 16 / LANES, V = P * each;
    vf c[R][V];
    EACH(i, R) EACH(v, V) c[i][v] = add ? ld(C + i * ldc + v * LANES) : vf{};
    for (I k = 0; k < K; ++k, A += ak, B += 16) {
        vf b[V];
        EACH(v, V) b[v] = ld(B + v / each * bp + v % each * LANES);
        EACH(i, R) {
            const float a = A[i * ai];
            EACH(v, V) c[i][v] += a * b[v];
        }
    }
    EACH(i, R) EACH(v, V) st(C + i * ldc + v * LANES, c[i][v]);
}

template <int P>
static inline void rows(I M, I K, const float* A, I ai, I ak, const float* B, I bp, float* C, I ldc, bool add) {
    for (I i = 0; i < M; i += ROWS) {
        const float* a = A + i * ai;
        float* c = C + i * ldc;
        switch (std::min<I>(M - i, ROWS)) {
#define CASE(R) case R: micro<R, P>(K, a, ai, ak, B, bp, c, ldc, add); break;
#ifdef __AVX512F__
            CASE(12) CASE(11) CASE(10) CASE(9) CASE(8) CASE(7)
#endif
            CASE(6) CASE(5) CASE(4) CASE(3) CASE(2) CASE(1)
#undef CASE
        }
    }
}

// C (M, panels * 16) (+)= A (M, K) B, whose panels lie bp apart
static inline void product(I M, I K, I panels, const float* A, I ai, I ak, const float* B, I bp, float* C, I ldc,
                           bool add) {
    I p = 0;
    for (; p + PANELS <= panels; p += PANELS) rows<PANELS>(M, K, A, ai, ak, B + p * bp, bp, C + p * 16, ldc, add);
    for (; p < panels; ++p) rows<1>(M, K, A, ai, ak, B + p * bp, bp, C + p * 16, ldc, add);
}

struct Shape {
    I n, h, w, c, oh, ow, co, pad, th, tw;
};

// Where each of the size x size pixels of a tile lies, starting at (y, x); outside the image: zeros.
template <int size, class E>
static inline void tile(const E* image, I h, I w, I c, I y, I x, const E* zero, const E** at) {
    for (int i = 0; i < size; ++i)
        for (int j = 0; j < size; ++j) {
            I r = y + i, s = x + j;
            at[i * size + j] = (r >= 0 && r < h && s >= 0 && s < w) ? image + (r * w + s) * c : zero;
        }
}

template <int a, class E>
static inline void to_v(const E** at, I c, float* v, I stride) {  // v[k * stride + channel] = B^T d B
    for (I ch = 0; ch < c; ch += LANES) {
        vf t[a][a];
        EACH(j, a) {
            vf d[a], o[a];
            EACH(i, a) d[i] = ld(at[i * a + j] + ch);
            Transform<a>::bt(d, o);
            EACH(i, a) t[i][j] = o[i];
        }
        EACH(i, a) {
            vf o[a];
            Transform<a>::bt(t[i], o);
            EACH(j, a) st(v + (i * a + j) * stride + ch, o[j]);
        }
    }
}

template <int m, int a, class E>
static void forward(const E* x, const float* u, const float* bias, E* y, Shape s) {
    const I tiles = s.n * s.th * s.tw, block = BLOCK, panels = s.co / 16;
    const I vs = block * s.c + 16, ms = block * s.co + 16;  // 16: streams a multiple of 4 KiB apart evict each other
#pragma omp parallel
    {
        float* v = local_v.get(a * a * vs);
        float* g = local_m.get(a * a * ms);
        const E* zero = zeros<E>(std::max(s.c, s.co));
#pragma omp for schedule(dynamic, 1)
        for (I b = 0; b < (tiles + block - 1) / block; ++b) {
            const I first = b * block, count = std::min(block, tiles - first);
            for (I t = 0; t < count; ++t) {
                I id = first + t, tx = id % s.tw, ty = id / s.tw % s.th, n = id / (s.tw * s.th);
                const E* at[a * a];
                tile<a>(x + n * s.h * s.w * s.c, s.h, s.w, s.c, ty * m - s.pad, tx * m - s.pad, zero, at);
                to_v<a>(at, s.c, v + t * s.c, vs);
            }
            for (int k = 0; k < a * a; ++k)
                product(count, s.c, panels, v + k * vs, s.c, 1, u + k * panels * s.c * 16, s.c * 16, g + k * ms, s.co, false);
            for (I t = 0; t < count; ++t) {
                I id = first + t, tx = id % s.tw, ty = id / s.tw % s.th, n = id / (s.tw * s.th);
                E* to = y + ((n * s.oh + ty * m) * s.ow + tx * m) * s.co;
                const I nr = std::min<I>(m, s.oh - ty * m), nc = std::min<I>(m, s.ow - tx * m);
                for (I ch = 0; ch < s.co; ch += LANES) {
                    vf z[m][a];
                    EACH(j, a) {
                        vf d[a], o[m];
                        EACH(i, a) d[i] = ld(g + (i * a + j) * ms + t * s.co + ch);
                        Transform<a>::template at<m>(d, o);
                        EACH(i, m) z[i][j] = o[i];
                    }
                    vf add = bias ? ld(bias + ch) : vf{};
                    EACH(i, m) {
                        vf o[m];
                        Transform<a>::template at<m>(z[i], o);
                        if (i < nr)
                            for (int j = 0; j < m; ++j)
                                if (j < nc) st(to + (i * s.ow + j) * s.co + ch, o[j] + add);
                    }
                }
            }
        }
    }
}

template <int m, int a, class E>
static void weight(const E* x, const E* dy, float* du, Shape s) {  // du: [a * a][c][co]
    const I tiles = s.n * s.th * s.tw, chunk = CHUNK, panels = s.co / 16;
    const I vs = chunk * s.c + 16, ms = chunk * s.co + 16, part = 48, parts = (s.c + part - 1) / part;
    float* v = shared_v.get(a * a * vs);
    float* g = shared_m.get(a * a * ms);
#pragma omp parallel
    {
        const E* zero = zeros<E>(std::max(s.c, s.co));
        for (I first = 0; first < tiles; first += chunk) {
            const I count = std::min(chunk, tiles - first);
#pragma omp for schedule(static)
            for (I t = 0; t < count; ++t) {
                I id = first + t, tx = id % s.tw, ty = id / s.tw % s.th, n = id / (s.tw * s.th);
                const E* at[a * a];
                tile<a>(x + n * s.h * s.w * s.c, s.h, s.w, s.c, ty * m - s.pad, tx * m - s.pad, zero, at);
                to_v<a>(at, s.c, v + t * s.c, vs);
                tile<m>(dy + n * s.oh * s.ow * s.co, s.oh, s.ow, s.co, ty * m, tx * m, zero, at);
                for (I ch = 0; ch < s.co; ch += LANES) {
                    vf z[a][m];
                    EACH(j, m) {
                        vf d[m], o[a];
                        EACH(i, m) d[i] = ld(at[i * m + j] + ch);
                        Transform<a>::template a<m>(d, o);
                        EACH(i, a) z[i][j] = o[i];
                    }
                    float* to = g + (ch / 16 * chunk + t) * 16 + ch % 16;
                    EACH(i, a) {
                        vf o[a];
                        Transform<a>::template a<m>(z[i], o);
                        EACH(j, a) st(to + (i * a + j) * ms, o[j]);
                    }
                }
            }
#pragma omp for schedule(dynamic, 1)
            for (I item = 0; item < a * a * parts; ++item) {
                const I k = item / parts, from = item % parts * part;
                product(std::min(part, s.c - from), count, panels, v + k * vs + from, 1, s.c, g + k * ms, chunk * 16,
                        du + (k * s.c + from) * s.co, s.co, first > 0);
            }
        }
    }
}

static Shape shape(I n, I h, I w, I c, I co, I pad, I m, I r) {
    const I oh = h + 2 * pad - r + 1, ow = w + 2 * pad - r + 1;
    return {n, h, w, c, oh, ow, co, pad, (oh + m - 1) / m, (ow + m - 1) / m};
}

#define TILES(function, ...)                                          \
    if (m == 4) function<4, 6>(__VA_ARGS__);                          \
    else if (r == 3) function<2, 4>(__VA_ARGS__);                     \
    else function<2, 6>(__VA_ARGS__)

// half: x, y and dy are bfloat16, else float32
extern "C" void winograd_forward(I m, I r, I half, const void* x, const float* u, const float* bias, void* y, I n, I h, I w, I c,
                                 I co, I pad, I threads) {
    omp_set_num_threads((int)threads);
    const Shape s = shape(n, h, w, c, co, pad, m, r);
    const auto run = [&](auto* x, auto* y) { TILES(forward, x, u, bias, y, s); };
    half ? run((const Half*)x, (Half*)y) : run((const float*)x, (float*)y);
}

extern "C" void winograd_weight(I m, I r, I half, const void* x, const void* dy, float* du, I n, I h, I w, I c, I co, I pad,
                                I threads) {
    omp_set_num_threads((int)threads);
    const Shape s = shape(n, h, w, c, co, pad, m, r);
    const auto run = [&](auto* x, auto* dy) { TILES(weight, x, dy, du, s); };
    half ? run((const Half*)x, (const Half*)dy) : run((const float*)x, (const float*)dy);
}
