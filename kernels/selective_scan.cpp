// Mamba's selective scan and its gradients on the CPU, for float and double.
//
//     a[t] = exp(Δ[t]·A)      S[t] = a[t]·S[t-1] + Δ[t]·x[t]·B[t]      y[t] = (C[t]·S[t] + skip·x[t])·silu(z[t])
//
// Shapes: B batch, T time, D channels, N states per channel. Channels and states are adjacent in memory; batch and time
// strides of the sequences are arbitrary. Outputs are contiguous. B, T and D are at least 1. The caller gives a
// workspace, of as many doubles as the pass says for the shape and the same number of threads.
//
// The scan is bound by arithmetic, the exponentials first. A block of channels runs through time with its states in the
// first-level cache, states by channels, so that vectors are of channels: B[t] and C[t] are then the same for a whole
// vector, and the sum over states adds vectors. The backward pass is given nothing but the arguments: it runs the
// recurrence once to keep the state before every chunk of time, then takes the chunks from the last to the first, and
// computes the states of each again.
//
// Bits depend neither on the number of threads nor on who does what: pieces of work that share a sum are cut by the
// shape alone, and their sums are added in one order.

#include <cstdint>
#include <cstring>

#include "vector_math.h"
#include "workspace.h"

namespace {

using math::fma;

// Channels of one vector loop. Where fewer are left, the others are computed with zeros.
constexpr int64_t LANES = 16;
// Channels of a block at most: several vectors share what is done per state, a few blocks fit into the caches.
constexpr int64_t WIDTH = 64;
// Into how many parts the sums over the batch are cut, and how many pieces of work the backward pass has at least.
constexpr int64_t PARTS = 64, PIECES = 16;
// With fewer states to compute per thread, waking another one costs more than it saves.
constexpr int64_t STATES_PER_THREAD = 65536;

constexpr double LOG2_E = 1.4426950408889634, LN_2 = 0.6931471805599453;

// Sequences (B, T, …) with adjacent elements.
template <class R>
struct Rows {
    const R* data;
    int64_t batch, time;
    const R* at(int64_t b, int64_t t) const { return data + b * batch + t * time; }
};

struct Sizes {
    int64_t B, T, D, N;
};

// The arguments of the forward pass; skip and gate.data may be null.
template <class R>
struct Scan {
    Rows<R> inputs, deltas;
    const R* decay;
    Rows<R> drive, readout;
    const R* skip;
    Rows<R> gate;
    const R* initial;
    bool softplus;
    Sizes size;
};

int useful(const Sizes& size, int threads) {
    const int64_t enough = least(size.B * size.T * size.D * size.N / STATES_PER_THREAD, threads);
    return enough < 1 ? 1 : static_cast<int>(enough);
}

// `count` elements, and zeros up to a whole number of vectors.
template <class R>
inline void load(const R* from, R* __restrict to, int64_t count) {
    if (count > 0) std::memcpy(to, from, count * sizeof(R));
    for (int64_t i = count; i % LANES; ++i) to[i] = 0;
}

// Channels × states of the caller to and from states × channels.
template <class R>
void load_states(const R* from, R* to, int64_t count, int64_t width, int64_t N, R factor) {
    for (int64_t n = 0; n < N; ++n)
        for (int64_t i = 0; i < width; ++i) to[n * width + i] = i < count ? from[i * N + n] * factor : 0;
}
template <class R>
void store_states(const R* from, R* to, int64_t count, int64_t width, int64_t N) {
    for (int64_t i = 0; i < count; ++i)
        for (int64_t n = 0; n < N; ++n) to[i * N + n] = from[n * width + i];
}

// `count` channels from `first` on: what stays the same over time, and what one step needs.
template <class R>
struct Block {
    const Scan<R>& scan;
    const int64_t first, count, width;
    alignas(64) R skip[WIDTH], x[WIDTH], raw[WIDTH], delta[WIDTH], driven[WIDTH], y[WIDTH];
    R* decay;  // A·log2(e), (N, width)
    R* state;  // (N, width)

