// Mamba's selective scan on the GPU, and its gradients, without ever holding the states of all steps.
//
//     S[t] = exp(Δ[t]·A) ⊙ S[t-1] + (Δ[t]·x[t])·B[t]ᵀ        y[t] = (S[t]·C[t] + skip ⊙ x[t]) ⊙ silu(z[t])
//
// Shapes: B batch, T time, D channels, N states per channel, up to 256. Channels, and the N of B[t] and C[t], are adjacent
// in memory; batch and time strides are arbitrary and count elements. Outputs are contiguous. Half precision is computed
// in float.
//
// A thread holds eight states of one channel in registers: state n = 8 · part + j, where `lanes` neighbouring threads
// share the channel and `part` is the thread's place among them. A warp has 32 / lanes channels of one row. Sums over
// states, and over the channels of a warp, are exchanged within the warp; nothing waits for another warp.
//
// The backward pass runs forward first and keeps the states at every KEPT-th step, then goes back over these stretches
// from the last to the first: the states within a stretch are computed once more, into shared memory. A warp takes one
// group of channels after the other, so that what it keeps is as much as for one group, and so that it can add up, in a
// fixed order, what the groups contribute to the gradients of B and C.

#include "scan.cuh"

namespace {

constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;
constexpr int STATES = 8;
// Steps between two kept states: their states take 16 KiB of shared memory.
template <class E>
constexpr int KEPT = 64 / sizeof(Precise<E>);
// Warps that fit on a multiprocessor: few enough for their registers.
template <class E>
constexpr int FORWARD_WARPS = sizeof(Precise<E>) == 8 ? 12 : 16;
template <class E>
constexpr int BACKWARD_WARPS = sizeof(Precise<E>) == 8 ? 8 : 12;

template <class E>
struct Sequence {
    const E* first;
    int64 batch, time;
    DEVICE const E* at(int64 b, int64 t) const { return first + b * batch + t * time; }
};

template <class E>
struct Problem {
    Sequence<E> inputs, deltas, drive, readout, gate;
    const E *decay, *skip, *initial;
    int64 B, T, D, N, lanes, softplus;
    DEVICE int64 groups() const {
        const int64 channels = WARP / lanes;
        return (D + channels - 1) / channels;
    }
};

// What a step is made of, for one thread.
template <class P>
struct Step {
    P x, delta, drive[STATES];
};
template <class P>
struct ReadStep : Step<P> {
    P gate, readout[STATES];
};
template <class P>
struct GradStep : ReadStep<P> {
    P grad;
};

// A thread of the warp that has one group of channels of row b.
template <class E>
struct Lane {
    using P = Precise<E>;
    const Problem<E>& problem;
    int64 b, d;
    int lane, part, lanes, N;
    bool exists;  // the channel does; what is read in its place is another one's
    P skip;
    P decay[STATES];

    DEVICE Lane(const Problem<E>& problem_, int64 b_, int64 group) : problem(problem_), b(b_) {
        lane = threadIdx.x % WARP;
        lanes = static_cast<int>(problem.lanes);
        N = static_cast<int>(problem.N);
        part = lane % lanes;
        d = group * (WARP / lanes) + lane / lanes;
        exists = d < problem.D;
        if (!exists) d = problem.D - 1;
        skip = problem.skip ? widen(problem.skip[d]) : 0;
        load(problem.decay + d * N, decay);
    }

    DEVICE int n(int j) const { return part * STATES + j; }
    DEVICE int64 channel() const { return b * problem.D + d; }

    // The thread's states out of N adjacent ones, zero beyond N.
    DEVICE void load(const E* row, P (&out)[STATES]) const {
#pragma unroll
        for (int j = 0; j < STATES; ++j) {
            out[j] = 0;
            if (n(j) < N) out[j] = widen(row[n(j)]);
        }
    }
    DEVICE void store(E* row, const P (&states)[STATES]) const {
#pragma unroll
        for (int j = 0; j < STATES; ++j)
            if (exists && n(j) < N) row[n(j)] = narrow<E>(states[j]);
    }

    DEVICE void read(int64 t, Step<P>& step) const {
        step.x = widen(problem.inputs.at(b, t)[d]);
        step.delta = widen(problem.deltas.at(b, t)[d]);
        load(problem.drive.at(b, t), step.drive);
    }
    DEVICE void read(int64 t, ReadStep<P>& step) const {
        read(t, static_cast<Step<P>&>(step));
        step.gate = problem.gate.first ? widen(problem.gate.at(b, t)[d]) : 0;
        load(problem.readout.at(b, t), step.readout);
    }

