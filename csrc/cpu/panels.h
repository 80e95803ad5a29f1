// Products of matrices whose columns lie in panels: element (row, column) at [column / kPanel][row][column mod kPanel].
// Only for kernel sources.
//
// A register tile of c is summed over the whole depth: its columns are the vectors of one panel of b, its rows are
// broadcast from a, either rows of a's panels (c = a·b) or, transposed, columns of one panel (c = aᵀ·b).
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "vec.h"

namespace {

template <class A>
constexpr int64_t kPanel = 2 * kLanes<A>;

// As many rows as the registers hold sums of, beside two vectors of b and one broadcast.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kTileRows = 14;
#elif defined(CPU_CAPABILITY_AVX2)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 3;
#endif

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class A>
inline int64_t panels(int64_t columns) {
  return divide_up(columns, kPanel<A>);
}

// Sums of more terms than these are made of parts, and so keep their precision.
constexpr int64_t kPart = 64;

// `a_panel` is the distance of a's panels; rows of b and c are kPanel apart.
template <class A>
using ProductTile = void (*)(int64_t depth, const A* a, int64_t a_panel, const A* b, A* c, bool add);

template <class A, bool transposed, int vectors, int rows>
void product_tile(int64_t depth, const A* a, int64_t a_panel, const A* b, A* c, bool add) {
  constexpr int64_t kRow = transposed ? 1 : kPanel<A>, kStep = transposed ? kPanel<A> : 1;
  constexpr int64_t kRun = transposed ? kPart : kPanel<A>;
  const int64_t next_run = transposed ? kPart * kPanel<A> : a_panel;
  do {
    Vec<A> sums[rows][vectors];
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sums[i][v] = Vec<A>(A(0));
    for (int64_t done = 0; done < kPart && depth > 0; done += kRun, depth -= kRun, a += next_run) {
      const A* left = a;
      for (int64_t k = std::min(kRun, depth); k > 0; --k, left += kStep, b += kPanel<A>) {
        Vec<A> right[vectors];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) right[v] = Vec<A>::loadu(b + v * kLanes<A>);
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) {
          const Vec<A> factor(left[i * kRow]);
#pragma GCC unroll 2
          for (int v = 0; v < vectors; ++v) sums[i][v] = at::vec::fmadd(factor, right[v], sums[i][v]);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) {
        A* to = c + i * kPanel<A> + v * kLanes<A>;
        (add ? Vec<A>::loadu(to) + sums[i][v] : sums[i][v]).store(to);
      }
    }
    add = true;
  } while (depth > 0);
}

template <class A, bool transposed, int vectors, class Rows>
struct ProductTiles;

template <class A, bool transposed, int vectors, int... rows>
struct ProductTiles<A, transposed, vectors, std::integer_sequence<int, rows...>> {
  static constexpr ProductTile<A> table[] = {product_tile<A, transposed, vectors, rows + 1>...};
};

// One panel of c (rows × columns, columns <= kPanel) = or += a (rows × depth) · b (depth × columns).
template <class A, bool transposed>
inline void product(int64_t rows, int64_t columns, int64_t depth, const A* a, int64_t a_panel, const A* b, A* c,
                    bool add) {
  using Rows = std::make_integer_sequence<int, kTileRows>;
  const ProductTile<A>* tiles =
      columns > kLanes<A> ? ProductTiles<A, transposed, 2, Rows>::table : ProductTiles<A, transposed, 1, Rows>::table;
  // Tiles of nearly equal height: a last one of few rows would wait for memory.
  for (int64_t i = 0, left = divide_up(rows, kTileRows); left > 0; --left) {
    const int64_t height = divide_up(rows - i, left);
    tiles[height - 1](depth, a + i * (transposed ? 1 : kPanel<A>), a_panel, b, c + i * kPanel<A>, add);
    i += height;
  }
}

}  // namespace
