// The layers of a forward pass over channels_last float32, as fast as this processor can: ../fast_math.py calls it.
//
// A product's inner loop holds up to ROWS pixels by WIDE channels in registers. Filters lie packed: for each panel of WIDE
// output channels the products' numbers in the order in which they are met.
//
// From the compiler's command line: P4, Q4, the interpolation points of Winograd's 4x4 tiles.

#include <cstdint>
typedef int64_t I;

extern "C" {
void caffe_last_conv(I n, I c, I h, I w, I o, I oh, I ow, I kh, I kw, I sh, I sw, I ph, I pw, I dh, I dw, I groups,
                     I planar, const float* x, const int32_t* packed, const float* bias, I relu, float* y, I threads);
void caffe_last_winograd(I m, I n, I c, I h, I w, I o, I oh, I ow, I kernel, I pad, I groups, const float* x,
                         const int32_t* packed, const float* bias, I relu, float* y, I threads);
void caffe_last_normalized(I pixels, I c, const float* x, const float* mean, const float* std, float* y, I threads);
void caffe_last_affine(I pixels, I c, const float* x, const float* scale, const float* bias, I relu, float* y, I threads);
void caffe_last_within(I n, I c, I h, I w, I size, float alpha, const float* x, float* scale, I threads);
void caffe_last_max(I n, I c, I h, I w, I oh, I ow, I kh, I kw, I sh, I sw, I ph, I pw, const float* x, float* y,
                    int32_t* index, I threads);
void caffe_last_average(I n, I c, I h, I w, I oh, I ow, I kh, I kw, I sh, I sw, I ph, I pw, const float* x, float* y,
                        I threads);
void caffe_last_lrn(I pixels, I c, I size, float factor, float k, const float* x, float* scale, I threads);
void caffe_last_quarters(I n, const float* x, const float* s, float* y, I threads);
void caffe_last_reorder(I n, I c, I plane, I last, float* x, I threads);
void caffe_last_product(I m, I n, I k, const float* x, const float* w, const float* bias, float* y, I threads);
}
#define MORE(KNOWN)                                                                                             \
    KNOWN(last_conv) KNOWN(last_winograd) KNOWN(last_normalized) KNOWN(last_affine) KNOWN(last_within) KNOWN(last_max) KNOWN(last_average) KNOWN(last_lrn) KNOWN(last_quarters) \
    KNOWN(last_reorder) KNOWN(last_product)
#include "caffe_math.cpp"
#include "transforms.h"

namespace last {

#ifdef __AVX512F__
constexpr int LANES = 16, ROWS = 12;
#else
constexpr int LANES = 8, ROWS = 6;
#endif
constexpr I WIDE = 2 * LANES;
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
#define UNROLL(i, n) _Pragma("GCC unroll 12") for (int i = 0; i < n; ++i)

// the first `count` numbers, or as many as a vector has; the others are 0, and are not stored
#ifdef __AVX512F__
static inline __mmask16 first(I count) { return count >= LANES ? 0xffff : count > 0 ? (1 << count) - 1 : 0; }
static inline vf load(const float* p, I count = LANES) { return (vf)_mm512_maskz_loadu_ps(first(count), p); }
static inline void store(float* p, vf v, I count = LANES) { _mm512_mask_storeu_ps(p, first(count), (__m512)v); }
static inline void store(int32_t* p, vi v, I count = LANES) { _mm512_mask_storeu_epi32(p, first(count), (__m512i)v); }
#else
static inline vi first(I count) { return (vi){0, 1, 2, 3, 4, 5, 6, 7} < (int32_t)std::min<I>(count, LANES); }
static inline vf load(const float* p, I count = LANES) {
    return (vf)(count >= LANES ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, (__m256i)first(count)));
}
static inline void store(float* p, vf v, I count = LANES) {
    if (count >= LANES) _mm256_storeu_ps(p, (__m256)v);
    else _mm256_maskstore_ps(p, (__m256i)first(count), (__m256)v);
}
static inline void store(int32_t* p, vi v, I count = LANES) { store((float*)p, (vf)v, count); }
#endif

