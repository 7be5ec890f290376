// h[t] = a[t] * h[t-1] + b[t] and its gradients on the GPU.
//
// Shapes: B batch, T time, D channels. Channels are adjacent in memory; batch and time strides are arbitrary and count
// elements. Outputs are contiguous. Constant gates are strides of zero. With lengths (B,), a row ends after so many
// steps; what lies behind is not read, and written as zero. Half precision is computed in float.
//
// A thread takes one channel of one chunk of time, neighbouring threads neighbouring channels. With one chunk that is
// the whole scan: every byte moves once. With more, where there are too few channels to keep memory busy, every chunk is
// first run from zero (`reduce`), the states that enter the chunks follow from that (`carry`), and every chunk is run
// again from the right one. No thread waits for another, and nothing depends on the order in which they run.

#include "scan.cuh"

namespace {

// products, locals (B, chunks, D): what each chunk does to the state h that enters it, h → product · h + local.
template <class E>
DEVICE void forward_reduce(const E* gates, int64 gates_b, int64 gates_t, const E* inputs, int64 inputs_b, int64 inputs_t, const int64* lengths,
                           Precise<E>* products, Precise<E>* locals, int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {
    using P = Precise<E>;
    const Share share(lengths, B, T, D, chunks, chunk);
    if (!share.exists) return;
    const Gates<E> gate(gates + share.b * gates_b + share.d, gates_t);
    const Channel<E> input{inputs + share.b * inputs_b + share.d, inputs_t};
    struct Operands {
        P gate, input;
    };
    P product = One<P>::value(), local{};
    walk<STEPS<E, 2>, false>(
        share.start, share.end, [&](int64 t) { return Operands{gate[t], input[t]}; },
        [&](int64, const Operands& now) {
            local = multiply_add(now.gate, local, now.input);
            product = multiply(now.gate, product);
        });
    products[share.index] = product;
    locals[share.index] = local;
}

// `entering` (B, chunks, D) are the states that enter the chunks; there is only one chunk, and `initial` enters it, if
// there are none.
template <class E>
DEVICE void forward(const E* gates, int64 gates_b, int64 gates_t, const E* inputs, int64 inputs_b, int64 inputs_t,
                    const E* initial, const Precise<E>* entering, const int64* lengths, E* states, int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {
    using P = Precise<E>;
    const Share share(lengths, B, T, D, chunks, chunk);
    if (!share.exists) return;
    const Gates<E> gate(gates + share.b * gates_b + share.d, gates_t);
    const Channel<E> input{inputs + share.b * inputs_b + share.d, inputs_t};
    E* out = states + share.b * T * D + share.d;
    struct Operands {
        P gate, input;
    };
    P state = entering ? entering[share.index] : widen(initial[share.index]);
    walk<STEPS<E, 2>, false>(
        share.start, share.end, [&](int64 t) { return Operands{gate[t], input[t]}; },
        [&](int64 t, const Operands& now) {
            state = multiply_add(now.gate, state, now.input);
            out[t * D] = narrow<E>(state);
        });
    clear(out, D, share.end, share.stop);
}

// As `forward_reduce`, for the gradient that enters a chunk from the later one: what the earlier one receives.
template <class E>
DEVICE void backward_reduce(const E* gates, int64 gates_b, int64 gates_t, const E* grads, int64 grads_b, int64 grads_t, const int64* lengths,
                            Precise<E>* products, Precise<E>* locals, int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {
    using P = Precise<E>;
    const Share share(lengths, B, T, D, chunks, chunk);
    if (!share.exists) return;
    const Gates<E> gate(gates + share.b * gates_b + share.d, gates_t);
    const Channel<E> grad{grads + share.b * grads_b + share.d, grads_t};
    struct Operands {
        P gate, grad;
    };
    P product = One<P>::value(), total{}, later = One<P>::value();
    walk<STEPS<E, 2>, true>(
        share.start, share.end, [&](int64 t) { return Operands{conjugate(gate[t]), grad[t]}; },
        [&](int64, const Operands& now) {
            total = multiply_add(later, total, now.grad);
            later = now.gate;
            product = multiply(now.gate, product);
        });
    products[share.index] = product;
    locals[share.index] = multiply(later, total);
}

// `entering` (B, chunks, D) are the gradients that enter the chunks from later ones, zero if there are none. With
// `partial` (B, chunks, D) gates are constant, and the sum of their gradients over a chunk goes there; without,
// grad_gates is (B, T, D).
template <class E>
DEVICE void backward(const E* gates, int64 gates_b, int64 gates_t, const E* states, int64 states_b, int64 states_t,
                     const E* initial, const E* grads, int64 grads_b, int64 grads_t, const Precise<E>* entering, const int64* lengths,
                     E* grad_gates, E* grad_inputs, E* grad_initial, Sum<E>* partial, int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {
    using P = Precise<E>;
    const Share share(lengths, B, T, D, chunks, chunk);
    if (!share.exists) return;
    const int64 offset = share.b * T * D + share.d;
    const Gates<E> gate(gates + share.b * gates_b + share.d, gates_t);
    const Channel<E> state{states + share.b * states_b + share.d, states_t};
    const Channel<E> grad{grads + share.b * grads_b + share.d, grads_t};
    const P before_all = widen(initial[share.b * D + share.d]);
    struct Operands {
        P gate, grad, before;
    };
    // The gradient that enters counts as it is; from then on a step's gate multiplies what passes through the step.
    P total{}, later = One<P>::value();
    if (entering) total = entering[share.index];
    Sum<E> sum{};
    const auto step = [&](int64 t, const Operands& now) {
        total = multiply_add(later, total, now.grad);
        later = now.gate;
        grad_inputs[offset + t * D] = narrow<E>(total);
        const P product = multiply(total, conjugate(now.before));
        if (partial)
            add(sum, product);
        else
            grad_gates[offset + t * D] = narrow<E>(product);
    };
    walk<STEPS<E, 3>, true>(
        share.after_first(), share.end,
        [&](int64 t) { return Operands{conjugate(gate[t]), grad[t], state[t - 1]}; }, step);
    if (share.has_first()) step(0, Operands{conjugate(gate[0]), grad[0], before_all});
    clear(grad_inputs + offset, D, share.end, share.stop);
    if (partial)
        partial[share.index] = sum;
    else
        clear(grad_gates + offset, D, share.end, share.stop);
    // A row of length zero has no first step that could pass anything on.
    if (share.first()) grad_initial[share.b * D + share.d] = share.end == 0 ? E{} : narrow<E>(multiply(later, total));
}

}  // namespace

#define LINEAR_SCAN(E)                                                                                                 \
    CARRY(linear_scan, E)                                                                                              \
    extern "C" __global__ void BOUNDED linear_scan_forward_reduce_##E(                                \
        const E* __restrict__ gates, int64 gates_b, int64 gates_t, const E* __restrict__ inputs, int64 inputs_b,       \
        int64 inputs_t, const int64* __restrict__ lengths, Precise<E>* __restrict__ products,                          \
        Precise<E>* __restrict__ locals, int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {                       \
        forward_reduce<E>(gates, gates_b, gates_t, inputs, inputs_b, inputs_t, lengths, products, locals, B, T, D,     \
                          chunks, chunk);                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void BOUNDED linear_scan_forward_##E(                                       \
        const E* __restrict__ gates, int64 gates_b, int64 gates_t, const E* __restrict__ inputs, int64 inputs_b,       \
        int64 inputs_t, const E* __restrict__ initial, const Precise<E>* __restrict__ entering,                        \
        const int64* __restrict__ lengths, E* __restrict__ states, int64 B, int64 T, int64 D, int64 chunks,            \
        int64 chunk) {                                                                                                 \
        forward<E>(gates, gates_b, gates_t, inputs, inputs_b, inputs_t, initial, entering, lengths, states, B, T, D,   \
                   chunks, chunk);                                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void BOUNDED linear_scan_backward_reduce_##E(                               \
        const E* __restrict__ gates, int64 gates_b, int64 gates_t, const E* __restrict__ grads, int64 grads_b,         \
        int64 grads_t, const int64* __restrict__ lengths, Precise<E>* __restrict__ products,                           \
        Precise<E>* __restrict__ locals, int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {                       \
        backward_reduce<E>(gates, gates_b, gates_t, grads, grads_b, grads_t, lengths, products, locals, B, T, D,       \
                           chunks, chunk);                                                                             \
    }                                                                                                                  \
    extern "C" __global__ void BOUNDED linear_scan_backward_##E(                                      \
        const E* __restrict__ gates, int64 gates_b, int64 gates_t, const E* __restrict__ states, int64 states_b,       \
        int64 states_t, const E* __restrict__ initial, const E* __restrict__ grads, int64 grads_b, int64 grads_t,      \
        const Precise<E>* __restrict__ entering, const int64* __restrict__ lengths, E* __restrict__ grad_gates,        \
        E* __restrict__ grad_inputs, E* __restrict__ grad_initial, Sum<E>* __restrict__ partial, int64 B, int64 T,     \
        int64 D, int64 chunks, int64 chunk) {                                                                          \
        backward<E>(gates, gates_b, gates_t, states, states_b, states_t, initial, grads, grads_b, grads_t, entering,   \
                    lengths, grad_gates, grad_inputs, grad_initial, partial, B, T, D, chunks, chunk);                  \
    }

#ifdef ELEMENT  // only this type, in a fraction of the time
#define ONLY(E) LINEAR_SCAN(E)
ONLY(ELEMENT)
#else
LINEAR_SCAN(float32)
LINEAR_SCAN(float64)
LINEAR_SCAN(complex64)
LINEAR_SCAN(complex128)
LINEAR_SCAN(bfloat16)
LINEAR_SCAN(float16)
#endif
