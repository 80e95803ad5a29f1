// Strided image tensors read and written in patches of 4 pixels (along a row) x 4 channels.
//
// The patch is the unit of global traffic in every layout: 4 vectors of 4 elements, taken along the pixels of
// a contiguous tensor and along the channels of a channels_last one; whatever is not aligned, or reaches past
// the map or the last channel, goes element by element. Inside a block a pixel is a Quad of 4 fp32 channels.
#pragma once

#include <cstdint>

#include "element.cuh"

namespace pyeqgan {
namespace {

struct alignas(16) Quad {
  float channel[4];
};

__device__ inline void multiply_add(Quad& sum, float weight, const Quad& value) {
#pragma unroll
  for (int c = 0; c < 4; ++c) sum.channel[c] += weight * value.channel[c];
}

__device__ inline float dot(const Quad& a, const Quad& b) {
  return (a.channel[0] * b.channel[0] + a.channel[1] * b.channel[1]) +
         (a.channel[2] * b.channel[2] + a.channel[3] * b.channel[3]);
}

struct Patch {
  Quad pixel[4];
};

__device__ inline Quad scaled(Quad value, float factor) {
#pragma unroll
  for (int c = 0; c < 4; ++c) value.channel[c] *= factor;
  return value;
}

__device__ inline Patch scaled(Patch patch, const Quad& factor) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int c = 0; c < 4; ++c) patch.pixel[i].channel[c] *= factor.channel[c];
  }
  return patch;
}

// Where a pixel of a row lies in shared memory: lanes that own 4 neighbouring pixels each, or one each, then
// touch different banks.
__device__ inline int swizzle(int column) { return column ^ ((column >> 3) & 3); }

__device__ inline void put(Quad* line, int column, const Patch& patch) {
#pragma unroll
  for (int i = 0; i < 4; ++i) line[swizzle(column + i)] = patch.pixel[i];
}

// A (B,C,H,W) tensor of any strides, in elements. `channels` ends at the last channel of this view, which may
// be one half of a larger tensor.
struct View {
  enum Run : int { NONE, PIXELS, CHANNELS };  // along what 4 aligned elements lie side by side

  void* data;
  int64_t stride[4];
  int channels, height, width;
  Run run;

  __host__ __device__ int64_t offset(int64_t image, int64_t channel, int64_t y, int64_t x) const {
    return image * stride[0] + channel * stride[1] + y * stride[2] + x * stride[3];
  }
};

inline View make_view(const void* data, const int64_t* stride, int channels, int height, int width,
                      int64_t element_size) {
  View view{const_cast<void*>(data), {stride[0], stride[1], stride[2], stride[3]}, channels, height, width, View::NONE};
  const auto side_by_side = [&](int along) {
    bool aligned = stride[along] == 1 && reinterpret_cast<uintptr_t>(data) % (4 * element_size) == 0;
    for (int axis = 0; axis < 4; ++axis) aligned = aligned && (axis == along || stride[axis] % 4 == 0);
    return aligned;
  };
  if (side_by_side(1)) view.run = View::CHANNELS;
  if (side_by_side(3)) view.run = View::PIXELS;
  return view;
}

template <typename T>
struct alignas(4 * sizeof(T)) Vector {
  T element[4];
};

__device__ inline bool whole_patch(const View& view, int channel, int y, int x) {
  return y >= 0 && y < view.height && x >= 0 && x + 4 <= view.width && channel + 4 <= view.channels;
}

// Elements outside the map and channels past the last are zero.
template <typename T>
__device__ inline Patch load_patch(const View& view, int64_t image, int channel, int y, int x) {
  Patch patch{};
  const T* at = static_cast<const T*>(view.data) + view.offset(image, channel, y, x);
  if (view.run != View::NONE && whole_patch(view, channel, y, x)) {
    const bool pixels = view.run == View::PIXELS;
    const int64_t step = view.stride[pixels ? 1 : 3];
    Vector<T> line[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) line[i] = *reinterpret_cast<const Vector<T>*>(at + i * step);
#pragma unroll
    for (int p = 0; p < 4; ++p) {
#pragma unroll
      for (int c = 0; c < 4; ++c) patch.pixel[p].channel[c] = widen(pixels ? line[c].element[p] : line[p].element[c]);
    }
  } else if (y >= 0 && y < view.height) {
#pragma unroll
    for (int p = 0; p < 4; ++p, at += view.stride[3]) {
      const T* element = at;
#pragma unroll
      for (int c = 0; c < 4; ++c, element += view.stride[1])
        if (x + p >= 0 && x + p < view.width && channel + c < view.channels)
          patch.pixel[p].channel[c] = widen(*element);
    }
  }
  return patch;
}

template <typename T>
__device__ inline void store_patch(const View& view, int64_t image, int channel, int y, int x, const Patch& patch) {
  T* at = static_cast<T*>(view.data) + view.offset(image, channel, y, x);
  if (view.run != View::NONE && whole_patch(view, channel, y, x)) {
    const bool pixels = view.run == View::PIXELS;
    const int64_t step = view.stride[pixels ? 1 : 3];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Vector<T> line;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        line.element[j] = narrow<T>(pixels ? patch.pixel[j].channel[i] : patch.pixel[i].channel[j]);
      *reinterpret_cast<Vector<T>*>(at + i * step) = line;
    }
  } else if (y >= 0 && y < view.height) {
#pragma unroll
    for (int p = 0; p < 4; ++p, at += view.stride[3]) {
      T* element = at;
#pragma unroll
      for (int c = 0; c < 4; ++c, element += view.stride[1])
        if (x + p < view.width && channel + c < view.channels) *element = narrow<T>(patch.pixel[p].channel[c]);
    }
  }
}

// Four channels of the dense (B,C) gate: 1 where there is none (null), 0 past the last channel.
template <typename T>
__device__ inline Quad load_gate(const void* gate, int64_t channels, int64_t image, int channel) {
  Quad value{{1.0f, 1.0f, 1.0f, 1.0f}};
  if (gate == nullptr) return value;
#pragma unroll
  for (int c = 0; c < 4; ++c)
    value.channel[c] =
        channel + c < channels ? widen(static_cast<const T*>(gate)[image * channels + channel + c]) : 0.0f;
  return value;
}

}  // namespace
}  // namespace pyeqgan
