// Mean softmax cross entropy of states · itemsᵀ + bias, and its gradients in the same pass, for float and double.
//
// Shapes: N positions, V items, D width. All arrays are contiguous, D is a multiple of 16, targets are within [0, V).
//
// Positions are taken in blocks. For one block at a time the exponentials of all its logits are kept, (V, block). Items
// are cut into slices, which the threads take one after the other, twice per block:
//
//   score          logits of the slice, their maximum per position, exponentials relative to it, the sum of these;
//   differentiate  with the sums of all slices known: the gradient of the logits, and two products of it, for the
//                  gradients of the slice's items and of the block's states.
//
// In a block, positions and not items are adjacent: maxima and sums are loops over positions, one per lane, and all
// three products take states and items as they are, except for the transposed states of the block.
//
// An item's gradient belongs to one slice, and the shares of the slices in a state's gradient are added in their order,
// so the bits do not depend on the number of threads.

#include <cmath>
#include <cstdint>
#include <limits>

#include "parallel.h"
#include "products.h"

namespace {

// Items whose logits, of the whole block, stay in the nearer caches between the steps that use them.
constexpr int64_t CHUNK = 64;
constexpr int64_t MAX_BLOCK = 128;
// Distance of the rows of a chunk: were it a power of two, a column of it would have too few places in a cache.
constexpr int64_t CHUNK_ROW = MAX_BLOCK + 16;
// With fewer multiplications per thread, waking another one costs more than it saves.
constexpr int64_t PRODUCTS_PER_THREAD = 1 << 20;

template <class R>
struct Arguments {
    const R *states, *items, *bias;  // no bias: null
    const int64_t* targets;
    double* loss;
    R *grad_states, *grad_items, *grad_bias;  // not wanted: null
    // Room for the work, the last only needed for gradients.
    R* exponentials;  // (V, block)
    R* transposed;    // (D, block)
    R* maxima;        // (slices, block)
    double* sums;     // (slices, block)
    R* shares;        // (slices, block, D)
    int64_t N, V, D;
    // Positions of a block (a multiple of COLUMNS, at most MAX_BLOCK), items of a slice.
    int64_t block, slice;
};

template <class R>
class Pass {
  public:
    explicit Pass(const Arguments<R>& arguments) : a(arguments), slices((a.V + a.slice - 1) / a.slice) {}

    void run(int threads, Parallel parallel) {
        const int64_t useful = (a.N < a.block ? a.N : a.block) * a.V * a.D / PRODUCTS_PER_THREAD + 1;
        if (threads > useful) threads = static_cast<int>(useful);
        double loss = 0;
        for (first = 0; first < a.N; first += a.block) {
            rows = a.N - first < a.block ? a.N - first : a.block;
            columns = (rows + COLUMNS - 1) / COLUMNS * COLUMNS;
            transpose();
            for_each(slices, threads, parallel, [&](int64_t index) { score(index); });
            loss += normalise();
            if (!a.grad_states) continue;
            // Downwards, and with the next block upwards again: what was used last may still be in a cache.
            for_each(slices, threads, parallel, [&](int64_t index) { differentiate(index); }, true);
            for_each(rows, threads, parallel, [&](int64_t n) { add_shares(n); });
        }
        *a.loss = loss / a.N;
    }

  private:
    const Arguments<R> a;
    const int64_t slices;
    int64_t first, rows, columns;     // positions of the block, and the lanes they take
    double target_logits[MAX_BLOCK];  // each written by the slice that the target is in
    R target_gradients[MAX_BLOCK];

    static constexpr R INFINITE = std::numeric_limits<R>::infinity();

    int64_t end(int64_t index) const { return smaller((index + 1) * a.slice, a.V); }
    static int64_t smaller(int64_t x, int64_t y) { return x < y ? x : y; }

    // Positions beyond the last are zero, and scored like the others.
    void transpose() {
        for (int64_t d = 0; d < a.D; ++d)
            for (int64_t n = 0; n < columns; ++n)
                a.transposed[d * a.block + n] = n < rows ? a.states[(first + n) * a.D + d] : 0;
    }

    // Logits, maxima, exponentials and sums of a slice. The target's exponential is left out, and zero.
    void score(int64_t index) {
        const int64_t begin = index * a.slice, end = this->end(index), width = columns, stride = a.block;
        R maximum[MAX_BLOCK], sum[MAX_BLOCK];
        for (int64_t n = 0; n < width; ++n) maximum[n] = -INFINITE;
        for (int64_t v = begin; v < end; v += CHUNK) {
            R* chunk = a.exponentials + v * stride;
            const int64_t count = smaller(end - v, CHUNK);
            multiply<R>(a.items + v * a.D, a.D, 1, a.transposed, a.block, a.D, chunk, stride, count, width,
                        a.bias ? a.bias + v : &ZERO<R>, a.bias ? 1 : 0);
            for (int64_t i = 0; i < count; ++i)
                for (int64_t n = 0; n < width; ++n) {
                    const R logit = chunk[i * stride + n];
                    maximum[n] = logit > maximum[n] ? logit : maximum[n];
                }
        }
        for (int64_t n = 0; n < rows; ++n) {
            const int64_t target = a.targets[first + n];
            if (target < begin || target >= end) continue;
            target_logits[n] = a.exponentials[target * stride + n];
            a.exponentials[target * stride + n] = -INFINITE;
        }
        R* maxima = a.maxima + index * a.block;
        double* sums = a.sums + index * a.block;
        for (int64_t n = 0; n < width; ++n) {
            maxima[n] = maximum[n];
            sums[n] = 0;
            if (maximum[n] == -INFINITE) maximum[n] = 0;  // all of them are ruled out
        }
        for (int64_t v = begin; v < end; v += CHUNK) {
            for (int64_t n = 0; n < width; ++n) sum[n] = 0;
            for (int64_t i = v; i < smaller(v + CHUNK, end); ++i) {
                R* row = a.exponentials + i * stride;
                for (int64_t n = 0; n < width; ++n) {
                    const R exponential = math::exp(row[n] - maximum[n]);
                    row[n] = exponential;
                    sum[n] += exponential;
                }
            }
            for (int64_t n = 0; n < width; ++n) sums[n] += sum[n];
        }
    }

