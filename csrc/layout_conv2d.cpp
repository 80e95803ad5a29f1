// Glue of layout_conv2d. The contract is in pyeqgan/ops/layout_conv2d.py, the maths in cpu/convolution.
#include <algorithm>
#include <tuple>

#include "convolution.h"
#include "cpu/convolution/layout_convolution.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "layout_conv2d";
constexpr char kBackward[] = "layout_conv2d_backward";

struct Options {
  int64_t stride, padding, ignore_index;
  const std::optional<std::string>& activation;
  double negative_slope;
};

// `labels` is contiguous; everything about the weight but its values, and a dtype.
cpu::LayoutConvolution describe(const char* op, const Tensor& labels, int64_t channels, int64_t classes,
                                int64_t kernel_height, int64_t kernel_width, const Options& options) {
  check_cpu(op, "labels", labels);
  check_dtype(op, "labels", labels, ScalarType::Long);
  PYEQGAN_CHECK(labels.dim() == 3, op, "labels", "shape (B, H, W)", shape_of(labels));
  PYEQGAN_CHECK(channels > 0 && classes > 0 && kernel_height > 0 && kernel_width > 0, op, "weight", "sizes >= 1",
                channels, ", ", classes, ", ", kernel_height, ", ", kernel_width);
  PYEQGAN_CHECK(options.stride >= 1, op, "stride", "an integer >= 1", options.stride);
  PYEQGAN_CHECK(options.padding >= 0, op, "padding", "an integer >= 0", options.padding);
  cpu::LayoutConvolution p{};
  p.batch = labels.size(0), p.layout_height = labels.size(1), p.layout_width = labels.size(2);
  p.channels = channels, p.classes = classes, p.kernel_height = kernel_height, p.kernel_width = kernel_width;
  p.stride = options.stride, p.padding = options.padding, p.ignore_index = options.ignore_index;
  const int64_t over_height = p.layout_height + 2 * p.padding - kernel_height;
  const int64_t over_width = p.layout_width + 2 * p.padding - kernel_width;
  PYEQGAN_CHECK(over_height >= 0 && over_width >= 0, op, "labels", "a map not smaller than the kernel",
                shape_of(labels));
  p.height = over_height / p.stride + 1, p.width = over_width / p.stride + 1;
  p.activation = activation_of(op, options.activation), p.negative_slope = options.negative_slope;
  p.labels = static_cast<const int64_t*>(labels.const_data_ptr());
  const int64_t* strange = std::find_if(p.labels, p.labels + labels.numel(), [&](int64_t label) {
    return (label < 0 || label >= classes) && label != p.ignore_index;
  });
  PYEQGAN_CHECK(strange == p.labels + labels.numel(), op, "labels", "classes or ignore_index", *strange);
  return p;
}

void run(cpu::LayoutConvolutionKernels::Run kernel, const cpu::LayoutConvolution& p, int64_t items) {
  torch::stable::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
}

Tensor forward(const Tensor& labels_, const Tensor& weight_, const std::optional<Tensor>& bias_, int64_t stride,
               int64_t padding, int64_t ignore_index, const std::optional<std::string>& activation,
               double negative_slope) {
  const Tensor labels = torch::stable::contiguous(labels_), weight = torch::stable::contiguous(weight_);
  check_cpu(kName, "weight", weight);
  PYEQGAN_CHECK(weight.dim() == 4, kName, "weight", "shape (Co, Nc, kh, kw)", shape_of(weight));
  const ScalarType dtype = weight.scalar_type();
  const auto& kernels = of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_layout_convolution), dtype, kName);
  cpu::LayoutConvolution p = describe(kName, labels, weight.size(0), weight.size(1), weight.size(2), weight.size(3),
                                      {stride, padding, ignore_index, activation, negative_slope});
  p.weight = weight.const_data_ptr();
  const std::optional<Tensor> bias =
      bias_.has_value() ? std::optional<Tensor>(torch::stable::contiguous(*bias_)) : std::nullopt;
  if (bias.has_value()) {
    check_cpu(kName, "bias", *bias);
    check_shape(kName, "bias", *bias, {p.channels});
    check_dtype(kName, "bias", *bias, dtype);
    p.bias = bias->const_data_ptr();
  }
  const Tensor y = torch::stable::empty({p.batch, p.channels, p.height, p.width}, dtype, std::nullopt, weight.device(),
                                        std::nullopt, memory_format_of(weight_));
  const Tensor table = torch::stable::new_empty(weight, {p.table_size()}, accumulation_dtype(dtype));
  p.y = y.mutable_data_ptr(), p.y_strides = strides_of(y), p.table = table.mutable_data_ptr();
  run(kernels.pack, p, p.blocks());
  run(kernels.forward, p, p.bands());
  return y;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_y_, const std::optional<Tensor>& y_, const Tensor& labels_,
                                    int64_t classes, std::vector<int64_t> kernel_size, int64_t stride, int64_t padding,
                                    int64_t ignore_index, const std::optional<std::string>& activation,
                                    double negative_slope, bool need_weight, bool need_bias) {
  const Tensor labels = torch::stable::contiguous(labels_), grad_y = dense(grad_y_);
  const ScalarType dtype = grad_y.scalar_type();
  const auto& kernels = of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_layout_convolution), dtype, kBackward);
  PYEQGAN_CHECK(grad_y.dim() == 4, kBackward, "grad_y", "shape (B, Co, H, W)", shape_of(grad_y));
  PYEQGAN_CHECK(kernel_size.size() == 2, kBackward, "kernel_size", "2 numbers", kernel_size.size());
  PYEQGAN_CHECK(y_.has_value() == activation.has_value(), kBackward, "y", "a tensor exactly with an activation",
                y_.has_value() ? "a tensor" : "None");
  cpu::LayoutConvolution p = describe(kBackward, labels, grad_y.size(1), classes, kernel_size[0], kernel_size[1],
                                      {stride, padding, ignore_index, activation, negative_slope});
  std::optional<Tensor> y;
  if (y_.has_value()) {
    y = dense(*y_);
    p.y = const_cast<void*>(y->const_data_ptr()), p.y_strides = strides_of(*y);
  }
  p.grad = grad_y.const_data_ptr(), p.grad_strides = strides_of(grad_y);
  for (const auto& [name, value] : {std::pair("grad_y", std::optional<Tensor>(grad_y)), std::pair("y", y)}) {
    if (!value.has_value()) continue;
    check_cpu(kBackward, name, *value);
    check_dtype(kBackward, name, *value, dtype);
    check_shape(kBackward, name, *value, {p.batch, p.channels, p.height, p.width});
  }
  Tensor grad_weight = nothing(grad_y), grad_bias = nothing(grad_y);
  if (need_weight) {
    grad_weight = torch::stable::new_empty(grad_y, {p.channels, p.classes, p.kernel_height, p.kernel_width});
    p.grad_weight = grad_weight.mutable_data_ptr();
  }
  if (need_bias) {
    grad_bias = torch::stable::new_empty(grad_y, {p.channels});
    p.grad_bias = grad_bias.mutable_data_ptr();
  }
  const Tensor sums = torch::stable::new_empty(grad_y, {p.parts() * p.table_size()}, accumulation_dtype(dtype));
  p.sums = sums.mutable_data_ptr();
  run(kernels.backward, p, p.parts());
  run(kernels.unpack, p, p.blocks());
  return {grad_weight, grad_bias};
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_IMPL(pyeqgan, CPU, m) {
  m.impl("layout_conv2d", TORCH_BOX(&pyeqgan::forward));
  m.impl("layout_conv2d_backward", TORCH_BOX(&pyeqgan::backward));
}
