// How the scans that are bound by memory cut (B, T, D) into pieces of work, and walk through the channels of a row.
//
// Shapes: B batch, T time, D channels.

#pragma once

#include <cstdint>
#include <type_traits>

#include "parallel.h"

// Rows are cut to this many bytes, so that the rows of all arrays of one step stay in the first-level cache.
constexpr int64_t ROW_BYTES = 4096;
constexpr int64_t LINE_BYTES = 64;
// What the backward pass takes from a row at a time. Whole rows, upwards within while time runs down, are twice as
// slow.
constexpr int64_t CHUNK_BYTES = 128;
// Two threads do not take parts of a row within one page: what the prefetchers of one core ask for is what the other is
// about to write, and both together were slower than one of them alone.
constexpr int64_t PAGE_BYTES = 4096;
// With fewer elements per thread, waking another one costs more than it saves.
constexpr int64_t ELEMENTS_PER_THREAD = 65536;

// Calls body(first channel, channels) for the chunks of a row, from the last to the first.
template <int64_t Chunk, class Body>
inline void downwards(int64_t width, const Body& body) {
    int64_t first = width / Chunk * Chunk;
    if (first < width) body(first, width - first);
    while (first > 0) body(first -= Chunk, std::integral_constant<int64_t, Chunk>());  // a constant: unrolled
}

inline int64_t gcd(int64_t x, int64_t y) { return y ? gcd(y, x % y) : x; }

// Cuts (batch, channels) into pieces: whole rows if there are plenty, else as many pieces of rows as balance threads.
struct Pieces {
    int useful;   // threads that have enough to do
    int threads;  // as many, if there are pieces for them
    int64_t D, width, per_row, count;

    Pieces(int64_t B, int64_t T, int64_t D_, int64_t element_bytes, int threads_) : D(D_) {
        int64_t most = B * T * D / ELEMENTS_PER_THREAD;
        if (most > threads_) most = threads_;
        if (most > MAX_THREADS) most = MAX_THREADS;
        threads = useful = most < 1 ? 1 : static_cast<int>(most);
        const int64_t line = LINE_BYTES / element_bytes;
        int64_t cuts = B >= 8 * threads ? 1 : threads / gcd(B, threads);
        const int64_t pages = D * element_bytes / PAGE_BYTES;
        if (cuts > pages) cuts = pages < 1 ? 1 : pages;
        width = ((D + cuts - 1) / cuts + line - 1) / line * line;
        if (width > ROW_BYTES / element_bytes) width = ROW_BYTES / element_bytes;
        per_row = (D + width - 1) / width;
        count = B * per_row;
        if (threads > count) threads = static_cast<int>(count);
    }
    int64_t row(int64_t piece) const { return piece / per_row; }
    int64_t first(int64_t piece) const { return piece % per_row * width; }
    int64_t size(int64_t piece) const {
        const int64_t rest = D - first(piece);
        return rest < width ? rest : width;
    }
};
