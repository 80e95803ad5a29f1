// bilateral_propagation on the CPU: y = cat[A_H v A_Wᵀ, Σ_j a_ij v_j], v = gate·x, and its gradient.
//
// Spatial: a channel plane is loaded once into scratch memory, filtered along its rows, then along its columns; the
// truncated Gaussian is applied unnormalised and divided by the weight that lies inside the map.
// Range: a band of rows (and its halo) passes twice, once for the similarities of neighbours, once for the blend.
#include "bilateral_propagation.h"
#include "image.h"
#include "scratch.h"
#include "smoother.h"

namespace {

using Problem = pyeqgan::cpu::BilateralPropagation;

template <class T>
void gates(const Problem& p, int64_t image, int64_t channel, int64_t count, Acc<T>* to) {
  const T* gate = static_cast<const T*>(p.gate);
  for (int64_t c = 0; c < count; ++c)
    to[c] = gate == nullptr ? Acc<T>(1) : static_cast<Acc<T>>(gate[image * p.channels + channel + c]);
}

// One item: load a channel block, smooth its planes, store it.
template <class T, bool backward>
void spatial_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const Smoother<A> smoother(p.height, p.width, p.sigma, p.radius);
  const Tile& tile = smoother.tile();
  // Channels of an NCHW image are apart anyway: one at a time stays in the nearest cache.
  const int64_t step = p.x_strides.w == 1 && (!backward || p.grad_y_strides.w == 1) ? 1 : p.kChannelBlock;
  Scratch<A> planes(step * tile.channel);
  A gate[Problem::kChannelBlock];
  for (int64_t item = begin; item < end; ++item) {
    const int64_t b = item / p.channel_blocks();
    const int64_t first = item % p.channel_blocks() * p.kChannelBlock;
    const int64_t last = std::min(first + p.kChannelBlock, p.channels);
    for (int64_t c = first; c < last; c += step) {
      const int64_t n = std::min(step, last - c);
      if constexpr (backward) {
        const Strides& s = p.grad_y_strides;
        const T* grad_y = static_cast<const T*>(p.grad_y) + b * s.b + c * s.c;
        load_rows<T>(grad_y, s, n, p.height, p.width, 0, p.height, nullptr, planes.get(), tile);
      } else {
        gates<T>(p, b, c, n, gate);
        const T* x = static_cast<const T*>(p.x) + b * p.x_strides.b + c * p.x_strides.c;
        load_rows<T>(x, p.x_strides, n, p.height, p.width, 0, p.height, gate, planes.get(), tile);
      }
      for (int64_t i = 0; i < n; ++i) smoother.template run<backward>(planes.get() + i * tile.channel);
      if constexpr (backward) {
        A* grad_v = static_cast<A*>(p.grad_v) + b * p.x_strides.b + c * p.x_strides.c;
        store_rows<A>(grad_v, p.x_strides, n, p.width, 0, p.height, nullptr, planes.get(), tile);
      } else {
        T* y = static_cast<T*>(p.y) + b * p.y_strides.b + c * p.y_strides.c;
        store_rows<T>(y, p.y_strides, n, p.width, 0, p.height, nullptr, planes.get(), tile);
      }
    }
  }
}

// Sigmoid inside the map, 0 outside, for rows [first, last) held in a tile.
template <class A>
void squash(const A* v, A* to, const Tile& tile, int64_t height, int64_t width, int64_t first, int64_t last) {
  for (int64_t r = first; r < last; ++r) {
    const A* from = v + (r - first) * tile.row;
    A* row = to + (r - first) * tile.row;
    std::fill(row, row + tile.row, A(0));
    if (r < 0 || r >= height) continue;
    for (int64_t w = 0; w < width; w += kLanes<A>)
      sigmoid(Vec<A>::loadu(from + tile.margin + w)).store(row + tile.margin + w, std::min(kLanes<A>, width - w));
  }
}

// A band of rows with what its range term needs around it: planes of 9 numbers a pixel, one for each neighbour.
template <class T>
class Band {
 public:
  using A = Acc<T>;

  Band(const Problem& p, int64_t item, int64_t halo)
      : b(item / p.bands()),
        first(item % p.bands() * p.band_rows()),
        last(std::min(first + p.band_rows(), p.height)),
        halo_(halo) {}

  const int64_t b, first, last;
  int64_t top() const { return first - halo_; }
  int64_t bottom() const { return last + halo_; }

 private:
  int64_t halo_;
};

