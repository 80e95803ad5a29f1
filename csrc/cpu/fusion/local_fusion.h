// The kernels that local_fusion adds to those of lifted_fusion: they find the matches.
#pragma once

#include "lifted_fusion.h"

namespace pyeqgan::cpu {

// The work is cut the same way whatever the number of threads: an item is one image and reference, and this many of
// the selected positions.
constexpr int64_t kMatchBlock = 512;

inline int64_t match_blocks(const LiftedFusion& p) { return (p.selected + kMatchBlock - 1) / kMatchBlock; }

// Writes matches (B,R,M) for items [begin, end) of batch · references · match_blocks(). Reads base, references and
// positions on a grid of scale 1.
struct LocalFusionKernels {
  using Run = void (*)(const LiftedFusion&, int64_t* matches, int64_t begin, int64_t end);
  Run f32, f64, bf16, f16;
};

PYEQGAN_DECLARE_TABLES(LocalFusionKernels, pyeqgan_local_fusion);

}  // namespace pyeqgan::cpu
