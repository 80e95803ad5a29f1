// similarity_loss on the CPU: the products x = p·p of two panels of pixels are computed, used and forgotten.
//
// With f = x for equal labels and 1 − x for different ones, a pair's loss is −log f and its derivative by x is −f'/f. A
// pair of panels serves both its orders. All products have pixels in their lanes, however few the classes are.
#include <algorithm>
#include <cmath>
#include <limits>

#include "../pixels.h"
#include "../scratch.h"
#include "similarity_loss.h"

namespace {

using Problem = pyeqgan::cpu::SimilarityLoss;

template <class T>
void pack(const Problem& p, int64_t block) {
  using A = Acc<T>;
  const auto [image, begin, end] = p.blocks[block];
  const T* from = static_cast<const T*>(p.probabilities) + image * p.image;
  for (int64_t place = begin; place < end; place += kPanel<A>) {
    A* panel = static_cast<A*>(p.panels) + place * p.channels;
    for (int64_t c = 0; c < p.channels; ++c)
      for (int64_t i = 0; i < kPanel<A>; ++i) {
        const int64_t pixel = p.pixels[place + i];
        panel[c * kPanel<A> + i] = pixel < 0 ? A(0) : static_cast<A>(from[c * p.channel + pixel * p.pixel]);
      }
    if (p.slopes != nullptr) std::fill_n(static_cast<A*>(p.slopes) + place * p.channels, p.channels * kPanel<A>, A(0));
  }
}

template <class T>
void unpack(const Problem& p, int64_t block) {
  using A = Acc<T>;
  const auto [image, begin, end] = p.blocks[block];
  const A scale = static_cast<A>(p.scales[image]);
  T* to = static_cast<T*>(p.target) + image * p.image;
  for (int64_t place = begin; place < end; place += kPanel<A>) {
    const A* panel = static_cast<const A*>(p.slopes) + place * p.channels;
    for (int64_t c = 0; c < p.channels; ++c)
      for (int64_t i = 0; i < kPanel<A>; ++i)
        if (const int64_t pixel = p.pixels[place + i]; pixel >= 0)
          to[c * p.channel + pixel * p.pixel] = static_cast<T>(scale * panel[c * kPanel<A> + i]);
  }
}

// f = base + sign·x of the pairs of one place with those of a vector; 1 where a place is padded.
template <class A>
struct Agreement {
  Vec<A> base, sign;

  static Agreement of(bool equal) { return {Vec<A>(A(equal ? 0 : 1)), Vec<A>(A(equal ? 1 : -1))}; }

  static Agreement of(A one, const Vec<A>& others) {
    const Vec<A> zero(A(0)), unit(A(1)), equal = others == Vec<A>(one), padded = others < zero;
    if (one < 0) return {unit, zero};
    return {Vec<A>::blendv(Vec<A>::blendv(unit, zero, equal), unit, padded),
            Vec<A>::blendv(Vec<A>::blendv(unit.neg(), unit, equal), zero, padded)};
  }
};

// The products of two panels, and how their labels agree.
template <class A>
class Pair {
 public:
  Pair(const Problem& p, int64_t first, int64_t second, A* memory) : first(first), second(second), products_(memory) {
    const A* panels = static_cast<const A*>(p.panels);
    product<A, true>(kPanel<A>, kPanel<A>, p.channels, panels + first * p.channels, 0, panels + second * p.channels,
                     memory, false);
    rows_ = static_cast<const A*>(p.classes) + first, columns_ = static_cast<const A*>(p.classes) + second;
    // Sorted and padded at the end: what the ends of a panel share, all of it does.
    pure_ =
        rows_[0] == rows_[kPanel<A> - 1] && columns_[0] == columns_[kPanel<A> - 1] && rows_[0] >= 0 && columns_[0] >= 0;
  }

  const int64_t first, second;

  // Calls work(row, vector, x, agreement) for all vectors of products, row by row.
  template <class Work>
  void each(const Work& work) const {
    if (pure_) {
      const Agreement<A> all = Agreement<A>::of(rows_[0] == columns_[0]);
      for (int64_t r = 0; r < kPanel<A>; ++r)
#pragma GCC unroll 2
        for (int64_t v = 0; v < kVectors; ++v) work(r, v, row(r) + v * kLanes<A>, all);
      return;
    }
    const Vec<A> columns[kVectors] = {Vec<A>::loadu(columns_), Vec<A>::loadu(columns_ + kLanes<A>)};
    for (int64_t r = 0; r < kPanel<A>; ++r)
#pragma GCC unroll 2
      for (int64_t v = 0; v < kVectors; ++v) work(r, v, row(r) + v * kLanes<A>, Agreement<A>::of(rows_[r], columns[v]));
  }

  static constexpr int64_t kVectors = 2;

 private:
  A* row(int64_t r) const { return products_ + r * kPanel<A>; }

  A* products_;
  const A *rows_, *columns_;
  bool pure_;
};

template <class A>
struct Bounds {
  explicit Bounds(double eps) : low(static_cast<A>(eps)), high(static_cast<A>(1 - eps)) {}

  const Vec<A> low, high;
};

// Σ log f over the lanes, as the logarithm of a product: one is taken for as many factors as cannot underflow. What f
// and the product lose by rounding is kept; only near 1, where it matters, is it worth as much in the logarithm.
template <class A>
struct Logarithms {
  Vec<A> product{A(1)}, lost{A(0)}, sum{A(0)};

