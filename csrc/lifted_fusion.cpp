// Glue of lifted_fusion: tensors to pointers, sizes and strides, and back. The contract is in
// pyeqgan/ops/lifted_fusion.py, the maths in cpu/fusion.
#include "lifted_fusion.h"

#include <torch/csrc/stable/library.h>

#include <array>
#include <tuple>
#include <vector>

namespace pyeqgan {
namespace {

constexpr char kName[] = "lifted_fusion";
constexpr char kBackward[] = "lifted_fusion_backward";

void run(cpu::LiftedFusionKernels::Run kernel, const cpu::LiftedFusion& problem) {
  if (problem.pixels() == 0) return;
  torch::stable::parallel_for(0, problem.batch * problem.slabs(), 1,
                              [&](int64_t begin, int64_t end) { kernel(problem, begin, end); });
}

// x, whose last three dimensions are (C,H,W), if each image is dense in the given layout; else a copy that is. The
// copy of a pixel-major x has the dimensions (H,W,C) instead: only its leading strides are looked at.
Tensor dense_images(const Tensor& x, bool pixel_major) {
  const int64_t d = x.dim() - 3, c = x.size(d), h = x.size(d + 1), w = x.size(d + 2);
  const std::array<int64_t, 3> sizes = {c, h, w};
  const std::array<int64_t, 3> strides =
      pixel_major ? std::array<int64_t, 3>{1, w * c, c} : std::array<int64_t, 3>{h * w, w, 1};
  bool same = true;
  for (int64_t i = 0; i < 3; ++i) same = same && (sizes[i] == 1 || x.stride(d + i) == strides[i]);
  if (same) return x;
  if (!pixel_major) return torch::stable::contiguous(x);
  return torch::stable::contiguous(torch::stable::transpose(torch::stable::transpose(x, d, d + 1), d + 1, d + 2));
}

// An uninitialised (B,R,C,H,W), its images in the given layout.
Tensor empty_references(const Tensor& like, bool pixel_major) {
  const int64_t b = like.size(0), r = like.size(1), c = like.size(2), h = like.size(3), w = like.size(4);
  if (!pixel_major) return torch::stable::new_empty(like, {b, r, c, h, w});
  return torch::stable::transpose(torch::stable::transpose(torch::stable::new_empty(like, {b, r, h, w, c}), 2, 4), 3,
                                  4);
}

void check_indices(const char* op, const char* argument, const Tensor& indices, int64_t size) {
  check_cpu(op, argument, indices);
  check_dtype(op, argument, indices, ScalarType::Long);
  const int64_t* values = static_cast<const int64_t*>(indices.const_data_ptr());
  for (int64_t i = 0; i < indices.numel(); ++i)
    PYEQGAN_CHECK(values[i] >= 0 && values[i] < size, op, argument, "values in [0, " + std::to_string(size) + ")",
                  values[i]);
}

Fusion describe(const char* op, const Tensor& base, const Tensor& references, const Tensor& weights,
                const Tensor& positions, const Tensor& matches, const std::vector<int64_t>& grid) {
  PYEQGAN_CHECK(grid.size() == 2, op, "grid", "two integers (h, w)", grid.size());
  Fusion f = describe_fusion(op, base, references, weights, positions, grid[0], grid[1]);
  f.matches = torch::stable::contiguous(matches);
  check_shape(op, "matches", f.matches, {f.problem.batch, f.problem.references, f.problem.selected});
  check_indices(op, "matches", f.matches, f.problem.rows * f.problem.columns);
  f.problem.matches = static_cast<const int64_t*>(f.matches.const_data_ptr());
  return f;
}

Tensor forward(const Tensor& base, const Tensor& references, const Tensor& weights, const Tensor& positions,
               const Tensor& matches, const std::vector<int64_t> grid) {
  Fusion f = describe(kName, base, references, weights, positions, matches, grid);
  return fuse(f, base);
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_fused_, const Tensor& base, const Tensor& references,
                                            const Tensor& weights, const Tensor& positions, const Tensor& matches,
                                            const std::vector<int64_t> grid, bool need_base, bool need_references,
                                            bool need_weights) {
  Fusion f = describe(kBackward, base, references, weights, positions, matches, grid);
  cpu::LiftedFusion& p = f.problem;
  check_cpu(kBackward, "grad_fused", grad_fused_);
  check_dtype(kBackward, "grad_fused", grad_fused_, base.scalar_type());
  check_shape(kBackward, "grad_fused", grad_fused_, {p.batch, p.channels, base.size(2), base.size(3)});
  const Tensor grad_fused = torch::stable::contiguous(grad_fused_, memory_format_of(base));
  p.grad_fused = grad_fused.const_data_ptr();

  const Tensor none = torch::stable::new_empty(base, {0});
  const Tensor grad_base = need_base ? empty_image(base, p.channels, base.size(2), base.size(3)) : none;
  const Tensor grad_references = need_references ? empty_references(references, p.pixel_major) : none;
  const int64_t shares = p.references + 1;
  std::vector<double> grad_weights(need_weights ? p.batch * p.slabs() * shares : 0);
  p.grad_base = need_base ? grad_base.mutable_data_ptr() : nullptr;
  p.grad_references = need_references ? grad_references.mutable_data_ptr() : nullptr;
  p.grad_weights = need_weights ? grad_weights.data() : nullptr;
  run(of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_lifted_fusion), base.scalar_type(), kBackward).backward, p);
  if (!need_weights) return {grad_base, grad_references, none};

