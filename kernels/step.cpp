// A step of a recurrent model as a list of instructions over one array of numbers.
//
// A step at batch 1 is a few products of matrices with a vector and a few hundred small operations between them; torch
// takes longer to find an operation than to compute it. seqbench/inference/program.py writes the list.
//
// The array holds the constants, then what is read from the state, then every intermediate result. An operand is a
// place in it with two strides: element (i, j) of outer x inner is at place + i * outer_stride + j * inner_stride.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "vector_math.h"
#include "vectors.h"

namespace {

using V = Vector<float>::type;
constexpr int64_t LANES = Vector<float>::lanes;
constexpr int64_t SUMS = 8;
constexpr int64_t PANEL = SUMS * LANES;  // columns of a packed matrix that are summed up together, in registers

// In the order of OPCODES in program.py.
enum Opcode : int64_t {
    ADD,
    SUB,
    MUL,
    DIV,  // a, b
    NEG,
    EXP,
    EXPM1,
    SQRT,
    SIGMOID,
    TANH,
    SILU,
    HARDSWISH,
    GELU,
    SOFTPLUS,
    ELU,
    RECIPROCAL,
    CLAMP_MIN,  // a, p
    COPY,
    GATHER,
    SCATTER,      // a, table
    COMPLEX_MUL,  // a, b: inner pairs
    SUM,
    NORM,
    LAYER_NORM,  // a; b and c: weight and bias, p: epsilon
    PRODUCT,
    MATMUL,  // see below
    EMBED,   // a: outer numbers; b: rows of table
};

struct Operand {
    int64_t place, outer, inner;  // strides
};

struct Instruction {
    int64_t op, outer, inner, out;
    Operand a, b, c;
    double p;
    const void* table;
};

struct Port {  // one tensor of the state, or the items, or the outputs
    int64_t place, size, integers;
};

template <class F>
inline void map(const Instruction& in, float* x, F f) {
    for (int64_t i = 0; i < in.outer; ++i) {
        const float* a = x + in.a.place + i * in.a.outer;
        float* out = x + in.out + i * in.inner;
        if (in.a.inner == 1) {
            for (int64_t j = 0; j < in.inner; ++j) out[j] = f(a[j]);
        } else {
            for (int64_t j = 0; j < in.inner; ++j) out[j] = f(a[j * in.a.inner]);
        }
    }
}

template <class F>
inline void zip(const Instruction& in, float* x, F f) {
    for (int64_t i = 0; i < in.outer; ++i) {
        const float* a = x + in.a.place + i * in.a.outer;
        const float* b = x + in.b.place + i * in.b.outer;
        float* out = x + in.out + i * in.inner;
        const int64_t s = in.a.inner, t = in.b.inner;
        if (s == 1 && t == 1) {
            for (int64_t j = 0; j < in.inner; ++j) out[j] = f(a[j], b[j]);
        } else if (s == 1 && t == 0) {
            const float same = *b;
            for (int64_t j = 0; j < in.inner; ++j) out[j] = f(a[j], same);
        } else if (s == 0 && t == 1) {
            const float same = *a;
            for (int64_t j = 0; j < in.inner; ++j) out[j] = f(same, b[j]);
        } else {
            for (int64_t j = 0; j < in.inner; ++j) out[j] = f(a[j * s], b[j * t]);
        }
    }
}

// out (outer, inner) = a (outer, K) · table (K, inner) + c (inner); K is b.place. The matrix is packed in panels of
// PANEL columns, the last one filled up with zeros, and so is c.
void product(const Instruction& in, float* x) {
    const int64_t K = in.b.place;
    for (int64_t i = 0; i < in.outer; ++i) {
        const float* a = x + in.a.place + i * K;
        const float* panel = static_cast<const float*>(in.table);
        for (int64_t n = 0; n < in.inner; n += PANEL) {
            V sums[SUMS];
            for (int64_t v = 0; v < SUMS; ++v) sums[v] = load<V>(x + in.c.place + n + v * LANES);
            for (int64_t k = 0; k < K; ++k, panel += PANEL) {
                const V factor = a[k] - V{};
                for (int64_t v = 0; v < SUMS; ++v) sums[v] = fma<float>(factor, load<V>(panel + v * LANES), sums[v]);
            }
            float buffer[PANEL];
            for (int64_t v = 0; v < SUMS; ++v) store(sums[v], buffer + v * LANES);
            const int64_t left = in.inner - n < PANEL ? in.inner - n : PANEL;
            std::memcpy(x + in.out + i * in.inner + n, buffer, left * sizeof(float));
        }
    }
}

// out (outer, M, inner) = a (outer, M, K) · b (outer, K, inner); M is c.place, K is c.outer.
void matmul(const Instruction& in, float* x) {
    const int64_t M = in.c.place, K = in.c.outer, N = in.inner;
    for (int64_t i = 0; i < in.outer * M; ++i) {
        const float* a = x + in.a.place + i * K;
        const float* b = x + in.b.place + i / M * K * N;
        float* out = x + in.out + i * N;
        for (int64_t n = 0; n < N; ++n) out[n] = 0;
        for (int64_t k = 0; k < K; ++k) {
            for (int64_t n = 0; n < N; ++n) out[n] += a[k] * b[k * N + n];
        }
    }
}

void layer_norm(const Instruction& in, float* x) {
    for (int64_t i = 0; i < in.outer; ++i) {
        const float* a = x + in.a.place + i * in.inner;
        const float *weight = x + in.b.place, *bias = x + in.c.place;
        float* out = x + in.out + i * in.inner;
        double sum = 0, squares = 0;
        for (int64_t j = 0; j < in.inner; ++j) sum += a[j];
        const double mean = sum / in.inner;
        for (int64_t j = 0; j < in.inner; ++j) squares += (a[j] - mean) * (a[j] - mean);
        const float scale = 1 / std::sqrt(squares / in.inner + in.p), shift = mean;
        for (int64_t j = 0; j < in.inner; ++j) out[j] = (a[j] - shift) * scale * weight[j] + bias[j];
    }
}

// False if a number is not one of a row of a table.
bool execute(const Instruction& in, float* x) {
    const float p = in.p;
    const int32_t* indices = static_cast<const int32_t*>(in.table);
    switch (static_cast<Opcode>(in.op)) {
        case ADD:
            zip(in, x, [](float a, float b) { return a + b; });
            break;
        case SUB:
            zip(in, x, [](float a, float b) { return a - b; });
            break;
        case MUL:
            zip(in, x, [](float a, float b) { return a * b; });
            break;
        case DIV:
            zip(in, x, [](float a, float b) { return a / b; });
            break;
        case NEG:
            map(in, x, [](float a) { return -a; });
            break;
        case EXP:
            map(in, x, [](float a) { return math::exp(a); });
            break;
        case EXPM1:
            map(in, x, [](float a) { return math::expm1(a); });
            break;
        case SQRT:
            map(in, x, [](float a) { return std::sqrt(a); });
            break;
        case SIGMOID:
            map(in, x, [](float a) { return math::sigmoid(a); });
            break;
        case TANH:
            map(in, x, [](float a) { return std::tanh(a); });
            break;
        case SILU:
            map(in, x, [](float a) { return a * math::sigmoid(a); });
            break;
        case HARDSWISH:
            map(in, x, [](float a) { return a * (a < -3 ? 0 : a > 3 ? 6 : a + 3) / 6; });
            break;
        case GELU:
            map(in, x, [](float a) { return 0.5f * a * (1 + std::erf(a * 0.70710678f)); });
            break;
        case SOFTPLUS:
            map(in, x, [](float a) { return math::softplus(a); });
            break;
        case ELU:
            map(in, x, [](float a) { return a > 0 ? a : math::expm1(a); });
            break;
        case RECIPROCAL:
            map(in, x, [](float a) { return 1 / a; });
            break;
        case CLAMP_MIN:
            map(in, x, [p](float a) { return a < p ? p : a; });
            break;
        case COPY:
            map(in, x, [](float a) { return a; });
            break;
        case GATHER:
            for (int64_t j = 0; j < in.inner; ++j) x[in.out + j] = x[indices[j]];
            break;
        case SCATTER:
            for (int64_t j = 0; j < in.inner; ++j) x[indices[j]] = x[in.a.place + j];
            break;
        case COMPLEX_MUL:
            for (int64_t j = 0; j < in.inner; ++j) {
                const float *a = x + in.a.place + 2 * j, *b = x + in.b.place + 2 * j;
                const float real = a[0] * b[0] - a[1] * b[1], imaginary = a[0] * b[1] + a[1] * b[0];
                x[in.out + 2 * j] = real;
                x[in.out + 2 * j + 1] = imaginary;
            }
            break;
        case SUM:
        case NORM:
            for (int64_t i = 0; i < in.outer; ++i) {
                const float* a = x + in.a.place + i * in.a.outer;
                const bool squared = in.op == NORM;
                double sum = 0;
                int64_t j = 0;
                if (in.a.inner == 1) {
                    V sums{};
                    for (; j + LANES <= in.inner; j += LANES) {
                        const V values = load<V>(a + j);
                        sums += squared ? values * values : values;
                    }
                    for (int64_t lane = 0; lane < LANES; ++lane) sum += sums[lane];
                }
                for (; j < in.inner; ++j) {
                    const double value = a[j * in.a.inner];
                    sum += squared ? value * value : value;
                }
                x[in.out + i] = squared ? std::sqrt(sum) : sum;
            }
            break;
        case LAYER_NORM:
            layer_norm(in, x);
            break;
        case PRODUCT:
            product(in, x);
            break;
        case MATMUL:
            matmul(in, x);
            break;
        case EMBED:
            for (int64_t i = 0; i < in.outer; ++i) {
                const float row = x[in.a.place + i];
                if (!(row >= 0 && row < in.b.place)) return false;
                const float* from = static_cast<const float*>(in.table) + static_cast<int64_t>(row) * in.inner;
                std::memcpy(x + in.out + i * in.inner, from, in.inner * sizeof(float));
            }
            break;
        default:
            return false;
    }
    return true;
}

}  // namespace

