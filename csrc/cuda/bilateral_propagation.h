// Torch-free launchers of bilateral_propagation (ops.md, section 2): raw pointers in, cudaError_t (as int) out.
//
// size is (B,C,H,W); strides are in elements, for (batch, channel, row, column), and may be anything. gate is
// dense (B,C) or null. dtype (see dtype.h) is that of x, gate, y, grad_y, grad_x and grad_gate; affinity is
// dense fp32 (B,9,H,W). workspace holds bilateral_propagation_workspace(...) bytes, 16-byte aligned, and is
// used by this call alone. Work is enqueued on stream: nothing is allocated, nothing waits.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

extern "C" {

int64_t pyeqgan_bilateral_propagation_workspace(const int64_t* size, int64_t radius, bool backward);

int pyeqgan_bilateral_propagation(const void* x, const int64_t* x_stride, const void* gate, void* y,
                                  const int64_t* y_stride, float* affinity, void* workspace, int dtype,
                                  const int64_t* size, float sigma, int64_t radius, cudaStream_t stream);

// grad_x or grad_gate null: not asked for.
int pyeqgan_bilateral_propagation_backward(const void* grad_y, const int64_t* grad_y_stride, const void* x,
                                           const int64_t* x_stride, const void* gate, const float* affinity,
                                           void* grad_x, const int64_t* grad_x_stride, void* grad_gate, void* workspace,
                                           int dtype, const int64_t* size, float sigma, int64_t radius,
                                           cudaStream_t stream);

}  // extern "C"
