// The recurrence of matrix states (linear attention with decays) and its gradients on the CPU, for float and double.
//
//     S[t] = a[t]·S[t-1] + k[t]·v[t]ᵀ      o[t] = S[t]ᵀ·q[t]      a[t] = exp(g[t])
//
// Shapes: B batch, T time, H heads, K channels of keys and queries, V channels of values. Channels are adjacent in
// memory; batch, time and head strides of the arguments are arbitrary. Outputs are contiguous. No size is 0. The caller
// gives a workspace, of as many doubles as the pass says for the shape and the same number of threads.
//
// A chunk of steps is computed by products of matrices: with L[i][j] = a[j+1]·…·a[i] for j ≤ i, else 0,
//
//     o = (q·kᵀ ∘ L)·v + (e ∘ q)·S      S ← w·S + (l ∘ k)ᵀ·v      e[i] = a[0]·L[i][0], l[j] = L[last][j], w = e[last]
//
// where S is the state before the chunk. All factors are products of decays: nothing is divided, and no logarithms are
// subtracted, so a decay of 0 is exact. The backward pass is given nothing but the arguments: it keeps the state before
// every chunk, and then takes the chunks from the last to the first. A row of a batch and a head of it is one piece of
// work, and shares nothing with the others: bits do not depend on the number of threads.

#include <cstdint>
#include <cstring>

#include "products.h"
#include "vector_math.h"
#include "workspace.h"

namespace {

// Steps of a chunk; a multiple of COLUMNS.
constexpr int64_t CHUNK = 16;
// Rows of a triangular product that are given the same number of columns.
constexpr int64_t BAND = 2 * TILE_ROWS;
// With fewer states to compute per thread, waking another one costs more than it saves.
constexpr int64_t STATES_PER_THREAD = 65536;

// A sequence of one head, (T, channels).
template <class R>
struct Rows {
    const R* data;
    int64_t batch, time, head;
    Rows of(int64_t b, int64_t h) const { return {data + b * batch + h * head, 0, time, 0}; }
    const R* at(int64_t t) const { return data + t * time; }
};

struct Sizes {
    int64_t B, T, H, K, V;
    int64_t keys() const { return up(K, COLUMNS); }  // channels in the workspace, those beyond K are zeros
    int64_t values() const { return up(V, COLUMNS); }
    int64_t chunks() const { return (T + CHUNK - 1) / CHUNK; }
};

int useful(const Sizes& size, int threads) {
    int64_t enough = least(size.B * size.T * size.H * size.K * size.V / STATES_PER_THREAD, threads);
    enough = least(least(enough, size.B * size.H), MAX_THREADS);
    return enough < 1 ? 1 : static_cast<int>(enough);
}

template <class R>
struct Scan {
    Rows<R> query, key, value, log_decay;
    const R* initial;  // (B, H, K, V)
    Sizes size;
};

// c = a·b, or c += a·b with `add`.
template <class R>
void product(const R* a, int64_t a_row, int64_t a_column, const R* b, int64_t b_row, int64_t inner, R* c, int64_t c_row,
             int64_t rows, int64_t columns, bool add) {
    multiply<R>(a, a_row, a_column, b, b_row, inner, c, c_row, rows, columns, add ? nullptr : &ZERO<R>, 0);
}

// c += a·b for (CHUNK, CHUNK) a that has zeros above its diagonal, or below it with `Upper`.
template <bool Upper, class R>
void triangular(const R* a, int64_t a_row, int64_t a_column, const R* b, R* c, int64_t columns) {
    for (int64_t i = 0; i < CHUNK; i += BAND) {
        const int64_t first = Upper ? i : 0, inner = Upper ? CHUNK - i : i + BAND;
        product(a + i * a_row + first * a_column, a_row, a_column, b + first * columns, columns, inner, c + i * columns,
                columns, BAND, columns, true);
    }
}

// The first `steps` rows of a chunk, and zeros up to CHUNK rows of `width`.
template <class R>
void load_rows(const Rows<R>& from, int64_t start, int64_t steps, int64_t count, R* to, int64_t width) {
    for (int64_t i = 0; i < steps; ++i) {
        std::memcpy(to + i * width, from.at(start + i), count * sizeof(R));
        for (int64_t c = count; c < width; ++c) to[i * width + c] = 0;
    }
    std::memset(to + steps * width, 0, (CHUNK - steps) * width * sizeof(R));
}

template <class R>
void store_rows(const R* from, int64_t width, R* to, int64_t time, int64_t steps, int64_t count) {
    for (int64_t i = 0; i < steps; ++i) std::memcpy(to + i * time, from + i * width, count * sizeof(R));
}

template <class R>
void transpose(const R* __restrict from, int64_t rows, int64_t columns, R* __restrict to) {
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) to[j * rows + i] = from[i * columns + j];
}

