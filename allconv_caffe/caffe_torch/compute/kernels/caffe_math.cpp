// Sums in the order in which Caffe and its BLAS take them: ../openblas.py tells the order, ../caffe_math.py calls this.

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>
#include <immintrin.h>
#include <omp.h>
#include "buffer.h"

typedef int64_t I;
typedef __m256 v8;

struct Order {
    I q, unit, p;
};

// the length of the block that begins where `left` remain
static inline I block(I left, I size, I unit) {
    if (left >= 2 * size) return size;
    return left > size ? (left / 2 + unit - 1) / unit * unit : left;
}

static thread_local Buffer local_a, local_b, local_c;

// rows: panels of six for every whole twelve, then of four for every whole four, then what is left
struct Panel {
    I row, rows;
    int kind;  // 0, 1: the first, the second six of twelve; 2: one four; 3: one of two; 4: rest
};
static std::vector<Panel> panels(const Order& o, I m) {
    std::vector<Panel> found;
    I row = 0;
    if (!o.p) {
        for (; row < m; row += 6) found.push_back({row, std::min<I>(6, m - row), 4});
        return found;
    }
    for (; row + 12 <= m; row += 12) {
        found.push_back({row, 6, 0});
        found.push_back({row + 6, 6, 1});
    }
    const int kind = m - row >= 8 ? 3 : 2;
    for (; row + 4 <= m; row += 4) found.push_back({row, 4, kind});
    if (row < m) found.push_back({row, m - row, 4});
    return found;
}

// by tile of eight columns, which kinds of panels have two accumulators there: one bit each
static std::vector<unsigned char> splits(const Order& o, I n) {
    std::vector<unsigned char> found((n + 7) / 8, 0);
    if (!o.p) return found;
    for (I at = 0; at < n;) {
        const I size = block(n - at, o.p, o.unit), tiles = size / 8, first = at / 8;
        for (I t = 0; t < tiles; ++t) found[first + t] |= at ? 4 : 12;
        if (tiles > 1) {
            found[first] |= 1;
            found[first + tiles - 1] |= tiles % 2 ? 2 : 1;
        }
        at += size;
    }
    return found;
}

// A (m x k) at any strides to panels, one behind the other, each k x rows
static void pack_a(const std::vector<Panel>& rows, I k, const float* a, I ai, I ak, float* to) {
    for (const Panel& p : rows) {
        const float* from = a + p.row * ai;
        for (I x = 0; x < k; ++x)
            for (I i = 0; i < p.rows; ++i) *to++ = from[i * ai + x * ak];
    }
}

// every loop over accumulators is unrolled, or the compiler keeps them in memory
#define EACH(i, n) _Pragma("GCC unroll 6") for (int i = 0; i < n; ++i)

template <int R, int W>
static inline void one(I k, const float* a, const float* b, I bs, v8 (&c)[W][R]) {
    EACH(w, W) EACH(i, R) c[w][i] = _mm256_setzero_ps();
    for (I x = 0; x < k; ++x, a += R, b += 8) {
        v8 q[W];
        EACH(w, W) q[w] = _mm256_load_ps(b + w * bs);
        EACH(i, R) {
            const v8 f = _mm256_broadcast_ss(a + i);
            EACH(w, W) c[w][i] = _mm256_fmadd_ps(f, q[w], c[w][i]);
        }
    }
}

template <int R>
static inline void two(I k, const float* a, const float* b, v8 (&c)[1][R]) {
    v8 d[R];
    EACH(i, R) c[0][i] = d[i] = _mm256_setzero_ps();
    I x = 0;
    for (; x < k / 8 * 8; x += 2, a += 2 * R, b += 16) {
        const v8 even = _mm256_load_ps(b), odd = _mm256_load_ps(b + 8);
        EACH(i, R) {
            c[0][i] = _mm256_fmadd_ps(_mm256_broadcast_ss(a + i), even, c[0][i]);
            d[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(a + R + i), odd, d[i]);
        }
    }
    for (; x < k; ++x, a += R, b += 8) {
        const v8 q = _mm256_load_ps(b);
        EACH(i, R) c[0][i] = _mm256_fmadd_ps(_mm256_broadcast_ss(a + i), q, c[0][i]);
    }
    EACH(i, R) c[0][i] = _mm256_add_ps(c[0][i], d[i]);
}

static inline void put(v8 value, float* at, I columns, bool add) {
    if (columns >= 8) {
        _mm256_storeu_ps(at, _mm256_add_ps(add ? _mm256_loadu_ps(at) : _mm256_setzero_ps(), value));
        return;
    }
    float each[8];
    _mm256_storeu_ps(each, value);
    for (I j = 0; j < columns; ++j) at[j] = (add ? at[j] : 0.f) + each[j];
}

template <int R>
static inline void tile(I k, const float* a, const float* b, I bs, int width, bool split, float* to, I ldc, I columns,
                        bool add) {
    if (width == 2) {
        v8 c[2][R];
        one<R, 2>(k, a, b, bs, c);
        EACH(w, 2) EACH(i, R) put(c[w][i], to + w * 8 + i * ldc, columns - w * 8, add);
        return;
    }
    v8 c[1][R];
    if (split) two<R>(k, a, b, c);
    else one<R, 1>(k, a, b, bs, c);
    EACH(i, R) put(c[0][i], to + i * ldc, columns, add);
}

