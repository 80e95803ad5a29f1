// y = act((x - mean)/sqrt(var + eps)·weight + bias) and its gradient, statistics those of x or given.
//
// With z the activation's input and dz = grad_y·act'(z), the gradient of x is
// weight/sqrt(var + eps)·(dz - mean(dz) - x̂·mean(dz·x̂)), without the two means where the statistics are given.
#include <cmath>

#include "activation.h"
#include "normalization.h"

namespace {

using Problem = pyeqgan::cpu::Normalization;

// Vectors whose lanes belong to the same channels: one channel (channel by channel) or a vector of them (channels
// last).
template <class A>
struct Run {
  int64_t image, chunk, channel, lanes;
  bool broadcast;
  int64_t offset, step, count, elements;

  template <class F>
  void each(const F& f) const {
    for (int64_t j = 0; j < count; ++j)
      f(offset + j * step, broadcast ? std::min(kLanes<A>, elements - j * step) : lanes);
  }

  Vec<A> read(const void* from, int64_t at) const {
    const A* values = static_cast<const A*>(from) + at;
    return broadcast ? Vec<A>(*values) : load(values, lanes);
  }

  // Adds up what belongs to each channel.
  void write(A* to, const Vec<A>& sums) const {
    if (!broadcast) return sums.store(to, static_cast<int>(lanes));
    A parts[kLanes<A>];
    sums.store(parts);
    *to = 0;
    for (const A part : parts) *to += part;
  }
};

// Calls f for each run of an item.
template <class A, class F>
inline void for_runs(const Problem& p, int64_t item, const F& f) {
  if (!p.channels_last) {
    f(Run<A>{item / p.channels, 0, item % p.channels, 1, true, item * p.pixels, kLanes<A>,
             (p.pixels + kLanes<A> - 1) / kLanes<A>, p.pixels});
    return;
  }
  const int64_t image = item / p.chunks, chunk = item % p.chunks, first = chunk * Problem::kChunk;
  const int64_t count = std::min(Problem::kChunk, p.pixels - first);
  for (int64_t c = 0; c < p.channels; c += kLanes<A>)
    f(Run<A>{image, chunk, c, std::min(kLanes<A>, p.channels - c), false, (image * p.pixels + first) * p.channels + c,
             p.channels, count, 0});
}

// What turns x into x̂ = (x - mean)·scale and z = x̂·weight + bias.
template <class A>
struct Affine {
  Affine(const Problem& p, const Run<A>& run) {
    if (p.grad_shift != nullptr) shift = run.read(p.grad_shift, run.image * p.channels + run.channel);
    if (!p.norm) return;
    const int64_t at = (p.per_image ? run.image * p.channels : 0) + run.channel;
    mean = run.read(p.mean, at);
    scale = Vec<A>(A(1)) / (run.read(p.var, at) + Vec<A>(static_cast<A>(p.eps))).sqrt();
    if (p.weight != nullptr) weight = run.read(p.weight, run.channel);
    if (p.bias != nullptr) bias = run.read(p.bias, run.channel);
  }
  Vec<A> normalised(const Vec<A>& x) const { return (x - mean) * scale; }
  Vec<A> mean{A(0)}, scale{A(1)}, weight{A(1)}, bias{A(0)};
  Vec<A> shift{A(0)};  // of the gradient
};

template <class T>
void statistics_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const A* moments = static_cast<const A*>(p.moments);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t first = p.per_image ? row : 0, last = p.per_image ? row + 1 : p.batch;
    const double total = static_cast<double>((last - first) * p.pixels);
    for (int64_t c = 0; c < p.channels; ++c) {
      const auto each = [&](const auto& f) {
        for (int64_t i = first * p.parts; i < last * p.parts; ++i) {
          const A* part = moments + i * 2 * p.channels + c;
          f(static_cast<double>(std::min(p.part_pixels, p.pixels - i % p.parts * p.part_pixels)), part[0],
            part[p.channels]);
        }
      };
      double mean = 0, deviations = 0;
      each([&](double count, double centre, double) { mean += count * centre; });
      mean /= total;
      each([&](double count, double centre, double squares) {
        deviations += squares + count * (centre - mean) * (centre - mean);
      });
      static_cast<A*>(p.mean)[row * p.channels + c] = static_cast<A>(mean);
      static_cast<A*>(p.var)[row * p.channels + c] = static_cast<A>(deviations / total);
    }
  }
}

