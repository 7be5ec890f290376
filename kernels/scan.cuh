// What the scans on the GPU have in common: element types and their arithmetic, and one thread's walk through time.
//
// No header is included, not even CUDA's own, so that NVRTC needs nothing but these sources. The half precisions are
// therefore spelled out here.

#pragma once

#define DEVICE __device__ __forceinline__

using int64 = long long;

// Threads of a block in the scans; the launching code has the same number. Six blocks fit on a multiprocessor, which
// leaves 168 registers to a thread: enough for what it has in flight, without spilling.
constexpr int BLOCK = 64;
#define BOUNDED __launch_bounds__(BLOCK, 6)

using float32 = float;
using float64 = double;

struct bfloat16 {
    unsigned short bits;
};
struct float16 {
    unsigned short bits;
};
template <class R>
struct alignas(2 * sizeof(R)) complex {
    R re, im;
};
using complex64 = complex<float>;
using complex128 = complex<double>;

// What an element is computed in, and what long sums of it are added up in.
template <class E>
struct Types {
    using Precise = E;
    using Sum = double;
};
template <>
struct Types<bfloat16> {
    using Precise = float;
    using Sum = double;
};
template <>
struct Types<float16> {
    using Precise = float;
    using Sum = double;
};
template <class R>
struct Types<complex<R>> {
    using Precise = complex<R>;
    using Sum = complex128;
};
template <class E>
using Precise = typename Types<E>::Precise;
template <class E>
using Sum = typename Types<E>::Sum;