    Block(const Scan<R>& scan_, int64_t first_, int64_t count_, Memory& memory)
        : scan(scan_), first(first_), count(count_), width(up(count_, LANES)) {
        const int64_t N = scan.size.N;
        decay = memory.take<R>(N * width);
        state = memory.take<R>(N * width);
        load_states(scan.decay + first * N, decay, count, width, N, static_cast<R>(LOG2_E));
        load(scan.skip ? scan.skip + first : nullptr, skip, scan.skip ? count : 0);
        if (!scan.skip)
            for (int64_t i = 0; i < width; ++i) skip[i] = 0;
    }
    static int64_t memory(int64_t width, int64_t N) { return 2 * room<R>(N * width); }

    void begin(int64_t b) {
        const int64_t N = scan.size.N;
        load_states(scan.initial + (b * scan.size.D + first) * N, state, count, width, N, static_cast<R>(1));
    }

    void read(int64_t b, int64_t t) {
        load(scan.inputs.at(b, t) + first, x, count);
        load(scan.deltas.at(b, t) + first, raw, count);
        if (scan.softplus) {
            for (int64_t i = 0; i < width; ++i) delta[i] = math::softplus(raw[i]);
            for (int64_t i = count; i < width; ++i) delta[i] = 0;  // softplus(0) is not
        } else {
            load(raw, delta, width);
        }
        for (int64_t i = 0; i < width; ++i) driven[i] = delta[i] * x[i];
    }

    // One step of all states. With Read, y becomes C·S; with Keep, states and decays are copied to `states`, `decays`.
    template <bool Read, bool Keep>
    void step(int64_t b, int64_t t, R* states = nullptr, R* decays = nullptr) {
        const R *drive = scan.drive.at(b, t), *readout = scan.readout.at(b, t);
        if (Read)
            for (int64_t i = 0; i < width; ++i) y[i] = 0;
        for (int64_t n = 0; n < scan.size.N; ++n)
            for (int64_t v = 0; v < width; v += LANES)
                update<Read, Keep>(drive[n], readout[n], decay + n * width + v, delta + v, driven + v,
                                   state + n * width + v, y + v, states + n * width + v, decays + n * width + v);
    }

    template <bool Read, bool Keep>
    static inline void update(R drive, R readout, const R* __restrict decay, const R* __restrict delta,
                              const R* __restrict driven, R* __restrict state, R* __restrict y, R* __restrict states,
                              R* __restrict decays) {
        for (int64_t i = 0; i < LANES; ++i) {
            const R a = math::exp2(delta[i] * decay[i]);
            const R s = fma(a, state[i], driven[i] * drive);
            state[i] = s;
            if (Read) y[i] = fma(s, readout, y[i]);
            if (Keep) states[i] = s, decays[i] = a;
        }
    }
};

// How the forward pass is cut: blocks of `width` channels.
template <class R>
struct ForwardCut {
    int threads;
    int64_t width, per_row, each;  // the last: doubles of a thread's memory

