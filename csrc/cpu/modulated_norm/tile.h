// The part of an image that the kernels of modulated_norm work on: some pixels of one channel, or of a few channels
// where those lie together. Only for kernel sources.
#pragma once

#include <algorithm>

#include "../stream.h"
#include "modulated_norm.h"

namespace {

using Problem = pyeqgan::cpu::ModulatedNorm;

// Vectors of a row: what lies together in memory, and as many sums as hide the latency of an addition.
constexpr int64_t kVectors = 4;

// A vector of sums or constants for each vector of a row.
template <class A>
struct Row {
  explicit Row(A value) { std::fill(vectors, vectors + kVectors, Vec<A>(value)); }
  Vec<A>& operator[](int64_t v) { return vectors[v]; }
  const Vec<A>& operator[](int64_t v) const { return vectors[v]; }
  Vec<A> vectors[kVectors];
};

// Rows are consecutive pixels of the channel, or each a pixel's channels.
template <class A>
struct Tile {
  static constexpr int64_t kRow = kVectors * kLanes<A>;

  Tile(const Problem& p, int64_t image, int64_t index, int64_t channel)
      : planes(!p.channels_last),
        image(image),
        channel(channel),
        channels(planes ? 1 : std::min(kRow, p.channels - channel)),
        first(index * p.tile_pixels),
        pixels(std::min(p.tile_pixels, p.pixels - first)),
        sums(p.sums + (image * p.tiles + index) * 2 * p.channels + channel) {}

  // Where its first row lies.
  template <class T>
  T* of(T* data, const Problem::Strides& s) const {
    return data == nullptr ? nullptr : data + image * s.image + channel * s.channel + first * s.pixel;
  }

  // How far apart rows are.
  int64_t step(const Problem::Strides& s) const { return planes ? kRow : s.pixel; }

  // Calls f(row, vector, lanes) for each vector.
  template <class F>
  void each(const F& f) const {
    const std::integral_constant<int64_t, kLanes<A>> all;  // a constant: conversions of whole vectors are unrolled
    const int64_t whole = planes ? pixels / kRow : channels == kRow ? pixels : 0;
    for (int64_t row = 0; row < whole; ++row)
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVectors; ++v) f(row, v, all);
    const int64_t width = planes ? pixels - whole * kRow : channels;
    for (int64_t row = whole; row < (planes ? whole + 1 : pixels); ++row)
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVectors; ++v)
        if (width > v * kLanes<A>) f(row, v, std::min(kLanes<A>, width - v * kLanes<A>));
  }

  // The lanes of a row added up by channel.
  void write(const Row<A>& row, double* to) const {
    A lanes[kRow];
    if (planes) {
      ((row[0] + row[1]) + (row[2] + row[3])).store(lanes);
      *to = 0;
      for (int64_t i = 0; i < kLanes<A>; ++i) *to += lanes[i];
    } else {
      for (int64_t v = 0; v < kVectors; ++v) row[v].store(lanes + v * kLanes<A>);
      std::copy(lanes, lanes + channels, to);
    }
  }

  // A number for each of the channels.
  template <class N>
  Row<A> spread(const N* numbers) const {
    if (planes) return Row<A>(static_cast<A>(*numbers));
    A lanes[kRow] = {};
    for (int64_t i = 0; i < channels; ++i) lanes[i] = static_cast<A>(numbers[i]);
    Row<A> row(A(0));
    for (int64_t v = 0; v < kVectors; ++v) row[v] = Vec<A>::loadu(lanes + v * kLanes<A>);
    return row;
  }

  bool planes;
  int64_t image, channel, channels, first, pixels;
  double* sums;
};

// A map of a tile that is read.
template <class T>
class Input {
 public:
  Input(const Tile<Acc<T>>& tile, const void* map, const Problem::Strides& s)
      : from_(tile.of(static_cast<const T*>(map), s)), step_(tile.step(s)) {}

  template <class N>
  Vec<Acc<T>> operator()(int64_t row, int64_t v, N n) const {
    return load(from_ + row * step_ + v * kLanes<Acc<T>>, n);
  }

 private:
  const T* from_;
  int64_t step_;
};

// A map of a tile that is written; nothing if it is null. Past the caches if it is more than they hold, else into lines
// asked for in time: a store waits for what was there before.
template <class T>
class Output {
  using A = Acc<T>;

 public:
  Output(const Problem& p, const Tile<A>& tile, void* map)
      : to_(tile.of(static_cast<T*>(map), p.strides)),
        step_(tile.step(p.strides)),
        past_(p.large && streams(to_) && step_ % kLanes<A> == 0) {}

  template <class N>
  void operator()(int64_t row, int64_t v, N n, const Vec<A>& value) const {
    if (to_ == nullptr) return;
    T* to = to_ + row * step_ + v * kLanes<A>;
    if constexpr (!std::is_same_v<N, int64_t>)
      if (past_) return stream(to, value);
    __builtin_prefetch(reinterpret_cast<const char*>(to) + kAhead, 1);
    store(to, value, n);
  }

 private:
  static constexpr int64_t kAhead = 2048;  // bytes

  T* to_;
  int64_t step_;
  bool past_;
};

// x̂, 1 + gamma and beta of a tile; `maps`: gamma and beta differ from pixel to pixel.
template <class T, bool maps>
class Modulation {
  using A = Acc<T>;

 public:
  Modulation(const Problem& p, const Tile<A>& tile)
      : x_(tile, p.x, p.strides),
        gamma_(tile, maps ? p.gamma : nullptr, p.gamma_strides),
        beta_(tile, maps ? p.beta : nullptr, p.beta_strides) {
    if (p.mean != nullptr) {
      const int64_t at = (p.per_image ? tile.image * p.channels : 0) + tile.channel;
      mean_ = tile.spread(static_cast<const A*>(p.mean) + at);
      const Row<A> var = tile.spread(static_cast<const A*>(p.var) + at);
      for (int64_t v = 0; v < kVectors; ++v)
        scale[v] = tile.planes && v > 0 ? scale[0] : Vec<A>(A(1)) / (var[v] + Vec<A>(static_cast<A>(p.eps))).sqrt();
    }
    if constexpr (!maps) {
      const int64_t at = tile.image * p.channels + tile.channel;
      factor_ = tile.spread(static_cast<const A*>(p.gamma) + at);
      for (Vec<A>& factor : factor_.vectors) factor = factor + Vec<A>(A(1));
      shift_ = tile.spread(static_cast<const A*>(p.beta) + at);
    }
  }

  template <class N>
  Vec<A> normalised(int64_t row, int64_t v, N n) const {
    return (x_(row, v, n) - mean_[v]) * scale[v];
  }
  template <class N>
  Vec<A> factor(int64_t row, int64_t v, N n) const {
    if constexpr (maps) return Vec<A>(A(1)) + gamma_(row, v, n);
    return factor_[v];
  }
  template <class N>
  Vec<A> shift(int64_t row, int64_t v, N n) const {
    if constexpr (maps) return beta_(row, v, n);
    return shift_[v];
  }

  Row<A> scale{A(1)};  // 1/sqrt(var + eps)

 private:
  const Input<T> x_, gamma_, beta_;
  Row<A> mean_{A(0)}, factor_{A(1)}, shift_{A(0)};
};

}  // namespace
