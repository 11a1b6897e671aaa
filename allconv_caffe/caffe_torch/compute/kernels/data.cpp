// Records on their way into a batch: read from an LMDB file, told apart, cropped, mirrored, mean subtracted, scaled.
//
// Source: data_transformer.cpp (Transform), db_lmdb.cpp.
//
// Anything that is not as an ordinary record is leaves its kind at UNUSUAL or UNREAD: whoever called looks at it again and
// says what is wrong. Nothing here trusts a length that a file states.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <unistd.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

enum Kind : int64_t { UNREAD = -1, UNUSUAL = 0, BYTES = 1, FLOATS = 2, ENCODED = 3 };

struct Record {  // a row of `table`; an image's element (c, h, w) lies at address + c channel + h row + w column
    int64_t kind, channels, height, width, address, channel, row, column, label, length;
};

struct Place {  // a row of `places`: where a value lies in the file, how long it is, and how long the head of its page
    int64_t offset, length, head;
};

uint64_t number(const uint8_t *at, int bytes) {
    uint64_t value = 0;
    std::memcpy(&value, at, bytes);  // little-endian, as LMDB's files are
    return value;
}

// A Datum's varint; false where it does not end.
bool varint(const uint8_t *&at, const uint8_t *end, uint64_t &value) {
    value = 0;
    for (int shift = 0; shift <= 63; shift += 7) {
        if (at == end) return false;
        const uint8_t part = *at++;
        value |= uint64_t(part & 0x7F) << shift;
        if (part < 0x80) return true;
    }
    return false;
}

// Whether eight values of float_data begin here, each with its tag.
bool eight_floats(const uint8_t *at) {
    uint8_t wrong = 0;
    for (int i = 0; i < 40; i += 5) wrong |= at[i] ^ 0x35;
    return !wrong;
}

void scan(const uint8_t *at, const uint8_t *end, Record &record) {
    uint64_t channels = 0, height = 0, width = 0, label = 0, encoded = 0, value, floats = 0, bytes = 0;
    const uint8_t *data = nullptr, *first = nullptr;
    int64_t column = 4;
    record.kind = UNUSUAL;
    while (at < end) {
        const uint8_t tag = *at;
        if (tag == 0x35) {  // float_data, each value with its tag
            if (floats) return;
            first = at + 1;
            column = 5;
            for (; end - at >= 40 && eight_floats(at); at += 40) floats += 8;
            for (; end - at >= 5 && *at == 0x35; at += 5) floats++;
            if (!floats) return;
            continue;
        }
        at++;
        if (!varint(at, end, value)) return;
        if (tag == 0x22 || tag == 0x32) {
            if (value > uint64_t(end - at)) return;
            if (tag == 0x22) {
                data = at;
                bytes = value;
            } else {  // float_data, packed
                if (floats || value % 4) return;
                first = at;
                floats = value / 4;
            }
            at += value;
        } else if (tag == 0x08) {
            channels = value;
        } else if (tag == 0x10) {
            height = value;
        } else if (tag == 0x18) {
            width = value;
        } else if (tag == 0x28) {
            label = value;
        } else if (tag == 0x38) {
            encoded = value;
        } else {
            return;
        }
    }
    record.label = int32_t(uint32_t(label));
    if (encoded) {
        record.address = int64_t(data);
        record.length = int64_t(bytes);
        if (data) record.kind = ENCODED;
        return;
    }
    const uint64_t most = uint64_t(1) << 20;
    if (channels > most || height > most || width > most) return;
    const uint64_t size = channels * height * width;
    if (!size || size != (bytes ? bytes : floats)) return;
    if (bytes) column = 1;  // bytes win
    record.address = int64_t(bytes ? data : first);
    record.channels = int64_t(channels);
    record.height = int64_t(height);
    record.width = int64_t(width);
    record.column = column;
    record.row = column * record.width;
    record.channel = record.row * record.height;
    record.kind = bytes ? BYTES : FLOATS;
}

// Reads all of [offset, offset + length); false where the file ends before.
bool read_whole(int file, uint8_t *buffer, int64_t length, int64_t offset) {
    while (length > 0) {
        const ssize_t got = pread(file, buffer, size_t(length), offset);
        if (got <= 0) return false;
        buffer += got;
        offset += got;
        length -= got;
    }
    return true;
}

// The head of an overflow page that begins the value's: its own number, its kind, as many pages as the value needs.
bool good_head(const uint8_t *head, const Place &place, int64_t page_size) {
    return int64_t(number(head, 8)) == place.offset / page_size && (number(head + 10, 2) & 0x6F) == 4 &&
           int64_t(number(head + 12, 4)) * page_size >= place.head + place.length;
}

