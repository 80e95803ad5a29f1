// y = act(z), z = x̂·(1 + gamma) + beta, x̂ = (x - mean)/sqrt(var + eps), and its gradients.
//
// With dz = grad_y·act'(z) and h = dz·(1 + gamma): grad_beta = dz, grad_gamma = dz·x̂, and where the statistics are
// those of x, grad_x = (h - mean(h) - x̂·mean(h·x̂))/sqrt(var + eps), else without the two means. z is worked out again
// from x, gamma and beta: nothing of the image's size is saved.
//
// Images that must pass the memory bus: forward x, gamma, beta and y; backward grad_y, x, gamma, beta and the three
// gradients. So it is where a channel of a group fits into the processor's cache (pixels lie together); where channels
// lie together forward reads x twice, backward all four.
#include "../convolution/activation.h"
#include "tile.h"

namespace {

// Mean and squared deviations of a tile of x: those from a mean that is rounded, which tell what it lacks (the
// corrected two-pass algorithm, Chan et al. 1983). Neither a large mean nor single far values cost precision.
template <class T>
void moments(const Problem& p, const Tile<Acc<T>>& tile) {
  using A = Acc<T>;
  const Input<T> x(tile, p.x, p.strides);
  const double count = static_cast<double>(tile.pixels);
  double rounded[Tile<A>::kRow], lacking[Tile<A>::kRow], squared[Tile<A>::kRow];
  Row<A> sum(A(0));
  tile.each([&](int64_t row, int64_t v, auto n) { sum[v] = sum[v] + x(row, v, n); });
  tile.write(sum, rounded);
  for (int64_t c = 0; c < tile.channels; ++c) rounded[c] = static_cast<A>(rounded[c] / count);
  const Row<A> middle = tile.spread(rounded);
  Row<A> differences(A(0)), squares(A(0));
  tile.each([&](int64_t row, int64_t v, auto n) {
    const Vec<A> difference = first<A>(x(row, v, n) - middle[v], n);
    differences[v] = differences[v] + difference;
    squares[v] = at::vec::fmadd(difference, difference, squares[v]);
  });
  tile.write(differences, lacking);
  tile.write(squares, squared);
  for (int64_t c = 0; c < tile.channels; ++c) {
    tile.sums[c] = rounded[c] + lacking[c] / count;
    tile.sums[c + p.channels] = std::max(0.0, squared[c] - lacking[c] * lacking[c] / count);
  }
}

// Mean and variance of a channel of a group.
template <class T>
void join_moments(const Problem& p, int64_t group, int64_t channel) {
  using A = Acc<T>;
  const auto each = [&](const auto& f) {
    for (int64_t image = group * p.group_images; image < (group + 1) * p.group_images; ++image)
      for (int64_t tile = 0; tile < p.tiles; ++tile) {
        const double* sums = p.sums + (image * p.tiles + tile) * 2 * p.channels + channel;
        f(static_cast<double>(std::min(p.tile_pixels, p.pixels - tile * p.tile_pixels)), sums[0], sums[p.channels]);
      }
  };
  const double total = static_cast<double>(p.group_images * p.pixels);
  double mean = 0, deviations = 0;
  each([&](double count, double centre, double) { mean += count * centre; });
  mean /= total;
  each([&](double count, double centre, double squares) {
    deviations += squares + count * (centre - mean) * (centre - mean);
  });
  static_cast<A*>(p.mean)[group * p.channels + channel] = static_cast<A>(mean);
  static_cast<A*>(p.var)[group * p.channels + channel] = static_cast<A>(deviations / total);
}

template <class T, bool maps>
void modulate(const Problem& p, const Tile<Acc<T>>& tile) {
  using A = Acc<T>;
  const Modulation<T, maps> modulation(p, tile);
  const Output<T> y(p, tile, p.y);
  const A slope = static_cast<A>(p.negative_slope);
  const Activation activation = p.activation;
  tile.each([&](int64_t row, int64_t v, auto n) {
    const Vec<A> normalised = modulation.normalised(row, v, n);
    const Vec<A> z = at::vec::fmadd(normalised, modulation.factor(row, v, n), modulation.shift(row, v, n));
    y(row, v, n, activate(z, activation, slope));
  });
}

// Calls f(row, vector, lanes, x̂, 1 + gamma, dz) for each vector of a tile.
template <class T, bool maps, class F>
inline void differentiate(const Problem& p, const Tile<Acc<T>>& tile, const Modulation<T, maps>& modulation,
                          const F& f) {
  using A = Acc<T>;
  const Input<T> grad_y(tile, p.grad_y, p.strides);
  const A slope = static_cast<A>(p.negative_slope);
  const Activation activation = p.activation;
  tile.each([&](int64_t row, int64_t v, auto n) {
    const Vec<A> normalised = modulation.normalised(row, v, n), factor = modulation.factor(row, v, n);
    const Vec<A> z = at::vec::fmadd(normalised, factor, modulation.shift(row, v, n));
    f(row, v, n, normalised, factor, times_slope(grad_y(row, v, n), z, activation, slope));
  });
}

// The gradients of maps, that of x by constant statistics, and the sums of h and h·x̂; dz in place of h without maps.
template <class T, bool maps>
void gradients(const Problem& p, const Tile<Acc<T>>& tile) {
  using A = Acc<T>;
  const Modulation<T, maps> modulation(p, tile);
  const Output<T> grad_x(p, tile, p.own_statistics ? nullptr : p.grad_x);
  const Output<T> grad_gamma(p, tile, maps ? p.grad_gamma : nullptr), grad_beta(p, tile, maps ? p.grad_beta : nullptr);
  Row<A> sum(A(0)), products(A(0));
  differentiate(
      p, tile, modulation,
      [&](int64_t row, int64_t v, auto n, const Vec<A>& normalised, const Vec<A>& factor, const Vec<A>& grad) {
        const Vec<A> h = grad * factor;
        grad_gamma(row, v, n, grad * normalised);
        grad_beta(row, v, n, grad);
        grad_x(row, v, n, h * modulation.scale[v]);
        sum[v] = sum[v] + (maps ? h : grad);
        products[v] = at::vec::fmadd(maps ? h : grad, normalised, products[v]);
      });
  tile.write(sum, tile.sums);
  tile.write(products, tile.sums + p.channels);
}

// What the gradient of x subtracts, and the gradients of gamma and beta that are no maps.
template <class T>
void join_sums(const Problem& p, int64_t group, int64_t channel) {
  using A = Acc<T>;
  double totals[2] = {0, 0};
  for (int64_t image = group * p.group_images; image < (group + 1) * p.group_images; ++image) {
    const int64_t at = image * p.channels + channel;
    const double factor = p.maps ? 1 : 1 + static_cast<double>(static_cast<const A*>(p.gamma)[at]);
    for (int64_t which = 0; which < 2; ++which) {
      double sum = 0;
      for (int64_t tile = 0; tile < p.tiles; ++tile)
        sum += p.sums[((image * p.tiles + tile) * 2 + which) * p.channels + channel];
      void* grad = p.maps ? nullptr : which == 0 ? p.grad_beta : p.grad_gamma;
      if (grad != nullptr) static_cast<A*>(grad)[at] = static_cast<A>(sum);
      totals[which] += factor * sum;
    }
  }
  for (int64_t which = 0; which < 2; ++which)
    p.means[(group * 2 + which) * p.channels + channel] =
        totals[which] / static_cast<double>(p.group_images * p.pixels);
}

// The gradient of x by its own statistics.
template <class T, bool maps>
void input_gradient(const Problem& p, const Tile<Acc<T>>& tile) {
  using A = Acc<T>;
  const Modulation<T, maps> modulation(p, tile);
  const double* means = p.means + tile.image / p.group_images * 2 * p.channels + tile.channel;
  const Row<A> mean = tile.spread(means), product = tile.spread(means + p.channels);
  const Output<T> grad_x(p, tile, p.grad_x);
  differentiate(
      p, tile, modulation,
      [&](int64_t row, int64_t v, auto n, const Vec<A>& normalised, const Vec<A>& factor, const Vec<A>& grad) {
        grad_x(row, v, n, (grad * factor - mean[v] - normalised * product[v]) * modulation.scale[v]);
      });
}

template <class T>
struct Forward {
  using A = Acc<T>;
  static void first(const Problem& p, const Tile<A>& tile) { moments<T>(p, tile); }
  static void join(const Problem& p, int64_t group, int64_t channel) { join_moments<T>(p, group, channel); }
  static void last(const Problem& p, const Tile<A>& tile) {
    (p.maps ? modulate<T, true> : modulate<T, false>)(p, tile);
  }
};

template <class T>
struct Backward {
  using A = Acc<T>;
  static void first(const Problem& p, const Tile<A>& tile) {
    (p.maps ? gradients<T, true> : gradients<T, false>)(p, tile);
  }
  static void join(const Problem& p, int64_t group, int64_t channel) { join_sums<T>(p, group, channel); }
  static void last(const Problem& p, const Tile<A>& tile) {
    (p.maps ? input_gradient<T, true> : input_gradient<T, false>)(p, tile);
  }
};

template <class Steps>
void channels_items(const Problem& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item / p.channels, channel = item % p.channels;
    const auto tiles = [&](const auto& step) {
      for (int64_t image = group * p.group_images; image < (group + 1) * p.group_images; ++image)
        for (int64_t tile = 0; tile < p.tiles; ++tile) step(p, {p, image, tile, channel});
    };
    if (p.first) tiles(Steps::first);
    if (p.join) Steps::join(p, group, channel);
    if (p.last) tiles(Steps::last);
  }
  finish_streams();
}

