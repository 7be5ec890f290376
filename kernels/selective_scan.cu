// Mamba's selective scan on the GPU, and its gradients, without ever holding the states of all steps.
//
//     S[t] = exp(Δ[t]·A) ⊙ S[t-1] + (Δ[t]·x[t])·B[t]ᵀ        y[t] = (S[t]·C[t] + skip ⊙ x[t]) ⊙ silu(z[t])
//
// Shapes: B batch, T time, D channels, N states per channel, up to 256. Channels, and the states of B[t] and C[t], are
// adjacent in memory; batch and time strides are arbitrary and count elements. Rows of B and C have 8 · lanes states, zero
// from N on, and begin at multiples of 16 bytes. Outputs are contiguous. Half precision is computed in float.
//
// A thread holds eight states of one channel in registers: state n = 8 · part + j, where `lanes` neighbouring threads
// share the channel and `part` is the thread's place among them. A warp has 32 / lanes channels of one row, a group, and
// one chunk of time. Sums over states, and over the channels of a warp, are exchanged within the warp; nothing waits for
// another warp.
//
// With one chunk that is the whole scan. With more, where there are too few channels to keep the GPU busy, every chunk but
// the last is first run from zero (`reduce`); what a chunk does to the state that enters it is S → exp(A·ΣΔ)·S + local, so
// the states that enter follow from one number per channel and the local states (`carry`); then every chunk is run again.
// The gradients of the states do the same from the last chunk to the first.
//
// The backward pass runs a chunk forward first and keeps the states at every KEPT-th step, then goes back over these
// stretches from the last to the first: the states within a stretch are computed once more, into shared memory. A warp
// takes one group of channels after the other, so that what it keeps is as much as for one group, and so that it can add
// up, in a fixed order, what the groups contribute to the gradients of B and C.

#include "scan.cuh"

namespace {

constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;
constexpr int STATES = 8;
constexpr int GROUP = STATES * WARP;  // states of a warp
// Steps between two kept states: their states take 16 KiB of shared memory.
template <class E>
constexpr int KEPT = 64 / sizeof(Precise<E>);
// Warps that must fit on a multiprocessor.
template <class E>
constexpr int FORWARD_WARPS = sizeof(Precise<E>) == 8 ? 12 : 16;
template <class E>
constexpr int BACKWARD_WARPS = sizeof(Precise<E>) == 8 ? 8 : 12;
// Steps whose operands are asked for at a time.
template <class E>
constexpr int AHEAD = 8 / sizeof(Precise<E>);

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
    int64 B, T, D, N, lanes, softplus, chunks, chunk;
    DEVICE int64 groups() const {
        const int64 channels = WARP / lanes;
        return (D + channels - 1) / channels;
    }
};

// A group of channels in one chunk of one row.
struct Place {
    int64 b, chunk, group;
};
// Place number `index`, with groups that change fastest.
template <class E>
DEVICE Place place(const Problem<E>& problem, int64 index) {
    const int64 groups = problem.groups();
    return {index / groups / problem.chunks, index / groups % problem.chunks, index % groups};
}

// Eight adjacent states of B or C, loaded 16 bytes at a time.
template <class E>
struct alignas(16) Eight {
    E at[STATES];
};

// What a step is made of, for one thread.
template <class E>
struct Step {
    Precise<E> x, delta;
    Eight<E> drive;
};
template <class E>
struct ReadStep : Step<E> {
    Precise<E> gate;
    Eight<E> readout;
};
template <class E>
struct GradStep : ReadStep<E> {
    Precise<E> grad;
};
// What the gradient of a state is made of.
template <class E>
struct BackStep {
    Precise<E> delta, gate, grad;
    Eight<E> readout;
};

// A thread of the warp that has one group of channels of row b.
template <class E>
struct Lane {
    using P = Precise<E>;
    using F = Function<E>;
    const Problem<E>& problem;
    int64 b, d, start, end;
    int lane, part, lanes, N;
    bool exists;  // the channel does; what is read in its place is another one's
    P skip;
    P decay[STATES];  // A

    DEVICE Lane(const Problem<E>& problem_, const Place& at) : problem(problem_), b(at.b) {
        lane = threadIdx.x % WARP;
        lanes = static_cast<int>(problem.lanes);
        N = static_cast<int>(problem.N);
        part = lane % lanes;
        d = at.group * (WARP / lanes) + lane / lanes;
        exists = d < problem.D;
        if (!exists) d = problem.D - 1;
        start = at.chunk * problem.chunk;
        end = start + problem.chunk < problem.T ? start + problem.chunk : problem.T;
        skip = problem.skip ? widen(problem.skip[d]) : 0;
        load(problem.decay + d * N, decay);
    }

