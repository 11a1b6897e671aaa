// Room for what kernels lay aside while they run.

#pragma once

#include <cstdlib>

struct Buffer {  // grows, is never returned before its thread ends: one call after the other needs the same
    float* p = nullptr;
    size_t n = 0;
    ~Buffer() { free(p); }
    float* get(size_t want) {
        if (want > n) {
            free(p);
            n = want;
            p = (float*)aligned_alloc(4096, (n * 4 + 4095) / 4096 * 4096);
        }
        return p;
    }
};
