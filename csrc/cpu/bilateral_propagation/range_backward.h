// The gradient of the range term, in gather form, added to that of the spatial term:
// dv_p = Σ_k a_qp g_q + s'(v_p) Σ_k (dz_pq + dz_qp) s(v_q), q the neighbour k of p.
#pragma once

#include "band.h"

namespace {

template <class T>
class RangeBackward {
 public:
  using A = Acc<T>;

  explicit RangeBackward(const Problem& p)
      : p_(p),
        block_(std::min(p.channel_block(), p.channels)),
        values_(p, block_, 2),
        grads_(p, block_, 1),
        affinity_(p, 9, 1),
        dz_(p, 9, 1),
        gate_(block_),
        gate_sums_(block_ * kLanes<A>) {}

  void run(int64_t item) {
    const Band band(p_, item);
    correlate_gradients(band);
    differentiate_softmax(band);
    for_parts(p_.channels, block_, [&](int64_t channel, int64_t channels) {
      gather(band, channel, channels);
      if (p_.grad_gates != nullptr) totals(static_cast<A*>(p_.grad_gates) + item * p_.channels + channel, channels);
    });
  }

 private:
  // Where a pixel lies in x and its gradients.
  int64_t image(const Band& band, int64_t channel, int64_t r, int64_t w) const {
    const Strides& s = p_.x_strides;
    return band.image * s.b + channel * s.c + r * s.h + w * s.w;
  }

  // The rows of the map whose pixels are in the band or its neighbours.
  int64_t first_row(const Band& band) const { return std::max<int64_t>(band.first - 1, 0); }
  int64_t last_row(const Band& band) const { return std::min(band.last + 1, p_.height); }

  void read(const Band& band, int64_t channel, int64_t channels) {
    gates<T>(p_, band.image, channel, channels, gate_.get());
    const Strides& s = p_.grad_y_strides;
    const T* grad_y = static_cast<const T*>(p_.grad_y) + band.image * s.b + (p_.channels + channel) * s.c;
    read_band<T>(p_, band, 2, static_cast<const T*>(p_.x) + image(band, channel, 0, 0), p_.x_strides, channels,
                 gate_.get(), values_);
    read_band<T>(p_, band, 1, grad_y, s, channels, nullptr, grads_);
  }

  // da_ij = Σ_c g_ic v_jc.
  void correlate_gradients(const Band& band) {
    dz_.clear();
    for_parts(p_.channels, block_, [&](int64_t channel, int64_t channels) {
      read(band, channel, channels);
      correlate<0>(p_, band, first_row(band), last_row(band), channels, grads_, values_, dz_);
    });
  }

  // dz_ij = a_ij (da_ij − Σ_k a_ik da_ik) / C in place.
  void differentiate_softmax(const Band& band) {
    const Vec<A> scale(A(1) / static_cast<A>(p_.channels));
    affinity_.clear();
    for (int64_t r = first_row(band); r < last_row(band); ++r) {
      for (int64_t w = 0; w < p_.width; w += kLanes<A>) {
        const int64_t n = std::min(kLanes<A>, p_.width - w);
        const A* from = static_cast<const A*>(p_.affinity) + (band.image * 9 * p_.height + r) * p_.width + w;
        A* dz = dz_.at(band, r, w);
        Vec<A> shares[9], mean(A(0));
#pragma GCC unroll 9
        for (int k = 0; k < 9; ++k) {
          shares[k] = load(from + k * p_.height * p_.width, n);
          shares[k].store(affinity_.at(band, r, w) + k * affinity_.plane());
          mean = fmadd(shares[k], Vec<A>::loadu(dz + k * dz_.plane()), mean);
        }
#pragma GCC unroll 9
        for (int k = 0; k < 9; ++k) {
          A* to = dz + k * dz_.plane();
          (shares[k] * (Vec<A>::loadu(to) - mean) * scale).store(to);
          // What a whole vector left beyond the map must not be read as a neighbour.
          std::fill(to + n, to + kLanes<A>, A(0));
        }
      }
    }
  }

