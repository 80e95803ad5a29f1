// The arguments of contrastive_loss as its kernels take them: checked, sorted by label, cut into blocks.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "check.h"
#include "contrastive_groups.h"
#include "cpu/contrastive_loss/contrastive_loss.h"
#include "pair_schedule.h"

namespace pyeqgan {

// What forward and backward share, in the order of the schema.
struct ContrastiveArguments {
  const char* op;
  const Tensor& queries;
  const Tensor& query_labels;
  const std::optional<Tensor>& keys;
  const std::optional<Tensor>& key_labels;
  const Tensor& temperature;
  const std::string& mode;
  bool normalize;
  int64_t ignore_index;
  const std::optional<Tensor>& query_ids;
  const std::optional<Tensor>& key_ids;
};

inline void check(const ContrastiveArguments& a) {
  const auto rows = [&](const char* name, const std::optional<Tensor>& x, int64_t size) {
    if (!x.has_value()) return;
    check_cpu(a.op, name, *x);
    check_shape(a.op, name, *x, {size});
    check_dtype(a.op, name, *x, ScalarType::Long);
  };
  check_cpu(a.op, "queries", a.queries);
  PYEQGAN_CHECK(a.queries.dim() == 2, a.op, "queries", "shape (M, D)", shape_of(a.queries));
  rows("query_labels", a.query_labels, a.queries.size(0));
  rows("query_ids", a.query_ids, a.queries.size(0));
  PYEQGAN_CHECK(a.keys.has_value() == a.key_labels.has_value(), a.op, "keys, key_labels", "both or neither",
                "one of them");
  if (a.keys.has_value()) {
    check_cpu(a.op, "keys", *a.keys);
    check_dtype(a.op, "keys", *a.keys, a.queries.scalar_type());
    PYEQGAN_CHECK(a.keys->dim() == 2 && a.keys->size(1) == a.queries.size(1), a.op, "keys", "shape (N, D)",
                  shape_of(*a.keys));
    rows("key_labels", a.key_labels, a.keys->size(0));
    rows("key_ids", a.key_ids, a.keys->size(0));
    PYEQGAN_CHECK(a.query_ids.has_value() == a.key_ids.has_value(), a.op, "query_ids, key_ids", "both or neither",
                  "one of them");
  } else {
    PYEQGAN_CHECK(!a.key_ids.has_value(), a.op, "key_ids", "None without keys", "a tensor");
  }
  check_cpu(a.op, "temperature", a.temperature);
  check_shape(a.op, "temperature", a.temperature, {});
  check_dtype(a.op, "temperature", a.temperature, accumulation_dtype(a.queries.scalar_type()));
  PYEQGAN_CHECK(a.mode == "per_positive" || a.mode == "supcon", a.op, "mode", "'per_positive' or 'supcon'", a.mode);
}

// A problem and the memory it points to.
class ContrastiveWork {
 public:
  explicit ContrastiveWork(const ContrastiveArguments& a)
      : accumulation_(accumulation_dtype(a.queries.scalar_type())),
        queries_(torch::stable::contiguous(a.queries)),
        keys_(a.keys.has_value() ? torch::stable::contiguous(*a.keys) : queries_) {
    check(a);
    problem.channels = queries_.size(1);
    problem.temperature = accumulation_ == ScalarType::Double
                              ? *static_cast<const double*>(a.temperature.const_data_ptr())
                              : *static_cast<const float*>(a.temperature.const_data_ptr());
    PYEQGAN_CHECK(problem.temperature > 0, a.op, "temperature", "a number > 0", problem.temperature);
    problem.normalize = a.normalize;
    problem.supcon = a.mode == "supcon";
    problem.self = !a.keys.has_value();
    problem.limbs = takes_limbs(a.queries.scalar_type(), problem.channels);
    // Rows wide enough for whole panels and an odd number of cache lines apart: the columns of a power of two would
    // share few sets of the cache.
    const int64_t line = 64 / element();
    problem.stride = (problem.channels + 2 * line - 1) / (2 * line) * 2 * line + line;
    group(a);
    describe(problem.queries, queries_, groups_.queries);
    if (!problem.self) describe(problem.keys, keys_, groups_.keys);
    schedule_ = problem.self ? PairSchedule::among(problem.queries.blocks())
                             : PairSchedule::between(problem.queries.blocks(), problem.keys.blocks());
  }

  cpu::ContrastiveLoss problem{};

  const Tensor& queries() const { return queries_; }
  const Tensor& keys() const { return keys_; }
  ScalarType accumulation() const { return accumulation_; }

  // Uninitialised numbers of the accumulation dtype, or of another, `width` a row of a side.
  void* buffer(const cpu::ContrastiveSide& side, int64_t width = 1) { return buffer(side, width, accumulation_); }

  // Packs the rows of both sides; what is wanted of them must have been described.
  void pack(cpu::ContrastiveRowsKernels::Run kernel) {
    int out_of_range = 0;
    problem.out_of_range = &out_of_range;
    lay_out();
    blocks(kernel);
    if (out_of_range) {
      problem.limbs = false;
      lay_out();
      blocks(kernel);
    }
    const double bound = peak(problem.queries) * peak(problem.keys) / problem.temperature;
    problem.bounded = bound <= cpu::ContrastiveLoss::kBound;  // not with a NaN
  }

