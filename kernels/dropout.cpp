// out = x with elements zeroed at random and the others scaled up, in one pass and with nothing kept: which elements
// are zeroed is a function of a seed and their index, so the backward pass is the same call on the gradient.

#include <cstdint>

#include "parallel.h"

namespace {

// Elements of a work item, and of one stream of the hash.
constexpr int64_t BLOCK = 1 << 15;

// SplitMix64 (Steele, Lea, Flood 2014): two independent keys for each block.
inline uint64_t mixed(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

template <class R>
void zero_some(const R* x, R* __restrict out, int64_t width, uint32_t low, uint32_t high, uint32_t dropped, R scale) {
    for (int64_t i = 0; i < width; ++i) {
        // A bijective 32-bit mixer between two keys: every output bit depends on every bit of index and keys.
        uint32_t v = static_cast<uint32_t>(i) * 0x9e3779b9u + low;
        v = (v ^ (v >> 16)) * 0x21f0aaadu;
        v ^= high;
        v = (v ^ (v >> 15)) * 0xd35a2d97u;
        v ^= v >> 15;
        out[i] = x[i] * (v < dropped ? R(0) : scale);
    }
}

template <class R>
void dropout(const R* x, R* out, int64_t count, uint64_t seed, uint32_t dropped, R scale, int threads,
             Parallel parallel) {
    const int64_t blocks = (count + BLOCK - 1) / BLOCK;
    const int useful = static_cast<int>(blocks / 2 < threads ? blocks / 2 : threads);  // fewer cost more than they save
    for_each(blocks, useful, parallel, [&](int64_t block) {
        const uint64_t keys = mixed(seed ^ mixed(static_cast<uint64_t>(block)));
        const int64_t first = block * BLOCK;
        const int64_t width = count - first < BLOCK ? count - first : BLOCK;
        zero_some(x + first, out + first, width, static_cast<uint32_t>(keys), static_cast<uint32_t>(keys >> 32),
                  dropped, scale);
    });
}

}  // namespace

#define DROPOUT(NAME, R)                                                                                       \
    extern "C" void dropout_forward_##NAME(const R* x, R* out, int64_t count, uint64_t seed, uint32_t dropped, \
                                           double scale, int threads, Parallel parallel) {                     \
        dropout<R>(x, out, count, seed, dropped, static_cast<R>(scale), threads, parallel);                    \
    }

DROPOUT(float32, float)
DROPOUT(float64, double)
