// h[t] = a[t] * h[t-1] + b[t] and its gradients on the CPU, for float, double and interleaved complex of both.
//
// Shapes: B batch, T time, D channels. Channels are adjacent in memory; batch and time strides are arbitrary and count
// real numbers, so that a complex element is two of them. Outputs are contiguous. Constant gates are strides of zero.
// With lengths (B,), a row ends after so many steps; what lies behind is not read, and written as zero.
//
// A scan is bound by memory: the state is the row of the output that was written last, still in the first-level cache,
// and each step is a loop over channels that the compiler vectorises. Every element is computed by the same explicit
// operations wherever it lies, so the bits depend neither on the number of threads nor on how rows are cut; only where
// time is cut, too (`Chunks`), threads change the rounding. Memory is walked in one direction, the forward pass
// upwards, the backward pass downwards, which prefetchers rely on.

#include <cstdint>

#include "parallel.h"
#include "pieces.h"
#include "vector_math.h"

namespace {

// Steps whose products are added in the precision of the data before they go into a double.
constexpr int64_t FLUSH = 64;

using math::fma;

// out = gate * state + input, or conj(gate) * state + input.
template <class R, bool Complex, bool Conjugate>
inline void step(const R* gate, const R* state, const R* input, R* __restrict out, int64_t width) {
    if constexpr (!Complex) {
        for (int64_t i = 0; i < width; ++i) out[i] = fma(gate[i], state[i], input[i]);
    } else {
        for (int64_t i = 0; i < width; ++i) {
            const R ar = gate[2 * i], ai = Conjugate ? -gate[2 * i + 1] : gate[2 * i + 1];
            const R hr = state[2 * i], hi = state[2 * i + 1];
            out[2 * i] = fma(ar, hr, fma(-ai, hi, input[2 * i]));
            out[2 * i + 1] = fma(ar, hi, fma(ai, hr, input[2 * i + 1]));
        }
    }
}

// out = x * conj(y).
template <class R, bool Complex>
inline void product(const R* x, const R* y, R* __restrict out, int64_t width) {
    if constexpr (!Complex) {
        for (int64_t i = 0; i < width; ++i) out[i] = x[i] * y[i];
    } else {
        for (int64_t i = 0; i < width; ++i) {
            const R xr = x[2 * i], xi = x[2 * i + 1], yr = y[2 * i], yi = y[2 * i + 1];
            out[2 * i] = fma(xr, yr, xi * yi);
            out[2 * i + 1] = fma(xi, yr, -(xr * yi));
        }
    }
}

// sum += x * conj(y).
template <class R, bool Complex>
inline void accumulate(const R* x, const R* y, R* __restrict sum, int64_t width) {
    if constexpr (!Complex) {
        for (int64_t i = 0; i < width; ++i) sum[i] = fma(x[i], y[i], sum[i]);
    } else {
        for (int64_t i = 0; i < width; ++i) {
            const R xr = x[2 * i], xi = x[2 * i + 1], yr = y[2 * i], yi = y[2 * i + 1];
            sum[2 * i] = fma(xr, yr, fma(xi, yi, sum[2 * i]));
            sum[2 * i + 1] = fma(xi, yr, fma(-xr, yi, sum[2 * i + 1]));
        }
    }
}

template <class R>
inline void clear(R* out, int64_t width) {
    for (int64_t i = 0; i < width; ++i) out[i] = 0;
}

// Time is cut where there are not even half as many pieces as threads, into `count` chunks for each piece.
//
// The chunks between the first and the last are run from zero, only to know the state that they end in and the product
// of their gates, while the first is scanned; from that follow the states that enter the chunks, and all but the first
// are scanned. A chunk's last state and the product are kept in the last two rows that the chunk will write. The last
// row then stays as it is, so that a chunk starts from what is written there whichever thread is faster.
// (The backward pass: the same from the end.) Double precision is for checking and has no such form, which would take
// as long again to compile.
template <class R>
constexpr bool CUTS_TIME = sizeof(R) == sizeof(float);

struct Chunks {
    // Fewer steps are not worth a second pass.
    static constexpr int64_t LEAST_STEPS = 128;
    // Time to run a chunk from zero, which writes nothing, relative to that of its scan.
    static constexpr double SUMMARY = 0.6;

