// Glue of bilateral_propagation: tensors to pointers, sizes and strides, and back. The contract is in
// pyeqgan/ops/bilateral_propagation.py, the maths in cpu/bilateral_propagation_kernel.cpp.
#include "cpu/bilateral_propagation.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "check.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "bilateral_propagation";
constexpr char kBackward[] = "bilateral_propagation_backward";

const cpu::BilateralPropagationKernels::Typed& kernels(ScalarType dtype, const char* op) {
  const cpu::BilateralPropagationKernels& table = PYEQGAN_CHOOSE(cpu::pyeqgan_bilateral_propagation);
  switch (dtype) {
    case ScalarType::Float:
      return table.f32;
    case ScalarType::Double:
      return table.f64;
    case ScalarType::BFloat16:
      return table.bf16;
    case ScalarType::Half:
      return table.f16;
    default:
      PYEQGAN_CHECK(false, op, "x", "float32, float64, bfloat16 or float16", torch::headeronly::toString(dtype));
      return table.f32;
  }
}

void run(cpu::BilateralPropagationKernels::Run kernel, const cpu::BilateralPropagation& problem, int64_t items) {
  torch::stable::parallel_for(0, items, 1, [&](int64_t begin, int64_t end) { kernel(problem, begin, end); });
}

cpu::BilateralPropagation describe(const char* op, const Tensor& x, const std::optional<Tensor>& gate, double sigma,
                                   int64_t radius) {
  PYEQGAN_CHECK(x.dim() == 4, op, "x", "shape (B, C, H, W)", shape_of(x));
  check_cpu(op, "x", x);
  PYEQGAN_CHECK(sigma > 0, op, "sigma", "a number > 0", sigma);
  PYEQGAN_CHECK(radius >= 0, op, "radius", "an integer >= 0", radius);
  cpu::BilateralPropagation p{};
  p.batch = x.size(0), p.channels = x.size(1), p.height = x.size(2), p.width = x.size(3);
  p.sigma = sigma;
  // No tap further than the map is wide meets an element of it.
  p.radius = std::min(radius, std::max(p.height, p.width));
  p.x = x.const_data_ptr();
  p.x_strides = strides_of(x);
  if (gate.has_value()) {
    check_cpu(op, "gate", *gate);
    check_shape(op, "gate", *gate, {p.batch, p.channels});
    check_dtype(op, "gate", *gate, x.scalar_type());
    p.gate = gate->const_data_ptr();
  }
  return p;
}

std::optional<Tensor> dense_gate(const std::optional<Tensor>& gate) {
  return gate.has_value() ? std::optional<Tensor>(torch::stable::contiguous(*gate)) : std::nullopt;
}

std::tuple<Tensor, Tensor> forward(const Tensor& x_, const std::optional<Tensor>& gate_, double sigma, int64_t radius) {
  const Tensor x = dense(x_);
  const std::optional<Tensor> gate = dense_gate(gate_);
  cpu::BilateralPropagation p = describe(kName, x, gate, sigma, radius);
  const Tensor y = empty_image(x_, 2 * p.channels, p.height, p.width);
  const Tensor affinity =
      torch::stable::new_empty(x, {p.batch, 9, p.height, p.width}, accumulation_dtype(x.scalar_type()));
  p.y = y.mutable_data_ptr();
  p.y_strides = strides_of(y);
  p.affinity = affinity.mutable_data_ptr();
  const auto& kernel = kernels(x.scalar_type(), kName);
  if (p.height > 0 && p.width > 0) {
    run(kernel.spatial, p, p.batch * p.channel_blocks());
    run(kernel.range, p, p.batch * p.bands());
  }
  return {y, affinity};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_y_, const Tensor& x_, const std::optional<Tensor>& gate_,
                                    const Tensor& affinity_, double sigma, int64_t radius, bool need_x,
                                    bool need_gate) {
  const Tensor x = dense(x_), grad_y = dense(grad_y_), affinity = torch::stable::contiguous(affinity_);
  const std::optional<Tensor> gate = dense_gate(gate_);
  cpu::BilateralPropagation p = describe(kBackward, x, gate, sigma, radius);
  const ScalarType dtype = x.scalar_type(), accumulation = accumulation_dtype(dtype);
  for (const auto& [name, value, channels, expected] : {std::tuple("grad_y", grad_y, 2 * p.channels, dtype),
                                                        std::tuple("affinity", affinity, int64_t{9}, accumulation)}) {
    check_cpu(kBackward, name, value);
    check_shape(kBackward, name, value, {p.batch, channels, p.height, p.width});
    check_dtype(kBackward, name, value, expected);
  }
  p.grad_y = grad_y.const_data_ptr();
  p.grad_y_strides = strides_of(grad_y);
  p.affinity = const_cast<void*>(affinity.const_data_ptr());
  const Tensor none = torch::stable::new_empty(x, {0});
  const Tensor grad_x = need_x ? empty_image(x, p.channels, p.height, p.width) : none;
  // The gradient of v is summed in the accumulation dtype: in grad_x itself where that is its dtype.
  const Tensor grad_v = need_x && dtype == accumulation
                            ? grad_x
                            : torch::stable::empty({p.batch, p.channels, p.height, p.width}, accumulation, std::nullopt,
                                                   x.device(), std::nullopt, memory_format_of(x));
  const Tensor shares = torch::stable::new_empty(x, {p.batch, p.bands(), need_gate ? p.channels : 0}, accumulation);
  p.grad_x = need_x ? grad_x.mutable_data_ptr() : nullptr;
  p.grad_v = grad_v.mutable_data_ptr();
  p.grad_gates = need_gate ? shares.mutable_data_ptr() : nullptr;
  const auto& kernel = kernels(dtype, kBackward);
  if (p.height > 0 && p.width > 0) {
    run(kernel.spatial_backward, p, p.batch * p.channel_blocks());
    run(kernel.range_backward, p, p.batch * p.bands());
  }
  if (!need_gate) return {grad_x, none};
  return {grad_x, torch::stable::to(torch::stable::sum(shares, std::array<int64_t, 1>{1}), dtype)};
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_IMPL(pyeqgan, CPU, m) {
  m.impl("bilateral_propagation", TORCH_BOX(&pyeqgan::forward));
  m.impl("bilateral_propagation_backward", TORCH_BOX(&pyeqgan::backward));
}
