// RecBLR's gated recurrence and its gradients on the CPU, for float and double.
//
//     α[t] = exp(-softplus(Λ)·σ(r[t]))      h[t] = α[t]·h[t-1] + √(1 - α[t]² + 1e-8)·σ(g[t])·x[t]
//
// Shapes: B batch, T time, D channels; gates (B, T, 2D) are r, then g. Channels are adjacent in memory; batch and time
// strides are arbitrary. Outputs are contiguous.
//
// Built like the linear scan: a step is a loop over the channels of a row, the state is the row that was written last,
// and memory is walked in one direction. α and the factor of x exist in registers only. α is computed as 1 + e with
// e = exp(…) - 1, and 1 - α² as -e·(2 + e): where α is close to 1, the difference of squares would keep few digits.

#include <cstdint>

#include "parallel.h"
#include "pieces.h"
#include "vector_math.h"

namespace {

using math::fma;

// Steps whose terms of the decay's gradient are added in the precision of the data before they go into a double.
constexpr int64_t FLUSH = 64;

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

// What one element's gates make.
template <class R>
struct Gated {
    R recurrence, input;  // σ(r), σ(g)
    R alpha, beta;        // β multiplies σ(g)·x

    Gated(R r, R g, R minus_rate) : recurrence(math::sigmoid(r)), input(math::sigmoid(g)) {
        const R e = math::expm1(minus_rate * recurrence);
        alpha = 1 + e;
        beta = root(fma(-e, 2 + e, static_cast<R>(1e-8)));
    }
};

template <class R>
inline void step(const R* __restrict inputs, const R* __restrict r, const R* __restrict g,
                 const R* __restrict minus_rate, const R* __restrict before, R* __restrict out, int64_t width) {
    for (int64_t i = 0; i < width; ++i) {
        const Gated<R> gated(r[i], g[i], minus_rate[i]);
        out[i] = fma(gated.alpha, before[i], gated.beta * gated.input * inputs[i]);
    }
}

// `carry` is what the gradient of the later state passes on; `rates` adds up the gradient of softplus(Λ).
template <class R>
inline void back(const R* __restrict inputs, const R* __restrict r, const R* __restrict g,
                 const R* __restrict minus_rate, const R* __restrict before, const R* __restrict grad,
                 R* __restrict carry, R* __restrict rates, R* __restrict grad_inputs, R* __restrict grad_r,
                 R* __restrict grad_g, int64_t width) {
    for (int64_t i = 0; i < width; ++i) {
        const Gated<R> gated(r[i], g[i], minus_rate[i]);
        const R state = grad[i] + carry[i];
        carry[i] = gated.alpha * state;
        const R driven = gated.beta * state, scaled = driven * inputs[i];
        grad_inputs[i] = driven * gated.input;
        grad_g[i] = scaled * (gated.input * (1 - gated.input));
        // Of log α: α for the state before, -α²/β for β.
        const R exponent = gated.alpha * state * fma(-gated.alpha * gated.input / gated.beta, inputs[i], before[i]);
        grad_r[i] = exponent * minus_rate[i] * (gated.recurrence * (1 - gated.recurrence));
        rates[i] = fma(-exponent, gated.recurrence, rates[i]);
    }
}

// -softplus(Λ), which is what multiplies σ(r).
template <class R>
inline void minus_rates(const R* decay, R* __restrict out, int64_t width) {
    for (int64_t i = 0; i < width; ++i) out[i] = -math::softplus(decay[i]);
}

template <class R>
void forward(const R* inputs, int64_t inputs_b, int64_t inputs_t, const R* gates, int64_t gates_b, int64_t gates_t,
             const R* decay, const R* initial, R* states, int64_t B, int64_t T, int64_t D, int threads,
             Parallel parallel) {
    const Pieces pieces(B, T, D, sizeof(R), threads);
    for_each(pieces.count, pieces.threads, parallel, [&](int64_t piece) {
        const int64_t b = pieces.row(piece), offset = pieces.first(piece), width = pieces.size(piece);
        R minus_rate[ROW_BYTES / sizeof(R)];
        minus_rates(decay + offset, minus_rate, width);
        const R* before = initial + b * D + offset;
        for (int64_t t = 0; t < T; ++t) {
            const R* gate = gates + b * gates_b + t * gates_t + offset;
            R* out = states + (b * T + t) * D + offset;
            step(inputs + b * inputs_b + t * inputs_t + offset, gate, gate + D, minus_rate, before, out, width);
            before = out;
        }
    });
}

// The sums over time of each batch row go to `partial` (B, D).
template <class R>
void backward(const R* inputs, int64_t inputs_b, int64_t inputs_t, const R* gates, int64_t gates_b, int64_t gates_t,
              const R* decay, const R* initial, const R* states, int64_t states_b, int64_t states_t, const R* grads,
              int64_t grads_b, int64_t grads_t, R* grad_inputs, R* grad_gates, R* grad_decay, R* grad_initial,
              double* partial, int64_t B, int64_t T, int64_t D, int threads, Parallel parallel) {
    constexpr int64_t chunk = CHUNK_BYTES / sizeof(R);
    const Pieces pieces(B, T, D, sizeof(R), threads);
    const auto all = [&](int64_t piece) {
        const int64_t b = pieces.row(piece), offset = pieces.first(piece), width = pieces.size(piece);
        R minus_rate[ROW_BYTES / sizeof(R)], carry[ROW_BYTES / sizeof(R)], rates[ROW_BYTES / sizeof(R)];
        minus_rates(decay + offset, minus_rate, width);
        double* total = partial + b * D + offset;
        for (int64_t i = 0; i < width; ++i) carry[i] = 0, rates[i] = 0, total[i] = 0;
        for (int64_t t = T - 1; t >= 0; --t) {
            const R* input = inputs + b * inputs_b + t * inputs_t + offset;
            const R* gate = gates + b * gates_b + t * gates_t + offset;
            const R* grad = grads + b * grads_b + t * grads_t + offset;
            const R* before = t ? states + b * states_b + (t - 1) * states_t + offset : initial + b * D + offset;
            R* out = grad_inputs + (b * T + t) * D + offset;
            R* out_gate = grad_gates + (b * T + t) * 2 * D + offset;
            downwards<chunk>(width, [&](int64_t first, auto count) {
                back(input + first, gate + first, gate + D + first, minus_rate + first, before + first, grad + first,
                     carry + first, rates + first, out + first, out_gate + first, out_gate + D + first, count);
            });
            if (t % FLUSH == 0)
                for (int64_t i = 0; i < width; ++i) total[i] += rates[i], rates[i] = 0;
        }
        for (int64_t i = 0; i < width; ++i) grad_initial[b * D + offset + i] = carry[i];
    };
    for_each(pieces.count, pieces.threads, parallel, all, true);
    // In the order of the batch, whatever thread each row came from.
    for (int64_t b = 1; b < B; ++b)
        for (int64_t i = 0; i < D; ++i) partial[i] += partial[b * D + i];
    for (int64_t i = 0; i < D; ++i) grad_decay[i] = static_cast<R>(partial[i]) * math::sigmoid(decay[i]);
}

}  // namespace

