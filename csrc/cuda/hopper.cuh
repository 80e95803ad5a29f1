// The instructions of sm_90a, each behind a function: products of a warpgroup (wgmma) and bulk copies that report to a
// barrier in shared memory (mbarrier). HOPPER is defined where they are there. The CPU emulation has its own ones,
// which do what the PTX manual says (tests/cuda/emulation/hopper.h).
#pragma once

#include "ptx.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(CUDA_EMULATION_SM90)
#define HOPPER
#endif

#if defined(HOPPER) && !defined(CUDA_EMULATION)

namespace pyeqgan {
namespace {

// A barrier that one thread arrives at in each of its phases, together with the bytes it expects.
__device__ inline void open_barrier(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
}
// Before other threads, and copies, see barriers that this one has opened; __syncthreads must follow.
__device__ inline void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void expect_bytes(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
// Whether the phase of this parity, 0 for the first one, is over.
__device__ inline bool has_arrived(uint64_t* barrier, unsigned parity) {
  uint32_t over;
  asm volatile(
      "{\n.reg .pred over;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
      "selp.u32 %0, 1, 0, over;\n}"
      : "=r"(over)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return over != 0;
}

// Copies bytes, a multiple of 16 and aligned to it, in the background and tells the barrier.
__device__ inline void copy_bulk(void* shared, const void* global, int bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// What a warpgroup reads of shared memory: rows of 128 bytes, swizzled, 8 of them every 1024 bytes. The atoms of 8 rows
// must be aligned to 1024; shared may point into the first one's first row.
__device__ inline uint64_t describe_rows(const void* shared) {
  constexpr uint64_t SWIZZLED = uint64_t{1} << 62, ATOMS_APART = uint64_t{1024 / 16} << 32, UNUSED = uint64_t{1} << 16;
  return SWIZZLED | ATOMS_APART | UNUSED | (shared_address(shared) & 0x3ffff) >> 4;
}

// The compiler keeps these registers as they are here.
template <int GROUPS>
__device__ void pin(float (&sums)[GROUPS][4]) {
#pragma unroll
  for (int j = 0; j < GROUPS; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(sums[j][i])::"memory");
  }
}
// Before the products that are added to sums.
template <int GROUPS>
__device__ void begin_products(float (&sums)[GROUPS][4]) {
  pin(sums);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Until all of them have been made.
template <int GROUPS>
__device__ void finish_products(float (&sums)[GROUPS][4]) {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  pin(sums);
}

#define SUMS_OF_8(c) \
  "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3])
#define SUMS_OF_64(c) SUMS_OF_8(c), SUMS_OF_8((c + 2)), SUMS_OF_8((c + 4)), SUMS_OF_8((c + 6))
#define REGISTERS_OF_64                                                                                        \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
  "%23, %24, %25, %26, %27, %28, %29, %30, %31}"

// c (64,64) += a (64,16) bᵀ, b (64,16), both rows of 16 numbers as describe_rows finds them. Of c each warp has 16
// rows, kept as by multiply_add: c[j] are columns 8j to 8j + 7.
template <typename T>
__device__ void multiply_rows(float (*c)[4], uint64_t a, uint64_t b);
// c (64,64) += a b, a (64,16) in registers as for multiply_add, b (16,64): 16 rows as describe_rows finds them.
template <typename T>
__device__ void multiply_registers(float (*c)[4], const uint32_t (&a)[4], uint64_t b);

#define DEFINE_PRODUCTS(Type, name)                                                                    \
  template <>                                                                                          \
  __device__ inline void multiply_rows<Type>(float (*c)[4], uint64_t a, uint64_t b) {                  \
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." name "." name " " REGISTERS_OF_64       \
                 ", %32, %33, 1, 1, 1, 0, 0;"                                                          \
                 : SUMS_OF_64(c)                                                                       \
                 : "l"(a), "l"(b));                                                                    \
  }                                                                                                    \
  template <>                                                                                          \
  __device__ inline void multiply_registers<Type>(float (*c)[4], const uint32_t (&a)[4], uint64_t b) { \
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." name "." name " " REGISTERS_OF_64       \
                 ", {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"                                            \
                 : SUMS_OF_64(c)                                                                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                \
  }
DEFINE_PRODUCTS(__half, "f16")
DEFINE_PRODUCTS(__nv_bfloat16, "bf16")
#undef DEFINE_PRODUCTS
#undef REGISTERS_OF_64
#undef SUMS_OF_64
#undef SUMS_OF_8

}  // namespace
}  // namespace pyeqgan

#endif
