// Products of dense tiles in registers: c = scale·a·b, or c += a·b. Only for kernel sources.
#pragma once

#include "../vec.h"

namespace {

// A register tile: as many rows and vectors as keep the multipliers busy without spilling.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kTileRows = 8, kTileVectors = 2;
#elif defined(CPU_CAPABILITY_AVX2)
constexpr int kTileRows = 4, kTileVectors = 2;
#else
constexpr int kTileRows = 2, kTileVectors = 2;
#endif

// Columns of b and c are worked on in panels of this many.
template <class A>
constexpr int64_t kPanel = kTileVectors * kLanes<A>;

// Where the elements of a matrix lie: (i, j) at data[i·row + j·column].
template <class A>
struct Matrix {
  const A* data;
  int64_t row, column;
};

// Panels of b: (k, j) at data[j / kPanel · panel + k·row + j mod kPanel].
template <class A>
struct Panels {
  const A* data;
  int64_t row, panel;
};

template <class A>
inline void product_tile(int64_t depth, const Matrix<A>& a, const A* b, int64_t b_row, A* c, int64_t c_row,
                         const A* scale) {
  Vec<A> sums[kTileRows][kTileVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kTileRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v)
      sums[i][v] = scale == nullptr ? Vec<A>::loadu(c + i * c_row + v * kLanes<A>) : Vec<A>(A(0));
  const A* left = a.data;
  for (int64_t k = 0; k < depth; ++k, left += a.column, b += b_row) {
    Vec<A> right[kTileVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) right[v] = Vec<A>::loadu(b + v * kLanes<A>);
#pragma GCC unroll 8
    for (int i = 0; i < kTileRows; ++i) {
      const Vec<A> factor(left[i * a.row]);
#pragma GCC unroll 2
      for (int v = 0; v < kTileVectors; ++v) sums[i][v] = at::vec::fmadd(factor, right[v], sums[i][v]);
    }
  }
  const Vec<A> factor(scale == nullptr ? A(1) : *scale);
#pragma GCC unroll 8
  for (int i = 0; i < kTileRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) (sums[i][v] * factor).store(c + i * c_row + v * kLanes<A>);
}

// c (rows, columns), its rows c_row apart, = scale·a (rows, depth)·b (depth, columns), or += a·b if scale is null. Rows
// are rounded up to whole register tiles and columns to whole panels: a, b and c must reach so far.
//
// Not inlined: its loops need all registers.
template <class A>
[[gnu::noinline]] void product(int64_t rows, int64_t columns, int64_t depth, const Matrix<A>& a, const Panels<A>& b,
                               A* c, int64_t c_row, const A* scale) {
  for (int64_t j = 0; j < columns; j += kPanel<A>)
    for (int64_t i = 0; i < rows; i += kTileRows)
      product_tile<A>(depth, {a.data + i * a.row, a.row, a.column}, b.data + j / kPanel<A> * b.panel, b.row,
                      c + i * c_row + j, c_row, scale);
}

}  // namespace
