// Small kernels, right and wrong, with which the tests check the emulation itself.
#include "launch.h"
#include "ptx.cuh"

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

// out = in through shared memory, copied in the background; wrong where nobody waits for it.
template <bool WAITS>
__global__ void copied(Arrays a) {
  float* line = reinterpret_cast<float*>(dynamic_shared);
  if (threadIdx.x < 8) copy_async(line + 4 * threadIdx.x, a.in + 4 * threadIdx.x);
  if (WAITS) wait_copies();
  __syncthreads();
  a.out[threadIdx.x] = line[threadIdx.x];
  wait_copies();
}

// A warp: out (16,8) = in (16,16) times the transposed of its first 8 rows, of whole numbers.
__global__ void multiplied(Arrays a) {
  __half* const matrix = reinterpret_cast<__half*>(dynamic_shared);
  for (unsigned i = threadIdx.x; i < 256; i += 32) matrix[i] = __float2half_rn(a.in[i]);
  __syncwarp();
  uint32_t left[4], right[4], transposed[4];
  load_matrices(left, matrix + threadIdx.x % 16 * 16 + threadIdx.x / 16 * 8);
  load_matrices(right, matrix + threadIdx.x % 8 * 16 + threadIdx.x / 8 % 2 * 8);
  float sums[4] = {}, others[4] = {};
  multiply_add<__half>(sums, left, right[0], right[1]);
  load_transposed(transposed, matrix + threadIdx.x % 16 * 16);  // and the product with its own first 8 columns
  multiply_add<__half>(others, left, transposed[0], transposed[1]);
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned at = (threadIdx.x / 4 + i / 2 * 8) * 8 + threadIdx.x % 4 * 2 + i % 2;
    a.out[at] = sums[i];
    a.out[128 + at] = others[i];
  }
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

int run_copied(const float* in, float* out, bool waits) {
  return launch(waits ? copied<true> : copied<false>, 1, 32, 128, nullptr, Arrays{in, out});
}
int run_multiplied(const float* in, float* out) { return launch(multiplied, 1, 32, 512, nullptr, Arrays{in, out}); }

int run_stuck() { return launch(stuck, 1, 64, 0, nullptr, Arrays{}); }

}  // extern "C"
