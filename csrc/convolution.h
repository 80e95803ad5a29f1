// How the glue runs the convolution kernels: cuts the work, allocates what passes between the kernels, calls them.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>

#include "check.h"
#include "cpu/convolution/convolution.h"
#include "cpu/matrix_unit.h"

namespace pyeqgan {

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What stands for a gradient that was not asked for: outputs of an operation must not share memory, so each its own.
inline Tensor nothing(const Tensor& like) { return torch::stable::new_empty(like, {0}); }

inline cpu::Activation activation_of(const char* op, const std::optional<std::string>& name) {
  if (!name.has_value()) return cpu::Activation::kNone;
  if (*name == "relu") return cpu::Activation::kRelu;
  if (*name == "leaky_relu") return cpu::Activation::kLeakyRelu;
  PYEQGAN_CHECK(*name == "tanh", op, "activation", "None, relu, leaky_relu or tanh", *name);
  return cpu::Activation::kTanh;
}

// A problem under construction and the tensors its kernels share. The caller fills in sources, weight and output.
class Convolution {
 public:
  Convolution(const char* op, ScalarType dtype) : op_(op), dtype_(dtype) {}

  cpu::Convolution problem{};

  void add_source(const Tensor& x, int64_t offset, bool upsampled) {
    problem.sources[problem.source_count++] = {x.const_data_ptr(), strides_of(x), x.size(1), offset, x.size(2),
                                               x.size(3),          upsampled,     nullptr,   {}};
  }

  // Cuts the work, once sizes and sources are known.
  void plan() {
    cpu::Convolution& p = problem;
    p.points_per_axis = 3;
    for (int64_t s = 0; s < p.source_count; ++s)
      if (!p.sources[s].upsampled) p.points_per_axis = 4;
    p.tile_rows = divide_up(p.height, 2), p.tile_columns = divide_up(p.width, 2);
    p.limbs = takes_limbs(dtype_, std::min(p.in_channels, p.out_channels));
    const int64_t tiles = p.tile_rows * p.tile_columns;
    p.block_images = std::max<int64_t>(1, kTiles / std::max<int64_t>(tiles, 1));
    p.block_rows = p.tile_rows;
    if (tiles >= kTiles) p.block_rows = std::max<int64_t>(1, kTiles / p.tile_columns);
    p.blocks_per_image = p.block_rows == 0 ? 0 : divide_up(p.tile_rows, p.block_rows);
    p.blocks = divide_up(p.batch, p.block_images) * p.blocks_per_image;
    // Fewer panels an item repeat transforms, but give threads something to do.
    p.input_span = std::clamp<int64_t>(image_runs(), 1, cpu::kInputSpan);
  }

  void output(const Tensor& like) {
    const cpu::Convolution& p = problem;
    compute([&](const auto& kernels, const auto& weights, int64_t points, bool direct) {
      by_slabs(like, points, p.in_channels, p.out_channels, kernels.panel, [&] {
        run(weights.points, p.panel_count * divide_up(p.in_channels, cpu::kChannelRun));
        const std::optional<Tensor> limbs = split(like, weights.split_points, points, p.in_channels);
        problem.output_span = p.blocks < kFewBlocks ? 1 : p.panel_count;
        run(kernels.output, p.blocks * divide_up(p.panel_count, p.output_span));
      });
    });
  }

  // The gradient of source `target`, into `grad`.
  void input_gradient(const Tensor& like, int64_t target, const Tensor& grad) {
    const cpu::Convolution& p = problem;
    cpu::Convolution::Source& source = problem.sources[target];
    problem.target = target;
    source.grad = grad.mutable_data_ptr(), source.grad_strides = strides_of(grad);
    compute([&](const auto& kernels, const auto& weights, int64_t points, bool direct) {
      by_slabs(like, points, p.out_channels, source.channels, kernels.panel, [&] {
        run(weights.transposed_points, p.panel_count * divide_up(p.out_channels, cpu::kChannelRun));
        const std::optional<Tensor> limbs = split(like, weights.split_transposed, points, p.out_channels);
        run(kernels.input_gradient, image_runs() * divide_up(p.panel_count, p.input_span));
      });
    });
  }

