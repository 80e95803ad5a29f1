// A band of rows of an image, as the range term of bilateral_propagation sees it: planes in scratch memory, one for
// each channel of a group, with zeros wherever a neighbour lies outside the map.
#pragma once

#include "../scratch.h"
#include "channels.h"

namespace {

// Rows [first, last) of one image.
struct Band {
  Band(const Problem& p, int64_t item)
      : image(item / p.bands()),
        first(item % p.bands() * p.band_rows()),
        last(std::min(first + p.band_rows(), p.height)) {}

  int64_t image, first, last;
};

// Planes of a band and `halo` rows on either side. The planes' rows of the same number lie together (few pages are in
// use at a time), a vector of zeros between them.
template <class A>
class Planes {
 public:
  Planes(const Problem& p, int64_t planes, int64_t halo)
      : halo_(halo),
        plane_((p.width + kLanes<A> - 1) / kLanes<A> * kLanes<A> + kLanes<A>),
        row_(planes * plane_),
        size_((p.band_rows() + 2 * halo) * row_ + kLanes<A>),
        data_(size_) {
    clear();
  }

  void clear() { std::fill(data_.get(), data_.get() + size_, A(0)); }

  int64_t row() const { return row_; }
  int64_t plane() const { return plane_; }

  // Element (r, w) of the image in the first plane.
  A* at(const Band& band, int64_t r, int64_t w) const {
    return data_.get() + kLanes<A> + (r - band.first + halo_) * row_ + w;
  }

 private:
  int64_t halo_, plane_, row_, size_;
  Scratch<A> data_;
};

template <class A>
inline Vec<A> squash(const Vec<A>& x) {
  // exp_u20 knows no NaN: a product with 0 does.
  const Vec<A> bounded = at::vec::clamp(x, Vec<A>(A(-1)), Vec<A>(A(1)));
  return Vec<A>(A(1)) / (fmadd(bounded, Vec<A>(A(0)), Vec<A>(A(1))) + x.neg().exp_u20());
}

// Reads channels, times their gates if there are any, `halo` rows around the band included.
template <class T>
void read_band(const Problem& p, const Band& band, int64_t halo, const T* from, const Strides& s, int64_t channels,
               const Acc<T>* gate, const Planes<Acc<T>>& planes) {
  using A = Acc<T>;
  for (int64_t r = band.first - halo; r < band.last + halo; ++r) {
    if (r < 0 || r >= p.height) {
      for (int64_t i = 0; i < channels; ++i) {
        A* row = planes.at(band, r, 0) + i * planes.plane();
        std::fill(row, row + p.width, A(0));
      }
      continue;
    }
    for_parts(p.width, kLanes<A>, [&](int64_t w, int64_t columns) {
      for_parts(channels, kLanes<A>, [&](int64_t c, int64_t count) {
        A* to = planes.at(band, r, w) + c * planes.plane();
        const T* square = from + c * s.c + r * s.h + w * s.w;
        read_square(square, Side{columns, s.w}, Side{count, s.c}, s.h, [&](int64_t i, const Vec<A>& value) {
          (gate == nullptr ? value : value * Vec<A>(gate[c + i])).store(to + i * planes.plane(), columns);
        });
      });
    });
  }
}

// The sigmoid of the channels in `from`, with one row around the band; 0 stays outside the map. In place, if wanted.
template <class A>
void squash_band(const Problem& p, const Band& band, int64_t channels, const Planes<A>& from, const Planes<A>& to) {
  for (int64_t r = band.first - 1; r < band.last + 1; ++r) {
    for (int64_t c = 0; c < channels; ++c) {
      const A* row = from.at(band, r, 0) + c * from.plane();
      A* squashed = to.at(band, r, 0) + c * to.plane();
      if (r < 0 || r >= p.height) {
        std::fill(squashed, squashed + p.width, A(0));
        continue;
      }
      for (int64_t w = 0; w < p.width; w += kLanes<A>)
        squash(Vec<A>::loadu(row + w)).store(squashed + w, std::min(kLanes<A>, p.width - w));
    }
  }
}

// Where neighbour k = 0..8 of an element lies in a plane.
inline int64_t neighbour(int k, int64_t row) { return (k / 3 - 1) * row + k % 3 - 1; }

// sums[k - first] += Σ_c a_c · b_c[neighbour k] for the neighbours k >= first of the pixels of rows [top, bottom).
// Channels in parts that stay in the nearest cache.
template <int first, class A>
void correlate(const Problem& p, const Band& band, int64_t top, int64_t bottom, int64_t channels, const Planes<A>& a,
               const Planes<A>& b, const Planes<A>& sums) {
  for_parts(channels, kLanes<A>, [&](int64_t channel, int64_t count) {
    for (int64_t r = top; r < bottom; ++r) {
      for (int64_t w = 0; w < p.width; w += kLanes<A>) {
        const A* left = a.at(band, r, w) + channel * a.plane();
        const A* right = b.at(band, r, w) + channel * b.plane();
        A* to = sums.at(band, r, w);
        Vec<A> sum[9 - first];
#pragma GCC unroll 9
        for (int k = 0; k < 9 - first; ++k) sum[k] = Vec<A>::loadu(to + k * sums.plane());
        for (int64_t c = 0; c < count; ++c, left += a.plane(), right += b.plane()) {
          const Vec<A> self = Vec<A>::loadu(left);
#pragma GCC unroll 9
          for (int k = first; k < 9; ++k)
            sum[k - first] = fmadd(self, Vec<A>::loadu(right + neighbour(k, b.row())), sum[k - first]);
        }
#pragma GCC unroll 9
        for (int k = 0; k < 9 - first; ++k) sum[k].store(to + k * sums.plane());
      }
    }
  });
}

// Σ_k weights[k] · from[neighbour k].
template <class A>
inline Vec<A> blend(const Vec<A>* weights, const A* from, int64_t row) {
  Vec<A> sum = weights[0] * Vec<A>::loadu(from + neighbour(0, row));
#pragma GCC unroll 9
  for (int k = 1; k < 9; ++k) sum = fmadd(weights[k], Vec<A>::loadu(from + neighbour(k, row)), sum);
  return sum;
}

}  // namespace
