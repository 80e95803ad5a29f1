// The part of an image that the kernels of modulated_norm work on: some pixels of one channel, or of a vector of
// channels where those lie together. Only for kernel sources.
#pragma once

#include <algorithm>

#include "../vec.h"
#include "modulated_norm.h"

namespace {

using Problem = pyeqgan::cpu::ModulatedNorm;

template <class A>
struct Tile {
  Tile(const Problem& p, int64_t image, int64_t index, int64_t channel)
      : planes(!p.channels_last),
        image(image),
        channel(channel),
        channels(planes ? 1 : std::min(kLanes<A>, p.channels - channel)),
        begin(index * p.tile_pixels),
        end(std::min(begin + p.tile_pixels, p.pixels)),
        sums(p.sums + (image * p.tiles + index) * 2 * p.channels + channel) {}

  // Where the channels' pixel 0 lies.
  template <class T>
  T* of(T* data, const Problem::Strides& s) const {
    return data == nullptr ? nullptr : data + image * s.image + channel * s.channel;
  }

  // Calls f(pixel, lanes) for each vector: of consecutive pixels, or of one pixel's channels.
  template <class F>
  void each(const F& f) const {
    const std::integral_constant<int64_t, kLanes<A>> all;  // a constant: conversions of whole vectors are unrolled
    const int64_t step = planes ? kLanes<A> : 1;
    int64_t i = begin;
    if (planes || channels == kLanes<A>)
      for (; i + step <= end; i += step) f(i, all);
    for (; i < end; i += step) f(i, planes ? end - i : channels);
  }

  // A vector's lanes added up by channel.
  void write(const Vec<A>& vector, double* to) const {
    A lanes[kLanes<A>];
    vector.store(lanes);
    std::fill(to, to + channels, 0);
    for (int64_t i = 0; i < (planes ? kLanes<A> : channels); ++i) to[planes ? 0 : i] += lanes[i];
  }

  // A number for each of the channels.
  template <class N>
  Vec<A> spread(const N* numbers) const {
    A lanes[kLanes<A>] = {};
    for (int64_t i = 0; i < kLanes<A>; ++i)
      if (planes || i < channels) lanes[i] = static_cast<A>(numbers[planes ? 0 : i]);
    return Vec<A>::loadu(lanes);
  }

  bool planes;
  int64_t image, channel, channels, begin, end;
  double* sums;
};

// x̂, 1 + gamma and beta of a tile; `maps`: gamma and beta differ from pixel to pixel.
template <class T, bool maps>
class Modulation {
  using A = Acc<T>;

 public:
  Modulation(const Problem& p, const Tile<A>& tile)
      : x_(tile.of(static_cast<const T*>(p.x), p.strides)), pixel_(p.strides.pixel) {
    if (p.mean != nullptr) {
      const int64_t at = (p.per_image ? tile.image * p.channels : 0) + tile.channel;
      mean_ = tile.spread(static_cast<const A*>(p.mean) + at);
      const Vec<A> var = tile.spread(static_cast<const A*>(p.var) + at);
      scale = Vec<A>(A(1)) / (var + Vec<A>(static_cast<A>(p.eps))).sqrt();
    }
    if constexpr (maps) {
      gamma_ = tile.of(static_cast<const T*>(p.gamma), p.gamma_strides);
      beta_ = tile.of(static_cast<const T*>(p.beta), p.beta_strides);
      gamma_pixel_ = p.gamma_strides.pixel, beta_pixel_ = p.beta_strides.pixel;
    } else {
      const int64_t at = tile.image * p.channels + tile.channel;
      factor_ = Vec<A>(A(1)) + tile.spread(static_cast<const A*>(p.gamma) + at);
      shift_ = tile.spread(static_cast<const A*>(p.beta) + at);
    }
  }

  template <class N>
  Vec<A> normalised(int64_t i, N n) const {
    return (load(x_ + i * pixel_, n) - mean_) * scale;
  }
  template <class N>
  Vec<A> factor(int64_t i, N n) const {
    if constexpr (maps) return Vec<A>(A(1)) + load(gamma_ + i * gamma_pixel_, n);
    return factor_;
  }
  template <class N>
  Vec<A> shift(int64_t i, N n) const {
    if constexpr (maps) return load(beta_ + i * beta_pixel_, n);
    return shift_;
  }

  Vec<A> scale{A(1)};  // 1/sqrt(var + eps)

 private:
  const T *x_, *gamma_ = nullptr, *beta_ = nullptr;
  int64_t pixel_, gamma_pixel_ = 0, beta_pixel_ = 0;
  Vec<A> mean_{A(0)}, factor_{A(1)}, shift_{A(0)};
};

}  // namespace
