// How the terms of bilateral_propagation walk the channels: in groups of one vector.
#pragma once

#include <algorithm>

#include "bilateral_propagation.h"
#include "image.h"

namespace {

using Problem = pyeqgan::cpu::BilateralPropagation;

// f(first, count) for parts of `step` of [0, size), the last maybe smaller.
template <class F>
inline void for_parts(int64_t size, int64_t step, F f) {
  for (int64_t first = 0; first < size; first += step) f(first, std::min(step, size - first));
}

// The gates of one channel block, 1 without.
template <class T>
inline void gates(const Problem& p, int64_t image, int64_t channel, int64_t channels, Acc<T>* to) {
  if (p.gate == nullptr) return std::fill(to, to + channels, Acc<T>(1));
  const T* gate = static_cast<const T*>(p.gate) + image * p.channels + channel;
  for (int64_t i = 0; i < channels; ++i) to[i] = static_cast<Acc<T>>(gate[i]);
}

}  // namespace
