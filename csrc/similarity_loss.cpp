// Glue of similarity_loss: pixels sorted and cut into blocks, kernels run on pairs of these. The contract is in
// pyeqgan/ops/similarity_loss.py, the maths in cpu/similarity_loss.
#include "cpu/similarity_loss/similarity_loss.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "check.h"
#include "contrastive_groups.h"
#include "pair_schedule.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "similarity_loss";
constexpr char kBackward[] = "similarity_loss_backward";

// A problem and the memory it points to.
class SimilarityWork {
 public:
  SimilarityWork(const char* op, const Tensor& probabilities, const Tensor& labels, int64_t ignore_index, double eps)
      : rows_(of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_similarity_rows), probabilities.scalar_type(), op)),
        accumulation_(accumulation_dtype(probabilities.scalar_type())),
        probabilities_(dense(probabilities)) {
    const Tensor& x = probabilities_;
    check_cpu(op, "probabilities", x);
    PYEQGAN_CHECK(x.dim() == 4, op, "probabilities", "shape (B, Nc, H, W)", shape_of(x));
    check_cpu(op, "labels", labels);
    check_dtype(op, "labels", labels, ScalarType::Long);
    check_shape(op, "labels", labels, {x.size(0), x.size(2), x.size(3)});
    PYEQGAN_CHECK(eps > 0 && eps < 0.5, op, "eps", "a number in (0, 0.5)", eps);
    const int64_t pixels = x.size(2) * x.size(3);
    const bool planar = memory_format_of(x) == MemoryFormat::Contiguous;
    problem.channels = x.size(1), problem.eps = eps;
    problem.image = problem.channels * pixels;
    problem.channel = planar ? pixels : 1, problem.pixel = planar ? 1 : problem.channels;
    problem.probabilities = x.const_data_ptr();
    sort(torch::stable::contiguous(labels), pixels, ignore_index);
    problem.pixels = pixels_.data(), problem.blocks = blocks_.data();
    classes_ = numbers(classes_of_places_);
    problem.classes = classes_.const_data_ptr();
    panels_ = places();
    problem.panels = panels_.mutable_data_ptr();
  }

  cpu::SimilarityLoss problem{};

  ScalarType accumulation() const { return accumulation_; }
  const Tensor& probabilities() const { return probabilities_; }
  const std::vector<cpu::SimilarityBlock>& blocks() const { return blocks_; }

  // For each image 1/(pairs · images that count), 0 if it does not.
  std::vector<double> shares() const {
    const double images =
        static_cast<double>(std::count_if(counts_.begin(), counts_.end(), [](int64_t n) { return n > 0; }));
    std::vector<double> shares;
    for (const int64_t n : counts_)
      shares.push_back(n == 0 ? 0 : 1 / (static_cast<double>(n) * static_cast<double>(n) * images));
    return shares;
  }

  // Uninitialised numbers of the accumulation dtype, `channels` for every place.
  Tensor places() const {
    return torch::stable::new_empty(probabilities_, {static_cast<int64_t>(pixels_.size()), problem.channels},
                                    accumulation_);
  }

  void pack() const { run(rows_.pack); }
  void unpack() const { run(rows_.unpack); }

  void pairs(cpu::SimilarityPairsKernels::Run cpu::SimilarityPairsKernels::Typed::* kernel) const {
    const auto& table = PYEQGAN_CHOOSE(cpu::pyeqgan_similarity_pairs);
    const auto call = (accumulation_ == ScalarType::Double ? table.f64 : table.f32).*kernel;
    PairSchedule::within(blocks_of_images_).run([&](int64_t i, int64_t j) { call(problem, i, j); });
  }

 private:
  void sort(const Tensor& labels, int64_t pixels, int64_t ignore_index) {
    for (int64_t b = 0; b < labels.size(0); ++b) {
      const int64_t* of_image = static_cast<const int64_t*>(labels.const_data_ptr()) + b * pixels;
      const auto sorted = detail::sort_rows({of_image, nullptr, pixels}, ignore_index);
      const int64_t first = static_cast<int64_t>(pixels_.size());
      for (size_t i = 0, number = 0; i < sorted.size(); ++i) {
        if (i > 0 && sorted[i].first != sorted[i - 1].first) ++number;
        classes_of_places_.push_back(static_cast<double>(number));
        pixels_.push_back(sorted[i].second);
      }
      while (pixels_.size() % cpu::SimilarityLoss::kPlaces != 0) {
        classes_of_places_.push_back(-1);
        pixels_.push_back(-1);
      }
      counts_.push_back(static_cast<int64_t>(sorted.size()));
      const int64_t end = static_cast<int64_t>(pixels_.size());
      blocks_of_images_.push_back(0);
      for (int64_t begin = first; begin < end; begin += cpu::SimilarityLoss::kBlock, ++blocks_of_images_.back())
        blocks_.push_back({b, begin, std::min(begin + cpu::SimilarityLoss::kBlock, end)});
    }
  }

  // As numbers of the accumulation dtype.
  Tensor numbers(const std::vector<double>& values) const {
    const Tensor x = torch::stable::new_empty(probabilities_, {static_cast<int64_t>(values.size())}, accumulation_);
    if (accumulation_ == ScalarType::Double) {
      std::copy(values.begin(), values.end(), static_cast<double*>(x.mutable_data_ptr()));
    } else {
      std::copy(values.begin(), values.end(), static_cast<float*>(x.mutable_data_ptr()));
    }
    return x;
  }

  void run(cpu::SimilarityRowsKernels::Run kernel) const {
    torch::stable::parallel_for(0, static_cast<int64_t>(blocks_.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) kernel(problem, block);
    });
  }

  const cpu::SimilarityRowsKernels::Typed& rows_;
  const ScalarType accumulation_;
  const Tensor probabilities_;
  Tensor classes_, panels_;
  std::vector<int64_t> pixels_, counts_, blocks_of_images_;
  std::vector<double> classes_of_places_;
  std::vector<cpu::SimilarityBlock> blocks_;
};

