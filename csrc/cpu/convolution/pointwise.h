// What the glue hands to the kernels of 1×1 convolutions: products over the channels of one to three images, which need
// not be concatenated, and their adjoints.
#pragma once

#include "convolution.h"

namespace pyeqgan::cpu {

// Pointers are to T (the image dtype) or A (the accumulation dtype: double for double, else float), per field.
struct Pointwise {
  // A dense image (B,channels,pixels): pixels of a channel side by side, or channels of a pixel.
  struct Image {
    const void* data;  // T
    int64_t channels;
    bool channels_last;
  };
  // Its channels meet channels [offset, offset + channels) of the weight.
  struct Source : Image {
    int64_t offset;
    void* grad;  // T in the layout of the image; null if not needed
  };

  int64_t batch, pixels, in_channels, out_channels;
  int64_t source_count;
  Source sources[3];
  int64_t target;         // the source whose gradient is worked out
  Activation activation;  // of the sources
  double negative_slope;
  const void* weight;  // T (out_channels,in_channels)
  const void* bias;    // T (out_channels) or null
  void* packed;        // A: the weight in panels
  bool limbs;          // whether the matrix unit multiplies
  void* packed_limbs;  // the packed weight's (factors.h), if all of it is in range; or null
  int* out_of_range;   // set to 1 by pack if it is not
  Image output;        // written; its data is that of the gradient where gradients are worked out
  void* statistics;    // A (B,blocks,2,out_channels): mean and sum of squared deviations; or null

  // The gradient of the weight is summed over groups of blocks: A (groups,output panels,in_channels,panel).
  void* weight_parts;
  int64_t groups;
  void* grad_weight;  // T like weight

  // How the work is cut: by shape alone, so that results do not depend on the number of threads.
  static constexpr int64_t kBlock = 512;  // pixels
  static constexpr int64_t kSpan = 4;     // output panels an item of weight_gradient works on
  int64_t blocks() const { return (pixels + kBlock - 1) / kBlock; }
};

// Each function handles items [begin, end); what an item is stands beside it.
struct PointwiseKernels {
  using Run = void (*)(const Pointwise&, int64_t begin, int64_t end);
  struct Typed {
    int64_t panel;        // channels in a panel
    Run pack;             // a source's part of the weight, as output reads it
    Run pack_gradient;    // as input_gradient reads it
    Run output;           // a block of an image
    Run input_gradient;   // likewise
    Run weight_gradient;  // a group and kSpan panels of out_channels: added to its part
    Run weight_sum;       // a panel of out_channels: the sum of all parts
  } f32, f64, bf16, f16;
};

PYEQGAN_DECLARE_TABLES(PointwiseKernels, pyeqgan_pointwise);

}  // namespace pyeqgan::cpu
