// The rows of contrastive_loss on the CPU: gathered, normalised and laid out for products, and their gradients back.
#include <algorithm>
#include <cmath>

#include "contrastive_loss.h"
#include "product.h"

namespace {

using Problem = pyeqgan::cpu::ContrastiveLoss;
using Side = pyeqgan::cpu::ContrastiveSide;

constexpr double kEps = 1e-12;

// Σ x·y in float64, where the square of a large float32 does not overflow.
template <class A>
double dot(const A* x, const A* y, int64_t n) {
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int64_t l = 0; l < 8; ++l) sums[l] += static_cast<double>(x[i + l]) * static_cast<double>(y[i + l]);
  for (; i < n; ++i) sums[0] += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

// The limbs of a block's rows, which lie `p.stride` apart; false if a number is out of range.
inline bool split(const Problem& p, const Side& side, int64_t block, const float* rows) {
  namespace unit = pyeqgan::cpu::matrix_unit;
  const int64_t begin = side.begin(block), step = unit::deep_size(unit::kDepth);
  bool in_range = true;
  for (int64_t d = 0, k = 0; d < p.channels; d += unit::kDepth, ++k) {
    const int64_t columns = std::min(unit::kDepth, p.channels - d);
    if (side.left != nullptr)
      in_range &= unit::split_left(side.block, columns, rows + d, p.stride,
                                   side.left + k * unit::left_size(side.padded()) + begin / unit::kTile * unit::kBlock);
    for (int64_t r = 0; side.right != nullptr && r < side.block; r += unit::kDepth)
      in_range &= unit::split_transposed_right(
          unit::kDepth, columns, rows + r * p.stride + d, p.stride,
          side.right + (begin + r) / unit::kDepth * unit::deep_size(p.channels) + k * step);
    if (side.deep != nullptr)
      in_range &= unit::split_right(side.block, columns, rows + d, p.stride,
                                    side.deep + k * unit::deep_size(side.padded()) + begin / unit::kDepth * step);
  }
  return in_range;
}

template <class T>
void pack(const Problem& p, const Side& side, int64_t block) {
  using A = Acc<T>;
  const int64_t begin = side.begin(block), end = side.end(block);
  A* rows = static_cast<A*>(side.rows) + begin * p.stride;
  double peak = 0;
  for (int64_t r = begin; r < end; ++r) {
    const T* source = static_cast<const T*>(side.source) + side.order[r] * p.channels;
    A* row = rows + (r - begin) * p.stride;
    for (int64_t d = 0; d < p.channels; d += kLanes<A>) {
      const int64_t n = std::min(kLanes<A>, p.channels - d);
      load(source + d, n).store(row + d, n);
    }
    std::fill(row + p.channels, row + p.stride, A(0));
    double norm = side.norms[r] = std::sqrt(dot(row, row, p.channels));
    if (p.normalize) {
      const double inverse = 1 / std::max(norm, kEps);
      for (int64_t d = 0; d < p.channels; ++d) row[d] = static_cast<A>(row[d] * inverse);
      norm *= inverse;
    }
    if (norm > peak || std::isnan(norm)) peak = norm;  // which no number replaces
  }
  side.peaks[block] = peak;
  std::fill(rows + (end - begin) * p.stride, rows + side.block * p.stride, A(0));
  if (side.sums != nullptr) {
    A* sums = static_cast<A*>(side.sums) + begin * p.stride;
    std::fill(sums, sums + side.block * p.stride, A(0));
  }
  if constexpr (std::is_same_v<A, float>) {
    if (p.limbs) {
      if (!split(p, side, block, rows)) __atomic_store_n(p.out_of_range, 1, __ATOMIC_RELAXED);
      return;
    }
  }
  A* panel = static_cast<A*>(side.panels) + begin * p.channels;
  for (int64_t r = 0; r < side.block; r += kPanel<A>, panel += p.channels * kPanel<A>)
    for (int64_t d = 0; d < p.channels; ++d)
      for (int64_t l = 0; l < kPanel<A>; ++l) panel[d * kPanel<A> + l] = rows[(r + l) * p.stride + d];
}

// The gradient of the rows, and through the normalisation that of the source.
template <class T>
void unpack(const Problem& p, const Side& side, int64_t block) {
  using A = Acc<T>;
  if (side.sums == nullptr) return;
  const double scale = p.scale / p.temperature;
  double slope = 0;
  for (int64_t r = side.begin(block); r < side.end(block); ++r) {
    const A* row = static_cast<const A*>(side.rows) + r * p.stride;
    A* sums = static_cast<A*>(side.sums) + r * p.stride;
    for (int64_t d = 0; d < p.channels; ++d) sums[d] = static_cast<A>(sums[d] * scale);
    const double radial = dot(row, sums, p.channels);
    slope += radial;
    if (side.target == nullptr) continue;
    T* target = static_cast<T*>(side.target) + side.order[r] * p.channels;
    const double inverse = p.normalize ? 1 / std::max(side.norms[r], kEps) : 1;
    const A shrink = static_cast<A>(p.normalize && side.norms[r] >= kEps ? radial : 0);
    for (int64_t d = 0; d < p.channels; ++d)
      target[d] = static_cast<T>(static_cast<A>((sums[d] - row[d] * shrink) * inverse));
  }
  side.slopes[block] = slope;
}

template <class T>
constexpr pyeqgan::cpu::ContrastiveRowsKernels::Typed kernels() {
  return {pack<T>, unpack<T>};
}

}  // namespace

namespace pyeqgan::cpu {

const ContrastiveRowsKernels PYEQGAN_TABLE(pyeqgan_contrastive_rows) = {kernels<float>(), kernels<double>(),
                                                                        kernels<c10::BFloat16>(), kernels<c10::Half>()};

}  // namespace pyeqgan::cpu
