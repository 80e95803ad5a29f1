// Torch-free launchers of local_fusion and lifted_fusion (ops.md, section 1): raw pointers in, cudaError_t (as int)
// out.
//
// All tensors are of one dtype (see dtype.h) but the int64 positions and matches. Strides are in elements and may be
// anything; weights (B,R+1), positions (B,M) and matches (B,R,M) are dense. Positions are distinct and in range, as are
// matches: the caller's promise. Work is enqueued on stream: nothing is allocated, nothing waits, nothing is atomic.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

extern "C" {

// What every launcher reads. base is (B,C,s rows,s columns), references (B,R,C,s rows,s columns).
struct pyeqgan_fusion {
  const void *base, *references, *weights;
  const int64_t *positions, *matches;
  int64_t base_stride[4], references_stride[5];
  int64_t batch, count, channels, rows, columns, scale, selected;  // count: R, selected: M
  int dtype;
};

// fused like base; matches is written, that of the description is not looked at. scale is 1. One launch.
int pyeqgan_local_fusion(const pyeqgan_fusion* fusion, void* fused, const int64_t* fused_stride, int64_t* matches,
                         cudaStream_t stream);

int pyeqgan_lifted_fusion(const pyeqgan_fusion* fusion, void* fused, const int64_t* fused_stride, cudaStream_t stream);

int64_t pyeqgan_lifted_fusion_workspace(const pyeqgan_fusion* fusion);

// A gradient that is null is not asked for. workspace: as many bytes as the function above says, 16-byte aligned.
int pyeqgan_lifted_fusion_backward(const pyeqgan_fusion* fusion, const void* grad_fused,
                                   const int64_t* grad_fused_stride, void* grad_base, const int64_t* grad_base_stride,
                                   void* grad_references, const int64_t* grad_references_stride, void* grad_weights,
                                   void* workspace, cudaStream_t stream);

}  // extern "C"