// what is done with sums before they are stored: their bias added, if there is one, and what is negative cleared
struct Last {
    const float* bias;
    bool relu;
};
static inline vf cleared(vf x) { return (x > 0 ? x : x < 0 ? vf{} : x) + 0.f * (x < 0 ? x : vf{}); }  // nan for -inf

// c[i][0..columns) = the sum over the runs r and k < length of a[i * apart + run[r] + k] * b[(r * length + k) * V * LANES + ..]
template <int R, int V>
static inline void micro(I runs, const I* run, I length, const float* a, I apart, const float* b, float* c, I ldc,
                         I columns, Last last) {
    vf s[R][V];
    UNROLL(i, R) UNROLL(v, V) s[i][v] = last.bias ? load(last.bias + v * LANES, columns - v * LANES) : vf{};
    for (I r = 0; r < runs; ++r) {
        const float* at = a + run[r];
        for (I k = 0; k < length; ++k, b += V * LANES) {
            vf q[V];
            UNROLL(v, V) q[v] = load(b + v * LANES);
            UNROLL(i, R) {
                const float f = at[i * apart + k];
                UNROLL(v, V) s[i][v] += f * q[v];
            }
        }
    }
    if (last.relu) UNROLL(i, R) UNROLL(v, V) s[i][v] = cleared(s[i][v]);
    UNROLL(i, R) UNROLL(v, V) if (columns > v * LANES) store(c + i * ldc + v * LANES, s[i][v], columns - v * LANES);
}

template <int V>
static inline void tile(I rows, I runs, const I* run, I length, const float* a, I apart, const float* b, float* c,
                        I ldc, I columns, Last last) {
    switch (rows) {
#define CASE(R) case R: return micro<R, V>(runs, run, length, a, apart, b, c, ldc, columns, last);
#ifdef __AVX512F__
        CASE(12) CASE(11) CASE(10) CASE(9) CASE(8) CASE(7)
#endif
        CASE(6) CASE(5) CASE(4) CASE(3) CASE(2) CASE(1)
#undef CASE
    }
}

// `count` pixels, `apart` from one to the next, in tiles of about the same number
static inline void row(I count, I runs, const I* run, I length, const float* a, I apart, const float* b, float* c,
                       I ldc, I columns, Last last) {
    const I tiles = (count + ROWS - 1) / ROWS;
    for (I t = 0; t < tiles; ++t) {
        const I from = count * t / tiles, rows = count * (t + 1) / tiles - from;
        if (columns > LANES)
            tile<2>(rows, runs, run, length, a + from * apart, apart, b, c + from * ldc, ldc, columns, last);
        else tile<1>(rows, runs, run, length, a + from * apart, apart, b, c + from * ldc, ldc, columns, last);
    }
}

static thread_local Buffer local_x, local_v, local_g, local_zero;

// rows from..to of an image (h x w x c, of which `taken` channels from `first` on) with its padding; planar: (c x h x w)
static void gather(const float* x, I planar, I h, I w, I c, I first, I taken, I from, I to, I pw, float* out) {
    const I wide = w + 2 * pw;
    for (I i = from; i < to; ++i, out += wide * taken) {
        if (i < 0 || i >= h) {
            memset(out, 0, wide * taken * 4);
            continue;
        }
        memset(out, 0, pw * taken * 4);
        memset(out + (pw + w) * taken, 0, pw * taken * 4);
        float* to = out + pw * taken;
        if (planar) {
            for (I ch = 0; ch < taken; ++ch) {
                const float* fro = x + ((first + ch) * h + i) * w;
                for (I j = 0; j < w; ++j) to[j * taken + ch] = fro[j];
            }
        } else if (taken == c) memcpy(to, x + i * w * c, w * c * 4);
        else
            for (I j = 0; j < w; ++j) memcpy(to + j * taken, x + (i * w + j) * c + first, taken * 4);
    }
}

