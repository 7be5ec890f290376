// Elementary functions without branches, calls or tables, so that a compiler vectorises the loops they stand in.
//
// The float ones err by less than this many units in the last place: exp and exp2 1.5, expm1 2, sigmoid and softplus 3.
// NaN stays NaN, arguments beyond the range give the limits. Results of exp, exp2, sigmoid and softplus below 2^-125
// are zero. The double ones are those of the C library: double precision is for checking, not for speed.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace math {

// Where the processor has no fused multiply-add, the builtin would be a slow call.
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
#else
template <class R>
inline R fma(R x, R y, R z) {
    return x * y + z;
}
#endif

// A sum with this has the nearest integer to the other summand in its lowest bits. The 126 makes an exponent of it, of
// half the power of two: 2^128 would be infinite before it is multiplied with a fraction.
constexpr float ROUND = 12582912.0f + 126.0f;

// 2^(n-1), for the sum of ROUND and a number that rounds to n, -126 < n <= 128; 0 for n = -126.
inline float half_power(float rounded) {
    uint32_t bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    bits <<= 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return power;
}

// e^x as (1 + fraction) * 2 * half, |fraction| < 0.42, for x up to 88.73. Error of the polynomial: below 2^-28.
//
// Comparisons with a limit are true for numbers only, so NaN passes. The upper limit is applied to the result, since
// compilers make more instructions of a limit on both sides than of two limits in two places.
struct Exponential {
    float fraction, half;

    explicit Exponential(float x) {
        x = -87.33f > x ? -87.33f : x;
        const float rounded = fma(x, 1.44269504f, ROUND), n = rounded - ROUND;
        // ln 2 in two parts, the first with so few bits that its product with n is exact.
        const float r = fma(n, -1.42860677e-6f, fma(n, -0.693145752f, x));
        float q = fma(r, 0x1.6a2434p-10f, 0x1.1239e4p-7f);
        q = fma(r, q, 0x1.5558f2p-5f);
        q = fma(r, q, 0x1.555492p-3f);
        q = fma(r, q, 0x1.fffffcp-2f);
        fraction = fma(r * r, q, r);
        half = half_power(rounded);
    }
};

inline float exp(float x) {
    const Exponential e(x);
    const float result = fma(e.fraction, e.half, e.half) * 2;
    return x > 88.72284f ? INFINITY : result;
}
inline double exp(double x) { return std::exp(x); }

// e^x - 1, accurate around zero.
inline float expm1(float x) {
    const Exponential e(x);
    const float result = fma(e.fraction, e.half, e.half - 0.5f) * 2;
    return x > 88.72284f ? INFINITY : result;
}
inline double expm1(double x) { return std::expm1(x); }

// 2^x; cheaper than exp, for who can multiply log2(e) into something in advance.
inline float exp2(float x) {
    const float limited = -126.0f > x ? -126.0f : x;
    const float rounded = limited + ROUND, r = limited - (rounded - ROUND);
    float p = fma(r, 0x1.41fbbap-12f, 0x1.5f3e58p-9f);  // twice 2^r
    p = fma(r, p, 0x1.3b2d4ep-6f);
    p = fma(r, p, 0x1.c6aee8p-4f);
    p = fma(r, p, 0x1.ebfbdcp-2f);
    p = fma(r, p, 0x1.62e430p0f);
    p = fma(r, p, 2.0f);
    const float result = p * half_power(rounded);
    return x >= 128.0f ? INFINITY : result;
}
inline double exp2(double x) { return std::exp2(x); }

inline float sigmoid(float x) { return 1 / (1 + exp(-x)); }
inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// log(1 + e^x), and x itself above 20, as in torch. Its derivative is the sigmoid, also above 20, where 1 is 2e-9 away.
inline float softplus(float x) {
    // log(1 + t) = 2 artanh(t / (2 + t)) for t = e^-|x|, which is at most 1; log(1 + e^x) - log(1 + e^-x) = x.
    const float t = exp(x < 0 ? x : -x), s = t / (2 + t), z = s * s;
    float q = fma(z, 0x1.1ef878p-2f, 0x1.1eb610p-2f);
    q = fma(z, q, 0x1.99d27cp-2f);
    q = fma(z, q, 0x1.555500p-1f);
    return fma(s * z, q, 2 * s) + (0 > x ? 0 : x);
}
inline double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

}  // namespace math