    int64_t count;

    Chunks(const Pieces& pieces, int64_t T, bool wanted) : count(1) {
        if (wanted && pieces.useful >= 2 * pieces.count) count = pieces.useful / pieces.count + 1;
        if (T < count * LEAST_STEPS) count = 1;
    }
    // Steps before chunk k of a row; a row that is too short has but one.
    int64_t start(int64_t k, int64_t steps) const {
        if (k == 0) return 0;
        if (k == count || steps < count * LEAST_STEPS) return steps;
        const double first = SUMMARY / (count - 1 + SUMMARY), other = 1 / (count - 1 + SUMMARY);
        return static_cast<int64_t>(steps * (first + (k - 1) * other));
    }
};

// The state after steps from zero, and the product of their gates.
template <class R, bool Complex, bool Conjugate>
struct Summary {
    R state[ROW_BYTES / sizeof(R)], product[ROW_BYTES / sizeof(R)];

    explicit Summary(int64_t width) {
        for (int64_t i = 0; i < width * (Complex ? 2 : 1); ++i) state[i] = 0, product[i] = Complex ? 1 - i % 2 : 1;
    }
    // One step of `width` channels from channel `first` on, of which the pointers are.
    void add(const R* gate, const R* input, int64_t first, int64_t width) {
        R* __restrict h = state + first * (Complex ? 2 : 1), * __restrict p = product + first * (Complex ? 2 : 1);
        if constexpr (!Complex) {
            for (int64_t i = 0; i < width; ++i) h[i] = fma(gate[i], h[i], input[i]), p[i] *= gate[i];
        } else {
            for (int64_t i = 0; i < width; ++i) {
                const R ar = gate[2 * i], ai = Conjugate ? -gate[2 * i + 1] : gate[2 * i + 1];
                const R hr = h[2 * i], hi = h[2 * i + 1], pr = p[2 * i], pi = p[2 * i + 1];
                h[2 * i] = fma(ar, hr, fma(-ai, hi, input[2 * i]));
                h[2 * i + 1] = fma(ar, hi, fma(ai, hr, input[2 * i + 1]));
                p[2 * i] = fma(ar, pr, -(ai * pi));
                p[2 * i + 1] = fma(ar, pi, ai * pr);
            }
        }
    }
    // Keep both in the rows that they are to be found in.
    void write(R* state_row, R* product_row, int64_t width) const {
        for (int64_t i = 0; i < width * (Complex ? 2 : 1); ++i) state_row[i] = state[i], product_row[i] = product[i];
    }
    // state_row = product_row * before + state_row. What is zero stays out: a product may have no finite value.
    static void enter(const R* before, const R* product_row, R* state_row, int64_t width) {
        if constexpr (!Complex) {
            for (int64_t i = 0; i < width; ++i)
                if (before[i] != 0) state_row[i] = fma(product_row[i], before[i], state_row[i]);
        } else {
            for (int64_t i = 0; i < width; ++i) {
                const R pr = product_row[2 * i], pi = product_row[2 * i + 1], hr = before[2 * i],
                        hi = before[2 * i + 1];
                if (hr == 0 && hi == 0) continue;
                state_row[2 * i] = fma(pr, hr, fma(-pi, hi, state_row[2 * i]));
                state_row[2 * i + 1] = fma(pr, hi, fma(pi, hr, state_row[2 * i + 1]));
            }
        }
    }
};

inline int64_t limited(int64_t length, int64_t T) { return length < 0 ? 0 : length > T ? T : length; }

template <class R, bool Complex>
void forward(const R* gates, int64_t gates_b, int64_t gates_t, const R* inputs, int64_t inputs_b, int64_t inputs_t,
             const R* initial, R* states, const int64_t* lengths, int64_t B, int64_t T, int64_t D, int threads,
             Parallel parallel) {
    constexpr int64_t parts = Complex ? 2 : 1;
    const Pieces pieces(B, T, D, parts * sizeof(R), threads);
    const Chunks chunks(pieces, T, CUTS_TIME<R>);
    const int64_t row = D * parts;

    // Steps from `t` to before `end` of a piece.
    const auto scan = [&](int64_t piece, int64_t t, int64_t end) {
        const int64_t b = pieces.row(piece), offset = pieces.first(piece) * parts, width = pieces.size(piece);
        const R* gate = gates + b * gates_b + t * gates_t + offset;
        const R* input = inputs + b * inputs_b + t * inputs_t + offset;
        R* out = states + (b * T + t) * row + offset;
        const R* state = t ? out - row : initial + b * row + offset;
        for (; t < end; ++t) {
            step<R, Complex, false>(gate, state, input, out, width);
            state = out;
            gate += gates_t;
            input += inputs_t;
            out += row;
        }
    };
    const auto steps_of = [&](int64_t piece) { return lengths ? limited(lengths[pieces.row(piece)], T) : T; };
    const auto pad = [&](int64_t piece, int64_t t) {
        R* out = states + (pieces.row(piece) * T + t) * row + pieces.first(piece) * parts;
        for (; t < T; ++t, out += row) clear(out, pieces.size(piece) * parts);
    };
    if (chunks.count == 1)
        return for_each(pieces.count, pieces.threads, parallel, [&](int64_t piece) {
            const int64_t steps = steps_of(piece);
            scan(piece, 0, steps);
            pad(piece, steps);
        });

    if constexpr (CUTS_TIME<R>) {
        const int64_t cuts = chunks.count - 1;
        for_each(pieces.count * cuts, pieces.useful, parallel, [&](int64_t item) {
            const int64_t piece = item / cuts, k = item % cuts, steps = steps_of(piece);
            const int64_t start = chunks.start(k, steps), end = chunks.start(k + 1, steps);
            if (k == 0) return scan(piece, start, end);
            if (start == end) return;
            const int64_t b = pieces.row(piece), offset = pieces.first(piece) * parts, width = pieces.size(piece);
            Summary<R, Complex, false> summary(width);
            for (int64_t t = start; t < end; ++t)
                summary.add(gates + b * gates_b + t * gates_t + offset, inputs + b * inputs_b + t * inputs_t + offset,
                            0, width);
            R* last = states + (b * T + end - 1) * row + offset;
            summary.write(last, last - row, width);
        });
        for (int64_t piece = 0; piece < pieces.count; ++piece)
            for (int64_t k = 1, steps = steps_of(piece); k < cuts; ++k) {
                const int64_t start = chunks.start(k, steps), end = chunks.start(k + 1, steps);
                if (start == end) continue;
                R* rows = states + pieces.row(piece) * T * row + pieces.first(piece) * parts;
                R* last = rows + (end - 1) * row;
                Summary<R, Complex, false>::enter(rows + (start - 1) * row, last - row, last, pieces.size(piece));
            }
        for_each(pieces.count * cuts, pieces.useful, parallel, [&](int64_t item) {
            const int64_t piece = item / cuts, k = item % cuts + 1, steps = steps_of(piece);
            const int64_t start = chunks.start(k, steps), end = chunks.start(k + 1, steps);
            scan(piece, start, k < cuts ? end - (start < end) : end);
            if (k == cuts) pad(piece, steps);
        });
    }
}

// With `partial` (B + threads, D) gates are constant: sums over time go there, and the sum over all into grad_gates
// (D,); without, grad_gates is (B, T, D).
template <class R, bool Complex>
void backward(const R* gates, int64_t gates_b, int64_t gates_t, const R* states, int64_t states_b, int64_t states_t,
              const R* initial, const R* grads, int64_t grads_b, int64_t grads_t, R* grad_gates, R* grad_inputs,
              R* grad_initial, double* partial, const int64_t* lengths, int64_t B, int64_t T, int64_t D, int threads,
              Parallel parallel) {
    constexpr int64_t parts = Complex ? 2 : 1;
    constexpr int64_t chunk = CHUNK_BYTES / (parts * sizeof(R));
    const Pieces pieces(B, T, D, parts * sizeof(R), threads);
    const Chunks chunks(pieces, T, CUTS_TIME<R>);
    const int64_t row = D * parts;
    const auto steps_of = [&](int64_t piece) { return lengths ? limited(lengths[pieces.row(piece)], T) : T; };

    // Steps from before `end` down to `start` of a piece; of the last one, the gradient may be there already.
    const auto scan = [&](int64_t piece, int64_t k, int64_t start, int64_t end, bool known) {
        const int64_t b = pieces.row(piece), offset = pieces.first(piece) * parts, width = pieces.size(piece);
        const int64_t steps = steps_of(piece);
        const R* initial_row = initial + b * row + offset;
        R sum[ROW_BYTES / sizeof(R)];
        double* total = partial ? partial + (b * chunks.count + k) * row + offset : nullptr;
        if (partial)
            for (int64_t i = 0; i < width * parts; ++i) sum[i] = 0, total[i] = 0;
        for (int64_t t = end - 1; t >= start; --t) {
            const R* grad = grads + b * grads_b + t * grads_t + offset;
            const R* gate = gates + b * gates_b + (t + 1) * gates_t + offset;
            const R* before = t ? states + b * states_b + (t - 1) * states_t + offset : initial_row;
            R* out = grad_inputs + (b * T + t) * row + offset;
            R* out_gate = partial ? nullptr : grad_gates + (b * T + t) * row + offset;
            downwards<chunk>(width, [&](int64_t first, auto count) {
                const int64_t at = first * parts;
                if (t == steps - 1)
                    for (int64_t i = 0; i < count * parts; ++i) out[at + i] = grad[at + i];
                else if (t > start || !known)
                    step<R, Complex, true>(gate + at, out + row + at, grad + at, out + at, count);
                if (partial)
                    accumulate<R, Complex>(out + at, before + at, sum + at, count);
                else
                    product<R, Complex>(out + at, before + at, out_gate + at, count);
            });
            if (partial && (t % FLUSH == 0 || t == start))
                for (int64_t i = 0; i < width * parts; ++i) total[i] += sum[i], sum[i] = 0;
        }
    };
    const auto pad = [&](int64_t piece) {
        const int64_t b = pieces.row(piece), offset = pieces.first(piece) * parts, width = pieces.size(piece);
        for (int64_t t = T - 1, steps = steps_of(piece); t >= steps; --t) {
            clear(grad_inputs + (b * T + t) * row + offset, width * parts);
            if (!partial) clear(grad_gates + (b * T + t) * row + offset, width * parts);
        }
    };
    const auto finish = [&](int64_t piece) {
        const int64_t b = pieces.row(piece), offset = pieces.first(piece) * parts, width = pieces.size(piece);
        if (steps_of(piece) == 0) return clear(grad_initial + b * row + offset, width * parts);
        const R* gate = gates + b * gates_b + offset;
        product<R, Complex>(grad_inputs + b * T * row + offset, gate, grad_initial + b * row + offset, width);
    };
    if (chunks.count == 1) {
        const auto all = [&](int64_t piece) {
            pad(piece);
            scan(piece, 0, 0, steps_of(piece), false);
            finish(piece);
        };
        for_each(pieces.count, pieces.threads, parallel, all, true);
    } else if constexpr (CUTS_TIME<R>) {
        const int64_t cuts = chunks.count - 1;
        for_each(pieces.count * cuts, pieces.useful, parallel, [&](int64_t item) {
            const int64_t piece = item / cuts, k = item % cuts, steps = steps_of(piece);
            const int64_t start = steps - chunks.start(k + 1, steps), end = steps - chunks.start(k, steps);
            if (k == 0) pad(piece);
            if (k == 0) return scan(piece, k, start, end, false);
            if (start == end) return;
            const int64_t b = pieces.row(piece), offset = pieces.first(piece) * parts, width = pieces.size(piece);
            Summary<R, Complex, true> summary(width);
            for (int64_t t = end - 1; t >= start; --t) {
                const R* gate = gates + b * gates_b + (t + 1) * gates_t + offset;
                const R* grad = grads + b * grads_b + t * grads_t + offset;
                downwards<chunk>(width, [&](int64_t first, auto count) {
                    summary.add(gate + first * parts, grad + first * parts, first, count);
                });
            }
            R* last = grad_inputs + (b * T + start) * row + offset;
            summary.write(last, last + row, width);
        });
        for (int64_t piece = 0; piece < pieces.count; ++piece)
            for (int64_t k = 1, steps = steps_of(piece); k < cuts; ++k) {
                const int64_t start = steps - chunks.start(k + 1, steps), end = steps - chunks.start(k, steps);
                if (start == end) continue;
                R* rows = grad_inputs + pieces.row(piece) * T * row + pieces.first(piece) * parts;
                R* last = rows + start * row;
                Summary<R, Complex, true>::enter(rows + end * row, last + row, last, pieces.size(piece));
            }
        for_each(pieces.count * cuts, pieces.useful, parallel, [&](int64_t item) {
            const int64_t piece = item / cuts, k = item % cuts + 1, steps = steps_of(piece);
            const int64_t start = steps - chunks.start(k + 1, steps), end = steps - chunks.start(k, steps);
            scan(piece, k, start, end, k < cuts);
            if (k == cuts) finish(piece);
        });
    }
    if (!partial) return;
    // In one order, whatever thread each came from.
    for (int64_t n = 1; n < B * chunks.count; ++n)
        for (int64_t i = 0; i < row; ++i) partial[i] += partial[n * row + i];
    for (int64_t i = 0; i < row; ++i) grad_gates[i] = static_cast<R>(partial[i]);
}

}  // namespace

