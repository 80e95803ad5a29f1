// Sums over threads, in one order: results do not depend on which thread comes first.
#pragma once

#include <cuda_runtime.h>

#include "launch.h"

namespace pyeqgan {
namespace {

__device__ inline float sum_of_warp(float value) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(~0u, value, apart);
  return value;
}

// What join makes of the values of all threads of a block, a power of two; it is every thread's.
template <int THREADS, typename T, typename Join>
__device__ T join_of_block(T value, Join join) {
  SHARED_ARRAY(T, values, THREADS);
  values[threadIdx.x] = value;
  for (int apart = THREADS / 2; apart > 0; apart /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < apart)
      values[threadIdx.x] = join(values[threadIdx.x], values[threadIdx.x + apart]);
  }
  __syncthreads();
  return values[0];
}

template <int THREADS, typename T>
__device__ T sum_of_block(T value) {
  return join_of_block<THREADS>(value, [](T a, T b) { return a + b; });
}

}  // namespace
}  // namespace pyeqgan
