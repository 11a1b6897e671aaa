// The steps of LSTM and RNN, forward and backward, and the products around them, in vectors of float32.
// ../recurrent.py calls it.
//
// Every product is made of one small one, held in registers: ROWS rows times a panel of PANEL columns. A panel's
// columns are 4 vectors: for the steps of an LSTM the four gates of the same units, else neighbours. What a step
// computes beside its product follows panel by panel, while the panel is in the cache.
//
// Source: lstm_unit_layer.cpp, whose sigmoid is taken in double, and rnn_layer.cpp; here exp is good to the last digit
// or two of float32.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include "buffer.h"

typedef int64_t I;
#if defined(__AVX512F__)
constexpr I LANES = 16;
#elif defined(__AVX__)
constexpr I LANES = 8;
#else
constexpr I LANES = 4;
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr I WIDTH = 4;  // vectors of a panel at a time: 24 sums in 32 registers
#else
constexpr I WIDTH = 2;  // 12 in 16
#endif
constexpr I ROWS = 6;
constexpr I PANEL = 4 * LANES;
constexpr I DEPTH = 128;  // rows of a panel that stay in the first cache
constexpr I CHUNK = 48;   // rows that a thread takes at a time
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef float vu __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define EACH(i, n) _Pragma("GCC unroll 6") for (I i = 0; i < n; ++i)  // or registers become memory

static inline vf load(const float* p, I count) {
    if (count == LANES) return *(const vu*)p;
    vf v{};
    if (count > 0) memcpy(&v, p, 4 * count);
    return v;
}

static inline void store(float* p, vf v, I count) {
    if (count == LANES) *(vu*)p = v;
    else if (count > 0) memcpy(p, &v, 4 * count);
}

// scale = 2^n and e^r - 1, |r| <= ln 2 / 2, by Taylor's series: e^x = scale * (1 + (e^r - 1)); nan stays nan
static inline vf exp_less_1(vf x, vf& scale) {
    x = x > 88.0f ? vf{} + 88.0f : x;
    x = x < -87.0f ? vf{} - 87.0f : x;
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
    vf n = (x * 1.44269504f + magic) - magic;
    vf r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    vf e = r * (1 / 5040.0f) + 1 / 720.0f;
    e = e * r + 1 / 120.0f;
    e = e * r + 1 / 24.0f;
    e = e * r + 1 / 6.0f;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    vi power = (__builtin_convertvector(n, vi) + 127) << 23;
    memcpy(&scale, &power, sizeof(scale));
    return e * r;
}

static inline vf sigmoid(vf x) {
    vf scale, e = exp_less_1(-x, scale);
    return 1.0f / (1.0f + scale + e * scale);
}

static inline vf tanh(vf x) {
    vf scale, e = exp_less_1(2.0f * x, scale);
    e = e * scale + (scale - 1.0f);
    return e / (e + 2.0f);
}

static thread_local Buffer local_left, local_right;

// The second factor (k, columns) of a product, entry (i, j) at p[i * di + j * dj].
struct Factor {
    const float* p;
    I k, columns, di, dj;
};

// Of panel q of `units` units with as many columns each as there are gates, 1 or 4: the first unit of its vector v
template <int GATES>
static inline I unit_of(I q, I v) {
    return GATES == 4 ? q * LANES : (q * 4 + v) * LANES;
}
template <int GATES>
static inline I panels(I units) {
    constexpr I each = PANEL / GATES;
    return (units + each - 1) / each;
}

// Rows from..to of panel q of b, one behind the other; zeros where there is no column
template <int GATES>
static void pack(const Factor& b, I q, I from, I to, float* out) {
    const I units = b.columns / GATES;
    for (I v = 0; v < 4; ++v) {
        const I unit = unit_of<GATES>(q, v), count = std::min(LANES, units - unit);
        const float* first = b.p + (unit + (GATES == 4 ? v * units : 0)) * b.dj;
        float* at = out + v * LANES;
        if (b.dj == 1) {
            for (I i = from; i < to; ++i) *(vu*)(at + (i - from) * PANEL) = load(first + i * b.di, count);
        } else {
            for (I i = from; i < to; ++i)
                for (I j = 0; j < LANES; ++j) at[(i - from) * PANEL + j] = j < count ? first[i * b.di + j * b.dj] : 0;
        }
    }
}

