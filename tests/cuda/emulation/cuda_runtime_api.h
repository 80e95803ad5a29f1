// The few declarations of the CUDA runtime that the launchers use, for the CPU (see cuda_runtime.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrMultiProcessorCount, cudaDevAttrL2CacheSize };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
using cudaStream_t = struct CUstream_st*;

struct uint3 {
  unsigned x, y, z;
};
struct dim3 : uint3 {
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : uint3{x, y, z} {}
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace emulation {
constexpr int SHARED_CAPACITY = 227 * 1024;    // of sm_90
inline std::map<cudaDeviceAttr, int> device = {// a test takes other values
                                               {cudaDevAttrMaxSharedMemoryPerBlockOptin, SHARED_CAPACITY},
                                               {cudaDevAttrMultiProcessorCount, 132},
                                               {cudaDevAttrL2CacheSize, 50 << 20}};
inline std::map<const void*, int> granted;  // dynamic shared memory each kernel was granted
}  // namespace emulation

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = emulation::device[attribute];
  return cudaSuccess;
}

inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  if (bytes > emulation::device[cudaDevAttrMaxSharedMemoryPerBlockOptin]) return cudaErrorInvalidValue;
  emulation::granted[kernel] = bytes;
  return cudaSuccess;
}
