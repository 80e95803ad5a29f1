// The truncated Gaussian of the spatial propagation along one axis of a panel: pixels of kLanes channels each.
#pragma once

#include <algorithm>
#include <cmath>

#include "../scratch.h"
#include "../vec.h"

namespace {

// Unnormalised; `inverse(i)` is 1 / (the sum of the taps of position i that lie inside the map).
template <class A>
class Gaussian {
 public:
  Gaussian(int64_t size, double sigma, int64_t radius)
      : size_(size),
        // Taps beyond the map never meet an element of it.
        radius_(std::min(radius, size - 1)),
        rows_(2 * radius_ + 1 >= kRows && size >= kRows ? kRows : 1),
        taps_((2 * radius_ + rows_) * rows_),
        inverse_(size) {
    const auto tap = [&](int64_t distance) { return std::exp(-double(distance * distance) / (2 * sigma * sigma)); };
    for (int64_t t = 0; t < 2 * radius_ + rows_; ++t)
      for (int64_t i = 0; i < rows_; ++i) taps_.get()[t * rows_ + i] = static_cast<A>(tap(t - i - radius_));
    // sums(d) of the taps up to distance d on one side: a position has two sides.
    Scratch<double> sums(radius_ + 1);
    sums.get()[0] = 0;
    for (int64_t d = 1; d <= radius_; ++d) sums.get()[d] = sums.get()[d - 1] + tap(d);
    const auto side = [&](int64_t room) { return sums.get()[std::min(radius_, room)]; };
    for (int64_t i = 0; i < size; ++i) inverse_.get()[i] = static_cast<A>(1 / (1 + side(i) + side(size - 1 - i)));
  }

  A inverse(int64_t i) const { return inverse_.get()[i]; }
  int64_t radius() const { return radius_; }

  // Positions are filtered in blocks of rows(). The last block may overlap the one before it, of equal values.
  int64_t rows() const { return rows_; }
  int64_t block(int64_t i) const { return std::min(i, size_ - rows_); }

  // Filters positions [first, first + rows()): a vector of position first + i is at from + i * step, and goes to
  // to + i * to_step.
  void filter(int64_t first, const A* from, int64_t step, A* to, int64_t to_step) const {
    rows_ == 1 ? filter<1>(first, from, step, to, to_step) : filter<kRows>(first, from, step, to, to_step);
  }

 private:
  // As many sums as hide the latency of a multiply-add.
  static constexpr int kRows = 8;

  // The sums of a block meet elements t = 0, 1, … from position first - radius: at first the window of the upper sums
  // alone, then that of all, at last of the lower ones. No sum meets an element outside its window, not even times 0.
  template <int rows>
  void filter(int64_t first, const A* from, int64_t step, A* to, int64_t to_step) const {
    Vec<A> sums[rows];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) sums[i] = Vec<A>(A(0));
    const int64_t before = radius_ - first, after = size_ - first + radius_;  // t of positions 0 and size
    const auto element = [&](int64_t t) { return Vec<A>::loadu(from + (t - radius_) * step); };
#pragma GCC unroll 8
    for (int t = 0; t < rows - 1; ++t) {
      if (t < before) continue;
      const Vec<A> value = element(t);
#pragma GCC unroll 8
      for (int i = 0; i <= t; ++i) sums[i] = fmadd(value, Vec<A>(taps_.get()[t * rows + i]), sums[i]);
    }
    const int64_t full = 2 * radius_ + 1, last = std::min(full, after);
    for (int64_t t = std::max<int64_t>(rows - 1, before); t < last; ++t) {
      const Vec<A> value = element(t);
#pragma GCC unroll 8
      for (int i = 0; i < rows; ++i) sums[i] = fmadd(value, Vec<A>(taps_.get()[t * rows + i]), sums[i]);
    }
    const A* taps = taps_.get() + full * rows;
#pragma GCC unroll 8
    for (int t = 0; t < rows - 1; ++t) {
      if (full + t >= after) break;
      const Vec<A> value = element(full + t);
#pragma GCC unroll 8
      for (int i = t + 1; i < rows; ++i) sums[i] = fmadd(value, Vec<A>(taps[t * rows + i]), sums[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) sums[i].store(to + i * to_step);
  }

  int64_t size_, radius_, rows_;
  Scratch<A> taps_, inverse_;
};

}  // namespace
