// Tiles of images in planar scratch memory of the accumulation type: dtype and memory
// layout are dealt with where a tile is loaded and stored, and nowhere else.
#pragma once

#include <algorithm>

#include "strides.h"
#include "vec.h"

namespace {

using pyeqgan::cpu::Strides;

// A planar tile: channel, row and column strides (channel, row, 1). Columns [-margin, 0) and [width, row) are zero.
struct Tile {
  int64_t channel, row, margin;
};

// A tile row holds `margin` zeros, `width` elements and zeros up to a whole vector and one margin more, so that
// vectors may be read at any shift of up to `margin`.
template <class A>
inline Tile make_tile(int64_t rows, int64_t width, int64_t margin) {
  const int64_t whole = (width + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
  const int64_t row = whole + 2 * margin;
  return {rows * row, row, margin};
}

// Load rows [first, last) of `channels` channels, times scale[channel] if given. Rows outside the map become zero.
// `from` points to the first channel at row 0.
template <class T>
inline void load_rows(const T* from, const Strides& s, int64_t channels, int64_t height, int64_t width, int64_t first,
                      int64_t last, const Acc<T>* scale, Acc<T>* to, const Tile& tile) {
  using A = Acc<T>;
  for (int64_t c = 0; c < channels; ++c) {
    const Vec<A> factor(scale == nullptr ? A(1) : scale[c]);
    for (int64_t r = first; r < last; ++r) {
      A* row = to + c * tile.channel + (r - first) * tile.row;
      if (r < 0 || r >= height) {
        std::fill(row, row + tile.row, A(0));
        continue;
      }
      std::fill(row, row + tile.margin, A(0));
      std::fill(row + tile.margin + width, row + tile.row, A(0));
      if (s.w != 1) continue;
      const T* source = from + c * s.c + r * s.h;
      for (int64_t w = 0; w < width; w += kLanes<A>) {
        const int64_t n = std::min(kLanes<A>, width - w);
        (load(source + w, n) * factor).store(row + tile.margin + w, n);
      }
    }
  }
  if (s.w == 1) return;
  for (int64_t r = std::max<int64_t>(first, 0); r < std::min(last, height); ++r) {
    A* row = to + (r - first) * tile.row + tile.margin;
    const T* source = from + r * s.h;
    for (int64_t w = 0; w < width; ++w) {
      for (int64_t c = 0; c < channels; ++c) {
        const A value = static_cast<A>(source[w * s.w + c * s.c]);
        row[c * tile.channel + w] = scale == nullptr ? value : value * scale[c];
      }
    }
  }
}

// Store rows [0, last - first) of a tile as rows [first, last) of the image, times scale[channel] if given.
template <class T>
inline void store_rows(T* to, const Strides& s, int64_t channels, int64_t width, int64_t first, int64_t last,
                       const Acc<T>* scale, const Acc<T>* from, const Tile& tile) {
  using A = Acc<T>;
  if (s.w == 1) {
    for (int64_t c = 0; c < channels; ++c) {
      const Vec<A> factor(scale == nullptr ? A(1) : scale[c]);
      for (int64_t r = first; r < last; ++r) {
        const A* row = from + c * tile.channel + (r - first) * tile.row + tile.margin;
        T* target = to + c * s.c + r * s.h;
        for (int64_t w = 0; w < width; w += kLanes<A>) {
          const int64_t n = std::min(kLanes<A>, width - w);
          store(target + w, Vec<A>::loadu(row + w, n) * factor, n);
        }
      }
    }
    return;
  }
  for (int64_t r = first; r < last; ++r) {
    const A* row = from + (r - first) * tile.row + tile.margin;
    T* target = to + r * s.h;
    for (int64_t w = 0; w < width; ++w) {
      for (int64_t c = 0; c < channels; ++c) {
        const A value = row[c * tile.channel + w];
        target[w * s.w + c * s.c] = static_cast<T>(scale == nullptr ? value : value * scale[c]);
      }
    }
  }
}

}  // namespace
