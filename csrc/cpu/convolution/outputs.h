// What a convolution kernel does with its sums: bias before, statistics, activation and storing after. Only for kernel
// sources.
#pragma once

#include "moments.h"
#include "windows.h"

namespace {

// Stores one panel of a block's image.
template <class T>
void store_output(const Problem& p, const Block& block, int64_t image, int64_t channel, Acc<T>* pixels) {
  using A = Acc<T>;
  const int64_t pitch = 2 * p.tile_columns * kPanel<A>, channels = std::min(kPanel<A>, p.out_channels - channel);
  const int64_t first = 2 * block.first_row, rows = std::min(2 * block.rows, p.height - first);
  if (p.statistics != nullptr) {
    round_to<T>(pixels, rows * pitch);
    store_moments(
        pixels, pitch, rows, p.width, channels, p.out_channels,
        static_cast<A*>(p.statistics) + (image * p.blocks_per_image + block.number) * 2 * p.out_channels + channel);
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
