// What csrc/cuda/ptx.cuh wraps, on the CPU, as the PTX manual describes it (see cuda_runtime.h).
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "fibers.h"

namespace pyeqgan {

// What a thread's copies will bring is nowhere before it has waited for them: until then it is NaN.
struct PendingCopy {
  void* to;
  const void* from;
};
inline std::map<unsigned, std::vector<PendingCopy>> pending_copies;  // by thread; a block waits before it ends

inline void copy_async(void* shared, const void* global) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    std::fputs("CUDA emulation: copy_async: misaligned\n", stderr);
    std::abort();
  }
  emulation::poison(shared, 16);
  pending_copies[threadIdx.x].push_back({shared, global});
}

inline void wait_copies() {
  auto& copies = pending_copies[threadIdx.x];
  for (const PendingCopy& copy : copies) std::memcpy(copy.to, copy.from, 16);
  copies.clear();
}

// rows(i) is the address that lane i brings.
template <typename Place>
void load_matrices(uint32_t (&matrix)[4], const void* row, Place place) {
  emulation::Block::running->share(row, [&](const auto& rows) {
    for (int i = 0; i < 4; ++i) {
      uint16_t both[2];
      for (int e = 0; e < 2; ++e) {
        const auto [r, c] = place(static_cast<int>(threadIdx.x % 32), e);
        const char* const start = static_cast<const char*>(rows(8 * i + r));
        if (reinterpret_cast<uintptr_t>(start) % 16 != 0) std::abort();
        std::memcpy(&both[e], start + 2 * c, 2);
      }
      std::memcpy(&matrix[i], both, 4);
    }
  });
}
inline void load_matrices(uint32_t (&matrix)[4], const void* row) {
  load_matrices(matrix, row, [](int lane, int e) { return std::pair(lane / 4, 2 * (lane % 4) + e); });
}
inline void load_transposed(uint32_t (&matrix)[4], const void* row) {
  load_matrices(matrix, row, [](int lane, int e) { return std::pair(2 * (lane % 4) + e, lane / 4); });
}

inline float number(__half value) { return __half2float(value); }
inline float number(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
float unpack(uint32_t packed, int half) {
  T both[2];
  std::memcpy(both, &packed, 4);
  return number(both[half]);
}

template <typename T>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Fragments {
    uint32_t a[4], b[2];
  };
  const Fragments own{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  emulation::Block::running->share(own, [&](const auto& of) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4, column = 2 * (lane % 4) + i % 2;
      for (int k = 0; k < 16; ++k) {
        const Fragments left = of(4 * row + k % 8 / 2), right = of(4 * column + k % 8 / 2);
        c[i] += unpack<T>(left.a[i / 2 + k / 8 * 2], k % 2) * unpack<T>(right.b[k / 8], k % 2);
      }
    }
  });
}

template <typename T>
uint32_t pack(float first, float second);
template <>
inline uint32_t pack<__half>(float first, float second) {
  const __half both[2] = {__float2half_rn(first), __float2half_rn(second)};
  uint32_t packed;
  std::memcpy(&packed, both, 4);
  return packed;
}
template <>
inline uint32_t pack<__nv_bfloat16>(float first, float second) {
  const __nv_bfloat16 both[2] = {__float2bfloat16_rn(first), __float2bfloat16_rn(second)};
  uint32_t packed;
  std::memcpy(&packed, both, 4);
  return packed;
}

}  // namespace pyeqgan
