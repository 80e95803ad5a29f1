// What a convolution kernel does with its sums: bias before, statistics, activation and storing after. Only for kernel
// sources.
#pragma once

#include "windows.h"

namespace {

// The bias of one panel, or zero.
template <class T>
inline void load_bias(const Problem& p, int64_t channel, Acc<T>* to) {
  using A = Acc<T>;
  std::fill(to, to + kPanel<A>, A(0));
  if (p.bias == nullptr) return;
  const T* from = static_cast<const T*>(p.bias) + channel;
  for (int64_t i = 0; i < std::min(kPanel<A>, p.out_channels - channel); ++i) to[i] = static_cast<A>(from[i]);
}

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

// Stores one panel of a block's image.
template <class T>
void store_output(const Problem& p, const Block& block, int64_t image, int64_t channel, Acc<T>* pixels) {
  using A = Acc<T>;
  const int64_t pitch = 2 * p.tile_columns * kPanel<A>, channels = std::min(kPanel<A>, p.out_channels - channel);
  const int64_t first = 2 * block.first_row, rows = std::min(2 * block.rows, p.height - first);
  if (p.statistics != nullptr) {
    // Those of the values as they are stored: a constant channel then normalises to zero in any dtype.
    if constexpr (!std::is_same_v<T, A>)
      for (int64_t i = 0; i < rows * pitch; ++i) pixels[i] = static_cast<A>(static_cast<T>(pixels[i]));
    A mean[kPanel<A>], deviations[kPanel<A>];
    moments(pixels, pitch, rows, p.width, mean, deviations);
    A* to = static_cast<A*>(p.statistics) + (image * p.blocks_per_image + block.number) * 2 * p.out_channels + channel;
    std::copy(mean, mean + channels, to);
    std::copy(deviations, deviations + channels, to + p.out_channels);
  }
  T* to = const_cast<T*>(channels_of<T>(p.output, p.output_strides, image, channel)) + first * p.output_strides.h;
  for (int64_t r = 0; r < rows; ++r, to += p.output_strides.h, pixels += pitch) {
    if (p.output_activation != Activation::kNone)
      for (A* v = pixels; v < pixels + p.width * kPanel<A>; v += kLanes<A>)
        activate(Vec<A>::loadu(v), p.output_activation, static_cast<A>(p.negative_slope)).store(v);
    store_row(to, p.output_strides, channels, p.width, pixels);
  }
}

}  // namespace