  void gather(const Band& band, int64_t channel, int64_t channels) {
    if (p_.channels > block_) read(band, channel, channels);
    squash_band(p_, band, channels, values_, values_);
    std::fill(gate_sums_.get(), gate_sums_.get() + block_ * kLanes<A>, A(0));
    for (int64_t r = band.first; r < band.last; ++r) {
      for_parts(channels, kLanes<A>, [&](int64_t c, int64_t count) {
        for_parts(p_.width, kLanes<A>, [&](int64_t w, int64_t columns) {
          Vec<A> shares[9], pulls[9], square[kLanes<A>] = {};
          gather_weights(band, r, w, shares, pulls);
          gather_square(band, r, w, c, count, shares, pulls, square);
          finish_square(image(band, channel + c, r, w), c, columns, count, square);
        });
      });
    }
  }

  void gather_weights(const Band& band, int64_t r, int64_t w, Vec<A>* shares, Vec<A>* pulls) const {
    const A* a = affinity_.at(band, r, w);
    const A* dz = dz_.at(band, r, w);
#pragma GCC unroll 9
    for (int k = 0; k < 9; ++k) {
      const int64_t theirs = (8 - k) * dz_.plane() + neighbour(k, dz_.row());
      shares[k] = Vec<A>::loadu(a + theirs);
      pulls[k] = Vec<A>::loadu(dz + k * dz_.plane()) + Vec<A>::loadu(dz + theirs);
    }
  }

  // Two loops: the weights of one fill the registers.
  void gather_square(const Band& band, int64_t r, int64_t w, int64_t channel, int64_t channels, const Vec<A>* shares,
                     const Vec<A>* pulls, Vec<A>* square) const {
    const A* grad = grads_.at(band, r, w) + channel * grads_.plane();
    for (int64_t i = 0; i < channels; ++i) square[i] = blend(shares, grad + i * grads_.plane(), grads_.row());
    const A* squashed = values_.at(band, r, w) + channel * values_.plane();
    for (int64_t i = 0; i < channels; ++i, squashed += values_.plane()) {
      const Vec<A> s = Vec<A>::loadu(squashed);
      square[i] = fmadd(s * (Vec<A>(A(1)) - s), blend(pulls, squashed, values_.row()), square[i]);
    }
  }

  // Adds the gradient of the spatial term to a square, and makes of it the gradients asked for: as it lies in memory.
  void finish_square(int64_t at, int64_t c, int64_t columns, int64_t channels, Vec<A>* square) const {
    const Strides& s = p_.x_strides;
    const bool planar = s.w == 1;
    if (!planar) transpose<A>(square);
    const Side lanes{planar ? columns : channels, 1};
    const Side lines = planar ? Side{channels, s.c} : Side{columns, s.w};
    for (int64_t i = 0; i < lines.count; ++i, at += lines.stride) {
      // Of the next row: lines far apart are not foreseen by the processor.
      __builtin_prefetch(static_cast<const A*>(p_.grad_v) + at + s.h);
      __builtin_prefetch(static_cast<const T*>(p_.x) + at + s.h);
      const Vec<A> grad_v = square[i] + load(static_cast<const A*>(p_.grad_v) + at, lanes.count);
      if (p_.grad_gates != nullptr) {
        A* sum = gate_sums_.get() + (planar ? (c + i) * kLanes<A> : c);
        const Vec<A> x = load(static_cast<const T*>(p_.x) + at, lanes.count);
        fmadd(grad_v, x, Vec<A>::loadu(sum)).store(sum, lanes.count);
      }
      if (p_.grad_x != nullptr) {
        const Vec<A> gate = planar ? Vec<A>(gate_.get()[c + i]) : load(gate_.get() + c, channels);
        store(static_cast<T*>(p_.grad_x) + at, grad_v * gate, lanes.count);
      }
    }
  }

  // The sums of a planar image's channels are those of their vectors.
  void totals(A* to, int64_t channels) const {
    const int64_t lanes = p_.x_strides.w == 1 ? kLanes<A> : 1;
    for (int64_t i = 0; i < channels; ++i) {
      to[i] = 0;
      for (int64_t l = 0; l < lanes; ++l) to[i] += gate_sums_.get()[i * lanes + l];
    }
  }

  const Problem& p_;
  const int64_t block_;
  const Planes<A> values_, grads_;
  Planes<A> affinity_, dz_;
  Scratch<A> gate_, gate_sums_;
};

template <class T>
void range_backward_items(const Problem& p, int64_t begin, int64_t end) {
  RangeBackward<T> range(p);
  for (int64_t item = begin; item < end; ++item) range.run(item);
}

}  // namespace
