// The range term of bilateral_propagation, forward: a band of rows passes twice, once for the similarities of
// neighbours, once for the blend.
#pragma once

#include "band.h"

namespace {

// Softmax over the neighbours of Σ_c s_ic s_jc / C, from the sums with neighbours 4..8: those with 0..3 are the
// neighbours' own.
template <class T>
void write_affinity(const Problem& p, const Band& band, const Planes<Acc<T>>& similarity) {
  using A = Acc<T>;
  const Vec<A> scale(A(1) / static_cast<A>(p.channels));
  A* affinity = static_cast<A*>(p.affinity) + band.image * 9 * p.height * p.width;
  for (int64_t r = band.first; r < band.last; ++r) {
    for (int64_t w = 0; w < p.width; w += kLanes<A>) {
      const A* own = similarity.at(band, r, w);
      // Similarities lie in [0, 1]: no maximum need be subtracted, and only a NaN, unknown to exp_u20, times 0 is not
      // 0.
      Vec<A> weights[9], total(A(0));
#pragma GCC unroll 9
      for (int k = 0; k < 9; ++k) {
        const A* sum = k < 4 ? own + (4 - k) * similarity.plane() + neighbour(k, similarity.row())
                             : own + (k - 4) * similarity.plane();
        const Vec<A> z = Vec<A>::loadu(sum) * scale;
        weights[k] = fmadd(z, Vec<A>(A(0)), z.exp_u20());
        total = total + weights[k];
      }
      const Vec<A> inverse = Vec<A>(A(1)) / total;
      A* to = affinity + r * p.width + w;
#pragma GCC unroll 9
      for (int k = 0; k < 9; ++k)
        (weights[k] * inverse).store(to + k * p.height * p.width, std::min(kLanes<A>, p.width - w));
    }
  }
}

// y_i = Σ_k a_ik v_k for a channel block in `planes`.
template <class T>
void write_blend(const Problem& p, const Band& band, int64_t channel, int64_t channels, const Planes<Acc<T>>& planes) {
  using A = Acc<T>;
  const Strides& s = p.y_strides;
  T* y = static_cast<T*>(p.y) + band.image * s.b + (p.channels + channel) * s.c;
  const A* affinity = static_cast<const A*>(p.affinity) + band.image * 9 * p.height * p.width;
  for (int64_t r = band.first; r < band.last; ++r) {
    for_parts(channels, kLanes<A>, [&](int64_t c, int64_t count) {
      for_parts(p.width, kLanes<A>, [&](int64_t w, int64_t columns) {
        Vec<A> shares[9];
#pragma GCC unroll 9
        for (int k = 0; k < 9; ++k) shares[k] = load(affinity + (k * p.height + r) * p.width + w, columns);
        const A* v = planes.at(band, r, w) + c * planes.plane();
        write_square(y + c * s.c + r * s.h + w * s.w, Side{columns, s.w}, Side{count, s.c}, s.h,
                     [&](int64_t i) { return blend(shares, v + i * planes.plane(), planes.row()); });
      });
    });
  }
}

// With `known` affinity only the blend.
template <class T, bool known>
void range_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t block = std::min(p.channel_block(), p.channels);
  Planes<A> values(p, block, 1), squashed(p, known ? 0 : block, 1), similarity(p, known ? 0 : 5, 1);
  Scratch<A> gate(block);
  for (int64_t item = begin; item < end; ++item) {
    const Band band(p, item);
    const auto read = [&](int64_t channel, int64_t channels) {
      const T* x = static_cast<const T*>(p.x) + band.image * p.x_strides.b + channel * p.x_strides.c;
      gates<T>(p, band.image, channel, channels, gate.get());
      read_band<T>(p, band, 1, x, p.x_strides, channels, gate.get(), values);
    };
    if constexpr (!known) {
      similarity.clear();
      for_parts(p.channels, block, [&](int64_t channel, int64_t channels) {
        read(channel, channels);
        squash_band(p, band, channels, values, squashed);
        const int64_t top = std::max<int64_t>(band.first - 1, 0);
        correlate<4>(p, band, top, band.last, channels, squashed, squashed, similarity);
      });
      write_affinity<T>(p, band, similarity);
    }
    for_parts(p.channels, block, [&](int64_t channel, int64_t channels) {
      if (known || p.channels > block) read(channel, channels);
      write_blend<T>(p, band, channel, channels, values);
    });
  }
}

}  // namespace
