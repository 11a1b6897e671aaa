// Dropout's masks from numpy's generator SFC64, word for word what it draws. ../rng.py calls it.

#include <cstdint>
#include <cstring>
#include <vector>

typedef int64_t I;

// Source: numpy's random/src/sfc64; Doty-Humphrey's generator of PractRand.
struct Sfc64 {
    uint64_t a, b, c, w;
    inline uint64_t next() {
        const uint64_t out = a + b + w++;
        a = b ^ (b >> 11);
        b = c + (c << 3);
        c = ((c << 24) | (c >> 40)) + out;
        return out;
    }
};

// of rows r[i] and r[i + d]: what stands right in one for what stands left in the other, columns of so many bits
template <int d>
static inline void swap(uint64_t* r, uint64_t mask) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
        if (!(i & d)) {
            const uint64_t other = ((r[i] >> (8 * d)) ^ r[i + d]) & mask;
            r[i + d] ^= other;
            r[i] ^= other << (8 * d);
        }
}

static inline void turn(const uint8_t* x, I xs, uint8_t* y, I ys) {  // 8 x 8 bytes
    uint64_t r[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) memcpy(r + i, x + i * xs, 8);
    swap<4>(r, 0x00000000ffffffff);
    swap<2>(r, 0x0000ffff0000ffff);
    swap<1>(r, 0x00ff00ff00ff00ff);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) memcpy(y + i * ys, r + i, 8);
}

// (c, pixels) as (pixels, c)
static void turn_image(const uint8_t* x, uint8_t* y, I c, I pixels) {
    I ch = 0;
    for (; ch + 8 <= c; ch += 8) {
        I px = 0;
        for (; px + 8 <= pixels; px += 8) turn(x + ch * pixels + px, pixels, y + px * c + ch, c);
        for (; px < pixels; ++px)
            for (I i = ch; i < ch + 8; ++i) y[px * c + i] = x[i * pixels + px];
    }
    for (; ch < c; ++ch)
        for (I px = 0; px < pixels; ++px) y[px * c + ch] = x[ch * pixels + px];
}

// y[i]: whether the i-th word lies below `below`, at most 2^32; of the generator's 64 bits the low word comes first. The images
// (n, c, pixels) are drawn in this order, and lie so or, `last`, as (n, pixels, c).
extern "C" void masks_draw(const uint64_t* state, I below, uint8_t* y, I n, I c, I pixels, I last) {
    Sfc64 generator{state[0], state[1], state[2], state[3]};
    const I image = c * pixels, total = n * image, block = 2048;
    const uint32_t top = (uint32_t)(below - 1);
    std::vector<uint8_t> one(last ? image + 1 : 1);
    uint32_t words[block];
    uint8_t odd = 0;  // what is left of a pair where an image ends between its words
    bool has = false;
    for (I i = 0; i < (last ? n : 1); ++i) {
        uint8_t* to = last ? one.data() : y;
        I left = last ? image : total;
        if (has && left) {
            *to++ = odd;
            --left;
            has = false;
        }
        while (left > 0) {
            const I count = left < block ? left : block;
            for (I k = 0; k < count; k += 2) {
                const uint64_t pair = generator.next();
                words[k] = (uint32_t)pair;
                words[k + 1] = (uint32_t)(pair >> 32);
            }
            for (I k = 0; k < count; ++k) to[k] = words[k] <= top;
            if (count % 2) {
                odd = words[count] <= top;
                has = true;
            }
            to += count;
            left -= count;
        }
        if (last) turn_image(one.data(), y + i * image, c, pixels);
    }
}
