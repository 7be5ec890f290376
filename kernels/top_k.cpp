// The items with the highest scores, for float and double, in one pass over the scores.
//
// Shapes: N states, V items, D width, E excluded items of a state, K best items. All arrays but the items are
// contiguous.
//
// Every state has a sorted list of the best so far, for each slice of the items: a tile of scores is compared with the
// last ones of the lists, and hardly any is above. Items come in the order of their ids, and one that is level with the
// last of a full list stays out, so that of equal scores those with the lower ids are kept, and come first.

#include <cstdint>
#include <limits>

#include "scores.h"

namespace {

template <class R>
struct Arguments {
    const R* states;
    scores::Table<R> table;
    const int64_t* excluded;  // (N, E) sorted within a row
    R* best;                  // (slices, N, K): scores, descending, then -infinity
    int64_t* ids;             // (slices, N, K), then 0
    R *panels, *levels;       // workspace: (lanes, D), and (slices, lanes), where lanes is N rounded up to whole panels
    int64_t N, E, K, slices;
};

template <class R>
class Pass {
    using V = typename Vector<R>::type;
    static constexpr int64_t width = scores::WIDTH<R>, lanes = Vector<R>::lanes;

    const Arguments<R> a;
    const scores::Table<R>& table;
    const int64_t padded;

  public:
    explicit Pass(const Arguments<R>& arguments)
        : a(arguments), table(a.table), padded((a.N + width - 1) / width * width) {}

    void run(int threads, Parallel parallel) {
        scores::transpose(a.states, a.N, table.D, a.panels);
        for_each(a.slices, scores::useful(a.N, table.V, table.D, threads), parallel,
                 [&](int64_t slice) { search(slice); });
    }

  private:
    static constexpr R INFINITE = std::numeric_limits<R>::infinity();

    void search(int64_t slice) {
        R *best = a.best + slice * a.N * a.K, *levels = a.levels + slice * padded;
        int64_t* ids = a.ids + slice * a.N * a.K;
        for (int64_t i = 0; i < a.N * a.K; ++i) best[i] = -INFINITE, ids[i] = 0;
        // Nothing is above the lanes that are no states.
        for (int64_t n = 0; n < padded; ++n) levels[n] = n < a.N ? -INFINITE : INFINITE;
        const int64_t first = table.V * slice / a.slices, last = table.V * (slice + 1) / a.slices;
        const auto see = [&](int64_t panel, int64_t item, int64_t items, const scores::Tile<R>& tile) {
            R* level = levels + panel * width;
            auto above = tile.score[0][0] > load<V>(level);
            above ^= above;
#pragma GCC unroll 8
            for (int j = 0; j < scores::VECTORS; ++j) {
                const V last_best = load<V>(level + j * lanes);
#pragma GCC unroll 8
                for (int i = 0; i < scores::ITEMS; ++i) above |= tile.score[i][j] > last_best;
            }
            if (!any(above)) return;
            for (int64_t i = 0; i < items; ++i)
                for (int64_t lane = 0; lane < width; ++lane) {
                    const R score = tile.score[i][lane / lanes][lane % lanes];
                    const int64_t n = panel * width + lane;
                    if (score > level[lane] && !excluded(n, item + i))
                        level[lane] = insert(best + n * a.K, ids + n * a.K, score, item + i);
                }
        };
        scores::for_tiles(table, first, last, a.panels, a.N, see);
    }

    template <class Whole>
    static bool any(const Whole& lanes_) {
        uint64_t bits = 0, word;
        for (size_t at = 0; at < sizeof lanes_; at += sizeof word) {
            __builtin_memcpy(&word, reinterpret_cast<const char*>(&lanes_) + at, sizeof word);
            bits |= word;
        }
        return bits != 0;
    }

    bool excluded(int64_t n, int64_t item) const {
        const int64_t *from = a.excluded + n * a.E, *to = from + a.E;
        while (from < to) {
            const int64_t* middle = from + (to - from) / 2;
            if (*middle < item)
                from = middle + 1;
            else
                to = middle;
        }
        return from < a.excluded + (n + 1) * a.E && *from == item;
    }

    // Puts a score that is above the last one into its place, and returns the last one.
    R insert(R* best, int64_t* ids, R score, int64_t id) const {
        int64_t at = a.K - 1;
        for (; at > 0 && score > best[at - 1]; --at) best[at] = best[at - 1], ids[at] = ids[at - 1];
        best[at] = score, ids[at] = id;
        return best[a.K - 1];
    }
};

}  // namespace

#define TOP_K(NAME, R)                                                                                          \
    SCORES_WIDTH(top_k, NAME, R)                                                                                \
    extern "C" void top_k_forward_##NAME(const R* states, const R* items, int64_t row, const R* bias,           \
                                         const int64_t* excluded, R* best, int64_t* ids, R* panels, R* levels,  \
                                         int64_t N, int64_t V, int64_t D, int64_t E, int64_t K, int64_t slices, \
                                         int threads, Parallel parallel) {                                      \
        Pass<R> pass({states, {items, row, bias, V, D}, excluded, best, ids, panels, levels, N, E, K, slices}); \
        pass.run(threads, parallel);                                                                            \
    }

TOP_K(float32, float)
TOP_K(float64, double)
