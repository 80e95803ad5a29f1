// The two products of a tile: scores = own · otherᵀ over a panel of channels, and sums += G · other.
//
// A warp has 16 own rows and all 64 columns of a tile. Thread l keeps of the rows l / 4 and l / 4 + 8 the scores at
// columns 8j + 2(l % 4) + e, in s[j][e] and s[j][2 + e]: so do the tensor cores. How it keeps sums tells `channel`.
#pragma once

#include "contrastive_problem.cuh"
#include "ptx.cuh"

namespace pyeqgan::contrastive {
namespace {

using Scores = float[COLUMNS / 8][4];

// What tensor cores multiply and how they keep it.
struct TensorCores {
  static constexpr int STEP = 16;                     // the depth of an instruction
  static constexpr int CHANNELS = PANEL * CHUNK / 2;  // of a panel
  using Sums = float[CHANNELS / 8][4];
  using Factors = uint32_t[COLUMNS / STEP][4];

  __device__ static int channel(int group, int half) { return 8 * group + 2 * (threadIdx.x % 4) + half; }

  // Scores as left factors, which their layout is that of.
  template <typename T>
  __device__ static void pack_factors(Factors& left, const Scores& g) {
#pragma unroll
    for (int step = 0; step < COLUMNS / STEP; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float (&from)[4] = g[2 * step + i / 2];
        left[step][i] = pack<T>(from[i % 2 * 2], from[i % 2 * 2 + 1]);
      }
    }
  }
};

// Products of 16-bit numbers by the tensor cores of a warp, summed in fp32.
template <typename T>
struct WarpProducts : TensorCores {
  // own: the tile and, in first_row, where in it the rows of this warp begin.
  __device__ static void add_scores(Scores& s, const unsigned char* own, int first_row, const unsigned char* other,
                                    int chunks) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int own_row = first_row + lane % 16, own_byte = lane / 16 * 16;
    const int other_row = lane / 16 * 8 + lane % 8, other_byte = lane / 8 % 2 * 16;
#pragma unroll 1  // the backward sweep has no registers to spare
    for (int byte = 0; byte < chunks * CHUNK; byte += 32) {
      uint32_t left[4];
      load_matrices(left, own + within_tile(own_row, byte + own_byte));
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; j += 2) {
        uint32_t right[4];
        load_matrices(right, other + within_tile(8 * j + other_row, byte + other_byte));
        multiply_add<T>(s[j], left, right[0], right[1]);
        multiply_add<T>(s[j + 1], left, right[2], right[3]);
      }
    }
  }

  __device__ static void add_gradients(Sums& sums, const Scores& g, const unsigned char* other, int chunks) {
    const int lane = static_cast<int>(threadIdx.x) % 32, row = lane % 16, byte = lane / 16 * 16;
    Factors left;
    pack_factors<T>(left, g);
#pragma unroll
    for (int chunk = 0; chunk < PANEL; ++chunk) {
      if (chunk >= chunks) break;
#pragma unroll
      for (int step = 0; step < COLUMNS / STEP; ++step) {
#pragma unroll
        for (int pair = 0; pair < CHUNK / 32; ++pair) {  // of groups of 8 channels
          uint32_t right[4];
          load_transposed(right, other + within_tile(STEP * step + row, chunk * CHUNK + pair * 32 + byte));
          const int group = chunk * (CHUNK / 16) + 2 * pair;
          multiply_add<T>(sums[group], left[step], right[0], right[1]);
          multiply_add<T>(sums[group + 1], left[step], right[2], right[3]);
        }
      }
    }
  }
};

// Products of fp32 numbers in IEEE arithmetic, 4 channels at a time.
struct ScalarProducts {
  static constexpr int CHANNELS = PANEL * CHUNK / 4;
  using Sums = float[CHANNELS / 8][4];

  __device__ static int channel(int group, int half) {
    return group / 2 * 16 + 4 * (threadIdx.x % 4) + group % 2 * 2 + half;
  }

  __device__ static float4 read(const unsigned char* tile, int row, int byte) {
    return *reinterpret_cast<const float4*>(tile + within_tile(row, byte));
  }

  __device__ static void add_scores(Scores& s, const unsigned char* own, int first_row, const unsigned char* other,
                                    int chunks) {
    const int lane = static_cast<int>(threadIdx.x) % 32, row = first_row + lane / 4, column = 2 * (lane % 4);
#pragma unroll 1
    for (int byte = 0; byte < chunks * CHUNK; byte += 16) {
      const float4 left[2] = {read(own, row, byte), read(own, row + 8, byte)};
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float4 right = read(other, 8 * j + column + e, byte);
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            float& sum = s[j][2 * r + e];
            sum += left[r].x * right.x;
            sum += left[r].y * right.y;
            sum += left[r].z * right.z;
            sum += left[r].w * right.w;
          }
        }
      }
    }
  }

  __device__ static void add_gradients(Sums& sums, const Scores& g, const unsigned char* other, int chunks) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1
    for (int owner = 0; owner < 4; ++owner) {  // of the columns, among the four threads that share a row
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float upper = __shfl_sync(~0u, g[j][e], lane / 4 * 4 + owner);
          const float lower = __shfl_sync(~0u, g[j][2 + e], lane / 4 * 4 + owner);
#pragma unroll
          for (int chunk = 0; chunk < PANEL; ++chunk) {
            if (chunk >= chunks) break;
#pragma unroll
            for (int pair = 0; pair < 2; ++pair) {
              const float4 right = read(other, 8 * j + 2 * owner + e, chunk * CHUNK + pair * 64 + lane % 4 * 16);
              const int group = 4 * chunk + 2 * pair;
              add(sums[group], upper, lower, right.x, right.y);
              add(sums[group + 1], upper, lower, right.z, right.w);
            }
          }
        }
      }
    }
  }

 private:
  __device__ static void add(float (&sums)[4], float upper, float lower, float first, float second) {
    sums[0] += upper * first;
    sums[1] += upper * second;
    sums[2] += lower * first;
    sums[3] += lower * second;
  }
};

}  // namespace
}  // namespace pyeqgan::contrastive