constexpr int64_t PART = 256;  // of a row that is mirrored: made forwards, then turned round, each of which is vectorised

template <class T>
void reversed(const T *__restrict from, T *__restrict to, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = from[count - 1 - i];
}

#ifdef __AVX512F__
constexpr int64_t LANES = 16;
#else
constexpr int64_t LANES = 8;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));

template <class T>
T loaded(const void *at) {
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
}

#ifdef __AVX512VBMI__
// Of 16 floats, each behind its tag, which bytes of the first 64, or else of the last 16, they are.
struct Untagged {
    uint8_t at[64];
    constexpr Untagged() : at() {
        for (int i = 0; i < 64; i++) {
            const int byte = i / 4 * 5 + i % 4;
            at[i] = uint8_t(byte < 64 ? byte : byte - 63 + 64);
        }
    }
};
constexpr Untagged untagged;
#endif

// LANES values from `at` on, `COLUMN` bytes apart: bytes, or floats, which may have their tags between them.
template <class In, int64_t COLUMN>
Floats floats_at(const uint8_t *at) {
    if constexpr (COLUMN == 4) {
        return loaded<Floats>(at);
#if defined(__AVX512VBMI__)
    } else if constexpr (COLUMN == 5 && sizeof(In) == 4) {
        const __m512i tail = _mm512_castsi128_si512(loaded<__m128i>(at + 63));
        return (Floats)_mm512_permutex2var_epi8(loaded<__m512i>(at), loaded<__m512i>(untagged.at), tail);
#endif
#if defined(__AVX512F__)
    } else if constexpr (COLUMN == 1) {
        return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(loaded<__m128i>(at)));
#elif defined(__AVX2__)
    } else if constexpr (COLUMN == 1) {
        return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(loaded<int64_t>(at))));
#endif
    } else {
        Floats x;
        for (int64_t i = 0; i < LANES; i++) x[i] = float(loaded<In>(at + i * COLUMN));
        return x;
    }
}

Floats turned(Floats x) {
#if defined(__AVX512F__)
    return (Floats)_mm512_permutexvar_ps(_mm512_set_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), (__m512)x);
#elif defined(__AVX2__)
    return (Floats)_mm256_permutevar8x32_ps((__m256)x, _mm256_set_epi32(0, 1, 2, 3, 4, 5, 6, 7));
#else
    Floats y;
    for (int64_t i = 0; i < LANES; i++) y[i] = x[LANES - 1 - i];
    return y;
#endif
}

template <class In, class Out>
struct Row {
    // out[i] = (in[i] - mean) * scale, each step rounded to float as Caffe does
    static void put(const uint8_t *in, int64_t column, const float *mean, float constant, int64_t form, float scale, Out *out,
                    int64_t width, bool mirror) {
        if (form == 2) {
            each(in, column, mean, out, width, mirror, [=](auto x, auto m) { return (x - m) * scale; });
        } else if (form == 1) {
            each(in, column, nullptr, out, width, mirror, [=](auto x, auto) { return (x - constant) * scale; });
        } else if (scale != 1) {
            each(in, column, nullptr, out, width, mirror, [=](auto x, auto) { return x * scale; });
        } else {
            each(in, column, nullptr, out, width, mirror, [](auto x, auto) { return x; });
        }
    }

    // f of each value as float, and of the mean's beside it; without a mean of 0
    template <class F>
    static void each(const uint8_t *in, int64_t column, const float *mean, Out *out, int64_t width, bool mirror, F f) {
        const auto one = [=](const uint8_t *at, int64_t i) { return Out(f(float(loaded<In>(at)), mean ? mean[i] : 0.f)); };
        if (column == int64_t(sizeof(In))) {
            row<sizeof(In)>(in, mean, out, width, mirror, f, one);
        } else if (column == 3) {
            strided<3>(in, out, width, mirror, one);
        } else if (sizeof(In) == 4 && column == 5) {
            row<5>(in, mean, out, width, mirror, f, one);
        } else {
            for (int64_t i = 0; i < width; i++) out[mirror ? width - 1 - i : i] = one(in + i * column, i);
        }
    }

    template <int64_t COLUMN, class F, class One>
    static void row(const uint8_t *in, const float *mean, Out *out, int64_t width, bool mirror, F f, One one) {
        if constexpr (sizeof(Out) == sizeof(float)) {
            if (width >= LANES && mirror) return vectors<COLUMN, true>(in, mean, out, width, f);
            if (width >= LANES) return vectors<COLUMN, false>(in, mean, out, width, f);
        }
        strided<COLUMN>(in, out, width, mirror, one);
    }