template <class A>
inline void run_tiles(void (*step)(const Problem&, const Tile<A>&), const Problem& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item)
    for (int64_t channel = 0; channel < p.channels; channel += Tile<A>::kRow)
      step(p, {p, item / p.tiles, item % p.tiles, channel});
  finish_streams();
}

template <class Steps>
void first_items(const Problem& p, int64_t begin, int64_t end) {
  run_tiles<typename Steps::A>(Steps::first, p, begin, end);
}

template <class Steps>
void join_items(const Problem& p, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) Steps::join(p, item / p.channels, item % p.channels);
}

template <class Steps>
void last_items(const Problem& p, int64_t begin, int64_t end) {
  run_tiles<typename Steps::A>(Steps::last, p, begin, end);
}

template <class Steps>
constexpr pyeqgan::cpu::ModulatedNormKernels::Steps steps() {
  return {channels_items<Steps>, first_items<Steps>, join_items<Steps>, last_items<Steps>};
}

template <class T>
constexpr pyeqgan::cpu::ModulatedNormKernels::Typed kernels() {
  return {steps<Forward<T>>(), steps<Backward<T>>()};
}

}  // namespace

namespace pyeqgan::cpu {

const ModulatedNormKernels PYEQGAN_TABLE(pyeqgan_modulated_norm) = {kernels<float>(), kernels<double>(),
                                                                    kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
