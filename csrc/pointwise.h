// How the glue runs the kernels of 1×1 convolutions: cuts the work, allocates what passes between the kernels.
#pragma once

#include "convolution.h"
#include "cpu/convolution/pointwise.h"
#include "cpu/matrix_unit.h"

namespace pyeqgan {

// A problem under construction and the tensors its kernels share. The caller adds dense sources, weight and output.
// With `packed` or `parts` kept by the caller, one problem may be run for some of its images after the other.
class Pointwise {
 public:
  // A 1×1 convolution of images of the size and dtype of `like`.
  Pointwise(const char* op, const Tensor& like, const Tensor& weight)
      : kernels_(of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_pointwise), like.scalar_type(), op)),
        like_(like),
        weight_(torch::stable::contiguous(weight)) {
    cpu::Pointwise& p = problem;
    p.batch = like.size(0), p.pixels = like.size(2) * like.size(3);
    p.out_channels = weight_.size(0), p.in_channels = weight_.size(1);
    p.weight = weight_.const_data_ptr();
    p.limbs = takes_limbs(like.scalar_type(), std::min(p.in_channels, p.out_channels));
  }

  cpu::Pointwise problem{};

  static cpu::Pointwise::Image describe(const Tensor& image) {
    return {image.const_data_ptr(), image.size(1), memory_format_of(image) == MemoryFormat::ChannelsLast};
  }

  void add_source(const Tensor& image) {
    cpu::Pointwise& p = problem;
    const cpu::Pointwise::Source* last = p.source_count == 0 ? nullptr : &p.sources[p.source_count - 1];
    p.sources[p.source_count++] = {describe(image), last == nullptr ? 0 : last->offset + last->channels, nullptr};
  }

  // The weight as `output` or as `input_gradient` reads it, to be kept as long as they run.
  struct Packed {
    Tensor panels;
    std::optional<Tensor> limbs;  // if the matrix unit can take them
  };
  Packed pack_for_output() const { return pack(kernels_.pack); }
  Packed pack_for_gradient() const { return pack(kernels_.pack_gradient); }

  void output(const Packed& packed) {
    use(packed);
    run(kernels_.output, items());
  }

  // The gradient of a source, dense in its layout.
  void input_gradient(const Packed& packed, int64_t target, const Tensor& grad) {
    use(packed);
    problem.target = target, problem.sources[target].grad = grad.mutable_data_ptr();
    run(kernels_.input_gradient, items());
  }

  // Room for the gradient of the weight, to which every call of weight_gradient adds.
  Tensor weight_parts() {
    cpu::Pointwise& p = problem;
    p.groups = std::clamp<int64_t>(divide_up(kItems, std::max<int64_t>(spans(), 1)), 1, std::max<int64_t>(items(), 1));
    Tensor parts = scratch({p.groups, divide_up(p.out_channels, kernels_.panel), p.in_channels, kernels_.panel});
    return torch::stable::zero_(parts);
  }
  void weight_gradient(Tensor& parts) {
    problem.groups = parts.size(0), problem.weight_parts = parts.mutable_data_ptr();
    run(kernels_.weight_gradient, problem.groups * spans());
  }
  Tensor weight_sum(Tensor& parts) {
    Tensor grad = torch::stable::empty_like(weight_);
    problem.groups = parts.size(0), problem.weight_parts = parts.mutable_data_ptr();
    problem.grad_weight = grad.mutable_data_ptr();
    run(kernels_.weight_sum, divide_up(problem.out_channels, kernels_.panel));
    return grad;
  }

 private:
  using Run = cpu::PointwiseKernels::Run;

  // Work items of a weight gradient: enough to keep threads busy.
  static constexpr int64_t kItems = 8;

  int64_t items() const { return problem.batch * problem.blocks(); }
  int64_t spans() const { return divide_up(divide_up(problem.out_channels, kernels_.panel), cpu::Pointwise::kSpan); }
  Tensor scratch(torch::headeronly::IntHeaderOnlyArrayRef sizes) const {
    return torch::stable::new_empty(like_, sizes, accumulation_dtype(like_.scalar_type()));
  }

  Packed pack(Run kernel) const {
    cpu::Pointwise p = problem;
    const auto whole = [&](int64_t channels) { return divide_up(channels, kernels_.panel) * kernels_.panel; };
    int64_t size = 0;
    for (int64_t s = 0; s < p.source_count; ++s) size += whole(p.sources[s].channels) * whole(p.out_channels);
    Packed packed{scratch({size}), std::nullopt};
    if (p.limbs)
      packed.limbs =
          torch::stable::new_empty(like_, {cpu::matrix_unit::kLimbs * size}, torch::headeronly::ScalarType::BFloat16);
    int out_of_range = 0;
    p.out_of_range = &out_of_range;
    p.packed = packed.panels.mutable_data_ptr();
    p.packed_limbs = p.limbs ? packed.limbs->mutable_data_ptr() : nullptr;
    torch::stable::parallel_for(0, p.source_count, 1, [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
    if (out_of_range) packed.limbs.reset();
    return packed;
  }

  void use(const Packed& packed) {
    problem.packed = packed.panels.mutable_data_ptr();
    problem.packed_limbs = packed.limbs.has_value() ? packed.limbs->mutable_data_ptr() : nullptr;
  }

  void run(Run kernel, int64_t items) const {
    torch::stable::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) { kernel(problem, begin, end); });
  }

  const cpu::PointwiseKernels::Typed& kernels_;
  Tensor like_, weight_;
};

}  // namespace pyeqgan
