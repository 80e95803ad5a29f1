// What the glue files share: checks that print op, argument, expected and got, and descriptions of tensors.
//
// The Python contract has checked everything a user can get wrong; these checks stand between a direct caller of
// torch.ops.pyeqgan.* and memory that is not his.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "cpu/dispatch.h"
#include "cpu/strides.h"

namespace pyeqgan {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#define PYEQGAN_CHECK(condition, op, argument, expected, ...) \
  STD_TORCH_CHECK(condition, op, ": ", argument, ": expected ", expected, ", got ", __VA_ARGS__)

inline std::string shape_of(const Tensor& x) {
  std::string text = "shape (";
  for (int64_t i = 0; i < x.dim(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(x.size(i));
  return text + ")";
}

inline void check_shape(const char* op, const char* argument, const Tensor& x, std::initializer_list<int64_t> sizes) {
  bool same = x.dim() == static_cast<int64_t>(sizes.size());
  std::string expected = "shape (";
  int64_t i = 0;
  for (const int64_t size : sizes) {
    same = same && x.size(i) == size;
    expected += (i++ == 0 ? "" : ", ") + std::to_string(size);
  }
  PYEQGAN_CHECK(same, op, argument, expected + ")", shape_of(x));
}

inline void check_dtype(const char* op, const char* argument, const Tensor& x, ScalarType dtype) {
  PYEQGAN_CHECK(x.scalar_type() == dtype, op, argument, torch::headeronly::toString(dtype),
                torch::headeronly::toString(x.scalar_type()));
}

inline void check_cpu(const char* op, const char* argument, const Tensor& x) {
  PYEQGAN_CHECK(x.is_cpu(), op, argument, "a CPU tensor", "another device");
}

// The entry of a kernel table for an image dtype.
template <class Table>
const auto& of_dtype(const Table& table, ScalarType dtype, const char* op) {
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
      PYEQGAN_CHECK(false, op, "dtype", "float32, float64, bfloat16 or float16", torch::headeronly::toString(dtype));
      return table.f32;
  }
}

// float64 for float64, float32 for everything narrower.
inline ScalarType accumulation_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Whether the matrix unit multiplies numbers of this dtype (cpu/matrix_unit.h): not if there is none, nor where so few
// as `narrowest` channels meet that it would be idle.
inline bool takes_limbs(ScalarType dtype, int64_t narrowest) {
  const bool narrow = dtype == ScalarType::BFloat16 || dtype == ScalarType::Half;
  return narrow && narrowest >= 16 && cpu::capability() == cpu::Capability::kAmx;
}

// The memory format an output takes over from x, decided by x's strides: torch._prims_common.suggest_memory_format.
inline MemoryFormat memory_format_of(const Tensor& x) {
  if (x.dim() != 4 || x.stride(1) == 0) return MemoryFormat::Contiguous;
  int64_t smallest = 0;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (x.size(d) == 0 || x.stride(d) < smallest) return MemoryFormat::Contiguous;
    // N111 is contiguous, and so is NCHW of one channel and one pixel in every stride.
    if (d == 0 && smallest == x.stride(1)) return MemoryFormat::Contiguous;
    smallest = x.stride(d) * x.size(d);
  }
  return MemoryFormat::ChannelsLast;
}

// An uninitialised (B,channels,height,width) in the dtype and memory format of x.
inline Tensor empty_image(const Tensor& x, int64_t channels, int64_t height, int64_t width) {
  return torch::stable::empty({x.size(0), channels, height, width}, x.scalar_type(), std::nullopt, x.device(),
                              std::nullopt, memory_format_of(x));
}

// x itself if it is dense as NCHW or NHWC, else a dense copy in the memory format its strides suggest.
inline Tensor dense(const Tensor& x) { return torch::stable::contiguous(x, memory_format_of(x)); }

inline cpu::Strides strides_of(const Tensor& x) {
  cpu::Strides s{x.stride(0), x.stride(1), x.stride(2), x.stride(3)};
  // A dimension of size 1 may carry any stride: say which of the two layouts it is.
  if (memory_format_of(x) == MemoryFormat::ChannelsLast) {
    s.c = 1;
  } else {
    s.w = 1;
  }
  return s;
}

}  // namespace pyeqgan
