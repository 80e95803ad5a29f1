// local_fusion in one launch: some blocks match and blend selected positions, the others copy what is not selected.
//
// A block that matches meets every pixel of every reference with its 32 positions, 128 pixels and 16 channels at a
// time. Norms come from the same loads; of the similarities each thread keeps the largest of its own columns alone.
#pragma once

#include <cfloat>
#include <cmath>

#include "fusion_problem.cuh"

namespace pyeqgan::fusion {
namespace {

constexpr int POSITIONS = 32;
constexpr int CANDIDATES = THREADS;  // a thread loads one
constexpr int DEPTH = 16;            // channels at a time
constexpr int WARPS = THREADS / 32;
constexpr int ROWS = POSITIONS / WARPS;   // of a warp's threads
constexpr int COLUMNS = CANDIDATES / 32;  // of a thread, a warp's width apart
constexpr int NONE = 0x7fffffff;

// The largest similarity so far; NaN is the largest of all and the first of equals wins, as in torch.argmax.
struct Best {
  float value = -INFINITY;
  int index = NONE;

  __device__ void meet(float other, int at) {
    const bool larger = other > value || (isnan(other) && !isnan(value));
    const bool equal = other == value || (isnan(other) && isnan(value));
    if (at != NONE && (index == NONE || larger || (equal && at < index))) {
      value = other;
      index = at;
    }
  }
};

// 16 channels of what a block multiplies, in registers on their way to shared memory.
struct Loaded {
  float candidate[DEPTH];
  float position[DEPTH / WARPS];
};

template <typename T>
__device__ Loaded load(const Problem& p, int64_t candidate, bool is_candidate, int64_t position, bool is_position,
                       int first) {
  Loaded loaded;
#pragma unroll
  for (int c = 0; c < DEPTH; ++c)
    loaded.candidate[c] = is_candidate && first + c < p.channels
                              ? read<T>(p.references, candidate + (first + c) * p.references.stride[2])
                              : 0.0f;
#pragma unroll
  for (int c = 0; c < DEPTH / WARPS; ++c) {
    const int channel = first + static_cast<int>(threadIdx.x) / 32 * (DEPTH / WARPS) + c;
    loaded.position[c] =
        is_position && channel < p.channels ? read<T>(p.base, position + channel * p.base.stride[2]) : 0.0f;
  }
  return loaded;
}

// The matches of 32 positions in one reference.
template <typename T>
__device__ void match(const Problem& p, int64_t image, int reference, int first_position) {
  SHARED_ARRAY(float, candidates, 2 * DEPTH * CANDIDATES);
  SHARED_ARRAY(float, positions, 2 * DEPTH * POSITIONS);
  SHARED_ARRAY(float, inverse_norms, CANDIDATES);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, row = thread / 32 * ROWS;
  const bool is_position = first_position + lane < p.selected;
  const int at = is_position ? static_cast<int>(p.positions[image * p.selected + first_position + lane]) : 0;
  const int64_t position = p.base.at(image, 0, 0, at / p.columns, at % p.columns);
  Best best[ROWS];
  for (int first = 0; first < p.cells(); first += CANDIDATES) {
    const int own = first + thread;
    const bool is_candidate = own < p.cells();
    const int64_t candidate = p.references.at(image, reference, 0, own / p.columns, own % p.columns);
    float sums[ROWS][COLUMNS] = {};
    float square = 0.0f;
    Loaded next = load<T>(p, candidate, is_candidate, position, is_position, 0);
    for (int channel = 0, half = 0; channel < p.channels; channel += DEPTH, half ^= 1) {
      float* const shared_candidates = candidates + half * DEPTH * CANDIDATES;
      float* const shared_positions = positions + half * DEPTH * POSITIONS;
#pragma unroll
      for (int c = 0; c < DEPTH; ++c) {
        shared_candidates[c * CANDIDATES + thread] = next.candidate[c];
        square += next.candidate[c] * next.candidate[c];
      }
#pragma unroll
      for (int c = 0; c < DEPTH / WARPS; ++c)
        shared_positions[(thread / 32 * (DEPTH / WARPS) + c) * POSITIONS + lane] = next.position[c];
      __syncthreads();
      // Into the other half of shared memory only after the next barrier, when this half is no longer read.
      if (channel + DEPTH < p.channels)
        next = load<T>(p, candidate, is_candidate, position, is_position, channel + DEPTH);
#pragma unroll
      for (int c = 0; c < DEPTH; ++c) {
        float column[COLUMNS];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) column[j] = shared_candidates[c * CANDIDATES + 32 * j + lane];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
          const float value = shared_positions[c * POSITIONS + row + i];
#pragma unroll
          for (int j = 0; j < COLUMNS; ++j) sums[i][j] += value * column[j];
        }
      }
    }
    const float norm = sqrtf(square);  // those of the pixels before are no longer read: the loop has a barrier
    inverse_norms[thread] = norm < 1e-12f ? 1e12f : 1.0f / norm;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) {
      const int column = 32 * j + lane;
      if (first + column < p.cells()) {
#pragma unroll
        for (int i = 0; i < ROWS; ++i) best[i].meet(sums[i][j] * inverse_norms[column], first + column);
      }
    }
  }
  int64_t* const matches = p.matches + (image * p.count + reference) * p.selected;
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
      const float value = __shfl_xor_sync(~0u, best[i].value, apart);
      const int index = __shfl_xor_sync(~0u, best[i].index, apart);
      best[i].meet(value, index);
    }
    if (lane == 0 && first_position + row + i < p.selected) matches[first_position + row + i] = best[i].index;
  }
}

