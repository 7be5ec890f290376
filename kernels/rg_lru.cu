// The real-gated linear recurrent unit on the GPU: gates from their pre-activations, the scan, and its gradients.
//
//     α[t] = exp(-softplus(Λ) · σ(r[t]))        h[t] = α[t] · h[t-1] + √(1 - α[t]² + 1e-8) · σ(g[t]) · x[t]
//
// Shapes: B batch, T time, D channels; r and g are halves of (B, T, 2D). Channels are adjacent in memory; batch and time
// strides are arbitrary and count elements. Outputs are contiguous. Half precision is computed in float. Threads and
// chunks as in linear_scan.cu: the forward pass reads r, g and x and writes h, and α and what multiplies x never reach
// memory; the backward pass computes them again.

#include "scan.cuh"

namespace {

// One step's coefficients, and what their gradients need.
template <class E>
struct Coefficients {
    using P = Precise<E>;
    using F = Function<E>;
    P alpha, root;  // h ← alpha · h + root · open · x
    P open;         // σ(g)
    P rate;         // σ(r)

    DEVICE Coefficients(P softplus_decay, P r, P g) {
        rate = F::sigmoid(r);
        open = F::sigmoid(g);
        const P exponent = -softplus_decay * rate;
        alpha = F::exponential(exponent);
        root = F::root(-F::exponential_minus_1(2 * exponent) + static_cast<P>(1e-8));  // 1 - α², also where α is next to 1
    }
};

template <class E>
struct Pointers {
    const E *inputs, *gates;
    int64 inputs_t, gates_t, D;

