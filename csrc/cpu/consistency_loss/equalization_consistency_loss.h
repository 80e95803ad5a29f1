// What the glue hands to the kernels of equalization_consistency_loss (ops.md: contract in
// ops/equalization_consistency_loss.py).
#pragma once

#include <algorithm>
#include <cstdint>

#include "../dispatch.h"

namespace pyeqgan::cpu {

enum class Distance { kCosine, kL1, kL2 };

// One scale: two stacks of images, dense in the same layout, planar (C,pixels) or pixel-major (pixels,C). L1 and L2
// know no pixels: to them a scale is one image of one channel. Pointers are to T, the image dtype.
struct ConsistencyScale {
  int64_t images, channels, pixels;
  bool pixel_major;
  Distance distance;
  const void *equalized, *decoded;

  // Backward only: the derivative of the loss by the distance of a pixel, and where the gradients go (null: nowhere).
  double grad;
  void *grad_equalized, *grad_decoded;

  // The work is cut the same way whatever the number of threads, so results do not depend on it: an item is a block of
  // pixels of one image.
  int64_t block() const { return std::max<int64_t>(kBlockElements / std::max<int64_t>(channels, 1) / 64, 1) * 64; }
  int64_t blocks() const { return (pixels + block() - 1) / block(); }
  int64_t items() const { return images * channels * pixels == 0 ? 0 : images * blocks(); }

  static constexpr int64_t kBlockElements = 1 << 14;
};

// Each function handles items [begin, end) of a scale. Forward writes sums[item], the sum of the pixels' distances.
struct ConsistencyKernels {
  struct Typed {
    void (*forward)(const ConsistencyScale&, double* sums, int64_t begin, int64_t end);
    void (*backward)(const ConsistencyScale&, int64_t begin, int64_t end);
  } f32, f64, bf16, f16;
};

PYEQGAN_DECLARE_TABLES(ConsistencyKernels, pyeqgan_consistency);

}  // namespace pyeqgan::cpu
