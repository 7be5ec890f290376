// A machine that runs PTX, the assembly language that NVRTC makes of the CUDA sources, on the CPU.
//
// Blocks run one after the other, and so do the warps of a block. The 32 lanes of a warp share a program counter until a
// branch parts them; then the lanes that are furthest behind go first, which brings them together again. A shuffle waits
// until all 32 lanes have come to it. Every access to global memory must be aligned and inside a tensor that was passed.
//
// Source: "Parallel Thread Execution ISA", version 9; sections are named where the meaning is not plain C.

#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
using f32 = float;
using f64 = double;

namespace {

constexpr int WARP = 32;
constexpr u32 ALL = ~0u;

template <class To, class From>
To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

struct Fault : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// An instruction as Python decodes it. Operands are byte offsets into a warp's registers, where every register and every
// constant has a value for each lane.
struct Instruction {
    s32 operation;
    s32 guard;  // a predicate's offset, or -1
    s32 negated;
    s32 operands[6];
    s32 line;
    s64 immediate;  // displacement of an address, index of a parameter, target of a branch
};

struct Launch {
    const u64* parameters;
    s64 grid;
    s32 block;
    s32 shared_size;
    const u64* ranges;  // of allowed addresses: first and end, in turn
    s32 range_count;
    s32 ulps;  // by which approximate instructions are off, at most
    s32 races;  // whether to look for them
    s64 limit;  // instructions a warp may run
    // What is found out.
    u64 loaded, stored;  // bytes of global memory, of all lanes
    u8* ran;  // by instruction
    char message[400];
};

struct Access {
    u64 writer = ~0ull, reader = ~0ull;
    bool by_several = false, non_coherent = false;
};

struct Warp {
    char* registers;
    char* shared;
    Launch& launch;
    std::unordered_map<u64, Access>* accesses;
    s64 block, first;  // thread of the block

    template <class T>
    T* row(s32 offset) const {
        return reinterpret_cast<T*>(registers + offset);
    }
    u64 thread(int lane) const { return static_cast<u64>(block) * launch.block + first + lane; }
};

using Run = void (*)(Warp&, const Instruction&, u32 lanes);

template <class F>
inline void each(u32 lanes, const F& f) {
    if (lanes == ALL) {
        for (int lane = 0; lane < WARP; ++lane) f(lane);
    } else {
        for (; lanes; lanes &= lanes - 1) f(__builtin_ctz(lanes));
    }
}

// ---- Arithmetic: a function of the operands of one lane.

template <auto F, class R, class... A, size_t... I>
void apply(Warp& warp, const Instruction& now, u32 lanes, R (*)(A...), std::index_sequence<I...>) {
    R* out = warp.row<R>(now.operands[0]);
    const std::tuple<const A*...> in{warp.row<A>(now.operands[I + 1])...};
    each(lanes, [&](int lane) { out[lane] = F(std::get<I>(in)[lane]...); });
}
template <auto F>
void arithmetic(Warp& warp, const Instruction& now, u32 lanes) {
    const auto of = []<class R, class... A>(R (*f)(A...), Warp& w, const Instruction& i, u32 l) {
        apply<F>(w, i, l, f, std::index_sequence_for<A...>{});
    };
    of(+F, warp, now, lanes);
}

template <class T>
T shift_left(T x, u32 by) {  // 9.7.8.7: by more than the width is by the width
    return by >= 8 * sizeof(T) ? 0 : static_cast<T>(x << by);
}
template <class T>
T shift_right(T x, u32 by) {
    constexpr u32 width = 8 * sizeof(T);
    if (by >= width) return std::is_signed_v<T> ? static_cast<T>(x >> (width - 1)) : 0;
    return static_cast<T>(x >> by);
}
template <class F>
auto rounding(int mode, const F& f) {
    const int before = fegetround();
    fesetround(mode);
    volatile auto result = f();
    fesetround(before);
    return result;
}
f32 flush(f32 x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0, x) : x; }
f32 half_to_float(u16 x) { return static_cast<f32>(bits<_Float16>(x)); }
u16 float_to_half(f32 x) { return bits<u16>(static_cast<_Float16>(x)); }
u64 insert_bits(u64 from, u64 into, u32 position, u32 length) {
    if (length == 0 || position >= 64) return into;
    const u64 mask = (length >= 64 ? ~0ull : (1ull << length) - 1) << position;
    return (into & ~mask) | ((from << position) & mask);
}

