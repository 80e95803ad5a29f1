// contrastive_loss forward on the CPU: the scores of a pair of blocks are computed, summed and forgotten.
//
// First Σ e^s of every query (over its negatives; over all keys in supcon), then, in per_positive, the sums over its
// positives, of which few pairs have any. In self-contrast a pair of different blocks serves its rows and its columns.
#include <cmath>
#include <limits>

#include "scores.h"

namespace {

template <class A>
inline void add(A* to, const Vec<A>& value, int64_t n = kLanes<A>) {
  (load(to, n) + value).store(to, n);
}

template <class A>
inline A* columns(const Sums& sums) {
  return static_cast<A*>(sums.columns);
}

template <class A>
inline A* lanes(const Sums& sums, int64_t r) {
  return static_cast<A*>(sums.lanes) + r * Sums::kLanes;
}

template <class A>
A whole(const Sums& sums, int64_t r) {
  A total = columns<A>(sums)[r];
  for (int64_t l = 0; l < kLanes<A>; ++l) total += lanes<A>(sums, r)[l];
  return total;
}

template <class A>
void clear(const Sums& sums, int64_t begin, int64_t end) {
  std::fill(columns<A>(sums) + begin, columns<A>(sums) + end, A(0));
  std::fill(lanes<A>(sums, begin), lanes<A>(sums, end), A(0));
}

template <class A>
void open(const Problem& p, int64_t block) {
  const int64_t begin = p.queries.begin(block), end = p.queries.end(block);
  A* maximum = static_cast<A*>(p.maximum);
  std::fill(maximum + begin, maximum + end, p.bounded ? A(0) : std::numeric_limits<A>::lowest());
  clear<A>(p.first, begin, end);
  clear<A>(p.second, begin, end);
}

// Whether a span counts in Σ e^s.
inline bool counts(const Problem& p, Kind kind) {
  return kind == Kind::kNegative || (kind == Kind::kPositive && p.supcon);
}

// Raises what is subtracted from the scores of query r. It stays finite, so that ±inf less it is not NaN.
template <class A>
void raise(const Problem& p, int64_t r, A value) {
  A& maximum = static_cast<A*>(p.maximum)[r];
  if (value <= maximum) return;
  const A raised = value > std::numeric_limits<A>::max() ? std::numeric_limits<A>::max() : value;
  const A factor = std::exp(maximum - raised);
  columns<A>(p.first)[r] *= factor;
  for (int64_t l = 0; l < kLanes<A>; ++l) lanes<A>(p.first, r)[l] *= factor;
  maximum = raised;
}

template <class A>
void raise_maxima(const Problem& p, const Scores<A>& s) {
  constexpr A kLowest = std::numeric_limits<A>::lowest();
  A below[kTile];
  std::fill(below, below + kTile, kLowest);
  for (int64_t r = s.first_row; r < s.last_row; ++r) {
    const A* row = s.row(r);
    Vec<A> largest(kLowest);
    s.spans(r, [&](Kind kind, int64_t begin, int64_t end) {
      if (!counts(p, kind)) return;
      for (int64_t j = begin; j < end; j += kLanes<A>) {
        const int64_t n = std::min(kLanes<A>, end - j);
        const Vec<A> x = keep(load(row + j, n), n, kLowest);
        largest = at::vec::maximum(largest, x);
        at::vec::maximum(load(below + j, n), x).store(below + j, n);
      }
    });
    A each[kLanes<A>];
    largest.store(each);
    for (const A value : each) raise(p, r, value);
  }
  if (!s.mirrored) return;
  for (int64_t j = 0; j < s.columns(); ++j) raise(p, s.first_column + j, below[j]);
}

template <class A, bool bounded>
void sum_exponentials(const Problem& p, const Scores<A>& s) {
  if (!p.supcon && s.all_positive()) return;
  s.compute();
  if constexpr (!bounded) raise_maxima(p, s);
  const A* maximum = static_cast<const A*>(p.maximum);
  for (int64_t r = s.first_row; r < s.last_row; ++r) {
    const A* row = s.row(r);
    const A* maximum_below = maximum + s.first_column;
    A *sums_below = columns<A>(p.first) + s.first_column, *scores_below = columns<A>(p.second) + s.first_column;
    Vec<A> sum(A(0)), scores(A(0));
    s.spans(r, [&](Kind kind, int64_t begin, int64_t end) {
      if (!counts(p, kind)) return;
      for (int64_t j = begin; j < end; j += kLanes<A>) {
        const int64_t n = std::min(kLanes<A>, end - j);
        const Vec<A> x = load(row + j, n);
        const Vec<A> e = keep(exponential<A, bounded>(bounded ? x : x - Vec<A>(maximum[r])), n);
        sum = sum + e;
        if (s.mirrored) add(sums_below + j, bounded ? e : keep((x - load(maximum_below + j, n)).exp(), n), n);
        if (kind == Kind::kNegative) continue;
        scores = scores + x;
        if (s.mirrored) add(scores_below + j, x, n);
      }
    });
    add(lanes<A>(p.first, r), sum);
    if (p.supcon) add(lanes<A>(p.second, r), scores);
  }
}

template <class A>
void forward(const Problem& p, Pair pair) {
  for_each_tile<A>(p, pair, [&](const Scores<A>& s) {
    p.bounded ? sum_exponentials<A, true>(p, s) : sum_exponentials<A, false>(p, s);
  });
}

template <class A>
void close(const Problem& p, int64_t block) {
  const int64_t begin = p.queries.begin(block), end = p.queries.end(block);
  for (int64_t r = begin; r < end; ++r)
    static_cast<A*>(p.boundary)[r] = static_cast<A*>(p.maximum)[r] + std::log(whole<A>(p.first, r));
  if (!p.supcon) clear<A>(p.first, begin, end);
}

// Σ softplus(z) and Σ sigmoid(z), by softplus(z) = max(z, 0) + log(1 + e^−|z|). The logarithms are those of one
// product, kept less 1 so that nothing small is lost: (1 + product)(1 + x) = 1 + (product + x + x·product). Taken once
// a block, the product stays below 2^kTile.
template <class A>
struct Softplus {
  Vec<A> linear{A(0)}, product{A(0)}, slope{A(0)};

