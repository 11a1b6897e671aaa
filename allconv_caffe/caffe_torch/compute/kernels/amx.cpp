// Convolutions of bfloat16 images, channels_last, by the tile multiplications of AMX, sums in float32. ../amx.py calls it.
//
// A tile's sum runs over 32 numbers, two of which stand together. For the filters' gradient these are 32 images at one pixel,
// for the images 32 channels of one; so a window may lie anywhere, with any stride, without a copy for each of its places, and
// what lies in the padding is left out.

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
#include <omp.h>
#include "buffer.h"

typedef int64_t I;
typedef uint16_t bf16;

static const int IMAGES = 32;      // to a group
static const int TILE = 16 * 32;   // numbers in a tile of bfloat16, 1 KiB
static const int SUMS = 16 * 16;   // numbers in a tile of float32, 1 KiB
// As measured where a core's second cache holds 2 MiB, what is laid out at once beside the sums:
static const I STRIP = 16;        // pixels of tops side by side
static const I BAND = 32;         // and with those above them, for the filters' gradient
static const I MOST_SUMS = 1000;  // tiles of sums

// Linux hands the tiles' registers out on request. 0, or the error's number.
extern "C" I amx_permit() {
    const long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

struct Tiles {  // eight tiles of 16 rows of 64 bytes, as long as this lives
    Tiles() {
        alignas(64) uint8_t config[64] = {1};
        for (int i = 0; i < 8; ++i) {
            config[16 + 2 * i] = 64;
            config[48 + i] = 16;
        }
        _tile_loadconfig(config);
    }
    ~Tiles() { _tile_release(); }
};

struct Shape {  // of a convolution: images (n, h, w, c), tops (n, oh, ow, o)
    I n, h, w, c, o, kh, kw, sh, sw, ph, pw, oh, ow;
};

static inline I up(I a, I b) { return (a + b - 1) / b; }
static inline I whole(I a, I b) { return up(a, b) * b; }

struct Lanes {  // which of 16 numbers are there
    __mmask16 mask;
    explicit Lanes(I count) : mask(count >= 16 ? 0xffff : (1u << std::max<I>(count, 0)) - 1) {}
    __m256i load(const bf16* p) const { return _mm256_maskz_loadu_epi16(mask, p); }
};

// (a0 b0 a1 b1 ...): of 16 channels, what one image has and the next, together
static inline __m512i together(__m256i a, __m256i b) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}