    DEVICE Pointers(const E* inputs_, int64 inputs_b, int64 inputs_t_, const E* gates_, int64 gates_b, int64 gates_t_, int64 b, int64 d, int64 D_)
        : inputs(inputs_ + b * inputs_b + d), gates(gates_ + b * gates_b + d), inputs_t(inputs_t_), gates_t(gates_t_), D(D_) {}
    DEVICE Precise<E> x(int64 t) const { return widen(inputs[t * inputs_t]); }
    DEVICE Precise<E> r(int64 t) const { return widen(gates[t * gates_t]); }
    DEVICE Precise<E> g(int64 t) const { return widen(gates[t * gates_t + D]); }
};

template <class E>
DEVICE void forward_reduce(const E* inputs, int64 inputs_b, int64 inputs_t, const E* gates, int64 gates_b, int64 gates_t, const E* decay,
                           Precise<E>* products, Precise<E>* locals, int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {
    using P = Precise<E>;
    const Share share(nullptr, B, T, D, chunks, chunk);
    if (!share.exists) return;
    const Pointers<E> at(inputs, inputs_b, inputs_t, gates, gates_b, gates_t, share.b, share.d, D);
    const P rate = Function<P>::softplus(widen(decay[share.d]));
    struct Operands {
        P r, g, x;
    };
    P product = 1, local = 0;
    walk<STEPS<E, 3>, false>(
        share.start, share.end, [&](int64 t) { return Operands{at.r(t), at.g(t), at.x(t)}; },
        [&](int64, const Operands& now) {
            const Coefficients<E> step(rate, now.r, now.g);
            local = fma(step.alpha, local, step.root * step.open * now.x);
            product *= step.alpha;
        });
    products[share.index] = product;
    locals[share.index] = local;
}

template <class E>
DEVICE void forward(const E* inputs, int64 inputs_b, int64 inputs_t, const E* gates, int64 gates_b, int64 gates_t, const E* decay,
                    const E* initial, const Precise<E>* entering, E* states, int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {
    using P = Precise<E>;
    const Share share(nullptr, B, T, D, chunks, chunk);
    if (!share.exists) return;
    const Pointers<E> at(inputs, inputs_b, inputs_t, gates, gates_b, gates_t, share.b, share.d, D);
    const P rate = Function<P>::softplus(widen(decay[share.d]));
    E* out = states + share.b * T * D + share.d;
    struct Operands {
        P r, g, x;
    };
    P state = entering ? entering[share.index] : widen(initial[share.index]);
    walk<STEPS<E, 3>, false>(
        share.start, share.end, [&](int64 t) { return Operands{at.r(t), at.g(t), at.x(t)}; },
        [&](int64 t, const Operands& now) {
            const Coefficients<E> step(rate, now.r, now.g);
            state = fma(step.alpha, state, step.root * step.open * now.x);
            out[t * D] = narrow<E>(state);
        });
}

template <class E>
DEVICE void backward_reduce(const E* gates, int64 gates_b, int64 gates_t, const E* decay, const E* grads, int64 grads_b, int64 grads_t,
                            Precise<E>* products, Precise<E>* locals, int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {
    using P = Precise<E>;
    const Share share(nullptr, B, T, D, chunks, chunk);
    if (!share.exists) return;
    const Channel<E> r{gates + share.b * gates_b + share.d, gates_t};
    const Channel<E> grad{grads + share.b * grads_b + share.d, grads_t};
    const P rate = Function<P>::softplus(widen(decay[share.d]));
    struct Operands {
        P r, grad;
    };
    P product = 1, passed = 0;
    walk<STEPS<E, 2>, true>(
        share.start, share.end, [&](int64 t) { return Operands{r[t], grad[t]}; },
        [&](int64, const Operands& now) {
            const P alpha = Function<E>::exponential(-rate * Function<E>::sigmoid(now.r));
            passed = alpha * (now.grad + passed);
            product *= alpha;
        });
    products[share.index] = product;
    locals[share.index] = passed;
}

// `partial` (B, chunks, D): the gradient of the decay, summed over a chunk.
template <class E>
DEVICE void backward(const E* inputs, int64 inputs_b, int64 inputs_t, const E* gates, int64 gates_b, int64 gates_t, const E* decay,
                     const E* initial, const E* states, int64 states_b, int64 states_t, const E* grads, int64 grads_b, int64 grads_t,
                     const Precise<E>* entering, E* grad_inputs, E* grad_gates, E* grad_initial, double* partial, int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {
    using P = Precise<E>;
    const Share share(nullptr, B, T, D, chunks, chunk);
    if (!share.exists) return;
    const Pointers<E> at(inputs, inputs_b, inputs_t, gates, gates_b, gates_t, share.b, share.d, D);
    const Channel<E> state{states + share.b * states_b + share.d, states_t};
    const Channel<E> grad{grads + share.b * grads_b + share.d, grads_t};
    const P lambda = widen(decay[share.d]), rate = Function<P>::softplus(lambda);
    const P rate_by_decay = lambda > 20 ? 1 : Function<P>::sigmoid(lambda);
    const P before_all = widen(initial[share.b * D + share.d]);
    E* out_inputs = grad_inputs + share.b * T * D + share.d;
    E* out_gates = grad_gates + share.b * T * 2 * D + share.d;
    struct Operands {
        P r, g, x, grad, before;
    };
    P passed = entering ? entering[share.index] : 0;
    double sum = 0;
    const auto step = [&](int64 t, const Operands& now) {
        const Coefficients<E> of(rate, now.r, now.g);
        const P total = now.grad + passed;
        passed = of.alpha * total;
        const P driven = of.open * now.x;
        // dα = total · (h[t-1] - α / √… · σ(g) · x), and dα/d(exponent) = α.
        const P by_exponent = passed * (now.before - Function<E>::ratio(of.alpha, of.root) * driven);
        sum -= by_exponent * of.rate;
        out_inputs[t * D] = narrow<E>(total * of.root * of.open);
        out_gates[t * 2 * D] = narrow<E>(-by_exponent * rate * of.rate * (1 - of.rate));
        out_gates[t * 2 * D + D] = narrow<E>(total * of.root * driven * (1 - of.open));
    };
    walk<STEPS<E, 5>, true>(
        share.after_first(), share.end,
        [&](int64 t) { return Operands{at.r(t), at.g(t), at.x(t), grad[t], state[t - 1]}; }, step);
    if (share.has_first()) step(0, Operands{at.r(0), at.g(0), at.x(0), grad[0], before_all});
    partial[share.index] = sum * rate_by_decay;
    if (share.first()) grad_initial[share.b * D + share.d] = narrow<E>(passed);
}

}  // namespace

#define RG_LRU(E)                                                                                                      \
    CARRY(rg_lru, E)                                                                                                   \
    extern "C" __global__ void BOUNDED rg_lru_forward_reduce_##E(                                                      \
        const E* __restrict__ inputs, int64 inputs_b, int64 inputs_t, const E* __restrict__ gates, int64 gates_b,      \
        int64 gates_t, const E* __restrict__ decay, Precise<E>* __restrict__ products, Precise<E>* __restrict__ locals, \
        int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {                                                        \
        forward_reduce<E>(inputs, inputs_b, inputs_t, gates, gates_b, gates_t, decay, products, locals, B, T, D,       \
                          chunks, chunk);                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void BOUNDED rg_lru_forward_##E(                                                             \
        const E* __restrict__ inputs, int64 inputs_b, int64 inputs_t, const E* __restrict__ gates, int64 gates_b,      \
        int64 gates_t, const E* __restrict__ decay, const E* __restrict__ initial,                                     \
        const Precise<E>* __restrict__ entering, E* __restrict__ states, int64 B, int64 T, int64 D, int64 chunks,      \
        int64 chunk) {                                                                                                 \
        forward<E>(inputs, inputs_b, inputs_t, gates, gates_b, gates_t, decay, initial, entering, states, B, T, D,     \
                   chunks, chunk);                                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void BOUNDED rg_lru_backward_reduce_##E(                                                     \
        const E* __restrict__ gates, int64 gates_b, int64 gates_t, const E* __restrict__ decay,                        \
        const E* __restrict__ grads, int64 grads_b, int64 grads_t, Precise<E>* __restrict__ products,                  \
        Precise<E>* __restrict__ locals, int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {                       \
        backward_reduce<E>(gates, gates_b, gates_t, decay, grads, grads_b, grads_t, products, locals, B, T, D, chunks, \
                           chunk);                                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void BOUNDED rg_lru_backward_##E(                                                            \
        const E* __restrict__ inputs, int64 inputs_b, int64 inputs_t, const E* __restrict__ gates, int64 gates_b,      \
        int64 gates_t, const E* __restrict__ decay, const E* __restrict__ initial, const E* __restrict__ states,       \
        int64 states_b, int64 states_t, const E* __restrict__ grads, int64 grads_b, int64 grads_t,                     \
        const Precise<E>* __restrict__ entering, E* __restrict__ grad_inputs, E* __restrict__ grad_gates,              \
        E* __restrict__ grad_initial, double* __restrict__ partial, int64 B, int64 T, int64 D, int64 chunks,           \
        int64 chunk) {                                                                                                 \
        backward<E>(inputs, inputs_b, inputs_t, gates, gates_b, gates_t, decay, initial, states, states_b, states_t,   \
                    grads, grads_b, grads_t, entering, grad_inputs, grad_gates, grad_initial, partial, B, T, D,        \
                    chunks, chunk);                                                                                    \
    }

#ifdef ELEMENT  // only this type, in a fraction of the time
#define ONLY(E) RG_LRU(E)
ONLY(ELEMENT)
#else
RG_LRU(float32)
RG_LRU(float64)
RG_LRU(bfloat16)
RG_LRU(float16)
#endif