    // the last vector lies over the one before, where the row is no whole number of them
    template <int64_t COLUMN, bool MIRROR, class F>
    static void vectors(const uint8_t *in, const float *mean, float *out, int64_t width, F f) {
        const int64_t last = width - LANES;
        for (int64_t to = 0;; to = std::min(to + LANES, last)) {
            const int64_t i = MIRROR ? last - to : to;
            const Floats x = floats_at<In, COLUMN>(in + i * COLUMN);
            const Floats y = f(x, mean ? loaded<Floats>(mean + i) : Floats{}), z = MIRROR ? turned(y) : y;
            std::memcpy(out + to, &z, sizeof(z));
            if (to == last) return;
        }
    }

    template <int64_t COLUMN, class F>
    static void strided(const uint8_t *__restrict in, Out *__restrict out, int64_t width, bool mirror, F f) {
        if (!mirror) {
            for (int64_t i = 0; i < width; i++) out[i] = f(in + i * COLUMN, i);
            return;
        }
        Out part[PART];
        for (int64_t begin = 0; begin < width; begin += PART) {
            const int64_t count = std::min(PART, width - begin);
            for (int64_t i = 0; i < count; i++) part[i] = f(in + (begin + i) * COLUMN, begin + i);
            reversed(part, out + width - begin - count, count);
        }
    }
};

// The same for three channels whose bytes alternate, as OpenCV has them: each byte is loaded once.
template <class F0, class F1, class F2>
void interleaved(const uint8_t *__restrict in, float *__restrict out0, float *__restrict out1, float *__restrict out2,
                 int64_t width, bool mirror, F0 f0, F1 f1, F2 f2) {
    if (!mirror) {
        for (int64_t i = 0; i < width; i++) {
            out0[i] = f0(in[3 * i], i);
            out1[i] = f1(in[3 * i + 1], i);
            out2[i] = f2(in[3 * i + 2], i);
        }
        return;
    }
    float part0[PART], part1[PART], part2[PART];
    for (int64_t begin = 0; begin < width; begin += PART) {
        const int64_t count = std::min(PART, width - begin), to = width - begin - count;
        const uint8_t *from = in + 3 * begin;
        for (int64_t i = 0; i < count; i++) {
            part0[i] = f0(from[3 * i], begin + i);
            part1[i] = f1(from[3 * i + 1], begin + i);
            part2[i] = f2(from[3 * i + 2], begin + i);
        }
        reversed(part0, out0 + to, count);
        reversed(part1, out1 + to, count);
        reversed(part2, out2 + to, count);
    }
}

struct Mean {
    int64_t form;  // 0: none; 1: a value for each channel; 2: an image of height x width
    const float *values;
    int64_t height, width;
};

void transform_interleaved(const Record &record, const int64_t *draw, int64_t height, int64_t width, const Mean &mean, float scale,
                           float *out) {
    const int64_t plane = height * width, of_mean = mean.height * mean.width;
    for (int64_t h = 0; h < height; h++) {
        const int64_t row = draw[1] + h;
        const uint8_t *in = reinterpret_cast<const uint8_t *>(record.address) + row * record.row + 3 * draw[2];
        float *to = out + h * width;
        if (mean.form == 2) {
            const float *m = mean.values + row * mean.width + draw[2], *m1 = m + of_mean, *m2 = m1 + of_mean;
            interleaved(
                in, to, to + plane, to + 2 * plane, width, draw[0] != 0,
                [=](uint8_t x, int64_t i) { return (float(x) - m[i]) * scale; },
                [=](uint8_t x, int64_t i) { return (float(x) - m1[i]) * scale; },
                [=](uint8_t x, int64_t i) { return (float(x) - m2[i]) * scale; });
        } else {  // x - 0 is x
            const float m = mean.form ? mean.values[0] : 0, m1 = mean.form ? mean.values[1] : 0,
                        m2 = mean.form ? mean.values[2] : 0;
            interleaved(
                in, to, to + plane, to + 2 * plane, width, draw[0] != 0,
                [=](uint8_t x, int64_t) { return (float(x) - m) * scale; },
                [=](uint8_t x, int64_t) { return (float(x) - m1) * scale; },
                [=](uint8_t x, int64_t) { return (float(x) - m2) * scale; });
        }
    }
}

