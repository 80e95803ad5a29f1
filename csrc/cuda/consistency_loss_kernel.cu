// equalization_consistency_loss on the GPU (ops.md, section 6): all scales in one launch forward, in one backward.
//
// Cosine: 32 pixels a block. Of a planar image its eight warps share the channels; of a pixel-major one a warp takes
// four pixels, its lanes the channels. Backward finds the norms again, and reads what is then in the L1 cache once
// more.
#include <algorithm>
#include <cmath>

#include "consistency_loss.h"
#include "element.cuh"
#include "launch.h"
#include "reduce.cuh"

namespace pyeqgan::consistency {
namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int PIXELS = 32;                     // of a block, cosine
constexpr int ELEMENTS = 16 * THREADS;         // of a block, l1 and l2
constexpr int MOST_SCALES = 8;                 // of a launch
constexpr int64_t LARGEST = int64_t{1} << 30;  // of channels

using Scale = pyeqgan_consistency_scale;

struct Problem {
  Scale scale[MOST_SCALES];
  int64_t first_block[MOST_SCALES + 1];
  int count;
  int distance;
  float* sums;             // forward: of each block
  const float* grad_loss;  // backward
};

struct LossSum {
  const float* sums;
  int64_t count;
  float* loss;
};

// <e,d>, <e,e> and <d,d> of a pixel over some of its channels.
struct Products {
  float dot = 0.0f, equalized = 0.0f, decoded = 0.0f;

  __device__ void add(float e, float d) {
    dot += e * d;
    equalized += e * e;
    decoded += d * d;
  }
};

// As torch.nn.functional.cosine_similarity clamps a norm. NaN stays NaN.
__device__ inline float clamped(float norm) { return norm < 1e-8f ? 1e-8f : norm; }

// Where the elements of a pixel begin, and how far they lie apart.
struct Place {
  int64_t begin, step;

