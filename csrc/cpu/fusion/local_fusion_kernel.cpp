// The matches of local_fusion on the CPU: m_r(p) = argmax_q ⟨base_p, ref_q / max(‖ref_q‖, 1e-12)⟩.
//
// The selected positions are packed into panels, one a lane. Each panel of a reference's unit vectors meets them all;
// of the similarities only the running maximum of each lane is kept, and the pixel it was met at.
#include <cmath>
#include <limits>

#include "../panels.h"
#include "../scratch.h"
#include "local_fusion.h"

namespace {

using Problem = pyeqgan::cpu::LiftedFusion;
using pyeqgan::cpu::kMatchBlock;

// Pixels of a reference that are packed at a time: some cache lines of every plane.
constexpr int64_t kReferenceBlock = 256;

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
  explicit Maxima(int64_t panels) : values_(panels * kSize), pixels_(panels * kSize), panels_(panels) {}

  void reset() {
    std::fill_n(values_.get(), panels_ * kSize, -std::numeric_limits<A>::infinity());
    std::fill_n(pixels_.get(), panels_ * kSize, Index<A>(0));
  }

  // The similarities of a panel of positions to pixels [first, first + count). Pixels come in ascending order, so that
  // the first of equal similarities stays.
  void update(int64_t panel, int64_t first, int64_t count, const A* similarities) {
    for (int64_t i = 0; i < count; ++i) {
      const A* row = similarities + i * kPanel<A>;
      const Index<A> pixel = static_cast<Index<A>>(first + i);
      A* values = values_.get() + panel * kSize + i % kWays * kPanel<A>;
      Index<A>* pixels = pixels_.get() + panel * kSize + i % kWays * kPanel<A>;
      for (int64_t lane = 0; lane < kPanel<A>; ++lane) {
        const bool better = larger(row[lane], values[lane]);
        values[lane] = better ? row[lane] : values[lane];
        pixels[lane] = better ? pixel : pixels[lane];
      }
    }
  }

  // The most similar pixel of each lane of a panel.
  const Index<A>* matches(int64_t panel) {
    A* values = values_.get() + panel * kSize;
    Index<A>* pixels = pixels_.get() + panel * kSize;
    for (int64_t other = kPanel<A>; other < kSize; other += kPanel<A>)
      for (int64_t lane = 0; lane < kPanel<A>; ++lane) {
        const A a = values[lane], b = values[other + lane];
        const bool better = larger(b, a) | (!larger(a, b) & (pixels[other + lane] < pixels[lane]));
        values[lane] = better ? b : a;
        pixels[lane] = better ? pixels[other + lane] : pixels[lane];
      }
    return pixels;
  }

 private:
  static constexpr int64_t kWays = 4, kSize = kWays * kPanel<A>;

  Scratch<A> values_;
  Scratch<Index<A>> pixels_;
  const int64_t panels_;
};

template <class T>
void match_items(const Problem& p, int64_t* matches, int64_t begin, int64_t end) {
  using A = Acc<T>;
  const int64_t pixels = p.pixels(), blocks = match_blocks(p), panel = p.channels * kPanel<A>;
  const int64_t most = panels<A>(std::min(kMatchBlock, p.selected));
  Scratch<A> selected(most * panel), reference(panels<A>(std::min(kReferenceBlock, pixels)) * panel);
  Scratch<A> similarities(kPanel<A> * kPanel<A>);
  Maxima<A> maxima(most);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / blocks, b = image / p.references, r = image % p.references;
    const int64_t first = item % blocks * kMatchBlock, count = std::min(kMatchBlock, p.selected - first);
    const int64_t* positions = p.positions + b * p.selected + first;
    pack(
        p, static_cast<const T*>(p.base) + b * p.base_step, count, [=](int64_t m) { return positions[m]; },
        selected.get());
    maxima.reset();
    const T* from = static_cast<const T*>(p.reference) + b * p.reference_row + r * p.reference_step;
    for (int64_t q = 0; q < pixels; q += kPanel<A>) {
      const A* units = reference.get() + q % kReferenceBlock / kPanel<A> * panel;
      if (q % kReferenceBlock == 0) {
        const int64_t next = std::min(kReferenceBlock, pixels - q);
        pack(p, from, next, [q](int64_t i) { return q + i; }, reference.get());
        for (int64_t i = 0; i < panels<A>(next); ++i) normalize(p.channels, reference.get() + i * panel);
      }
      const int64_t rows = std::min(kPanel<A>, pixels - q);
      for (int64_t m = 0; m < count; m += kPanel<A>) {
        product<A, true>(rows, std::min(kPanel<A>, count - m), p.channels, units, 0,
                         selected.get() + m / kPanel<A> * panel, similarities.get(), false);
        maxima.update(m / kPanel<A>, q, rows, similarities.get());
      }
    }
    for (int64_t m = 0; m < count; m += kPanel<A>)
      std::copy_n(maxima.matches(m / kPanel<A>), std::min(kPanel<A>, count - m),
                  matches + image * p.selected + first + m);
  }
}

}  // namespace

namespace pyeqgan::cpu {

const LocalFusionKernels PYEQGAN_TABLE(pyeqgan_local_fusion) = {match_items<float>, match_items<double>,
                                                                match_items<c10::BFloat16>, match_items<c10::Half>};

}  // namespace pyeqgan::cpu
