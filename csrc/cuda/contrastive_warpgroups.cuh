// The two products of a tile by warpgroups, each of which has one of the two tiles of own rows; and which products it
// is that a kernel makes.
#pragma once

#include "contrastive_products.cuh"
#include "hopper.cuh"

namespace pyeqgan::contrastive {
namespace {

#ifdef HOPPER

template <typename T>
struct WarpgroupProducts : TensorCoreSums {
  static constexpr int STEP = 16;  // the depth of an instruction

  __device__ static void add_scores(Scores& s, const unsigned char* own, int, const unsigned char* other, int chunks) {
    begin_products(s);
    for (int chunk = 0; chunk < chunks; ++chunk) {
#pragma unroll
      for (int byte = 0; byte < CHUNK; byte += STEP * 2) {
        const int at = chunk * CHUNK_BYTES + byte;
        multiply_rows<T>(s, describe_rows(own + at), describe_rows(other + at));
      }
    }
    finish_products(s);
  }

  __device__ static void add_gradients(Sums& sums, const Scores& g, const unsigned char* other, int chunks) {
    constexpr int STEPS = COLUMNS / STEP;
    uint32_t left[STEPS][4];
#pragma unroll
    for (int k = 0; k < STEPS; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) left[k][i] = pack<T>(g[2 * k + i / 2][i % 2 * 2], g[2 * k + i / 2][i % 2 * 2 + 1]);
    }
    begin_products(sums);
#pragma unroll
    for (int chunk = 0; chunk < PANEL; ++chunk) {
      if (chunk >= chunks) break;
#pragma unroll
      for (int k = 0; k < STEPS; ++k)
        multiply_registers<T>(sums + chunk * (CHUNK / 16), left[k],
                              describe_rows(other + chunk * CHUNK_BYTES + k * STEP * CHUNK));
    }
    finish_products(sums);
  }
};

template <typename T>
struct Choice {
  using Products = WarpgroupProducts<T>;
};

#else

template <typename T>
struct Choice {
  using Products = WarpProducts<T>;
};

#endif

template <>
struct Choice<float> {
  using Products = ScalarProducts;
};

template <typename T>
using Products = typename Choice<T>::Products;

}  // namespace
}  // namespace pyeqgan::contrastive