// sums (R, 4) += a (R, k) b (k, PANEL), entry (r, i) of a at a[r * dr + i * di]
template <int R>
static inline void micro(I k, const float* a, I dr, I di, const float* b, vf (*sums)[4]) {
    for (I first = 0; first < 4; first += WIDTH) {
        const float *left = a, *right = b + first * LANES;
        vf s[R][WIDTH];
        EACH(r, R) EACH(v, WIDTH) s[r][v] = sums[r][first + v];
        for (I i = 0; i < k; ++i, left += di, right += PANEL) {
            vf row[WIDTH];
            EACH(v, WIDTH) row[v] = *(const vf*)(right + v * LANES);
            EACH(r, R) {
                const float factor = left[r * dr];
                EACH(v, WIDTH) s[r][v] += factor * row[v];
            }
        }
        EACH(r, R) EACH(v, WIDTH) sums[r][first + v] = s[r][v];
    }
}

// Where part `i` of `parts` nearly equal ones of 0..n begins
static inline I begin(I i, I parts, I n) { return n * i / parts; }

static inline void rows(I n, I k, const float* a, I dr, I di, const float* b, vf (*sums)[4]) {
    const I parts = (n + ROWS - 1) / ROWS;
    for (I i = 0; i < parts; ++i) {
        const I from = begin(i, parts, n);
        const float* at = a + from * dr;
        vf(*to)[4] = sums + from;
        switch (begin(i + 1, parts, n) - from) {
            case 6: micro<6>(k, at, dr, di, b, to); break;
            case 5: micro<5>(k, at, dr, di, b, to); break;
            case 4: micro<4>(k, at, dr, di, b, to); break;
            case 3: micro<3>(k, at, dr, di, b, to); break;
            case 2: micro<2>(k, at, dr, di, b, to); break;
            case 1: micro<1>(k, at, dr, di, b, to); break;
        }
    }
}

// Into how many chunks n rows go, each for all panels
static inline I chunks(I n, I count, I threads) {
    const I wanted = std::max((n + CHUNK - 1) / CHUNK, (threads + count - 1) / count);
    return std::max<I>(1, std::min(wanted, (n + ROWS - 1) / ROWS));
}

// What one step after the other computes. Each step: sums (n, panel) = what `start` says + a b, b the same for all
// steps; then `finish` takes them, vector by vector of a row.
template <int GATES, class Step>
static void run_steps(I steps, I n, const Factor& b, int threads, Step step) {
    const I units = b.columns / GATES, count = panels<GATES>(units), parts = chunks(n, count, threads);
    float* packed = local_right.get(count * b.k * PANEL);
#pragma omp parallel num_threads(threads) if (n * b.k * b.columns > 65536)
    {
#pragma omp for schedule(static)
        for (I q = 0; q < count; ++q) pack<GATES>(b, q, 0, b.k, packed + q * b.k * PANEL);
        for (I t = 0; t < steps; ++t) {
#pragma omp for schedule(static)
            for (I item = 0; item < count * parts; ++item) {
                const I q = item / parts, from = begin(item % parts, parts, n), to = begin(item % parts + 1, parts, n);
                vf sums[CHUNK][4];
                const float* a = step.factor(t);
                for (I row = from; row < to; ++row)
                    for (I v = 0; v < 4; ++v) {
                        const I unit = unit_of<GATES>(q, v);
                        sums[row - from][v] = step.start(t, row, unit, v, std::min(LANES, units - unit));
                    }
                for (I i = 0; a && i < b.k; i += DEPTH)
                    rows(to - from, std::min(DEPTH, b.k - i), a + from * b.k + i, b.k, 1,
                         packed + (q * b.k + i) * PANEL, sums);
                for (I row = from; row < to; ++row)
                    if constexpr (GATES == 4) {
                        const I unit = q * LANES;
                        step.finish(t, row, unit, std::min(LANES, units - unit), sums[row - from]);
                    } else {
                        for (I v = 0; v < 4; ++v) {
                            const I unit = unit_of<1>(q, v);
                            if (unit < units)
                                step.finish(t, row, unit, std::min(LANES, units - unit), sums[row - from] + v);
                        }
                    }
            }
        }
    }
}

