// Mean and squared deviations of a panel of pixels, for the norm after a convolution. Only for kernel sources.
#pragma once

#include "../panels.h"

namespace {

// Mean and sum of squared deviations of the first `columns` pixels of `rows` rows, for each channel of a panel.
template <class A>
void moments(const A* pixels, int64_t pitch, int64_t rows, int64_t columns, A* mean, A* deviations) {
  for (int64_t lane = 0; lane < kPanel<A>; lane += kLanes<A>) {
    // Summed as differences from one of them: a large mean costs no precision.
    const Vec<A> pivot = Vec<A>::loadu(pixels + lane);
    Vec<A> sum(A(0)), squares(A(0));
    const auto each = [&](const auto& f) {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) f(Vec<A>::loadu(pixels + r * pitch + c * kPanel<A> + lane));
    };
    each([&](const Vec<A>& value) { sum = sum + (value - pivot); });
    const Vec<A> centre = pivot + sum / Vec<A>(static_cast<A>(rows * columns));
    each([&](const Vec<A>& value) { squares = at::vec::fmadd(value - centre, value - centre, squares); });
    centre.store(mean + lane);
    squares.store(deviations + lane);
  }
}

// As they will be stored: statistics are those of the stored values, and a constant channel normalises to zero.
template <class T>
inline void round_to(Acc<T>* values, int64_t count) {
  if constexpr (!std::is_same_v<T, Acc<T>>)
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<Acc<T>>(static_cast<T>(values[i]));
}

// The moments of `channels` of a panel into row `to` of the means and row `to + distance` of the squared deviations.
template <class A>
inline void store_moments(const A* pixels, int64_t pitch, int64_t rows, int64_t columns, int64_t channels,
                          int64_t distance, A* to) {
  A mean[kPanel<A>], deviations[kPanel<A>];
  moments(pixels, pitch, rows, columns, mean, deviations);
  std::copy(mean, mean + channels, to);
  std::copy(deviations, deviations + channels, to + distance);
}

// Mean and sum of squared deviations of one channel, whose `count` pixels fill rows of kPanel that are `distance`
// apart.
template <class A>
inline void moments_of_row(const A* row, int64_t distance, int64_t count, A* mean, A* deviations) {
  const A pivot = *row;
  const auto total = [&](const auto& f) {
    Vec<A> sum(A(0));
    for (int64_t first = 0; first < count; first += kLanes<A>) {
      const A* from = row + first / kPanel<A> * distance + first % kPanel<A>;
      const int64_t lanes = std::min(kLanes<A>, count - first);
      const Vec<A> value = f(load(from, lanes));
      sum = sum + (lanes == kLanes<A> ? value : Vec<A>::set(Vec<A>(A(0)), value, lanes));
    }
    A parts[kLanes<A>], result = 0;
    sum.store(parts);
    for (const A part : parts) result += part;
    return result;
  };
  const A centre = pivot + total([&](const Vec<A>& v) { return v - Vec<A>(pivot); }) / static_cast<A>(count);
  *mean = centre;
  *deviations = total([&](const Vec<A>& v) { return (v - Vec<A>(centre)) * (v - Vec<A>(centre)); });
}

}  // namespace
