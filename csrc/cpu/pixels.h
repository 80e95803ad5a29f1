// Rows of an image in scratch memory, one panel of channels at a time: pixel w's channels at [w][kPanel]. Element type
// and memory layout of the image are dealt with here, and nowhere else. Only for kernel sources.
#pragma once

#include "panels.h"
#include "strides.h"
#include "vec.h"

namespace {

using pyeqgan::cpu::Strides;

// Lane j of vector i changes places with lane i of vector j: log2 rounds of perfect shuffles.
template <class A>
inline void transpose(Vec<A>* rows) {
  constexpr int64_t kHalf = kLanes<A> / 2;
#pragma GCC unroll 4
  for (int64_t round = 1; round < kLanes<A>; round *= 2) {
    Vec<A> shuffled[kLanes<A>];
#pragma GCC unroll 16
    for (int64_t i = 0; i < kHalf; ++i) {
      const auto pair = at::vec::interleave2(rows[i], rows[i + kHalf]);
      shuffled[2 * i] = pair.first;
      shuffled[2 * i + 1] = pair.second;
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes<A>; ++i) rows[i] = shuffled[i];
  }
}

// Columns of a (rows × columns) matrix, both at most kLanes, as vectors over its rows; lanes beyond are 0.
template <class T>
inline void load_columns(const T* from, int64_t row_stride, int64_t rows, int64_t columns, Vec<Acc<T>>* to) {
  using A = Acc<T>;
  for (int64_t i = 0; i < kLanes<A>; ++i) to[i] = i < rows ? load(from + i * row_stride, columns) : Vec<A>(A(0));
  transpose<A>(to);
}

// channels <= kPanel of the pixels of one row; lanes of further channels become 0.
template <class T>
inline void load_row(const T* from, const Strides& s, int64_t channels, int64_t width, Acc<T>* to) {
  using A = Acc<T>;
  for (int64_t first = 0; first < kPanel<A>; first += kLanes<A>) {
    const int64_t lanes = std::clamp<int64_t>(channels - first, 0, kLanes<A>);
    A* target = to + first;
    if (s.c == 1) {
      for (int64_t w = 0; w < width; ++w, target += kPanel<A>) load(from + w * s.w + first, lanes).store(target);
      continue;
    }
    for (int64_t w = 0; w < width; w += kLanes<A>) {
      const int64_t pixels = std::min(kLanes<A>, width - w);
      Vec<A> columns[kLanes<A>];
      load_columns(from + first * s.c + w, s.c, lanes, pixels, columns);
      for (int64_t i = 0; i < pixels; ++i, target += kPanel<A>) columns[i].store(target);
    }
  }
}

template <class T>
inline void store_row(T* to, const Strides& s, int64_t channels, int64_t width, const Acc<T>* from) {
  using A = Acc<T>;
  for (int64_t first = 0; first < channels; first += kLanes<A>) {
    const int64_t lanes = std::min(channels - first, kLanes<A>);
    const A* source = from + first;
    if (s.c == 1) {
      for (int64_t w = 0; w < width; ++w, source += kPanel<A>)
        store(to + w * s.w + first, Vec<A>::loadu(source), lanes);
      continue;
    }
    for (int64_t w = 0; w < width; w += kLanes<A>) {
      const int64_t pixels = std::min(kLanes<A>, width - w);
      Vec<A> rows[kLanes<A>];
      for (int64_t i = 0; i < kLanes<A>; ++i) rows[i] = Vec<A>::loadu(source + std::min(i, pixels - 1) * kPanel<A>);
      transpose<A>(rows);
      for (int64_t i = 0; i < lanes; ++i) store(to + (first + i) * s.c + w, rows[i], pixels);
      source += pixels * kPanel<A>;
    }
  }
}

// `channels` of a bias from `channel` on; those of further lanes, and of a bias that is null, become 0.
template <class T>
inline void load_bias(const T* bias, int64_t channel, int64_t channels, Acc<T>* to) {
  using A = Acc<T>;
  std::fill(to, to + kPanel<A>, A(0));
  for (int64_t i = 0; bias != nullptr && i < std::min(kPanel<A>, channels); ++i)
    to[i] = static_cast<A>(bias[channel + i]);
}

}  // namespace
