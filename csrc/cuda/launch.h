// How every CUDA kernel of the library is launched: one call, no triple angle brackets, no synchronisation.
//
// cudaLaunchKernelEx is an ordinary function template, so the tests' CPU execution model
// (tests/cuda/emulation) takes its place without a change to any kernel file.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <climits>
#include <cstdint>

#include "dtype.h"

// The dynamic shared memory of the running block; a kernel carves what it needs out of it.
extern __shared__ float4 dynamic_shared[];

// A shared array of a size known at compile time. The emulation has a definition of its own.
#ifndef SHARED_ARRAY
#define SHARED_ARRAY(Type, name, size) __shared__ Type name[size]
#endif

namespace pyeqgan {

// Call run with a zero of the storage type that dtype names.
template <typename Run>
int dispatch(int dtype, Run run) {
  switch (dtype) {
    case FLOAT32:
      return run(float{});
    case FLOAT16:
      return run(__half{});
    case BFLOAT16:
      return run(__nv_bfloat16{});
    default:
      return cudaErrorInvalidValue;
  }
}

// The last digit of a mixed-radix number, which is taken off.
__host__ __device__ inline int take(int64_t& index, int64_t size) {
  const int digit = static_cast<int>(index % size);
  index /= size;
  return digit;
}

// How many pieces of a size an extent is cut into.
__host__ __device__ inline int64_t blocks_of(int64_t extent, int64_t size) { return (extent + size - 1) / size; }

// What a launcher plans with: of the current device.
struct Device {
  int shared_bytes;  // the most dynamic shared memory a block may ask for
  int multiprocessors;
  int l2_bytes;
};

inline int query(Device* device) {
  int index = 0;
  cudaError_t error = cudaGetDevice(&index);
  const auto get = [&](cudaDeviceAttr attribute, int* value) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, index);
  };
  get(cudaDevAttrMaxSharedMemoryPerBlockOptin, &device->shared_bytes);
  get(cudaDevAttrMultiProcessorCount, &device->multiprocessors);
  get(cudaDevAttrL2CacheSize, &device->l2_bytes);
  return error;
}

// Enqueue blocks * threads threads of kernel(problem) on stream; returns the cudaError_t as int.
template <typename Problem>
int launch(void (*kernel)(Problem), int64_t blocks, int threads, int shared_bytes, cudaStream_t stream,
           const Problem& problem) {
  if (blocks == 0) return cudaSuccess;
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  constexpr int GRANTED_TO_ALL = 48 * 1024;
  if (shared_bytes > GRANTED_TO_ALL) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, problem);
}

}  // namespace pyeqgan
