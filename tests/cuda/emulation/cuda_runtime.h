// CUDA's execution model on one CPU thread, so that a .cu file compiled as C++ runs and can be checked.
//
// Every CUDA thread of a block is a fiber. A fiber runs until it waits at a barrier or ends; a barrier opens
// when all threads of the block (or warp) that have not ended wait at it. Blocks, and the fibers that may run,
// go in an order drawn from a seed, and shared memory starts as NaN: a missing barrier or an element never
// written shows as a wrong number under some seed. Under AddressSanitizer shared memory past what was asked
// for, or past an array, is an error. What it does not model: memory order, bank conflicts, speed.
//
// Shared memory is SHARED_ARRAY(Type, name, size) and the one array dynamic_shared, as in launch.h.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda_runtime_api.h"
#include "fibers.h"

#define CUDA_EMULATION
#define __host__
#define __device__
#define __global__
#define __launch_bounds__(...)
#define __shared__
#define SHARED_ARRAY(Type, name, size)                          \
  static emulation::SharedArray<Type, (size)> name##_of_blocks; \
  auto& name = name##_of_blocks.elements

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};

alignas(16) __shared__ float4 dynamic_shared[emulation::SHARED_CAPACITY / sizeof(float4)];
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

using std::isnan;
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline int __float_as_int(float value) {
  int bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline void __syncthreads() { emulation::Block::running->wait(emulation::BLOCK); }
inline void __syncwarp(unsigned = ~0u) { emulation::Block::running->wait(emulation::WARP); }

// Lanes past the end of a partial warp read as they do in hardware: not at all (the value is the caller's own).
template <typename T>
T __shfl_sync(unsigned, T value, int source) {
  return emulation::Block::running->exchange(value, source);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulation::Block::running->exchange(value, static_cast<int>(threadIdx.x % 32) ^ mask);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, int delta) {
  return emulation::Block::running->exchange(value, static_cast<int>(threadIdx.x % 32) + delta);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int delta) {
  return emulation::Block::running->exchange(value, static_cast<int>(threadIdx.x % 32) - delta);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    const bool present = lane < emulation::Block::running->lanes();
    votes |= (emulation::Block::running->exchange(vote, lane) && present ? 1u : 0u) << lane;
  }
  return votes;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  const auto bytes = static_cast<int>(config->dynamicSmemBytes);
  const auto grant = emulation::granted.find(reinterpret_cast<const void*>(kernel));
  if (bytes > (grant == emulation::granted.end() ? 48 * 1024 : grant->second)) return cudaErrorInvalidValue;
  const unsigned blocks = config->gridDim.x, threads = config->blockDim.x;
  if (blocks == 0 || threads == 0 || threads > 1024) return cudaErrorInvalidConfiguration;
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  for (const unsigned block : emulation::shuffled(blocks)) {
    blockIdx = {block, 0, 0};
    emulation::poison_shared(dynamic_shared, sizeof(dynamic_shared), bytes);
    emulation::Block(
        threads, [&](unsigned thread) { threadIdx = {thread, 0, 0}; }, [&] { kernel(arguments...); })
        .run();
  }
  return cudaSuccess;
}

#include "ptx.h"

#ifdef CUDA_EMULATION_SM90
#include "hopper.h"
#endif
