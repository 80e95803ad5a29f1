// The scores s = q·k/τ of a pair of blocks, and what becomes of each. Only for kernel sources.
#pragma once

#include <algorithm>

#include "../scratch.h"
#include "contrastive_loss.h"
#include "product.h"

namespace {

using Problem = pyeqgan::cpu::ContrastiveLoss;
using Pair = pyeqgan::cpu::ContrastivePair;
using Side = pyeqgan::cpu::ContrastiveSide;
using Sums = pyeqgan::cpu::ContrastiveSums;

enum class Kind { kNegative, kPositive, kExcluded };

// Scores are computed in tiles of at most this many rows and columns, which stay in the cache.
constexpr int64_t kTile = 64;

template <class A>
class Scores {
 public:
  Scores(const Problem& p, A* memory, int64_t first_row, int64_t last_row, int64_t first_column, int64_t last_column)
      : first_row(first_row),
        last_row(last_row),
        first_column(first_column),
        last_column(last_column),
        mirrored(p.self && first_row != first_column),
        p_(p),
        scores_(memory) {}

  // An odd number of cache lines: the columns of a power of two would share few sets of the cache.
  static constexpr int64_t kStride = kTile + 64 / sizeof(A);
  static constexpr int64_t kSize = kTile * kStride;

  // Sorted places of the queries and keys that meet here.
  const int64_t first_row, last_row, first_column, last_column;
  // The columns are queries, too, and the rows their keys.
  const bool mirrored;

  int64_t rows() const { return last_row - first_row; }
  int64_t columns() const { return last_column - first_column; }

  // The scores of query r; those of key first_column + j at [j].
  A* row(int64_t r) const { return scores_ + (r - first_row) * kStride; }

  void compute() const { compute(first_row, last_row, first_column, last_column); }

  // Computes where positives are; false if there are none.
  bool compute_positives() const {
    bool found = false;
    for (int64_t r = first_row, end; r < last_row; r = end) {
      for (end = r + 1; end < last_row && p_.positives_begin[end] == p_.positives_begin[r]; ++end) continue;
      const int64_t left = clamp(p_.positives_begin[r]), right = clamp(p_.positives_end[end - 1]);
      if (left == right) continue;
      compute(r, end, left, right);
      found = true;
    }
    return found;
  }

  bool all_positive() const {
    return p_.positives_begin[first_row] <= first_column && p_.positives_end[first_row] >= last_column &&
           p_.positives_begin[last_row - 1] <= first_column && p_.positives_end[last_row - 1] >= last_column;
  }

  // Calls visit(kind, begin, end) for the spans of columns that the row of query r consists of.
  template <class Visit>
  void spans(int64_t r, const Visit& visit) const {
    const int64_t begin = clamp(p_.positives_begin[r]), end = clamp(p_.positives_end[r]);
    int64_t from = first_column;
    for (int64_t e = first_excluded(r);; ++e) {
      const bool found = e < p_.excluded_end[r] && p_.excluded[e] < last_column;
      const int64_t to = found ? p_.excluded[e] : last_column;
      const int64_t cuts[] = {from, std::clamp(begin, from, to), std::clamp(end, from, to), to, to + found};
      constexpr Kind kKinds[] = {Kind::kNegative, Kind::kPositive, Kind::kNegative, Kind::kExcluded};
      for (int i = 0; i < 4; ++i)
        if (cuts[i] < cuts[i + 1]) visit(kKinds[i], cuts[i] - first_column, cuts[i + 1] - first_column);
      if (!found) return;
      from = to + 1;
    }
  }

 private:
  int64_t clamp(int64_t column) const { return std::clamp(column, first_column, last_column); }

  // Computes at least the scores of these queries and keys.
  void compute(int64_t row, int64_t row_end, int64_t column, int64_t column_end) const {
    // Applied last: s_ij and s_ji are the same number to the last bit.
    const A scale = static_cast<A>(1 / p_.temperature);
    if constexpr (std::is_same_v<A, float>)
      if (p_.limbs) return compute_by_limbs(row, row_end, column, column_end, scale);
    row -= (row - first_row) % kTileRows;
    column -= (column - first_column) % kPanel<A>;
    product<A>(row_end - row, column_end - column, p_.channels,
               {static_cast<const A*>(p_.queries.rows) + row * p_.stride, p_.stride, 1},
               {static_cast<const A*>(p_.keys.panels) + column * p_.channels, kPanel<A>, kPanel<A> * p_.channels},
               this->row(row) + (column - first_column), kStride, &scale);
  }

  void compute_by_limbs(int64_t row, int64_t row_end, int64_t column, int64_t column_end, float scale) const {
    namespace unit = pyeqgan::cpu::matrix_unit;
    row -= (row - first_row) % unit::kTile;
    column -= (column - first_column) % unit::kDepth;
    for (int64_t c = column; c < column_end; c += unit::kDepth)
      unit::product(row_end - row, column_end - c, p_.channels, p_.queries.left + row / unit::kTile * unit::kBlock,
                    unit::left_size(p_.queries.padded()),
                    p_.keys.right + c / unit::kDepth * unit::deep_size(p_.channels),
                    this->row(row) + (c - first_column), kStride, false);
    const int64_t width = column_end - column;
    for (int64_t r = row; r < row_end; ++r)
      for (A* s = this->row(r) + (column - first_column); s < this->row(r) + (column - first_column) + width;
           s += kLanes<A>)
        (Vec<A>::loadu(s) * Vec<A>(scale)).store(s);
  }

  // The first excluded key of query r that is not before these columns.
  int64_t first_excluded(int64_t r) const {
    int64_t low = p_.excluded_begin[r], high = p_.excluded_end[r];
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (p_.excluded[middle] < first_column) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  const Problem& p_;
  A* scores_;
};

// Calls work(scores) for every tile of a pair of blocks; in self-contrast once for the tiles (I,J) and (J,I).
template <class A, class Work>
inline void for_each_tile(const Problem& p, Pair pair, const Work& work) {
  const Scratch<A> memory(Scores<A>::kSize);
  const int64_t row_end = p.queries.end(pair.queries), column_end = p.keys.end(pair.keys);
  const bool diagonal = p.self && pair.queries == pair.keys;
  for (int64_t row = p.queries.begin(pair.queries); row < row_end; row += kTile)
    for (int64_t column = diagonal ? row : p.keys.begin(pair.keys); column < column_end; column += kTile)
      work(Scores<A>(p, memory.get(), row, std::min(row + kTile, row_end), column,
                     std::min(column + kTile, column_end)));
}

// exp. The faster one is as precise, but takes neither NaN nor infinities.
template <class A, bool bounded>
inline Vec<A> exponential(const Vec<A>& x) {
  if constexpr (bounded) return x.exp_u20();
  return x.exp();
}

// The first n lanes of a vector, `otherwise` in those beyond.
template <class A>
inline Vec<A> keep(const Vec<A>& value, int64_t n, A otherwise = A(0)) {
  return n == kLanes<A> ? value : Vec<A>::set(Vec<A>(otherwise), value, n);
}

}  // namespace