struct LstmForward {
    I steps, n, d;
    const float *inputs, *cont;
    float *outputs, *cells, *gates, *h_conted;

    const float* factor(I t) const { return h_conted + t * n * d; }
    vf start(I t, I row, I unit, I v, I count) const {
        return load(inputs + ((t * n + row) * 4 + v) * d + unit, count);
    }
    void finish(I t, I row, I unit, I count, const vf* sums) const {
        const I at = (t * n + row) * d + unit;
        const float goes_on = cont[t * n + row];
        vf i = sigmoid(sums[0]), f = sigmoid(sums[1]), o = sigmoid(sums[2]), g = tanh(sums[3]);
        f = goes_on == 0 ? vf{} : goes_on * f;
        vf cell = f * load(cells + at, count) + i * g, hidden = o * tanh(cell);
        float* gate = gates + (t * n + row) * 4 * d + unit;
        store(gate, i, count);
        store(gate + d, f, count);
        store(gate + 2 * d, o, count);
        store(gate + 3 * d, g, count);
        store(cells + n * d + at, cell, count);
        store(outputs + at, hidden, count);
        if (t + 1 < steps) store(h_conted + n * d + at, cont[(t + 1) * n + row] * hidden, count);
    }
};

struct LstmBackward {  // counts the steps from the last one
    I steps, n, d;
    const float *dy, *cont, *gates, *cells;
    float *dc, *dx;

    const float* factor(I back) const { return back ? dx + (steps - back) * n * 4 * d : nullptr; }
    vf start(I, I, I, I, I) const { return vf{}; }
    void finish(I back, I row, I unit, I count, const vf* sums) const {
        const I t = steps - 1 - back, at = (t * n + row) * d + unit;
        const float* gate = gates + (t * n + row) * 4 * d + unit;
        float *to = dx + (t * n + row) * 4 * d + unit, *dc_at = dc + row * d + unit;
        vf i = load(gate, count), f = load(gate + d, count), o = load(gate + 2 * d, count),
           g = load(gate + 3 * d, count);
        vf tanh_c = tanh(load(cells + n * d + at, count)), above = load(dy + at, count);
        if (back) above += cont[(t + 1) * n + row] * *sums;
        vf through = load(dc_at, count) + above * o * (1.0f - tanh_c * tanh_c);
        store(to, through * g * i * (1.0f - i), count);
        store(to + d, through * load(cells + at, count) * f * (1.0f - f), count);
        store(to + 2 * d, above * tanh_c * o * (1.0f - o), count);
        store(to + 3 * d, through * i * (1.0f - g * g), count);
        store(dc_at, through * f, count);
    }
};

struct RnnForward {
    I steps, n, d;
    const float *inputs, *cont;
    float *hidden, *h_conted;

    const float* factor(I t) const { return h_conted + t * n * d; }
    vf start(I t, I row, I unit, I, I count) const { return load(inputs + (t * n + row) * d + unit, count); }
    void finish(I t, I row, I unit, I count, const vf* sums) const {
        const I at = (t * n + row) * d + unit;
        vf h = tanh(*sums);
        store(hidden + at, h, count);
        if (t + 1 < steps) store(h_conted + n * d + at, cont[(t + 1) * n + row] * h, count);
    }
};

struct RnnBackward {  // counts the steps from the last one
    I steps, n, d;
    const float *dh, *cont, *hidden;
    float* dx;

    const float* factor(I back) const { return back ? dx + (steps - back) * n * d : nullptr; }
    vf start(I, I, I, I, I) const { return vf{}; }
    void finish(I back, I row, I unit, I count, const vf* sums) const {
        const I t = steps - 1 - back, at = (t * n + row) * d + unit;
        vf h = load(hidden + at, count), above = load(dh + at, count);
        if (back) above += cont[(t + 1) * n + row] * *sums;
        store(dx + at, above * (1.0f - h * h), count);
    }
};

