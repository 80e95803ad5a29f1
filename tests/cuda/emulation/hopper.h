// What csrc/cuda/hopper.cuh wraps, on the CPU, as the PTX manual describes it (see cuda_runtime.h).
//
// Nothing happens before a thread waits for it: what a bulk copy brings is NaN until its barrier is asked, and sums are
// as they were until the products are finished.
#pragma once

#include "ptx.h"

namespace pyeqgan {

// How often all threads may ask for a phase that never ends.
constexpr int PATIENCE = 1 << 20;

struct BarrierState {
  bool arrived = false;
  int64_t expected = 0, copied = 0;
  unsigned phase = 0;
  int asked = 0;
  std::vector<PendingCopy> copies;
  std::vector<int> sizes;
};
inline std::map<const void*, BarrierState> barriers;

inline void open_barrier(uint64_t* barrier) {
  *barrier = 0;
  barriers[barrier] = {};
}
inline void publish_barriers() {}
inline BarrierState& state_of(uint64_t* barrier) {
  if (*barrier != 0) {
    std::fputs("CUDA emulation: a barrier was used before it was opened\n", stderr);
    std::abort();
  }
  return barriers.at(barrier);
}
inline void expect_bytes(uint64_t* barrier, int bytes) {
  BarrierState& state = state_of(barrier);
  if (state.arrived) {
    std::fputs("CUDA emulation: two arrivals at a barrier of one\n", stderr);
    std::abort();
  }
  state.arrived = true;
  state.expected = bytes;
}
inline void copy_bulk(void* shared, const void* global, int bytes, uint64_t* barrier) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0 ||
      bytes % 16 != 0) {
    std::fputs("CUDA emulation: copy_bulk: misaligned\n", stderr);
    std::abort();
  }
  emulation::poison(shared, static_cast<size_t>(bytes));
  BarrierState& state = state_of(barrier);
  state.copies.push_back({shared, global});
  state.sizes.push_back(bytes);
}
inline bool has_arrived(uint64_t* barrier, unsigned parity) {
  BarrierState& state = state_of(barrier);
  for (size_t i = 0; i < state.copies.size(); ++i) {
    std::memcpy(state.copies[i].to, state.copies[i].from, static_cast<size_t>(state.sizes[i]));
    state.copied += state.sizes[i];
  }
  state.copies.clear();
  state.sizes.clear();
  if (state.arrived && state.copied == state.expected) {
    state.arrived = false;
    state.copied = state.expected = 0;
    state.phase ^= 1;
    state.asked = 0;
  }
  if (state.phase % 2 != parity) return true;
  if (++state.asked > PATIENCE) {
    std::fprintf(stderr, "CUDA emulation: %lld of %lld bytes came to a barrier\n", static_cast<long long>(state.copied),
                 static_cast<long long>(state.expected));
    std::abort();
  }
  emulation::Block::running->yield();
  return false;
}

// Addresses of shared memory have 18 bits here.
constexpr uint64_t WINDOW = 0x3ffff;
inline uint64_t shared_address(const void* shared) { return reinterpret_cast<uintptr_t>(shared) & WINDOW; }

// The matrix of rows that a descriptor tells: where the number at (row, column) lies.
struct SharedRows {
  uint64_t start, apart;

  explicit SharedRows(uint64_t description)
      : start(description << 4 & WINDOW), apart((description >> 32 & 0x3fff) << 4) {
    if (description >> 62 != 1 || apart != 1024) {
      std::fputs("CUDA emulation: rows are described that are not swizzled by 128 bytes\n", stderr);
      std::abort();
    }
  }
  template <typename T>
  float at(int row, int column) const {
    // Bits 4 to 6 of an address are changed by bits 7 to 9 of it.
    const uint64_t linear = start + row / 8 * apart + row % 8 * 128 + column * 2;
    const uint64_t address = linear ^ (linear >> 7 & 7) << 4;
    T value;
    std::memcpy(&value,
                reinterpret_cast<const char*>(dynamic_shared) + ((address - shared_address(dynamic_shared)) & WINDOW),
                2);
    return number(value);
  }
};

inline uint64_t describe_rows(const void* shared) {
  if (shared_address(shared) >> 7 & 7) {
    std::fputs("CUDA emulation: rows are described that do not begin an atom of 8\n", stderr);
    std::abort();
  }
  return uint64_t{1} << 62 | uint64_t{64} << 32 | uint64_t{1} << 16 | shared_address(shared) >> 4;
}

inline std::map<unsigned, std::vector<std::function<void()>>> pending_products;  // by thread

template <int GROUPS>
void begin_products(float (&)[GROUPS][4]) {
  __syncwarp();
}
template <int GROUPS>
void finish_products(float (&)[GROUPS][4]) {
  auto& products = pending_products[threadIdx.x];
  for (const auto& product : products) product();
  products.clear();
  __syncwarp();
}

// Calls use(sum, row of the warpgroup, column) for the sums of this thread.
template <typename Use>
void for_each_sum(float (*c)[4], Use use) {
  const int row = static_cast<int>(threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4);
  for (int j = 0; j < 8; ++j)
    for (int i = 0; i < 4; ++i) use(c[j][i], row + i / 2 * 8, 8 * j + 2 * static_cast<int>(threadIdx.x % 4) + i % 2);
}

template <typename T>
void multiply_rows(float (*c)[4], uint64_t a, uint64_t b) {
  pending_products[threadIdx.x].push_back([=] {
    const SharedRows left(a), right(b);
    for_each_sum(c, [&](float& sum, int row, int column) {
      for (int k = 0; k < 16; ++k) sum += left.at<T>(row, k) * right.at<T>(column, k);
    });
  });
}

template <typename T>
void multiply_registers(float (*c)[4], const uint32_t (&a)[4], uint64_t b) {
  struct Fragment {
    uint32_t a[4];
  };
  std::vector<float> left(2 * 16);  // this thread's rows of a
  emulation::Block::running->share(Fragment{{a[0], a[1], a[2], a[3]}}, [&](const auto& of) {
    const int first = static_cast<int>(threadIdx.x % 32 / 4 * 4);
    for (int k = 0; k < 16; ++k)
      for (int r = 0; r < 2; ++r) left[16 * r + k] = unpack<T>(of(first + k % 8 / 2).a[r + k / 8 * 2], k % 2);
  });
  pending_products[threadIdx.x].push_back([=] {
    const SharedRows right(b);
    for_each_sum(c, [&](float& sum, int row, int column) {
      for (int k = 0; k < 16; ++k) sum += left[row / 8 % 2 * 16 + k] * right.at<T>(k, column);
    });
  });
}

}  // namespace pyeqgan
