// The two products of a tile by warpgroups, each of which has one of the two tiles of own rows; and which products it
// is that a kernel makes.
#pragma once

#include "contrastive_products.cuh"
#include "hopper.cuh"

namespace pyeqgan::contrastive {
namespace {

#ifdef HOPPER

template <typename T>
struct WarpgroupProducts : TensorCores {
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
    Factors left;
    pack_factors<T>(left, g);
    begin_products(sums);
#pragma unroll
    for (int chunk = 0; chunk < PANEL; ++chunk) {
      if (chunk >= chunks) break;
#pragma unroll
      for (int step = 0; step < COLUMNS / STEP; ++step)
        multiply_registers<T>(sums + chunk * (CHUNK / 16), left[step],
                              describe_rows(other + chunk * CHUNK_BYTES + step * STEP * CHUNK));
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
