// What the glue of local_fusion and lifted_fusion shares: a local fusion with its matches is a lifted one on the grid.
#pragma once

#include "check.h"
#include "cpu/fusion/lifted_fusion.h"

namespace pyeqgan {

// The arguments as the kernels want them; `problem` points into the tensors.
struct Fusion {
  Tensor base, references, weights, positions, matches;
  cpu::LiftedFusion problem;
};

// Checks and describes a fusion on the grid (rows, columns), still without matches.
Fusion describe_fusion(const char* op, const Tensor& base, const Tensor& references, const Tensor& weights,
                       const Tensor& positions, int64_t rows, int64_t columns);

// The blend, (B,C,H,W) in the memory format of base.
Tensor fuse(Fusion& fusion, const Tensor& base);

}  // namespace pyeqgan