    // The loss, summed over the block. Maxima become what makes a slice's exponentials gradients of the logits.
    double normalise() {
        R maximum[MAX_BLOCK], scale[MAX_BLOCK] = {};
        double others[MAX_BLOCK], loss = 0;
        for (int64_t n = 0; n < columns; ++n) maximum[n] = -INFINITE, others[n] = 0;
        for (int64_t index = 0; index < slices; ++index) {
            const R* maxima = a.maxima + index * a.block;
            for (int64_t n = 0; n < columns; ++n) maximum[n] = maxima[n] > maximum[n] ? maxima[n] : maximum[n];
        }
        for (int64_t index = 0; index < slices; ++index) {
            R* maxima = a.maxima + index * a.block;
            const double* sums = a.sums + index * a.block;
            for (int64_t n = 0; n < columns; ++n) {
                maxima[n] = math::exp(maxima[n] - maximum[n]);
                others[n] += maxima[n] * sums[n];
            }
        }
        for (int64_t n = 0; n < rows; ++n) {
            const double sum = others[n] + std::exp(target_logits[n] - maximum[n]);
            loss += maximum[n] - target_logits[n] + std::log(sum);
            scale[n] = static_cast<R>(1 / (sum * a.N));
            // The target's probability minus one, without the cancellation.
            target_gradients[n] = static_cast<R>(-others[n] / (sum * a.N));
        }
        for (int64_t index = 0; index < slices; ++index) {
            R* maxima = a.maxima + index * a.block;
            for (int64_t n = 0; n < columns; ++n) maxima[n] *= scale[n];
        }
        return loss;
    }

    // Gradients of a slice's logits, and what follows: those of its items and bias, its share in those of the states.
    void differentiate(int64_t index) {
        using V = typename Vector<R>::type;
        constexpr int64_t lanes = Vector<R>::lanes;
        const int64_t begin = index * a.slice, end = this->end(index);
        R* share = a.shares + index * a.block * a.D;
        R scale[MAX_BLOCK], chunk[CHUNK * CHUNK_ROW];
        for (int64_t n = 0; n < columns; ++n) scale[n] = a.maxima[index * a.block + n];
        for (int64_t v = begin; v < end; v += CHUNK) {
            const int64_t count = smaller(end - v, CHUNK);
            for (int64_t i = 0; i < count; ++i) {
                const R* exponentials = a.exponentials + (v + i) * a.block;
                V sum{};
                for (int64_t n = 0; n < columns; n += lanes) {
                    const V gradient = load<V>(exponentials + n) * load<V>(scale + n);
                    store(gradient, chunk + i * CHUNK_ROW + n);
                    sum += gradient;
                }
                if (!a.grad_bias) continue;
                R total = first == 0 ? 0 : a.grad_bias[v + i];
                for (int64_t lane = 0; lane < lanes; ++lane) total += sum[lane];
                a.grad_bias[v + i] = total;
            }
            for (int64_t n = 0; n < rows; ++n) {
                const int64_t target = a.targets[first + n];
                if (target < v || target >= v + count) continue;
                chunk[(target - v) * CHUNK_ROW + n] = target_gradients[n];
                if (a.grad_bias) a.grad_bias[target] += target_gradients[n];
            }
            multiply<R>(chunk, 1, CHUNK_ROW, a.items + v * a.D, a.D, count, share, a.D, rows, a.D,
                        v == begin ? &ZERO<R> : nullptr, 0);
            multiply<R>(chunk, CHUNK_ROW, 1, a.states + first * a.D, a.D, rows, a.grad_items + v * a.D, a.D, count, a.D,
                        first == 0 ? &ZERO<R> : nullptr, 0);
        }
    }

    // The gradient of one state: the shares of all slices, in their order.
    void add_shares(int64_t n) {
        R* __restrict sum = a.grad_states + (first + n) * a.D;
        const R* __restrict share = a.shares + n * a.D;
        for (int64_t d = 0; d < a.D; ++d) sum[d] = share[d];
        for (int64_t index = 1; index < slices; ++index) {
            share += a.block * a.D;
            for (int64_t d = 0; d < a.D; ++d) sum[d] += share[d];
        }
    }
};

}  // namespace

#define LINEAR_CROSS_ENTROPY(NAME, R)                                                                               \
    extern "C" void linear_cross_entropy_forward_##NAME(                                                            \
        const R* states, const R* items, const R* bias, const int64_t* targets, double* loss, R* grad_states,       \
        R* grad_items, R* grad_bias, R* exponentials, R* transposed, R* maxima, double* sums, R* shares, int64_t N, \
        int64_t V, int64_t D, int64_t block, int64_t slice, int threads, Parallel parallel) {                       \
        Pass<R> pass({states, items, bias, targets, loss, grad_states, grad_items, grad_bias, exponentials,         \
                      transposed, maxima, sums, shares, N, V, D, block, slice});                                    \
        pass.run(threads, parallel);                                                                                \
    }

LINEAR_CROSS_ENTROPY(float32, float)
LINEAR_CROSS_ENTROPY(float64, double)