template <class In, class Out>
void transform(const Record &record, const int64_t *draw, int64_t channels, int64_t height, int64_t width, const Mean &mean,
               float scale, Out *out) {
    const bool mirror = draw[0] != 0;
    if (!mirror && record.row == width * record.column && (mean.form != 2 || mean.width == width)) {  // one long row
        width *= height;
        height = 1;
    }
    for (int64_t h = 0; h < height; h++) {
        for (int64_t c = 0; c < channels; c++) {
            const int64_t row = draw[1] + h;
            const uint8_t *in = reinterpret_cast<const uint8_t *>(record.address) + c * record.channel + row * record.row +
                                draw[2] * record.column;
            const float *image = mean.form == 2 ? mean.values + (c * mean.height + row) * mean.width + draw[2] : nullptr;
            const float constant = mean.form == 1 ? mean.values[c] : 0;
            Row<In, Out>::put(in, record.column, image, constant, mean.form, scale, out + (c * height + h) * width, width,
                              mirror);
        }
    }
}

}  // namespace

// The places of a leaf page's values, from its `nodes` (as its head has them); -1 where one is not as it should be.
extern "C" int64_t data_leaf(const uint8_t *page, int64_t page_number, int64_t page_size, Place *places) {
    const int64_t count = (int64_t(number(page + 12, 2)) - 16) / 2;
    for (int64_t i = 0; i < count; i++) {
        const int64_t at = int64_t(number(page + 16 + 2 * i, 2));
        if (at + 8 > page_size) return -1;
        const int64_t size = int64_t(number(page + at, 4)), flags = int64_t(number(page + at + 4, 2));
        const int64_t begin = at + 8 + int64_t(number(page + at + 6, 2));
        if (flags & 6 || begin + (flags & 1 ? 8 : size) > page_size) return -1;
        if (flags & 1) {
            const uint64_t first = number(page + begin, 8);
            if (first >> 40) return -1;
            places[i] = {int64_t(first) * page_size, size, 16};
        } else {
            places[i] = {page_number * page_size + begin, size, 0};
        }
    }
    return count;
}

// Reads n values into `buffer`, one behind the other with `head` before each, and says what they are.
extern "C" void data_read(int64_t file, int64_t page_size, int64_t n, const Place *places, uint8_t *buffer, Record *table) {
    for (int64_t i = 0; i < n;) {
        // values that follow each other in the file but for the rest of a page: one call brings them all
        int64_t last = i;
        while (last + 1 < n) {
            const int64_t end = places[last].offset + places[last].head + places[last].length;
            const int64_t gap = places[last + 1].offset - end;
            if (gap < 0 || gap >= page_size) break;
            last++;
        }
        const int64_t begin = places[i].offset;
        const int64_t length = places[last].offset + places[last].head + places[last].length - begin;
        const bool whole = read_whole(int(file), buffer, length, begin);
        for (; i <= last; i++) {
            const Place &place = places[i];
            uint8_t *head = buffer + (place.offset - begin), *value = head + place.head;
            Record &record = table[i];
            record = Record();
            record.kind = UNREAD;
            if (!whole || (place.head && !good_head(head, place, page_size))) continue;
            scan(value, value + place.length, record);
            if (record.kind == UNUSUAL) {
                record.address = int64_t(value);
                record.length = place.length;
            }
        }
        buffer += length;
    }
}

// out[i] = record i, cropped to height x width from (draws[i][1], draws[i][2]) on, mirrored where draws[i][0] is 1.
// `bytes`: out holds bytes, as every record does, and mean and scale are none.
extern "C" void data_transform(int64_t n, const Record *table, const int64_t *draws, int64_t channels, int64_t height,
                               int64_t width, int64_t mean_form, const float *mean_values, int64_t mean_height,
                               int64_t mean_width, float scale, void *out, int64_t bytes, int64_t threads) {
    const Mean mean = {mean_form, mean_values, mean_height, mean_width};
    const int64_t size = channels * height * width;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < n; i++) {
        const int64_t *draw = draws + 3 * i;
        if (bytes) {
            transform<uint8_t>(table[i], draw, channels, height, width, mean, scale, static_cast<uint8_t *>(out) + i * size);
        } else if (table[i].kind == BYTES && channels == 3 && table[i].channel == 1 && table[i].column == 3) {
            transform_interleaved(table[i], draw, height, width, mean, scale, static_cast<float *>(out) + i * size);
        } else if (table[i].kind == BYTES) {
            transform<uint8_t>(table[i], draw, channels, height, width, mean, scale, static_cast<float *>(out) + i * size);
        } else {
            transform<float>(table[i], draw, channels, height, width, mean, scale, static_cast<float *>(out) + i * size);
        }
    }
}
