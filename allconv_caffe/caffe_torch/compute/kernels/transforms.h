// Winograd's transforms along one side of a tile of a places, in vectors V: B^T d of the image, A^T x of the products to m
// outputs, A y of the gradient of m outputs. P4 and Q4, the points of the larger tile, are the compiler's to say.

#pragma once

template <int a>
struct Transform;

template <>
struct Transform<4> {
    template <class V>
    static inline void bt(const V* d, V* o) {
        o[0] = d[0] - d[2];
        o[1] = d[2] + d[1];
        o[2] = d[2] - d[1];
        o[3] = d[3] - d[1];
    }
    template <int m, class V>
    static inline void at(const V* x, V* o) {
        o[0] = x[0] + (x[1] + x[2]);
        o[1] = (x[1] - x[2]) + x[3];
    }
    template <int m, class V>
    static inline void a(const V* y, V* o) {
        o[0] = y[0];
        o[1] = y[0] + y[1];
        o[2] = y[0] - y[1];
        o[3] = y[1];
    }
};

template <>
struct Transform<6> {
    static constexpr float p = P4, q = Q4, pp = p * p, qq = q * q;
    template <class V>
    static inline void bt(const V* d, V* o) {
        V a = d[4] - qq * d[2], b = p * (d[3] - qq * d[1]), c = d[4] - pp * d[2], e = q * (d[3] - pp * d[1]);
        o[0] = (pp * qq) * d[0] - (pp + qq) * d[2] + d[4];
        o[1] = a + b;
        o[2] = a - b;
        o[3] = c + e;
        o[4] = c - e;
        o[5] = (pp * qq) * d[1] - (pp + qq) * d[3] + d[5];
    }
    template <int m, class V>
    static inline void at(const V* x, V* o) {
        V s = x[1] + x[2], d = x[1] - x[2], t = x[3] + x[4], e = x[3] - x[4];
        o[0] = x[0] + (s + t);
        o[1] = p * d + q * e;
        if constexpr (m == 2) o[1] += x[5];
        else {
            o[2] = pp * s + qq * t;
            o[3] = (pp * p) * d + (qq * q) * e + x[5];
        }
    }
    template <int m, class V>
    static inline void a(const V* y, V* o) {
        V s = y[0], d = p * y[1], t = y[0], e = q * y[1];
        if constexpr (m == 4) s += pp * y[2], d += (pp * p) * y[3], t += qq * y[2], e += (qq * q) * y[3];
        o[0] = y[0];
        o[1] = s + d;
        o[2] = s - d;
        o[3] = t + e;
        o[4] = t - e;
        o[5] = y[m - 1];
    }
};