Tensor forward(const Tensor& probabilities, const Tensor& labels, int64_t ignore_index, double eps) {
  SimilarityWork work(kName, probabilities, labels, ignore_index, eps);
  std::vector<double> sums(work.blocks().size());
  work.problem.sums = sums.data();
  work.pack();
  work.pairs(&cpu::SimilarityPairsKernels::Typed::forward);
  const std::vector<double> shares = work.shares();
  double loss = 0;
  for (size_t block = 0; block < sums.size(); ++block) loss += shares[work.blocks()[block].image] * sums[block];
  return torch::stable::full({}, loss, work.accumulation(), std::nullopt, probabilities.device());
}

Tensor backward(const Tensor& grad_loss, const Tensor& probabilities, const Tensor& labels, int64_t ignore_index,
                double eps) {
  SimilarityWork work(kBackward, probabilities, labels, ignore_index, eps);
  check_cpu(kBackward, "grad_loss", grad_loss);
  check_shape(kBackward, "grad_loss", grad_loss, {});
  check_dtype(kBackward, "grad_loss", grad_loss, work.accumulation());
  const void* from = grad_loss.const_data_ptr();
  const double grad =
      work.accumulation() == ScalarType::Double ? *static_cast<const double*>(from) : *static_cast<const float*>(from);
  std::vector<double> scales = work.shares();
  for (double& scale : scales) scale *= 2 * grad;
  // Zeros: ignored pixels are not written.
  const Tensor result = torch::stable::empty_like(work.probabilities()), slopes = work.places();
  torch::stable::zero_(const_cast<Tensor&>(result));
  work.problem.scales = scales.data();
  work.problem.slopes = slopes.mutable_data_ptr();
  work.problem.target = result.mutable_data_ptr();
  work.pack();
  work.pairs(&cpu::SimilarityPairsKernels::Typed::backward);
  work.unpack();
  return result;
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_IMPL(pyeqgan, CPU, m) {
  m.impl("similarity_loss", TORCH_BOX(&pyeqgan::forward));
  m.impl("similarity_loss_backward", TORCH_BOX(&pyeqgan::backward));
}
