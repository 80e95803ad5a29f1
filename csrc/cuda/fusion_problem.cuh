// What the kernels of both fusions share: the problem, and the walk of a block over the elements of some pixels.
#pragma once

#include <cstdint>

#include "element.cuh"
#include "fusion.h"
#include "launch.h"

namespace pyeqgan::fusion {
namespace {

constexpr int THREADS = 128;

// A (B,K,C,H,W) tensor of any strides, in elements; K is 1 for an image.
struct Maps {
  void* data;
  int64_t stride[5];

  __host__ __device__ int64_t at(int64_t image, int64_t k, int64_t channel, int64_t y, int64_t x) const {
    return image * stride[0] + k * stride[1] + channel * stride[2] + y * stride[3] + x * stride[4];
  }
};

struct Problem {
  Maps base, references, fused;
  Maps grad_fused, grad_base, grad_references;  // backward; data null: not asked for
  const void* weights;
  const int64_t* positions;
  int64_t* matches;
  int64_t batch;
  int count, channels, rows, columns, scale, selected;
  int channels_per_block;
  // backward: of every image and k = 0 (the base), 1, ... count, which selected positions take a cell's content.
  int64_t* starts;  // (B,count+1,cells+1): where a cell's members begin
  int* members;     // (B,count+1,selected), in order of the cells and then of the positions
  float* terms;     // (B,count+1,slices) sums of grad times content
  void* grad_weights;
  int slices;

  __host__ __device__ int cells() const { return rows * columns; }
  __device__ int64_t list(int64_t image, int k) const { return image * (count + 1) + k; }

  // The cells whose content went to the selected positions: themselves for the base.
  __device__ const int64_t* taken(int64_t image, int k) const {
    return k == 0 ? positions + image * selected : matches + (image * count + k - 1) * selected;
  }
};

template <typename T>
__device__ float read(const Maps& maps, int64_t offset) {
  return widen(static_cast<const T*>(maps.data)[offset]);
}

template <typename T>
__device__ void write(const Maps& maps, int64_t offset, float value) {
  static_cast<T*>(maps.data)[offset] = narrow<T>(value);
}

template <typename T>
__device__ float weight(const Problem& p, int64_t image, int k) {
  return widen(static_cast<const T*>(p.weights)[p.list(image, k)]);
}

// w_0 base + sum of w_r reference: the content of position i, at one element of its patch.
template <typename T>
__device__ float blend(const Problem& p, int64_t image, int i, int channel, int dy, int dx) {
  float sum = 0.0f;
  for (int k = 0; k <= p.count; ++k) {
    const int cell = static_cast<int>(p.taken(image, k)[i]);
    const int y = cell / p.columns * p.scale + dy, x = cell % p.columns * p.scale + dx;
    const float value = k == 0 ? read<T>(p.base, p.base.at(image, 0, channel, y, x))
                               : read<T>(p.references, p.references.at(image, k - 1, channel, y, x));
    sum += weight<T>(p, image, k) * value;
  }
  return sum;
}

// Calls visit(channel, pixel) for all of them, neighbouring threads at neighbouring elements of `maps`. Their number
// fits an int: divisions of 64 bits are subroutines.
template <typename Visit>
__device__ void for_each(const Maps& maps, int channels, int pixels, Visit visit) {
  const bool channels_side_by_side = maps.stride[2] == 1;
  const unsigned elements = static_cast<unsigned>(channels) * pixels;
  const unsigned inner = channels_side_by_side ? channels : pixels;
  for (unsigned e = threadIdx.x; e < elements; e += THREADS) {
    const int outer_index = static_cast<int>(e / inner), inner_index = static_cast<int>(e % inner);
    if (channels_side_by_side)
      visit(inner_index, outer_index);
    else
      visit(outer_index, inner_index);
  }
}

}  // namespace
}  // namespace pyeqgan::fusion