template <class T>
void range_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t rows = p.band_rows() + 2;
  const Tile tile = make_tile<A>(rows, p.width, 1);
  const int64_t step = p.x_strides.w == 1 ? 1 : p.kChannelBlock;
  Scratch<A> v(step * tile.channel), squashed(tile.channel), similarity(9 * tile.channel), blend(step * tile.channel);
  A gate[Problem::kChannelBlock];
  const A scale = A(1) / static_cast<A>(p.channels);
  for (int64_t item = begin; item < end; ++item) {
    const Band<T> band(p, item, 1);
    const T* x = static_cast<const T*>(p.x) + band.b * p.x_strides.b;
    std::fill(similarity.get(), similarity.get() + 9 * tile.channel, A(0));
    for (int64_t c = 0; c < p.channels; c += step) {
      const int64_t n = std::min(step, p.channels - c);
      gates<T>(p, band.b, c, n, gate);
      load_rows<T>(x + c * p.x_strides.c, p.x_strides, n, p.height, p.width, band.top(), band.bottom(), gate, v.get(),
                   tile);
      for (int64_t i = 0; i < n; ++i) {
        squash(v.get() + i * tile.channel, squashed.get(), tile, p.height, p.width, band.top(), band.bottom());
        for (int64_t r = band.first; r < band.last; ++r) {
          const A* centre = squashed.get() + (r - band.top()) * tile.row + 1;
          A* sums = similarity.get() + (r - band.first) * tile.row + 1;
          for (int64_t w = 0; w < p.width; w += kLanes<A>) {
            const Vec<A> self = Vec<A>::loadu(centre + w);
            for (int64_t k = 0; k < 9; ++k) {
              A* sum = sums + k * tile.channel + w;
              fmadd(self, Vec<A>::loadu(centre + w + (k / 3 - 1) * tile.row + k % 3 - 1), Vec<A>::loadu(sum))
                  .store(sum);
            }
          }
        }
      }
    }
    A* affinity = static_cast<A*>(p.affinity) + band.b * 9 * p.height * p.width;
    for (int64_t r = band.first; r < band.last; ++r) {
      for (int64_t w = 0; w < p.width; w += kLanes<A>) {
        A* sums = similarity.get() + (r - band.first) * tile.row + 1 + w;
        const int64_t n = std::min(kLanes<A>, p.width - w);
        // Similarities lie in [0, 1]: no maximum need be subtracted.
        Vec<A> weights[9], total(A(0));
        for (int64_t k = 0; k < 9; ++k) {
          weights[k] = (Vec<A>::loadu(sums + k * tile.channel) * Vec<A>(scale)).exp();
          total = total + weights[k];
        }
        for (int64_t k = 0; k < 9; ++k) {
          const Vec<A> share = weights[k] / total;
          share.store(sums + k * tile.channel);
          share.store(affinity + (k * p.height + r) * p.width + w, n);
        }
      }
    }
    for (int64_t c = 0; c < p.channels; c += step) {
      const int64_t n = std::min(step, p.channels - c);
      gates<T>(p, band.b, c, n, gate);
      load_rows<T>(x + c * p.x_strides.c, p.x_strides, n, p.height, p.width, band.top(), band.bottom(), gate, v.get(),
                   tile);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t r = band.first; r < band.last; ++r) {
          const A* centre = v.get() + i * tile.channel + (r - band.top()) * tile.row + 1;
          const A* shares = similarity.get() + (r - band.first) * tile.row + 1;
          A* target = blend.get() + i * tile.channel + (r - band.first) * tile.row + 1;
          for (int64_t w = 0; w < p.width; w += kLanes<A>) {
            Vec<A> sum(A(0));
            for (int64_t k = 0; k < 9; ++k)
              sum = fmadd(Vec<A>::loadu(shares + k * tile.channel + w),
                          Vec<A>::loadu(centre + w + (k / 3 - 1) * tile.row + k % 3 - 1), sum);
            sum.store(target + w, std::min(kLanes<A>, p.width - w));
          }
        }
      }
      T* y = static_cast<T*>(p.y) + band.b * p.y_strides.b + (p.channels + c) * p.y_strides.c;
      store_rows<T>(y, p.y_strides, n, p.width, band.first, band.last, nullptr, blend.get(), tile);
    }
  }
}