// one row times W tiles: nothing of what sets panels apart concerns a single row
template <int W>
static inline void row(I k, const float* a, const float* b, I bs, float* to, I columns, bool add) {
    v8 c[W][1];
    one<1, W>(k, a, b, bs, c);
    EACH(w, W) put(c[w][0], to + w * 8, columns - w * 8, add);
}

static void row_gemm(const Order& o, I n, I k, const float* a, const float* b, I from, I to, float* c, bool add) {
    const I bs = k * 8;
    for (I at = 0; at < k;) {
        const I size = block(k - at, o.q, o.unit);
        I t = from;
        for (; t + 4 <= to; t += 4) row<4>(size, a + at, b + (t - from) * bs + at * 8, bs, c + t * 8, n - t * 8, add);
        for (; t < to; ++t) row<1>(size, a + at, b + (t - from) * bs + at * 8, bs, c + t * 8, n - t * 8, add);
        add = true;
        at += size;
    }
}

// C (m x n) (+)= A B, in the tiles [from, to) of eight columns; b holds these tiles, k x 8 each, zeros beyond n.
static void gemm(const Order& o, const std::vector<Panel>& rows, const std::vector<unsigned char>& split, I n, I k,
                 const float* a, const float* b, I from, I to, float* c, I ldc, bool add) {
    if (rows.size() == 1 && rows[0].rows == 1) return row_gemm(o, n, k, a, b, from, to, c, add);
    const I bs = k * 8;
    for (I at = 0; at < k;) {
        const I size = block(k - at, o.q, o.unit);
        for (I t = from; t < to;) {
            const int pair = t + 1 < to && !((split[t] | split[t + 1]) & 3) ? 2 : 1;
            const float* q = b + (t - from) * bs + at * 8;
            const I columns = n - t * 8;
            for (const Panel& p : rows) {
                const float* f = a + p.row * k + at * p.rows;
                float* y = c + p.row * ldc + t * 8;
                for (int w = 0; w < pair; ++w) {
                    const bool apart = p.kind < 4 && split[t + w] >> p.kind & 1;
                    const int width = apart || p.kind == 2 || p.kind == 3 ? 1 : pair;
                    const float* qw = q + w * bs;
                    float* yw = y + w * 8;
                    const I left = columns - w * 8;
                    switch (p.rows) {
                        case 1: tile<1>(size, f, qw, bs, width, apart, yw, ldc, left, add); break;
                        case 2: tile<2>(size, f, qw, bs, width, apart, yw, ldc, left, add); break;
                        case 3: tile<3>(size, f, qw, bs, width, apart, yw, ldc, left, add); break;
                        case 4: tile<4>(size, f, qw, bs, width, apart, yw, ldc, left, add); break;
                        case 5: tile<5>(size, f, qw, bs, width, apart, yw, ldc, left, add); break;
                        case 6: tile<6>(size, f, qw, bs, width, apart, yw, ldc, left, add); break;
                    }
                    if (width == 2) break;
                }
            }
            t += pair;
        }
        add = true;
        at += size;
    }
}