extern "C" int64_t step_panel() { return PANEL; }

// Run the instructions for each of `rows` histories. `memory` has the address of every input, then of every output,
// whose rows lie one after the other. 0, or 1 + the row in which a number is not one of a table's row.
extern "C" int64_t step_run(const Instruction* instructions, int64_t count, float* x, const Port* ports, int64_t inputs,
                            int64_t outputs, void* const* memory, int64_t rows) {
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t at = 0; at < inputs; ++at) {
            const Port& port = ports[at];
            if (port.integers) {
                const int64_t* from = static_cast<const int64_t*>(memory[at]) + row * port.size;
                for (int64_t j = 0; j < port.size; ++j) x[port.place + j] = from[j];
            } else {
                const float* from = static_cast<const float*>(memory[at]) + row * port.size;
                std::memcpy(x + port.place, from, port.size * sizeof(float));
            }
        }
        for (int64_t at = 0; at < count; ++at) {
            if (!execute(instructions[at], x)) return 1 + row;
        }
        for (int64_t at = inputs; at < inputs + outputs; ++at) {
            const Port& port = ports[at];
            if (port.integers) {
                int64_t* to = static_cast<int64_t*>(memory[at]) + row * port.size;
                for (int64_t j = 0; j < port.size; ++j) to[j] = x[port.place + j];
            } else {
                float* to = static_cast<float*>(memory[at]) + row * port.size;
                std::memcpy(to, x + port.place, port.size * sizeof(float));
            }
        }
    }
    return 0;
}
