// Products of matrices whose sums stay in registers. Operands are taken as they lie: nothing is packed.

#pragma once

#include <cstdint>

#include "vectors.h"

// A tile of a product is 4 rows of so many vectors, in registers, of which there are 32 or 16.
constexpr int TILE_ROWS = 4;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int TILE_VECTORS = 4;
#else
constexpr int TILE_VECTORS = 2;
#endif
// Columns of a product come in multiples of this.
constexpr int64_t COLUMNS = 16;

// c += a · b, or c = a · b + initial if that is given: one value per row of c, `initial_step` apart.
//
// Up to TILE_ROWS rows of a, whose strides are arbitrary, and Vectors vectors of each of the K rows of b. Every element
// is added up in the order of k, wherever in a tile it lies.
template <class R, int Vectors>
void tile(const R* a, int64_t a_row, int64_t a_column, const R* b, int64_t b_row, int64_t K, R* c, int64_t c_row,
          int64_t rows, const R* initial, int64_t initial_step) {
    using V = typename Vector<R>::type;
    constexpr int64_t lanes = Vector<R>::lanes;
    const R* at[TILE_ROWS];
    V sum[TILE_ROWS][Vectors];
#pragma GCC unroll 4
    for (int i = 0; i < TILE_ROWS; ++i) {
        const int64_t row = i < rows ? i : rows - 1;  // rows that are missing repeat the last one
        at[i] = a + row * a_row;
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) {
            sum[i][j] = V{} + (initial ? initial[row * initial_step] : 0);
            __builtin_prefetch(c + row * c_row + j * lanes, 1);  // there by the time the products are
        }
    }
    for (int64_t k = 0; k < K; ++k) {
        V y[Vectors];
#pragma GCC unroll 4
        for (int j = 0; j < Vectors; ++j) y[j] = keep(load<V>(b + k * b_row + j * lanes));
#pragma GCC unroll 4
        for (int i = 0; i < TILE_ROWS; ++i) {
            const R x = at[i][k * a_column];
#pragma GCC unroll 4
            for (int j = 0; j < Vectors; ++j) sum[i][j] = fma<R>(x - V{}, y[j], sum[i][j]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < TILE_ROWS; ++i)
        if (i < rows)
#pragma GCC unroll 4
            for (int j = 0; j < Vectors; ++j) {
                R* to = c + i * c_row + j * lanes;
                store(initial ? sum[i][j] : sum[i][j] + load<V>(to), to);
            }
}

// As `tile`, for any number of rows, and of columns a multiple of COLUMNS.
template <class R, int Vectors = TILE_VECTORS>
void multiply(const R* a, int64_t a_row, int64_t a_column, const R* b, int64_t b_row, int64_t K, R* c, int64_t c_row,
              int64_t rows, int64_t columns, const R* initial, int64_t initial_step) {
    constexpr int64_t width = Vectors * Vector<R>::lanes;
    // Rows innermost: so many columns of b stay in the first-level cache.
    for (; columns >= width; columns -= width, b += width, c += width)
        for (int64_t i = 0; i < rows; i += TILE_ROWS)
            tile<R, Vectors>(a + i * a_row, a_row, a_column, b, b_row, K, c + i * c_row, c_row, rows - i,
                             initial ? initial + i * initial_step : nullptr, initial_step);
    if constexpr (width > COLUMNS)
        multiply<R, Vectors / 2>(a, a_row, a_column, b, b_row, K, c, c_row, rows, columns, initial, initial_step);
}

template <class R>
constexpr R ZERO = 0;