template <typename T>
__device__ void blend_positions(const Problem& p, int64_t image, int first_position) {
  for_each(p.fused, p.channels, min(POSITIONS, p.selected - first_position), [&](int channel, int slot) {
    const int i = first_position + slot;
    const int cell = static_cast<int>(p.positions[image * p.selected + i]);
    write<T>(p.fused, p.fused.at(image, 0, channel, cell / p.columns, cell % p.columns),
             blend<T>(p, image, i, channel, 0, 0));
  });
}

template <typename T>
__device__ void copy_others(const Problem& p, int64_t image, int first_cell) {
  SHARED_ARRAY(int, selected, THREADS);
  selected[threadIdx.x] = 0;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < p.selected; i += THREADS) {
    const int64_t cell = p.positions[image * p.selected + i] - first_cell;
    if (cell >= 0 && cell < THREADS) selected[cell] = 1;
  }
  __syncthreads();
  for_each(p.fused, p.channels, min(THREADS, p.cells() - first_cell), [&](int channel, int slot) {
    if (selected[slot] != 0) return;
    const int y = (first_cell + slot) / p.columns, x = (first_cell + slot) % p.columns;
    write<T>(p.fused, p.fused.at(image, 0, channel, y, x), read<T>(p.base, p.base.at(image, 0, channel, y, x)));
  });
}

__host__ __device__ inline int64_t matching_blocks(const Problem& p) { return blocks_of(p.selected, POSITIONS); }

template <typename T>
__global__ void __launch_bounds__(THREADS) local_fusion(Problem p) {
  int64_t block = blockIdx.x;
  const int64_t image = block % p.batch;  // the blocks that match, which take longest, begin first
  block /= p.batch;
  if (block >= matching_blocks(p)) {
    copy_others<T>(p, image, static_cast<int>(block - matching_blocks(p)) * THREADS);
    return;
  }
  const int first_position = static_cast<int>(block) * POSITIONS;
  for (int reference = 0; reference < p.count; ++reference) match<T>(p, image, reference, first_position);
  __syncthreads();  // the matches that other threads have written are read
  blend_positions<T>(p, image, first_position);
}

}  // namespace
}  // namespace pyeqgan::fusion
