// Glue of activated_conv2d. The contract is in pyeqgan/ops/activated_conv2d.py, the maths in cpu/convolution.
#include <tuple>

#include "convolution.h"
#include "pointwise.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "activated_conv2d";
constexpr char kBackward[] = "activated_conv2d_backward";

struct Options {
  const std::optional<std::string>& activation;
  double negative_slope;
  int64_t padding;
  const std::string& padding_mode;
};

cpu::Padding padding_of(const char* op, const std::string& mode) {
  if (mode == "zeros") return cpu::Padding::kZeros;
  if (mode == "reflect") return cpu::Padding::kReflect;
  PYEQGAN_CHECK(mode == "replicate", op, "padding_mode", "zeros, reflect or replicate", mode);
  return cpu::Padding::kReplicate;
}

Convolution describe(const char* op, const Tensor& x, const Tensor& weight, const Options& options) {
  PYEQGAN_CHECK(x.dim() == 4, op, "x", "shape (B, C, H, W)", shape_of(x));
  PYEQGAN_CHECK(weight.dim() == 4 && weight.size(1) == x.size(1), op, "weight", "shape (Co, C, kh, kw)",
                shape_of(weight));
  for (const auto& [name, value] : {std::tuple("x", x), std::tuple("weight", weight)}) {
    check_cpu(op, name, value);
    check_dtype(op, name, value, x.scalar_type());
  }
  Convolution convolution(op, x.scalar_type());
  cpu::Convolution& p = convolution.problem;
  p.batch = x.size(0), p.in_channels = x.size(1), p.out_channels = weight.size(0);
  p.kernel_height = weight.size(2), p.kernel_width = weight.size(3);
  p.height = x.size(2) + 2 * options.padding - p.kernel_height + 1;
  p.width = x.size(3) + 2 * options.padding - p.kernel_width + 1;
  const bool reflects = options.padding_mode == "reflect";
  PYEQGAN_CHECK(options.padding >= 0, op, "padding", "an integer >= 0", options.padding);
  PYEQGAN_CHECK(p.height >= 1 && p.width >= 1 && (!reflects || std::min(x.size(2), x.size(3)) > options.padding), op,
                "x", "a map larger than its padding and its kernel", shape_of(x));
  p.padding = options.padding, p.padding_mode = padding_of(op, options.padding_mode);
  p.activation = activation_of(op, options.activation), p.negative_slope = options.negative_slope;
  p.weight = weight.const_data_ptr();
  convolution.add_source(x, 0, false);
  convolution.plan();
  return convolution;
}

// Whether no pixel meets another.
bool pointwise(const cpu::Convolution& p) { return p.kernel_height == 1 && p.kernel_width == 1 && p.padding == 0; }

// The same convolution, `output` being its output or that's gradient.
Pointwise describe(const char* op, const Tensor& x, const Tensor& weight, const cpu::Convolution& p,
                   const Tensor& output) {
  Pointwise product(op, x, weight);
  product.problem.activation = p.activation, product.problem.negative_slope = p.negative_slope;
  product.add_source(x);
  product.problem.output = Pointwise::describe(output);
  return product;
}

Tensor forward(const Tensor& x_, const Tensor& weight_, const std::optional<Tensor>& bias_,
               const std::optional<std::string>& activation, double negative_slope, int64_t padding,
               const std::string& padding_mode) {
  const Tensor x = dense(x_), weight = torch::stable::contiguous(weight_);
  Convolution convolution = describe(kName, x, weight, {activation, negative_slope, padding, padding_mode});
  cpu::Convolution& p = convolution.problem;
  const std::optional<Tensor> bias =
      bias_.has_value() ? std::optional<Tensor>(torch::stable::contiguous(*bias_)) : std::nullopt;
  if (bias.has_value()) {
    check_cpu(kName, "bias", *bias);
    check_shape(kName, "bias", *bias, {p.out_channels});
    check_dtype(kName, "bias", *bias, x.scalar_type());
    p.bias = bias->const_data_ptr();
  }
  const Tensor y = empty_image(x_, p.out_channels, p.height, p.width);
  if (pointwise(p)) {
    Pointwise product = describe(kName, x, weight, p, y);
    product.problem.bias = p.bias;
    product.output(product.pack_for_output());
    return y;
  }
  p.output = y.mutable_data_ptr(), p.output_strides = strides_of(y);
  convolution.output(x);
  return y;
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_y_, const Tensor& x_, const Tensor& weight_,
                                            const std::optional<std::string>& activation, double negative_slope,
                                            int64_t padding, const std::string& padding_mode, bool need_x,
                                            bool need_weight, bool need_bias) {
  const Tensor x = dense(x_), weight = torch::stable::contiguous(weight_), grad_y = dense(grad_y_);
  Convolution convolution = describe(kBackward, x, weight, {activation, negative_slope, padding, padding_mode});
  cpu::Convolution& p = convolution.problem;
  check_cpu(kBackward, "grad_y", grad_y);
  check_dtype(kBackward, "grad_y", grad_y, x.scalar_type());
  check_shape(kBackward, "grad_y", grad_y, {p.batch, p.out_channels, p.height, p.width});
  p.grad = grad_y.const_data_ptr(), p.grad_strides = strides_of(grad_y);
  Tensor grad_x = nothing(x), grad_weight = nothing(x), grad_bias = nothing(x);
  if (need_bias) grad_bias = torch::stable::sum(grad_y, std::array<int64_t, 3>{0, 2, 3});
  if (pointwise(p)) {
    Pointwise product = describe(kBackward, x, weight, p, grad_y);
    if (need_x) {
      grad_x = torch::stable::empty_like(x);
      product.input_gradient(product.pack_for_gradient(), 0, grad_x);
    }
    if (need_weight) {
      Tensor parts = product.weight_parts();
      product.weight_gradient(parts);
      grad_weight = product.weight_sum(parts);
    }
    return {grad_x, grad_weight, grad_bias};
  }
  if (need_x) {
    grad_x = empty_image(x_, p.in_channels, x.size(2), x.size(3));
    convolution.input_gradient(x, 0, grad_x);
  }
  if (need_weight) {
    grad_weight = torch::stable::new_empty(weight, {p.out_channels, p.in_channels, p.kernel_height, p.kernel_width});
    convolution.weight_gradient(x, grad_weight);
  }
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_IMPL(pyeqgan, CPU, m) {
  m.impl("activated_conv2d", TORCH_BOX(&pyeqgan::forward));
  m.impl("activated_conv2d_backward", TORCH_BOX(&pyeqgan::backward));
}
