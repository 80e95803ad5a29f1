// Glue of the CUDA C++ kernels: tensors to pointers, sizes, strides and a stream, and back.
//
// The kernels become operations of their own, pyeqgan_cuda::*, with the schemas of pyeqgan::*; which backend
// fills the CUDA slot of pyeqgan::* is the router's decision (pyeqgan/backends.py). Compiled by the host
// compiler over torch's stable ABI with the toolkit's headers; needs no CUDA build of torch and no driver until
// an operation is called.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <array>
#include <optional>
#include <tuple>

#include "../check.h"
#include "bilateral_propagation.h"
#include "dtype.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "bilateral_propagation (CUDA)";
constexpr char kBackward[] = "bilateral_propagation_backward (CUDA)";

using Four = std::array<int64_t, 4>;

// The stable headers give a stream's native handle only from torch 2.13 on; libtorch_cuda, which is loaded when
// a CUDA tensor exists, has always had this function.
cudaStream_t current_stream(int32_t device) {
  using Getter = AOTITorchError (*)(int32_t, void**);
  static const Getter getter = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library == nullptr ? nullptr
                              : reinterpret_cast<Getter>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  STD_TORCH_CHECK(getter != nullptr, "pyeqgan_cuda: this torch has no CUDA support (libtorch_cuda.so is not loaded)");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(getter(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

void check_launch(const char* op, int code) {
  const auto error = static_cast<cudaError_t>(code);
  STD_TORCH_CHECK(error == cudaSuccess, op, ": ", cudaGetErrorName(error), ", ", cudaGetErrorString(error));
}

int dtype_of(const char* op, const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return FLOAT32;
    case ScalarType::Half:
      return FLOAT16;
    case ScalarType::BFloat16:
      return BFLOAT16;
    default:
      PYEQGAN_CHECK(false, op, "x", "float32, bfloat16 or float16", torch::headeronly::toString(x.scalar_type()));
      return -1;
  }
}

void check_image(const char* op, const char* argument, const Tensor& value, const Tensor& x, int64_t channels,
                 ScalarType dtype) {
  PYEQGAN_CHECK(value.is_cuda() && value.get_device_index() == x.get_device_index(), op, argument, "the device of x",
                "another device");
  check_shape(op, argument, value, {x.size(0), channels, x.size(2), x.size(3)});
  check_dtype(op, argument, value, dtype);
}

// A dense copy of the gate where it is not dense, checked against x.
std::optional<Tensor> dense_gate(const char* op, const Tensor& x, const std::optional<Tensor>& gate) {
  PYEQGAN_CHECK(x.dim() == 4, op, "x", "shape (B, C, H, W)", shape_of(x));
  PYEQGAN_CHECK(x.is_cuda(), op, "x", "a CUDA tensor", "another device");
  if (!gate.has_value()) return std::nullopt;
  check_shape(op, "gate", *gate, {x.size(0), x.size(1)});
  check_dtype(op, "gate", *gate, x.scalar_type());
  PYEQGAN_CHECK(gate->is_cuda() && gate->get_device_index() == x.get_device_index(), op, "gate", "the device of x",
                "another device");
  return torch::stable::contiguous(*gate);
}

Four sizes_of(const Tensor& x) { return {x.size(0), x.size(1), x.size(2), x.size(3)}; }
Four element_strides(const Tensor& x) { return {x.stride(0), x.stride(1), x.stride(2), x.stride(3)}; }

const void* pointer(const std::optional<Tensor>& x) { return x.has_value() ? x->const_data_ptr() : nullptr; }

Tensor workspace_like(const Tensor& x, const Four& size, int64_t radius, bool backward) {
  const int64_t bytes = pyeqgan_bilateral_propagation_workspace(size.data(), radius, backward);
  return torch::stable::new_empty(x, {bytes}, ScalarType::Byte);
}

std::tuple<Tensor, Tensor> forward(const Tensor& x, const std::optional<Tensor>& gate_, double sigma, int64_t radius) {
  const std::optional<Tensor> gate = dense_gate(kName, x, gate_);
  const int dtype = dtype_of(kName, x);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Four size = sizes_of(x);
  const Tensor y = empty_image(x, 2 * size[1], size[2], size[3]);
  const Tensor affinity = torch::stable::new_empty(x, {size[0], 9, size[2], size[3]}, ScalarType::Float);
  const Tensor workspace = workspace_like(x, size, radius, false);
  check_launch(kName, pyeqgan_bilateral_propagation(
                          x.const_data_ptr(), element_strides(x).data(), pointer(gate), y.mutable_data_ptr(),
                          element_strides(y).data(), static_cast<float*>(affinity.mutable_data_ptr()),
                          workspace.mutable_data_ptr(), dtype, size.data(), static_cast<float>(sigma), radius,
                          current_stream(x.get_device_index())));
  return {y, affinity};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_y, const Tensor& x, const std::optional<Tensor>& gate_,
                                    const Tensor& affinity_, double sigma, int64_t radius, bool need_x,
                                    bool need_gate) {
  const std::optional<Tensor> gate = dense_gate(kBackward, x, gate_);
  PYEQGAN_CHECK(gate.has_value() || !need_gate, kBackward, "need_gate", "false without a gate", "true");
  const int dtype = dtype_of(kBackward, x);
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
                   grad_y.const_data_ptr(), element_strides(grad_y).data(), x.const_data_ptr(),
                   element_strides(x).data(), pointer(gate), static_cast<const float*>(affinity.const_data_ptr()),
                   need_x ? grad_x.mutable_data_ptr() : nullptr, need_x ? element_strides(grad_x).data() : size.data(),
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