static inline void transpose(__m512i* r) {  // 16 x 16 of 32 bits
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

// A row of a group's images: v[block of 16 channels][pixel][pair of images][channel][2].
static void pairs_of(const bf16* x, I image, I images, I w, I c, I all, bf16* v, I block) {
    for (I pair = 0; pair < IMAGES / 2; ++pair) {
        const bf16 *a = x + 2 * pair * image, *b = a + image;
        const bool has_a = 2 * pair < images, has_b = 2 * pair + 1 < images;
        bf16* to = v + pair * 32;
        for (I px = 0; px < w; ++px)
            for (I ch = 0; ch < c; ch += 16) {
                const Lanes lanes(c - ch);
                const __m256i zero = _mm256_setzero_si256();
                const __m256i one = has_a ? lanes.load(a + px * all + ch) : zero;
                const __m256i two = has_b ? lanes.load(b + px * all + ch) : zero;
                _mm512_store_si512(to + ch / 16 * block + px * TILE, together(one, two));
            }
    }
}

// A row of a group's tops, turned: v[block of 16 channels][pixel][channel][image]; their sum is added to `sums`.
static void turned_of(const bf16* x, I image, I images, I w, I c, I all, bf16* v, I block, float* sums) {
    for (I ch = 0; ch < c; ch += 16) {
        const Lanes lanes(c - ch);
        __m512 even = _mm512_loadu_ps(sums + ch), odd = _mm512_setzero_ps();
        for (I px = 0; px < w; ++px) {
            __m512i r[16];
            const bf16* from = x + px * all + ch;
            const __m256i zero = _mm256_setzero_si256();
#pragma GCC unroll 16
            for (I pair = 0; pair < 16; ++pair) {
                const __m256i one = 2 * pair < images ? lanes.load(from + 2 * pair * image) : zero;
                const __m256i two = 2 * pair + 1 < images ? lanes.load(from + (2 * pair + 1) * image) : zero;
                r[pair] = together(one, two);
                even = _mm512_add_ps(even, _mm512_castsi512_ps(_mm512_slli_epi32(r[pair], 16)));
                odd = _mm512_add_ps(
                    odd, _mm512_castsi512_ps(_mm512_and_si512(r[pair], _mm512_set1_epi32((int)0xffff0000))));
            }
            transpose(r);
            bf16* to = v + ch / 16 * block + px * TILE;
#pragma GCC unroll 16
            for (int i = 0; i < 16; ++i) _mm512_store_si512(to + i * 32, r[i]);
        }
        _mm512_storeu_ps(sums + ch, _mm512_add_ps(even, odd));
    }
}

// sums[i][j] += a[i][pixel] b[j][pixel], over pixels and the images at them; tiles in rows `pixels` after pixel
struct Run {
    I a, b, pixels;  // where it begins, in tiles
};

template <int M, int N>
static inline void add_runs(const bf16* a, I ai, const bf16* b, I bj, I step, const Run* runs, I count, float* sums,
                            I next) {
    _tile_loadd(0, sums, 64);
    if (N > 1) _tile_loadd(1, sums + SUMS, 64);
    if (M > 1) _tile_loadd(2, sums + next, 64);
    if (M > 1 && N > 1) _tile_loadd(3, sums + next + SUMS, 64);
    for (I r = 0; r < count; ++r) {
        const bf16 *p = a + runs[r].a * TILE, *q = b + runs[r].b * TILE;
        for (I k = 0; k < runs[r].pixels; ++k, p += TILE, q += step * TILE) {
            _tile_loadd(6, q, 64);
            _tile_loadd(4, p, 64);
            _tile_dpbf16ps(0, 4, 6);
            if (N > 1) {
                _tile_loadd(7, q + bj, 64);
                _tile_dpbf16ps(1, 4, 7);
            }
            if (M > 1) {
                _tile_loadd(5, p + ai, 64);
                _tile_dpbf16ps(2, 5, 6);
                if (N > 1) _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, sums, 64);
    if (N > 1) _tile_stored(1, sums + SUMS, 64);
    if (M > 1) _tile_stored(2, sums + next, 64);
    if (M > 1 && N > 1) _tile_stored(3, sums + next + SUMS, 64);
}

static thread_local Buffer local_x, local_dy, local_runs;
static Buffer shared_sums;

// Where along an axis the places of a window's tap lie in the image: for tops from `first`, `end` not included.
struct Places {
    I first, end;
    Places(I from, I to, I tap, I stride, I pad, I size)
        : first(std::max(from, up(std::max<I>(0, pad - tap), stride))),
          end(std::min(to, size + pad > tap ? up(size + pad - tap, stride) : 0)) {}
};

// dw (o, kh, kw, c) and db (o), float32
static void weight(const bf16* x, const bf16* dy, float* dw, float* db, Shape s) {
    const I groups = up(s.n, IMAGES), cb = up(s.c, 16), taps = s.kh * s.kw;
    // the tops' channels fall into parts, so that a part's sums stay in the cache
    const I obs = up(s.o, 16), most = std::max<I>(2, MOST_SUMS / (taps * cb) / 2 * 2), oparts = up(obs, most);
    const I ob = std::min(obs, whole(up(obs, oparts), 2));
    const I size = taps * ob * cb * SUMS, each = size + ob * 16;  // of one part's sums
    const I width = std::min(STRIP, s.ow), strips = up(s.ow, width), rows = std::max<I>(1, BAND / width);
    const I workers = up(omp_get_max_threads(), oparts);
    const I units = groups * strips, parts = std::min(workers, units);
    float* all = shared_sums.get(oparts * parts * each);
#pragma omp parallel
    {
        const I ring = (rows - 1) * s.sh + s.kh, columns = (width - 1) * s.sw + s.kw;
        const I xblock = ring * columns * TILE, yblock = rows * width * TILE;
        bf16* xs = (bf16*)local_x.get(cb * xblock / 2);
        bf16* ys = (bf16*)local_dy.get(ob * yblock / 2);
        Run* runs = (Run*)local_runs.get(rows * sizeof(Run) / 4 + 1);
        const Tiles tiles;
#pragma omp for schedule(static, 1)
        for (I item = 0; item < oparts * parts; ++item) {
            const I part = item / oparts, o0 = item % oparts * ob * 16, os = std::min(ob * 16, s.o - o0), mine = up(os, 16);
            float* sums = all + item * each;
            memset(sums, 0, each * 4);
            for (I unit = units * part / parts; unit < units * (part + 1) / parts; ++unit) {
                const I first = unit / strips * IMAGES, images = std::min<I>(IMAGES, s.n - first);
                const I c0 = unit % strips * width, c1 = std::min(s.ow, c0 + width);
                const I x0 = std::max<I>(0, c0 * s.sw - s.pw), x1 = std::min(s.w, (c1 - 1) * s.sw - s.pw + s.kw);
                I have = 0;  // rows of images above this one lie in the ring, or are never needed
                for (I from = 0; from < s.oh; from += rows) {
                    const I to = std::min(from + rows, s.oh), high = std::min(s.h, (to - 1) * s.sh - s.ph + s.kh);
                    for (I y = std::max(have, from * s.sh - s.ph); y < high; ++y)
                        pairs_of(x + ((first * s.h + y) * s.w + x0) * s.c, s.h * s.w * s.c, images, x1 - x0, s.c, s.c,
                                 xs + y % ring * columns * TILE, xblock);
                    have = std::max(have, high);
                    for (I y = from; y < to; ++y)
                        turned_of(dy + ((first * s.oh + y) * s.ow + c0) * s.o + o0, s.oh * s.ow * s.o, images, c1 - c0,
                                  os, s.o, ys + (y - from) * width * TILE, yblock, sums + size);
                    for (I i = 0; i < mine; i += 2)
                        for (I ky = 0; ky < s.kh; ++ky)
                            for (I kx = 0; kx < s.kw; ++kx) {
                                const Places down(from, to, ky, s.sh, s.ph, s.h), right(c0, c1, kx, s.sw, s.pw, s.w);
                                if (right.first >= right.end) continue;
                                I count = 0;
                                for (I y = down.first; y < down.end; ++y) {
                                    const I row = (y * s.sh + ky - s.ph) % ring, column = right.first * s.sw + kx - s.pw - x0;
                                    runs[count++] = {(y - from) * width + right.first - c0, row * columns + column,
                                                     right.end - right.first};
                                }
                                if (!count) continue;
                                for (I j = 0; j < cb; j += 2) {
                                    const bf16 *a = ys + i * yblock, *b = xs + j * xblock;
                                    float* c = sums + ((ky * s.kw + kx) * ob + i) * cb * SUMS + j * SUMS;
                                    const bool m = i + 1 < mine, n = j + 1 < cb;
                                    if (m && n) add_runs<2, 2>(a, yblock, b, xblock, s.sw, runs, count, c, cb * SUMS);
                                    else if (m) add_runs<2, 1>(a, yblock, b, xblock, s.sw, runs, count, c, cb * SUMS);
                                    else if (n) add_runs<1, 2>(a, yblock, b, xblock, s.sw, runs, count, c, cb * SUMS);
                                    else add_runs<1, 1>(a, yblock, b, xblock, s.sw, runs, count, c, cb * SUMS);
                                }
                            }
                }
            }
        }
#pragma omp for schedule(static)
        for (I o = 0; o < s.o; ++o) {
            const float* from = all + o / (ob * 16) * each;
            const I at = o % (ob * 16), next = oparts * each;
            for (I tap = 0; tap < taps; ++tap)
                for (I c = 0; c < s.c; c += 16) {
                    __m512 sum = _mm512_setzero_ps();
                    const float* one = from + ((tap * ob + at / 16) * cb + c / 16) * SUMS + at % 16 * 16;
                    for (I p = 0; p < parts; ++p) sum = _mm512_add_ps(sum, _mm512_load_ps(one + p * next));
                    _mm512_mask_storeu_ps(dw + (o * taps + tap) * s.c + c, Lanes(s.c - c).mask, sum);
                }
            db[o] = 0;
            for (I p = 0; p < parts; ++p) db[o] += from[p * next + size + at];
        }
    }
}

extern "C" void amx_weight(const void* x, const void* dy, float* dw, float* db, I n, I h, I w, I c, I o, I kh, I kw,
                           I sh, I sw, I ph, I pw, I oh, I ow, I threads) {
    omp_set_num_threads((int)threads);
    weight((const bf16*)x, (const bf16*)dy, dw, db, {n, h, w, c, o, kh, kw, sh, sw, ph, pw, oh, ow});
}

// Which taps of a window reach the pixels of the other side, along one axis.
struct Taps {
    struct Tap {
        I tap, at;
    };
    std::vector<Tap> all;
    std::vector<I> starts{0};
    std::vector<I> low, high;  // the other side's pixels that each needs, high not included

    // `back`: from an image's pixels to the tops', otherwise from the tops' pixels to the image's
    Taps(I size, I other, I kernel, I stride, I pad, bool back) {
        for (I i = 0; i < size; ++i) {
            I from = other, to = 0;
            for (I k = 0; k < kernel; ++k) {
                I at = back ? i + pad - k : i * stride + k - pad;
                if (back && (at < 0 || at % stride)) continue;
                if (back) at /= stride;
                if (at < 0 || at >= other) continue;
                all.push_back({k, at});
                from = std::min(from, at);
                to = std::max(to, at + 1);
            }
            starts.push_back((I)all.size());
            low.push_back(from);
            high.push_back(to);
        }
    }
    I widest(I step) const {  // pixels of the other side to as many as `step` of this one
        I most = 1;
        for (I i = 0; i < (I)low.size(); i += step) {
            const I end = std::min<I>(i + step, low.size());
            const I from = *std::min_element(low.begin() + i, low.begin() + end);
            most = std::max(most, *std::max_element(high.begin() + i, high.begin() + end) - from);
        }
        return most;
    }
};

// A row of a group's images: v[pixel][block of 32 channels][image][channel].
static void blocks_of(const bf16* x, I image, I images, I w, I c, bf16* v) {
    const I kb = up(c, 32);
    for (I i = 0; i < images; ++i)
        for (I px = 0; px < w; ++px)
            for (I k = 0; k < kb; ++k) {
                const I left = c - 32 * k;
                const __mmask32 mask = left >= 32 ? 0xffffffff : (1u << left) - 1;
                _mm512_store_si512(v + (px * kb + k) * 2 * TILE + i * 32,
                                   _mm512_maskz_loadu_epi16(mask, x + i * image + px * c + 32 * k));
            }
}

// Filters (o, kh, kw, c) as u[pair of 16 outputs][tap][block of 32 inputs][2][pair of inputs][output][2]; `back`: o's are the
// inputs.
static void filters_of(const bf16* w, bf16* u, I o, I taps, I c, bool back) {
    const I in = back ? o : c, out = back ? c : o, kb = up(in, 32), blocks = whole(up(out, 16), 2);
#pragma omp for schedule(static)
    for (I block = 0; block < blocks; ++block)
        for (I tap = 0; tap < taps; ++tap)
            for (I k = 0; k < kb; ++k) {
                __m512i r[16];
                const I first = block * 16;
                for (I i = 0; i < 16; ++i) {
                    if (back) {
                        const I one = 32 * k + 2 * i;
                        const Lanes lanes(c - first);
                        const __m256i zero = _mm256_setzero_si256();
                        r[i] = together(one < o ? lanes.load(w + (one * taps + tap) * c + first) : zero,
                                        one + 1 < o ? lanes.load(w + ((one + 1) * taps + tap) * c + first) : zero);
                    } else {
                        const I left = first + i < o ? c - 32 * k : 0;
                        const __mmask32 mask = left >= 32 ? 0xffffffff : (1u << std::max<I>(left, 0)) - 1;
                        r[i] = _mm512_maskz_loadu_epi16(mask, w + ((first + i) * taps + tap) * c + 32 * k);
                    }
                }
                if (!back) transpose(r);
                bf16* to = u + ((((block / 2) * taps + tap) * kb + k) * 2 + block % 2) * TILE;
                for (I i = 0; i < 16; ++i) _mm512_store_si512(to + 32 * i, r[i]);
            }
}

struct Step {
    const bf16 *a, *b;
};

template <int M, int N>
static inline void add_steps(const Step* steps, I count, I blocks, float* sums) {  // sums[image][32]
    _tile_zero(0);
    if (N > 1) _tile_zero(1);
    if (M > 1) _tile_zero(2);
    if (M > 1 && N > 1) _tile_zero(3);
    for (I s = 0; s < count; ++s) {
        const bf16 *a = steps[s].a, *b = steps[s].b;
        for (I k = 0; k < blocks; ++k, a += 2 * TILE, b += 2 * TILE) {
            _tile_loadd(6, b, 64);
            _tile_loadd(4, a, 64);
            _tile_dpbf16ps(0, 4, 6);
            if (N > 1) {
                _tile_loadd(7, b + TILE, 64);
                _tile_dpbf16ps(1, 4, 7);
            }
            if (M > 1) {
                _tile_loadd(5, a + TILE, 64);
                _tile_dpbf16ps(2, 5, 6);
                if (N > 1) _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, sums, 128);
    if (N > 1) _tile_stored(1, sums + 16, 128);
    if (M > 1) _tile_stored(2, sums + 16 * 32, 128);
    if (M > 1 && N > 1) _tile_stored(3, sums + 16 * 32 + 16, 128);
}

static Buffer shared_filters;

// Images (n, h, w, c) through windows to y (n, oh, ow, o), or `back` from there to the images: then x is dy and y is dx.
static void convolve(const bf16* x, const bf16* filters, const float* bias, bf16* y, Shape s, bool back) {
    const I xh = back ? s.oh : s.h, xw = back ? s.ow : s.w, xc = back ? s.o : s.c;
    const I yh = back ? s.h : s.oh, yw = back ? s.w : s.ow, yc = back ? s.c : s.o;
    const I taps = s.kh * s.kw, kb = up(xc, 32), pairs = up(yc, 32);
    const Taps down(yh, xh, s.kh, s.sh, s.ph, back), right(yw, xw, s.kw, s.sw, s.pw, back);
    const I width = std::min<I>(back ? STRIP * s.sw : STRIP, yw), strips = up(yw, width), groups = up(s.n, IMAGES);
    const I chunks = std::min(yh, up(omp_get_max_threads(), groups * strips)), units = groups * strips * chunks;
    const I ring = down.widest(1), columns = right.widest(width), pixel = kb * 2 * TILE;
    bf16* u = (bf16*)shared_filters.get(pairs * taps * kb * TILE);
#pragma omp parallel
    {
        filters_of(filters, u, s.o, taps, s.c, back);
        bf16* xs = (bf16*)local_x.get(ring * columns * pixel / 2);
        Step* steps = (Step*)local_runs.get(taps * sizeof(Step) / 4);
        alignas(64) float sums[32 * 32];
        const Tiles tiles;
#pragma omp for schedule(dynamic, 1)
        for (I unit = 0; unit < units; ++unit) {
            const I first = unit / (strips * chunks) * IMAGES, images = std::min<I>(IMAGES, s.n - first);
            const I c0 = unit / chunks % strips * width, c1 = std::min(yw, c0 + width), chunk = unit % chunks;
            const I x0 = *std::min_element(right.low.begin() + c0, right.low.begin() + c1);
            const I x1 = *std::max_element(right.high.begin() + c0, right.high.begin() + c1);
            I have = 0;  // rows above this one lie in the ring, or are never needed
            for (I row = yh * chunk / chunks; row < yh * (chunk + 1) / chunks; ++row) {
                for (I at = std::max(have, down.low[row]); at < down.high[row] && x0 < x1; ++at)
                    blocks_of(x + ((first * xh + at) * xw + x0) * xc, xh * xw * xc, images, x1 - x0, xc,
                              xs + at % ring * columns * pixel);
                have = std::max(have, down.high[row]);
                for (I pair = 0; pair < pairs; ++pair) {
                    const I left = yc - 32 * pair;
                    const __mmask32 mask = left >= 32 ? 0xffffffff : (1u << left) - 1;
                    const __m512 b0 = bias ? _mm512_maskz_loadu_ps((__mmask16)mask, bias + 32 * pair) : _mm512_setzero_ps();
                    const __m512 b1 =
                        bias ? _mm512_maskz_loadu_ps((__mmask16)(mask >> 16), bias + 32 * pair + 16) : _mm512_setzero_ps();
                    for (I col = c0; col < c1; ++col) {
                        I count = 0;
                        for (I i = down.starts[row]; i < down.starts[row + 1]; ++i)
                            for (I j = right.starts[col]; j < right.starts[col + 1]; ++j)
                                steps[count++] = {xs + (down.all[i].at % ring * columns + right.all[j].at - x0) * pixel,
                                                  u + (pair * taps + down.all[i].tap * s.kw + right.all[j].tap) * pixel};
                        if (images > 16 && left > 16) add_steps<2, 2>(steps, count, kb, sums);
                        else if (images > 16) add_steps<2, 1>(steps, count, kb, sums);
                        else if (left > 16) add_steps<1, 2>(steps, count, kb, sums);
                        else add_steps<1, 1>(steps, count, kb, sums);
                        bf16* to = y + ((first * yh + row) * yw + col) * yc + 32 * pair;
                        for (I i = 0; i < images; ++i, to += yh * yw * yc) {
                            const __m512 one = _mm512_add_ps(_mm512_load_ps(sums + 32 * i), b0);
                            const __m512 two = _mm512_add_ps(_mm512_load_ps(sums + 32 * i + 16), b1);
                            _mm512_mask_storeu_epi16(to, mask, (__m512i)_mm512_cvtne2ps_pbh(two, one));
                        }
                    }
                }
            }
        }
    }
}

extern "C" void amx_convolve(const void* x, const void* filters, const float* bias, void* y, I n, I h, I w, I c, I o,
                             I kh, I kw, I sh, I sw, I ph, I pw, I oh, I ow, I back, I threads) {
    omp_set_num_threads((int)threads);
    convolve((const bf16*)x, (const bf16*)filters, bias, (bf16*)y, {n, h, w, c, o, kh, kw, sh, sw, ph, pw, oh, ow}, back);
}