// ---- Approximations: documented to be off by so much, and off by as much as the launch asks for, in either direction.

u64 random_state;
u64 random_bits() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}
f32 off_by(f32 y, s32 ulps) {
    if (!ulps || !std::isfinite(y) || y == 0) return y;
    const f32 towards = random_bits() >> 40 & 1 ? INFINITY : -INFINITY;
    for (; ulps > 0; --ulps) y = nextafterf(y, towards);
    return y;
}
template <auto F, bool Flush>
void approximate(Warp& warp, const Instruction& now, u32 lanes) {
    f32* out = warp.row<f32>(now.operands[0]);
    const f32* in = warp.row<f32>(now.operands[1]);
    each(lanes, [&](int lane) {
        const f32 x = Flush ? flush(in[lane]) : in[lane];
        const f32 exact = static_cast<f32>(F(static_cast<f64>(x)));
        // What the manual lists as exact results, of zero and of one, are.
        const f32 y = x == 0 || x == 1 ? exact : off_by(exact, warp.launch.ulps);
        out[lane] = Flush ? flush(y) : y;
    });
}
constexpr auto EXP2 = [](f64 x) { return exp2(x); };  // 9.7.3.22: 2 ulp over the full range
constexpr auto LOG2 = [](f64 x) { return log2(x); };  // 9.7.3.21: 2^-22 absolute or 2 ulp
constexpr auto ROOT = [](f64 x) { return sqrt(x); };  // 9.7.3.16: 2^-23 relative
constexpr auto RECIPROCAL = [](f64 x) { return 1 / x; };  // 9.7.3.13: 1 ulp
void reciprocal_approximate(Warp& warp, const Instruction& now, u32 lanes) {  // 9.7.3.14: upper half of the bits only
    const u64 upper = 0xffffffff00000000ull;
    const auto flushed = [](f64 x) { return fabs(x) < 2.2250738585072014e-308 ? copysign(0., x) : x; };
    f64* out = warp.row<f64>(now.operands[0]);
    const f64* in = warp.row<f64>(now.operands[1]);
    each(lanes, [&](int lane) {
        u64 y = bits<u64>(flushed(1 / flushed(bits<f64>(bits<u64>(in[lane]) & upper))));
        if (warp.launch.ulps && std::isfinite(bits<f64>(y)) && bits<f64>(y) != 0 && (random_bits() >> 40 & 1)) y += 2ull << 32;
        out[lane] = bits<f64>(y & upper);
    });
}

// ---- Memory.

[[noreturn]] void fault(const char* what, u64 address) {
    char text[200];
    snprintf(text, sizeof text, "%s at %#llx", what, static_cast<unsigned long long>(address));
    throw Fault(text);
}
void check(Warp& warp, u64 address, u64 size) {
    if (address % size) fault("misaligned access", address);
    for (s32 i = 0; i < warp.launch.range_count; ++i)
        if (address >= warp.launch.ranges[2 * i] && address + size <= warp.launch.ranges[2 * i + 1]) return;
    fault("access outside of every tensor", address);
}
// Two threads may not touch the same element unless both only read it, since nothing orders them.
void note_load(Warp& warp, u64 address, u64 thread, bool non_coherent) {
    Access& access = (*warp.accesses)[address];
    if (access.writer != ~0ull && access.writer != thread) fault("race: a load of what another thread stored", address);
    if (access.writer != ~0ull && non_coherent) fault("non-coherent load of what was stored", address);
    if (access.reader != ~0ull && access.reader != thread) access.by_several = true;
    access.reader = thread;
    access.non_coherent |= non_coherent;
}
void note_store(Warp& warp, u64 address, u64 thread) {
    Access& access = (*warp.accesses)[address];
    if (access.writer != ~0ull && access.writer != thread) fault("race: two threads store", address);
    if (access.by_several || (access.reader != ~0ull && access.reader != thread))
        fault("race: a store to what another thread loaded", address);
    if (access.non_coherent) fault("store to what was loaded non-coherently", address);
    access.writer = thread;
}