// c to co channels of images whose pixels lie xc and yc numbers apart
template <int m, int a>
static void winograd(I n, I c, I xc, I h, I w, I co, I yc, I oh, I ow, I pad, const float* x, const float* u, Last last,
                     float* y, I threads) {
    const I th = (oh + m - 1) / m, tw = (ow + m - 1) / m, tiles = n * th * tw;
    // of a size that the products' factors stay in the cache, and that each thread gets several
    I block = std::max<I>(ROWS, std::min<I>(4 * ROWS, (I(1) << 17) / (a * a * c) / ROWS * ROWS));
    while (block > ROWS && tiles < block * threads * 2) block -= ROWS;
    const I vs = block * c + 16, ms = block * co + 16;  // 16: streams a multiple of 4 KiB apart evict each other
    const I none = 0;
#pragma omp parallel num_threads(team(threads, tiles * a * a * c * co))
    {
        float* v = local_v.get(a * a * vs);
        float* g = local_g.get(a * a * ms);
        float* zero = local_zero.get(c);
        memset(zero, 0, c * 4);
#pragma omp for schedule(dynamic, 1)
        for (I b = 0; b < (tiles + block - 1) / block; ++b) {
            const I first = b * block, count = std::min(block, tiles - first);
            for (I t = 0; t < count; ++t) {
                const I id = first + t, tx = id % tw, ty = id / tw % th, image = id / (tw * th);
                const float* from[a * a];
                for (int i = 0; i < a; ++i)
                    for (int j = 0; j < a; ++j) {
                        const I r = ty * m - pad + i, s = tx * m - pad + j;
                        from[i * a + j] = r >= 0 && r < h && s >= 0 && s < w ? x + ((image * h + r) * w + s) * xc : zero;
                    }
                for (I ch = 0; ch < c; ch += LANES) {
                    vf z[a][a];
                    UNROLL(j, a) {
                        vf d[a], o[a];
                        UNROLL(i, a) d[i] = load(from[i * a + j] + ch);
                        Transform<a>::bt(d, o);
                        UNROLL(i, a) z[i][j] = o[i];
                    }
                    UNROLL(i, a) {
                        vf o[a];
                        Transform<a>::bt(z[i], o);
                        UNROLL(j, a) store(v + (i * a + j) * vs + t * c + ch, o[j]);
                    }
                }
            }
            for (int k = 0; k < a * a; ++k)
                for (I p = 0; p < co; p += WIDE)
                    row(count, 1, &none, c, v + k * vs, c, u + (k * co + p) * c, g + k * ms + p, co,
                        std::min(WIDE, co - p), {nullptr, false});
            for (I t = 0; t < count; ++t) {
                const I id = first + t, tx = id % tw, ty = id / tw % th, image = id / (tw * th);
                float* to = y + ((image * oh + ty * m) * ow + tx * m) * yc;
                const I nr = std::min<I>(m, oh - ty * m), nc = std::min<I>(m, ow - tx * m);
                for (I ch = 0; ch < co; ch += LANES) {
                    vf z[m][a];
                    UNROLL(j, a) {
                        vf d[a], o[m];
                        UNROLL(i, a) d[i] = load(g + (i * a + j) * ms + t * co + ch);
                        Transform<a>::template at<m>(d, o);
                        UNROLL(i, m) z[i][j] = o[i];
                    }
                    const vf add = last.bias ? load(last.bias + ch) : vf{};
                    UNROLL(i, m) {
                        vf o[m];
                        Transform<a>::template at<m>(z[i], o);
                        if (i < nr)
                            UNROLL(j, m) if (j < nc) {
                                vf r = o[j] + add;
                                if (last.relu) r = cleared(r);
                                store(to + (i * ow + j) * yc + ch, r);
                            }
                    }
                }
            }
        }
    }
}

