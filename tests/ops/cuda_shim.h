// What a .cu file of kernels/ needs to be compiled by a C++ compiler and run on the CPU: block by block, a warp at a time.
//
// The threads of a warp are fibers. Each runs until it exchanges a value with its warp, where it waits until the others
// have come as far; so a kernel whose threads disagree about an exchange is found out. Nothing here is parallel, and
// blocks do not synchronise, since no kernel does more than exchange values within a warp.

#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <utility>

#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)

struct Index {
    unsigned x;
};
static Index blockIdx, threadIdx, blockDim;

inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float half_to_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    double x = exponent == 31 ? (fraction ? NAN : INFINITY)
               : exponent ? ldexp(1024 + fraction, exponent - 25)
                          : ldexp(fraction, -24);
    return static_cast<float>(bits & 0x8000 ? -x : x);
}
inline unsigned short float_to_half(float x) {
    const unsigned short sign = signbit(x) ? 0x8000 : 0;
    if (x != x) return sign | 0x7e00;
    const double size = fabs(static_cast<double>(x));
    if (size >= 65520) return sign | 0x7c00;
    if (size < ldexp(1, -14)) return static_cast<unsigned short>(sign | static_cast<int>(nearbyint(ldexp(size, 24))));
    int exponent;  // size = mantissa · 2^exponent with 0.5 <= mantissa < 1; a mantissa rounded up to 1 carries over
    const double mantissa = frexp(size, &exponent);
    return static_cast<unsigned short>(sign | ((exponent + 13) << 10) + static_cast<int>(nearbyint(ldexp(mantissa, 11))));
}

namespace shim {

constexpr int WARP = 32;
constexpr size_t STACK = 256 * 1024;

struct Fiber {
    ucontext_t beginning;
    jmp_buf here;
    char* stack;
    int exchanges;
    bool started, done;
};

static Fiber fibers[WARP];
static jmp_buf scheduler;
static int lane;
static char slots[2][WARP][16];

using Call = void (*)(void (*)(), const long long*);
static Call call;
static void (*kernel)();
static const long long* arguments;

static void enter() {
    call(kernel, arguments);
    fibers[lane].done = true;
    _longjmp(scheduler, 1);
}

static void resume(int which) {
    lane = which;
    threadIdx.x = threadIdx.x / WARP * WARP + which;
    if (_setjmp(scheduler)) return;
    Fiber& fiber = fibers[which];
    if (fiber.started) _longjmp(fiber.here, 1);
    fiber.started = true;
    setcontext(&fiber.beginning);
}

static void wait() {
    Fiber& fiber = fibers[lane];
    ++fiber.exchanges;
    if (!_setjmp(fiber.here)) _longjmp(scheduler, 1);
}

static void run_warp(int threads) {
    for (int i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        if (!fiber.stack) fiber.stack = static_cast<char*>(malloc(STACK));
        fiber.exchanges = 0;
        fiber.started = fiber.done = false;
        getcontext(&fiber.beginning);
        fiber.beginning.uc_stack.ss_sp = fiber.stack;
        fiber.beginning.uc_stack.ss_size = STACK;
        fiber.beginning.uc_link = nullptr;
        makecontext(&fiber.beginning, enter, 0);
    }
    do {
        for (int i = 0; i < threads; ++i) resume(i);
        for (int i = 1; i < threads; ++i)
            if (fibers[i].done != fibers[0].done || fibers[i].exchanges != fibers[0].exchanges) {
                fprintf(stderr, "lanes 0 and %d of a warp have parted\n", i);
                abort();
            }
    } while (!fibers[0].done);
}

template <int... I>
void call_with(void (*function)(), const long long* a, std::integer_sequence<int, I...>) {
    // Pointers and 64-bit integers are passed alike, and are all that a kernel takes.
    reinterpret_cast<void (*)(decltype(static_cast<long long>(I))...)>(function)(a[I]...);
}
template <int N>
void call_n(void (*function)(), const long long* a) {
    call_with(function, a, std::make_integer_sequence<int, N>());
}
template <int... N>
Call choose(int count, std::integer_sequence<int, N...>) {
    static const Call calls[] = {call_n<N>...};
    return calls[count];
}

}  // namespace shim

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    auto& slot = shim::slots[shim::fibers[shim::lane].exchanges & 1];
    memcpy(slot[shim::lane], &value, sizeof value);
    const int from = shim::lane ^ mask;
    shim::wait();
    memcpy(&value, slot[from], sizeof value);
    return value;
}

extern "C" void run(void (*kernel)(), long long grid, int block, const long long* arguments, int count) {
    shim::kernel = kernel;
    shim::arguments = arguments;
    shim::call = shim::choose(count, std::make_integer_sequence<int, 49>());
    blockDim.x = block;
    for (long long b = 0; b < grid; ++b) {
        blockIdx.x = static_cast<unsigned>(b);
        for (int first = 0; first < block; first += shim::WARP) {
            threadIdx.x = first;
            shim::run_warp(block - first < shim::WARP ? block - first : shim::WARP);
        }
    }
}
