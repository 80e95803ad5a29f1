// What the glue of the CUDA C++ kernels shares: tensors to pointers, sizes, strides and a stream.
//
// The kernels become operations of their own, pyeqgan_cuda::*, with the schemas of pyeqgan::*; which backend
// fills the CUDA slot of pyeqgan::* is the router's decision (pyeqgan/backends.py). Compiled by the host
// compiler over torch's stable ABI with the toolkit's headers; needs no CUDA build of torch and no driver until
// an operation is called.
#pragma once

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <array>

#include "../check.h"
#include "dtype.h"

namespace pyeqgan {

// The stable headers give a stream's native handle only from torch 2.13 on; libtorch_cuda, which is loaded when
// a CUDA tensor exists, has always had this function.
inline cudaStream_t current_stream(int32_t device) {
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

inline void check_launch(const char* op, int code) {
  const auto error = static_cast<cudaError_t>(code);
  STD_TORCH_CHECK(error == cudaSuccess, op, ": ", cudaGetErrorName(error), ", ", cudaGetErrorString(error));
}

inline int dtype_of(const char* op, const char* argument, const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return FLOAT32;
    case ScalarType::Half:
      return FLOAT16;
    case ScalarType::BFloat16:
      return BFLOAT16;
    default:
      PYEQGAN_CHECK(false, op, argument, "float32, bfloat16 or float16", torch::headeronly::toString(x.scalar_type()));
      return -1;
  }
}

inline void check_cuda(const char* op, const char* argument, const Tensor& x) {
  PYEQGAN_CHECK(x.is_cuda(), op, argument, "a CUDA tensor", "another device");
}

inline void check_device(const char* op, const char* argument, const Tensor& x, const Tensor& like) {
  PYEQGAN_CHECK(x.is_cuda() && x.get_device_index() == like.get_device_index(), op, argument,
                "the device of the first argument", "another device");
}

// In elements.
template <size_t N>
std::array<int64_t, N> strides_of(const Tensor& x) {
  std::array<int64_t, N> strides;
  for (size_t i = 0; i < N; ++i) strides[i] = x.stride(i);
  return strides;
}

}  // namespace pyeqgan
