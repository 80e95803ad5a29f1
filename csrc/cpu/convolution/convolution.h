// What the glue hands to the convolution kernels: a convolution of stride 1 and its two adjoints. The contracts are in
// ops/activated_conv2d.py and ops/skip_decoder_block.py.
//
// 3×3 kernels go by Winograd's F(2×2, 3×3) (Lavin and Gray, CVPR 2016): a tile of 2×2 outputs is worked out at 4×4
// points, 16 products of channels in place of 36. Where a source is upsampled by two (nearest), the tile's 4×4 pixels
// hold 3×3 different ones and 7 points vanish: 9 products (ours). What that does not serve is done tap by tap: other
// kernels, wider padding, and values so large that Winograd's sums and differences would spread them over a tile.
#pragma once

#include "../dispatch.h"
#include "../strides.h"

namespace pyeqgan::cpu {

enum class Activation : int64_t { kNone, kRelu, kLeakyRelu, kTanh };
enum class Padding : int64_t { kZeros, kReflect, kReplicate };

// Pointers are to T (the image dtype) or A (the accumulation dtype: double for double, else float), per kernel.
struct Convolution {
  // An image whose channels are convolved, channel 0 being channel `offset` of the weight.
  struct Source {
    const void* data;  // T (B,channels,height,width)
    Strides strides;
    int64_t channels, offset, height, width;
    bool upsampled;  // height and width are those before upsampling; it is padded as if reflected after it
    void* grad;      // T, strides of its own; null if not needed
    Strides grad_strides;
  };

  int64_t batch, in_channels, out_channels;
  int64_t height, width;  // of the output
  int64_t kernel_height, kernel_width;
  int64_t source_count;
  Source sources[2];
  int64_t target;   // the source whose gradient, or whose part of the weight's, is worked out
  int64_t padding;  // of sources that are not upsampled
  Padding padding_mode;
  Activation activation;  // of the sources, before padding
  double negative_slope;
  const void* weight;  // T (out_channels,in_channels,kernel_height,kernel_width) contiguous
  // The weight at each point (or tap), A, in panels over out_channels or, for the gradient of an input, over its
  // channels. So many panels are worked on at a time that they stay near the processor.
  void* points;
  int64_t first_panel, panel_count;
  // The limbs of the points (factors.h), of one source after the other or of all out_channels, if the matrix unit
  // multiplies and they are in its range; else null.
  void* point_limbs;
  bool limbs;         // whether the matrix unit multiplies at all
  int* out_of_range;  // set to 1 by split_points where limbs cannot be had
  const void* bias;   // T (out_channels) or null
  void* output;       // T (B,out_channels,height,width)
  Strides output_strides;
  Activation output_activation;
  void* statistics;  // A (B,blocks_per_image,2,out_channels): mean and sum of squared deviations; or null
  int* spoiled;      // set to 1 where a value is too large for Winograd: the result must be done again tap by tap

  // Gradients only.
  const void* grad;  // T (B,out_channels,height,width): of the output
  Strides grad_strides;
  void* grad_points;  // A (groups, points in panels over out_channels); null if an item stores its part of the weight
                      // itself
  void* grad_weight;  // T like weight

  // How the work is cut: by shape alone, so that results do not depend on the number of threads.
  int64_t points_per_axis;                                     // 4, or 3 if all sources are upsampled
  int64_t tile_rows, tile_columns;                             // tiles of an image
  int64_t block_images, block_rows, blocks_per_image, blocks;  // a block is several images, or tile rows of one
  int64_t groups;                                              // runs of blocks the weight gradient is summed over
  int64_t output_span, input_span;                             // panels an item works on: fewer where blocks are few
};

// Each function handles items [begin, end); what an item is stands beside it.
struct ConvolutionKernels {
  using Run = void (*)(const Convolution&, int64_t begin, int64_t end);
  struct Typed {
    int64_t panel;       // channels in a panel
    Run output;          // a block and output_span panels of out_channels
    Run input_gradient;  // a run of images, as many as a block's, and input_span panels of the target
  } f32, f64, bf16, f16;
};

struct ConvolutionWeightKernels {
  using Run = void (*)(const Convolution&, int64_t begin, int64_t end);
  struct Typed {
    Run points;             // a panel of out_channels and a run of in_channels
    Run transposed_points;  // one of the target's panels and a run of out_channels
    Run points_gradient;    // a group, kInputSpan panels of the target and kOutputSpan panels of out_channels
    Run gradient;           // a panel of out_channels and a run of in_channels
    Run split_points;       // a point and a panel of out_channels; null where the matrix unit is not used
    Run split_transposed;   // a point and one of the target's panels; likewise
  } f32, f64, bf16, f16;
};

constexpr int64_t kChannelRun = 16, kInputSpan = 4, kOutputSpan = 2;

PYEQGAN_DECLARE_TABLES(ConvolutionKernels, pyeqgan_convolution);
PYEQGAN_DECLARE_TABLES(ConvolutionWeightKernels, pyeqgan_convolution_weight);
PYEQGAN_DECLARE_TABLES(ConvolutionKernels, pyeqgan_direct_convolution);
PYEQGAN_DECLARE_TABLES(ConvolutionWeightKernels, pyeqgan_direct_convolution_weight);

}  // namespace pyeqgan::cpu
