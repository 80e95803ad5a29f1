// How the tap by tap kernels see their images: rows of padded pixels. Only for kernel sources.
#pragma once

#include "windows.h"

namespace {

// A source as the taps see it: upsampled if it is to be, and padded.
struct Map {
  Map(const Problem& p, const Source& source)
      : shift(source.upsampled ? 1 : 0),
        height(source.height << shift),
        width(source.width << shift),
        padding(source.upsampled ? 1 : p.padding),
        columns(width + 2 * padding),
        mode(source.upsampled ? pyeqgan::cpu::Padding::kReflect : p.padding_mode) {}
  int64_t shift, height, width, padding, columns;
  pyeqgan::cpu::Padding mode;
};

inline int64_t taps(const Problem& p) { return p.kernel_height * p.kernel_width; }
inline int64_t window_rows(const Problem& p) { return 2 * p.block_rows + p.kernel_height - 1; }

// Room for the rows a block's taps reach, of one panel of any source.
inline int64_t window_columns(const Problem& p) {
  int64_t columns = 0;
  for (int64_t s = 0; s < p.source_count; ++s) columns = std::max(columns, Map(p, p.sources[s]).columns);
  return columns;
}

// Loads rows [first, first + rows) of a padded, activated map; `first` counts from the map's first row.
template <class T>
void load_rows(const Problem& p, const Source& source, int64_t image, int64_t channel, int64_t first, int64_t rows,
               Acc<T>* line, Acc<T>* to) {
  using A = Acc<T>;
  const Map map(p, source);
  const int64_t channels = std::min(kPanel<A>, source.channels - channel);
  const T* from = channels_of<T>(source.data, source.strides, image, channel);
  for (int64_t r = first; r < first + rows; ++r, to += map.columns * kPanel<A>) {
    const int64_t row = padded_index(r, map.height, map.padding, map.mode);
    if (row < 0) {
      std::fill(to, to + map.columns * kPanel<A>, A(0));
      continue;
    }
    load_row(from + (row >> map.shift) * source.strides.h, source.strides, channels, source.width, line);
    for (A* v = line; v < line + source.width * kPanel<A>; v += kLanes<A>)
      activate(Vec<A>::loadu(v), p.activation, static_cast<A>(p.negative_slope)).store(v);
    for (int64_t c = 0; c < map.columns; ++c) {
      const int64_t column = padded_index(c - map.padding, map.width, map.padding, map.mode);
      for (int64_t lane = 0; lane < kPanel<A>; ++lane)
        to[c * kPanel<A> + lane] = column < 0 ? A(0) : line[(column >> map.shift) * kPanel<A> + lane];
    }
  }
}

}  // namespace
