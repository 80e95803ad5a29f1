// Glue of local_fusion and lifted_fusion on the GPU.
#include "fusion.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "glue.h"

namespace pyeqgan {
namespace {

constexpr char kLocal[] = "local_fusion (CUDA)";
constexpr char kLifted[] = "lifted_fusion (CUDA)";
constexpr char kBackward[] = "lifted_fusion_backward (CUDA)";

// A description, and the dense copies it points into.
struct Fusion {
  Tensor weights, positions, matches;
  pyeqgan_fusion description;
};

Fusion describe(const char* op, const Tensor& base, const Tensor& references, const Tensor& weights,
                const Tensor& positions, int64_t rows, int64_t columns) {
  PYEQGAN_CHECK(base.dim() == 4, op, "base", "shape (B, C, H, W)", shape_of(base));
  check_cuda(op, "base", base);
  const int64_t batch = base.size(0), channels = base.size(1), height = base.size(2), width = base.size(3);
  PYEQGAN_CHECK(references.dim() == 5, op, "references", "shape (B, R, C, H, W)", shape_of(references));
  const int64_t count = references.size(1);
  check_shape(op, "references", references, {batch, count, channels, height, width});
  check_shape(op, "weights", weights, {batch, count + 1});
  PYEQGAN_CHECK(positions.dim() == 2 && positions.size(0) == batch, op, "positions", "shape (B, M)",
                shape_of(positions));
  check_dtype(op, "references", references, base.scalar_type());
  check_dtype(op, "weights", weights, base.scalar_type());
  check_dtype(op, "positions", positions, ScalarType::Long);
  check_device(op, "references", references, base);
  check_device(op, "weights", weights, base);
  check_device(op, "positions", positions, base);
  // A local fusion may be on an empty map, and is then its own grid.
  const int64_t scale = rows > 0 ? height / rows : 1;
  PYEQGAN_CHECK(
      rows >= 0 && columns >= 0 && (scale > 0 || height == 0) && height == scale * rows && width == scale * columns, op,
      "grid", "(h, w) with s·h and s·w the size of base for one integer s",
      std::to_string(rows) + " by " + std::to_string(columns));
  Fusion f{torch::stable::contiguous(weights), torch::stable::contiguous(positions), positions, {}};
  pyeqgan_fusion& d = f.description;
  d.base = base.const_data_ptr();
  d.references = references.const_data_ptr();
  d.weights = f.weights.const_data_ptr();
  d.positions = static_cast<const int64_t*>(f.positions.const_data_ptr());
  std::ranges::copy(strides_of<4>(base), d.base_stride);
  std::ranges::copy(strides_of<5>(references), d.references_stride);
  d.batch = batch, d.count = count, d.channels = channels;
  d.rows = rows, d.columns = columns, d.scale = std::max<int64_t>(scale, 1), d.selected = positions.size(1);
  d.dtype = dtype_of(op, "base", base);
  return f;
}

Fusion describe_lifted(const char* op, const Tensor& base, const Tensor& references, const Tensor& weights,
                       const Tensor& positions, const Tensor& matches, const std::vector<int64_t>& grid) {
  PYEQGAN_CHECK(grid.size() == 2, op, "grid", "two integers (h, w)", grid.size());
  Fusion f = describe(op, base, references, weights, positions, grid[0], grid[1]);
  check_shape(op, "matches", matches, {f.description.batch, f.description.count, f.description.selected});
  check_dtype(op, "matches", matches, ScalarType::Long);
  check_device(op, "matches", matches, base);
  f.matches = torch::stable::contiguous(matches);
  f.description.matches = static_cast<const int64_t*>(f.matches.const_data_ptr());
  return f;
}

std::tuple<Tensor, Tensor> local_fusion(const Tensor& base, const Tensor& references, const Tensor& weights,
                                        const Tensor& positions) {
  PYEQGAN_CHECK(base.dim() == 4, kLocal, "base", "shape (B, C, H, W)", shape_of(base));
  const Fusion f = describe(kLocal, base, references, weights, positions, base.size(2), base.size(3));
  const pyeqgan_fusion& d = f.description;
  const torch::stable::accelerator::DeviceGuard guard(base.get_device_index());
  const Tensor fused = empty_image(base, d.channels, base.size(2), base.size(3));
  const Tensor matches = torch::stable::new_empty(positions, {d.batch, d.count, d.selected});
  check_launch(kLocal, pyeqgan_local_fusion(&d, fused.mutable_data_ptr(), strides_of<4>(fused).data(),
                                            static_cast<int64_t*>(matches.mutable_data_ptr()),
                                            current_stream(base.get_device_index())));
  return {fused, matches};
}

Tensor lifted_fusion(const Tensor& base, const Tensor& references, const Tensor& weights, const Tensor& positions,
                     const Tensor& matches, const std::vector<int64_t> grid) {
  const Fusion f = describe_lifted(kLifted, base, references, weights, positions, matches, grid);
  const torch::stable::accelerator::DeviceGuard guard(base.get_device_index());
  const Tensor fused = empty_image(base, base.size(1), base.size(2), base.size(3));
  check_launch(kLifted, pyeqgan_lifted_fusion(&f.description, fused.mutable_data_ptr(), strides_of<4>(fused).data(),
                                              current_stream(base.get_device_index())));
  return fused;
}

// An uninitialised (B,R,C,H,W), each image in the memory format of base.
Tensor empty_references(const Tensor& base, const Tensor& references) {
  const int64_t b = references.size(0), r = references.size(1), c = references.size(2), h = references.size(3),
                w = references.size(4);
  if (memory_format_of(base) != MemoryFormat::ChannelsLast)
    return torch::stable::new_empty(references, {b, r, c, h, w});
  const Tensor pixel_major = torch::stable::new_empty(references, {b, r, h, w, c});
  return torch::stable::transpose(torch::stable::transpose(pixel_major, 2, 4), 3, 4);
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_fused, const Tensor& base, const Tensor& references,
                                            const Tensor& weights, const Tensor& positions, const Tensor& matches,
                                            const std::vector<int64_t> grid, bool need_base, bool need_references,
                                            bool need_weights) {
  const Fusion f = describe_lifted(kBackward, base, references, weights, positions, matches, grid);
  const pyeqgan_fusion& d = f.description;
  check_shape(kBackward, "grad_fused", grad_fused, {d.batch, d.channels, base.size(2), base.size(3)});
  check_dtype(kBackward, "grad_fused", grad_fused, base.scalar_type());
  check_device(kBackward, "grad_fused", grad_fused, base);
  const torch::stable::accelerator::DeviceGuard guard(base.get_device_index());
  const Tensor none = torch::stable::new_empty(base, {0});
  const Tensor grad_base = need_base ? empty_image(base, d.channels, base.size(2), base.size(3)) : none;
  const Tensor grad_references = need_references ? empty_references(base, references) : none;
  const Tensor grad_weights = need_weights ? torch::stable::new_empty(base, {d.batch, d.count + 1}) : none;
  const Tensor workspace = torch::stable::new_empty(base, {pyeqgan_lifted_fusion_workspace(&d)}, ScalarType::Byte);
  const std::array<int64_t, 4> base_strides = need_base ? strides_of<4>(grad_base) : std::array<int64_t, 4>{};
  const std::array<int64_t, 5> strides = need_references ? strides_of<5>(grad_references) : std::array<int64_t, 5>{};
  check_launch(kBackward,
               pyeqgan_lifted_fusion_backward(&d, grad_fused.const_data_ptr(), strides_of<4>(grad_fused).data(),
                                              need_base ? grad_base.mutable_data_ptr() : nullptr, base_strides.data(),
                                              need_references ? grad_references.mutable_data_ptr() : nullptr,
                                              strides.data(), need_weights ? grad_weights.mutable_data_ptr() : nullptr,
                                              workspace.mutable_data_ptr(), current_stream(base.get_device_index())));
  return {grad_base, grad_references, grad_weights};
}

}  // namespace
}  // namespace pyeqgan

STABLE_TORCH_LIBRARY_FRAGMENT(pyeqgan_cuda, m) {
  m.def(
      "local_fusion(Tensor base, Tensor references, Tensor weights, Tensor positions) -> (Tensor fused, Tensor "
      "matches)");
  m.def(
      "lifted_fusion(Tensor base, Tensor references, Tensor weights, Tensor positions, Tensor matches, int[] grid) -> "
      "Tensor");
  m.def(
      "lifted_fusion_backward(Tensor grad_fused, Tensor base, Tensor references, Tensor weights, Tensor positions, "
      "Tensor matches, int[] grid, bool need_base, bool need_references, bool need_weights) -> (Tensor grad_base, "
      "Tensor grad_references, Tensor grad_weights)");
}

STABLE_TORCH_LIBRARY_IMPL(pyeqgan_cuda, CUDA, m) {
  m.impl("local_fusion", TORCH_BOX(&pyeqgan::local_fusion));
  m.impl("lifted_fusion", TORCH_BOX(&pyeqgan::lifted_fusion));
  m.impl("lifted_fusion_backward", TORCH_BOX(&pyeqgan::backward));
}