  const Tensor sums = torch::stable::new_zeros(base, {p.batch, shares}, ScalarType::Double);
  double* sum = static_cast<double*>(sums.mutable_data_ptr());
  for (int64_t item = 0; item < p.batch * p.slabs(); ++item)
    for (int64_t r = 0; r < shares; ++r) sum[item / p.slabs() * shares + r] += grad_weights[item * shares + r];
  return {grad_base, grad_references, torch::stable::to(sums, base.scalar_type())};
}

}  // namespace

Fusion describe_fusion(const char* op, const Tensor& base, const Tensor& references, const Tensor& weights,
                       const Tensor& positions, int64_t rows, int64_t columns) {
  PYEQGAN_CHECK(base.dim() == 4, op, "base", "shape (B, C, H, W)", shape_of(base));
  check_cpu(op, "base", base);
  const int64_t batch = base.size(0), channels = base.size(1), height = base.size(2), width = base.size(3);
  PYEQGAN_CHECK(references.dim() == 5, op, "references", "shape (B, R, C, H, W)", shape_of(references));
  const int64_t count = references.size(1);
  check_shape(op, "references", references, {batch, count, channels, height, width});
  check_shape(op, "weights", weights, {batch, count + 1});
  for (const auto& [name, value] : {std::tuple("references", references), std::tuple("weights", weights)}) {
    check_cpu(op, name, value);
    check_dtype(op, name, value, base.scalar_type());
  }
  PYEQGAN_CHECK(positions.dim() == 2 && positions.size(0) == batch, op, "positions", "shape (B, M)",
                shape_of(positions));
  // A local fusion may be on an empty map, and is then its own grid.
  const int64_t scale = rows > 0 ? height / rows : 1;
  PYEQGAN_CHECK(
      rows >= 0 && columns >= 0 && (scale > 0 || height == 0) && height == scale * rows && width == scale * columns, op,
      "grid", "(h, w) with s·h and s·w the size of base for one integer s",
      "(" + std::to_string(rows) + ", " + std::to_string(columns) + ")");

  const bool pixel_major = memory_format_of(base) == MemoryFormat::ChannelsLast;
  Fusion f{dense_images(base, pixel_major),
           dense_images(references, pixel_major),
           torch::stable::contiguous(weights),
           torch::stable::contiguous(positions),
           positions,
           {}};
  check_indices(op, "positions", f.positions, rows * columns);
  cpu::LiftedFusion& p = f.problem;
  p.batch = batch, p.references = count, p.channels = channels;
  p.rows = rows, p.columns = columns, p.scale = scale, p.selected = positions.size(1);
  p.pixel_major = pixel_major;
  p.base = f.base.const_data_ptr();
  p.base_step = f.base.stride(0);
  p.reference = f.references.const_data_ptr();
  p.reference_row = f.references.stride(0);
  p.reference_step = f.references.stride(1);
  p.weights = f.weights.const_data_ptr();
  p.positions = static_cast<const int64_t*>(f.positions.const_data_ptr());
  return f;
}

Tensor fuse(Fusion& f, const Tensor& base) {
  const Tensor fused = empty_image(base, base.size(1), base.size(2), base.size(3));
  f.problem.fused = fused.mutable_data_ptr();
  run(of_dtype(PYEQGAN_CHOOSE(cpu::pyeqgan_lifted_fusion), base.scalar_type(), kName).forward, f.problem);
  return fused;
}

}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_IMPL(pyeqgan, CPU, m) {
  m.impl("lifted_fusion", TORCH_BOX(&pyeqgan::forward));
  m.impl("lifted_fusion_backward", TORCH_BOX(&pyeqgan::backward));
}