template <class T>
void forward_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const T* x = static_cast<const T*>(p.x);
  T* y = static_cast<T*>(p.y);
  const A slope = static_cast<A>(p.negative_slope);
  for (int64_t item = begin; item < end; ++item) {
    for_runs<A>(p, item, [&](const Run<A>& run) {
      const Affine<A> affine(p, run);
      Vec<A> sum(A(0));
      run.each([&](int64_t at, int64_t n) {
        const Vec<A> z = at::vec::fmadd(affine.normalised(load(x + at, n)), affine.weight, affine.bias);
        const Vec<A> value = activate(z, p.activation, slope);
        if (y != nullptr) store(y + at, value, n);
        if (p.pooled != nullptr) sum = sum + first(value, n);
      });
      if (p.pooled != nullptr)
        run.write(static_cast<A*>(p.pooled) + (run.image * p.chunks + run.chunk) * p.channels + run.channel, sum);
    });
  }
}

// grad_y·act'(z) of n elements; without normalisation x is y.
template <class T>
inline Vec<Acc<T>> after_norm(const Problem& p, const Affine<Acc<T>>& affine, const Vec<Acc<T>>& x, int64_t at,
                              int64_t n) {
  using A = Acc<T>;
  Vec<A> grad = load(static_cast<const T*>(p.grad_y) + at, n);
  if (p.grad_shift != nullptr) grad = first(grad + affine.shift, n);
  if (!p.norm && p.activation == Activation::kTanh) return grad * (Vec<A>(A(1)) - x * x);
  const Vec<A> z = at::vec::fmadd(affine.normalised(x), affine.weight, affine.bias);
  return times_slope(grad, z, p.activation, static_cast<A>(p.negative_slope));
}

template <class T>
void sums_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const T* x = static_cast<const T*>(p.x);
  for (int64_t item = begin; item < end; ++item) {
    for_runs<A>(p, item, [&](const Run<A>& run) {
      const Affine<A> affine(p, run);
      Vec<A> plain(A(0)), weighted(A(0));
      run.each([&](int64_t at, int64_t n) {
        const Vec<A> value = load(x + at, n), grad = after_norm<T>(p, affine, value, at, n);
        plain = plain + grad;
        weighted = at::vec::fmadd(grad, affine.normalised(value), weighted);
      });
      A* to = static_cast<A*>(p.sums) + (run.image * p.chunks + run.chunk) * 2 * p.channels + run.channel;
      run.write(to, plain);
      run.write(to + p.channels, weighted);
    });
  }
}

template <class T>
void means_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const double count = static_cast<double>((p.per_image ? 1 : p.batch) * p.pixels);
  for (int64_t c = begin; c < end; ++c) {
    for (int64_t which = 0; which < 2; ++which) {
      double total = 0;
      const auto write_mean = [&](int64_t row, double sum) {
        static_cast<A*>(p.means)[(row * 2 + which) * p.channels + c] = static_cast<A>(sum / count);
      };
      for (int64_t b = 0; b < p.batch; ++b) {
        double sum = 0;
        for (int64_t k = 0; k < p.chunks; ++k)
          sum += static_cast<const A*>(p.sums)[((b * p.chunks + k) * 2 + which) * p.channels + c];
        if (p.per_image) write_mean(b, sum);
        total += sum;
      }
      if (!p.per_image) write_mean(0, total);
      void* grad = which == 0 ? p.grad_bias : p.grad_weight;
      if (grad != nullptr) static_cast<A*>(grad)[c] = static_cast<A>(total);
    }
  }
}

template <class T>
void input_gradient_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const T* x = static_cast<const T*>(p.x);
  T* grad_x = static_cast<T*>(p.grad_x);
  for (int64_t item = begin; item < end; ++item) {
    for_runs<A>(p, item, [&](const Run<A>& run) {
      const Affine<A> affine(p, run);
      const Vec<A> factor = affine.scale * affine.weight;
      if (!p.norm || p.constant_statistics) {
        run.each([&](int64_t at, int64_t n) {
          store(grad_x + at, after_norm<T>(p, affine, load(x + at, n), at, n) * factor, n);
        });
        return;
      }
      const int64_t row = (p.per_image ? run.image * 2 * p.channels : 0) + run.channel;
      const Vec<A> plain = run.read(p.means, row), weighted = run.read(p.means, row + p.channels);
      run.each([&](int64_t at, int64_t n) {
        const Vec<A> value = load(x + at, n), grad = after_norm<T>(p, affine, value, at, n);
        store(grad_x + at, (grad - plain - weighted * affine.normalised(value)) * factor, n);
      });
    });
  }
}

template <class T>
constexpr pyeqgan::cpu::NormalizationKernels::Typed kernels() {
  return {statistics_items<T>, forward_items<T>, sums_items<T>, means_items<T>, input_gradient_items<T>};
}

}  // namespace

namespace pyeqgan::cpu {

const NormalizationKernels PYEQGAN_TABLE(pyeqgan_normalization) = {kernels<float>(), kernels<double>(),
                                                                   kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
