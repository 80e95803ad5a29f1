// Glue of skip_decoder_block: the convolution of the upsampled x and the skip, then normalisation and activation. The
// contract is in pyeqgan/ops/skip_decoder_block.py, the maths in cpu/convolution.
#include <tuple>

#include "convolution.h"
#include "normalization.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "skip_decoder_block";
constexpr char kBackward[] = "skip_decoder_block_backward";

using Optional = std::optional<Tensor>;
using Name = std::optional<std::string>;

// The convolution, but for its output.
Convolution describe(const char* op, const Tensor& x, const Optional& skip, const Tensor& weight) {
  PYEQGAN_CHECK(x.dim() == 4 && x.size(2) >= 1 && x.size(3) >= 1, op, "x", "shape (B, C, H >= 1, W >= 1)", shape_of(x));
  Convolution convolution(op, x.scalar_type());
  cpu::Convolution& p = convolution.problem;
  p.batch = x.size(0), p.height = 2 * x.size(2), p.width = 2 * x.size(3);
  p.in_channels = x.size(1) + (skip.has_value() ? skip->size(1) : 0), p.out_channels = weight.size(0);
  p.kernel_height = p.kernel_width = 3;
  p.padding = 1, p.padding_mode = cpu::Padding::kReflect;
  check_shape(op, "weight", weight, {p.out_channels, p.in_channels, 3, 3});
  for (const auto& [name, value] : {std::tuple("x", x), std::tuple("weight", weight)}) {
    check_cpu(op, name, value);
    check_dtype(op, name, value, x.scalar_type());
  }
  p.weight = weight.const_data_ptr();
  convolution.add_source(x, 0, true);
  if (skip.has_value()) {
    const bool coarse = skip->size(2) == x.size(2);
    check_cpu(op, "skip", *skip);
    check_dtype(op, "skip", *skip, x.scalar_type());
    check_shape(op, "skip", *skip,
                {p.batch, skip->size(1), coarse ? x.size(2) : p.height, coarse ? x.size(3) : p.width});
    convolution.add_source(*skip, x.size(1), coarse);
  }
  convolution.plan();
  return convolution;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& x_, const Optional& skip_, const Tensor& weight_,
                                                   const Optional& bias_, const Name& norm, const Optional& norm_weight,
                                                   const Optional& norm_bias, const Optional& running_mean,
                                                   const Optional& running_var, bool training, double eps,
                                                   const Name& activation, double negative_slope) {
  const Tensor x = dense(x_), weight = torch::stable::contiguous(weight_);
  const Optional skip = skip_.has_value() ? Optional(dense(*skip_)) : std::nullopt;
  Convolution convolution = describe(kName, x, skip, weight);
  cpu::Convolution& c = convolution.problem;
  const Optional bias = bias_.has_value() ? Optional(torch::stable::contiguous(*bias_)) : std::nullopt;
  if (bias.has_value()) {
    check_cpu(kName, "bias", *bias);
    check_shape(kName, "bias", *bias, {c.out_channels});
    check_dtype(kName, "bias", *bias, x.scalar_type());
    c.bias = bias->const_data_ptr();
  }
  const Tensor y = empty_image(x_, c.out_channels, c.height, c.width);
  Normalization normalization(kName, y, norm, norm_weight, norm_bias, eps, activation, negative_slope);
  cpu::Normalization& n = normalization.problem;
  const bool own = n.per_image || training;  // statistics of this batch
  PYEQGAN_CHECK(!norm.has_value() || own || (running_mean.has_value() && running_var.has_value()), kName,
                "running_mean, running_var", "tensors when a batch norm is not training", "None");
  const Tensor mean = normalization.statistic(kName, own ? std::nullopt : running_mean);
  const Tensor var = normalization.statistic(kName, own ? std::nullopt : running_var);
  const Tensor pre = norm.has_value() ? empty_image(x_, c.out_channels, c.height, c.width) : nothing(x);
  const Tensor& result = norm.has_value() ? pre : y;
  c.output = result.mutable_data_ptr(), c.output_strides = strides_of(result);
  if (!norm.has_value()) {
    c.output_activation = n.activation, c.negative_slope = negative_slope;
    convolution.output(x);
    return {y, pre, mean, var};
  }
  const Tensor moments = normalization.per_channel({c.batch, c.blocks_per_image, 2});
  if (own) c.statistics = moments.mutable_data_ptr();
  convolution.output(x);
  n.mean = mean.mutable_data_ptr(), n.var = var.mutable_data_ptr();
  if (own) normalization.statistics(moments, 2 * c.block_rows * c.width);
  n.x = pre.const_data_ptr(), n.y = y.mutable_data_ptr();
  normalization.forward();
  return {y, pre, mean, var};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad_y_, const Tensor& x_, const Optional& skip_, const Tensor& weight_, const Optional& bias,
    const Name& norm, const Optional& norm_weight, const Optional& norm_bias, const Tensor& saved_, const Tensor& mean_,
    const Tensor& var_, bool training, double eps, const Name& activation, double negative_slope, bool need_x,
    bool need_skip, bool need_weight, bool need_bias, bool need_norm_weight, bool need_norm_bias) {
  const Tensor x = dense(x_), weight = torch::stable::contiguous(weight_), saved = dense(saved_);
  const Optional skip = skip_.has_value() ? Optional(dense(*skip_)) : std::nullopt;
  Convolution convolution = describe(kBackward, x, skip, weight);
  cpu::Convolution& c = convolution.problem;
  const Tensor grad_y = torch::stable::contiguous(grad_y_, memory_format_of(saved));
  const Tensor grad_pre = empty_image(saved, c.out_channels, c.height, c.width);
  for (const auto& [name, value] : {std::tuple("grad_y", grad_y), std::tuple("saved", saved)}) {
    check_cpu(kBackward, name, value);
    check_dtype(kBackward, name, value, x.scalar_type());
    check_shape(kBackward, name, value, {c.batch, c.out_channels, c.height, c.width});
  }
  Normalization normalization(kBackward, saved, norm, norm_weight, norm_bias, eps, activation, negative_slope);
  cpu::Normalization& n = normalization.problem;
  const Tensor mean = torch::stable::contiguous(mean_), var = torch::stable::contiguous(var_);
  const Tensor grad_norm_weight = normalization.per_channel({}), grad_norm_bias = normalization.per_channel({});
  if (norm.has_value()) {
    for (const auto& [name, value] : {std::tuple("mean", mean), std::tuple("var", var)}) {
      check_cpu(kBackward, name, value);
      check_dtype(kBackward, name, value, accumulation_dtype(x.scalar_type()));
      n.per_image ? check_shape(kBackward, name, value, {c.batch, c.out_channels})
                  : check_shape(kBackward, name, value, {c.out_channels});
    }
    n.mean = mean.mutable_data_ptr(), n.var = var.mutable_data_ptr();
  }
  n.constant_statistics = !n.per_image && !training;
  n.x = saved.const_data_ptr(), n.grad_y = grad_y.const_data_ptr(), n.grad_x = grad_pre.mutable_data_ptr();
  normalization.backward(&grad_norm_weight, &grad_norm_bias);

  Tensor grad_x = nothing(x), grad_skip = nothing(x), grad_weight = nothing(x), grad_bias = nothing(x);
  c.grad = grad_pre.const_data_ptr(), c.grad_strides = strides_of(grad_pre);
  if (need_x) {
    grad_x = empty_image(x_, x.size(1), x.size(2), x.size(3));
    convolution.input_gradient(x, 0, grad_x);
  }
  if (need_skip && skip.has_value()) {
    grad_skip = empty_image(*skip_, skip->size(1), skip->size(2), skip->size(3));
    convolution.input_gradient(x, 1, grad_skip);
  }
  if (need_weight) {
    grad_weight = torch::stable::new_empty(weight, {c.out_channels, c.in_channels, 3, 3});
    convolution.weight_gradient(x, grad_weight);
  }
  if (need_bias) {
    // A norm by the batch's own statistics takes any bias away.
    grad_bias = norm.has_value() && !n.constant_statistics
                    ? torch::stable::new_zeros(weight, {c.out_channels})
                    : torch::stable::sum(grad_pre, std::array<int64_t, 3>{0, 2, 3});
  }
  const auto like = [&](bool needed, const Tensor& grad, const Optional& parameter) {
    return needed && parameter.has_value() ? torch::stable::to(grad, parameter->scalar_type()) : nothing(x);
  };
  return {grad_x,
          grad_skip,
          grad_weight,
          grad_bias,
          like(need_norm_weight, grad_norm_weight, norm_weight),
          like(need_norm_bias, grad_norm_bias, norm_bias)};
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_IMPL(pyeqgan, CPU, m) {
  m.impl("skip_decoder_block", TORCH_BOX(&pyeqgan::forward));
  m.impl("skip_decoder_block_backward", TORCH_BOX(&pyeqgan::backward));
}