struct Axis {  // a pooling window along it
    I kernel, stride, pad, size;
    I begin(I o) const { return std::max<I>(o * stride - pad, 0); }
    I end(I o) const { return std::min(o * stride - pad + kernel, size); }
    I length(I o) const { return std::min(o * stride - pad + kernel, size + pad) - (o * stride - pad); }
};

}  // namespace last

using namespace last;

extern "C" {

// y = x * w + bias: images (h x w x c), planar: (c x h x w), to (oh x ow x o)
void caffe_last_conv(I n, I c, I h, I w, I o, I oh, I ow, I kh, I kw, I sh, I sw, I ph, I pw, I dh, I dw, I groups,
                     I planar, const float* x, const int32_t* packed, const float* bias, I relu, float* y, I threads) {
    const float* b = (const float*)packed;
    const bool plain = !planar && !ph && !pw && groups == 1;
    if (plain && kh == 1 && kw == 1 && sh == 1 && sw == 1) {  // all pixels in one row
        ow *= n * oh;
        w = ow;
        n = h = oh = 1;
    }
    const I taken = c / groups, out = o / groups, k = kh * kw * taken, wide = plain ? w : w + 2 * pw;
    // runs of numbers that lie together under a window
    const I length = dw == 1 ? kw * taken : taken, runs = dw == 1 ? kh : kh * kw;
    std::vector<I> run(runs);
    for (I r = 0; r < runs; ++r) run[r] = dw == 1 ? r * dh * wide * taken : (r / kw * dh * wide + r % kw * dw) * taken;
    // pieces: some rows of an image, or where there is but one, some of its columns; few pieces: some of the panels, too
    const I workers = team(threads, n * oh * ow * o * k), panels = (out + WIDE - 1) / WIDE;
    const I packs = (out + LANES - 1) / LANES * LANES * k, reach = (kh - 1) * dh + 1;
    I rows = std::max<I>(1, std::min(oh, ((I(1) << 16) / (wide * taken) - reach) / sh + 1));
    I columns = oh == 1 ? std::max<I>(ROWS, std::min<I>(ow, (I(1) << 15) / taken / ROWS * ROWS)) : ow;
    while (rows > 4 && n * groups * ((oh + rows - 1) / rows) < 4 * workers) rows = (rows + 1) / 2;
    const I downs = (oh + rows - 1) / rows, acrosses = (ow + columns - 1) / columns, pieces = n * groups * downs * acrosses;
    const I cut = pieces < 4 * workers ? std::min(panels, (4 * workers + pieces - 1) / pieces) : 1;
#pragma omp parallel for num_threads(workers) schedule(dynamic, 1)
    for (I piece = 0; piece < pieces * cut; ++piece) {
        const I part = piece % cut, across = piece / cut % acrosses, down = piece / cut / acrosses % downs;
        const I g = piece / cut / acrosses / downs % groups, image = piece / cut / acrosses / downs / groups;
        const I first = down * rows, end = std::min(oh, first + rows), left = across * columns;
        const I count = std::min(columns, ow - left);
        const float* a = x + image * h * w * c;
        if (plain) a += first * sh * w * c;
        else {
            float* own = local_x.get(((end - first - 1) * sh + reach) * wide * taken);
            gather(a, planar, h, w, c, g * taken, taken, first * sh - ph, (end - 1) * sh - ph + reach, pw, own);
            a = own;
        }
        for (I p = panels * part / cut; p < panels * (part + 1) / cut; ++p) {
            const I at = g * out + p * WIDE;
            const Last last{bias ? bias + at : nullptr, relu != 0};
            for (I i = first; i < end; ++i)
                row(count, runs, run.data(), length, a + ((i - first) * sh * wide + left * sw) * taken, sw * taken,
                    b + g * packs + p * WIDE * k, y + ((image * oh + i) * ow + left) * o + at, o,
                    std::min(WIDE, out - p * WIDE), last);
        }
    }
}

// by tiles of m x m outputs
void caffe_last_winograd(I m, I n, I c, I h, I w, I o, I oh, I ow, I kernel, I pad, I groups, const float* x,
                         const int32_t* packed, const float* bias, I relu, float* y, I threads) {
    const I taken = c / groups, out = o / groups, a = m + kernel - 1;
    for (I g = 0; g < groups; ++g) {
        const float* u = (const float*)packed + g * a * a * taken * out;
        const Last last{bias ? bias + g * out : nullptr, relu != 0};
        const auto run = m == 4 ? winograd<4, 6> : kernel == 5 ? winograd<2, 6> : winograd<2, 4>;
        run(n, taken, c, h, w, out, o, oh, ow, pad, x + g * taken, u, last, y + g * out, threads);
    }
}

// (x - mean) / std, channel by channel
void caffe_last_normalized(I pixels, I c, const float* x, const float* mean, const float* std, float* y, I threads) {
#pragma omp parallel for num_threads(team(threads, pixels * c)) schedule(static)
    for (I i = 0; i < pixels; ++i)
        for (I at = 0; at < c; at += LANES)
            store(y + i * c + at, (load(x + i * c + at, c - at) - load(mean + at, c - at)) / load(std + at, c - at), c - at);
}

// scale x + bias, channel by channel
void caffe_last_affine(I pixels, I c, const float* x, const float* scale, const float* bias, I relu, float* y, I threads) {
#pragma omp parallel for num_threads(team(threads, pixels * c)) schedule(static)
    for (I i = 0; i < pixels; ++i)
        for (I at = 0; at < c; at += LANES) {
            const vf s = load(x + i * c + at, c - at) * load(scale + at, c - at) + load(bias + at, c - at);
            store(y + i * c + at, relu ? cleared(s) : s, c - at);
        }
}

// y, and, if wanted, for each the flat place h * w of its maximum; -FLT_MAX and -1 where nothing is greater than -FLT_MAX
void caffe_last_max(I n, I c, I h, I w, I oh, I ow, I kh, I kw, I sh, I sw, I ph, I pw, const float* x, float* y,
                    int32_t* index, I threads) {
    const Axis r{kh, sh, ph, h}, q{kw, sw, pw, w};
#pragma omp parallel for collapse(2) num_threads(team(threads, n * c * oh * ow * kh * kw / 8))
    for (I i = 0; i < n; ++i)
        for (I u = 0; u < oh; ++u)
            for (I v = 0; v < ow; ++v) {
                const float* image = x + i * h * w * c;
                const I out = ((i * oh + u) * ow + v) * c, h1 = r.end(u), w1 = q.end(v);
                for (I at = 0; at < c; at += LANES) {
                    vf best = vf{} - FLT_MAX;
                    vi place = vi{} - 1;
                    for (I a = r.begin(u); a < h1; ++a)
                        for (I b = q.begin(v); b < w1; ++b) {
                            const I flat = a * w + b;
                            const vf one = load(image + flat * c + at, c - at);
                            const vi better = one > best;
                            best = better ? one : best;
                            place = better ? vi{} + (int32_t)flat : place;
                        }
                    store(y + out + at, best, c - at);
                    if (index) store(index + out + at, place, c - at);
                }
            }
}

void caffe_last_average(I n, I c, I h, I w, I oh, I ow, I kh, I kw, I sh, I sw, I ph, I pw, const float* x, float* y,
                        I threads) {
    const Axis r{kh, sh, ph, h}, q{kw, sw, pw, w};
#pragma omp parallel for collapse(2) num_threads(team(threads, n * c * oh * ow * kh * kw / 8))
    for (I i = 0; i < n; ++i)
        for (I u = 0; u < oh; ++u)
            for (I v = 0; v < ow; ++v) {
                const float* image = x + i * h * w * c;
                const I out = ((i * oh + u) * ow + v) * c, h1 = r.end(u), w1 = q.end(v);
                const float size = r.length(u) * q.length(v);
                for (I at = 0; at < c; at += LANES) {
                    vf sum{};
                    for (I a = r.begin(u); a < h1; ++a)
                        for (I b = q.begin(v); b < w1; ++b) sum += load(image + (a * w + b) * c + at, c - at);
                    store(y + out + at, sum / size, c - at);
                }
            }
}

// scale = 1 + alpha times the mean square of size x size pixels around each; those outside count as 0
void caffe_last_within(I n, I c, I h, I w, I size, float alpha, const float* x, float* scale, I threads) {
    const Axis r{size, 1, size / 2, h}, q{size, 1, size / 2, w};
    const float by = alpha / (size * size);
#pragma omp parallel for collapse(2) num_threads(team(threads, n * c * h * w))
    for (I i = 0; i < n; ++i)
        for (I u = 0; u < h; ++u)
            for (I v = 0; v < w; ++v)
                for (I at = 0; at < c; at += LANES) {
                    const I h1 = r.end(u), w1 = q.end(v);
                    vf sum{};
                    for (I a = r.begin(u); a < h1; ++a)
                        for (I b = q.begin(v); b < w1; ++b) {
                            const vf one = load(x + ((i * h + a) * w + b) * c + at, c - at);
                            sum += one * one;
                        }
                    store(scale + ((i * h + u) * w + v) * c + at, 1.f + by * sum, c - at);
                }
}

// scale = k + factor times the sum of the squares of `size` channels around each
void caffe_last_lrn(I pixels, I c, I size, float factor, float k, const float* x, float* scale, I threads) {
    const I half = size / 2;
#pragma omp parallel num_threads(team(threads, pixels * c))
    {
        float* squares = local_x.get(c + 2 * half + LANES);
        memset(squares, 0, (c + 2 * half + LANES) * 4);
#pragma omp for schedule(static)
        for (I i = 0; i < pixels; ++i) {
            for (I j = 0; j < c; ++j) squares[half + j] = x[i * c + j] * x[i * c + j];
            for (I at = 0; at < c; at += LANES) {
                vf sum = load(squares + at);
                for (I e = 1; e < size; ++e) sum += load(squares + at + e);
                store(scale + i * c + at, k + factor * sum, c - at);
            }
        }
    }
}

// y = x / s^(3/4)
void caffe_last_quarters(I n, const float* x, const float* s, float* y, I threads) {
#pragma omp parallel for num_threads(team(threads, n)) schedule(static)
    for (I i = 0; i < n; i += LANES) {
        vf root;
        const vf of = load(s + i, n - i);
        UNROLL(j, LANES) root[j] = sqrtf(of[j]);
        vf roots;
        UNROLL(j, LANES) roots[j] = sqrtf(root[j]);
        store(y + i, load(x + i, n - i) / (root * roots), n - i);
    }
}

// images of c x plane become plane x c (`last`), or those these, where they lie
void caffe_last_reorder(I n, I c, I plane, I last, float* x, I threads) {
    const I rows = last ? c : plane, columns = last ? plane : c, step = 16;
#pragma omp parallel for num_threads(team(threads, n * c * plane)) schedule(static)
    for (I i = 0; i < n; ++i) {
        float* image = x + i * c * plane;
        float* from = local_x.get(c * plane);
        memcpy(from, image, c * plane * 4);
        for (I r = 0; r < rows; r += step)
            for (I s = 0; s < columns; s += step)
                for (I b = s; b < std::min(columns, s + step); ++b)
                    for (I a = r; a < std::min(rows, r + step); ++a) image[b * rows + a] = from[a * columns + b];
    }
}

}  // extern "C"

