// What the glue hands to the kernels of similarity_loss (contract in ops/similarity_loss.py).
//
// The pixels that take part are sorted by label, image by image, so that most pairs of panels are of one label or of
// two. The places of an image are padded to whole panels of every instruction set, and cut into blocks.
#pragma once

#include <cstdint>

#include "../dispatch.h"

namespace pyeqgan::cpu {

// Some places of one image.
struct SimilarityBlock {
  int64_t image, begin, end;
};

// T is the dtype of the probabilities, A that of sums: double for double, else float.
struct SimilarityLoss {
  int64_t channels;
  double eps;
  const int64_t* pixels;  // (places): the pixel of its image at each place, -1 at a padded one
  const void* classes;    // A (places): a number for its label, -1 at a padded one
  const SimilarityBlock* blocks;

  // T; channel c of pixel i of image b at b·image + c·channel + i·pixel.
  const void* probabilities;
  int64_t image, channel, pixel;

  void* panels;          // A: channel c of place i at [i / kPanel][c][i mod kPanel]
  double* sums;          // (blocks): forward, of −log over the pairs whose first place is in the block
  void* slopes;          // A, as panels: backward, Σ_n G·p_n of each place; cleared by pack
  void* target;          // T, as probabilities: the gradient; or null
  const double* scales;  // (images): what the slopes are multiplied by

  static constexpr int64_t kPlaces = 32, kBlock = 256;
};

struct SimilarityRowsKernels {
  using Run = void (*)(const SimilarityLoss&, int64_t block);
  struct Typed {
    Run pack;    // panels; slopes if wanted
    Run unpack;  // target
  } f32, f64, bf16, f16;
};

// Of one dtype of sums, for a pair of blocks of one image, which stands for both its orders: writes to the sums of
// both.
struct SimilarityPairsKernels {
  using Run = void (*)(const SimilarityLoss&, int64_t first, int64_t second);
  struct Typed {
    Run forward, backward;
  } f32, f64;
};

PYEQGAN_DECLARE_TABLES(SimilarityRowsKernels, pyeqgan_similarity_rows);
PYEQGAN_DECLARE_TABLES(SimilarityPairsKernels, pyeqgan_similarity_pairs);

}  // namespace pyeqgan::cpu