    DEVICE int n(int j) const { return part * STATES + j; }
    DEVICE int64 channel() const { return b * problem.D + d; }
    // The row of channel d in an array (B, chunks, D, …).
    DEVICE int64 chunk_channel(int64 chunk) const { return (b * problem.chunks + chunk) * problem.D + d; }

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
    // All states of a warp, as they lie between two kernels.
    DEVICE void load_group(const P* group, P (&out)[STATES]) const {
#pragma unroll
        for (int j = 0; j < STATES; ++j) out[j] = group[j * WARP + lane];
    }
    DEVICE void store_group(P* group, const P (&states)[STATES]) const {
#pragma unroll
        for (int j = 0; j < STATES; ++j) group[j * WARP + lane] = states[j];
    }

    DEVICE P x(int64 t) const { return widen(problem.inputs.at(b, t)[d]); }
    DEVICE P given_delta(int64 t) const { return widen(problem.deltas.at(b, t)[d]); }
    DEVICE P gate(int64 t) const { return problem.gate.first ? widen(problem.gate.at(b, t)[d]) : 0; }
    DEVICE Eight<E> eight(const Sequence<E>& sequence, int64 t) const {
        return *reinterpret_cast<const Eight<E>*>(sequence.at(b, t) + part * STATES);
    }
    DEVICE Step<E> step(int64 t) const { return {x(t), given_delta(t), eight(problem.drive, t)}; }
    DEVICE ReadStep<E> read_step(int64 t) const { return {step(t), gate(t), eight(problem.readout, t)}; }

    // Δ from what it is given as.
    DEVICE P delta(P given) const { return problem.softplus ? F::softplus(given) : given; }
    DEVICE P delta_by_given(P given) const { return problem.softplus && given <= 20 ? F::sigmoid(given) : 1; }

    // exp(Δ·A) of state j, given Δ·log₂e.
    DEVICE P decayed(P delta_log2e, int j) const { return decay_exp2(delta_log2e * decay[j]); }