    // Δ from what it is given as.
    DEVICE P delta(P given) const { return problem.softplus ? softplus(given) : given; }
    DEVICE P delta_by_given(P given) const { return problem.softplus && given <= 20 ? sigmoid(given) : 1; }

    // exp(Δ·A) of state j, given Δ·log₂e.
    DEVICE P decayed(P delta_log2e, int j) const { return exp2(delta_log2e * decay[j]); }

    DEVICE void advance(const Step<P>& step, P (&states)[STATES]) const {
        const P delta_ = delta(step.delta), scaled = delta_ * static_cast<P>(1.4426950408889634), driven = delta_ * step.x;
#pragma unroll
        for (int j = 0; j < STATES; ++j) states[j] = fma(decayed(scaled, j), states[j], driven * step.drive[j]);
    }

    DEVICE P over_states(P x) const {
        for (int mask = 1; mask < lanes; mask *= 2) x += __shfl_xor_sync(ALL, x, mask);
        return x;
    }

    // Sums over the channels of the warp, left in out[0 … owned()-1] for the states j = first_owned() + …: at every
    // exchange a thread hands over half of what it has, until one is left.
    template <int Half = STATES / 2, int Mask = WARP / 2>
    DEVICE void over_channels(P (&out)[STATES]) const {
        if constexpr (Mask > 0) {
            if (Mask < lanes) return;
            if constexpr (Half == 0) out[0] += __shfl_xor_sync(ALL, out[0], Mask);
            const bool upper = lane & Mask;
#pragma unroll
            for (int j = 0; j < Half; ++j) {
                const P given = upper ? out[j] : out[j + Half];
                out[j] = (upper ? out[j + Half] : out[j]) + __shfl_xor_sync(ALL, given, Mask);
            }
            over_channels<Half / 2, Mask / 2>(out);
        }
    }
    DEVICE int owned() const {
        const int channels = WARP / lanes;
        return channels >= STATES ? 1 : STATES / channels;
    }
    DEVICE int first_owned() const {
        int first = 0;
#pragma unroll
        for (int level = 0; level < 3; ++level) {
            const int mask = WARP / 2 >> level;
            if (mask >= lanes && (lane & mask)) first += STATES / 2 >> level;
        }
        return first;
    }
    // With more than eight channels in a warp several threads end up with the same sums.
    DEVICE bool owns() const { return (lane & 3 & -lanes) == 0; }
};

template <class E>
DEVICE void forward(const Problem<E>& problem, E* outputs, E* final_state) {
    using P = Precise<E>;
    const int64 warp = (static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    const int64 groups = problem.groups();
    if (warp >= problem.B * groups) return;
    const Lane<E> lane(problem, warp / groups, warp % groups);
    P states[STATES];
    lane.load(problem.initial + lane.channel() * problem.N, states);
    E* out = outputs + lane.b * problem.T * problem.D + lane.d;
    walk<8 / sizeof(P), false>(
        0, problem.T,
        [&](int64 t) {
            ReadStep<P> step;
            lane.read(t, step);
            return step;
        },
        [&](int64 t, const ReadStep<P>& step) {
            lane.advance(step, states);
            P y = 0;
#pragma unroll
            for (int j = 0; j < STATES; ++j) y = fma(states[j], step.readout[j], y);
            y = fma(lane.skip, step.x, lane.over_states(y));
            if (problem.gate.first) y *= step.gate * sigmoid(step.gate);
            if (lane.exists && lane.part == 0) out[t * problem.D] = narrow<E>(y);
        });
    lane.store(final_state + lane.channel() * problem.N, states);
}

template <class E>
struct Gradients {
    E *inputs, *deltas, *gate, *initial;
    Precise<E>* decay;               // (B, D, N), to be summed over the batch
    Precise<E> *drive, *readout;     // (slabs, B, T, N), to be summed over the slabs
    double* skip;                    // (B, D), to be summed over the batch
};

// One warp a block; block `slab` of a row takes the groups of channels slab, slab + slabs, … . `kept` holds, per block,
// the states of all threads that enter the stretches after the first.
template <class E>
DEVICE void backward(const Problem<E>& problem, const Sequence<E>& grad_outputs, const E* grad_final, const Gradients<E>& gradients,
                     Precise<E>* kept, int64 slabs) {
    using P = Precise<E>;
    constexpr int K = KEPT<E>;
    __shared__ P history[K][STATES][WARP];  // the states before each step of a stretch; a thread reads only its own
    const int64 T = problem.T, N = problem.N, stretches = (T + K - 1) / K;
    const int64 b = blockIdx.x / slabs, slab = blockIdx.x % slabs;
    P* own = kept + blockIdx.x * (stretches - 1) * STATES * WARP + threadIdx.x;
    P* drive_slab = gradients.drive + (slab * problem.B + b) * T * N;
    P* readout_slab = gradients.readout + (slab * problem.B + b) * T * N;

    for (int64 group = slab; group < problem.groups(); group += slabs) {
        const Lane<E> lane(problem, b, group);
        const auto read = [&](int64 t) {
            Step<P> step;
            lane.read(t, step);
            return step;
        };
        P states[STATES];
        lane.load(problem.initial + lane.channel() * N, states);
        for (int64 stretch = 0; stretch + 1 < stretches; ++stretch) {
            walk<8 / sizeof(P), false>(stretch * K, (stretch + 1) * K, read,
                                        [&](int64, const Step<P>& step) { lane.advance(step, states); });
#pragma unroll
            for (int j = 0; j < STATES; ++j) own[(stretch * STATES + j) * WARP] = states[j];
        }

        const int owned = lane.owned(), first_owned = lane.first_owned();
        const bool owns = lane.owns();
        const int64 offset = b * T * problem.D + lane.d;
        P passed[STATES];  // gradient of the states, from later steps
        lane.load(grad_final + lane.channel() * N, passed);
#pragma unroll
        for (int j = 0; j < STATES; ++j)
            if (!lane.exists) passed[j] = 0;
        P decay_sum[STATES] = {};  // per stretch first, so that rounding grows slowly
        double skip_sum = 0;
        for (int64 stretch = stretches - 1; stretch >= 0; --stretch) {
            const int64 start = stretch * K, end = start + K < T ? start + K : T;
            if (stretch == 0) {
                lane.load(problem.initial + lane.channel() * N, states);
            } else {
#pragma unroll
                for (int j = 0; j < STATES; ++j) states[j] = own[((stretch - 1) * STATES + j) * WARP];
            }
            walk<8 / sizeof(P), false>(start, end, read, [&](int64 t, const Step<P>& step) {
#pragma unroll
                for (int j = 0; j < STATES; ++j) history[t - start][j][threadIdx.x] = states[j];
                lane.advance(step, states);
            });
            P decay_part[STATES] = {};
            walk<1, true>(
                start, end,
                [&](int64 t) {
                    GradStep<P> step;
                    lane.read(t, static_cast<ReadStep<P>&>(step));
                    step.grad = lane.exists ? widen(grad_outputs.at(b, t)[lane.d]) : 0;
                    return step;
                },
                [&](int64 t, const GradStep<P>& step) {
                    const P delta = lane.delta(step.delta), scaled = delta * static_cast<P>(1.4426950408889634);
                    P grad = step.grad;  // of y before the gate
                    if (problem.gate.first) {
                        P y = 0;
#pragma unroll
                        for (int j = 0; j < STATES; ++j) y = fma(states[j], step.readout[j], y);
                        y = fma(lane.skip, step.x, lane.over_states(y));
                        const P open = sigmoid(step.gate), silu = step.gate * open;
                        if (lane.exists && lane.part == 0)
                            gradients.gate[offset + t * problem.D] = narrow<E>(grad * y * (open + silu * (1 - open)));
                        grad *= silu;
                    }
                    P by_drive[STATES], by_readout[STATES], by_rate = 0, by_driven = 0;
#pragma unroll
                    for (int j = 0; j < STATES; ++j) {
                        const P before = history[t - start][j][threadIdx.x];
                        const P decayed = lane.decayed(scaled, j);
                        const P total = fma(grad, step.readout[j], passed[j]);
                        by_readout[j] = grad * states[j];
                        by_drive[j] = total * delta * step.x;
                        by_driven = fma(total, step.drive[j], by_driven);
                        passed[j] = total * decayed;
                        const P by_exponent = passed[j] * before;  // of Δ·A
                        by_rate = fma(by_exponent, lane.decay[j], by_rate);
                        decay_part[j] = fma(by_exponent, delta, decay_part[j]);
                        states[j] = before;
                    }
                    by_rate = lane.over_states(by_rate);
                    by_driven = lane.over_states(by_driven);
                    if (lane.exists && lane.part == 0) {
                        const P by_delta = fma(step.x, by_driven, by_rate);
                        gradients.inputs[offset + t * problem.D] = narrow<E>(fma(delta, by_driven, grad * lane.skip));
                        gradients.deltas[offset + t * problem.D] =
                            narrow<E>(by_delta * lane.delta_by_given(step.delta));
                        skip_sum += grad * step.x;
                    }
                    lane.over_channels(by_drive);
                    lane.over_channels(by_readout);
#pragma unroll
                    for (int j = 0; j < STATES; ++j) {
                        const int n = lane.n(first_owned + j);
                        if (!owns || j >= owned || n >= N) continue;
                        P &drive = drive_slab[t * N + n], &readout = readout_slab[t * N + n];
                        drive = group == slab ? by_drive[j] : drive + by_drive[j];
                        readout = group == slab ? by_readout[j] : readout + by_readout[j];
                    }
                });
#pragma unroll
            for (int j = 0; j < STATES; ++j) decay_sum[j] += decay_part[j];
        }
        lane.store(gradients.initial + lane.channel() * N, passed);
#pragma unroll
        for (int j = 0; j < STATES; ++j)
            if (lane.exists && lane.n(j) < N) gradients.decay[lane.channel() * N + lane.n(j)] = decay_sum[j];
        if (gradients.skip && lane.exists && lane.part == 0) gradients.skip[lane.channel()] = skip_sum;
    }
}

}  // namespace

#define SEQUENCE(E, NAME) const E *__restrict__ NAME, int64 NAME##_b, int64 NAME##_t
#define PROBLEM(E)                                                                                                     \
    SEQUENCE(E, inputs), SEQUENCE(E, deltas), SEQUENCE(E, drive), SEQUENCE(E, readout), SEQUENCE(E, gate),             \
        const E *__restrict__ decay, const E *__restrict__ skip, const E *__restrict__ initial, int64 B, int64 T,      \
        int64 D, int64 N, int64 lanes, int64 softplus
#define AS_PROBLEM                                                                                                     \
    {                                                                                                                  \
        {inputs, inputs_b, inputs_t}, {deltas, deltas_b, deltas_t}, {drive, drive_b, drive_t},                         \
            {readout, readout_b, readout_t}, {gate, gate_b, gate_t}, decay, skip, initial, B, T, D, N, lanes, softplus \
    }

#define SELECTIVE_SCAN(E)                                                                                              \
    extern "C" __global__ void __launch_bounds__(4 * WARP, FORWARD_WARPS<E> / 4)                                                          \
        selective_scan_forward_##E(PROBLEM(E), E* __restrict__ outputs, E* __restrict__ final_state) {                 \
        const Problem<E> problem AS_PROBLEM;                                                                           \
        forward<E>(problem, outputs, final_state);                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARP, BACKWARD_WARPS<E>) selective_scan_backward_##E(                                \
        PROBLEM(E), SEQUENCE(E, grads), const E* __restrict__ grad_final, E* __restrict__ grad_inputs,                 \
        E* __restrict__ grad_deltas, E* __restrict__ grad_gate, E* __restrict__ grad_initial,                          \
        Precise<E>* __restrict__ grad_decay, Precise<E>* __restrict__ grad_drive,                                      \
        Precise<E>* __restrict__ grad_readout, double* __restrict__ grad_skip, Precise<E>* __restrict__ kept,          \
        int64 slabs) {                                                                                                 \
        const Problem<E> problem AS_PROBLEM;                                                                           \
        backward<E>(problem, {grads, grads_b, grads_t}, grad_final,                                                    \
                    {grad_inputs, grad_deltas, grad_gate, grad_initial, grad_decay, grad_drive, grad_readout,          \
                     grad_skip},                                                                                       \
                    kept, slabs);                                                                                      \
    }

#ifdef ELEMENT  // only this type, in a fraction of the time
#define ONLY(E) SELECTIVE_SCAN(E)
ONLY(ELEMENT)
#else
SELECTIVE_SCAN(float32)
SELECTIVE_SCAN(float64)
SELECTIVE_SCAN(bfloat16)
SELECTIVE_SCAN(float16)
#endif
