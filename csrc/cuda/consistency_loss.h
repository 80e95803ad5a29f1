// Torch-free launchers of equalization_consistency_loss (ops.md, section 6): raw pointers in, cudaError_t (as int) out.
//
// Work is enqueued on stream: nothing is allocated, nothing waits, nothing is atomic.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

extern "C" {

// Two stacks of images, dense in one layout: planar (B,C,pixels) or pixel-major (B,pixels,C).
struct pyeqgan_consistency_scale {
  const void *equalized, *decoded;
  void *grad_equalized, *grad_decoded;  // backward, in the same layout; null: not asked for
  int64_t images, channels, pixels;
  bool pixel_major;
  float share;  // what the distance of one pixel (cosine) or element (l1, l2) adds to the loss
};

enum pyeqgan_consistency_distance { PYEQGAN_COSINE = 0, PYEQGAN_L1 = 1, PYEQGAN_L2 = 2 };

// Bytes of the workspace of the forward launcher, 8-byte aligned.
int64_t pyeqgan_consistency_loss_workspace(const pyeqgan_consistency_scale* scales, int64_t count, int distance);

// dtype (see dtype.h) is that of all scales. loss is one fp32.
int pyeqgan_consistency_loss(const pyeqgan_consistency_scale* scales, int64_t count, int distance, int dtype,
                             float* loss, void* workspace, cudaStream_t stream);

int pyeqgan_consistency_loss_backward(const pyeqgan_consistency_scale* scales, int64_t count, int distance, int dtype,
                                      const float* grad_loss, cudaStream_t stream);

}  // extern "C"
