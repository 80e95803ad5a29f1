// Glue of bilateral_propagation on the GPU.
#include "bilateral_propagation.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <optional>
#include <tuple>

#include "glue.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "bilateral_propagation (CUDA)";
constexpr char kBackward[] = "bilateral_propagation_backward (CUDA)";

using Four = std::array<int64_t, 4>;

void check_image(const char* op, const char* argument, const Tensor& value, const Tensor& x, int64_t channels,
                 ScalarType dtype) {
  check_device(op, argument, value, x);
  check_shape(op, argument, value, {x.size(0), channels, x.size(2), x.size(3)});
  check_dtype(op, argument, value, dtype);
}

// A dense copy of the gate where it is not dense, checked against x.
std::optional<Tensor> dense_gate(const char* op, const Tensor& x, const std::optional<Tensor>& gate) {
  PYEQGAN_CHECK(x.dim() == 4, op, "x", "shape (B, C, H, W)", shape_of(x));
  check_cuda(op, "x", x);
  if (!gate.has_value()) return std::nullopt;
  check_shape(op, "gate", *gate, {x.size(0), x.size(1)});
  check_dtype(op, "gate", *gate, x.scalar_type());
  check_device(op, "gate", *gate, x);
  return torch::stable::contiguous(*gate);
}

Four sizes_of(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }

const void* pointer(const std::optional<Tensor>& x) { return x.has_value() ? x->const_data_ptr() : nullptr; }

Tensor workspace_like(const Tensor& x, const Four& size, int64_t radius, bool backward) {
  const int64_t bytes = pyeqgan_bilateral_propagation_workspace(size.data(), radius, backward);
  return torch::stable::new_empty(x, {bytes}, ScalarType::Byte);
}

std::tuple<Tensor, Tensor> forward(const Tensor& x, const std::optional<Tensor>& gate_, double sigma, int64_t radius) {
  const std::optional<Tensor> gate = dense_gate(kName, x, gate_);
  const int dtype = dtype_of(kName, "x", x);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Four size = sizes_of(x);
  const Tensor y = empty_image(x, 2 * size[1], size[2], size[3]);
  const Tensor affinity = torch::stable::new_empty(x, {size[0], 9, size[2], size[3]}, ScalarType::Float);
  const Tensor workspace = workspace_like(x, size, radius, false);
  check_launch(kName, pyeqgan_bilateral_propagation(
                          x.const_data_ptr(), strides_of<4>(x).data(), pointer(gate), y.mutable_data_ptr(),
                          strides_of<4>(y).data(), static_cast<float*>(affinity.mutable_data_ptr()),
                          workspace.mutable_data_ptr(), dtype, size.data(), static_cast<float>(sigma), radius,
                          current_stream(x.get_device_index())));
  return {y, affinity};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_y, const Tensor& x, const std::optional<Tensor>& gate_,
                                    const Tensor& affinity_, double sigma, int64_t radius, bool need_x,
                                    bool need_gate) {
  const std::optional<Tensor> gate = dense_gate(kBackward, x, gate_);
  PYEQGAN_CHECK(gate.has_value() || !need_gate, kBackward, "need_gate", "false without a gate", "true");
  const int dtype = dtype_of(kBackward, "x", x);
  check_image(kBackward, "grad_y", grad_y, x, 2 * x.size(1), x.scalar_type());
  check_image(kBackward, "affinity", affinity_, x, 9, ScalarType::Float);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Tensor affinity = torch::stable::contiguous(affinity_);
  const Four size = sizes_of(x);
  const Tensor none = torch::stable::new_empty(x, {0});
  const Tensor grad_x = need_x ? empty_image(x, size[1], size[2], size[3]) : none;
  const Tensor grad_gate = need_gate ? torch::stable::new_empty(x, {size[0], size[1]}) : none;
  if (!need_x && !need_gate) return {grad_x, grad_gate};
  const Tensor workspace = workspace_like(x, size, radius, true);
  check_launch(kBackward,
               pyeqgan_bilateral_propagation_backward(
                   grad_y.const_data_ptr(), strides_of<4>(grad_y).data(), x.const_data_ptr(), strides_of<4>(x).data(),
                   pointer(gate), static_cast<const float*>(affinity.const_data_ptr()),
                   need_x ? grad_x.mutable_data_ptr() : nullptr, need_x ? strides_of<4>(grad_x).data() : size.data(),
                   need_gate ? grad_gate.mutable_data_ptr() : nullptr, workspace.mutable_data_ptr(), dtype, size.data(),
                   static_cast<float>(sigma), radius, current_stream(x.get_device_index())));
  return {grad_x, grad_gate};
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_FRAGMENT(pyeqgan_cuda, m) {
  m.def("bilateral_propagation(Tensor x, Tensor? gate, float sigma, int radius) -> (Tensor y, Tensor affinity)");
  m.def(
      "bilateral_propagation_backward(Tensor grad_y, Tensor x, Tensor? gate, Tensor affinity, float sigma, int radius, "
      "bool need_x, bool need_gate) -> (Tensor grad_x, Tensor grad_gate)");
}

STABLE_TORCH_LIBRARY_IMPL(pyeqgan_cuda, CUDA, m) {
  m.impl("bilateral_propagation", TORCH_BOX(&pyeqgan::forward));
  m.impl("bilateral_propagation_backward", TORCH_BOX(&pyeqgan::backward));
}