  void weight_gradient(const Tensor& like, Tensor& grad) {
    const cpu::Convolution& p = problem;
    if (p.blocks == 0) {
      torch::stable::zero_(grad);
      return;
    }
    problem.grad_weight = grad.mutable_data_ptr();
    compute([&](const auto& kernels, const auto& weights, int64_t points, bool direct) {
      const int64_t output_panels = divide_up(p.out_channels, kernels.panel);
      const auto spans = [&](int64_t source) {
        return divide_up(divide_up(p.sources[source].channels, kernels.panel), cpu::kInputSpan) *
               divide_up(output_panels, cpu::kOutputSpan);
      };
      int64_t items = 0;
      for (int64_t s = 0; s < p.source_count; ++s) items += spans(s);
      problem.groups = std::clamp<int64_t>(kItems / std::max<int64_t>(items, 1), 1, p.blocks);
      const bool alone = p.groups == 1 && !direct;
      const Tensor shared = scratch(like, {alone ? 0 : p.groups, points, output_panels, p.in_channels, kernels.panel});
      problem.grad_points = alone ? nullptr : shared.mutable_data_ptr();
      for (int64_t s = 0; s < p.source_count; ++s) {
        problem.target = s;
        run(weights.points_gradient, p.groups * spans(s));
      }
      if (!alone) run(weights.gradient, output_panels * divide_up(p.in_channels, cpu::kChannelRun));
    });
  }

 private:
  using Run = cpu::ConvolutionKernels::Run;

  // Tiles in a block: enough to reuse a weight often, few enough for their points to stay near the processor.
  static constexpr int64_t kTiles = 64;
  static constexpr int64_t kFewBlocks = 4;
  // Numbers in a run of panels of the weight's points: what a processor keeps in its second level cache.
  static constexpr int64_t kSlab = 1 << 20;
  // Work items of a weight gradient: enough to keep threads busy.
  static constexpr int64_t kItems = 16;

  int64_t image_runs() const { return divide_up(problem.batch, problem.block_images); }

  // Calls f with Winograd's kernels where they serve, else, or if they met a value too large for them, with the others.
  template <class F>
  void compute(const F& f) {
    const cpu::Convolution& p = problem;
    bool served = p.kernel_height == 3 && p.kernel_width == 3 && p.padding <= 1;
    if (served) {
      spoiled_ = 0;
      problem.spoiled = &spoiled_;
      f(of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_convolution), dtype_, op_),
        of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_convolution_weight), dtype_, op_), p.points_per_axis * p.points_per_axis,
        false);
      served = spoiled_ == 0;
    }
    if (served) return;
    f(of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_direct_convolution), dtype_, op_),
      of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_direct_convolution_weight), dtype_, op_), p.kernel_height * p.kernel_width,
      true);
  }

  // Calls f for one run of panels after another, with room for their weight at all points.
  template <class F>
  void by_slabs(const Tensor& like, int64_t points, int64_t depth, int64_t channels, int64_t panel, const F& f) {
    const int64_t panels = divide_up(channels, panel), each = points * depth * panel;
    const int64_t most = std::clamp<int64_t>(kSlab / std::max<int64_t>(each, 1), 1, std::max<int64_t>(panels, 1));
    const Tensor shared = scratch(like, {most, each});
    problem.points = shared.mutable_data_ptr();
    for (int64_t first = 0; first < panels; first += most) {
      problem.first_panel = first, problem.panel_count = std::min(most, panels - first);
      f();
    }
  }

  // The limbs of the points of the panels at hand, to be kept as long as they are used; nothing if there are none.
  std::optional<Tensor> split(const Tensor& like, Run kernel, int64_t points, int64_t depth) {
    problem.point_limbs = nullptr;
    if (!problem.limbs || kernel == nullptr) return std::nullopt;
    namespace unit = cpu::matrix_unit;
    const int64_t items = points * problem.panel_count;
    // Of two sources each has its own last step.
    const int64_t each = unit::deep_size(depth) + (problem.source_count - 1) * unit::deep_size(unit::kDepth);
    const Tensor limbs = torch::stable::new_empty(like, {items, each}, ScalarType::BFloat16);
    int out_of_range = 0;
    problem.out_of_range = &out_of_range;
    problem.point_limbs = limbs.mutable_data_ptr();
    run(kernel, items);
    if (out_of_range) problem.point_limbs = nullptr;
    return limbs;
  }

  Tensor scratch(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes) const {
    return torch::stable::new_empty(like, sizes, accumulation_dtype(dtype_));
  }

  void run(Run kernel, int64_t items) const {
    torch::stable::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) { kernel(problem, begin, end); });
  }

  const char* op_;
  ScalarType dtype_;
  int spoiled_ = 0;
};

}  // namespace pyeqgan
