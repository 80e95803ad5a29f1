// What the glue hands to the kernels that normalise and activate an image, and to their gradient.
#pragma once

#include "convolution.h"

namespace pyeqgan::cpu {

// Images are dense and all in the same layout. Pointers are to T (the image dtype) or A (the accumulation dtype).
struct Normalization {
  int64_t batch, channels, pixels;
  bool channels_last;
  bool norm;       // else only the activation
  bool per_image;  // statistics (B,C), else (C)
  double eps, negative_slope;
  Activation activation;

  const void* moments;  // A (B,parts,2,C): mean and sum of squared deviations of part_pixels pixels, fewer in the last
  int64_t parts, part_pixels;
  void *mean, *var;           // A (B,C) or (C)
  const void *weight, *bias;  // A (C) or null
  const void* x;              // T (B,C,pixels); without normalisation y
  void* y;                    // T; null if only pooled is wanted
  void* pooled;               // A (B,chunks,C): sums of y over pixels; or null

  // Gradient only.
  bool constant_statistics;       // not those of x
  const void* grad_y;             // T
  const void* grad_shift;         // A (B,C): added to grad_y at every pixel; or null
  void* sums;                     // A (B,chunks,2,C): of the gradient after the norm, and of it times the normalised x
  void* means;                    // A (B,2,C) or (2,C): what the gradient of x subtracts
  void* grad_x;                   // T
  void *grad_weight, *grad_bias;  // A (C) or null

  // Work is cut into chunks of pixels, or planes where a channel's pixels lie together.
  int64_t chunks;
  static constexpr int64_t kChunk = 256;
};

struct NormalizationKernels {
  using Run = void (*)(const Normalization&, int64_t begin, int64_t end);
  struct Typed {
    Run statistics;      // a row of mean and var
    Run forward;         // a chunk of one image (channels last), or a plane
    Run sums;            // likewise
    Run means;           // a channel
    Run input_gradient;  // a chunk or plane
  } f32, f64, bf16, f16;
};

PYEQGAN_DECLARE_TABLES(NormalizationKernels, pyeqgan_normalization);

}  // namespace pyeqgan::cpu