  __device__ Place(const Scale& s, int64_t pixel) {
    const int64_t image = pixel / s.pixels, within = pixel % s.pixels;
    begin = s.pixel_major ? pixel * s.channels : image * s.channels * s.pixels + within;
    step = s.pixel_major ? 1 : s.pixels;
  }
};

template <typename T>
__device__ float read(const void* data, int64_t at) {
  return widen(static_cast<const T*>(data)[at]);
}

// The products of a pixel over channels first, first + stride, ...
template <typename T>
__device__ Products products(const Scale& s, const Place& place, int first, int stride) {
  Products sum;
  for (int c = first; c < s.channels; c += stride) {
    const int64_t at = place.begin + c * place.step;
    sum.add(read<T>(s.equalized, at), read<T>(s.decoded, at));
  }
  return sum;
}

// Of 1 - cos by e it is dot d + equalized e, by d dot e + decoded d. As in torch a clamped norm passes its gradient on,
// and a norm of 0 has none.
__device__ inline Products gradient_factors(const Products& p, float grad) {
  const float e_norm = sqrtf(p.equalized), d_norm = sqrtf(p.decoded);
  const float e = clamped(e_norm), d = clamped(d_norm), cosine = p.dot / e / d;
  Products factors;
  factors.dot = -grad / e / d;
  factors.equalized = e_norm == 0.0f ? 0.0f : grad * cosine / e / e_norm;
  factors.decoded = d_norm == 0.0f ? 0.0f : grad * cosine / d / d_norm;
  return factors;
}

template <typename T>
__device__ void write_gradients(const Scale& s, const Place& place, const Products& factors, int first, int stride) {
  for (int c = first; c < s.channels; c += stride) {
    const int64_t at = place.begin + c * place.step;
    const float e = read<T>(s.equalized, at), d = read<T>(s.decoded, at);
    if (s.grad_equalized != nullptr)
      static_cast<T*>(s.grad_equalized)[at] = narrow<T>(factors.dot * d + factors.equalized * e);
    if (s.grad_decoded != nullptr)
      static_cast<T*>(s.grad_decoded)[at] = narrow<T>(factors.dot * e + factors.decoded * d);
  }
}

// Calls visit(place, products, first, stride) for each of 32 pixels: by every thread that shares its channels.
template <typename T, typename Visit>
__device__ void for_each_pixel(const Scale& s, int64_t first_pixel, Visit visit) {
  SHARED_ARRAY(Products, shared, THREADS);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int64_t pixels = s.images * s.pixels;
  if (s.pixel_major) {
    for (int64_t pixel = first_pixel + warp; pixel < min(first_pixel + PIXELS, pixels); pixel += WARPS) {
      const Place place(s, pixel);
      const Products own = products<T>(s, place, lane, 32);
      const Products sum{sum_of_warp(own.dot), sum_of_warp(own.equalized), sum_of_warp(own.decoded)};
      visit(place, sum, lane, 32);
    }
    return;
  }
  const bool inside = first_pixel + lane < pixels;
  const Place place(s, inside ? first_pixel + lane : first_pixel);
  if (inside) shared[thread] = products<T>(s, place, warp, WARPS);
  __syncthreads();
  if (!inside) return;
  Products sum;
  for (int w = 0; w < WARPS; ++w) {
    const Products& part = shared[w * 32 + lane];
    sum.dot += part.dot;
    sum.equalized += part.equalized;
    sum.decoded += part.decoded;
  }
  visit(place, sum, warp, WARPS);
}

// The scale a block belongs to; its place among the scale's blocks goes to `block`.
__device__ inline const Scale& scale_of(const Problem& p, int64_t& block) {
  int i = 0;
  while (i + 1 < p.count && block >= p.first_block[i + 1]) ++i;
  block -= p.first_block[i];
  return p.scale[i];
}

template <typename T>
__device__ float differences(const Scale& s, int distance, int64_t first) {
  const int64_t last = min(first + ELEMENTS, s.images * s.channels * s.pixels);
  float sum = 0.0f;
  for (int64_t at = first + threadIdx.x; at < last; at += THREADS) {
    const float difference = read<T>(s.equalized, at) - read<T>(s.decoded, at);
    sum += distance == PYEQGAN_L1 ? fabsf(difference) : difference * difference;
  }
  return sum;
}

template <typename T>
__global__ void __launch_bounds__(THREADS) sum_distances(Problem p) {
  int64_t block = blockIdx.x;
  const Scale& s = scale_of(p, block);
  float sum = 0.0f;
  if (p.distance == PYEQGAN_COSINE) {
    for_each_pixel<T>(s, block * PIXELS, [&](const Place&, const Products& of, int first, int) {
      // One of the threads that share the pixel adds its distance.
      if (first == 0) sum += 1.0f - of.dot / clamped(sqrtf(of.equalized)) / clamped(sqrtf(of.decoded));
    });
  } else {
    sum = differences<T>(s, p.distance, block * ELEMENTS);
  }
  sum = sum_of_block<THREADS>(sum);
  if (threadIdx.x == 0) p.sums[blockIdx.x] = s.share * sum;
}

template <typename T>
__global__ void __launch_bounds__(THREADS) distance_gradients(Problem p) {
  int64_t block = blockIdx.x;
  const Scale& s = scale_of(p, block);
  const float grad = *p.grad_loss * s.share;
  if (p.distance == PYEQGAN_COSINE) {
    for_each_pixel<T>(s, block * PIXELS, [&](const Place& place, const Products& of, int first, int stride) {
      write_gradients<T>(s, place, gradient_factors(of, grad), first, stride);
    });
    return;
  }
  const int64_t first = block * ELEMENTS, last = min(first + ELEMENTS, s.images * s.channels * s.pixels);
  for (int64_t at = first + threadIdx.x; at < last; at += THREADS) {
    const float difference = read<T>(s.equalized, at) - read<T>(s.decoded, at);
    const float sign = difference > 0.0f ? 1.0f : (difference < 0.0f ? -1.0f : difference);  // of NaN it is NaN
    const float value = grad * (p.distance == PYEQGAN_L1 ? sign : 2.0f * difference);
    if (s.grad_equalized != nullptr) static_cast<T*>(s.grad_equalized)[at] = narrow<T>(value);
    if (s.grad_decoded != nullptr) static_cast<T*>(s.grad_decoded)[at] = narrow<T>(-value);
  }
}

__global__ void __launch_bounds__(THREADS) finish_loss(LossSum p) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < p.count; i += THREADS) sum += static_cast<double>(p.sums[i]);
  sum = sum_of_block<THREADS>(sum);
  if (threadIdx.x == 0) *p.loss = static_cast<float>(sum);
}

