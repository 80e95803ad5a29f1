// The spatial term of bilateral_propagation: y = A_H v A_Wᵀ, and its gradient A_Hᵀ g A_W.
//
// A channel block is laid out as pixels of whole vectors of channels, so that both passes shift by whole vectors. The
// truncated Gaussian is applied unnormalised; the weight that lies inside the map is divided out after it (forward) or
// before it (backward).
#pragma once

#include "channels.h"
#include "smoother.h"

namespace {

template <class T, bool backward>
class Spatial {
 public:
  using A = Acc<T>;

  explicit Spatial(const Problem& p)
      : p_(p),
        columns_(p.height, p.sigma, p.radius),
        rows_(p.width, p.sigma, p.radius),
        pixel_((std::min(p.channel_block(), p.channels) + kLanes<A> - 1) / kLanes<A> * kLanes<A>),
        // Odd in vectors, so that a column does not fall on few sets of the cache.
        pitch_(p.width * pixel_ + kLanes<A>),
        window_(std::min(p.height, 2 * columns_.radius() + 4 * columns_.rows())),
        gate_(pixel_),
        panel_(window_ * pitch_),
        filtered_(columns_.rows() * pitch_),
        row_(pitch_) {}

  void run(int64_t image, int64_t channel, int64_t channels) {
    gates<T>(p_, image, channel, channels, gate_.get());
    // Rows [top, bottom) of the map are in the panel.
    int64_t top = 0, bottom = 0;
    for (int64_t block = 0; block < p_.height; block += columns_.rows()) {
      const int64_t first = columns_.block(block), last = first + columns_.rows();
      const int64_t needed = std::min(p_.height, last + columns_.radius());
      if (needed - top > window_) {
        const int64_t next = first - columns_.radius();
        std::copy(panel_.get() + (next - top) * pitch_, panel_.get() + (bottom - top) * pitch_, panel_.get());
        top = next;
      }
      for (; bottom < needed; ++bottom)
        read_row(image, channel, channels, bottom, panel_.get() + (bottom - top) * pitch_);
      const A* from = panel_.get() + (first - top) * pitch_;
      for (int64_t w = 0; w < p_.width; ++w)
        for (int64_t i = w * pixel_; i < w * pixel_ + channels; i += kLanes<A>)
          columns_.filter(first, from + i, pitch_, filtered_.get() + i, pitch_);
      for (int64_t r = first; r < last; ++r) {
        from = filtered_.get() + (r - first) * pitch_;
        for (int64_t w = 0; w < p_.width; w += rows_.rows()) {
          const int64_t start = rows_.block(w) * pixel_;
          for (int64_t i = start; i < start + channels; i += kLanes<A>)
            rows_.filter(rows_.block(w), from + i, pixel_, row_.get() + i, pixel_);
        }
        write_row(image, channel, channels, r);
      }
    }
  }

 private:
  // The squares of one row of a channel block: f(channel, first column, channels, columns).
  template <class F>
  void for_squares(int64_t channels, F f) const {
    for_parts(p_.width, kLanes<A>, [&](int64_t w, int64_t columns) {
      for_parts(channels, kLanes<A>, [&](int64_t c, int64_t count) { f(c, w, count, columns); });
    });
  }

  void read_row(int64_t image, int64_t channel, int64_t channels, int64_t r, A* to) const {
    const Strides& s = backward ? p_.grad_y_strides : p_.x_strides;
    const T* from = static_cast<const T*>(backward ? p_.grad_y : p_.x) + image * s.b + channel * s.c + r * s.h;
    for_squares(channels, [&](int64_t c, int64_t w, int64_t count, int64_t columns) {
      const Vec<A> gate = load(gate_.get() + c, count);
      read_square(from + w * s.w + c * s.c, Side{count, s.c}, Side{columns, s.w}, s.h,
                  [&](int64_t i, const Vec<A>& value) {
                    const Vec<A> factor = backward ? Vec<A>(columns_.inverse(r) * rows_.inverse(w + i)) : gate;
                    (value * factor).store(to + (w + i) * pixel_ + c);
                  });
    });
  }

  void write_row(int64_t image, int64_t channel, int64_t channels, int64_t r) const {
    using To = std::conditional_t<backward, A, T>;
    const Strides& s = backward ? p_.x_strides : p_.y_strides;
    To* to = static_cast<To*>(backward ? p_.grad_v : p_.y) + image * s.b + channel * s.c + r * s.h;
    for_squares(channels, [&](int64_t c, int64_t w, int64_t count, int64_t columns) {
      write_square(to + w * s.w + c * s.c, Side{count, s.c}, Side{columns, s.w}, s.h, [&](int64_t i) {
        const Vec<A> value = Vec<A>::loadu(row_.get() + (w + i) * pixel_ + c);
        return backward ? value : value * Vec<A>(columns_.inverse(r) * rows_.inverse(w + i));
      });
    });
  }

  const Problem& p_;
  const Gaussian<A> columns_, rows_;
  const int64_t pixel_, pitch_, window_;
  Scratch<A> gate_, panel_, filtered_, row_;
};

// One item: a channel block of an image.
template <class T, bool backward>
void spatial_items(const Problem& p, int64_t begin, int64_t end) {
  Spatial<T, backward> spatial(p);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t channel = item % p.channel_blocks() * p.channel_block();
    spatial.run(item / p.channel_blocks(), channel, std::min(p.channel_block(), p.channels - channel));
  }
}

}  // namespace
