// What the glue hands to the kernels of lifted_fusion and, as a fusion on the grid itself, of local_fusion
// (ops.md: contracts in ops/lifted_fusion.py and ops/local_fusion.py).
#pragma once

#include <algorithm>
#include <cstdint>

#include "../dispatch.h"

namespace pyeqgan::cpu {

// Pointers are to T, the image dtype, unless said otherwise. Every image is dense in one layout: planar (C,H,W) or
// pixel-major (H,W,C), H = scale·rows and W = scale·columns.
struct LiftedFusion {
  int64_t batch, references, channels, rows, columns, scale, selected;
  bool pixel_major;
  const void* base;  // image b at base + b·base_step
  int64_t base_step;
  const void* reference;  // image (b, r) at reference + b·reference_row + r·reference_step
  int64_t reference_row, reference_step;
  const void* weights;       // (B,R+1) contiguous
  const int64_t* positions;  // (B,M) contiguous
  const int64_t* matches;    // (B,R,M) contiguous
  void* fused;               // (B,image)

  // Backward only.
  const void* grad_fused;  // (B,image)
  void* grad_base;         // (B,image), or null if not needed
  void* grad_references;   // (B,R,image), or null
  double* grad_weights;    // (B,slabs,R+1): the share of each item, or null

  int64_t pixels() const { return rows * columns * scale * scale; }

  // Patches of one element, in planes: the channels of a pixel are handled together.
  bool strided() const { return !pixel_major && scale == 1; }

  // The work is cut the same way whatever the number of threads, so results do not depend on it: an item is one
  // image's slab, a block of planes or a band of rows.
  int64_t band_rows() const {
    const int64_t row = columns * scale * scale * channels;
    return std::max<int64_t>(kSlabElements / std::max<int64_t>(row, 1), 1);
  }
  int64_t slabs() const {
    return pixel_major ? (rows + band_rows() - 1) / band_rows() : (channels + kChannelBlock - 1) / kChannelBlock;
  }
  // The most elements of a slab that are contiguous, or (strided) all of them.
  int64_t slab_elements() const {
    return pixel_major ? band_rows() * columns * scale * scale * channels : pixels() * (strided() ? kChannelBlock : 1);
  }

  static constexpr int64_t kChannelBlock = 16, kSlabElements = 1 << 15;
};

// Each function handles items [begin, end) of batch · slabs().
struct LiftedFusionKernels {
  using Run = void (*)(const LiftedFusion&, int64_t begin, int64_t end);
  struct Typed {
    Run forward, backward;
  } f32, f64, bf16, f16;
};

PYEQGAN_DECLARE_TABLES(LiftedFusionKernels, pyeqgan_lifted_fusion);

}  // namespace pyeqgan::cpu