#define LINEAR_SCAN(NAME, R, COMPLEX)                                                                                 \
    extern "C" void linear_scan_forward_##NAME(const R* gates, int64_t gates_b, int64_t gates_t, const R* inputs,     \
                                               int64_t inputs_b, int64_t inputs_t, const R* initial, R* states,       \
                                               const int64_t* lengths, int64_t B, int64_t T, int64_t D, int threads,  \
                                               Parallel parallel) {                                                   \
        forward<R, COMPLEX>(gates, gates_b, gates_t, inputs, inputs_b, inputs_t, initial, states, lengths, B, T, D,   \
                            threads, parallel);                                                                       \
    }                                                                                                                 \
    extern "C" void linear_scan_backward_##NAME(const R* gates, int64_t gates_b, int64_t gates_t, const R* states,    \
                                                int64_t states_b, int64_t states_t, const R* initial, const R* grads, \
                                                int64_t grads_b, int64_t grads_t, R* grad_gates, R* grad_inputs,      \
                                                R* grad_initial, double* partial, const int64_t* lengths, int64_t B,  \
                                                int64_t T, int64_t D, int threads, Parallel parallel) {               \
        backward<R, COMPLEX>(gates, gates_b, gates_t, states, states_b, states_t, initial, grads, grads_b, grads_t,   \
                             grad_gates, grad_inputs, grad_initial, partial, lengths, B, T, D, threads, parallel);    \
    }

LINEAR_SCAN(float32, float, false)
LINEAR_SCAN(float64, double, false)
LINEAR_SCAN(complex64, float, true)
LINEAR_SCAN(complex128, double, true)