#ifdef __CUDACC__
DEVICE float half_to_float(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
DEVICE unsigned short float_to_half(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#endif

template <class E>
DEVICE E widen(E x) {
    return x;
}
DEVICE float widen(float16 x) { return half_to_float(x.bits); }
DEVICE float widen(bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

// To the precision of memory, rounded to nearest, ties to even.
template <class E>
struct Narrow {
    static DEVICE E from(E x) { return x; }
};
template <>
struct Narrow<float16> {
    static DEVICE float16 from(float x) { return {float_to_half(x)}; }
};
template <>
struct Narrow<bfloat16> {
    static DEVICE bfloat16 from(float x) {
        const unsigned bits = __float_as_uint(x);
        // Rounding up could turn a NaN into an infinity: it keeps its upper half and becomes a quiet one.
        const unsigned rounded = x == x ? bits + 0x7fffu + ((bits >> 16) & 1u) : bits | 0x400000u;
        return {static_cast<unsigned short>(rounded >> 16)};
    }
};
template <class E>
DEVICE E narrow(Precise<E> x) {
    return Narrow<E>::from(x);
}

// x * y + z.
template <class R>
DEVICE R multiply_add(R x, R y, R z) {
    return fma(x, y, z);
}
template <class R>
DEVICE complex<R> multiply_add(complex<R> x, complex<R> y, complex<R> z) {
    return {fma(x.re, y.re, fma(-x.im, y.im, z.re)), fma(x.re, y.im, fma(x.im, y.re, z.im))};
}

template <class R>
DEVICE R multiply(R x, R y) {
    return x * y;
}
template <class R>
DEVICE complex<R> multiply(complex<R> x, complex<R> y) {
    return {fma(x.re, y.re, -(x.im * y.im)), fma(x.re, y.im, x.im * y.re)};
}

template <class R>
DEVICE R conjugate(R x) {
    return x;
}
template <class R>
DEVICE complex<R> conjugate(complex<R> x) {
    return {x.re, -x.im};
}

template <class R>
DEVICE bool is_zero(R x) {
    return x == 0;
}
template <class R>
DEVICE bool is_zero(complex<R> x) {
    return x.re == 0 && x.im == 0;
}

template <class R>
struct One {
    static DEVICE R value() { return 1; }
};
template <class R>
struct One<complex<R>> {
    static DEVICE complex<R> value() { return {1, 0}; }
};

// Approximations of the hardware, off by two units in the last place or so. Subnormal numbers count as zero.
DEVICE float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float log2_approximate(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float reciprocal_approximate(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float root_approximate(float x) {
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

constexpr double LOG2_E = 1.4426950408889634, LN_2 = 0.6931471805599453;

// What gates are made of, for elements E. Where results are rounded to half precision, a few units in the last place of a
// float are lost in that, and the approximations take a third of the instructions; but what follows from a difference,
// and is small, still comes from a series.
template <class E, bool Half = sizeof(E) < sizeof(Precise<E>)>
struct Function {
    using P = Precise<E>;
    static DEVICE P exponential(P x) { return exp(x); }
    static DEVICE P sigmoid(P x) { return 1 / (1 + exp(-x)); }
    static DEVICE P exponential_minus_1(P x) { return expm1(x); }
    static DEVICE P root(P x) { return sqrt(x); }
    static DEVICE P ratio(P x, P y) { return x / y; }
    // As torch has it: beyond 20 the function is its argument.
    static DEVICE P softplus(P x) { return x > 20 ? x : log1p(exp(x)); }
};
template <class E>
struct Function<E, true> {
    static DEVICE float exponential(float x) { return exp2_approximate(static_cast<float>(LOG2_E) * x); }
    static DEVICE float sigmoid(float x) { return reciprocal_approximate(1 + exponential(-x)); }
    static DEVICE float exponential_minus_1(float x) {
        return fabsf(x) < 0.01f ? x * fma(x, fma(x, 1 / 6.f, 0.5f), 1.f) : exponential(x) - 1;
    }
    static DEVICE float root(float x) { return root_approximate(x); }
    static DEVICE float ratio(float x, float y) { return x * reciprocal_approximate(y); }
    static DEVICE float softplus(float x) {
        const float y = exponential(x);
        const float log = y < 0.01f ? y * fma(y, fma(y, 1 / 3.f, -0.5f), 1.f)
                                    : static_cast<float>(LN_2) * log2_approximate(1 + y);
        return x > 20 ? x : log;
    }
};

// 2^x of an exponent that makes a decay: below 2^-126 it is zero.
DEVICE float decay_exp2(float x) { return exp2_approximate(x); }
DEVICE double decay_exp2(double x) { return exp2(x); }

DEVICE void add(double& sum, double x) { sum += x; }
template <class R>
DEVICE void add(complex128& sum, complex<R> x) {
    sum.re += x.re;
    sum.im += x.im;
}

// One channel of one row of a (B, T, D) tensor.
template <class E>
struct Channel {
    const E* first;
    int64 stride;
    DEVICE Precise<E> operator[](int64 t) const { return widen(first[t * stride]); }
};

// Gates of one channel, which are read only once if they are the same at all steps.
template <class E>
struct Gates {
    Channel<E> channel;
    Precise<E> constant;
    DEVICE Gates(const E* first, int64 stride) : channel{first, stride}, constant{} {
        if (stride == 0) constant = widen(*first);
    }
    DEVICE Precise<E> operator[](int64 t) const { return channel.stride == 0 ? constant : channel[t]; }
};

// One thread's share of a scan: steps [start, end) of chunk c of channel d in row b; [end, stop) is padding.
struct Share {
    int64 index, b, c, d, start, end, stop;
    bool exists;

    DEVICE Share(const int64* lengths, int64 B, int64 T, int64 D, int64 chunks, int64 chunk) {
        index = static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x;
        exists = index < B * chunks * D;
        if (!exists) return;
        d = index % D;
        c = index / D % chunks;
        b = index / D / chunks;
        start = c * chunk;
        stop = start + chunk < T ? start + chunk : T;
        const int64 steps = lengths ? lengths[b] : T;
        end = steps < stop ? steps : stop;
        if (end < start) end = start;
    }
    DEVICE bool first() const { return c == 0; }
    // The first step of a row, which nothing precedes, is taken on its own.
    DEVICE bool has_first() const { return start == 0 && end > 0; }
    DEVICE int64 after_first() const { return start == 0 ? 1 : start; }
};

// Steps whose operands are asked for before the first of them is used: 128 bytes are what one thread has in flight.
// The more operands a step has, the fewer steps.
template <class E, int Operands>
constexpr int STEPS = 128 / sizeof(E) / Operands;

// For t = start … end-1, or in the opposite order: step(t, read(t)), with Steps reads at a time.
//
// Where fewer than Steps are left, the last Steps are read, some of them again, and only the new ones are used. So the
// operands of a pass have two uses, in the loop and behind it, and ptxas must load them where it says so; with a single
// use it puts each load right before that, behind the branches of earlier steps, and one is in flight instead of all.
template <int Steps, bool Backwards, class Read, class Step>
DEVICE void walk(int64 start, int64 end, const Read& read, const Step& step) {
    using Operands = decltype(read(start));
    constexpr int64 way = Backwards ? -1 : 1;
    int64 t = Backwards ? end - 1 : start, left = end - start;
    if (left < Steps) {
#pragma unroll 1
        for (; left > 0; --left, t += way) step(t, read(t));
        return;
    }
    Operands operands[Steps];
    for (;;) {
        if (left == 0) return;
        if (left < Steps) t = Backwards ? start + Steps - 1 : end - Steps;
#pragma unroll
        for (int k = 0; k < Steps; ++k) operands[k] = read(t + way * k);
        if (left < Steps) break;
#pragma unroll
        for (int k = 0; k < Steps; ++k) step(t + way * k, operands[k]);
        left -= Steps;
        t += way * Steps;
    }
    if constexpr (Steps > 1) {
        // Opaque, or the compiler would see that the first operand has no second use.
        int seen = Steps - static_cast<int>(left);
        asm("mov.b32 %0, %0;" : "+r"(seen));
        if (seen == 0) operands[1] = operands[0];
#pragma unroll
        for (int k = 1; k < Steps; ++k)
            if (k >= seen) step(t + way * k, operands[k]);
    }
}

template <class E>
DEVICE void clear(E* out, int64 stride, int64 start, int64 stop) {
    for (int64 t = start; t < stop; ++t) out[t * stride] = E{};
}

// Between the two passes of the chunked form: from what each chunk does to the state that enters it, h → product · h +
// local, to the state that enters it, which overwrites `locals`. Arrays are (B, chunks, D). `initial` (B, D) enters
// the first chunk in the order of the walk, zero without it.
template <class E, bool Backwards>
DEVICE void carry(const Precise<E>* __restrict__ products, Precise<E>* locals, const E* __restrict__ initial, int64 B, int64 chunks, int64 D) {
    using P = Precise<E>;
    const int64 index = static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= B * D) return;
    const int64 d = index % D, b = index / D;
    struct Operands {
        P product, local;
    };
    P state{};
    if (initial) state = widen(initial[index]);
    const int64 offset = b * chunks * D + d;
    walk<STEPS<P, 2>, Backwards>(
        0, chunks, [&](int64 c) { return Operands{products[offset + c * D], locals[offset + c * D]}; },
        [&](int64 c, const Operands& chunk) {
            locals[offset + c * D] = state;
            // A product of gates may have overflown; what it would multiply is nothing. (A state so small that the step
            // by step form would keep it finite becomes infinite here.) A choice of factors, not of branches.
            const P product = is_zero(state) ? P{} : chunk.product;
            state = multiply_add(product, state, chunk.local);
        });
}

#define CARRY(SCAN, E)                                                                                                 \
    extern "C" __global__ void BOUNDED SCAN##_forward_carry_##E(const Precise<E>* __restrict__ products,               \
                                                                Precise<E>* locals, const E* __restrict__ initial,     \
                                                                int64 B, int64 chunks, int64 D) {                      \
        carry<E, false>(products, locals, initial, B, chunks, D);                                                      \
    }                                                                                                                  \
    extern "C" __global__ void BOUNDED SCAN##_backward_carry_##E(const Precise<E>* __restrict__ products,              \
                                                                 Precise<E>* locals, int64 B, int64 chunks, int64 D) { \
        carry<E, true>(products, locals, nullptr, B, chunks, D);                                                       \
    }