// to = factor[row] · from.
template <class R>
void scale_rows(const R* __restrict factor, const R* __restrict from, R* __restrict to, int64_t width) {
    for (int64_t i = 0; i < CHUNK; ++i)
        for (int64_t c = 0; c < width; ++c) to[i * width + c] = factor[i] * from[i * width + c];
}

// Sum of x · y, always in the same order.
template <class R>
R dot(const R* __restrict x, const R* __restrict y, int64_t count) {
    R lanes[COLUMNS] = {};
    for (int64_t i = 0; i < count; i += COLUMNS)
        for (int64_t lane = 0; lane < COLUMNS; ++lane) lanes[lane] = math::fma(x[i + lane], y[i + lane], lanes[lane]);
    for (int64_t half = COLUMNS / 2; half; half /= 2)
        for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

// What the decays of a chunk come to.
template <class R>
struct Decays {
    alignas(64) R within[CHUNK * CHUNK];  // Lᵀ: a[j+1]·…·a[i] at [j][i]
    alignas(64) R enter[CHUNK], leave[CHUNK];
    R whole;

    // Steps behind the last one leave the state as it is.
    void read(const Rows<R>& log_decay, int64_t start, int64_t steps) {
        alignas(64) R decay[CHUNK] = {}, row[CHUNK] = {};
        for (int64_t i = 0; i < steps; ++i) decay[i] = *log_decay.at(start + i);
        for (int64_t i = 0; i < CHUNK; ++i) decay[i] = math::exp(decay[i]);
        for (int64_t j = CHUNK - 1; j >= 0; --j) {
            if (j + 1 < CHUNK)
                for (int64_t i = 0; i < CHUNK; ++i) row[i] *= decay[j + 1];
            row[j] = 1;
            std::memcpy(within + j * CHUNK, row, sizeof row);
            leave[j] = row[CHUNK - 1];
        }
        for (int64_t i = 0; i < CHUNK; ++i) enter[i] = decay[0] * row[i];
        whole = enter[CHUNK - 1];
    }
};

// A single step: what products of matrices would do for a whole chunk.
template <class R>
void step(const R* query, const R* key, const R* value, R decay, const R* initial, R* output, R* final, int64_t K,
          int64_t V) {
    std::memset(output, 0, V * sizeof(R));
    for (int64_t k = 0; k < K; ++k)
        for (int64_t v = 0; v < V; ++v) {
            const R state = math::fma(key[k], value[v], decay * initial[k * V + v]);
            final[k * V + v] = state;
            output[v] = math::fma(query[k], state, output[v]);
        }
}

// Doubles of a thread's memory. All numbers of elements are whole cache lines.
template <class R>
int64_t forward_memory(const Sizes& size) {
    const int64_t keys = size.keys(), values = size.values();
    return room<R>(3 * CHUNK * keys + 2 * CHUNK * values + CHUNK * CHUNK + keys * values);
}

template <class R>
void forward(const Scan<R>& scan, R* outputs, R* final, double* workspace, int threads, Parallel parallel) {
    const Sizes& size = scan.size;
    const int64_t T = size.T, H = size.H, K = size.K, V = size.V, keys = size.keys(), values = size.values();
    threads = useful(size, threads);
    for_each_with(workspace, forward_memory<R>(size), size.B * H, threads, parallel, [&](int64_t item, Memory memory) {
        const int64_t b = item / H, h = item % H;
        const Rows<R> query = scan.query.of(b, h), key = scan.key.of(b, h), value = scan.value.of(b, h),
                      log_decay = scan.log_decay.of(b, h);
        const R* initial = scan.initial + item * K * V;
        R *to = outputs + (b * T * H + h) * V, *last = final + item * K * V;
        if (T == 1)
            return step(query.at(0), key.at(0), value.at(0), math::exp(*log_decay.at(0)), initial, to, last, K, V);
        R *q = memory.take<R>(CHUNK * keys), *k = memory.take<R>(CHUNK * keys), *turned = memory.take<R>(CHUNK * keys),
          *v = memory.take<R>(CHUNK * values), *out = memory.take<R>(CHUNK * values),
          *weights = memory.take<R>(CHUNK * CHUNK), *state = memory.take<R>(keys * values);
        Decays<R> decays;
        std::memset(state, 0, keys * values * sizeof(R));
        store_rows(initial, V, state, values, K, V);
        for (int64_t start = 0; start < T; start += CHUNK) {
            const int64_t steps = least(CHUNK, T - start);
            decays.read(log_decay, start, steps);
            load_rows(query, start, steps, K, q, keys);
            load_rows(key, start, steps, K, k, keys);
            load_rows(value, start, steps, V, v, values);
            transpose(q, CHUNK, keys, turned);
            product(k, keys, 1, turned, CHUNK, keys, weights, CHUNK, CHUNK, CHUNK, false);
            for (int64_t i = 0; i < CHUNK * CHUNK; ++i) weights[i] *= decays.within[i];
            scale_rows(decays.enter, q, q, keys);
            product(q, keys, 1, state, values, keys, out, values, CHUNK, values, false);
            triangular<false>(weights, 1, CHUNK, v, out, values);
            store_rows(out, values, to + start * H * V, H * V, steps, V);
            scale_rows(decays.leave, k, k, keys);
            for (int64_t i = 0; i < keys * values; ++i) state[i] *= decays.whole;
            product(k, 1, keys, v, values, CHUNK, state, values, keys, values, true);
        }
        store_rows(state, values, last, V, K, V);
    });
}

// Of the arguments, in their shapes.
template <class R>
struct Gradients {
    R *query, *key, *value, *log_decay, *initial;
};

template <class R>
int64_t backward_memory(const Sizes& size) {
    const int64_t keys = size.keys(), values = size.values(), states = size.chunks() + 2;
    return room<R>(CHUNK * (5 * keys + 4 * values + 3 * CHUNK) + states * keys * values);
}

// The backward pass of one head. States and their gradients are (values, keys) here, so that they are rows for the
// products that give the gradients of queries and keys.
template <class R>
class Backward {
  public:
    Backward(const Scan<R>& scan, int64_t b, int64_t h, const Rows<R>& grad_outputs_, Memory memory)
        : size(scan.size),
          query(scan.query.of(b, h)),
          key(scan.key.of(b, h)),
          value(scan.value.of(b, h)),
          log_decay(scan.log_decay.of(b, h)),
          grad_outputs(grad_outputs_.of(b, h)) {
        R** by_keys[] = {&q, &k, &turned_q, &entering, &grad_rows};
        for (R** rows : by_keys) *rows = memory.take<R>(CHUNK * keys);
        R** by_values[] = {&v, &grad_out, &turned_grad, &grad_values};
        for (R** rows : by_values) *rows = memory.take<R>(CHUNK * values);
        R** squares[] = {&weights, &grad_weights, &moved};
        for (R** square : squares) *square = memory.take<R>(CHUNK * CHUNK);
        grad_state = memory.take<R>(keys * values);
        turned_grad_state = memory.take<R>(keys * values);
        states = memory.take<R>(keys * values * size.chunks());
    }

    void run(const R* initial, const R* grad_final, const Gradients<R>& out) {
        const int64_t chunks = size.chunks();
        load_turned(initial, states);
        for (int64_t c = 0; c + 1 < chunks; ++c) {
            const int64_t start = c * CHUNK;
            decays.read(log_decay, start, CHUNK);
            load_rows(key, start, CHUNK, size.K, k, keys);
            load_rows(value, start, CHUNK, size.V, v, values);
            scale_rows(decays.leave, k, k, keys);
            const R* before = states + c * keys * values;
            R* after = states + (c + 1) * keys * values;
            for (int64_t i = 0; i < keys * values; ++i) after[i] = decays.whole * before[i];
            product(v, 1, values, k, keys, CHUNK, after, keys, values, keys, true);
        }
        load_turned(grad_final, grad_state);
        for (int64_t c = chunks - 1; c >= 0; --c)
            chunk(c * CHUNK, least(CHUNK, size.T - c * CHUNK), states + c * keys * values, out);
        for (int64_t i = 0; i < size.K; ++i)
            for (int64_t j = 0; j < size.V; ++j) out.initial[i * size.V + j] = grad_state[j * keys + i];
    }

  private:
    void chunk(int64_t start, int64_t steps, const R* state, const Gradients<R>& out) {
        const int64_t K = size.K, V = size.V, time_k = size.H * K, time_v = size.H * V;
        alignas(64) R of_enter[CHUNK], of_leave[CHUNK];
        decays.read(log_decay, start, steps);
        load_rows(query, start, steps, K, q, keys);
        load_rows(key, start, steps, K, k, keys);
        load_rows(value, start, steps, V, v, values);
        load_rows(grad_outputs, start, steps, V, grad_out, values);
        transpose(q, CHUNK, keys, turned_q);
        transpose(grad_out, CHUNK, values, turned_grad);
        // Of L ∘ (q·kᵀ), transposed, and its gradient; and the part of each product that runs through L.
        product(k, keys, 1, turned_q, CHUNK, keys, weights, CHUNK, CHUNK, CHUNK, false);
        product(v, values, 1, turned_grad, CHUNK, values, grad_weights, CHUNK, CHUNK, CHUNK, false);
        for (int64_t i = 0; i < CHUNK * CHUNK; ++i) {
            const R weight = weights[i], gradient = grad_weights[i] * decays.within[i];
            moved[i] = weight * gradient;
            weights[i] = weight * decays.within[i];
            grad_weights[i] = gradient;
        }

        product(v, values, 1, grad_state, keys, values, grad_rows, keys, CHUNK, keys, false);
        scale_rows(decays.leave, grad_rows, grad_rows, keys);
        for (int64_t j = 0; j < CHUNK; ++j) of_leave[j] = dot(k + j * keys, grad_rows + j * keys, keys);
        triangular<true>(grad_weights, CHUNK, 1, q, grad_rows, keys);
        store_rows(grad_rows, keys, out.key + start * time_k, time_k, steps, K);

        product(grad_out, values, 1, state, keys, values, grad_rows, keys, CHUNK, keys, false);
        scale_rows(decays.enter, grad_rows, grad_rows, keys);
        for (int64_t i = 0; i < CHUNK; ++i) of_enter[i] = dot(q + i * keys, grad_rows + i * keys, keys);
        triangular<false>(grad_weights, 1, CHUNK, k, grad_rows, keys);
        store_rows(grad_rows, keys, out.query + start * time_k, time_k, steps, K);

        scale_rows(decays.leave, k, entering, keys);
        transpose(grad_state, values, keys, turned_grad_state);
        product(entering, keys, 1, turned_grad_state, values, keys, grad_values, values, CHUNK, values, false);
        triangular<true>(weights, CHUNK, 1, grad_out, grad_values, values);
        store_rows(grad_values, values, out.value + start * time_v, time_v, steps, V);

        of_decays(steps, decays.whole * dot(state, grad_state, keys * values), of_enter, of_leave,
                  out.log_decay + start * size.H);

        scale_rows(decays.enter, q, entering, keys);
        for (int64_t i = 0; i < keys * values; ++i) grad_state[i] *= decays.whole;
        product(grad_out, 1, values, entering, keys, CHUNK, grad_state, keys, values, keys, true);
    }

    // A decay acts on all that passes it: from a step before to its own or a later one, from before the chunk, and to
    // behind it. Each of these is added up for itself: differences of sums would leave rounding of what has faded.
    void of_decays(int64_t steps, R through, const R* of_enter, const R* of_leave, R* to) {
        alignas(64) R passing[CHUNK] = {}, entered[CHUNK];  // from before t to each later step
        R left = 0, later = 0;
        for (int64_t t = CHUNK - 1; t >= 0; --t) entered[t] = later += of_enter[t];
        for (int64_t t = 0; t < steps; ++t) {
            R within = 0;
            if (t > 0) {
                const R* row = moved + (t - 1) * CHUNK;
                R lanes[COLUMNS] = {};
                left += of_leave[t - 1];
                for (int64_t i = 0; i < CHUNK; ++i) passing[i] += row[i];
                passing[t - 1] = 0;
                for (int64_t i = 0; i < CHUNK; i += COLUMNS)
                    for (int64_t lane = 0; lane < COLUMNS; ++lane) lanes[lane] += passing[i + lane];
                for (int64_t half = COLUMNS / 2; half; half /= 2)
                    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
                within = lanes[0];
            }
            to[t * size.H] = within + (entered[t] + left) + through;
        }
    }

    // (K, V) of the caller as (values, keys).
    void load_turned(const R* from, R* to) const {
        std::memset(to, 0, keys * values * sizeof(R));
        for (int64_t i = 0; i < size.K; ++i)
            for (int64_t j = 0; j < size.V; ++j) to[j * keys + i] = from[i * size.V + j];
    }

    const Sizes size;
    const int64_t keys = size.keys(), values = size.values();
    const Rows<R> query, key, value, log_decay, grad_outputs;
    Decays<R> decays;
    R *q, *k, *turned_q, *entering, *grad_rows;
    R *v, *grad_out, *turned_grad, *grad_values;
    R *weights, *grad_weights, *moved;
    R *grad_state, *turned_grad_state, *states;
};

template <class R>
void backward(const Scan<R>& scan, const Rows<R>& grad_outputs, const R* grad_final, const Gradients<R>& out,
              double* workspace, int threads, Parallel parallel) {
    const int64_t T = scan.size.T, H = scan.size.H, K = scan.size.K, V = scan.size.V;
    threads = useful(scan.size, threads);
    for_each_with(workspace, backward_memory<R>(scan.size), scan.size.B * H, threads, parallel,
                  [&](int64_t item, Memory memory) {
                      const int64_t b = item / H, h = item % H, row = b * T * H + h;
                      Backward<R>(scan, b, h, grad_outputs, memory)
                          .run(scan.initial + item * K * V, grad_final + item * K * V,
                               {out.query + row * K, out.key + row * K, out.value + row * V, out.log_decay + row,
                                out.initial + item * K * V});
                  });
}

}  // namespace

