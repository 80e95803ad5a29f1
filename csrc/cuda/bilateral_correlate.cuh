// First kernel of bilateral_propagation: for every pixel the 9 inner products over channels with its 3x3
// neighbours, then the softmax. Forward: z of sigmoid(v) with itself; backward: dz of the gradient with v.
#pragma once

#include "bilateral_problem.cuh"
#include "launch.h"

namespace pyeqgan::bilateral {
namespace {

// The softmax over the 9 neighbours (forward) or its derivative (backward) for one pixel, from the sums of the
// warps, each of which went through its own channels.
template <bool BACKWARD>
__device__ void finish_correlation(const Problem& p, const float* partial, int64_t image, int y, int x) {
  float z[9], a[9];
#pragma unroll
  for (int d = 0; d < 9; ++d) {
    z[d] = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) z[d] += partial[(warp * 9 + d) * BAND * TILE];
    z[d] /= static_cast<float>(p.channels);
  }
  float total = 0.0f, peak = z[0];
#pragma unroll
  for (int d = 1; d < 9; ++d) peak = fmaxf(peak, z[d]);
#pragma unroll
  for (int d = 0; d < 9; ++d) {
    a[d] = BACKWARD ? p.affinity[p.entry(image, d, y, x)] : expf(z[d] - peak);
    total += BACKWARD ? a[d] * z[d] : a[d];
  }
#pragma unroll
  for (int d = 0; d < 9; ++d) {
    if (BACKWARD) {
      p.slope[p.entry(image, d, y, x)] = a[d] * (z[d] - total);
    } else {
      p.affinity[p.entry(image, d, y, x)] = a[d] / total;
    }
  }
}

// One block: BAND x TILE pixels, all channels, a warp taking every WARPS-th quad of them. The last block of the
// grid writes the spatial weights for propagate instead.
template <typename T, bool BACKWARD>
__global__ void __launch_bounds__(THREADS, 2) correlate(Problem p) {
  if (blockIdx.x == gridDim.x - 1) {
    write_spatial_weights(p.weights, p.height, p.width);
    return;
  }
  constexpr int REGION = (BAND + 2) * NEAR_COLUMNS;
  SHARED_ARRAY(Quad, shared, WARPS * 9 * 32);  // first a region of each warp, then its sums
  static_assert(REGION <= 9 * 32, "a warp's region fits where its sums go");
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int64_t index = blockIdx.x;
  const int x0 = take(index, p.tiles_x) * TILE;
  const int y0 = take(index, (p.height + BAND - 1) / BAND) * BAND;
  const int64_t image = p.first_image + index;
  const int row = lane / 8, column = lane % 8 * 4;
  Quad* region = shared + warp * 9 * 32;

  float sum[9][4] = {};
  for (int channel = 4 * warp; channel < p.channels; channel += 4 * WARPS) {
    for (int unit = lane; unit < REGION / 4; unit += 32) {
      const int r = unit / (NEAR_COLUMNS / 4), c = unit % (NEAR_COLUMNS / 4) * 4;
      put(region + r * NEAR_COLUMNS, c,
          gated_patch<T>(p, image, channel, y0 - 1 + r, x0 - ALIGNED_HALO + c, !BACKWARD));
    }
    __syncwarp();
    Patch own;
    if (BACKWARD) own = load_patch<T>(p.ranged, image, channel, y0 + row, x0 + column);
#pragma unroll
    for (int i = 0; i < 4 && !BACKWARD; ++i)
      own.pixel[i] = region[(row + 1) * NEAR_COLUMNS + swizzle(ALIGNED_HALO + column + i)];
#pragma unroll
    for (int dy = 0; dy < 3; ++dy) {
      const Quad* line = region + (row + dy) * NEAR_COLUMNS;
#pragma unroll
      for (int j = 0; j < 6; ++j) {
        const Quad neighbour = line[swizzle(ALIGNED_HALO - 1 + column + j)];
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (j - i >= 0 && j - i < 3) sum[3 * dy + j - i][i] += dot(own.pixel[i], neighbour);
      }
    }
    __syncwarp();
  }

#pragma unroll
  for (int d = 0; d < 9; ++d) region[d * 32 + lane] = Quad{{sum[d][0], sum[d][1], sum[d][2], sum[d][3]}};
  __syncthreads();
  const int y = y0 + static_cast<int>(threadIdx.x) / TILE, x = x0 + static_cast<int>(threadIdx.x) % TILE;
  if (threadIdx.x < BAND * TILE && y < p.height && x < p.width)
    finish_correlation<BACKWARD>(p, reinterpret_cast<const float*>(shared) + threadIdx.x, image, y, x);
}

}  // namespace
}  // namespace pyeqgan::bilateral