  // Runs a kernel on every block of the queries, and of the keys if they are others.
  void blocks(cpu::ContrastiveRowsKernels::Run kernel) const {
    const int64_t first = problem.queries.blocks(), second = problem.self ? 0 : problem.keys.blocks();
    torch::stable::parallel_for(0, first + second, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        i < first ? kernel(problem, problem.queries, i) : kernel(problem, problem.keys, i - first);
    });
  }

  // Runs a kernel of little work on every block of the queries.
  template <class Kernel>
  void query_blocks(const Kernel& kernel) const {
    for (int64_t i = 0; i < problem.queries.blocks(); ++i) kernel(problem, i);
  }

  // Runs a kernel on every pair of blocks, in self-contrast once for (I,J) and (J,I).
  template <class Kernel>
  void pairs(const Kernel& kernel) const {
    const int64_t first_key = problem.self ? 0 : problem.queries.blocks();
    schedule_->run([&](int64_t i, int64_t j) { kernel(problem, cpu::ContrastivePair{i, j - first_key}); });
  }

 private:
  void* buffer(const cpu::ContrastiveSide& side, int64_t width, ScalarType dtype) {
    buffers_.push_back(torch::stable::new_empty(queries_, {side.padded(), width}, dtype));
    return buffers_.back().mutable_data_ptr();
  }

  int64_t element() const { return accumulation_ == ScalarType::Double ? 8 : 4; }

  void group(const ContrastiveArguments& a) {
    const auto dense = [](const std::optional<Tensor>& x) {
      return x.has_value() ? std::optional<Tensor>(torch::stable::contiguous(*x)) : std::nullopt;
    };
    const auto data = [](const std::optional<Tensor>& x) {
      return x.has_value() ? static_cast<const int64_t*>(x->const_data_ptr()) : nullptr;
    };
    const std::optional<Tensor> labels = dense(a.query_labels), ids = dense(a.query_ids);
    const std::optional<Tensor> key_labels = dense(a.key_labels), key_ids = dense(a.key_ids);
    const ContrastiveLabels queries{data(labels), data(ids), queries_.size(0)};
    const ContrastiveLabels keys{data(key_labels), data(key_ids), keys_.size(0)};
    groups_ = group_rows(queries, problem.self ? nullptr : &keys, a.ignore_index);
    problem.positives_begin = groups_.positives_begin.data();
    problem.positives_end = groups_.positives_end.data();
    problem.excluded_begin = groups_.excluded_begin.data();
    problem.excluded_end = groups_.excluded_end.data();
    problem.excluded = groups_.excluded.data();
    problem.positives = groups_.positives.data();
  }

  void describe(cpu::ContrastiveSide& side, const Tensor& source, const std::vector<int64_t>& order) {
    side.count = static_cast<int64_t>(order.size());
    side.block = block_size(side.count);
    side.order = order.data();
    side.source = source.const_data_ptr();
    side.rows = buffer(side, problem.stride);
    side.norms = doubles(side.count);
    side.peaks = doubles(side.blocks());
    side.slopes = doubles(side.blocks());
  }

  // Room for the factors of the products, by vectors or by the matrix unit.
  void lay_out() {
    namespace unit = cpu::matrix_unit;
    cpu::ContrastiveSide &queries = problem.queries, &keys = problem.keys;
    const auto by_vectors = [&](cpu::ContrastiveSide& side) {
      side.panels = buffer(side, problem.channels);
      side.left = side.right = side.deep = nullptr;
    };
    // The other side's sums are products with this one's rows.
    const auto by_limbs = [&](cpu::ContrastiveSide& side, bool left, bool right, bool deep) {
      const int64_t columns = unit::steps(problem.channels) * unit::kDepth * unit::kLimbs;
      const auto limbs = [&](bool needed) {
        return needed ? static_cast<unit::Limb*>(buffer(side, columns, ScalarType::BFloat16)) : nullptr;
      };
      side.left = limbs(left), side.right = limbs(right), side.deep = limbs(deep);
    };
    if (!problem.limbs) {
      by_vectors(queries);
      if (!problem.self) by_vectors(keys);
    } else if (problem.self) {
      by_limbs(queries, true, true, queries.sums != nullptr);
    } else {
      by_limbs(queries, true, false, keys.sums != nullptr);
      by_limbs(keys, false, true, queries.sums != nullptr);
    }
    if (problem.self) keys = queries;
  }

  // About 16 blocks, of which 8 threads find pairs that share none; but none too small for a product, nor so large that
  // the rows of a pair and their sums do not stay in the cache.
  int64_t block_size(int64_t count) const {
    const int64_t unit = count <= 512 ? 32 : 64;
    // Limbs are more bytes and sooner multiplied: a block must serve more often once it is in the cache.
    const int64_t fraction = problem.limbs ? std::min<int64_t>(count / 8, 256) : count / 16;
    const int64_t wanted = (fraction + unit - 1) / unit * unit;
    const int64_t fitting = (288 << 10) / (problem.stride * element()) / unit * unit;
    return std::max(unit, std::min(wanted, fitting));
  }

  double* doubles(int64_t count) { return doubles_.emplace_back(count).data(); }

  static double peak(const cpu::ContrastiveSide& side) {
    double peak = 0;
    for (int64_t b = 0; b < side.blocks(); ++b)
      if (side.peaks[b] > peak || std::isnan(side.peaks[b])) peak = side.peaks[b];
    return peak;
  }

  ScalarType accumulation_;
  Tensor queries_, keys_;
  ContrastiveGroups groups_;
  std::optional<PairSchedule> schedule_;
  std::vector<Tensor> buffers_;
  std::vector<std::vector<double>> doubles_;
};

}  // namespace pyeqgan
