// The truncated, row-normalised Gaussian of spatial propagation along one line, for any radius.
#pragma once

#include <type_traits>

#include "patch.cuh"

namespace pyeqgan {
namespace {

constexpr int LINE = 8;  // the most outputs of one call of filter_line

// In global memory: taps[d] = exp(-d^2 / 2 sigma^2) for |d| <= reach and 0 for LINE - 1 more on either side;
// the reciprocal of what the taps sum to inside the map, for each row and each column.
struct SpatialWeights {
  float* taps;  // points at d = 0
  float* inverse_row;
  float* inverse_column;
  float sigma;
  int reach;  // radius, cut to the larger extent of the map less 1
};

__device__ inline void write_inverse_sums(const SpatialWeights& w, float* inverse, int extent) {
  for (int i = threadIdx.x; i < extent; i += blockDim.x) {
    float sum = 0.0f;
    for (int d = max(-w.reach, -i); d <= min(w.reach, extent - 1 - i); ++d) sum += w.taps[d];
    inverse[i] = 1.0f / sum;
  }
}

// By one block.
__device__ inline void write_spatial_weights(const SpatialWeights& w, int height, int width) {
  const int padded = w.reach + LINE - 1;
  for (int d = static_cast<int>(threadIdx.x) - padded; d <= padded; d += blockDim.x) {
    const float distance = static_cast<float>(d) / w.sigma;  // squared only now: a tiny sigma must not become 0
    w.taps[d] = abs(d) <= w.reach ? expf(-0.5f * distance * distance) : 0.0f;
  }
  __syncthreads();
  write_inverse_sums(w, w.inverse_row, height);
  write_inverse_sums(w, w.inverse_column, width);
}

// sum[s] += Σ_j taps[j - (output + s)] source(j) for the sources begin <= j < end. The taps that N outputs have
// for one source slide through registers, so a step costs one tap, one source and N multiply-adds of a Quad.
// Where some output is out of reach, taps of 0 are left out: 0 times a NaN would carry it past the radius.
template <int N, typename Source>
__device__ inline void filter_line(Quad (&sum)[N], const SpatialWeights& w, int output, int begin, int end,
                                   Source source) {
  static_assert(N <= LINE, "the taps are padded for LINE outputs");
  float tap[N];
#pragma unroll
  for (int s = 1; s < N; ++s) tap[s - 1] = begin < end ? w.taps[begin - output - s] : 0.0f;
  auto steps = [&](int stop, auto all_reached) {
#pragma unroll 4
    for (; begin < stop; ++begin) {
#pragma unroll
      for (int s = N - 1; s > 0; --s) tap[s] = tap[s - 1];
      tap[0] = w.taps[begin - output];
      const Quad value = source(begin);
#pragma unroll
      for (int s = 0; s < N; ++s)
        if (decltype(all_reached)::value || tap[s] != 0.0f) multiply_add(sum[s], tap[s], value);
    }
  };
  steps(min(end, output + N - 1 - w.reach), std::false_type{});
  steps(min(end, output + w.reach + 1), std::true_type{});
  steps(end, std::false_type{});
}

}  // namespace
}  // namespace pyeqgan
