// Caffe's pooling over channels_last float32: vectors of channels under each window, forward; backward each pixel gathers
// from the windows that lie over it, in row order, so that sums are those of Caffe's loops. ../pooling.py calls it.
//
// Source: pooling_layer.cpp.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef int64_t I;

#ifdef __AVX512F__
constexpr I LANES = 16;
#else
constexpr I LANES = 8;
#endif
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));

// of the last channels, which fill no vector, those that are there
static inline vf load(const float* p, I count) {
    vf v{};
    if (count == LANES) memcpy(&v, p, sizeof v);
#ifdef __AVX512F__
    else v = (vf)_mm512_maskz_loadu_ps((__mmask16)((1 << count) - 1), p);
#else
    else memcpy(&v, p, 4 * count);
#endif
    return v;
}

static inline void store(float* p, vf v, I count) {
    if (count == LANES) memcpy(p, &v, sizeof v);
#ifdef __AVX512F__
    else _mm512_mask_storeu_ps(p, (__mmask16)((1 << count) - 1), (__m512)v);
#else
    else memcpy(p, &v, 4 * count);
#endif
}

static inline vi load(const int32_t* p, I count) { return (vi)load((const float*)p, count); }
static inline void store(int32_t* p, vi v, I count) { store((float*)p, (vf)v, count); }

struct Window {  // along one axis
    I kernel, stride, pad, size, places;
    std::vector<I> firsts, lasts;  // of each i: the places whose windows lie over it

    Window(const I* s, int axis)
        : kernel(s[6 + axis]), stride(s[8 + axis]), pad(s[10 + axis]), size(s[2 + axis]), places(s[4 + axis]) {
        for (I i = 0; i < size; ++i) {
            firsts.push_back(i + pad < kernel ? 0 : (i + pad - kernel) / stride + 1);
            lasts.push_back(std::min((i + pad) / stride, places - 1));
        }
    }
    I begin(I o) const { return std::max<I>(o * stride - pad, 0); }
    I end(I o) const { return std::min(o * stride - pad + kernel, size); }
    I length(I o) const { return std::min(o * stride - pad + kernel, size + pad) - (o * stride - pad); }
};

// `one(count, channel)` for all channels, a vector of them at a time; the last may be shorter
template <class One>
static inline void channels(I c, One one) {
    I at = 0;
    for (; at + LANES <= c; at += LANES) one(LANES, at);
    if (at < c) one(c - at, at);
}

extern "C" {

// y, and for each the flat place h * w of its maximum; -FLT_MAX and -1 where nothing is greater than -FLT_MAX
void pool_max(const I* s, const float* x, float* y, int32_t* index, int threads) {
    const I n = s[0], c = s[1];
    const Window r(s, 0), q(s, 1);
#pragma omp parallel for collapse(2) num_threads(threads)
    for (I i = 0; i < n; ++i)
        for (I oh = 0; oh < r.places; ++oh)
            for (I ow = 0; ow < q.places; ++ow) {
                const float* image = x + i * r.size * q.size * c;
                const I out = ((i * r.places + oh) * q.places + ow) * c;
                const I h0 = r.begin(oh), h1 = r.end(oh), w0 = q.begin(ow), w1 = q.end(ow);
                channels(c, [&](I count, I at) __attribute__((always_inline)) {
                    vf best = vf{} - FLT_MAX;
                    vi place = vi{} - 1;
                    for (I h = h0; h < h1; ++h)
                        for (I w = w0; w < w1; ++w) {
                            const I flat = h * q.size + w;
                            vf v = load(image + flat * c + at, count);
                            vi better = v > best;
                            best = better ? v : best;
                            place = better ? vi{} + (int32_t)flat : place;
                        }
                    store(y + out + at, best, count);
                    store(index + out + at, place, count);
                });
            }
}

void pool_max_backward(const I* s, const float* dy, const int32_t* index, float* dx, int threads) {
    const I n = s[0], c = s[1];
    const Window r(s, 0), q(s, 1);
#pragma omp parallel for collapse(2) num_threads(threads)
    for (I i = 0; i < n; ++i)
        for (I h = 0; h < r.size; ++h)
            for (I w = 0; w < q.size; ++w) {
                const I out = i * r.places * q.places * c, flat = h * q.size + w;
                float* to = dx + (i * r.size * q.size + flat) * c;
                const I oh0 = r.firsts[h], oh1 = r.lasts[h], ow0 = q.firsts[w], ow1 = q.lasts[w];
                channels(c, [&](I count, I at) __attribute__((always_inline)) {
                    vf sum{};
                    for (I oh = oh0; oh <= oh1; ++oh)
                        for (I ow = ow0; ow <= ow1; ++ow) {
                            const I from = out + (oh * q.places + ow) * c + at;
                            vi here = load(index + from, count) == (int32_t)flat;
                            sum += here ? load(dy + from, count) : vf{};
                        }
                    store(to + at, sum, count);
                });
            }
}

void pool_average(const I* s, const float* x, float* y, int threads) {
    const I n = s[0], c = s[1];
    const Window r(s, 0), q(s, 1);
#pragma omp parallel for collapse(2) num_threads(threads)
    for (I i = 0; i < n; ++i)
        for (I oh = 0; oh < r.places; ++oh)
            for (I ow = 0; ow < q.places; ++ow) {
                const float* image = x + i * r.size * q.size * c;
                const I out = ((i * r.places + oh) * q.places + ow) * c;
                const I h0 = r.begin(oh), h1 = r.end(oh), w0 = q.begin(ow), w1 = q.end(ow);
                const float size = r.length(oh) * q.length(ow);
                channels(c, [&](I count, I at) __attribute__((always_inline)) {
                    vf sum{};
                    for (I h = h0; h < h1; ++h)
                        for (I w = w0; w < w1; ++w) sum += load(image + (h * q.size + w) * c + at, count);
                    store(y + out + at, sum / size, count);
                });
            }
}

void pool_average_backward(const I* s, const float* dy, float* dx, int threads) {
    const I n = s[0], c = s[1];
    const Window r(s, 0), q(s, 1);
#pragma omp parallel for collapse(2) num_threads(threads)
    for (I i = 0; i < n; ++i)
        for (I h = 0; h < r.size; ++h)
            for (I w = 0; w < q.size; ++w) {
                const I out = i * r.places * q.places * c;
                float* to = dx + (i * r.size * q.size + h * q.size + w) * c;
                const I oh0 = r.firsts[h], oh1 = r.lasts[h], ow0 = q.firsts[w], ow1 = q.lasts[w];
                channels(c, [&](I count, I at) __attribute__((always_inline)) {
                    vf sum{};
                    for (I oh = oh0; oh <= oh1; ++oh)
                        for (I ow = ow0; ow <= ow1; ++ow) {
                            const float size = r.length(oh) * q.length(ow);
                            sum += load(dy + out + (oh * q.places + ow) * c + at, count) / size;
                        }
                    store(to + at, sum, count);
                });
            }
}
}