template <class T, int Count, bool NonCoherent>
void load_global(Warp& warp, const Instruction& now, u32 lanes) {
    const u64* base = warp.row<u64>(now.operands[Count]);
    each(lanes, [&](int lane) {
        const u64 address = base[lane] + now.immediate;
        check(warp, address, Count * sizeof(T));
        for (int i = 0; i < Count; ++i) {
            if (warp.accesses) note_load(warp, address + i * sizeof(T), warp.thread(lane), NonCoherent);
            warp.row<T>(now.operands[i])[lane] = reinterpret_cast<const T*>(address)[i];
        }
    });
    warp.launch.loaded += Count * sizeof(T) * __builtin_popcount(lanes);
}
template <class T, int Count>
void store_global(Warp& warp, const Instruction& now, u32 lanes) {
    const u64* base = warp.row<u64>(now.operands[0]);
    each(lanes, [&](int lane) {
        const u64 address = base[lane] + now.immediate;
        check(warp, address, Count * sizeof(T));
        for (int i = 0; i < Count; ++i) {
            if (warp.accesses) note_store(warp, address + i * sizeof(T), warp.thread(lane));
            reinterpret_cast<T*>(address)[i] = warp.row<T>(now.operands[i + 1])[lane];
        }
    });
    warp.launch.stored += Count * sizeof(T) * __builtin_popcount(lanes);
}
template <class T, class A>
T* shared(Warp& warp, A base, s64 displacement) {
    const u64 address = base + displacement;
    if (address % sizeof(T)) fault("misaligned access to shared memory", address);
    if (address + sizeof(T) > static_cast<u64>(warp.launch.shared_size)) fault("access beyond shared memory", address);
    return reinterpret_cast<T*>(warp.shared + address);
}
template <class T>
void load_shared(Warp& warp, const Instruction& now, u32 lanes) {
    each(lanes, [&](int lane) {
        warp.row<T>(now.operands[0])[lane] = *shared<T>(warp, warp.row<u32>(now.operands[1])[lane], now.immediate);
    });
}
template <class T>
void store_shared(Warp& warp, const Instruction& now, u32 lanes) {
    each(lanes, [&](int lane) {
        *shared<T>(warp, warp.row<u32>(now.operands[0])[lane], now.immediate) = warp.row<T>(now.operands[1])[lane];
    });
}
void load_parameter(Warp& warp, const Instruction& now, u32 lanes) {
    each(lanes, [&](int lane) { warp.row<u64>(now.operands[0])[lane] = warp.launch.parameters[now.immediate]; });
}

// ---- Between registers, and within the warp.

template <class Half, class Whole>
void pack(Warp& warp, const Instruction& now, u32 lanes) {
    each(lanes, [&](int lane) {
        warp.row<Whole>(now.operands[0])[lane] =
            warp.row<Half>(now.operands[1])[lane] |
            static_cast<Whole>(warp.row<Half>(now.operands[2])[lane]) << 8 * sizeof(Half);
    });
}
template <class Half, class Whole>
void unpack(Warp& warp, const Instruction& now, u32 lanes) {
    each(lanes, [&](int lane) {
        const Whole whole = warp.row<Whole>(now.operands[2])[lane];
        warp.row<Half>(now.operands[0])[lane] = static_cast<Half>(whole);
        warp.row<Half>(now.operands[1])[lane] = static_cast<Half>(whole >> 8 * sizeof(Half));
    });
}
void shuffle(Warp& warp, const Instruction& now, u32) {  // 9.7.9.6, of all lanes
    u32 given[WARP];
    memcpy(given, warp.row<u32>(now.operands[2]), sizeof given);
    const u32 *masks = warp.row<u32>(now.operands[3]), *clamps = warp.row<u32>(now.operands[4]), *members = warp.row<u32>(now.operands[5]);
    for (int lane = 0; lane < WARP; ++lane) {
        if (masks[lane] != masks[0] || masks[lane] >= WARP) throw Fault("lanes disagree about a shuffle");
        if (clamps[lane] != WARP - 1 || members[lane] != ALL) throw Fault("a shuffle of a part of the warp");
        warp.row<u32>(now.operands[0])[lane] = given[lane ^ masks[lane]];
        warp.row<u8>(now.operands[1])[lane] = 1;
    }
}

