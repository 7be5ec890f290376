// Vectors as large as a register, for products whose sums stay in registers.

#pragma once

#include <cstdint>

#include "vector_math.h"

#if defined(__AVX512F__)
constexpr int64_t VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int64_t VECTOR_BYTES = 32;
#else
constexpr int64_t VECTOR_BYTES = 16;
#endif

template <class R>
struct Vector {
    typedef R type __attribute__((vector_size(VECTOR_BYTES)));
    static constexpr int64_t lanes = VECTOR_BYTES / sizeof(R);
};

template <class V, class R>
inline V load(const R* from) {
    V vector;
    __builtin_memcpy(&vector, from, sizeof vector);
    return vector;
}

template <class V, class R>
inline void store(const V& vector, R* to) {
    __builtin_memcpy(to, &vector, sizeof vector);
}

// In a register. Compilers would rather have every multiplication read it from memory again, and processors read no
// more vectors per cycle than they multiply.
template <class V>
inline V keep(V vector) {
#if defined(__x86_64__)
    asm("" : "+v"(vector));
#elif defined(__aarch64__)
    asm("" : "+w"(vector));
#endif
    return vector;
}

// x * y + z, which compilers recognise as one instruction.
template <class R, class V>
inline V fma(V x, V y, V z) {
    V result;
    for (int64_t lane = 0; lane < Vector<R>::lanes; ++lane) result[lane] = math::fma(x[lane], y[lane], z[lane]);
    return result;
}
