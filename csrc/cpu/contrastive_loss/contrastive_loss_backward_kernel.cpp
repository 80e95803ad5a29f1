// contrastive_loss backward on the CPU: the scores of a pair of blocks again, G of them, and its two products.
//
// In self-contrast a pair of different blocks holds G + Gᵀ, and dQ = (G + Gᵀ)Q/τ is one sweep.
#include <cmath>
#include <limits>

#include "scores.h"

namespace {

template <class A>
double scale(const Problem& p) {
  double largest = 0;
  for (int64_t r = 0; r < p.queries.count; ++r) {
    if (p.positives[r] == 0) continue;
    const double size = std::abs(static_cast<double>(static_cast<const A*>(p.grad_loss)[p.queries.order[r]]));
    if (!(size <= std::numeric_limits<double>::max())) return 1;
    if (size > largest) largest = size;
  }
  return largest == 0 ? 1 : largest;
}

template <class A>
void prepare(const Problem& p, int64_t block) {
  constexpr A kInfinity = std::numeric_limits<A>::infinity();
  for (int64_t r = p.queries.begin(block); r < p.queries.end(block); ++r) {
    const int64_t from = p.queries.order[r], count = p.positives[r];
    A boundary = static_cast<const A*>(p.boundaries)[from], share = 0, pull = 0;
    // Nothing flows without positives, nor, in per_positive, without negatives.
    if (count == 0 || (!p.supcon && boundary == -kInfinity)) {
      boundary = kInfinity;
    } else {
      const A upstream = static_cast<A>(static_cast<const A*>(p.grad_loss)[from] / p.scale);
      pull = upstream / static_cast<A>(count);
      share = p.supcon ? upstream : pull * static_cast<const A*>(p.weights)[from];
    }
    const A shrink = std::exp(-boundary);
    static_cast<A*>(p.share)[r] = p.bounded ? share * shrink : share;
    static_cast<A*>(p.shift)[r] = p.bounded ? shrink : boundary;
    static_cast<A*>(p.pull)[r] = pull;
  }
}

// The rows of G of several queries, or of one in all lanes.
template <class A, bool bounded>
struct Gradient {
  Vec<A> share, shift, pull;

