// How many items score better than a target and how many the same, for float and double, in one pass over the scores.
//
// Shapes: N states, V items, D width, E excluded items of a state. All arrays but the items are contiguous.
//
// All items are counted first, states being lanes; then the excluded ones are taken out again, scored one by one.
// Counts are whole numbers, so that they depend neither on the number of threads nor on how the items are cut.

#include <cstdint>

#include "scores.h"

namespace {

template <class R>
struct Arguments {
    const R* states;
    scores::Table<R> table;
    const int64_t *targets, *excluded;  // (N,), and (N, E) sorted within a row
    int64_t *better, *ties;             // (N,)
    bool* finite;                       // (N,): whether all scores of the row are numbers and none is infinite
    // Workspace; `lanes` is N rounded up to whole panels.
    R *panels, *levels;  // (lanes, D), (lanes,)
    R* counts;           // (slices, 3, lanes): better and equal as whole numbers of the same size, then zero or NaN
    int64_t N, E, slices;
};

template <class R>
class Pass {
    using V = typename Vector<R>::type;
    using Whole = decltype(V{} > V{});
    static constexpr int64_t width = scores::WIDTH<R>, lanes = Vector<R>::lanes;

    const Arguments<R> a;
    const scores::Table<R>& table;
    const int64_t padded;

  public:
    explicit Pass(const Arguments<R>& arguments)
        : a(arguments), table(a.table), padded((a.N + width - 1) / width * width) {}

    void run(int threads, Parallel parallel) {
        threads = scores::useful(a.N, table.V, table.D, threads);
        scores::transpose(a.states, a.N, table.D, a.panels);
        for (int64_t n = 0; n < padded; ++n)
            a.levels[n] = n < a.N ? table.single(a.states + n * table.D, a.targets[n]) : 0;
        for_each(a.slices, threads, parallel, [&](int64_t slice) { count(slice); });
        for_each(a.N, threads, parallel, [&](int64_t n) { finish(n); });
    }

  private:
    // The counts of a slice of the items.
    void count(int64_t slice) {
        R* counts = a.counts + slice * 3 * padded;
        for (int64_t i = 0; i < 3 * padded; ++i) counts[i] = 0;  // also the bits of the whole number
        const int64_t first = table.V * slice / a.slices, last = table.V * (slice + 1) / a.slices;
        scores::for_tiles(
            table, first, last, a.panels, a.N, [&](int64_t panel, int64_t, int64_t items, const scores::Tile<R>& tile) {
#pragma GCC unroll 8
                for (int j = 0; j < scores::VECTORS; ++j) {
                    const int64_t at = panel * width + j * lanes;
                    const V level = load<V>(a.levels + at);
                    Whole better = load<Whole>(counts + at), ties = load<Whole>(counts + padded + at);
                    V zero = load<V>(counts + 2 * padded + at);
#pragma GCC unroll 8
                    for (int i = 0; i < scores::ITEMS; ++i) {
                        if (i == items) break;
                        better -= tile.score[i][j] > level;  // a comparison that holds is -1
                        ties -= tile.score[i][j] == level;
                        zero = fma<R>(tile.score[i][j], V{}, zero);  // NaN from the first one on that is not finite
                    }
                    store(better, counts + at), store(ties, counts + padded + at),
                        store(zero, counts + 2 * padded + at);
                }
            });
    }

    // Adds up the slices of a row, and takes out what is excluded, and the target itself.
    void finish(int64_t n) {
        int64_t better = 0, ties = 0;
        R zero = 0;
        for (int64_t slice = 0; slice < a.slices; ++slice) {
            const R* counts = a.counts + slice * 3 * padded + n;
            better += whole(counts), ties += whole(counts + padded), zero += counts[2 * padded];
        }
        const int64_t* ids = a.excluded + n * a.E;
        const R *state = a.states + n * table.D, level = a.levels[n];
        int64_t distinct = 0;
        bool target = false;
        for (int64_t i = 0; i < a.E; ++i) {
            if (i > 0 && ids[i] == ids[i - 1]) continue;
            const R score = table.single(state, ids[i]);
            better -= score > level, ties -= score == level, ++distinct;
            target |= ids[i] == a.targets[n];
        }
        // An excluded target is behind all that compete, and level with the others that are excluded.
        a.better[n] = target ? table.V - distinct : better;
        a.ties[n] = (target ? distinct : ties) - 1;
        a.finite[n] = zero == 0;
    }

    static int64_t whole(const R* from) {
        decltype(Whole{}[0] + 0) number;
        static_assert(sizeof number == sizeof(R));
        __builtin_memcpy(&number, from, sizeof number);
        return number;
    }
};

}  // namespace

#define RANK_COUNTS(NAME, R)                                                                                          \
    SCORES_WIDTH(rank_counts, NAME, R)                                                                                \
    extern "C" void rank_counts_forward_##NAME(                                                                       \
        const R* states, const R* items, int64_t row, const R* bias, const int64_t* targets, const int64_t* excluded, \
        int64_t* better, int64_t* ties, bool* finite, R* panels, R* levels, R* counts, int64_t N, int64_t V,          \
        int64_t D, int64_t E, int64_t slices, int threads, Parallel parallel) {                                       \
        Pass<R> pass({states,                                                                                         \
                      {items, row, bias, V, D},                                                                       \
                      targets,                                                                                        \
                      excluded,                                                                                       \
                      better,                                                                                         \
                      ties,                                                                                           \
                      finite,                                                                                         \
                      panels,                                                                                         \
                      levels,                                                                                         \
                      counts,                                                                                         \
                      N,                                                                                              \
                      E,                                                                                              \
                      slices});                                                                                       \
        pass.run(threads, parallel);                                                                                  \
    }

RANK_COUNTS(float32, float)
RANK_COUNTS(float64, double)
