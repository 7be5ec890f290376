// The scores of all items for some states, states · itemsᵀ + bias, each looked at once and none kept.
//
// Shapes: N states, V items, D width. Items have adjacent channels and an arbitrary distance between rows.
//
// Every score is added up in the order of the channels by fused multiply-adds, and the bias is added last, wherever in
// a tile it is computed: it depends on the state and the item alone, so equal items score equal, and neither threads
// nor the other states matter. `single` computes the same bits for one item.
//
// States are the lanes: they are transposed into panels of as many as a tile has columns, a few items at a time stay in
// the first-level cache while all panels pass by, and the table is read once.

#pragma once

#include <cstdint>

#include "parallel.h"
#include "vectors.h"

namespace scores {

// A tile is so many items, and so many vectors of states, all in registers: there are 32 or 16.
constexpr int ITEMS = 6;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int VECTORS = 4;
#else
constexpr int VECTORS = 2;
#endif
// Items that are multiplied with one panel after the other.
constexpr int64_t CHUNK_BYTES = 16384;
// With fewer multiplications per thread, waking another one costs more than it saves.
constexpr int64_t PRODUCTS_PER_THREAD = 1 << 20;

template <class R>
constexpr int64_t WIDTH = VECTORS * Vector<R>::lanes;  // states of a panel

template <class R>
struct Table {
    const R* items;
    int64_t row;    // distance between items
    const R* bias;  // none: null
    int64_t V, D;

    R bias_of(int64_t item) const { return bias ? bias[item] : 0; }

    // The score of one item.
    R single(const R* state, int64_t item) const {
        R sum = 0;
        const R* at = items + item * row;
        for (int64_t k = 0; k < D; ++k) sum = math::fma(at[k], state[k], sum);
        return sum + bias_of(item);
    }
};

// Panels of states (N, D): (panels, D, WIDTH), the states that are missing in the last one being zero.
template <class R>
void transpose(const R* states, int64_t N, int64_t D, R* panels) {
    for (int64_t first = 0; first < N; first += WIDTH<R>)
        for (int64_t k = 0; k < D; ++k)
            for (int64_t n = first; n < first + WIDTH<R>; ++n) *panels++ = n < N ? states[n * D + k] : 0;
}

// A tile: the scores of up to ITEMS items, from `first` on, for one panel. Items that are missing repeat the last one.
template <class R>
struct Tile {
    using V = typename Vector<R>::type;
    V score[ITEMS][VECTORS];

    Tile(const Table<R>& table, int64_t first, int64_t count, const R* panel) {
        const R* at[ITEMS];
#pragma GCC unroll 8
        for (int i = 0; i < ITEMS; ++i) {
            at[i] = table.items + (first + (i < count ? i : count - 1)) * table.row;
#pragma GCC unroll 8
            for (int j = 0; j < VECTORS; ++j) score[i][j] = V{};
        }
        for (int64_t k = 0; k < table.D; ++k) {
            V y[VECTORS];
#pragma GCC unroll 8
            for (int j = 0; j < VECTORS; ++j) y[j] = keep(load<V>(panel + k * WIDTH<R> + j * Vector<R>::lanes));
#pragma GCC unroll 8
            for (int i = 0; i < ITEMS; ++i) {
                const V x = at[i][k] - V{};
#pragma GCC unroll 8
                for (int j = 0; j < VECTORS; ++j) score[i][j] = fma<R>(x, y[j], score[i][j]);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < ITEMS; ++i) {
            const V bias = table.bias_of(first + (i < count ? i : count - 1)) - V{};
#pragma GCC unroll 8
            for (int j = 0; j < VECTORS; ++j) score[i][j] = score[i][j] + bias;
        }
    }
};

// Calls see(panel, first item, items, tile) for all tiles of the items from `first` to `last`; within a panel in the
// order of the items.
template <class R, class See>
inline void for_tiles(const Table<R>& table, int64_t first, int64_t last, const R* panels, int64_t N, const See& see) {
    int64_t chunk = CHUNK_BYTES / ((table.D + 1) * sizeof(R)) / ITEMS * ITEMS;
    if (chunk < ITEMS) chunk = ITEMS;
    for (; first < last; first += chunk) {
        const int64_t end = first + chunk < last ? first + chunk : last;
        for (int64_t panel = 0; panel * WIDTH<R> < N; ++panel)
            for (int64_t item = first; item < end; item += ITEMS) {
                const int64_t count = item + ITEMS < end ? ITEMS : end - item;
                see(panel, item, count, Tile<R>(table, item, count, panels + panel * table.D * WIDTH<R>));
            }
    }
}

// Threads that are worth waking.
inline int useful(int64_t N, int64_t V, int64_t D, int threads) {
    const int64_t most = N * V * D / PRODUCTS_PER_THREAD + 1;
    return threads > most ? static_cast<int>(most) : threads;
}

}  // namespace scores

// States of a panel, for whoever allocates the workspace.
#define SCORES_WIDTH(OPERATOR, NAME, R) \
    extern "C" int64_t OPERATOR##_width_##NAME() { return scores::WIDTH<R>; }