int64_t blocks(const Scale& s, int distance) {
  if (s.images * s.channels * s.pixels == 0) return 0;
  if (distance == PYEQGAN_COSINE) return blocks_of(s.images * s.pixels, PIXELS);
  return blocks_of(s.images * s.channels * s.pixels, ELEMENTS);
}

bool valid(const Scale* scales, int64_t count, int distance) {
  if (count < 0 || distance < PYEQGAN_COSINE || distance > PYEQGAN_L2) return false;
  return std::all_of(scales, scales + count, [](const Scale& s) {
    return s.images >= 0 && s.channels >= 0 && s.channels <= LARGEST && s.pixels >= 0;
  });
}

// Calls run(problem, its blocks, blocks before it) for every few scales.
template <typename Run>
int in_launches(const Scale* scales, int64_t count, int distance, Run run) {
  int64_t before = 0;
  for (int64_t first = 0; first < count; first += MOST_SCALES) {
    Problem p{};
    p.distance = distance;
    p.count = static_cast<int>(std::min<int64_t>(count - first, MOST_SCALES));
    for (int i = 0; i < p.count; ++i) {
      p.scale[i] = scales[first + i];
      p.first_block[i + 1] = p.first_block[i] + blocks(p.scale[i], distance);
    }
    const int64_t total = p.first_block[p.count];
    if (const int error = run(p, total, before)) return error;
    before += total;
  }
  return cudaSuccess;
}

}  // namespace
}  // namespace pyeqgan::consistency

using namespace pyeqgan;
using namespace pyeqgan::consistency;

int64_t pyeqgan_consistency_loss_workspace(const pyeqgan_consistency_scale* scales, int64_t count, int distance) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) total += blocks(scales[i], distance);
  return total * int64_t{sizeof(float)};
}

int pyeqgan_consistency_loss(const pyeqgan_consistency_scale* scales, int64_t count, int distance, int dtype,
                             float* loss, void* workspace, cudaStream_t stream) {
  if (!valid(scales, count, distance)) return cudaErrorInvalidValue;
  return dispatch(dtype, [&](auto zero) -> int {
    float* const sums = static_cast<float*>(workspace);
    int64_t all = 0;
    const int error = in_launches(scales, count, distance, [&](Problem& p, int64_t total, int64_t before) {
      p.sums = sums + before;
      all = before + total;
      return launch(sum_distances<decltype(zero)>, total, THREADS, 0, stream, p);
    });
    if (error != cudaSuccess) return error;
    return launch(finish_loss, 1, THREADS, 0, stream, LossSum{sums, all, loss});
  });
}

int pyeqgan_consistency_loss_backward(const pyeqgan_consistency_scale* scales, int64_t count, int distance, int dtype,
                                      const float* grad_loss, cudaStream_t stream) {
  if (!valid(scales, count, distance)) return cudaErrorInvalidValue;
  return dispatch(dtype, [&](auto zero) -> int {
    return in_launches(scales, count, distance, [&](Problem& p, int64_t total, int64_t) {
      p.grad_loss = grad_loss;
      return launch(distance_gradients<decltype(zero)>, total, THREADS, 0, stream, p);
    });
  });
}
