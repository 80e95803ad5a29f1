// What the glue hands to the kernels of bilateral_propagation (ops.md: contract in ops/bilateral_propagation.py).
#pragma once

#include "../dispatch.h"
#include "../strides.h"

namespace pyeqgan::cpu {

// Pointers are to T (the image dtype) or A (the accumulation dtype: double for double, else float), per kernel.
struct BilateralPropagation {
  int64_t batch, channels, height, width, radius;
  double sigma;
  const void* x;  // T (B,C,H,W)
  Strides x_strides;
  const void* gate;  // T (B,C) contiguous, or null
  void* y;           // T (B,2C,H,W)
  Strides y_strides;
  void* affinity;  // A (B,9,H,W) contiguous; written by range, read by blend and backward

  // Backward only.
  const void* grad_y;  // T, strides of its own
  Strides grad_y_strides;
  void* grad_x;      // T, strides of x; null if not needed
  void* grad_v;      // A, strides of x: the gradient of v = gate·x while it is summed; may be grad_x itself
  void* grad_gates;  // A (B,bands,C): one share per band of rows, or null

  // The work is cut the same way whatever the number of threads, so results do not depend on it. Channels beside each
  // other in memory are handled together.
  int64_t channel_block() const { return x_strides.c == 1 ? 64 : 16; }
  int64_t channel_blocks() const { return (channels + channel_block() - 1) / channel_block(); }
  int64_t band_rows() const {
    const int64_t rows = width == 0 ? 1 : 2048 / width;
    return rows < 8 ? 8 : rows > 32 ? 32 : rows;
  }
  int64_t bands() const { return (height + band_rows() - 1) / band_rows(); }
};

// Each function handles items [begin, end): a `spatial` item is one image and channel block, a `range` item one image
// and band of rows; `blend` is `range` with the affinity of an earlier pass. Backward runs all spatial items before the
// first range item.
struct BilateralPropagationKernels {
  using Run = void (*)(const BilateralPropagation&, int64_t begin, int64_t end);
  struct Typed {
    Run spatial, range, blend, spatial_backward, range_backward;
  } f32, f64, bf16, f16;
};

PYEQGAN_DECLARE_TABLES(BilateralPropagationKernels, pyeqgan_bilateral_propagation);

}  // namespace pyeqgan::cpu