  void multiply(const Vec<A>& f, const Vec<A>& error) {
    const Vec<A> next = product * f;
    lost = lost + (at::vec::fmsub(product, f, next) + error);
    product = next;
  }

  void take() {
    sum = sum + product.log();
    product = Vec<A>(A(1));
  }

  double total() const {
    A each[2 * kLanes<A>];
    sum.store(each);
    lost.store(each + kLanes<A>);
    double total = 0;
    for (const A value : each) total += static_cast<double>(value);
    return total;
  }
};

// How many numbers of at least about eps have a product that is not denormal.
template <class A>
int64_t safe_factors(double eps) {
  return std::max<int64_t>(static_cast<int64_t>(std::log(std::numeric_limits<A>::min()) / std::log(eps / 2)), 1);
}

// Calls work(pair) for every pair of panels of two blocks, of one block with itself once for both orders.
template <class A, class Work>
void for_each_pair(const Problem& p, int64_t first, int64_t second, A* memory, const Work& work) {
  const auto rows = p.blocks[first], columns = p.blocks[second];
  for (int64_t r = rows.begin; r < rows.end; r += kPanel<A>)
    for (int64_t c = first == second ? r : columns.begin; c < columns.end; c += kPanel<A>)
      work(Pair<A>(p, r, c, memory));
}

template <class A>
void forward(const Problem& p, int64_t first, int64_t second) {
  const Scratch<A> memory(kPanel<A> * kPanel<A>);
  const Bounds<A> bounds(p.eps);
  const int64_t most = safe_factors<A>(p.eps);
  double total = 0;
  for_each_pair<A>(p, first, second, memory.get(), [&](const Pair<A>& pair) {
    Logarithms<A> logarithms[Pair<A>::kVectors];
    int64_t left = most;
    pair.each([&](int64_t, int64_t v, const A* products, const Agreement<A>& agreement) {
      const Vec<A> x = at::vec::clamp(Vec<A>::loadu(products), bounds.low, bounds.high);
      const Vec<A> f = at::vec::fmadd(agreement.sign, x, agreement.base);
      logarithms[v].multiply(f, at::vec::fmadd(agreement.sign, x, agreement.base - f));
      if (v + 1 < Pair<A>::kVectors || --left > 0) return;
      for (Logarithms<A>& each : logarithms) each.take();
      left = most;
    });
    double sum = 0;
    for (Logarithms<A>& each : logarithms) each.take(), sum += each.total();
    total -= pair.first == pair.second ? sum : 2 * sum;
  });
  p.sums[first] += total;
}

// A panel of products transposed.
template <class A>
void transpose_panel(const A* from, A* to) {
  for (int64_t i = 0; i < kPanel<A>; i += kLanes<A>)
    for (int64_t j = 0; j < kPanel<A>; j += kLanes<A>) {
      Vec<A> rows[kLanes<A>];
      for (int64_t r = 0; r < kLanes<A>; ++r) rows[r] = Vec<A>::loadu(from + (i + r) * kPanel<A> + j);
      transpose<A>(rows);
      for (int64_t r = 0; r < kLanes<A>; ++r) rows[r].store(to + (j + r) * kPanel<A> + i);
    }
}

template <class A>
void backward(const Problem& p, int64_t first, int64_t second) {
  constexpr int64_t kSize = kPanel<A> * kPanel<A>;
  const Scratch<A> memory(2 * kSize);
  A *gradients = memory.get(), *transposed = gradients + kSize;
  const Bounds<A> bounds(p.eps);
  const Vec<A> zero(A(0));
  const A* panels = static_cast<const A*>(p.panels);
  A* slopes = static_cast<A*>(p.slopes);
  for_each_pair<A>(p, first, second, gradients, [&](const Pair<A>& pair) {
    pair.each([&](int64_t, int64_t, A* products, const Agreement<A>& agreement) {
      const Vec<A> x = Vec<A>::loadu(products);
      const Vec<A> g = agreement.sign.neg() / at::vec::fmadd(agreement.sign, x, agreement.base);
      Vec<A>::blendv(g, zero, (x < bounds.low) | (x > bounds.high)).store(products);
    });
    const int64_t one = pair.first * p.channels, other = pair.second * p.channels;
    product<A, false>(p.channels, kPanel<A>, kPanel<A>, panels + one, 0, gradients, slopes + other, true);
    if (one == other) return;
    transpose_panel(gradients, transposed);
    product<A, false>(p.channels, kPanel<A>, kPanel<A>, panels + other, 0, transposed, slopes + one, true);
  });
}

template <class T>
constexpr pyeqgan::cpu::SimilarityRowsKernels::Typed rows() {
  return {pack<T>, unpack<T>};
}

template <class A>
constexpr pyeqgan::cpu::SimilarityPairsKernels::Typed pairs() {
  return {forward<A>, backward<A>};
}

}  // namespace

namespace pyeqgan::cpu {

const SimilarityRowsKernels PYEQGAN_TABLE(pyeqgan_similarity_rows) = {rows<float>(), rows<double>(),
                                                                      rows<c10::BFloat16>(), rows<c10::Half>()};
const SimilarityPairsKernels PYEQGAN_TABLE(pyeqgan_similarity_pairs) = {pairs<float>(), pairs<double>()};

}  // namespace pyeqgan::cpu