// eight values each of eight arrays, one behind the other, as eight rows of eight
static inline void transpose(const float* q, I each, float* out) {
    v8 a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(q + i * each);
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; ++j) {
            a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
            a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xEE);
        }
    for (int i = 0; i < 4; ++i) {
        _mm256_store_ps(out + i * 8, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
        _mm256_store_ps(out + i * 8 + 32, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
}

// eight columns of B (k x n) at any strides
static void pack_b(I n, I k, const float* b, I bk, I bj, I from, I to, float* out) {
    for (I t = from; t < to; ++t) {
        const I left = std::min<I>(8, n - t * 8);
        const float* q = b + t * 8 * bj;
        I x = 0;
        if (left == 8 && bk == 1)
            for (; x + 8 <= k; x += 8, out += 64, q += 8) transpose(q, bj, out);
        for (; x < k; ++x, out += 8, q += bk) {
            if (left == 8 && bj == 1) _mm256_store_ps(out, _mm256_loadu_ps(q));
            else
                for (I j = 0; j < 8; ++j) out[j] = j < left ? q[j * bj] : 0.f;
        }
    }
}

// the same of im2col: B (k x s), element (x, j) is image[row[x] + column[j]]
static void pack_col(I n, I k, const float* image, const I* row, const I* column, I from, I to, float* out) {
    for (I t = from; t < to; ++t) {
        const I left = std::min<I>(8, n - t * 8);
        const I* at = column + t * 8;
        const bool whole = left == 8 && at[7] - at[0] == 7;
        for (I x = 0; x < k; ++x, out += 8) {
            const float* q = image + row[x];
            if (whole) _mm256_store_ps(out, _mm256_loadu_ps(q + at[0]));
            else
                for (I j = 0; j < 8; ++j) out[j] = j < left ? q[at[j]] : 0.f;
        }
    }
}

// into how many pieces to cut the tiles of each of `jobs` images, so that every thread has work
static I pieces(I jobs, I tiles, I threads) { return std::max<I>(1, std::min(tiles, (threads + jobs - 1) / jobs)); }

// threads for so many values or products: below, waking another takes longer than it saves
static int team(I threads, I work) { return work < 1 << 15 ? 1 : (int)threads; }

// images with zeros around them: where in a padded plane each line of an image goes
struct Padding {
    I lines, length, plane;  // of an image's plane: lines and values of each; values of the padded plane
    const I* places;

    void put(const float* x, float* to) const {
        memset(to, 0, plane * sizeof(float));
        for (I r = 0; r < lines; ++r) memcpy(to + places[r], x + r * length, length * sizeof(float));
    }
};

static void share(I count, I* from, I* to) {
    const I each = (count + omp_get_num_threads() - 1) / omp_get_num_threads();
    *from = std::min(count, each * omp_get_thread_num());
    *to = std::min(count, *from + each);
}

// a sum of n values, n a multiple of four, in eight lanes (the odd four first), or in four
static float lanes(const float* x, I n, I width) {
    float s[8] = {0};
    I i = 0;
    if (width == 8 && n & 4)
        for (; i < 4; ++i) s[i] += x[i];
    for (; i < n; i += width)
        for (I j = 0; j < width; ++j) s[j] += x[i + j];
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

// y += `factor` times the sum of row r of m: a matrix times a vector of ones
static void sum_row(const float* x, I n, I r, I m, float factor, float* y) {
    const I last = m % 4, width = last >= 2 && r >= m - last && r < m - last + 2 ? 4 : 8;
    const I whole = n / 4 * 4, rest = n - whole;
    for (I at = 0; at < whole; at += 4096) {
        const float part = lanes(x + at, std::min<I>(4096, whole - at), width);
        *y = r < m - last ? *y + factor * part : __builtin_fmaf(factor, part, *y);
    }
    x += whole;
    if (rest == 1) *y = __builtin_fmaf(x[0], factor, *y);
    if (rest == 2) *y += __builtin_fmaf(x[0], factor, x[1] * factor);
    if (rest == 3) *y += __builtin_fmaf(x[2], factor, __builtin_fmaf(x[0], factor, x[1] * factor));
}

static void col2im(I first, I last, I s, const I* row, const I* column, const float* col, float* image) {
    for (I e = first; e < last; ++e) {
        float* at = image + row[e];
        for (I j = 0; j < s; ++j) at[column[j]] += col[e * s + j];
    }
}

// one value after the other: y of x, of a, which is one for all or lies in an array, and of b, which is one for all; where two
// ways to write a formula differ in nan or -0, it stands as in Caffe. ../math_functions.py has the same by PyTorch
#define FORMULAS(F)                                                       \
    F(fill, a)                                                            \
    F(add, x + a)                                                         \
    F(subtract, x - a)                                                    \
    F(multiply, x * a)                                                    \
    F(divide, x / a)                                                      \
    F(inverse, x == 0 ? 0.f : 1.f / x)                                    \
    F(scal, std::fabs(a) > 0 ? x * a : 0.f)                               \
    F(scaled, a == 0 ? 0.f : x * a + 0.f)                                 \
    F(axpy, __builtin_fmaf(b, a, x))                                      \
    F(powx, powf(x, a))                                                   \
    F(times_power, x * powf(a, b))                                        \
    F(sqrt, sqrtf(x))                                                     \
    F(exp, expf(x))                                                       \
    F(log, logf(x))                                                       \
    F(abs, std::fabs(x))                                                  \
    F(relu, std::max(x, 0.f) + a * std::min(x, 0.f))                      \
    F(elu, std::max(x, 0.f) + a * (expf(std::min(x, 0.f)) - 1.f))         \
    F(sigmoid, 0.5 * tanh(0.5 * x) + 0.5)                                 \
    F(tanh, tanhf(x))                                                     \
    F(bnll, x > 0 ? x + log(1. + expf(-x)) : log(1. + expf(x)))           \
    F(threshold, x > a ? 1.f : 0.f)                                       \
    F(clip, std::max(a, std::min(x, b)))

// of the values from..to of x and y (outer x channels x inner), with a (channels)
template <class F>
static void each(F formula, I channels, I inner, I from, I to, const float* x, const float* a, float b, float* y) {
    while (from < to) {
        const I c = from / inner % channels;
        const I end = std::min(to, from + (inner == 1 ? channels - c : inner - from % inner));
        if (inner == 1) {
            const float* row = a + c - from;
#pragma GCC ivdep
            for (I i = from; i < end; ++i) y[i] = formula(x[i], row[i], b);
        } else {
            const float same = a[c];
#pragma GCC ivdep
            for (I i = from; i < end; ++i) y[i] = formula(x[i], same, b);
        }
        from = end;
    }
}

// without a, `one` is for all
template <class F>
static void each(F formula, I outer, I channels, I inner, const float* x, const float* a, float one, float b, float* y,
                 I threads) {
    const I n = outer * channels * inner, workers = team(threads, n);
    if (!a) a = &one;
    if (workers == 1) return each(formula, channels, inner, 0, n, x, a, b, y);  // a team of one costs more than a small layer
#pragma omp parallel num_threads(workers)
    {
        I from, to;
        share(n, &from, &to);
        each(formula, channels, inner, from, to, x, a, b, y);
    }
}

// the sum of x(i) y(i)
template <class X, class Y>
static float dot(I width, I n, X x, Y y) {
    float s[4][16] = {{0}}, total[8];
    I i = 0;
    for (; i + 4 * width <= n; i += 4 * width)
        for (I v = 0; v < 4; ++v)
            for (I j = 0; j < width; ++j) s[v][j] = __builtin_fmaf(x(i + v * width + j), y(i + v * width + j), s[v][j]);
    if (width == 16) {
        for (I v = 0; v < 4; ++v)
            for (I j = 0; j < 8; ++j) s[v][j] += s[v][j + 8];
        if (i + 32 <= n) {
            for (I v = 0; v < 4; ++v)
                for (I j = 0; j < 8; ++j) s[v][j] = __builtin_fmaf(x(i + v * 8 + j), y(i + v * 8 + j), s[v][j]);
            i += 32;
        }
        for (I j = 0; j < 8; ++j) total[j] = ((s[0][j] + s[1][j]) + s[2][j]) + s[3][j];
        for (I j = 0; j < 4; ++j) total[j] += total[j + 4];
    } else {
        for (I v = 0; v < 4; ++v)
            for (I j = 0; j < 4; ++j) s[v][j] += s[v][j + 4];
        for (I j = 0; j < 4; ++j) total[j] = (s[0][j] + s[1][j]) + (s[2][j] + s[3][j]);
    }
    double rest = 0;
    for (; i < n; ++i) rest += x(i) * y(i);
    return (float)(rest + (double)((total[0] + total[1]) + (total[2] + total[3])));
}

extern "C" {

#define DEFINE(name, value)                                                                                          \
    void caffe_each_##name(I outer, I channels, I inner, const float* x, const float* a, float one, float b, float* y, \
                           I threads) {                                                                            \
        each([](float x, float a, float b) -> float { return value; }, outer, channels, inner, x, a, one, b, y, threads); \
    }
FORMULAS(DEFINE)

// math_functions.cpp

// C (m x n) = A B, or += where `add` is 1; A (m x k) and B (k x n) at any strides
void caffe_gemm(I q, I unit, I p, I m, I n, I k, const float* a, I ai, I ak, const float* b, I bk, I bj, float* c,
                I add, I threads) {
    const Order o{q, unit, p};
    const auto rows = panels(o, m);
    const auto split = splits(o, n);
    float* packed = local_a.get(m * k + 8);
    pack_a(rows, k, a, ai, ak, packed);
#pragma omp parallel num_threads(team(threads, m * n * k))
    {
        I from, to;
        share((n + 7) / 8, &from, &to);
        // few rows use each value of B seldom: what is packed stays in the cache until then
        const I most = m < 12 ? std::max<I>(4, (1 << 13) / k) : std::max<I>(1, to - from);
        float* mine = local_b.get(std::min(most, to - from) * k * 8 + 8);
        for (I t = from; t < to; t += most) {
            const I end = std::min(to, t + most);
            pack_b(n, k, b, bk, bj, t, end, mine);
            gemm(o, rows, split, n, k, packed, mine, t, end, c, n, add != 0);
        }
    }
}

// y = x
void caffe_copy(I n, const float* x, float* y) { memmove(y, x, n * sizeof(float)); }

// rows, `length` each, that begin every `x_apart` in x, into y, where one begins every `y_apart`
void caffe_copy_rows(I rows, I length, const float* x, I x_apart, float* y, I y_apart, I threads) {
#pragma omp parallel for num_threads(team(threads, rows * length)) schedule(static)
    for (I i = 0; i < rows; ++i) memcpy(y + i * y_apart, x + i * x_apart, length * sizeof(float));
}

// y = x (sizes), whose values lie `strides` apart
void caffe_copy_view(I axes, const I* sizes, const I* strides, const float* x, float* y, I threads) {
    const I length = sizes[axes - 1], apart = strides[axes - 1];
    I rows = 1;
    for (I axis = 0; axis < axes - 1; ++axis) rows *= sizes[axis];
#pragma omp parallel for num_threads(team(threads, rows * length)) schedule(static)
    for (I row = 0; row < rows; ++row) {
        const float* from = x;
        for (I axis = axes - 2, left = row; axis >= 0; left /= sizes[axis--]) from += left % sizes[axis] * strides[axis];
        float* to = y + row * length;
        if (apart == 1) memcpy(to, from, length * sizeof(float));
        else
            for (I i = 0; i < length; ++i) to[i] = from[i * apart];
    }
}

// y = `factor` times the sum of each row of x (m x n)
void caffe_rows(I m, I n, float factor, const float* x, float* y, I threads) {
#pragma omp parallel for num_threads(team(threads, m * n)) schedule(static)
    for (I r = 0; r < m; ++r) {
        y[r] = 0;
        sum_row(x + r * n, n, r, m, factor, y + r);
    }
}

// y[j] (+)= the sum of column j, x (k x n): a vector of ones times a matrix
void caffe_columns(I k, I n, const float* x, float* y) {
    const I whole = n / 4 * 4, rest = n - whole;
    for (I begin = 0; begin < whole; begin += 4096) {
        const I size = std::min<I>(4096, whole - begin), apart = (size & 4) + (size & 8);
        for (I j = begin; j < begin + size; ++j) {
            const float* at = x + j;
            for (I i = 0; i < k;) {
                const I group = k - i >= 8 ? 8 : k - i >= 4 ? 4 : 1;
                float sum = at[i * n];
                if (group == 1) y[j] += sum;
                else if (j - begin < apart) {
                    float odd = at[(i + 1) * n];
                    for (I e = 2; e < group; e += 2) {
                        sum += at[(i + e) * n];
                        odd += at[(i + e + 1) * n];
                    }
                    y[j] += sum + odd;
                } else {
                    for (I e = 1; e < group; ++e) sum += at[(i + e) * n];
                    y[j] += sum;
                }
                i += group;
            }
        }
    }
    const I width = n == 1 ? 4 : 2;
    for (I j = whole; j < n; ++j) {
        float total = 0;
        I i = 0;
        if (n == rest)  // a matrix of less than four columns: in groups of four, or of two
            for (; i < k / 4 * 4; i += width) {
                float sum = x[i * n + j];
                for (I e = 1; e < width; ++e) sum += x[(i + e) * n + j];
                total += sum;
            }
        for (; i < k; ++i) total += x[i * n + j];
        y[j] += total;
    }
}

// z = alpha x + beta y, rounded after beta y and once more
void caffe_axpby(I n, float alpha, const float* x, float beta, const float* y, float* z, I threads) {
#pragma omp parallel for num_threads((int)threads) schedule(static)
    for (I i = 0; i < n; ++i) {
        const float scaled = beta * y[i];
        z[i] = __builtin_fmaf(alpha, x[i], scaled);
    }
}

// the sum of x y in four vectors of 8 or 16 lanes, row by row (rows x n); without y the sum of x
void caffe_dot(I width, I rows, I n, const float* x, const float* y, float* results, I threads) {
#pragma omp parallel for num_threads(team(threads, rows * n)) schedule(static)
    for (I r = 0; r < rows; ++r)
        results[r] = y ? dot(width, n, [=](I i) { return x[r * n + i]; }, [=](I i) { return y[r * n + i]; })
                       : dot(width, n, [=](I i) { return x[r * n + i]; }, [](I) { return 1.f; });
}

// base_conv_layer.cpp

// y (images x groups x m x s) = w (groups x m x k) col(x)
// x_image, x_group: floats from one image, one group to the next; where x has still to be padded (lines > 0, see Padding),
// when it is
void caffe_conv(I q, I unit, I p, I images, I groups, I m, I s, I k, const float* x, I x_image, I x_group, const I* row,
                const I* column, I lines, I length, I plane, const I* places, const float* w, const float* bias, float* y,
                I threads) {
    const Order o{q, unit, p};
    const Padding padding{lines, length, plane, places};
    const auto rows = panels(o, m);
    const auto split = splits(o, s);
    const I tiles = (s + 7) / 8, parts = images * groups;
    float* packed = local_a.get(groups * m * k + 8);
    for (I g = 0; g < groups; ++g) pack_a(rows, k, w + g * m * k, k, 1, packed + g * m * k);
    const int workers = team(threads, parts * m * s * k);
    const I cut = pieces(parts, tiles, workers);
    const I planes = lines ? x_group / plane : 0;  // of each part
    float* shared = lines && cut > 1 ? local_c.get(parts * x_group) : nullptr;  // few images: all at once
    if (shared) {
#pragma omp parallel for num_threads(workers) schedule(static)
        for (I c = 0; c < parts * planes; ++c) padding.put(x + c * lines * length, shared + c * plane);
    }
#pragma omp parallel for num_threads(workers) schedule(dynamic, 1)
    for (I piece = 0; piece < parts * cut; ++piece) {
        const I i = piece / cut, n = i / groups, g = i % groups;
        const I from = piece % cut * tiles / cut, to = (piece % cut + 1) * tiles / cut;
        const float* image = shared ? shared + i * x_group : x + n * x_image + g * x_group;
        if (lines && !shared) {
            float* own = local_c.get(x_group);
            for (I c = 0; c < planes; ++c) padding.put(x + (i * planes + c) * lines * length, own + c * plane);
            image = own;
        }
        float* col = local_b.get((to - from) * k * 8 + 8);
        pack_col(s, k, image, row, column, from, to, col);
        float* out = y + i * m * s;
        gemm(o, rows, split, s, k, packed + g * m * k, col, from, to, out, s, false);
        if (bias)
            for (I c = 0; c < m; ++c)
                for (I j = from * 8; j < std::min(s, to * 8); ++j) out[c * s + j] += bias[g * m + c];
    }
}

// dw (groups x m x k) += dy (images x groups x m x s) col(x)^T, image after image
void caffe_conv_weight(I q, I unit, I p, I images, I groups, I m, I s, I k, const float* x, I x_image, I x_group,
                       const I* row, const I* column, const float* dy, float* dw, I threads) {
    const Order o{q, unit, p};
    const auto rows = panels(o, m);
    const auto split = splits(o, k);
#pragma omp parallel num_threads((int)threads)
    {
        I from, to;
        share((k + 7) / 8, &from, &to);
        float* packed = local_a.get(m * s + 8);
        float* col = local_b.get((to - from) * s * 8 + 8);
        if (from < to)
            for (I i = 0; i < images * groups; ++i) {
                const I n = i / groups, g = i % groups;
                pack_a(rows, s, dy + i * m * s, s, 1, packed);
                pack_col(k, s, x + n * x_image + g * x_group, column, row, from, to, col);
                gemm(o, rows, split, k, s, packed, col, from, to, dw + g * m * k, k, true);
            }
    }
}

// dx = col2im(w^T dy), dx has x_channels for each group; `plain`: col is dx itself
void caffe_conv_data(I q, I unit, I p, I images, I groups, I m, I s, I k, float* dx, I x_image, I x_group, const I* row,
                     const I* column, const float* w, const float* dy, I x_channels, I plain, I threads) {
    const Order o{q, unit, p};
    const auto rows = panels(o, k);
    const auto split = splits(o, s);
    const I tiles = (s + 7) / 8;
    float* packed = local_a.get(groups * m * k + 8);
    for (I g = 0; g < groups; ++g) pack_a(rows, m, w + g * m * k, 1, k, packed + g * m * k);
    const int workers = team(threads, images * groups * m * s * k);
    const I cut = pieces(images * groups, tiles, workers);
    float* shared = !plain && cut > 1 ? local_c.get(images * groups * k * s + 8) : nullptr;  // few images: all at once
#pragma omp parallel for num_threads(workers) schedule(dynamic, 1)
    for (I piece = 0; piece < images * groups * cut; ++piece) {
        const I i = piece / cut, n = i / groups, g = i % groups;
        const I from = piece % cut * tiles / cut, to = (piece % cut + 1) * tiles / cut;
        float* above = local_b.get((to - from) * m * 8 + 8);
        pack_b(s, m, dy + i * m * s, s, 1, from, to, above);
        float* image = dx + n * x_image + g * x_group;
        float* col = plain ? image : shared ? shared + i * k * s : local_c.get(k * s + 8);
        gemm(o, rows, split, s, m, packed + g * m * k, above, from, to, col, s, false);
        if (plain || shared) continue;
        memset(image, 0, x_group * sizeof(float));
        col2im(0, k, s, row, column, col, image);
    }
    if (shared) {  // each channel's rows, k / x_channels of them, stay with one thread
        const I channels = images * groups * x_channels, each = k / x_channels;
        const I plane = x_group / x_channels;
#pragma omp parallel for num_threads(workers) schedule(static)
        for (I c = 0; c < channels; ++c) {
            const I i = c / x_channels, first = c % x_channels * each;
            float* image = dx + i / groups * x_image + i % groups * x_group;
            memset(image + c % x_channels * plane, 0, plane * sizeof(float));
            col2im(first, first + each, s, row, column, shared + i * k * s, image);
        }
    }
}

// y[c] += the sum of each row, image after image: x (images x m x s)
void caffe_conv_bias(I images, I m, I s, const float* x, float* y, I threads) {
#pragma omp parallel for num_threads((int)threads) schedule(static)
    for (I c = 0; c < m; ++c)
        for (I n = 0; n < images; ++n) sum_row(x + (n * m + c) * s, s, c, m, 1.f, y + c);
}

// lrn_layer.cpp

// scale = k + factor times the sum of the squares of `size` channels around each, which runs along the channels;
// x, scale (images x channels x plane)
void caffe_lrn_scale(I images, I channels, I plane, I size, float factor, float k, const float* x, float* scale,
                     I threads) {
    const I step = 256, blocks = (plane + step - 1) / step;
#pragma omp parallel for num_threads(team(threads, images * channels * plane)) schedule(static)
    for (I piece = 0; piece < images * blocks; ++piece) {
        const I from = piece % blocks * step, count = std::min(step, plane - from);
        const I begin = piece / blocks * channels * plane + from;
        float sum[step];
        const auto add = [&](I c, float by) {
            if (by == 0) return;
            const bool inside = c >= 0 && c < channels;
            for (I j = 0; j < count; ++j) {
                const float value = inside ? x[begin + c * plane + j] : 0.f;
                sum[j] = __builtin_fmaf(by, value * value, sum[j]);
            }
        };
        std::fill(sum, sum + count, k);
        const I first = -(size - 1) / 2;  // of the channels around channel 0
        for (I c = 0; c < size; ++c) add(first + c, factor);
        for (I c = 0; c < channels; ++c) {
            if (c) {
                add(first + c + size - 1, factor);
                add(first + c - 1, -factor);
            }
            memcpy(scale + begin + c * plane, sum, count * sizeof(float));
        }
    }
}

// eltwise_layer.cpp

// y = the greater of x and `other`, which is bottom i, and where it comes from; of x, which is bottom 0 if i is 1, where it is said
void caffe_greater(I n, const float* x, const float* other, I i, float* y, I* from, I threads) {
#pragma omp parallel for num_threads(team(threads, n)) schedule(static)
    for (I e = 0; e < n; ++e) {
        const float a = x[e], b = other[e];
        const bool more = i == 1 ? !(a > b) : b > a;
        y[e] = more ? b : a;
        from[e] = more ? i : i == 1 ? 0 : from[e];
    }
}

// pooling_layer.cpp

// what of the image a window covers, and its length with padding
struct Span {
    I from, to, size;
};
static Span span(I out, I kernel, I stride, I pad, I size) {
    const I from = out * stride - pad, to = std::min(from + kernel, size + pad);
    return {std::max<I>(from, 0), std::min(to, size), to - from};
}

// AVE pooling: x (planes x h x w) to y (planes x oh x ow), or back: dx += dy / size, dx holds zeros
void caffe_average(I planes, I h, I w, I oh, I ow, I kh, I kw, I sh, I sw, I ph, I pw, float* x, float* y, I back,
                   I threads) {
#pragma omp parallel for num_threads(team(threads, planes * oh * ow * kh * kw)) schedule(static)
    for (I n = 0; n < planes; ++n)
        for (I i = 0; i < oh; ++i)
            for (I j = 0; j < ow; ++j) {
                const Span a = span(i, kh, sh, ph, h), b = span(j, kw, sw, pw, w);
                float* image = x + n * h * w;
                float* at = y + (n * oh + i) * ow + j;
                const float size = (float)(a.size * b.size);
                if (back) {
                    for (I r = a.from; r < a.to; ++r)
                        for (I s = b.from; s < b.to; ++s) image[r * w + s] += *at / size;
                } else {
                    float sum = 0;
                    for (I r = a.from; r < a.to; ++r)
                        for (I s = b.from; s < b.to; ++s) sum += image[r * w + s];
                    *at = sum / size;
                }
            }
}

// MAX pooling: x (planes x h x w) to y (planes x oh x ow), and each maximum's place h * w in its plane; nan is not greater
void caffe_max(I planes, I h, I w, I oh, I ow, I kh, I kw, I sh, I sw, I ph, I pw, const float* x, float* y, I* place,
               I threads) {
#pragma omp parallel for num_threads(team(threads, planes * oh * ow * kh * kw)) schedule(static)
    for (I n = 0; n < planes; ++n) {
        const float* image = x + n * h * w;
        for (I i = 0; i < oh; ++i) {
            const I top = std::max<I>(i * sh - ph, 0), bottom = std::min(i * sh - ph + kh, h);
            for (I j = 0; j < ow; ++j) {
                const I left = std::max<I>(j * sw - pw, 0), right = std::min(j * sw - pw + kw, w);
                float best = -FLT_MAX;
                I where = -1;
                for (I r = top * w; r < bottom * w; r += w)
                    for (I at = r + left; at < r + right; ++at) {
                        const bool more = image[at] > best;
                        best = more ? image[at] : best;
                        where = more ? at : where;
                    }
                y[(n * oh + i) * ow + j] = best;
                place[(n * oh + i) * ow + j] = where;
            }
        }
    }
}

// argmax_layer.cpp

// the `top` greatest along the middle axis of x (outer x channels x inner), of equal ones the later first: their places and they
// themselves, each (outer x top x inner)
void caffe_greatest(I outer, I channels, I inner, I top, const float* x, float* places, float* values, I threads) {
#pragma omp parallel for num_threads(team(threads, outer * channels * inner)) schedule(static)
    for (I row = 0; row < outer; ++row) {
        const float* from = x + row * channels * inner;
        float *where = places + row * top * inner, *what = values + row * top * inner;
        if (top == 1) {
            for (I j = 0; j < inner; ++j) {
                where[j] = 0;
                what[j] = from[j];
            }
            for (I c = 1; c < channels; ++c)
                for (I j = 0; j < inner; ++j) {
                    const float value = from[c * inner + j];
                    const bool less = value < what[j];
                    where[j] = less ? where[j] : (float)c;
                    what[j] = less ? what[j] : value;
                }
            continue;
        }
        std::vector<std::pair<float, int>> all(channels);
        for (I j = 0; j < inner; ++j) {
            for (I c = 0; c < channels; ++c) all[c] = {from[c * inner + j], (int)c};
            std::partial_sort(all.begin(), all.begin() + top, all.end(), std::greater<std::pair<float, int>>());
            for (I i = 0; i < top; ++i) {
                where[i * inner + j] = (float)all[i].second;
                what[i * inner + j] = all[i].first;
            }
        }
    }
}

// softmax_layer.cpp, softmax_loss_layer.cpp

// y = exp(x - max) / sum over the middle axis; x (outer x channels x inner)
void caffe_softmax(I outer, I channels, I inner, const float* x, float* y, I threads) {
#pragma omp parallel for num_threads(team(threads, 16 * outer * channels * inner)) schedule(static)
    for (I o = 0; o < outer; ++o) {
        float* scale = local_a.get(inner + 8);
        const float* from = x + o * channels * inner;
        float* to = y + o * channels * inner;
        for (I j = 0; j < inner; ++j) scale[j] = from[j];
        for (I c = 0; c < channels; ++c)
            for (I j = 0; j < inner; ++j) scale[j] = std::max(scale[j], from[c * inner + j]);
        for (I c = 0; c < channels; ++c)
            for (I j = 0; j < inner; ++j) to[c * inner + j] = expf(from[c * inner + j] - scale[j]);
        for (I j = 0; j < inner; ++j) scale[j] = 0;
        caffe_columns(channels, inner, to, scale);
        for (I c = 0; c < channels; ++c)
            for (I j = 0; j < inner; ++j) to[c * inner + j] /= scale[j];
    }
}

// Labels are floats, truncated toward 0; those that equal `ignored`, where `ignores`, do not count. A kernel that finds one
// out of range returns 1, and what it fills is of no use.
struct Labels {
    const float* values;
    I channels, ignores, ignored;

    // whether this one counts; -1: it is out of range
    int counts(I i, I* label) const {
        *label = (I)values[i];
        if (ignores && *label == ignored) return 0;
        return *label < 0 || *label >= channels ? -1 : 1;
    }
};

// the sum of -log(max(p of the label, FLT_MIN)), from 0 on, one after the other, over `divisor`, or where that is 0 over how many
// count; p (outer x channels x inner), labels (outer x inner)
I caffe_label_loss(I outer, I channels, I inner, const float* p, const float* labels, I ignores, I ignored, float divisor,
                   float* loss) {
    const Labels all{labels, channels, ignores, ignored};
    float total = 0;
    I count = 0, label;
    for (I i = 0; i < outer * inner; ++i) {
        const int counts = all.counts(i, &label);
        if (counts < 0) return 1;
        if (!counts) continue;
        total -= logf(std::max(p[(i / inner * channels + label) * inner + i % inner], FLT_MIN));
        ++count;
    }
    *loss = total / (divisor ? divisor : (float)std::max<I>(1, count));
    return 0;
}

// sigmoid_cross_entropy_loss_layer.cpp

// the sum of -(t log(p) + (1 - t) log(1 - p)), p = sigmoid(x), one after the other, over `divisor`, or where that is 0 over how many
// targets t count: those do not that are `ignored` when truncated toward 0
void caffe_sigmoid_loss(I count, const float* x, const float* t, I ignores, I ignored, float divisor, float* loss) {
    float total = 0;
    I counted = 0;
    for (I i = 0; i < count; ++i) {
        if (ignores && (int)t[i] == ignored) continue;
        const float positive = x[i] >= 0;
        total -= x[i] * (t[i] - positive) - logf(1 + expf(x[i] - 2 * x[i] * positive));
        ++counted;
    }
    *loss = total / (divisor ? divisor : (float)std::max<I>(1, counted));
}

// accuracy_layer.cpp

// which share of the examples that count has fewer than `top` other classes that score as high as the true one, over all (one
// number) and, where `each` is given, over those of each class; x (outer x channels x inner), labels (outer x inner)
I caffe_accuracy(I outer, I channels, I inner, I top, const float* x, const float* labels, I ignores, I ignored, float* share,
                 float* each) {
    const Labels all{labels, channels, ignores, ignored};
    std::vector<I> right(channels), found(channels);
    I label;
    for (I i = 0; i < outer * inner; ++i) {
        const int counts = all.counts(i, &label);
        if (counts < 0) return 1;
        if (!counts) continue;
        const float* scores = x + i / inner * channels * inner + i % inner;
        const float score = scores[label * inner];
        I better = -1;  // the true class counts itself
        for (I c = 0; c < channels; ++c) better += scores[c * inner] >= score;
        right[label] += better < top;
        ++found[label];
    }
    const auto part = [](I a, I b) { return b ? (float)a / (float)b : 0.f; };
    *share = part(std::accumulate(right.begin(), right.end(), I(0)), std::accumulate(found.begin(), found.end(), I(0)));
    if (each)
        for (I c = 0; c < channels; ++c) each[c] = part(right[c], found[c]);
    return 0;
}

// embed_layer.cpp

// y (count x n): row places[i] of w (k x n), and bias (n) if there is one; returns 1 where a place is out of range
I caffe_embed(I count, I k, I n, const float* places, const float* w, const float* bias, float* y) {
    for (I i = 0; i < count; ++i) {
        const I place = (I)places[i];
        if (place < 0 || place >= k) return 1;
        const float* from = w + place * n;
        for (I j = 0; j < n; ++j) y[i * n + j] = bias ? from[j] + bias[j] : from[j];
    }
    return 0;
}

// im2col_layer.cpp

// y (images x k x s): element (r, j) of an image, padded if need be, lies at row[r] + column[j]; x_image values apart
void caffe_im2col(I images, I planes, I s, I k, const float* x, I x_image, const I* row, const I* column, I lines, I length,
                  I plane, const I* places, float* y, I threads) {
    const Padding padding{lines, length, plane, places};
#pragma omp parallel for num_threads(team(threads, images * k * s)) schedule(static)
    for (I n = 0; n < images; ++n) {
        const float* image = x + n * x_image;
        if (lines) {
            float* own = local_c.get(planes * plane);
            for (I c = 0; c < planes; ++c) padding.put(image + c * lines * length, own + c * plane);
            image = own;
        }
        for (I r = 0; r < k; ++r)
            for (I j = 0; j < s; ++j) y[(n * k + r) * s + j] = image[row[r] + column[j]];
    }
}

}  // extern "C"

// calls written down as numbers, to be made again without whoever wrote them: ../program.py

template <class T>
static T as(I word) {
    if constexpr (std::is_pointer_v<T>) return reinterpret_cast<T>(word);
    else if constexpr (std::is_same_v<T, float>) {
        float value;
        memcpy(&value, &word, sizeof value);
        return value;
    } else return word;
}

// a kernel that gives a number gives 0, or what it was called with will not do
template <class R, class... T, size_t... N>
static I call(R (*function)(T...), const I* words, std::index_sequence<N...>) {
    if constexpr (std::is_void_v<R>) return function(as<T>(words[N])...), 0;
    else return function(as<T>(words[N])...);
}

template <class R, class... T>
static I call(R (*function)(T...), const I* words) {
    return call(function, words, std::index_sequence_for<T...>());
}

struct Known {
    const char* name;
    I (*call)(const I*);
};
#ifndef MORE
#define MORE(KNOWN)  // kernels of a file that includes this one
#endif
#define KNOWN(name) {#name, [](const I* words) { return call(caffe_##name, words); }},
#define KNOWN_FORMULA(name, value) KNOWN(each_##name)
static const Known known[] = {FORMULAS(KNOWN_FORMULA) KNOWN(gemm) KNOWN(copy) KNOWN(copy_rows) KNOWN(copy_view)
                                  KNOWN(rows) KNOWN(dot) KNOWN(conv) KNOWN(conv_data) KNOWN(lrn_scale) KNOWN(greater)
                                  KNOWN(average) KNOWN(max) KNOWN(greatest) KNOWN(softmax) KNOWN(label_loss)
                                  KNOWN(accuracy) KNOWN(sigmoid_loss) KNOWN(embed) KNOWN(im2col) MORE(KNOWN)};

extern "C" {

// by which number a kernel is called; -1: by none
I caffe_number(const char* name) {
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i)
        if (!strcmp(known[i].name, name)) return i;
    return -1;
}

// from..to: for each call its kernel's number, how many arguments follow, and these. Returns `to`, or where the call stands that
// refused what it was called with, behind which none was made.
const I* caffe_play(const I* from, const I* to) {
    for (; from < to; from += 2 + from[1])
        if (known[*from].call(from + 2)) return from;
    return to;
}

}  // extern "C"
