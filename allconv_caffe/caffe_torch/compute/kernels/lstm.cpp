// What one step of an LSTM computes beside its product: gates, cells and their gradients, in vectors of float32.
// ../recurrent.py calls it.
//
// Source: lstm_unit_layer.cpp, whose sigmoid is taken in double; here exp is good to the last digit or two of float32.

#include <cstdint>
#include <cstring>

typedef int64_t I;
constexpr I LANES = 8;
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));

static inline vf load(const float* p, I count) {
    vf v{};
    if (count == LANES)
        memcpy(&v, p, sizeof(v));
    else
        memcpy(&v, p, 4 * count);
    return v;
}

static inline void store(float* p, vf v, I count) {
    if (count == LANES)
        memcpy(p, &v, sizeof(v));
    else
        memcpy(p, &v, 4 * count);
}

// 2^n e^r, |r| <= ln 2 / 2, by Taylor's series; nan stays nan
static inline vf exp(vf x) {
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
    e = e * r + 1.0f;
    vi power = (__builtin_convertvector(n, vi) + 127) << 23;
    vf scale;
    memcpy(&scale, &power, sizeof(scale));
    return e * scale;
}

static inline vf sigmoid(vf x) { return 1.0f / (1.0f + exp(-x)); }
static inline vf tanh(vf x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

extern "C" {

// gates (n, 4d): what the gates take in, becomes i, f, o, g; then c, h, and h times the next step's cont, if there is one
void lstm_step(I n, I d, float* gates, const float* cont, const float* c_prev, float* c, float* h, const float* next_cont,
               float* next_h, int threads) {
#pragma omp parallel for num_threads(threads) if (n * d > 4096)
    for (I row = 0; row < n; ++row) {
        float* x = gates + row * 4 * d;
        for (I j = 0; j < d; j += LANES) {
            const I count = d - j < LANES ? d - j : LANES, at = row * d + j;
            vf i = sigmoid(load(x + j, count)), f = sigmoid(load(x + d + j, count));
            vf o = sigmoid(load(x + 2 * d + j, count)), g = tanh(load(x + 3 * d + j, count));
            f = cont[row] == 0 ? vf{} : cont[row] * f;
            vf cell = f * load(c_prev + at, count) + i * g;
            vf hidden = o * tanh(cell);
            store(x + j, i, count);
            store(x + d + j, f, count);
            store(x + 2 * d + j, o, count);
            store(x + 3 * d + j, g, count);
            store(c + at, cell, count);
            store(h + at, hidden, count);
            if (next_cont) store(next_h + at, next_cont[row] * hidden, count);
        }
    }
}

// dc (n, d): the gradient of c from the step after, becomes that of c_prev; dx (n, 4d). dh: from the step after, before its
// cont; null at the last step.
void lstm_step_backward(I n, I d, const float* gates, const float* c_prev, const float* c, float* dc, const float* dy,
                        const float* dh, const float* next_cont, float* dx, int threads) {
#pragma omp parallel for num_threads(threads) if (n * d > 4096)
    for (I row = 0; row < n; ++row) {
        const float* gate = gates + row * 4 * d;
        float* to = dx + row * 4 * d;
        for (I j = 0; j < d; j += LANES) {
            const I count = d - j < LANES ? d - j : LANES, at = row * d + j;
            vf i = load(gate + j, count), f = load(gate + d + j, count), o = load(gate + 2 * d + j, count);
            vf g = load(gate + 3 * d + j, count), tanh_c = tanh(load(c + at, count)), above = load(dy + at, count);
            if (dh) above += next_cont[row] * load(dh + at, count);
            vf through = load(dc + at, count) + above * o * (1.0f - tanh_c * tanh_c);
            store(to + j, through * g * i * (1.0f - i), count);
            store(to + d + j, through * load(c_prev + at, count) * f * (1.0f - f), count);
            store(to + 2 * d + j, above * tanh_c * o * (1.0f - o), count);
            store(to + 3 * d + j, through * i * (1.0f - g * g), count);
            store(dc + at, through * f, count);
        }
    }
}
}
