// The rows of contrastive_loss on their way in and out: gathered in the order of their labels, gradients scattered.
//
// Normalised rows keep the dtype they came in. They are divided by a power of two, which loses nothing and keeps their
// squares in range, and what is left of their norm multiplies the scores: a product of 16-bit numbers is then exact in
// fp32, where rounding the normalised rows would cost as much as all the rest.
#pragma once

#include "contrastive_problem.cuh"
#include "reduce.cuh"

namespace pyeqgan::contrastive {
namespace {

constexpr int ROWS_OF_WARPS = THREADS / 32;  // a warp a row

struct Gathering {
  Setting p;
  Side side;
  bool of_keys;

  // A query without a positive touches nobody, unless it is a key at the same time.
  __device__ bool takes_part(int row) const {
    return row < *side.used && (p.single || of_keys || side.positives[row] > 0);
  }
};

// Of the exponent of a number, but for those of which the inverse is no normal number.
__device__ inline int exponent_of(float value) {
  return min(max(__float_as_int(value) & 0x7f800000, 1 << 23), 253 << 23);
}

template <typename T>
__global__ void __launch_bounds__(THREADS) gather_rows(Gathering g) {
  const Side& side = g.side;
  const int row = static_cast<int>(blockIdx.x) * ROWS_OF_WARPS + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool takes_part = g.takes_part(row);
  const int64_t* const stride = side.given.stride;
  const T* const source = static_cast<const T*>(side.given.features) + (takes_part ? side.place[row] * stride[0] : 0);
  const auto read = [&](int c) { return takes_part && c < g.p.channels ? widen(source[c * stride[1]]) : 0.0f; };
  int exponent = 127 << 23;
  if (g.p.normalize) {
    float peak = 0.0f;
    for (int c = lane; c < g.p.channels; c += 32) peak = fmaxf(peak, fabsf(read(c)));
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) peak = fmaxf(peak, __shfl_xor_sync(~0u, peak, apart));
    exponent = exponent_of(peak);
  }
  const float power = __int_as_float(exponent), shrink = __int_as_float((254 << 23) - exponent);
  float squares = 0.0f;
  for (int c = lane; c < side.chunks * (CHUNK / static_cast<int>(sizeof(T))); c += 32) {
    const float value = read(c) * shrink;
    squares += value * value;
    element_of<T>(side, row, c) = narrow<T>(value);
  }
  squares = sum_of_warp(squares);
  if (lane != 0) return;
  float unit = 1.0f, inverse = 1.0f;
  if (g.p.normalize) {
    const float norm = sqrtf(squares);
    const bool tiny = norm * power < 1e-12f;
    unit = tiny ? power * LARGEST_INVERSE : 1.0f / norm;
    inverse = tiny ? LARGEST_INVERSE : unit * shrink;
  }
  side.units[row] = unit;
  side.inverses[row] = inverse;
  side.factors[row] = unit * (1.0f / sqrtf(g.p.temperature()));
}

// Sums (segments,padded,width) of one side: times scale the gradients of its normalised rows, segment by segment.
struct Gradients : Gathering {
  const float* sums;
  int segments;
  const float* scale;
  void* target;   // (count,channels), or null
  float* slopes;  // (padded): row·gradient
};

template <typename T>
__global__ void __launch_bounds__(THREADS) scatter_rows(Gradients g) {
  const Side& side = g.side;
  const int row = static_cast<int>(blockIdx.x) * ROWS_OF_WARPS + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool takes_part = g.takes_part(row);
  const int64_t width = side.chunks * (CHUNK / int64_t{sizeof(T)});
  const float unit = side.units[row], scale = *g.scale;
  const auto gradient = [&](int c) {
    float sum = 0.0f;
    for (int s = 0; s < g.segments; ++s) sum += g.sums[(int64_t{s} * side.padded + row) * width + c];
    return sum * scale;
  };
  float slope = 0.0f;
  if (takes_part)
    for (int c = lane; c < g.p.channels; c += 32) slope += widen(element_of<T>(side, row, c)) * unit * gradient(c);
  slope = sum_of_warp(slope);
  if (lane == 0) g.slopes[row] = slope;
  if (g.target == nullptr || row >= side.given.count) return;
  T* const target = static_cast<T*>(g.target) + int64_t{side.place[row]} * g.p.channels;
  const float inverse = side.inverses[row];
  const float radial = g.p.normalize && inverse < LARGEST_INVERSE ? slope : 0.0f;
  for (int c = lane; c < g.p.channels; c += 32) {
    const float along = widen(element_of<T>(side, row, c)) * unit * radial;
    target[c] = narrow<T>(takes_part ? (gradient(c) - along) * inverse : 0.0f);
  }
}

}  // namespace
}  // namespace pyeqgan::contrastive
