// The separable, truncated, row-normalised Gaussian of the spatial propagation, on one plane of scratch memory.
#pragma once

#include <algorithm>
#include <cmath>

#include "image.h"
#include "scratch.h"

namespace {

// The Gaussian's taps exp(−k²/2σ²) for 0 <= k <= radius, and 1 / (their sum inside the map) for each position.
template <class A>
void gaussian(double sigma, int64_t radius, A* taps) {
  for (int64_t k = 0; k <= radius; ++k) taps[k] = static_cast<A>(std::exp(-double(k * k) / (2 * sigma * sigma)));
}

template <class A>
void inverse_weights(double sigma, int64_t radius, int64_t size, A* inverse) {
  for (int64_t i = 0; i < size; ++i) {
    double sum = 0;
    for (int64_t j = std::max<int64_t>(0, i - radius); j < std::min(size, i + radius + 1); ++j)
      sum += std::exp(-double((i - j) * (i - j)) / (2 * sigma * sigma));
    inverse[i] = static_cast<A>(1 / sum);
  }
}

// Filters the planes of one channel block. Forward: A_H v A_Wᵀ, the weights divided out after the filter;
// backward: A_Hᵀ g A_W, divided out before it.
template <class A>
class Smoother {
 public:
  Smoother(int64_t height, int64_t width, double sigma, int64_t radius)
      : height_(height),
        width_(width),
        // Taps beyond the map never meet an element of it.
        row_radius_(std::min(radius, std::max<int64_t>(width - 1, 0))),
        column_radius_(std::min(radius, std::max<int64_t>(height - 1, 0))),
        tile_(make_tile<A>(height, width, row_radius_)),
        taps_(std::max(row_radius_, column_radius_) + 1),
        inverse_rows_(height),
        inverse_columns_(tile_.row),
        filtered_(height * tile_.row) {
    gaussian(sigma, std::max(row_radius_, column_radius_), taps_.get());
    inverse_weights(sigma, radius, height, inverse_rows_.get());
    std::fill(inverse_columns_.get(), inverse_columns_.get() + tile_.row, A(0));
    inverse_weights(sigma, radius, width, inverse_columns_.get() + tile_.margin);
  }

  const Tile& tile() const { return tile_; }

  template <bool backward>
  void run(A* plane) const {
    const A* taps = taps_.get();
    const A* columns = inverse_columns_.get() + tile_.margin;
    if constexpr (backward) {
      for (int64_t r = 0; r < height_; ++r) {
        const Vec<A> row_weight(inverse_rows_.get()[r]);
        A* row = plane + r * tile_.row + tile_.margin;
        for (int64_t w = 0; w < width_; w += kLanes<A>)
          (Vec<A>::loadu(row + w) * row_weight * Vec<A>::loadu(columns + w))
              .store(row + w, std::min(kLanes<A>, width_ - w));
      }
    }
    for (int64_t r = 0; r < height_; ++r) {
      const A* row = plane + r * tile_.row + tile_.margin;
      A* target = filtered_.get() + r * tile_.row + tile_.margin;
      for (int64_t w = 0; w < width_; w += kLanes<A>) {
        Vec<A> sum = Vec<A>::loadu(row + w) * Vec<A>(taps[0]);
        for (int64_t k = 1; k <= row_radius_; ++k)
          sum = fmadd(Vec<A>::loadu(row + w - k) + Vec<A>::loadu(row + w + k), Vec<A>(taps[k]), sum);
        sum.store(target + w);
      }
    }
    for (int64_t r = 0; r < height_; ++r) {
      const int64_t above = std::min(column_radius_, r), below = std::min(column_radius_, height_ - 1 - r);
      const Vec<A> row_weight(inverse_rows_.get()[r]);
      const A* row = filtered_.get() + r * tile_.row + tile_.margin;
      A* target = plane + r * tile_.row + tile_.margin;
      for (int64_t w = 0; w < width_; w += kLanes<A>) {
        Vec<A> sum = Vec<A>::loadu(row + w) * Vec<A>(taps[0]);
        for (int64_t k = 1; k <= above; ++k) sum = fmadd(Vec<A>::loadu(row + w - k * tile_.row), Vec<A>(taps[k]), sum);
        for (int64_t k = 1; k <= below; ++k) sum = fmadd(Vec<A>::loadu(row + w + k * tile_.row), Vec<A>(taps[k]), sum);
        if constexpr (!backward) sum = sum * row_weight * Vec<A>::loadu(columns + w);
        sum.store(target + w, std::min(kLanes<A>, width_ - w));
      }
    }
  }

 private:
  int64_t height_, width_, row_radius_, column_radius_;
  Tile tile_;
  Scratch<A> taps_, inverse_rows_, inverse_columns_, filtered_;
};

}  // namespace