#define RG_LRU(NAME, R)                                                                                              \
    extern "C" void rg_lru_forward_##NAME(const R* inputs, int64_t inputs_b, int64_t inputs_t, const R* gates,       \
                                          int64_t gates_b, int64_t gates_t, const R* decay, const R* initial,        \
                                          R* states, int64_t B, int64_t T, int64_t D, int threads,                   \
                                          Parallel parallel) {                                                       \
        forward<R>(inputs, inputs_b, inputs_t, gates, gates_b, gates_t, decay, initial, states, B, T, D, threads,    \
                   parallel);                                                                                        \
    }                                                                                                                \
    extern "C" void rg_lru_backward_##NAME(                                                                          \
        const R* inputs, int64_t inputs_b, int64_t inputs_t, const R* gates, int64_t gates_b, int64_t gates_t,       \
        const R* decay, const R* initial, const R* states, int64_t states_b, int64_t states_t, const R* grads,       \
        int64_t grads_b, int64_t grads_t, R* grad_inputs, R* grad_gates, R* grad_decay, R* grad_initial,             \
        double* partial, int64_t B, int64_t T, int64_t D, int threads, Parallel parallel) {                          \
        backward<R>(inputs, inputs_b, inputs_t, gates, gates_b, gates_t, decay, initial, states, states_b, states_t, \
                    grads, grads_b, grads_t, grad_inputs, grad_gates, grad_decay, grad_initial, partial, B, T, D,    \
                    threads, parallel);                                                                              \
    }

RG_LRU(float32, float)
RG_LRU(float64, double)
