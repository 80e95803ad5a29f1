// What the glue hands to the kernels of modulated_norm. The contract is in ops/modulated_norm.py.
#pragma once

#include "../convolution/convolution.h"

namespace pyeqgan::cpu {

// y = act(x̂·(1 + gamma) + beta) with x̂ = (x - mean)/sqrt(var + eps), and its gradients. Pointers are to T (the image
// dtype) or A (the accumulation dtype). x, y, grad_y and gradients of maps are dense and all in the same layout.
struct ModulatedNorm {
  // Elements between neighbouring images, channels and pixels; channels or pixels lie together.
  struct Strides {
    int64_t image, channel, pixel;
  };

  int64_t batch, channels, pixels;
  bool channels_last;
  Strides strides;
  double eps, negative_slope;
  Activation activation;

  bool own_statistics;  // those of x: worked out forward, differentiated through backward
  bool per_image;       // statistics are (B,C), else (C)
  void *mean, *var;     // A; null without a norm

  bool maps;  // gamma and beta are T (B,C,pixels), else A (B,C)
  const void *gamma, *beta;
  Strides gamma_strides, beta_strides;  // of maps

  const void* x;  // T
  void* y;        // T

  // Gradient only. What is not asked for is null.
  const void* grad_y;            // T
  void* grad_x;                  // T
  void *grad_gamma, *grad_beta;  // as gamma and beta; maps have the strides of x

  bool large;  // a map is more than caches hold: results pass them by

  // Images are cut into tiles, whose sums are joined over a group: the images that share statistics.
  int64_t tile_pixels, tiles, group_images, groups;
  double* sums;            // (B,tiles,2,C): mean and squared deviations of x; or, for the gradient, of h and of h·x̂
  double* means;           // (groups,2,C): what the gradient of x subtracts
  bool first, join, last;  // which steps are needed: tiles alone, tiles' sums, tiles with what was found
};

// The steps of one direction. Where pixels lie together a channel of a group takes all of them before the next does,
// while it is still near the processor; where channels do, each step goes over memory in its order.
struct ModulatedNormKernels {
  using Run = void (*)(const ModulatedNorm&, int64_t begin, int64_t end);
  struct Steps {
    Run channels;           // all steps of a channel of a group (pixels lie together)
    Run first, join, last;  // of a tile, of a group, of a tile (channels lie together)
  };
  struct Typed {
    Steps forward, backward;
  } f32, f64, bf16, f16;
};

PYEQGAN_DECLARE_TABLES(ModulatedNormKernels, pyeqgan_modulated_norm);

}  // namespace pyeqgan::cpu
