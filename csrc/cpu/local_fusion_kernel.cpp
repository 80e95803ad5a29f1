// The matches of local_fusion on the CPU: m_r(p) = argmax_q ⟨base_p, ref_q / max(‖ref_q‖, 1e-12)⟩.
//
// A reference is packed once into panels of unit vectors. A panel of selected positions, one a lane, meets them one
// after another; of the similarities only the running maximum of each lane is kept, and the pixel it was met at.
#include "local_fusion.h"

#include <cmath>
#include <limits>

#include "panels.h"
#include "scratch.h"

namespace {

using Problem = pyeqgan::cpu::LiftedFusion;
using pyeqgan::cpu::kMatchBlock;

// As wide as the numbers it goes with, so that both share their lanes.
template <class A>
using Index = std::conditional_t<std::is_same_v<A, double>, int64_t, int32_t>;

// The channels of `count` pixels, index(i) for i < count, as panels [i / kPanel][channel][i mod kPanel]; lanes beyond
// are 0.
template <class T, class F>
void pack(const Problem& p, const T* image, int64_t count, F index, Acc<T>* to) {
  using A = Acc<T>;
  const int64_t panel = p.channels * kPanel<A>, pixels = p.pixels();
  if (count % kPanel<A> != 0) std::fill_n(to + count / kPanel<A> * panel, panel, A(0));
  if (p.pixel_major) {
    for (int64_t i = 0; i < count; ++i) {
      const T* from = image + index(i) * p.channels;
      A* lane = to + i / kPanel<A> * panel + i % kPanel<A>;
      for (int64_t c = 0; c < p.channels; ++c) lane[c * kPanel<A>] = static_cast<A>(from[c]);
    }
    return;
  }
  // A plane after another: each is read from memory once.
  for (int64_t c = 0; c < p.channels; ++c) {
    const T* plane = image + c * pixels;
    for (int64_t first = 0; first < count; first += kPanel<A>) {
      A* row = to + first / kPanel<A> * panel + c * kPanel<A>;
      const int64_t lanes = std::min(kPanel<A>, count - first);
      for (int64_t i = 0; i < lanes; ++i) row[i] = static_cast<A>(plane[index(first + i)]);
    }
  }
}

// Divides the pixels of a panel by their norms, which are taken in double: no square overflows.
template <class A>
void normalize(int64_t channels, A* panel) {
  double norms[kPanel<A>] = {};
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < kPanel<A>; ++i) {
      const double value = panel[c * kPanel<A> + i];
      norms[i] += value * value;
    }
  // Not std::max, which would make 1e-12 of NaN.
  for (double& norm : norms) norm = norm < 1e-24 ? 1e12 : 1 / std::sqrt(norm);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < kPanel<A>; ++i)
      panel[c * kPanel<A> + i] = static_cast<A>(panel[c * kPanel<A> + i] * norms[i]);
}

// As torch.argmax orders them: NaN is the largest.
template <class A>
inline bool larger(A a, A b) {
  return (a > b) | ((a != a) & (b == b));
}

// The running maxima of a panel of positions, one a lane. Pixels go to several maxima in turn, so that none waits for
// the one before.
template <class A>
class Maxima {
 public:
  Maxima() : values_(kWays * kPanel<A>), pixels_(kWays * kPanel<A>) {}

  void reset() {
    std::fill_n(values_.get(), kWays * kPanel<A>, -std::numeric_limits<A>::infinity());
    std::fill_n(pixels_.get(), kWays * kPanel<A>, Index<A>(0));
  }

  // Pixels come in ascending order, so that the first of equal similarities stays.
  void update(int64_t first, int64_t count, const A* similarities) {
    for (int64_t i = 0; i < count; ++i)
      take(similarities + i * kPanel<A>, static_cast<Index<A>>(first + i), i % kWays);
  }

  // The most similar pixel of each lane.
  const Index<A>* matches() {
    for (int64_t way = 1; way < kWays; ++way)
      for (int64_t lane = 0; lane < kPanel<A>; ++lane) {
        const A a = values_.get()[lane], b = values_.get()[way * kPanel<A> + lane];
        const Index<A> i = pixels_.get()[lane], j = pixels_.get()[way * kPanel<A> + lane];
        const bool better = larger(b, a) | (!larger(a, b) & (j < i));
        values_.get()[lane] = better ? b : a;
        pixels_.get()[lane] = better ? j : i;
      }
    return pixels_.get();
  }

 private:
  static constexpr int64_t kWays = 4;

  void take(const A* similarities, Index<A> pixel, int64_t way) {
    A* values = values_.get() + way * kPanel<A>;
    Index<A>* pixels = pixels_.get() + way * kPanel<A>;
    for (int64_t lane = 0; lane < kPanel<A>; ++lane) {
      const bool better = larger(similarities[lane], values[lane]);
      values[lane] = better ? similarities[lane] : values[lane];
      pixels[lane] = better ? pixel : pixels[lane];
    }
  }

  Scratch<A> values_;
  Scratch<Index<A>> pixels_;
};

template <class T>
void match_items(const Problem& p, int64_t* matches, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t pixels = p.pixels(), blocks = match_blocks(p), panel = p.channels * kPanel<A>;
  Scratch<A> reference(panels<A>(pixels) * panel), selected(panels<A>(std::min(kMatchBlock, p.selected)) * panel);
  Scratch<A> similarities(kPanel<A> * kPanel<A>);
  Maxima<A> maxima;
  int64_t packed = -1;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / blocks, b = image / p.references, r = image % p.references;
    if (packed != image) {
      const T* from = static_cast<const T*>(p.reference) + b * p.reference_row + r * p.reference_step;
      pack(p, from, pixels, [](int64_t q) { return q; }, reference.get());
      for (int64_t q = 0; q < panels<A>(pixels); ++q) normalize(p.channels, reference.get() + q * panel);
      packed = image;
    }
    const int64_t first = item % blocks * kMatchBlock, count = std::min(kMatchBlock, p.selected - first);
    const int64_t* positions = p.positions + b * p.selected + first;
    const T* base = static_cast<const T*>(p.base) + b * p.base_step;
    pack(p, base, count, [=](int64_t m) { return positions[m]; }, selected.get());
    for (int64_t m = 0; m < count; m += kPanel<A>) {
      const int64_t lanes = std::min(kPanel<A>, count - m);
      maxima.reset();
      for (int64_t q = 0; q < pixels; q += kPanel<A>) {
        const int64_t rows = std::min(kPanel<A>, pixels - q);
        product<A, true>(rows, lanes, p.channels, reference.get() + q / kPanel<A> * panel, 0,
                         selected.get() + m / kPanel<A> * panel, similarities.get(), false);
        maxima.update(q, rows, similarities.get());
      }
      std::copy_n(maxima.matches(), lanes, matches + image * p.selected + first + m);
    }
  }
}

}  // namespace

namespace pyeqgan::cpu {

const LocalFusionKernels PYEQGAN_TABLE(pyeqgan_local_fusion) = {match_items<float>, match_items<double>,
                                                                match_items<c10::BFloat16>, match_items<c10::Half>};

}  // namespace pyeqgan::cpu
