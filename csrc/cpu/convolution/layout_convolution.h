// What the glue hands to the kernels of layout_conv2d (contract in ops/layout_conv2d.py).
#pragma once

#include <algorithm>
#include <cstdint>

#include "../dispatch.h"
#include "../strides.h"
#include "convolution.h"

namespace pyeqgan::cpu {

// Pointers are to T, the dtype of the weight, or to A, that of sums, as said.
struct LayoutConvolution {
  int64_t batch, classes, channels, kernel_height, kernel_width, stride, padding;
  int64_t layout_height, layout_width, height, width;  // of the labels; of the output
  int64_t ignore_index;
  Activation activation;
  double negative_slope;
  const int64_t* labels;      // (B,layout_height,layout_width) contiguous, each a class or ignore_index
  const void *weight, *bias;  // T (Co,Nc,kh,kw) and (Co), contiguous; bias may be null
  void* table;                // A (blocks,rows,kBlock)

  // Written by forward. Backward reads it where there is an activation, else it is null.
  void* y;
  Strides y_strides;

  // Backward only.
  const void* grad;  // T, as y
  Strides grad_strides;
  void* sums;                     // A (parts,blocks,rows,kBlock)
  void *grad_weight, *grad_bias;  // T, as weight and bias, or null

  // The table: for each class the weights of its taps (ky,kx), then a row for a tap that meets no class, then the bias.
  // Channels lie in blocks, and in a block in panels, of which it holds a whole number in every instruction set.
  int64_t taps() const { return kernel_height * kernel_width; }
  int64_t nothing() const { return classes * taps(); }
  int64_t rows() const { return classes * taps() + 2; }
  int64_t blocks() const { return (channels + kBlock - 1) / kBlock; }
  int64_t table_size() const { return blocks() * rows() * kBlock; }

  // The work is cut by shape, not by threads, so that results do not depend on them. A band is some output rows of one
  // image, of which the pixels of a channel are contiguous. Backward adds up parts of the bands, each in a table of its
  // own, fine enough for sums to keep their precision.
  int64_t band_rows() const { return std::clamp<int64_t>(kBandPixels / std::max<int64_t>(width, 1), 1, height); }
  int64_t bands_per_image() const { return (height + band_rows() - 1) / band_rows(); }
  int64_t bands() const { return batch * bands_per_image(); }
  int64_t parts() const {
    return std::clamp<int64_t>(batch * height * width / std::max<int64_t>(kPartPixels, 4 * rows()), 1, kMaxParts);
  }

  static constexpr int64_t kBlock = 32, kBandPixels = 256, kPartPixels = 2048, kMaxParts = 64;
};

// Each function handles items [begin, end).
struct LayoutConvolutionKernels {
  using Run = void (*)(const LayoutConvolution&, int64_t begin, int64_t end);
  struct Typed {
    Run pack;      // the table, by blocks
    Run forward;   // y, by bands
    Run backward;  // sums, by parts
    Run unpack;    // grad_weight and grad_bias, by blocks
  } f32, f64, bf16, f16;
};

PYEQGAN_DECLARE_TABLES(LayoutConvolutionKernels, pyeqgan_layout_convolution);

}  // namespace pyeqgan::cpu
