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

// By all threads of a block, a power of two; the sum is every thread's.
template <int THREADS, typename T>
__device__ T sum_of_block(T value) {
  SHARED_ARRAY(T, sums, THREADS);
  sums[threadIdx.x] = value;
  for (int apart = THREADS / 2; apart > 0; apart /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < apart) sums[threadIdx.x] += sums[threadIdx.x + apart];
  }
  __syncthreads();
  return sums[0];
}

}  // namespace
}  // namespace pyeqgan