  template <bool bounded>
  void add(const Vec<A>& z, int64_t n) {
    const Vec<A> zero(A(0)), one(A(1));
    const Vec<A> x = keep(exponential<A, bounded>(z.abs().neg()), n);
    linear = linear + keep(at::vec::maximum(z, zero), n);
    product = product + at::vec::fmadd(x, product, x);
    slope = slope + keep(Vec<A>::blendv(x, one, z > zero) / (one + x), n);
  }
};

template <class A, bool bounded>
void sum_positives(const Problem& p, const Scores<A>& s) {
  if (!s.compute_positives()) return;
  const A *boundary = static_cast<const A*>(p.boundary), *boundary_below = boundary + s.first_column;
  A *linear_below = columns<A>(p.first) + s.first_column, *slope_below = columns<A>(p.second) + s.first_column;
  A product_below[kTile] = {};
  for (int64_t r = s.first_row; r < s.last_row; ++r) {
    const A* row = s.row(r);
    Softplus<A> own;
    s.spans(r, [&](Kind kind, int64_t begin, int64_t end) {
      if (kind != Kind::kPositive) return;
      for (int64_t j = begin; j < end; j += kLanes<A>) {
        const int64_t n = std::min(kLanes<A>, end - j);
        const Vec<A> x = load(row + j, n);
        own.template add<bounded>(Vec<A>(boundary[r]) - x, n);
        if (!s.mirrored) continue;
        Softplus<A> below{load(linear_below + j, n), load(product_below + j, n), load(slope_below + j, n)};
        below.template add<bounded>(load(boundary_below + j, n) - x, n);
        below.linear.store(linear_below + j, n);
        below.product.store(product_below + j, n);
        below.slope.store(slope_below + j, n);
      }
    });
    add(lanes<A>(p.first, r), own.linear + own.product.log1p());
    add(lanes<A>(p.second, r), own.slope);
  }
  if (!s.mirrored) return;
  for (int64_t j = 0; j < s.columns(); j += kLanes<A>) {
    const int64_t n = std::min(kLanes<A>, s.columns() - j);
    add(linear_below + j, load(product_below + j, n).log1p(), n);
  }
}

template <class A>
void positives(const Problem& p, Pair pair) {
  for_each_tile<A>(
      p, pair, [&](const Scores<A>& s) { p.bounded ? sum_positives<A, true>(p, s) : sum_positives<A, false>(p, s); });
}

template <class A>
void finish(const Problem& p, int64_t block) {
  for (int64_t r = p.queries.begin(block); r < p.queries.end(block); ++r) {
    const int64_t to = p.queries.order[r], count = p.positives[r];
    const A boundary = static_cast<const A*>(p.boundary)[r], second = whole<A>(p.second, r);
    static_cast<A*>(p.boundaries)[to] = boundary;
    p.counts[to] = count;
    if (count == 0) continue;
    const A number = static_cast<A>(count);
    static_cast<A*>(p.loss)[to] = p.supcon ? boundary - second / number : whole<A>(p.first, r) / number;
    if (!p.supcon) static_cast<A*>(p.weights)[to] = second;
  }
}

template <class A>
constexpr pyeqgan::cpu::ContrastiveForwardKernels::Typed kernels() {
  return {open<A>, forward<A>, close<A>, positives<A>, finish<A>};
}

}  // namespace

namespace pyeqgan::cpu {

const ContrastiveForwardKernels PYEQGAN_TABLE(pyeqgan_contrastive_forward) = {kernels<float>(), kernels<double>()};

}  // namespace pyeqgan::cpu