// ---- The instruction set. The run loop itself does "bra", "ret" and the waiting at a shuffle.

struct Operation {
    const char* name;
    std::string operands;  // sizes in bytes
    Run run;
};

template <auto F>
Operation op(const char* name) {
    std::string sizes;
    const auto collect = [&]<class R, class... A>(R (*)(A...)) { ((sizes += '0' + sizeof(R)), ..., (sizes += '0' + sizeof(A))); };
    collect(+F);
    return {name, sizes, arithmetic<F>};
}

const Operation OPERATIONS[] = {
    {"bra", "", nullptr},
    {"ret", "", nullptr},
    {"shfl.sync.bfly.b32", "414444", shuffle},
#define OP(NAME, RESULT, PARAMETERS, EXPRESSION) op<([] PARAMETERS -> RESULT { return EXPRESSION; })>(NAME)
#define MOVE(NAME, T) OP("mov." NAME, T, (T a), a)
    MOVE("b16", u16), MOVE("u16", u16), MOVE("b32", u32), MOVE("u32", u32), MOVE("s32", u32), MOVE("f32", u32),
    MOVE("b64", u64), MOVE("u64", u64), MOVE("s64", u64), MOVE("f64", u64), MOVE("pred", u8),
    OP("cvta.to.global.u64", u64, (u64 a), a),
    {"pack.b32", "422", pack<u16, u32>},
    {"pack.b64", "844", pack<u32, u64>},
    {"unpack.b32", "224", unpack<u16, u32>},
    {"unpack.b64", "448", unpack<u32, u64>},
#define INTEGER(N)                                                                                                    \
    OP("add.s" #N, u##N, (u##N a, u##N b), a + b), OP("sub.s" #N, u##N, (u##N a, u##N b), a - b),                      \
    OP("add.u" #N, u##N, (u##N a, u##N b), a + b), OP("sub.u" #N, u##N, (u##N a, u##N b), a - b),                      \
    OP("mul.lo.s" #N, u##N, (u##N a, u##N b), a * b), OP("mad.lo.s" #N, u##N, (u##N a, u##N b, u##N c), a * b + c),     \
    OP("neg.s" #N, u##N, (u##N a), -a), OP("div.s" #N, s##N, (s##N a, s##N b), b ? a / b : -1),                        \
    OP("rem.s" #N, s##N, (s##N a, s##N b), b ? a % b : a), OP("div.u" #N, u##N, (u##N a, u##N b), b ? a / b : -1),       \
    OP("rem.u" #N, u##N, (u##N a, u##N b), b ? a % b : a),                                                             \
    OP("min.s" #N, s##N, (s##N a, s##N b), a < b ? a : b), OP("max.s" #N, s##N, (s##N a, s##N b), a > b ? a : b),       \
    OP("min.u" #N, u##N, (u##N a, u##N b), a < b ? a : b), OP("max.u" #N, u##N, (u##N a, u##N b), a > b ? a : b),       \
    OP("and.b" #N, u##N, (u##N a, u##N b), a & b), OP("or.b" #N, u##N, (u##N a, u##N b), a | b),                       \
    OP("xor.b" #N, u##N, (u##N a, u##N b), a ^ b), OP("not.b" #N, u##N, (u##N a), ~a),                                 \
    OP("shl.b" #N, u##N, (u##N a, u32 b), shift_left<u##N>(a, b)),                                                     \
    OP("shr.s" #N, s##N, (s##N a, u32 b), shift_right<s##N>(a, b)),                                                    \
    OP("shr.u" #N, u##N, (u##N a, u32 b), shift_right<u##N>(a, b)),                                                    \
    OP("selp.b" #N, u##N, (u##N a, u##N b, u8 p), p ? a : b), OP("selp.u" #N, u##N, (u##N a, u##N b, u8 p), p ? a : b), \
    OP("setp.eq.b" #N, u8, (u##N a, u##N b), a == b), OP("setp.ne.b" #N, u8, (u##N a, u##N b), a != b),                 \
    COMPARE("s" #N, s##N), COMPARE("u" #N, u##N)
#define COMPARE(NAME, T)                                                                                              \
    OP("setp.eq." NAME, u8, (T a, T b), a == b), OP("setp.ne." NAME, u8, (T a, T b), a != b),                           \
    OP("setp.lt." NAME, u8, (T a, T b), a < b), OP("setp.le." NAME, u8, (T a, T b), a <= b),                            \
    OP("setp.gt." NAME, u8, (T a, T b), a > b), OP("setp.ge." NAME, u8, (T a, T b), a >= b)
    INTEGER(16), INTEGER(32), INTEGER(64),
    OP("mul.wide.u32", u64, (u32 a, u32 b), static_cast<u64>(a) * b),
    OP("mul.wide.s32", s64, (s32 a, s32 b), static_cast<s64>(a) * b),
    OP("mad.wide.u32", u64, (u32 a, u32 b, u64 c), static_cast<u64>(a) * b + c),
    OP("mad.wide.s32", s64, (s32 a, s32 b, s64 c), static_cast<s64>(a) * b + c),
    OP("mul.hi.u32", u32, (u32 a, u32 b), static_cast<u64>(a) * b >> 32),
    OP("bfi.b64", u64, (u64 a, u64 b, u32 c, u32 d), insert_bits(a, b, c, d)),
    OP("and.pred", u8, (u8 a, u8 b), a & b), OP("or.pred", u8, (u8 a, u8 b), a | b),
    OP("xor.pred", u8, (u8 a, u8 b), a ^ b), OP("not.pred", u8, (u8 a), !a),
#define FLOATING(N)                                                                                                   \
    OP("add.f" #N, f##N, (f##N a, f##N b), a + b), OP("add.rn.f" #N, f##N, (f##N a, f##N b), a + b),                    \
    OP("sub.f" #N, f##N, (f##N a, f##N b), a - b), OP("sub.rn.f" #N, f##N, (f##N a, f##N b), a - b),                    \
    OP("mul.f" #N, f##N, (f##N a, f##N b), a * b), OP("mul.rn.f" #N, f##N, (f##N a, f##N b), a * b),                    \
    OP("fma.rn.f" #N, f##N, (f##N a, f##N b, f##N c), std::fma(a, b, c)),                                              \
    OP("div.rn.f" #N, f##N, (f##N a, f##N b), a / b), OP("rcp.rn.f" #N, f##N, (f##N a), 1 / a),                         \
    OP("sqrt.rn.f" #N, f##N, (f##N a), std::sqrt(a)),                                                                  \
    OP("neg.f" #N, u##N, (u##N a), a ^ u##N{1} << (N - 1)), OP("abs.f" #N, u##N, (u##N a), a & ~(u##N{1} << (N - 1))),    \
    /* the sign of the first, the size of the second */                                                               \
    OP("copysign.f" #N, f##N, (f##N a, f##N b), std::copysign(b, a)),                                                  \
    OP("selp.f" #N, u##N, (u##N a, u##N b, u8 p), p ? a : b),                                                          \
    OP("setp.eq.f" #N, u8, (f##N a, f##N b), a == b), OP("setp.ne.f" #N, u8, (f##N a, f##N b), a < b || a > b),          \
    OP("setp.lt.f" #N, u8, (f##N a, f##N b), a < b), OP("setp.le.f" #N, u8, (f##N a, f##N b), a <= b),                   \
    OP("setp.gt.f" #N, u8, (f##N a, f##N b), a > b), OP("setp.ge.f" #N, u8, (f##N a, f##N b), a >= b),                   \
    OP("setp.equ.f" #N, u8, (f##N a, f##N b), !(a < b || a > b)), OP("setp.neu.f" #N, u8, (f##N a, f##N b), a != b),     \
    OP("setp.ltu.f" #N, u8, (f##N a, f##N b), !(a >= b)), OP("setp.leu.f" #N, u8, (f##N a, f##N b), !(a > b)),           \
    OP("setp.gtu.f" #N, u8, (f##N a, f##N b), !(a <= b)), OP("setp.geu.f" #N, u8, (f##N a, f##N b), !(a < b)),           \
    OP("setp.num.f" #N, u8, (f##N a, f##N b), a == a && b == b),                                                       \
    OP("setp.nan.f" #N, u8, (f##N a, f##N b), a != a || b != b)
    FLOATING(32), FLOATING(64),
    OP("add.rz.f32", f32, (f32 a, f32 b), rounding(FE_TOWARDZERO, [=] { volatile f32 x = a; return x + b; })),
    OP("fma.rm.f32", f32, (f32 a, f32 b, f32 c), rounding(FE_DOWNWARD, [=] { volatile f32 x = a; return std::fma(x, b, c); })),
    {"ex2.approx.f32", "44", approximate<EXP2, false>},
    {"ex2.approx.ftz.f32", "44", approximate<EXP2, true>},
    {"lg2.approx.ftz.f32", "44", approximate<LOG2, true>},
    {"sqrt.approx.ftz.f32", "44", approximate<ROOT, true>},
    {"rcp.approx.ftz.f32", "44", approximate<RECIPROCAL, true>},
    {"rcp.approx.ftz.f64", "88", reciprocal_approximate},
    OP("cvt.f32.f16", f32, (u16 a), half_to_float(a)), OP("cvt.rn.f16.f32", u16, (f32 a), float_to_half(a)),
    OP("cvt.f64.f32", f64, (f32 a), a), OP("cvt.rn.f32.f64", f32, (f64 a), static_cast<f32>(a)),
    OP("cvt.rn.f32.s32", f32, (s32 a), static_cast<f32>(a)),
    // A NaN becomes zero.
    OP("cvt.sat.f32.f32", f32, (f32 a), a > 0 ? a < 1 ? a : 1 : 0),
    OP("cvt.u16.u32", u16, (u32 a), a), OP("cvt.u16.u64", u16, (u64 a), a), OP("cvt.u32.u16", u32, (u16 a), a),
    OP("cvt.u32.u64", u32, (u64 a), a), OP("cvt.u64.u32", u64, (u32 a), a), OP("cvt.s64.s32", s64, (s32 a), a),
    OP("cvt.s16.s8", s16, (s16 a), static_cast<s8>(a)), OP("cvt.s32.s8", s32, (s32 a), static_cast<s8>(a)),
    OP("cvt.s32.s16", s32, (s16 a), a),
#define LOADS(TYPE, T, D)                                                                                             \
    {"ld.global." TYPE, D "8", load_global<T, 1, false>}, {"ld.global.nc." TYPE, D "8", load_global<T, 1, true>},       \
    {"ld.global.v2." TYPE, D D "8", load_global<T, 2, false>}, {"ld.global.nc.v2." TYPE, D D "8", load_global<T, 2, true>}, \
    {"ld.global.v4." TYPE, D D D D "8", load_global<T, 4, false>},                                                     \
    {"ld.global.nc.v4." TYPE, D D D D "8", load_global<T, 4, true>},                                                   \
    {"st.global." TYPE, "8" D, store_global<T, 1>}, {"st.global.v2." TYPE, "8" D D, store_global<T, 2>},                \
    {"st.global.v4." TYPE, "8" D D D D, store_global<T, 4>},                                                           \
    {"ld.shared." TYPE, D "4", load_shared<T>}, {"st.shared." TYPE, "4" D, store_shared<T>}
    LOADS("b16", u16, "2"), LOADS("u16", u16, "2"), LOADS("b32", u32, "4"), LOADS("u32", u32, "4"), LOADS("f32", u32, "4"),
    LOADS("b64", u64, "8"), LOADS("u64", u64, "8"), LOADS("f64", u64, "8"),
    {"ld.param.b64", "8", load_parameter}, {"ld.param.u64", "8", load_parameter},
};
constexpr int BRANCH = 0, RETURN = 1, SHUFFLE = 2;
constexpr int NOWHERE = 1 << 30;

// Lanes, each with its place in the program.
void run_warp(Warp& warp, const Instruction* program, s32& line) {
    int at[WARP] = {};
    u32 alive = ALL, waiting = 0;  // at a shuffle
    for (s64 ran = 0; alive;) {
        // Of the lanes that need not wait, those that are furthest behind.
        int now = NOWHERE, others = NOWHERE;
        u32 lanes = 0;
        for (int lane = 0; lane < WARP; ++lane) {
            if (!(alive >> lane & 1) || (waiting >> lane & 1)) continue;
            if (at[lane] < now) others = now, now = at[lane], lanes = 0;
            if (at[lane] == now) lanes |= 1u << lane;
            else if (at[lane] < others) others = at[lane];
        }
        if (!lanes) throw Fault("lanes of a warp wait at different shuffles, or for lanes that are done");
        for (;;) {
            const Instruction& next = program[now];
            line = next.line;
            if (++ran > warp.launch.limit) throw Fault("a warp does not come to an end");
            u32 active = lanes;
            if (next.guard >= 0) {
                const u8* guard = warp.row<u8>(next.guard);
                active = 0;
                for (int lane = 0; lane < WARP; ++lane) active |= static_cast<u32>(guard[lane] & 1) << lane;
                active = (next.negated ? ~active : active) & lanes;
            }
            if (active) warp.launch.ran[now] = 1;
            int stay = now + 1;
            bool regroup = false;
            if (next.operation == BRANCH) {
                const int target = static_cast<int>(next.immediate);
                if (active == lanes) stay = target;
                else if (active) {
                    each(lanes, [&](int lane) { at[lane] = active >> lane & 1 ? target : now + 1; });
                    break;
                }
            } else if (next.operation == RETURN) {
                alive &= ~active;
                lanes &= ~active;
                if (!lanes) break;
            } else if (next.operation == SHUFFLE) {
                if (lanes != ALL) {
                    each(lanes, [&](int lane) { at[lane] = now; });
                    waiting |= lanes;
                    if (waiting == ALL) {
                        for (int lane = 1; lane < WARP; ++lane)
                            if (at[lane] != at[0]) throw Fault("lanes of a warp have parted at a shuffle");
                        waiting = 0;
                    }
                    break;
                }
                shuffle(warp, next, lanes);
            } else {
                OPERATIONS[next.operation].run(warp, next, active);
            }
            now = stay;
            regroup = now >= others;
            if (regroup) {
                each(lanes, [&](int lane) { at[lane] = now; });
                break;
            }
        }
    }
}

}  // namespace

extern "C" {

int operation_count() { return sizeof OPERATIONS / sizeof *OPERATIONS; }
const char* operation_name(int index) { return OPERATIONS[index].name; }
const char* operation_operands(int index) { return OPERATIONS[index].operands.c_str(); }

// `registers` has a row for every register and constant, the latter filled in; the threads' indices are rows of u32 at
// the given offsets. Returns 0, or 1 with a message.
int run(const Instruction* program, char* registers, s32 tid, s32 ctaid, s32 ntid, Launch* launch) {
    std::unordered_map<u64, Access> accesses;
    std::string shared_memory(launch->shared_size, '\0');
    s32 line = 0;
    random_state = 88172645463325252ull;
    try {
        for (s64 block = 0; block < launch->grid; ++block) {
            memset(shared_memory.data(), 0xff, shared_memory.size());
            for (s64 first = 0; first < launch->block; first += WARP) {
                Warp warp{registers, shared_memory.data(), *launch, launch->races ? &accesses : nullptr, block, first};
                for (int lane = 0; lane < WARP; ++lane) {
                    warp.row<u32>(tid)[lane] = static_cast<u32>(first + lane);
                    warp.row<u32>(ctaid)[lane] = static_cast<u32>(block);
                    warp.row<u32>(ntid)[lane] = static_cast<u32>(launch->block);
                }
                run_warp(warp, program, line);
            }
        }
    } catch (const Fault& error) {
        snprintf(launch->message, sizeof launch->message, "%s (line %d)", error.what(), line);
        return 1;
    }
    return 0;
}

}  // extern "C"
