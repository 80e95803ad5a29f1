// Small kernels, right and wrong, with which the tests check the emulation itself.
#include "launch.h"

namespace pyeqgan {
namespace {

struct Arrays {
  const float* in;
  float* out;
};

// out = in reversed within the block, through shared memory; wrong without the barrier.
template <bool BARRIER>
__global__ void reverse(Arrays a) {
  SHARED_ARRAY(float, line, 96);
  line[threadIdx.x] = a.in[blockIdx.x * 96 + threadIdx.x];
  if (BARRIER) __syncthreads();
  a.out[blockIdx.x * 96 + threadIdx.x] = line[95 - threadIdx.x];
}

// What a thread reads of shared memory nobody wrote.
__global__ void unwritten(Arrays a) {
  SHARED_ARRAY(float, line, 32);
  a.out[threadIdx.x] = line[threadIdx.x];
  a.out[32 + threadIdx.x] = reinterpret_cast<const float*>(dynamic_shared)[threadIdx.x];
}

// Warp 0, and a warp of 8 lanes after it.
__global__ void exchanges(Arrays a) {
  const float value = a.in[threadIdx.x];
  float* out = a.out + 5 * threadIdx.x;
  out[0] = __shfl_sync(~0u, value, 3);
  out[1] = __shfl_xor_sync(~0u, value, 1);
  out[2] = __shfl_down_sync(~0u, value, 2);
  out[3] = __shfl_up_sync(~0u, value, 2);
  out[4] = static_cast<float>(__ballot_sync(~0u, value > 4.0f) & 0xffff);
}

__global__ void past_the_end(Arrays a) {
  float* line = reinterpret_cast<float*>(dynamic_shared);
  line[threadIdx.x] = a.in[threadIdx.x];
  a.out[threadIdx.x] = line[threadIdx.x];
}

__global__ void stuck(Arrays) {
  if (threadIdx.x % 2 == 0) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

}  // namespace
}  // namespace pyeqgan

using namespace pyeqgan;

extern "C" {

int run_reverse(const float* in, float* out, int blocks, bool barrier) {
  return launch(barrier ? reverse<true> : reverse<false>, blocks, 96, 0, nullptr, Arrays{in, out});
}

int run_unwritten(float* out) { return launch(unwritten, 1, 32, 128, nullptr, Arrays{nullptr, out}); }
int run_exchanges(const float* in, float* out) { return launch(exchanges, 1, 40, 0, nullptr, Arrays{in, out}); }

int run_past_the_end(const float* in, float* out, int bytes) {
  return launch(past_the_end, 1, 32, bytes, nullptr, Arrays{in, out});
}

int run_stuck() { return launch(stuck, 1, 64, 0, nullptr, Arrays{}); }

}  // extern "C"