namespace last {

#ifdef __AVX512F__
constexpr int DOWN = 4, ACROSS = 6;
#else
constexpr int DOWN = 2, ACROSS = 4;
#endif

// y[i * n + j] = x[i * k ..] . w[j * k ..] + bias[j]
template <int R, int S>
static inline void dots(I n, I k, const float* x, const float* w, const float* bias, float* y) {
    vf s[R][S];
    UNROLL(i, R) UNROLL(j, S) s[i][j] = vf{};
    const auto add = [&](I at, I count) __attribute__((always_inline)) {
        vf a[R];
        UNROLL(i, R) a[i] = load(x + i * k + at, count);
        UNROLL(j, S) {
            const vf b = load(w + j * k + at, count);
            UNROLL(i, R) s[i][j] += a[i] * b;
        }
    };
    I at = 0;
    for (; at + LANES <= k; at += LANES) add(at, LANES);
    if (at < k) add(at, k - at);
    UNROLL(i, R) UNROLL(j, S) {
        float total = 0;
        for (int e = 0; e < LANES; ++e) total += s[i][j][e];
        y[i * n + j] = total + (bias ? bias[j] : 0.f);
    }
}

template <int S>
static inline void down(I rows, I n, I k, const float* x, const float* w, const float* bias, float* y) {
    switch (rows) {
#define CASE(R) case R: return dots<R, S>(n, k, x, w, bias, y);
#ifdef __AVX512F__
        CASE(4) CASE(3)
#endif
        CASE(2) CASE(1)
#undef CASE
    }
}

}  // namespace last

