// What a block copies into its buffers while it computes: all its threads start copies and wait for them.
#pragma once

#include "contrastive_problem.cuh"
#include "hopper.cuh"

namespace pyeqgan::contrastive {
namespace {

constexpr int BARRIERS_BYTES = 16;  // of both buffers

#ifdef HOPPER

// One thread asks for whole tiles, and a barrier of each buffer tells when they are there.
class Copies {
 public:
  __device__ explicit Copies(void* barriers) : barriers_(static_cast<uint64_t*>(barriers)) {
    if (threadIdx.x == 0) {
      open_barrier(barriers_);
      open_barrier(barriers_ + 1);
      publish_barriers();
    }
    __syncthreads();
  }
  // Of all that is copied into a buffer before it is waited for.
  __device__ void expect(int buffer, int bytes) {
    if (threadIdx.x == 0) expect_bytes(barriers_ + buffer, bytes);
  }
  __device__ void copy(int buffer, void* to, const void* from, int bytes) {
    if (threadIdx.x == 0) copy_bulk(to, from, bytes, barriers_ + buffer);
  }
  __device__ void wait(int buffer) {
    while (!has_arrived(barriers_ + buffer, phases_ >> buffer & 1u)) continue;
    phases_ ^= 1u << buffer;
  }

 private:
  uint64_t* barriers_;
  unsigned phases_ = 0;  // a bit a buffer
};

#else

// Each thread copies its share; what others have copied is there after a barrier.
class Copies {
 public:
  __device__ explicit Copies(void*) {}
  __device__ void expect(int, int) {}
  __device__ void copy(int, void* to, const void* from, int bytes) {
    for (int at = static_cast<int>(threadIdx.x) * 16; at < bytes; at += THREADS * 16)
      copy_async(static_cast<unsigned char*>(to) + at, static_cast<const unsigned char*>(from) + at);
  }
  __device__ void wait(int) { wait_copies(); }
};

#endif

}  // namespace
}  // namespace pyeqgan::contrastive