// Σ_c g_ic v_jc for rows [first − 1, last + 1) of a band and the 9 neighbours j of each pixel i, then
// dz_ij = a_ij (da_ij − Σ_k a_ik da_ik) / C in place. Zero outside the map.
template <class T>
void similarity_gradient(const Problem& p, const Band<T>& band, const Tile& tile, Acc<T>* v, Acc<T>* grad, Acc<T>* to) {
  using A = Acc<T>;
  const int64_t step = p.x_strides.w == 1 && p.grad_y_strides.w == 1 ? 1 : p.kChannelBlock;
  A gate[Problem::kChannelBlock];
  const T* x = static_cast<const T*>(p.x) + band.b * p.x_strides.b;
  const T* grad_y = static_cast<const T*>(p.grad_y) + band.b * p.grad_y_strides.b + p.channels * p.grad_y_strides.c;
  std::fill(to, to + 9 * tile.channel, A(0));
  const int64_t first = std::max<int64_t>(band.first - 1, 0), last = std::min(band.last + 1, p.height);
  for (int64_t c = 0; c < p.channels; c += step) {
    const int64_t n = std::min(step, p.channels - c);
    gates<T>(p, band.b, c, n, gate);
    load_rows<T>(x + c * p.x_strides.c, p.x_strides, n, p.height, p.width, band.top(), band.bottom(), gate, v, tile);
    load_rows<T>(grad_y + c * p.grad_y_strides.c, p.grad_y_strides, n, p.height, p.width, band.top(), band.bottom(),
                 nullptr, grad, tile);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t r = first; r < last; ++r) {
        const int64_t offset = (r - band.top()) * tile.row + 1;
        const A* g = grad + i * tile.channel + offset;
        const A* centre = v + i * tile.channel + offset;
        for (int64_t w = 0; w < p.width; w += kLanes<A>) {
          const Vec<A> self = Vec<A>::loadu(g + w);
          for (int64_t k = 0; k < 9; ++k) {
            A* sum = to + k * tile.channel + offset + w;
            fmadd(self, Vec<A>::loadu(centre + w + (k / 3 - 1) * tile.row + k % 3 - 1), Vec<A>::loadu(sum)).store(sum);
          }
        }
      }
    }
  }
  const A scale = A(1) / static_cast<A>(p.channels);
  const A* affinity = static_cast<const A*>(p.affinity) + band.b * 9 * p.height * p.width;
  for (int64_t r = first; r < last; ++r) {
    for (int64_t w = 0; w < p.width; w += kLanes<A>) {
      const int64_t n = std::min(kLanes<A>, p.width - w);
      A* sums = to + (r - band.top()) * tile.row + 1 + w;
      Vec<A> weights[9], mean(A(0));
      for (int64_t k = 0; k < 9; ++k) {
        weights[k] = load(affinity + (k * p.height + r) * p.width + w, n);
        mean = fmadd(weights[k], Vec<A>::loadu(sums + k * tile.channel), mean);
      }
      for (int64_t k = 0; k < 9; ++k) {
        A* sum = sums + k * tile.channel;
        (weights[k] * (Vec<A>::loadu(sum) - mean) * Vec<A>(scale)).store(sum, n);
      }
      // What a whole vector left beyond the map must not be read as a neighbour.
      if (n < kLanes<A>)
        for (int64_t k = 0; k < 9; ++k)
          std::fill(sums + k * tile.channel + n, sums + k * tile.channel + kLanes<A>, A(0));
    }
  }
}

// For each pixel p of the band and neighbour q = p + k: pull_k = dz_pq + dz_qp and share_k = a_qp.
template <class T>
void gather_weights(const Problem& p, const Band<T>& band, const Tile& tile, const Acc<T>* dz, Acc<T>* pull,
                    Acc<T>* share) {
  using A = Acc<T>;
  const A* affinity = static_cast<const A*>(p.affinity) + band.b * 9 * p.height * p.width;
  for (int64_t k = 0; k < 9; ++k) {
    const int64_t down = k / 3 - 1, right = k % 3 - 1;
    for (int64_t r = band.first; r < band.last; ++r) {
      const int64_t offset = (r - band.top()) * tile.row + 1;
      const A* own = dz + k * tile.channel + offset;
      const A* theirs = dz + (8 - k) * tile.channel + offset + down * tile.row + right;
      A* sum = pull + k * tile.channel + offset;
      for (int64_t w = 0; w < p.width; w += kLanes<A>)
        (Vec<A>::loadu(own + w) + Vec<A>::loadu(theirs + w)).store(sum + w, std::min(kLanes<A>, p.width - w));
      A* to = share + k * tile.channel + offset;
      const bool outside = r + down < 0 || r + down >= p.height;
      const A* from = affinity + ((8 - k) * p.height + r + down) * p.width + right;
      for (int64_t w = 0; w < p.width; ++w) to[w] = outside || w + right < 0 || w + right >= p.width ? A(0) : from[w];
    }
  }
}