extern "C" {

// (T, N, D): outputs, cells behind the first, h_conted, whose first step is given, as is the first of cells; gates and
// inputs (T, N, 4D), w (4D, D)
void lstm_forward(I steps, I n, I d, const float* inputs, const float* cont, const float* w, float* outputs,
                  float* cells, float* gates, float* h_conted, int threads) {
    run_steps<4>(steps, n, Factor{w, d, 4 * d, 1, d}, threads,
                 LstmForward{steps, n, d, inputs, cont, outputs, cells, gates, h_conted});
}

// dc (N, D): zeros; dx (T, N, 4D)
void lstm_backward(I steps, I n, I d, const float* dy, const float* cont, const float* w, const float* gates,
                   const float* cells, float* dc, float* dx, int threads) {
    run_steps<1>(steps, n, Factor{w, 4 * d, d, d, 1}, threads,
                 LstmBackward{steps, n, d, dy, cont, gates, cells, dc, dx});
}

// (T, N, D) all but w (D, D); the first step of h_conted is given
void rnn_forward(I steps, I n, I d, const float* inputs, const float* cont, const float* w, float* hidden,
                 float* h_conted, int threads) {
    run_steps<1>(steps, n, Factor{w, d, d, 1, d}, threads, RnnForward{steps, n, d, inputs, cont, hidden, h_conted});
}

void rnn_backward(I steps, I n, I d, const float* dh, const float* cont, const float* w, const float* hidden, float* dx,
                  int threads) {
    run_steps<1>(steps, n, Factor{w, d, d, d, 1}, threads, RnnBackward{steps, n, d, dh, cont, hidden, dx});
}

// c (m, n) = a (m, k) b (k, n), rows of c one behind the other, entry (i, j) of a at a[i * ai + j * aj], b likewise
void product(I m, I n, I k, const float* a, I ai, I aj, const float* b, I bi, I bj, float* c, int threads) {
    const Factor factor{b, k, n, bi, bj};
    const I depth = 2 * DEPTH, count = panels<1>(n), parts = std::max<I>(1, (m + CHUNK - 1) / CHUNK);
    const I deep = std::min(depth, k);
    float *left = local_left.get(parts * CHUNK * deep), *right = local_right.get(count * deep * PANEL);
#pragma omp parallel num_threads(threads) if (m * n * k > 65536)
    for (I from = 0; from < std::max<I>(k, 1); from += depth) {
        const I size = std::min(depth, k - from);
#pragma omp for schedule(static) nowait
        for (I q = 0; q < count; ++q) pack<1>(factor, q, from, from + size, right + q * size * PANEL);
#pragma omp for schedule(static)
        for (I part = 0; part < parts; ++part) {  // of each chunk the columns one behind the other
            const I first = begin(part, parts, m), length = begin(part + 1, parts, m) - first;
            const float* at = a + first * ai + from * aj;
            float* to = left + part * CHUNK * size;
            for (I j = 0; j < size; ++j)
                if (ai == 1) memcpy(to + j * length, at + j * aj, 4 * length);
                else
                    for (I i = 0; i < length; ++i) to[j * length + i] = at[i * ai + j * aj];
        }
#pragma omp for schedule(static) collapse(2)
        for (I part = 0; part < parts; ++part)
            for (I q = 0; q < count; ++q) {
                const I first = begin(part, parts, m), length = begin(part + 1, parts, m) - first;
                vf sums[CHUNK][4];
                for (I i = 0; i < length; ++i)
                    for (I v = 0; v < 4; ++v) {
                        const I column = unit_of<1>(q, v);
                        sums[i][v] = from ? load(c + (first + i) * n + column, std::min(LANES, n - column)) : vf{};
                    }
                for (I j = 0; j < size; j += DEPTH)
                    rows(length, std::min(DEPTH, size - j), left + part * CHUNK * size + j * length, 1, length,
                         right + (q * size + j) * PANEL, sums);
                for (I i = 0; i < length; ++i)
                    for (I v = 0; v < 4; ++v) {
                        const I column = unit_of<1>(q, v);
                        store(c + (first + i) * n + column, sums[i][v], std::min(LANES, n - column));
                    }
            }
    }
}
}
