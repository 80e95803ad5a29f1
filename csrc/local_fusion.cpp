// Glue of local_fusion: finds the matches, then blends as a lifted fusion on the grid itself. The contract is in
// pyeqgan/ops/local_fusion.py, the maths in cpu/fusion.
#include "cpu/fusion/local_fusion.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "lifted_fusion.h"

namespace pyeqgan {
namespace {

constexpr char kName[] = "local_fusion";

std::tuple<Tensor, Tensor> local_fusion(const Tensor& base, const Tensor& references, const Tensor& weights,
                                        const Tensor& positions) {
  PYEQGAN_CHECK(base.dim() == 4, kName, "base", "shape (B, C, H, W)", shape_of(base));
  Fusion f = describe_fusion(kName, base, references, weights, positions, base.size(2), base.size(3));
  cpu::LiftedFusion& p = f.problem;
  f.matches = torch::stable::new_empty(f.positions, {p.batch, p.references, p.selected});
  int64_t* matches = static_cast<int64_t*>(f.matches.mutable_data_ptr());
  const auto match = of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_local_fusion), base.scalar_type(), kName);
  torch::stable::parallel_for(0, p.batch * p.references * cpu::match_blocks(p), 1,
                              [&](int64_t begin, int64_t end) { match(p, matches, begin, end); });
  p.matches = matches;
  return {fuse(f, base), f.matches};
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_IMPL(pyeqgan, CPU, m) { m.impl("local_fusion", TORCH_BOX(&pyeqgan::local_fusion)); }