    // One step of the states; returns Δ.
    DEVICE P advance(const Step<E>& step, P (&states)[STATES]) const {
        const P delta_ = delta(step.delta), scaled = delta_ * static_cast<P>(LOG2_E), driven = delta_ * step.x;
#pragma unroll
        for (int j = 0; j < STATES; ++j) states[j] = fma(decayed(scaled, j), states[j], driven * widen(step.drive.at[j]));
        return delta_;
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

// What a chunk makes of states that are zero, `locals`, and the sum of its Δ per thread, `sums`; in the order of places.
template <class E>
DEVICE void forward_reduce(const Problem<E>& problem, Precise<E>* locals, Precise<E>* sums) {
    using P = Precise<E>;
    const int64 warp = (static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    if (warp >= problem.B * problem.chunks * problem.groups()) return;
    const Lane<E> lane(problem, place(problem, warp));
    P states[STATES] = {}, sum = 0;
    walk<AHEAD<E>, false>(
        lane.start, lane.end, [&](int64 t) { return lane.step(t); },
        [&](int64, const Step<E>& step) { sum += lane.advance(step, states); });
    lane.store_group(locals + warp * GROUP, states);
    sums[warp * WARP + lane.lane] = sum;
}

// The same for the gradients of the states, which enter a chunk from the later one.
template <class E>
DEVICE void backward_reduce(const Problem<E>& problem, const Sequence<E>& grad_outputs, Precise<E>* locals) {
    using P = Precise<E>;
    const int64 warp = (static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    if (warp >= problem.B * problem.chunks * problem.groups()) return;
    const Lane<E> lane(problem, place(problem, warp));
    P passed[STATES] = {};
    walk<AHEAD<E>, true>(
        lane.start, lane.end,
        [&](int64 t) {
            return BackStep<E>{lane.given_delta(t), lane.gate(t), widen(grad_outputs.at(lane.b, t)[lane.d]),
                               lane.eight(problem.readout, t)};
        },
        [&](int64, const BackStep<E>& step) {
            const P scaled = lane.delta(step.delta) * static_cast<P>(LOG2_E);
            P grad = lane.exists ? step.grad : 0;
            if (problem.gate.first) grad *= step.gate * Function<E>::sigmoid(step.gate);
#pragma unroll
            for (int j = 0; j < STATES; ++j)
                passed[j] = fma(grad, widen(step.readout.at[j]), passed[j]) * lane.decayed(scaled, j);
        });
    lane.store_group(locals + warp * GROUP, passed);
}

// From `locals` to what enters the chunks, which overwrites them; a thread has one state of one channel. `outermost`
// (B, D, N) enters the first chunk in the order of the walk.
template <class E, bool Backwards>
DEVICE void carry(const Problem<E>& problem, const Precise<E>* __restrict__ sums, Precise<E>* locals, const E* __restrict__ outermost) {
    using P = Precise<E>;
    const int64 index = static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x, groups = problem.groups();
    if (index >= problem.B * groups * GROUP) return;
    const int64 group = index / GROUP % groups, b = index / GROUP / groups;
    const int lane = static_cast<int>(index % WARP), j = static_cast<int>(index % GROUP / WARP);
    const int lanes = static_cast<int>(problem.lanes), n = lane % lanes * STATES + j;
    const int64 d = group * (WARP / lanes) + lane / lanes;
    const bool exists = d < problem.D && n < problem.N;
    P state = 0, rate = 0;
    if (exists) {
        state = widen(outermost[(b * problem.D + d) * problem.N + n]);
        rate = widen(problem.decay[d * problem.N + n]) * static_cast<P>(LOG2_E);
    }
    struct Operands {
        P sum, local;
    };
    const auto at = [&](int64 chunk) { return (b * problem.chunks + chunk) * groups + group; };
    walk<STEPS<P, 2>, Backwards>(
        0, problem.chunks,
        [&](int64 chunk) { return Operands{sums[at(chunk) * WARP + lane], locals[at(chunk) * GROUP + j * WARP + lane]}; },
        [&](int64 chunk, const Operands& now) {
            locals[at(chunk) * GROUP + j * WARP + lane] = state;
            // Where the decay grows without bounds, what it would multiply may be nothing.
            const P product = is_zero(state) ? 0 : decay_exp2(rate * now.sum);
            state = fma(product, state, now.local);
        });
}

// `entering` are the states that enter the chunks; there is only one chunk, and `initial` enters it, if there are none.
template <class E>
DEVICE void forward(const Problem<E>& problem, const Precise<E>* entering, E* outputs, E* final_state) {
    using P = Precise<E>;
    const int64 warp = (static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    if (warp >= problem.B * problem.chunks * problem.groups()) return;
    const Place at = place(problem, warp);
    const Lane<E> lane(problem, at);
    P states[STATES];
    if (entering)
        lane.load_group(entering + warp * GROUP, states);
    else
        lane.load(problem.initial + lane.channel() * problem.N, states);
    E* out = outputs + lane.b * problem.T * problem.D + lane.d;
    walk<AHEAD<E>, false>(
        lane.start, lane.end, [&](int64 t) { return lane.read_step(t); },
        [&](int64 t, const ReadStep<E>& step) {
            lane.advance(step, states);
            P y = 0;
#pragma unroll
            for (int j = 0; j < STATES; ++j) y = fma(states[j], widen(step.readout.at[j]), y);
            y = fma(lane.skip, step.x, lane.over_states(y));
            if (problem.gate.first) y *= step.gate * Function<E>::sigmoid(step.gate);
            if (lane.exists && lane.part == 0) out[t * problem.D] = narrow<E>(y);
        });
    if (at.chunk + 1 == problem.chunks) lane.store(final_state + lane.channel() * problem.N, states);
}

template <class E>
struct Gradients {
    E *inputs, *deltas, *gate, *initial;
    Precise<E>* decay;            // (B, chunks, D, N), to be summed over batch and chunks
    Precise<E> *drive, *readout;  // (slabs, B, T, N), to be summed over the slabs
    double* skip;                 // (B, chunks, D), to be summed over batch and chunks
};

// One warp a block; block `slab` of a chunk takes the groups of channels slab, slab + slabs, … . `kept` holds, per block,
// the states of all threads that enter the stretches after the first. `entering` are the states that enter the chunks,
// `leaving` the gradients that enter them from the later ones; null if there is one chunk.
template <class E>
DEVICE void backward(const Problem<E>& problem, const Sequence<E>& grad_outputs, const E* grad_final, const Precise<E>* entering,
                     const Precise<E>* leaving, const Gradients<E>& gradients, Precise<E>* kept, int64 slabs) {
    using P = Precise<E>;
    constexpr int K = KEPT<E>;
    // The states before each step of a stretch, and its Δ; a thread reads only its own.
    __shared__ P history[K][STATES][WARP];
    __shared__ P steps[K][WARP];
    const int64 T = problem.T, N = problem.N, longest = (problem.chunk + K - 1) / K;
    const int64 slab = blockIdx.x % slabs, chunk = blockIdx.x / slabs % problem.chunks, b = blockIdx.x / slabs / problem.chunks;
    P* own = kept + blockIdx.x * (longest - 1) * GROUP;
    P* drive_slab = gradients.drive + (slab * problem.B + b) * T * N;
    P* readout_slab = gradients.readout + (slab * problem.B + b) * T * N;

    for (int64 group = slab; group < problem.groups(); group += slabs) {
        const Lane<E> lane(problem, {b, chunk, group});
        const int64 number = (b * problem.chunks + chunk) * problem.groups() + group;
        const int64 stretches = (lane.end - lane.start + K - 1) / K;
        const auto end_of = [&](int64 stretch) {
            const int64 end = lane.start + (stretch + 1) * K;
            return end < lane.end ? end : lane.end;
        };
        const auto enter = [&](P(&states)[STATES]) {
            if (entering)
                lane.load_group(entering + number * GROUP, states);
            else
                lane.load(problem.initial + lane.channel() * N, states);
        };
        const auto read = [&](int64 t) { return lane.step(t); };
        P states[STATES];
        enter(states);
        for (int64 stretch = 0; stretch + 1 < stretches; ++stretch) {
            walk<AHEAD<E>, false>(lane.start + stretch * K, end_of(stretch), read,
                                  [&](int64, const Step<E>& step) { lane.advance(step, states); });
            lane.store_group(own + stretch * GROUP, states);
        }

        const int owned = lane.owned(), first_owned = lane.first_owned();
        const bool owns = lane.owns();
        const int64 offset = b * T * problem.D + lane.d;
        P passed[STATES];  // gradient of the states, from later steps
        if (leaving)
            lane.load_group(leaving + number * GROUP, passed);
        else
            lane.load(grad_final + lane.channel() * N, passed);
#pragma unroll
        for (int j = 0; j < STATES; ++j)
            if (!lane.exists) passed[j] = 0;
        P decay_sum[STATES] = {};  // per stretch first, so that rounding grows slowly
        double skip_sum = 0;
        for (int64 stretch = stretches - 1; stretch >= 0; --stretch) {
            const int64 start = lane.start + stretch * K, end = end_of(stretch);
            if (stretch == 0)
                enter(states);
            else
                lane.load_group(own + (stretch - 1) * GROUP, states);
            walk<AHEAD<E>, false>(start, end, read, [&](int64 t, const Step<E>& step) {
#pragma unroll
                for (int j = 0; j < STATES; ++j) history[t - start][j][threadIdx.x] = states[j];
                steps[t - start][threadIdx.x] = lane.advance(step, states);
            });
            P decay_part[STATES] = {};
            walk<1, true>(
                start, end,
                [&](int64 t) {
                    return GradStep<E>{lane.read_step(t), widen(grad_outputs.at(b, t)[lane.d])};
                },
                [&](int64 t, const GradStep<E>& step) {
                    const P delta = steps[t - start][threadIdx.x], scaled = delta * static_cast<P>(LOG2_E);
                    const P driven = delta * step.x;
                    P grad = lane.exists ? step.grad : 0;  // of y before the gate
                    if (problem.gate.first) {
                        P y = 0;
#pragma unroll
                        for (int j = 0; j < STATES; ++j) y = fma(states[j], widen(step.readout.at[j]), y);
                        y = fma(lane.skip, step.x, lane.over_states(y));
                        const P open = Function<E>::sigmoid(step.gate), silu = step.gate * open;
                        if (lane.exists && lane.part == 0)
                            gradients.gate[offset + t * problem.D] = narrow<E>(grad * y * (open + silu * (1 - open)));
                        grad *= silu;
                    }
                    P by_drive[STATES], by_readout[STATES], by_rate = 0, by_driven = 0;
#pragma unroll
                    for (int j = 0; j < STATES; ++j) {
                        const P before = history[t - start][j][threadIdx.x];
                        const P total = fma(grad, widen(step.readout.at[j]), passed[j]);
                        by_readout[j] = grad * states[j];
                        by_drive[j] = total * driven;
                        by_driven = fma(total, widen(step.drive.at[j]), by_driven);
                        passed[j] = total * lane.decayed(scaled, j);
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
        if (chunk == 0) lane.store(gradients.initial + lane.channel() * N, passed);
#pragma unroll
        for (int j = 0; j < STATES; ++j)
            if (lane.exists && lane.n(j) < N) gradients.decay[lane.chunk_channel(chunk) * N + lane.n(j)] = decay_sum[j];
        if (gradients.skip && lane.exists && lane.part == 0) gradients.skip[lane.chunk_channel(chunk)] = skip_sum;
    }
}

}  // namespace

#define SEQUENCE(E, NAME) const E *__restrict__ NAME, int64 NAME##_b, int64 NAME##_t
#define PROBLEM(E)                                                                                                     \
    SEQUENCE(E, inputs), SEQUENCE(E, deltas), SEQUENCE(E, drive), SEQUENCE(E, readout), SEQUENCE(E, gate),             \
        const E *__restrict__ decay, const E *__restrict__ skip, const E *__restrict__ initial, int64 B, int64 T,      \
        int64 D, int64 N, int64 lanes, int64 softplus, int64 chunks, int64 chunk
#define AS_PROBLEM                                                                                                     \
    {                                                                                                                  \
        {inputs, inputs_b, inputs_t}, {deltas, deltas_b, deltas_t}, {drive, drive_b, drive_t},                         \
            {readout, readout_b, readout_t}, {gate, gate_b, gate_t}, decay, skip, initial, B, T, D, N, lanes,          \
            softplus, chunks, chunk                                                                                    \
    }
#define FORWARD_BOUNDS(E) __launch_bounds__(4 * WARP, FORWARD_WARPS<E> / 4)

#define SELECTIVE_SCAN(E)                                                                                              \
    extern "C" __global__ void FORWARD_BOUNDS(E) selective_scan_forward_reduce_##E(                                    \
        PROBLEM(E), Precise<E>* __restrict__ locals, Precise<E>* __restrict__ sums) {                                  \
        const Problem<E> problem AS_PROBLEM;                                                                           \
        forward_reduce<E>(problem, locals, sums);                                                                      \
    }                                                                                                                  \
    extern "C" __global__ void FORWARD_BOUNDS(E) selective_scan_backward_reduce_##E(                                   \
        PROBLEM(E), SEQUENCE(E, grads), Precise<E>* __restrict__ locals) {                                             \
        const Problem<E> problem AS_PROBLEM;                                                                           \
        backward_reduce<E>(problem, {grads, grads_b, grads_t}, locals);                                                \
    }                                                                                                                  \
    extern "C" __global__ void FORWARD_BOUNDS(E) selective_scan_forward_carry_##E(                                     \
        PROBLEM(E), const Precise<E>* __restrict__ sums, Precise<E>* locals) {                                         \
        const Problem<E> problem AS_PROBLEM;                                                                           \
        carry<E, false>(problem, sums, locals, initial);                                                               \
    }                                                                                                                  \
    extern "C" __global__ void FORWARD_BOUNDS(E) selective_scan_backward_carry_##E(                                    \
        PROBLEM(E), const Precise<E>* __restrict__ sums, Precise<E>* locals, const E* __restrict__ grad_final) {       \
        const Problem<E> problem AS_PROBLEM;                                                                           \
        carry<E, true>(problem, sums, locals, grad_final);                                                             \
    }                                                                                                                  \
    extern "C" __global__ void FORWARD_BOUNDS(E) selective_scan_forward_##E(                                           \
        PROBLEM(E), const Precise<E>* __restrict__ entering, E* __restrict__ outputs, E* __restrict__ final_state) {   \
        const Problem<E> problem AS_PROBLEM;                                                                           \
        forward<E>(problem, entering, outputs, final_state);                                                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARP, BACKWARD_WARPS<E>) selective_scan_backward_##E(                 \
        PROBLEM(E), SEQUENCE(E, grads), const E* __restrict__ grad_final, const Precise<E>* __restrict__ entering,     \
        const Precise<E>* __restrict__ leaving, E* __restrict__ grad_inputs, E* __restrict__ grad_deltas,              \
        E* __restrict__ grad_gate, E* __restrict__ grad_initial, Precise<E>* __restrict__ grad_decay,                  \
        Precise<E>* __restrict__ grad_drive, Precise<E>* __restrict__ grad_readout, double* __restrict__ grad_skip,    \
        Precise<E>* __restrict__ kept, int64 slabs) {                                                                  \
        const Problem<E> problem AS_PROBLEM;                                                                           \
        backward<E>(problem, {grads, grads_b, grads_t}, grad_final, entering, leaving,                                 \
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