  // For scores x; e is e^x if bounded.
  Vec<A> at(const Vec<A>& x, const Vec<A>& e, bool positive, bool supcon) const {
    const Vec<A> power = bounded ? e : (x - shift).exp();
    if (positive && !supcon) return pull.neg() / (Vec<A>(A(1)) + (bounded ? power * shift : power));
    return positive ? share * power - pull : share * power;
  }
};

template <class A, bool bounded>
void differentiate(const Problem& p, const Scores<A>& s) {
  const A *share = static_cast<const A*>(p.share), *shift = static_cast<const A*>(p.shift),
          *pull = static_cast<const A*>(p.pull);
  for (int64_t r = s.first_row; r < s.last_row; ++r) {
    A* row = s.row(r);
    const Gradient<A, bounded> own{Vec<A>(share[r]), Vec<A>(shift[r]), Vec<A>(pull[r])};
    s.spans(r, [&](Kind kind, int64_t begin, int64_t end) {
      if (kind == Kind::kExcluded) return std::fill(row + begin, row + end, A(0));
      const bool positive = kind == Kind::kPositive;
      for (int64_t j = begin; j < end; j += kLanes<A>) {
        const int64_t n = std::min(kLanes<A>, end - j), key = s.first_column + j;
        const Vec<A> x = load(row + j, n), e = bounded ? x.exp_u20() : x;
        Vec<A> g = own.at(x, e, positive, p.supcon);
        if (p.self) {
          const Gradient<A, bounded> below{load(share + key, n), load(shift + key, n), load(pull + key, n)};
          g = g + below.at(x, e, positive, p.supcon);
        }
        g.store(row + j, n);
      }
    });
  }
}

namespace unit = pyeqgan::cpu::matrix_unit;

// Limbs of a tile of G, as left factor or transposed.
constexpr int64_t kGradientLimbs = unit::deep_size(kTile) * kTile / unit::kDepth;

// The products of a tile with the rows by the matrix unit; false, and nothing done, if a number is out of its range.
inline bool multiply_by_limbs(const Problem& p, const Scores<float>& s, unit::Limb* left, unit::Limb* transposed) {
  const bool for_queries = p.queries.sums != nullptr, for_keys = p.keys.sums != nullptr && (!p.self || s.mirrored);
  const int64_t left_step = unit::left_size(s.rows()), step = unit::deep_size(unit::kDepth);
  const int64_t transposed_panel = unit::deep_size(s.rows());
  const float* g = s.row(s.first_row);
  for (int64_t j = 0, k = 0; j < s.columns(); j += unit::kDepth, ++k) {
    const int64_t columns = std::min(unit::kDepth, s.columns() - j);
    if (for_queries && !unit::split_left(s.rows(), columns, g + j, s.kStride, left + k * left_step)) return false;
    if (for_keys &&
        !unit::split_transposed_left(s.rows(), columns, g + j, s.kStride, transposed + k * transposed_panel))
      return false;
  }
  for (int64_t d = 0, k = 0; d < p.channels; d += unit::kDepth, ++k) {
    const int64_t channels = p.channels - d;
    if (for_queries)
      unit::product(s.rows(), channels, s.columns(), left, left_step,
                    p.keys.deep + k * unit::deep_size(p.keys.padded()) + s.first_column / unit::kDepth * step,
                    static_cast<float*>(p.queries.sums) + s.first_row * p.stride + d, p.stride, true);
    for (int64_t j = 0; for_keys && j < s.columns(); j += unit::kDepth)
      unit::product(std::min(unit::kDepth, s.columns() - j), channels, s.rows(),
                    transposed + j / unit::kDepth * transposed_panel, step,
                    p.queries.deep + k * unit::deep_size(p.queries.padded()) + s.first_row / unit::kDepth * step,
                    static_cast<float*>(p.keys.sums) + (s.first_column + j) * p.stride + d, p.stride, true);
  }
  return true;
}

template <class A>
void differentiate_tile(const Problem& p, const Scores<A>& s, unit::Limb* left, unit::Limb* transposed) {
  s.compute();
  p.bounded ? differentiate<A, true>(p, s) : differentiate<A, false>(p, s);
  if constexpr (std::is_same_v<A, float>)
    if (p.limbs && multiply_by_limbs(p, s, left, transposed)) return;
  const A* g = s.row(s.first_row);
  const A* queries = static_cast<const A*>(p.queries.rows) + s.first_row * p.stride;
  const A* keys = static_cast<const A*>(p.keys.rows) + s.first_column * p.stride;
  if (p.queries.sums != nullptr)
    product<A>(s.rows(), p.channels, s.columns(), {g, s.kStride, 1}, {keys, p.stride, kPanel<A>},
               static_cast<A*>(p.queries.sums) + s.first_row * p.stride, p.stride, nullptr);
  if (p.keys.sums != nullptr && (!p.self || s.mirrored))
    product<A>(s.columns(), p.channels, s.rows(), {g, 1, s.kStride}, {queries, p.stride, kPanel<A>},
               static_cast<A*>(p.keys.sums) + s.first_column * p.stride, p.stride, nullptr);
}

template <class A>
void backward(const Problem& p, Pair pair) {
  const int64_t limbs = p.limbs ? kGradientLimbs : 0;
  const Scratch<unit::Limb> left(limbs), transposed(limbs);
  for_each_tile<A>(p, pair, [&](const Scores<A>& s) { differentiate_tile(p, s, left.get(), transposed.get()); });
}

template <class A>
constexpr pyeqgan::cpu::ContrastiveBackwardKernels::Typed kernels() {
  return {scale<A>, prepare<A>, backward<A>};
}

}  // namespace

namespace pyeqgan::cpu {

const ContrastiveBackwardKernels PYEQGAN_TABLE(pyeqgan_contrastive_backward) = {kernels<float>(), kernels<double>()};

}  // namespace pyeqgan::cpu