    ForwardCut(const Sizes& size, int threads_)
        : threads(useful(size, threads_)), width(least(WIDTH, up(size.D, LANES))) {
        while (width > LANES && size.B * ((size.D + width - 1) / width) < 2 * threads) width = up(width / 2, LANES);
        per_row = (size.D + width - 1) / width;
        each = Block<R>::memory(width, size.N);
    }
    int64_t workspace() const { return threads * each; }
};

template <class R>
void forward(const Scan<R>& scan, R* outputs, R* final, double* workspace, int threads, Parallel parallel) {
    const int64_t B = scan.size.B, T = scan.size.T, D = scan.size.D, N = scan.size.N;
    const ForwardCut<R> cut(scan.size, threads);
    for_each_with(workspace, cut.each, B * cut.per_row, cut.threads, parallel, [&](int64_t item, Memory memory) {
        const int64_t b = item / cut.per_row, first = item % cut.per_row * cut.width;
        const int64_t count = least(cut.width, D - first);
        Block<R> block(scan, first, count, memory);
        block.begin(b);
        for (int64_t t = 0; t < T; ++t) {
            block.read(b, t);
            block.template step<true, false>(b, t);
            R* out = outputs + (b * T + t) * D + first;
            const R* gate = scan.gate.data ? scan.gate.at(b, t) + first : nullptr;
            for (int64_t i = 0; i < count; ++i) block.y[i] = fma(block.skip[i], block.x[i], block.y[i]);
            if (gate)
                for (int64_t i = 0; i < count; ++i) out[i] = block.y[i] * (gate[i] * math::sigmoid(gate[i]));
            else
                for (int64_t i = 0; i < count; ++i) out[i] = block.y[i];
        }
        store_states(block.state, final + (b * D + first) * N, count, block.width, N);
    });
}

// Sum of a vector, always in this order.
template <class R>
inline R sum(const R* __restrict x) {
    R half[8], quarter[4];
    for (int64_t i = 0; i < 8; ++i) half[i] = x[i] + x[i + 8];
    for (int64_t i = 0; i < 4; ++i) quarter[i] = half[i] + half[i + 4];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

// total += part, part = 0.
template <class R>
inline void flush(R* __restrict part, double* __restrict total, int64_t count) {
    for (int64_t i = 0; i < count; ++i) total[i] += part[i], part[i] = 0;
}

// Of the arguments, in their shapes; skip and gate are null where their arguments are.
template <class R>
struct Gradients {
    R *inputs, *deltas, *decay, *drive, *readout, *skip, *gate, *initial;
};

// Steps of a chunk: it keeps two arrays per step, and there is one checkpoint per chunk.
int64_t chunk_steps(int64_t T) {
    int64_t steps = 1;
    while (2 * steps * steps < T) ++steps;
    return steps;
}

// The backward pass of a block of channels, for one batch row after the other.
template <class R>
struct Backward {
    Block<R> block;
    const Scan<R>& scan;
    const Gradients<R>& out;
    const int64_t states, chunk;  // N * width; steps
    // What a chunk keeps of the states after each of its steps, of the decays, and of y + skip·x.
    R *checkpoints, *kept_states, *kept_decays, *kept_y;
    R *grad_state, *grad_decay;  // with respect to the states; Δ·(gradient of Δ·A), summed over a chunk
    double* decay_total;
    alignas(64) R grad_skip[WIDTH];
    alignas(64) double skip_total[WIDTH];

    Backward(const Scan<R>& scan_, const Gradients<R>& out_, int64_t first, int64_t count, Memory& memory)
        : block(scan_, first, count, memory),
          scan(scan_),
          out(out_),
          states(scan.size.N * block.width),
          chunk(chunk_steps(scan.size.T)) {
        checkpoints = memory.take<R>(states * ((scan.size.T + chunk - 1) / chunk));
        kept_states = memory.take<R>(states * chunk);
        kept_decays = memory.take<R>(states * chunk);
        kept_y = memory.take<R>(block.width * chunk);
        grad_state = memory.take<R>(states);
        grad_decay = memory.take<R>(states);
        decay_total = memory.take<double>(states);
        for (int64_t i = 0; i < states; ++i) grad_decay[i] = 0, decay_total[i] = 0;
        for (int64_t i = 0; i < WIDTH; ++i) grad_skip[i] = 0, skip_total[i] = 0;
    }
    static int64_t memory(const Sizes& size, int64_t width) {
        const int64_t states = size.N * width, chunk = chunk_steps(size.T), chunks = (size.T + chunk - 1) / chunk;
        return Block<R>::memory(width, size.N) + room<R>(states * chunks) + 2 * room<R>(states * chunk) +
               room<R>(width * chunk) + 2 * room<R>(states) + room<double>(states);
    }

    // Gradients of drive and readout go to (T, N) each, added to what is there with `add`.
    void row(int64_t b, const Rows<R>& grad_outputs, const R* grad_final, R* grad_drive, R* grad_readout, bool add) {
        const int64_t T = scan.size.T, D = scan.size.D, N = scan.size.N;
        const int64_t at = (b * D + block.first) * N;
        const int64_t chunks = (T + chunk - 1) / chunk;
        block.begin(b);
        for (int64_t c = 0; c < chunks; ++c) {
            std::memcpy(checkpoints + c * states, block.state, states * sizeof(R));
            if (c == chunks - 1) break;  // the last chunk comes first
            for (int64_t t = c * chunk; t < (c + 1) * chunk; ++t) {
                block.read(b, t);
                block.template step<false, false>(b, t);
            }
        }
        load_states(grad_final + at, grad_state, block.count, block.width, N, static_cast<R>(1));
        for (int64_t c = chunks - 1; c >= 0; --c) {
            const R* before = checkpoints + c * states;
            const int64_t start = c * chunk, steps = least(chunk, T - start);
            std::memcpy(block.state, before, states * sizeof(R));
            for (int64_t k = 0; k < steps; ++k) {
                block.read(b, start + k);
                block.template step<true, true>(b, start + k, kept_states + k * states, kept_decays + k * states);
                for (int64_t i = 0; i < block.width; ++i)
                    kept_y[k * block.width + i] = fma(block.skip[i], block.x[i], block.y[i]);
            }
            for (int64_t k = steps - 1; k >= 0; --k) {
                const int64_t t = start + k;
                back(b, t, k, grad_outputs.at(b, t), k ? kept_states + (k - 1) * states : before, grad_drive + t * N,
                     grad_readout + t * N, add);
            }
            flush(grad_decay, decay_total, states);
            flush(grad_skip, skip_total, WIDTH);
        }
        store_states(grad_state, out.initial + at, block.count, block.width, N);
    }

    void back(int64_t b, int64_t t, int64_t k, const R* grad_output, const R* before, R* grad_drive, R* grad_readout,
              bool add) {
        const int64_t count = block.count, width = block.width, N = scan.size.N;
        const int64_t at = (b * scan.size.T + t) * scan.size.D + block.first;
        const R *drive = scan.drive.at(b, t), *readout = scan.readout.at(b, t);
        alignas(64) R grad_y[WIDTH], grad_driven[WIDTH] = {}, grad_delta[WIDTH] = {};  // of y + skip·x, Δ·x, Δ·log2(e)
        block.read(b, t);
        load(grad_output + block.first, grad_y, count);
        if (scan.gate.data) {
            const R* gate = scan.gate.at(b, t) + block.first;
            R* __restrict to = out.gate + at;
            for (int64_t i = 0; i < count; ++i) {
                const R open = math::sigmoid(gate[i]), silu = gate[i] * open;
                to[i] = grad_y[i] * kept_y[k * width + i] * (open + silu * (1 - open));
                grad_y[i] *= silu;
            }
        }
        for (int64_t n = 0; n < N; ++n) {
            alignas(64) R driven[LANES] = {}, read[LANES] = {};
            const int64_t row = n * width;
            for (int64_t v = 0; v < width; v += LANES)
                update(drive[n], readout[n], block.decay + row + v, block.delta + v, block.driven + v, grad_y + v,
                       before + row + v, kept_states + k * states + row + v, kept_decays + k * states + row + v,
                       grad_state + row + v, grad_decay + row + v, grad_driven + v, grad_delta + v, driven, read);
            grad_drive[n] = add ? grad_drive[n] + sum(driven) : sum(driven);
            grad_readout[n] = add ? grad_readout[n] + sum(read) : sum(read);
        }
        for (int64_t i = 0; i < width; ++i) {
            grad_skip[i] = fma(grad_y[i], block.x[i], grad_skip[i]);
            grad_delta[i] = fma(grad_driven[i], block.x[i], static_cast<R>(LN_2) * grad_delta[i]);
            grad_driven[i] = fma(grad_driven[i], block.delta[i], grad_y[i] * block.skip[i]);
        }
        if (scan.softplus)
            for (int64_t i = 0; i < width; ++i) grad_delta[i] *= math::sigmoid(block.raw[i]);
        std::memcpy(out.inputs + at, grad_driven, count * sizeof(R));
        std::memcpy(out.deltas + at, grad_delta, count * sizeof(R));
    }

    static inline void update(R drive, R readout, const R* __restrict decay, const R* __restrict delta,
                              const R* __restrict driven, const R* __restrict grad_y, const R* __restrict before,
                              const R* __restrict after, const R* __restrict a, R* __restrict grad_state,
                              R* __restrict grad_decay, R* __restrict grad_driven, R* __restrict grad_delta,
                              R* __restrict sum_driven, R* __restrict sum_read) {
        for (int64_t i = 0; i < LANES; ++i) {
            const R g = fma(grad_y[i], readout, grad_state[i]);
            sum_read[i] = fma(grad_y[i], after[i], sum_read[i]);
            sum_driven[i] = fma(g, driven[i], sum_driven[i]);
            grad_driven[i] = fma(g, drive, grad_driven[i]);
            const R earlier = g * a[i], exponent = earlier * before[i];
            grad_state[i] = earlier;
            grad_delta[i] = fma(exponent, decay[i], grad_delta[i]);
            grad_decay[i] = fma(exponent, delta[i], grad_decay[i]);
        }
    }

    // The sums over time and batch rows, to (D, N) and (D,).
    void finish(double* decay, double* skip) const {
        const int64_t N = scan.size.N;
        store_states(decay_total, decay + block.first * N, block.count, block.width, N);
        for (int64_t i = 0; i < block.count; ++i) skip[block.first + i] = skip_total[i];
    }
};

// How the backward pass is cut, by the shape alone but for the threads: a piece of work is a part of the batch rows and
// of the channels. As many parts of the channels as are needed to have some pieces, since all but one of them need
// memory for their sums over channels.
template <class R>
struct BackwardCut {
    Sizes size;
    int threads;
    int64_t rows, parts, span, per_part;  // batch rows of a part, parts; channels of a piece, pieces of a part
    int64_t sums;                         // elements of a gradient of drive or readout
    int64_t each;                         // doubles of a thread's memory

    BackwardCut(const Sizes& size_, int threads_) : size(size_), threads(useful(size, threads_)) {
        rows = up(size.B, PARTS) / PARTS, parts = up(size.B, rows) / rows;
        span = up((size.D * least(parts, PIECES) + PIECES - 1) / PIECES, LANES);
        per_part = up(size.D, span) / span;
        sums = size.B * size.T * size.N;
        each = Backward<R>::memory(size, least(WIDTH, span));
    }
    int64_t totals() const { return size.D * (size.N + 1); }      // of a part, over time and its batch rows
    int64_t others() const { return (per_part - 1) * 2 * sums; }  // of all pieces but a part's first
    int64_t workspace() const { return room<double>(parts * totals()) + room<R>(others()) + threads * each; }
};

template <class R>
inline void add(const R* __restrict from, R* __restrict to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

// The first of `count` rows becomes their sum, added up in their order. `step` is their distance.
template <class R>
void add_up(R* rows, int64_t count, int64_t step, int64_t width, int threads, Parallel parallel) {
    constexpr int64_t span = 4096;
    const int64_t useful = least(threads, count * width / STATES_PER_THREAD);
    for_each((width + span - 1) / span, static_cast<int>(useful), parallel, [&](int64_t item) {
        R* sum = rows + item * span;
        for (int64_t row = 1; row < count; ++row) add(sum + row * step, sum, least(span, width - item * span));
    });
}

template <class R>
void backward(const Scan<R>& scan, const Rows<R>& grad_outputs, const R* grad_final, const Gradients<R>& out,
              double* workspace, int threads, Parallel parallel) {
    const int64_t B = scan.size.B, T = scan.size.T, D = scan.size.D, N = scan.size.N;
    const BackwardCut<R> cut(scan.size, threads);
    const int64_t sums = cut.sums;
    Memory shared{workspace};
    double* totals = shared.take<double>(cut.parts * cut.totals());
    R* others = shared.take<R>(cut.others());
    const int64_t pieces = cut.parts * cut.per_part;
    for_each_with(shared.next, cut.each, pieces, cut.threads, parallel, [&](int64_t item, Memory memory) {
        const int64_t part = item / cut.per_part, piece = item % cut.per_part;
        R* grad_drive = piece ? others + (2 * piece - 2) * sums : out.drive;
        R* grad_readout = piece ? others + (2 * piece - 1) * sums : out.readout;
        double* total = totals + part * cut.totals();
        const int64_t begin = piece * cut.span, end = least(D, begin + cut.span);
        for (int64_t first = begin; first < end; first += WIDTH) {
            Memory of_block = memory;
            Backward<R> block(scan, out, first, least(WIDTH, end - first), of_block);
            for (int64_t b = part * cut.rows; b < least(B, (part + 1) * cut.rows); ++b)
                block.row(b, grad_outputs, grad_final, grad_drive + b * T * N, grad_readout + b * T * N, first > begin);
            block.finish(total, total + D * N);
        }
    });
    if (cut.per_part > 1) {
        add_up(others, cut.per_part - 1, 2 * sums, 2 * sums, cut.threads, parallel);
        add(others, out.drive, sums);
        add(others + sums, out.readout, sums);
    }
    add_up(totals, cut.parts, cut.totals(), cut.totals(), cut.threads, parallel);
    for (int64_t i = 0; i < D * N; ++i) out.decay[i] = static_cast<R>(totals[i]);
    if (out.skip)
        for (int64_t i = 0; i < D; ++i) out.skip[i] = static_cast<R>(totals[D * N + i]);
}

}  // namespace

#define ROWS(R, NAME) const R *NAME, int64_t NAME##_b, int64_t NAME##_t
#define ARGUMENTS(R)                                                                                                  \
    ROWS(R, inputs), ROWS(R, deltas), const R *decay, ROWS(R, drive), ROWS(R, readout), const R *skip, ROWS(R, gate), \
        const R *initial, int softplus, int64_t B, int64_t T, int64_t D, int64_t N
#define SCAN(R)                                                                                       \
    Scan<R> {                                                                                         \
        {inputs, inputs_b, inputs_t}, {deltas, deltas_b, deltas_t}, decay, {drive, drive_b, drive_t}, \
            {readout, readout_b, readout_t}, skip, {gate, gate_b, gate_t}, initial, softplus != 0, {  \
            B, T, D, N                                                                                \
        }                                                                                             \
    }
#define SELECTIVE_SCAN(NAME, R)                                                                                       \
    extern "C" int64_t selective_scan_forward_workspace_##NAME(int64_t B, int64_t T, int64_t D, int64_t N,            \
                                                               int threads) {                                         \
        return ForwardCut<R>({B, T, D, N}, threads).workspace();                                                      \
    }                                                                                                                 \
    extern "C" int64_t selective_scan_backward_workspace_##NAME(int64_t B, int64_t T, int64_t D, int64_t N,           \
                                                                int threads) {                                        \
        return BackwardCut<R>({B, T, D, N}, threads).workspace();                                                     \
    }                                                                                                                 \
    extern "C" void selective_scan_forward_##NAME(ARGUMENTS(R), R* outputs, R* final, double* workspace, int threads, \
                                                  Parallel parallel) {                                                \
        forward<R>(SCAN(R), outputs, final, workspace, threads, parallel);                                            \
    }                                                                                                                 \
    extern "C" void selective_scan_backward_##NAME(ARGUMENTS(R), ROWS(R, grad_outputs), const R* grad_final,          \
                                                   R* grad_inputs, R* grad_deltas, R* grad_decay, R* grad_drive,      \
                                                   R* grad_readout, R* grad_skip, R* grad_gate, R* grad_initial,      \
                                                   double* workspace, int threads, Parallel parallel) {               \
        backward<R>(                                                                                                  \
            SCAN(R), {grad_outputs, grad_outputs_b, grad_outputs_t}, grad_final,                                      \
            {grad_inputs, grad_deltas, grad_decay, grad_drive, grad_readout, grad_skip, grad_gate, grad_initial},     \
            workspace, threads, parallel);                                                                            \
    }

SELECTIVE_SCAN(float32, float)
SELECTIVE_SCAN(float64, double)