extern "C" {

// y (m x n) = x (m x k) w (n x k)^T + bias
void caffe_last_product(I m, I n, I k, const float* x, const float* w, const float* bias, float* y, I threads) {
    const I tiles = (n + ACROSS - 1) / ACROSS;
#pragma omp parallel for num_threads(team(threads, m * n * k)) schedule(static)
    for (I t = 0; t < tiles; ++t) {
        const I from = t * ACROSS, end = std::min(n, from + ACROSS);
        for (I i = 0; i < m; i += DOWN) {
            const I rows = std::min<I>(DOWN, m - i);
            if (end - from == ACROSS)
                down<ACROSS>(rows, n, k, x + i * k, w + from * k, bias ? bias + from : nullptr, y + i * n + from);
            else
                for (I j = from; j < end; ++j)
                    down<1>(rows, n, k, x + i * k, w + j * k, bias ? bias + j : nullptr, y + i * n + j);
        }
    }
}

// whether n numbers are those of before: of two sums over them, which are kept
void caffe_last_digest(I n, const float* x, I* kept, I threads) {
    const I workers = team(threads, n), lanes = 8;
    uint64_t total[2] = {(uint64_t)n, 1};
#pragma omp parallel for num_threads(workers) schedule(static, 1)
    for (I part = 0; part < 64; ++part) {  // the same parts whatever the team
        const I from = n * part / 64 / 2 * 2, end = part == 63 ? n : n * (part + 1) / 64 / 2 * 2;
        uint64_t h[lanes];
        for (I j = 0; j < lanes; ++j) h[j] = 0x9e3779b97f4a7c15u * (uint64_t)(part * lanes + j + 1);
        I i = from;
        for (; i + 2 * lanes <= end; i += 2 * lanes) {
            uint64_t words[lanes];
            memcpy(words, x + i, sizeof words);
            for (I j = 0; j < lanes; ++j) h[j] = (h[j] ^ words[j]) * 0xd6e8feb86659fd93u;
            for (I j = 0; j < lanes; ++j) h[j] ^= h[j] >> 32;
        }
        for (; i < end; ++i) {
            uint32_t word;
            memcpy(&word, x + i, 4);
            h[i % lanes] = (h[i % lanes] ^ word) * 0xd6e8feb86659fd93u;
            h[i % lanes] ^= h[i % lanes] >> 29;
        }
        uint64_t one = 0, two = 0;
        for (I j = 0; j < lanes; ++j) {
            one = (one ^ h[j]) * 0xff51afd7ed558ccdu;
            one ^= one >> 33;
            two = (two + h[j]) * 0xc4ceb9fe1a85ec53u;
            two ^= two >> 31;
        }
#pragma omp atomic
        total[0] += one;
#pragma omp atomic
        total[1] += two;
    }
    memcpy(kept, total, sizeof total);
}

// channels in a vector; a panel has two
I caffe_last_lanes() { return LANES; }

}  // extern "C"