template <class T>
void range_backward_items(const Problem& p, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t rows = p.band_rows() + 4;
  const Tile tile = make_tile<A>(rows, p.width, 1);
  const int64_t step = p.x_strides.w == 1 && p.grad_y_strides.w == 1 ? 1 : p.kChannelBlock;
  Scratch<A> v(step * tile.channel), grad(step * tile.channel), spatial(step * tile.channel), squashed(tile.channel),
      dz(9 * tile.channel), pull(9 * tile.channel), share(9 * tile.channel);
  A gate[Problem::kChannelBlock];
  const T* x = static_cast<const T*>(p.x);
  for (int64_t item = begin; item < end; ++item) {
    const Band<T> band(p, item, 2);
    similarity_gradient<T>(p, band, tile, v.get(), grad.get(), dz.get());
    gather_weights<T>(p, band, tile, dz.get(), pull.get(), share.get());
    const T* image = x + band.b * p.x_strides.b;
    const T* grad_y = static_cast<const T*>(p.grad_y) + band.b * p.grad_y_strides.b + p.channels * p.grad_y_strides.c;
    for (int64_t c = 0; c < p.channels; c += step) {
      const int64_t n = std::min(step, p.channels - c);
      gates<T>(p, band.b, c, n, gate);
      load_rows<T>(image + c * p.x_strides.c, p.x_strides, n, p.height, p.width, band.top(), band.bottom(), gate,
                   v.get(), tile);
      load_rows<T>(grad_y + c * p.grad_y_strides.c, p.grad_y_strides, n, p.height, p.width, band.top(), band.bottom(),
                   nullptr, grad.get(), tile);
      const A* spatial_part = static_cast<const A*>(p.grad_v) + band.b * p.x_strides.b + c * p.x_strides.c;
      load_rows<A>(spatial_part, p.x_strides, n, p.height, p.width, band.first, band.last, nullptr, spatial.get(),
                   tile);
      for (int64_t i = 0; i < n; ++i) {
        squash(v.get() + i * tile.channel, squashed.get(), tile, p.height, p.width, band.top(), band.bottom());
        for (int64_t r = band.first; r < band.last; ++r) {
          const int64_t offset = (r - band.top()) * tile.row + 1;
          const A* g = grad.get() + i * tile.channel + offset;
          const A* s = squashed.get() + offset;
          A* dv = spatial.get() + i * tile.channel + (r - band.first) * tile.row + 1;
          for (int64_t w = 0; w < p.width; w += kLanes<A>) {
            Vec<A> blend = Vec<A>::loadu(dv + w), slope(A(0));
            for (int64_t k = 0; k < 9; ++k) {
              const int64_t near = w + (k / 3 - 1) * tile.row + k % 3 - 1;
              blend = fmadd(Vec<A>::loadu(share.get() + k * tile.channel + offset + w), Vec<A>::loadu(g + near), blend);
              slope = fmadd(Vec<A>::loadu(pull.get() + k * tile.channel + offset + w), Vec<A>::loadu(s + near), slope);
            }
            const Vec<A> self = Vec<A>::loadu(s + w);
            fmadd(self * (Vec<A>(A(1)) - self), slope, blend).store(dv + w, std::min(kLanes<A>, p.width - w));
          }
        }
      }
      if (p.grad_gates != nullptr) {
        load_rows<T>(image + c * p.x_strides.c, p.x_strides, n, p.height, p.width, band.first, band.last, nullptr,
                     v.get(), tile);
        for (int64_t i = 0; i < n; ++i) {
          Vec<A> sum(A(0));
          for (int64_t r = 0; r < band.last - band.first; ++r) {
            const int64_t offset = i * tile.channel + r * tile.row + 1;
            for (int64_t w = 0; w < p.width; w += kLanes<A>)
              sum = fmadd(Vec<A>::loadu(spatial.get() + offset + w), Vec<A>::loadu(v.get() + offset + w), sum);
          }
          alignas(64) A lanes[kLanes<A>];
          sum.store(lanes);
          A total = 0;
          for (int64_t l = 0; l < kLanes<A>; ++l) total += lanes[l];
          static_cast<A*>(p.grad_gates)[item * p.channels + c + i] = total;
        }
      }
      if (p.grad_x != nullptr) {
        T* grad_x = static_cast<T*>(p.grad_x) + band.b * p.x_strides.b + c * p.x_strides.c;
        store_rows<T>(grad_x, p.x_strides, n, p.width, band.first, band.last, gate, spatial.get(), tile);
      }
    }
  }
}

template <class T>
constexpr pyeqgan::cpu::BilateralPropagationKernels::Typed kernels() {
  return {spatial_items<T, false>, range_items<T>, spatial_items<T, true>, range_backward_items<T>};
}

}  // namespace

namespace pyeqgan::cpu {

const BilateralPropagationKernels PYEQGAN_TABLE(pyeqgan_bilateral_propagation) = {
    kernels<float>(), kernels<double>(), kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
