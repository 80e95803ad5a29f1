// Glue of modulated_norm: tensors to pointers, sizes and strides, and back. The contract is in
// pyeqgan/ops/modulated_norm.py, the maths in cpu/modulated_norm.
#include "cpu/modulated_norm/modulated_norm.h"

#include <tuple>

#include "convolution.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "modulated_norm";
constexpr char kBackward[] = "modulated_norm_backward";

using Optional = std::optional<Tensor>;
using Name = std::optional<std::string>;
using Strides = cpu::ModulatedNorm::Strides;

// How the pixels of an image follow one another, or nothing if they do not lie as the layout wants it.
std::optional<Strides> walk(const Tensor& x, bool channels_last) {
  const int64_t height = x.size(2), width = x.size(3);
  const int64_t pixel = width > 1 ? x.stride(3) : height > 1 ? x.stride(2) : 1;
  const bool even = height <= 1 || width <= 1 || x.stride(2) == width * pixel;
  const bool together = channels_last ? x.size(1) <= 1 || x.stride(1) == 1 : pixel == 1;
  if (!even || !together) return std::nullopt;
  return Strides{x.stride(0), channels_last ? 1 : x.stride(1), pixel};
}

// A problem under construction and the tensors its kernels read.
class ModulatedNorm {
 public:
  ModulatedNorm(const char* op, const Tensor& x, const Tensor& gamma, const Tensor& beta, const Name& norm,
                bool training, double eps, const Name& activation, double negative_slope)
      : op_(op), x_(dense(x)), kernels_(of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_modulated_norm), x.scalar_type(), op)) {
    PYEQGAN_CHECK(x.dim() == 4, op, "x", "shape (B, C, H, W)", shape_of(x));
    PYEQGAN_CHECK(!norm.has_value() || *norm == "batch" || *norm == "instance", op, "norm", "None, batch or instance",
                  *norm);
    check_cpu(op, "x", x);
    cpu::ModulatedNorm& p = problem;
    p.batch = x_.size(0), p.channels = x_.size(1), p.pixels = x_.size(2) * x_.size(3);
    p.channels_last = memory_format_of(x_) == MemoryFormat::ChannelsLast;
    p.strides = *walk(x_, p.channels_last);
    p.eps = eps, p.negative_slope = negative_slope, p.activation = activation_of(op, activation);
    p.per_image = norm == "instance";
    p.own_statistics = p.per_image || (norm == "batch" && training);
    p.group_images = p.own_statistics && !p.per_image ? p.batch : 1;
    p.groups = p.group_images == p.batch ? 1 : p.batch;
    p.tile_pixels = p.channels_last ? std::clamp<int64_t>(kTile / std::max<int64_t>(p.channels, 1), 16, 256) : 4096;
    p.tiles = divide_up(p.pixels, p.tile_pixels);
    p.maps = gamma.dim() == 4;
    p.large = p.batch * p.channels * p.pixels > kCache;
    p.x = x_.const_data_ptr();
    gamma_ = modulation("gamma", gamma, p.gamma_strides), beta_ = modulation("beta", beta, p.beta_strides);
    p.gamma = gamma_->const_data_ptr(), p.beta = beta_->const_data_ptr();
  }

  cpu::ModulatedNorm problem{};

  // Takes the steps that `problem` asks for.
  void run(cpu::ModulatedNormKernels::Steps cpu::ModulatedNormKernels::Typed::* direction) {
    cpu::ModulatedNorm& p = problem;
    const Tensor sums = torch::stable::new_empty(x_, {p.batch, p.tiles, 2, p.channels}, ScalarType::Double);
    const Tensor means = torch::stable::new_empty(x_, {p.groups, 2, p.channels}, ScalarType::Double);
    p.sums = static_cast<double*>(sums.mutable_data_ptr()), p.means = static_cast<double*>(means.mutable_data_ptr());
    const cpu::ModulatedNormKernels::Steps& steps = kernels_.*direction;
    if (!p.channels_last) return parallel(steps.channels, p.groups * p.channels);
    if (p.first) parallel(steps.first, p.batch * p.tiles);
    if (p.join) parallel(steps.join, p.groups * p.channels);
    if (p.last) parallel(steps.last, p.batch * p.tiles);
  }

 private:
  // Numbers of a tile of all channels: what a second level cache holds of seven images. Pixels are few enough, too, to
  // be summed one after another in the accumulation dtype.
  static constexpr int64_t kTile = 16384;

  // Numbers of a map that a second level cache holds.
  static constexpr int64_t kCache = 1 << 19;

  void parallel(cpu::ModulatedNormKernels::Run kernel, int64_t items) const {
    torch::stable::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) { kernel(problem, begin, end); });
  }

  // gamma or beta as the kernels read it: maps where they lie, if they can be walked as x is.
  Tensor modulation(const char* name, const Tensor& value, Strides& strides) const {
    const cpu::ModulatedNorm& p = problem;
    check_cpu(op_, name, value);
    check_dtype(op_, name, value, x_.scalar_type());
    if (!p.maps) {
      check_shape(op_, name, value, {p.batch, p.channels});
      return torch::stable::contiguous(torch::stable::to(value, accumulation_dtype(x_.scalar_type())));
    }
    check_shape(op_, name, value, {p.batch, p.channels, x_.size(2), x_.size(3)});
    const Tensor maps =
        walk(value, p.channels_last).has_value() ? value : torch::stable::contiguous(value, memory_format_of(x_));
    strides = *walk(maps, p.channels_last);
    return maps;
  }

  const char* op_;
  Tensor x_;
  Optional gamma_, beta_;
  const cpu::ModulatedNormKernels::Typed& kernels_;
};

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Name& norm,
                                           const Optional& running_mean, const Optional& running_var, bool training,
                                           double eps, const Name& activation, double negative_slope) {
  ModulatedNorm modulated(kName, x, gamma, beta, norm, training, eps, activation, negative_slope);
  cpu::ModulatedNorm& p = modulated.problem;
  const auto statistic = [&](const Optional& running) {
    const ScalarType dtype = accumulation_dtype(x.scalar_type());
    if (!norm.has_value()) return torch::stable::new_empty(x, {0}, dtype);
    if (p.per_image) return torch::stable::new_empty(x, {p.batch, p.channels}, dtype);
    Tensor found = torch::stable::new_empty(x, {p.channels}, dtype);
    if (p.own_statistics) return found;
    PYEQGAN_CHECK(running.has_value(), kName, "running_mean, running_var", "tensors when a batch norm is not training",
                  "None");
    check_cpu(kName, "running statistics", *running);
    check_shape(kName, "running statistics", *running, {p.channels});
    return torch::stable::copy_(found, *running);
  };
  const Tensor mean = statistic(running_mean), var = statistic(running_var);
  if (norm.has_value()) p.mean = mean.mutable_data_ptr(), p.var = var.mutable_data_ptr();
  const Tensor y = empty_image(x, p.channels, x.size(2), x.size(3));
  p.y = y.mutable_data_ptr();
  p.first = p.join = p.own_statistics, p.last = true;
  modulated.run(&cpu::ModulatedNormKernels::Typed::forward);
  return {y, mean, var};
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_y_, const Tensor& x, const Tensor& gamma,
                                            const Tensor& beta, const Name& norm, const Tensor& mean_,
                                            const Tensor& var_, bool training, double eps, const Name& activation,
                                            double negative_slope, bool need_x, bool need_gamma, bool need_beta) {
  ModulatedNorm modulated(kBackward, x, gamma, beta, norm, training, eps, activation, negative_slope);
  cpu::ModulatedNorm& p = modulated.problem;
  check_cpu(kBackward, "grad_y", grad_y_);
  check_dtype(kBackward, "grad_y", grad_y_, x.scalar_type());
  check_shape(kBackward, "grad_y", grad_y_, {p.batch, p.channels, x.size(2), x.size(3)});
  const Tensor grad_y = torch::stable::contiguous(grad_y_, memory_format_of(x));
  const Tensor mean = torch::stable::contiguous(mean_), var = torch::stable::contiguous(var_);
  if (norm.has_value()) {
    for (const auto& [name, value] : {std::tuple("mean", mean), std::tuple("var", var)}) {
      check_cpu(kBackward, name, value);
      check_dtype(kBackward, name, value, accumulation_dtype(x.scalar_type()));
      p.per_image ? check_shape(kBackward, name, value, {p.batch, p.channels})
                  : check_shape(kBackward, name, value, {p.channels});
    }
    p.mean = mean.mutable_data_ptr(), p.var = var.mutable_data_ptr();
  }
  const auto gradient = [&](bool needed, bool image) {
    if (!needed) return nothing(x);
    if (image) return empty_image(x, p.channels, x.size(2), x.size(3));
    return torch::stable::new_empty(x, {p.batch, p.channels}, accumulation_dtype(x.scalar_type()));
  };
  const Tensor grad_x = gradient(need_x, true), grad_gamma = gradient(need_gamma, p.maps),
               grad_beta = gradient(need_beta, p.maps);
  p.grad_y = grad_y.const_data_ptr();
  p.grad_x = need_x ? grad_x.mutable_data_ptr() : nullptr;
  p.grad_gamma = need_gamma ? grad_gamma.mutable_data_ptr() : nullptr;
  p.grad_beta = need_beta ? grad_beta.mutable_data_ptr() : nullptr;
  p.first = true, p.last = p.own_statistics && need_x, p.join = p.last || !p.maps;
  modulated.run(&cpu::ModulatedNormKernels::Typed::backward);
  return {grad_x, torch::stable::to(grad_gamma, x.scalar_type()), torch::stable::to(grad_beta, x.scalar_type())};
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_IMPL(pyeqgan, CPU, m) {
  m.impl("modulated_norm", TORCH_BOX(&pyeqgan::forward));
  m.impl("modulated_norm_backward", TORCH_BOX(&pyeqgan::backward));
}