#define ROWS(R, NAME) const R *NAME, int64_t NAME##_b, int64_t NAME##_t, int64_t NAME##_h
#define GIVEN(NAME) {NAME, NAME##_b, NAME##_t, NAME##_h}
#define ARGUMENTS(R)                                                                                          \
    ROWS(R, query), ROWS(R, key), ROWS(R, value), ROWS(R, log_decay), const R *initial, int64_t B, int64_t T, \
        int64_t H, int64_t K, int64_t V
#define SCAN(R)                                                                              \
    Scan<R> {                                                                                \
        GIVEN(query), GIVEN(key), GIVEN(value), GIVEN(log_decay), initial, { B, T, H, K, V } \
    }
#define MATRIX_SCAN(NAME, R)                                                                                          \
    extern "C" int64_t matrix_scan_forward_workspace_##NAME(int64_t B, int64_t T, int64_t H, int64_t K, int64_t V,    \
                                                            int threads) {                                            \
        return forward_memory<R>({B, T, H, K, V}) * useful({B, T, H, K, V}, threads);                                 \
    }                                                                                                                 \
    extern "C" int64_t matrix_scan_backward_workspace_##NAME(int64_t B, int64_t T, int64_t H, int64_t K, int64_t V,   \
                                                             int threads) {                                           \
        return backward_memory<R>({B, T, H, K, V}) * useful({B, T, H, K, V}, threads);                                \
    }                                                                                                                 \
    extern "C" void matrix_scan_forward_##NAME(ARGUMENTS(R), R* outputs, R* final, double* workspace, int threads,    \
                                               Parallel parallel) {                                                   \
        forward<R>(SCAN(R), outputs, final, workspace, threads, parallel);                                            \
    }                                                                                                                 \
    extern "C" void matrix_scan_backward_##NAME(ARGUMENTS(R), ROWS(R, grad_outputs), const R* grad_final,             \
                                                R* grad_query, R* grad_key, R* grad_value, R* grad_log_decay,         \
                                                R* grad_initial, double* workspace, int threads, Parallel parallel) { \
        backward<R>(SCAN(R), GIVEN(grad_outputs), grad_final,                                                         \
                    {grad_query, grad_key, grad_value, grad_log_decay, grad_initial}, workspace, threads, parallel);  \
    }

MATRIX_SCAN(float32, float)
MATRIX_SCAN(float64, double)
