// h[t] = a[t] * h[t-1] + b[t] and its gradients on the CPU, for float, double and interleaved complex of both.
//
// Shapes: B batch, T time, D channels. Channels are adjacent in memory; batch and time strides are arbitrary and count
// real numbers, so that a complex element is two of them. Outputs are contiguous. Constant gates are strides of zero.
// With lengths (B,), a row ends after so many steps; what lies behind is not read, and written as zero.
//
// A scan is bound by memory: the state is the row of the output that was written last, still in the first-level cache,
// and each step is a loop over channels that the compiler vectorises. Every element is computed by the same explicit
// operations wherever it lies, so the bits depend neither on the number of threads nor on how work is cut. Memory is
// walked in one direction, the forward pass upwards, the backward pass downwards, which prefetchers rely on.

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

template <class R, bool Complex>
void forward(const R* gates, int64_t gates_b, int64_t gates_t, const R* inputs, int64_t inputs_b, int64_t inputs_t,
             const R* initial, R* states, const int64_t* lengths, int64_t B, int64_t T, int64_t D, int threads, Parallel parallel) {
    constexpr int64_t parts = Complex ? 2 : 1;
    const Pieces pieces(B, T, D, parts * sizeof(R), threads);
    const int64_t row = D * parts;
    for_each(pieces.count, pieces.threads, parallel, [&](int64_t piece) {
        const int64_t b = pieces.row(piece), offset = pieces.first(piece) * parts, width = pieces.size(piece);
        const R* gate = gates + b * gates_b + offset;
        const R* input = inputs + b * inputs_b + offset;
        const R* state = initial + b * row + offset;
        R* out = states + b * T * row + offset;
        const int64_t steps = lengths ? lengths[b] : T;
        for (int64_t t = 0; t < steps; ++t) {
            step<R, Complex, false>(gate, state, input, out, width);
            state = out;
            gate += gates_t;
            input += inputs_t;
            out += row;
        }
        for (int64_t t = steps; t < T; ++t, out += row) clear(out, width * parts);
    });
}

// With `partial` (B, D) gates are constant: the sum over time of each batch row goes there, and the sum over the batch
// into grad_gates (D,); without, grad_gates is (B, T, D).
template <class R, bool Complex>
void backward(const R* gates, int64_t gates_b, int64_t gates_t, const R* states, int64_t states_b, int64_t states_t,
              const R* initial, const R* grads, int64_t grads_b, int64_t grads_t, R* grad_gates, R* grad_inputs,
              R* grad_initial, double* partial, const int64_t* lengths, int64_t B, int64_t T, int64_t D, int threads, Parallel parallel) {
    constexpr int64_t parts = Complex ? 2 : 1;
    constexpr int64_t chunk = CHUNK_BYTES / (parts * sizeof(R));
    const Pieces pieces(B, T, D, parts * sizeof(R), threads);
    const int64_t row = D * parts;
    for_each(pieces.count, pieces.threads, parallel, [&](int64_t item) {
        const int64_t piece = pieces.count - 1 - item;
        const int64_t b = pieces.row(piece), offset = pieces.first(piece) * parts, width = pieces.size(piece);
        const R* initial_row = initial + b * row + offset;
        R sum[ROW_BYTES / sizeof(R)];
        double* total = partial ? partial + b * row + offset : nullptr;
        if (partial)
            for (int64_t i = 0; i < width * parts; ++i) sum[i] = 0, total[i] = 0;

        const int64_t steps = lengths ? lengths[b] : T;
        for (int64_t t = T - 1; t >= steps; --t) {
            clear(grad_inputs + (b * T + t) * row + offset, width * parts);
            if (!partial) clear(grad_gates + (b * T + t) * row + offset, width * parts);
        }
        for (int64_t t = steps - 1; t >= 0; --t) {
            const R* grad = grads + b * grads_b + t * grads_t + offset;
            const R* gate = gates + b * gates_b + (t + 1) * gates_t + offset;
            const R* before = t ? states + b * states_b + (t - 1) * states_t + offset : initial_row;
            R* out = grad_inputs + (b * T + t) * row + offset;
            R* out_gate = partial ? nullptr : grad_gates + (b * T + t) * row + offset;
            downwards<chunk>(width, [&](int64_t first, auto count) {
                const int64_t at = first * parts;
                if (t == steps - 1)
                    for (int64_t i = 0; i < count * parts; ++i) out[at + i] = grad[at + i];
                else
                    step<R, Complex, true>(gate + at, out + row + at, grad + at, out + at, count);
                if (partial)
                    accumulate<R, Complex>(out + at, before + at, sum + at, count);
                else
                    product<R, Complex>(out + at, before + at, out_gate + at, count);
            });
            if (partial && t % FLUSH == 0)
                for (int64_t i = 0; i < width * parts; ++i) total[i] += sum[i], sum[i] = 0;
        }
        if (steps == 0) return clear(grad_initial + b * row + offset, width * parts);
        const R* gate = gates + b * gates_b + offset;
        product<R, Complex>(grad_inputs + b * T * row + offset, gate, grad_initial + b * row + offset, width);
    });
    if (!partial) return;
    // In the order of the batch, whatever thread each row came from.
    for (int64_t b = 1; b < B; ++b)
        for (int64_t i = 0; i < row; ++i) partial[i] += partial[b * row + i];
    for (int64_t i = 0; i < row; ++i) grad_gates[i] = static_cast<R>(partial[i]);
}

}  // namespace

#define LINEAR_SCAN(NAME, R, COMPLEX)                                                                                  \
    extern "C" void linear_scan_forward_##NAME(                                                                        \
        const R* gates, int64_t gates_b, int64_t gates_t, const R* inputs, int64_t inputs_b, int64_t inputs_t,         \
        const R* initial, R* states, const int64_t* lengths, int64_t B, int64_t T, int64_t D, int threads, Parallel parallel) {                \
        forward<R, COMPLEX>(gates, gates_b, gates_t, inputs, inputs_b, inputs_t, initial, states, lengths, B, T, D, threads,    \
                            parallel);                                                                                 \
    }                                                                                                                  \
    extern "C" void linear_scan_backward_##NAME(                                                                       \
        const R* gates, int64_t gates_b, int64_t gates_t, const R* states, int64_t states_b, int64_t states_t,         \
        const R* initial, const R* grads, int64_t grads_b, int64_t grads_t, R* grad_gates, R* grad_inputs,             \
        R* grad_initial, double* partial, const int64_t* lengths, int64_t B, int64_t T, int64_t D, int threads, Parallel parallel) {           \
        backward<R, COMPLEX>(gates, gates_b, gates_t, states, states_b, states_t, initial, grads, grads_b, grads_t,    \
                             grad_gates, grad_inputs, grad_initial, partial, lengths, B, T, D, threads, parallel);              \
    }

LINEAR_SCAN(float32, float, false)
LINEAR_SCAN(float64, double, false)
LINEAR_SCAN(complex64, float, true)
LINEAR_SCAN(complex128, double, true)
