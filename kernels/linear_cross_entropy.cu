// Softmax cross entropy of rows of logits on the GPU: the loss, and the gradient of the logits.
//
//     loss[r] = log Σ_v exp(z[r, v]) - z[r, t[r]]    weights[r, v] = softmax(z[r])[v] - [v = t[r]]    z = logits + bias
//
// Shapes: R rows, V items, S slices of a row; all are contiguous. Half precision is computed in float.
//
// A warp has one slice of one row, so that a few long rows keep a GPU busy, too. `statistics` finds the largest logit of
// each slice and the sum of exponentials; `gradient` combines those of a row's slices, at most 32, and goes over its slice
// again, which the cache still has. Nothing waits for another warp.
//
// The target's exponential is kept out of the sums: its weight is minus the sum of the others, without the cancellation of
// a probability near one, and exactly zero where nothing is left to learn.

#include "scan.cuh"

namespace {

constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffffu;
constexpr int WARPS = 4;  // of a block
// Logits that a thread asks for before it uses the first.
constexpr int AHEAD = 16;

DEVICE float infinity(float) { return __int_as_float(0x7f800000); }
DEVICE double infinity(double) { return __longlong_as_double(0x7ff0000000000000ll); }

// max z and Σ exp(z - max) of what a thread has seen, and then its warp.
template <class P>
struct Statistics {
    P largest, sum;
    DEVICE void add(P other_largest, P other_sum) {
        const P both = largest > other_largest ? largest : other_largest;
        // Of nothing there is no exponential: the difference of infinities is not a number.
        const P here = sum == 0 ? 0 : sum * exp(largest - both), there = other_sum == 0 ? 0 : other_sum * exp(other_largest - both);
        largest = both;
        sum = here + there;
    }
    DEVICE void over_warp() {
        for (int mask = 1; mask < WARP; mask *= 2) {
            const P other_largest = __shfl_xor_sync(ALL, largest, mask), other_sum = __shfl_xor_sync(ALL, sum, mask);
            add(other_largest, other_sum);
        }
    }
};

// A warp's slice of a row.
struct Slice {
    int64 row, slice, start, end;
    int lane;
    bool exists;
    DEVICE Slice(int64 R, int64 V, int64 slices, int64 size) {
        const int64 warp = (static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
        lane = threadIdx.x % WARP;
        exists = warp < R * slices;
        row = warp / slices;
        slice = warp % slices;
        start = slice * size;
        end = start + size < V ? start + size : V;
    }
    // Steps of the warp's lanes through the slice: the lane's item at step k is first() + k * WARP.
    DEVICE int64 first() const { return start + lane; }
    DEVICE int64 steps() const { return end > first() ? (end - first() + WARP - 1) / WARP : 0; }
};

template <class E>
struct Logits {
    using P = Precise<E>;
    const P* row;
    const E* bias;
    DEVICE P operator[](int64 v) const { return row[v] + (bias ? widen(bias[v]) : 0); }
};

// partial (R, S, 2): the largest logit and the sum of exponentials of each slice, without the target's; wanted (R,): the
// target's logit.
template <class E>
DEVICE void statistics(const Precise<E>* logits, const E* bias, const int64* targets, Precise<E>* partial, Precise<E>* wanted,
                       int64 R, int64 V, int64 slices, int64 size) {
    using P = Precise<E>;
    const Slice slice(R, V, slices, size);
    if (!slice.exists) return;
    const Logits<E> z{logits + slice.row * V, bias};
    const int64 target = targets[slice.row];
    Statistics<P> seen{-infinity(P{}), 0};
    walk<AHEAD, false>(
        0, slice.steps(), [&](int64 k) { return z[slice.first() + k * WARP]; },
        [&](int64 k, P logit) {
            if (slice.first() + k * WARP == target) {
                wanted[slice.row] = logit;
                return;
            }
            if (logit > seen.largest) {
                seen.sum = seen.sum == 0 ? 0 : seen.sum * exp(seen.largest - logit);
                seen.largest = logit;
            }
            // Minus infinity, an item that is ruled out, adds nothing.
            seen.sum += logit == -infinity(P{}) ? 0 : exp(logit - seen.largest);
        });
    seen.over_warp();
    if (slice.lane) return;
    partial[(slice.row * slices + slice.slice) * 2] = seen.largest;
    partial[(slice.row * slices + slice.slice) * 2 + 1] = seen.sum;
}

// losses (R,); weights (R, V), which may be the logits' own memory, or null if only the losses are wanted.
template <class E>
DEVICE void gradient(const Precise<E>* logits, const E* bias, const int64* targets, const Precise<E>* partial,
                     const Precise<E>* wanted, Precise<E>* losses, E* weights, int64 R, int64 V, int64 slices, int64 size) {
    using P = Precise<E>;
    const Slice slice(R, V, slices, size);
    if (!slice.exists) return;
    const Logits<E> z{logits + slice.row * V, bias};
    const int64 target = targets[slice.row];
    Statistics<P> row{-infinity(P{}), 0};
    if (slice.lane < slices) {
        row.largest = partial[(slice.row * slices + slice.lane) * 2];
        row.sum = partial[(slice.row * slices + slice.lane) * 2 + 1];
    }
    row.over_warp();
    const P own = wanted[slice.row];
    const P largest = own > row.largest ? own : row.largest;
    const P others = row.sum == 0 ? 0 : row.sum * exp(row.largest - largest);
    const P sum = others + exp(own - largest);
    if (slice.slice == 0 && slice.lane == 0) losses[slice.row] = own < largest ? log(sum) + (largest - own) : log1p(others);
    if (!weights) return;
    E* out = weights + slice.row * V;
    walk<AHEAD, false>(
        0, slice.steps(), [&](int64 k) { return z[slice.first() + k * WARP]; },
        [&](int64 k, P logit) {
            const int64 v = slice.first() + k * WARP;
            out[v] = narrow<E>(v == target ? -others / sum : exp(logit - largest) / sum);
        });
}

}  // namespace

#define LINEAR_CROSS_ENTROPY(E)                                                                                        \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP) linear_cross_entropy_statistics_##E(                     \
        const Precise<E>* __restrict__ logits, const E* __restrict__ bias, const int64* __restrict__ targets,          \
        Precise<E>* __restrict__ partial, Precise<E>* __restrict__ wanted, int64 R, int64 V, int64 slices,             \
        int64 size) {                                                                                                  \
        statistics<E>(logits, bias, targets, partial, wanted, R, V, slices, size);                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP) linear_cross_entropy_gradient_##E(                       \
        const Precise<E>* logits, const E* __restrict__ bias, const int64* __restrict__ targets,                       \
        const Precise<E>* __restrict__ partial, const Precise<E>* __restrict__ wanted,                                 \
        Precise<E>* __restrict__ losses, E* weights, int64 R, int64 V, int64 slices, int64 size) {                     \
        gradient<E>(logits, bias, targets, partial, wanted, losses, weights, R, V, slices, size);                      \
    }

#ifdef ELEMENT  // only this type, in a fraction of the time
#define ONLY(E) LINEAR_CROSS_ENTROPY(E)
ONLY(ELEMENT)
#else
LINEAR_CROSS_ENTROPY(float32)
LINEAR_CROSS_ENTROPY(float64)
LINEAR_CROSS_ENTROPY(bfloat16)
LINEAR_CROSS_ENTROPY(float16)
#endif
