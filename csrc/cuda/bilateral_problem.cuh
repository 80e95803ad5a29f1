// What the kernels of bilateral_propagation share: the problem they are given and the reading of v = gate x.
#pragma once

#include <cstdint>

#include "launch.h"
#include "patch.cuh"
#include "spatial_filter.cuh"

namespace pyeqgan::bilateral {
namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int TILE = 32;                               // propagate: pixels of a block along each axis
constexpr int BAND = 4;                                // correlate: rows of a block; its columns are TILE
constexpr int ALIGNED_HALO = 4;                        // one pixel of halo, rounded up to a patch
constexpr int NEAR_COLUMNS = TILE + 2 * ALIGNED_HALO;  // a tile with the halo of a 3x3 stencil
constexpr int NEAR_ROWS = TILE + 2;

struct Problem {
  View x, spatial, ranged;  // spatial, ranged: the halves of y (forward) or of its gradient (backward)
  View grad_x;              // backward; data null: not asked for
  const void* gate;         // null: none
  float* affinity;          // a (B,9,H,W)
  float* slope;             // backward: dz/C (B,9,H,W)
  float* gate_terms;        // backward: (B,C,tiles) sums of dv x; null: not asked for
  SpatialWeights weights;
  int channels, height, width;
  int halo_y, halo_x;  // of a staged piece
  int tiles_y, tiles_x;
  int quads_per_block;
  int working_quads;  // of propagate's shared memory, before the mutual stencils
  int64_t first_image, images;

  __device__ bool inside(int y, int x) const { return y >= 0 && y < height && x >= 0 && x < width; }

  // Where (image, neighbour, y, x) lies in affinity and slope.
  __device__ int64_t entry(int64_t image, int neighbour, int y, int x) const {
    return ((image * 9 + neighbour) * height + y) * width + x;
  }
};

struct GateSum {
  const float* terms;  // (entries, tiles)
  void* grad_gate;
  int64_t entries, tiles;
};

// v = gate x of a patch; squashed: sigmoid(v), which is 0 outside the map and past the last channel.
template <typename T>
__device__ Patch gated_patch(const Problem& p, int64_t image, int channel, int y, int x, bool squash) {
  Patch patch = scaled(load_patch<T>(p.x, image, channel, y, x), load_gate<T>(p.gate, p.channels, image, channel));
  if (!squash) return patch;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool inside = p.inside(y, x + i);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float value = __fdividef(1.0f, 1.0f + expf(-patch.pixel[i].channel[c]));
      patch.pixel[i].channel[c] = inside && channel + c < p.channels ? value : 0.0f;
    }
  }
  return patch;
}

}  // namespace
}  // namespace pyeqgan::bilateral
