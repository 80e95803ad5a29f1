// How the glue runs the kernels that normalise and activate an image.
#pragma once

#include <vector>

#include "convolution.h"
#include "cpu/convolution/normalization.h"

namespace pyeqgan {

// A problem under construction and the tensors its kernels share. The caller fills in images and statistics.
class Normalization {
 public:
  Normalization(const char* op, const Tensor& image, const std::optional<std::string>& norm,
                const std::optional<Tensor>& norm_weight, const std::optional<Tensor>& norm_bias, double eps,
                const std::optional<std::string>& activation, double negative_slope)
      : image_(image), kernels_(of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_normalization), image.scalar_type(), op)) {
    PYEQGAN_CHECK(!norm.has_value() || *norm == "batch" || *norm == "instance", op, "norm", "None, batch or instance",
                  *norm);
    cpu::Normalization& p = problem;
    p.batch = image.size(0), p.channels = image.size(1), p.pixels = image.size(2) * image.size(3);
    p.channels_last = memory_format_of(image) == MemoryFormat::ChannelsLast;
    p.norm = norm.has_value();
    p.per_image = norm.has_value() && *norm == "instance";
    p.eps = eps, p.negative_slope = negative_slope, p.activation = activation_of(op, activation);
    p.chunks = p.channels_last ? divide_up(p.pixels, cpu::Normalization::kChunk) : 1;
    p.weight = affine(op, "norm_weight", norm_weight, weight_), p.bias = affine(op, "norm_bias", norm_bias, bias_);
  }

  cpu::Normalization problem{};

  // Uninitialised values per channel, (..., C).
  Tensor per_channel(std::vector<int64_t> leading) const {
    leading.push_back(problem.channels);
    return torch::stable::new_empty(image_, leading, accumulation_dtype(image_.scalar_type()));
  }

  // A mean or variance of the right shape: a copy of what is given, or room for that of the image.
  Tensor statistic(const char* op, const std::optional<Tensor>& given) const {
    const cpu::Normalization& p = problem;
    if (!p.norm) return nothing(per_channel({}));
    if (!given.has_value()) return p.per_image ? per_channel({p.batch}) : per_channel({});
    check_cpu(op, "running statistics", *given);
    check_shape(op, "running statistics", *given, {p.channels});
    Tensor copy = per_channel({});
    return torch::stable::copy_(copy, *given);
  }

  // Mean and variance from the moments of parts of the image.
  void statistics(const Tensor& moments, int64_t part_pixels) {
    problem.moments = moments.const_data_ptr();
    problem.parts = moments.size(1), problem.part_pixels = part_pixels;
    run(kernels_.statistics, problem.per_image ? problem.batch : 1);
  }

  void forward() const { run(kernels_.forward, sweeps()); }

  // The gradient of the image, and of weight and bias into these, (C) in the accumulation dtype, if given.
  void backward(const Tensor* grad_weight, const Tensor* grad_bias) {
    cpu::Normalization& p = problem;
    const Tensor sums = per_channel({p.batch, p.chunks, 2});
    const Tensor means = per_channel({p.per_image ? p.batch : 1, 2});
    if (p.norm) {
      p.sums = sums.mutable_data_ptr(), p.means = means.mutable_data_ptr();
      p.grad_weight = grad_weight == nullptr ? nullptr : grad_weight->mutable_data_ptr();
      p.grad_bias = grad_bias == nullptr ? nullptr : grad_bias->mutable_data_ptr();
      run(kernels_.sums, sweeps());
      run(kernels_.means, p.channels);
    }
    run(kernels_.input_gradient, sweeps());
  }

 private:
  const void* affine(const char* op, const char* name, const std::optional<Tensor>& value,
                     std::optional<Tensor>& kept) const {
    if (!value.has_value()) return nullptr;
    check_cpu(op, name, *value);
    check_shape(op, name, *value, {problem.channels});
    kept = torch::stable::contiguous(torch::stable::to(*value, accumulation_dtype(image_.scalar_type())));
    return kept->const_data_ptr();
  }

  int64_t sweeps() const {
    if (problem.pixels == 0 || problem.channels == 0) return 0;
    return problem.batch * (problem.channels_last ? problem.chunks : problem.channels);
  }

  void run(cpu::NormalizationKernels::Run kernel, int64_t items) const {
    torch::stable::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) { kernel(problem, begin, end); });
  }

  Tensor image_;
  std::optional<Tensor> weight_, bias_;
  const cpu::NormalizationKernels::Typed& kernels_;
};

}  // namespace pyeqgan
